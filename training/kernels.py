"""Faster layers for training on a CPU, exact but for rounding, and folded ones for inference.

`install` puts faster layers in the place of a network's own, with the same parameters. Evaluated,
they compute as PyTorch's do.

Winograd's way (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016) gives the
weights' gradient of a 3 x 3 convolution 16 multiplications instead of 36. A 3 x 3 convolution of a
map that was upsampled twofold is a transposed convolution of 4 multiplications instead of 9.
Together a step is 1.28 times as fast in fp32 with AVX2 and without AVX-512.

Depthwise convolutions have two slow gradients in bf16: by the input where a side is halved, and by
the weights of 5 x 5. The first is a convolution of the gradient with zeros between its values, the
second four gradients of 3 x 3. EfficientNet-Lite2 trains 2.2 times as fast with AMX.
benchmarks/README.md has figures.
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

# Channels in times channels out, below which Winograd's transforms cost more than they save.
FEWEST = 1000
CHUNK = 3 << 20  # bytes of transformed values at a time, which stay in a core's cache
SLOW_DEPTHWISE = (((3, 3), (2, 2)), ((5, 5), (1, 1)), ((5, 5), (2, 2)))  # kernel and stride
NOISE_SIDE = 64  # pixels of the image on which a folded network is compared
TOLERANCE = 1e-3  # of the largest output; rounding is a hundredth of it

# G of F(2 x 2, 3 x 3) by rows and columns at once, (16, 9); a tile's second index comes first.
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
GG = torch.einsum("ik,jl->jikl", G, G).reshape(16, 9)


def choose(asked, device, precision, threads):
    """ "direct" or "winograd": as asked, or for "auto" the faster one on this processor.

    threads: of all processes together; a single one computes as PyTorch does.
    """
    if device.type != "cpu":
        if asked == "winograd":
            raise InputError(
                f"--convolution winograd is for a CPU, this run is on {device.type}; leave it out"
            )
        return "direct"
    flags = processor_flags() or ()
    is_faster = "avx2" in flags and "avx512f" not in flags
    if precision == "bf16":
        is_faster = "amx_bf16" in flags
    if asked == "auto":
        return "winograd" if is_faster and threads > 1 else "direct"
    return asked


def install(model, convolution):
    """Replace layers of a network by faster ones; convolution: "direct" or "winograd"."""
    replace_layers(model, lambda layer: faster(layer, convolution == "winograd"))


def replace_layers(model, make):
    """Put make(layer) in the place of each layer of a network, unless it is None."""
    made = {}
    for name, layer in list(model.named_modules(remove_duplicate=False))[1:]:
        if layer not in made:
            made[layer] = make(layer)
        if made[layer] is not None:
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, made[layer].train(layer.training))


def faster(layer, is_winograd):
    """A faster layer in the place of one, or None."""
    if type(layer) is Up:
        return FastUp(layer) if is_winograd else None
    if type(layer) is not nn.Conv2d or layer.bias is not None:
        return None
    if layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return None
    sizes = layer.kernel_size, layer.stride, layer.padding
    if layer.groups == 1 and sizes == ((3, 3), (1, 1), (1, 1)) and has_channels(layer.weight):
        return Winograd(layer) if is_winograd else None
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels
    is_square = layer.padding in ((0, 0), (1, 1), (2, 2))
    return Depthwise(layer) if is_depthwise and is_square and sizes[:2] in SLOW_DEPTHWISE else None


def trains(layer, x):
    """Whether a layer is being trained on a CPU, in float32 or under autocast."""
    is_training = layer.training and torch.is_grad_enabled() and x.device.type == "cpu"
    return is_training and (x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"))


class Faster(nn.Conv2d):
    """A convolution with the parameters of another layer, which it replaces."""

    def __init__(self, layer):
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            groups=layer.groups,
            bias=False,
            device="meta",
        )
        self.weight = layer.weight


class Convolution(torch.autograd.Function):
    """A convolution whose gradients come from other functions.

    x (B, C, H, W), weight (O, C or 1, k, k), sizes (stride, padding) -> (B, O, H', W'). gradients:
    (by x, by the weight), each a function of (x, weight, gradient, sizes).
    """

    @staticmethod
    def forward(ctx, x, weight, sizes, gradients):
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.gradients = sizes, gradients
        return F.conv2d(x, weight, None, *sizes, groups=x.shape[1] // weight.shape[1])

    @staticmethod
    def backward(ctx, gradient):
        found = []
        for is_needed, function in zip(ctx.needs_input_grad[:2], ctx.gradients, strict=True):
            args = (*ctx.saved_tensors, gradient, ctx.sizes)
            found.append(function(*args) if is_needed else None)
        return *found, None, None


def gradient_by_input(x, weight, gradient, sizes, wanted=(True, False, False)):
    """PyTorch's own gradient of a convolution by x."""
    (stride, padding), groups = sizes, x.shape[1] // weight.shape[1]
    options = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, wanted
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *options)
    return of_x if wanted[0] else of_weight


def gradient_by_weight(x, weight, gradient, sizes):
    """PyTorch's own gradient of a convolution by its weight."""
    return gradient_by_input(x, weight, gradient, sizes, (False, True, False))


