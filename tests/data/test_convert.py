"""What 255 means in files that others wrote, and in which words what has no meaning is refused."""

import hashlib

import h5py
import numpy as np
import pytest

import data_rechunk
from cli import InputError
from data import check, contract, hdf5

SIZE = 32
PET = (
    "255 was read as pet, as the file holds no 1; where that is wrong, write it anew and "
    "re-chunk it with --ignore 255"
)
BESIDE = "255 was read as unlabelled, as the file holds 1 too"
ALONE = "255 was read as unlabelled, as the file holds nothing else"
ASKED = "255 was read as unlabelled, as --ignore 255 says"
MARKED = "255 was read as unlabelled, as its attribute 'unlabelled' says"


def pictures(*rows):
    """A mask or trimap a row, of one value but for a pixel: (value, another value of that pixel or
    None)."""
    masks = np.zeros((len(rows), SIZE, SIZE, 1), np.uint8)
    for mask, (everywhere, pixel) in zip(masks, rows, strict=True):
        mask[:] = everywhere
        if pixel is not None:
            mask[5, 7] = pixel
    return masks


def write(folder, n, **content):
    """A train split of n images of noise and some files more; returns the folder."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    for kind, array in {"images": images, **content}.items():
        with h5py.File(folder / "train" / f"{kind}.h5", "w") as file:
            file[kind] = array
    return folder


def rechunk(data, *options):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(data), *options]))


def holds(data, kind, expected):
    """Check a re-chunked file's content, which also has to pass --check; returns its attributes."""
    check.verify(data)
    with h5py.File(data / "train" / f"{kind}.h5", "r") as file:
        assert file[kind] == file[f"chunked_{kind}"] and file[kind].chunks == (
            1,
            *expected.shape[1:],
        )
        assert file[kind].dtype == np.uint8
        np.testing.assert_array_equal(file[kind][:], expected)
        assert (
            file[kind].attrs["sha256"]
            == hashlib.sha256(expected.astype(np.uint8).tobytes()).hexdigest()
        )
        return dict(file.attrs)


def of_255(attributes):
    return {
        name: value for name, value in attributes.items() if name not in ("border", "split_hash")
    }


def said(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if "255 was" in line]


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.h5*")}


