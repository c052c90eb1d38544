"""Losses, loss weightings and metrics, each with its formula and source.

Everything per task is a dict keyed "seg", "cls", "bbox". A criterion returns the named losses unweighted; its weights
are applied once, in `total`.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import ops

# ---------------------------------------------------------------------------------------------------------- losses


def dice_loss(logits, target, smooth=1.0):
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) per image, mean over the batch; p = sigmoid(logits).

    logits (B, 1, H, W) float, target (B, 1, H, W) of 0 and 1 -> scalar in [0, 1].
    Source: Milletari, Navab and Ahmadi, "V-Net", 2016, with plain instead of squared sums.
    """
    p, t = logits.sigmoid().flatten(1), target.to(logits.dtype).flatten(1)
    return (1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)).mean()


def seg_loss(logits, target):
    """Binary cross-entropy (mean over pixels) + Dice loss. Shapes as in dice_loss."""
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype)) + dice_loss(logits, target)


def cls_loss(logits, target):
    """Cross-entropy. logits (B, 2), target (B,) int64 of 0 (cat) and 1 (dog) -> scalar."""
    return F.cross_entropy(logits, target)


def bbox_loss(boxes, target):
    """L1 (mean over the four coordinates) + 1 - GIoU, mean over the images that have a box; 0 where none has.

    boxes and target (B, 4), normalised xyxy; a target without a box is NaN.
    Source: Rezatofighi et al., "Generalized Intersection over Union", 2019; the sum with L1 as in DETR (Carion et al. 2020).
    """
    has_box = ~target.isnan().any(dim=1)
    if not has_box.any():
        return boxes.sum() * 0  # zero, and still part of the graph
    boxes, target = boxes[has_box], target[has_box]
    return F.l1_loss(boxes, target) + ops.generalized_box_iou_loss(boxes, target, reduction="mean")


LOSSES = {"seg": seg_loss, "cls": cls_loss, "bbox": bbox_loss}

# ------------------------------------------------------------------------------------------------------ weightings


class WeightedLoss(nn.Module):
    """Named losses of some tasks under fixed weights.

    tasks    names of the tasks, in order.
    weights  one positive number per task; they are normalised to sum to one.
    Raises ValueError where the numbers do not fit.
    """

    def __init__(self, tasks, weights):
        super().__init__()
        self.tasks = tuple(tasks)
        if len(weights) != len(self.tasks) or not all(0 < w < float("inf") for w in weights):
            raise ValueError(f"one positive weight is needed for each of {self.tasks}, and there are {tuple(weights)}")
        self.fixed = {task: w / sum(weights) for task, w in zip(self.tasks, weights)}

    def forward(self, outputs, targets):
        """Dicts of outputs and targets -> dict of unweighted scalar losses, of the tasks that have targets."""
        return {task: LOSSES[task](outputs[task], targets[task]) for task in self.tasks if task in targets}

    def weights(self):
        """Dict of what each loss is multiplied with, as floats."""
        return dict(self.fixed)

    def total(self, losses):
        """Dict of unweighted losses -> the scalar to minimise."""
        return sum(self.fixed[task] * losses[task] for task in self.tasks)


class EqualWeightedLoss(WeightedLoss):
    """Every loss weighs 1/n, n the number of tasks."""

    def __init__(self, tasks):
        super().__init__(tasks, [1.0] * len(tuple(tasks)))


class UncertaintyWeightedLoss(WeightedLoss):
    """sum over tasks of exp(-s) L + s, one learned s per task, from 0.

    s is the logarithm of the task's noise variance up to a factor. Source: Kendall, Gal and Cipolla, "Multi-Task Learning
    Using Uncertainty to Weigh Losses", 2018, in the form of the study that this repository redoes.
    """

    def __init__(self, tasks):
        super().__init__(tasks, [1.0] * len(tuple(tasks)))
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in self.tasks})

    def weights(self):
        return {task: torch.exp(-s).item() for task, s in self.log_variance.items()}

    def total(self, losses):
        return sum(torch.exp(-s) * losses[task] + s for task, s in self.log_variance.items())


# --------------------------------------------------------------------------------------------------------- metrics


def mask_counts(logits, target):
    """Pixels per image in the intersection, the prediction (logits > 0) and the target.

    logits and target (B, 1, H, W) -> (B, 3) int64.
    """
    predicted, target = (logits > 0).flatten(1), (target > 0).flatten(1)
    return torch.stack([(predicted & target).sum(1), predicted.sum(1), target.sum(1)], dim=1)


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


def per_image(outputs, targets):
    """Measure a batch image by image.

    Returns a dict of 1-D tensors on the CPU: intersection, predicted, target (int64), label (int64, the target's class) and
    correct (int64), box_iou (float64, NaN where the image has no box), each only where outputs and targets have its task.
    """
    measured, tasks = {}, outputs.keys() & targets.keys()
    if "seg" in tasks:
        measured.update(zip(("intersection", "predicted", "target"), mask_counts(outputs["seg"], targets["seg"]).T))
    if "cls" in tasks:
        measured["label"] = targets["cls"]
        measured["correct"] = (outputs["cls"].argmax(dim=1) == targets["cls"]).long()
    if "bbox" in tasks:
        # The diagonal pairs each box with its own target; a target of NaN gives NaN.
        measured["box_iou"] = ops.box_iou(outputs["bbox"].double(), targets["bbox"].double()).diagonal()
    return {key: value.cpu() for key, value in measured.items()}


def summarise(measured):
    """Metrics of a whole split from the per-image measurements of all its images, each a sum divided once.

    Returns {"dice": mean over images, "dice_pooled": over all pixels, "iou_pooled", "accuracy", "box_iou": mean over the
    images with a box}; None for what cannot be measured: Dice and IoU where all targets are empty, accuracy where all are of
    one class, which a network that always says the same would get right, and box IoU where no image has a box.
    """
    metrics = dict.fromkeys(("dice", "dice_pooled", "iou_pooled", "accuracy", "box_iou"))
    if "intersection" in measured and measured["target"].any():
        counts = [measured[key] for key in ("intersection", "predicted", "target")]
        pooled = [count.sum() for count in counts]
        metrics["dice"] = dice_score(*counts).mean().item()
        metrics["dice_pooled"] = dice_score(*pooled).item()
        metrics["iou_pooled"] = iou_score(*pooled).item()
    if "correct" in measured and len(measured["label"].unique()) > 1:
        metrics["accuracy"] = measured["correct"].double().mean().item()
    if "box_iou" in measured and not measured["box_iou"].isnan().all():
        metrics["box_iou"] = measured["box_iou"].nanmean().item()
    return metrics
