"""The outlines of a photograph's objects, drawn by pycocotools: polygons and run lengths (RLE),
held against frame and box.

The mask is the union of the objects. A polygon may reach two pixels over the frame and is cut
there; one that reaches further was made for another frame, and is refused. One without area is
passed over. One object alone gives the box: the one that its annotation states, where that is the
outline's extent to within two pixels, else the extent.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from data.labels import BACKGROUND, PET, USED, Box, UnusableMask
from data.names import quoted

MOST_OVER = 2  # pixels over the frame, and between a box and the outline's extent
MOST_AREA_OFF = 0.1  # of the area that an annotation states
POLYGONS, RUNS = "masks of polygons", "masks of run lengths (RLE)"
CROWDS = "masks with crowds, which count as their category does"
CUT = "outlines cut at the frame, over which they reached by at most two pixels"
POINTS = "polygons of less than three different points, passed over"
NO_AREA = "objects without area, passed over"
BOX_ONLY = "unlabelled, as an object has a box and no outline"
NOT_ONE_BOX = "without a box, as they show several objects"
CROWD_BOX = "without a box, as their only object is marked as a crowd"
OTHER_BOX = "boxes that are not the extent of their object's outline, which is taken instead"
OTHER_AREA = (
    "objects whose outline has another area than their annotation states (holes are filled)"
)


@dataclass(frozen=True, kw_only=True)
class Object:
    """One annotation. number: its id; outline: polygons, run lengths or None; box: x, y, width,
    height as it stands, or None."""

    number: str
    category: str = ""
    outline: list | dict | None = None
    box: object = None
    is_crowd: bool = False
    area: object = None


@dataclass
class Drawing:
    """mask (H, W) uint8 or None; box: a Box or None; reason: why there is none, or None; notes and
    fates as a Reading's."""

    mask: np.ndarray | None = None
    box: Box | None = None
    reason: str | None = None
    notes: list = field(default_factory=list)
    fates: Counter = field(default_factory=Counter)

    def note(self, what, detail=""):
        if (what, detail) not in self.notes:
            self.notes.append((what, detail))


@dataclass(frozen=True)
class Shapes:
    """The objects of a photograph that count. frame: (width, height) as the file states it, None
    for the photograph's; has_masks: whether objects of this set have outlines at all, so that a
    photograph without an object is background."""

    objects: tuple
    frame: tuple | None
    has_masks: bool = True

    def draw(self, size):
        """A Drawing for a photograph of a size (width, height). Raises UnusableMask."""
        width, height = self.frame or size
        drawing, extents = Drawing(), []
        mask = np.full((height, width), BACKGROUND, np.uint8)
        for one in self.objects:
            extent = None
            if one.outline is not None:
                try:
                    pixels, extent = draw(one.outline, (width, height), drawing)
                except ValueError as error:
                    raise UnusableMask(
                        f"its annotation {one.number} cannot be drawn: {error}"
                    ) from None
                if one.is_crowd:
                    drawing.note(CROWDS)
                judge_area(one, int(pixels.sum()), drawing)
                mask[pixels.astype(bool)] = PET
            elif one.box is not None:
                extent = "box"
            if extent is None:
                drawing.note(NO_AREA, f"annotation {one.number}")
                drawing.fates["without area"] += 1
            else:
                drawing.fates[USED] += 1
                extents.append((one, None if extent == "box" else extent))
        self.judge(drawing, mask, extents)
        return drawing

    def judge(self, drawing, mask, extents):
        """What the objects that were drawn say of mask and box. extents: [(Object, (x1, y1, x2,
        y2) or None)]."""
        boxes_alone = [one for one, extent in extents if extent is None]
        if self.has_masks and boxes_alone:
            drawing.note(BOX_ONLY, f"annotation {boxes_alone[0].number}")
        elif self.has_masks and (extents or not self.objects):
            drawing.mask = mask
        if len(extents) > 1:
            drawing.note(NOT_ONE_BOX)
        elif extents:
            one, extent = extents[0]
            if one.is_crowd:
                drawing.note(CROWD_BOX)
            else:
                choose_box(one, extent, self.frame, mask.shape[::-1], drawing)


