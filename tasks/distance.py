"""Signed distance to the mask's contour, derived from the mask.

Output and target (B, 1, H, W) float, in sides of the image: above zero inside the pet, below
outside, NaN where the mask is unlabelled.
"""

import math

import numpy as np
import torch

from models import SegDecoder
from tasks import Metric, Task, resized
from utils import UNLABELLED, blank, mean_over_pixels

NO_CONTOUR = 1.0  # sides: the distance where there is no contour
INSIDE = torch.tensor([230.0, 120.0, 20.0])
OUTSIDE = torch.tensor([30.0, 110.0, 220.0])


class Distance(Task):
    needs = ("masks",)
    labels = "a mask"
    metrics = {"distance_mae": Metric("distance error", "sides", higher=False)}
    panel = "distance"

    def kinds(self, raw):
        labelled = (raw["masks"] != UNLABELLED).flatten(1).any(1).tolist()
        return [True if one else None for one in labelled]

    def target(self, raw):
        masks = raw["masks"].cpu()
        maps = [torch.from_numpy(_signed_distance(mask[0].numpy())) for mask in masks]
        return torch.stack(maps)[:, None]

    def head(self, channels):
        return SegDecoder(channels)

    def loss(self, output, target):
        """L1, mean over an image's labelled pixels."""
        labelled = ~target.isnan()
        error = (output - torch.where(labelled, target, 0)).abs()
        return mean_over_pixels(error, labelled)

    def measure(self, output, target):
        error = (output - target).abs().double().flatten(1).nanmean(1)
        return {"distance_mae": blank(error, self.labelled(target))}

    def unwindow(self, output, window):
        """Distances count in sides of the window, and become sides of the picture."""
        return output * max(window[2:])

    def answer(self, output, height, width):
        """The distance at each pixel, (H, W) float."""
        return resized(output, height, width)[0]

    def draw(self, panel, value, is_target):
        # (H, W, 1); a quarter of a side is full colour
        strength = (value.abs().nan_to_num() * 4).clamp(0, 1)[..., None]
        colour = torch.where(value[..., None] > 0, INSIDE, OUTSIDE)
        panel.image = (255 + (colour - 255) * strength).to(torch.uint8).permute(2, 0, 1)

    def describe(self, value, height, width):
        deepest = max(value.nan_to_num(-math.inf).max().item(), 0)
        return f"the deepest point lies {deepest:.2f} sides inside"


def _signed_distance(mask):
    """(H, W) uint8 of 1, 0 and 255 -> (H, W) float32.

    The distance of each pixel's centre to the edge of the nearest pixel of the other kind, in
    sides."""
    from scipy.ndimage import distance_transform_edt  # takes a while to import

    side, pet, background = max(mask.shape), mask == 1, mask == 0
    to_background = to_pet = np.full(mask.shape, NO_CONTOUR * side)
    if background.any():
        to_background = distance_transform_edt(~background) - 0.5
    if pet.any():
        to_pet = distance_transform_edt(~pet) - 0.5
    signed = np.where(pet, to_background, -to_pet) / side
    return np.where(mask == UNLABELLED, np.nan, signed).astype(np.float32)
