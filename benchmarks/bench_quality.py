"""Validation Dice against seconds of training: one run of as many epochs as fit some minutes, from a cold start.

    python benchmarks/bench_quality.py [--data datasets/data_new] [--minutes 2] [--experiment mtl] [--runs runs/quality]

A short run of two epochs at each side that the training images grow through, like the long one in all else, says how many epochs
should fit, and so many follow (--epochs says how many instead). Seconds count training alone, as the run's log does, not the validation
after each epoch. Beside the run's usual files its folder gets quality.csv and quality.png. Every option of the
training scripts works here too. The defaults here are what gets far in a short time (QUICK, SIDES);
the study's are `--optimizer adamw --lr 0.002 --width 48 --sides 128:0.6,192:0.8,256:1`.
"""

import argparse
import contextlib
import csv
import json
import sys
import tempfile
from pathlib import Path

import common
from matplotlib.figure import Figure

import cli
from data import contract
from dataloader_mtl import MTLDataset
from models import MTLNet
from training import engine, run_folder
from utils import EqualWeightedLoss

EXPERIMENTS = {
    "mtl": ("seg", "cls", "bbox"),
    "baseline": ("seg",),
    "ablation_cls": ("seg", "cls"),
    "ablation_bbox": ("seg", "bbox"),
}
FIELDS = ("epoch", "seconds", "side", "val_dice_pooled", "val_dice", "val_accuracy", "val_box_iou")
QUICK = {"optimizer": "muon", "lr": 0.006, "width": 32}
SIDES = (
    (0.5, 0.5),
    (0.88, 0.75),
    (1.0, 1.0),
)  # as recipe.SIDES: until this share of the epochs, side relative to the data's
TIMED_BATCHES = 16  # an epoch of the short run
MARGIN = 0.97  # of the time is planned for, because the estimate rests on a few seconds


def parse_args(argv=None):
    parser = engine.make_parser(__doc__)
    parser.add_argument("--minutes", type=cli.positive_float, default=2.0, help="of training")
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="mtl")
    parser.set_defaults(data=None, runs=Path("runs/quality"), epochs=None, **QUICK)
    return parser.parse_args(argv)


def main(args):
    args.data = common.data_folder(args.data)
    tasks = EXPERIMENTS[args.experiment]
    args.sides = args.sides or quick_sides(contract.describe(args.data)["size"])
    if args.epochs is None:
        args.precision, args.epochs = plan(args, tasks)
        print(f"{args.epochs} epochs should fit {args.minutes:g} minutes of training", flush=True)
    train(args, tasks)
    folder = args.runs / args.experiment / f"seed{args.seed}"
    rows = curve(read_log(folder))
    run_folder.write_csv(
        FIELDS,
        (["" if value is None else value for value in row.values()] for row in rows),
        folder / "quality.csv",
    )
    best = max(rows, key=lambda row: row["val_dice_pooled"])
    draw_curve(rows, best, f"{args.experiment}, seed {args.seed}", folder / "quality.png")
    common.report(
        FIELDS,
        [row.values() for row in rows],
        {
            "experiment": args.experiment,
            "seed": args.seed,
            "minutes": args.minutes,
            "epochs": args.epochs,
            "train_seconds": rows[-1]["seconds"],
            "best_epoch": best["epoch"],
            **{field.removeprefix("val_"): best[field] for field in FIELDS[3:]},
        },
    )


def quick_sides(size):
    """SIDES for --sides; None, the recipe's, where they would be under 128 px or no multiples of 32."""
    return (
        None
        if size % 128 or size < 256
        else ",".join(f"{round(share * size)}:{until:g}" for until, share in SIDES)
    )


def plan(args, tasks):
    """(Precision, number of epochs that fit the minutes), from a short run as the long one will be, of two epochs at each side."""
    with engine.open_folder(args.experiment, args).held():
        pass  # refuses an existing run before it measures
    size, some = contract.describe(args.data)["size"], TIMED_BATCHES * args.batch_size
    sides = sorted(set(engine.training_sides(100, size, args.sides)))
    with tempfile.TemporaryDirectory() as runs:
        trial = argparse.Namespace(
            **vars(args)
            | {
                "runs": Path(runs),
                "epochs": 2 * len(sides),
                "tensorboard": False,
                "limit": min(args.limit or some, some),
                "masks": args.masks and min(args.masks, some),
                "sides": ",".join(f"{side}:{(k + 1) / len(sides)}" for k, side in enumerate(sides)),
            }
        )
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the table
            train(trial, tasks)
        folder = trial.runs / args.experiment / f"seed{args.seed}"
        precision = json.loads((folder / "config.json").read_text(encoding="utf-8"))["precision"]
        speeds = {
            int(row["side"]): float(row["images_per_second"]) for row in read_log(folder)
        }  # the second epoch's
    print("; ".join(f"{side} px: {speed:.1f} images/s" for side, speed in speeds.items()))
    images = len(MTLDataset(args.data, "train", limit=args.limit))
    return precision, choose_epochs(60 * args.minutes * MARGIN, images, speeds, size, args.sides)


def train(args, tasks):
    """The run that some options ask for."""
    engine.run(
        args.experiment,
        MTLNet(tasks, width=args.width, seed=args.seed),
        EqualWeightedLoss(tasks),
        args,
    )


def choose_epochs(seconds, images, speeds, size, sides=None):
    """The most epochs of so many images that fit some seconds, at least one; speeds is {side: images/s}."""

    def needed(epochs):
        return sum(images / speeds[side] for side in engine.training_sides(epochs, size, sides))

    epochs = 1
    while needed(epochs + 1) <= seconds:
        epochs += 1
    return epochs


def read_log(folder):
    """The rows of a run's log as dicts of text."""
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def curve(log):
    """A log's rows with the fields of FIELDS as numbers, seconds summed up; None for what was not measured."""
    rows, seconds = [], 0.0
    for logged in log:
        seconds += float(logged["seconds"])
        row = {field: float(logged[field]) if logged[field] else None for field in FIELDS}
        rows.append(
            row
            | {
                "epoch": int(logged["epoch"]),
                "side": int(logged["side"]),
                "seconds": round(seconds, 2),
            }
        )
    return rows


def draw_curve(rows, best, title, path):
    """Pooled validation Dice over minutes of training."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [row["seconds"] / 60 for row in rows],
        [row["val_dice_pooled"] for row in rows],
        marker="o",
        markersize=3,
    )
    axes.annotate(
        f"{best['val_dice_pooled']:.4f}",
        (best["seconds"] / 60, best["val_dice_pooled"]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
    )
    axes.set(xlabel="minutes of training", ylabel="validation Dice, pooled", title=title)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    cli.run(main, parse_args())
