"""Calibrated probabilities: a temperature for each task with classes, fitted on a loader's images.

Logits are divided by it before the softmax. That changes no class and no metric, only confidence.
Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
"""

import math

import torch
from torch.nn import functional as F
from tqdm import tqdm

from dataloader_mtl import batches

BINS = 15  # of confidence, as in the paper
RANGE = 0.05, 20.0  # of temperatures


@torch.no_grad()
def calibrate(model, loader):
    """{task: {"temperature", "ece_before", "ece_after", "n"}} of a model's tasks with classes.

    n: images whose class is known; a task without any is left out.
    """
    tasks = {name: task for name, task in loader.dataset.tasks.items() if task.classes}
    if not tasks:
        return {}
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    collected = {name: [] for name in tasks}
    for batch in tqdm(batches(loader), "calibrate", len(loader), leave=False, disable=None):
        outputs = model(batch["image"].to(device))
        for name, task in tasks.items():
            known = task.classified(outputs[name], batch[name].to(device))
            collected[name].append([part.cpu() for part in known])
    model.train(was_training)
    found = {}
    for name, parts in collected.items():
        logits, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        if len(classes):
            found[name] = describe(logits.double(), classes)
    return found


def describe(logits, classes):
    """The calibration of logits (n, K) and classes (n,)."""
    temperature = fit_temperature(logits, classes)
    return {
        "temperature": temperature,
        "ece_before": calibration_error(logits, classes),
        "ece_after": calibration_error(logits / temperature, classes),
        "n": len(classes),
    }


def fit_temperature(logits, classes):
    """The temperature of the least cross-entropy of logits (n, K) and classes (n,), within RANGE.

    1 where all are right, as the least of all would then be the most confident.
    """
    from scipy.optimize import minimize_scalar  # takes a while; a refused run does without

    if (logits.argmax(1) == classes).all():
        return 1.0

    def loss(exponent):
        return F.cross_entropy(logits / math.exp(exponent), classes).item()

    bounds = [math.log(bound) for bound in RANGE]
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x)


def calibration_error(logits, classes):
    """Expected calibration error, ECE: |accuracy - mean confidence| over bins of confidence.

    Bins are weighted by their images. Source: Naeini, Cooper and Hauskrecht, "Obtaining Well
    Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    confidence, predicted = logits.softmax(1).max(1)
    surplus = (predicted == classes).double() - confidence
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    sums = torch.zeros(BINS, dtype=torch.double).index_add_(0, bins, surplus)
    return sums.abs().sum().item() / len(classes)
