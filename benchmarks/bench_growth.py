"""Time and memory of each stage at N, 2N and 4N images: cost that grows no faster than the work.

    python benchmarks/bench_growth.py [--n 200] [--size 128] [--rounds 3]

The stages are preparing a folder of photographs (pets drawn in code; the drawing does not count), re-chunking, one
epoch of training and one evaluation of the full MTL network in fp32. Each runs in a process of its own; the peak is
that of the largest process above its start-up. Growth is the time at 4N over four times the time at N: above 1, a
stage slows down as the data grow. An epoch holds the set in memory where it fits, so its peak may grow by the data's
own size. About five minutes on 2 cores.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import common
from tqdm import tqdm

import cli
import data_prepare
import data_rechunk
from data import contract
from data.sources import synthetic

FACTORS = (1, 2, 4)
STAGES = ("prepare", "rechunk", "epoch", "evaluate")


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--n", type=cli.integer(20), default=200, help="the smallest number of images"
    )
    parser.add_argument(
        "--size", type=cli.integer(contract.MIN_SIZE, contract.MAX_SIZE), default=128
    )
    parser.add_argument("--rounds", type=cli.integer(1), default=3)
    return parser.parse_args(argv)


def main(args):
    common.peak_memory()  # where the system does not tell it, say so now
    counts = [factor * args.n for factor in FACTORS]
    costs = {(stage, n): [] for stage in STAGES for n in counts}
    common.CACHE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=common.CACHE.parent) as place:
        for n in counts:
            synthetic.draw_dataset(Path(place) / f"pets{n}", n)
        jobs = [(n, stage) for _ in range(args.rounds) for n in counts for stage in STAGES]
        for n, stage in tqdm(jobs, unit="stage", disable=None):
            data = Path(place) / f"data{n}"
            options = [Path(place) / f"pets{n}", data, args.size] if stage == "prepare" else [data]
            costs[stage, n].append(common.cost("bench_growth", stage, *options))
    medians = {
        key: [statistics.median(column) for column in zip(*runs)] for key, runs in costs.items()
    }
    seconds = {stage: [medians[stage, n][0] for n in counts] for stage in STAGES}
    peaks = {stage: [medians[stage, n][1] for n in counts] for stage in STAGES}
    growth = {stage: seconds[stage][-1] / seconds[stage][0] / FACTORS[-1] for stage in STAGES}
    common.report(
        [
            "stage",
            *(f"{n} images: s" for n in counts),
            "growth",
            *(f"{n} images: peak MB" for n in counts),
        ],
        [[stage, *seconds[stage], growth[stage], *peaks[stage]] for stage in STAGES],
        {
            "n": counts,
            "size": args.size,
            "seconds": seconds,
            "peak_mb": peaks,
            "growth": growth,
            "rounds": args.rounds,
        },
    )


# Each function below prepares one stage and returns the work, for common.cost.


def prepare(root, data, size):
    options = ["--root", str(root), "--out", str(data), "--size", str(size), "--force"]
    return partial(data_prepare.main, data_prepare.parse_args(options))


def rechunk(data):
    return partial(data_rechunk.main, data_rechunk.parse_args(["--data", str(data)]))


def epoch(data):
    from training import distributed, engine
    from training.step import named_parameters
    from training.team import ALONE

    loader, model, criterion = network(data)
    args = engine.make_parser(__doc__).parse_args(["--epochs", "1"])
    update = distributed.Update(
        ALONE, named_parameters(model, criterion), engine.make_optimizer(model, criterion, args.lr)
    )
    return lambda: engine.train_one_epoch(model, criterion, update, loader, 0, args, "fp32")


def evaluate(data):
    from training import engine

    loader, model, criterion = network(data)
    return lambda: engine.evaluate(model, loader, criterion)


def network(data):
    """Loader of the training split without augmentation, the full network and its criterion."""
    # Here, because the other stages do without PyTorch.
    import torch

    from dataloader_mtl import MTLDataset, make_loader
    from models import MTLNet
    from registry import PUBLISHED
    from training import engine
    from utils import EqualWeightedLoss

    loader = make_loader(MTLDataset(data, "train"), 16, shuffle=True)
    return (
        loader,
        engine.to_device(MTLNet(PUBLISHED), torch.device("cpu")),
        EqualWeightedLoss(PUBLISHED),
    )


if __name__ == "__main__":
    cli.run(main, parse_args())
