"""The data contract: which files a data folder has, and what must hold of them.

    datasets/data_new/{train,val,test}/images.h5   (N, S, S, 3) uint8    RGB
                                       masks.h5    (N, S, S, 1) uint8    1 pet, 0 background, 255 unlabelled
                                       bboxes.h5   (N, 4) float32        head box, xmin ymin xmax ymax in pixels, or NaN x 4
                                       binary.h5   (N, 1) uint8          0 cat, 1 dog, 255 unknown
                                       trimaps.h5  (N, S, S, 1) uint8    1 pet, 2 background, 3 border, 255 unlabelled
                                       index.csv   row, name, breed, species, has_box, and any column of one's own

Every file but images.h5 may be missing: nothing of its kind is known then, and the tasks that need it are refused. Two files
say more in attributes: masks.h5 its `border` rule and `unlabelled` (255, where that value may be in it), binary.h5 `classes`
(two texts, where they are not cat and dog). Every function raises cli.InputError, naming the file, the value and the way
out, also for who writes the files himself.
"""

import errno
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cli import InputError
from data.index import check_index, read_index

SPLITS = ("train", "val", "test")
KINDS = ("images", "masks", "bboxes", "binary", "trimaps")
PICTURES = (
    "images",
    "masks",
    "trimaps",
)  # of them those that are cropped and mirrored with the image
READING_ORDER = (
    "bboxes",
    "binary",
    "masks",
    "trimaps",
    "images",
)  # of verify: boxes before masks, to compare the two
UNLABELLED = 255  # in masks, binary and trimaps: nothing is known there
CLASSES = ("cat", "dog")  # of binary, where the file names no others
LAYOUT = {  # what each file holds under its kind's name, for who writes it himself
    "images": "(N, S, S, 3) uint8, RGB",
    "masks": "(N, S, S, 1) uint8, 1 pet and 0 background, 255 where nothing is known",
    "bboxes": "(N, 4) float32, xmin ymin xmax ymax in pixels or NaN four times",
    "binary": "(N, 1) uint8, 0 cat and 1 dog, 255 where it is unknown",
    "trimaps": "(N, S, S, 1) uint8, 1 pet, 2 background, 3 border, 255 where nothing is known",
}
ALLOWED = {  # the least and the greatest value beside 255, and what they mean
    "masks": (0, 1, "1 where the pet is, 0 elsewhere and 255 where nothing is known"),
    "binary": (0, 1, "0 (cat), 1 (dog) or 255 (unknown)"),
    "trimaps": (1, 3, "1 (pet), 2 (background), 3 (border) or 255 (unknown)"),
}
INDEX_FIELDS = ("row", "name", "breed", "species", "has_box")
MIN_SIZE, MAX_SIZE = 32, 2048
# How much is read at a time: large enough for full speed, small enough to leave memory alone.
SLAB_BYTES = 2 << 20
HEAP_MARK, HEAP_SEARCH = b"GCOL\1\0\0\0", 1 << 16


def sample_shape(kind, size):
    """Shape of one sample of a kind of data at S = size."""
    picture = (size, size, 1)
    return {
        "images": (size, size, 3),
        "masks": picture,
        "bboxes": (4,),
        "binary": (1,),
        "trimaps": picture,
    }[kind]


def sample_dtype(kind):
    """Type in which a kind of data is stored."""
    return np.dtype("float32") if kind == "bboxes" else np.dtype("uint8")


def unlabelled(kind, n):
    """n rows of bboxes or binary of which nothing is known."""
    return np.full(
        (n, *sample_shape(kind, None)),
        np.nan if kind == "bboxes" else UNLABELLED,
        sample_dtype(kind),
    )


def chunked(kind):
    """Name of the re-chunked dataset of a kind of data."""
    return f"chunked_{kind}"


def kinds_of(data, split):
    """The kinds of data that are known of a split: images, and whatever else has a file, if only a broken link to one."""
    return tuple(
        kind
        for kind in KINDS
        if kind == "images" or os.path.lexists(Path(data) / split / f"{kind}.h5")
    )


def h5_files(folder):
    """Names of the HDF5 files in a split's folder, in order; a kind that seems to be missing may be among them."""
    return sorted(
        path.name
        for path in Path(folder).iterdir()
        if path.suffix.lower() in (".h5", ".hdf5", ".hdf")
    )


