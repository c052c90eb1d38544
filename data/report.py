"""What is odd about a data folder but not wrong: data_rechunk.py --check shows it below what data/contract.py refuses.

Everything is seen once, as it streams by; what is kept of an image is a handful of numbers.
"""

from pathlib import Path

import numpy as np

from data import contract
from data import index as data_index

EXAMPLES = 3          # named of each oddity
MIN_PET_IN_BOX = 0.2  # a box with less pet than this share is beside its head; in Oxford-IIIT Pet the least is 0.54
WHOLE_IMAGE = 0.99    # a box that covers this share of the image is hardly a head; there the most is 0.97
# The share of dogs in a split is odd when it is this far from that of all, and further than chance explains.
MAX_BALANCE, MAX_DEVIATIONS = 0.1, 4


class Oddities:
    """Collects what is odd from the slabs that contract.verify reads; `look` is to be handed to it."""

    def __init__(self, data):
        self.data = Path(data)
        self.found = {}  # sentence -> [(split, row)]
        self.dogs = {}   # split -> [number of images, of dogs]
        self.boxes = {}  # split -> N arrays (4,)
        self.pets = {}   # split -> [number of masks, of those with a pet]

    def look(self, split, kind, start, rows):
        """Take note of some rows of one file."""
        getattr(self, f"look_at_{kind}")(split, start, rows)

    def look_at_bboxes(self, split, start, rows):
        self.boxes.setdefault(split, []).extend(rows)

    def look_at_binary(self, split, start, rows):
        count = self.dogs.setdefault(split, [0, 0])
        count[0] += len(rows)
        count[1] += int(rows.sum())

    def look_at_masks(self, split, start, rows):
        size, count = rows.shape[1], self.pets.setdefault(split, [0, 0])
        for row, mask in enumerate(rows[..., 0], start):
            pets = np.count_nonzero(mask)
            count[0] += 1
            count[1] += pets > 0
            if pets == 0:
                self.note("masks without any pet", split, row)
            elif pets == mask.size:
                self.note("masks that are pet all over", split, row)
            box = self.boxes[split][row] if split in self.boxes else [np.nan]
            if np.isnan(box).any():
                continue
            x1, y1, x2, y2 = box
            inside = mask[int(y1):int(np.ceil(y2)), int(x1):int(np.ceil(x2))]
            if pets and np.count_nonzero(inside) < MIN_PET_IN_BOX * inside.size:
                self.note(f"head boxes with less than {MIN_PET_IN_BOX:.0%} of pet in them", split, row)
            if (x2 - x1) * (y2 - y1) >= WHOLE_IMAGE * size**2:
                self.note("head boxes that are the whole image", split, row)

    def look_at_images(self, split, start, rows):
        for row, image in enumerate(rows, start):
            if (image[0] == image[0, 0]).all() and (image == image[0, 0]).all():  # the first line tells nearly always
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
                names.setdefault(split, contract.read_index(self.data, split, summary["splits"][split]))
            # repr spells out what would move the cursor.
            listed = ", ".join(f"{split} row {row} ({repr(names[split][row])[1:-1]})" for split, row in places[:EXAMPLES])
            sentences.append(f"{len(places)} {what}: {listed}{', ...' if len(places) > EXAMPLES else ''}")
        return (sentences + self.unbalanced() + self.without_boxes() + self.without_pets()
                + [sentence for split, n in summary["splits"].items()
                   for sentence in self.missing(split, n, summary["kinds"][split])])

    def counts(self, split):
        """How many images of a split there are of each kind, in words."""
        n, dogs = self.dogs.get(split, (0, 0))
        classes = [f"{n - dogs} cats", f"{dogs} dogs"] if n else ["cats and dogs unknown"]
        boxed = int((~np.isnan(self.boxes[split]).any(axis=1)).sum()) if split in self.boxes else "none"
        return classes + [f"{boxed} with a head box"] + ([] if split in self.pets else ["none with a mask"])

    def unbalanced(self):
        if not self.dogs:
            return []
        total, dogs = map(sum, zip(*self.dogs.values()))
        share, sentences = dogs / total, []
        for split, (n, k) in self.dogs.items():
            if k in (0, n):
                says = "nothing teaches to tell them apart" if split == "train" else "its accuracy says nothing"
                sentences.append(f"{split} holds {'dogs' if k else 'cats'} only: {says}")
            elif abs(k / n - share) > max(MAX_BALANCE, MAX_DEVIATIONS * (share * (1 - share) / n) ** 0.5):
                sentences.append(f"{k / n:.0%} of {split} are dogs and {share:.0%} of all: the splits are not alike")
        return sentences

    def without_boxes(self):
        without = [split for split, boxes in self.boxes.items() if np.isnan(boxes).all()]
        return [f"{split} holds no head box: {of_no_use(split)} that task" for split in without]

    def without_pets(self):
        without = [split for split, (_, pets) in self.pets.items() if not pets]
        return [f"{split} holds no mask with a pet in it: {of_no_use(split)} segmentation" for split in without]

    def missing(self, split, n, kinds):
        """What is not known of a split, whether it seems lost, and files that might be meant to tell it."""
        sentences, index = [], data_index.read_index_rows(self.data, split, n)
        for kind, task, column in (("masks", "segmentation", ""), ("bboxes", "the head box", "has_box"),
                                   ("binary", "classification", "species")):
            if kind not in kinds:
                lost = any(row.get(column, "") not in (None, "", "0") for row in index)
                sentences.append(f"{split} has no {kind}.h5{', though index.csv tells of it' if lost else ''}: "
                                 f"{of_no_use(split)} {task}")
        others = [name for name in contract.h5_files(self.data / split) if name.removesuffix(".h5") not in kinds]
        return sentences + ([f"{split} holds {', '.join(others)}: nothing reads that"] if others else [])


def of_no_use(split):
    return "nothing teaches" if split == "train" else "nothing measures"


def check(data):
    """Verify a data folder and print that it is sound, what is in it, and what is odd about it.

    Raises cli.InputError for what would make results wrong.
    """
    oddities = Oddities(data)
    summary = contract.verify(data, oddities.look)
    counts = ", ".join(f"{split} {n}" for split, n in summary["splits"].items())
    print(f"{data} is sound: {counts}; {summary['size']} px, border {summary['border']}, "
          f"split hash {summary['split_hash']}")
    for split in summary["splits"]:
        print(f"  {split}: {', '.join(oddities.counts(split))}")
    for warning in oddities.warnings(summary):
        print(f"odd: {warning}")
