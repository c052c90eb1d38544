"""--conflicts K: cosine and length ratio of the tasks' gradients, by stage of the shared encoder.

On every K-th batch of an epoch the gradient of each task's unweighted loss goes back through the
graph of the step itself, which changes neither gradients nor weights, statistics or random numbers:
a run is bit-exact with it and without. A stage's gradient is that of its trained parameters in all
shared encoders, as one vector; an encoder without stages has one, called encoder. log.csv gets an
epoch's means for each pair of tasks and each stage:

    conflict_A_B_stage3    mean cosine; below 0 what lowers one loss raises the other
    lengths_A_B_stage3     length of A's gradient over B's, geometric mean, losses unweighted

A task whose gradient is zero at a stage, as where nothing in the batch is labelled, is left out
there; a cell without a batch is empty.

Sources: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020, for the cosine; Chen et al.,
"GradNorm", 2018, for lengths.
"""

import math
from itertools import combinations

import torch

from cli import InputError
from training.callbacks import Callback


class Conflicts(Callback):
    """Compares the gradients of every `every`-th batch of an epoch.

    Raises cli.InputError for a network in which there is nothing to compare.
    """

    figures = ("conflicts.png",)

    def __init__(self, model, every):
        self.tasks, self.every = model.tasks, every
        self.stages = shared_stages(model)
        self.refuse(model)
        self.values = {}
        self.columns()

    def refuse(self, model):
        pairs = ["_".join(pair) for pair in combinations(self.tasks, 2)]
        if not pairs:
            reason = f"{self.tasks[0]} is its only task"
        elif not self.stages:
            reason = f"under the sharing {model.sharing.name} its tasks share no trained parameter"
        elif len(set(pairs)) < len(pairs):
            twice = next(pair for pair in pairs if pairs.count(pair) > 1)
            reason = f"two pairs of its tasks would both be called {twice}"
        else:
            return
        raise InputError(
            f"--conflicts compares the tasks' gradients by the parameters that they share, and in "
            f"this network {reason}; leave --conflicts out, or choose other tasks or --sharing"
        )

    def on_losses(self, trainer, step, losses):
        if step % self.every:
            return
        parameters = [p for stage in self.stages.values() for p in stage]
        keep = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        rows = []
        for task in self.tasks:
            gradients = torch.autograd.grad(losses[task], parameters, **keep)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        rows = trainer.world.mean(torch.stack(rows))  # (tasks, parameters)
        lengths = [sum(p.numel() for p in stage) for stage in self.stages.values()]
        for stage, part in zip(self.stages, rows.split(lengths, dim=1), strict=True):
            self.compare(stage, (part @ part.T).tolist())

    def compare(self, stage, products):
        """Add the values of a stage; products: of the tasks' gradients with each other."""
        for (i, a), (j, b) in combinations(enumerate(self.tasks), 2):
            if products[i][i] and products[j][j]:
                lengths = math.sqrt(products[i][i]), math.sqrt(products[j][j])
                cosine = products[i][j] / lengths[0] / lengths[1]
                self.values[f"conflict_{a}_{b}_{stage}"].append(cosine)
                self.values[f"lengths_{a}_{b}_{stage}"].append(math.log(lengths[0] / lengths[1]))

    def columns(self):
        """{column: mean over the batches that were compared, or None}; begins anew."""
        row = {}
        for key, values in self.values.items():
            mean = sum(values) / len(values) if values else None
            is_ratio = key.startswith("lengths_") and values
            row[key] = math.exp(mean) if is_ratio else mean
        for stage in self.stages:
            for kind in ("conflict", "lengths"):
                for a, b in combinations(self.tasks, 2):
                    self.values[f"{kind}_{a}_{b}_{stage}"] = []
        return row

    def on_end(self, trainer):
        trainer.folder.draw("conflicts.png", draw, trainer.history, self.tasks)


def shared_stages(model):
    """{stage: its trained parameters that several tasks share}, from the image on."""
    shared, stages = {id(p) for p in model.shared_parameters()}, {}
    for encoder in model.encoders():
        parts = {"encoder": [encoder]}
        if encoder.stages is not None:
            parts = {f"stage{k}": layers for k, layers in enumerate(encoder.stages, start=1)}
        for stage, layers in parts.items():
            for layer in layers:
                trained = [p for p in layer.parameters() if id(p) in shared]
                stages.setdefault(stage, []).extend(trained)
    return {stage: parameters for stage, parameters in stages.items() if parameters}


def draw(history, tasks, path):
    """Draw the cosines by stage, a line a pair of tasks: means over the log's epochs."""
    from matplotlib.figure import Figure

    stages = [key.rpartition("_")[2] for key in history[0] if key.startswith("conflict_")]
    stages = list(dict.fromkeys(stages))
    figure = Figure((5, 3.6), layout="constrained")
    axes = figure.subplots()
    for a, b in combinations(tasks, 2):
        cosines = []
        for stage in stages:
            values = [row[f"conflict_{a}_{b}_{stage}"] for row in history]
            values = [value for value in values if value is not None]
            cosines.append(sum(values) / len(values) if values else math.nan)
        axes.plot(stages, cosines, "o-", label=f"{a}, {b}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="gradient conflict (below 0)", ylabel="cosine")
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=120)
