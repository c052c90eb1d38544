"""The data contract: which files a data folder has, and what must hold of them.

    images.h5    (N, S, S, 3) uint8   RGB
    masks.h5     (N, S, S, 1) uint8   1 pet, 0 background, 255 unlabelled
    bboxes.h5    (N, 4) float32       head box, xmin ymin xmax ymax in pixels, or NaN x 4
    binary.h5    (N, 1) uint8         0 cat, 1 dog, 255 unknown
    trimaps.h5   (N, S, S, 1) uint8   1 pet, 2 background, 3 border, 255 unlabelled
    index.csv    N rows               row, name, breed, species, has_box, and any custom column

in each of the folders train, val and test. Every file but images.h5 may be missing: nothing of its
kind is known then, and the tasks that need it are refused. Two files say more in attributes:
masks.h5 its `border` rule and `unlabelled` (255, where that may be in it), binary.h5 `classes`
(two texts, where they are not cat and dog). Every function raises cli.InputError, naming the file,
the value and the way out, also for who writes the files himself.
"""

import hashlib
from pathlib import Path

import h5py
import numpy as np

from cli import InputError
from data.hdf5 import naming, open_h5, read_rows, shorten, slabs
from data.index import read_index
from data.layout import (
    CLASSES,
    INDEX_FIELDS,
    KINDS,
    LAYOUT,
    MAX_SIZE,
    MIN_SIZE,
    PICTURES,
    SPLITS,
    UNLABELLED,
    anew,
    chunked,
    h5_files,
    kinds_of,
    sample_dtype,
    sample_shape,
    unlabelled,
)

__all__ = [
    "CLASSES",
    "INDEX_FIELDS",
    "KINDS",
    "LAYOUT",
    "MAX_SIZE",
    "MIN_SIZE",
    "PICTURES",
    "SPLITS",
    "UNLABELLED",
    "anew",
    "chunked",
    "h5_files",
    "kinds_of",
    "open_h5",
    "read_rows",
    "sample_dtype",
    "sample_shape",
    "shorten",
    "slabs",
    "unlabelled",
]
ALLOWED = {  # the least and the greatest value beside 255, and what they mean
    "masks": (0, 1, "1 where the pet is, 0 elsewhere and 255 where nothing is known"),
    "binary": (0, 1, "0 (cat), 1 (dog) or 255 (unknown)"),
    "trimaps": (1, 3, "1 (pet), 2 (background), 3 (border) or 255 (unknown)"),
}


def find_splits(data):
    """Names of the splits that a data folder holds, in the order train, val, test; at least one."""
    data = Path(data)
    found = [split for split in SPLITS if (data / split).is_dir()]
    if not found:
        raise InputError(
            f"no data set in {data} (no folder train, val or test); make one with 'python "
            "data_prepare.py --root DIR' from the Oxford-IIIT Pet folder, '--download DIR' or "
            "'--synthetic N', or from your own photographs with '--images DIR --masks DIR', "
            "then 'python data_rechunk.py', or write train/images.h5 and what belongs to it as "
            "docs/data.md says"
        )
    return found


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
            f"{path}: '{name}' has the shape {shape} and should have {expected}{at}; convert it "
            "first: x.transpose(0, 2, 3, 1) puts channels last, x[..., None] adds an axis, and "
            "all pictures have one side"
        )
    if square and not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(
            f"{path}: S is {size} and should be from {MIN_SIZE} to {MAX_SIZE}; resize the data "
            "first"
        )
    if shape[0] == 0:
        raise InputError(
            f"{path}: '{name}' holds no samples; write at least one, or leave the split's folder "
            "out"
        )
    return size if square else None


def check_values(path, kind, rows, size, start=0):
    """Check the values of some rows in the contract's form; `start` is the row that the first of
    them is."""
    if kind in ALLOWED and not is_plain(kind, rows):
        least, most, meaning = ALLOWED[kind]
        wrong = (((rows < least) | (rows > most)) & (rows != UNLABELLED)).reshape(len(rows), -1)
        if wrong.any():
            bad = int(np.argmax(wrong.any(axis=1)))
            value = rows[bad].reshape(-1)[wrong[bad]][0]
            raise InputError(
                f"{path}, row {start + bad} holds the value {value} and should hold {meaning}; "
                "write it so"
            )
    if kind == "bboxes":
        nan = np.isnan(rows)
        x1, y1, x2, y2 = rows.T
        inside = (x1 >= 0) & (y1 >= 0) & (x2 <= size) & (y2 <= size) & (x1 < x2) & (y1 < y2)
        wrong = ~(inside | nan.all(axis=1))
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise InputError(
                f"{path}, row {start + bad}: the box {rows[bad].tolist()} should be xmin < xmax "
                f"and ymin < ymax within 0 to {size} pixels, or NaN four times where there is "
                "none; write it so"
            )
        if not nan.all() and not (x2 > 1).any() and not (y2 > 1).any():
            raise InputError(
                f"{path}: no box reaches beyond the first pixel, as if they were normalised to "
                f"[0, 1]; multiply them by {size} and re-chunk again"
            )


def is_plain(kind, rows):
    """Whether some rows of uint8 hold what they may and no 255, as most do: seen at a glance."""
    least, most, _ = ALLOWED[kind]
    return rows.max(initial=least) <= most and (least == 0 or rows.min(initial=most) >= least)


def class_names(path, attributes):
    """The names of the classes 0 and 1 of binary.h5, as its attributes give them; cat and dog."""
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
            f"{path}: its attribute 'classes' is {shorten(list(names))} and should be the names "
            "of the classes 0 and 1, two different texts; write it so, or leave it out where "
            "they are cat and dog"
        )
    return names


def is_rechunked(file, kind):
    """Whether an open HDF5 file is as data_rechunk.py leaves it: one storage, one sample a chunk,
    a content digest."""
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
                    f"{path}: the type is {dataset.dtype} and should be {sample_dtype(kind)}; "
                    f"{anew(path)}"
                )
    except BaseException:
        file.close()
        raise
    return file, dataset


def refuse_other_number(path, n, images):
    """Refuse a file that does not hold as many samples as there are images beside it."""
    if n != images:
        raise InputError(
            f"{path} holds {n} samples and images.h5 beside it {images}; prepare the data again, "
            "or write one for each image, in the images' order"
        )


def refuse_other_images(path, ours, images):
    """Refuse a file whose split hash, where it has one, is not that of the images beside it."""
    if ours != images:
        raise InputError(
            f"{path} belongs to other images than images.h5 beside it (their split hashes "
            "differ); prepare the data again, or, where you changed the images yourself, write "
            "this file anew, without that attribute, and re-chunk"
        )


def describe(data):
    """What the attributes say of a re-chunked data folder, without reading the samples.

    Returns {"splits": {name: N}, "kinds": {name: kinds_of it}, "size": S, "classes": names of the
    classes 0 and 1, "border": "pet", "background", "ignore" or "unknown", "split_hash": 16 hex
    digits}. Checks that the files of every split agree in N, S and classes, and belong together.
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
