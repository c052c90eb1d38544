"""Re-chunking: same content, one storage, files that others made, refusals that leave the source
alone."""

import hashlib
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import data_rechunk
from cli import InputError
from data import check, contract, hdf5

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32


def arrays(n, seed=0):
    """A split's arrays in the contract's form: noise, a rectangle of pet, a head box in it; the
    last image has none."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, SIZE, SIZE, 1), np.uint8)
    boxes = np.full((n, 4), np.nan, np.float32)
    for k in range(n):
        x, y, w, h = (int(v) for v in rng.integers(4, 14, 4))
        masks[k, y : y + h, x : x + w] = 1
        if k < n - 1:
            boxes[k] = x, y, x + w / 2, y + h / 3
    return {
        "images": rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8),
        "masks": masks,
        "bboxes": boxes,
        "binary": (np.arange(n)[:, None] % 2).astype(np.uint8),
        "trimaps": 2 - masks,
    }


def write(folder, content, **options):
    """Write arrays as the files of a split, each under its kind's name."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in content.items():
        with h5py.File(folder / f"{kind}.h5", "w") as file:
            file.create_dataset(kind, data=array, **options)
    return folder


def rechunk(data):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(data)]))
    return data


def files(folder):
    """Content and time of change of every file."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def as_contract(data, expected):
    """Check a re-chunked train split against arrays in the contract's form."""
    for kind, array in expected.items():
        path = data / "train" / f"{kind}.h5"
        with h5py.File(path, "r") as file:
            assert sorted(file) == sorted((kind, f"chunked_{kind}"))
            assert file[kind] == file[f"chunked_{kind}"]
            assert file[kind].chunks == (1, *array.shape[1:]) and file[kind].compression is None
            assert file[kind].dtype == array.dtype
            np.testing.assert_array_equal(file[kind][:], array)
            assert (
                file.attrs["split_hash"] == hashlib.sha256(expected["images"].tobytes()).hexdigest()
            )
        # One storage: little more than the samples themselves, where two would double it.
        assert array.nbytes <= path.stat().st_size < array.nbytes + 16384 + 128 * len(array)
    summary = check.verify(data)
    assert summary["splits"] == {"train": len(expected["images"])} and summary["size"] == SIZE
    return summary


# ------------------------------------------------------------------------------------ what it makes


@pytest.fixture
def data(tmp_path):
    """A data folder with a train split of 40, not re-chunked."""
    write(tmp_path / "data" / "train", arrays(40))
    return tmp_path / "data"


def test_same_content_in_one_storage_under_two_names(data, capsys):
    rechunk(data)
    assert as_contract(data, arrays(40))["border"] == "unknown"
    assert "5 files re-chunked" in capsys.readouterr().out
    kinds = ["bboxes", "binary", "images", "masks", "trimaps"]
    assert sorted(p.name for p in (data / "train").iterdir()) == [f"{kind}.h5" for kind in kinds]


def test_a_second_run_says_that_nothing_is_to_do_and_touches_nothing(data, capsys):
    rechunk(data)
    before = files(data)
    capsys.readouterr()
    rechunk(data)
    assert "nothing to do" in capsys.readouterr().out
    assert files(data) == before


def test_a_run_that_was_interrupted_half_way_is_finished_by_the_next(data, capsys):
    for kind in ("images", "masks"):
        assert data_rechunk.rechunk(data, "train", kind)
    (data / "train" / "bboxes.h5.partial").write_bytes(b"left by a run that was killed")
    before = files(data)
    rechunk(data)
    assert "3 files re-chunked" in capsys.readouterr().out
    as_contract(data, arrays(40))
    assert files(data)["train/images.h5"] == before["train/images.h5"]
    assert not list(data.rglob("*.partial"))


def test_attributes_are_kept(data):
    digest = hashlib.sha256(arrays(40)["images"].tobytes()).hexdigest()
    for kind in contract.KINDS:
        with h5py.File(data / "train" / f"{kind}.h5", "r+") as file:
            file.attrs.update(border="background", split_hash=digest, note="mine")
    assert as_contract(rechunk(data), arrays(40))["border"] == "background"
    with h5py.File(data / "train" / "masks.h5", "r") as file:
        assert file.attrs["note"] == "mine"


def test_slabs_of_any_size_give_the_same_file(data, tmp_path, monkeypatch):
    write(tmp_path / "other" / "train", arrays(40))
    rechunk(data)
    monkeypatch.setattr(
        hdf5, "SLAB_BYTES", 7 * SIZE * SIZE
    )  # two images, seven masks, all boxes at a time
    rechunk(tmp_path / "other")
    assert {k: v[0] for k, v in files(data).items()} == {
        k: v[0] for k, v in files(tmp_path / "other").items()
    }


# --------------------------------------------------------------------------- files that others made


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": True},
        {"chunks": True, "compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"maxshape": None},
    ],
    ids=["chunks", "gzip", "gzip-shuffle-checksum", "contiguous"],
)
def test_any_storage(options, tmp_path):
    write(tmp_path / "train", arrays(9), **options)
    as_contract(rechunk(tmp_path), arrays(9))


