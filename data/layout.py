"""The files of a data folder: their kinds, shapes and types. data/contract.py says what has to
hold of them."""

import os
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
KINDS = ("images", "masks", "bboxes", "binary", "trimaps")
PICTURES = ("images", "masks", "trimaps")  # those that are cropped and mirrored with the image
UNLABELLED = 255  # in masks, binary and trimaps: nothing is known there
CLASSES = ("cat", "dog")  # of binary, where the file names no others
LAYOUT = {  # what each file holds under its kind's name, for who writes it himself
    "images": "(N, S, S, 3) uint8, RGB",
    "masks": "(N, S, S, 1) uint8, 1 pet and 0 background, 255 where nothing is known",
    "bboxes": "(N, 4) float32, xmin ymin xmax ymax in pixels or NaN four times",
    "binary": "(N, 1) uint8, 0 cat and 1 dog, 255 where it is unknown",
    "trimaps": "(N, S, S, 1) uint8, 1 pet, 2 background, 3 border, 255 where nothing is known",
}
INDEX_FIELDS = ("row", "name", "breed", "species", "has_box")
MIN_SIZE, MAX_SIZE = 32, 2048
# Cells of tables that say in words that nothing is known, folded.
UNKNOWN = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "--"}


def sample_shape(kind, size):
    """Shape of one sample of a kind of data at S = size."""
    if kind in PICTURES:
        return (size, size, 3 if kind == "images" else 1)
    return (4,) if kind == "bboxes" else (1,)


def sample_dtype(kind):
    """Type in which a kind of data is stored."""
    return np.dtype("float32") if kind == "bboxes" else np.dtype("uint8")


def unknown_value(kind):
    """What stands where nothing is known; of images there is no such value."""
    return np.nan if kind == "bboxes" else UNLABELLED


def unlabelled(kind, n):
    """n rows of bboxes or binary of which nothing is known."""
    return np.full((n, *sample_shape(kind, None)), unknown_value(kind), sample_dtype(kind))


def chunked(kind):
    """Name of the re-chunked dataset of a kind of data."""
    return f"chunked_{kind}"


def kinds_of(data, split):
    """The kinds of data that are known of a split: images, and whatever else has a file, if only a
    broken link to one."""
    folder = Path(data) / split
    return tuple(
        kind for kind in KINDS if kind == "images" or os.path.lexists(folder / f"{kind}.h5")
    )


def h5_files(folder):
    """Names of the HDF5 files in a split's folder, in order; a kind that seems to be missing may
    be among them."""
    endings = (".h5", ".hdf5", ".hdf")
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix.lower() in endings)


def anew(path):
    """The ways out where a file is missing, damaged or not to be trusted."""
    kind = Path(path).name.split(".")[0]
    holds = f"dataset '{kind}': {LAYOUT[kind]}" if kind in LAYOUT else "as docs/data.md has it"
    return f"prepare the data again, or write the file anew ({holds}) and re-chunk"
