"""What is odd about a data folder but not wrong: data_rechunk.py --check shows it below what data/contract.py refuses.

Everything is seen once, as it streams by; what is kept of an image is a handful of numbers.
"""

import hashlib
from pathlib import Path

import numpy as np

from cli import InputError
from data import contract, convert
from data import index as data_index
from data.hdf5 import naming, slabs

# Of what is read: boxes before masks, to compare the two.
READING_ORDER = ("bboxes", "binary", "masks", "trimaps", "images")
EXAMPLES = 3  # named of each oddity
MIN_PET_IN_BOX = 0.2  # a box with less pet than this share is beside its head; in Oxford-IIIT Pet the least is 0.54
WHOLE_IMAGE = (
    0.99  # a box that covers this share of the image is hardly a head; there the most is 0.97
)
# The share of dogs in a split is odd when it is this far from that of all, and further than chance explains.
MAX_BALANCE, MAX_DEVIATIONS = 0.1, 4


class Oddities:
    """Collects what is odd from the slabs that verify reads; `look` is to be handed to it."""

    def __init__(self, data):
        self.data = Path(data)
        self.found = {}  # sentence -> [(split, row)]
        self.classes = {}  # split -> [number of images of class 0, of class 1, of neither]
        self.boxes = {}  # split -> N arrays (4,)
        self.masks = {}  # split -> [number of masks, of those with pet, of those partly unlabelled, with ground]
        self.trimaps = {}  # split -> number of trimaps

    def look(self, split, kind, start, rows):
        """Take note of some rows of one file."""
        getattr(self, f"look_at_{kind}")(split, start, rows)

    def look_at_bboxes(self, split, start, rows):
        self.boxes.setdefault(split, []).extend(rows)

    def look_at_binary(self, split, start, rows):
        count = self.classes.setdefault(split, [0, 0, 0, 0])
        for k, value in enumerate((0, 1, contract.UNLABELLED)):
            count[k] += int(np.count_nonzero(rows == value))

    def look_at_trimaps(self, split, start, rows):
        labelled = (rows.reshape(len(rows), -1) != contract.UNLABELLED).any(axis=1)
        self.trimaps[split] = self.trimaps.get(split, 0) + int(labelled.sum())

    def look_at_masks(self, split, start, rows):
        size, count = rows.shape[1], self.masks.setdefault(split, [0, 0, 0, 0])
        is_plain = contract.is_plain("masks", rows)
        for row, mask in enumerate(rows[..., 0], start):
            known = mask.size if is_plain else np.count_nonzero(mask != contract.UNLABELLED)
            pets = np.count_nonzero(mask) - (mask.size - known)
            count[0] += known > 0
            count[1] += pets > 0
            count[2] += 0 < known < mask.size
            count[3] += known > pets
            if known and pets == 0:
                self.note("masks without any pet", split, row)
            elif pets == mask.size:
                self.note("masks that are pet all over", split, row)
            box = self.boxes[split][row] if split in self.boxes else [np.nan]
            if np.isnan(box).any():
                continue
            x1, y1, x2, y2 = box
            inside = mask[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
            if pets and np.count_nonzero(inside == 1) < MIN_PET_IN_BOX * np.count_nonzero(
                inside != contract.UNLABELLED
            ):
                self.note(
                    f"head boxes with less than {MIN_PET_IN_BOX:.0%} of pet in them", split, row
                )
            if (x2 - x1) * (y2 - y1) >= WHOLE_IMAGE * size**2:
                self.note("head boxes that are the whole image", split, row)

    def look_at_images(self, split, start, rows):
        for row, image in enumerate(rows, start):
            if (image[0] == image[0, 0]).all() and (
                image == image[0, 0]
            ).all():  # the first line tells nearly always
                self.note("images of a single colour", split, row)

    def look_at_copies(self, split, row, image):
        self.note("images that stand in their split before already", split, row)

    def note(self, what, split, row):
        self.found.setdefault(what, []).append((split, row))

    def warnings(self, summary):
        """The oddities as sentences, those of single images with their number and the first of them; summary as verify's."""
        names, sentences = {}, []
        for what, places in self.found.items():
            for split, _ in places[:EXAMPLES]:
                names.setdefault(
                    split, data_index.read_index(self.data, split, summary["splits"][split])
                )
            # repr spells out what would move the cursor.
            listed = ", ".join(
                f"{split} row {row} ({repr(names[split][row])[1:-1]})"
                for split, row in places[:EXAMPLES]
            )
            sentences.append(
                f"{len(places)} {what}: {listed}{', ...' if len(places) > EXAMPLES else ''}"
            )
        return (
            sentences
            + self.unbalanced(summary["classes"])
            + self.without_boxes()
            + self.without_pets()
            + [sentence for split in summary["splits"] for sentence in self.missing(split, summary)]
            + self.read_differently(summary)
        )

    def counts(self, split, summary):
        """How many images of a split there are of each kind, in words."""
        names = plural(summary["classes"])
        *known, unknown = self.classes.get(split, (0, 0, 0))
        words = [f"{n} {name}" for n, name in zip(known, names)] + [
            f"{unknown} of unknown class"
        ] * (unknown > 0)
        if split not in self.classes:
            words = [f"{names[0]} and {names[1]} unknown"]
        boxed = (
            int((~np.isnan(self.boxes[split]).any(axis=1)).sum()) if split in self.boxes else "none"
        )
        words.append(f"{boxed} with a head box")
        masked, _, in_part, _ = self.masks.get(split, (0, 0, 0, 0))
        if in_part or masked < summary["splits"][split]:
            words.append(
                f"{masked or 'none'} with a mask"
                + (f" ({in_part} of them in part unlabelled)" if in_part else "")
            )
        return words + (
            [f"{self.trimaps[split] or 'none'} with a trimap"] if split in self.trimaps else []
        )

    def columns(self, split, n):
        """The columns of one's own in a split's index.csv, in words."""
        rows = data_index.read_index_rows(self.data, split, n)
        words = []
        for column in data_index.column_names(rows):
            if column not in contract.INDEX_FIELDS:
                values, empty = data_index.contents(rows, column)
                cells = f"{values} value{'s' * (values != 1)}, {empty} empty"
                words.append(f"{shown(column)} ({cells.removesuffix(', 0 empty')})")
        return words

    def unbalanced(self, classes):
        known = {split: (n, m) for split, (n, m, _) in self.classes.items() if n + m}
        sentences = [
            f"{split} holds no known class: {of_no_use(split)} classification"
            for split in self.classes
            if split not in known
        ]
        first, second = plural(classes)
        share = sum(m for _, m in known.values()) / max(1, sum(map(sum, known.values())))
        for split, (n, m) in known.items():
            if 0 in (n, m):
                says = (
                    "nothing teaches to tell them apart"
                    if split == "train"
                    else "its accuracy says nothing"
                )
                sentences.append(f"{split} holds {second if m else first} only: {says}")
            elif abs(m / (n + m) - share) > max(
                MAX_BALANCE, MAX_DEVIATIONS * (share * (1 - share) / (n + m)) ** 0.5
            ):
                sentences.append(
                    f"{m / (n + m):.0%} of {split} are {second} and {share:.0%} of all: the splits are not "
                    "alike"
                )
        return sentences

    def without_boxes(self):
        without = [split for split, boxes in self.boxes.items() if np.isnan(boxes).all()]
        return [f"{split} holds no head box: {of_no_use(split)} that task" for split in without]

    def without_pets(self):
        sentences = []
        for split, (masked, pets, _, grounds) in self.masks.items():
            if not pets:
                sentences.append(
                    f"{split} holds no mask with a pet in it: {of_no_use(split)} segmentation"
                )
            elif masked and not grounds:
                sentences.append(
                    f"{split} holds no mask with background in it: {of_no_use(split)} segmentation"
                )
        return sentences

    def missing(self, split, summary):
        """What is not known of a split, whether it seems lost, and files that might be meant to tell it."""
        sentences, kinds = [], summary["kinds"][split]
        index = {
            other: data_index.read_index_rows(self.data, other, n)
            for other, n in summary["splits"].items()
        }
        for kind, task, column in (
            ("masks", "segmentation", None),
            ("bboxes", "the head box", "has_box"),
            ("binary", "classification", "species"),
        ):
            if kind not in kinds:
                lost = column and any(
                    (row.get(column) or "").strip() not in ("", "0") for row in index[split]
                )
                sentences.append(
                    f"{split} has no {kind}.h5{', though index.csv tells of it' if lost else ''}: "
                    f"{of_no_use(split)} {task}"
                )
        having = [other for other in summary["splits"] if "trimaps" in summary["kinds"][other]]
        if having and split not in having:  # few data have them, so that none at all is not odd
            sentences.append(
                f"{split} has no trimaps.h5, though {having[0]} has: {of_no_use(split)} the border"
            )
        columns = {other: data_index.column_names(rows) for other, rows in index.items()}
        for column in dict.fromkeys(column for names in columns.values() for column in names):
            having = [other for other in columns if column in columns[other]]
            if split not in having and column not in ("row", "name", "species", "has_box"):
                sentences.append(
                    f"index.csv of {split} has no column {shown(column)}, though that of {having[0]} has: "
                    f"{of_no_use(split)} it"
                )
        others = [
            name
            for name in contract.h5_files(self.data / split)
            if name.removesuffix(".h5") not in kinds
        ]
        return sentences + (
            [f"{split} holds {', '.join(others)}: nothing reads that"] if others else []
        )

    def read_differently(self, summary):
        """Whether 255 was the pet in the masks of one split, and stands for unlabelled in those of another."""
        pet, unlabelled = [], []
        for split, (masked, _, in_part, _) in self.masks.items():
            file, _ = contract.open_rechunked(self.data, split, "masks")
            with file, naming(file.filename):
                pet += [split] * (convert.PET_WAS in file.attrs)
            unlabelled += [split] * bool(in_part > 0 or masked < summary["splits"][split])
        if not pet or not unlabelled:
            return []
        return [
            f"255 was read as pet in the masks of {' and '.join(pet)} and as unlabelled in those of "
            f"{' and '.join(unlabelled)}: where it means one thing, write them anew and re-chunk with --ignore 255, or "
            "with 1 for the pet"
        ]


def plural(classes):
    """What images of the two classes are called; names of one's own are quoted."""
    return (
        [f"{name}s" for name in classes]
        if tuple(classes) == contract.CLASSES
        else [repr(name) for name in classes]
    )


def shown(name):
    """A column's name without what would move the cursor, and its beginning only where it is long."""
    return repr(name[: data_index.MOST_SHOWN])[1:-1] + "..." * (len(name) > data_index.MOST_SHOWN)


def of_no_use(split):
    return "nothing teaches" if split == "train" else "nothing measures"


def check(data):
    """Verify a data folder and print that it is sound, what is in it, and what is odd about it.

    Raises cli.InputError for what would make results wrong.
    """
    oddities = Oddities(data)
    summary = verify(data, oddities.look)
    counts = ", ".join(f"{split} {n}" for split, n in summary["splits"].items())
    print(
        f"{data} is sound: {counts}; {summary['size']} px, border {summary['border']}, "
        f"split hash {summary['split_hash']}"
    )
    for split in summary["splits"]:
        print(f"  {split}: {', '.join(oddities.counts(split, summary))}")
        columns = oddities.columns(split, summary["splits"][split])
        if columns:
            print(f"  {split}, index.csv: {', '.join(columns)}")
    for warning in oddities.warnings(summary):
        print(f"odd: {warning}")


def verify(data, look=None):
    """Read all of a re-chunked folder and check everything that must hold of it.

    Values, boxes, content digests, the split hash, index.csv, and that no image stands in two splits. Returns what
    describe() does. `look(split, kind, start, rows)` sees whatever is read, in the order of SPLITS and READING_ORDER, and
    with the kind "copies" each image that stands in its split before.
    """
    summary = contract.describe(data)
    seen = {}
    for split, n in summary["splits"].items():
        for kind in (kind for kind in READING_ORDER if kind in summary["kinds"][split]):
            file, dataset = contract.open_rechunked(data, split, kind)
            path = Path(data) / split / f"{kind}.h5"
            with file, naming(path):
                digest = hashlib.sha256()
                for start, rows in slabs(dataset):
                    digest.update(rows)
                    contract.check_values(path, kind, rows, summary["size"], start)
                    if kind in ("bboxes", "binary"):
                        data_index.check_index(
                            data, split, n, kind, rows, start, summary["classes"]
                        )
                    if look:
                        look(split, kind, start, rows)
                    if kind == "images":
                        for k, row in enumerate(rows):
                            other = seen.setdefault(
                                hashlib.sha256(row).digest(), (split, start + k)
                            )
                            if other[0] != split:
                                raise InputError(
                                    f"{path}, row {start + k} is the same image as {other[0]}, row {other[1]}: a network "
                                    "would be measured on what it was trained on; split the data again"
                                )
                            if look and other[1] != start + k:
                                look(split, "copies", start + k, rows[k : k + 1])
                if digest.hexdigest() != dataset.attrs["sha256"]:
                    raise InputError(
                        f"{path}: the content is not what was written (digest differs); {contract.anew(path)}"
                    )
                if kind == "images" and file.attrs.get("split_hash") != digest.hexdigest():
                    raise InputError(
                        f"{path}: the split hash is not that of its images; {contract.anew(path)}"
                    )
    return summary
