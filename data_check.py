"""The data contract: which files a data folder has, and what must hold of them.

    datasets/data_new/{train,val,test}/images.h5   (N, S, S, 3) uint8    RGB
                                       masks.h5    (N, S, S, 1) uint8    1 pet, 0 background
                                       bboxes.h5   (N, 4) float32        head box, xmin ymin xmax ymax in pixels, or NaN x 4
                                       binary.h5   (N, 1) uint8          0 cat, 1 dog
                                       index.csv   row, name, breed, species, has_box (optional)

Every function raises cli.InputError, naming the file, the value and the way out.
"""

import csv
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cli import InputError

SPLITS = ("train", "val", "test")
KINDS = ("images", "masks", "bboxes", "binary")
READING_ORDER = ("bboxes", "binary", "masks", "images")  # of verify: boxes come before the masks that they are held against
INDEX_FIELDS = ("row", "name", "breed", "species", "has_box")
MIN_SIZE, MAX_SIZE = 32, 2048
# How much is read at a time: large enough for full speed, small enough to leave memory alone.
SLAB_BYTES = 2 << 20
HEAP_MARK, HEAP_SEARCH = b"GCOL\1\0\0\0", 1 << 16


def sample_shape(kind, size):
    """Shape of one sample of a kind of data at S = size."""
    return {"images": (size, size, 3), "masks": (size, size, 1), "bboxes": (4,), "binary": (1,)}[kind]


def sample_dtype(kind):
    """Type in which a kind of data is stored."""
    return np.dtype("float32") if kind == "bboxes" else np.dtype("uint8")


def chunked(kind):
    """Name of the re-chunked dataset of a kind of data."""
    return f"chunked_{kind}"


def find_splits(data):
    """Names of the splits that a data folder holds, in the order train, val, test; at least one."""
    data = Path(data)
    found = [split for split in SPLITS if (data / split).is_dir()]
    if not found:
        raise InputError(
            f"no data set in {data} (no folder train, val or test); make one with 'python data_prepare.py --root DIR' from "
            "the Oxford-IIIT Pet folder, '--download DIR' or '--synthetic N', then 'python data_rechunk.py'"
        )
    return found


def open_h5(path):
    """Open an HDF5 file for reading."""
    try:
        refuse_endless_heap(path)
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; prepare the data again with data_prepare.py") from None
    except OSError as error:
        raise InputError(f"{path} is no readable HDF5 file ({shorten(error)}); prepare the data again") from None


def refuse_endless_heap(path):
    """Refuse a file whose text attributes HDF5 would read for ever.

    They lie in a heap, a chain of objects (16 bytes: index, count, size; then the content), and where zeros took the place
    of some, HDF5 steps on by their size of 0 without end. Heaps of small attributes are at the file's beginning or end.
    """
    with open(path, "rb") as file:
        parts = [file.read(HEAP_SEARCH)]
        file.seek(max(0, os.fstat(file.fileno()).st_size - HEAP_SEARCH))
        parts.append(file.read())
    for part in parts:
        heap = part.find(HEAP_MARK)
        while heap >= 0:
            at, end = heap + 16, heap + int.from_bytes(part[heap + 8:heap + 16], "little")
            while at + 16 <= min(end, len(part)):
                index, size = int.from_bytes(part[at:at + 2], "little"), int.from_bytes(part[at + 8:at + 16], "little")
                if index == size == 0:
                    raise InputError(f"{path} is damaged (its attributes were overwritten); prepare the data again")
                at += size if index == 0 else 16 + (size + 7) // 8 * 8  # index 0 is what is free, its own 16 bytes included
            heap = part.find(HEAP_MARK, heap + 1)


@contextmanager
def naming(path):
    """Around reading an HDF5 file's structure: whatever h5py raises at a damaged one becomes an InputError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({shorten(error)}); prepare the data again") from None


def shorten(error):
    """The first sentence of a library's message."""
    return str(error).split("\n")[0].rstrip(".")[:160]


def read_rows(dataset, start, stop):
    """Rows of a dataset as an array; a damaged file is an InputError."""
    try:
        return dataset[start:stop]
    except (OSError, RuntimeError, ValueError) as error:
        where = f"{dataset.file.filename}, rows {start} to {stop - 1}"
        raise InputError(f"{where} cannot be read ({shorten(error)}); the file is damaged, prepare the data again") from None


