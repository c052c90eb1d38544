"""What data_rechunk.py --check finds in a data folder: `verify` refuses what would make results
wrong, and what is merely odd is collected as it streams by (`Oddities`)."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from cli import InputError
from data import contract, index
from data.hdf5 import naming, slabs
from data.layout import CLASSES, INDEX_FIELDS, UNLABELLED, anew, h5_files

# Of what is read: boxes before masks, to compare the two.
READING_ORDER = ("bboxes", "binary", "masks", "trimaps", "images")
EXAMPLES = 3  # named of each oddity
MIN_PET_IN_BOX = 0.2  # a box with less is beside its head; in Oxford-IIIT Pet the least is 0.54
WHOLE_IMAGE = 0.99  # a box that covers this share is hardly a head; there the most is 0.97
# The share of dogs in a split is odd when it is this far from that of all, and further than chance
# explains.
MAX_BALANCE, MAX_DEVIATIONS = 0.1, 4
USES = (
    ("masks", "segmentation", None),
    ("bboxes", "the head box", "has_box"),
    ("binary", "classification", "species"),
)


def check(data):
    """Verify a data folder and print that it is sound, what is in it, and what is odd about it;
    returns verify's summary."""
    oddities = Oddities(data)
    summary = verify(data, oddities.look)
    counts = ", ".join(f"{split} {n}" for split, n in summary["splits"].items())
    print(
        f"{data} is sound: {counts}; {summary['size']} px, border {summary['border']}, split hash "
        f"{summary['split_hash']}"
    )
    rows = {n: index.read_index_rows(data, n, count) for n, count in summary["splits"].items()}
    for split in summary["splits"]:
        print(f"  {split}: {', '.join(oddities.counted(split, summary))}")
        columns = in_words(rows[split])
        if columns:
            print(f"  {split}, index.csv: {', '.join(columns)}")
    for warning in oddities.warnings(summary, rows):
        print(f"odd: {warning}")
    return summary


def verify(data, look=None):
    """Read all of a re-chunked folder and check everything that must hold of it.

    Values, boxes, content digests, the split hash, index.csv, and that no image stands in two
    splits. Returns what contract.describe() does. `look(split, kind, start, rows)` sees whatever
    is read, in the order of SPLITS and READING_ORDER, and with the kind "copies" each image that
    stands in its split before.
    """
    summary, seen = contract.describe(data), {}
    look = look or (lambda *_: None)
    for split in summary["splits"]:
        for kind in READING_ORDER:
            if kind in summary["kinds"][split]:
                verify_file(data, (split, kind), summary, look, seen)
    return summary


def verify_file(data, place, summary, look, seen):
    """Check the values and the digest of one file. place: (split, kind); seen: {digest of an
    image: (split, row)}."""
    split, kind = place
    path, digest = Path(data) / split / f"{kind}.h5", hashlib.sha256()
    file, dataset = contract.open_rechunked(data, split, kind)
    with file, naming(path):
        for start, rows in slabs(dataset):
            digest.update(rows)
            contract.check_values(path, kind, rows, summary["size"], start)
            if kind in ("bboxes", "binary"):
                index.check_index(data, (split, kind), (start, rows), summary)
            look(split, kind, start, rows)
            for row, image in enumerate(rows if kind == "images" else (), start):
                first = seen.setdefault(hashlib.sha256(image).digest(), (split, row))
                if first[0] != split:
                    raise InputError(
                        f"{path}, row {row} is the same image as {first[0]}, row {first[1]}: a "
                        "network would be measured on what it was trained on; split the data "
                        "again"
                    )
                if first[1] != row:
                    look(split, "copies", row, image[None])
        if digest.hexdigest() != dataset.attrs["sha256"]:
            raise InputError(
                f"{path}: the content is not what was written (digest differs); {anew(path)}"
            )
        if kind == "images" and file.attrs.get("split_hash") != digest.hexdigest():
            raise InputError(f"{path}: the split hash is not that of its images; {anew(path)}")


