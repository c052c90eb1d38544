"""Hard augmentations: pets that are small, cut off, several, elsewhere or not there at all; bad
light, bad focus.

`--hard-augment small+close` adds some of these to the augmentation, `all` all of them. At most one
of the first six, and any of the others, come to an image, each by its own probability
(data/hard_augment_names.py), so what one alone does can be measured; all:0.5 and small:2+lit change
the probabilities:

    small        shrunk to between 1 and a tenth of the frame's area, or its pet alone, on another
                 photograph whose pet is painted over
    close        a part of the pet fills the frame
    elsewhere    the pet, cut out by its mask, on another photograph whose pet is painted over
    several      up to three other pets, cut out by their masks, in front of it or behind it
    mosaic       four photographs in one
    empty        no pet: painted over with what surrounds it, or a part of the photograph beside it
    turned       by 90, 180 or 270 degrees
    lit          dark, bright or of another colour, with noise
    blurred      out of focus or shaken
    compressed   a JPEG of low quality, or of few pixels

They change a whole sample: its pictures, before these are cropped and resized (the last three after
that), and what is known of it. A picture with several animals has no head box, and a class or a
cell only where all agree; an emptied one has no box, the class NEITHER and empty cells. Masks tell
what is pet: an image that has none, or has unlabelled pixels, is left as it is by whatever needs
one. Everything is drawn from a generator of (seed, epoch, image), as the augmentation is.

Source: Ghiasi et al., "Simple Copy-Paste", 2021, for pasting by masks; Bochkovskiy et al.,
"YOLOv4", 2020, for the mosaic. The probabilities and ranges are this project's own."""

import math

import numpy as np
import torch

from cli import InputError
from data import hard_augment_names, pixels
from data.augment import crop_boxes, turn_boxes
from data.contract import PICTURES, UNLABELLED

SMALLEST = 0.1  # area of a photograph in a larger frame
CLOSE = (0.08, 0.5)  # area of the part that fills the frame
BY_MASK = ("small", "close", "elsewhere", "several", "empty")  # which need to know what is pet
OTHERS = 3  # pets beside the first, at most
OTHER_SIDE = (0.25, 0.8)  # of another photograph in this frame
BESIDE = 0.05  # least area of a part without a pet
GROUND = {"masks": 0, "trimaps": 2}  # what stands where no pet is
NEITHER = 254  # the class of a picture without an animal
REFERENCE = 256  # pixels: blur is stated for pictures of this size


