"""The gradient of a 3 x 3 convolution's weights in half the time, where a processor's library is slow at it.

On processors with AVX2 and without AVX-512 the library that PyTorch calls computes a convolution, and the gradient of its
input, at 70 to 80 GFLOP/s a core and the gradient of its weights at 30 to 50. By Winograd's way (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016) that gradient takes 16 multiplications instead of 36, in matrix products. It
is also closer to the exact one, as sums are over a quarter as many terms. benchmarks/README.md has figures.

What a network computes is not touched, to the last bit; the gradient of its weights is another one by rounding.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cli import InputError
from training.precision import processor_flags

WAYS = ("direct", "winograd")
LEAST = 1000      # channels in times channels out, below which the transforms cost more than they save
CHUNK = 3 << 20   # bytes of transformed values at a time, which stay in a core's cache

# A tile of 4 x 4 inputs meets 2 x 2 outputs. With BT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], AT =
# [[1, 1, 1, 0], [0, 1, -1, -1]] and this G, the outputs are AT ((G w GT) * (BT x B)) A. Here it is the gradient by w.
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def choose(asked, device, precision):
    """One of WAYS: as asked, or where nothing is (None), whichever is faster on this processor.

    Raises InputError where winograd is asked for and the run does not train in fp32 on a CPU.
    """
    fits = device.type == "cpu" and precision != "bf16"
    if asked == "winograd" and not fits:
        raise InputError(f"--convolution winograd is for fp32 on a CPU, and this run trains in {precision} on {device.type}; "
                         "leave it out")
    flags = processor_flags() or ()
    return asked or WAYS[fits and "avx2" in flags and "avx512f" not in flags]


def install(model, way):
    """Let a network's convolutions compute their weights' gradients in one of WAYS, where they can."""
    for layer in model.modules():
        if way == "winograd" and type(layer) is nn.Conv2d and is_suited(layer):
            layer.__class__ = Winograd


def is_suited(layer):
    """Whether a convolution is a plain one of 3 x 3 without a bias, and of channels enough."""
    plain = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1,
             "padding_mode": "zeros", "bias": None}
    return (all(getattr(layer, key) == value for key, value in plain.items())
            and layer.in_channels * layer.out_channels >= LEAST)


class Winograd(nn.Conv2d):
    """A convolution whose weights get their gradient from `weight_gradient`; in all else the same."""

    def forward(self, x):
        if (torch.is_grad_enabled() and self.weight.requires_grad and x.device.type == "cpu" and x.dtype == torch.float32
                and not torch.is_autocast_enabled("cpu") and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0):
            return Convolution.apply(x, self.weight)
        return super().forward(x)


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
                gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False])[0]
        return of_x, weight_gradient(x, gradient)


def weight_gradient(x, gradient):
    """The gradient by the weights of a 3 x 3 convolution with a padding of 1.

    x (B, C, H, W) and the gradient by its output (B, O, H, W), float32, fastest in channels_last; H and W even. Returns
    (O, C, 3, 3), channels_last.
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
            half, half_gradient = x.new_empty(4, m, rows, width + 2, cin), x.new_empty(4, m, rows, width, cout)
            tiles, tile_gradients = (x.new_empty(4, 4, m, rows, columns, channels) for channels in (cin, cout))
        padded[:, 1:-1, 1:-1] = part
        transform([padded[:, k:k + height - 1:2] for k in range(4)], half)
        transform([half[..., k:k + width - 1:2, :] for k in range(4)], tiles)
        spread(its_gradient[:, 0::2], its_gradient[:, 1::2], half_gradient)
        spread(half_gradient[..., 0::2, :], half_gradient[..., 1::2, :], tile_gradients)
        total.baddbmm_(tile_gradients.view(16, -1, cout).transpose(1, 2), tiles.view(16, -1, cin))
    both = torch.einsum("ik,jl->jikl", G, G).reshape(16, 9)  # the second index of a tile comes first
    found = (both.T @ total.view(16, -1)).view(9, cout, cin).transpose(0, 1).contiguous()
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
