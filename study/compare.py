"""Which runs share a table, which rows differ in one option, and what all tasks gain (delta-m).

An axis is an option by which the rows of a table may differ. A row's baseline in an axis has the
usual value there and the same in all others. One task alone shares and weighs nothing, so it
stands for every sharing and weighting.
"""

import json
from collections import Counter
from dataclasses import fields

import numpy as np

from cli import InputError, listed
from config import RESULT, Config
from study.records import is_named
from study.table import BASELINE

FIELDS = {one.name: one for one in fields(Config)}
AXES = [
    name
    for name, one in FIELDS.items()
    if one.metadata["role"] == RESULT and ("component" in one.metadata or "named" in one.metadata)
]
DIGESTS = {"encoder_weights": "encoder_weights_sha256", "teacher": "teacher_sha256"}
# Options that a table's rows may not differ in, unless the rows were tuned in them.
FIXED = [
    name
    for name, one in FIELDS.items()
    if one.metadata["role"] == RESULT and name not in (*AXES, "seed", "init", "precision")
]
NONE = {"num_masks": "all", "encoder_weights": "random"}
SAME = 0.05  # of parameters and time: up to this share two networks count as alike
SHOWN = 80  # characters of a value in a refusal


def value_of(run, axis):
    """The value that tells rows apart: a digest where the option is a file."""
    return run.info.get(DIGESTS[axis]) if axis in DIGESTS else run.config[axis]


def usual(axis):
    """The default of an axis; of a file, no digest."""
    return None if axis in DIGESTS else FIELDS[axis].default


def axes_of(run):
    """{axis: its value}; weighting and sharing of one task alone are void, None."""
    values = {axis: value_of(run, axis) for axis in AXES}
    if len(run.tasks) == 1:
        values |= {"weighting": None, "sharing": None}
    return values


# ---------------------------------------------------------------------------------- mixed tables


def refuse_mixture(runs, tuned=()):
    """Refuse runs that no table, or no row, can hold together.

    tuned: options in which rows were tuned, and may differ. label_digest: {label: digest}.
    """
    for key in ("split_hash", "border", "size", "images"):
        refuse_groups(runs, key, lambda run, key=key: run.info[key])
    for key in FIXED:
        if key not in tuned:
            refuse_groups(runs, f"--{key}", lambda run, key=key: run.config[key])
    if not has_sizes(runs):
        refuse_groups(runs, "--init", lambda run: run.info.get("init_sha256"))
    for seed in {run.seed for run in runs}:  # pairs are of a seed
        of_seed = [run for run in runs if run.seed == seed]
        refuse_groups(of_seed, f"precision, of seed {seed}", lambda run: run.info["precision"])
    for label in {label for run in runs for label in run.labels}:
        having = [run for run in runs if label in run.labels]
        refuse_groups(having, f"labels of {label}", lambda run, key=label: run.labels[key])
    for experiment in {run.experiment for run in runs}:
        row = [run for run in runs if run.experiment == experiment]
        for key in (*AXES, *FIXED):
            refuse_groups(row, f"--{key}, of one row", lambda run, key=key: value_of(run, key))
        refuse_groups(row, "classes or means, of one row", lambda run: run.info["settings"])
        starts = "--init or none, of one row"
        refuse_groups(row, starts, lambda run: run.info.get("init_sha256") is None)


def has_sizes(runs):
    """Whether numbers of masks are compared; an arm may then start from another network."""
    return len({run.config["num_masks"] for run in runs}) > 1


def refuse_groups(runs, what, value):
    """Refuse runs that differ in a value, naming which have which."""
    groups = grouped(runs, value)
    if len(groups) > 1:
        texts = [f"{text[:SHOWN]} in {listed(labels, 6)}" for text, labels in groups.items()]
        raise InputError(
            f"runs that differ in {what.replace('_', '-')} cannot share a table: "
            f"{'; '.join(texts)}; move one kind out of the folder"
        )


def grouped(runs, value):
    """{value as text: [labels of runs]}, the largest group first."""
    groups = {}
    for run in runs:
        groups.setdefault(as_text(value(run)), []).append(run.label)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def as_text(value):
    """A value of config.json as text; numbers by six digits, as a mean may end differently."""
    if isinstance(value, str):
        return value
    rounded = json.loads(json.dumps(value), parse_float=lambda number: f"{float(number):.6g}")
    return json.dumps(rounded, sort_keys=True)


def same_images(runs):
    """Runs that were tested on the images that most were, and [(folder, reason)] of the others.

    Names, order and target pixels must agree; runs without segmentation have none and stay.
    """

    def key(run):
        return run.images.names, run.images.counts[:, 2].tobytes()

    most = Counter(key(run) for run in runs if run.images).most_common(1)
    others = [run for run in runs if run.images and key(run) != most[0][0]]
    reason = "its test images or their masks are not those of most runs"
    return [run for run in runs if run not in others], [(run.label, reason) for run in others]


# ----------------------------------------------------------------------------------------- pairs


def is_varied(rows):
    """Whether a table compares options, and not the published experiments with their baseline."""
    for runs in rows.values():
        others = {**axes_of(runs[0]), **dict.fromkeys(("tasks", "weighting", "num_masks"))}
        is_usual = all(value in (None, usual(axis)) for axis, value in others.items())
        if is_named(runs[0].config["weighting"]) or not is_usual:
            return True
    return BASELINE not in rows and bool(pairs(rows))


