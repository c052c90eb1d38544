"""Measure a model on a split, in fp32: sums over all images, divided once."""

import contextlib

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.pixels import resize_images
from dataloader_mtl import batches
from tasks import resized
from training.devices import to

# Keys that every record has; null where the task is absent or the split cannot measure it.
DRAWS = 1000  # of the bootstrap
METRICS = ("dice", "dice_pooled", "iou_pooled", "border_iou", "accuracy", "box_iou")


@torch.no_grad()
def evaluate(model, loader, criterion=None, world=None):
    """Measure a model on all images of a loader, whose dataset has the model's tasks.

    Returns (metrics, measured): the metrics with `loss_<task>` (mean over labelled images, None
    where there is none) where a criterion is given, and the values per image as a dict of (N,)
    tensors. With several processes each has a loader of its part of the batches, and all get the
    same result."""
    was_training, tasks = model.training, loader.dataset.tasks
    device = next(model.parameters()).device
    model.eval()
    rows, parts = [], []
    with contextlib.closing(batches(loader)) as source, progress(len(loader), "evaluate") as bar:
        for batch in source:
            batch = to(batch, device)
            values = measure(tasks, model(batch["image"]), batch, criterion)
            rows.append(batch["row"].cpu())
            parts.append(values)
            bar.update()
    model.train(was_training)
    if world is not None and world.size > 1:
        gathered = world.gather((rows, parts))
        rows = [row for part in gathered for row in part[0]]
        parts = [values for part in gathered for values in part[1]]
    order = torch.cat(rows).argsort()
    measured = {key: torch.cat([part[key] for part in parts])[order] for key in parts[0]}
    metrics = summarise(tasks, measured)
    for name in tasks if criterion else ():
        values = measured.pop(f"loss_{name}").double()
        values = values[~values.isnan()]
        metrics[f"loss_{name}"] = values.mean().item() if len(values) else None
    return metrics, measured


def measure(tasks, outputs, targets, criterion=None):
    """{value: (B,) tensor on the CPU} of a batch; NaN where an image is not labelled."""
    values = {}
    for name, task in tasks.items():
        values |= task.measure(outputs[name], targets[name])
        if criterion is not None:
            values[f"loss_{name}"] = task.loss(outputs[name], targets[name])
    return {key: value.cpu() for key, value in values.items()}


def summarise(tasks, measured):
    """{metric: number or None} of a split from the values of all its images."""
    metrics = dict.fromkeys(METRICS)
    for task in tasks.values():
        metrics |= task.summarise(measured)
    return metrics


def intervals(tasks, measured):
    """{"<metric>_interval": [low, high] or None}: 95% intervals over the images of a split.

    Exact (Clopper and Pearson 1934) for a share of hits, else a percentile bootstrap over images.
    """
    n = len(next(iter(measured.values())))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        rows = torch.from_numpy(rng.integers(n, size=n))
        draws.append(summarise(tasks, {key: values[rows] for key, values in measured.items()}))
    found = {}
    for task in tasks.values():
        for name, metric in task.metrics.items():
            values = [draw[name] for draw in draws if draw[name] is not None]
            if not values:
                found[f"{name}_interval"] = None
            elif metric.hits:
                found[f"{name}_interval"] = exact_interval(measured[metric.hits])
            else:
                found[f"{name}_interval"] = np.percentile(values, [2.5, 97.5]).tolist()
    return found


def exact_interval(hits):
    """The exact 95% interval of a share, from (N,) values of 0, 1 and NaN."""
    from scipy.stats import binomtest  # takes a second to import

    hits = hits.double()
    hits = hits[~hits.isnan()]
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
    return [float(interval.low), float(interval.high)]


class Resized(nn.Module):
    """A network that gets images of any size and works at its own.

    forward(image: (B, 3, H, W) uint8) returns the network's outputs for the images at size x size;
    maps are brought back to the scale of H x W.
    """

    def __init__(self, network, size):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, image):
        outputs = self.network(resize_images(image, self.size, self.size))
        for name, output in outputs.items():
            if output.ndim == 4:
                sides = zip(image.shape[-2:], output.shape[-2:], strict=True)
                shape = [-(-side * part // self.size) for side, part in sides]
                outputs[name] = torch.stack([resized(one, *shape) for one in output])
        return outputs


class Flipped(nn.Module):
    """Test-time augmentation: the mean of the outputs for an image and its horizontal flip."""

    def __init__(self, network, tasks):
        super().__init__()
        self.network, self.tasks = network, tasks

    def forward(self, image):
        outputs, flipped = self.network(image), self.network(image.flip(-1))
        for name, task in self.tasks.items():
            back = torch.stack([task.hflip(output) for output in flipped[name]])
            outputs[name] = (outputs[name] + back) / 2
        return outputs


def describe_data(dataset):
    """What a run's records say of its data."""
    return {key: dataset.summary[key] for key in ("split_hash", "border", "size")}


def progress(total, what):
    """A bar over batches, gone when it is done or where output is no terminal."""
    return tqdm(total=total, desc=what, unit="batch", leave=False, disable=None)


def line(metrics, prefix=""):
    """The metrics that could be measured, as text."""
    words = []
    for key, value in metrics.items():
        if value is not None and not key.startswith("loss_"):
            words.append(f"{prefix}{key.replace('_', ' ')} {value:.4f}")
    return ", ".join(words)
