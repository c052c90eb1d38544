"""Tasks without targets: refused where nothing teaches them, null where nothing measures them, never judged."""

import csv
import json
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from tiny import arguments, log, result
from tiny import targets as targets_of

import evaluate
import registry
import train_ablation_bbox
import train_ablation_cls
import train_baseline
import train_mtl
from cli import InputError
from dataloader_mtl import MTLDataset
from models import MTLNet
from registry import PUBLISHED
from training.step import refuse_unreached, teaching_batch
from utils import EqualWeightedLoss

pytestmark = pytest.mark.usefixtures("no_pictures")
SPLITS = {"train": 24, "val": 10, "test": 10}
NOTHING = {"bboxes": np.nan, "binary": 1, "masks": 0}


@pytest.fixture
def prepare(tmp_path):
    """A function that makes a data folder whose kinds of data hold, in some splits, one value throughout."""

    def make(**splits_of_kind):
        folder = write_data(tmp_path / "pets", SPLITS)
        for kind, splits in splits_of_kind.items():
            for split in splits:
                with h5py.File(folder / split / f"{kind}.h5", "r+") as file:
                    file[kind][:] = NOTHING[kind]
        return rechunk(folder)

    return make


@pytest.mark.parametrize(
    "kind, script, words",
    [
        (
            "bboxes",
            train_mtl,
            "train cannot teach bbox: of its 24 images none has a head box; leave it out of the "
            r"tasks \(train.py --tasks \.\.\.\), or bring a head box for each image",
        ),
        (
            "bboxes",
            train_ablation_bbox,
            r"none has a head box; leave it out of the tasks \(train.py .*\), or bring",
        ),
        (
            "binary",
            train_mtl,
            r"cannot teach cls: .* all are dogs; leave it out of the tasks \(train.py .*\), or bring "
            "images of both classes",
        ),
        ("binary", train_ablation_cls, r"all are dogs; leave it out of the tasks \(train.py .*\)"),
        ("masks", train_mtl, "cannot teach seg: .* no mask holds a pet; bring masks of pets"),
        ("masks", train_baseline, "cannot teach seg: .* no mask holds a pet; bring masks of pets"),
    ],
    ids=str,
)
def test_a_task_that_nothing_teaches_is_refused_before_anything_is_written(
    prepare, tmp_path, kind, script, words
):
    folder = prepare(**{kind: ["train"]})
    with pytest.raises(InputError, match=words):
        script.main(arguments(folder, tmp_path / "runs"))
    with pytest.raises(
        InputError, match=words.replace("24", "12")
    ):  # where more images would not help either
        script.main(arguments(folder, tmp_path / "runs", "--limit", "12"))
    assert not list((tmp_path / "runs").rglob("*.*"))


def test_two_tasks_that_nothing_teaches_are_named_in_one_sentence(prepare, tmp_path):
    folder = prepare(bboxes=["train"], binary=["train"])
    with pytest.raises(
        InputError,
        match=r"cannot teach cls and bbox: of its 24 images all are dogs and none has a head box; "
        r"leave them out of the tasks \(train.py .*\), or bring images of both classes and a head",
    ):
        train_mtl.main(arguments(folder, tmp_path / "runs"))
    train_baseline.main(arguments(folder, tmp_path / "runs"))
    assert result(tmp_path / "runs/baseline/seed0")["dice"] > 0


def test_a_limit_that_leaves_nothing_to_learn_is_refused(data, tmp_path):
    labels = targets_of(MTLDataset(data, "train"), "cls")
    n = int((labels != labels[0]).nonzero()[0])  # so many of one class come first
    with pytest.raises(
        InputError, match="cannot teach cls: .* all are (cats|dogs); use a larger --limit$"
    ):
        train_mtl.main(arguments(data, tmp_path, "--limit", str(n)))
    train_baseline.main(arguments(data, tmp_path, "--limit", str(n)))


def test_validation_that_cannot_choose_a_network_is_refused(prepare, tmp_path):
    with pytest.raises(
        InputError,
        match="val cannot choose a network: of its 10 images no mask holds a pet; bring masks",
    ):
        train_baseline.main(arguments(prepare(masks=["val"]), tmp_path / "runs"))
    assert not list((tmp_path / "runs").rglob("*.*"))


