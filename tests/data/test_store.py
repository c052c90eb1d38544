"""Pictures of a split read from their files or held in memory: the same bytes either way, and
changes noticed."""

import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch

from cli import InputError
from data import store
from data.store import Stamps, Store, stamp

KINDS = ("images", "masks")


@pytest.fixture
def folder(data, tmp_path):
    """A copy of the shared data to spoil."""
    return shutil.copytree(data, tmp_path / "pets")


def open_store(folder, kinds=KINDS, n=24):
    return Store(Stamps(folder / "train"), kinds, n, 64)


def expected(folder, kind, rows):
    with h5py.File(folder / f"train/{kind}.h5") as file:
        return file[kind][:][rows].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("hold", [True, False])
def test_any_rows_in_any_order_are_what_the_files_hold(data, hold):
    opened = open_store(data)
    for rows in ([3, 0, 23], [3], [5, 3, 4], list(range(24)), []):  # some read before, some not
        found = opened.read(rows, hold)
        assert list(found) == list(KINDS)
        for kind in KINDS:
            assert found[kind].dtype == torch.uint8
            assert np.array_equal(found[kind], expected(data, kind, rows))


def test_what_is_held_is_read_once_and_what_is_handed_out_is_a_copy(folder, monkeypatch):
    opened, read = open_store(folder), []
    from_file = Store._read_file
    monkeypatch.setattr(
        Store,
        "_read_file",
        lambda self, kind, rows: read.append((kind, *rows)) or from_file(self, kind, rows),
    )
    opened.read([1, 2])["masks"][:] = 7
    assert np.array_equal(opened.read([2, 3])["masks"], expected(folder, "masks", [2, 3]))
    assert read == [("images", 1, 2), ("masks", 1, 2), ("images", 3), ("masks", 3)]


def test_a_read_without_holding_says_nothing_of_the_next(folder, monkeypatch):
    opened, read = open_store(folder), []
    from_file = Store._read_file
    monkeypatch.setattr(
        Store,
        "_read_file",
        lambda self, kind, rows: read.append(kind) or from_file(self, kind, rows),
    )
    opened.read([1], hold=False)
    opened.read([1])
    read.clear()
    opened.read([1])
    assert read == ["images", "masks"]  # of no rows: row 1 is in memory
    assert opened._is_held.nonzero()[0].tolist() == [1]


@pytest.mark.parametrize("row", [1, 2])
def test_what_is_held_is_of_no_use_once_the_file_changed(folder, row):
    opened = open_store(folder)
    opened.read([1])
    os.utime(folder / "train/masks.h5", (1e9, 1e9))
    with pytest.raises(InputError, match="masks.h5 was changed"):
        opened.read([row])


def test_without_holding_every_read_notices_a_change(folder):
    opened = open_store(folder)
    opened.read([1], hold=False)
    os.utime(folder / "train/images.h5", (1e9, 1e9))
    with pytest.raises(InputError, match="images.h5 was changed"):
        opened.read([1], hold=False)


def test_a_file_that_was_replaced_before_the_first_read_is_noticed(folder):
    opened = open_store(folder)
    shutil.copy(folder / "train/images.h5", folder / "other.h5")
    os.replace(folder / "other.h5", folder / "train/images.h5")
    with pytest.raises(InputError, match="images.h5 was changed"):
        opened.read([0])


def test_files_open_in_the_process_that_reads(data):
    opened = open_store(data)
    opened.read([0])
    assert opened._files and opened._held
    copy = pickle.loads(pickle.dumps(opened))
    assert copy._files is None and copy._held is None and len(pickle.dumps(opened)) < 2000
    assert np.array_equal(copy.read([4])["images"], expected(data, "images", [4]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_opens_its_own(data):
    opened = open_store(data)
    before = opened.read([0], hold=False)["images"]
    handles = opened._files
    child = os.fork()
    if not child:
        same = torch.equal(opened.read([0], hold=False)["images"], before)
        os._exit(0 if same and opened._files is not handles else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_values_that_no_mask_has_are_refused_with_their_row(folder):
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][6, 0, 0, 0] = 9
    opened = open_store(folder)
    opened.read([5])
    with pytest.raises(InputError, match="masks.h5, row 6"):
        opened.read([5, 6])
    opened = open_store(folder, ("images",))
    opened.read([6])  # of what no task needs nothing is read


def test_unlabelled_pixels_are_a_value(folder):
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][6, :3] = 255
    found = open_store(folder).read([6])["masks"]
    assert (found[0, 0, :3] == 255).all() and found[0, 0, 3:].max() <= 1


def test_what_has_no_file_is_unlabelled(folder):
    (folder / "train/masks.h5").unlink()
    found = open_store(folder).read([3, 4])
    assert found["masks"].shape == (2, 1, 64, 64) and (found["masks"] == 255).all()
    assert np.array_equal(found["images"], expected(folder, "images", [3, 4]))


def test_a_quarter_of_the_memory_is_the_bound(data, monkeypatch):
    opened = open_store(data)
    assert opened.bytes() == 24 * 64 * 64 * (3 + 1)
    for memory, fits in ((4 * opened.bytes(), True), (4 * opened.bytes() - 4, False)):
        monkeypatch.setattr(
            store.os,
            "sysconf",
            lambda name, memory=memory: memory if name == "SC_PHYS_PAGES" else 1,
        )
        assert opened.fits_in_memory() == fits
        assert not opened.fits_in_memory(processes=2)
    monkeypatch.delattr(store.os, "sysconf")  # a system that does not tell
    assert opened.fits_in_memory()


def test_a_missing_file_has_no_stamp(tmp_path):
    assert stamp(tmp_path / "none.h5") is None
