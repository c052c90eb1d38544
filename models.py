"""The network: an encoder, shared as a file of sharing/ says, and one decoder or head per task.

    image -> encoder (encoders/) -> features at 1/2, 1/4, 1/8, 1/16, 1/32 of the image's side -> a task's decoder or head

The parts that a task's file (tasks/) builds its own from, each called with the five feature maps and the image's (H, W):

    SegDecoder     all five maps, skip connections -> (B, K, H, W)
    PlainDecoder   the deepest -> (B, K, H / 4, W / 4)
    ClassHead      the deepest -> (B, K)
    BoxHead        the deepest -> (B, 4)

With encoders/unet.py this is a U-Net (Ronneberger, Fischer and Brox 2015). Four things differ from it for speed on a CPU:
the stem halves the resolution in its first convolution, because a full-resolution stage costs more time than all the others
together and gains little; the finest stage on either side is one convolution of few channels; the decoder has half the
encoder's channels; and its last layer gives the mask's 2 x 2 pixels of each position (pixel shuffle: Shi et al. 2016).
"""

import hashlib
import zlib

import torch
from torch import nn
from torch.nn import functional as F

import registry


def conv_bn_relu(cin, cout, kernel=3, stride=1):
    """Convolution without bias (the normalisation has one), batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
    )  # in place would be slower on a CPU


class DoubleConv(nn.Sequential):
    """(convolution, batch normalisation, ReLU) twice: (B, cin, H, W) -> (B, cout, H, W)."""

    def __init__(self, cin, cout):
        super().__init__(conv_bn_relu(cin, cout), conv_bn_relu(cout, cout))


class Down(nn.Sequential):
    """Half the resolution, then DoubleConv: (B, cin, H, W) -> (B, cout, H/2, W/2), an odd side rounded up."""

    def __init__(self, cin, cout):
        super().__init__(nn.MaxPool2d(2, ceil_mode=True), DoubleConv(cin, cout))


class Up(nn.Module):
    """Upsample to the skip connection's size, concatenate, convolve.

    x (B, cin, h, w) and skip (B, cskip, H, W) -> (B, cout, H, W). `conv` builds the convolutions from
    (channels in, channels out).
    """

    def __init__(self, cin, cskip, cout, conv=DoubleConv):
        super().__init__()
        self.reduce = nn.Conv2d(cin, cout, 1, bias=False)
        self.conv = conv(cskip + cout, cout)

    def forward(self, x, skip):
        # A 1 x 1 convolution and nearest-neighbour upsampling commute: reducing first is four times cheaper.
        x = F.interpolate(self.reduce(x), size=skip.shape[-2:], mode="nearest")
        return self.conv(torch.cat([skip, x], dim=1))


STRIDE = 2  # of the stem: side of the square of pixels that a position of the finest feature map stands for


def stage_channels(width):
    """Channels of the five encoder stages, finest first. Width 48 gives (16, 48, 96, 192, 384).

    Where channels double as the side halves, every stage costs the same; the finest has fewer.
    """
    return max(1, width // 3), width, 2 * width, 4 * width, 8 * width


class Channels(tuple):
    """Channels of the five feature maps that a head gets, finest first. `skips`: those that a decoder with skip connections
    should bring the first four to; a U-Net encoder's are that already."""

    def __new__(cls, channels, width):
        self = super().__new__(cls, channels)
        self.skips = stage_channels(width)[:-1]
        return self


