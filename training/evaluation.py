"""Measuring a model on a split, in fp32: sums over all images, divided once."""

import contextlib

import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

import utils
from dataloader_mtl import batches
from training.step import to


@torch.no_grad()
def evaluate(model, loader, criterion=None):
    """Measure a model on all images of a loader, whose dataset has the model's tasks.

    Returns (metrics, measured): the dict of utils.summarise, with "loss_<task>" (means over labelled images; None where there
    is none) where a criterion is given, and the per-image measurements as a dict of (N,) tensors.
    """
    was_training, tasks = model.training, loader.dataset.tasks
    model.eval()
    device = next(model.parameters()).device
    collected, losses, labelled = {}, {}, {}
    with contextlib.closing(batches(loader)) as source, progress(len(loader), "evaluate") as bar:
        for batch in source:
            targets = to(batch, device)
            outputs = model(targets["image"])
            for key, values in utils.measure(tasks, outputs, targets).items():
                collected.setdefault(key, []).append(values)
            for name, loss in (criterion(outputs, targets) if criterion else {}).items():
                n = int(tasks[name].labelled(targets[name]).sum())
                losses[name] = losses.get(name, 0.0) + loss.item() * n
                labelled[name] = labelled.get(name, 0) + n
            bar.update()
    model.train(was_training)
    measured = {key: torch.cat(values) for key, values in collected.items()}
    means = {f"loss_{name}": total / labelled[name] if labelled[name] else None for name, total in losses.items()}
    return utils.summarise(tasks, measured) | means, measured


class Resized(torch.nn.Module):
    """A network that looks at images of any size at its own.

    forward(image: (B, 3, H, W) uint8) returns the network's outputs for the images at size x size, those that are maps
    brought back to the scale of H x W.
    """

    def __init__(self, network, size):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, image):
        outputs = self.network(transforms.resize(image, [self.size, self.size], antialias=True))
        return {name: self.scaled(output, image) if output.ndim == 4 else output for name, output in outputs.items()}

    def scaled(self, output, image):
        shape = [-(-side * output.shape[-1] // self.size) for side in image.shape[-2:]]
        return F.interpolate(output, size=shape, mode="bilinear", align_corners=False)


def describe_data(dataset):
    """What a run's records say of its data."""
    return {key: dataset.summary[key] for key in ("split_hash", "border", "size")}


def progress(total, what):
    """A bar over batches, gone when it is done or where output is no terminal."""
    return tqdm(total=total, desc=what, unit="batch", leave=False, disable=None)


def line(metrics, prefix=""):
    """The metrics that could be measured as text."""
    return ", ".join(f"{prefix}{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items()
                     if value is not None and not key.startswith("loss_"))