def anew(path):
    """The ways out where a file is missing, damaged or not to be trusted."""
    kind = Path(path).name.split(".")[0]
    return f"prepare the data again, or write the file anew (dataset '{kind}': {LAYOUT[kind]}) and re-chunk"


def require(data, split, tasks):
    """Refuse tasks whose targets are made of a file that a split does not have."""
    folder, known = Path(data) / split, kinds_of(data, split)
    for task in tasks:
        for kind in (need for need in task.needs if need in KINDS and need not in known):
            path = folder / f"{kind}.h5"
            beside = ", ".join(h5_files(folder))
            raise InputError(
                f"{path} is missing, which the task {task.name} needs (beside it: {beside}); {anew(path)}, or "
                "train without that task"
            )


def find_splits(data):
    """Names of the splits that a data folder holds, in the order train, val, test; at least one."""
    data = Path(data)
    found = [split for split in SPLITS if (data / split).is_dir()]
    if not found:
        raise InputError(
            f"no data set in {data} (no folder train, val or test); make one with 'python data_prepare.py --root DIR' from "
            "the Oxford-IIIT Pet folder, '--download DIR' or '--synthetic N', or from your own photographs with '--images DIR "
            "--masks DIR', then 'python data_rechunk.py', or write train/images.h5 and what belongs to it as docs/data.md says"
        )
    return found


def open_h5(path):
    """Open an HDF5 file for reading."""
    try:
        refuse_endless_heap(path)
        return h5py.File(path, "r")
    except FileNotFoundError:
        what = "is a link to a file that is not there" if os.path.islink(path) else "is missing"
        raise InputError(f"{path} {what}; {anew(path)}") from None
    except PermissionError:
        raise InputError(
            f"{path} may not be read by this user; give yourself the right to"
        ) from None
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) or "already open for write" in str(
            error
        ):
            raise InputError(
                f"{path} is open for writing in another program, or was never closed there ({shorten(error)}); "
                "close it (file.close()) and try again"
            ) from None
        raise InputError(
            f"{path} is no readable HDF5 file ({shorten(error)}); {anew(path)}"
        ) from None


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
            at, end = heap + 16, heap + int.from_bytes(part[heap + 8 : heap + 16], "little")
            while at + 16 <= min(end, len(part)):
                index, size = (
                    int.from_bytes(part[at : at + 2], "little"),
                    int.from_bytes(part[at + 8 : at + 16], "little"),
                )
                if index == size == 0:
                    raise InputError(
                        f"{path} is damaged (its attributes were overwritten); {anew(path)}"
                    )
                at += (
                    size if index == 0 else 16 + (size + 7) // 8 * 8
                )  # index 0 is what is free, its own 16 bytes included
            heap = part.find(HEAP_MARK, heap + 1)


@contextmanager
def naming(path):
    """Around reading an HDF5 file's structure: whatever h5py raises at a damaged one becomes an InputError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({shorten(error)}); {anew(path)}") from None


def shorten(error):
    """The first sentence of a library's message."""
    return str(error).split("\n")[0].rstrip(".")[:160]


def read_rows(dataset, start, stop):
    """Rows of a dataset as an array; a damaged file is an InputError."""
    try:
        return dataset[start:stop]
    except (OSError, RuntimeError, ValueError) as error:
        path = dataset.file.filename
        raise InputError(
            f"{path}, rows {start} to {stop - 1} cannot be read ({shorten(error)}), so the file is damaged; "
            f"{anew(path)}"
        ) from None


