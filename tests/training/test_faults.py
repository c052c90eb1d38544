"""HDF5 files that change under workers: right data or one sentence. tests/benchmarks/test_soak.py
kills runs.
"""

import gc
import multiprocessing
import os
import shutil

import pytest
import torch
from conftest import rechunk, write_data
from torch.utils.data import DataLoader

from cli import InputError
from dataloader_mtl import EpochBatches, MTLDataset, as_it_is, batches, make_loader

# ------------------------------------------------------------------------- HDF5 files under workers


CONTEXTS = torch.multiprocessing.get_all_start_methods()
ways = pytest.mark.parametrize(
    "workers, context, persistent",
    [
        way
        for way in ((0, None, False), (2, "fork", False), (2, "fork", True))
        if way[1] in (None, *CONTEXTS)
    ],
)


def loader_of(dataset, workers, context, persistent):
    """make_loader's, or the same whose workers end with each epoch."""
    if persistent or not workers:
        return make_loader(dataset, 4, shuffle=True, workers=workers, context=context)
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), 4, dataset.seed),
        collate_fn=as_it_is,
        num_workers=workers,
        multiprocessing_context=context,
    )


@pytest.fixture
def folder(data, tmp_path):
    """A copy of the shared data to spoil."""
    return shutil.copytree(data, tmp_path / "pets")


@ways
def test_every_epoch_is_the_same_with_and_without_workers(data, workers, context, persistent):
    dataset = MTLDataset(data, "train", seed=3, augment="flip", sides=[64, 32, 64])
    expected = [
        batch
        for epoch in range(3)
        for batch in batches(make_loader(dataset, 4, shuffle=True), epoch)
    ]
    loader = loader_of(dataset, workers, context, persistent)
    found = [batch for epoch in range(3) for batch in batches(loader, epoch)]
    assert len(found) == len(expected) == 18
    for a, b in zip(found, expected):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in b)


def replace_by_others(folder, path):
    """Another data set of the same size takes the file's place, as data_prepare.py and
    data_rechunk.py put it there.
    """
    other = rechunk(write_data(folder.with_name("other"), {"train": 24}, seed=9))
    os.replace(other / "train" / path.name, path)


def replace_by_larger(folder, path):
    other = rechunk(write_data(folder.with_name("other"), {"train": 24}, size=96))
    os.replace(other / "train" / path.name, path)


def copy_over(folder, path):
    """What `cp` does: other content in the same file."""
    other = rechunk(write_data(folder.with_name("other"), {"train": 24}, seed=9))
    shutil.copyfile(other / "train" / path.name, path)


def truncate(folder, path):
    os.truncate(path, path.stat().st_size // 2)


def delete(folder, path):
    path.unlink()


@pytest.mark.parametrize(
    "change", [replace_by_others, replace_by_larger, copy_over, truncate, delete]
)
@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("moment", ["before the first batch", "within an epoch"])
def test_files_that_change_in_use_give_right_data_or_one_sentence(
    change, kind, moment, folder, monkeypatch
):
    monkeypatch.setattr(
        MTLDataset, "fits_in_memory", lambda self: False
    )  # so that every epoch reads
    changes_in_use(folder, folder / "train" / f"{kind}.h5", change, moment, 0, None, False)


@pytest.mark.parametrize("change", [replace_by_others, truncate])
@ways
def test_files_that_change_under_workers_give_right_data_or_one_sentence(
    change, workers, context, persistent, folder
):
    changes_in_use(
        folder,
        folder / "train" / "images.h5",
        change,
        "within an epoch",
        workers,
        context,
        persistent,
    )


def test_spawned_workers_give_right_data_and_notice_between_epochs_that_a_file_changed(folder):
    """One test, as each of these workers imports torch anew; test_dataloader.py has those that live
    for several epochs.
    """
    dataset = MTLDataset(folder, "train")
    expected = list(batches(make_loader(dataset, 4, shuffle=True)))
    loader = loader_of(dataset, 2, "spawn", False)
    for a, b in zip(batches(loader), expected, strict=True):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in b)
    replace_by_others(folder, folder / "train" / "masks.h5")
    gc.collect(), gc.disable()
    try:
        with pytest.raises(
            InputError, match="masks.h5 was changed or replaced while it was in use"
        ):
            list(batches(loader, 1))
        assert (
            multiprocessing.active_children() == []
        )  # they end with the error, not some time later
    finally:
        gc.enable()


def changes_in_use(folder, path, change, moment, workers, context, persistent):
    """Two epochs whose file changes on the way; what comes is the data of the beginning, or an
    InputError of the file.
    """
    dataset = MTLDataset(folder, "train")
    expected = [
        batch
        for epoch in range(2)
        for batch in batches(make_loader(dataset, 4, shuffle=True), epoch)
    ]
    dataset = MTLDataset(folder, "train")
    loader = loader_of(dataset, workers, context, persistent)
    found = []
    if moment == "before the first batch":
        change(folder, path)
    try:
        for epoch in range(2):
            for batch in batches(loader, epoch):
                found.append(batch)
                if len(found) == 2 and moment == "within an epoch":
                    change(folder, path)
        assert workers == 0 and dataset.fits_in_memory(), (
            "only a set that was read whole before does not notice"
        )
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error)
        assert moment == "within an epoch" or not found
    for a, b in zip(found, expected):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in b)
