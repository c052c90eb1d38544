"""Classification into two classes: cat and dog, or what the attribute `classes` of binary.h5 calls them.

Output (B, 2) logits, target (B,) int64, 0 the first (cat), 1 the second (dog), 254 neither, 255 unknown. No image is stored as
neither: the scene `empty` of data/scenes.py makes such.
"""

import torch
from torch.nn import functional as F

from models import ClassHead
from tasks import UNLABELLED, Metric, Task, blank, mean, nothing

CLASSES = ("cat", "dog")
UNSURE, LEAST = "neither", 0.8  # what is said where the likelier class has a lower probability
NEITHER = 254


class Cls(Task):
    needs = ("binary",)
    metrics = {"accuracy": Metric("accuracy", percent=True)}
    counts = ("correct", "label")
    flags = ("correct",)
    labels, wanted = "a class", "images of both classes"
    columns = ("class", "probability")

    @property
    def classes(self):
        return tuple(self.settings.get("classes", CLASSES))

    def learn(self, dataset):
        """What the classes are called; nothing where that is cat and dog, as networks of earlier versions have it."""
        names = getattr(dataset, "summary", {}).get(
            "classes", CLASSES
        )  # a stand-in may have columns alone
        self.settings = {} if names == CLASSES else {"classes": list(names)}

    def value(self, raw):
        return [
            None if label == UNLABELLED else self.classes[label]
            for label in self.target(raw).tolist()
        ]

    def lacking(self, counts):
        if len(counts) != 1:
            return super().lacking(counts)
        name = next(iter(counts))
        return f"all are {name}s" if name in CLASSES else f"all are of the class {name!r}"

    def target(self, raw):
        return raw["binary"][:, 0].long()

    def head(self, channels):
        return ClassHead(channels[-1], len(CLASSES))

    def loss(self, output, target):
        """Cross-entropy, mean over the images whose class is known; of those that show neither to half and half.

        Source of the latter: Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", 2019.
        """
        known = self.labelled(target)
        if not known.any():
            return nothing(output)
        output, target = output[known], target[known]
        shows = target != NEITHER
        if shows.all():
            return F.cross_entropy(output, target)
        either = F.cross_entropy(output[shows], target[shows], reduction="sum")
        return (either - output[~shows].log_softmax(dim=1).mean(dim=1).sum()) / len(target)

    def vanish(self, target):
        return torch.full_like(target, NEITHER)

    def measure(self, output, target):
        known = target < len(CLASSES)
        return {
            "correct": blank((output.argmax(dim=1) == target).long(), known),
            "label": blank(target, known),
        }

    def summarise(self, measured):
        """None where only one class occurs, which a network that always says the same would get right; records of earlier
        versions do not have the labels."""
        labels = measured["label"][~measured["label"].isnan()] if "label" in measured else None
        return {
            "accuracy": None
            if labels is not None and len(labels.unique()) < 2
            else mean(measured["correct"])
        }

    def classified(self, output, target):
        known = target < len(CLASSES)
        return output[known], target[known]

    def answer(self, output, height, width):
        """(name of the class, its probability); "neither" where that is under LEAST."""
        probability, winner = (output / self.temperature).softmax(dim=0).max(dim=0)
        return self.classes[winner] if probability >= LEAST else UNSURE, probability.item()

    def truth(self, target, height, width):
        if not self.labelled(target[None])[0]:
            return None
        return UNSURE if target == NEITHER else self.classes[target], None

    def describe(self, value, height, width):
        name, probability = value
        if name == UNSURE and probability is not None:
            return f"{name} ({probability:.0%})"
        return name if probability is None else f"{name} {probability:.0%}"

    def cells(self, value, height, width):
        return [value[0], round(value[1], 4)]
