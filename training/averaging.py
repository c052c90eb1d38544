"""A moving average of a network's weights and statistics, which is what is then measured, chosen
and kept.

Late in training a network's weights swing about a place; their average lies nearer to it. With a
learning rate that falls to zero the swing dies down by itself, so the average is worth most where
training ends early.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992. That the
average begins short and grows to its length, (1 + n) / (10 + n) after n steps, is TensorFlow's
ExponentialMovingAverage(num_updates).
"""

import functools

import torch
from torch.optim.swa_utils import AveragedModel


def start(model, decay):
    """The average of a network that has not been trained yet, or None where decay is;
    AveragedModel.update_parameters(model) takes a step up, .module is the network with the
    average's weights, and state_dict() all of it.

    decay: how much of itself the average keeps at each step, between 0 and 1; 0.998 looks back over
    about 500 steps.
    """
    return (
        AveragedModel(model, multi_avg_fn=functools.partial(mix, decay), use_buffers=True)
        if decay
        else None
    )


@torch.no_grad()
def mix(decay, averages, values, n):
    """Move averages towards values in place, both lists of tensors of one kind; n: how many steps
    they have taken up. What is counted, as batches are, is taken as it is."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + int(n)) / (10 + int(n))))
    else:
        torch._foreach_copy_(averages, values)
