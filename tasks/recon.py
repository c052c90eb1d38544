"""The image itself at a quarter of its side, through the deepest features alone: it needs no label. Output and target
(B, 3, ceil(H / 4), ceil(W / 4)) float in [0, 1]."""

import torch
from torch.nn import functional as F

from models import PlainDecoder
from tasks import Metric, Task


class Recon(Task):
    metrics = {"recon_mae": Metric("reconstruction error", "of 0 to 1", higher=False)}
    panel = "reconstruction"

    def value(self, raw):
        return [True] * len(raw["image"])

    def target(self, raw):
        image = raw["image"]
        quarter = [-(-side // 4) for side in image.shape[-2:]]
        return (
            F.interpolate(image.float().contiguous(), size=quarter, mode="bilinear", antialias=True)
            / 255
        )

    def head(self, channels):
        return PlainDecoder(channels[-1], 3)

    def loss(self, output, target):
        """L1."""
        return F.l1_loss(output, target)

    def measure(self, output, target):
        return {"recon_mae": (output - target).abs().double().flatten(1).mean(1)}

    def answer(self, output, height, width):
        """(3, H, W) uint8."""
        image = F.interpolate(
            output[None], size=(height, width), mode="bilinear", align_corners=False
        )[0]
        return (255 * image.clamp(0, 1)).round().to(torch.uint8)

    def draw(self, panel, value, is_target):
        panel.image = value
