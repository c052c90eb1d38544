"""Head box: output (B, 4) normalised xyxy in [0, 1] with x1 <= x2, y1 <= y2; target the same, or NaN where there is none."""

import math

import torch
from torch.nn import functional as F

from models import BoxHead
from tasks import Metric, Task, nothing

MIN_VISIBLE = 0.2  # a head box that keeps less of its area after a crop is no box any more
HOLDS = 0.9  # of all foreground: a part of a picture with so much of it shows the pet


class Bbox(Task):
    needs = ("bboxes",)
    metrics = {"box_iou": Metric("box IoU", note="mean over images with a box")}
    labels = "a head box"
    columns = ("xmin", "ymin", "xmax", "ymax")
    of_foreground = True

    def target(self, raw):
        return raw["bboxes"] / raw["size"]

    def flip(self, target):
        x1, y1, x2, y2 = target.unbind()
        return torch.stack([1 - x2, y1, 1 - x1, y2])

    def turn(self, target, quarters):
        for _ in range(quarters % 4):
            x1, y1, x2, y2 = target.unbind()
            target = torch.stack([y1, 1 - x2, y2, 1 - x1])
        return target

    def mix(self, targets):
        return self.unknown(targets[0])  # several heads, and one box

    def crop(self, target, left, top, width, height):
        frame = torch.tensor([left, top, left, top]), torch.tensor([width, height, width, height])
        moved = (target - frame[0]) / frame[1]
        clipped = moved.clamp(0, 1)
        if not _area(clipped) >= MIN_VISIBLE * _area(moved):  # "not >=" so that NaN stays NaN
            return torch.full_like(target, math.nan)
        return clipped

    def labelled(self, target):
        return ~target.isnan().any(dim=1)

    def head(self, channels):
        return BoxHead(channels[-1])

    def loss(self, output, target):
        """L1 (mean over the four coordinates) + 1 - GIoU, mean over the images that have a box.

        Source: Rezatofighi et al., "Generalized Intersection over Union", 2019; the sum with L1 as in DETR (Carion et al.
        2020).
        """
        from torchvision import (
            ops,
        )  # here, as it takes as long to import as PyTorch, and only teaching and measuring need it

        has_box = self.labelled(target)
        if not has_box.any():
            return nothing(output)
        boxes, target = output[has_box], target[has_box]
        return F.l1_loss(boxes, target) + ops.generalized_box_iou_loss(
            boxes, target, reduction="mean"
        )

    def measure(self, output, target):
        from torchvision import ops

        # The diagonal pairs each box with its own target; a target of NaN gives NaN.
        return {"box_iou": ops.box_iou(output.double(), target.double()).diagonal()}

    def merge(self, outputs, windows, held):
        """The box that is seen in the smallest part which holds nearly all, else in the one that holds most."""
        area = windows[:, 2] * windows[:, 3]
        nearly = held >= HOLDS
        best = torch.where(nearly, held - area, -1).argmax() if nearly.any() else held.argmax()
        left, top, width, height = windows[best].tolist()
        return outputs[best] * torch.tensor([width, height, width, height]) + torch.tensor(
            [left, top, left, top]
        )

    def draw(self, panel, value, is_target):
        panel.boxes.append(_pixels(value, *panel.image.shape[-2:]))

    def describe(self, value, height, width):
        return "head at {:.0f} {:.0f} {:.0f} {:.0f}".format(*_pixels(value, height, width).tolist())

    def cells(self, value, height, width):
        return [round(side, 1) for side in _pixels(value, height, width).tolist()]


def _pixels(box, height, width):
    return box * torch.tensor([width, height, width, height])


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])
