"""Reconstruction: the image at a quarter of its side from the deepest features; it needs no label.

Output and target (B, 3, ceil(H / 4), ceil(W / 4)) float in [0, 1].
"""

import torch
from torch.nn import functional as F

from models import PlainDecoder
from tasks import Metric, Task, resized


class Recon(Task):
    labels = "an image"
    metrics = {"recon_mae": Metric("reconstruction error", "of 0 to 1", higher=False)}
    panel = "reconstruction"

    def kinds(self, raw):
        return [True] * len(raw["image"])

    def target(self, raw):
        image = raw["image"].float().contiguous()
        size = [-(-side // 4) for side in image.shape[-2:]]
        return F.interpolate(image, size=size, mode="bilinear", antialias=True) / 255

    def head(self, channels):
        return PlainDecoder(channels[-1], 3)

    def loss(self, output, target):
        """L1."""
        return (output - target).abs().flatten(1).mean(1)

    def measure(self, output, target):
        return {"recon_mae": (output - target).abs().double().flatten(1).mean(1)}

    def answer(self, output, height, width):
        """(3, H, W) uint8."""
        image = resized(output, height, width)
        return (255 * image.clamp(0, 1)).round().to(torch.uint8)

    def draw(self, panel, value, is_target):
        panel.image = value