def choose_box(one, extent, frame, size, drawing):
    """The box of a photograph's only object, from its annotation and its outline's extent."""
    corners = None
    if is_numbers(one.box) and len(one.box) == 4:
        x, y, width, height = one.box
        corners = (x, y, x + width, y + height)
    if extent is None:
        if corners is None:
            drawing.reason = f"its bbox is {quoted(one.box)} and should be x, y, width and height"
            return
    elif corners is None or np.abs(np.subtract(corners, extent)).max() > MOST_OVER:
        if one.box is not None:
            shown = ", ".join(f"{value:g}" for value in extent)
            drawing.note(OTHER_BOX, f"bbox {quoted(one.box)}, outline x1, y1, x2, y2: {shown}")
        corners = extent
    else:
        corners = tuple(np.clip(corners, 0, (*size, *size)).tolist())
    drawing.box = Box(corners, frame)


def judge_area(one, pixels, drawing):
    """Note an outline of several rings whose area is not the one that is stated, as where a ring
    is a hole."""
    rings = one.outline if isinstance(one.outline, list) else []
    is_stated = len(rings) > 1 and type(one.area) in (int, float) and one.area > 0
    if is_stated and abs(pixels - one.area) > MOST_AREA_OFF * one.area + len(rings) * 8:
        drawing.note(OTHER_AREA, f"annotation {one.number}: {pixels} pixels, area {one.area:g}")


def draw(outline, size, drawing):
    """((H, W) uint8 of 0 and 1, the extent x1, y1, x2, y2 or None without area). Raises ValueError
    with the reason."""
    from pycocotools import mask as coco  # here, as only this needs it

    width, height = size
    if isinstance(outline, list):
        drawing.note(POLYGONS)
        rings = [ring for ring in outline if judge_ring(ring, size, drawing)]
        if not rings:
            return np.zeros((height, width), np.uint8), None
        pixels = coco.decode(coco.merge(coco.frPyObjects(rings, height, width)))
        points = np.array([value for ring in rings for value in ring], float).reshape(-1, 2)
        points = np.clip(points, 0, size)
        extent = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    else:
        drawing.note(RUNS)
        pixels = coco.decode(coco.frPyObjects(checked_runs(outline, size), height, width))
        x, y, w, h = coco.toBbox(coco.encode(np.asfortranarray(pixels))).tolist()
        extent = (x, y, x + w, y + h)
    return pixels, extent if pixels.any() else None


def judge_ring(ring, size, drawing):
    """Whether a polygon encloses anything. Raises ValueError where it is none, or is of another
    frame."""
    if not is_numbers(ring) or len(ring) % 2:
        raise ValueError("a polygon should be a list of numbers, x and y of each point")
    xs, ys = ring[::2], ring[1::2]
    if len(set(zip(xs, ys, strict=True))) < 3:
        drawing.note(POINTS, f"{len(xs)} points")
        return False
    if min(ring) >= 0 and max(ring) <= 1:
        raise ValueError(
            "a polygon ends in the first pixel, as if it were in [0, 1]; multiply it by width and "
            "height"
        )
    over = max(-min(xs), -min(ys), max(xs) - size[0], max(ys) - size[1])
    if over > MOST_OVER:
        raise ValueError(
            "a polygon reaches from {:g}, {:g} to {:g}, {:g} in a frame of {} x {}; export it for "
            "that size".format(min(xs), min(ys), max(xs), max(ys), *size)
        )
    if over > 0:
        drawing.note(CUT, f"by {over:.2g} pixels")
    return True


def checked_runs(outline, size):
    """Run lengths for pycocotools, which does not look: what too short ones leave out would be
    whatever lay in memory."""
    width, height = size
    if outline.get("size") != [height, width]:
        raise ValueError(
            f"its size is {quoted(outline.get('size'))} and should be [{height}, {width}]"
        )
    counts = outline["counts"]
    counts = unpack(counts) if isinstance(counts, str) else counts
    is_whole = all(type(count) is int and count >= 0 for count in counts)
    if not is_whole or sum(counts) != height * width:
        raise ValueError(f"its run lengths should be whole numbers that add up to {height * width}")
    return {"size": [height, width], "counts": counts}


def unpack(text):
    """The run lengths that COCO packs into text: 5 bits a letter, the lowest first, the sixth
    where more follow; from the fourth on what each has more than the one two before. Raises
    ValueError."""
    counts, value, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its counts are no run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the highest bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def is_numbers(values):
    if not isinstance(values, list):
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)