def slabs(dataset, n=None):
    """(start, rows) over a whole dataset or its first n rows, SLAB_BYTES at a time."""
    row_bytes = max(1, int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize)
    step, n = max(1, SLAB_BYTES // row_bytes), len(dataset) if n is None else n
    for start in range(0, n, step):
        yield start, read_rows(dataset, start, min(start + step, n))


def check_shape(path, name, dataset, kind, size=None):
    """Check that a dataset has the contract's shape; returns S (None for bboxes and binary)."""
    shape = dataset.shape
    expected = LAYOUT[kind].partition(") ")[0] + ")"
    square = kind in PICTURES
    at = f" with S = {size}" if square and size is not None else ""
    if square and len(shape) == 4 and size is None:
        size = shape[1]
    if shape[1:] != sample_shape(kind, size):
        raise InputError(
            f"{path}: '{name}' has the shape {shape} and should have {expected}{at}; "
            f"{conversion(shape, sample_shape(kind, size))}"
        )
    if square and not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(
            f"{path}: S is {size} and should be from {MIN_SIZE} to {MAX_SIZE}; resize the data first"
        )
    if shape[0] == 0:
        raise InputError(
            f"{path}: '{name}' holds no samples; write at least one, or leave the split's folder out"
        )
    return size if square else None


def conversion(shape, wanted):
    """How an array of some shape becomes one of samples of the wanted shape, in words."""
    if len(wanted) == 3 and len(shape) == 4 and shape[1] == wanted[2]:
        return "convert it first, with x.transpose(0, 2, 3, 1)"
    if wanted[-1] == 1 and shape[1:] == wanted[:-1]:
        return "convert it first, with x[..., None]"
    if len(wanted) == 3 and len(shape) == 4 and shape[3] == wanted[2]:
        return (
            "resize it first to the side of all images, masks without mixing their values (nearest)"
        )
    return "convert it first"


def check_values(path, kind, rows, size, start=0):
    """Check the values of some rows in the contract's form; `start` is the row that the first of them is."""
    if kind in ALLOWED and not is_plain(kind, rows):
        least, most, meaning = ALLOWED[kind]
        wrong = (((rows < least) | (rows > most)) & (rows != UNLABELLED)).reshape(len(rows), -1)
        if wrong.any():
            bad = int(np.argmax(wrong.any(axis=1)))
            value = rows[bad].reshape(-1)[wrong[bad]][0]
            raise InputError(
                f"{path}, row {start + bad} holds the value {value} and should hold {meaning}; write "
                "it so"
            )
    if kind == "bboxes":
        nan = np.isnan(rows)
        x1, y1, x2, y2 = rows.T
        inside = (x1 >= 0) & (y1 >= 0) & (x2 <= size) & (y2 <= size) & (x1 < x2) & (y1 < y2)
        wrong = ~(inside | nan.all(axis=1))
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise InputError(
                f"{path}, row {start + bad}: the box {rows[bad].tolist()} should be xmin < xmax and ymin < ymax within 0 to "
                f"{size} pixels, or NaN four times where there is none; write it so"
            )
        if not nan.all() and not (x2 > 1).any() and not (y2 > 1).any():
            raise InputError(
                f"{path}: no box reaches beyond the first pixel, as if they were normalised to [0, 1]; "
                f"multiply them by {size} and re-chunk again"
            )


def is_plain(kind, rows):
    """Whether some rows of uint8 hold what they may and no 255, as most do: seen at a glance."""
    least, most, _ = ALLOWED[kind]
    return rows.max(initial=least) <= most and (least == 0 or rows.min(initial=most) >= least)


def class_names(path, attributes):
    """The names of the classes 0 and 1 of binary.h5, as its attributes give them, or cat and dog."""
    given = attributes.get("classes", CLASSES)
    given = [given] if np.ndim(given) == 0 else list(given)
    names = tuple(
        text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in given
    )
    if (
        len(set(names)) != 2
        or len(names) != 2
        or not all(isinstance(text, (bytes, str)) and text.strip() for text in given)
    ):
        raise InputError(
            f"{path}: its attribute 'classes' is {shorten(list(names))} and should be the names of the classes "
            "0 and 1, two different texts; write it so, or leave it out where they are cat and dog"
        )
    return names


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
        and dataset.id.get_create_plist().get_nfilters()
        == 0  # so that a chunk's bytes are the sample's
        and "sha256" in dataset.attrs
    )


def open_rechunked(data, split, kind):
    """Open one file of a split and check layout, shape and type; returns (file, dataset)."""
    path = Path(data) / split / f"{kind}.h5"
    file = open_h5(path)
    try:
        with naming(path):
            if not is_rechunked(file, kind):
                raise InputError(
                    f"{path} is not re-chunked; run 'python data_rechunk.py --data {data}' first"
                )
            dataset = file[chunked(kind)]
            check_shape(path, chunked(kind), dataset, kind)
            if dataset.dtype != sample_dtype(kind):
                raise InputError(
                    f"{path}: the type is {dataset.dtype} and should be {sample_dtype(kind)}; {anew(path)}"
                )
    except BaseException:
        file.close()
        raise
    return file, dataset


def refuse_other_number(path, n, images):
    """Refuse a file that does not hold as many samples as there are images beside it."""
    if n != images:
        raise InputError(
            f"{path} holds {n} samples and images.h5 beside it {images}; prepare the data again, or write one "
            "for each image, in the images' order"
        )


