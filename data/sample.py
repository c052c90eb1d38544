"""One photograph with its mask and its box, as data_prepare.py reads them, from whatever source.

A photograph is stored upright, as its EXIF orientation asks. Where only the shape in which it lies in its file fits the
mask - or, where the mask fits both, the size that the box file states - mask and box were drawn on that, and it stays so.

A trimap holds 1 (pet), 2 (background) and 3 (border), some of them or all. A mask of 0 and 1, 0 and 255 or 0 and 65535 is
read as one without border, where 0 is background and the other number pet; 1 alone is pet all over either way. Anything else
is refused. What masks of one's own may hold is said in data/masks.py.

A box is relative to the frame that its file states, or to the photograph where the file states none or a side of 0. One
that reaches at most a pixel over the frame is cut there. A box that cannot be used leaves its photograph without one.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import cli
from data import photographs
from data.contract import UNLABELLED
from data.photographs import Unreadable, show_name

PET, BACKGROUND, BORDER = 1, 2, 3
MIN_BOX_SIDE = 1e-4  # of the frame's; less than what float32 tells apart in the largest pictures
# What there is to say of a sample that is used all the same, as the report says it.
TURNED = "turned upright, as their EXIF orientation says"
UNTURNED = (
    "not turned as their EXIF orientation says, because only so they fit their trimap or box file"
)
MASKS = {
    white: f"masks of 0 and {white} read as trimaps ({white} pet, 0 background, no border)"
    for white in (1, 255, 65535)
}
CLIPPED = "head boxes cut at the frame, over which they reached by at most a pixel"
NO_BOX = "without a head box, because it cannot be used"
EMPTY = "kept with an empty mask, as neither list.txt nor a head box says that they show a pet"
NOTHING = "with a mask in which nothing is foreground"
COMMON = {TURNED, *MASKS.values()}  # may be said of a whole folder, so a few names are enough


class Unusable(Exception):
    """An image, or its box, cannot be used; the message is the reason."""


class UnusableMask(Unusable):
    """An image cannot be used because of its mask."""


@dataclass(frozen=True)
class Box:
    """A box as its source states it: xmin ymin xmax ymax in pixels, and the frame (width, height) or None, which is the
    photograph; is_upright: whether it is relative to that as one sees it, however it lies in its file."""

    corners: tuple
    frame: tuple | None
    is_upright: bool = False


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A photograph and what is known of it before it is opened. Each source has a class of its own that reads mask and box.

    stratum  what is spread evenly over the splits, such as the breed.
    label    class 0 or 1, or 255 where it is unknown; cells: {column: text} of index.csv, beside row, name and has_box.
    split    the one to which its source says that it belongs, or "".
    """

    name: str
    image_path: Path
    stratum: str = ""
    label: int = UNLABELLED
    cells: dict = field(default_factory=dict)
    split: str = ""
    # What its mask and its box are called in messages.
    mask_word, box_word = "mask", "box"

    def read_mask(self):
        """((H, W) uint8 of PET, BACKGROUND, BORDER and UNLABELLED, notes as read_sample's); (None, []) where there is none.
        Raises UnusableMask."""
        return None, []

    def read_box(self):
        """Its Box, or None where there is none. Raises Unusable where it cannot be used."""
        return None

    def note_of_empty(self, is_boxed):
        """What the report says of it where no pixel of its mask is PET. Raises Unusable where that cannot be."""
        return NOTHING


@dataclass
class Source:
    """What a place has to give: samples, sorted by name; (name, reason) of each photograph that is left out; sentences about
    what else there is.

    where, needs  the place, and what it needs for a usable photograph, in words.
    columns       of index.csv that `cells` of its samples have; classes: names of the classes 0 and 1, None where no file
                  is to tell them.
    is_own        whether it is one's own, whose masks may be missing and have unlabelled pixels, and are refused where they
                  cannot be used; else such photographs are left out. has_border: whether its masks are trimaps.
    """

    where: Path
    needs: str
    samples: list = field(default_factory=list)
    left_out: list = field(default_factory=list)
    remarks: list = field(default_factory=list)
    columns: tuple = ()
    classes: tuple | None = None
    has_border: bool = False
    is_own: bool = True


def read_sample(sample, size):
    """Read one sample for images of `size` pixels.

    Returns (PIL image in RGB, mask (H, W) uint8 of PET, BACKGROUND, BORDER and UNLABELLED or None, box, notes); the box is
    (4,) xyxy relative to width and height, or None; notes are pairs of what the report says of such samples and a detail, ""
    mostly. Raises Unusable.
    """

    def note(what, detail=""):
        return what.replace("trimap", sample.mask_word).replace("head box", sample.box_word), detail

    mask, notes = sample.read_mask()
    try:
        box, reason = sample.read_box(), None
    except Unusable as error:
        box, reason = None, str(error)
    sizes = None if mask is None else mask.shape[::-1], box.frame if box else None
    photograph, turned = read_photograph(sample, *sizes, size)
    if turned is not None:
        notes.append(note(TURNED if turned else UNTURNED))
    placed = None
    if box:
        try:
            if box.is_upright and turned is False:
                raise Unusable(
                    f"it is of the upright photograph, and the {sample.mask_word} fits that only as it lies in "
                    "its file"
                )
            placed, clipped = place_box(box, photograph, sample.mask_word)
            notes += [note(CLIPPED)] * clipped
        except Unusable as error:
            reason = str(error)
    if reason:
        notes.append(note(NO_BOX, reason))
    if mask is not None and not (mask == PET).any():
        notes.append((sample.note_of_empty(bool(box or reason)), ""))
    return photograph.image, mask, placed, notes


