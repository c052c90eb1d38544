"""Photographs as people take them: pets that are small, cut off, several, elsewhere or not there at all; bad light, bad focus.

`--scenes small+close` adds some of these to the augmentation of dataloader_mtl.py; `all` is all of them. At most one of the first
six, and any of the others, befalls an image, each by its own chance (data/chances.py), so what one alone does can be measured; all:0.5
and small:2+lit change the chances:

    small        shrunk to between 1 and a tenth of the frame's area, or its pet alone, on another photograph whose pet is painted over
    close        a part of the pet fills the frame
    elsewhere    the pet, cut out by its mask, on another photograph whose pet is painted over
    several      up to three other pets, cut out by their masks, in front of it or behind it
    mosaic       four photographs in one
    empty        no pet: painted over with what surrounds it, or a part of the photograph beside it
    turned       by 90, 180 or 270 degrees
    lit          dark, bright or of another colour, with noise
    blurred      out of focus or shaken
    compressed   a JPEG of low quality, or of few pixels

They work on the stored pictures, before these are cropped and made smaller, the last three after that. Masks tell what is pet: an
image that has none, or has unlabelled pixels, is left as it is by whatever needs one. Everything is drawn from a generator of
(seed, epoch, image), as the augmentation is.

Source: Ghiasi et al., "Simple Copy-Paste", 2021, for pasting by masks; Bochkovskiy et al., "YOLOv4", 2020, for the mosaic. The
chances and ranges are this project's own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cli import InputError
from data import hard_augment_names as chances, pixels
from data.contract import PICTURES, UNLABELLED

NAMES = tuple(chances.USUAL)
SMALLEST = 0.1  # area of a photograph in a larger frame
CLOSE = (0.08, 0.5)  # area of the part that fills the frame
BY_MASK = ("small", "close", "elsewhere", "several", "empty")  # which need to know what is pet
OTHERS = 3  # pets beside the first, at most
OTHER_SIDE = (0.25, 0.8)  # of another photograph in this frame
BESIDE = 0.05  # least area of a part without a pet
NOTHING = {"masks": 0, "trimaps": 2}  # what stands where no pet is
REFERENCE = 256  # pixels: blur is stated for pictures of this side


def make(asked, kinds, data):
    """The scenes of an MTLDataset: asked is None, names as of --scenes, or such an object already. Raises cli.InputError for names that
    need to know what is pet where the data have no masks."""
    if not isinstance(asked, str):
        return asked
    found = Scenes(asked)
    blind = [name for name in found.names if name in BY_MASK]
    if blind and "masks" not in kinds:
        raise InputError(
            f"{data} has no masks.h5, and the scenes {', '.join(blind)} need to know what is pet; leave them out"
        )
    return found


@dataclass
class Change:
    """What a scene does to a target that is not made of pictures.

    part      the part of the frame that is kept, (left, top, width, height) relative to it; beyond [0, 1] where it grew.
    others    rows of the photographs whose pets are seen too; is_empty: whether no pet is seen; quarters: turns by 90 degrees
              against the clock.
    """

    part: tuple | None = None
    others: tuple = ()
    is_empty: bool = False
    quarters: int = 0

    def apply(self, task, target, target_of):
        """The target of one image; target_of(row) of another one, or None where that is not known."""
        if not set(task.needs) - set(PICTURES):
            return target  # made of the changed pictures
        if self.is_empty:
            return task.vanish(target)
        if self.others:
            others = [target_of(row) for row in self.others]
            is_known = all(other is not None for other in others)
            target = task.mix(torch.stack([target, *others])) if is_known else task.unknown(target)
        if self.part:
            target = task.crop(target, *self.part)
        return task.turn(target, self.quarters) if self.quarters else target


class Scenes:
    """What --scenes says (data/chances.py), as an augmentation. `read(row)` below gives the pictures of another row,
    {"images": (3, S, S), "masks": (1, S, S), ...} uint8."""

    def __init__(self, text):
        self.chances = chances.parse(text)

    @property
    def names(self):
        return tuple(self.chances)

    def place(self, pictures, row, n, read, rng):
        """What may befall an image before it is cropped: (its pictures, its Change). row: its own of n."""
        change, drawn = Change(), rng.random()
        for name, chance in self.chances.items():
            if name not in chances.PLACED:
                continue
            if drawn < chance:
                others = [int(other) for other in rng.integers(n, size=OTHERS)]
                pictures, change = getattr(self, name)(pictures, others, read, rng)
                break
            drawn -= chance
        if "turned" in self.chances and rng.random() < self.chances["turned"]:
            pictures, change = turned(pictures, change, int(rng.integers(1, 4)))
        return pictures, change

    def take(self, image, rng):
        """What may befall an image (3, H, W) while it is taken and kept."""
        for name in chances.TAKEN:
            if name in self.chances and rng.random() < self.chances[name]:
                image = getattr(self, name)(image, rng)
        return image

    # Each: (image, rng) -> image.

    def lit(self, image, rng):
        gamma, light = math.exp(rng.uniform(-0.7, 1.1)), math.exp(rng.uniform(-0.7, 0.2))
        return pixels.lit(
            image, gamma, light * np.exp(rng.normal(0, 0.12, 3)), rng.uniform(0, 12), rng
        )

    def blurred(self, image, rng):
        scale = min(image.shape[-2:]) / REFERENCE
        if rng.random() < 0.6:
            return pixels.blurred(image, max(0.3, scale * rng.uniform(0.5, 3.5)))
        return pixels.shaken(image, max(2, scale * rng.uniform(4, 16)), rng.uniform(0, math.pi))

    def compressed(self, image, rng):
        if rng.random() < 0.7:
            return pixels.compressed(image, int(rng.integers(8, 60)))
        return pixels.coarse(image, rng.uniform(0.25, 0.7))

    # Each: (pictures, rows of others, read, rng) -> (pictures, Change).

    def small(self, pictures, others, read, rng):
        area, place, is_alone = (
            math.exp(rng.uniform(math.log(SMALLEST), 0)),
            rng.random(2),
            rng.random() < 0.5,
        )
        return small(pictures, read(others[0]), area, place, is_alone)

    def close(self, pictures, others, read, rng):
        pets = (pictures["masks"][0] == 1).nonzero()
        if not len(pets):
            return pictures, Change()
        size = pictures["masks"].shape[-1]
        side = max(1, round(size * math.sqrt(rng.uniform(*CLOSE))))
        centre = pets[int(rng.integers(len(pets)))].tolist()
        top, left = (min(max(0, middle - side // 2), size - side) for middle in centre)
        return part(pictures, left, top, side), Change(
            (left / size, top / size, side / size, side / size)
        )

    def elsewhere(self, pictures, others, read, rng):
        ground = without_pet(read(others[0]))
        if ground is None or not is_labelled(pictures) or not (pictures["masks"] == 1).any():
            return pictures, Change()
        return {
            **pictures,
            "images": pixels.pasted(ground, pictures["images"], pictures["masks"][0] == 1),
        }, Change()

    def several(self, pictures, others, read, rng):
        size, seen = pictures["masks"].shape[-1], []
        for row in others[: int(rng.integers(1, OTHERS + 1))]:
            other, side = read(row), max(1, round(size * rng.uniform(*OTHER_SIDE)))
            top, left = (int(rng.integers(size - side + 1)) for _ in range(2))
            is_behind, is_mirrored = rng.random(2) < 0.5
            if not is_labelled(other) or not is_labelled(pictures):
                continue
            layer = {kind: torch.zeros_like(content) for kind, content in other.items()}
            for kind, content in other.items():
                content = pixels.resize(kind, content, side)
                layer[kind][:, top : top + side, left : left + side] = (
                    content.flip(-1) if is_mirrored else content
                )
            region = (layer["masks"][0] == 1) & ~(
                pictures["masks"][0] == 1 if is_behind else torch.zeros(size, size, dtype=bool)
            )
            if region.any():
                pictures, _ = over(pictures, layer, region), seen.append(row)
        return pictures, Change(others=tuple(seen))

    def mosaic(self, pictures, others, read, rng):
        size = pictures["images"].shape[-1]
        quarters = [pictures, *map(read, others)]
        middle = [round(size * share) for share in rng.uniform(0.4, 0.6, 2)]
        order = rng.permutation(4)
        return mosaic([quarters[k] for k in order], *middle), Change(others=tuple(others))

    def empty(self, pictures, others, read, rng):
        size = pictures["images"].shape[-1]
        if not is_labelled(pictures):
            return pictures, Change()
        if rng.random() < 0.5:
            for _ in range(20):  # a square beside the pet, if chance finds one
                side = max(1, round(size * math.sqrt(rng.uniform(BESIDE, 0.6))))
                top, left = (int(rng.integers(size - side + 1)) for _ in range(2))
                if not (pictures["masks"][0, top : top + side, left : left + side] == 1).any():
                    return part(pictures, left, top, side), Change(is_empty=True)
        ground = without_pet(pictures)
        if ground is None:
            return pictures, Change()
        return nothing(pictures, ground), Change(is_empty=True)


# --------------------------------------------------------------------------------------------------------- the scenes


def is_labelled(pictures):
    """Whether it is known of every pixel whether it is pet."""
    return not (pictures["masks"] == UNLABELLED).any()


def nothing(pictures, image):
    """Pictures of an image without a pet."""
    return {
        kind: image if kind == "images" else torch.full_like(content, NOTHING[kind])
        for kind, content in pictures.items()
    }


def without_pet(pictures):
    """An image whose pet is painted over; None where it is all pet, or where the mask does not tell."""
    if not is_labelled(pictures):
        return None
    region = pictures["masks"][0] == 1
    if not region.any():
        return pictures["images"]
    region = pixels.grown(region, max(1, region.shape[-1] // 64))
    return None if region.all() else pixels.painted_over(pictures["images"], region)


def part(pictures, left, top, side):
    """A square of the pictures, enlarged to their size."""
    return {
        kind: pixels.resize(
            kind, content[:, top : top + side, left : left + side], content.shape[-1]
        )
        for kind, content in pictures.items()
    }


def over(pictures, layer, region):
    """Pictures with another layer's on them in a region, (H, W) bool."""
    return {
        kind: pixels.pasted(content, layer[kind], region)
        if kind == "images"
        else torch.where(region, layer[kind], content)
        for kind, content in pictures.items()
    }


