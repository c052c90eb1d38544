"""What a loss weighting is to the rest: the base class of the files in this folder.

Equal, fixed and uncertainty weighting are in utils.py, with the members that a weighting may
override: `weights` for the log, `total` or `backward` for a step, `begin_step`, `end_step` and
`prepare`. README.md is the guide."""

import torch

import registry
from cli import InputError
from utils import EqualWeightedLoss, UncertaintyWeightedLoss, WeightedLoss


class Weighting(EqualWeightedLoss):
    """Equal weights, under a name of this folder: a file's class overrides what differs."""

    def __init__(self, name, argument, tasks):
        super().__init__(tasks)
        if argument is not None:
            stem = name.partition(":")[0]
            raise InputError(f"the weighting {stem} takes nothing after a colon, and was {name!r}")
        self.spec = name

    def across(self, tensor):
        """The mean of the processes' tensors, of one shape: of gradients, that of the batch."""
        return tensor if self.world is None else self.world.mean(tensor)

    def global_losses(self, losses):
        """(n,) the losses of the global batch, in the tasks' order, on the CPU, no gradient."""
        values = torch.stack([losses[task].detach() for task in self.tasks])
        return self.across(values).cpu()

    def has_labels(self):
        """(n,) bool: whether the last global batch holds a label of each task."""
        return torch.tensor([self.counts[task] > 0 for task in self.tasks])


def make_criterion(spec, tasks):
    """The criterion of a --weighting: equal, uncertainty, a file's name, or 0.8-0.1-0.1.

    Fixed weights that are all the same are equal weights. Raises cli.InputError for any other text.
    """
    if spec == "equal":
        return EqualWeightedLoss(tasks)
    if spec == "uncertainty":
        return UncertaintyWeightedLoss(tasks)
    if spec.partition(":")[0] in registry.names("weighting"):
        return registry.find("weighting", spec, tasks)
    try:
        weights = [float(number) for number in spec.split("-")]
        criterion = WeightedLoss(tasks, weights)
    except ValueError:
        raise InputError(
            f"--weighting {spec[:60]!r} is neither equal nor uncertainty nor {len(tasks)} positive "
            f"numbers joined by '-', nor one of {', '.join(registry.names('weighting'))}"
        ) from None
    return EqualWeightedLoss(tasks) if len(set(weights)) == 1 else criterion
