"""The network: an encoder, shared by the tasks, and one decoder or head per task.

    image -> encoder -> feature maps at 1/2, 1/4, 1/8, 1/16, 1/32 of the side -> a decoder or head

Parts for a task's head, each called with the five feature maps and the image's (H, W):

    SegDecoder     all five maps, skip connections -> (B, K, H, W)
    PlainDecoder   the deepest -> (B, K, H / 4, W / 4)
    ClassHead      the deepest -> (B, K)
    BoxHead        the deepest -> (B, 4)

The default encoder makes it a U-Net (Ronneberger, Fischer and Brox 2015). Four things differ, for
speed on a CPU: the stem halves the resolution in its first convolution, because a full-resolution
stage costs more time than all others together and gains little; the finest stage on either side is
one convolution of few channels; the decoder has half the encoder's channels; and its last layer
gives the 2 x 2 pixels of each position (pixel shuffle: Shi et al. 2016).
"""

import functools
import hashlib
import operator
import zlib
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn_relu(cin, cout, kernel=3, stride=1):
    """Convolution without bias (the normalisation has one), batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),  # in place would be slower on a CPU
    )


class DoubleConv(nn.Sequential):
    """(convolution, batch normalisation, ReLU) twice: (B, cin, H, W) -> (B, cout, H, W)."""

    def __init__(self, cin, cout):
        super().__init__(conv_bn_relu(cin, cout), conv_bn_relu(cout, cout))


class Down(nn.Sequential):
    """Half the resolution, then DoubleConv: (B, cin, H, W) -> (B, cout, H/2, W/2), rounded up."""

    def __init__(self, cin, cout):
        super().__init__(nn.MaxPool2d(2, ceil_mode=True), DoubleConv(cin, cout))


class Up(nn.Module):
    """Upsample to the skip connection's size, concatenate, convolve.

    x (B, cin, h, w) and skip (B, cskip, H, W) -> (B, cout, H, W). `conv` builds the convolutions
    from (channels in, channels out).
    """

    def __init__(self, cin, cskip, cout, conv=DoubleConv):
        super().__init__()
        self.reduce = nn.Conv2d(cin, cout, 1, bias=False)
        self.conv = conv(cskip + cout, cout)

    def forward(self, x, skip):
        # Both steps commute; reducing first is four times cheaper.
        x = F.interpolate(self.reduce(x), size=skip.shape[-2:], mode="nearest")
        return self.conv(torch.cat([skip, x], dim=1))


# Of the stem: side of the square of pixels that a position of the finest map stands for.
STRIDE = 2


def stage_channels(width):
    """Channels of the five encoder stages, finest first. Width 48 gives (16, 48, 96, 192, 384).

    Where channels double as the side halves, every stage costs the same; the finest has fewer.
    """
    return max(1, width // 3), width, 2 * width, 4 * width, 8 * width


class Channels(tuple):
    """Channels of the five feature maps that a head gets, finest first.

    skips   channels that a decoder's skip connections should have for the first four maps. With a
            U-Net's encoder they have them already.
    """

    def __new__(cls, channels, width):
        self = super().__new__(cls, channels)
        self.skips = stage_channels(width)[:-1]
        return self


class SegDecoder(nn.Module):
    """Encoder features -> `out` values for each pixel, (B, out, H, W).

    Where an encoder's channels are no U-Net's, a 1 x 1 convolution brings each skip connection to a
    U-Net's number (as in FPN, Lin et al. 2017), so the decoder is the same over every encoder.
    """

    def __init__(self, channels, out=1):
        super().__init__()
        *given, deepest = channels
        wanted = getattr(channels, "skips", given)
        self.laterals = nn.ModuleList()
        for cin, cout in zip(given, wanted, strict=True):
            is_same = cin == cout
            self.laterals.append(nn.Identity() if is_same else nn.Conv2d(cin, cout, 1, bias=False))
        finest, *skips = wanted
        outs = [(c + 1) // 2 for c in skips]
        ups = [Up(outs[0], finest, finest, conv=conv_bn_relu)]
        for cin, cskip, cout in zip([*outs[1:], deepest], skips, outs, strict=True):
            ups.append(Up(cin, cskip, cout))
        self.ups = nn.ModuleList(reversed(ups))
        self.logits = nn.Conv2d(finest, out * STRIDE**2, 1)

    def forward(self, features, size):
        *skips, x = features
        for up, lateral, skip in zip(
            self.ups, reversed(self.laterals), reversed(skips), strict=True
        ):
            x = up(x, lateral(skip))
        # (B, out STRIDE^2, h, w) -> (B, out, STRIDE h, STRIDE w)
        x = F.pixel_shuffle(self.logits(x), STRIDE)
        # Where a side is no multiple of STRIDE, the last positions lie beyond the edge.
        return x[..., : size[0], : size[1]]


class PlainDecoder(nn.Module):
    """The deepest features, without skip connections -> (B, out, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, cin, out):
        super().__init__()
        channels = [max(1, cin // 2**k) for k in range(4)]
        self.convs = nn.ModuleList(conv_bn_relu(a, b) for a, b in pairwise(channels))
        self.values = nn.Conv2d(channels[-1], out, 1)

    def forward(self, features, size):
        x = features[-1]
        for conv in self.convs:
            x = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        # Divided in positive numbers: ONNX rounds a negative quotient up.
        return self.values(x)[..., : (size[0] + 3) // 4, : (size[1] + 3) // 4]


class ClassHead(nn.Module):
    """Deepest features -> (B, out) logits, or numbers."""

    def __init__(self, cin, out=2):
        super().__init__()
        self.conv = conv_bn_relu(cin, 128, kernel=1)
        self.logits = nn.Linear(128, out)

    def forward(self, features, size):
        return self.logits(self.conv(features[-1]).mean(dim=(2, 3)))


class BoxHead(nn.Module):
    """Deepest features -> (B, 4) boxes, normalised xyxy in [0, 1], x1 <= x2, y1 <= y2.

    Every cell gives a score and offsets from itself to the box's four sides (as in FCOS, Tian et
    al. 2019); the box is the mean over cells, weighted with the softmax of the scores. Offsets are
    bounded by the frame, so that no cell dominates the box."""

    def __init__(self, cin):
        super().__init__()
        self.conv = conv_bn_relu(cin, 128, kernel=1)
        self.cells = nn.Conv2d(128, 5, 1)
        # Nearly zero at first: cells start out alike, and boxes inside the frame.
        nn.init.normal_(self.cells.weight, std=0.01)
        nn.init.zeros_(self.cells.bias)

    def forward(self, features, size):
        x = features[-1]
        cells = self.cells(self.conv(x)).float().flatten(2)
        score, offset = cells.split([1, 4], dim=1)  # (B, 1, hw), (B, 4, hw)
        h, w = x.shape[-2:]
        cy, cx = torch.meshgrid(
            cell_positions(h, x.device), cell_positions(w, x.device), indexing="ij"
        )
        # Untrained, every cell proposes a box a quarter of the frame wide around itself.
        start = torch.stack([cx - 0.125, cy - 0.125, cx + 0.125, cy + 0.125]).flatten(1)  # (4, hw)
        sides = ((start + offset.tanh()) * score.softmax(dim=2)).sum(dim=2)  # (B, 4)
        a, b = sides.split(2, dim=1)
        box = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=1)
        # The forward value is clamped, the gradient is not: a side outside can still come back.
        return box + (box.clamp(0, 1) - box).detach()


def cell_positions(n, device):
    """(n,) positions of n cells from 0 to 1; a single one stands in the middle."""
    if torch.compiler.is_compiling():  # or exporting, when n is a symbol
        k = torch.arange(n, dtype=torch.float32, device=device)
        return torch.where(k.max() > 0, k / k.max().clamp(min=1), 0.5)
    return torch.linspace(0, 1, n, device=device) if n > 1 else torch.full((1,), 0.5, device=device)


class UNetStages(nn.Module):
    """(B, 3, H, W) normalised float -> five feature maps, 1/2 to 1/32 of H and W (rounded up)."""

    def __init__(self, channels):
        super().__init__()
        self.channels = self.inner = channels
        self.stem = conv_bn_relu(3, channels[0], kernel=5, stride=STRIDE)
        self.downs = nn.ModuleList(Down(a, b) for a, b in pairwise(channels))

    @property
    def stages(self):
        """Five lists of modules that give the maps when called one after the other."""
        return [[self.stem], *([pool, *double] for pool, double in self.downs)]

    def forward(self, x):
        features = [self.stem(x)]
        for down in self.downs:
            features.append(down(features[-1]))
        return features


class UNetEncoder:
    """The default encoder. Source: Ronneberger, Fischer and Brox, "U-Net", 2015."""

    name = "unet"
    # Of ImageNet's RGB values (0-255), the field's customary constants.
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def channels(self, width):
        return stage_channels(width)

    def build(self, width):
        return UNetStages(self.channels(width))


class HardSharing:
    """One encoder, whose feature maps all tasks get. Source: Caruana, "Multitask Learning",
    1997."""

    name = "hard"

    def build(self, make_encoder, tasks, dropped, seed):
        return make_encoder()

    def features(self, encoder, image, tasks, record):
        maps = [record(map) for map in encoder(image)]
        return dict.fromkeys(tasks, maps)

    def encoders(self, encoder):
        return [encoder]

    def shared(self, encoder):
        return list(encoder.parameters())

    def penalty(self, encoder):
        return None

    def values(self, encoder):
        return {}


class MTLNet(nn.Module):
    """An encoder, shared by the tasks, with one decoder or head per task.

    tasks    objects of tasks/, at least one, each name once.
    width    channels of the second stage; each deeper one doubles them. 48 gives 3.2 M parameters
             with the published tasks. Over an encoder of its own channels: the decoders' width.
    seed     each part is initialised from a generator made of the seed and the part's name, so
             networks of one seed share their initial weights part by part, whatever other tasks.
    sharing  an object of sharing/: which features each task gets; hard sharing by default.
    encoder  an object of encoders/; the U-Net's by default.
    dropped  names of tasks that the sharing was trained with and whose heads are left out.

    Raises ValueError for no task, a repeated one, or a width under 1.
    """

    def __init__(self, tasks, width=48, seed=0, sharing=None, encoder=None, dropped=()):
        super().__init__()
        tasks = list(tasks)
        self.task = {task.name: task for task in tasks}
        if not tasks or len(self.task) < len(tasks):
            raise ValueError(f"tasks must be at least one, each once, and were {list(self.task)}")
        if width < 1:
            raise ValueError(f"width must be at least 1 and was {width}")
        seed = operator.index(seed)
        self.tasks, self.width, self.dropped = tuple(self.task), width, tuple(dropped)
        self.sharing = sharing or HardSharing()
        self.backbone = encoder or UNetEncoder()
        self.freeze_statistics = False  # of the encoder's batch normalisation, in training
        self.record_features, self.split_features = False, []

        def make_encoder():
            return build(lambda: self.backbone.build(width), "encoder", seed)

        self.encoder = self.sharing.build(make_encoder, self.tasks, self.dropped, seed)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.backbone, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        channels = Channels(self.backbone.channels(width), width)
        for name, task in self.task.items():
            if hasattr(self, name):
                raise ValueError(f"the network has a part called {name!r}; rename the task")
            self.add_module(name, build(functools.partial(task.head, channels), name, seed))

    def forward(self, image):
        """image (B, 3, H, W), uint8 or float in 0-255, H and W from 32 -> {task: float output}.

        With `record_features`, `split_features` holds the maps at which the tasks part ways: a loss
        depends on the shared parameters through these alone, and on none of them through another.
        """
        self.split_features = []
        record = self._record if self.record_features and torch.is_grad_enabled() else _same
        pixels = standardised(image, self.mean, self.std)
        features = self.sharing.features(self.encoder, pixels, self.tasks, record)
        outputs = {}
        for name in self.tasks:
            outputs[name] = getattr(self, name)(features[name], image.shape[-2:]).float()
        return outputs

    def _record(self, map):
        """The map as another tensor, on which nothing of the encoder depends."""
        self.split_features.append(map.view_as(map))
        return self.split_features[-1]

    def penalty(self):
        """What the sharing adds to the loss, a scalar, or None."""
        return self.sharing.penalty(self.encoder)

    def shared_parameters(self):
        """Trained parameters that the losses of several tasks reach, all before the split point."""
        return [p for p in self.sharing.shared(self.encoder) if p.requires_grad]

    def encoders(self):
        """The modules that the encoder's `build` made: one, or one a task."""
        return self.sharing.encoders(self.encoder)

    def train(self, mode=True):
        super().train(mode)
        if self.freeze_statistics:
            for encoder in self.encoders():
                for layer in encoder.modules():
                    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                        layer.eval()
        return self

    def subset(self, names):
        """The network of some of its tasks, in evaluation mode, with the parameters they need.

        Raises ValueError for a task that it does not have.
        """
        unknown = [name for name in names if name not in self.tasks]
        if unknown:
            have = ", ".join(self.tasks)
            raise ValueError(f"the network's tasks are {have}, and not {', '.join(unknown)}")
        dropped = [name for name in self.tasks if name not in names]
        tasks = [self.task[name] for name in names]
        dropped = (*dropped, *self.dropped)
        part = MTLNet(tasks, self.width, 0, self.sharing, self.backbone, dropped)
        own = self.state_dict()
        part.load_state_dict({name: own[name] for name in part.state_dict()})
        return part.eval()


def _same(map):
    return map


def standardised(image, mean, std):
    """(image - mean) / std, computed in float32, in the precision of the network."""
    if torch.compiler.is_compiling() or not image.is_contiguous(memory_format=torch.channels_last):
        return ((image.float() - mean.float()) / std.float()).to(mean.dtype)
    # A row at once, as three numbers over and over are slow to read. The values are the same.
    rows = image.permute(0, 2, 3, 1).flatten(2)
    row_mean = mean.float().flatten().repeat(image.shape[3])
    row_std = std.float().flatten().repeat(image.shape[3])
    pixels = (rows.float() - row_mean).div_(row_std).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
    return pixels.to(mean.dtype)


def build(part, name, seed):
    """Build a module with its own random state, made of the seed and its name."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        module = part()
        if getattr(module, "is_initialised", False):
            return module
        for layer in module.modules():
            # Output layers, the ones with a bias, keep their own initialisation.
            if isinstance(layer, nn.Conv2d) and layer.bias is None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def digest(weights):
    """SHA-256 of a state dict's names and values, in hexadecimal."""
    content = hashlib.sha256()
    for name, value in sorted(weights.items()):
        content.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
