"""Dice and IoU, the Dice loss, and the loss weightings, each with its formula and source.

Everything per task is a dict keyed by the task's name. A criterion returns the named losses unweighted; its weights are
applied once, in `total`. Pixels of the value UNLABELLED take part in nothing.
"""

import torch
from torch import nn
from torch.nn import functional as F

import registry
from cli import InputError

UNLABELLED = 255  # in masks, trimaps and labels: nothing is known there
BORDER_WIDTH = 0.02  # of the image's side, on either side of the contour


# ---------------------------------------------------------------------------------------------------------- losses


def dice_loss(logits, target, smooth=1.0):
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) per image, mean over the images that have a labelled pixel;
    p = sigmoid(logits). At least one image has to have one.

    logits (B, 1, H, W) float, target (B, 1, H, W) of 0, 1 and UNLABELLED -> scalar in [0, 1].
    Source: Milletari, Navab and Ahmadi, "V-Net", 2016, with plain instead of squared sums.
    """
    p, t, known = (
        logits.sigmoid().flatten(1),
        target.to(logits.dtype).flatten(1),
        (target != UNLABELLED).flatten(1),
    )
    if not known.all():
        labelled = known.any(1)
        p, t = (p * known)[labelled], torch.where(known, t, 0)[labelled]
    return (1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)).mean()


# ------------------------------------------------------------------------------------------------------ weightings


class WeightedLoss(nn.Module):
    """Named losses of some tasks under fixed weights; `spec` is what make_criterion makes the same from.

    tasks    names of the tasks, or tasks themselves, in order.
    weights  one positive number per task; they are normalised to sum to one.
    teacher  a network that is imitated (training/others.py), or None.
    Raises ValueError where the numbers do not fit.
    """

    teacher = None

    def __init__(self, tasks, weights):
        super().__init__()
        self.task = registry.tasks(tasks)
        self.tasks = tuple(self.task)
        if len(weights) != len(self.tasks) or not all(0 < w < float("inf") for w in weights):
            raise ValueError(
                f"one positive weight is needed for each of {self.tasks}, and there are {tuple(weights)}"
            )
        self.fixed = {task: w / sum(weights) for task, w in zip(self.tasks, weights)}
        self.spec = "-".join(f"{w:g}" for w in weights)

    def forward(self, outputs, targets):
        """Dicts of outputs and targets -> dict of unweighted scalar losses."""
        return {name: task.loss(outputs[name], targets[name]) for name, task in self.task.items()}

    def weights(self):
        """Dict of what each loss is multiplied with, as floats."""
        return dict(self.fixed)

    def total(self, losses):
        """Dict of unweighted losses -> the scalar to minimise."""
        return sum(self.fixed[task] * losses[task] for task in self.tasks)

    def prepare(self, model):
        """Look at the network before it trains; raises cli.InputError where the weighting cannot work with it."""

    def begin_step(self, epoch, step, history):
        """What precedes a training step, both counted from 0. history: the log's rows of the epochs before. Random numbers
        drawn here or in `backward` depend on the seed, the epoch and the step alone."""

    def backward(self, losses, model):
        """Dict of unweighted losses -> the scalar of `total`, detached, with the gradients of all parameters accumulated."""
        total = self.total(losses)
        total.backward()
        return total.detach()


class EqualWeightedLoss(WeightedLoss):
    """Every loss weighs 1/n, n the number of tasks."""

    def __init__(self, tasks):
        tasks = tuple(tasks)
        super().__init__(tasks, [1.0] * len(tasks))
        self.spec = "equal"


class UncertaintyWeightedLoss(EqualWeightedLoss):
    """sum over tasks of exp(-s) L + s, one learned s per task, from 0.

    s is the logarithm of the task's noise variance up to a factor. Source: Kendall, Gal and Cipolla, "Multi-Task Learning
    Using Uncertainty to Weigh Losses", 2018, in the form of the study that this repository redoes.
    """

    def __init__(self, tasks):
        super().__init__(tasks)
        self.spec = "uncertainty"
        self.log_variance = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(())) for task in self.tasks}
        )

    def weights(self):
        return {task: torch.exp(-s).item() for task, s in self.log_variance.items()}

    def total(self, losses):
        return sum(torch.exp(-s) * losses[task] + s for task, s in self.log_variance.items())


def make_criterion(spec, tasks):
    """The criterion that a text stands for: "equal", "uncertainty", a name of weighting/, or a positive number for each task, as
    in "0.8-0.1-0.1".

    Raises cli.InputError for any other text.
    """
    tasks = tuple(tasks)
    if spec in ("equal", "uncertainty"):
        return {"equal": EqualWeightedLoss, "uncertainty": UncertaintyWeightedLoss}[spec](tasks)
    if spec.partition(":")[0] in registry.names("weighting"):
        return registry.find("weighting", spec, tasks)
    try:
        return WeightedLoss(tasks, [float(number) for number in spec.split("-")])
    except ValueError:
        raise InputError(
            f"--weighting {spec[:60]!r} is neither equal nor uncertainty nor {len(tasks)} positive numbers "
            f"joined by '-', one for each task, nor one of weighting/: {', '.join(registry.names('weighting'))}"
        ) from None


# --------------------------------------------------------------------------------------------------------- metrics


def mask_counts(logits, target):
    """Labelled pixels per image in the intersection, the prediction (logits > 0) and the target.

    logits and target (B, 1, H, W) -> (B, 3) int64.
    """
    known = (target != UNLABELLED).flatten(1)
    predicted, target = (logits > 0).flatten(1) & known, (target == 1).flatten(1)
    return torch.stack([(predicted & target).sum(1), predicted.sum(1), target.sum(1)], dim=1)


def border_counts(logits, target):
    """Pixels per image in the intersection and the union of prediction and target near the target's contour.

    Near is what has a pet pixel and a background pixel within BORDER_WIDTH of the side (at least one pixel), along rows and
    columns. logits and target (B, 1, H, W) -> (B, 2) int64; the union is 0 where the target has no contour.

    The trimap's border band is not used for it even where there is one: with the border counted as pet it holds pet only, so
    that whoever says pet everywhere would score 1. Source: the idea of counting near the contour only, Kohli, Ladicky and
    Torr 2009, and Cheng et al., "Boundary IoU", 2021.
    """
    reach = max(1, round(BORDER_WIDTH * max(target.shape[-2:])))
    pet, ground = target == 1, target == 0
    near = _grow(pet, reach) & _grow(ground, reach) & (pet | ground)
    predicted = (logits > 0) & near
    pet = pet & near
    return torch.stack(
        [(predicted & pet).flatten(1).sum(1), (predicted | pet).flatten(1).sum(1)], dim=1
    )


def _grow(mask, reach):
    """(B, 1, H, W) bool, true where it is within `reach` pixels: a square's rows, then its columns."""
    grown = F.max_pool2d(mask.float(), (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(grown, (2 * reach + 1, 1), 1, (reach, 0)) > 0


def dice_score(intersection, predicted, target):
    """2 I / (P + T) from pixel counts, elementwise in float64; 1 where prediction and target are both empty.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species", 1945.
    """
    union = (predicted + target).double()
    return torch.where(union > 0, 2 * intersection / union.clamp(min=1), 1.0)


def iou_score(intersection, predicted, target):
    """I / (P + T - I) from pixel counts, elementwise in float64; 1 where prediction and target are both empty."""
    union = (predicted + target - intersection).double()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def measure(tasks, outputs, targets):
    """Measure a batch image by image: {name: (B,) tensor on the CPU}, of all tasks; NaN where an image is unlabelled."""
    measured = {}
    for name, task in tasks.items():
        measured |= task.measure(outputs[name], targets[name])
    return {key: value.cpu() for key, value in measured.items()}


def summarise(tasks, measured):
    """{metric: number or None} of a whole split from the measurements of all its images, each a sum divided once.

    The metrics of the published study's tasks are always there: None where the task is absent or nothing can be measured.
    """
    metrics = {
        metric: None
        for task in registry.tasks(registry.PUBLISHED).values()
        for metric in task.metrics
    }
    for task in tasks.values():
        metrics |= task.summarise(measured)
    return metrics
