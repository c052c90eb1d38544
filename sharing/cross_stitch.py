"""Cross-stitch units: an encoder a task; after each stage every task gets a learned mixture of all.

`cross_stitch` or `cross_stitch:0.8`: what a task's own map weighs at first, 0.9 unless it is said,
as in the paper; the others share the rest, so that the mixture keeps its scale. `cross_stitch:1`
starts as separate networks. A unit has a weight for each channel and each pair of tasks; they are
learned like all else, without weight decay, which would pull them towards zero. Their means over
channels stand in log.csv.

All encoders start with the same weights, and one task alone has no units.

Source: Misra, Shrivastava, Gupta and Hebert, "Cross-stitch Networks for Multi-task Learning", 2016.
"""

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
                "a task's own map weighs from 0 to 1 at first, as in cross_stitch:0.9, and was "
                f"{name[:60]!r}"
            )

    def build(self, make_encoder, tasks, dropped, seed):
        # The maps of dropped tasks are still stitched in; sorted, as units know tasks by place.
        names = sorted((*tasks, *dropped))
        parts = nn.Module()
        parts.of = of_each(names, lambda task: make_encoder())
        first = parts.of[names[0]]
        stages(first, self)
        parts.units = nn.ModuleList()
        for channels in first.channels if len(names) > 1 else ():
            parts.units.append(_Unit(len(names), channels, self.own))
        return parts

    def features(self, encoder, image, tasks, record):
        maps = dict.fromkeys(encoder.of, image)
        found = {task: [] for task in tasks}
        for stage in range(5):
            for task, one in encoder.of.items():
                maps[task] = run(one.stages[stage], maps[task])
            if encoder.units:
                mixed = encoder.units[stage](list(maps.values()))
                maps = dict(zip(maps, mixed, strict=True))
            for task in tasks:
                found[task].append(maps[task])
        return {task: [record(map) for map in found[task]] for task in tasks}

    def encoders(self, encoder):
        return list(encoder.of.values())

    def values(self, encoder):
        """stitch_A_B_stage3: what B's map weighs in what A gets after stage 3, mean of channels."""
        found = {}
        for stage, unit in enumerate(encoder.units, start=1):
            means = unit.weight.detach().view(unit.shape).mean(dim=(2, 3, 4))
            for a, row in zip(encoder.of, means.tolist(), strict=True):
                for b, weight in zip(encoder.of, row, strict=True):
                    found[f"stitch_{a}_{b}_stage{stage}"] = weight
        return found


class _Unit(nn.Module):
    """n maps (B, C, H, W) -> n mixtures: the t-th is the sum over s of weight[t, s, c] * map s."""

    def __init__(self, n, channels, own):
        super().__init__()
        weights = torch.full((n, n), (1 - own) / (n - 1)).fill_diagonal_(own)
        self.shape = (n, n, channels, 1, 1)
        # A vector, so that it does not decay.
        self.weight = nn.Parameter(weights[..., None].repeat(1, 1, channels).flatten())

    def forward(self, maps):
        mixtures = []
        for row in self.weight.view(self.shape).to(maps[0].dtype):
            mixtures.append(sum(w * map for w, map in zip(row, maps, strict=True)))
        return mixtures