class HardAugment:
    """What --hard-augment says, as an augmentation of samples.

    A sample, here and below, is a dict of what is known of one image: images (3, S, S) uint8; masks
    and trimaps (1, S, S) uint8; bboxes (4,) normalised; binary, a number; "index:COLUMN", a text;
    of these the ones that there are. `read(row)` is the sample of another row."""

    def __init__(self, text):
        self.probabilities = hard_augment_names.parse(text)

    def refuse_blindness(self, kinds, data):
        """Refuse data without masks where something needs to know what is pet."""
        blind = [name for name in self.probabilities if name in BY_MASK]
        if blind and "masks" not in kinds:
            raise InputError(
                f"{data} has no masks.h5, and the hard augmentations {', '.join(blind)} need "
                "to know what is pet; leave them out"
            )

    def place(self, sample, row, n, read, rng):
        """A sample as it is before it is cropped; row: its own of n."""
        drawn = rng.random()
        for name in hard_augment_names.PLACED:
            probability = self.probabilities.get(name, 0)
            if drawn < probability:
                others = [int(other) for other in rng.integers(n, size=OTHERS)]
                sample = getattr(self, name)(sample, others, read, rng)
                break
            drawn -= probability
        if rng_says(self.probabilities.get("turned"), rng):
            sample = turned(sample, int(rng.integers(1, 4)))
        return sample

    def take(self, image, rng):
        """An image (3, H, W) as it is taken and kept."""
        for name in hard_augment_names.TAKEN:
            if rng_says(self.probabilities.get(name), rng):
                image = getattr(self, name)(image, rng)
        return image

    # Each: (image, rng) -> image.

    def lit(self, image, rng):
        gamma, light = math.exp(rng.uniform(-0.7, 1.1)), math.exp(rng.uniform(-0.7, 0.2))
        gains = light * np.exp(rng.normal(0, 0.12, 3))
        return pixels.lit(image, gamma, gains, rng.uniform(0, 12), rng)

    def blurred(self, image, rng):
        scale = min(image.shape[-2:]) / REFERENCE
        if rng.random() < 0.6:
            return pixels.blurred(image, max(0.3, scale * rng.uniform(0.5, 3.5)))
        return pixels.shaken(image, max(2, scale * rng.uniform(4, 16)), rng.uniform(0, math.pi))

    def compressed(self, image, rng):
        if rng.random() < 0.7:
            return pixels.compressed(image, int(rng.integers(8, 60)))
        return pixels.coarse(image, rng.uniform(0.25, 0.7))

    # Each: (sample, rows of others, read, rng) -> sample.

    def small(self, sample, others, read, rng):
        area = math.exp(rng.uniform(math.log(SMALLEST), 0))
        place, is_alone = rng.random(2), rng.random() < 0.5
        return small(sample, read(others[0]), area, place, is_alone)

    def close(self, sample, others, read, rng):
        pet = (sample["masks"][0] == 1).nonzero()
        if not len(pet):
            return sample
        size = sample["masks"].shape[-1]
        side = max(1, round(size * math.sqrt(rng.uniform(*CLOSE))))
        centre = pet[int(rng.integers(len(pet)))].tolist()
        top, left = (min(max(0, middle - side // 2), size - side) for middle in centre)
        return part(sample, left, top, side)

    def elsewhere(self, sample, others, read, rng):
        ground = without_pet(read(others[0]))
        if ground is None or not is_labelled(sample) or not (sample["masks"] == 1).any():
            return sample
        image = pixels.pasted(ground, sample["images"], sample["masks"][0] == 1)
        return {**sample, "images": image}

    def several(self, sample, others, read, rng):
        size, seen = sample["masks"].shape[-1], []
        pictures = pictures_of(sample)
        for row in others[: int(rng.integers(1, OTHERS + 1))]:
            other, side = read(row), max(1, round(size * rng.uniform(*OTHER_SIDE)))
            top, left = (int(rng.integers(size - side + 1)) for _ in range(2))
            is_behind, is_flipped = rng.random(2) < 0.5
            if not is_labelled(other) or not is_labelled(pictures):
                continue
            layer = {}
            for kind, picture in pictures_of(other).items():
                picture = pixels.resize(kind, picture, side)
                layer[kind] = torch.zeros_like(pictures[kind])
                layer[kind][:, top : top + side, left : left + side] = (
                    picture.flip(-1) if is_flipped else picture
                )
            region = layer["masks"][0] == 1
            if is_behind:
                region &= pictures["masks"][0] != 1
            if region.any():
                pictures = over(pictures, layer, region)
                seen.append(other)
        return {**agreed(sample, seen), **pictures}

    def mosaic(self, sample, others, read, rng):
        size = sample["images"].shape[-1]
        others = [read(row) for row in others]
        down, right = (round(size * share) for share in rng.uniform(0.4, 0.6, 2))
        four = [sample, *others]
        return mosaic([four[k] for k in rng.permutation(4)], down, right)

    def empty(self, sample, others, read, rng):
        size = sample["images"].shape[-1]
        if not is_labelled(sample):
            return sample
        if rng.random() < 0.5:
            for _ in range(20):  # a square beside the pet, if chance finds one
                side = max(1, round(size * math.sqrt(rng.uniform(BESIDE, 0.6))))
                top, left = (int(rng.integers(size - side + 1)) for _ in range(2))
                if not (sample["masks"][0, top : top + side, left : left + side] == 1).any():
                    return emptied(part(sample, left, top, side))
        ground = without_pet(sample)
        return sample if ground is None else bare(sample, ground)


def rng_says(probability, rng):
    """Whether something comes; nothing is drawn for what never does."""
    return probability is not None and rng.random() < probability


# ------------------------------------------------------------------------ what is known of a sample


def pictures_of(sample):
    return {kind: value for kind, value in sample.items() if kind in PICTURES}


def is_labelled(sample):
    """Whether it is known of every pixel whether it is pet."""
    return not (sample["masks"] == UNLABELLED).any()


def emptied(sample):
    """What is known of a picture in which no animal is left."""
    known = dict(sample)
    for name, value in sample.items():
        if name == "bboxes":
            known[name] = torch.full_like(value, torch.nan)
        elif name == "binary":
            known[name] = torch.full_like(value, NEITHER)
        elif name not in PICTURES:
            known[name] = ""
    return known


def agreed(sample, others):
    """What is known of a picture that shows the animals of other samples too: one box does not say
    which head it is."""
    known = dict(sample)
    for name, value in sample.items():
        if not others or name in PICTURES:
            continue
        if name == "bboxes":
            known[name] = torch.full_like(value, torch.nan)
        elif any(other[name] != value for other in others):
            known[name] = torch.full_like(value, UNLABELLED) if name == "binary" else ""
    return known


# ------------------------------------------------------------------------------------- the pictures


def bare(sample, image):
    """A sample whose picture is an image without a pet."""
    ground = {"images": image}
    for kind, picture in pictures_of(sample).items():
        if kind != "images":
            ground[kind] = torch.full_like(picture, GROUND[kind])
    return emptied({**sample, **ground})


def without_pet(sample):
    """An image whose pet is painted over; None where it is all pet, or where the mask does not
    tell."""
    if not is_labelled(sample):
        return None
    region = sample["masks"][0] == 1
    if not region.any():
        return sample["images"]
    region = pixels.grown(region, max(1, region.shape[-1] // 64))
    return None if region.all() else pixels.painted_over(sample["images"], region)


def part(sample, left, top, side):
    """A square of the pictures, enlarged to their size, and the box there."""
    size, found = sample["images"].shape[-1], dict(sample)
    for kind, picture in pictures_of(sample).items():
        square = picture[:, top : top + side, left : left + side]
        found[kind] = pixels.resize(kind, square, size)
    return boxed(found, (left / size, top / size, side / size, side / size))


def boxed(sample, kept):
    """A sample whose box lies in a part of the frame, (left, top, width, height) relative to it."""
    if "bboxes" in sample:
        sample["bboxes"] = crop_boxes(sample["bboxes"], torch.tensor(kept))
    return sample


def over(pictures, layer, region):
    """Pictures with another layer's on them in a region, (H, W) bool."""
    found = {}
    for kind, picture in pictures.items():
        if kind == "images":
            found[kind] = pixels.pasted(picture, layer[kind], region)
        else:
            found[kind] = torch.where(region, layer[kind], picture)
    return found


def small(sample, other, area, place, is_alone=False):
    """A photograph shrunk to a share of the frame's area, or its pet alone, cut out by its mask, on
    another photograph whose pet is painted over, at a place, two numbers in [0, 1], of what room
    there is."""
    size, ground = sample["images"].shape[-1], without_pet(other)
    if ground is None:
        return sample
    side = min(size, max(1, round(size * math.sqrt(area))))
    left, top = (round((size - side) * share) for share in place)
    frame = pictures_of(bare(sample, ground.clone()))
    inside, shrunk = {}, {}
    for kind, picture in pictures_of(sample).items():
        inside[kind] = frame[kind][:, top : top + side, left : left + side]
        shrunk[kind] = pixels.resize(kind, picture, side)
    if is_alone and is_labelled(sample):
        shrunk = over(inside, shrunk, shrunk["masks"][0] == 1)
    for kind, picture in shrunk.items():
        inside[kind].copy_(picture)
    return boxed({**sample, **frame}, (-left / side, -top / side, size / side, size / side))


def mosaic(four, down, right):
    """Four photographs in one, which meet at so many pixels down and right; from the top left on,
    row by row."""
    first, *others = four
    size, mosaic = first["images"].shape[-1], agreed(first, others)
    for kind, picture in pictures_of(first).items():
        mosaic[kind] = torch.empty_like(picture)
    rows, columns = (slice(0, down), slice(down, size)), (slice(0, right), slice(right, size))
    for k, sample in enumerate(four):
        y, x = rows[k // 2], columns[k % 2]
        for kind, picture in pictures_of(sample).items():
            shrunk = pixels.resize(kind, picture, y.stop - y.start, x.stop - x.start)
            mosaic[kind][:, y, x] = shrunk
    return mosaic


def turned(sample, quarters):
    """A sample turned by so many quarters against the clock."""
    found = dict(sample)
    for kind, picture in pictures_of(sample).items():
        found[kind] = picture.rot90(quarters, (-2, -1))
    if "bboxes" in sample:
        found["bboxes"] = turn_boxes(sample["bboxes"], quarters)
    return found
