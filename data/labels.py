"""The record of one photograph, and the one place that judges its labels, from whatever source
they come.

A photograph is stored upright, as its EXIF orientation asks. Where its labels fit only the shape
in which it lies in its file - by the size of its mask, the frame that they state or, of a table's
box, the frame that holds it - they were drawn on that, and it stays so. Labels that fit both ways
follow those of the other photographs (`weigh`).

A box is relative to the frame that it states, or to the photograph where that states none or a
side of 0. One that reaches at most a pixel over the frame is cut there. A box that cannot be used
leaves its photograph without one.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data import photographs
from data.contract import UNLABELLED
from data.photographs import Unreadable, show_name

PET, BACKGROUND, BORDER = 1, 2, 3
MIN_BOX_SIDE = 1e-4  # of the frame's; less than what float32 tells apart in the largest pictures
UPRIGHT, STORED, BOTH = "upright", "stored", "both"
USED, NO_BOX_USED = "used", "boxes that cannot be used"  # what became of a label
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
FULL = "with a mask in which nothing is background"
COMMON = {TURNED, *MASKS.values()}  # may be said of a whole folder, so a few names are enough


class Unusable(Exception):
    """An image, or its box, cannot be used; the message is the reason."""


class UnusableMask(Unusable):
    """An image cannot be used because of its mask."""


@dataclass(frozen=True)
class Box:
    """A box as its source states it: xmin ymin xmax ymax in pixels of the frame (width, height),
    None for the photograph.

    is_upright: whether it is of that as one sees it. is_relative: whether its numbers are from 0
    to 1.
    """

    corners: tuple
    frame: tuple | None = None
    is_upright: bool = False
    is_relative: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """A photograph and what is known of it before it is opened.

    name      in index.csv; stratum: what is spread evenly over the splits, such as the breed.
    label     class 0 or 1, or 255 where it is unknown; cells: {column: text} of index.csv.
    split     where its source says that it belongs, or ""; group: what has to stay in one split
              with it, or "".
    mask      what reads its mask, as data/masks.py's MaskFile; None where there is none.
    shapes    what draws its mask and box, data/shapes.py's Shapes; None where there are none.
    box       a Box, the reason (text) why there is none that can be used, or None. labels: how
              many of these it has.
    drawn_on  UPRIGHT or STORED, where its labels alone do not tell on which they were drawn; else
              "".
    """

    name: str
    path: Path
    stratum: str = ""
    label: int = UNLABELLED
    cells: dict = field(default_factory=dict)
    split: str = ""
    group: str = ""
    mask: object = None
    shapes: object = None
    box: Box | str | None = None
    drawn_on: str = ""
    mask_word = "mask"
    box_word = "box"

    @property
    def labels(self):
        objects = len(self.shapes.objects) if self.shapes else 0
        return objects + (self.mask is not None) + (self.box is not None)

    def note_of_empty(self, is_boxed):
        """What the report says where no pixel of its mask is PET. Raises Unusable where that
        cannot be."""
        return NOTHING


@dataclass
class Source:
    """What a place has to give.

    where, needs  the place, and what it needs for a usable photograph, in words.
    records       sorted by name; left_out: (name, reason) of photographs that none is made of.
    columns       of index.csv that `cells` has; classes: names of the classes 0 and 1, or None.
    is_own        custom data, whose masks may be missing, and are refused where they cannot be
                  used; else such photographs are left out.
    has_border    whether its masks are trimaps.
    notes         {what: [(name, detail)]}, remarks and warnings: sentences for the report.
    total         how many labels it has; fates: what became of those that no record has.
    """

    where: Path
    needs: str
    records: list = field(default_factory=list)
    left_out: list = field(default_factory=list)
    remarks: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    columns: tuple = ()
    classes: tuple | None = None
    has_border: bool = False
    is_own: bool = True
    notes: dict = field(default_factory=dict)
    fates: Counter = field(default_factory=Counter)
    total: int = 0

    def note(self, what, name, detail=""):
        self.notes.setdefault(what, []).append((name, detail))


@dataclass
class Reading:
    """A record, read: image (PIL, RGB); mask (H, W) uint8 of PET, BACKGROUND, BORDER and
    UNLABELLED, or None; box (4,) xyxy relative to width and height, or None; notes [(what,
    detail)]; fates of its labels; fits: UPRIGHT, STORED, BOTH, or "" where there is nothing to
    fit."""

    image: Image.Image
    mask: np.ndarray | None = None
    box: np.ndarray | None = None
    notes: list = field(default_factory=list)
    fates: Counter = field(default_factory=Counter)
    fits: str = ""


def read(record, size):
    """Read one record for images of `size` pixels, a Reading. Raises Unusable."""

    def note(what, detail=""):
        reading.notes.append((in_words(record, what), detail))

    mask, notes = record.mask.read() if record.mask else (None, [])
    box, reason = record.box, None
    if isinstance(box, str):
        box, reason = None, box
    frame = box.frame if box else None
    mask_size = None if mask is None else mask.shape[::-1]
    if record.shapes:
        mask_size = record.shapes.frame
    photograph, turned, fits = read_photograph(record, (mask_size, frame, box), size)
    reading = Reading(photograph.image, mask, notes=notes, fits=fits)
    reading.fates[USED] += mask is not None
    if turned is not None:
        note(TURNED if turned else UNTURNED)
    if record.shapes:
        drawn = record.shapes.draw(photograph.size)
        reading.mask, box, reason = drawn.mask, drawn.box, drawn.reason
        reading.notes += drawn.notes
        reading.fates += drawn.fates
    if box:
        try:
            if box.is_upright and turned is False and mask is not None:
                raise Unusable(
                    f"it is of the upright photograph, and the {record.mask_word} fits that only "
                    "as it lies in its file"
                )
            reading.box, is_clipped = place_box(box, photograph)
            if is_clipped:
                note(CLIPPED)
        except Unusable as error:
            reason = str(error)
    if record.box is not None:
        reading.fates[NO_BOX_USED if reading.box is None else USED] += 1
    if reason:
        note(NO_BOX, reason)
    if reading.mask is not None:
        if not (reading.mask == PET).any():
            reading.notes.append((record.note_of_empty(bool(box or reason)), ""))
        elif not (reading.mask == BACKGROUND).any():
            reading.notes.append((FULL, ""))
    return reading


def in_words(record, what):
    """What the report says of a record, with the words of its source."""
    return what.replace("trimap", record.mask_word).replace("head box", record.box_word)


def decode(reader, path, what, fault=Unusable, **options):
    """What a reader of data/photographs.py makes of a file."""
    try:
        return reader(path, **options)
    except Unreadable as error:
        raise fault(f"its {what} cannot be decoded: {error}") from None
    except FileNotFoundError:  # a link that leads nowhere, or deleted meanwhile
        raise fault(f"its {what} cannot be decoded: there is no such file any more") from None


# -------------------------------------------------------------------------------------- orientation


def read_photograph(record, evidence, size):
    """A photograph in the orientation in which its labels were drawn.

    evidence: size of its mask, frame that its labels state, its Box; each may be None. Returns
    (Photograph, whether it was turned or None where EXIF asks for nothing, `fits` of a Reading).
    """
    mask_size, frame, box = evidence
    upright = decode(photographs.read, record.path, "photograph", at_least=size)
    if upright.orientation == 1:
        refuse_other_aspect(record, mask_size, upright.size)
        return upright, None, ""
    stored = upright.size[::-1] if upright.orientation >= 5 else upright.size
    as_seen, as_stored = (fit(mask_size, frame, box, one) for one in (upright.size, stored))
    fits = BOTH
    if as_seen != as_stored:
        fits = UPRIGHT if as_seen > as_stored else STORED
    elif not (mask_size or frame or record.shapes or (box and not box.is_relative)):
        fits = ""
    is_stored = fits == STORED or (fits == BOTH and record.drawn_on == STORED)
    if is_stored:
        upright = decode(photographs.read, record.path, "photograph", at_least=size, upright=False)
    refuse_other_aspect(record, mask_size, upright.size)
    return upright, not is_stored, fits


def fit(mask_size, frame, box, size):
    """How well labels fit a photograph of some size: the more, the larger."""
    fits_mask = mask_size is not None and is_scaled(mask_size, size)
    fits_frame = frame is not None and is_scaled(frame, size)
    holds_box = False
    if mask_size is None and box is not None and box.frame is None and not box.is_relative:
        holds_box = box.corners[2] <= size[0] + 1 and box.corners[3] <= size[1] + 1
    return fits_mask, mask_size == size, fits_frame, frame == size, holds_box


def refuse_other_aspect(record, mask_size, size):
    if mask_size and not is_scaled(mask_size, size):
        raise UnusableMask(
            "its {} is {} x {} and the photograph {} x {}".format(
                record.mask_word, *mask_size, *size
            )
        )


def is_scaled(size, other):
    """Whether two (width, height) have one aspect, to within a pixel."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def weigh(fits):
    """On which photographs labels were drawn that fit both ways, by those that fit one way only.

    fits: `fits` of all Readings. Returns UPRIGHT or STORED, or None where none tells, or both are
    told.
    """
    told = {one for one in fits if one in (UPRIGHT, STORED)}
    return told.pop() if len(told) == 1 else None


