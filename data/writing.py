"""Photographs become rows of a data folder: read in several processes, written one after another.

Memory does not grow with their number: only a few wait to be written at a time.
"""

import csv
import hashlib
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

from cli import InputError
from data import split as data_split
from data.contract import UNLABELLED, sample_dtype, sample_shape
from data.sample import BORDER, MASKS, PET, Unusable, read_sample

BORDERS = {
    "pet": 1,
    "background": 0,
    "ignore": UNLABELLED,
}  # what the trimap's border counts as, and its value in a mask


def ordered(pool, function, items, what):
    """Map over the processes, in order, with a bar; only a few results wait at a time, however many items there are."""
    items = iter(items)
    waiting = deque()
    total = items.__length_hint__()
    try:
        with tqdm(total=total, desc=what, unit="image", disable=None) as bar:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 64:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
    except BrokenProcessPool:  # as a system out of memory does it
        raise InputError(
            "a process that read photographs was ended from outside, mostly for lack of memory; free some, or "
            "make the largest photographs smaller"
        ) from None


@dataclass(frozen=True, slots=True)
class Look:
    """What a first look at a sample shows, in a few hundred bytes, as all are kept. hash: perceptual; content: the digest of
    the image as stored; has_border: whether its mask tells where the border is, as a trimap does."""

    hash: np.ndarray
    content: bytes
    has_mask: bool
    has_border: bool
    has_box: bool


def inspect(job):
    """Look at one sample: (Look, None, read_sample's notes), or (None, the Unusable that says why it cannot be used, [])."""
    sample, size = job
    try:
        image, mask, box, notes = read_sample(sample, size)
    except Unusable as reason:
        return None, reason, []
    except MemoryError:
        return (
            None,
            Unusable(
                f"there is not enough memory for it; make photograph and {sample.mask_word} smaller"
            ),
            [],
        )
    content = hashlib.sha256(stretch(image, size)).digest()
    has_border = mask is not None and not any(what in MASKS.values() for what, _ in notes)
    return (
        Look(
            data_split.difference_hash(image),
            content,
            mask is not None,
            has_border,
            box is not None,
        ),
        None,
        notes,
    )


def stretch(image, size):
    """A PIL image as (size, size, 3) uint8."""
    # Pillow's bilinear filter widens with the reduction: antialiased, the same as torchvision's antialias=True.
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def convert(job):
    """One sample in the contract's form: a dict of arrays."""
    sample, size, border, has_border = job
    try:
        image, trimap, box, _ = read_sample(sample, size)
    except Unusable as reason:
        raise InputError(
            f"{sample.image_path} has changed while it was read: {reason}; prepare the data again"
        ) from None
    if trimap is None:
        trimap = np.full((1, 1), UNLABELLED, np.uint8)
    trimap = np.asarray(Image.fromarray(trimap).resize((size, size), Image.Resampling.NEAREST))[
        :, :, None
    ]
    mask = (trimap == PET).astype(np.uint8)
    mask[trimap == BORDER] = BORDERS[border]
    mask[trimap == UNLABELLED] = UNLABELLED
    return {
        "images": stretch(image, size),
        "masks": mask,
        # A mask that was read as a trimap says nothing of the border.
        "trimaps": trimap if has_border else np.full_like(trimap, UNLABELLED),
        "bboxes": np.full(4, np.nan) if box is None else box * size,
        "binary": np.array([sample.label]),
    }


def write_split(pool, folder, samples, kinds, source, args):
    """Write the files and index.csv of a split, one sample after another; returns {"masks": (N,) bool, "bboxes": (N,) bool},
    whether there is one of each sample.

    samples: (Sample, whether its trimap tells of a border); kinds: the files to write; source: the Source of the samples.
    """
    folder.mkdir()
    digest, known = hashlib.sha256(), {"masks": [], "bboxes": []}
    files = {kind: h5py.File(folder / f"{kind}.h5", "w") for kind in kinds}
    try:
        stores = {
            kind: files[kind].create_dataset(
                kind, (len(samples), *sample_shape(kind, args.size)), sample_dtype(kind)
            )
            for kind in kinds
        }
        jobs = [(sample, args.size, args.border, has_border) for sample, has_border in samples]
        for row, arrays in enumerate(ordered(pool, convert, jobs, f"write {folder.name}")):
            for kind in kinds:
                stores[kind][row] = arrays[kind]
            digest.update(arrays["images"])
            known["masks"].append(bool((arrays["masks"] != UNLABELLED).any()))
            known["bboxes"].append(not np.isnan(arrays["bboxes"]).any())
        for file in files.values():
            file.attrs.update(
                split_hash=digest.hexdigest(),
                border=args.border if source.has_border else "unknown",
            )
        if "masks" in files and (args.border == "ignore" or source.is_own):
            files["masks"].attrs["unlabelled"] = UNLABELLED  # or 255 would be taken for the pet
        if "binary" in files and source.classes:
            files["binary"].attrs["classes"] = list(source.classes)
    finally:
        for file in files.values():
            file.close()
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        boxed = ("has_box",) * ("bboxes" in kinds)
        writer.writerow(("row", "name", *source.columns, *boxed))
        writer.writerows(
            (
                row,
                sample.name,
                *(sample.cells[column] for column in source.columns),
                *(int(box) for _ in boxed),
            )
            for row, ((sample, _), box) in enumerate(zip(samples, known["bboxes"]))
        )
    return known
