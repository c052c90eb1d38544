"""Dice and IoU, the Dice loss, and equal, fixed and uncertainty weighting of losses.

Everything per task is a dict keyed by the task's name. A criterion returns the named losses
unweighted; its weights are applied once, in `total`. Pixels of the value UNLABELLED take no part.
"""

import torch
from torch import nn
from torch.nn import functional as F

UNLABELLED = 255  # in masks, trimaps and labels
BORDER_WIDTH = 0.02  # of the image's side, on either side of the contour


# ------------------------------------------------------------------------------------------ losses


def dice_loss(logits, target, smooth=1.0):
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) per image; p = sigmoid(logits).

    logits (B, 1, H, W) float, target (B, 1, H, W) of 0, 1 and UNLABELLED -> (B,) in [0, 1]; sums go
    over labelled pixels. Source: Milletari, Navab and Ahmadi, "V-Net", 2016, with plain sums.
    """
    p = logits.sigmoid().flatten(1)
    t = target.to(logits.dtype).flatten(1)
    labelled = (target != UNLABELLED).flatten(1)
    if not labelled.all():
        p, t = p * labelled, t * labelled
    return 1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)


def mean_over_pixels(values, labelled):
    """(B, ...) values -> (B,) means over each image's labelled pixels; NaN where it has none."""
    if labelled.all():
        return values.flatten(1).mean(1)
    labelled = labelled.flatten(1)
    counts = labelled.sum(1)
    sums = torch.where(labelled, values.flatten(1), 0).sum(1)
    return blank(sums / counts.clamp(min=1), counts > 0)


def blank(values, labelled):
    """(B,) values with NaN, which has no gradient, where an image is not labelled."""
    if labelled.all():
        return values
    if not values.is_floating_point():
        values = values.double()
    return values.masked_fill(~labelled, torch.nan)


# ---------------------------------------------------------------------------------- loss weighting


class WeightedLoss(nn.Module):
    """Named losses of some tasks under fixed weights.

    tasks    objects of tasks/, in order.
    weights  one positive number per task; they are normalised to sum to one.
    spec     the text that --weighting has for it.
    world    the processes that share each batch (training/dist.py); None for one process.
    counts   {task: labelled images of the last global batch}.
    Raises ValueError where the numbers do not fit.
    """

    def __init__(self, tasks, weights):
        super().__init__()
        self.task = {task.name: task for task in tasks}
        self.tasks = tuple(self.task)
        are_positive = all(0 < w < float("inf") for w in weights)
        if len(weights) != len(self.tasks) or not are_positive:
            raise ValueError(f"{self.tasks} need one positive weight each, not {tuple(weights)}")
        self.set_weights(weights)
        self.spec = "-".join(f"{w:g}" for w in weights)
        self.world, self.counts = None, {}

    def set_weights(self, values):
        """Let each task's loss weigh its share of some positive numbers from now on."""
        total = float(sum(values))
        shares = [float(value) / total for value in values]
        self.fixed = dict(zip(self.tasks, shares, strict=True))

    def forward(self, outputs, targets):
        """Dicts of outputs and targets -> dict of unweighted scalar losses.

        Each is the mean over the labelled images of the global batch; zero, and still part of the
        graph, where none is labelled. With several processes it is this process's part, scaled so
        that the mean over the processes is the loss.
        """
        labelled = {n: task.labelled(targets[n]) for n, task in self.task.items()}
        counts = torch.stack([labelled[name].sum() for name in self.tasks])
        processes = 1
        if self.world is not None:
            counts, processes = self.world.sum(counts), self.world.size
        self.counts = dict(zip(self.tasks, counts.tolist(), strict=True))
        losses = {}
        for name, task in self.task.items():
            values = task.loss(outputs[name], targets[name])  # (B,)
            total = torch.where(labelled[name], values, 0).sum()
            losses[name] = total * (processes / max(self.counts[name], 1))
        return losses

    def weights(self):
        """Dict of what each loss is multiplied with, as floats."""
        return dict(self.fixed)

    def total(self, losses):
        """Dict of unweighted losses -> the scalar to minimise."""
        return sum(self.fixed[task] * losses[task] for task in self.tasks)

    def prepare(self, model):
        """Before training; raises cli.InputError where the weighting cannot work with the model."""

    def begin_step(self, epoch, step, history):
        """Before a training step; both count from 0. history: the log's rows of earlier epochs.

        Random numbers drawn here or in `backward` depend on the seed, the epoch and the step alone.
        """

    def backward(self, losses, model):
        """Accumulate the gradients of all parameters; returns `total`, detached."""
        total = self.total(losses)
        total.backward()
        return total.detach()

    def end_step(self, measure):
        """After the optimizer's step; measure() -> the same batch's losses after the update."""


