"""The real scripts as a user runs them: exit status, one sentence on standard error, clean output."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, copy_project

import oeq_splits
from training import engine

TINY = [
    "--epochs",
    "1",
    "--batch-size",
    "8",
    "--width",
    "2",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--limit",
    "16",
]


def script(cwd, name, *args):
    return subprocess.run(
        [sys.executable, ROOT / name, *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


def assert_refused(done, *words):
    """Exit status 2, one line on standard error that holds all the words."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


@pytest.fixture(scope="module")
def place(data, tmp_path_factory):
    """A working directory with one finished run of the full network."""
    place = tmp_path_factory.mktemp("place")
    done = script(place, "train_mtl.py", "--data", data, *TINY)
    assert done.returncode == 0, done.stderr
    assert "test dice" in done.stdout.splitlines()[-1]
    return place


def test_evaluate_prints_one_json_object_equal_to_the_runs_test(place, data):
    test = json.loads((place / "runs/mtl/seed0/test.json").read_text())
    done = script(place, "evaluate.py", "--data", data, "--batch-size", "3")
    assert done.returncode == 0 and "runs/mtl/seed0/best.pt" in done.stderr
    assert "warning" not in done.stderr
    printed = json.loads(done.stdout)
    for key in ("dice", "dice_pooled", "iou_pooled", "accuracy", "box_iou"):
        assert printed[key] == pytest.approx(test[key], abs=1e-5)
    assert (printed["experiment"], printed["split_hash"], printed["n_images"]) == (
        "mtl",
        test["split_hash"],
        test["n_images"],
    )


def test_evaluate_warns_of_images_that_the_network_was_trained_on(place, data):
    done = script(
        place,
        "evaluate.py",
        "--data",
        data,
        "--split",
        "train",
        "--checkpoint",
        "runs/mtl/seed0/best.pt",
    )
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "warning: the network was trained on 16 of the 24 images" in done.stderr  # --limit 16
    assert json.loads(done.stdout)["n_images"] == 24


def test_mask_png_is_drawn_after_a_run(place, data):
    done = script(place, "mtl_vis.py", "--data", data)
    assert done.returncode == 0, done.stderr
    assert (place / "mask.png").stat().st_size > 10_000


def test_training_without_data_offers_the_ways_to_make_some(tmp_path):
    done = script(tmp_path, "train_baseline.py")
    assert_refused(
        done, "datasets/data_new", "data_prepare.py", "--root", "--download", "--synthetic"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_into_the_same_folder_is_refused(place, data):
    assert_refused(
        script(place, "train_mtl.py", "--data", data, *TINY), "runs/mtl/seed0", "--resume"
    )


def test_evaluate_and_vis_without_a_network_are_refused(tmp_path):
    copy_project(tmp_path)  # without the network that lies beside the scripts
    assert_refused(script(tmp_path, tmp_path / "evaluate.py"), "mtl_model.pt", "train_mtl.py")
    assert_refused(script(tmp_path, "mtl_vis.py", "--checkpoint", "none.pt"), "none.pt")


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "-1"],
        ["--epochs", "0"],
        ["--epochs", "2.5"],
        ["--batch-size", "0"],
        ["--lr", "nan"],
        ["--lr", "0"],
        ["--lr", "-1"],
        ["--lr", "inf"],
        ["--lr", "fast"],
        ["--seed", "-1"],
        ["--width", "0"],
        ["--augment", "much"],
        ["--device", "abacus"],
        ["--precision", "fp8"],
        ["--workers", "-1"],
        ["--limit", "0"],
        ["--nonsense"],
        ["spare"],
    ],
    ids=" ".join,
)
def test_options_out_of_range_are_refused(options, capsys):
    with pytest.raises(SystemExit) as stop:
        engine.make_parser("").parse_args(options)
    message = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and len(message.strip().splitlines()) == 1
        and options[-1].lstrip("-") in message
    )


@pytest.mark.parametrize(
    "text", ["80-10", "80-10-10-0", "a-b-c", "80-20-0", "nan-1-1", "80--10-10", "", "inf-1-1"]
)
def test_splits_that_make_no_sense_are_refused(text):
    with pytest.raises(oeq_splits.cli.argparse.ArgumentTypeError):
        oeq_splits.split(text)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_that_can_be_resumed(tmp_path, data, number, status):
    options = [
        sys.executable,
        ROOT / "train_baseline.py",
        "--data",
        data,
        *TINY[2:],
        "--epochs",
        "10000",
    ]
    with subprocess.Popen(
        options, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == status, errors
    assert "--resume" in errors and "Traceback" not in errors
    log = (tmp_path / "runs/baseline/seed0/log.csv").read_text().splitlines()
    assert len(log) >= 3
    assert not list(tmp_path.rglob("*.partial"))


def test_help_shows_the_command_and_works_for_every_script(tmp_path):
    for path in sorted(ROOT.glob("*.py")):
        text = path.read_text()
        if "__main__" in text:
            assert f"python {path.name}" in text, f"{path.name} does not show its command"
    done = script(tmp_path, "oeq_splits.py", "--help")
    assert done.returncode == 0 and "--split" in done.stdout
