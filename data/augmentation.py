"""Augmentation: what is drawn for an image, doing it to one image, and doing it to a whole batch on a GPU.

Both ways draw the same numbers and mean the same picture. One image at a time is cut, resized and coloured in 8 bits, as
torchvision does it; a batch is in floating point up to its end, so that a value may differ by one or two of 255.
"""

import math

import numpy as np
import torch

from data.pixels import GREY, adjust_colours, resize

AUGMENTATIONS = ("none", "flip", "full")
CROP_AREA = (0.5, 1.0)  # of the image's area, for "full"
CROP_ASPECT = (0.8, 1.25)  # width to height of the crop
JITTER = 0.3  # brightness, contrast and saturation each change by up to this factor


def sample_generator(seed, epoch, row, repeat=0):
    """The random generator of one image in one epoch, and of its repeats there."""
    # Rows count from one here: a trailing zero would give the generator of (seed, epoch), which shuffles.
    return np.random.default_rng(
        (seed, epoch, row + 1, repeat) if repeat else (seed, epoch, row + 1)
    )


def draw(mode, height, width, rng):
    """What one image gets, from a numpy Generator: its crop (top, left, height, width) in pixels, the factors of brightness,
    contrast and saturation - both None but for "full" - and whether it is mirrored."""
    crop, factors = None, None
    if mode == "full":
        crop, factors = random_crop(height, width, rng), rng.uniform(1 - JITTER, 1 + JITTER, 3)
    return crop, factors, mode != "none" and rng.random() < 0.5


def random_crop(height, width, rng):
    """A crop (top, left, height, width) in pixels of an image of the given size."""
    area, aspect = rng.uniform(*CROP_AREA), math.exp(rng.uniform(*np.log(CROP_ASPECT)))
    h = min(height, max(1, round(height * math.sqrt(area / aspect))))
    w = min(width, max(1, round(width * math.sqrt(area * aspect))))
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def mover(crop, mirrored, height, width):
    """A function (task, target) -> target that does to a target what an image of the given size gets."""

    def move(task, target):
        if crop:
            top, left, h, w = crop
            target = task.crop(target, left / width, top / height, w / width, h / height)
        return task.flip(target) if mirrored else target

    return move


def augment(pictures, mode, side, rng):
    """Transform an image and the pictures that belong to it together.

    pictures: {"images": (3, H, W), "masks": (1, H, W), ...} uint8; mode one of AUGMENTATIONS; `side` of the result in pixels; rng
    a numpy Generator. Returns (the same at side x side, a function (task, target) -> target that does it to a target).
    """
    height, width = pictures["images"].shape[-2:]
    crop, factors, mirrored = draw(mode, height, width, rng)
    if crop:
        top, left, h, w = crop
        pictures = {
            kind: pixels[:, top : top + h, left : left + w] for kind, pixels in pictures.items()
        }
    if pictures["images"].shape[-2:] != (side, side):
        pictures = {kind: resize(kind, pixels, side) for kind, pixels in pictures.items()}
    if factors is not None:
        pictures["images"] = adjust_colours(pictures["images"], *factors)
    if mirrored:
        pictures = {kind: pixels.flip(-1) for kind, pixels in pictures.items()}
    return pictures, mover(crop, mirrored, height, width)


class Held:
    """Pictures of a split, {kind: (N, 3 or 1, S, S) uint8}, on a device, where whole batches are made of them."""

    def __init__(self, pictures):
        self.pictures = pictures
        self.size, self.device = pictures["images"].shape[-1], pictures["images"].device

    def batch(self, rows, drawn, side):
        """{kind: (B, 3 or 1, side, side) uint8} of some rows, each with what `draw` gave for it."""
        whole = (0, 0, self.size, self.size)
        numbers = [
            [row, *(crop or whole), *((1, 1, 1) if factors is None else factors), mirrored]
            for row, (crop, factors, mirrored) in zip(rows, drawn)
        ]
        numbers = torch.tensor(numbers, dtype=torch.float32).to(
            self.device
        )  # all at once: each copy costs as much as a step
        row, (top, left, height, width), mirrored = (
            numbers[:, 0].long(),
            numbers[:, 1:5].T,
            numbers[:, 8] > 0,
        )
        down = positions(height, side, torch.zeros_like(mirrored)), top, height
        across = positions(width, side, mirrored), left, width
        y, x = nearest(*down), nearest(*across)
        made = {
            kind: pixels[row[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
            for kind, pixels in self.pictures.items()
            if kind != "images"
        }
        images = (
            bilinear(*down, self.size)
            @ self.pictures["images"][row].float()
            @ bilinear(*across, self.size).transpose(2, 3)
        )
        return {"images": coloured(images, numbers[:, 5:8]), **made}


def positions(length, side, mirrored):
    """(B, side) of where the middles of a result's pixels lie in a part of the picture, in its pixels; length (B,) of the parts."""
    k = torch.arange(side, device=length.device) + 0.5
    return torch.where(mirrored[:, None], side - k, k) * (length / side)[:, None]


def nearest(centre, start, length):
    """(B, side) indices into the picture of the pixels that are nearest."""
    return (torch.minimum(centre.floor(), length[:, None] - 1) + start[:, None]).long()


def bilinear(centre, start, length, size):
    """(B, 1, side, size): how much each pixel of the picture counts in each of the result, linear and antialiased; what is beyond
    the part counts for nothing."""
    reach = (length / centre.shape[1]).clamp(min=1)[:, None, None]
    pixel = (
        torch.arange(size, device=centre.device) + 0.5 - start[:, None]
    )  # (B, size), in the part
    weight = (1 - (pixel[:, None, :] - centre[:, :, None]).abs() / reach).clamp(
        min=0
    )  # (B, side, size)
    weight = weight * ((pixel > 0) & (pixel < length[:, None]))[:, None, :]
    return (weight / weight.sum(2, keepdim=True))[:, None]


def coloured(images, factors):
    """(B, 3, H, W) float in 0-255 and (B, 3) factors -> uint8, as data.pixels.adjust_colours does it to one."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.T)
    grey = (images * GREY.to(images.device).view(3, 1, 1)).sum(1, keepdim=True)
    images = images * (contrast * brightness * saturation) + grey * (
        contrast * brightness * (1 - saturation)
    )
    offset = (1 - contrast) * brightness * grey.mean((2, 3), keepdim=True)
    return (images + offset + 0.5).clamp(0, 255).to(torch.uint8)
