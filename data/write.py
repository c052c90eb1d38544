"""Records become rows of a data folder: read in several processes, written one after another.

Memory does not grow with their number: only a few wait to be written at a time.
"""

import csv
import hashlib
from collections import Counter, deque
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

from cli import InputError
from data import split as data_split
from data.labels import BORDER, MASKS, PET, Unusable, read
from data.layout import UNLABELLED, sample_dtype, sample_shape, unknown_value

# What the trimap's border counts as, and its value in a mask.
BORDERS = {"pet": 1, "background": 0, "ignore": UNLABELLED}


def ordered(pool, function, items, what):
    """Map over the processes, in order, with a bar; only a few results wait at a time, however
    many items there are."""
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
            "a process that read photographs was ended from outside, mostly for lack of memory; "
            "free some, or make the largest photographs smaller"
        ) from None


@dataclass(frozen=True, slots=True)
class Look:
    """What a first look at a record shows, in a few hundred bytes, as all are kept.

    hash: perceptual; turned: of the image turned and mirrored; content: the digest of the image as
    stored; has_border: whether its mask tells where the border is, as a trimap does; fates and
    fits as a Reading's.
    """

    hash: np.ndarray
    turned: np.ndarray
    content: bytes
    has_mask: bool
    has_border: bool
    has_box: bool
    fates: Counter
    fits: str


def inspect(job):
    """Look at one record: (Look, None, a Reading's notes), or (None, the Unusable that says why it
    cannot be used, [])."""
    record, size = job
    try:
        reading = read(record, size)
    except Unusable as reason:
        return None, reason, []
    except MemoryError:
        word = record.mask_word
        reason = f"there is not enough memory for it; make photograph and {word} smaller"
        return None, Unusable(reason), []
    image, has_mask = reading.image, reading.mask is not None
    is_plain = any(what in MASKS.values() for what, _ in reading.notes)
    look = Look(
        data_split.difference_hash(image),
        data_split.turned_hashes(image),
        hashlib.sha256(stretch(image, size)).digest(),
        has_mask,
        has_mask and not is_plain,
        reading.box is not None,
        reading.fates,
        reading.fits,
    )
    return look, None, reading.notes


def stretch(image, size):
    """A PIL image as (size, size, 3) uint8."""
    # Pillow's bilinear filter widens with the reduction: antialiased, the same as torchvision's
    # antialias=True.
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def convert(job):
    """One record in the contract's form: a dict of arrays."""
    record, size, border, has_border = job
    try:
        reading = read(record, size)
    except Unusable as reason:
        raise InputError(
            f"{record.path} has changed while it was read: {reason}; prepare the data again"
        ) from None
    trimap = reading.mask
    if trimap is None:
        trimap = np.full((1, 1), UNLABELLED, np.uint8)
    nearest = Image.fromarray(trimap).resize((size, size), Image.Resampling.NEAREST)
    trimap = np.asarray(nearest)[:, :, None]
    mask = (trimap == PET).astype(np.uint8)
    mask[trimap == BORDER] = BORDERS[border]
    mask[trimap == UNLABELLED] = UNLABELLED
    box = np.full(4, unknown_value("bboxes")) if reading.box is None else reading.box * size
    return {
        "images": stretch(reading.image, size),
        "masks": mask,
        # A mask that was read as a trimap says nothing of the border.
        "trimaps": trimap if has_border else np.full_like(trimap, UNLABELLED),
        "bboxes": box,
        "binary": np.array([record.label]),
    }


def write_split(pool, folder, samples, kinds, job):
    """Write the files and index.csv of a split, one record after another; returns {"masks": (N,)
    bool, "bboxes": (N,) bool}, whether there is one of each record.

    samples: (Record, whether its trimap tells of a border); kinds: the files to write; job:
    (Source of the records, arguments).
    """
    source, args = job
    folder.mkdir()
    digest, known = hashlib.sha256(), {"masks": [], "bboxes": []}
    files = {kind: h5py.File(folder / f"{kind}.h5", "w") for kind in kinds}
    try:
        stores = {}
        for kind, file in files.items():
            shape = (len(samples), *sample_shape(kind, args.size))
            stores[kind] = file.create_dataset(kind, shape, sample_dtype(kind))
        jobs = [(record, args.size, args.border, has_border) for record, has_border in samples]
        for row, arrays in enumerate(ordered(pool, convert, jobs, f"write {folder.name}")):
            for kind in kinds:
                stores[kind][row] = arrays[kind]
            digest.update(arrays["images"])
            known["masks"].append(bool((arrays["masks"] != UNLABELLED).any()))
            known["bboxes"].append(not np.isnan(arrays["bboxes"]).any())
        border = args.border if source.has_border else "unknown"
        for file in files.values():
            file.attrs.update(split_hash=digest.hexdigest(), border=border)
        if "masks" in files and (args.border == "ignore" or source.is_own):
            files["masks"].attrs["unlabelled"] = UNLABELLED  # or 255 would be taken for the pet
        if "binary" in files and source.classes:
            files["binary"].attrs["classes"] = list(source.classes)
    finally:
        for file in files.values():
            file.close()
    write_index(folder / "index.csv", samples, source.columns, known if "bboxes" in kinds else None)
    return known


def write_index(path, samples, columns, known):
    """Write index.csv; known: write_split's, where there is a column has_box."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "name", *columns, *(["has_box"] if known else [])])
        for row, (record, _) in enumerate(samples):
            cells = [record.cells[column] for column in columns]
            if known:
                cells.append(int(known["bboxes"][row]))
            writer.writerow([row, record.name, *cells])
