"""Grids: every combination of some options of train.py as an experiment with a name.

    --grid tasks=seg,seg+bbox sharing=hard,mtan weighting=equal,torchjd:UPGrad

Values are joined by commas, the tasks of one value by "+". One task alone shares and weighs
nothing, so it is run once; numbers as weights go with as many tasks.
"""

import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import registry
from cli import InputError
from study.commands import NAMED, option
from study.records import RENAMED
from study.table import default_name

FOLDERS = {"tasks": "tasks", "sharing": "sharing", "weighting": "weighting", "encoder": "encoders"}
NUMBERS = r"[0-9.e]+(-[0-9.e]+)*"
FORMS = {"encoder_lr": r"[0-9.]+(e-?[0-9]+)?", "num_masks": r"[1-9][0-9]*"}


def experiments(words, with_single_tasks=False):
    """{name: its command, a tuple of words} of the words behind --grid, the last varying first.

    with_single_tasks: each task of the grid alone, too, which delta-m takes.
    """
    values = parse(words)
    if with_single_tasks:
        singles = [task for tasks in values["tasks"] for task in tasks.split("+")]
        values["tasks"] = list(dict.fromkeys([*values["tasks"], *singles]))
    found = {}
    for combination in product(*values.values()):
        choice = NAMED | dict(zip(values, combination, strict=True))
        tasks = choice["tasks"].split("+")
        choice["weighting"] = canonical(choice["weighting"], len(tasks))
        if choice["weighting"] is None:
            continue
        if len(tasks) == 1:
            choice |= {key: NAMED[key] for key in ("sharing", "weighting")}
        name = name_of(choice, tasks)
        command = ["train.py", "--tasks", *tasks]
        for key, value in choice.items():
            if key != "tasks" and value != NAMED[key]:
                command.append(f"{option(key)}={value}")
        command = (*command, f"--name={name}")
        if found.setdefault(name, command) != command:
            raise InputError(f"--grid: two experiments would both be {name}; leave one out")
    if not found:
        raise InputError("--grid: no weighting has as many numbers as there are tasks; name equal")
    return found


def canonical(weighting, tasks):
    """A weighting as it is named: equal numbers are equal, others sum to 1; None where they are of
    another number of tasks."""
    if weighting == "equal" or not re.fullmatch(NUMBERS, weighting):
        return weighting
    numbers = [float(number) for number in weighting.split("-")]
    if len(numbers) != tasks or not sum(numbers):
        return None
    if len(set(numbers)) == 1:
        return "equal"
    return weighting if sum(numbers) == 1 else "-".join(f"{n / sum(numbers):.6g}" for n in numbers)


def name_of(choice, tasks):
    """The name that train.py makes of a choice."""
    options = SimpleNamespace(**choice)
    options.tasks = tasks
    options.encoder_lr = choice["encoder_lr"] and float(choice["encoder_lr"])
    options.masks, options.scenes = choice["num_masks"], choice["hard_augment"]
    options.teacher = choice["teacher"] and Path(choice["teacher"])
    return default_name(options)


def parse(words):
    """{option: [values]} of a grid, tasks first. Refuses unknown options and names."""
    found = {}
    for word in words:
        key, _, text = word.partition("=")
        key = key.replace("-", "_")
        key = RENAMED.get(key, key)
        if key not in NAMED or not text or key in found:
            raise InputError(
                f"--grid takes each of {', '.join(NAMED)} once, as in tasks=seg,seg+bbox, and got "
                f"{word[:60]!r}"
            )
        # A comma inside a method's settings, as in torchjd:CAGrad:c=0.4,norm_eps=1e-3, joins nothing.
        found[key] = list(dict.fromkeys(re.split(r",(?![^\[]*\])(?!\w+=)", text)))
        for value in found[key]:
            refuse_unknown(key, value)
    if "tasks" not in found:
        raise InputError("--grid takes the tasks, as in tasks=seg,seg+bbox")
    return {"tasks": found.pop("tasks")} | found


def refuse_unknown(key, value):
    """Refuse a value that train.py would refuse, before anything runs."""
    if not re.fullmatch(FORMS.get(key, ".+"), value):
        raise InputError(
            f"--grid {key}={value[:60]} is no value of {option(key)}; see train.py --help"
        )
    if (
        key not in FOLDERS
        or key == "weighting"
        and re.fullmatch(rf"uncertainty|equal|{NUMBERS}", value)
    ):
        return
    known = registry.names(FOLDERS[key])
    for name in value.split("+") if key == "tasks" else [value]:
        stem = name.partition(":")[0]
        if stem not in known and stem.rstrip("0123456789") not in known:
            raise InputError(
                f"--grid {key}={value[:60]}: {FOLDERS[key]}/ has no {stem[:60]!r}; it has "
                f"{', '.join(known)}"
            )