class SegDecoder(nn.Module):
    """Encoder features -> `out` values for each pixel, (B, out, H, W).

    Where an encoder's channels are no U-Net's, a 1 x 1 convolution brings each skip connection to a U-Net's number (as in
    FPN, Lin et al. 2017): the decoder is the same over every encoder, and the network's width is its width.
    """

    def __init__(self, channels, out=1):
        super().__init__()
        *given, deepest = channels
        finest, *skips = wanted = getattr(channels, "skips", given)
        self.laterals = nn.ModuleList(
            nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False)
            for a, b in zip(given, wanted)
        )
        outs = [(c + 1) // 2 for c in skips]
        ups = [Up(cin, cskip, cout) for cin, cskip, cout in zip([*outs[1:], deepest], skips, outs)]
        ups.insert(0, Up(outs[0], finest, finest, conv=conv_bn_relu))
        self.ups = nn.ModuleList(reversed(ups))
        self.logits = nn.Conv2d(finest, out * STRIDE**2, 1)

    def forward(self, features, size):
        *skips, x = features
        for up, lateral, skip in zip(self.ups, reversed(self.laterals), reversed(skips)):
            x = up(x, lateral(skip))
        x = F.pixel_shuffle(
            self.logits(x), STRIDE
        )  # (B, out STRIDE^2, h, w) -> (B, out, STRIDE h, STRIDE w)
        # Where a side is no multiple of STRIDE, the last positions stand for pixels beyond the edge.
        return x[..., : size[0], : size[1]]


class PlainDecoder(nn.Module):
    """The deepest features, without skip connections -> (B, out, ceil(H / 4), ceil(W / 4)): they alone have to carry it."""

    def __init__(self, cin, out):
        super().__init__()
        channels = [max(1, cin // 2**k) for k in range(4)]
        self.convs = nn.ModuleList(conv_bn_relu(a, b) for a, b in zip(channels, channels[1:]))
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

    Every cell gives a score and the offsets from itself to the box's four sides (as in FCOS, Tian et al. 2019); the box
    is the mean over cells, weighted with the softmax of the scores. Offsets end at the width of the frame: every box can
    be reached, and no cell's can grow so large that the slightest change of its score throws the box about.
    """

    def __init__(self, cin):
        super().__init__()
        self.conv = conv_bn_relu(cin, 128, kernel=1)
        self.cells = nn.Conv2d(128, 5, 1)
        # Nearly zero at first: cells start out alike, and boxes inside the frame.
        nn.init.normal_(self.cells.weight, std=0.01)
        nn.init.zeros_(self.cells.bias)

    def forward(self, features, size):
        x = features[-1]
        score, offset = (
            self.cells(self.conv(x)).float().flatten(2).split([1, 4], dim=1)
        )  # (B, 1, hw), (B, 4, hw)
        h, w = x.shape[-2:]
        cy, cx = torch.meshgrid(
            cell_positions(h, x.device), cell_positions(w, x.device), indexing="ij"
        )
        # Untrained, every cell proposes a box a quarter of the frame wide around itself.
        start = torch.stack([cx - 0.125, cy - 0.125, cx + 0.125, cy + 0.125]).flatten(1)  # (4, hw)
        sides = ((start + offset.tanh()) * score.softmax(dim=2)).sum(dim=2)  # (B, 4)
        a, b = sides.split(2, dim=1)
        box = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=1)
        # The forward value is clamped, the gradient is not: a side outside the frame can still find its way back.
        return box + (box.clamp(0, 1) - box).detach()


def cell_positions(n, device):
    """(n,) positions of n cells, the first at 0 and the last at 1; a single one stands in the middle."""
    if torch.compiler.is_compiling():  # or exporting, when n is a symbol
        k = torch.arange(n, dtype=torch.float32, device=device)
        return torch.where(k.max() > 0, k / k.max().clamp(min=1), 0.5)
    return torch.linspace(0, 1, n, device=device) if n > 1 else torch.full((1,), 0.5, device=device)


class MTLNet(nn.Module):
    """An encoder, shared by the tasks in one way or another, with one decoder or head per task.

    tasks    names of tasks/, or tasks themselves (those that had to learn something of the data first), at least one.
    width    channels of the second stage; each deeper one doubles them. 48 gives 3.2 M parameters with the published tasks.
             Over an encoder of its own channels it is the decoders' width.
    seed     each part is initialised from a generator made of the seed and the part's name, so networks of the same
             seed share their initial weights part by part, whatever other tasks they have.
    sharing  a name of sharing/: which features each task gets.
    encoder  a name of encoders/.
    beside   names of tasks that the sharing was trained with and whose heads are left out (`subset`).

    Raises ValueError for no task, a repeated one, or a width under 1; cli.InputError for a name that no folder has.
    """

    def __init__(self, tasks, width=48, seed=0, sharing="hard", encoder="unet", beside=()):
        super().__init__()
        self.task = registry.tasks(tasks)  # {name: Task}
        if width < 1:
            raise ValueError(f"width must be at least 1 and was {width}")
        self.tasks, self.width, self.beside = tuple(self.task), width, tuple(beside)
        self.sharing, self.backbone = (
            registry.find("sharing", sharing),
            registry.find("encoders", encoder),
        )
        channels = Channels(self.backbone.channels(width), width)
        self.encoder_weights = {}  # what `load_encoder` says of them
        self.keeps_statistics = (
            False  # of the encoder's batch normalisation, while the network trains
        )
        self.keeps_trunk, self.trunk = False, []
        self.team = None  # of processes, where several train it
        self.encoder = self.sharing.build(
            lambda: build(lambda: self.backbone.build(width), "encoder", seed),
            self.tasks,
            self.beside,
            seed,
        )
        self.register_buffer(
            "mean", torch.tensor(self.backbone.mean).view(3, 1, 1), persistent=False
        )
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), persistent=False)
        for name, task in self.task.items():
            if hasattr(self, name):
                raise ValueError(
                    f"no task can be called {name!r}: the network has a part of that name; rename it"
                )
            self.add_module(name, build(lambda: task.head(channels), name, seed))

    def forward(self, image):
        """image (B, 3, H, W), uint8 or float in 0-255, any H and W from 32 -> dict of the outputs of `tasks`, float, each as
        its file in tasks/ says.

        With `keeps_trunk`, `trunk` holds the maps at which the tasks part ways: a loss depends on the shared parameters
        through these alone, and on none of them through another.
        """
        self.trunk = []
        cut = self.cut if self.keeps_trunk and torch.is_grad_enabled() else lambda value: value
        features = self.sharing.features(
            self.encoder, standardised(image, self.mean, self.std), self.tasks, cut
        )
        return {
            name: getattr(self, name)(features[name], image.shape[-2:]).float()
            for name in self.tasks
        }

    def cut(self, map):
        """The map as another tensor, on which nothing of the encoder depends."""
        self.trunk.append(map.view_as(map))
        return self.trunk[-1]

    def load_encoder(self, source):
        """Give the encoders trained weights: "none", "hub", "package" or a file (encoders/__init__.py)."""
        self.encoder_weights = self.backbone.load(self.encoders(), source)

    def penalty(self):
        """What the sharing adds to the loss, a scalar, or None."""
        return self.sharing.penalty(self.encoder)

    def shared_parameters(self):
        """The trained parameters that the losses of several tasks reach, all of them before the trunk."""
        return [p for p in self.sharing.shared(self.encoder) if p.requires_grad]

    def encoders(self):
        """The modules that backbone.build made: one, or one a task."""
        return self.sharing.encoders(self.encoder)

    def train(self, mode=True):
        super().train(mode)
        if self.keeps_statistics:
            for layer in (layer for encoder in self.encoders() for layer in encoder.modules()):
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self

    def subset(self, tasks):
        """The network of some of its tasks, names, alone, in evaluation mode, with the parameters that they need: the same
        outputs. Raises ValueError for one that it does not have."""
        if unknown := [name for name in tasks if name not in self.tasks]:
            raise ValueError(
                f"the network's tasks are {', '.join(self.tasks)}, and not {', '.join(unknown)}"
            )
        beside = (*(name for name in self.tasks if name not in tasks), *self.beside)
        part = MTLNet(
            [self.task[name] for name in tasks],
            self.width,
            0,
            self.sharing.name,
            self.backbone.name,
            beside,
        )
        own = self.state_dict()
        part.load_state_dict({name: own[name] for name in part.state_dict()})
        return part.eval()


def standardised(image, mean, std):
    """(image - mean) / std in float32."""
    if torch.compiler.is_compiling() or not image.is_contiguous(memory_format=torch.channels_last):
        return (image.float() - mean) / std
    # A row at once: three numbers over and over are slow to go along with. The values are the same.
    rows, mean, std = (
        image.permute(0, 2, 3, 1).flatten(2),
        *(each.flatten().repeat(image.shape[3]) for each in (mean, std)),
    )
    return (rows.float() - mean).div_(std).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


def build(part, name, seed):
    """Build a module with its own random state, made of the seed and its name; the global one stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        module = part()
        for layer in () if getattr(module, "is_initialised", False) else module.modules():
            # Output layers, the ones with a bias, keep PyTorch's own initialisation or that of their part.
            if isinstance(layer, nn.Conv2d) and layer.bias is None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def digest(weights):
    """SHA-256 of a state dict's names and values, in hexadecimal."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
