"""timm's backbones by their names: `timm:resnet18`, `timm:tf_efficientnet_lite0`,
`timm:convnext_tiny`, ...

    pip install -r requirements-timm.txt
    --encoder timm:resnet18 --encoder-weights hub        timm downloads its weights

Any with feature maps at 1/4 to 1/32 (timm's features_only); one that has none at 1/2 gets its map
at 1/4 enlarged. Others, as plain vision transformers, and those that take one size of images only,
are refused. A name says a network that timm itself lists: one of a hub or of a folder would be
downloaded or read.
"""

import functools

import torch

from cli import InputError
from encoders import STRIDES, Encoder, Foreign, refuse_strides


class Timm(Encoder):
    def __init__(self, name, argument=None):
        super().__init__(name)
        if argument not in _timm().list_models():
            close = _timm().list_models(
                f"*{''.join(c for c in str(argument)[:12] if c.isalnum() or c == '_')}*"
            )[:8]
            raise InputError(
                f"timm lists no network {str(argument)[:60]!r}"
                + (
                    f"; it has {', '.join(close)}"
                    if close
                    else "; 'import timm; timm.list_models()' shows what it has"
                )
            )
        self.network = argument
        made_for = _timm().get_pretrained_cfg(argument)
        self.mean, self.std = (
            tuple(255 * value for value in values) for values in (made_for.mean, made_for.std)
        )

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
            f"timm is not installed ({error}); install it with 'pip install -r "
            "requirements-timm.txt'"
        ) from None
    return timm


def _features(network, **more):
    indices = [index for index, _ in _maps(network)]
    return _timm().create_model(
        network, features_only=True, out_indices=indices, **{"pretrained": False} | more
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
    last = {
        stride: (index, value.shape[1])
        for index, value in zip(model.feature_info.out_indices, values)
        for stride in STRIDES
        if value.shape[2:] == (h // stride, w // stride)
    }
    lacking = [f"1/{stride}" for stride in STRIDES[1:] if stride not in last]
    if lacking:
        refuse_strides(name, f"has no feature map at {', '.join(lacking)}")
    return [last[stride] for stride in STRIDES if stride in last]
