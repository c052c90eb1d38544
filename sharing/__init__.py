"""What a parameter sharing is to the rest: the base class of the files in this folder.

A sharing says which of the encoder's five feature maps each task gets. What it builds, the
network's part `encoder`, is a module of its own making, which it gets back with every call.
README.md is the guide."""

from torch import nn

from cli import InputError
from models import HardSharing


class Sharing(HardSharing):
    """A file's class overrides what differs from one encoder for all.

    build(make_encoder, tasks, dropped, seed)
        The network's part `encoder`. make_encoder() is an encoder, always with the same initial
        weights: a module that gives five feature maps; its `stages` are five lists of modules to
        call one after the other, or None where it cannot be taken apart. tasks: names, in order;
        dropped: names of tasks that it was trained with and whose heads are left out. Other
        parameters are built with models.build(make, name, seed).
    features(encoder, image, tasks, record)
        {task: its five feature maps}, each (B, C, h, w). image: (B, 3, H, W) normalised float.
        record(map) is called, and its value used, where a map leaves the parameters that tasks
        share for those of one task.
    encoders(encoder)   the modules that make_encoder made, which may have pretrained weights
    shared(encoder)     parameters before the split point, which several tasks' losses reach
    penalty(encoder)    a scalar that is added to the loss, or None
    values(encoder)     {column: number} for an epoch's row of the log
    """

    def __init__(self, name, argument=None):
        if argument is not None:
            stem = name.partition(":")[0]
            raise InputError(f"the sharing {stem} takes nothing after a colon, and was {name!r}")
        self.name = name


def of_each(tasks, make):
    """{task: make(task)} as a module."""
    for task in tasks:
        if hasattr(nn.ModuleDict, task):
            raise ValueError(f"no task with parts in the encoder can be called {task!r}; rename it")
    return nn.ModuleDict({task: make(task) for task in tasks})


def stages(encoder, sharing):
    """The stages of an encoder; refuses one that cannot be taken apart."""
    if encoder.stages is None:
        raise InputError(
            f"{sharing.name} works between the stages of an encoder, and this encoder cannot be "
            "taken apart; use --encoder unet or efficientnet_lite0, or --sharing hard or soft"
        )
    return encoder.stages


def run(layers, x):
    """Call modules one after the other."""
    for layer in layers:
        x = layer(x)
    return x
