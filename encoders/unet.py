"""This project's own encoder, a U-Net's of five stages; `--width` is its width. models.py says what differs from the paper.

Source: Ronneberger, Fischer and Brox, "U-Net", 2015.
"""

from torch import nn

from encoders import Encoder
from models import STRIDE, Down, conv_bn_relu, stage_channels


class Unet(Encoder):
    # Of ImageNet's RGB values (0-255), the field's customary constants.
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def channels(self, width):
        return stage_channels(width)

    def build(self, width):
        return _Stages(self.channels(width))


class _Stages(nn.Module):
    """(B, 3, H, W) normalised float -> five feature maps, at 1/2 to 1/32 of H and W (rounded up), finest first."""

    def __init__(self, channels):
        super().__init__()
        self.channels = self.inner = channels
        self.stem = conv_bn_relu(3, channels[0], kernel=5, stride=STRIDE)
        self.downs = nn.ModuleList(Down(cin, cout) for cin, cout in zip(channels, channels[1:]))

    @property
    def stages(self):
        return [[self.stem], *([pool, *double] for pool, double in self.downs)]

    def forward(self, x):
        features = [self.stem(x)]
        for down in self.downs:
            features.append(down(features[-1]))
        return features
