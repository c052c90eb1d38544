"""What an encoder is to the rest: the base class of the files in this folder. README.md is the
guide.

An encoder makes a module that turns images into five feature maps; it knows which values of an
image it was made for and where pretrained weights come from.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch

from cli import InputError, listed, one_line
from models import digest

STRIDES = (2, 4, 8, 16, 32)  # of the five feature maps
NONE, HUB, PACKAGE = "none", "hub", "package"


class Encoder(ABC):
    """A file's class overrides what differs; channels and build must be there.

    mean, std       of red, green and blue in 0-255, of the images that it was made for.
    counts_kinds    whether its name ends in a number that says which of several it is.
    weights_sha256  of the pretrained weights that `load` gave; None for random ones.
    """

    mean, std = (127.5,) * 3, (127.5,) * 3
    counts_kinds = False
    weights_sha256 = None

    def __init__(self, name, argument=None):
        if argument is not None:
            stem = name.partition(":")[0]
            raise InputError(f"the encoder {stem} takes nothing after a colon, and was {name!r}")
        self.name = name

    @abstractmethod
    def channels(self, width):
        """Channels of the five feature maps, finest first. width: the network's."""

    @abstractmethod
    def build(self, width):
        """A module: (B, 3, H, W) normalised float -> five feature maps, 1/2 to 1/32 of H and W.

        Sides are rounded up. Its weights are random, and nothing is downloaded: the name may come
        out of a stranger's checkpoint. It has `channels`; `stages`, five lists of modules that give
        the maps when called one after the other, or None; `inner`, the channels before each stage's
        last module; and `is_initialised` where models.build should leave its weights alone.
        """

    def weights_from_hub(self):
        """A state dict of pretrained weights that its library downloads."""
        raise InputError(f"there are no weights of {self.name} on a hub; name a file instead")

    def weights_from_package(self):
        """A state dict of pretrained weights that come with a package."""
        raise InputError(f"there are no weights of {self.name} in a package; name a file instead")

    def renamed(self, weights):
        """A state dict under the names that the module has."""
        return weights

    def load(self, modules, source):
        """Give modules of `build` pretrained weights: "none", "hub", "package" or a state dict's
        file.

        Raises cli.InputError where they do not fit.
        """
        if source == NONE:
            return
        weights = self.renamed(self.find_weights(source))
        wanted = modules[0].state_dict()
        unfit = []
        for name, value in wanted.items():
            if name not in weights:
                unfit.append(f"{name} is missing")
            elif weights[name].shape != value.shape:
                given = tuple(weights[name].shape)
                unfit.append(f"{name} is {given} instead of {tuple(value.shape)}")
        if unfit:
            raise InputError(
                f"the weights of {source} do not fit the encoder {self.name}: {listed(unfit)}; "
                "name others, or another --encoder"
            )
        for module in modules:
            module.load_state_dict({name: weights[name] for name in wanted})
        unused = [name for name in weights if name not in wanted]
        print(
            f"encoder {self.name} from {source}" + (f" (unused: {listed(unused)})" * bool(unused))
        )
        self.weights_sha256 = digest(modules[0].state_dict())

    def find_weights(self, source):
        if source == PACKAGE:
            return self.weights_from_package()
        if source != HUB:
            return read(source)
        try:
            return self.weights_from_hub()
        except InputError:
            raise
        except Exception as error:  # each library fails in its own way
            raise InputError(
                f"the weights of {self.name} cannot be downloaded ({one_line(error)[:200]}); check "
                "the connection, or name a file with --encoder-weights"
            ) from None


def read(path):
    """The state dict in a file: itself, or what lies there under state_dict or model."""
    try:
        content = torch.load(Path(path), map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(
            f"the weights {path} cannot be read ({error.strerror}); --encoder-weights is {NONE}, "
            f"{HUB}, {PACKAGE} or a file with a state dict"
        ) from None
    except Exception:  # hostile bytes make the unpickler raise nearly anything
        content = None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    values = list(content.values()) if isinstance(content, dict) else []
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise InputError(
            f"{path} holds no state dict of tensors; name a file that torch.save wrote"
        )
    return content
