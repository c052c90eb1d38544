"""timm's backbones by their names: `timm:resnet18`, `timm:tf_efficientnet_lite0`,
`timm:convnext_tiny`, ...

    pip install -r requirements-timm.txt
    --encoder timm:resnet18 --encoder-weights hub        timm downloads its weights

Any with feature maps at 1/4 to 1/32 (timm's features_only); one that has none at 1/2 gets its map
at 1/4 enlarged. Others, as plain vision transformers, and those that take one size of images only,
are refused. A name says a network that timm itself lists: one of a hub or of a folder would be
downloaded or read."""

import functools
import re

import torch

from cli import InputError
from encoders import STRIDES, Encoder, Foreign, refuse_strides


class Timm(Encoder):
    def __init__(self, name, argument=None):
        super().__init__(name)
        if argument not in _timm().list_models():
            word = re.sub(r"\W", "", str(argument)[:12])
            close = _timm().list_models(f"*{word}*")[:8] or ["resnet18"]
            raise InputError(
                f"timm lists no network {str(argument)[:60]!r}; it has, for example, "
                f"{', '.join(close)}"
            )
        self.network = argument
        made_for = _timm().get_pretrained_cfg(argument)
        self.mean = tuple(255 * value for value in made_for.mean)
        self.std = tuple(255 * value for value in made_for.std)

    def channels(self, width):
        return Foreign.channels_of([channels for _, channels in _maps(self.network)])

    def build(self, width):
        return Foreign(_features(self.network), _maps(self.network))

    def weights_from_hub(self):
        return _features(self.network, pretrained=True).state_dict()

    def renamed(self, weights):
        return Foreign.renamed(weights)


def _timm():
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"timm is not installed ({error}); run 'pip install -r requirements-timm.txt'"
        ) from None
    return timm


def _features(network, pretrained=False):
    indices = [index for index, _ in _maps(network)]
    return _timm().create_model(
        network, features_only=True, out_indices=indices, pretrained=pretrained
    )


@functools.cache
def _maps(network):
    """[(index of timm's feature map, its channels)] at 1/2 to 1/32, or at 1/4 to 1/32."""
    h, w, name = 128, 192, f"timm:{network}"
    with torch.device("meta"), torch.no_grad():  # shapes alone: nothing is computed
        try:
            model = _timm().create_model(network, pretrained=False, features_only=True).eval()
            values = model(torch.zeros(1, 3, h, w))
        except Exception as error:  # each network refuses in its own way
            refuse_strides(
                name, f"gives no feature maps of images of any size ({type(error).__name__})"
            )
    sizes = [(h // stride, w // stride) for stride in STRIDES]
    last = {}
    for index, value in zip(model.feature_info.out_indices, values, strict=True):
        last[tuple(value.shape[2:])] = index, value.shape[1]
    lacking = [f"1/{h // size[0]}" for size in sizes[1:] if size not in last]
    if lacking:
        refuse_strides(name, f"has no feature map at {', '.join(lacking)}")
    return [last[size] for size in sizes if size in last]
