"""MTLDataset as any dataset of PyTorch's: rows as keys, ordinary loaders; files that are missing; what targets can teach."""

import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from test_dataloader import all_batches, assert_equal
from torch.utils.data import ConcatDataset, DataLoader, Subset

from cli import InputError
from data import contract
from data.store import Store
from dataloader_mtl import MTLDataset
from training.targets import survey

FILES = {
    "seg": "masks",
    "cls": "binary",
    "bbox": "bboxes",
}  # that each of the published tasks needs


def test_a_row_alone_is_that_row_of_epoch_0(data):
    dataset = MTLDataset(data, "train", seed=3, augment="full", sides=[32, 64])
    for key in (5, np.int64(5), np.uint8(5), torch.tensor(5), -19, (0, 5)):
        assert_equal([dataset[key]], [dataset[0, 5]])
    assert not torch.equal(dataset[5]["image"], dataset[0, 6]["image"])
    assert dataset[1, -1]["image"].shape == (3, 64, 64) and dataset[1, -1]["row"] == 23


@pytest.mark.parametrize("key", [24, -25, (0, 24), (1, -25), np.int64(10**6)])
def test_a_row_beyond_the_end_is_an_index_error(data, key):
    with pytest.raises(IndexError, match="among the 24 of .*train"):
        MTLDataset(data, "train")[key]


@pytest.mark.parametrize("key", [1.0, "1", None, slice(2)])
def test_what_is_no_row_is_a_type_error(data, key):
    with pytest.raises(TypeError):
        MTLDataset(data, "train")[key]


def test_a_loop_over_it_sees_each_sample_once_and_ends(data):
    assert [int(sample["row"]) for sample in MTLDataset(data, "val")] == list(range(10))
    assert [int(sample["row"]) for sample in MTLDataset(data, "val", limit=3)] == [0, 1, 2]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_ordinary_dataloader_gives_the_same_batches(data, workers, held, monkeypatch):
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self: held)
    dataset = MTLDataset(data, "val", augment="flip")
    assert_equal(
        all_batches(dataset, batch_size=4),
        list(DataLoader(dataset, batch_size=4, num_workers=workers)),
    )
    shuffled = list(DataLoader(dataset, 4, shuffle=True, num_workers=workers))
    rows = torch.cat([batch["row"] for batch in shuffled]).tolist()
    assert sorted(rows) == list(range(10))
    whole = all_batches(dataset, batch_size=10)[0]
    assert_equal(
        shuffled, [{key: value[rows[k : k + 4]] for key, value in whole.items()} for k in (0, 4, 8)]
    )


def test_subsets_and_concatenations_of_it_work_in_an_ordinary_dataloader(data):
    val, test = MTLDataset(data, "val"), MTLDataset(data, "test")
    assert [batch["row"].tolist() for batch in DataLoader(Subset(val, np.array([7, 2, 5])), 2)] == [
        [7, 2],
        [5],
    ]
    assert [batch["row"].tolist() for batch in DataLoader(ConcatDataset([val, test]), 10)] == [
        list(range(10))
    ] * 2


# -------------------------------------------------------------------------------------------------- what is not known


@pytest.fixture
def partial(data, tmp_path):
    """A function that copies the shared data without some files."""

    def copy(*missing):
        folder = shutil.copytree(data, tmp_path / "-".join(missing).replace("/", "_"))
        for name in missing:
            (folder / f"{name}.h5").unlink()
        return folder

    return copy


@pytest.mark.parametrize("augment", ["none", "full"])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    "missing",
    [["masks"], ["bboxes"], ["binary"], ["bboxes", "binary"], ["masks", "bboxes", "binary"]],
)
def test_a_batch_has_no_key_for_what_is_missing_and_all_else_is_the_same(
    missing, held, augment, data, partial, monkeypatch
):
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self: held)
    whole = all_batches(
        MTLDataset(data, "train", augment=augment, sides=[64, 48]), (0, 1), shuffle=True
    )
    dataset = MTLDataset(
        partial(*(f"train/{kind}" for kind in missing)), "train", augment=augment, sides=[64, 48]
    )
    gone = [task for task, kind in FILES.items() if kind in missing]
    expected = [{key: value for key, value in batch.items() if key not in gone} for batch in whole]
    assert_equal(expected, all_batches(dataset, (0, 1), shuffle=True))
    assert dataset[0, 3].keys() == expected[0].keys()


def test_only_the_files_of_the_tasks_have_to_be_there(partial):
    folder = partial("train/bboxes", "val/binary")
    for split, tasks in (
        ("train", ("seg",)),
        ("train", ("seg", "cls")),
        ("val", ("seg", "bbox")),
        ("train", None),
    ):
        contract.require(folder, split, MTLDataset(folder, split, tasks=tasks).tasks.values())
    contract.require(
        folder, "test", MTLDataset(folder, "test", tasks=("seg", "cls", "bbox")).tasks.values()
    )
    for split, tasks, words in (
        ("train", ("seg", "bbox"), "train/bboxes.h5 is missing, which the task bbox needs"),
        ("val", ("cls",), "val/binary.h5 is missing, which the task cls needs"),
    ):
        with pytest.raises(InputError, match=words):
            contract.require(folder, split, MTLDataset(folder, split, tasks=tasks).tasks.values())