def pairs(rows):
    """[(row, its baseline, the axis in which alone they differ)]; of like baselines the first."""
    axes = {name: axes_of(of_row[0]) for name, of_row in rows.items()}
    found = {}
    for name, own in axes.items():
        for baseline, other in axes.items():
            differing = [axis for axis in AXES if differs(axis, own, other)]
            if len(differing) == 1 and is_usual(differing[0], other, own):
                found.setdefault((name, differing[0]), baseline)
    return [(name, baseline, axis) for (name, axis), baseline in found.items()]


def differs(axis, own, other):
    if axis in ("weighting", "sharing") and None in (own[axis], other[axis]):
        return False
    return as_text(own[axis]) != as_text(other[axis])


def is_usual(axis, baseline, row):
    if axis == "tasks":
        return baseline["tasks"] == row["tasks"][:1]
    return baseline[axis] == usual(axis)


def in_words(axis, row, baseline):
    """The difference of a pair, as "sharing: mtan, not hard"."""
    row_value, baseline_value = (shown(of_row[0], axis) for of_row in (row, baseline))
    return f"{axis.replace('_', ' ')}: {row_value}, not {baseline_value}"


def shown(run, axis):
    """The value of an axis as a page shows it."""
    if value_of(run, axis) in (None, "none"):
        return NONE.get(axis, "none")
    value = run.config[axis] if run.config[axis] not in (None, "none") else value_of(run, axis)
    return "+".join(value) if isinstance(value, list) else str(value)[:40]


# ------------------------------------------------------------------------------- time, parameters


def alike(row, baseline):
    """Pairs of runs of one seed made on one kind of processor, so that their seconds compare."""
    others = {(run.seed, run.processor): run for run in baseline}
    found = []
    for run in row:
        other = others.get((run.seed, run.processor))
        if other:
            found.append((run, other))
    return found


def ratios(row, baseline):
    """Parameters and training time of a row over its baseline's; the time NaN without a pair."""
    shared = {run.seed for run in row} & {run.seed for run in baseline}
    parameters = [
        np.mean([run.test["parameters"] for run in runs if run.seed in shared])
        for runs in (row, baseline)
    ]
    seconds = [
        (run.test["train_seconds"], other.test["train_seconds"])
        for run, other in alike(row, baseline)
    ]
    time = np.divide(*np.mean(seconds, 0)) if seconds else np.nan
    return parameters[0] / parameters[1], time


def step_ms(runs):
    """Milliseconds of a training step, mean over runs."""
    return np.mean(
        [1000 * run.config["batch_size"] / run.test["images_per_second"] for run in runs]
    )


def at_equal_time(row, baseline):
    """Validation at equal epochs and at equal time: (epoch reached, difference, difference).

    Means over the pairs of `alike`, in points of Dice of the best epoch until then: at the end of
    both, and at the epoch that the row had reached when its baseline had ended (NaN where it had
    not ended one). Time is that of training steps. None without a pair or its seconds.
    """
    found = []
    for run, other in alike(row, baseline):
        if "seconds" not in run.history or "seconds" not in other.history:
            continue
        spent = np.cumsum(run.history["seconds"])
        reached = int((spent <= other.history["seconds"].sum()).sum())
        dice, best = run.history["val_dice"], other.history["val_dice"].max()
        early = dice[:reached].max() - best if reached else np.nan
        found.append((reached, 100 * (dice.max() - best), 100 * early))
    return tuple(np.mean(found, 0)) if found else None


# --------------------------------------------------------------------------------------- delta-m


def delta_m(rows):
    """{row: [delta-m in percent of each seed]} of rows whose tasks all have a single-task row.

    Mean over the T tasks of the relative change against the single-task run of the same seed, by
    each task's first metric: 100 / T sum_t s_t (M_t - S_t) / S_t, s_t = 1 where higher is better,
    else -1. Source: Maninis, Radosavovic and Kokkinos, "Attentive Single-Tasking of Multiple
    Tasks", 2019.
    """
    found = {}
    for name, of_row in rows.items():
        if len(of_row[0].tasks) < 2:
            continue
        singles = [single_row(rows, of_row[0], task) for task in of_row[0].tasks]
        if None not in singles:
            found[name] = list(changes(of_row, singles).values())
    return {name: values for name, values in found.items() if values}


def single_row(rows, run, task):
    """{seed: run} of the row that trains one task of a run alone and is the same in all else."""
    wanted = axes_of(run) | {"tasks": [task], "weighting": None, "sharing": None}
    for of_row in rows.values():
        if axes_of(of_row[0]) == wanted:
            return {other.seed: other for other in of_row}
    return None


def changes(row, singles):
    """{seed: delta-m} of the seeds that a row shares with all of its single-task rows."""
    found = {}
    for run in row:
        relative = []
        for task, of_task in zip(run.tasks, singles, strict=True):
            key, metric = next(iter(run.metrics[task].items()))
            single = of_task[run.seed].test.get(key) if run.seed in of_task else None
            if single and run.test.get(key) is not None:
                sign = 1 if metric.higher else -1
                relative.append(100 * sign * (run.test[key] - single) / single)
        if len(relative) == len(run.tasks):
            found[run.seed] = float(np.mean(relative))
    return found
