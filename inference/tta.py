"""Inference on one photograph of any size, with test-time augmentation (TTA).

A network gets a photograph stretched to the square that it was trained on. A photograph whose
longer side is over MAX_ASPECT times the shorter is covered with overlapping windows of the shorter
side.

sliding_window  also looks at windows of half the shorter side, for small pets
hflip           averages with the horizontal flip

Maps of several windows are blended. Class outputs are averaged, weighted by the foreground that
each window holds. A task that needs the foreground takes the smallest window that holds nearly all
of it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from data.pixels import resize
from tasks import resized
from tasks.view import View

MAX_ASPECT = 3
MAX_WINDOWS = 32  # along a side
OVERLAP = 1 / 3  # of neighbouring windows, at least
WINDOW = 0.5  # side of a sliding window, of the picture's shorter side
BATCH = 8
HOLDS = 0.9  # a window with this share of the foreground shows all of it
# A part of the foreground is an animal if it has this share of the largest part's area.
LARGE = 0.25
MAX_ANIMALS = 32  # more parts are noise
MARGIN = 0.2  # around an animal, of its longer side


@dataclass
class Seen:
    """What a network sees in a photograph.

    outputs  {task: output of the whole picture}
    animals  the same for each animal, where the foreground falls into several; else `outputs` alone
    parts    (h, w) int: the number of the nearest animal at each pixel, from 0 on; None for one
    """

    outputs: dict
    animals: list
    parts: np.ndarray | None = None


@torch.no_grad()
def look(model, image, size, sliding_window=False, hflip=False):
    """Seen of one image (3, H, W) uint8, by a network in evaluation mode for `size` px."""
    windows = make_windows(*image.shape[-2:], sliding_window)
    outputs = merge(model.task, run(model, image, size, windows, hflip), windows)
    labels, boxes = find_animals(model.task, outputs)
    if len(boxes) < 2:
        return Seen(outputs, [outputs])
    aspect = image.shape[-2] / image.shape[-1]
    windows = torch.tensor([padded_window(box, labels.shape, aspect) for box in boxes])
    found = run(model, image, size, windows, hflip)
    animals = []
    for k, window in enumerate(windows.tolist()):
        one = {}
        for name, task in model.task.items():
            one[name] = task.unwindow(found[name][k], window)
        animals.append(one)
    return Seen(outputs, animals, labels)


def mask_task(tasks):
    """The name of the first task that tells the foreground; None if none does."""
    for name, task in tasks.items():
        if type(task).foreground is not View.foreground:
            return name
    return None


def answers(tasks, outputs, height, width):
    """{task: its answer}; None for a task that needs a foreground where there is none."""
    foregrounds = [task.foreground(outputs[name]) for name, task in tasks.items()]
    foregrounds = [found for found in foregrounds if found is not None]
    is_absent = bool(foregrounds) and not any(found.any() for found in foregrounds)
    result = {name: task.answer(outputs[name], height, width) for name, task in tasks.items()}
    is_absent |= any(task.is_absent(result[name]) for name, task in tasks.items())
    for name, task in tasks.items():
        if is_absent and task.needs_foreground:
            result[name] = None
    return result


# ------------------------------------------------------------ windows


def make_windows(height, width, sliding_window=False):
    """(N, 4) float windows: left, top, width and height relative to the picture."""
    side = min(height, width)
    if max(height, width) <= MAX_ASPECT * side:
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    else:
        whole = grid(height, width, side)
    if not sliding_window:
        return whole
    return torch.cat([whole, grid(height, width, WINDOW * side)])


def grid(height, width, side):
    """Overlapping windows of `side` px, longer where there would be too many of them."""
    tops, tall = spread(height, side)
    lefts, wide = spread(width, side)
    return torch.tensor([[left, top, wide, tall] for top in tops for left in lefts])


def spread(length, side):
    """(starts, extent) of windows along a side, relative to its length; all are whole pixels."""
    steps = math.ceil((length / side - 1) / (1 - OVERLAP) - 1e-9)
    steps = min(steps, MAX_WINDOWS - 1)
    side = max(side, length / (1 + steps * (1 - OVERLAP)))
    pixels = max(1, math.ceil(side - 1e-9))
    starts = sorted({round((length - pixels) * k / max(steps, 1)) for k in range(steps + 1)})
    return [start / length for start in starts], pixels / length


def crop(image, left, top, width, height):
    """A window of (..., H, W), at least one pixel."""
    h, w = image.shape[-2:]
    y, x = min(round(top * h), h - 1), min(round(left * w), w - 1)
    bottom = max(y + 1, round((top + height) * h))
    right = max(x + 1, round((left + width) * w))
    return image[..., y:bottom, x:right]


# ------------------------------------------------------------ the network


def run(model, image, size, windows, hflip):
    """{task: (N, ...) float on the CPU} of N windows."""
    found = {}
    for start in range(0, len(windows), BATCH):
        chosen = windows[start : start + BATCH].tolist()
        views = torch.stack([resize("images", crop(image, *window), size) for window in chosen])
        views = views.to(next((p.device for p in model.parameters()), "cpu"))
        outputs = flip_average(model, model.task, views) if hflip else model(views)
        for name, output in outputs.items():
            found.setdefault(name, []).append(output.float().cpu())
    return {name: torch.cat(outputs) for name, outputs in found.items()}


def flip_average(model, tasks, images):
    """{task: (B, ...)}: the mean of a network's outputs for images and for their horizontal
    flips."""
    outputs, flipped = model(images), model(images.flip(-1))
    result = {}
    for name, output in outputs.items():
        back = torch.stack([tasks[name].hflip(one) for one in flipped[name]])
        result[name] = (output + back) / 2
    return result


# ------------------------------------------------------------ from windows to the whole


def merge(tasks, outputs, windows):
    """{task: output of the whole picture} from those of N windows, (N, ...)."""
    if len(windows) == 1:
        return {name: output[0] for name, output in outputs.items()}
    placed, merged = {}, {}
    for name, task in tasks.items():
        rows = zip(outputs[name], windows.tolist(), strict=True)
        placed[name] = torch.stack([task.unwindow(one, window) for one, window in rows])
        if placed[name].ndim == 4:
            merged[name] = blend(placed[name], windows)
    held = held_shares(tasks, merged, windows)
    for name, task in tasks.items():
        if name in merged:
            continue
        if task.needs_foreground:
            merged[name] = placed[name][best_window(held, windows)]
        else:
            merged[name] = torch.tensordot(held / held.sum(), placed[name], dims=1)
    return {name: merged[name] for name in tasks}


def held_shares(tasks, maps, windows):
    """(N,) share of the foreground in each window; the window's area where no foreground is
    known."""
    for name, output in maps.items():
        found = tasks[name].foreground(output)
        if found is not None and found.any():
            held = [crop(found, *window).sum() for window in windows.tolist()]
            return torch.stack(held) / found.sum()
    return windows[:, 2] * windows[:, 3]


def best_window(held, windows):
    """The smallest window that holds nearly all of the foreground, else the one that holds most."""
    area = windows[:, 2] * windows[:, 3]
    holds = held >= HOLDS
    return torch.where(holds, held - area, -1).argmax() if holds.any() else held.argmax()


def blend(maps, windows):
    """(N, C, h, w) maps of windows -> (C, H, W) of the whole, at the finest window's resolution.

    Each weighs most in its middle and falls linearly to its edges; windows of several sizes are
    averaged.
    """
    sizes = windows[:, 2:].unique(dim=0)
    wide, tall = sizes.amin(0).tolist()
    shape = round(maps.shape[-2] / tall), round(maps.shape[-1] / wide)
    mean = maps.new_zeros(maps.shape[1], *shape)
    for size in sizes:
        total, weight = torch.zeros_like(mean), maps.new_zeros(shape)
        for k in (windows[:, 2:] == size).all(1).nonzero()[:, 0].tolist():
            left, top, width, height = windows[k].tolist()
            rows = slice(round(top * shape[0]), round((top + height) * shape[0]))
            columns = slice(round(left * shape[1]), round((left + width) * shape[1]))
            sides = rows.stop - rows.start, columns.stop - columns.start
            tent = torch.outer(*[0.5 - ((torch.arange(n) + 0.5) / n - 0.5).abs() for n in sides])
            total[:, rows, columns] += tent * resized(maps[k], *sides)
            weight[rows, columns] += tent
        mean += total / weight / len(sizes)
    return mean


# ------------------------------------------------------------ several animals


def find_animals(tasks, outputs):
    """((h, w) number of the nearest animal, [(top, left, bottom, right)]) of the large parts of the
    foreground; (None, []) without any."""
    name = mask_task(tasks)
    core = tasks[name].foreground(outputs[name]) if name else None
    if core is None or not core.any():
        return None, []
    for name, task in tasks.items():
        trimap = task.trimap(outputs[name])
        if trimap is not None:  # animals that touch are apart inside their edges
            core = core & (trimap == 1)
    from scipy import ndimage  # here, because it takes a while to import

    labels, n = ndimage.label(core.numpy())
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    kept = np.flatnonzero(areas >= LARGE * areas.max())
    if not 2 <= len(kept) <= MAX_ANIMALS:
        return None, []
    places, boxes = ndimage.find_objects(labels), []
    for rows, columns in (places[k] for k in kept):
        boxes.append((rows.start, columns.start, rows.stop, columns.stop))
    is_other = ~np.isin(labels, kept + 1)
    nearest = ndimage.distance_transform_edt(is_other, return_distances=False, return_indices=True)
    return np.searchsorted(kept + 1, labels[tuple(nearest)]), boxes


def padded_window(box, shape, aspect):
    """The window around a box of a map, with MARGIN; aspect: the picture's height over its
    width."""
    top, left, bottom, right = box
    top, bottom, left, right = top / shape[0], bottom / shape[0], left / shape[1], right / shape[1]
    margin = MARGIN * max((bottom - top) * aspect, right - left)  # in widths of the picture
    left, right = max(0.0, left - margin), min(1.0, right + margin)
    top, bottom = max(0.0, top - margin / aspect), min(1.0, bottom + margin / aspect)
    return [left, top, right - left, bottom - top]
