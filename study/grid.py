"""Grids: every combination of some options of train.py as an experiment with a name.

    --grid tasks=seg,seg+bbox sharing=hard,mtan weighting=equal,torchjd:UPGrad

Values are joined by commas, the tasks of one value by "+". One task alone shares and weighs
nothing, so it is run once; numbers as weights go with as many tasks.
"""

import re
from dataclasses import fields
from itertools import product

import registry
from cli import InputError
from config import Config
from legacy import LEGACY_NAMES
from study.commands import Run, parse

NAMED = ["tasks", *(one.name for one in fields(Config) if "named" in one.metadata)]
FOLDERS = {"tasks": "tasks", "sharing": "sharing", "weighting": "weighting", "encoder": "encoders"}
NUMBERS = r"[0-9.e]+(-[0-9.e]+)*"


def experiments(words, options, with_single_tasks=False):
    """{name: Run} of the words behind --grid, the last varying first; options: of every run.

    with_single_tasks: each task of the grid alone, too, which delta-m takes.
    """
    values, found = columns(words), {}
    if with_single_tasks:
        values["tasks"] += [task for tasks in values["tasks"] for task in tasks.split("+")]
    for combination in product(*values.values()):
        choice = dict(zip(values, combination, strict=True))
        tasks = choice["tasks"].split("+")
        if len(tasks) == 1:
            choice.pop("sharing", None)
            choice.pop("weighting", None)
        weighting = canonical(choice.get("weighting", "equal"), len(tasks))
        if not weighting:
            continue
        choice["weighting"] = weighting
        argv = []
        for key, value in choice.items():
            if key != "tasks" and value != str(getattr(Config, key)):
                argv += [f"--{key.replace('_', '-')}", value]
        config = parse("--tasks", *tasks, *argv, *options)
        config = config.replace(experiment=config.default_name())
        run = found.setdefault(config.experiment, Run(("train.py",), config))
        if run.config != config:
            raise InputError(f"--grid: two experiments would both be {config.experiment}")
    if not found:
        raise InputError("--grid: no weighting has as many numbers as there are tasks; name equal")
    return found


def canonical(weighting, tasks):
    """A weighting by its name: equal numbers are equal, others sum to 1; None where they are of
    another number of tasks."""
    if weighting == "equal" or not re.fullmatch(NUMBERS, weighting):
        return weighting
    numbers = [float(number) for number in weighting.split("-")]
    if len(numbers) != tasks or not sum(numbers):
        return None
    shares = "-".join(f"{number / sum(numbers):.6g}" for number in numbers)
    return "equal" if len(set(numbers)) == 1 else shares


def columns(words):
    """{option: [values]} of a grid, tasks first. Refuses unknown options and names."""
    found = {"tasks": []}
    for word in words:
        key, _, text = word.partition("=")
        key = key.replace("-", "_")
        key = LEGACY_NAMES.get(key, key)
        if key not in NAMED or not text or found.get(key):
            raise InputError(
                f"--grid takes each of {', '.join(NAMED)} once, as in tasks=seg,seg+bbox, and got "
                f"{word[:60]!r}"
            )
        # A comma in a method's settings, as in torchjd:CAGrad:c=0.4,norm_eps=1e-3, joins nothing.
        found[key] = re.split(r",(?![^\[]*\])(?!\w+=)", text)
        for value in found[key]:
            refuse_unknown(key, value)
    if not found["tasks"]:
        raise InputError("--grid takes the tasks, as in tasks=seg,seg+bbox")
    return found


def refuse_unknown(key, value):
    """Refuse the name of a component that no file has, without importing any."""
    if key not in FOLDERS or re.fullmatch(rf"uncertainty|equal|{NUMBERS}", value):
        return
    known = registry.names(FOLDERS[key])
    for name in value.split("+") if key == "tasks" else [value]:
        stem = name.partition(":")[0]
        if stem not in known and stem.rstrip("0123456789") not in known:
            raise InputError(
                f"--grid {key}={value[:60]}: {FOLDERS[key]}/ has no {stem[:60]!r}; it has "
                f"{', '.join(known)}"
            )
