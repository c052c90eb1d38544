"""The default encoder, a U-Net's of five stages (models.UNetEncoder); `--width` is its width."""

from encoders import Encoder
from models import UNetEncoder


class Unet(UNetEncoder, Encoder):
    """As both bases."""