class Oddities:
    """Collects what is odd from the slabs that `verify` reads; `look` is to be handed to it.

    found: {sentence: [(split, row)]}; counts: {split: Counter} of 0, 1 and 255 in binary.h5, and
    of "boxes", "trimaps", "masks" and of masks that are "pet", "ground", "in part" unlabelled;
    boxes: {split: (N, 4)}.
    """

    def __init__(self, data):
        self.data, self.found, self.counts, self.boxes = Path(data), {}, {}, {}

    def look(self, split, kind, start, rows):
        """Take note of some rows of one file."""
        count = self.counts.setdefault(split, Counter())
        if kind == "bboxes":
            self.boxes[split] = np.concatenate([self.boxes.get(split, rows[:0]), rows])
            count["boxes"] += int((~np.isnan(rows).any(axis=1)).sum())
        elif kind == "binary":
            count.update(rows[:, 0].tolist())
        elif kind == "trimaps":
            count["trimaps"] += int((rows != UNLABELLED).any(axis=(1, 2, 3)).sum())
        elif kind == "masks":
            for row, mask in enumerate(rows[..., 0], start):
                self.look_at_mask(split, row, mask)
        elif kind == "copies":
            self.note("images that stand in their split before already", split, start)
        else:
            for row in np.flatnonzero((rows == rows[:, :1, :1]).all(axis=(1, 2, 3))).tolist():
                self.note("images of a single colour", split, start + row)

    def look_at_mask(self, split, row, mask):
        count = self.counts[split]
        pets, known = np.count_nonzero(mask == 1), np.count_nonzero(mask != UNLABELLED)
        for what, is_so in (
            ("masks", known > 0),
            ("pet", pets > 0),
            ("ground", known > pets),
            ("in part", 0 < known < mask.size),
        ):
            count[what] += int(is_so)
        if known and not pets:
            self.note("masks without any pet", split, row)
        elif pets == mask.size:
            self.note("masks that are pet all over", split, row)
        box = self.boxes[split][row] if split in self.boxes else np.full(4, np.nan)
        if np.isnan(box).any():
            return
        x1, y1, x2, y2 = box
        inside = mask[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        least = MIN_PET_IN_BOX * np.count_nonzero(inside != UNLABELLED)
        if pets and np.count_nonzero(inside == 1) < least:
            self.note(f"head boxes with less than {MIN_PET_IN_BOX:.0%} of pet in them", split, row)
        if (x2 - x1) * (y2 - y1) >= WHOLE_IMAGE * mask.size:
            self.note("head boxes that are the whole image", split, row)

    def note(self, what, split, row):
        self.found.setdefault(what, []).append((split, row))

    def warnings(self, summary, rows):
        """The oddities as sentences, those of single images with their number and the first of
        them.

        summary: verify's; rows: {split: rows of its index.csv}.
        """
        sentences = []
        for what, places in self.found.items():
            # repr spells out what would move the cursor.
            named = [
                f"{s} row {k} ({repr(rows[s][k]['name'])[1:-1]})" for s, k in places[:EXAMPLES]
            ]
            more = ", ..." * (len(places) > EXAMPLES)
            sentences.append(f"{len(places)} {what}: {', '.join(named)}{more}")
        sentences += self.unbalanced(summary)
        for split, kinds in summary["kinds"].items():
            sentences += self.useless(split, kinds)
        for split in summary["splits"]:
            sentences += self.missing(split, summary, rows)
        return sentences

    def counted(self, split, summary):
        """How many images of a split there are of each kind, in words."""
        count, kinds, names = (
            self.counts[split],
            summary["kinds"][split],
            plural(summary["classes"]),
        )
        words = [f"{names[0]} and {names[1]} unknown"]
        if "binary" in kinds:
            words = [f"{count[value]} {name}" for value, name in enumerate(names)]
            words += [f"{count[UNLABELLED]} of unknown class"] * (count[UNLABELLED] > 0)
        words.append(f"{count['boxes'] if 'bboxes' in kinds else 'none'} with a head box")
        if count["in part"] or count["masks"] < summary["splits"][split]:
            part = f" ({count['in part']} of them in part unlabelled)" if count["in part"] else ""
            words.append(f"{count['masks'] or 'none'} with a mask{part}")
        return words + [f"{count['trimaps'] or 'none'} with a trimap"] * ("trimaps" in kinds)

    def unbalanced(self, summary):
        sentences, names = [], plural(summary["classes"])
        known = {split: (count[0], count[1]) for split, count in self.counts.items()}
        total = np.sum(list(known.values()), axis=0)
        share = total[1] / max(1, sum(total))
        for split, (n, m) in known.items():
            if "binary" not in summary["kinds"][split]:
                continue
            says = (
                "nothing teaches to tell them apart"
                if split == "train"
                else "its accuracy says nothing"
            )
            chance = MAX_DEVIATIONS * (share * (1 - share) / max(1, n + m)) ** 0.5
            if n + m == 0:
                sentences.append(f"{split} holds no known class: {of_no_use(split)} classification")
            elif 0 in (n, m):
                sentences.append(f"{split} holds {names[int(m > 0)]} only: {says}")
            elif abs(m / (n + m) - share) > max(MAX_BALANCE, chance):
                sentences.append(
                    f"{m / (n + m):.0%} of {split} are {names[1]} and {share:.0%} of all: the "
                    "splits are not alike"
                )
        return sentences

    def useless(self, split, kinds):
        """What a split's files teach or measure nothing of."""
        count, use = self.counts[split], of_no_use(split)
        sentences = []
        if "bboxes" in kinds and not count["boxes"]:
            sentences.append(f"{split} holds no head box: {use} that task")
        for what, name in (("pet", "a pet"), ("ground", "background")):
            if "masks" in kinds and not count[what] and (what == "pet" or count["pet"]):
                sentences.append(f"{split} holds no mask with {name} in it: {use} segmentation")
        return sentences

    def missing(self, split, summary, rows):
        """What is not known of a split, whether it seems lost, and files that might be meant to
        tell it."""
        sentences, kinds, use = [], summary["kinds"][split], of_no_use(split)
        for kind, task, column in USES:
            if kind not in kinds:
                cells = {(row.get(column) or "").strip() for row in rows[split] if column}
                lost = ", though index.csv tells of it" if cells - {"", "0"} else ""
                sentences.append(f"{split} has no {kind}.h5{lost}: {use} {task}")
        having = [other for other in summary["splits"] if "trimaps" in summary["kinds"][other]]
        if having and split not in having:  # few data have them, so that none at all is not odd
            sentences.append(f"{split} has no trimaps.h5, though {having[0]} has: {use} the border")
        columns = {other: index.column_names(found) for other, found in rows.items()}
        for column in dict.fromkeys(name for names in columns.values() for name in names):
            having = [other for other in columns if column in columns[other]]
            if split not in having and column not in ("row", "name", "species", "has_box"):
                sentences.append(
                    f"index.csv of {split} has no column {shown(column)}, though that of "
                    f"{having[0]} has: {use} it"
                )
        others = [
            name for name in h5_files(self.data / split) if name.removesuffix(".h5") not in kinds
        ]
        return sentences + [f"{split} holds {', '.join(others)}: nothing reads that"] * bool(others)


def in_words(rows):
    """The custom columns of a split's index.csv, with how many values they have."""
    words = []
    for column in index.column_names(rows):
        if column not in INDEX_FIELDS:
            values, empty = index.contents(rows, column)
            cells = f"{values} value{'s' * (values != 1)}" + f", {empty} empty" * (empty > 0)
            words.append(f"{shown(column)} ({cells})")
    return words


def plural(classes):
    """What images of the two classes are called; custom names are quoted."""
    is_usual = tuple(classes) == CLASSES
    return [f"{name}s" if is_usual else repr(name) for name in classes]


def shown(name):
    """A column's name without what would move the cursor, of a long one the beginning."""
    return repr(name[: index.MOST_SHOWN])[1:-1] + "..." * (len(name) > index.MOST_SHOWN)


def of_no_use(split):
    return "nothing teaches" if split == "train" else "nothing measures"
