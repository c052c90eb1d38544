"""Sharings, weightings and encoders together: the guides' examples in a copy of the project, and a sample of the
combinations from the first epoch to the network taken out alone.
"""

import csv
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, copy_project
from tiny import TINY, assert_same_weights, log, result, weights

import evaluate
import export
import mtl_vis
import registry
import train
from cli import InputError
from encoders import Encoder
from sharing import Sharing
from training import checkpoint
from training.run_folder import RunFolder
from weighting import Weighting

# ---------------------------------------------------------------------------------------------------------- the guides

GUIDES = {
    "sharing": ("apart", Sharing),
    "weighting": ("inverse", Weighting),
    "encoders": ("plain", Encoder),
}
OPTIONS = [
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--width",
    "2",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--processes",
    "1",
]
# All in one process, as importing torch takes longer than all else.
PROGRAM = """
import runpy, sys
for command in {commands!r}:
    sys.argv = command
    print("$", *command, flush=True)
    runpy.run_path(command[0], run_name="__main__")
"""


def guide(folder):
    return (ROOT / folder / "README.md").read_text(encoding="utf-8")


def example(folder):
    """The code block of a guide."""
    (code,) = re.findall(r"```python\n(.*?)```", guide(folder), re.S)
    return code


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_guides_examples_train_are_measured_and_drawn_with_no_other_file_changed(
    data, tmp_path
):
    place = copy_project(tmp_path)
    before = files(place)
    for folder, (name, _) in GUIDES.items():
        (place / folder / f"{name}.py").write_text(example(folder), encoding="utf-8")
    run = "runs/seg_cls_bbox_apart-seg_inverse_plain/seed0"
    commands = [
        [
            "train.py",
            "--tasks",
            "seg",
            "cls",
            "bbox",
            "--sharing",
            "apart:seg",
            "--weighting",
            "inverse",
            "--encoder",
            "plain",
            "--data",
            str(data),
            *OPTIONS,
        ],
        ["evaluate.py", "--checkpoint", f"{run}/best.pt", "--data", str(data)],
        ["mtl_vis.py", "--checkpoint", f"{run}/best.pt", "--data", str(data), "--n", "2"],
        ["export.py", "--tasks", "bbox", f"{run}/best.pt", "boxes.pt"],
        ["evaluate.py", "--checkpoint", "boxes.pt", "--data", str(data)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(commands=commands)],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = files(place)
    assert {name: after[name] for name in before} == before
    made = {name for name in after.keys() - before.keys() if not name.startswith("runs/")}
    assert made == {
        *(f"{folder}/{name}.py" for folder, (name, _) in GUIDES.items()),
        "mask.png",
        "boxes.pt",
    }
    config = json.loads((place / run / "config.json").read_text())
    assert (config["sharing"], config["weighting"], config["encoder"]) == (
        "apart:seg",
        "inverse",
        "plain",
    )
    rows = log(place / run)
    inverse = {task: 1 / float(rows[0][f"train_loss_{task}"]) for task in ("seg", "cls", "bbox")}
    for task, value in inverse.items():
        assert float(rows[0][f"weight_{task}"]) == pytest.approx(1 / 3)
        assert float(rows[1][f"weight_{task}"]) == pytest.approx(
            value / sum(inverse.values()), rel=1e-4
        )
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    test = json.loads((place / run / "test.json").read_text())
    assert printed[0]["dice"] == pytest.approx(test["dice"], abs=1e-6)
    assert printed[1]["dice"] is None and printed[1]["box_iou"] == pytest.approx(
        test["box_iou"], abs=2e-3
    )  # in half precision
    assert (
        printed[1]["parameters"] < test["parameters"] / 2
        and (place / "mask.png").stat().st_size > 10_000
    )


@pytest.mark.parametrize("folder", GUIDES)
def test_a_guide_lists_every_file_and_every_member_and_its_example_is_short(folder):
    listed, _, contract = guide(folder).partition("## The contract")
    assert sorted(re.findall(r"^\| `(\w+)` \|", listed, re.M)) == registry.names(folder)
    asked = {
        name
        for row in re.findall(r"^\| (`.*?) \|", contract, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    base = GUIDES[folder][1]
    members = {
        name
        for one in base.__mro__
        if one.__module__ in (folder, "utils")
        for name in vars(one)
        if not name.startswith("_")
    }
    assert asked - {"spec"} == members
    assert len(example(folder).splitlines()) <= 30


# ------------------------------------------------------------------------------------------------------ the combinations

# Of every two of sharing, weighting and encoder that go together, some; the whole table has been run by hand on photographs.
COMBINATIONS = [
    ("soft", "dwa", "unet"),
    ("cross_stitch", "rlw", "unet"),
    ("mtan", "torchjd:PCGrad", "unet"),
    ("cross_stitch", "torchjd:UW", "unet"),
    ("mtan", "uncertainty", "efficientnet_lite0"),
]
TASKS = ("seg", "cls", "bbox", "column:breed")


def run(data, runs, *options):
    train.main(
        train.parse_args(
            [
                "--data",
                str(data),
                "--runs",
                str(runs),
                *TINY,
                "--processes",
                "1",
                "--name",
                "x",
                *options,
            ]
        )
    )


class Killed(BaseException):
    """Stands for a kill at a given moment."""


@pytest.mark.parametrize("sharing, weighting, encoder", COMBINATIONS)
def test_a_combination_is_killed_resumed_bit_for_bit_measured_drawn_and_taken_out_alone(
    rich, tmp_path, monkeypatch, no_pictures, capsys, sharing, weighting, encoder
):
    if weighting.startswith("torchjd") and importlib.util.find_spec("torchjd") is None:
        pytest.skip("torchjd is not installed (requirements-torchjd.txt)")
    epochs = "3" if weighting == "dwa" else "2"  # it needs two before it begins
    options = (
        "--tasks",
        *TASKS,
        "--sharing",
        sharing,
        "--weighting",
        weighting,
        "--encoder",
        encoder,
        "--limit",
        "16",
        "--epochs",
        epochs,
    )
    run(rich, tmp_path / "whole", *options)
    write_log = RunFolder.write_log
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(
            RunFolder,
            "write_log",
            lambda folder, history: (
                write_log(folder, history),
                kill_after(int(epochs) - 1, history),
            ),
        )
        run(rich, tmp_path / "cut", *options)
    run(rich, tmp_path / "cut", *options, "--resume")
    whole, cut = tmp_path / "whole/x/seed0", tmp_path / "cut/x/seed0"
    assert result(cut) == result(whole) and log(cut) == log(whole)
    for name in ("last.pt", "best.pt"):
        assert_same_weights(weights(cut, name), weights(whole, name))

    config = json.loads((whole / "config.json").read_text())
    assert (
        config["sharing"],
        config["weighting"],
        config["encoder"],
        config["encoder_weights"],
    ) == (sharing, weighting, encoder, None)
    content = checkpoint.load(whole / "best.pt")
    assert (content["sharing"], content["encoder"], content["beside"]) == (sharing, encoder, [])
    assert config["parameters"] == result(whole)["parameters"]
    rows = log(whole)
    assert ("weight_seg" in rows[0]) == (weighting != "torchjd:UW")

    capsys.readouterr()
    metrics = measured(whole / "best.pt", rich, capsys)
    assert all(
        metrics[key] == pytest.approx(result(whole)[key], abs=1e-5)
        for key in ("dice", "breed_accuracy", "box_iou")
    )
    export.main(
        export.parse_args(["--tasks", "seg", str(whole / "best.pt"), str(tmp_path / "seg.pt")])
    )
    alone = measured(tmp_path / "seg.pt", rich, capsys)
    assert alone["dice"] == pytest.approx(metrics["dice"], abs=2e-3) and alone["accuracy"] is None
    assert alone["parameters"] < metrics["parameters"]
    picture = tmp_path / "a.png"
    mtl_vis.main(
        mtl_vis.parse_args(
            [
                "--checkpoint",
                str(whole / "best.pt"),
                "--data",
                str(rich),
                "--out",
                str(picture),
                "--n",
                "1",
            ]
        )
    )
    assert picture.exists()


def kill_after(epochs, history):
    if len(history) == epochs:
        raise Killed


def measured(path, data, capsys):
    """What evaluate.py prints."""
    capsys.readouterr()
    evaluate.main(evaluate.parse_args(["--checkpoint", str(path), "--data", str(data)]))
    return json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------------------------------------------------- the rest


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run of efficientnet_lite0 under mtan, from the weights of a file."""
    runs = tmp_path_factory.mktemp("runs")
    torch.save(registry.find("encoders", "efficientnet_lite0").build(2).state_dict(), runs / "w.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.pictures.draw_curves", lambda history, tasks, path: path.touch())
        patch.setattr("training.pictures.draw_pictures", lambda pictures, path: path.touch())
        run(data, runs, *given(runs))
    return runs


def given(runs, **changes):
    options = {
        "--tasks": ["seg", "bbox"],
        "--sharing": ["mtan"],
        "--encoder": ["efficientnet_lite0"],
        "--encoder-lr": ["0.001"],
        "--encoder-weights": [str(runs / "w.pt")],
        "--encoder-bn": ["keep"],
        "--limit": ["8"],
    }
    options |= {f"--{key.replace('_', '-')}": [value] for key, value in changes.items()}
    return [word for option, words in options.items() for word in (option, *words)]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sharing": "hard"}, "sharing was mtan and is hard"),
        ({"encoder_lr": "0.002"}, "encoder_lr was 0.001 and is 0.002"),
        ({"encoder_bn": "train"}, "encoder_bn was keep and is train"),
        ({"encoder_weights": "other"}, "encoder_weights was [0-9a-f]{64} and is [0-9a-f]{64}"),
        ({"weighting": "rlw"}, "weighting was equal and is rlw"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_is_not_resumed_with_another_sharing_encoder_or_weights(
    data, finished, tmp_path, changes, words, is_finished
):
    if "encoder_weights" in changes:
        torch.save(
            registry.find("encoders", "efficientnet_lite0").build(2).state_dict(),
            tmp_path / "other.pt",
        )
        changes = {"encoder_weights": str(tmp_path / "other.pt")}
    test = finished / "x/seed0/test.json"
    if not is_finished:
        test.rename(test.with_name("kept.json"))
    try:
        with pytest.raises(InputError, match=words):
            run(data, finished, *given(finished, **changes), "--resume")
    finally:
        if not is_finished:
            test.with_name("kept.json").rename(test)


def test_the_records_say_where_the_encoders_weights_come_from_and_what_they_are(
    data, finished, tmp_path, capsys
):
    config = json.loads((finished / "x/seed0/config.json").read_text())
    assert (
        config["encoder_weights_from"] == str(finished / "w.pt")
        and len(config["encoder_weights"]) == 64
    )
    assert (config["encoder_lr"], config["encoder_bn"]) == (
        0.001,
        "keep",
    ) and "encoder_lr" not in config["options"]
    moved = tmp_path / "moved.pt"
    moved.write_bytes((finished / "w.pt").read_bytes())
    run(
        data, finished, *given(finished, encoder_weights=str(moved)), "--resume"
    )  # wherever they lie
    assert "finished already" in capsys.readouterr().out


def test_init_takes_networks_of_the_same_kind_only(data, finished, tmp_path, no_pictures):
    best = str(finished / "x/seed0/best.pt")

    def refused(words, *options):
        with pytest.raises(InputError, match=words):
            run(data, tmp_path, "--init", best, *options)

    refused(
        "is of sharing mtan and the network of sharing hard; use --sharing mtan",
        "--tasks",
        "seg",
        "bbox",
    )
    refused(
        "is of encoder efficientnet_lite0 and the network of encoder unet",
        "--tasks",
        "seg",
        "bbox",
        "--sharing",
        "mtan",
    )
    refused(
        "is of the tasks seg, bbox, and under the sharing mtan the encoder holds parts of each",
        "--tasks",
        "seg",
        "cls",
        "--sharing",
        "mtan",
        "--encoder",
        "efficientnet_lite0",
    )
    run(
        data,
        tmp_path,
        "--init",
        best,
        "--tasks",
        "bbox",
        "seg",
        "--sharing",
        "mtan",
        "--encoder",
        "efficientnet_lite0",
        "--encoder-bn",
        "keep",
        "--lr",
        "1e-12",
        "--augment",
        "none",
        "--epochs",
        "1",
        "--limit",
        "8",
    )
    before, after = (
        checkpoint.load(path)["model"] for path in (best, tmp_path / "x/seed0/best.pt")
    )
    for name in (
        "encoder.attention.seg.0.0.0.weight",
        "encoder.encoder.conv_stem.weight",
        "bbox.cells.bias",
    ):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_statistics_of_random_weights_are_not_kept(data, tmp_path):
    with pytest.raises(InputError, match="--encoder-bn keep is for trained weights"):
        run(data, tmp_path, "--tasks", "seg", "--encoder-bn", "keep")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sharing": "soft:x"}, "strength of soft sharing"),
        ({"sharing": "loose"}, "sharing/ has no 'loose'"),
        ({"encoder": "../../x"}, "encoders/ has no"),
        ({"encoder": "timm:hf-hub:some/one"}, "timm"),
        ({"encoder": "torchvision:nothing"}, "no classification"),
        ({"beside": ["x"] * 5000, "sharing": "cross_stitch"}, "more tasks than weights"),
        ({"beside": ["a.b"], "sharing": "cross_stitch"}, "fit the network"),
        ({"beside": [3], "sharing": "cross_stitch"}, "fit the network"),
        ({"sharing": "mtan"}, "differ in"),
        ({"encoder": "efficientnet_lite0"}, "differ in"),
        ({"encoder": 3}, "lacks encoder"),
        ({"beside": "x"}, "lacks beside"),
    ],
    ids=str,
)
def test_a_strangers_checkpoint_is_refused_whatever_it_names(
    data, finished, tmp_path, changes, words
):
    content = checkpoint.load(finished / "x/seed0/best.pt") | {"sharing": "hard", "encoder": "unet"}
    checkpoint.save(content | changes, tmp_path / "x.pt")
    with pytest.raises(InputError, match=words):
        checkpoint.load_model(tmp_path / "x.pt")


def test_weights_of_an_aggregator_are_logged_as_means_of_the_epoch(data, tmp_path, no_pictures):
    pytest.importorskip("torchjd", reason="torchjd is not installed (requirements-torchjd.txt)")
    run(data, tmp_path, "--tasks", "seg", "bbox", "--weighting", "torchjd:UPGrad", "--epochs", "1")
    with open(tmp_path / "x/seed0/log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (
        float(row["weight_seg"]) >= 0.5 - 1e-6 and float(row["weight_bbox"]) >= 0.5 - 1e-6
    )  # never less than the mean's
    assert float(row["loss"]) == pytest.approx(
        (float(row["train_loss_seg"]) + float(row["train_loss_bbox"])) / 2, rel=1e-5
    )