def refuse_other_images(path, ours, images):
    """Refuse a file whose split hash, where it has one, is not that of the images beside it."""
    if ours != images:
        raise InputError(
            f"{path} belongs to other images than images.h5 beside it (their split hashes differ); prepare the "
            "data again, or, where you changed the images yourself, write this file anew, without that "
            "attribute, and re-chunk"
        )


def describe(data):
    """What the attributes say of a re-chunked data folder, without reading the samples.

    Returns {"splits": {name: N}, "kinds": {name: kinds_of it}, "size": S, "classes": names of the classes 0 and 1,
    "border": "pet", "background", "ignore" or "unknown", "split_hash": 16 hex digits}. Checks that the files of every split
    agree in N, S and classes, and belong together.
    """
    splits, sizes, borders, classes, hashes = {}, {}, {}, {}, {}
    kinds = {split: kinds_of(data, split) for split in find_splits(data)}
    for split in kinds:
        for kind in kinds[split]:
            file, dataset = open_rechunked(data, split, kind)
            path, n = Path(data) / split / f"{kind}.h5", len(dataset)
            with file, naming(path):
                refuse_other_number(path, n, splits.setdefault(split, n))
                if kind in PICTURES:
                    sizes[path] = dataset.shape[1]
                if kind == "masks":
                    borders[path] = str(file.attrs.get("border", "unknown"))
                if kind == "binary":
                    classes[path] = class_names(path, file.attrs)
                digest = str(file.attrs.get("split_hash", ""))
                refuse_other_images(path, digest, hashes.setdefault(split, digest))
        read_index(data, split, splits[split])
    for what, found, way in (
        ("image side", sizes, "resize them to one side, or keep them in folders of their own"),
        (
            "border rule",
            borders,
            "prepare them with one --border, or keep them in folders of their own",
        ),
        (
            "names of the two classes",
            classes,
            "give them one attribute 'classes', or keep them in folders of their own",
        ),
    ):
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{path}: {value}" for path, value in found.items())
            raise InputError(f"the files of {data} differ in the {what} ({listed}); {way}")
    combined = hashlib.sha256(
        "\n".join(f"{split} {hashes[split]}" for split in splits).encode()
    ).hexdigest()[:16]
    return {
        "splits": splits,
        "kinds": kinds,
        "size": sizes.popitem()[1],
        "classes": classes.popitem()[1] if classes else CLASSES,
        "border": borders.popitem()[1] if borders else "unknown",
        "split_hash": combined,
    }


def verify(data, look=None):
    """Read all of a re-chunked folder and check everything that must hold of it.

    Values, boxes, content digests, the split hash, index.csv, and that no image stands in two splits. Returns what
    describe() does. `look(split, kind, start, rows)` sees whatever is read, in the order of SPLITS and READING_ORDER, and
    with the kind "copies" each image that stands in its split before.
    """
    summary = describe(data)
    seen = {}
    for split, n in summary["splits"].items():
        for kind in (kind for kind in READING_ORDER if kind in summary["kinds"][split]):
            file, dataset = open_rechunked(data, split, kind)
            path = Path(data) / split / f"{kind}.h5"
            with file, naming(path):
                digest = hashlib.sha256()
                for start, rows in slabs(dataset):
                    digest.update(rows)
                    check_values(path, kind, rows, summary["size"], start)
                    if kind in ("bboxes", "binary"):
                        check_index(data, split, n, kind, rows, start, summary["classes"])
                    if look:
                        look(split, kind, start, rows)
                    if kind == "images":
                        for k, row in enumerate(rows):
                            other = seen.setdefault(
                                hashlib.sha256(row).digest(), (split, start + k)
                            )
                            if other[0] != split:
                                raise InputError(
                                    f"{path}, row {start + k} is the same image as {other[0]}, row {other[1]}: a network "
                                    "would be measured on what it was trained on; split the data again"
                                )
                            if look and other[1] != start + k:
                                look(split, "copies", start + k, rows[k : k + 1])
                if digest.hexdigest() != dataset.attrs["sha256"]:
                    raise InputError(
                        f"{path}: the content is not what was written (digest differs); {anew(path)}"
                    )
                if kind == "images" and file.attrs.get("split_hash") != digest.hexdigest():
                    raise InputError(
                        f"{path}: the split hash is not that of its images; {anew(path)}"
                    )
    return summary
