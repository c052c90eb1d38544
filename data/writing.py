"""Photographs become rows of a data folder: read in several processes, written one after another.

Memory does not grow with their number: only a few wait to be written at a time.
"""

import csv
import hashlib
from collections import deque
from concurrent.futures.process import BrokenProcessPool

import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

from cli import InputError
from data import split as data_split
from data.contract import INDEX_FIELDS, KINDS, UNLABELLED, sample_dtype, sample_shape
from data.sample import BORDER, PET, Unusable, read_sample
from data.sources.oxford import SPECIES

BORDERS = {"pet": 1, "background": 0, "ignore": UNLABELLED}  # what the trimap's border counts as, and its value in a mask


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
        raise InputError("a process that read photographs was ended from outside, mostly for lack of memory; free some, or "
                         "make the largest photographs smaller") from None


def inspect(job):
    """Look at one sample: ((perceptual hash, digest of the image as stored, notes of read_sample), None), or (None, the
    reason why it cannot be used)."""
    sample, size = job
    try:
        image, _, _, notes = read_sample(sample, size)
    except Unusable as reason:
        return None, str(reason)
    except MemoryError:
        return None, "there is not enough memory for it; make photograph and trimap smaller"
    return (data_split.difference_hash(image), hashlib.sha256(stretch(image, size)).digest(), notes), None


def stretch(image, size):
    """A PIL image as (size, size, 3) uint8."""
    # Pillow's bilinear filter widens with the reduction: antialiased, the same as torchvision's antialias=True.
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def convert(job):
    """One sample in the contract's form: a dict of arrays."""
    sample, size, border, is_mask = job
    try:
        image, trimap, box, _ = read_sample(sample, size)
    except Unusable as reason:
        raise InputError(f"{sample.image_path} has changed while it was read: {reason}; prepare the data again") from None
    trimap = np.asarray(Image.fromarray(trimap).resize((size, size), Image.Resampling.NEAREST))[:, :, None]
    mask = (trimap == PET).astype(np.uint8)
    mask[trimap == BORDER] = BORDERS[border]
    return {
        "images": stretch(image, size),
        "masks": mask,
        # A mask that was read as a trimap says nothing of the border.
        "trimaps": np.full_like(trimap, UNLABELLED) if is_mask else trimap,
        "bboxes": np.full(4, np.nan) if box is None else box * size,
        "binary": np.array([sample.species]),
    }


def write_split(pool, folder, samples, masks, args):
    """Write the files and index.csv of a split, one sample after another; returns has_box of each.

    masks: names of samples of which there is a mask and no trimap; where that holds of all, trimaps.h5 is not written.
    """
    folder.mkdir()
    digest, has_box = hashlib.sha256(), []
    kinds = [kind for kind in KINDS if kind != "trimaps" or any(sample.name not in masks for sample in samples)]
    files = {kind: h5py.File(folder / f"{kind}.h5", "w") for kind in kinds}
    try:
        stores = {kind: files[kind].create_dataset(kind, (len(samples), *sample_shape(kind, args.size)), sample_dtype(kind))
                  for kind in kinds}
        jobs = [(sample, args.size, args.border, sample.name in masks) for sample in samples]
        for row, arrays in enumerate(ordered(pool, convert, jobs, f"write {folder.name}")):
            for kind in kinds:
                stores[kind][row] = arrays[kind]
            digest.update(arrays["images"])
            has_box.append(not np.isnan(arrays["bboxes"]).any())
        for file in files.values():
            file.attrs.update(split_hash=digest.hexdigest(), border=args.border)
        if args.border == "ignore":
            files["masks"].attrs["unlabelled"] = UNLABELLED  # or 255 would be taken for the pet
    finally:
        for file in files.values():
            file.close()
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(INDEX_FIELDS)
        writer.writerows((row, sample.name, sample.breed, SPECIES[sample.species], int(box))
                         for row, (sample, box) in enumerate(zip(samples, has_box)))
    return has_box
