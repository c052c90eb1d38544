"""Real photographs, prepared as the README has it, and the networks that come along on them."""

import contextlib
import io
import json

import pytest
from conftest import ROOT, rechunk
from oxford import names, real
from test_network import SCRATCH
from warm import run_script

import data_prepare
from data.check import verify
from data.contract import SPLITS
from training import checkpoint

EMPTY = (
    *("Egyptian_Mau_162", "Egyptian_Mau_165", "Egyptian_Mau_196", "leonberger_18"),
    *("miniature_pinscher_14", "saint_bernard_108", "saint_bernard_15"),
)
PRETRAINED_LEAST = {"dice_pooled": 0.962, "dice": 0.958, "accuracy": 0.997, "box_iou": 0.871}
SCRATCH_LEAST = {"dice_pooled": 0.95, "dice": 0.945, "accuracy": 0.989, "box_iou": 0.829}


def prepare(root, out):
    """Prepare and re-chunk photographs; returns what was printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        data_prepare.main(data_prepare.parse_args(["--root", str(root), "--out", str(out)]))
        rechunk(out)
    return text.getvalue()


def measure(name, data, split):
    """What evaluate.py prints of a network that comes along."""
    options = "--checkpoint", ROOT / name, "--data", data, "--split", split
    done = run_script("evaluate.py", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_hundred_photographs(photographs, tmp_path):
    text = prepare(photographs, tmp_path / "data")
    counts = verify(tmp_path / "data")["splits"]
    left_out = sum(f"{name}: " in text for name in EMPTY)
    assert sum(counts.values()) == 200 - left_out
    assert counts["test"] in (19, 20, 21) and counts["val"] in (19, 20, 21)
    metrics = measure(checkpoint.DEFAULT, tmp_path / "data", "test")
    assert metrics["dice_pooled"] > 0.95 and metrics["accuracy"] > 0.94
    assert metrics["box_iou"] > 0.8


@pytest.fixture(scope="module")
def prepared(once):
    """The data folder of all photographs, with what preparing it printed beside it."""
    root = real("PETS_ROOT")

    def make(folder):
        (folder / "printed.txt").write_text(prepare(root, folder / "data"))

    return once("trainval", make)


@pytest.mark.slow
def test_what_is_in_all_of_them(prepared):
    text = (prepared / "printed.txt").read_text()
    lines = [line.split() for line in text.splitlines()]
    assert ["train", "2937", "948", "1989", "2930"] in lines
    # Nine have no box, one of which has no pet pixel either.
    assert ["all", "3671", "1185", "2486", "3663"] in lines
    for name in EMPTY:
        assert f"  {name}: " in text
    home = {}
    for split in SPLITS:
        home |= dict.fromkeys(names(prepared / "data", split), split)
    assert len(home) == 3671
    assert home["Bombay_107"] == home["Bombay_132"] == home["Bombay_19"]
    splits = verify(prepared / "data")["splits"]
    assert splits == {"train": 2937, "val": 367, "test": 367}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, least",
    [(checkpoint.DEFAULT, PRETRAINED_LEAST), (SCRATCH, SCRATCH_LEAST)],
    ids=["pretrained", "scratch"],
)
def test_how_good_a_network_is_on_those_that_it_was_not_trained_on(prepared, name, least):
    metrics = measure(name, prepared / "data", "val")
    assert metrics["n_images"] == 367
    for key, value in least.items():
        assert metrics[key] >= value, metrics
