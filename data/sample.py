"""One photograph with its trimap and its head box, as data_prepare.py reads them.

A photograph is stored upright, as its EXIF orientation asks. Where only the shape in which it lies in its file fits the
trimap - or, where the trimap fits both, the size that the box file states - trimap and box were drawn on that, and it stays
so.

A trimap holds 1 (pet), 2 (background) and 3 (border), some of them or all. A mask of 0 and 1, 0 and 255 or 0 and 65535 is
read as one without border, where 0 is background and the other number pet; 1 alone is pet all over either way. Anything else
is refused.

A head box is relative to the frame that its file states, or to the photograph where the file states none or a side of 0. One
that reaches at most a pixel over the frame is cut there. A box that cannot be used leaves its photograph without one.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np
from PIL import Image

import cli
from data import photographs
from data.photographs import Unreadable, show_name

PET, BACKGROUND, BORDER = 1, 2, 3
MIN_BOX_SIDE = 1e-4  # of the frame's; less than what float32 tells apart in the largest pictures
# What there is to say of a sample that is used all the same, as the report says it.
TURNED = "turned upright, as their EXIF orientation says"
UNTURNED = "not turned as their EXIF orientation says, because only so they fit their trimap or box file"
MASKS = {white: f"masks of 0 and {white} read as trimaps ({white} pet, 0 background, no border)"
         for white in (1, 255, 65535)}
CLIPPED = "head boxes cut at the frame, over which they reached by at most a pixel"
NO_BOX = "without a head box, because it cannot be used"
EMPTY = "kept with an empty mask, as neither list.txt nor a head box says that they show a pet"
COMMON = {TURNED, *MASKS.values()}  # may be said of a whole folder, so a few names are enough


class Unusable(Exception):
    """An image, or its head box, cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Box:
    """A head box as its file states it: xmin ymin xmax ymax in pixels, and the frame (width, height) or None."""
    corners: tuple
    frame: tuple | None


def read_sample(sample, size):
    """Read one sample for images of `size` pixels.

    Returns (PIL image in RGB, trimap (H, W) uint8 of PET, BACKGROUND and BORDER, box, notes); the box is (4,) xyxy relative
    to width and height, or None; notes are pairs of what the report says of such samples and a detail, "" mostly. Raises
    Unusable.
    """
    notes = []
    trimap, white = read_trimap(sample.trimap_path)
    if white is not None:
        notes.append((MASKS[white], ""))
    try:
        box, reason = read_box(sample.box_paths), None
    except Unusable as error:
        box, reason = None, str(error)
    photograph, turned = read_photograph(sample.image_path, trimap.shape[::-1], box.frame if box else None, size)
    if turned is not None:
        notes.append((TURNED if turned else UNTURNED, ""))
    placed = None
    if box:
        try:
            placed, clipped = place_box(box, photograph)
            notes += [(CLIPPED, "")] * clipped
        except Unusable as error:
            reason = str(error)
    if reason:
        notes.append((NO_BOX, reason))
    # A listed or boxed photograph shows a pet, so an empty trimap is a mistake in it. Of one that is neither, such as the
    # archives' Abyssinian_34, the trimap is all that is known, and it is taken at its word.
    if not (trimap == PET).any():
        if sample.is_listed or box or reason:
            raise Unusable("its trimap has no pet pixel")
        notes.append((EMPTY, ""))
    return photograph.image, trimap, placed, notes


def decode(reader, path, what, **options):
    """What a reader of data/photographs.py makes of a file."""
    try:
        return reader(path, **options)
    except Unreadable as error:
        raise Unusable(f"its {what} cannot be decoded: {error}") from None
    except FileNotFoundError:  # a link that leads nowhere, or deleted meanwhile
        raise Unusable(f"its {what} cannot be decoded: there is no such file any more") from None


