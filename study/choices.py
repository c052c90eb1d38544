"""Rows that differ in one choice alone: which pairs a page compares where sharings, weightings and encoders were varied.

A choice is the tasks, the weighting, the number of masks, the scenes, or one of registry.AXES. A row's baseline in a choice is the row
that has the usual there - one task alone, equal weights, one shared encoder of this project, random weights - and is the
same in all others. One task alone shares and weighs nothing, so it is the baseline of its tasks under every sharing and
weighting.
"""

import numpy as np

from registry import AXES, CHOSEN
from study.mixture import as_text
from study.records import is_named
from study.table import BASELINE, EXPERIMENTS

USUAL = {"tasks": "the first task alone", "weighting": "equal", **AXES, **dict.fromkeys(CHOSEN)}
SAME = 0.05  # of parameters and time: up to this share two networks count as alike


def choices_of(run):
    """{choice: its value} of a run; None where one task makes it void."""
    tasks, published = list(run.tasks), EXPERIMENTS.get(run.experiment)
    weighting = run.config.get(
        "weighting", published.weighting if published else None
    )  # earlier versions do not say it
    found = {
        "tasks": tasks,
        "weighting": weighting,
        **{key: run.config.get(key, usual) for key, usual in AXES.items()},
        **{key: run.config["options"].get(key) for key in CHOSEN},
    }
    return found | ({"sharing": None, "weighting": None} if len(tasks) == 1 else {})


def is_varied(rows):
    """Whether a table is of choices, and not of the published experiments and others beside their baseline."""
    runs = [run for of_row in rows.values() for run in of_row]
    is_other = any(
        is_named(run.config.get("weighting"))
        or any(run.config.get(key, usual) != usual for key, usual in AXES.items())
        or any(map(run.config["options"].get, ("scenes", "teacher")))
        for run in runs
    )
    return is_other or BASELINE not in rows and bool(pairs(rows))


def pairs(rows):
    """[(row, its baseline, the choice in which alone they differ)], in the order of rows; of like baselines the first."""
    chosen, found = {name: choices_of(of_row[0]) for name, of_row in rows.items()}, {}
    for name, own in chosen.items():
        for baseline, other in chosen.items():
            differing = [
                key
                for key in USUAL
                if as_text(own[key]) != as_text(other[key])
                and (key not in ("sharing", "weighting") or None not in (own[key], other[key]))
            ]
            if len(differing) == 1 and is_usual(differing[0], other, own):
                found.setdefault((name, differing[0]), baseline)
    return [(name, baseline, choice) for (name, choice), baseline in found.items()]


def is_usual(choice, baseline, row):
    if choice == "tasks":
        return baseline["tasks"] == row["tasks"][:1]
    return baseline[choice] == USUAL[choice]


def in_words(choice, row, baseline):
    """A pair's difference, as "sharing: mtan, not hard"."""
    values = [said_of(of_row[0], choice) for of_row in (row, baseline)]
    texts = [
        "+".join(value)
        if isinstance(value, list)
        else str(value)[:40]
        if value is not None
        else {**CHOSEN, "encoder_weights": "random"}.get(choice, "as usual")
        for value in values
    ]
    return f"{choice.replace('_', ' ')}: {texts[0]}, not {texts[1]}"


def said_of(run, choice):
    """A choice's value as one reads it: of trained weights where they came from, not their digest."""
    value = choices_of(run)[choice]
    return (
        run.config.get("encoder_weights_from") or value
        if choice == "encoder_weights" and value
        else value
    )


def alike(row, baseline):
    """The pairs of runs of one seed that were made on one kind of processor, so that their seconds compare."""
    others = {(run.seed, run.config.get("processor")): run for run in baseline}
    pairs = [(run, others.get((run.seed, run.config.get("processor")))) for run in row]
    return [pair for pair in pairs if pair[1]]


def ratios(row, baseline):
    """(parameters, time of training) of a row over its baseline's, means over the seeds of both; of the time over those of
    one kind of processor, NaN where there are none."""
    seeds = {run.seed for run in row} & {run.seed for run in baseline}
    parameters = [
        np.mean([run.test["parameters"] for run in runs if run.seed in seeds])
        for runs in (row, baseline)
    ]
    seconds = [[run.test["train_seconds"] for run in runs] for runs in zip(*alike(row, baseline))]
    return np.divide(*parameters), np.divide(*map(np.mean, seconds)) if seconds else np.nan


def unlike(row, baseline):
    """In what two networks differ beside the choice, as a sentence, or ""."""
    words = (("has", "the parameters"), ("took", "the time"))
    said = [
        f"{verb} {ratio:.2f} times {what}"
        for ratio, (verb, what) in zip(ratios(row, baseline), words)
        if abs(ratio - 1) > SAME
    ]
    return f"It {' and '.join(said)}." if said else ""


def at_equal_time(row, baseline):
    """What a row had reached on the validation split when its baseline had ended: (epoch, difference at equal epochs, at
    equal time), means over the seeds of both that were made on one kind of processor, the differences in points of Dice of the
    best epoch until then; None where there are none or the logs do not say the seconds. Time is that of training steps."""
    found = []
    for run, other in alike(row, baseline):
        if "seconds" not in run.history or "seconds" not in other.history:
            continue
        reached = int((np.cumsum(run.history["seconds"]) <= other.history["seconds"].sum()).sum())
        best = other.history["val_dice"].max()
        dice = run.history["val_dice"]
        found.append(
            (
                reached,
                100 * (dice.max() - best),
                100 * (dice[:reached].max() - best) if reached else np.nan,
            )
        )
    return tuple(np.mean(found, 0)) if found else None
