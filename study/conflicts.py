"""Where tasks pull apart, from the logs of runs with --conflicts; and what a sharing learned, where its log says it.

A log has a column conflict_A_B_STAGE for each two tasks and each stage of the shared encoder: an epoch's mean cosine of the
angle between the gradients of their losses (training/conflicts.py).
"""

import warnings
from itertools import combinations

import numpy as np

from study.text import count, paragraph


def conflicts_of(rows):
    """{row: {"A, B": {stage: (n,) cosines, means over the epochs of a run}}} of the rows whose logs hold some."""
    return {
        name: found
        for name, runs in rows.items()
        if (found := by_stage(runs, "conflict", combinations(runs[0].tasks, 2), mean_over_epochs))
    }


def stitches_of(rows):
    """{row: {task: {stage: (n,) weights of a task's own map in the last epoch}}} of the rows whose logs hold some."""
    return {
        name: found
        for name, runs in rows.items()
        if (
            found := by_stage(
                runs, "stitch", ((task, task) for task in runs[0].tasks), lambda values: values[-1]
            )
        )
    }


def by_stage(runs, what, pairs, reduce):
    """{pair, or task: {stage: (n,)}} of the columns WHAT_A_B_STAGE, from the runs that have them; what was never measured is
    left out."""
    found = {}
    for a, b in pairs:
        beginning = f"{what}_{a}_{b}_"
        keys = dict.fromkeys(
            key for run in runs for key in run.history if key.startswith(beginning)
        )
        for stage in (key.removeprefix(beginning) for key in keys):
            if not stage.isalnum():  # a column of other tasks, whose names begin alike
                continue
            values = np.array(
                [
                    reduce(run.history[beginning + stage])
                    for run in runs
                    if beginning + stage in run.history
                ]
            )
            if (known := values[np.isfinite(values)]).size:
                found.setdefault(f"{a}, {b}" if a != b else a, {})[stage] = known
    return found


def mean_over_epochs(values):
    """The mean of what is known of (epochs,); NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean of nothing
        return np.nanmean(values)


def section(rows):
    """The page's section, none where no record has it."""
    found = conflicts_of(rows)
    if found:
        yield "## Where tasks pull apart"
        yield paragraph(sentence(found))
        yield paragraph(
            "Cosine of the angle between the gradients of two tasks' losses at each stage of the encoder that "
            "they share, means over the epochs of a run; below 0, what lowers one loss raises the other. Stage "
            "1 is the finest."
        )
        yield "![Cosine between the tasks' gradients over the stages of the encoder](conflicts.png)"
    if stitches_of(rows):
        yield "## What tasks take of each other"
        yield paragraph(
            "What the feature map of a task's own encoder weighs in what the task gets, after the last epoch, "
            "mean over channels; what the others' weigh stands in log.csv."
        )
        yield "![Weights of the tasks' own maps over the stages of the encoders](stitch.png)"


def sentence(found):
    """The stage and the pair with the lowest mean cosine, in words."""
    every = (
        (name, pair, stage, values)
        for name, pairs in found.items()
        for pair, stages in pairs.items()
        for stage, values in stages.items()
    )
    name, pair, stage, values = min(every, key=lambda one: one[3].mean())
    where = "in the encoder" if not stage[-1].isdigit() else f"at {stage[:-1]} {stage[-1]}"
    spread = (
        f"{values.min():+.3f} to {values.max():+.3f} in {count(len(values), 'run')}"
        if len(values) > 1
        else "one run"
    )
    figures = f"the cosine between their gradients is {values.mean():+.3f} on average ({spread})"
    a, b = pair.split(", ")
    if values.mean() < 0:
        return f"**{a} and {b} pull apart most {where}, in the row {name}**: {figures}."
    return f"**No two tasks pull apart on average.** {a} and {b} agree least {where}, in the row {name}: {figures}."