@pytest.mark.parametrize("augment", ["none", "full"])
@pytest.mark.parametrize("held", [True, False])
def test_what_a_missing_file_would_tell_is_unlabelled(held, augment, data, partial, monkeypatch):
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self: held)
    folder = partial("train/masks", "train/binary", "train/bboxes")
    dataset = MTLDataset(folder, "train", augment=augment, sides=[48], tasks=FILES)
    whole = MTLDataset(data, "train", augment=augment, sides=[48], tasks=FILES)
    for batch, known in zip(all_batches(dataset), all_batches(whole), strict=True):
        assert torch.equal(batch["image"], known["image"])
        for name, task in dataset.tasks.items():
            assert batch[name].shape == known[name].shape and batch[name].dtype == known[name].dtype
            assert not task.labelled(batch[name]).any() and task.labelled(known[name]).any()


def test_a_file_that_goes_away_while_the_dataset_is_made_is_no_missing_file(
    data, tmp_path, monkeypatch
):
    folder = shutil.copytree(data, tmp_path / "d")

    def describe(path):
        (folder / "train" / "bboxes.h5").unlink()
        return described(path)

    described = contract.describe
    monkeypatch.setattr(contract, "describe", describe)
    with pytest.raises(InputError, match="bboxes.h5 was changed or replaced"):
        MTLDataset(folder, "train")


def test_a_survey_counts_what_teaches_each_task(data, partial):
    with h5py.File(data / "train/binary.h5") as file:
        labels = file["binary"][:, 0]
    dogs = int(labels.sum())
    assert survey(MTLDataset(data, "train")) == {
        "seg": {"pet": 24},
        "cls": {"cat": 24 - dogs, "dog": dogs},
        "bbox": {True: 23},
    }
    dogs = int(labels[:5].sum())
    assert survey(MTLDataset(data, "train", limit=5)) == {
        "seg": {"pet": 5},
        "cls": {"cat": 5 - dogs, "dog": dogs},
        "bbox": {True: 5},
    }
    assert survey(MTLDataset(partial("train/masks", "train/binary"), "train")) == {
        "bbox": {True: 23}
    }
    assert survey(MTLDataset(partial("train/bboxes"), "train")).keys() == {"seg", "cls"}


@pytest.mark.parametrize(
    "n, limit, empty", [(8, 7, [0, 3, 4, 7]), (40, 39, [0, 15, 16, 38, 39]), (17, 17, [])]
)
def test_a_survey_of_targets_that_are_empty_reads_each_mask_once(
    n, limit, empty, tmp_path, monkeypatch
):
    folder = write_data(tmp_path / "d", {"train": n})
    for kind, rows, value in (
        ("masks", empty, 0),
        ("bboxes", slice(None), np.nan),
        ("binary", slice(None), 1),
    ):
        with h5py.File(folder / f"train/{kind}.h5", "r+") as file:
            array = file[kind][:]
            array[rows] = value
            file[kind][:] = array
    dataset, read, seen = MTLDataset(rechunk(folder), "train", limit=limit), Store.read, []
    monkeypatch.setattr(
        Store, "read", lambda store, rows, hold=True: seen.extend(rows) or read(store, rows, hold)
    )
    without = len([row for row in empty if row < limit])
    assert survey(dataset) == {
        "seg": Counter({"pet": limit - without, "no pet": without}),
        "cls": {"dog": limit},
        "bbox": {},
    }
    assert seen == list(range(limit))


def test_a_survey_opens_no_file_twice_and_leaves_what_follows_held_in_memory(tmp_path, monkeypatch):
    folder, opened, open_file = (
        rechunk(write_data(tmp_path / "d", {"train": 40})),
        [],
        contract.open_rechunked,
    )
    dataset = MTLDataset(folder, "train")
    monkeypatch.setattr(
        contract, "open_rechunked", lambda *place: opened.append(place[2]) or open_file(*place)
    )
    survey(dataset)
    assert Counter(opened) == {
        "images": 1,
        "masks": 1,
    }  # of 40 images, 16 at a time; boxes and labels are known already
    read, rows_read = Store._read_file, []
    monkeypatch.setattr(
        Store,
        "_read_file",
        lambda store, kind, rows: rows_read.extend(rows) or read(store, kind, rows),
    )
    for _ in range(2):
        dataset.__getitems__([(0, 1), (0, 2)])
    assert rows_read == [1, 2, 1, 2]  # images and masks, once each


def test_masks_that_changed_since_are_not_counted(tmp_path):
    folder = rechunk(write_data(tmp_path / "d", {"train": 8}))
    dataset = MTLDataset(folder, "train")
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][:] = 0
    for _ in range(2):
        with pytest.raises(InputError, match="masks.h5 was changed"):
            survey(dataset)
