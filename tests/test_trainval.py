"""The real photographs, prepared once as the README has it: what is in them, and how good the networks that come along are on them."""

import contextlib
import io
import json
import subprocess
import sys

import pytest
from conftest import ROOT, rechunk
from oxford import names, real
from test_network import SCRATCH

import data_prepare
from data import check, contract
from training import checkpoint


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(Their data folder, what preparing it printed.)"""
    root = real("PETS_ROOT")
    out, text = tmp_path_factory.mktemp("trainval") / "data", io.StringIO()
    with contextlib.redirect_stdout(text):
        data_prepare.main(data_prepare.parse_args(["--root", str(root), "--out", str(out)]))
    return out, text.getvalue()


@pytest.fixture(scope="module")
def rechunked(prepared):
    return rechunk(prepared[0])


def test_what_is_in_them(prepared):
    out, text = prepared
    lines = [line.split() for line in text.splitlines()]
    assert ["train", "2937", "948", "1989", "2930"] in lines
    assert [
        "all",
        "3671",
        "1185",
        "2486",
        "3663",
    ] in lines  # nine have no box, one of which has no pet pixel either
    assert ["left", "out:", "7"] in lines
    for name in (
        "Egyptian_Mau_162",
        "Egyptian_Mau_165",
        "Egyptian_Mau_196",
        "leonberger_18",
        "miniature_pinscher_14",
        "saint_bernard_108",
        "saint_bernard_15",
    ):
        assert f"  {name}: its trimap has no pet pixel\n" in text
    home = {name: split for split in contract.SPLITS for name in names(out, split)}
    assert len(home) == 3671
    assert home["Bombay_107"] == home["Bombay_132"] == home["Bombay_19"]


def test_they_are_whole_once_rechunked(rechunked):
    assert check.verify(rechunked)["splits"] == {"train": 2937, "val": 367, "test": 367}


@pytest.mark.parametrize(
    "name, least",
    [
        (
            checkpoint.DEFAULT,
            {"dice_pooled": 0.962, "dice": 0.958, "accuracy": 0.997, "box_iou": 0.871},
        ),
        (SCRATCH, {"dice_pooled": 0.95, "dice": 0.945, "accuracy": 0.989, "box_iou": 0.829}),
    ],
    ids=["pretrained", "scratch"],
)
def test_how_good_a_network_is_on_those_that_it_was_not_trained_on(rechunked, name, least):
    done = subprocess.run(
        [
            sys.executable,
            "evaluate.py",
            "--checkpoint",
            name,
            "--data",
            rechunked,
            "--split",
            "val",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "was trained on" not in done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["n_images"] == 367
    assert all(metrics[key] >= value for key, value in least.items()), metrics