def read_trimap(path):
    """A trimap (H, W) uint8 of PET, BACKGROUND and BORDER, and the number that was pet where the file is a mask, or None."""
    values = decode(photographs.read_mask, path, "trimap")
    found = distinct(values)
    if found <= {PET, BACKGROUND, BORDER}:
        return values.astype(np.uint8, copy=False), None
    for white in MASKS:
        if found <= {0, white}:
            return np.where(values == white, np.uint8(PET), np.uint8(BACKGROUND)), white if white in found else None
    listed = cli.listed([str(value) for value in sorted(found)], most=6)
    raise Unusable(f"its trimap holds the value{'s' * (len(found) > 1)} {listed}; it should hold 1 (pet), 2 (background) "
                   "and 3 (border), or 0 (background) and 1 or 255 (pet)")


def distinct(values):
    """The set of the numbers in an integer array."""
    if values.dtype == np.uint8:  # Pillow counts in a fraction of the time and memory of sorting
        return {value for value, count in enumerate(Image.fromarray(values).histogram()) if count}
    return set(np.unique(values).tolist())


def read_photograph(path, trimap_size, frame, size):
    """A photograph in the orientation in which its trimap and box were drawn, and whether it was turned for that: None where
    its EXIF orientation asks for nothing."""
    def fit(shape):
        fits_frame = frame is not None and is_scaled(frame, shape)
        return is_scaled(trimap_size, shape), trimap_size == shape, fits_frame, frame == shape

    upright = decode(photographs.read, path, "photograph", at_least=size)
    lying = upright.size[::-1] if upright.orientation >= 5 else upright.size
    turned = upright.orientation > 1
    if fit(lying) > fit(upright.size):
        upright, turned = decode(photographs.read, path, "photograph", at_least=size, upright=False), False
    if not is_scaled(trimap_size, upright.size):
        raise Unusable("its trimap is {} x {} and the photograph {} x {}".format(*trimap_size, *upright.size))
    return upright, turned if upright.orientation > 1 else None


def is_scaled(size, other):
    """Whether two (width, height) have one aspect, to within a pixel."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def read_box(paths):
    """The head box of a PASCAL VOC file, the first where there are several; None where there is none. Raises Unusable."""
    if not paths:
        return None
    if len(paths) > 1:
        raise Unusable(f"{len(paths)} files have its name ({', '.join(show_name(path.name) for path in paths)})")
    try:
        tree = ElementTree.parse(paths[0])
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # down to an encoding that does not exist
        raise Unusable(f"its file cannot be read as XML ({getattr(error, 'strerror', None) or error})") from None
    if tree.find("object") is None:
        return None
    box = tree.find("object/bndbox")
    if box is None:
        raise Unusable("its object has no bndbox")
    corners = tuple(number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    stated = tree.find("size")
    frame = None if stated is None else tuple(number(stated, key, "0") for key in ("width", "height"))
    if frame and min(frame) < 0:
        raise Unusable("its frame is {:g} x {:g}".format(*frame))
    return Box(corners, frame if frame and min(frame) > 0 else None)


def number(element, key, default=""):
    """The finite number that an element's child holds."""
    text = (element.findtext(key) or "").strip() or default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Unusable(f"its {key} is {text[:40]!r}, no number" if text else f"it has no {key}")
    return value


def place_box(box, photograph):
    """A box relative to a photograph, (4,) xyxy in [0, 1], and whether it was cut at the frame. Raises Unusable."""
    width, height = photograph.size
    frame = box.frame or photograph.size
    if photograph.orientation >= 5 and is_scaled(frame, (height, width)) and not is_scaled(frame, (width, height)):
        raise Unusable("it was drawn on {:g} x {:g} and the photograph beside its trimap is {} x {}".format(
            *frame, width, height))
    corners, frame = np.array(box.corners), np.tile(np.array(frame, float), 2)
    shown = "the box {:g} {:g} {:g} {:g}".format(*corners) + " in a frame of {:g} x {:g}".format(*frame)
    if (corners < -1).any() or (corners > frame + 1).any():
        raise Unusable(f"{shown} is out of it")
    inside = np.clip(corners, 0, frame)
    relative = inside / frame
    if (relative[2:] - relative[:2] < MIN_BOX_SIDE).any():
        raise Unusable(f"{shown} is out of order or has no extent")
    return relative, bool((inside != corners).any())
