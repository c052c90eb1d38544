"""Random crop, colour and flip: drawn for an image, done to one image, to its head box, or to a
whole batch on a GPU.

Both ways draw the same numbers and mean the same picture. One image at a time is cropped, resized
and coloured in 8 bits, as torchvision does it; a batch is in floating point up to its end, so that
a value may differ by one or two of 255."""

import math
from typing import NamedTuple

import numpy as np
import torch

from data.pixels import GREY, adjust_colours, resize

AUGMENTATIONS = ("none", "flip", "full")
CROP_AREA = (0.5, 1.0)  # of the image's area, for "full"
CROP_ASPECT = (0.8, 1.25)  # width to height of the crop
JITTER = 0.3  # brightness, contrast and saturation each change by up to this factor
MIN_VISIBLE = 0.2  # a box that keeps less of its area after a crop is no box any more


class Augmentation(NamedTuple):
    """What one image gets: its crop (top, left, height, width) in pixels, the factors of
    brightness, contrast and saturation, and whether it is flipped left to right."""

    crop: tuple
    factors: tuple | None
    flip: bool


def sample_generator(seed, epoch, row, repeat=0):
    """The random generator of one image in one epoch, and of its repeats there."""
    # Rows count from one here: a trailing zero would give the generator of (seed, epoch), which
    # shuffles.
    key = (seed, epoch, row + 1)
    return np.random.default_rng((*key, repeat) if repeat else key)


def draw(mode, size, rng):
    """The Augmentation of an image of size x size pixels; mode one of AUGMENTATIONS, rng a numpy
    Generator."""
    crop, factors = (0, 0, size, size), None
    if mode == "full":
        crop = random_crop(size, rng)
        factors = tuple(rng.uniform(1 - JITTER, 1 + JITTER, 3))
    return Augmentation(crop, factors, mode != "none" and rng.random() < 0.5)


def random_crop(size, rng):
    """A crop (top, left, height, width) in pixels of an image of size x size pixels."""
    area = rng.uniform(*CROP_AREA)
    aspect = math.exp(rng.uniform(*np.log(CROP_ASPECT)))
    height = min(size, max(1, round(size * math.sqrt(area / aspect))))
    width = min(size, max(1, round(size * math.sqrt(area * aspect))))
    top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
    return int(top), int(left), height, width


# ---------------------------------------------------------------------------------------- one image


def augment(pictures, augmentation, size):
    """{"images": (3, S, S), "masks": (1, S, S), ...} uint8 -> the same, augmented, at size x size
    pixels."""
    top, left, height, width = augmentation.crop
    augmented = {}
    for kind, picture in pictures.items():
        picture = picture[:, top : top + height, left : left + width]
        picture = resize(kind, picture, size)
        if kind == "images" and augmentation.factors:
            picture = adjust_colours(picture, *augmentation.factors)
        augmented[kind] = picture.flip(-1) if augmentation.flip else picture
    return augmented


# -------------------------------------------------------------------------------------------- boxes


def augment_boxes(boxes, augmentations, size):
    """(B, 4) boxes, normalised xyxy, of pictures of size x size pixels -> where they lie after each
    one's Augmentation."""
    crops = torch.tensor([one.crop for one in augmentations], dtype=torch.float64) / size
    top, left, height, width = crops.float().T
    boxes = crop_boxes(boxes, torch.stack([left, top, width, height], dim=1))
    flip = torch.tensor([one.flip for one in augmentations])
    return torch.where(flip[:, None], flip_boxes(boxes), boxes)


def crop_boxes(boxes, part):
    """(..., 4) boxes in the terms of a part of the picture, clipped to it; NaN where less than
    MIN_VISIBLE is left.

    part: (..., 4) left, top, width and height, relative to the picture; beyond [0, 1] where the
    frame grows."""
    corner, sides = part[..., [0, 1, 0, 1]], part[..., [2, 3, 2, 3]]
    moved = (boxes - corner) / sides
    clipped = moved.clamp(0, 1)
    is_visible = area(clipped) >= MIN_VISIBLE * area(moved)
    return torch.where(is_visible[..., None], clipped, torch.nan)


