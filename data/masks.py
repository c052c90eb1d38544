"""What the values of a mask of one's own mean: which of its pixels are foreground.

| a file of                                  | foreground            | unlabelled |
|---|---|---|
| 0 and 1, 0 and 255, 0 and 65535, 1 bit     | the number beside 0   |            |
| 0, 1 and 255                               | 1                     | 255        |
| a cut-out: a picture transparent in places | at least half opaque  |            |
| any whole numbers, with --foreground 1 5   | 1 and 5               | 255        |
| 1, 2 and 3, with --trimaps                 | 1; 3 as --border says |            |

Of a picture with a palette the numbers are its indices, as in PASCAL VOC's masks. Every file is read by itself; that 255 is
foreground in some files of a folder and unlabelled in others is refused. Whatever fits no line is refused by name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
from cli import InputError
from data import photographs
from data.contract import UNLABELLED
from data.photographs import Unreadable, show_name
from data.sample import (
    BACKGROUND,
    MASKS,
    NOTHING,
    PET,
    UnusableMask,
    decode,
    distinct,
    listed,
    read_trimap,
)

OPAQUE = 128  # of 255: from here on a pixel of a cut-out is foreground
TWO = {white: f"masks of 0 and {white}: {white} is foreground, 0 background" for white in MASKS}
ONE = {
    0: "masks of 0 alone: all is background",
    **{white: f"masks of {white} alone: all is foreground" for white in MASKS},
}
THREE = "masks of 0, 1 and 255: 1 is foreground, 0 background, 255 unlabelled"
CUT_OUT = "cut-outs: what is at least half opaque is foreground, the rest background"
TRIMAP = "trimaps: 1 is the pet, 2 background, 3 border"
VOID = f"masks in which {UNLABELLED} is unlabelled"
OTHERS = "masks in which other numbers beside 0 are background"


@dataclass(frozen=True)
class MaskFile:
    """A mask's file and how its numbers are to be read; foreground: the numbers of --foreground, () for the usual rules."""

    path: Path
    foreground: tuple = ()
    is_trimap: bool = False

    def read(self):
        """((H, W) uint8 of PET, BACKGROUND, BORDER and UNLABELLED, notes as in data/sample.py). Raises UnusableMask."""
        if self.is_trimap:
            values, white = read_trimap(self.path)
            return values, [(TRIMAP if white is None else MASKS[white], "")]
        opacity = None if self.foreground else decode(opacity_of, self.path, "mask", UnusableMask)
        if opacity is not None:
            return np.where(opacity >= OPAQUE, np.uint8(PET), np.uint8(BACKGROUND)), [(CUT_OUT, "")]
        values = decode(photographs.read_mask, self.path, "mask", UnusableMask)
        return by_numbers(values, self.foreground) if self.foreground else by_rule(values)


def by_rule(values):
    """A mask whose numbers say by themselves what is foreground. Raises UnusableMask."""
    found = distinct(values)
    for white in MASKS:
        if found <= {0, white}:
            note = TWO[white] if len(found) == 2 else ONE[min(found)]
            return np.where(values == white, np.uint8(PET), np.uint8(BACKGROUND)), [(note, "")]
    if not found <= {0, 1, UNLABELLED}:
        ways = ["where they are classes, name those that count with --foreground"]
        ways += ["where they are trimaps (1 pet, 2 background, 3 border), add --trimaps"] * (
            found <= {1, 2, 3}
        )
        raise UnusableMask(
            f"its mask holds {listed(found)}; it should hold 0 and 1, or 0 and 255, or be transparent around "
            f"the foreground; {', and '.join(ways)}"
        )
    return coded(values, {1}), [(THREE, "")]


def by_numbers(values, foreground):
    """A mask in which the numbers of `foreground` count and all others do not."""
    found, special = distinct(values), {*foreground, UNLABELLED}
    notes = [(chosen(number), "") for number in sorted(found.intersection(foreground))]
    notes += [(VOID, "")] * (UNLABELLED in found - set(foreground)) + [(OTHERS, "")] * bool(
        found - special - {0}
    )
    return coded(values, found.intersection(foreground)), notes


def chosen(number):
    """What the report says of masks that hold a number of --foreground."""
    return f"masks in which {number} is foreground"


def coded(values, foreground):
    """PET where `values` holds a number of `foreground`, UNLABELLED at other 255, BACKGROUND elsewhere; (H, W) uint8."""
    result = np.full(values.shape, BACKGROUND, np.uint8)
    result[values == UNLABELLED] = UNLABELLED
    for number in foreground:
        result[values == number] = PET
    return result


def opacity_of(path):
    """The opacity (H, W) uint8 of a picture, or None where it is the same everywhere."""
    with photographs.opened(path) as image:
        has_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
        if not has_alpha and (
            "transparency" not in image.info or image.mode not in ("1", "L", "P", "RGB")
        ):
            return None
        photographs.load(image)
        *colours, opacity = image.convert("RGBA").split()
        if opacity.getextrema()[0] == opacity.getextrema()[1]:
            return None
        seen = opacity.point(lambda value: 255 * (value >= OPAQUE))
        counts = [np.array(colour.histogram(seen)) for colour in colours]
        if all(
            np.flatnonzero(count).tolist() == [0, 255] and (count == counts[0]).all()
            for count in counts
        ):
            raise Unreadable(
                "where it is opaque it is black and white, which is a mask by itself and another one than its "
                "transparency; save one of the two alone"
            )
        return np.asarray(opacity).copy()


def check(notes, n_masks, foreground=()):
    """Refuse readings that cannot all be right, and warn of a number of --foreground that no mask holds.

    notes: {what the report says: [(name, detail)]}; n_masks: how many masks were read; foreground: words of --foreground.
    """
    if n_masks and len(notes.get(NOTHING, ())) == n_masks:
        read_as = "; ".join(
            f"{what}: {len(found)}" for what, found in notes.items() if "masks" in what
        )
        raise InputError(
            f"nothing is foreground in any of the {n_masks} masks ({read_as or 'they name none'}); look at "
            "what they hold, and say with --foreground what counts"
        )
    if notes.get(THREE) and notes.get(TWO[255]):
        both = [
            f"{len(notes[what])} masks ({show_name(notes[what][0][0])})"
            for what in (THREE, TWO[255])
        ]
        raise InputError(
            f"255 lies beside 1 in {both[0]}, where it is unlabelled, and alone with 0 in {both[1]}, where it "
            "would be foreground; add --foreground 1 where it is unlabelled in all of them, or write all alike"
        )
    missing = [word for word in foreground if word.isdigit() and chosen(int(word)) not in notes]
    if missing and any(
        what.startswith("masks in which") for what in notes
    ):  # numbers may be names of a COCO file
        cli.warn(
            f"none of the {n_masks} masks holds {', '.join(missing)}, which --foreground names"
        )
