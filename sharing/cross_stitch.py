"""Cross-stitch units: an encoder a task, and after each stage every task gets a learned mixture of the tasks' maps.

`cross_stitch` or `cross_stitch:0.8`: what a task's own map weighs at first, 0.9 unless it is said, as in the paper; the
others share the rest, so that the mixture keeps its scale. `cross_stitch:1` starts as separate networks. A unit has a weight
for each channel and each pair of tasks; they are learned like all else, without weight decay, which would pull them towards
zero. Their means over channels stand in log.csv.

All encoders start with the same weights, and one task alone has no units.

Source: Misra, Shrivastava, Gupta and Hebert, "Cross-stitch Networks for Multi-task Learning", 2016.
"""

from itertools import product

import torch
from torch import nn

from cli import InputError
from sharing import Sharing, of_each, run, stages


class CrossStitch(Sharing):
    def __init__(self, name, argument=None):
        super().__init__(name)
        try:
            self.own = 0.9 if argument is None else float(argument)
        except ValueError:
            self.own = -1
        if not 0 <= self.own <= 1:
            raise InputError(
                f"a task's own map weighs from 0 to 1 at first, as in cross_stitch:0.9, and was {name[:60]!r}"
            )

    def build(self, make_encoder, tasks, beside, seed):
        # The maps of the tasks whose heads are gone are still stitched in; sorted, as units know tasks by their place.
        parts = nn.Module()
        parts.of = of_each(sorted((*tasks, *beside)), lambda task: make_encoder())
        first = next(iter(parts.of.values()))
        stages(first, self)
        n = len(parts.of)
        parts.units = nn.ModuleList(_Unit(n, c, self.own) for c in first.channels if n > 1)
        return parts

    def features(self, encoder, image, tasks, cut):
        maps, found = [image] * len(encoder.of), {task: [] for task in encoder.of}
        for k, of_each in enumerate(zip(*(one.stages for one in encoder.of.values()))):
            maps = [run(layers, map) for layers, map in zip(of_each, maps)]
            if len(maps) > 1:
                maps = encoder.units[k](maps)
            for kept, map in zip(found.values(), maps):
                kept.append(map)
        return {task: [cut(map) for map in found[task]] for task in tasks}

    def encoders(self, encoder):
        return list(encoder.of.values())

    def values(self, encoder):
        """stitch_A_B_stage3: what weight B's map has in what A gets after stage 3, mean over channels."""
        return {
            f"stitch_{a}_{b}_stage{k}": value
            for k, unit in enumerate(encoder.units, start=1)
            for (a, b), value in zip(
                product(encoder.of, repeat=2),
                unit.weight.detach().view(unit.shape).mean(dim=(2, 3, 4)).flatten().tolist(),
            )
        }


class _Unit(nn.Module):
    """n maps (B, C, H, W) -> n mixtures: mixture t is the sum over s of weight[t, s, c] times map s."""

    def __init__(self, n, channels, own):
        super().__init__()
        weights = torch.full((n, n), (1 - own) / (n - 1)).fill_diagonal_(own)
        self.shape = (n, n, channels, 1, 1)
        self.weight = nn.Parameter(
            weights[..., None].repeat(1, 1, channels).flatten()
        )  # a vector: it does not decay

    def forward(self, maps):
        weight = self.weight.view(self.shape).to(maps[0].dtype)
        return [sum(w * map for w, map in zip(row, maps)) for row in weight]
