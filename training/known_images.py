"""Which images a network was trained on, by their bytes and by their looks: on those it seems
better than it is.

The bytes of a stored image (MTLDataset.image_hashes) tell exactly, but only at one size. What the
same photograph looks like in a thumbnail hardly depends on the size at which it is stored, nor on
who decoded it.
"""

import numpy as np
import torch
from PIL import Image

import cli
from data import contract
from data.split import MIN_STRUCTURE_BITS, difference_hash

# Of 256 bits. The 3,678 trainval photographs of Oxford-IIIT Pet, each stored at 64, 128, 192 and
# 256 px, differ from themselves at another size by 24 bits at most (3 in the mean); unrelated ones
# begin at 39.
SAME_BITS = 30


def remember(dataset):
    """What a checkpoint keeps of the n images that it is trained on: {"trained_on": (n,) int64,
    "trained_on_looks": (n, 32) uint8}."""
    return {"trained_on": dataset.image_hashes(), "trained_on_looks": looks(dataset)}


def both(known, more):
    """What two such dicts remember together, each image once; of what one does not know, both know
    nothing."""
    return {
        key: None
        if known[key] is None or more[key] is None
        else torch.cat([known[key], more[key]]).unique(dim=0)
        for key in ("trained_on", "trained_on_looks")
    }


def looks(dataset):
    """(n, 32) uint8, the difference hash of each stored image of an MTLDataset, read anew as a
    stream."""
    hashes = np.empty((len(dataset), 32), np.uint8)
    file, stored = contract.open_rechunked(dataset.data, dataset.split, "images")
    with file:
        for start, images in contract.slabs(stored, len(dataset)):
            for row, image in enumerate(images, start):
                hashes[row] = difference_hash(Image.fromarray(image))
    return torch.from_numpy(hashes)


def known_images(dataset, info):
    """(n,) bool: is an image among those that `info` remembers, a checkpoint's content or what
    `remember` gives?"""
    known = torch.isin(dataset.image_hashes(), info["trained_on"])
    if info["trained_on_looks"] is not None and not known.all():
        known[~known] = look_alike(looks(dataset)[~known], info["trained_on_looks"])
    return known


def look_alike(hashes, others):
    """(n,) bool: has a picture a look-alike among the others? hashes (n, 32) and others (m, 32)
    uint8.

    A picture with too little structure to compare, as a plain wall, has none.
    """
    hashes, others = (
        np.ascontiguousarray(part.numpy()).view(np.uint64) for part in (hashes, others)
    )
    others = others[is_comparable(others)]
    return torch.tensor(
        [
            bool(has and (np.bitwise_count(others ^ one).sum(1) <= SAME_BITS).any())
            for has, one in zip(is_comparable(hashes), hashes)
        ],
        dtype=torch.bool,
    )


def is_comparable(hashes):
    """(n,) bool of hashes (n, 4) uint64."""
    bits = np.bitwise_count(hashes).sum(1)
    return (bits >= MIN_STRUCTURE_BITS) & (bits <= 256 - MIN_STRUCTURE_BITS)


def doubt(dataset, info):
    """How a sentence ends that names the two sizes, where a checkpoint cannot know images of
    another than its own."""
    if info["trained_on"] is None or info["trained_on_looks"] is not None:
        return ""
    return "; whether it was trained on any of them cannot be told, as it knows the bytes of its own alone"


def warn_of_other_size(dataset, info, resizes):
    """Say that images are of another size than those that a network was trained on, and what
    follows from it."""
    doubts = doubt(dataset, info)
    if info["size"] != dataset.size and (doubts or not resizes):
        way = "" if resizes else ", where it is mostly worse: --resize measures it at its own size"
        cli.warn(
            f"the network was trained on images of {info['size']} px, and those of {dataset.data / dataset.split} are "
            f"of {dataset.size} px{way}{doubts}"
        )


def warn_of_known_images(dataset, info):
    """Say how many images of a split a network was trained on: on them it looks better than it
    is."""
    known = 0 if info["trained_on"] is None else int(known_images(dataset, info).sum())
    if known:
        cli.warn(
            f"the network was trained on {known} of the {len(dataset)} images of {dataset.data / dataset.split}, so "
            "its numbers there say little about other images"
        )
