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
from encoders._foreign import ForeignEncoder, last_of_each, look

# Where images are normalised a second time, inside, and only with trained weights.
REFUSED = ("googlenet", "inception_v3")


class Torchvision(ForeignEncoder):
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
        self.set_values(made_for.mean, made_for.std)

    def maps(self):
        return _maps(self.network)

    def body(self):
        return _extractor(_random(self.network), [node for node, _ in self.maps()])

    def weights_from_hub(self):
        return self.weights.get_state_dict(progress=True, check_hash=True)


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


def _extractor(model, nodes=None):
    """A network that gives some nodes of its graph, or all that are there in training as well."""
    from torchvision.models import feature_extraction

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has layers which only train, such as dropout
        if nodes is None:
            training, nodes = feature_extraction.get_graph_node_names(model)
            nodes = [node for node in nodes if node in training]
        return feature_extraction.create_feature_extractor(model, nodes)


@functools.cache
def _maps(network):
    extractor, values = look(f"torchvision:{network}", lambda image: _all_values(network, image))
    # {name: node of the graph} of what the extractor returns, in order.
    outputs = next(node for node in extractor.graph.nodes if node.op == "output").args[0]
    nodes = {name: node for name, node in outputs.items() if getattr(values[name], "ndim", 0) == 4}
    order = {node: k for k, node in enumerate(nodes.values())}
    found, furthest = [], 0
    for k, (name, node) in enumerate(nodes.items()):
        if furthest <= k:  # nothing before it goes past it
            found.append((name, values[name]))
        furthest = max(furthest, *(order.get(user, 0) for user in node.users), 0)
    return last_of_each(f"torchvision:{network}", found)


def _all_values(network, image):
    extractor = _extractor(_random(network).eval()).eval()
    return extractor, extractor(image)
