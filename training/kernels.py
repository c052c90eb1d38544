"""Faster layers for training on a CPU, exact but for rounding, and batch normalisation folded for
inference.

`install` puts them in the place of a network's own layers, with the same parameters. Evaluated,
they compute as PyTorch does.

Winograd's way (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016) gives the
weights' gradient of a 3 x 3 convolution 16 multiplications instead of 36. A 3 x 3 convolution of a
map that was upsampled twofold is a transposed convolution of 4 multiplications instead of 9.
Together they train 1.28 times as fast in fp32 on AVX2 without AVX-512.

Depthwise convolutions have slow gradients in bf16: by the input where a side is halved, by the
weights of 5 x 5. The first is a convolution of the gradient with zeros between its values, the
second four gradients of 3 x 3. EfficientNet-Lite2 trains 1.5 times as fast as in fp32 with AMX, and
half as fast without. benchmarks/README.md has figures.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from cli import InputError
from models import Up
from training.precision import processor_flags

CONVOLUTIONS = ("direct", "winograd")
LEAST = (
    1000  # channels in times channels out; below it Winograd's transforms cost more than they save
)
CHUNK = 3 << 20  # bytes of transformed values at a time, which stay in a core's cache
NOISE_SIDE = 64  # pixels of the image on which a folded network is compared
TOLERANCE = 1e-3  # of the largest output; rounding is a hundredth of it

# G of F(2 x 2, 3 x 3), by rows and by columns at once: (16, 9). The second index of a tile comes
# first.
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
GG = torch.einsum("ik,jl->jikl", G, G).reshape(16, 9)


def choose(asked, device, precision, threads):
    """One of CONVOLUTIONS: as asked, or for "auto" the faster one on this processor; threads: of all
    processes together.

    A single thread computes as PyTorch does. Raises InputError where winograd is asked for off the CPU.
    """
    if device.type != "cpu":
        if asked == "winograd":
            raise InputError(
                f"--convolution winograd is for a CPU, and this run is on {device.type}; leave it out"
            )
        return "direct"
    flags = processor_flags() or ()
    is_faster = "avx2" in flags and "avx512f" not in flags
    if precision == "bf16":
        is_faster = "amx_bf16" in flags
    if asked != "auto":
        return asked
    return "winograd" if is_faster and threads > 1 else "direct"


def install(model, convolution):
    """Replace layers of a network by faster ones; convolution: one of CONVOLUTIONS."""
    replace_layers(model, make_depthwise)
    if convolution == "winograd":
        replace_layers(model, make_winograd)
        replace_layers(model, make_up)


def replace_layers(model, make):
    """Put make(layer) in the place of each layer of a network, unless it is None; the network
    itself stays.
    """
    made = {}
    for module in list(model.modules()):
        for name, layer in module._modules.items():
            if layer is not None and layer not in made:
                made[layer] = make(layer)
            if made.get(layer) is not None:
                module._modules[name] = made[layer].train(layer.training)


def gradients(x, weight, gradient, stride=1, padding=0, of_x=True):
    """PyTorch's gradient of a convolution by x, or by the weight: (gradient, None) or (None,
    gradient).
    """
    groups = x.shape[1] // weight.shape[1]
    sizes = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups
    wanted = [of_x, not of_x, False]
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *sizes, wanted)[:2]


# ------------------------------------------------------------------------------- 3 x 3 convolutions


def make_winograd(layer):
    """A Winograd of a plain 3 x 3 convolution with channels enough, else None."""
    if type(layer) is not nn.Conv2d or layer.bias is not None or layer.groups != 1:
        return None
    sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    is_plain = sizes == ((3, 3), (1, 1), (1, 1), (1, 1)) and layer.padding_mode == "zeros"
    return Winograd(layer) if is_plain and pays(layer.weight) else None


def make_up(layer):
    """A FastUp of a models.Up, else None."""
    return FastUp(layer) if type(layer) is Up else None


def pays(weight):
    """Whether a convolution has channels enough for Winograd's way."""
    return weight.shape[0] * weight.shape[1] >= LEAST


