"""Encoders that are another library's networks: what torchvision's and timm's have in common."""

import torch
from torch import nn
from torch.nn import functional as F

from cli import InputError
from encoders import STRIDES, Encoder

SIDES = (128, 192)  # of the image whose maps are looked at


class ForeignEncoder(Encoder):
    """A subclass says its network, mean and std from 0 to 1, and gives maps() and body()."""

    def set_values(self, mean, std):
        """Mean and standard deviation of the images that it was made for, from 0 to 1."""
        self.mean = tuple(255 * value for value in mean)
        self.std = tuple(255 * value for value in std)

    def maps(self):
        """[(whatever names a map, its channels)], finest first, all five or all but the finest."""
        raise NotImplementedError

    def body(self):
        """The network with random weights, which gives these maps in a list or in a dict."""
        raise NotImplementedError

    def channels(self, width):
        channels = [channels for _, channels in self.maps()]
        return (channels[0],) * (len(STRIDES) - len(channels)) + tuple(channels)

    def build(self, width):
        return _Foreign(self.body(), self.channels(width))

    def renamed(self, weights):
        return {f"body.{name.removeprefix('body.')}": value for name, value in weights.items()}


class _Foreign(nn.Module):
    """The five feature maps of a network that gives them, or all but the finest."""

    stages, inner, is_initialised = None, None, True

    def __init__(self, body, channels):
        super().__init__()
        self.body, self.channels = body, channels

    def forward(self, x):
        # Sides that are no multiple of 32 are rounded in each library's own way.
        rows, columns = (-side % STRIDES[-1] for side in x.shape[-2:])
        maps = self.body(F.pad(x, (0, columns, 0, rows)) if rows or columns else x)
        maps = list(maps.values() if isinstance(maps, dict) else maps)
        if len(maps) < len(STRIDES):
            maps.insert(0, F.interpolate(maps[0], scale_factor=2, mode="nearest"))
        return maps


def last_of_each(encoder, values):
    """[(name, channels)] of the last maps at 1/2 to 1/32, or at 1/4 to 1/32.

    values: [(name, map)] of an image of SIDES; refuses an encoder, a name, that lacks one.
    """
    last = {tuple(map.shape[2:]): (name, map.shape[1]) for name, map in values}
    sizes = [(SIDES[0] // stride, SIDES[1] // stride) for stride in STRIDES]
    lacking = [f"1/{SIDES[0] // size[0]}" for size in sizes[1:] if size not in last]
    if lacking:
        refuse(encoder, f"has no feature map at {', '.join(lacking)}")
    return [last[size] for size in sizes if size in last]


def look(encoder, function):
    """Call a function on an image without values: shapes alone, and nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        try:
            return function(torch.zeros(1, 3, *SIDES))
        except Exception as error:  # each network refuses in its own way
            refuse(encoder, f"does not take images of any size ({type(error).__name__})")


def refuse(encoder, reason):
    wanted = ", ".join(f"1/{stride}" for stride in STRIDES)
    raise InputError(
        f"{encoder} {reason}, and an encoder needs maps at {wanted} of the image's sides; use "
        "another --encoder"
    )
