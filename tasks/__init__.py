"""What a task is to the rest of the project; each file here holds one. README.md is the guide.

`raw`, from which a target is made, is a dict of a batch whose samples are already transformed:

    image       (B, 3, S, S) uint8, always there
    masks       (B, 1, S, S) uint8: 1 pet, 0 background, 255 unlabelled
    trimaps     (B, 1, S, S) uint8: 1 pet, 2 background, 3 border, 255 unlabelled
    bboxes      (B, 4) float32, normalised xyxy in [0, 1], or NaN
    binary      (B,) int64: 0 or 1; 254 shows neither; 255 unknown
    index:NAME  a list of B texts, the cells of that column of index.csv; "" unknown
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch.nn import functional as F

from cli import InputError
from tasks.view import View
from utils import UNLABELLED


@dataclass(frozen=True)
class Metric:
    """How a figure reads: its name, its unit ("" for a share or an index), and its direction.

    percent   whether it is a share that tables give in percent.
    note      what the mean is taken over, if not obvious.
    hits      the value per image, 0 or 1, of which it is the share; its interval is then exact.
    """

    label: str
    unit: str = ""
    higher: bool = True
    percent: bool = False
    note: str = ""
    hits: str = ""

    @property
    def text(self):
        """As in "box IoU" or "distance error (sides)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


class Task(View, ABC):
    """One task. head, loss and measure must be there; all else has a default.

    needs    what `target` reads: masks, bboxes, binary, trimaps or "index:COLUMN".
    labels   what a user has to bring for each image, in words.
    metrics  {name: Metric} of a split's figures; the first one chooses the checkpoint.
    settings what `fit` found: plain values, kept with the network.
    """

    needs = ()
    labels = "labels"
    metrics = {}

    def __init__(self, name=None, argument=None):
        name = name or type(self).__name__.lower()
        if argument is not None:
            stem = name.partition(":")[0]
            raise InputError(f"the task {stem} takes nothing after a colon, and was {name!r}")
        self.name = name
        self.settings = {}
        self.temperature = 1.0  # divides logits in `answer` (training/calibrate.py)

    def fit(self, dataset):
        """Learn what is needed of the training split before the network is built.

        dataset: an MTLDataset; dataset.column(NAME) is a list of texts. Fills `settings`. Raises
        cli.InputError where the split cannot teach the task.
        """

    def target(self, raw):
        """The targets of a batch, a tensor (B, ...)."""
        (kind,) = self.needs
        return raw[kind]

    def labelled(self, target):
        """(B,) bool: which images are labelled, at least in part."""
        is_known = ~target.isnan() if target.is_floating_point() else target != UNLABELLED
        return is_known.flatten(1).any(1) if target.ndim > 1 else is_known

    def kinds(self, raw):
        """The kind of each image's label, a list: a class's name or True; None if unlabelled."""
        labelled = self.labelled(self.target(raw)).tolist()
        return [True if one else None for one in labelled]

    def lacking(self, counts):
        """What a split lacks to teach or to measure the task, in words, or None.

        counts: {kind: number of images}.
        """
        return None if counts else f"none has {self.labels}"

    @abstractmethod
    def head(self, channels):
        """A module: (the five feature maps, finest first; (H, W) of the image) -> output (B, ...).

        channels: how many each map has.
        """

    @abstractmethod
    def loss(self, output, target):
        """(B,) losses, NaN where an image is not labelled (utils.blank)."""

    def soft_loss(self, output, teacher_output):
        """(B,) distillation losses against a teacher's outputs; None of a task without."""

    @abstractmethod
    def measure(self, output, target):
        """{value: (B,) tensor} of each image; NaN where it is not labelled."""

    def summarise(self, measured):
        """{metric: number or None} of a split from the values of all images: by default, means."""
        return {metric: mean(measured[metric]) for metric in self.metrics}

    def classified(self, output, target):
        """(logits (n, K), classes (n,)) of the images whose class is known; None without
        classes."""


def mean(values):
    """Mean over the values that are not NaN, as a float; None where there is none."""
    values = values.double()
    values = values[~values.isnan()]
    return values.mean().item() if len(values) else None


def resized(output, height, width):
    """A map (C, h, w) at another size, bilinear: (C, height, width)."""
    size = (height, width)
    return F.interpolate(output[None], size=size, mode="bilinear", align_corners=False)[0]


def resized_labels(target, height, width):
    """Labels (1, h, w) at another size, nearest: (height, width) int64."""
    labels = F.interpolate(target[None].float(), size=(height, width), mode="nearest-exact")
    return labels[0, 0].long()
