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

from cli import InputError
from encoders._foreign import ForeignEncoder, last_of_each, look


class Timm(ForeignEncoder):
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
        self.set_values(made_for.mean, made_for.std)

    def maps(self):
        return _maps(self.network)

    def body(self, pretrained=False):
        indices = [index for index, _ in self.maps()]
        options = {"features_only": True, "out_indices": indices, "pretrained": pretrained}
        return _timm().create_model(self.network, **options)

    def weights_from_hub(self):
        return self.body(pretrained=True).state_dict()


def _timm():
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"timm is not installed ({error}); run 'pip install -r requirements-timm.txt'"
        ) from None
    return timm


@functools.cache
def _maps(network):
    indices, values = look(f"timm:{network}", lambda image: _all_values(network, image))
    return last_of_each(f"timm:{network}", zip(indices, values, strict=True))


def _all_values(network, image):
    model = _timm().create_model(network, pretrained=False, features_only=True).eval()
    return model.feature_info.out_indices, model(image)
