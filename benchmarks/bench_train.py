"""Training steps of the full MTL network against the published study's network and settings, at 256 px on the CPU.

    python benchmarks/bench_train.py [--rounds 3] [--batch-size 16]

A step is forward, losses, backward and optimizer. The reference is the published network in its plain settings: fp32,
contiguous memory, Adam, the system's own way with memory. Ours is what `train_mtl.py` does: channels_last,
engine.make_optimizer, memory kept between steps (devices.keep_memory), and fp32 or bf16, whichever is faster here. Both get the
same batch and the same losses, in processes of their own. The ceiling is a matrix product of 2048 x 2048 in the precision of
ours; the share of it counts the multiplications and additions of our step, forward and backward, as they are defined, though
training/convolution.py makes do with fewer. More rows say what the step takes without that, and without
keeping memory; and what the published network takes where it keeps its own.

Then the same step in the default number of processes, in as many threads and in one, alone and beside one and two processes
of normal priority that spin; and networks of other libraries for one mask, where they are installed
(segmentation_models_pytorch, torchvision). bf16 is not tried where the processor has no instructions for it. About seven
minutes on 2 idle cores; threads that wait for each other suffer most from whatever else the machine does.
"""

import contextlib
import functools
import multiprocessing

import common
import together
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cli
from dataloader_mtl import MTLDataset
from models import MTLNet, count_parameters
from training import convolution, engine
from training.devices import keep_memory
from training.precision import may_win, processor_flags
from utils import EqualWeightedLoss

TASKS = ("seg", "cls", "bbox")
STEPS = 4  # of ours in a turn, and matrix products: one is too short to time
PRODUCT_SIDE = 2048
SIDE = 256
PUBLISHED = "published network, fp32, Adam"
CPU = torch.device("cpu")
NEIGHBOURS = (0, 1, 2)


class Reference(nn.Module):
    """The published network, for images of 256 px: a U-Net of 32 to 256 channels with two auxiliary heads.

    Four contracting blocks, the first with 7 x 7 convolutions at full resolution, each ending in an overlapping 3 x 3
    max pooling; four expanding blocks, each ending in a transposed convolution of stride 2. Skip connections join the
    pooled outputs. 14.2 GFLOP forward per image, 3.7 M parameters.
    """

    team = None  # of processes

    def __init__(self):
        super().__init__()
        self.contract = nn.ModuleList(
            nn.Sequential(*conv_twice(cin, cout, kernel), nn.MaxPool2d(3, stride=2, padding=1))
            for cin, cout, kernel in ((3, 32, 7), (32, 64, 3), (64, 128, 3), (128, 256, 3))
        )
        self.expand = nn.ModuleList(
            nn.Sequential(
                *conv_twice(cin, cout, 3),
                nn.ConvTranspose2d(cout, cout, 3, stride=2, padding=1, output_padding=1),
            )
            for cin, cout in ((256, 128), (128 + 128, 64), (64 + 64, 32), (32 + 32, 1))
        )
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
        """image (B, 3, 256, 256) uint8 -> dict of seg (B, 1, 256, 256) logits, cls (B, 2) logits, bbox (B, 4)."""
        x, features = image.float() / 255, []
        for block in self.contract:
            x = block(x)
            features.append(x)
        deepest = features.pop()
        x = self.expand[0](deepest)
        for block in self.expand[1:]:
            x = block(torch.cat([x, features.pop()], dim=1))
        return {"seg": x, "cls": self.cls(deepest), "bbox": self.bbox(deepest)}

    def penalty(self):
        """Its tasks share one encoder, so nothing keeps several alike."""


