"""What an encoder is to everything else: the class that each file in this folder derives its own from. README.md is the
guide.

An encoder makes a module that turns images into five feature maps, and knows which values of a picture it was made for and
where trained weights for it come from.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from cli import InputError, listed, one_line
from models import digest

STRIDES = (2, 4, 8, 16, 32)  # of the five feature maps
NONE, HUB, PACKAGE = "none", "hub", "package"


class Encoder(ABC):
    """One file's class overrides what differs; channels and build must be there.

    mean, std     of red, green and blue in 0-255, of the images that it was made for.
    counts_kinds  whether its name ends in a number that says which of several it is.
    """

    mean, std = (127.5,) * 3, (127.5,) * 3
    counts_kinds = False

    def __init__(self, name, argument=None):
        if argument is not None:
            raise InputError(
                f"the encoder {name.partition(':')[0]} takes nothing after a colon, and was {name!r}"
            )
        self.name = name

    @abstractmethod
    def channels(self, width):
        """Channels of the five feature maps, finest first. width: the network's, which few encoders have a use for."""

    @abstractmethod
    def build(self, width):
        """A module: (B, 3, H, W) normalised float -> its five feature maps, at 1/2 to 1/32 of H and W (rounded up).

        Its weights are random, and nothing is downloaded: the name may come out of a stranger's checkpoint. It has
        `channels`; `stages`, five lists of modules that give the maps when called one after the other, or None; `inner`, the
        channels before each stage's last module; and `is_initialised` where models.build should leave its weights alone.
        """

    def weights_from_hub(self):
        """A state dict of trained weights that its library downloads."""
        raise InputError(
            f"there are no weights of {self.name} on a hub; name a file with --encoder-weights, or leave it out"
        )

    def weights_from_package(self):
        """A state dict of trained weights that come with a package."""
        raise InputError(
            f"there are no weights of {self.name} in a package; name a file with --encoder-weights, or leave it "
            "out"
        )

    def renamed(self, weights):
        """A state dict under the names that the module has."""
        return weights

    def load(self, modules, source):
        """Give modules of `build` trained weights; source: "none", "hub", "package" or a file with a state dict.

        Returns {"from": source, "sha256": of names and values}, or {} for none. Raises cli.InputError where they do not fit.
        """
        if source == NONE:
            return {}
        weights = {HUB: self._downloaded, PACKAGE: self.weights_from_package}.get(
            source, lambda: read(source)
        )()
        what = self.name if source in (HUB, PACKAGE) else source
        weights, wanted = self.renamed(weights), modules[0].state_dict()
        missing = [name for name in wanted if name not in weights]
        unlike = [
            f"{name} {tuple(weights[name].shape)} where {tuple(value.shape)} is wanted"
            for name, value in wanted.items()
            if name in weights and weights[name].shape != value.shape
        ]
        if missing or unlike:
            raise InputError(
                f"the weights of {what} do not fit the encoder {self.name}: "
                + "; ".join(
                    [f"it lacks {listed(missing)}"] * bool(missing)
                    + [f"it has {listed(unlike)}"] * bool(unlike)
                )
                + "; name others, or another --encoder"
            )
        for module in modules:
            module.load_state_dict({name: weights[name] for name in wanted})
        spare = [name for name in weights if name not in wanted]
        print(
            f"encoder {self.name} from {source}"
            + (f" (not used: {listed(spare)})" if spare else "")
        )
        return {"from": str(source), "sha256": digest(modules[0].state_dict())}

    def _downloaded(self):
        try:
            return self.weights_from_hub()
        except InputError:
            raise
        except Exception as error:  # each library fails in its own way
            raise InputError(
                f"the weights of {self.name} cannot be downloaded ({one_line(error)[:200]}); look after the "
                "connection, or name a file with --encoder-weights"
            ) from None


def read(path):
    """The state dict in a file: itself, or what lies there under state_dict or model. Nothing in it is executed."""
    try:
        content = torch.load(Path(path), map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(
            f"the weights {path} cannot be read ({error.strerror}); --encoder-weights is {NONE}, {HUB}, "
            f"{PACKAGE} or a file with a state dict"
        ) from None
    except Exception:  # hostile bytes make the unpickler raise nearly anything
        content = None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise InputError(
            f"{path} holds no state dict of tensors, or is damaged; name a file that torch.save wrote of one"
        )
    return content


def refuse_strides(name, reason):
    """Refuse a network that does not give the five maps."""
    wanted = ", ".join(f"1/{stride}" for stride in STRIDES)
    raise InputError(
        f"{name} {reason}, and an encoder needs maps at {wanted} of the image's sides; use another --encoder"
    )


class Foreign(nn.Module):
    """The five feature maps of another library's network, which gives them, or four without the finest."""

    stages, inner, is_initialised = None, None, True

    def __init__(self, body, maps):
        """maps: [(whatever names a map, its channels)], finest first."""
        super().__init__()
        self.body, self.channels = body, self.channels_of([channels for _, channels in maps])

    @staticmethod
    def channels_of(given):
        return (given[0],) * (len(STRIDES) - len(given)) + tuple(given)

    @staticmethod
    def renamed(weights):
        return {
            name if name.startswith("body.") else f"body.{name}": value
            for name, value in weights.items()
        }

    def forward(self, x):
        # Sides that are no multiple of 32 are rounded in each library's own way; a decoder cuts off what is too much.
        rows, columns = (-side % STRIDES[-1] for side in x.shape[-2:])
        maps = self.body(F.pad(x, (0, columns, 0, rows)) if rows or columns else x)
        maps = list(maps.values() if isinstance(maps, dict) else maps)
        if len(maps) < len(STRIDES):
            maps.insert(0, F.interpolate(maps[0], scale_factor=2, mode="nearest"))
        return maps
