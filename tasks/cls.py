"""Classification into two classes: cat and dog, or those that binary.h5 names.

Output (B, 2) logits, target (B,) int64: 0 the first (cat), 1 the second (dog), 254 neither, 255
unknown. No image is stored as neither: the hard augmentation `empty` makes such images.
"""

import torch
from torch.nn import functional as F

from models import ClassHead
from tasks import Metric, Task, mean
from utils import UNLABELLED, blank

CLASSES = ("cat", "dog")
NEITHER = 254
LEAST = 0.8  # an answer whose probability is lower is "no cat or dog"


class Cls(Task):
    needs = ("binary",)
    labels = "a class"
    metrics = {"accuracy": Metric("accuracy", percent=True, hits="correct")}
    columns = ("class", "probability")

    @property
    def classes(self):
        return tuple(self.settings.get("classes", CLASSES))

    def fit(self, dataset):
        """The classes' names; nothing where they are cat and dog."""
        names = dataset.summary["classes"]
        self.settings = {} if names == CLASSES else {"classes": list(names)}

    def kinds(self, raw):
        labels = self.target(raw).tolist()
        return [None if label == UNLABELLED else self.classes[label] for label in labels]

    def lacking(self, counts):
        if len(counts) == 1:
            return f"all are of the class {next(iter(counts))!r}"
        return super().lacking(counts)

    def head(self, channels):
        return ClassHead(channels[-1], len(CLASSES))

    def loss(self, output, target):
        """Cross-entropy; with half and half where an image shows neither class.

        Source of the latter: Hendrycks, Mazeika and Dietterich, "Outlier Exposure", 2019.
        """
        log_probabilities = output.log_softmax(dim=1)
        is_class = target < len(CLASSES)
        one_hot = F.one_hot(torch.where(is_class, target, 0), len(CLASSES))
        truth = torch.where(is_class[:, None], one_hot, 1 / len(CLASSES))
        return blank(-(truth * log_probabilities).sum(1), self.labelled(target))

    def measure(self, output, target):
        is_class = target < len(CLASSES)
        correct = (output.argmax(dim=1) == target).long()
        return {"correct": blank(correct, is_class), "label": blank(target, is_class)}

    def summarise(self, measured):
        """None where only one class occurs: a constant answer would be right."""
        if "label" in measured:  # the first version did not record it
            labels = measured["label"].double()
            if len(labels[~labels.isnan()].unique()) < 2:
                return {"accuracy": None}
        return {"accuracy": mean(measured["correct"])}

    def classified(self, output, target):
        is_class = target < len(CLASSES)
        return output[is_class], target[is_class]

    @property
    def neither(self):
        """What is said where a picture shows none of the classes."""
        return "no " + " or ".join(self.classes)

    def answer(self, output, height, width):
        """(name of the class, its probability); "no cat or dog" where that is under LEAST."""
        probability, winner = (output / self.temperature).softmax(dim=0).max(dim=0)
        name = self.classes[winner] if probability >= LEAST else self.neither
        return name, probability.item()

    def is_absent(self, value):
        return value[0] == self.neither

    def truth(self, target, height, width):
        if target == UNLABELLED:
            return None
        return self.neither if target == NEITHER else self.classes[target], None

    def describe(self, value, height, width):
        name, probability = value
        if probability is None or self.is_absent(value):
            return name
        return f"{name} {probability:.0%}"

    def exports(self, output, size):
        return {"class": (output / self.temperature).softmax(dim=0)}

    def cells(self, value, height, width):
        return [value[0], round(value[1], 4)]