def test_what_val_and_test_cannot_measure_is_null_and_said(prepare, tmp_path, capsys):
    folder = prepare(bboxes=["val", "test"], binary=["test"], masks=["test"])
    train_mtl.main(arguments(folder, tmp_path))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "cannot measure" in line]
    assert [line.partition(" cannot measure ")[2].partition(", which")[0] for line in warnings] == [
        "box IoU",
        "Dice, pooled Dice, pooled IoU and border IoU",
        "accuracy",
        "box IoU",
    ]
    assert (
        "val cannot measure box IoU, which is null there: of its 10 images none has a head box"
        in warnings[0]
    )
    test = result(tmp_path / "mtl/seed0")
    assert all(
        test[key] is None
        for key in ("dice", "dice_pooled", "iou_pooled", "border_iou", "accuracy", "box_iou")
    )
    for row in log(tmp_path / "mtl/seed0"):
        assert (
            row["val_box_iou"] == row["val_loss_bbox"] == ""
            and row["val_accuracy"]
            and row["val_loss_seg"]
        )
    with open(tmp_path / "mtl/seed0/test_per_image.csv", newline="") as file:
        assert {(row["label"], row["box_iou"]) for row in csv.DictReader(file)} == {("1", "")}


def test_a_file_that_val_and_test_lack_measures_nothing(data, tmp_path, capsys):
    folder = rechunk(write_data(tmp_path / "pets", SPLITS))
    for split, kind in (
        ("val", "binary"),
        ("val", "bboxes"),
        ("test", "masks"),
        ("test", "bboxes"),
    ):
        (folder / split / f"{kind}.h5").unlink()
    train_mtl.main(arguments(folder, tmp_path))
    assert (
        "border IoU, which are null there: of its 10 images none has a mask"
        in capsys.readouterr().err
    )
    test = result(tmp_path / "mtl/seed0")
    assert test["dice"] is None and test["box_iou"] is None and test["accuracy"] is not None
    assert log(tmp_path / "mtl/seed0")[0]["val_loss_cls"] == ""


def test_the_records_say_what_was_taught(data, prepare, tmp_path):
    for script, name in ((train_mtl, "mtl"), (train_baseline, "baseline")):
        script.main(arguments(data, tmp_path, "--limit", "16"))
        config = json.loads((tmp_path / name / "seed0/config.json").read_text())
        expected = {"seg": 16, "cls": 16, "bbox": 16}
        assert config["taught"] == {task: expected[task] for task in config["tasks"]}


def test_evaluate_measures_what_there_is(prepare, tmp_path, capsys):
    folder = prepare(bboxes=["test"], binary=["test"])
    train_mtl.main(arguments(folder, tmp_path))
    capsys.readouterr()
    evaluate.main(
        evaluate.parse_args(
            ["--checkpoint", str(tmp_path / "mtl/seed0/best.pt"), "--data", str(folder)]
        )
    )
    said = capsys.readouterr()
    metrics = json.loads(said.out)
    assert metrics["accuracy"] is metrics["box_iou"] is None and metrics["dice"] == pytest.approx(
        result(tmp_path / "mtl/seed0")["dice"], abs=1e-6
    )
    assert said.err.count("cannot measure") == 2


def test_the_trial_step_sees_a_box_wherever_it_lies(tmp_path):
    """Four images without one would let a head pass that nothing reaches: a loss of no box is zero, and has a gradient."""
    folder = write_data(tmp_path / "pets", SPLITS)
    with h5py.File(folder / "train/bboxes.h5", "r+") as file:
        file["bboxes"][:20] = np.nan
    dataset = MTLDataset(rechunk(folder), "train", augment="full", sides=[64])
    batch = teaching_batch(dataset, 4, torch.device("cpu"))
    assert batch["row"].tolist() == [0, 1, 2, 3, 20] and not batch["bbox"][4].isnan().any()
    assert torch.equal(
        batch["bbox"][4], MTLDataset(folder, "train")[20]["bbox"]
    )  # not cut away, nor mirrored

    class Lost(EqualWeightedLoss):
        """A head whose answer is used only where an image has a box, and not even there."""

        def forward(self, outputs, batch):
            there = ~batch["bbox"].isnan().any(dim=1)
            boxes = outputs["bbox"].detach() if there.any() else outputs["bbox"]
            return super().forward(outputs | {"bbox": boxes}, batch)

    with pytest.raises(InputError, match="does not depend on bbox"):
        refuse_unreached(MTLNet(PUBLISHED, width=2), Lost(PUBLISHED), batch)


@pytest.mark.parametrize(
    "task, found, words",
    [
        ("bbox", {}, "none has a head box"),
        ("bbox", {True: 1}, None),
        ("cls", {"cat": 5}, "all are cats"),
        ("cls", {"dog": 5}, "all are dogs"),
        ("cls", {"cat": 1, "dog": 4}, None),
        ("cls", {}, "none has a class"),
        ("seg", {"no pet": 5}, "no mask holds a pet"),
        ("seg", {"pet": 2, "no pet": 3}, None),
        ("seg", {}, "none has a mask"),
        ("column:breed", {}, "none has an entry in the column breed"),
        ("recon", {True: 5}, None),
    ],
    ids=str,
)
def test_what_targets_lack(task, found, words):
    assert registry.find("tasks", task).lacking(Counter(found)) == words
