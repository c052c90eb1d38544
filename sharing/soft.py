"""Soft parameter sharing: an encoder a task, tied by the squared distance of their weights.

`soft` or `soft:0.01`: the strength of the tie, 0.1 unless it is said. `soft:0` are separate networks. `soft:inf` is the
limit, in which the weights are one: it is built as one encoder, with one set of statistics of batch normalisation, and so is
`hard`.

All encoders start with the same weights. Their distance counts weights and biases, those of batch normalisation too, but not
its running statistics.

Source: Duong, Cohn, Bird and Cook, "Low Resource Dependency Parsing", 2015: the loss plus strength * ||A - B||^2; of more
than two tasks, the sum over all pairs.
"""

import math

import torch

from cli import InputError
from sharing import Sharing, of_each


class Soft(Sharing):
    def __init__(self, name, argument=None):
        super().__init__(name)
        try:
            self.strength = 0.1 if argument is None else float(argument)
        except ValueError:
            self.strength = -1
        if not self.strength >= 0:
            raise InputError(
                "the strength of soft sharing is a number from 0 on or inf, as in soft:0.1, and was "
                f"{name[:60]!r}"
            )

    def build(self, make_encoder, tasks, beside, seed):
        return make_encoder() if self._is_one() else of_each(tasks, lambda task: make_encoder())

    def features(self, encoder, image, tasks, cut):
        if self._is_one():
            return dict.fromkeys(tasks, [cut(map) for map in encoder(image)])
        return {task: encoder[task](image) for task in tasks}

    def shared(self, encoder):
        return super().shared(encoder) if self._is_one() else []

    def penalty(self, encoder):
        """strength * the sum of squared differences, over all pairs of tasks and all weights."""
        if self._is_one() or self.strength == 0 or len(encoder) < 2:
            return None
        weights = torch.stack(
            [torch.cat([p.flatten() for p in one.parameters()]) for one in encoder.values()]
        )
        # Over all pairs of n it is n times the sum of squared distances from the mean, which is quicker to compute.
        return self.strength * len(weights) * (weights - weights.mean(dim=0)).square().sum()

    def _is_one(self):
        return math.isinf(self.strength)
