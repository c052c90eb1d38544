"""The trimap's three classes: pet, background and the border between.

Output (B, 3, H, W) logits; target (B, 1, H, W) uint8: 1 pet, 2 background, 3 border, 255 unknown.
"""

import torch
from torch.nn import functional as F

from models import SegDecoder
from tasks import Metric, Task, resized, resized_labels
from utils import UNLABELLED, blank, mean_over_pixels

# Pet, background, border.
COLOURS = torch.tensor([(0, 200, 120), (40, 40, 60), (255, 200, 0)], dtype=torch.uint8)


class Border(Task):
    needs = ("trimaps",)
    labels = "a trimap"
    metrics = {
        "trimap_iou": Metric("trimap IoU", note="mean over classes, then over images"),
        "trimap_accuracy": Metric("trimap pixel accuracy", percent=True),
    }
    panel = "trimap"

    def head(self, channels):
        return SegDecoder(channels, len(COLOURS))

    def loss(self, output, target):
        """Cross-entropy, mean over an image's labelled pixels."""
        labelled = (target != UNLABELLED)[:, 0]
        classes = torch.where(labelled, target[:, 0].long() - 1, 0)
        return mean_over_pixels(F.cross_entropy(output, classes, reduction="none"), labelled)

    def measure(self, output, target):
        """IoU, mean over the classes that image or prediction holds; share of right pixels."""
        labelled = (target != UNLABELLED).flatten(1)
        truth = target.flatten(1).long() - 1
        predicted = output.argmax(dim=1).flatten(1)
        inside, either = [], []
        for k in range(len(COLOURS)):
            inside.append(((predicted == k) & (truth == k) & labelled).sum(1).double())
            either.append((((predicted == k) | (truth == k)) & labelled).sum(1))
        inside, either = torch.stack(inside), torch.stack(either)  # (3, B)
        iou = (inside / either).nanmean(0)  # 0 / 0 of a class that neither holds is NaN
        accuracy = inside.sum(0) / labelled.sum(1)
        known = labelled.any(1)
        return {"trimap_iou": blank(iou, known), "trimap_accuracy": blank(accuracy, known)}

    def trimap(self, output):
        pet, background, edge = output
        is_pet = (pet > background) & (pet > edge)
        is_background = (background > pet) & (background > edge)
        return 0.5 + 0.5 * (is_pet.float() - is_background.float())

    def answer(self, output, height, width):
        """The class of each pixel, (H, W) int64: 0 pet, 1 background, 2 border."""
        return resized(output, height, width).argmax(0)

    def truth(self, target, height, width):
        if not self.labelled(target[None])[0]:
            return None
        classes = resized_labels(target, height, width) - 1
        return torch.where(classes < len(COLOURS), classes, 1)

    def draw(self, panel, value, is_target):
        panel.image = COLOURS[value].permute(2, 0, 1)

    def describe(self, value, height, width):
        return f"{(value == 2).float().mean():.0%} of the picture is border"
