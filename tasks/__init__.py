"""What one task is to everything else: the class that each file in this folder derives its own from. README.md is the guide.

What a target is made from, `raw`, is a dict of a batch: image (B, 3, S, S) uint8; masks (B, 1, S, S) uint8, 1 pet, 0
background, 255 unlabelled; trimaps (B, 1, S, S) uint8, 1 pet, 2 background, 3 border, 255 unlabelled; bboxes (B, 4) float32
in pixels or NaN; binary (B, 1) uint8, 255 unknown; and columns of index.csv as lists of text - of these the ones that the
task needs, and size, the stored side in pixels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from cli import InputError
from utils import UNLABELLED


@dataclass(frozen=True)
class Metric:
    """How a figure reads: its name, its unit ("" for a share or an index), and whether more of it is better.

    percent: a share that tables give in percent; note: what it is the mean of, where that goes without saying for nobody.
    """

    label: str
    unit: str = ""
    higher: bool = True
    percent: bool = False
    note: str = ""

    @property
    def text(self):
        """As in "box IoU" or "distance error (sides)"; an error is the mean of absolute ones."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


class Task(ABC):
    """A task with nothing in it. A file's class overrides what differs; all but head, loss and measure have a default.

    needs    what `target` reads: masks, bboxes, binary, trimaps (files of a data folder) or "index:COLUMN".
    metrics  {name: Metric} of the figures of a split, the one that chooses the checkpoint first.
    counts   per-image values that are whole numbers; flags: those that are 0 or 1.
    labels   what a user has to bring for each image, in words.
    classes  names of the classes that `answer` gives as (name, probability); none where it gives anything else.
    columns  names of what `cells` gives of an answer.
    wanted   what to bring where `lacking` finds a fault, or None: the labels for each image.
    panel    None to be drawn into the common panel, or the title of a panel of its own.
    of_foreground whether it tells of what `foreground` finds: where nothing is found it has no answer.
    by_image whether the loss of a batch without a target of UNLABELLED is the mean of its images' losses, and `imitate` likewise:
             several processes of a run then compute it apart.
    """

    needs = ()
    metrics = {}
    counts = ()
    flags = ()
    labels = "labels"
    classes = ()
    columns = ()
    wanted = None
    panel = None
    of_foreground = False
    by_image = False

    def __init__(self, name, argument=None):
        if argument is not None:
            raise InputError(
                f"the task {name.partition(':')[0]} takes nothing after a colon, and was {name!r}"
            )
        self.name = name
        self.settings = {}  # what `learn` found: plain values, kept with the network
        self.temperature = (
            1.0  # by which `answer` divides logits of classes (training/calibration.py)
        )

    def learn(self, dataset):
        """Look at the training split before the network is built, and fill `settings`.

        dataset: an MTLDataset without tasks; dataset.column(NAME) is a list of texts. Raises cli.InputError where it cannot
        teach the task.
        """

    # ------------------------------------------------------------------------------------------------ loader

    def target(self, raw):
        """The targets of a batch, a tensor whose first dimension is B. Pictures in it are augmented already."""
        (kind,) = self.needs
        return raw[kind]

    def value(self, raw):
        """What each image of a batch teaches: a list of B, True or the class or the like, None where nothing is known."""
        return [True if known else None for known in self.labelled(self.target(raw)).tolist()]

    def lacking(self, counts):
        """What is missing to teach or to measure this task, in words, or None; counts: {value: images that have it}."""
        return None if counts else f"none has {self.labels}"

    def labelled(self, target):
        """(B,) bool: whose target is known, at least in part."""
        if target.is_floating_point():
            return ~target.flatten(1).isnan().all(dim=1) if target.ndim > 1 else ~target.isnan()
        return (
            (target != UNLABELLED).flatten(1).any(dim=1)
            if target.ndim > 1
            else target != UNLABELLED
        )

    def flip(self, target):
        """The target of one image that is mirrored left to right."""
        return target

    def crop(self, target, left, top, width, height):
        """The target of one image of which a part is kept; the part relative to the frame, in [0, 1]."""
        return target

    def turn(self, target, quarters):
        """The target of one image that is turned by so many quarters against the clock; unknown where something moves and
        nothing here says where to."""
        return self.unknown(target) if self.moves else target

    def unknown(self, target):
        """A target like this one of which nothing is known."""
        return torch.full_like(target, torch.nan if target.is_floating_point() else UNLABELLED)

    def mix(self, targets):
        """The target of a picture that shows what several images do, (K, ...) of these: theirs where it is one, else unknown."""
        return targets[0] if (targets == targets[0]).all() else self.unknown(targets[0])

    def vanish(self, target):
        """The target of one image in which what one looks for is not to be seen any more."""
        return self.unknown(target)

    @property
    def can_imitate(self):
        """Whether this task can learn from another network's outputs."""
        return type(self).imitate is not Task.imitate

    @property
    def is_stored(self):
        """Whether a target is what is stored, as it is, on whatever device that lies."""
        return type(self).target is Task.target

    @property
    def moves(self):
        """Whether mirroring or cropping does anything to a target; the loader asks nothing of one that stays as it is."""
        return type(self).flip is not Task.flip or type(self).crop is not Task.crop

    # ------------------------------------------------------------------------- network, criterion, measurement

    @abstractmethod
    def head(self, channels):
        """A module: (the encoder's five feature maps, finest first, and (H, W) of the image) -> output (B, ...).

        channels: how many each feature map has.
        """

    @abstractmethod
    def loss(self, output, target):
        """A scalar: the mean over what is labelled; `nothing(output)` where nothing is."""

    def imitate(self, output, other):
        """A scalar: how far an output is from that of another network, the mean over the batch; None of a task that does not learn so."""

    @abstractmethod
    def measure(self, output, target):
        """{name: (B,) tensor} of each image; NaN where it is unlabelled."""

    def summarise(self, measured):
        """{metric: number or None} of a whole split, from the measurements of all its images: their mean, as it is."""
        return {metric: mean(measured[metric]) for metric in self.metrics}

    def classified(self, output, target):
        """Of a batch's images whose class is known: (logits (n, K), classes (n,) int64); None of a task without classes."""

    # ----------------------------------------------------------------------- looking at photographs (training/looking.py)

    def unmirror(self, output):
        """The output of one image, from that of its mirror image."""
        return output.flip(-1) if output.ndim == 3 else self.flip(output)

    def merge(self, outputs, windows, held):
        """The output of a picture from those of parts of it: maps blended where they lie, of others the mean, weighted by `held`.

        outputs (N, ...); windows (N, 4) float, left, top, width and height of each part, relative to the picture; held (N,) float
        in [0, 1], how much of what one looks for lies in each.
        """
        if outputs.ndim == 4:
            return blend(outputs, windows)
        return (outputs * (held / held.sum()).view(-1, *[1] * (outputs.ndim - 1))).sum(0)

    def foreground(self, output):
        """Where in a picture what one looks for is, (H, W) bool, from its output; None where that does not tell."""

    # ------------------------------------------------------------------------------------------------ pictures

    def answer(self, output, height, width):
        """What a person gets of one image's output (no first dimension), for a picture of height x width pixels."""
        return output

    def truth(self, target, height, width):
        """The same of one image's target; None where it is unlabelled."""
        return self.answer(target, height, width) if self.labelled(target[None])[0] else None

    def draw(self, panel, value, is_target):
        """Draw a value of `answer` or `truth` into a panel: change panel.image (3, H, W) uint8, or append to panel.boxes."""

    def describe(self, value, height, width):
        """A value in a few words, or "", for a picture of height x width pixels."""
        return ""

    def cells(self, value, height, width):
        """A value of `answer` as the cells of a table, one of each of `columns`: texts or numbers. Where there is no answer they stay
        empty."""
        return ()


