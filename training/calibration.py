"""Probabilities that mean what they say: a temperature for each task with classes, fitted on the
validation split.

Logits are divided by it before the softmax, which changes no class and no metric, only how sure a
network says it is. Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
"""

import contextlib

import torch

from dataloader_mtl import batches
from training.evaluation import progress
from training.step import to

BINS = 15  # of confidence, as in the paper
RANGE = 0.05, 20.0  # of temperatures


@torch.no_grad()
def calibrate(model, loader):
    """{task: {"temperature", "ece_before", "ece_after", "n"}} of a model's tasks with classes, on
    the images of a loader whose class is known; empty where there is none."""
    found, device, was_training = {}, next(model.parameters()).device, model.training
    tasks = {name: task for name, task in loader.dataset.tasks.items() if task.classes}
    if not tasks:
        return {}
    model.eval()
    with contextlib.closing(batches(loader)) as source, progress(len(loader), "calibrate") as bar:
        for batch in source:
            bar.update()
            targets = to(batch, device)
            outputs = model(targets["image"])
            for name, task in tasks.items():
                found.setdefault(name, []).append(
                    [part.cpu() for part in task.classified(outputs[name], targets[name])]
                )
    model.train(was_training)
    known = {name: tuple(torch.cat(part) for part in zip(*parts)) for name, parts in found.items()}
    return {
        name: describe(logits.double(), classes)
        for name, (logits, classes) in known.items()
        if len(classes)
    }


def describe(logits, classes):
    temperature = fit(logits, classes)
    return {
        "temperature": temperature,
        "ece_before": error(logits, classes),
        "ece_after": error(logits / temperature, classes),
        "n": len(classes),
    }


def fit(logits, classes):
    """The temperature of the least cross-entropy of logits (n, K) and classes (n,); 1 where all are
    right, as the least of all would then be that which is surest.

    In 1 / temperature the cross-entropy is convex, so its slope is followed to zero by bisection,
    within RANGE.
    """
    if (logits.argmax(1) == classes).all():
        return 1.0
    low, high = (1 / bound for bound in reversed(RANGE))
    chosen = logits.gather(1, classes[:, None])[:, 0]
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((logits * middle).softmax(1) * logits).sum(1) - chosen
        low, high = (middle, high) if slope.mean() < 0 else (low, middle)
    return 1 / (low * high) ** 0.5


def error(logits, classes):
    """Expected calibration error: over bins of the winner's probability, the mean of |share that is
    right - mean probability|, weighted by their images (Naeini et al. 2015)."""
    probability, winner = logits.softmax(1).max(1)
    surplus = (winner == classes).double() - probability
    sums = torch.zeros(BINS, dtype=torch.double).index_add_(
        0, (probability * BINS).long().clamp(max=BINS - 1), surplus
    )
    return sums.abs().sum().item() / len(classes)