class EqualWeightedLoss(WeightedLoss):
    """Every loss weighs 1/n, n the number of tasks."""

    def __init__(self, tasks):
        tasks = list(tasks)
        super().__init__(tasks, [1.0] * len(tasks))
        self.spec = "equal"


class UncertaintyWeightedLoss(EqualWeightedLoss):
    """sum over tasks of exp(-s) L + s, one learned s per task, from 0.

    s is the logarithm of the task's noise variance up to a factor. Source: Kendall, Gal and
    Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses", 2018, in the published study's
    form."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.spec = "uncertainty"
        parameters = {task: nn.Parameter(torch.zeros(())) for task in self.tasks}
        self.log_variance = nn.ParameterDict(parameters)

    def weights(self):
        return {task: torch.exp(-s).item() for task, s in self.log_variance.items()}

    def total(self, losses):
        return sum(torch.exp(-s) * losses[task] + s for task, s in self.log_variance.items())


# ----------------------------------------------------------------------------------------- metrics


def mask_counts(logits, target):
    """Labelled pixels per image in the intersection, the prediction (logits > 0) and the target.

    logits and target (B, 1, H, W) -> (B, 3) int64.
    """
    labelled = (target != UNLABELLED).flatten(1)
    predicted = (logits > 0).flatten(1) & labelled
    target = (target == 1).flatten(1)
    return torch.stack([(predicted & target).sum(1), predicted.sum(1), target.sum(1)], dim=1)


def border_counts(logits, target):
    """Pixels per image in intersection and union of prediction and target near the contour.

    Near is what has a pet pixel and a background pixel within BORDER_WIDTH of the side (at least
    one pixel), along rows and columns. logits and target (B, 1, H, W) -> (B, 2) int64; the union is
    0 where the target has no contour.

    The trimap's border band is not used even where there is one: with the border counted as pet it
    holds pet only, and a prediction of pet everywhere would score 1. Source: Kohli, Ladicky and
    Torr 2009; Cheng et al., "Boundary IoU", 2021."""
    reach = max(1, round(BORDER_WIDTH * max(target.shape[-2:])))
    pet, background = target == 1, target == 0
    near = _dilate(pet, reach) & _dilate(background, reach) & (pet | background)
    predicted = (logits > 0) & near
    pet = pet & near
    intersection = (predicted & pet).flatten(1).sum(1)
    union = (predicted | pet).flatten(1).sum(1)
    return torch.stack([intersection, union], dim=1)


def _dilate(mask, reach):
    """(B, 1, H, W) bool, true where it is within `reach` pixels: a square's rows, then columns."""
    dilated = F.max_pool2d(mask.float(), (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(dilated, (2 * reach + 1, 1), 1, (reach, 0)) > 0


def dice_score(intersection, predicted, target):
    """2 I / (P + T) from pixel counts, elementwise in float64; 1 where both are empty.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species", 1945.
    """
    total = (predicted + target).double()
    return torch.where(total > 0, 2 * intersection / total.clamp(min=1), 1.0)


def iou_score(intersection, predicted, target):
    """I / (P + T - I) from pixel counts, elementwise in float64; 1 where both are empty."""
    union = (predicted + target - intersection).double()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)
