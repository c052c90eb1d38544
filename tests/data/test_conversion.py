"""What 255 means in masks that others wrote, classes and trimaps of one's own: read, kept, and said."""

import h5py
import numpy as np
import pytest

import data_rechunk
from cli import InputError
from conftest import write_data
from data import contract


@pytest.fixture
def folder(tmp_path):
    return write_data(tmp_path / "pets", {"train": 6}, 32)


def rewrite(folder, kind, function, **attributes):
    """Put function(content) in the place of a file's content."""
    path = folder / "train" / f"{kind}.h5"
    with h5py.File(path, "r") as file:
        content = function(file[kind][:])
    with h5py.File(path, "w") as file:
        file[kind] = content
        file.attrs.update(attributes)


def rechunk(folder, *options):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(folder), *options]))
    with h5py.File(folder / "train/masks.h5", "r") as file:
        return file["masks"][:], dict(file.attrs)


def masks_of(folder):
    with h5py.File(folder / "train/masks.h5", "r") as file:
        return file["masks"][:]


def test_255_alone_with_0_is_the_pet(folder, capsys):
    masks = masks_of(folder)
    rewrite(folder, "masks", lambda masks: masks * 255)
    stored, attributes = rechunk(folder)
    assert np.array_equal(stored, masks) and "unlabelled" not in attributes
    assert "masks.h5: 255 was read as pet, as the file holds no 1" in capsys.readouterr().out
    with pytest.raises(InputError, match="re-chunked already, with its 255 read as pet; write it anew"):
        rechunk(folder, "--ignore", "255")


@pytest.mark.parametrize("options, attributes, reason", [
    (["--ignore", "255"], {}, "--ignore 255 says"), ([], {"unlabelled": 255}, "its attribute 'unlabelled' says")])
def test_255_alone_with_0_is_unlabelled_where_somebody_says_so(folder, options, attributes, reason, capsys):
    rewrite(folder, "masks", lambda masks: masks * 255, **attributes)
    given = masks_of(folder)
    stored, kept = rechunk(folder, *options)
    assert np.array_equal(stored, given) and set(np.unique(stored)) == {0, 255} and kept["unlabelled"] == 255
    assert f"255 was read as unlabelled, as {reason}" in capsys.readouterr().out


@pytest.mark.parametrize("slab_bytes", [32 * 32, 2 << 20])
def test_255_beside_1_is_unlabelled_however_late_the_1_comes(folder, slab_bytes, monkeypatch, capsys):
    monkeypatch.setattr(contract, "SLAB_BYTES", slab_bytes)

    def change(masks):
        masks[:5] *= 255
        return masks

    rewrite(folder, "masks", change)
    given = masks_of(folder)
    stored, kept = rechunk(folder)
    assert np.array_equal(stored, given) and set(np.unique(stored)) == {0, 1, 255} and kept["unlabelled"] == 255
    assert "255 was read as unlabelled, as the file holds 1 too" in capsys.readouterr().out


def test_nothing_but_255_holds_no_mask(folder, capsys):
    rewrite(folder, "masks", lambda masks: np.full_like(masks, 255))
    stored, kept = rechunk(folder)
    assert (stored == 255).all() and kept["unlabelled"] == 255
    assert "255 was read as unlabelled, as the file holds nothing else" in capsys.readouterr().out


def test_unknown_classes_and_trimaps_are_kept_and_names_of_ones_own(folder):
    rewrite(folder, "binary", lambda labels: np.array([[0], [255], [1]] * 2, np.float64), classes=["sheep", "goat"])
    trimaps = np.array([1, 2, 3, 255] * 1536, np.uint8).reshape(6, 32, 32, 1)
    with h5py.File(folder / "train/trimaps.h5", "w") as file:
        file["trimaps"] = trimaps.astype(np.int32)
    rechunk(folder)
    assert contract.verify(folder)["classes"] == ("sheep", "goat")
    for kind, expected in (("binary", [[0], [255], [1]] * 2), ("trimaps", trimaps)):
        with h5py.File(folder / f"train/{kind}.h5", "r") as file:
            assert file[kind].dtype == np.uint8 and np.array_equal(file[kind][:], expected)
