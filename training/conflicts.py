"""What tasks do to each other: the angle between their gradients, and the ratio of their lengths,
at each stage of what they share.

`--conflicts K` looks at every K-th batch of an epoch. The gradient of each task's unweighted loss
goes back through the graph of the step itself, which changes neither gradients nor weights,
statistics or random numbers: a run ends with the same weights with it and without. A stage's
gradient is that of its trained parameters in all encoders that tasks share, as one vector; an
encoder that cannot be taken apart has one stage, called encoder. log.csv gets an epoch's means for
each pair of tasks and each stage:

    conflict_A_B_stage3    mean cosine; below 0 what lowers one loss raises the other
                           lengths_A_B_stage3     length of A's gradient over that of B's, geometric
                           mean; weights of losses come on top

A task whose gradient is zero at a stage, as where nothing in the batch is labelled, is left out
there; a cell without a batch is empty.

Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020, for the cosine; Chen et al.,
"GradNorm", 2018, for lengths.
"""

import math
from itertools import combinations

import numpy as np
import torch

from cli import InputError
from data import lettering
from training import pictures


class Conflicts:
    """The gradients of every `every`-th batch of an epoch, compared; of no batch where that is
    None."""

    def __init__(self, model, every):
        self.team, self.tasks, self.every = model.team, model.tasks, every
        self.stages = stages_of(model) if every else {}
        self.found = {
            f"{what}_{a}_{b}_{stage}": []
            for stage in self.stages
            for what in ("conflict", "lengths")
            for a, b in combinations(self.tasks, 2)
        }

    def look(self, k):
        """What is to be called with the losses of the k-th batch before they go back, or None."""
        return self.measure if self.every and k % self.every == 0 else None

    def measure(self, losses):
        """losses: dict of unweighted scalars, whose graph is kept."""
        parameters = [p for of_stage in self.stages.values() for p in of_stage]
        keep = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        gradients = (torch.autograd.grad(losses[task], parameters, **keep) for task in self.tasks)
        rows = torch.stack(
            [torch.cat([gradient.flatten() for gradient in of_task]) for of_task in gradients]
        )
        if (
            self.team
        ):  # each process has its images' part of the gradients, times the number of processes
            rows = self.team.exchange(rows).mean(dim=0)
        lengths = [sum(p.numel() for p in of_stage) for of_stage in self.stages.values()]
        for stage, part in zip(self.stages, rows.split(lengths, dim=1)):
            products = dict(
                zip(self.tasks, (dict(zip(self.tasks, row)) for row in (part @ part.T).tolist()))
            )
            for a, b in combinations(self.tasks, 2):
                if products[a][a] and products[b][b]:
                    cosine = products[a][b] / math.sqrt(products[a][a]) / math.sqrt(products[b][b])
                    self.found[f"conflict_{a}_{b}_{stage}"].append(cosine)
                    self.found[f"lengths_{a}_{b}_{stage}"].append(
                        0.5 * math.log(products[a][a] / products[b][b])
                    )

    def columns(self):
        """{column: mean over the batches that were looked at, or None}."""
        means = {
            key: sum(values) / len(values) if values else None for key, values in self.found.items()
        }
        return {
            key: math.exp(mean) if mean is not None and key.startswith("lengths_") else mean
            for key, mean in means.items()
        }


def stages_of(model):
    """{stage: its trained parameters that several tasks share}, from the image on."""
    shared, found = {id(p) for p in model.shared_parameters()}, {}
    for encoder in model.encoders():
        parts = (
            [("encoder", [encoder])]
            if encoder.stages is None
            else [(f"stage{k}", layers) for k, layers in enumerate(encoder.stages, start=1)]
        )
        for stage, layers in parts:
            found.setdefault(stage, []).extend(
                p for layer in layers for p in layer.parameters() if id(p) in shared
            )
    return {stage: parameters for stage, parameters in found.items() if parameters}


def refuse(model):
    """Refuse a network in which there is nothing to compare."""
    if len(model.tasks) < 2:
        why = f"{model.tasks[0]} is its one task"
    elif not stages_of(model):
        why = f"under the sharing {model.sharing.name} its tasks share none that is trained"
    else:
        pairs = ["_".join(pair) for pair in combinations(model.tasks, 2)]
        if len(set(pairs)) == len(pairs):
            return
        why = f"of its tasks two pairs would both be called {next(pair for pair in pairs if pairs.count(pair) > 1)}"
    raise InputError(
        f"--conflicts compares what tasks do to the parameters that they share, and in this network {why}; "
        "leave --conflicts out, or name other tasks or another sharing"
    )


def draw(history, tasks, path):
    """Draw cosines and ratios of lengths over the stages, a line a pair of tasks: means over the
    epochs of log.csv's rows."""
    stages = list(
        dict.fromkeys(key.rpartition("_")[2] for key in history[0] if key.startswith("conflict_"))
    )
    (figure, axes), most = pictures.make_row(2), 0.05
    for (a, b), colour in zip(combinations(tasks, 2), pictures.LINES * len(tasks) ** 2):
        # What was not measured is None, and becomes NaN.
        rows = (
            np.array(
                [[row[f"{what}_{a}_{b}_{stage}"] for stage in stages] for row in history], float
            )
            for what in ("conflict", "lengths")
        )
        cosines, ratios = (np.ma.masked_invalid(values) for values in rows)
        cosines, ratios = (
            cosines.mean(axis=0).filled(np.nan),
            np.exp(np.log(ratios).mean(axis=0)).filled(np.nan),
        )
        for axis, values in zip(axes, (cosines, ratios)):
            axis.plot(stages, values, "o-", color=colour, label=lettering.text(f"{a}, {b}"))
        most = max(most, np.nanmax(np.abs(cosines), initial=0))
    axes[0].axhline(0, color="black", linewidth=0.8)
    axes[0].set(
        ylim=(-1.1 * most, 1.1 * most),
        ylabel="cosine",
        title="angle between gradients (below 0 they pull apart)",
    )
    axes[0].legend(fontsize=8)
    axes[1].axhline(1, color="black", linewidth=0.8)
    axes[1].set(
        yscale="log",
        ylabel="first task's over second's",
        title="lengths of gradients, losses unweighted",
    )
    for axis in axes:
        axis.grid(alpha=0.3)
    pictures.save_figure(figure, path)
