"""Any column of index.csv beside segmentation: --tasks seg column:breed, or column:age.

A column whose cells are all numbers is a regression, standardised on the training split: output and target (B,), NaN where
the cell is empty. Any other is a classification: output (B, K) logits, target (B,) int64, -1 where the cell is empty, and K,
which no class has, for text that the training split does not know: it teaches nothing and is never right.
"""

import math
import re

import numpy as np
import torch
from torch.nn import functional as F

from cli import InputError
from models import ClassHead
from tasks import Metric, Task, blank, mean, nothing

EMPTY = -1
MAX_CLASSES = 1000  # more are names or free text, of which every image has its own


class Column(Task):
    def __init__(self, name, argument=None):
        if not argument:
            raise InputError(
                f"the task {name!r} does not say which column of index.csv; write for example column:breed"
            )
        if "." in argument:
            raise InputError(
                f"the column {argument!r} has a dot in its name, which no part of a network can have; rename it in "
                "index.csv"
            )
        super().__init__(name)
        self.column = argument
        self.needs, self.labels = (f"index:{argument}",), f"an entry in the column {argument}"
        self.key = re.sub(r"\W+", "_", argument).strip("_") or "column"  # in the names of metrics

    @property
    def metrics(self):
        if not self.settings:
            return {}
        if self._is_number():
            return {
                f"{self.key}_mae": Metric(f"{self.column} error", "as in index.csv", higher=False)
            }
        return {
            f"{self.key}_accuracy": Metric(f"{self.column} accuracy", percent=True),
            f"{self.key}_balanced_accuracy": Metric(
                f"{self.column} balanced accuracy", percent=True, note="mean over classes"
            ),
        }

    @property
    def flags(self):
        return () if self._is_number() else (f"{self.key}_correct",)

    @property
    def counts(self):
        return () if self._is_number() else (*self.flags, f"{self.key}_class")

    @property
    def classes(self):
        return tuple(self.settings.get("classes", ()))

    @property
    def columns(self):
        return (self.column,) if self._is_number() else (self.column, f"{self.column} probability")

    def learn(self, dataset):
        cells = [cell.strip() for cell in dataset.column(self.column)]
        known = [cell for cell in cells if cell]
        values = list(map(_number, known))
        where = f"{dataset.data}, column {self.column!r} of the training split"
        if known and None not in values:
            deviation = float(np.std(values))
            if not deviation > 0:
                raise InputError(
                    f"{where} holds one number only, {values[0]:g}, which teaches nothing; leave the task out"
                )
            self.settings = {"mean": float(np.mean(values)), "deviation": deviation}
            return
        classes = sorted(set(known))
        if len(classes) < 2:
            what = f"one value only, {classes[0]!r}" if classes else "empty cells only"
            raise InputError(
                f"{where} holds {what}, which teaches nothing; leave the task out, or fill the column in"
            )
        if len(classes) > MAX_CLASSES or len(classes) == len(known):
            numbers = sum(value is not None for value in values)
            other = next(cell for cell, value in zip(known, values) if value is None)
            odd = f"; {numbers} of its cells are numbers and {other!r} is none" if numbers else ""
            raise InputError(
                f"{where} has {len(classes)} different values in {len(known)} cells, too many for classes{odd}"
            )
        self.settings = {"classes": classes}

    def _is_number(self):
        return "mean" in self.settings

    def target(self, raw):
        cells = [cell.strip() for cell in raw[self.needs[0]]]
        if self._is_number():
            values = [math.nan if not cell else _number(cell) for cell in cells]
            if None in values:
                other = cells[values.index(None)][:60]
                raise InputError(
                    f"the column {self.column!r} of index.csv holds numbers, and {other!r} is none; put it right "
                    "or leave the cell empty"
                )
            return torch.tensor(
                [(value - self.settings["mean"]) / self.settings["deviation"] for value in values]
            )
        index = {name: k for k, name in enumerate(self.settings["classes"])}
        return torch.tensor([index.get(cell, len(index)) if cell else EMPTY for cell in cells])

    def value(self, raw):
        return [cell.strip() or None for cell in raw[self.needs[0]]]

    def labelled(self, target):
        return ~target.isnan() if self._is_number() else target != EMPTY

    def unknown(self, target):
        return super().unknown(target) if self._is_number() else torch.full_like(target, EMPTY)

    def head(self, channels):
        return ClassHead(channels[-1], 1 if self._is_number() else len(self.settings["classes"]))

    def loss(self, output, target):
        """Cross-entropy, or L1 of the standardised numbers; mean over the cells that are filled in."""
        if self._is_number():
            output, known = output[:, 0], self.labelled(target)
            return F.l1_loss(output[known], target[known]) if known.any() else nothing(output)
        known = (target >= 0) & (target < output.shape[1])
        return F.cross_entropy(output[known], target[known]) if known.any() else nothing(output)

    def measure(self, output, target):
        known = self.labelled(target)
        if self._is_number():
            error = (output[:, 0].double() - target.double()).abs() * self.settings["deviation"]
            return {f"{self.key}_mae": blank(error, known)}
        return {
            f"{self.key}_correct": blank((output.argmax(dim=1) == target).long(), known),
            f"{self.key}_class": blank(target, known),
        }

    def summarise(self, measured):
        """Balanced accuracy is the mean over classes of the share that is right (Brodersen et al. 2010)."""
        if self._is_number():
            return super().summarise(measured)
        correct, of_class = measured[f"{self.key}_correct"], measured[f"{self.key}_class"]
        shares = [
            correct[of_class == k].double().mean() for k in of_class.unique() if not k.isnan()
        ]
        return dict(
            zip(
                self.metrics, (mean(correct), torch.stack(shares).mean().item() if shares else None)
            )
        )

    def classified(self, output, target):
        if self._is_number():
            return None
        known = (target >= 0) & (target < output.shape[1])
        return output[known], target[known]

    def answer(self, output, height, width):
        """A number in the column's unit, or (name of the class, its probability)."""
        if self._is_number():
            return output[0].item() * self.settings["deviation"] + self.settings["mean"]
        probability, winner = (output / self.temperature).softmax(dim=0).max(dim=0)
        return self.settings["classes"][winner], probability.item()

    def truth(self, target, height, width):
        if not self.labelled(target[None])[0]:
            return None
        if self._is_number():
            return self.answer(target[None], height, width)
        names = [*self.settings["classes"], "a class that was not taught"]
        return names[target], None

    def describe(self, value, height, width):
        if isinstance(value, float):
            return f"{self.column} {value:.4g}"
        name, probability = value
        return f"{self.column} {name}" + ("" if probability is None else f" {probability:.0%}")

    def cells(self, value, height, width):
        return (
            [float(f"{value:.6g}")] if isinstance(value, float) else [value[0], round(value[1], 4)]
        )


def _number(text):
    """A cell as a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None