def trains(layer, x):
    """Whether a layer is being trained on a CPU, in float32 or under autocast."""
    is_training = layer.training and torch.is_grad_enabled() and x.device.type == "cpu"
    return is_training and (x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"))


def convolve(x, weight):
    """A 3 x 3 convolution, padding 1; its weights' gradient by Winograd's way where that pays, in
    float32.
    """
    is_even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    if is_even and weight.requires_grad and pays(weight) and not torch.is_autocast_enabled("cpu"):
        return WinogradFunction.apply(x, weight)
    return F.conv2d(x, weight, padding=1)


class Winograd(nn.Conv2d):
    """A 3 x 3 convolution whose weights get their gradient from `winograd_weight_gradient`."""

    def __init__(self, layer):
        channels = layer.in_channels, layer.out_channels
        super().__init__(*channels, 3, padding=1, bias=False, device="meta")
        self.weight = layer.weight

    def forward(self, x):
        return convolve(x, self.weight) if trains(self, x) else super().forward(x)


class FastUp(Up):
    """models.Up without upsampling: a convolution of the skip connection plus a transposed one of
    the rest.
    """

    def __init__(self, layer):
        nn.Module.__init__(self)
        self.reduce, self.conv = layer.reduce, layer.conv

    def forward(self, x, skip):
        if not trains(self, x) or skip.shape[-2:] != (2 * x.shape[2], 2 * x.shape[3]):
            return super().forward(x, skip)
        first, *others = (m for m in self.conv.modules() if not isinstance(m, nn.Sequential))
        channels = skip.shape[1]
        of_skip, of_x = first.weight[:, :channels], first.weight[:, channels:]
        upsampled = F.conv_transpose2d(self.reduce(x), transposed(of_x), stride=2, padding=1)
        y = convolve(skip, of_skip) + upsampled
        for layer in others:
            y = layer(y)
        return y


def transposed(weight):
    """(O, C, 3, 3) of a convolution after twofold upsampling -> (C, O, 4, 4) of the transposed one,
    stride 2, padding 1.

    Each value is the sum of those that meet the same value of the map.
    """
    shifts = [(right, 1 - right, down, 1 - down) for right in range(2) for down in range(2)]
    sums = sum(F.pad(weight, shift) for shift in shifts)
    return sums.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


class WinogradFunction(torch.autograd.Function):
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
            of_x = gradients(x, weight, gradient, padding=1)[0]
        return of_x, winograd_weight_gradient(x, gradient)


def winograd_weight_gradient(x, gradient):
    """The gradient by the weights of a 3 x 3 convolution with a padding of 1.

    x (B, C, H, W) and the gradient by its output (B, O, H, W), float32, fastest in channels_last; H
    and W even. Returns (O, C, 3, 3), channels_last. A tile of 4 x 4 inputs meets 2 x 2 outputs;
    with BT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]] and AT = [[1, 1, 1, 0],
    [0, 1, -1, -1]] the outputs are AT ((G w GT) * (BT x B)) A.
    """
    x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    (height, width, cin), cout = x.shape[1:], gradient.shape[3]
    images = max(1, CHUNK // (16 * height * width * max(cin, cout)))
    total = x.new_zeros(16, cout, cin)
    for part, part_gradient in zip(x.split(images), gradient.split(images), strict=True):
        padded = F.pad(part, (0, 0, 1, 1, 1, 1))
        rows = transform([padded[:, k : k + height - 1 : 2] for k in range(4)])
        tiles = transform([rows[..., k : k + width - 1 : 2, :] for k in range(4)])
        rows = spread(part_gradient[:, 0::2], part_gradient[:, 1::2])
        gradient_tiles = spread(rows[..., 0::2, :], rows[..., 1::2, :])
        total.baddbmm_(gradient_tiles.view(16, -1, cout).transpose(1, 2), tiles.view(16, -1, cin))
    weights = (GG.T @ total.view(16, -1)).view(9, cout, cin).transpose(0, 1).contiguous()
    return weights.view(cout, 3, 3, cin).permute(0, 3, 1, 2)


def transform(taps):
    """BT times four taps, (4, ...)."""
    a, b, c, d = taps
    out = a.new_empty(4, *a.shape)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def spread(a, b):
    """A times two gradients, (4, ...)."""
    out = a.new_empty(4, *a.shape)
    out[0] = a
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.neg(b, out=out[3])
    return out


# --------------------------------------------------------------------------- depthwise convolutions


def make_depthwise(layer):
    """A Depthwise of a depthwise convolution whose gradients are slow in bf16, else None."""
    if type(layer) is not nn.Conv2d or layer.bias is not None or layer.groups == 1:
        return None
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels
    sides = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    is_square = all(
        pair == (side, side)
        for pair, side in zip((layer.kernel_size, layer.stride, layer.padding), sides, strict=True)
    )
    is_slow = sides[:2] in ((3, 2), (5, 1), (5, 2)) and sides[2] < sides[0]
    is_plain = layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return Depthwise(layer) if is_depthwise and is_square and is_slow and is_plain else None


class Depthwise(nn.Conv2d):
    """A depthwise convolution whose gradients are those of DepthwiseFunction when it trains in bf16
    on a CPU.
    """

    def __init__(self, layer):
        sides = layer.kernel_size, layer.stride, layer.padding
        channels = layer.in_channels
        super().__init__(channels, channels, *sides, groups=channels, bias=False, device="meta")
        self.weight = layer.weight

    def forward(self, x):
        is_bf16 = (
            torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        )
        if not (is_bf16 and trains(self, x)):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            weight = self.weight.bfloat16()
            return DepthwiseFunction.apply(x.bfloat16(), weight, self.stride[0], self.padding[0])


class DepthwiseFunction(torch.autograd.Function):
    """x (B, C, H, W), weight (C, 1, k, k), stride 1 or 2, padding -> (B, C, H', W')."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = depthwise_input_gradient(x, weight, gradient, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = depthwise_weight_gradient(x, weight, gradient, ctx.stride, ctx.padding)
        return of_x, of_weight, None, None


def depthwise_input_gradient(x, weight, gradient, stride, padding):
    """The gradient by x, in its shape; fastest in channels_last."""
    if stride == 1:
        return gradients(x, weight, gradient, stride, padding)[0]
    k, (n, c, height, width) = weight.shape[-1], x.shape
    # As many values as there would be at stride 1, with zeros between those that there are.
    sides = height + 2 * padding - k + 1, width + 2 * padding - k + 1
    spaced = gradient.new_zeros(n, *sides, c).permute(0, 3, 1, 2)
    spaced[:, :, ::stride, ::stride] = gradient
    return F.conv2d(spaced, weight.flip(2, 3), padding=k - 1 - padding, groups=c)


def depthwise_weight_gradient(x, weight, gradient, stride, padding):
    """The gradient by a weight (C, 1, k, k), in its shape; fastest in channels_last."""
    if weight.shape[-1] == 3:
        return gradients(x, weight, gradient, stride, padding, of_x=False)[1]
    x = F.pad(x, [padding] * 4)
    height, width = (stride * (side - 1) + 3 for side in gradient.shape[-2:])
    corner, found = weight.new_empty(len(weight), 1, 3, 3), torch.empty_like(weight)
    for top in (0, 2):
        for left in (0, 2):  # the middle row and column twice, with the same values
            part = x[:, :, top : top + height, left : left + width]
            part = part.contiguous(memory_format=torch.channels_last)
            of_corner = gradients(part, corner, gradient, stride, of_x=False)[1]
            found[:, :, top : top + 3, left : left + 3] = of_corner
    return found


# ---------------------------------------------------------------------------------------- inference


@torch.no_grad()
def fold(model):
    """A copy of a network (models.MTLNet, on the CPU, in evaluation mode) with batch normalisation
    folded into convolutions.

    A normalisation is folded into the convolution that is registered before it. Outputs are
    compared on noise: where a network uses its layers in another order, it is returned as it is.
    """
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(module._modules.items())):
            is_pair = isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d
            if is_pair and conv.out_channels == norm.num_features:
                module._modules[name] = fuse_conv_bn_eval(conv, norm)
                module._modules[norm_name] = nn.Identity()
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, NOISE_SIDE, NOISE_SIDE), dtype=torch.uint8, generator=rng)
    after = folded(noise)
    for name, output in model(noise).items():
        if (after[name] - output).abs().max() > TOLERANCE * output.abs().max():
            return model
    return folded
