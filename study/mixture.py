"""Which runs share a table, and which a row: the same data and options, and in a row the same tasks and weighting."""

import json
import os
from collections import Counter

from cli import InputError, listed
from registry import AXES, CHOSEN

# Options that may differ between the runs of a table: they do not change the result, or they are what is compared.
FREE_OPTIONS = {
    "seed",
    "split",
    "resume",
    "data",
    "runs",
    "processes",
    "threads",
    "workers",
    "device",
    "init",
    "conflicts",
    "tensorboard",
    *CHOSEN,
}
# Options that may differ between seeds, as when some are made on another machine, but not within one: pairs are of a seed.
SEEDWISE = {"precision"}
# What an option was before there was one for it.
EARLIER = {"optimizer": None}
SHOWN = 80  # characters of a value in a refusal: a list of classes can be long


def refuse_mixture(runs):
    """Refuse runs that no table can hold together, naming what differs and which runs have which."""
    values = {
        key: {run.label: run.test[key] for run in runs} for key in ("split_hash", "border", "size")
    }
    values["images"] = {run.label: str(sorted(run.config["images"].items())) for run in runs}
    values["the weights of --init"] = (
        {} if has_sizes(runs) else {run.label: run.config.get("init") for run in runs}
    )
    said = {run.label: EARLIER | run.config["options"] for run in runs}
    for option in sorted(
        {option for run in runs for option in run.config["options"]} - FREE_OPTIONS
    ):
        # A run of an older version may not know the option yet; that is a difference of code, which the page tells.
        know, key = (
            [run for run in runs if option in said[run.label]],
            f"--{option.replace('_', '-')}",
        )
        for seed in sorted({run.seed for run in know}) if option in SEEDWISE else [None]:
            words = key if seed is None else f"{key}, of seed {seed},"
            values[words] = {
                run.label: said[run.label][option] for run in know if seed in (None, run.seed)
            }
    for key, of_run in values.items():
        if groups := in_groups(of_run):
            raise InputError(
                f"runs that differ in {key} cannot share a table: {groups}; move one kind out of the folder"
            )
    for experiment in dict.fromkeys(run.experiment for run in runs):
        refuse_mixed_row([run for run in runs if run.experiment == experiment])


def has_sizes(runs):
    """Whether numbers of masks are compared; then starting from a network that has learned another task is an arm among others."""
    return len({run.config["options"].get("masks") for run in runs}) > 1


def refuse_mixed_row(runs):
    """Refuse runs of one experiment that differ in what rows are compared for, or in what their tasks learned."""
    values = {
        key: {run.label: as_text(run.config[key]) for run in runs if key in run.config}
        for key in ("tasks", "weighting", "settings")
    }  # a run of an older version may not say it
    values |= {
        key: {run.label: run.config.get(key, usual) for run in runs} for key, usual in AXES.items()
    }
    values["--init"] = {
        run.label: "a network" if run.config.get("init") else "nothing" for run in runs
    }
    values |= {
        f"--{key}": {run.label: run.config["options"].get(key) for run in runs} for key in CHOSEN
    }
    for key, of_run in values.items():
        if groups := in_groups(of_run):
            raise InputError(
                f"runs of {runs[0].experiment} that differ in {key} cannot share a row: {groups}; train one "
                "kind under another --name, or move it out of the folder"
            )


def in_groups(of_run):
    """{label: value} -> which value is whose, in words, or "" where all are the same."""
    groups = grouped(of_run)
    if len(groups) < 2:
        return ""
    start = max(
        0, len(os.path.commonprefix(list(groups))) - SHOWN // 4
    )  # of long values the place where they part
    return "; ".join(
        f"{value if len(value) <= SHOWN else '...' * (start > 0) + value[start:][:SHOWN] + '...'} in "
        f"{listed(labels, 6)}"
        for value, labels in groups.items()
    )


def as_text(value):
    """A value of config.json as text; numbers by six digits, as a mean may end in others on another machine."""
    return json.dumps(
        json.loads(json.dumps(value), parse_float=lambda number: f"{float(number):.6g}"),
        sort_keys=True,
    )


def grouped(of_run):
    """{label: value} -> {value as text: [labels]}, the largest group first."""
    groups = {}
    for label, value in of_run.items():
        groups.setdefault(str(value), []).append(label)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def same_images(runs):
    """Runs that were tested on the images that most were, and [(folder, reason)] of the others.

    Names, order and target pixels must be the same: images are compared one by one, and by batches in the published formula.
    """

    def images(run):
        return run.names, run.counts[:, 2].tobytes()

    most = Counter(map(images, runs)).most_common(1)[0][0]  # the first of equals
    left_out = []
    for run in runs:
        if images(run) != most:
            what = (
                "order or names of its test images"
                if run.names != most[0]
                else "masks of its test images"
            )
            left_out.append((run.label, f"the {what} are not those of most other runs"))
    return [run for run in runs if images(run) == most], left_out
