"""The real scripts as a user runs them: exit status, one sentence on standard error, output."""

import json
import os
import signal
import time

import pytest
from conftest import ROOT, copy_project
from tiny import TINY
from warm import run_script, start_script

RUN = "runs/mtl/seed0"


def assert_refused(done, *words):
    """Exit status 2, one line on standard error that holds all the words."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def place(trained, tmp_path):
    """A working directory with a finished run of the full network."""
    (tmp_path / "runs").symlink_to(trained("train_mtl.py"))
    return tmp_path


def test_evaluate_prints_one_json_object_equal_to_the_runs_test(place, data):
    test = json.loads((place / RUN / "test.json").read_text())
    done = run_script("evaluate.py", "--data", data, "--batch-size", "3", cwd=place)
    assert done.returncode == 0 and f"{RUN}/best.pt" in done.stderr
    assert "warning" not in done.stderr
    printed = json.loads(done.stdout)
    for key in ("dice", "dice_pooled", "iou_pooled", "accuracy", "box_iou"):
        assert printed[key] == pytest.approx(test[key], abs=1e-5)
    for key in ("experiment", "split_hash", "n_images"):
        assert printed[key] == test[key]


def test_evaluate_warns_of_images_that_the_network_was_trained_on(place, data):
    options = "--split", "train", "--checkpoint", f"{RUN}/best.pt"
    done = run_script("evaluate.py", "--data", data, *options, cwd=place)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "warning" in done.stderr and "24 of the 24 images" in done.stderr
    assert json.loads(done.stdout)["n_images"] == 24


def test_figures_are_drawn_by_a_run_and_after_it(place, data):
    for name in ("mask.png", "curves.png"):
        assert (place / RUN / name).stat().st_size > 10_000
    done = run_script("mtl_vis.py", "--data", data, cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / "mask.png").stat().st_size > 10_000


def test_training_without_data_offers_the_ways_to_make_some(tmp_path):
    done = run_script("train_baseline.py", cwd=tmp_path)
    assert_refused(done, "datasets/data_new", "--root", "--download", "--synthetic")
    assert not list(tmp_path.rglob("config.json"))


def test_a_second_run_into_the_same_folder_is_refused(place, data):
    done = run_script("train_mtl.py", "--data", data, *TINY, cwd=place)
    assert_refused(done, RUN, "--resume")


def test_evaluate_and_vis_without_a_network_are_refused(tmp_path):
    copy_project(tmp_path)  # without the network that lies beside the scripts
    done = run_script(tmp_path / "evaluate.py", cwd=tmp_path)
    assert_refused(done, "mtl_model.pt", "train_mtl.py")
    done = run_script("mtl_vis.py", "--checkpoint", "none.pt", cwd=tmp_path)
    assert_refused(done, "none.pt")


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "0"],
        ["--epochs", "2.5"],
        ["--batch-size", "0"],
        ["--lr", "nan"],
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
        ["--split", "80-10"],
        ["--split", "80-10-10-0"],
        ["--split", "80-20-0"],
        ["--split", "nan-1-1"],
    ],
    ids=" ".join,
)
def test_options_out_of_range_are_refused(options, tmp_path):
    done = run_script("oeq_splits.py", *options, cwd=tmp_path)
    assert_refused(done, options[-1].lstrip("-"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_that_can_be_resumed(tmp_path, data, number, status):
    options = "--data", data, *TINY, "--epochs", "10000"
    child = start_script("train_baseline.py", *options, cwd=tmp_path)
    while child.process.is_alive() and "epoch 2/" not in child.output()[0]:
        time.sleep(0.05)
    os.kill(child.pid, number)
    done = child.wait()
    assert done.returncode == status, done.stderr
    assert "--resume" in done.stderr and "Traceback" not in done.stderr
    log = (tmp_path / "runs/baseline/seed0/log.csv").read_text().splitlines()
    assert len(log) >= 3
    assert not list(tmp_path.rglob("*.partial"))


def test_every_script_shows_its_command():
    for path in ROOT.glob("*.py"):
        text = path.read_text()
        if "__main__" in text:
            assert f"python {path.name}" in text, f"{path.name} does not show its command"
