"""Sharings, weightings and encoders in whole runs: guides, pretrained weights, combinations."""

import importlib
import json
import re

import pytest
import torch
import warm
from conftest import ROOT, copy_project
from tiny import TINY, config_of, log, result, train

import evaluate
import export
import registry
from cli import InputError
from training import checkpoint

GUIDES = {"sharing": "apart", "weighting": "inverse", "encoders": "plain"}
BASES = {"sharing": "Sharing", "weighting": "Weighting", "encoders": "Encoder"}
# What a file gets from its base class and need not override.
HELPERS = {"name", "set_weights", "forward", "world", "global_losses", "across", "has_labels"}
HELPERS |= {"load", "find_weights", "weights_sha256"}


def guide(folder):
    return (ROOT / folder / "README.md").read_text(encoding="utf-8")


def example(folder):
    """The code block of a guide."""
    (code,) = re.findall(r"```python\n(.*?)```", guide(folder), re.S)
    return code


def contents(folder):
    """{path below a folder: bytes} of its files."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


# -------------------------------------------------------------------------------------- the guides


@pytest.mark.parametrize("folder", GUIDES)
def test_a_guide_lists_every_file_and_its_members_and_its_example_is_short(folder):
    listed, _, contract = guide(folder).partition("## The contract")
    assert sorted(re.findall(r"^\| `(\w+)` \|", listed, re.M)) == registry.names(folder)
    members = set()
    for cell in re.findall(r"^\| (`.*?) \|", contract, re.M):
        members |= set(re.findall(r"`(\w+)`", cell))
    base = getattr(importlib.import_module(folder), BASES[folder])
    of_code = set()
    for parent in base.__mro__:
        if parent.__module__ in (folder, "utils", "models"):
            of_code |= {name for name in vars(parent) if not name.startswith("_")}
    assert members <= of_code
    assert of_code - members <= HELPERS
    assert len(example(folder).splitlines()) <= 30


def test_the_guides_examples_train_and_are_measured_with_no_other_file_changed(data, tmp_path):
    place = copy_project(tmp_path)
    before = contents(place)
    made = {"boxes.pt"}
    for folder, name in GUIDES.items():
        (place / folder / f"{name}.py").write_text(example(folder), encoding="utf-8")
        made.add(f"{folder}/{name}.py")
    kinds = ("--sharing", "apart:seg", "--weighting", "inverse", "--encoder", "plain")
    tasks = ("--tasks", "seg", "cls", "bbox", "--name", "own")
    network, printed = "runs/own/seed0/best.pt", {}
    for script, *words in (
        ("train.py", *tasks, *kinds, "--data", data, *TINY),
        ("evaluate.py", "--checkpoint", network, "--data", data),
        ("export.py", "--tasks", "bbox", network, "boxes.pt"),
        ("evaluate.py", "--checkpoint", "boxes.pt", "--data", data),
    ):
        outcome = warm.run_script(place / script, *words, cwd=place)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        printed[words[1]] = outcome.stdout
    after = contents(place)
    assert {name: after[name] for name in before} == before
    assert {name for name in after.keys() - before.keys() if not name.startswith("runs/")} == made
    run = place / "runs/own/seed0"
    config, test, rows = config_of(run), result(run), log(run)
    assert [config[key] for key in ("sharing", "weighting", "encoder")] == list(kinds[1::2])
    inverse = {task: 1 / float(rows[0][f"train_loss_{task}"]) for task in tasks[1:4]}
    for task, value in inverse.items():
        share = value / sum(inverse.values())
        assert float(rows[0][f"weight_{task}"]) == pytest.approx(1 / 3)
        assert float(rows[1][f"weight_{task}"]) == pytest.approx(share, rel=1e-4)
    whole, boxes = json.loads(printed[network]), json.loads(printed["boxes.pt"])
    assert whole["dice"] == pytest.approx(test["dice"], abs=1e-6)
    assert boxes["dice"] is None
    assert boxes["box_iou"] == pytest.approx(test["box_iou"], abs=2e-3)  # in half precision
    assert boxes["parameters"] < test["parameters"] / 2


# ------------------------------------------------------------------------------------ combinations

# Of every two of sharing, weighting and encoder that go together, some.
COMBINATIONS = [
    ("soft", "dwa", "unet"),
    ("cross_stitch", "torchjd:UW", "unet"),
    pytest.param("mtan", "uncertainty", "efficientnet_lite0", marks=pytest.mark.slow),
]


def measure(path, data, capsys):
    """What evaluate.py prints."""
    capsys.readouterr()
    evaluate.main(evaluate.parse_args(["--checkpoint", str(path), "--data", str(data)]))
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("sharing, weighting, encoder", COMBINATIONS)
def test_a_combination_is_trained_measured_and_taken_out_alone(
    rich, tmp_path, capsys, sharing, weighting, encoder
):
    kinds = ("--sharing", sharing, "--weighting", weighting, "--encoder", encoder)
    tasks = ("--tasks", "seg", "cls", "bbox", "column:breed", "--name", "own")
    run = train("train", rich, tmp_path, *tasks, *kinds)
    test, content = result(run), checkpoint.load(run / "best.pt")
    assert (content["sharing"], content["encoder"]) == (sharing, encoder)
    assert "weight_seg" in log(run)[0]
    whole = measure(run / "best.pt", rich, capsys)
    for key in ("dice", "breed_accuracy", "box_iou"):
        assert whole[key] == pytest.approx(test[key], abs=1e-5)
    words = ["--tasks", "seg", str(run / "best.pt"), str(tmp_path / "seg.pt")]
    export.main(export.parse_args(words))
    alone = measure(tmp_path / "seg.pt", rich, capsys)
    assert alone["dice"] == pytest.approx(whole["dice"], abs=2e-3) and alone["accuracy"] is None
    assert alone["parameters"] < whole["parameters"]


# ------------------------------------------------------------------------------ pretrained weights


def save_weights(path):
    encoder = registry.find("encoders", "unet").build(2)
    torch.save(encoder.state_dict(), path)
    return path


def options(weights, **changes):
    """Words of a run over pretrained weights."""
    values = {"encoder_lr": "0.001", "encoder_weights": weights, "encoder_bn": "keep"} | changes
    words = ["--tasks", "seg", "bbox", "--name", "own", "--limit", "8", "--epochs", "1"]
    for key, value in values.items():
        words += ["--" + key.replace("_", "-"), value]
    return words


@pytest.fixture
def pretrained(data, tmp_path):
    """(folder of a finished run, the weights that it began with)."""
    path = save_weights(tmp_path / "w.pt")
    return train("train", data, tmp_path, *options(path)), path


def test_the_records_hold_where_weights_come_from_and_what_they_are(data, pretrained, capsys):
    run, path = pretrained
    config = config_of(run)
    assert config["encoder_weights"] == str(path) and config["encoder_bn"] == "keep"
    assert len(config["run"]["encoder_weights_sha256"]) == 64 and config["encoder_lr"] == 0.001
    moved = path.rename(path.with_name("moved.pt"))
    train("train", data, run.parents[1], *options(moved), "--resume")  # wherever they lie
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_pretrained_weights_are_another_run(data, pretrained, is_finished):
    run, path = pretrained
    if not is_finished:
        (run / "test.json").unlink()
    torch.manual_seed(1)
    other = save_weights(path.with_name("other.pt"))
    for changes in ({"encoder_lr": "0.002"}, {"encoder_bn": "train"}, {"encoder_weights": other}):
        (name,) = changes
        with pytest.raises(InputError, match=name):
            train("train", data, run.parents[1], *options(path, **changes), "--resume")
    with pytest.raises(InputError, match="encoder_weights"):
        words = options(path, encoder_weights="none", encoder_bn="train")
        train("train", data, run.parents[1], *words, "--resume")


def test_weights_of_an_aggregator_are_logged_as_means_of_the_epoch(data, tmp_path):
    pytest.importorskip("torchjd", reason="requirements-torchjd.txt")
    words = ("--tasks", "seg", "bbox", "--weighting", "torchjd:UPGrad", "--epochs", "1")
    (row,) = log(train("train", data, tmp_path, *words))
    # Never less than the mean's.
    assert float(row["weight_seg"]) >= 0.5 - 1e-6 and float(row["weight_bbox"]) >= 0.5 - 1e-6
    mean = (float(row["train_loss_seg"]) + float(row["train_loss_bbox"])) / 2
    assert float(row["loss"]) == pytest.approx(mean, rel=1e-5)
