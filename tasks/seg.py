"""Segmentation: which pixels are pet. Output (B, 1, H, W) logits, target (B, 1, H, W) uint8 of 1, 0 and 255."""

import torch
from torch.nn import functional as F

from models import SegDecoder
from tasks import Metric, Task, blank, mean, nothing
from utils import UNLABELLED, border_counts, dice_loss, dice_score, iou_score, mask_counts

COLOUR = (0, 200, 120)


class Seg(Task):
    needs = ("masks",)
    metrics = {
        "dice": Metric("Dice"),
        "dice_pooled": Metric("pooled Dice"),
        "iou_pooled": Metric("pooled IoU"),
        "border_iou": Metric("border IoU", note="mean over images with a contour"),
    }
    counts = ("intersection", "predicted", "target", "border_intersection", "border_union")
    labels, wanted = "a mask", "masks of pets"
    columns = ("share",)
    by_image = True

    def value(self, raw):
        known = self.labelled(raw["masks"])
        return [
            "pet" if pet else "no pet" if known_ else None
            for pet, known_ in zip((raw["masks"] == 1).flatten(1).any(1).tolist(), known.tolist())
        ]

    def lacking(self, counts):
        return (
            None
            if counts.get("pet")
            else "no mask holds a pet"
            if counts
            else super().lacking(counts)
        )

    def head(self, channels):
        return SegDecoder(channels)

    def loss(self, output, target):
        """Binary cross-entropy, mean over the labelled pixels, + Dice loss."""
        known = target != UNLABELLED
        if known.all():
            return F.binary_cross_entropy_with_logits(output, target.to(output.dtype)) + dice_loss(
                output, target
            )
        if not known.any():
            return nothing(output)
        entropy = F.binary_cross_entropy_with_logits(output[known], target[known].to(output.dtype))
        return entropy + dice_loss(output, target)

    def imitate(self, output, other):
        """Binary cross-entropy with the other's probabilities, mean over all pixels, as the other knows of all."""
        return F.binary_cross_entropy_with_logits(output, other.to(output.dtype).sigmoid())

    def measure(self, output, target):
        counts, labelled = mask_counts(output, target), self.labelled(target)
        border = border_counts(output, target)
        has_border = border[:, 1] > 0
        values = {
            "dice": dice_score(*counts.T),
            **dict(zip(self.counts, [*counts.T, *border.T])),
            "border_iou": blank(iou_score(border[:, 0], border[:, 1], border[:, 0]), has_border),
        }
        return {name: blank(value, labelled) for name, value in values.items()}

    def summarise(self, measured):
        """None where no mask of the split holds a pet: a network that says nothing would have a Dice of 1."""
        counts = [
            measured[name].nan_to_num().sum()
            if measured[name].is_floating_point()
            else measured[name].sum()
            for name in self.counts[:3]
        ]
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
        return _enlarged(output, height, width) > 0

    def probability(self, output, height, width):
        """That a pixel is pet, (H, W) float; over one half exactly where `answer` says so."""
        return _enlarged(output, height, width).sigmoid()

    def truth(self, target, height, width):
        if not self.labelled(target[None])[0]:
            return None
        return (
            F.interpolate(target[None].float(), size=(height, width), mode="nearest-exact")[0, 0]
            == 1
        )

    def draw(self, panel, value, is_target):
        colour = torch.tensor(COLOUR, dtype=torch.uint8)[:, None, None]
        panel.image = torch.where(value, panel.image // 2 + colour // 2, panel.image)

    def describe(self, value, height, width):
        return f"{value.float().mean():.0%} of the picture is pet"

    def cells(self, value, height, width):
        return [round(value.float().mean().item(), 4)]


def _enlarged(output, height, width):
    return F.interpolate(output[None], size=(height, width), mode="bilinear", align_corners=False)[
        0, 0
    ]
