"""Signed distance to the mask's contour, derived from the mask. Output and target (B, 1, H, W) float, in sides of the image:
above zero inside the pet, below outside, NaN where the mask is unlabelled."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from models import SegDecoder
from tasks import UNLABELLED, Metric, Task, blank, nothing

NO_CONTOUR = 1.0  # a contour that is nowhere in the picture is taken to be a side away
INSIDE, OUTSIDE = torch.tensor([230.0, 120.0, 20.0]), torch.tensor([30.0, 110.0, 220.0])


class Distance(Task):
    needs = ("masks",)
    metrics = {"distance_mae": Metric("distance error", "sides", higher=False)}
    labels = "a mask"
    panel = "distance"

    def value(self, raw):
        return [
            True if known else None
            for known in (raw["masks"] != UNLABELLED).flatten(1).any(1).tolist()
        ]

    def target(self, raw):
        return torch.stack(
            [torch.from_numpy(_signed_distance(mask[0].numpy())) for mask in raw["masks"]]
        )[:, None]

    def head(self, channels):
        return SegDecoder(channels)

    def loss(self, output, target):
        """L1, mean over the labelled pixels."""
        known = ~target.isnan()
        return F.l1_loss(output[known], target[known]) if known.any() else nothing(output)

    def measure(self, output, target):
        error = (output - target).abs().double().flatten(1)
        return {"distance_mae": blank(error.nanmean(1), self.labelled(target))}

    def merge(self, outputs, windows, held):
        """In longer sides of the parts, which are counted in the picture's."""
        return super().merge(outputs * windows[:, 2:].amax(1).view(-1, 1, 1, 1), windows, held)

    def answer(self, output, height, width):
        """The distance at each pixel, (H, W) float."""
        return F.interpolate(
            output[None], size=(height, width), mode="bilinear", align_corners=False
        )[0, 0]

    def draw(self, panel, value, is_target):
        strength = (value.abs().nan_to_num() * 4).clamp(0, 1)[
            ..., None
        ]  # (H, W, 1); a quarter of a side is full colour
        colour = torch.where(value[..., None] > 0, INSIDE, OUTSIDE)
        panel.image = (255 + (colour - 255) * strength).to(torch.uint8).permute(2, 0, 1)

    def describe(self, value, height, width):
        return f"the deepest point lies {max(value.nan_to_num(-math.inf).max().item(), 0):.2f} sides inside"


def _signed_distance(mask):
    """(H, W) uint8 of 1, 0 and 255 -> (H, W) float32: distance of each pixel's centre to the edge of the nearest pixel of
    the other kind, in sides."""
    from scipy.ndimage import (
        distance_transform_edt,
    )  # here, because only this needs it and it takes a while to import

    side, pet, ground = max(mask.shape), mask == 1, mask == 0
    to_ground = (
        distance_transform_edt(~ground) - 0.5
        if ground.any()
        else np.full(mask.shape, NO_CONTOUR * side)
    )
    to_pet = (
        distance_transform_edt(~pet) - 0.5 if pet.any() else np.full(mask.shape, NO_CONTOUR * side)
    )
    signed = np.where(pet, to_ground, -to_pet) / side
    return np.where(mask == UNLABELLED, np.nan, signed).astype(np.float32)
