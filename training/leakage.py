"""Leakage check: which images a network was trained on, by fingerprints of their bytes and looks.

The bytes of a stored image tell exactly, but at one size only. The difference hash of an image
hardly depends on the size at which it is stored, nor on the program that decoded it."""

import numpy as np
import torch
from PIL import Image

import cli
from cli import InputError
from data import contract
from data.split import MIN_STRUCTURE_BITS, difference_hash

# Of 256 bits. The 3,678 trainval photographs of Oxford-IIIT Pet, stored at 64, 128, 192 and 256 px,
# differ from themselves at another size by 24 bits at most (mean 3); unrelated ones begin at 39.
SAME_BITS = 30
KEYS = ("trained_on", "trained_on_looks")


def fingerprints(dataset):
    """{"trained_on": (n,) int64, "trained_on_looks": (n, 32) uint8} of a dataset's images."""
    return {"trained_on": dataset.image_hashes(), "trained_on_looks": looks(dataset)}


def join(a, b):
    """The fingerprints of two such dicts, each image once; None where one of them has none."""
    joined = {}
    for key in KEYS:
        is_known = a[key] is not None and b[key] is not None
        joined[key] = torch.cat([a[key], b[key]]).unique(dim=0) if is_known else None
    return joined


def looks(dataset):
    """(n, 32) uint8: the difference hash of each stored image, read as a stream."""
    hashes = np.empty((len(dataset), 32), np.uint8)
    file, stored = contract.open_rechunked(dataset.data, dataset.split, "images")
    with file:
        for start, images in contract.slabs(stored, len(dataset)):
            for row, image in enumerate(images, start):
                hashes[row] = difference_hash(Image.fromarray(image))
    return torch.from_numpy(hashes)


def seen_images(dataset, info):
    """(n,) bool: which images are among the fingerprints of `info`."""
    seen = torch.isin(dataset.image_hashes(), info["trained_on"])
    if info["trained_on_looks"] is not None and not seen.all():
        seen[~seen] = look_alike(looks(dataset)[~seen], info["trained_on_looks"])
    return seen


def look_alike(hashes, others):
    """(n,) bool: which of the hashes (n, 32) have a look-alike among others (m, 32), both uint8.

    An image with too little structure to compare, such as a plain wall, has none.
    """
    hashes, others = (np.ascontiguousarray(one.numpy()).view(np.uint64) for one in (hashes, others))
    others = others[is_comparable(others)]
    found = []
    for comparable, one in zip(is_comparable(hashes), hashes, strict=True):
        distances = np.bitwise_count(others ^ one).sum(1)
        found.append(bool(comparable and (distances <= SAME_BITS).any()))
    return torch.tensor(found, dtype=torch.bool)


def is_comparable(hashes):
    """(n,) bool of hashes (n, 4) uint64."""
    bits = np.bitwise_count(hashes).sum(1)
    return (bits >= MIN_STRUCTURE_BITS) & (bits <= 256 - MIN_STRUCTURE_BITS)


def refuse_leakage(option, path, info, data, own):
    """Refuse a network that was trained on images which choose or test the new one.

    option, path: --init or --teacher and its file; info: the checkpoint's values; data: {split:
    MTLDataset}; own: fingerprints of the new training images.
    """
    if info["trained_on"] is None:
        raise InputError(
            f"{path} does not say which images it was trained on, so nothing could be measured "
            f"fairly after it; name another {option}"
        )
    warn_of_other_size(data["train"], info, f"{option} {path}")
    for split in ("val", "test"):
        # An image that looks like a new training image does so whatever the network starts from.
        seen = seen_images(data[split], info) & ~seen_images(data[split], own)
        if seen.any():
            raise InputError(
                f"{option} {path} was trained on {int(seen.sum())} of the {len(data[split])} "
                f"images of {data[split].data / split}: the run's numbers would say nothing about "
                f"new images; use the split that it was trained with, or leave {option} out"
            )


def warn_of_other_size(dataset, info, what="the network", way=""):
    """Warn where images are of another size than those that a network was trained on."""
    if info["size"] == dataset.size:
        return
    doubt = ""
    if info["trained_on"] is not None and info["trained_on_looks"] is None:
        doubt = "; it cannot be checked whether it was trained on any of them"
    cli.warn(
        f"{what} was trained on images of {info['size']} px, and those of "
        f"{dataset.data / dataset.split} are of {dataset.size} px{way}{doubt}"
    )


def warn_of_leakage(dataset, info):
    """Warn where a network was trained on images of a split."""
    if info["trained_on"] is None:
        return
    seen = int(seen_images(dataset, info).sum())
    if seen:
        cli.warn(
            f"the network was trained on {seen} of the {len(dataset)} images of "
            f"{dataset.data / dataset.split}: its numbers there say little about new images"
        )
