"""3 x 3 convolutions with fewer multiplications, for training where a processor's library is slow.

Weights' gradients by Winograd's way (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016) take 16 multiplications instead of 36, in matrix products. On processors with AVX2
and without AVX-512 that is twice as fast: the library that PyTorch calls computes a convolution,
and the gradient of its input, at 70 to 80 GFLOP/s a core and the gradient of its weights at 30 to
50. It is also closer to the exact one, as sums are over a quarter as many terms.

A convolution of a picture that was upsampled twofold sees each value of it two or four times over:
as a transposed convolution it takes 4 multiplications instead of 9, and nothing has to be upsampled
and concatenated before. That pays in bf16, too, where a processor multiplies matrices of it so fast
that memory is what a step waits for.

Both are exact but for rounding. A network that is evaluated computes as PyTorch does, to the last
bit. benchmarks/README.md has figures.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cli import InputError
from models import Up
from training import depthwise
from training.precision import processor_flags

WAYS = ("direct", "fast")
LEAST = 1000  # channels in times channels out, below which the transforms cost more than they save
CHUNK = 3 << 20  # bytes of transformed values at a time, which stay in a core's cache

# A tile of 4 x 4 inputs meets 2 x 2 outputs. With BT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0],
# [0, 1, 0, -1]], AT = [[1, 1, 1, 0], [0, 1, -1, -1]] and this G, the outputs are AT ((G w GT) * (BT
# x B)) A. Here it is the gradient by w.
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
BOTH = torch.einsum("ik,jl->jikl", G, G).reshape(
    16, 9
)  # by rows and by columns; the second index of a tile comes first


def choose(asked, device, precision, computers):
    """One of WAYS: as asked, or where nothing is (None), whichever is faster on this processor.
    computers: threads of all processes together; one alone computes as PyTorch does, so that there
    is a way to train that gives what every version gave.

    Raises InputError where fast is asked for and the run does not train on a CPU.
    """
    if asked == "fast" and device.type != "cpu":
        raise InputError(
            f"--convolution fast is for a CPU, and this run trains on {device.type}; leave it out"
        )
    flags = processor_flags() or ()
    pays_here = (
        "amx_bf16" in flags if precision == "bf16" else "avx2" in flags and "avx512f" not in flags
    )
    return asked or WAYS[device.type == "cpu" and computers > 1 and pays_here]


def install(model, way):
    """Let a network train with convolutions computed in one of WAYS, where they can be; those
    channel by channel as depthwise.py has it."""
    depthwise.install(model)
    for layer in model.modules() if way == "fast" else ():
        if type(layer) is nn.Conv2d and is_suited(layer):
            layer.__class__ = Winograd
        elif type(layer) is Up:
            layer.__class__ = FastUp


def is_suited(layer):
    """Whether a convolution is a plain one of 3 x 3 without a bias, and of channels enough."""
    plain = {
        "kernel_size": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "padding_mode": "zeros",
        "bias": None,
    }
    return all(getattr(layer, key) == value for key, value in plain.items()) and pays(layer.weight)


def pays(weight):
    """Whether a convolution has channels enough for Winograd's way."""
    return weight.shape[0] * weight.shape[1] >= LEAST


def trains(layer, x):
    """Whether a layer is being trained on a CPU, in float32 or under autocast in bf16."""
    return (
        layer.training
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype
        in (
            (torch.float32, torch.bfloat16)
            if torch.is_autocast_enabled("cpu")
            else (torch.float32,)
        )
    )


def convolve(x, weight):
    """A 3 x 3 convolution, padding 1; its weights' gradient by Winograd's way where that pays, in
    float32."""
    is_even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    if is_even and weight.requires_grad and pays(weight) and not torch.is_autocast_enabled("cpu"):
        return Convolution.apply(x, weight)
    return F.conv2d(x, weight, padding=1)


class Winograd(nn.Conv2d):
    """A convolution whose weights get their gradient from `weight_gradient`; in all else the
    same."""

    def forward(self, x):
        return convolve(x, self.weight) if trains(self, x) else super().forward(x)


class FastUp(Up):
    """models.Up without upsampling: the first convolution's part for the skip connection, and a
    transposed one for the rest."""

    def forward(self, x, skip):
        if not trains(self, x) or skip.shape[-2:] != (2 * x.shape[2], 2 * x.shape[3]):
            return super().forward(x, skip)
        first, *others = (
            layer for layer in self.conv.modules() if not isinstance(layer, nn.Sequential)
        )
        of_skip, of_x = first.weight.split(
            [skip.shape[1], first.in_channels - skip.shape[1]], dim=1
        )
        y = convolve(skip, of_skip) + F.conv_transpose2d(
            self.reduce(x), transposed(of_x), stride=2, padding=1
        )
        for layer in others:
            y = layer(y)
        return y


def transposed(weight):
    """(O, C, 3, 3) of a convolution of what was upsampled to twice the side -> (C, O, 4, 4) of the
    transposed one of stride 2 and padding 1: each of its values is the sum of those that meet the
    same value."""
    sums = sum(
        F.pad(weight, (right, 1 - right, down, 1 - down)) for right in range(2) for down in range(2)
    )
    return sums.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


class Convolution(torch.autograd.Function):
    """x (B, C, H, W), weight (O, C, 3, 3) -> (B, O, H, W); H and W are even."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                1,
                [True, False, False],
            )[0]
        return of_x, weight_gradient(x, gradient)


def weight_gradient(x, gradient):
    """The gradient by the weights of a 3 x 3 convolution with a padding of 1.

    x (B, C, H, W) and the gradient by its output (B, O, H, W), float32, fastest in channels_last; H
    and W even. Returns (O, C, 3, 3), channels_last.
    """
    x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    (n, height, width, cin), cout = x.shape, gradient.shape[3]
    rows, columns = height // 2, width // 2
    images = max(1, min(n, CHUNK // (16 * height * width * max(cin, cout))))
    total, padded = x.new_zeros(16, cout, cin), None
    for part, its_gradient in zip(x.split(images), gradient.split(images)):
        m = len(part)
        if padded is None or m < len(padded):  # memory for a chunk
            padded = x.new_zeros(m, height + 2, width + 2, cin)
            half, half_gradient = (
                x.new_empty(4, m, rows, width + 2, cin),
                x.new_empty(4, m, rows, width, cout),
            )
            tiles, tile_gradients = (
                x.new_empty(4, 4, m, rows, columns, channels) for channels in (cin, cout)
            )
        padded[:, 1:-1, 1:-1] = part
        transform([padded[:, k : k + height - 1 : 2] for k in range(4)], half)
        transform([half[..., k : k + width - 1 : 2, :] for k in range(4)], tiles)
        spread(its_gradient[:, 0::2], its_gradient[:, 1::2], half_gradient)
        spread(half_gradient[..., 0::2, :], half_gradient[..., 1::2, :], tile_gradients)
        total.baddbmm_(tile_gradients.view(16, -1, cout).transpose(1, 2), tiles.view(16, -1, cin))
    found = (BOTH.T @ total.view(16, -1)).view(9, cout, cin).transpose(0, 1).contiguous()
    return found.view(cout, 3, 3, cin).permute(0, 3, 1, 2)


def transform(taps, out):
    """BT times four taps, into out[0] to out[3]."""
    a, b, c, d = taps
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])


def spread(a, b, out):
    """A times two gradients, into out[0] to out[3]."""
    out[0].copy_(a)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.neg(b, out=out[3])
