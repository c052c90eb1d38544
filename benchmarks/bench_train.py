"""Training steps of the full MTL network, the published study's network and torchvision's, 256 px,
CPU.

    python benchmarks/bench_train.py [--rounds 3] [--batch-size 16]

A step is forward, losses, backward and optimizer. The published network runs in its plain settings:
fp32, contiguous memory, Adam, the system's own memory allocation. Ours runs as `train_mtl.py` does.
torchvision's network segments alone. Each row has a process of its own; all get the same batch, in
turns. bf16 is measured where the processor has instructions for it. About three minutes on 2 idle
cores.
"""

import contextlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import common
import torch
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import cli
from config import Config
from dataloader_mtl import MTLDataset
from models import MTLNet, count_parameters
from tasks.bbox import Bbox
from tasks.cls import Cls
from tasks.seg import Seg
from training import kernels
from training.devices import keep_memory, to_device
from training.optim import make_optimizer
from training.precision import autocast, has_bf16, processor_flags
from utils import EqualWeightedLoss

STEPS = 4  # in a turn: one of the fast ones is too short to time
SIDE = 256
CPU = torch.device("cpu")
PUBLISHED = "published network, fp32, Adam"
PEER = "torchvision lraspp_mobilenet_v3"


class Published(nn.Module):
    """The published network, for images of 256 px: a U-Net of 32 to 256 channels with two auxiliary
    heads.

    Four contracting blocks, the first with 7 x 7 convolutions at full resolution, each ending in an
    overlapping 3 x 3 max pooling; four expanding blocks, each ending in a transposed convolution of
    stride 2. Skip connections join the pooled outputs. 14.2 GFLOP forward per image, 3.7 M
    parameters.
    """

    def __init__(self):
        super().__init__()
        contracting = (3, 32, 7), (32, 64, 3), (64, 128, 3), (128, 256, 3)
        expanding = (256, 128), (128 + 128, 64), (64 + 64, 32), (32 + 32, 1)
        self.contract = nn.ModuleList(contract(*channels) for channels in contracting)
        self.expand = nn.ModuleList(expand(*channels) for channels in expanding)
        self.cls = nn.Sequential(
            nn.Conv2d(256, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 2),
        )
        self.bbox = nn.Sequential(
            nn.Conv2d(256, 256, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(256, 256, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1024, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 4),
            nn.Sigmoid(),
        )

    def forward(self, image):
        """image (B, 3, 256, 256) uint8 -> dict of seg (B, 1, 256, 256) logits, cls (B, 2) logits,
        bbox (B, 4).
        """
        x, features = image.float() / 255, []
        for block in self.contract:
            x = block(x)
            features.append(x)
        deepest = features.pop()
        x = self.expand[0](deepest)
        for block in self.expand[1:]:
            x = block(torch.cat([x, features.pop()], dim=1))
        return {"seg": x, "cls": self.cls(deepest), "bbox": self.bbox(deepest)}


def contract(cin, cout, kernel):
    """A contracting block: half the resolution."""
    return nn.Sequential(*conv_twice(cin, cout, kernel), nn.MaxPool2d(3, stride=2, padding=1))


def expand(cin, cout):
    """An expanding block: twice the resolution."""
    up = nn.ConvTranspose2d(cout, cout, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(*conv_twice(cin, cout, 3), up)


def conv_twice(cin, cout, kernel):
    """The layers of (convolution, batch normalisation, ReLU) twice."""
    layers = []
    for channels in (cin, cout):
        conv = nn.Conv2d(channels, cout, kernel, padding=kernel // 2)
        layers += [conv, nn.BatchNorm2d(cout), nn.ReLU()]
    return layers


class Peer(nn.Module):
    """torchvision's network for one mask."""

    def __init__(self):
        super().__init__()
        self.network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)

    def forward(self, image):
        return {"seg": self.network(image.float() / 255)["out"]}


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.set_defaults(rounds=3)
    return parser.parse_args(argv)


def main(args):
    data = common.data_folder(args.data)
    load_batch(data, args.batch_size)  # refuses other data before it measures
    precisions = ["fp32", "bf16"] if has_bf16(processor_flags()) else ["fp32"]
    names = [PUBLISHED, *(f"ours, {precision}" for precision in precisions)]
    names.append(f"{PEER}, {precisions[-1]}")
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        ways = {}
        for name in names:
            words = (name, data, args.batch_size)
            pool = ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=words)
            ways[name] = run_in(stack.enter_context(pool))
        seconds = common.interleave(ways, args.rounds)
    speeds = {name: args.batch_size * steps_of(name) / seconds[name] for name in names}
    rows = []
    for name in names:
        parameters = count_parameters(make_model(name)) / 1e6
        rows.append([name, parameters, speeds[name], speeds[name] / speeds[PUBLISHED]])
    best = max(speeds[name] for name in names if name.startswith("ours"))
    common.report(
        ["step", "M parameters", "images/s", "over the published"],
        rows,
        {
            "images_per_second": speeds,
            "ratio": best / speeds[PUBLISHED],
            "batch_size": args.batch_size,
            "rounds": args.rounds,
        },
    )


def prepare(*args):
    """In the process of a row, which keeps its own settings: what `take` is to call."""
    global step
    step = make_step(*args)


def take():
    step()


def run_in(pool):
    """A function that takes the steps of a row in its process."""
    return lambda: pool.submit(take).result()


def make_model(name):
    """The network of a row."""
    if name == PUBLISHED:
        return Published()
    if name.startswith("ours"):
        return MTLNet([Seg(), Cls(), Bbox()])
    return Peer()


def make_step(name, data, batch_size):
    """A function that trains the network of a row for some steps."""
    batch, model = load_batch(data, batch_size), make_model(name)
    precision = "bf16" if name.endswith("bf16") else "fp32"
    criterion = EqualWeightedLoss([Seg()] if name.startswith(PEER) else [Seg(), Cls(), Bbox()])
    if name == PUBLISHED:
        batch["image"] = batch["image"].contiguous()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    else:
        keep_memory()
        to_device(model, CPU)
        optimizer = make_optimizer(model, criterion, Config(precision=precision))
    if name.startswith("ours"):
        convolution = kernels.choose("auto", CPU, precision, torch.get_num_threads())
        kernels.install(model, convolution)
    model.train()

    def train():
        for _ in range(steps_of(name)):
            optimizer.zero_grad()
            with autocast(CPU, precision):
                outputs = model(batch["image"])
            outputs = {task: output.float() for task, output in outputs.items()}
            criterion.backward(criterion(outputs, batch), model)
            optimizer.step()

    return train


def steps_of(name):
    return 1 if name == PUBLISHED else STEPS


def load_batch(data, batch_size):
    """The first images of the training split as one batch."""
    dataset = MTLDataset(data, "train", [Seg(), Cls(), Bbox()])
    if len(dataset) < batch_size or dataset.size != SIDE:
        raise cli.InputError(
            f"{data} has {len(dataset)} training images of {dataset.size} px and this needs "
            f"{batch_size} of {SIDE} px; use other --data or a smaller --batch-size"
        )
    return dataset.__getitems__([(0, row) for row in range(batch_size)])


if __name__ == "__main__":
    cli.run(main, parse_args())
