"""A column whose cells are shuffled among the images that have one: --tasks seg placebo:breed.

The same images go through the encoder as often as with column:breed, with the same values in the
same numbers, and nothing can be learned of them: what a label and its placebo both seem to do is
not the label's doing. The shuffle is the same for every seed (data/labels of the loader)."""

from tasks.column import Column


class Placebo(Column):
    def __init__(self, name, argument=None):
        super().__init__(name, argument)
        self.needs = (f"shuffled:{argument}",)
        self.key = f"placebo_{self.key}"
