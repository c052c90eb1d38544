"""MTLDataset as any dataset of PyTorch's: rows as keys, ordinary loaders; files that are missing;
what targets can teach."""

import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from test_dataloader import all_batches, assert_equal, open_split
from torch.utils.data import ConcatDataset, DataLoader, Subset

import registry
from cli import InputError
from data import contract
from data.store import Store
from dataloader_mtl import MTLDataset, Sampling


def test_a_row_alone_is_that_row_of_epoch_0(data):
    dataset = open_split(data, sampling=Sampling(3, "full", (32, 64)))
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
    assert [
        int(sample["row"]) for sample in MTLDataset(data, "val", sampling=Sampling(limit=3))
    ] == [0, 1, 2]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_ordinary_dataloader_gives_the_same_batches(data, workers, held, monkeypatch):
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self, processes=1: held)
    dataset = open_split(data, "val", Sampling(augment="flip"))
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


# -------------------------------------------------------------------------------- what is not known


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
def test_what_a_missing_file_would_tell_is_unlabelled(held, augment, data, partial, monkeypatch):
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self, processes=1: held)
    folder = partial("train/masks", "train/binary", "train/bboxes")
    sampling = Sampling(augment=augment, sizes=(48,))
    dataset, whole = open_split(folder, "train", sampling), open_split(data, "train", sampling)
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


def test_a_stream_sees_each_image_once_as_it_is_stored(data):
    sampling = Sampling(augment="full", sizes=(32,), limit=19)
    raws = list(open_split(data, sampling=sampling).stream())
    assert [len(raw["image"]) for raw in raws] == [16, 3]
    with h5py.File(data / "train/masks.h5") as m, h5py.File(data / "train/bboxes.h5") as b:
        masks, boxes = m["masks"][:19], b["bboxes"][:19]
    found = {name: torch.cat([raw[name] for raw in raws]).numpy() for name in raws[0]}
    assert np.array_equal(found["masks"], masks.transpose(0, 3, 1, 2))
    assert np.allclose(found["bboxes"] * 64, boxes, equal_nan=True)
    assert found["image"].shape == (19, 3, 64, 64) and found["binary"].shape == (19,)


def test_a_stream_opens_no_file_twice_and_leaves_what_follows_held_in_memory(tmp_path, monkeypatch):
    folder, opened = rechunk(write_data(tmp_path / "d", {"train": 40})), []
    open_file = contract.open_rechunked
    dataset = open_split(folder)
    monkeypatch.setattr(
        contract, "open_rechunked", lambda *place: opened.append(place[2]) or open_file(*place)
    )
    list(dataset.stream())
    # Boxes and labels are known already.
    assert Counter(opened) == {"images": 1, "masks": 1}
    read, rows_read = Store._read_file, []
    monkeypatch.setattr(
        Store,
        "_read_file",
        lambda store, kind, rows: rows_read.extend(rows) or read(store, kind, rows),
    )
    for _ in range(2):
        dataset.__getitems__([(0, 1), (0, 2)])
    assert rows_read == [1, 2, 1, 2]  # images and masks, once each


def test_masks_that_changed_since_are_refused(tmp_path):
    folder = rechunk(write_data(tmp_path / "d", {"train": 8}))
    dataset = open_split(folder)
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][:] = 0
    for _ in range(2):
        with pytest.raises(InputError, match="masks.h5 was changed"):
            list(dataset.stream())


# -------------------------------------------------------------------------------------- which masks


def masked(batch):
    return (batch["seg"] != contract.UNLABELLED).flatten(1).any(1)


def test_as_many_masks_are_shown_as_asked_for_and_all_other_labels(data):
    dataset = open_split(data, sampling=Sampling(num_masks=5))
    (batch,) = all_batches(dataset, batch_size=24)
    (whole,) = all_batches(open_split(data), batch_size=24)
    assert masked(batch).sum() == 5
    assert torch.equal(batch["seg"][masked(batch)], whole["seg"][masked(batch)])
    assert torch.equal(batch["cls"], whole["cls"])
    for epoch in range(2):
        for batch in all_batches(dataset, (epoch,), shuffle=True):
            assert masked(batch).sum() == 4


@pytest.mark.parametrize("num_masks", [None, 24, 20])
def test_half_of_a_batch_may_show_its_masks_though_more_have_one(data, num_masks):
    sampling = Sampling(num_masks=num_masks, half_masked=True, augment="full")
    dataset, seen = open_split(data, sampling=sampling), set()
    for epoch in range(5):
        found = all_batches(dataset, (epoch,), shuffle=True)
        assert [masked(batch).sum() for batch in found] == [4] * 3
        rows = torch.cat([batch["row"] for batch in found])
        assert sorted(rows.tolist()) == list(range(24))
        seen.update(rows[torch.cat([masked(batch) for batch in found])].tolist())
    assert len(seen) > 15


@pytest.mark.parametrize("num_masks", [25, 10**6])
def test_more_masks_than_there_are_are_refused(data, num_masks):
    with pytest.raises(InputError, match="--num-masks"):
        open_split(data, sampling=Sampling(num_masks=num_masks))


# ------------------------------------------------------------------------------- cells of index.csv


def test_cells_are_texts_and_those_of_no_value_are_empty(rich, tmp_path):
    folder = shutil.copytree(rich, tmp_path / "pets")
    path = folder / "train/index.csv"
    lines = path.read_text().splitlines()
    lines[1], lines[2] = "0,train_0, NA ,3", "1,train_1,None,n/a"
    path.write_text("\n".join(lines) + "\n")
    dataset = MTLDataset(folder, "train")
    assert dataset.column("breed")[:4] == ["", "", "sphynx", ""]
    assert dataset.column("age")[:3] == ["3", "", "3"]
    with pytest.raises(InputError, match="index.csv.*'fur'"):
        dataset.column("fur")


def test_shuffled_cells_are_the_same_in_other_places_for_every_seed(rich):
    placebo, column = registry.find_tasks(["placebo:breed", "column:breed"])
    found = []
    for seed in (0, 1):
        dataset = MTLDataset(rich, "train", [placebo, column], Sampling(seed))
        found.append([cell for raw in dataset.stream() for cell in raw["shuffled:breed"]])
    cells = dataset.column("breed")
    assert found[0] == found[1] != cells and sorted(found[0]) == sorted(cells)
    assert [not cell for cell in found[0]] == [not cell for cell in cells]