def small(pictures, other, area, place, is_alone=False):
    """A photograph shrunk to a share of the frame's area, or its pet alone, cut out by its mask, on another photograph whose pet is
    painted over, at a place, two numbers in [0, 1], of what room there is. Returns (pictures, Change)."""
    size, ground = pictures["images"].shape[-1], without_pet(other)
    if ground is None:
        return pictures, Change()
    side = min(size, max(1, round(size * math.sqrt(area))))
    left, top = (round((size - side) * share) for share in place)
    frame, shrunk = (
        nothing(pictures, ground.clone()),
        {kind: pixels.resize(kind, content, side) for kind, content in pictures.items()},
    )
    inside = {
        kind: content[:, top : top + side, left : left + side] for kind, content in frame.items()
    }
    if is_alone and is_labelled(pictures):
        shrunk = over(inside, shrunk, shrunk["masks"][0] == 1)
    for kind, content in shrunk.items():
        inside[kind].copy_(content)
    return frame, Change((-left / side, -top / side, size / side, size / side))


def mosaic(four, down, right):
    """Four photographs in one, which meet at so many pixels down and right; from the top left on, row by row."""
    size = four[0]["images"].shape[-1]
    frame = {kind: torch.empty_like(content) for kind, content in four[0].items()}
    places = [
        (rows, columns)
        for rows in (slice(0, down), slice(down, size))
        for columns in (slice(0, right), slice(right, size))
    ]
    for pictures, (rows, columns) in zip(four, places):
        for kind, content in pictures.items():
            frame[kind][:, rows, columns] = pixels.resize(
                kind, content, rows.stop - rows.start, columns.stop - columns.start
            )
    return frame


def turned(pictures, change, quarters):
    """Pictures turned by so many quarters against the clock, and their Change with that."""
    change.quarters = quarters
    return {kind: content.rot90(quarters, (-2, -1)) for kind, content in pictures.items()}, change