def blend(maps, windows):
    """Maps of parts of a picture as one map, (N, C, h, w) -> (C, H, W) of the finest's resolution; windows as in Task.merge.

    Each weighs most in its middle, falling linearly to its edges. Parts of one size cover the picture; of several sizes it is the
    mean.
    """
    sizes = windows[:, 2:].unique(dim=0)
    shape = [
        round(side / share) for side, share in zip(maps.shape[-2:], sizes.amin(0).flip(0).tolist())
    ]
    mean = maps.new_zeros(maps.shape[1], *shape)
    for size in sizes:
        total, weight = torch.zeros_like(mean), maps.new_zeros(shape)
        for k in (windows[:, 2:] == size).all(1).nonzero()[:, 0].tolist():
            left, top, width, height = windows[k].tolist()
            rows = slice(round(top * shape[0]), round((top + height) * shape[0]))
            columns = slice(round(left * shape[1]), round((left + width) * shape[1]))
            sides = rows.stop - rows.start, columns.stop - columns.start
            tent = torch.outer(*[0.5 - ((torch.arange(n) + 0.5) / n - 0.5).abs() for n in sides])
            total[:, rows, columns] += (
                tent
                * F.interpolate(maps[k, None], size=sides, mode="bilinear", align_corners=False)[0]
            )
            weight[rows, columns] += tent
        mean += total / weight / len(sizes)
    return mean


def nothing(output):
    """A loss of zero that is still part of the graph."""
    return output.sum() * 0


def mean(values):
    """Mean over the values that are not NaN, as a float; None where there is none."""
    values = values.double()
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None


def blank(values, labelled):
    """Per-image values as they are where all are labelled, else as float64 with NaN at the others."""
    if labelled.all():
        return values
    return torch.where(labelled, values.double(), torch.nan)
