"""The trimap's three classes: pet, background and the border between. Output (B, 3, H, W) logits, target (B, 1, H, W) uint8,
1 pet, 2 background, 3 border, 255 unlabelled."""

import torch
from torch.nn import functional as F

from models import SegDecoder
from tasks import UNLABELLED, Metric, Task, blank, nothing

COLOURS = torch.tensor(
    [(0, 200, 120), (40, 40, 60), (255, 200, 0)], dtype=torch.uint8
)  # pet, background, border


class Border(Task):
    needs = ("trimaps",)
    metrics = {
        "trimap_iou": Metric("trimap IoU", note="mean over classes, then over images"),
        "trimap_accuracy": Metric("trimap pixel accuracy", percent=True),
    }
    labels = "a trimap"
    panel = "trimap"

    def head(self, channels):
        return SegDecoder(channels, len(COLOURS))

    def loss(self, output, target):
        """Cross-entropy, mean over the labelled pixels."""
        known = (target != UNLABELLED)[:, 0]
        if not known.any():
            return nothing(output)
        classes = torch.where(
            known, target[:, 0].long() - 1, -100
        )  # -100 is what cross_entropy leaves out
        return F.cross_entropy(output, classes)

    def measure(self, output, target):
        """Of each image: IoU, mean over the classes that it or its prediction holds; share of the pixels that are right."""
        known, truth = (target != UNLABELLED).flatten(1), target.flatten(1).long() - 1
        winner = output.argmax(dim=1).flatten(1)
        inside = (
            torch.stack([(winner == k) & (truth == k) & known for k in range(len(COLOURS))])
            .sum(2)
            .double()
        )  # (3, B)
        either = torch.stack(
            [((winner == k) | (truth == k)) & known for k in range(len(COLOURS))]
        ).sum(2)
        iou = (inside / either).nanmean(0)  # 0 / 0 of a class that neither holds is NaN
        right = inside.sum(0) / known.sum(1)
        return {
            "trimap_iou": blank(iou, known.any(1)),
            "trimap_accuracy": blank(right, known.any(1)),
        }

    def answer(self, output, height, width):
        """The class of each pixel, (H, W) int64 of 0 pet, 1 background, 2 border."""
        return F.interpolate(
            output[None], size=(height, width), mode="bilinear", align_corners=False
        )[0].argmax(0)

    def truth(self, target, height, width):
        if not self.labelled(target[None])[0]:
            return None
        classes = (
            F.interpolate(target[None].float(), size=(height, width), mode="nearest-exact")[
                0, 0
            ].long()
            - 1
        )
        return torch.where(classes < len(COLOURS), classes, 1)

    def draw(self, panel, value, is_target):
        panel.image = COLOURS[value].permute(2, 0, 1)

    def describe(self, value, height, width):
        return f"{(value == 2).float().mean():.0%} of the picture is border"
