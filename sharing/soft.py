"""Soft parameter sharing: an encoder a task, tied by the squared distance of their weights.

`soft` or `soft:0.01`: the strength of the tie, 0.1 unless it is said. `soft:0` is separate
networks. `soft:inf` is the limit, in which the weights are one: it is built as one encoder, and so
is `hard`.

All encoders start with the same weights. Their distance counts weights and biases, those of batch
normalisation too, but not its running statistics.

Source: Duong, Cohn, Bird and Cook, "Low Resource Dependency Parsing", 2015: the loss plus
strength * ||A - B||^2; of more than two tasks, the sum over all pairs.
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
                "the strength of soft sharing is a number from 0 on or inf, as in soft:0.1; it was "
                f"{name[:60]!r}"
            )
        self.is_hard = math.isinf(self.strength)

    def build(self, make_encoder, tasks, dropped, seed):
        if self.is_hard:
            return make_encoder()
        return of_each(tasks, lambda task: make_encoder())

    def features(self, encoder, image, tasks, record):
        if self.is_hard:
            return super().features(encoder, image, tasks, record)
        return {task: encoder[task](image) for task in tasks}

    def encoders(self, encoder):
        return [encoder] if self.is_hard else list(encoder.values())

    def shared(self, encoder):
        return super().shared(encoder) if self.is_hard else []

    def penalty(self, encoder):
        """strength * the sum of squared differences, over all pairs of tasks and all weights."""
        encoders = self.encoders(encoder)
        if self.strength == 0 or len(encoders) < 2:
            return None
        weights = []
        for one in encoders:
            weights.append(torch.cat([p.flatten() for p in one.parameters()]))
        weights = torch.stack(weights)
        # Over all pairs of n it is n times the sum of squared distances from the mean, which is
        # quicker to compute.
        return self.strength * len(weights) * (weights - weights.mean(dim=0)).square().sum()