def slabs(dataset):
    """(start, rows) over a whole dataset, SLAB_BYTES at a time."""
    row_bytes = max(1, int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize)
    step = max(1, SLAB_BYTES // row_bytes)
    for start in range(0, len(dataset), step):
        yield start, read_rows(dataset, start, min(start + step, len(dataset)))


def check_shape(path, name, dataset, kind, size=None):
    """Check that a dataset has the contract's shape; returns S (None for bboxes and binary)."""
    shape = dataset.shape
    expected = {"images": "(N, S, S, 3)", "masks": "(N, S, S, 1)", "bboxes": "(N, 4)", "binary": "(N, 1)"}[kind]
    square = kind in ("images", "masks")
    at = f" with S = {size}" if square and size is not None else ""
    if square and len(shape) == 4 and size is None:
        size = shape[1]
    if shape[1:] != sample_shape(kind, size):
        raise InputError(f"{path}: '{name}' has the shape {shape} and should have {expected}{at}; convert it first")
    if square and not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"{path}: S is {size} and should be from {MIN_SIZE} to {MAX_SIZE}; resize the data first")
    if shape[0] == 0:
        raise InputError(f"{path}: '{name}' holds no samples; prepare the data again")
    return size if square else None


def check_values(path, kind, rows, size, start=0):
    """Check the values of some rows in the contract's form; `start` is the row that the first of them is."""
    if kind == "masks" and rows.size and rows.max() > 1:
        bad = int(np.argmax(rows.reshape(len(rows), -1).max(axis=1) > 1))
        raise InputError(f"{path}, row {start + bad}: a mask holds the value {rows[bad].max()}; masks hold 0 and 1 only")
    if kind == "binary" and rows.size and rows.max() > 1:
        bad = int(np.argmax(rows[:, 0] > 1))
        raise InputError(f"{path}, row {start + bad}: the label is {rows[bad, 0]} and should be 0 (cat) or 1 (dog)")
    if kind == "bboxes":
        nan = np.isnan(rows)
        x1, y1, x2, y2 = rows.T
        inside = (x1 >= 0) & (y1 >= 0) & (x2 <= size) & (y2 <= size) & (x1 < x2) & (y1 < y2)
        wrong = ~(inside | nan.all(axis=1))
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise InputError(
                f"{path}, row {start + bad}: the box {rows[bad].tolist()} should be xmin < xmax and ymin < ymax within 0 to "
                f"{size} pixels, or NaN four times where there is none"
            )
        if not nan.all() and not (x2 > 1).any() and not (y2 > 1).any():
            raise InputError(f"{path}: no box reaches beyond the first pixel, as if they were normalised to [0, 1]; "
                             f"multiply them by {size} and re-chunk again")


def is_rechunked(file, kind):
    """Whether an open HDF5 file is as data_rechunk.py leaves it: one storage, one sample a chunk, a content digest."""
    name = chunked(kind)
    if name not in file or kind not in file:
        return False
    dataset = file[name]
    return (
        isinstance(dataset, h5py.Dataset)
        and file[kind] == dataset
        and dataset.chunks == (1, *dataset.shape[1:])
        and dataset.id.get_create_plist().get_nfilters() == 0  # so that a chunk's bytes are the sample's
        and "sha256" in dataset.attrs
    )


def open_rechunked(data, split, kind):
    """Open one file of a split and check layout, shape and type; returns (file, dataset)."""
    path = Path(data) / split / f"{kind}.h5"
    file = open_h5(path)
    try:
        with naming(path):
            if not is_rechunked(file, kind):
                raise InputError(f"{path} is not re-chunked; run 'python data_rechunk.py --data {data}' first")
            dataset = file[chunked(kind)]
            check_shape(path, chunked(kind), dataset, kind)
            if dataset.dtype != sample_dtype(kind):
                raise InputError(f"{path}: the type is {dataset.dtype} and should be {sample_dtype(kind)}; prepare the data "
                                 "again")
    except BaseException:
        file.close()
        raise
    return file, dataset