@pytest.mark.parametrize(
    "kind, change",
    [
        ("masks", lambda a: a * 255),
        ("masks", lambda a: a.astype(bool)),
        ("masks", lambda a: a.astype(np.float32)),
        ("masks", lambda a: a.astype(np.int64) * 255),
        ("bboxes", lambda a: a.astype(np.float64)),
        ("binary", lambda a: a.astype(np.int64)),
        ("binary", lambda a: a.astype(bool)),
        ("binary", lambda a: a.astype(np.float64)),
    ],
)
def test_other_types_of_the_same_values(kind, change, tmp_path):
    content = arrays(9)
    write(tmp_path / "train", {**content, kind: change(content[kind])})
    as_contract(rechunk(tmp_path), content)


@pytest.mark.parametrize("chunks", [(1, SIZE, SIZE, 3), (2, SIZE, SIZE, 3)])
def test_files_that_are_only_nearly_done_are_done_again(chunks, data):
    rechunk(data)
    with h5py.File(data / "train" / "images.h5", "r+") as file:
        content, attributes = file["images"][:], dict(file["images"].attrs)
        del file["images"], file["chunked_images"]
        file.create_dataset("chunked_images", data=content, chunks=chunks).attrs.update(attributes)
        if chunks[0] == 1:
            file.create_dataset("images", data=content)  # a second storage
        else:
            file["images"] = file["chunked_images"]  # two samples a chunk
    with pytest.raises(InputError, match="not re-chunked"):
        check.verify(data)
    as_contract(rechunk(data), arrays(40))


# ----------------------------------------------------------------------------------------- refusals


def refused(data):
    """The message of a refusal, after which every file that was wrong or not yet done is as it
    was."""
    before = files(data)
    with pytest.raises(InputError) as error:
        rechunk(data)
    assert "\n" not in str(error.value)
    after = files(data)
    assert sorted(after) == sorted(before)  # no .partial, nothing gone
    changed = [name for name in before if after[name] != before[name]]
    for name in changed:  # those before the wrong one are done and whole
        with h5py.File(data / name, "r") as file:
            assert contract.is_rechunked(file, Path(name).stem)
    message = str(error.value)
    assert not any(str(data / name) in message for name in changed), message
    return message


def box(*values, row=4):
    def change(boxes):
        boxes = boxes.copy()
        boxes[row] = values
        return boxes

    return change


def value(number, everywhere=1):
    """One pixel of mask 6 holds another number; the rest is 0 and `everywhere`."""

    def change(masks):
        masks = masks * np.uint8(everywhere)
        masks[6, 3, 3] = number
        return masks

    return change


@pytest.mark.parametrize(
    "kind, change, words",
    [
        ("images", lambda a: (a / 255).astype(np.float32), ["float32", "uint8", "convert"]),
        ("images", lambda a: a.astype(np.int64), ["int64", "uint8"]),
        (
            "images",
            lambda a: a.transpose(0, 3, 1, 2),
            ["(9, 3, 32, 32)", "(N, S, S, 3)", "x.transpose(0, 2, 3, 1)"],
        ),
        ("images", lambda a: a[:, :, :24], ["(9, 32, 24, 3)", "(N, S, S, 3)", "one side"]),
        ("images", lambda a: a[..., :1], ["(9, 32, 32, 1)", "(N, S, S, 3)"]),
        ("images", lambda a: a[:, :16, :16], ["16", "32"]),
        (
            "images",
            lambda a: a[:0],
            ["no samples", "write at least one, or leave the split's folder out"],
        ),
        ("images", lambda a: np.uint8(3), ["()"]),
        (
            "masks",
            lambda a: a[:8],
            ["8 samples", "9", "write one for each image, in the images' order"],
        ),
        ("masks", lambda a: a[..., 0], ["(9, 32, 32)", "(N, S, S, 1)", "x[..., None]"]),
        (
            "masks",
            lambda a: np.repeat(np.repeat(a, 2, 1), 2, 2),
            ["(9, 64, 64, 1)", "S = 32", "one side"],
        ),
        ("masks", value(2), ["row 6", "2", "0 and 1", "write 1 pet and 0 background"]),
        ("masks", value(254, everywhere=255), ["row 6", "254"]),
        ("masks", lambda a: a * 0.5, ["0.5"]),
        ("masks", lambda a: np.where(a, np.nan, 0), ["nan"]),
        ("masks", lambda a: -a.astype(np.int8), ["-1"]),
        ("masks", lambda a: a.astype("S1"), ["none of numbers", "write (N, S, S, 1) uint8, 1 pet"]),
        ("trimaps", lambda a: a - 1, ["holds the value 0", "write 1 pet, 2 background, 3 border"]),
        ("trimaps", lambda a: a[:8], ["8 samples", "9"]),
        ("bboxes", box(20, 5, 10, 15), ["row 4", "[20.0, 5.0, 10.0, 15.0]", "xmin < xmax"]),
        ("bboxes", box(5, 20, 15, 10), ["row 4", "ymin < ymax"]),
        ("bboxes", box(-1, 5, 10, 15), ["row 4", "0 to 32"]),
        ("bboxes", box(5, 5, 33, 15), ["row 4", "0 to 32"]),
        ("bboxes", box(np.nan, np.nan, 10, 15), ["row 4", "NaN four times", "write it so"]),
        ("bboxes", box(5, 5, 5, 15), ["row 4", "xmin < xmax"]),
        ("bboxes", box(5, 5, np.inf, 15), ["row 4", "inf"]),
        ("bboxes", lambda a: a[:, :3], ["(9, 3)", "(N, 4)"]),
        ("bboxes", lambda a: a[:7], ["7 samples", "9"]),
        ("binary", lambda a: a + 1, ["row 1", "2", "0 (cat) and 1 (dog)"]),
        ("binary", lambda a: a[:, 0], ["(9,)", "(N, 1)", "x[..., None]"]),
        (
            "binary",
            lambda a: np.array([["cat"], ["dog"], ["cat"]] * 3, dtype="S3"),
            ["none of numbers"],
        ),
        ("bboxes", lambda a: np.where(np.isnan(a), np.float64(a), 1e300), ["row 0", "inf"]),
        ("binary", lambda a: a * 2, ["write 0 cat and 1 dog"]),
    ],
)
def test_wrong_content_is_refused_with_its_reason(kind, change, words, tmp_path):
    content = arrays(9)
    content[kind] = change(content[kind])
    write(tmp_path / "train", content)
    message = refused(tmp_path)
    assert f"{kind}.h5" in message and all(word in message for word in words), message


