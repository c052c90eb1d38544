"""Runs on tiny budgets, and what they leave behind, for the tests of training."""

import csv
import importlib
import json

import torch

from config import Config

TINY = (
    *("--epochs", "2"),
    *("--batch-size", "8"),
    *("--width", "2"),
    *("--precision", "fp32"),
    *("--device", "cpu"),
    *("--threads", "1"),
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
# The experiment of each script; train.py names its own.
EXPERIMENTS = {
    "train_mtl": "mtl",
    "train_baseline": "baseline",
    "train_ablation_cls": "ablation_cls",
    "train_ablation_bbox": "ablation_bbox",
    "oeq_uncertainty": "uncertainty",
    "train": None,
}


def configure(name, data, runs, *options):
    """The Config of a script, e.g. "train_mtl", on a tiny budget."""
    argv = ["--data", data, "--runs", runs, *TINY, *options]
    return Config.parse("", EXPERIMENTS[name], [str(word) for word in argv])


def train(name, data, runs, *options):
    """Run a script in this process; returns the run's folder."""
    config = configure(name, data, runs, *options)
    importlib.import_module(name).main(config)
    experiment = config.experiment or config.default_name()
    return runs / experiment / f"seed{config.seed}"


def result(folder):
    return without_times(json.loads((folder / "test.json").read_text()))


def files_in(folder):
    """Files below a folder, but for locks, whose names begin with a dot."""
    return [path for path in folder.rglob("[!.]*") if path.is_file()]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def log(folder):
    return [without_times(row) for row in read_csv(folder / "log.csv")]


def without_times(record):
    return {key: value for key, value in record.items() if key not in TIMES}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def weights(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)["model"]


def assert_same_weights(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_same_run(a, b):
    """All that two runs leave behind is equal, bit for bit, but for times."""
    assert result(a) == result(b)
    assert log(a) == log(b)
    for name in ("last.pt", "best.pt"):
        assert_same_weights(weights(a, name), weights(b, name))
    assert (a / "test_per_image.csv").read_text() == (b / "test_per_image.csv").read_text()


def targets(dataset, task):
    """(N, ...) a task's target of each image of an MTLDataset that augments nothing."""
    return torch.stack([sample[task] for sample in dataset])
