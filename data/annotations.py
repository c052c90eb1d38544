"""What is known of a split's images beside pictures: head boxes, the class, the cells of index.csv.

    bboxes         (N, 4) float32, normalised xyxy of the stored image; NaN where there is none
    binary         (N,) int64: 0 or 1, 255 unknown
    index:NAME     a list of N texts, the cells of that column of index.csv; "" unknown
    shuffled:NAME  the same, the filled cells shuffled among themselves, alike for every seed

Without the file all is unknown.
"""

import numpy as np

from cli import InputError
from data import contract

EMPTY = {"", "na", "n/a", "nan", "null", "none", "--"}  # cells of no value, in any case
SHUFFLE = 0x706C6163  # seed of the shuffle, a stream of its own


class Annotations:
    """Of some rows of a split; index: its rows of index.csv, as dicts."""

    def __init__(self, stamps, index, size):
        self.stamps, self.index, self.size = stamps, index, size

    def read(self, need):
        """All rows of what a task needs, as above, an array or a list."""
        kind, _, column = need.partition(":")
        if not column:
            rows = self._read_file(kind)
            return rows / self.size if kind == "bboxes" else rows[:, 0].astype(np.int64)
        if "row" not in self.index[0]:  # there is no index.csv
            return [""] * len(self.index)
        cells = self.column(column)
        return shuffled(cells) if kind == "shuffled" else cells

    def column(self, name):
        """The cells of a column of index.csv, a list of texts, "" where nothing is known."""
        if name not in self.index[0]:
            known = ", ".join(self.index[0]) if "row" in self.index[0] else "it has no index.csv"
            raise InputError(
                f"{self.stamps.folder / 'index.csv'} has no column {name!r} ({known}); add it, "
                "a cell an image, empty where nothing is known"
            )
        cells = [(row[name] or "").strip() for row in self.index]
        return ["" if cell.lower() in EMPTY else cell for cell in cells]

    def _read_file(self, kind):
        n, folder = len(self.index), self.stamps.folder
        if self.stamps.stamps[kind] is None:
            return contract.unlabelled(kind, n)
        file, dataset = contract.open_rechunked(folder.parent, folder.name, kind)
        with file:
            rows = contract.read_rows(dataset, 0, n)
            contract.check_values(file.filename, kind, rows, self.size)
        self.stamps.refuse_changes(kind)
        return rows


def shuffled(cells):
    """Cells whose filled ones are shuffled among themselves."""
    filled = [k for k, cell in enumerate(cells) if cell]
    order = np.random.default_rng((SHUFFLE, len(filled))).permutation(filled)
    result = list(cells)
    for k, other in zip(filled, order, strict=True):
        result[k] = cells[other]
    return result
