"""A column of index.csv whose cells are shuffled among the images that have one: --tasks seg placebo:breed.

The same images go through the encoder as often as with column:breed, with the same values in the same numbers, and nothing can be
learned of them: what a label seems to do that its placebo does too is not the label's doing. Output, target and figures are those of
tasks/column.py. The shuffle is the same for every seed.
"""

import numpy as np

from tasks.column import Column

SHUFFLE = 0x706C6163  # seed of the shuffle, a stream of its own


class Placebo(Column):
    def __init__(self, name, argument=None):
        super().__init__(name, argument)
        self.key = f"placebo_{self.key}"

    def target(self, raw):
        (need,) = self.needs
        cells = list(raw[need])
        filled = [k for k, cell in enumerate(cells) if cell.strip()]
        shuffled = np.random.default_rng((SHUFFLE, len(filled))).permutation(filled)
        for k, cell in zip(filled, [cells[other] for other in shuffled]):
            cells[k] = cell
        return super().target(raw | {need: cells})
