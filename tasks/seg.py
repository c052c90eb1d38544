"""Segmentation: output (B, 1, H, W) logits, target (B, 1, H, W) uint8: 1 pet, 0 background, 255."""

import torch
from torch.nn import functional as F

from models import SegDecoder
from tasks import Metric, Task, mean, resized, resized_labels
from utils import (
    UNLABELLED,
    blank,
    border_counts,
    dice_loss,
    dice_score,
    iou_score,
    mask_counts,
    mean_over_pixels,
)

COLOUR = (0, 200, 120)
COUNTS = ("intersection", "predicted", "target", "border_intersection", "border_union")


class Seg(Task):
    needs = ("masks",)
    labels = "a mask"
    metrics = {
        "dice": Metric("Dice"),
        "dice_pooled": Metric("pooled Dice"),
        "iou_pooled": Metric("pooled IoU"),
        "border_iou": Metric("border IoU", note="mean over images with a contour"),
    }
    columns = ("share",)

    def kinds(self, raw):
        has_pet = (raw["masks"] == 1).flatten(1).any(1).tolist()
        kinds = []
        for labelled, pet in zip(self.labelled(raw["masks"]).tolist(), has_pet, strict=True):
            kinds.append(("pet" if pet else "no pet") if labelled else None)
        return kinds

    def lacking(self, counts):
        if counts and not counts.get("pet"):
            return "no mask holds a pet"
        return super().lacking(counts)

    def head(self, channels):
        return SegDecoder(channels)

    def loss(self, output, target):
        """Binary cross-entropy, mean over an image's labelled pixels, + Dice loss."""
        labelled = target != UNLABELLED
        truth = torch.where(labelled, target, 0).to(output.dtype)
        entropy = F.binary_cross_entropy_with_logits(output, truth, reduction="none")
        return mean_over_pixels(entropy, labelled) + dice_loss(output, target)

    def soft_loss(self, output, teacher_output):
        """Binary cross-entropy with the teacher's probabilities, mean over all pixels."""
        soft = teacher_output.to(output.dtype).sigmoid()
        entropy = F.binary_cross_entropy_with_logits(output, soft, reduction="none")
        return entropy.flatten(1).mean(1)

    def measure(self, output, target):
        counts, border = mask_counts(output, target), border_counts(output, target)
        inside, union = border.T
        border_iou = blank(iou_score(inside, union, inside), union > 0)
        values = {"dice": dice_score(*counts.T)}
        values |= dict(zip(COUNTS, [*counts.T, *border.T], strict=True))
        values["border_iou"] = border_iou
        labelled = self.labelled(target)
        return {name: blank(value, labelled) for name, value in values.items()}

    def summarise(self, measured):
        """None where no mask of the split holds a pet: an empty prediction would score 1."""
        counts = [measured[name].double().nansum() for name in COUNTS[:3]]
        if not counts[2]:
            return dict.fromkeys(self.metrics)
        return {
            "dice": mean(measured["dice"]),
            "dice_pooled": dice_score(*counts).item(),
            "iou_pooled": iou_score(*counts).item(),
            "border_iou": mean(measured["border_iou"]),
        }

    def foreground(self, output):
        return output[0] > 0

    def answer(self, output, height, width):
        """The mask, (H, W) bool."""
        return resized(output, height, width)[0] > 0

    def probability(self, output, height, width):
        return resized(output, height, width)[0].sigmoid()

    def truth(self, target, height, width):
        if not self.labelled(target[None])[0]:
            return None
        return resized_labels(target, height, width) == 1

    def draw(self, panel, value, is_target):
        colour = torch.tensor(COLOUR, dtype=torch.uint8)[:, None, None]
        panel.image = torch.where(value, panel.image // 2 + colour // 2, panel.image)

    def describe(self, value, height, width):
        return f"{value.float().mean():.0%} of the picture is pet"

    def cells(self, value, height, width):
        return [round(value.float().mean().item(), 4)]
