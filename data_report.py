"""What is odd about a data folder but not wrong: data_rechunk.py --check shows it below what data_check.py refuses.

Everything is seen once, as it streams by; what is kept of an image is a handful of numbers.
"""

from pathlib import Path

import numpy as np

import data_check
from data_check import SPLITS

EXAMPLES = 3          # named of each oddity
MIN_PET_IN_BOX = 0.2  # a box with less pet than this share is beside its head; in Oxford-IIIT Pet the least is 0.54
WHOLE_IMAGE = 0.99    # a box that covers this share of the image is hardly a head; there the most is 0.97
# The share of dogs in a split is odd when it is this far from that of all, and further than chance explains.
MAX_BALANCE, MAX_DEVIATIONS = 0.1, 4


class Oddities:
    """Collects what is odd from the slabs that data_check.verify reads; `look` is to be handed to it."""

    def __init__(self, data):
        self.data = Path(data)
        self.found = {}  # sentence -> [(split, row)]
        self.dogs = {}   # split -> [number of images, of dogs]
        self.boxes = {}  # split -> N arrays (4,)

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
        size = rows.shape[1]
        for row, mask in enumerate(rows[..., 0], start):
            pets = np.count_nonzero(mask)
            if pets == 0:
                self.note("masks without any pet", split, row)
            elif pets == mask.size:
                self.note("masks that are pet all over", split, row)
            box = self.boxes[split][row]
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

    def warnings(self):
        """The oddities as sentences, those of single images with their number and the first of them."""
        names, sentences = {}, []
        for what, places in self.found.items():
            for split, _ in places[:EXAMPLES]:
                names.setdefault(split, data_check.read_index(self.data, split, self.dogs[split][0]))
            listed = ", ".join(f"{split} row {row} ({names[split][row]})" for split, row in places[:EXAMPLES])
            sentences.append(f"{len(places)} {what}: {listed}{', ...' if len(places) > EXAMPLES else ''}")
        return sentences + self.unbalanced() + self.without_boxes()

    def unbalanced(self):
        total, dogs = map(sum, zip(*self.dogs.values()))
        share, sentences = dogs / total, []
        for split, (n, k) in self.dogs.items():
            if k in (0, n):
                sentences.append(f"{split} holds {'dogs' if k else 'cats'} only: its accuracy says nothing")
            elif abs(k / n - share) > max(MAX_BALANCE, MAX_DEVIATIONS * (share * (1 - share) / n) ** 0.5):
                sentences.append(f"{k / n:.0%} of {split} are dogs and {share:.0%} of all: the splits are not alike")
        return sentences

    def without_boxes(self):
        without = [split for split, boxes in self.boxes.items() if np.isnan(boxes).all()]
        return [f"{split} holds no head box: {'nothing teaches' if split == 'train' else 'nothing measures'} that task"
                for split in without]


def check(data):
    """Verify a data folder and print that it is sound, what is in it, and what is odd about it.

    Raises cli.InputError for what would make results wrong.
    """
    oddities = Oddities(data)
    summary = data_check.verify(data, oddities.look)
    counts = ", ".join(f"{split} {n}" for split, n in summary["splits"].items())
    print(f"{data} is sound: {counts}; {summary['size']} px, border {summary['border']}, "
          f"split hash {summary['split_hash']}")
    for split in (split for split in SPLITS if split in summary["splits"]):
        n, dogs = oddities.dogs[split]
        boxed = int((~np.isnan(oddities.boxes[split]).any(axis=1)).sum())
        print(f"  {split}: {n - dogs} cats, {dogs} dogs, {boxed} with a head box")
    for warning in oddities.warnings():
        print(f"odd: {warning}")