# -------------------------------------------------------------------------------------------- boxes


def read_xml(paths):
    """The one XML file that has a photograph's name. Raises Unusable."""
    if len(paths) > 1:
        raise Unusable(
            f"{len(paths)} files have its name "
            f"({', '.join(show_name(path.name) for path in paths)})"
        )
    try:
        return ElementTree.parse(paths[0])
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        # down to an encoding that does not exist
        reason = getattr(error, "strerror", None) or error
        raise Unusable(f"its file cannot be read as XML ({reason})") from None


def box_of(tree, box):
    """The Box that an element bndbox of a PASCAL VOC file states. Raises Unusable, also where
    there is none."""
    if box is None:
        raise Unusable("its object has no bndbox")
    corners = tuple(number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    stated = tree.find("size")
    frame = None
    if stated is not None:
        frame = tuple(number(stated, key, "0") for key in ("width", "height"))
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
    """A box relative to a photograph, (4,) xyxy in [0, 1], and whether it was cut at the frame.
    Raises Unusable."""
    size = photograph.size
    frame = (1, 1) if box.is_relative else box.frame or size
    if not box.is_relative and not is_scaled(frame, size):
        raise Unusable(
            "it was drawn on {:g} x {:g} and the photograph is {} x {}".format(*frame, *size)
        )
    corners, sides = np.array(box.corners), np.tile(np.array(frame, float), 2)
    shown = "the box {:g} {:g} {:g} {:g} in a frame of {:g} x {:g}".format(*corners, *frame)
    if (corners < -1).any() or (corners > sides + 1).any():
        raise Unusable(f"{shown} is out of it")
    inside = np.clip(corners, 0, sides)
    relative = inside / sides
    if (relative[2:] - relative[:2] < MIN_BOX_SIDE).any():
        raise Unusable(f"{shown} is out of order or has no extent")
    return relative, bool((inside != corners).any())
