"""Files that change while they are in use: the data of the beginning come, or one sentence."""

import os
import shutil

import pytest
import torch
from conftest import rechunk, write_data

import registry
from cli import InputError
from dataloader_mtl import MTLDataset, Sampling, batches, make_loader


@pytest.fixture
def folder(data, tmp_path):
    """A copy of the shared data to spoil."""
    return shutil.copytree(data, tmp_path / "pets")


@pytest.fixture
def others(tmp_path):
    """others(size) -> a data folder of as many other images."""

    def make(size=64):
        counts = {"train": 24}
        return rechunk(write_data(tmp_path / f"other{size}", counts, size=size, seed=9))

    return make


def open_split(folder, **sampling):
    return MTLDataset(folder, "train", registry.find_tasks(["seg", "cls"]), Sampling(**sampling))


def epochs(loader, n):
    """All batches of the first n epochs."""
    found = []
    for epoch in range(n):
        found += batches(loader, epoch)
    return found


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=False):
        assert all(torch.equal(a[key], b[key]) for key in b)


def replace_by_others(path, others):
    """As data_prepare.py and data_rechunk.py put a file there."""
    os.replace(others() / "train" / path.name, path)


def replace_by_larger(path, others):
    os.replace(others(96) / "train" / path.name, path)


def copy_over(path, others):
    """What `cp` does: other content in the same file."""
    shutil.copyfile(others() / "train" / path.name, path)


def truncate(path, others):
    os.truncate(path, path.stat().st_size // 2)


def delete(path, others):
    path.unlink()


CHANGES = [replace_by_others, replace_by_larger, copy_over, truncate, delete]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("read_before", [0, 2])
@pytest.mark.parametrize("is_held", [True, False])
def test_a_changed_file_gives_right_data_or_one_sentence(
    folder, others, monkeypatch, change, kind, read_before, is_held
):
    expected = epochs(make_loader(open_split(folder), 4, shuffle=True), 2)
    if not is_held:  # so that every epoch reads
        monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda *args: False)
    path = folder / "train" / f"{kind}.h5"
    loader, found = make_loader(open_split(folder), 4, shuffle=True), []
    if not read_before:
        change(path, others)
    try:
        for epoch in range(2):
            for batch in batches(loader, epoch):
                found.append(batch)
                if len(found) == read_before:
                    change(path, others)
        assert is_held, "only what was read whole before does not notice"
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error)
    assert_same(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("change", [replace_by_others, truncate])
def test_a_file_that_changes_under_workers_is_noticed(folder, others, change):
    expected = epochs(make_loader(open_split(folder), 4, shuffle=True), 2)
    path = folder / "train/images.h5"
    loader, found = make_loader(open_split(folder), 4, shuffle=True, workers=2), []
    with pytest.raises(InputError, match="images.h5"):
        for epoch in range(4):
            for batch in batches(loader, epoch):
                found.append(batch)
                if len(found) == 2:
                    change(path, others)
    assert_same(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_every_epoch_is_the_same_with_and_without_workers(data):
    sampling = {"seed": 3, "augment": "flip", "sizes": (64, 32, 64)}
    plain = make_loader(open_split(data, **sampling), 4, shuffle=True)
    with_workers = make_loader(open_split(data, **sampling), 4, shuffle=True, workers=2)
    expected, found = epochs(plain, 3), epochs(with_workers, 3)
    assert len(found) == len(expected) == 18
    assert_same(found, expected)
