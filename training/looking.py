"""How a network looks at one photograph of any size, and what its tasks answer for the whole of it.

Networks learn from images that are stretched to a square, and so is a photograph before they look
at it. One whose longer side is over MOST_ASPECT times the shorter would lose its shapes: it is
looked at in overlapping squares of the shorter side (in longer parts where they would be over
MOST_PARTS). tiles: it is looked at once more in overlapping squares of TILE of the shorter side,
for small pets in large photographs. mirror: the mean with what is seen in the mirror image.

Of all that is seen each task makes one output (Task.merge): maps are blended, and where there are
tiles it is their mean with the map of the whole; of numbers the mean, weighted by how much of the
foreground each part holds; the box of the smallest part that holds nearly all of it.
"""

import math

import torch

from cli import InputError
from data import photographs
from data.pixels import resize

MOST_ASPECT, MOST_PARTS = 3, 32  # the latter along a side
OVERLAP = 1 / 3  # of neighbouring parts, at least
TILE = 0.5
VIEWS = 8  # parts of a photograph that a network looks at together


def read(path, name, missing):
    """A Photograph (data/photographs.py). Raises cli.InputError, which calls it `name` or, where it
    is not there, says `missing`."""
    try:
        return photographs.read(path)
    except FileNotFoundError:
        raise InputError(missing) from None
    except photographs.Unreadable as reason:
        raise InputError(f"{name} cannot be read: {reason}") from None


def predict(model, image, size, shown=None, **options):
    """`answers` of one image; shown: another (H, W) that the prediction is for; else as
    outputs_of."""
    return answers(
        model.task, outputs_of(model, image, size, **options), *(shown or image.shape[-2:])
    )


def answers(tasks, outputs, height, width):
    """{task: value as its `answer` gives it} of outputs as of outputs_of; None of a task that tells
    of the foreground where there is none: a network without a pet before it has a head box to say
    all the same."""
    found = [
        where
        for where in (task.foreground(outputs[name]) for name, task in tasks.items())
        if where is not None
    ]
    is_empty = bool(found) and not any(where.any() for where in found)
    return {
        name: None if is_empty and task.of_foreground else task.answer(outputs[name], height, width)
        for name, task in tasks.items()
    }


@torch.no_grad()
def outputs_of(model, image, size, tiles=False, mirror=False):
    """{task: output without its first dimension} of one image (3, H, W) uint8 of any size, at which
    the network, in evaluation mode, looks at `size` pixels a side."""
    windows = parts_of(*image.shape[-2:], tiles)
    return merge(model.task, look(model, image, size, windows, mirror), windows)


def parts_of(height, width, tiles=False):
    """(N, 4) float: left, top, width and height, relative to the picture, of the parts that are
    looked at."""
    side = min(height, width)
    whole = (
        torch.tensor([[0.0, 0, 1, 1]])
        if max(height, width) <= MOST_ASPECT * side
        else grid(height, width, side)
    )
    return torch.cat([whole, grid(height, width, TILE * side)]) if tiles else whole


def grid(height, width, side):
    """The same of overlapping parts of `side` pixels, evenly spread over a picture; longer ones
    where they would be too many."""
    (tops, tall), (lefts, wide) = spread(height, side), spread(width, side)
    return torch.tensor([[left, top, wide, tall] for top in tops for left in lefts])


def spread(length, side):
    """Where parts of a side begin, and how long one is, both relative to the length; neighbours
    overlap by OVERLAP or more. All are whole pixels."""
    steps = min(math.ceil((length / side - 1) / (1 - OVERLAP) - 1e-9), MOST_PARTS - 1)
    pixels = max(1, math.ceil(max(side, length / (1 + steps * (1 - OVERLAP))) - 1e-9))
    starts = sorted({round((length - pixels) * k / max(steps, 1)) for k in range(steps + 1)})
    return [start / length for start in starts], pixels / length


def look(model, image, size, windows, mirror):
    """{task: (N, ...) float on the CPU} of N parts of an image."""
    device, found = next(model.parameters()).device, {}
    for start in range(0, len(windows), VIEWS):
        views = torch.stack(
            [view(image, size, *window) for window in windows[start : start + VIEWS].tolist()]
        ).to(device)
        outputs = both_ways(model, model.task, views) if mirror else model(views)
        for name, output in outputs.items():
            found.setdefault(name, []).append(output.float().cpu())
    return {name: torch.cat(outputs) for name, outputs in found.items()}


def both_ways(model, tasks, images):
    """{task: (B, ...)}: the mean of what a network sees in images and in their mirror images."""
    outputs, mirrored = model(images), model(images.flip(-1))
    return {
        name: (output + torch.stack([tasks[name].unmirror(one) for one in mirrored[name]])) / 2
        for name, output in outputs.items()
    }


def view(image, size, left, top, width, height):
    """A part of an image, stretched to (3, size, size)."""
    part = crop(image, left, top, width, height)
    return resize("images", part, size)


def crop(image, left, top, width, height):
    """A part of (..., H, W), of a pixel at least."""
    h, w = image.shape[-2:]
    y, x = min(round(top * h), h - 1), min(round(left * w), w - 1)
    return image[
        ..., y : max(y + 1, round((top + height) * h)), x : max(x + 1, round((left + width) * w))
    ]


def merge(tasks, outputs, windows):
    """{task: output of the whole picture} from those of its parts."""
    if len(windows) == 1:
        return {name: output[0] for name, output in outputs.items()}
    held = windows[:, 2] * windows[:, 3]  # where nothing tells: as much as each is of the picture
    merged = {name: task.merge(outputs[name], windows, held) for name, task in tasks.items()}
    found = next(
        (
            where
            for where in (task.foreground(merged[name]) for name, task in tasks.items())
            if where is not None
        ),
        None,
    )
    if found is None or not found.any():
        return merged
    held = torch.stack([crop(found, *window).sum() for window in windows.tolist()]) / found.sum()
    return {name: task.merge(outputs[name], windows, held) for name, task in tasks.items()}
