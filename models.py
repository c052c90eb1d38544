"""The network: a U-Net encoder shared by all tasks, one decoder or head per task (hard parameter sharing).

    image -> Encoder -> features at 1/2, 1/4, 1/8, 1/16, 1/32 of the image's side -> a task's decoder or head

The parts that a task's file (tasks/) builds its own from, each called with the five feature maps and the image's (H, W):

    SegDecoder     all five maps, skip connections -> (B, K, H, W)
    PlainDecoder   the deepest -> (B, K, H / 4, W / 4)
    ClassHead      the deepest -> (B, K)
    BoxHead        the deepest -> (B, 4)

U-Net: Ronneberger, Fischer and Brox 2015. Four things differ from it for speed on a CPU: the stem halves the resolution in
its first convolution, because a full-resolution stage costs more time than all the others together and gains little; the
finest stage on either side is one convolution of few channels; the decoder has half the encoder's channels; and its last
layer gives the mask's 2 x 2 pixels of each position (pixel shuffle: Shi et al. 2016).
"""

import zlib

import torch
from torch import nn
from torch.nn import functional as F

import registry

# Mean and standard deviation of ImageNet's RGB values (0-255), the field's customary constants.
RGB_MEAN = (123.675, 116.28, 103.53)
RGB_STD = (58.395, 57.12, 57.375)


def conv_bn_relu(cin, cout, kernel=3, stride=1):
    """Convolution without bias (the normalisation has one), batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


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


class Encoder(nn.Module):
    """(B, 3, H, W) normalised float -> five feature maps, at 1/2 to 1/32 of H and W (rounded up), finest first."""

    def __init__(self, channels):
        super().__init__()
        self.stem = conv_bn_relu(3, channels[0], kernel=5, stride=STRIDE)
        self.downs = nn.ModuleList(Down(cin, cout) for cin, cout in zip(channels, channels[1:]))

    def forward(self, x):
        features = [self.stem(x)]
        for down in self.downs:
            features.append(down(features[-1]))
        return features


class SegDecoder(nn.Module):
    """Encoder features -> `out` values for each pixel, (B, out, H, W)."""

    def __init__(self, channels, out=1):
        super().__init__()
        finest, *skips, deepest = channels
        outs = [(c + 1) // 2 for c in skips]
        ups = [Up(cin, cskip, cout) for cin, cskip, cout in zip([*outs[1:], deepest], skips, outs)]
        ups.insert(0, Up(outs[0], finest, finest, conv=conv_bn_relu))
        self.ups = nn.ModuleList(reversed(ups))
        self.logits = nn.Conv2d(finest, out * STRIDE**2, 1)

    def forward(self, features, size):
        *skips, x = features
        for up, skip in zip(self.ups, reversed(skips)):
            x = up(x, skip)
        x = F.pixel_shuffle(self.logits(x), STRIDE)  # (B, out STRIDE^2, h, w) -> (B, out, STRIDE h, STRIDE w)
        # Where a side is no multiple of STRIDE, the last positions stand for pixels beyond the edge.
        return x[..., :size[0], :size[1]]


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
        return self.values(x)[..., :-(-size[0] // 4), :-(-size[1] // 4)]


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
        score, offset = self.cells(self.conv(x)).float().flatten(2).split([1, 4], dim=1)  # (B, 1, hw), (B, 4, hw)
        h, w = x.shape[-2:]
        cy, cx = torch.meshgrid(cell_positions(h, x.device), cell_positions(w, x.device), indexing="ij")
        centre = torch.stack([cx, cy, cx, cy]).flatten(1)                                 # (4, hw)
        # Untrained, every cell proposes a box a quarter of the frame wide around itself.
        start = torch.tensor([-0.125, -0.125, 0.125, 0.125], device=x.device)[:, None]
        sides = ((centre + start + offset.tanh()) * score.softmax(dim=2)).sum(dim=2)      # (B, 4)
        a, b = sides.split(2, dim=1)
        box = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=1)
        # The forward value is clamped, the gradient is not: a side outside the frame can still find its way back.
        return box + (box.clamp(0, 1) - box).detach()


def cell_positions(n, device):
    """(n,) positions of n cells, the first at 0 and the last at 1; a single one stands in the middle."""
    return torch.linspace(0, 1, n, device=device) if n > 1 else torch.full((1,), 0.5, device=device)


class MTLNet(nn.Module):
    """A U-Net encoder with one decoder or head per task.

    tasks   names of tasks/, or tasks themselves (those that had to learn something of the data first), at least one.
    width   channels of the second stage; each deeper one doubles them. 48 gives 3.2 M parameters with the published tasks.
    seed    each part is initialised from a generator made of the seed and the part's name, so networks of the same
            seed share their initial weights part by part, whatever other tasks they have.

    Raises ValueError for no task, a repeated one, or a width under 1; cli.InputError for one that tasks/ does not have.
    """

    def __init__(self, tasks, width=48, seed=0):
        super().__init__()
        self.task = registry.tasks(tasks)  # {name: Task}
        if width < 1:
            raise ValueError(f"width must be at least 1 and was {width}")
        self.tasks, self.width = tuple(self.task), width
        channels = stage_channels(width)
        self.encoder = build(lambda: Encoder(channels), "encoder", seed)
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(RGB_STD).view(3, 1, 1), persistent=False)
        for name, task in self.task.items():
            if hasattr(self, name):
                raise ValueError(f"no task can be called {name!r}: the network has a part of that name; rename it")
            self.add_module(name, build(lambda: task.head(channels), name, seed))

    def forward(self, image):
        """image (B, 3, H, W), uint8 or float in 0-255, any H and W from 32 -> dict of the outputs of `tasks`, float, each as
        its file in tasks/ says."""
        features = self.encoder((image.float() - self.mean) / self.std)
        return {name: getattr(self, name)(features, image.shape[-2:]).float() for name in self.tasks}


def build(part, name, seed):
    """Build a module with its own random state, made of the seed and its name; the global one stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        module = part()
        for layer in module.modules():
            # Output layers, the ones with a bias, keep PyTorch's own initialisation or that of their part.
            if isinstance(layer, nn.Conv2d) and layer.bias is None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