def decode(reader, path, what, fault=Unusable, **options):
    """What a reader of data/photographs.py makes of a file."""
    try:
        return reader(path, **options)
    except Unreadable as error:
        raise fault(f"its {what} cannot be decoded: {error}") from None
    except FileNotFoundError:  # a link that leads nowhere, or deleted meanwhile
        raise fault(f"its {what} cannot be decoded: there is no such file any more") from None


def read_trimap(path):
    """A trimap (H, W) uint8 of PET, BACKGROUND and BORDER, and the number that was pet where the file is a mask, or None."""
    values = decode(photographs.read_mask, path, "trimap", UnusableMask)
    found = distinct(values)
    if found <= {PET, BACKGROUND, BORDER}:
        return values.astype(np.uint8, copy=False), None
    for white in MASKS:
        if found <= {0, white}:
            return np.where(
                values == white, np.uint8(PET), np.uint8(BACKGROUND)
            ), white if white in found else None
    raise UnusableMask(
        f"its trimap holds {listed(found)}; it should hold 1 (pet), 2 (background) and 3 (border), or 0 "
        "(background) and 1 or 255 (pet)"
    )


def listed(found):
    """Some numbers in words: the values 0, 1, 7."""
    return f"the value{'s' * (len(found) > 1)} {cli.listed([str(value) for value in sorted(found)], most=6)}"


def distinct(values):
    """The set of the numbers in an integer array."""
    if values.dtype == np.uint8:  # Pillow counts in a fraction of the time and memory of sorting
        return {value for value, count in enumerate(Image.fromarray(values).histogram()) if count}
    return set(np.unique(values).tolist())


def read_photograph(sample, mask_size, frame, size):
    """A photograph in the orientation in which its mask and box were drawn, where there are any, and whether it was turned
    for that: None where its EXIF orientation asks for nothing."""

    def fit(shape):
        fits_mask, fits_frame = (
            drawn_on is not None and is_scaled(drawn_on, shape) for drawn_on in (mask_size, frame)
        )
        return fits_mask, mask_size == shape, fits_frame, frame == shape

    path = sample.image_path
    upright = decode(photographs.read, path, "photograph", at_least=size)
    lying = upright.size[::-1] if upright.orientation >= 5 else upright.size
    turned = upright.orientation > 1
    if fit(lying) > fit(upright.size):
        upright, turned = (
            decode(photographs.read, path, "photograph", at_least=size, upright=False),
            False,
        )
    if mask_size and not is_scaled(mask_size, upright.size):
        raise UnusableMask(
            "its {} is {} x {} and the photograph {} x {}".format(
                sample.mask_word, *mask_size, *upright.size
            )
        )
    return upright, turned if upright.orientation > 1 else None


def is_scaled(size, other):
    """Whether two (width, height) have one aspect, to within a pixel."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def read_box(paths):
    """The head box of a PASCAL VOC file, the first where there are several; None where there is none. Raises Unusable."""
    if not paths:
        return None
    tree = read_xml(paths)
    if tree.find("object") is None:
        return None
    return box_of(tree, tree.find("object/bndbox"))


def read_xml(paths):
    """The one XML file that has a photograph's name. Raises Unusable."""
    if len(paths) > 1:
        raise Unusable(
            f"{len(paths)} files have its name ({', '.join(show_name(path.name) for path in paths)})"
        )
    try:
        return ElementTree.parse(paths[0])
    except (
        ElementTree.ParseError,
        OSError,
        ValueError,
        LookupError,
    ) as error:  # down to an encoding that does not exist
        raise Unusable(
            f"its file cannot be read as XML ({getattr(error, 'strerror', None) or error})"
        ) from None


def box_of(tree, box):
    """The Box that an element bndbox of a PASCAL VOC file states. Raises Unusable, also where there is none."""
    if box is None:
        raise Unusable("its object has no bndbox")
    corners = tuple(number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    stated = tree.find("size")
    frame = (
        None if stated is None else tuple(number(stated, key, "0") for key in ("width", "height"))
    )
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


def place_box(box, photograph, mask_word="mask"):
    """A box relative to a photograph, (4,) xyxy in [0, 1], and whether it was cut at the frame. Raises Unusable."""
    width, height = photograph.size
    frame = box.frame or photograph.size
    if (
        photograph.orientation >= 5
        and is_scaled(frame, (height, width))
        and not is_scaled(frame, (width, height))
    ):
        raise Unusable(
            "it was drawn on {:g} x {:g} and the photograph beside its {} is {} x {}".format(
                *frame, mask_word, width, height
            )
        )
    corners, frame = np.array(box.corners), np.tile(np.array(frame, float), 2)
    shown = "the box {:g} {:g} {:g} {:g}".format(*corners) + " in a frame of {:g} x {:g}".format(
        *frame
    )
    if (corners < -1).any() or (corners > frame + 1).any():
        raise Unusable(f"{shown} is out of it")
    inside = np.clip(corners, 0, frame)
    relative = inside / frame
    if (relative[2:] - relative[:2] < MIN_BOX_SIDE).any():
        raise Unusable(f"{shown} is out of order or has no extent")
    return relative, bool((inside != corners).any())