def describe(data):
    """What the attributes say of a re-chunked data folder, without reading the samples.

    Returns {"splits": {name: N}, "size": S, "border": "pet", "background" or "unknown", "split_hash": 16 hex digits}.
    Checks that the four files of every split agree in N and S, and belong together.
    """
    splits, sizes, borders, hashes = {}, {}, {}, {}
    for split in find_splits(data):
        for kind in KINDS:
            file, dataset = open_rechunked(data, split, kind)
            path, n = Path(data) / split / f"{kind}.h5", len(dataset)
            with file, naming(path):
                if splits.setdefault(split, n) != n:
                    raise InputError(f"{path} holds {n} samples and images.h5 beside it {splits[split]}; prepare the data "
                                     "again")
                if kind in ("images", "masks"):
                    sizes[path] = dataset.shape[1]
                if kind == "masks":
                    borders[path] = str(file.attrs.get("border", "unknown"))
                digest = str(file.attrs.get("split_hash", ""))
                if hashes.setdefault(split, digest) != digest:
                    raise InputError(f"{path} belongs to other images than images.h5 beside it; prepare the data again")
        read_index(data, split, splits[split])
    for what, found in (("image side", sizes), ("border rule", borders)):
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{path}: {value}" for path, value in found.items())
            raise InputError(f"the files of {data} differ in the {what} ({listed}); prepare the data again")
    combined = hashlib.sha256("\n".join(f"{split} {hashes[split]}" for split in splits).encode()).hexdigest()[:16]
    return {"splits": splits, "size": sizes.popitem()[1], "border": borders.popitem()[1], "split_hash": combined}


def read_index(data, split, n):
    """Names of the n samples of a split from its index.csv; row numbers where others prepared the data without one."""
    return [row["name"] for row in read_index_rows(data, split, n)]


def read_index_rows(data, split, n):
    """The n rows of a split's index.csv as dicts."""
    path = Path(data) / split / "index.csv"
    if not path.is_symlink() and not path.exists():  # a link that leads nowhere is no sign of data without an index
        return [{"name": str(row)} for row in range(n)]
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); prepare the data again") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no readable CSV file ({shorten(error)}); prepare the data again") from None
    if [row.get("row") for row in rows] != [str(k) for k in range(n)] or not all(row.get("name") for row in rows):
        raise InputError(f"{path} should list the rows 0 to {n - 1} in order, with their names; prepare the data again")
    return rows


def check_index(data, split, n, kind, rows, start):
    """Check that index.csv, where it tells species and boxes, tells the same as some rows of binary.h5 and bboxes.h5."""
    field, words = {"binary": ("species", ("cat", "dog")), "bboxes": ("has_box", ("0", "1"))}[kind]
    facts = rows[:, 0] if kind == "binary" else ~np.isnan(rows[:, 0])
    for row, fact in zip(read_index_rows(data, split, n)[start:], facts):
        if row.get(field, words[int(fact)]) != words[int(fact)]:
            path = Path(data) / split / "index.csv"
            raise InputError(f"{path}, row {row['row']}: {field} is {row[field]!r} and {kind}.h5 beside it says "
                             f"{words[int(fact)]}; prepare the data again")


def verify(data, look=None):
    """Read all of a re-chunked folder and check everything that must hold of it.

    Values, boxes, content digests, the split hash, index.csv, and that no image stands in two splits. Returns what
    describe() does. `look(split, kind, start, rows)` sees whatever is read, in the order of SPLITS and READING_ORDER, and
    with the kind "copies" each image that stands in its split before.
    """
    summary = describe(data)
    seen = {}
    for split, n in summary["splits"].items():
        for kind in READING_ORDER:
            file, dataset = open_rechunked(data, split, kind)
            path = Path(data) / split / f"{kind}.h5"
            with file, naming(path):
                digest = hashlib.sha256()
                for start, rows in slabs(dataset):
                    digest.update(rows)
                    check_values(path, kind, rows, summary["size"], start)
                    if kind in ("bboxes", "binary"):
                        check_index(data, split, n, kind, rows, start)
                    if look:
                        look(split, kind, start, rows)
                    if kind == "images":
                        for k, row in enumerate(rows):
                            other = seen.setdefault(hashlib.sha256(row).digest(), (split, start + k))
                            if other[0] != split:
                                raise InputError(
                                    f"{path}, row {start + k} is the same image as {other[0]}, row {other[1]}: a network "
                                    "would be measured on what it was trained on; split the data again"
                                )
                            if look and other[1] != start + k:
                                look(split, "copies", start + k, rows[k:k + 1])
                if digest.hexdigest() != dataset.attrs["sha256"]:
                    raise InputError(f"{path}: the content is not what was written (digest differs); prepare the data again")
                if kind == "images" and file.attrs.get("split_hash") != digest.hexdigest():
                    raise InputError(f"{path}: the split hash is not that of its images; prepare the data again")
    return summary