# ------------------------------------------------------------------------------- 3 x 3 convolutions


def has_channels(weight):
    """Whether a convolution has channels enough for Winograd's way."""
    return weight.shape[0] * weight.shape[1] >= FEWEST


def convolve(x, weight):
    """A 3 x 3 convolution, padding 1; its weight's gradient by Winograd's way where that pays."""
    is_even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    if is_even and has_channels(weight) and not torch.is_autocast_enabled("cpu"):
        return Convolution.apply(x, weight, (1, 1), (gradient_by_input, winograd_gradient))
    return F.conv2d(x, weight, padding=1)


class Winograd(Faster):
    """A 3 x 3 convolution whose weight's gradient is computed by Winograd's way."""

    def forward(self, x):
        return convolve(x, self.weight) if trains(self, x) else super().forward(x)


class FastUp(Up):
    """models.Up without upsampling: a convolution of the skip connection plus a transposed one."""

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
    """The weight of a convolution after twofold upsampling as that of a transposed one.

    (O, C, 3, 3) -> (C, O, 4, 4), stride 2, padding 1: each value is the sum of those that meet the
    same value of the map.
    """
    shifts = (0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 1, 0)
    sums = sum(F.pad(weight, shift) for shift in shifts)
    return sums.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def winograd_gradient(x, weight, gradient, sizes):
    """The gradient of a 3 x 3 convolution, stride and padding 1, by its weight.

    x (B, C, H, W), gradient (B, O, H, W), float32, fastest in channels_last; H and W even. Returns
    (O, C, 3, 3), channels_last. A tile of 4 x 4 inputs meets 2 x 2 outputs: with BT = [[1, 0, -1,
    0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]] and AT = [[1, 1, 1, 0], [0, 1, -1, -1]] the
    outputs are AT ((G w GT) * (BT x B)) A.
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
        gradients = spread(rows[..., 0::2, :], rows[..., 1::2, :])
        total.baddbmm_(gradients.view(16, -1, cout).transpose(1, 2), tiles.view(16, -1, cin))
    found = (GG.T @ total.view(16, -1)).view(9, cout, cin).transpose(0, 1).contiguous()
    return found.view(cout, 3, 3, cin).permute(0, 3, 1, 2)


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


class Depthwise(Faster):
    """A depthwise convolution of 3 x 3 or 5 x 5 with its own gradients in bf16 on a CPU."""

    def forward(self, x):
        is_bf16 = torch.get_autocast_dtype("cpu") == torch.bfloat16
        if not (torch.is_autocast_enabled("cpu") and is_bf16 and trains(self, x)):
            return super().forward(x)
        sizes, gradients = (self.stride[0], self.padding[0]), (spaced_gradient, quartered_gradient)
        with torch.autocast("cpu", enabled=False):
            return Convolution.apply(x.bfloat16(), self.weight.bfloat16(), sizes, gradients)


def spaced_gradient(x, weight, gradient, sizes):
    """The gradient of a depthwise convolution by x, as one of the gradient at stride 1."""
    (stride, padding), k = sizes, weight.shape[-1]
    if stride == 1:
        return gradient_by_input(x, weight, gradient, sizes)
    n, channels, height, width = x.shape
    # As many values as there would be at stride 1, with zeros between those that there are.
    sides = height + 2 * padding - k + 1, width + 2 * padding - k + 1
    spaced = gradient.new_zeros(n, *sides, channels).permute(0, 3, 1, 2)
    spaced[:, :, ::stride, ::stride] = gradient
    return F.conv2d(spaced, weight.flip(2, 3), padding=k - 1 - padding, groups=channels)


def quartered_gradient(x, weight, gradient, sizes):
    """The gradient of a depthwise convolution by its weight, of 5 x 5 in four parts of 3 x 3."""
    if weight.shape[-1] == 3:
        return gradient_by_weight(x, weight, gradient, sizes)
    stride, padding = sizes
    x = F.pad(x, [padding] * 4)
    height, width = (stride * (side - 1) + 3 for side in gradient.shape[-2:])
    quarter, found = weight.new_empty(len(weight), 1, 3, 3), torch.empty_like(weight)
    for top in (0, 2):
        for left in (0, 2):  # the middle row and column twice, with the same values
            part = x[:, :, top : top + height, left : left + width]
            part = part.contiguous(memory_format=torch.channels_last)
            of_quarter = gradient_by_weight(part, quarter, gradient, (stride, 0))
            found[:, :, top : top + 3, left : left + 3] = of_quarter
    return found


# ---------------------------------------------------------------------------------------- inference


@torch.no_grad()
def fold(model):
    """A copy of a network with batch normalisation folded into the convolutions before it.

    model: a models.MTLNet on the CPU, in evaluation mode. A normalisation is folded into the
    convolution that is registered before it. Outputs are compared on noise: a network that uses its
    layers in another order is returned as it is.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            is_pair = isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d
            if is_pair and conv.out_channels == norm.num_features:
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, NOISE_SIDE, NOISE_SIDE), dtype=torch.uint8, generator=rng)
    after = folded(noise)
    for name, output in model(noise).items():
        if (after[name] - output).abs().max() > TOLERANCE * output.abs().max():
            return model
    return folded
