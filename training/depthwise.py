"""Gradients of convolutions channel by channel ("depthwise"), for training in bf16 on a CPU.

There PyTorch's library has no quick way for two of them, by the weights of 5 x 5 and by the input
where a side is halved: they take five to thirty times as long as in fp32, so that networks made of
such convolutions, as EfficientNet is, trained slower in bf16 than in fp32. Both can be had from
what is quick: the first is four gradients of 3 x 3 side by side, the second a plain convolution of
the gradient with zeros between its values. The values are the same but for rounding.
benchmarks/README.md has figures.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

KERNELS = (3, 5)
backward = torch.ops.aten.convolution_backward


def install(model):
    """Let a network's depthwise convolutions compute their gradients so, when it trains in bf16 on
    a CPU; in all else they stay as they are. After this it can be copied but not pickled."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, Depthwise) and is_suited(layer):
            layer.__class__ = with_gradients(type(layer))


def is_suited(layer):
    """Whether a convolution is a depthwise one of 3 x 3 or 5 x 5, not wider than it is high,
    without a bias."""
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.bias is None
        and layer.kernel_size in [(k, k) for k in KERNELS]
        and layer.stride in ((1, 1), (2, 2))
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.padding in [(k, k) for k in range(layer.kernel_size[0])]
    )


@functools.cache
def with_gradients(kind):
    """A subclass of a kind of convolution that is a Depthwise too."""
    return type(kind.__name__, (Depthwise, kind), {})


class Depthwise(nn.Conv2d):
    """A convolution whose gradients are those below, when it trains in bf16 on a CPU."""

    def _conv_forward(self, x, weight, bias):
        trains = self.training and torch.is_grad_enabled() and x.device.type == "cpu"
        if not (
            trains
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
        ):
            return super()._conv_forward(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return Convolution.apply(
                x.bfloat16(), weight.bfloat16(), self.stride[0], self.padding[0]
            )


class Convolution(torch.autograd.Function):
    """x (B, C, H, W), weight (C, 1, k, k), stride 1 or 2, padding -> (B, C, H', W')."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        by_x = (
            input_gradient(x, weight, gradient, ctx.stride, ctx.padding)
            if ctx.needs_input_grad[0]
            else None
        )
        by_weight = (
            weight_gradient(x, weight, gradient, ctx.stride, ctx.padding)
            if ctx.needs_input_grad[1]
            else None
        )
        return by_x, by_weight, None, None


def plain(x, weight, gradient, stride, padding, wanted):
    """PyTorch's own gradients; wanted: (by the input, by the weights)."""
    return backward(
        gradient,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [*wanted, False],
    )[:2]


def input_gradient(x, weight, gradient, stride, padding):
    """The gradient by x, in its shape; fastest in channels_last."""
    if stride == 1:
        return plain(x, weight, gradient, stride, padding, (True, False))[0]
    k, (n, c, height, width) = weight.shape[-1], x.shape
    # As many values as there would be at stride 1; none is between those that there are.
    spread = gradient.new_zeros(
        n, height + 2 * padding - k + 1, width + 2 * padding - k + 1, c
    ).permute(0, 3, 1, 2)
    spread[:, :, ::stride, ::stride] = gradient
    return F.conv2d(spread, weight.flip(2, 3), padding=k - 1 - padding, groups=c)


def weight_gradient(x, weight, gradient, stride, padding):
    """The gradient by a weight (C, 1, k, k), in its shape; fastest in channels_last."""
    if weight.shape[-1] == 3:
        return plain(x, weight, gradient, stride, padding, (False, True))[1]
    x = F.pad(x, [padding] * 4)
    height, width = (stride * (side - 1) + 3 for side in gradient.shape[-2:])
    of_part, found = weight.new_empty(len(weight), 1, 3, 3), torch.empty_like(weight)
    for top in (0, 2):
        for left in (0, 2):  # the middle row and column twice, with the same values
            part = x[:, :, top : top + height, left : left + width].contiguous(
                memory_format=torch.channels_last
            )
            found[:, :, top : top + 3, left : left + 3] = plain(
                part, of_part, gradient, stride, 0, (False, True)
            )[1]
    return found
