"""What a sharing is to everything else: the class that each file in this folder derives its own from. README.md is the
guide.

A sharing says which of the encoder's five feature maps each task gets. What it is built of, the network's part `encoder`, is
a module of its own making, which it is handed back with every call.
"""

from abc import ABC, abstractmethod

from torch import nn

from cli import InputError


class Sharing(ABC):
    """One file's class overrides what differs; build and features must be there.

    encoder, here and below: what `build` returned. tasks: names, in order.
    """

    def __init__(self, name, argument=None):
        if argument is not None:
            raise InputError(
                f"the sharing {name.partition(':')[0]} takes nothing after a colon, and was {name!r}"
            )
        self.name = name

    @abstractmethod
    def build(self, make_encoder, tasks, beside, seed):
        """The network's part `encoder`, a module.

        make_encoder() is an encoder, always with the same initial weights: a module that gives five feature maps, finest
        first, at 1/2 to 1/32; its `stages` are five lists of modules to call one after the other, or None where it cannot be
        taken apart. beside: tasks that it was trained with and whose heads were left out. Other parameters are built with
        models.build(make, name, seed).
        """

    @abstractmethod
    def features(self, encoder, image, tasks, cut):
        """{task: its five feature maps}, each (B, C, h, w).

        image: (B, 3, H, W) normalised float. cut(map) is to be called, and its value used, where a map leaves the parameters
        that tasks share for those that are a task's own.
        """

    def encoders(self, encoder):
        """The modules that make_encoder made, which may have pretrained weights."""
        return list(encoder.values()) if isinstance(encoder, nn.ModuleDict) else [encoder]

    def shared(self, encoder):
        """The parameters before the cut: those that the loss of more than one task reaches."""
        return list(encoder.parameters())

    def penalty(self, encoder):
        """A scalar that is added to the loss, or None."""
        return None

    def values(self, encoder):
        """{column: number} for an epoch's row of the log, of what it has learned by its end."""
        return {}


def of_each(tasks, make):
    """{task: make(task)} as a module."""
    if unfit := [task for task in tasks if hasattr(nn.ModuleDict, task)]:
        raise ValueError(
            f"no task can be called {unfit[0]!r} where each has parts of its own in the encoder; rename it"
        )
    return nn.ModuleDict({task: make(task) for task in tasks})


def stages(encoder, sharing):
    """The stages of an encoder; refuses one that cannot be taken apart."""
    if encoder.stages is None:
        raise InputError(
            f"{sharing.name} works between the stages of an encoder, and this encoder cannot be taken apart; "
            "use --encoder unet or efficientnet_lite0, or --sharing hard or soft"
        )
    return encoder.stages


def run(layers, x):
    """Call modules one after the other."""
    for layer in layers:
        x = layer(x)
    return x
