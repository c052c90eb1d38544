"""What --check finds: faults put into real files, one at a time."""

import hashlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

import data_rechunk
from cli import InputError
from data import contract, hdf5
from data.check import verify

SIZE = 32
COUNTS = {"train": 6, "val": 4, "test": 4}


def write(folder, n, seed):
    """One split in the contract's form: noise, a square of pet, a head box (none in the last
    image), an index."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, SIZE, SIZE, 1), np.uint8)
    masks[:, 4:20, 4:20] = 1
    boxes = np.tile(np.array([4, 4, 12, 10], np.float32), (n, 1))
    boxes[-1] = np.nan
    labels = rng.integers(0, 2, (n, 1)).astype(np.uint8)
    folder.mkdir(parents=True)
    for kind, array in (
        ("images", rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)),
        ("masks", masks),
        ("bboxes", boxes),
        ("binary", labels),
        ("trimaps", 2 - masks),
    ):
        with h5py.File(folder / f"{kind}.h5", "w") as file:
            file[kind] = array
    rows = [
        f"{k},{folder.name}_{k},{folder.name},{('cat', 'dog')[labels[k, 0]]},{int(k < n - 1)}"
        for k in range(n)
    ]
    (folder / "index.csv").write_text("\n".join(["row,name,breed,species,has_box", *rows, ""]))


def check(data):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(data), "--check"]))


def rechunk(data):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(data)]))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    data = tmp_path_factory.mktemp("sound") / "data"
    for seed, (split, n) in enumerate(COUNTS.items()):
        write(data / split, n, seed)
    rechunk(data)
    return data


@pytest.fixture
def data(sound, tmp_path):
    """A sound copy to spoil."""
    return shutil.copytree(sound, tmp_path / "data")


def contents(folder):
    return {
        p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def refused(data):
    """The message of a refused check, which wrote nothing."""
    before = contents(data)
    with pytest.raises(InputError) as error:
        check(data)
    assert contents(data) == before
    assert "\n" not in str(error.value)
    return str(error.value)


# --------------------------------------------------------------------------------------- sound data


def test_a_sound_folder_passes_and_is_not_touched(data, capsys):
    before = contents(data)
    check(data)
    assert contents(data) == before
    out = capsys.readouterr().out
    assert "sound" in out and "train 6, val 4, test 4" in out and "border unknown" in out
    assert contract.describe(data)["split_hash"] in out


def test_describe_reads_it_off_the_attributes(data):
    summary = contract.describe(data)
    assert summary == verify(data)
    assert (
        summary["splits"] == COUNTS and summary["size"] == SIZE and summary["border"] == "unknown"
    )
    assert len(summary["split_hash"]) == 16 and int(summary["split_hash"], 16) >= 0


def test_slabs_cover_every_row_once(monkeypatch):
    file = h5py.File("slabs", "w", driver="core", backing_store=False)
    dataset = file.create_dataset("x", data=np.arange(50).reshape(10, 5))
    for slab_bytes in (1, 3 * 40, 10 * 40, 1000):
        monkeypatch.setattr(hdf5, "SLAB_BYTES", slab_bytes)
        parts = list(contract.slabs(dataset))
        assert [start for start, _ in parts] == list(
            np.cumsum([0, *(len(rows) for _, rows in parts)])[:-1]
        )
        assert np.concatenate([rows for _, rows in parts]).tolist() == dataset[:].tolist()
        assert max(len(rows) for _, rows in parts) == {1: 1, 120: 3, 400: 10, 1000: 10}[slab_bytes]


# --------------------------------------------------------------------------------------- --- damage


@pytest.mark.parametrize("kind", contract.KINDS)
def test_a_flipped_byte_anywhere_in_the_samples_is_found(kind, data):
    path = data / "val" / f"{kind}.h5"
    with h5py.File(path, "r") as file:
        chunks = [file[kind].id.get_chunk_info(k) for k in range(len(file[kind]))]
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [
        chunk.byte_offset + at
        for chunk in chunks
        for at in {0, chunk.size - 1, int(rng.integers(chunk.size))}
    ]
    for place in places:
        path.write_bytes(
            good[:place] + bytes([good[place] ^ int(rng.integers(1, 256))]) + good[place + 1 :]
        )
        assert str(path) in refused(data)
    path.write_bytes(good)
    check(data)


def test_damage_in_the_structure_of_a_file_is_found(data):
    path = data / "train" / "masks.h5"
    good = path.read_bytes()
    for mark in (b"TREE", b"HEAP", b"SNOD"):
        path.write_bytes(good.replace(mark, b"XXXX"))
        assert str(path) in refused(data)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("masks", "test has no masks.h5: nothing measures segmentation"),
        (
            "bboxes",
            "test has no bboxes.h5, though index.csv tells of it: nothing measures the head box",
        ),
        (
            "binary",
            "test has no binary.h5, though index.csv tells of it: nothing measures classification",
        ),
        ("trimaps", "test has no trimaps.h5, though train has: nothing measures the border"),
    ],
)
def test_any_other_file_may_be_missing_and_is_named(kind, words, data, capsys):
    (data / "test" / f"{kind}.h5").unlink()
    check(data)
    out = capsys.readouterr().out
    assert "is sound" in out and f"odd: {words}\n" in out
    assert contract.describe(data)["kinds"] == {
        "train": contract.KINDS,
        "val": contract.KINDS,
        "test": tuple(k for k in contract.KINDS if k != kind),
    }
    before = contract.describe(data)["split_hash"]
    (data / "val" / f"{kind}.h5").unlink()
    (data / "train" / f"{kind}.h5").unlink()
    check(data)
    assert contract.describe(data)["split_hash"] == before  # of the images alone


def test_a_link_to_a_file_that_is_gone_is_no_missing_file(data):
    path = data / "test" / "bboxes.h5"
    path.unlink()
    path.symlink_to(data / "nowhere.h5")
    assert "bboxes.h5 is a link to a file that is not there" in refused(data)


def test_a_file_that_another_program_writes_is_refused_for_that_reason(data):
    path = data / "val" / "bboxes.h5"
    program = (
        f"import h5py, time; file = h5py.File({str(path)!r}, 'r+'); print('open', "
        "flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"open\n"
            with pytest.raises(
                InputError, match="bboxes.h5 is open for writing in another program.*close it"
            ):
                contract.describe(data)
        finally:
            writer.kill()


def test_a_folder_that_is_not_re_chunked_is_refused_with_the_command(data, tmp_path):
    write(tmp_path / "raw" / "train", 5, seed=9)
    assert f"data_rechunk.py --data {tmp_path / 'raw'}" in refused(tmp_path / "raw")
    shutil.copytree(tmp_path / "raw" / "train", data / "val", dirs_exist_ok=True)
    assert "not re-chunked" in refused(data)


# --------------------------------------------------------------------------------- files that mixed


def test_an_image_that_stands_in_two_splits_is_found(data, tmp_path):
    folder = tmp_path / "leak"
    for seed, split in enumerate(("train", "val", "test")):
        write(folder / split, 5, seed)
    with (
        h5py.File(folder / "train" / "images.h5", "r") as train,
        h5py.File(folder / "test" / "images.h5", "r+") as test,
    ):
        test["images"][3] = train["images"][1]
    rechunk(folder)
    message = refused(folder)
    assert (
        str(folder / "test" / "images.h5") in message
        and "row 3" in message
        and "train, row 1" in message
    )


@pytest.mark.parametrize("kind", contract.KINDS)
def test_a_file_of_another_split_is_found(kind, data):
    # val and test are of one length, so that only what the files say of themselves tells.
    shutil.copy(data / "val" / f"{kind}.h5", data / "test" / f"{kind}.h5")
    assert "belongs to other images" in refused(data)
    shutil.copy(data / "train" / f"{kind}.h5", data / "test" / f"{kind}.h5")
    assert str(data / "test") in refused(data)


def test_splits_of_another_size_or_border_rule_are_found(data, tmp_path):
    with h5py.File(data / "val" / "masks.h5", "r+") as file:
        file.attrs["border"] = "background"
    assert "border rule" in refused(data) and "background" in refused(data)
    shutil.rmtree(data / "val")
    check(data)
    with h5py.File(data / "test" / "images.h5", "r+") as file:
        del file["images"], file["chunked_images"]
        file["chunked_images"] = file.create_dataset(
            "images", (4, 64, 64, 3), "u1", chunks=(1, 64, 64, 3)
        )
        file["images"].attrs["sha256"] = "0" * 64
    assert "image side" in refused(data)


# --------------------------------------------------------------------------------------- --- values


@pytest.mark.parametrize(
    "kind, place, value, words",
    [
        ("masks", (2, 5, 5, 0), 254, ["row 2", "254"]),
        ("binary", (3, 0), 2, ["row 3", "2"]),
        ("trimaps", (1, 5, 5, 0), 0, ["row 1", "0"]),
        ("trimaps", (1, 5, 5, 0), 4, ["row 1", "4"]),
        ("bboxes", (1, 0), 30, ["row 1", "[30.0, 4.0, 12.0, 10.0]"]),
        ("bboxes", (0, 3), np.nan, ["row 0", "NaN four times"]),
    ],
)
def test_values_that_somebody_wrote_into_a_re_chunked_file_are_found(
    kind, place, value, words, data
):
    path = data / "val" / f"{kind}.h5"
    with h5py.File(path, "r+") as file:
        file[kind][place] = value
        file[kind].attrs["sha256"] = hashlib.sha256(file[kind][:]).hexdigest()
    message = refused(data)
    assert str(path) in message and all(word in message for word in words)


def test_images_exchanged_with_their_digest_are_found_by_the_split_hash(data):
    with h5py.File(data / "val" / "images.h5", "r+") as file:
        file["images"][0, 0, 0, 0] ^= 1
        file["images"].attrs["sha256"] = hashlib.sha256(file["images"][:]).hexdigest()
    assert "split hash" in refused(data)


def test_a_type_that_is_not_the_contracts_is_found(data):
    with h5py.File(data / "val" / "binary.h5", "r+") as file:
        labels = file["binary"][:].astype(np.int64)
        del file["binary"], file["chunked_binary"]
        file["chunked_binary"] = file.create_dataset("binary", data=labels, chunks=(1, 1))
        file["binary"].attrs["sha256"] = hashlib.sha256(labels).hexdigest()
    assert "int64" in refused(data) and "uint8" in refused(data)


def test_a_heap_of_zeros_is_refused_not_read_for_ever(data, tmp_path):
    """HDF5 itself never comes back from reading a text attribute of such a file."""
    shutil.copytree(data, tmp_path / "pets")
    path = tmp_path / "pets" / "train" / "bboxes.h5"
    content = bytearray(path.read_bytes())
    heap = content.index(hdf5.HEAP_MARK)
    content[heap + 16 + 16 + 64 : heap + 4096] = bytes(
        4096 - 96
    )  # all after the first object, which is the split hash
    path.write_bytes(content)
    with pytest.raises(InputError, match="attributes were overwritten"):
        contract.describe(tmp_path / "pets")
