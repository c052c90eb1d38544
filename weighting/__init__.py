"""What a weighting is to everything else: the class that each file in this folder derives its own from. README.md is the
guide.

`equal`, fixed numbers and `uncertainty` are in utils.py, where a weighting's other members are: `weights` for the log,
`total` or `backward` for a step, `begin_step` and `prepare`.
"""

from cli import InputError
from utils import EqualWeightedLoss


class Weighting(EqualWeightedLoss):
    """Equal weights, under a name of this folder: a file's class changes `share`, or overrides `total` or `backward`."""

    def __init__(self, name, argument, tasks):
        super().__init__(tasks)
        if argument is not None:
            raise InputError(
                f"the weighting {name.partition(':')[0]} takes nothing after a colon, and was {name!r}"
            )
        self.spec = name

    def share(self, values):
        """Let each task's loss weigh its share of some positive numbers, a tensor (n,) in the tasks' order, from now on."""
        self.fixed = dict(zip(self.tasks, (values / values.sum()).tolist()))
