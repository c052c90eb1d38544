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

import common
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from training.step import autocast

import cli
from dataloader_mtl import MTLDataset
from models import MTLNet, count_parameters
from training import convolution, engine
from training.devices import keep_memory
from training.precision import has_bf16, processor_flags
from utils import EqualWeightedLoss

TASKS = ("seg", "cls", "bbox")
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
    batch = load_batch(data, args.batch_size)
    precisions = ["fp32", "bf16"] if has_bf16(processor_flags()) else ["fp32"]
    names = [PUBLISHED, *(f"ours, {precision}" for precision in precisions)]
    names.append(f"{PEER}, {precisions[-1]}")
    with contextlib.ExitStack() as stack:
        ways = {}
        for name in names:
            way = apart(make_step, name, data, args.batch_size)
            ways[name] = stack.enter_context(way)
        seconds = common.interleave(ways, args.rounds)
    speeds = {name: args.batch_size * steps_of(name) / seconds[name] for name in names}
    rows = []
    for name in names:
        model = make_model(name)
        ratio = speeds[name] / speeds[PUBLISHED]
        rows.append([name, count_parameters(model) / 1e6, gflop(model, batch), speeds[name], ratio])
    best = max(speeds[name] for name in names if name.startswith("ours"))
    results = {
        "images_per_second": speeds,
        "ratio": best / speeds[PUBLISHED],
        "batch_size": args.batch_size,
        "rounds": args.rounds,
    }
    header = ["step", "M parameters", "GFLOP forward", "images/s", "over the published network"]
    common.report(header, rows, results)


@contextlib.contextmanager
def apart(make, *args):
    """make(*args) is a function; a context of one that calls it in a process of its own, which
    keeps its own settings.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, make, args), daemon=True)
    process.start()
    there.close()

    def call():
        here.send(True)
        return here.recv()

    try:
        yield call
    finally:
        here.send(False)
        process.join()


def serve(connection, make, args):
    """The other end of `apart`."""
    function = make(*args)
    while connection.recv():
        connection.send(function())


def make_model(name):
    """The network of a row."""
    if name == PUBLISHED:
        return Published()
    if name.startswith("ours"):
        return MTLNet(TASKS)
    return Peer()


def make_step(name, data, batch_size):
    """A function that trains the network of a row for some steps."""
    batch, model = load_batch(data, batch_size), make_model(name)
    precision = "bf16" if name.endswith("bf16") else "fp32"
    if name == PUBLISHED:
        batch["image"] = batch["image"].contiguous()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        criterion = EqualWeightedLoss(TASKS)
    else:
        keep_memory()
        engine.to_device(model, CPU)
        criterion = EqualWeightedLoss(TASKS if name.startswith("ours") else TASKS[:1])
        optimizer = engine.make_optimizer(model, criterion, lr=2e-3)
    if name.startswith("ours"):
        threads = torch.get_num_threads()
        convolution.install(model, convolution.choose(None, CPU, precision, threads))
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
    dataset = MTLDataset(data, "train")
    if len(dataset) < batch_size or dataset.size != SIDE:
        raise cli.InputError(
            f"{data} has {len(dataset)} training images of {dataset.size} px and this needs "
            f"{batch_size} of {SIDE} px; use other --data or a smaller --batch-size"
        )
    return dataset.__getitems__([(0, row) for row in range(batch_size)])


def gflop(model, batch):
    """GFLOP of a forward pass per image, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        model(batch["image"].contiguous())
    return counter.get_total_flops() / 1e9 / len(batch["image"])


if __name__ == "__main__":
    cli.run(main, parse_args())
