"""Missing labels: refused where they should teach or choose, null where they should measure."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from tiny import assert_same_weights, config_of, files_in, log, read_csv, result, train, weights

import registry
from cli import InputError
from dataloader_mtl import MTLDataset, Sampling
from models import MTLNet
from training import checks
from utils import EqualWeightedLoss

COUNTS = {"train": 24, "val": 10, "test": 10}
UNKNOWN = {"bboxes": np.nan, "binary": 1, "masks": 0}


@pytest.fixture
def without(tmp_path):
    """without(kind=[split, ...]) -> data whose labels of a kind are one value there."""

    def make(**splits):
        folder = write_data(tmp_path / "pets", COUNTS)
        for kind in splits:
            for split in splits[kind]:
                with h5py.File(folder / split / f"{kind}.h5", "r+") as file:
                    file[kind][:] = UNKNOWN[kind]
        return rechunk(folder)

    return make


@pytest.fixture
def lacking(data, tmp_path):
    """lacking("val/binary", ...) -> a copy of the shared data without these files."""

    def copy(*names):
        folder = shutil.copytree(data, tmp_path / "data")
        for name in names:
            (folder / f"{name}.h5").unlink()
        return folder

    return copy


@pytest.mark.parametrize(
    "kind, script, task",
    [
        ("bboxes", "train_mtl", "bbox"),
        ("bboxes", "train_ablation_bbox", "bbox"),
        ("binary", "train_ablation_cls", "cls"),
        ("masks", "train_baseline", "seg"),
    ],
)
def test_a_task_that_nothing_teaches_is_refused(without, tmp_path, kind, script, task):
    folder = without(**{kind: ["train"]})
    for options in (), ("--limit", "12"):
        with pytest.raises(InputError, match=f"train cannot teach {task}"):
            train(script, folder, tmp_path / "runs", *options)
    assert not files_in(tmp_path / "runs")
    if task != "seg":
        train("train_baseline", folder, tmp_path / "runs", "--epochs", "1")


@pytest.mark.parametrize(
    "script, kind, task",
    [
        ("train_mtl", "binary", "cls"),
        ("train_ablation_bbox", "bboxes", "bbox"),
        ("train_baseline", "masks", "seg"),
    ],
)
def test_a_task_whose_file_is_missing_is_refused(lacking, tmp_path, script, kind, task):
    with pytest.raises(InputError, match=f"train/{kind}.h5 .*{task}"):
        train(script, lacking(f"train/{kind}"), tmp_path / "runs")
    assert not files_in(tmp_path / "runs")


def test_a_limit_that_leaves_nothing_to_learn_is_refused(data, tmp_path):
    dataset = MTLDataset(data, "train", registry.find_tasks(["cls"]))
    labels = torch.stack([sample["cls"] for sample in dataset])
    n = int((labels != labels[0]).nonzero()[0])  # so many of one class come first
    with pytest.raises(InputError, match="--limit"):
        train("train_mtl", data, tmp_path, "--limit", n)
    train("train_baseline", data, tmp_path, "--limit", n, "--epochs", "1")


@pytest.mark.parametrize("is_missing", [True, False])
def test_validation_that_cannot_choose_is_refused(without, lacking, tmp_path, is_missing):
    folder = lacking("val/masks") if is_missing else without(masks=["val"])
    with pytest.raises(InputError, match="val"):
        train("train_baseline", folder, tmp_path / "runs")
    assert not files_in(tmp_path / "runs")


def test_what_val_and_test_cannot_measure_is_null_and_warned_of(without, tmp_path, capsys):
    folder = without(bboxes=["val", "test"], binary=["test"], masks=["test"])
    run = train("train_mtl", folder, tmp_path)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "cannot measure" in line]
    assert len(warnings) == 4
    for warning, split, label in zip(
        warnings, ("val", "test", "test", "test"), ("box IoU", "Dice", "accuracy", "box IoU"),
        strict=True,
    ):  # fmt: skip
        assert f"/{split} " in warning and label in warning
    for key in "dice", "dice_pooled", "iou_pooled", "border_iou", "accuracy", "box_iou":
        assert result(run)[key] is None
    for row in log(run):
        assert row["val_box_iou"] == row["val_loss_bbox"] == ""
        assert row["val_accuracy"] and row["val_loss_seg"]
    rows = read_csv(run / "test_per_image.csv")
    assert {(row["label"], row["box_iou"]) for row in rows} == {("1", "")}


def test_what_a_split_lacks_changes_nothing_else(data, lacking, tmp_path):
    """Without a file the rest is trained and measured as with it."""
    few = lacking("val/binary", "test/bboxes")
    whole, few = train("train_mtl", data, tmp_path / "a"), train("train_mtl", few, tmp_path / "b")
    assert result(few) == result(whole) | {"box_iou": None}
    assert_same_weights(weights(few), weights(whole))
    unknown = {"val_accuracy", "val_loss_cls"}
    for row, other in zip(log(few), log(whole), strict=True):
        assert {key for key in row if row[key] != other[key]} == unknown
        assert all(row[key] == "" for key in unknown)


def test_the_baseline_needs_images_and_masks_alone(data, lacking, tmp_path):
    names = [f"{split}/{kind}" for split in COUNTS for kind in ("bboxes", "binary")]
    whole = train("train_baseline", data, tmp_path / "a")
    few = train("train_baseline", lacking(*names), tmp_path / "b")
    assert result(whole) == result(few) and log(whole) == log(few)


def test_the_records_hold_the_number_of_labelled_images(data, tmp_path):
    run = train("train_mtl", data, tmp_path, "--epochs", "1", "--limit", "16")
    assert config_of(run)["run"]["labelled"] == {"seg": 16, "cls": 16, "bbox": 16}
    assert config_of(run)["run"]["images"] == {"train": 16, "val": 10, "test": 10}


# -------------------------------------------------------------------------------------- trial step


def test_the_trial_step_sees_a_label_of_each_task_wherever_it_lies(tmp_path):
    """A loss of no box is zero and has a gradient: four images without one would prove nothing."""
    folder = write_data(tmp_path / "pets", COUNTS)
    with h5py.File(folder / "train/bboxes.h5", "r+") as file:
        file["bboxes"][:20] = np.nan
    tasks = registry.find_tasks(["seg", "cls", "bbox"])
    sampling = Sampling(augment="full", sizes=(64,))
    dataset = MTLDataset(rechunk(folder), "train", tasks, sampling)
    batch = checks.teaching_batch(dataset, 4, torch.device("cpu"))
    assert batch["row"].tolist() == [0, 1, 2, 3, 20]
    plain = MTLDataset(folder, "train", tasks)
    assert torch.equal(batch["bbox"][4], plain[20]["bbox"])  # as it is stored

    class Lost(EqualWeightedLoss):
        """Its boxes have no gradient where an image has a box, and only there."""

        def forward(self, outputs, targets):
            is_boxed = ~targets["bbox"].isnan().any(dim=1)
            boxes = outputs["bbox"].detach() if is_boxed.any() else outputs["bbox"]
            return super().forward(outputs | {"bbox": boxes}, targets)

    model, criterion = MTLNet(tasks, width=2), Lost(tasks)
    criterion.backward(criterion(model(batch["image"]), batch), model)
    with pytest.raises(InputError, match="bbox"):
        checks.refuse_unreached(checks.named_parameters(model, criterion))


@pytest.mark.parametrize("num_masks", [1, 3])
def test_the_trial_step_sees_a_mask_where_few_are_left(data, num_masks):
    sampling = Sampling(num_masks=num_masks)
    dataset = MTLDataset(data, "train", registry.find_tasks(["seg", "cls"]), sampling)
    row = checks.first_labelled(dataset, "seg")
    assert row is not None


# ------------------------------------------------------------------------------------------- digest


def digests(folder, names, **options):
    tasks = registry.find_tasks(names)
    data = {}
    for split in COUNTS:
        data[split] = MTLDataset(folder, split, tasks, Sampling(**options))
    return checks.label_digest(data, {need for task in tasks for need in task.needs})


def test_digests_are_of_the_labels_that_the_tasks_read(data, rich, tmp_path):
    whole = digests(data, ("seg", "cls", "distance"))
    assert whole.keys() == {"masks", "binary"} and whole["masks"] != whole["binary"]
    copy = shutil.copytree(data, tmp_path / "copy")
    assert digests(copy, ("seg", "cls")) == whole
    assert digests(data, ("seg",)) == {"masks": whole["masks"]}
    fewer = digests(data, ("seg",), limit=9)
    columns = digests(rich, ("column:breed", "column:age"))
    values = {*whole.values(), *fewer.values(), *columns.values()}
    assert len(values) == 5 and columns.keys() == {"index:breed", "index:age"}
    with h5py.File(copy / "val/masks.h5", "r+") as file:
        file["masks"][0, 0, 0] ^= 1
    changed = digests(copy, ("seg", "cls"))
    assert changed["masks"] != whole["masks"] and changed["binary"] == whole["binary"]
