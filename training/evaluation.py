"""Measuring a model on a split, in fp32: sums over all images, divided once."""

import contextlib

import torch
from torch.nn import functional as F
from tqdm import tqdm

import utils
from data.pixels import resize_images
from dataloader_mtl import batches
from training.looking import both_ways
from training.step import to
from training.team import ALONE


@torch.no_grad()
def evaluate(model, loader, criterion=None, team=ALONE):
    """Measure a model on all images of a loader, whose dataset has the model's tasks.

    Returns (metrics, measured): the dict of utils.summarise, with "loss_<task>" (means over
    labelled images; None where there is none) where a criterion is given, and the per-image
    measurements as a dict of (N,) tensors. In a team each process has a loader of its part of the
    batches, and all have the same result: batches are whole, so that it is that of one process.
    """
    was_training, tasks = model.training, loader.dataset.tasks
    model.eval()
    device = next(model.parameters()).device
    found, collected, losses, labelled = [], {}, {}, {}
    with contextlib.closing(batches(loader)) as source, progress(len(loader), "evaluate") as bar:
        for batch in source:
            targets = to(batch, device)
            outputs = model(targets["image"])
            means = {
                name: (loss.item(), int(tasks[name].labelled(targets[name]).sum()))
                for name, loss in (criterion(outputs, targets) if criterion else {}).items()
            }
            found.append((batch["row"][0].item(), utils.measure(tasks, outputs, targets), means))
            bar.update()
    model.train(was_training)
    for _, measured, means in sorted(sum(team.gather(found), []), key=lambda batch: batch[0]):
        for key, values in measured.items():
            collected.setdefault(key, []).append(values)
        for name, (loss, n) in means.items():
            losses[name] = losses.get(name, 0.0) + loss * n
            labelled[name] = labelled.get(name, 0) + n
    measured = {key: torch.cat(values) for key, values in collected.items()}
    means = {
        f"loss_{name}": total / labelled[name] if labelled[name] else None
        for name, total in losses.items()
    }
    return utils.summarise(tasks, measured) | means, measured


class Resized(torch.nn.Module):
    """A network that looks at images of any size at its own.

    forward(image: (B, 3, H, W) uint8) returns the network's outputs for the images at size x size,
    those that are maps brought back to the scale of H x W.
    """

    def __init__(self, network, size):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, image):
        outputs = self.network(resize_images(image, self.size, self.size))
        return {
            name: self.scaled(output, image) if output.ndim == 4 else output
            for name, output in outputs.items()
        }

    def scaled(self, output, image):
        shape = [-(-side * output.shape[-1] // self.size) for side in image.shape[-2:]]
        return F.interpolate(output, size=shape, mode="bilinear", align_corners=False)


class Mirrored(torch.nn.Module):
    """A network of some tasks whose outputs are the mean with what it sees in the mirror image."""

    def __init__(self, network, tasks):
        super().__init__()
        self.network, self.tasks = network, tasks

    def forward(self, image):
        return both_ways(self.network, self.tasks, image)


def describe_data(dataset):
    """What a run's records say of its data."""
    return {key: dataset.summary[key] for key in ("split_hash", "border", "size")}


def progress(total, what):
    """A bar over batches, gone when it is done or where output is no terminal."""
    return tqdm(total=total, desc=what, unit="batch", leave=False, disable=None)


def line(metrics, prefix=""):
    """The metrics that could be measured as text."""
    return ", ".join(
        f"{prefix}{key.replace('_', ' ')} {value:.4f}"
        for key, value in metrics.items()
        if value is not None and not key.startswith("loss_")
    )
