"""Runs on tiny budgets, and what they leave behind, for the tests of training."""

import csv
import json

import torch

from training import engine

TINY = (
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--width",
    "2",
    "--precision",
    "fp32",
    "--device",
    "cpu",
)
FILES = {
    "config.json",
    "log.csv",
    "last.pt",
    "previous.pt",
    "best.pt",
    "test.json",
    "test_per_image.csv",
    "curves.png",
    "mask.png",
}
TIMES = ("train_seconds", "seconds", "images_per_second", "waiting")


def arguments(data, runs, *more):
    return engine.make_parser("").parse_args(
        ["--data", str(data), "--runs", str(runs), *TINY, *more]
    )


def result(folder):
    return {
        key: value
        for key, value in json.loads((folder / "test.json").read_text()).items()
        if key not in TIMES
    }


def log(folder):
    with open(folder / "log.csv", newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in csv.DictReader(file)
        ]


def weights(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)["model"]


def assert_same_weights(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def targets(dataset, task):
    """(N, ...) a task's target of each image of an MTLDataset that augments nothing."""
    return torch.stack([sample[task] for sample in dataset])