def flip_boxes(boxes):
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([1 - x2, y1, 1 - x1, y2], dim=-1)


def turn_boxes(boxes, quarters):
    """Boxes of pictures that are turned by so many quarters against the clock."""
    for _ in range(quarters % 4):
        x1, y1, x2, y2 = boxes.unbind(-1)
        boxes = torch.stack([y1, 1 - x2, y2, 1 - x1], dim=-1)
    return boxes


def area(boxes):
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


# ------------------------------------------------------------------------------ a batch on a device


class Held:
    """Pictures of a split, {kind: (N, 3 or 1, S, S) uint8}, on a device, where whole batches are
    made of them."""

    def __init__(self, pictures):
        self.pictures = pictures
        self.size, self.device = pictures["images"].shape[-1], pictures["images"].device

    def batch(self, rows, augmentations, size):
        """{kind: (B, 3 or 1, size, size) uint8} of some rows, each with its Augmentation."""
        numbers = [
            [row, *one.crop, *(one.factors or (1, 1, 1)), one.flip]
            for row, one in zip(rows, augmentations, strict=True)
        ]
        # All at once: each copy costs as much as a step.
        numbers = torch.tensor(numbers, dtype=torch.float32).to(self.device)
        row, (top, left, height, width) = numbers[:, 0].long(), numbers[:, 1:5].T
        flip = numbers[:, 8] > 0
        down = positions(height, size, torch.zeros_like(flip)), top, height
        across = positions(width, size, flip), left, width
        y, x = nearest(*down), nearest(*across)
        made = {}
        for kind, pictures in self.pictures.items():
            if kind == "images":
                images = bilinear(*down, self.size) @ pictures[row].float()
                images = images @ bilinear(*across, self.size).transpose(2, 3)
                made[kind] = coloured(images, numbers[:, 5:8])
            else:
                found = pictures[row[:, None, None], :, y[:, :, None], x[:, None, :]]
                made[kind] = found.permute(0, 3, 1, 2)
        return made


def positions(length, size, flip):
    """(B, size) of where the middles of a result's pixels lie in a part of the picture, in its
    pixels; length (B,) of the parts."""
    k = torch.arange(size, device=length.device) + 0.5
    return torch.where(flip[:, None], size - k, k) * (length / size)[:, None]


def nearest(centre, start, length):
    """(B, size) indices into the picture of the pixels that are nearest."""
    return (torch.minimum(centre.floor(), length[:, None] - 1) + start[:, None]).long()


def bilinear(centre, start, length, stored):
    """(B, 1, size, stored): how much each pixel of the picture counts in each of the result, linear
    and antialiased; what is beyond the part counts for nothing."""
    reach = (length / centre.shape[1]).clamp(min=1)[:, None, None]
    pixel = torch.arange(stored, device=centre.device) + 0.5 - start[:, None]  # in the part
    distance = (pixel[:, None, :] - centre[:, :, None]).abs()  # (B, size, stored)
    weight = (1 - distance / reach).clamp(min=0)
    weight = weight * ((pixel > 0) & (pixel < length[:, None]))[:, None, :]
    return (weight / weight.sum(2, keepdim=True))[:, None]


def coloured(images, factors):
    """(B, 3, H, W) float in 0-255 and (B, 3) factors -> uint8, as data.pixels.adjust_colours does
    it to one."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.T)
    grey = (images * GREY.to(images.device).view(3, 1, 1)).sum(1, keepdim=True)
    offset = (1 - contrast) * brightness * grey.mean((2, 3), keepdim=True)
    scale = contrast * brightness
    images = images * (scale * saturation) + grey * (scale * (1 - saturation))
    return (images + offset + 0.5).clamp(0, 255).to(torch.uint8)
