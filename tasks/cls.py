"""Classification: cat or dog. Output (B, 2) logits, target (B,) int64, 0 cat, 1 dog, 255 unknown."""

from torch.nn import functional as F

from models import ClassHead
from tasks import UNLABELLED, Metric, Task, blank, mean, nothing

CLASSES = ("cat", "dog")
UNSURE, LEAST = "neither", 0.7  # what is said where the likelier class has a lower probability


class Cls(Task):
    needs = ("binary",)
    metrics = {"accuracy": Metric("accuracy", percent=True)}
    counts = ("correct", "label")
    flags = ("correct",)
    labels, wanted = "a class", "images of both classes"
    columns = ("class", "probability")
    classes = CLASSES

    def value(self, raw):
        return [None if label == UNLABELLED else CLASSES[label] for label in self.target(raw).tolist()]

    def lacking(self, counts):
        return f"all are {next(iter(counts))}s" if len(counts) == 1 else super().lacking(counts)

    def target(self, raw):
        return raw["binary"][:, 0].long()

    def head(self, channels):
        return ClassHead(channels[-1], len(CLASSES))

    def loss(self, output, target):
        """Cross-entropy, mean over the images whose class is known."""
        known = self.labelled(target)
        return F.cross_entropy(output[known], target[known]) if known.any() else nothing(output)

    def measure(self, output, target):
        known = self.labelled(target)
        return {"correct": blank((output.argmax(dim=1) == target).long(), known), "label": blank(target, known)}

    def summarise(self, measured):
        """None where only one class occurs, which a network that always says the same would get right; records of earlier
        versions do not have the labels."""
        labels = measured["label"][~measured["label"].isnan()] if "label" in measured else None
        return {"accuracy": None if labels is not None and len(labels.unique()) < 2 else mean(measured["correct"])}

    def classified(self, output, target):
        known = self.labelled(target)
        return output[known], target[known]

    def answer(self, output, height, width):
        """(name of the class, its probability); "neither" where that is under LEAST."""
        probability, winner = (output / self.temperature).softmax(dim=0).max(dim=0)
        return CLASSES[winner] if probability >= LEAST else UNSURE, probability.item()

    def truth(self, target, height, width):
        return (CLASSES[target], None) if self.labelled(target[None])[0] else None

    def describe(self, value, height, width):
        name, probability = value
        if name == UNSURE:
            return f"{name} ({probability:.0%})"
        return name if probability is None else f"{name} {probability:.0%}"

    def cells(self, value, height, width):
        return [value[0], round(value[1], 4)]