def test_a_missing_dataset_is_refused_and_what_is_there_is_listed(tmp_path):
    write(tmp_path / "train", arrays(3))
    with h5py.File(tmp_path / "train" / "masks.h5", "r+") as file:
        file.move("masks", "labels")
    message = refused(tmp_path)
    assert (
        "no dataset 'masks' (it has: labels); give it that name, with (N, S, S, 1) uint8" in message
    )


@pytest.mark.parametrize("kind", contract.KINDS)
def test_truncated_files_and_files_of_another_kind_are_refused(kind, tmp_path):
    path = write(tmp_path / "train", arrays(9), chunks=True) / f"{kind}.h5"
    whole = path.read_bytes()
    a_csv, a_png = b"row,name\n0,a\n", b"\x89PNG\r\n\x1a\n" + bytes(4000)
    for wrong in (whole[: len(whole) // 2], whole[:-1], whole[:100], b"", a_csv, a_png):
        path.write_bytes(wrong)
        assert f"{kind}.h5 is no readable HDF5 file" in refused(tmp_path)


def test_damaged_storage_is_refused(tmp_path):
    """A byte of a compressed chunk, and of the file's structure: HDF5 has many errors for it, here
    it is one sentence."""
    path = write(tmp_path / "train", arrays(9), compression="gzip", fletcher32=True)
    good = (path / "images.h5").read_bytes()
    with h5py.File(path / "images.h5", "r") as file:
        offset = file["images"].id.get_chunk_info(0).byte_offset
    places = [offset + 20]
    places += [good.index(mark) for mark in (b"TREE", b"HEAP", b"SNOD")]
    for place in places:
        (path / "images.h5").write_bytes(
            good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :]
        )
        assert "images.h5" in refused(tmp_path)


def test_images_exchanged_since_they_were_prepared_are_refused(tmp_path):
    write(tmp_path / "train", arrays(9))
    with h5py.File(tmp_path / "train" / "images.h5", "r+") as file:
        file.attrs["split_hash"] = "0" * 64
    message = refused(tmp_path)
    assert (
        "not those that were prepared" in message
        and "delete the file's attribute 'split_hash'" in message
    )
    with h5py.File(tmp_path / "train" / "images.h5", "r+") as file:
        del file.attrs["split_hash"]
    as_contract(rechunk(tmp_path), arrays(9))


@pytest.mark.parametrize(
    "digest", ["0" * 64, np.arange(5), b"\xff"], ids=["text", "array", "bytes"]
)
def test_files_of_other_images_are_refused(digest, tmp_path):
    write(tmp_path / "train", arrays(9))
    with h5py.File(tmp_path / "train" / "masks.h5", "r+") as file:
        file.attrs["split_hash"] = digest
    message = refused(tmp_path)
    assert (
        "belongs to other images" in message
        and "write this file anew, without that attribute" in message
    )
    write(tmp_path / "train", {"masks": arrays(9)["masks"]})
    as_contract(rechunk(tmp_path), arrays(9))


def test_a_full_disk_leaves_the_source_alone(tmp_path):
    data = tmp_path / "data"
    write(data / "train", arrays(100))
    before = files(data)
    done = subprocess.run(
        [sys.executable, ROOT / "data_rechunk.py", "--data", data],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "space" in done.stderr
    assert files(data) == before
