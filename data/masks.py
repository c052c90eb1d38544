"""What the values of a mask mean: which of its pixels are foreground.

| a file of                                  | foreground            | unlabelled |
|---|---|---|
| 0 and 1, 0 and 255, 0 and 65535, 1 bit     | the number beside 0   |            |
| 0, 1 and 255                               | 1                     | 255        |
| a cut-out: a picture transparent in places | at least half opaque  |            |
| any whole numbers, with --foreground 1 5   | 1 and 5               | 255        |
| the same, with --foreground all            | all but 0             | 255        |
| grey edges (JPEG), with --threshold 128    | 128 and more          |            |
| 1, 2 and 3, with --trimaps                 | 1; 3 as --border says |            |

Of a picture with a palette the numbers are its indices, as in PASCAL VOC's masks; of one in
colours they are those of a labelmap.txt beside its folder. Every file is read by itself; that 255
is foreground in some files of a folder and unlabelled in others is refused. Whatever fits no line
is refused by name.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

import cli
from cli import InputError
from data import photographs
from data.contract import UNLABELLED
from data.labels import BACKGROUND, FULL, MASKS, NOTHING, PET, UnusableMask, decode
from data.photographs import Unreadable, show_name

OPAQUE = 128  # of 255: from here on a pixel of a cut-out is foreground
ALL = "all"  # the word of --foreground for all but 0
MOST_VALUES, NEAR_END, MOST_BETWEEN = 8, 48, 0.25  # of a mask with grey edges: see is_soft
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
EVERY = "masks in which all numbers but 0 are foreground"
WHITE = f"masks of 0 and {UNLABELLED} in which {UNLABELLED} is no unlabelled pixel"
JOINED = "masks joined of several files"


@dataclass(frozen=True)
class Rule:
    """How the numbers of masks are to be read.

    foreground: the numbers of --foreground, ALL, or () for the usual rules; threshold: of
    --threshold, or None; colours: ((red, green, blue), number) of each class of a labelmap.txt.
    """

    foreground: tuple | str = ()
    is_trimap: bool = False
    threshold: int | None = None
    colours: tuple = ()


@dataclass(frozen=True)
class MaskFile:
    """The file of a mask, or several that are joined, and how to read it."""

    paths: tuple
    rule: Rule = Rule()

    def read(self):
        """((H, W) uint8 of PET, BACKGROUND, BORDER and UNLABELLED, notes [(what, detail)]). Raises
        UnusableMask."""
        values, notes = read_one(self.paths[0], self.rule)
        for path in self.paths[1:]:
            others, more = read_one(path, self.rule)
            if others.shape != values.shape:
                raise UnusableMask(f"its masks differ in size ({show_name(path.name)})")
            values = np.where(others == PET, others, values)
            notes += [note for note in more if note not in notes]
        if len(self.paths) > 1:
            notes.append((JOINED, ""))
        return values, notes


def read_one(path, rule):
    if rule.is_trimap:
        values, white = read_trimap(path)
        return values, [(TRIMAP if white is None else MASKS[white], "")]
    if rule.threshold is not None:
        values = decode(photographs.read_grey, path, "mask", UnusableMask)
        note = f"masks in which {rule.threshold} and more is foreground"
        return np.where(values >= rule.threshold, np.uint8(PET), np.uint8(BACKGROUND)), [(note, "")]
    if rule.colours:
        values = decode(photographs.read_mask, path, "mask", UnusableMask, colours=rule.colours)
    elif not rule.foreground:
        opacity = decode(opacity_of, path, "mask", UnusableMask)
        if opacity is not None:
            values = np.where(opacity >= OPAQUE, np.uint8(PET), np.uint8(BACKGROUND))
            return values, [(CUT_OUT, "")]
    if not rule.colours:
        values = decode(photographs.read_mask, path, "mask", UnusableMask)
    return by_numbers(values, rule.foreground) if rule.foreground else by_rule(values)


def read_trimap(path):
    """A trimap (H, W) uint8 of PET, BACKGROUND and BORDER, and the number that was pet where the
    file is a mask, or None."""
    values = decode(photographs.read_mask, path, "trimap", UnusableMask)
    found = distinct(values)
    if found <= {1, 2, 3}:
        return values.astype(np.uint8, copy=False), None
    for white in MASKS:
        if found <= {0, white}:
            trimap = np.where(values == white, np.uint8(PET), np.uint8(BACKGROUND))
            return trimap, white if white in found else None
    raise UnusableMask(
        f"its trimap holds {listed(found)}; it should hold 1 (pet), 2 (background) and 3 "
        "(border), or 0 (background) and 1 or 255 (pet)"
    )


def listed(found):
    """Some numbers in words: the values 0, 1, 7."""
    return (
        f"the value{'s' * (len(found) > 1)} "
        f"{cli.listed([str(value) for value in sorted(found)], most=6)}"
    )


def distinct(values):
    """The set of the numbers in an integer array."""
    if values.dtype == np.uint8:  # Pillow counts in a fraction of the time and memory of sorting
        return {value for value, count in enumerate(Image.fromarray(values).histogram()) if count}
    return set(np.unique(values).tolist())


def is_soft(values, found):
    """Whether a mask's many values crowd at two ends, as compression (JPEG) and blurred edges make
    it."""
    low, high = min(found), max(found)
    if len(found) <= MOST_VALUES or high - low < 2 * NEAR_END:
        return False
    near = NEAR_END * (high - low) / 255
    between = np.count_nonzero((values > low + near) & (values < high - near))
    return between <= MOST_BETWEEN * values.size


def by_rule(values):
    """A mask whose numbers say by themselves what is foreground. Raises UnusableMask."""
    found = distinct(values)
    for white in MASKS:
        if found <= {0, white}:
            note = TWO[white] if len(found) == 2 else ONE[min(found)]
            return np.where(values == white, np.uint8(PET), np.uint8(BACKGROUND)), [(note, "")]
    refuse_soft(values, found)
    if not found <= {0, 1, UNLABELLED}:
        ways = ["where they are classes, name those that count with --foreground NUMBER ..."]
        ways[0] += ", or all but 0 with --foreground all"
        if found <= {1, 2, 3}:
            ways.append("where they are trimaps (1 pet, 2 background, 3 border), add --trimaps")
        if {0, 255} <= found:
            ways.append("where they are grey edges, add --threshold 128")
        raise UnusableMask(
            f"its mask holds {listed(found)}; it should hold 0 and 1, or 0 and 255, or be "
            f"transparent around the foreground; {', and '.join(ways)}"
        )
    return coded(values, {1}), [(THREE, "")]


def refuse_soft(values, found):
    if is_soft(values, found):
        half = (min(found) + max(found) + 1) // 2
        raise UnusableMask(
            f"its mask's many values crowd at {min(found)} and {max(found)}, as JPEG and blurred "
            f"edges make it; add --threshold {half}, or save masks as PNG with two values"
        )


def by_numbers(values, foreground):
    """A mask in which the numbers of `foreground` count and all others do not. Raises
    UnusableMask."""
    found = distinct(values)
    refuse_soft(values, found)
    numbers = found - {0} if foreground == ALL else found.intersection(foreground)
    is_white = found <= {0, UNLABELLED} and UNLABELLED in found
    if foreground == ALL:
        numbers = numbers if is_white else numbers - {UNLABELLED}
        notes = [(EVERY, "")] if numbers else []
    else:
        notes = [(chosen(number), "") for number in sorted(numbers)]
    has_void = UNLABELLED in found - numbers
    if is_white and foreground != ALL and 0 in foreground:
        has_void = False  # black objects on white ground
    if is_white and not has_void:
        notes.append((WHITE, ""))
    if has_void:
        notes.append((VOID, ""))
    if found - numbers - {0, UNLABELLED}:
        notes.append((OTHERS, ""))
    return coded(values, numbers, has_void), notes


def chosen(number):
    """What the report says of masks that hold a number of --foreground."""
    return f"masks in which {number} is foreground"


def coded(values, foreground, has_void=True):
    """PET where `values` holds a number of `foreground`, UNLABELLED at other 255, BACKGROUND
    elsewhere; (H, W) uint8."""
    result = np.full(values.shape, BACKGROUND, np.uint8)
    if has_void:
        result[values == UNLABELLED] = UNLABELLED
    for number in foreground:
        result[values == number] = PET
    return result


def opacity_of(path):
    """The opacity (H, W) uint8 of a picture, or None where it is the same everywhere."""
    with photographs.opened(path) as image:
        has_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
        may_have = "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
        if not has_alpha and not may_have:
            return None
        photographs.load(image)
        *colours, opacity = image.convert("RGBA").split()
        if opacity.getextrema()[0] == opacity.getextrema()[1]:
            return None
        seen = opacity.point(lambda value: 255 * (value >= OPAQUE))
        counts = np.array([colour.histogram(seen) for colour in colours])
        is_grey = (counts == counts[0]).all()
        if is_grey and np.flatnonzero(counts[0]).tolist() == [0, 255]:
            raise Unreadable(
                "where it is opaque it is black and white, which is a mask by itself and another "
                "one than its transparency; save one of the two alone"
            )
        return np.asarray(opacity).copy()


def check(notes, n_masks, foreground=()):
    """Refuse readings that cannot all be right, and warn of a number of --foreground that no mask
    holds.

    notes: {what the report says: [(name, detail)]}; n_masks: how many masks were read; foreground:
    words of --foreground.
    """
    for note, what in ((NOTHING, "foreground"), (FULL, "background")):
        if n_masks and len(notes.get(note, ())) == n_masks:
            kinds = [f"{kind}: {len(found)}" for kind, found in notes.items() if "masks" in kind]
            raise InputError(
                f"nothing is {what} in any of the {n_masks} masks "
                f"({'; '.join(kinds) or 'they name none'}); look at what they hold, and say with "
                "--foreground what counts"
            )
    for void, white in ((THREE, TWO[255]), (VOID, WHITE)):
        if notes.get(void) and notes.get(white):
            beside, alone = (
                f"{len(notes[what])} masks ({show_name(notes[what][0][0])})"
                for what in (void, white)
            )
            raise InputError(
                f"255 lies beside other numbers in {beside}, where it is unlabelled, and alone "
                f"with 0 in {alone}, where it would be something else; name the numbers that are "
                "foreground with --foreground, such as --foreground 1, or write all alike"
            )
    missing = [word for word in foreground if word.isdigit() and chosen(int(word)) not in notes]
    # numbers may be names of a COCO file
    if missing and any(what.startswith("masks in which") for what in notes):
        cli.warn(
            f"none of the {n_masks} masks holds {', '.join(missing)}, which --foreground names"
        )


# --------------------------------------------------------------------------------- names of classes


def read_classes(folder):
    """The classes that a labelmap.txt (CVAT) or class_names.txt (labelme) names, in a folder of
    masks or above it.

    Returns ({name, folded: number}, ((red, green, blue), number) of each), or ({}, ()).
    """
    for place in (folder, folder.parent):
        for name, parse in (("labelmap.txt", parse_labelmap), ("class_names.txt", parse_names)):
            path = place / name
            if path.is_file():
                lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
                return parse([line.strip() for line in lines if line.strip()])
    return {}, ()


def parse_labelmap(lines):
    """Lines label:red,green,blue:parts:actions, 0 the background, the others in their order."""
    names, colours, number = {}, [], 0
    for line in lines:
        if line.startswith("#"):
            continue
        name, colour = (*line.split(":"), "")[:2]
        is_ground = name.casefold() == "background"
        number += not is_ground
        names[name.casefold()] = 0 if is_ground else number
        values = [int(part) for part in colour.split(",") if part.strip().isdigit()]
        if len(values) == 3:
            colours.append((tuple(values), names[name.casefold()]))
    return names, tuple(colours)


def parse_names(lines):
    """A name a line: __ignore__ is 255, _background_ 0, the others in their order."""
    names = [name.casefold() for name in lines if name != "__ignore__"]
    first = 0 if names and "background" in names[0] else 1
    return {name: number for number, name in enumerate(names, first)}, ()