# -------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("slab_rows", [1, 100])
@pytest.mark.parametrize(
    "given, read, says",
    [
        ([(0, None), (0, 1)], [(0, None), (0, 1)], None),
        ([(0, 255), (255, 0)], [(0, 1), (1, 0)], PET),
        ([(0, None), (255, None)], [(0, None), (1, None)], PET),
        ([(255, None), (0, 255), (0, None)], [(1, None), (0, 1), (0, None)], PET),
        (
            [(0, 255), (0, None), (0, 1)],
            [(0, 255), (0, None), (0, 1)],
            BESIDE,
        ),  # what comes last decides of the first
        ([(0, 1), (0, None), (255, 0)], [(0, 1), (0, None), (255, 0)], BESIDE),
        ([(255, None), (255, 1)], [(255, None), (255, 1)], BESIDE),
        ([(255, None), (255, None)], [(255, None), (255, None)], ALONE),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_what_255_is_in_masks_is_decided_from_the_whole_file_and_said(
    given, read, says, slab_rows, dtype, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(hdf5, "SLAB_BYTES", slab_rows * SIZE * SIZE * np.dtype(dtype).itemsize)
    rechunk(write(tmp_path, len(given), masks=pictures(*given).astype(dtype)))
    assert said(capsys) == ([f"{tmp_path / 'train' / 'masks.h5'}: {says}"] if says else [])
    assert of_255(holds(tmp_path, "masks", pictures(*read))) == (
        {} if says is None else {"pet_was": 255} if says == PET else {"unlabelled": 255}
    )


@pytest.mark.parametrize("how", ["option", "file", "dataset", "list"])
def test_255_beside_0_stays_unlabelled_where_the_user_or_the_file_says_so(how, tmp_path, capsys):
    masks, path = pictures((0, 255), (255, None)), tmp_path / "train" / "masks.h5"
    write(tmp_path, 2, masks=masks)
    if how != "option":
        with h5py.File(path, "r+") as file:
            (file["masks"] if how == "dataset" else file).attrs["unlabelled"] = (
                [255] if how == "list" else 255
            )
    rechunk(tmp_path, *["--ignore", "255"] * (how == "option"))
    assert said(capsys) == [f"{path}: {ASKED if how == 'option' else MARKED}"]
    assert of_255(holds(tmp_path, "masks", masks)) == {"unlabelled": 255}
    before = contents(tmp_path)
    rechunk(tmp_path)  # nothing to do, whatever is asked now
    assert contents(tmp_path) == before
    in_one_piece(path, masks)
    rechunk(tmp_path)  # the result says by itself what it holds
    assert of_255(holds(tmp_path, "masks", masks)) == {"unlabelled": 255}


def in_one_piece(path, content):
    """Write a file's dataset anew, not re-chunked, and leave its attributes."""
    with h5py.File(path, "r+") as file:
        del file[path.stem], file[f"chunked_{path.stem}"]
        file[path.stem] = content


def test_masks_whose_255_became_pet_are_not_left_so_where_it_should_be_unlabelled(tmp_path):
    masks, path = pictures((0, 255), (0, None)), tmp_path / "train" / "masks.h5"
    rechunk(write(tmp_path, 2, masks=masks))
    before = contents(tmp_path)
    with pytest.raises(InputError) as error:
        rechunk(tmp_path, "--ignore", "255")
    assert str(error.value) == (
        f"{path} is re-chunked already, with its 255 read as pet; write it anew as it was, and "
        "re-chunk it with --ignore 255"
    )
    assert contents(tmp_path) == before
    in_one_piece(path, masks)
    rechunk(tmp_path, "--ignore", "255")
    assert of_255(holds(tmp_path, "masks", masks)) == {"unlabelled": 255}
    rechunk(tmp_path, "--ignore", "255")


@pytest.mark.parametrize(
    "masks, row, value",
    [
        (pictures((0, 1), (0, 2)), 1, "2"),
        (pictures((0, 255), (0, None), (0, 254)), 2, "254"),
        (pictures((1, 255), (7, None)), 1, "7"),
        (pictures((0, None), (0, 1)) * 0.5, 1, "0.5"),
        (np.where(pictures((0, 1)), 255.5, 0), 0, "255.5"),
        (pictures((0, 1)).astype(np.int16) * 256, 0, "256"),
        (np.where(pictures((0, 1)), np.nan, 255), 0, "nan"),
    ],
)
def test_masks_of_other_values_are_refused(masks, row, value, tmp_path):
    write(tmp_path, len(masks), masks=masks)
    before = contents(tmp_path)
    with pytest.raises(InputError) as error:
        data_rechunk.rechunk(tmp_path, "train", "images")
        data_rechunk.rechunk(tmp_path, "train", "masks")
    path = tmp_path / "train" / "masks.h5"
    assert str(error.value) == (
        f"{path}, row {row} holds the value {value}; allowed in one file are 0 and 1 with 255 "
        "where nothing is known, or 0 "
        "and 255 alone; write 1 pet and 0 background, 255 where nothing is known"
    )
    assert contents(tmp_path)[path] == before[path] and len(contents(tmp_path)) == 2


# ------------------------------------------------------------------------------- trimaps and binary


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_trimaps_and_classes_of_255_stay(dtype, tmp_path, capsys):
    trimaps, binary = pictures((2, 1), (255, None), (3, 255)), np.uint8([[255], [0], [1]])
    rechunk(write(tmp_path, 3, trimaps=trimaps.astype(dtype), binary=binary.astype(dtype)))
    assert (
        of_255(holds(tmp_path, "trimaps", trimaps))
        == of_255(holds(tmp_path, "binary", binary))
        == {}
    )
    assert said(capsys) == []  # it can only be one thing there


@pytest.mark.parametrize(
    "kind, content, message",
    [
        (
            "trimaps",
            pictures((2, 1), (2, 0)),
            "row 1 holds the value 0; allowed in one file are 1, 2 and 3, and 255 where "
            "nothing is known; write 1 pet, 2 background, 3 border, 255 where nothing is known",
        ),
        ("trimaps", pictures((4, 1)), "row 0 holds the value 4; allowed"),
        ("trimaps", pictures((255, 1), (255, 254)), "row 1 holds the value 254; allowed"),
        (
            "binary",
            np.uint8([[0], [2]]),
            "row 1 holds the value 2; allowed in one file are 0 (cat) and 1 (dog), and 255 where "
            "it is unknown; write 0 cat and 1 dog, 255 where it is unknown",
        ),
        ("binary", np.float64([[0], [np.nan]]), "row 1 holds the value nan; allowed"),
        ("binary", np.int64([[-1], [1]]), "row 0 holds the value -1; allowed"),
    ],
)
def test_other_values_of_trimaps_and_classes_are_refused(kind, content, message, tmp_path):
    write(tmp_path, len(content), **{kind: content})
    with pytest.raises(InputError) as error:
        rechunk(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'train' / kind}.h5, {message}")


# ----------------------------------------------------------------------------- names of the classes


@pytest.mark.parametrize("where", ["file", "dataset"])
@pytest.mark.parametrize(
    "given, names",
    [
        (["rabbit", "guinea pig"], ("rabbit", "guinea pig")),
        (["Häsin", "兎"], ("Häsin", "兎")),
        (np.array([b"a", b"b"]), ("a", "b")),
        (None, ("cat", "dog")),
    ],
    ids=["texts", "unicode", "bytes", "none"],
)
def test_names_of_the_classes_are_kept(given, names, where, tmp_path):
    write(tmp_path, 2, binary=np.uint8([[0], [1]]))
    with h5py.File(tmp_path / "train" / "binary.h5", "r+") as file:
        if given is not None:
            {"file": file, "dataset": file["binary"]}[where].attrs["classes"] = given
    rechunk(tmp_path)
    assert contract.describe(tmp_path)["classes"] == check.verify(tmp_path)["classes"] == names
