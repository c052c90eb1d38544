"""Where the tasks' gradients conflict, and what cross-stitch units learned, from the logs.

A log of a run with --conflicts has a column conflict_A_B_STAGE for each two tasks and each stage
of the shared encoder: an epoch's mean cosine between the gradients of their losses.
"""

from itertools import combinations

import numpy as np


def conflicts_of(rows):
    """{row: {"A, B": {stage: (n,) cosines, means over a run's epochs}}} of rows that have some."""
    return by_stage(rows, "conflict", lambda tasks: combinations(tasks, 2), mean_of_known)


def stitches_of(rows):
    """{row: {task: {stage: (n,) weights of a task's own map in the last epoch}}}, as above."""
    return by_stage(rows, "stitch", lambda tasks: zip(tasks, tasks, strict=True), lambda v: v[-1])


def by_stage(rows, kind, pairs, reduce):
    """The columns KIND_A_B_STAGE of the logs, reduced over the epochs; what is NaN is left out."""
    found = {}
    for row, runs in rows.items():
        for a, b in pairs(runs[0].tasks):
            for run in runs:
                for key, values in run.history.items():
                    _, is_it, stage = key.partition(f"{kind}_{a}_{b}_")
                    # A column of other tasks, whose names begin alike, has more than a stage left.
                    if is_it and stage.isalnum() and not np.isnan(reduce(values)):
                        of_row = found.setdefault(row, {}).setdefault(
                            a if a == b else f"{a}, {b}", {}
                        )
                        of_row[stage] = np.append(of_row.get(stage, []), reduce(values))
    return found


def mean_of_known(values):
    known = values[~np.isnan(values)]
    return known.mean() if len(known) else np.nan


def section(rows):
    """The page's sections, none where no record has them."""
    text, found = "", conflicts_of(rows)
    if found:
        text = f"""
## Gradient conflicts

{sentence(found)}

Cosine between the gradients of two tasks' losses at each stage of the shared encoder, mean over
the epochs of a run; below 0, what lowers one loss raises the other. Stage 1 is the finest.

![Cosine between the tasks' gradients over the stages of the encoder](conflicts.png)"""
    if stitches_of(rows):
        text += """

## Cross-stitch weights

Weight of a task's own feature map in what the task gets, after the last epoch, mean over
channels; the weights of the others' maps are in log.csv.

![Weights of the tasks' own maps over the stages of the encoders](stitch.png)"""
    return text


def sentence(found):
    """The stage and the pair with the lowest mean cosine."""
    every = []
    for row, pairs in found.items():
        for pair, stages in pairs.items():
            every += [(values.mean(), row, pair, stage) for stage, values in stages.items()]
    mean, row, pair, stage = min(every)
    values = found[row][pair][stage]
    where = f"at {stage[:-1]} {stage[-1]}" if stage[-1].isdigit() else "in the encoder"
    tasks = f"{pair.replace(', ', ' and ')} {where}, in the row {row}"
    ends = f"{values.min():+.3f} to {values.max():+.3f}, n = {len(values)}"
    verdict = "Strongest conflict:" if mean < 0 else "No conflict on average; lowest:"
    return f"**{verdict} {tasks}**: mean cosine {mean:+.3f} ({ends})."
