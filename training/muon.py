"""Muon: gradient descent whose steps turn every direction of a layer alike, for networks that have
little time.

A gradient of a convolution, seen as a matrix of outputs by inputs, is mostly a few directions;
AdamW scales its entries one by one and leaves it so. Muon replaces the matrix M = U S V' by about U
V', in which all directions are as long as each other, so that rare ones are learned as fast as
common ones. What that brings here is in benchmarks/README.md, under "Time to a result".

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, for the step
and the polynomial; Liu et al., "Muon is scalable for LLM training", 2025, for decay and for the
scale, with which a learning rate is about what it is for AdamW.
"""

import math

import torch
from torch import nn

MOMENTUM = 0.95
ROUNDS = 3  # of the polynomial: what is not small beside the largest comes into 0.3 to 1.2; each costs time
POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5, steep at zero and near one at one
SCALE = 0.2  # root mean square of a step's entries, over the learning rate: about AdamW's


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with "is_hidden" true: weights of convolutions (out, in, h, w), which
    get the step above. `precision` of these groups: fp32 or bf16, of the matrix products."""

    def __init__(self, groups, lr):
        super().__init__(groups, lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have a gradient; those of hidden weights are used
        up."""
        for group in self.param_groups:
            for p in group["params"] if group["is_hidden"] else ():
                if p.grad is not None:
                    self._turn(p, group)
                    p.grad = None  # AdamW has nothing to do with it
        return super().step(closure)

    def _turn(self, p, group):
        state, dtype = (
            self.state[p],
            torch.bfloat16 if group["precision"] == "bf16" else torch.float32,
        )
        if not state:
            state.update(step=torch.zeros((), device=p.device), momentum=torch.zeros_like(p))
        state["step"] += 1
        momentum = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
        matrix = (
            p.grad.lerp(momentum, MOMENTUM).permute(0, 2, 3, 1).flatten(1)
        )  # no copy where the weights are channels_last
        turned = orthogonal(matrix.to(dtype)).to(p.dtype) * (SCALE * math.sqrt(max(matrix.shape)))
        out, cin, height, width = p.shape
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(turned.view(out, height, width, cin).permute(0, 3, 1, 2), alpha=-group["lr"])


def orthogonal(matrix):
    """About U V' of the (m, n) matrix U S V'; zero stays zero."""
    a, b, c = POLYNOMIAL
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # the smaller products
    x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x


def hidden(model):
    """The weights that Muon turns: of convolutions between feature maps. Those of the image, of one
    channel each, and those that give the outputs (they have a bias) are AdamW's."""
    return [
        layer.weight
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
        and layer.bias is None
        and layer.groups == 1
        and layer.in_channels > 3
    ]
