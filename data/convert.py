"""What others wrote, in the contract's types and values, as data_rechunk.py streams it by.

In masks of 0 and 255 alone, 255 is the pet, unless the user or the file says otherwise; beside 1
it is an unlabelled pixel. A file of nothing but 255 holds no mask: a pet all over, in every image
of a split, is no data for segmentation. What was never written is unknown.
"""

import numpy as np

import cli
from cli import InputError
from data import contract
from data.hdf5 import Gaps, slabs
from data.layout import LAYOUT, UNLABELLED, anew, sample_dtype, unknown_value

PET_WAS = "pet_was"  # attribute of masks whose pet was 255
# The values that others may write; what 255 is in masks is seen when the first is met.
CODES = {"masks": (0, 1), "binary": (0, 1, UNLABELLED), "trimaps": (1, 2, 3, UNLABELLED)}
MAY_HOLD = {
    "masks": "0 and 1 with 255 where nothing is known, or 0 and 255 alone",
    "binary": "0 (cat) and 1 (dog), and 255 where it is unknown",
    "trimaps": "1, 2 and 3, and 255 where nothing is known",
}


def refuse_other_reading(path, attributes, ignore):
    """Refuse to leave masks as they are whose 255 was taken for the pet before and should be
    unlabelled now."""
    if ignore and PET_WAS in attributes:
        raise InputError(
            f"{path} is re-chunked already, with its {attributes[PET_WAS]} read as pet; write it "
            f"anew as it was, and re-chunk it with --ignore {UNLABELLED}"
        )


def make_converter(path, kind, dataset, attributes, ignore):
    """A Converter that refuses what cannot be converted without loss."""
    gaps = Gaps(dataset)
    if kind == "images":
        if dataset.dtype != np.uint8:
            raise InputError(
                f"{path}: the images are {dataset.dtype} and should be uint8 from 0 to 255; "
                "convert them first, for floats in [0, 1] with (255 * x).round().astype('uint8')"
            )
        if gaps:
            raise InputError(
                f"{path}: the rows {rows_in_words(gaps)} were never written and would be black; "
                f"{anew(path)}"
            )
    elif dataset.dtype.kind not in "buif":
        raise InputError(
            f"{path}: the type {dataset.dtype} is none of numbers; write {LAYOUT[kind]}"
        )
    if kind == "masks":
        marked = np.array_equal(np.ravel(attributes.get("unlabelled")), [UNLABELLED])
        return MaskConverter(path, dataset, gaps, marked, ignore)
    return Converter(path, kind, gaps)


def rows_in_words(gaps):
    return cli.listed([str(row) for row in gaps.rows()], most=6)


class Converter:
    """Rows of a file in the contract's type, as converter(rows, start): images and boxes as they
    are, of values that stand for something only those that have a meaning.

    `attributes` and `notes` (sentences) are what is to be said of the file once all of it has been
    converted.
    """

    def __init__(self, path, kind, gaps):
        self.path, self.kind, self.gaps = path, kind, gaps
        self.codes, self.attributes, self.notes = CODES.get(kind, ()), {}, []
        if gaps:
            value = unknown_value(kind)
            self.notes.append(
                f"{len(gaps.rows())} rows were never written, in whole or in part, and are "
                f"unknown there ({value}): {rows_in_words(gaps)}"
            )

    def __call__(self, rows, start):
        if self.gaps and self.codes:  # whatever HDF5 reads there says nothing
            self.gaps.fill(rows, start, self.codes[0])
        converted = self.convert(rows, start)
        if self.gaps:
            self.gaps.fill(converted, start, unknown_value(self.kind))
        return converted

    def convert(self, rows, start):
        if self.codes and not (rows.dtype == np.uint8 and contract.is_plain(self.kind, rows)):
            self.refuse_other_values(rows, start)
        with np.errstate(over="ignore"):  # a box that becomes infinite is refused with its row
            return rows.astype(sample_dtype(self.kind), copy=False)

    def refuse_other_values(self, rows, start):
        known = rows == self.codes[0]
        for value in self.codes[1:]:
            known |= rows == value
        if not known.all():
            bad = int(np.argmin(known.reshape(len(rows), -1).all(axis=1)))
            value = rows[bad][~known[bad]].flat[0]
            raise InputError(
                f"{self.path}, row {start + bad} holds the value {value}; allowed in one file are "
                f"{MAY_HOLD[self.kind]}; write {LAYOUT[self.kind].partition('uint8, ')[2]}"
            )


class MaskConverter(Converter):
    """The same of masks; whether 255 is pet or unlabelled is decided where the first is met, from
    the whole file."""

    def __init__(self, path, dataset, gaps, is_marked, ignore):
        super().__init__(path, "masks", gaps)
        self.dataset, self.is_marked, self.ignore = dataset, is_marked, ignore
        if gaps:
            self.attributes["unlabelled"] = UNLABELLED

    def convert(self, rows, start):
        if UNLABELLED not in self.codes and (rows == UNLABELLED).any():
            self.decide()
        converted = super().convert(rows, start)
        return (converted != 0).view(np.uint8) if PET_WAS in self.attributes else converted

    def decide(self):
        meaning, reason = self.meaning_of_255()
        if meaning == "pet":
            self.codes = (0, UNLABELLED)
            self.attributes[PET_WAS] = UNLABELLED
        else:
            self.codes = (0, 1, UNLABELLED)
            self.attributes["unlabelled"] = UNLABELLED
        self.notes.append(f"255 was read as {meaning}, as {reason}")

    def meaning_of_255(self):
        """("pet" or "unlabelled", the reason); reads the file until it holds a 1, if there is none
        all of it."""
        if self.ignore:
            return "unlabelled", f"--ignore {UNLABELLED} says"
        if self.is_marked:
            return "unlabelled", "its attribute 'unlabelled' says"
        has_ground = False
        for _, rows in slabs(self.dataset):
            if (rows == 1).any():
                return "unlabelled", "the file holds 1 too"
            has_ground = has_ground or bool((rows == 0).any())
        if not has_ground:
            return "unlabelled", "the file holds nothing else"
        return (
            "pet",
            "the file holds no 1; where that is wrong, write it anew and re-chunk it with "
            f"--ignore {UNLABELLED}",
        )
