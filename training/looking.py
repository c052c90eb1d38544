"""How a network looks at one photograph of any size, and what its tasks answer for the whole of it.

Networks learn from images that are stretched to a square, and so are photographs before they look at them. One whose longer side is
over MOST_ASPECT times the shorter would lose its shapes: it is looked at in overlapping squares of the shorter side (of more than
MOST_SQUARES, fewer and longer parts), and each task merges what was seen (Task.merge): maps are blended, the mean of logits is
weighted by the foreground in each part, a box is that of the part with the most foreground.

tiles: once more at overlapping tiles of TILE of the shorter side, for small pets in large photographs. mirror: the mean with what is seen in
the mirror image.
"""

import math

import torch
from torch.nn import functional as F

MOST_ASPECT, MOST_SQUARES = 3, 32
OVERLAP = 1 / 3  # of neighbouring parts, at least
TILE = 0.6
VIEWS = 8  # parts of a photograph that a network looks at together


def predict(model, image, size, shown=None, **options):
    """{task: value as its `answer` gives it} of one image; shown: another (H, W) that the prediction is for; else as outputs_of."""
    outputs = outputs_of(model, image, size, **options)
    return {name: task.answer(outputs[name], *(shown or image.shape[-2:])) for name, task in model.task.items()}


@torch.no_grad()
def outputs_of(model, image, size, tiles=False, mirror=False):
    """{task: output without its first dimension} of one image (3, H, W) uint8 of any size, at which the network, in evaluation
    mode, looks at `size` pixels a side."""
    windows = parts_of(*image.shape[-2:])
    return merge(model.task, look(model, image, size, windows, mirror), windows)


def parts_of(height, width):
    """(N, 4) float: left, top, width and height, relative to the picture, of the parts that are looked at."""
    if max(height, width) <= MOST_ASPECT * min(height, width):
        return torch.tensor([[0.0, 0, 1, 1]])
    return grid(height, width, min(height, width))


def grid(height, width, side):
    """The same of overlapping parts of `side` pixels, evenly spread over a picture; longer ones where they would be too many."""
    (tops, tall), (lefts, wide) = spread(height, side), spread(width, side)
    return torch.tensor([[left, top, wide, tall] for top in tops for left in lefts])


def spread(length, side):
    """Where parts of a side begin, and how long one is, both relative to the length; neighbours overlap by OVERLAP or more."""
    steps = min(math.ceil((length / side - 1) / (1 - OVERLAP) - 1e-9), MOST_SQUARES - 1)
    share = max(side / length, 1 / (1 + steps * (1 - OVERLAP)))
    return [(1 - share) * k / max(steps, 1) for k in range(steps + 1)], share


def look(model, image, size, windows, mirror):
    """{task: (N, ...) float on the CPU} of N parts of an image."""
    device, (height, width), found = next(model.parameters()).device, image.shape[-2:], {}
    for start in range(0, len(windows), VIEWS):
        views = torch.stack([view(image, size, *window) for window in windows[start:start + VIEWS].tolist()]).to(device)
        outputs, mirrored = model(views), model(views.flip(-1)) if mirror else {}
        for name, output in outputs.items():
            output = output.float().cpu()
            if mirror:
                other = torch.stack([model.task[name].unmirror(one) for one in mirrored[name].float().cpu()])
                output = (output + other) / 2
            found.setdefault(name, []).append(output)
    return {name: torch.cat(outputs) for name, outputs in found.items()}


def view(image, size, left, top, width, height):
    """A part of an image, stretched to (3, size, size)."""
    h, w = image.shape[-2:]
    y, x = min(round(top * h), h - 1), min(round(left * w), w - 1)
    part = image[:, y:max(y + 1, round((top + height) * h)), x:max(x + 1, round((left + width) * w))]
    # As torchvision.transforms.v2 resizes bytes, which takes as long to import as PyTorch.
    return F.interpolate(part[None], size=(size, size), mode="bilinear", antialias=True)[0]


def merge(tasks, outputs, windows):
    """{task: output of the whole picture} from those of its parts."""
    if len(windows) == 1:
        return {name: output[0] for name, output in outputs.items()}
    shares = [task.foreground(outputs[name]) for name, task in tasks.items()]
    share = next((share for share in shares if share is not None), torch.ones(len(windows)))
    weights = share * windows[:, 2] * windows[:, 3]
    weights = weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))
    return {name: task.merge(outputs[name], windows, weights) for name, task in tasks.items()}
