"""torchvision's classification networks by their names: `torchvision:resnet18`,
`torchvision:mobilenet_v3_small`, ...

    --encoder torchvision:resnet18 --encoder-weights hub    its best weights are downloaded

The feature maps are the last ones of each size that all that follows is computed from, so none from
inside a block with a bypass; they are found by looking through the network's graph. One that has no
map at 1/2, as ConvNeXt, gets its map at 1/4 enlarged; one that lacks another, or that takes one
size of images only, is refused.
"""

import functools
import warnings

import torch
from torch.overrides import TorchFunctionMode

from cli import InputError
from encoders import STRIDES, Encoder, Foreign, refuse_strides

# Where images are normalised a second time, inside, and only with trained weights.
REFUSED = ("googlenet", "inception_v3")


class Torchvision(Encoder):
    def __init__(self, name, argument=None):
        from torchvision import models

        super().__init__(name)
        # Its classification networks.
        known = [network for network in models.list_models(module=models) if network not in REFUSED]
        if argument not in known:
            raise InputError(
                f"torchvision has no classification network {str(argument)[:60]!r}; it has "
                f"{', '.join(known)}"
            )
        self.network, self.weights = argument, models.get_model_weights(argument).DEFAULT
        made_for = self.weights.transforms()
        self.mean = tuple(255 * value for value in made_for.mean)
        self.std = tuple(255 * value for value in made_for.std)

    def channels(self, width):
        return Foreign.channels_of([channels for _, channels in _maps(self.network)])

    def build(self, width):
        maps = _maps(self.network)
        return Foreign(_extractor(_random(self.network), [node for node, _ in maps]), maps)

    def weights_from_hub(self):
        return self.weights.get_state_dict(progress=True, check_hash=True)

    def renamed(self, weights):
        return Foreign.renamed(weights)


class _Counted(TorchFunctionMode):
    """RegNet computes how wide it is with small tensors, which have to have values even where a
    network has none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.arange, torch.tensor):
            kwargs = {"device": "cpu"} | kwargs
        return function(*args, **kwargs)


def _random(network):
    from torchvision.models import get_model

    with _Counted():
        return get_model(network, weights=None)


def _extractor(model, nodes):
    from torchvision.models.feature_extraction import create_feature_extractor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has layers which only train, such as dropout
        return create_feature_extractor(model, nodes)


def _outputs(extractor):
    """{name: node of the graph} of what a feature extractor returns, in order."""
    return next(node for node in extractor.graph.nodes if node.op == "output").args[0]


@functools.cache
def _maps(network):
    """[(node of the network's graph, its channels)] of the last maps at 1/2 to 1/32, or at 1/4 to
    1/32."""
    from torchvision.models.feature_extraction import get_graph_node_names

    h, w = 128, 192
    with torch.device("meta"), torch.no_grad():  # shapes alone: nothing is computed
        try:
            model = _random(network).eval()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                training, nodes = get_graph_node_names(model)
            extractor = _extractor(model, [node for node in nodes if node in training]).eval()
            values = extractor(torch.zeros(1, 3, h, w))
        except Exception as error:  # each network refuses in its own way
            refuse_strides(
                f"torchvision:{network}",
                f"does not take images of any size ({type(error).__name__})",
            )
    nodes = {}
    for name, node in _outputs(extractor).items():
        if getattr(values[name], "ndim", 0) == 4:
            nodes[name] = node
    order = {node: k for k, node in enumerate(nodes.values())}
    last, furthest = {}, 0
    for k, (name, node) in enumerate(nodes.items()):
        if furthest <= k:  # nothing before it goes past it
            last[tuple(values[name].shape[2:])] = name, values[name].shape[1]
        furthest = max(furthest, *(order.get(user, 0) for user in node.users), 0)
    sizes = [(h // stride, w // stride) for stride in STRIDES]
    lacking = [f"1/{h // size[0]}" for size in sizes[1:] if size not in last]
    if lacking:
        refuse_strides(f"torchvision:{network}", f"has no feature map at {', '.join(lacking)}")
    return [last[size] for size in sizes if size in last]