def conv_twice(cin, cout, kernel):
    """The layers of (convolution, batch normalisation, ReLU) twice."""
    return [
        layer
        for channels in (cin, cout)
        for layer in (
            nn.Conv2d(channels, cout, kernel, padding=kernel // 2),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
        )
    ]


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument("--rounds", type=cli.integer(1), default=3)
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    return parser.parse_args(argv)


def main(args):
    data = common.data_folder(args.data)
    batch = load_batch(data, args.batch_size)
    tried = {"fp32": torch.float32} | (
        {"bf16": torch.bfloat16} if may_win(processor_flags()) else {}
    )
    with (
        apart(steppers, data, args.batch_size, tuple(tried), True) as keeping,
        apart(steppers, data, args.batch_size, tuple(tried), False) as plain,
    ):
        names = settings(tuple(tried))
        ways = {
            PUBLISHED: functools.partial(plain, PUBLISHED),
            f"{PUBLISHED}, memory kept": functools.partial(keeping, PUBLISHED),
        }
        ways |= {f"{name}, memory kept": functools.partial(keeping, name) for name in names}
        ways |= {name: functools.partial(plain, name) for name in names}
        ways |= {f"matrix product, {name}": product(dtype) for name, dtype in tried.items()}
        seconds = common.interleave(ways, args.rounds)

    speeds = {
        name: args.batch_size * (1 if PUBLISHED in name else STEPS) / seconds[name] for name in ways
    }
    usual = {
        name: f"ours, {name}, {convolution.choose(None, CPU, name, 2)}, memory kept"
        for name in tried
    }
    precision = max(tried, key=lambda name: speeds[usual[name]])
    images_per_second = speeds[usual[precision]]
    gflop = STEPS * 2 * PRODUCT_SIDE**3 / 1e9
    ceilings = {name: gflop / seconds[f"matrix product, {name}"] for name in tried}
    model, reference = engine.to_device(MTLNet(TASKS), CPU), Reference()
    flops, of_reference = (
        count_flops(model, batch),
        count_flops(reference, {**batch, "image": batch["image"].contiguous()}),
    )
    rows = [
        row(name, reference, of_reference, speeds[name], ceilings["fp32"])
        for name in ways
        if PUBLISHED in name
    ]
    rows += [
        row(
            name + (", as it is" if name in usual.values() else ""),
            model,
            flops,
            speeds[name],
            ceilings[its_precision],
        )
        for its_precision in tried
        for name in ways
        if f"ours, {its_precision}" in name
    ]
    processes = together.default_processes(args.batch_size)
    beside = together.measure(processes, batch, precision, NEIGHBOURS, args.rounds)
    others = together.peers(batch, precision, args.rounds)
    rows += [
        [
            f"ours, {precision}, {way_of(way, processes)}"
            + (f", beside {n} spinning" if n else ""),
            count_parameters(model) / 1e6,
            *flops,
            beside[way, n],
            None,
            None,
        ]
        for way, n in sorted(beside, key=lambda key: key[::-1])
    ]
    rows += [
        [f"{name}, {precision}", parameters / 1e6, None, None, value, None, None]
        for name, (parameters, value) in others.items()
    ]
    common.report(
        [
            "step",
            "M parameters",
            "GFLOP forward",
            "GFLOP forward + backward",
            "images/s",
            "ceiling GFLOP/s",
            "share",
        ],
        rows,
        {
            "reference_images_per_second": speeds[PUBLISHED],
            "images_per_second": images_per_second,
            "ratio": images_per_second / speeds[PUBLISHED],
            "ratio_memory_kept": images_per_second / speeds[f"{PUBLISHED}, memory kept"],
            "gflop_per_image": flops[1],
            "reference_gflop_forward": of_reference[0],
            "ceiling_gflops": ceilings[precision],
            "share_of_ceiling": images_per_second * flops[1] / ceilings[precision],
            "precision": precision,
            "batch_size": args.batch_size,
            "rounds": args.rounds,
            "processes": processes,
            "processes_ratio": beside["processes", 0] / beside["threads", 0],
            "busy_share": beside["processes", 2] / beside["processes", 0],
            "busy_share_threads": beside["threads", 2] / beside["threads", 0],
            "peers": {name: value for name, (_, value) in others.items()},
        },
    )


@contextlib.contextmanager
def apart(make, *args):
    """A function that calls one of make(*args), {name: function}, by its name in a process of its own, where the settings of this one
    do not reach."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, make, args), daemon=True
    )
    process.start()
    there.close()

    def call(name):
        here.send(name)
        here.recv()

    try:
        yield call
    finally:
        here.send(None)
        process.join()


def serve(connection, make, args):
    """What the other process does: call the function of a name that it is sent, and say when that is done."""
    functions = make(*args)
    while name := connection.recv():
        functions[name]()
        connection.send(True)


def settings(precisions):
    """{name: (precision, way of convolution.WAYS)} of our step: the default, and with convolutions as PyTorch computes them."""
    return {
        f"ours, {precision}, {way}": (precision, way)
        for precision in precisions
        for way in dict.fromkeys((convolution.choose(None, CPU, precision, 2), "direct"))
    }


def steppers(data, batch_size, precisions, keeps_memory):
    """{name: a function that trains for some steps}: the published network, for one, and ours in all settings."""
    if keeps_memory:
        keep_memory()
    batch, reference = load_batch(data, batch_size), Reference()
    found = {
        PUBLISHED: trainer(
            reference,
            torch.optim.Adam(reference.parameters(), lr=1e-4),
            {**batch, "image": batch["image"].contiguous()},
            "fp32",
            1,
        )
    }
    for name, (precision, way) in settings(precisions).items():
        model = engine.to_device(MTLNet(TASKS), CPU)
        convolution.install(model, way)
        found[name] = trainer(
            model,
            engine.make_optimizer(model, EqualWeightedLoss(TASKS), lr=2e-3),
            batch,
            precision,
            STEPS,
        )
    return found


def way_of(way, processes):
    """How together.measure computes, in words."""
    return {"processes": f"{processes} processes", "threads": f"{max(2, processes)} threads"}.get(
        way, way
    )


def load_batch(data, batch_size):
    """The first images of the training split as one batch of ours."""
    dataset = MTLDataset(data, "train")
    if len(dataset) < batch_size or dataset.size != SIDE:
        raise cli.InputError(
            f"{data} has {len(dataset)} training images of {dataset.size} px and this benchmark needs "
            f"{batch_size} of {SIDE} px; use other --data or a smaller --batch-size"
        )
    return dataset.__getitems__([(0, row) for row in range(batch_size)])


def trainer(model, optimizer, batch, precision, steps):
    """A function that trains for some steps."""
    criterion = EqualWeightedLoss(TASKS)
    model.train()

    def train():
        for _ in range(steps):
            optimizer.zero_grad()
            engine.step(model, criterion, batch, precision)
            optimizer.step()

    return train


def product(dtype):
    """A function that multiplies matrices, STEPS times."""
    a = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE).to(dtype)

    def multiply():
        for _ in range(STEPS):
            a @ a

    return multiply


def count_flops(model, batch):
    """GFLOP per image of (forward, forward + backward), a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as forward:
        model(batch["image"])
    with FlopCounterMode(display=False) as both:
        engine.step(model, EqualWeightedLoss(TASKS), batch, "fp32")
    return tuple(
        counter.get_total_flops() / 1e9 / len(batch["image"]) for counter in (forward, both)
    )


def row(name, model, flops, speed, ceiling):
    return [
        name,
        count_parameters(model) / 1e6,
        *flops,
        speed,
        ceiling,
        f"{speed * flops[1] / ceiling:.0%}",
    ]


if __name__ == "__main__":
    cli.run(main, parse_args())
