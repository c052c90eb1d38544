"""Any column of index.csv: --tasks seg column:breed, or column:age.

A column of numbers is a regression, standardised on the training split: output (B, 1), target (B,),
NaN where the cell is empty. Any other is a classification: output (B, K) logits, target (B,) int64,
-1 where the cell is empty, and K for text that the training split does not have: it teaches nothing
and is never right."""

import math
import re

import numpy as np
import torch
from torch.nn import functional as F

from cli import InputError
from models import ClassHead
from tasks import Metric, Task, mean
from utils import blank

EMPTY = -1
UNKNOWN = {"", "na", "n/a", "nan", "null", "none", "--"}  # cells of no value, in any case
MAX_CLASSES = 1000  # more are names or free text
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


class Column(Task):
    def __init__(self, name, argument=None):
        if not argument:
            raise InputError(f"the task {name!r} names no column of index.csv; write column:breed")
        if "." in argument:
            raise InputError(
                f"the column {argument!r} has a dot in its name; rename it in index.csv"
            )
        super().__init__(name)
        self.column = argument
        self.needs = (f"index:{argument}",)
        self.labels = f"an entry in the column {argument}"
        self.key = re.sub(r"\W+", "_", argument).strip("_") or "column"  # in names of metrics

    @property
    def is_number(self):
        return "mean" in self.settings

    @property
    def classes(self):
        return tuple(self.settings.get("classes", ()))

    @property
    def metrics(self):
        if not self.settings:
            return {}
        if self.is_number:
            error = Metric(f"{self.column} error", "as in index.csv", higher=False)
            return {f"{self.key}_mae": error}
        accuracy = Metric(f"{self.column} accuracy", percent=True, hits=f"{self.key}_correct")
        balanced = Metric(
            f"{self.column} balanced accuracy", percent=True, note="mean over classes"
        )
        return {f"{self.key}_accuracy": accuracy, f"{self.key}_balanced_accuracy": balanced}

    @property
    def columns(self):
        return (self.column,) if self.is_number else (self.column, f"{self.column} probability")

    def fit(self, dataset):
        where = f"{dataset.data}, column {self.column!r} of the training split"
        known = [text for text in map(_cleaned, dataset.column(self.column)) if text]
        numbers = [value for value in map(_number, known) if value is not None]
        if not known:
            raise InputError(f"{where} holds empty cells only; fill it in, or leave the task out")
        are_numbers = len(numbers) == len(known)
        if len(set(numbers if are_numbers else known)) == 1:
            raise InputError(f"{where} holds one value only, {known[0]!r}; leave the task out")
        if are_numbers:
            self.settings = {"mean": float(np.mean(numbers)), "deviation": float(np.std(numbers))}
            return
        odd = next(text for text in known if _number(text) is None)
        if 2 * len(numbers) >= len(known) or DECIMAL_COMMA.fullmatch(odd):
            raise InputError(
                f"{where}: {len(numbers)} of {len(known)} cells are numbers, and {odd[:60]!r} is "
                "none; write it as 2.5, or leave the cell empty"
            )
        classes = sorted(set(known))
        if len(classes) > MAX_CLASSES or len(classes) == len(known):
            raise InputError(
                f"{where} has {len(classes)} different values in {len(known)} cells, too many for "
                "classes; leave the task out"
            )
        self.settings = {"classes": classes}

    def target(self, raw):
        cells = [_cleaned(text) for text in raw[self.needs[0]]]
        if self.is_number:
            return torch.tensor([self._standardised(text) for text in cells])
        index = {name: k for k, name in enumerate(self.classes)}
        return torch.tensor([index.get(text, len(index)) if text else EMPTY for text in cells])

    def _standardised(self, text):
        value = _number(text) if text else math.nan
        if value is None:
            raise InputError(
                f"the column {self.column!r} of index.csv holds numbers, and {text[:60]!r} is "
                "none; put it right or leave the cell empty"
            )
        return (value - self.settings["mean"]) / self.settings["deviation"]

    def labelled(self, target):
        """Of a classification, only images whose class the training split has."""
        if self.is_number:
            return ~target.isnan()
        return (target >= 0) & (target < len(self.classes))

    def kinds(self, raw):
        return [_cleaned(text) or None for text in raw[self.needs[0]]]

    def head(self, channels):
        return ClassHead(channels[-1], 1 if self.is_number else len(self.classes))

    def loss(self, output, target):
        """Cross-entropy, or L1 of the standardised numbers."""
        labelled = self.labelled(target)
        target = torch.where(labelled, target, 0)
        if self.is_number:
            return blank((output[:, 0] - target).abs(), labelled)
        return blank(F.cross_entropy(output, target, reduction="none"), labelled)

    def measure(self, output, target):
        if self.is_number:
            error = (output[:, 0].double() - target.double()).abs() * self.settings["deviation"]
            return {f"{self.key}_mae": blank(error, self.labelled(target))}
        correct, filled = (output.argmax(dim=1) == target).long(), target != EMPTY
        return {
            f"{self.key}_correct": blank(correct, filled),
            f"{self.key}_class": blank(target, filled),
        }

    def summarise(self, measured):
        """Balanced accuracy is the mean over classes of the share right (Brodersen et al. 2010)."""
        if self.is_number:
            return super().summarise(measured)
        correct, of_class = measured[f"{self.key}_correct"], measured[f"{self.key}_class"]
        known = of_class[~of_class.double().isnan()].unique()
        shares = [correct[of_class == k].double().mean() for k in known]
        balanced = torch.stack(shares).mean().item() if shares else None
        return dict(zip(self.metrics, (mean(correct), balanced), strict=True))

    def classified(self, output, target):
        if self.is_number:
            return None
        labelled = self.labelled(target)
        return output[labelled], target[labelled]

    def answer(self, output, height, width):
        """A number in the column's unit, or (name of the class, its probability)."""
        if self.is_number:
            return output[0].item() * self.settings["deviation"] + self.settings["mean"]
        probability, winner = (output / self.temperature).softmax(dim=0).max(dim=0)
        return self.classes[winner], probability.item()

    def truth(self, target, height, width):
        if self.is_number:
            return None if target.isnan() else self.answer(target[None], height, width)
        if target == EMPTY:
            return None
        return [*self.classes, "a class that was not taught"][target], None

    def describe(self, value, height, width):
        if isinstance(value, float):
            return f"{self.column} {value:.4g}"
        name, probability = value
        words = f"{self.column} {name}"
        return words if probability is None else f"{words} {probability:.0%}"

    def cells(self, value, height, width):
        if isinstance(value, float):
            return [float(f"{value:.6g}")]
        return [value[0], round(value[1], 4)]


def _cleaned(text):
    """A cell without spaces around it; "" where it holds no value."""
    text = text.strip()
    return "" if text.lower() in UNKNOWN else text


def _number(text):
    """A cell as a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None
