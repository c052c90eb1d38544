"""Grids of train.py's options: every combination of some values as an experiment with a name, and how long they will take.

    --grid tasks=seg,seg+bbox sharing=hard,mtan weighting=equal,torchjd:UPGrad encoder=unet,efficientnet_lite0

Values are joined by commas, the tasks of one value by "+". One task alone shares and weighs nothing, so it is run once,
whatever the values of sharing and weighting; numbers as weights go with as many tasks.
"""

import contextlib
import csv
import json
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path
from types import SimpleNamespace

from tqdm import tqdm

import cli
import registry
from cli import InputError
from data import contract
from study import repeat
from study.table import EXPERIMENTS, default_name

# What may stand in a grid, with train.py's defaults.
USUAL = {
    "tasks": None,
    "sharing": "hard",
    "weighting": "equal",
    "encoder": "unet",
    "encoder-weights": "none",
    "encoder-lr": None,
    "encoder-bn": "train",
    **dict.fromkeys(registry.CHOSEN),
}
FOLDERS = {"sharing": "sharing", "weighting": "weighting", "encoder": "encoders"}
KINDS = {"encoder-lr": float, "masks": int, "teacher": Path}
NUMBERS = r"[0-9.e]+(-[0-9.e]+)*"
REHEARSAL = ("--epochs", "5")  # in which images grow as in a whole run
REHEARSED = 64  # images of each split
LOOK = 1 / 3  # of the time of training on an image, to look at one: forward, and not backward
DATA = Path("datasets/data_new")  # where options say no other: training/options.py


def experiments(words):
    """{name: its command, a tuple of words} of the words behind --grid, the last of them varying first."""
    values, found = parse(words), {}
    for combination in product(*values.values()):
        choice = USUAL | dict(zip(values, combination))
        tasks = choice["tasks"].split("+")
        if len(tasks) == 1:
            choice |= {key: USUAL[key] for key in ("sharing", "weighting")}
        weighting = choice["weighting"]
        if (
            weighting != "equal"
            and re.fullmatch(NUMBERS, weighting)
            and len(weighting.split("-")) != len(tasks)
        ):
            continue
        as_given = {
            key.replace("-", "_"): KINDS.get(key, str)(value) if value else value
            for key, value in choice.items()
        }
        name = default_name(
            SimpleNamespace(**as_given | {"tasks": tasks, "optimizer": None})
        )  # no choice of a grid
        options = [
            f"--{key}={value}"
            for key, value in choice.items()
            if key != "tasks" and value != USUAL[key]
        ]
        command = ("train.py", "--tasks", *tasks, *options, f"--name={name}")
        if found.setdefault(name, command) != command:
            raise InputError(
                f"--grid: two experiments would both be called {name}; leave one out, or run it with train.py "
                "--name"
            )
    if not found:
        raise InputError(
            "--grid: no value of weighting is for as many tasks as a value of tasks has; name numbers that "
            "fit, or equal"
        )
    return found


def parse(words):
    """{choice: [values]}, tasks first."""
    found = {}
    for word in words:
        key, _, text = word.partition("=")
        if key.replace("_", "-") not in USUAL or not text or key.replace("_", "-") in found:
            raise InputError(
                f"--grid takes each of {', '.join(USUAL)} once, as in tasks=seg,seg+bbox, and was given "
                f"{word[:60]!r}"
            )
        # A comma inside a method's settings, as in torchjd:CAGrad:c=0.4,norm_eps=1e-3, joins no values.
        values = re.split(r",(?![^\[]*\])(?!\w+=)", text)
        found[key := key.replace("_", "-")] = list(dict.fromkeys(values))
        for value in values:
            if not re.fullmatch(
                {float: r"[0-9.]+(e-?[0-9]+)?", int: r"[0-9]+"}.get(KINDS.get(key), ".+"), value
            ):
                raise InputError(
                    f"--grid {key}={value[:60]} is no value of --{key}; see train.py --help"
                )
    if "tasks" not in found:
        raise InputError("--grid has to be told the tasks, as in tasks=seg,seg+bbox")
    for task in (task for value in found["tasks"] for task in value.split("+")):
        refuse_unknown("tasks", "tasks", task)
    for key, folder in FOLDERS.items():
        for value in found.get(key, ()):
            if (
                key != "weighting"
                or value not in ("equal", "uncertainty")
                and not re.fullmatch(NUMBERS, value)
            ):
                refuse_unknown(key, folder, value)
    return {"tasks": found.pop("tasks")} | found


def refuse_unknown(key, folder, value):
    """Refuse a name that no file of a folder has, before anything is imported or run."""
    stem, known = value.partition(":")[0], registry.names(folder)
    if stem not in known and stem.rstrip("0123456789") not in known:
        also = "equal, uncertainty, numbers as in 0.8-0.2, " if key == "weighting" else ""
        raise InputError(
            f"--grid {key}={value[:60]}: {folder}/ has no {stem[:60]!r}; there is {also}{', '.join(known)}"
        )


def fitting(options, command):
    """The options for every run that a command takes: one task alone has nothing to be in conflict with."""
    if len(tasks_of(command)) > 1:
        return options
    kept, was_it = [], False
    for word in options:
        is_it = len(word) > 2 and "--conflicts".startswith(word.partition("=")[0])
        kept += [word] * (not is_it and not (was_it and word.isdigit()))
        was_it = is_it and "=" not in word
    return kept


def tasks_of(command):
    """The tasks of a command of this grid or of the table."""
    if "--tasks" in command:
        return list(
            takewhile(
                lambda word: not word.startswith("--"), command[command.index("--tasks") + 1 :]
            )
        )
    return next(
        experiment.tasks for experiment in EXPERIMENTS.values() if experiment.command == command
    )


def refuse_others(run):
    """Refuse to skip a finished run of train.py of the same name that is of other tasks, weighting, sharing or encoder."""
    if "--tasks" not in run.command:
        return
    try:
        config = json.loads((run.test_path.parent / "config.json").read_text(encoding="utf-8"))
        were = {key: config.get(key.replace("-", "_"), USUAL[key]) for key in USUAL}
        were |= {
            "tasks": " ".join(config["tasks"]),
            "encoder-weights": config.get("encoder_weights_from") or "none",
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    asked = USUAL | {
        key: word.partition("=")[2]
        for word in run.command
        for key in USUAL
        if word.startswith(f"--{key}=")
    }
    asked["tasks"] = " ".join(tasks_of(run.command))
    found = [
        f"{key} {were[key]} where {asked[key]} is asked for"
        for key in USUAL
        if key not in registry.CHOSEN and not repeat.is_same(str(asked[key]), were[key])
    ]
    if found:
        raise InputError(
            f"{run.test_path.parent} is finished, and with {', '.join(found)}; use another --runs after the --"
        )


# --------------------------------------------------------------------------------------------------------------- time


def plan(commands, waiting, finished, options, data, measures=True):
    """Say what a grid is: its experiments, how many runs are left, and about how long these train one after another.

    commands: {name: command}; waiting, finished: runs (experiments.Run). An experiment takes as long as its finished runs
    with the same options did; of one without, a short run is tried where `measures` says so.
    """
    width = max(map(len, commands))
    for name, command in commands.items():
        print(f"{name:{width}} {' '.join(command[:-1])}")
    seconds = {
        name: found for name in commands if (found := recorded(name, finished, options, data))
    }
    from_records = len(seconds)
    if measures:
        unknown = {name_of(run): run for run in reversed(waiting) if name_of(run) not in seconds}
        for name, run in tqdm(
            reversed(unknown.items()),
            "try each experiment",
            len(unknown),
            leave=False,
            disable=None,
        ):
            if found := tried(run, data or DATA):
                seconds[name] = found.training(found.epochs)
    print(
        f"{len(commands)} experiments, {len(waiting)} of {len(waiting) + len(finished)} runs left"
        + estimate(seconds, [name_of(run) for run in waiting], from_records),
        flush=True,
    )


def estimate(seconds, names, from_records):
    """How long runs of some names train, as the end of a sentence."""
    known = [seconds[name] for name in names if name in seconds]
    if not known:
        return ""
    minutes, tried = max(1, round(sum(known) / 60)), len(seconds) - from_records
    sources = [f"{from_records} experiments by their earlier runs"] * (from_records > 0) + [
        f"{tried} by {REHEARSAL[1]} epochs of {REHEARSED} images"
    ] * (tried > 0)
    more = (
        f", beside {len(names) - len(known)} of which nothing is known"
        if len(known) < len(names)
        else ""
    )
    return (
        f": about {minutes // 60} h {minutes % 60:02} min of training steps, one run after another "
        f"({' and '.join(sources)}){more}; validation comes on top"
    )


def name_of(run):
    return run.test_path.parent.parent.name


def recorded(name, finished, options, data):
    """Seconds of a run from the finished ones of an experiment with the same options, or None."""
    found = []
    for run in finished:
        if name_of(run) == name and not repeat.other_options(run.test_path.parent, options, data):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(json.loads(run.test_path.read_text(encoding="utf-8"))["train_seconds"])
    return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Tried:
    """What a short run tells of a whole one, in seconds: an_image, of training on an image once; beside, from the start of Python to
    the last picture, what is neither training nor looking at the validation and test splits. images: {split: number}; epochs: of the
    whole run."""

    an_image: float
    beside: float
    images: dict
    epochs: int

    def training(self, epochs):
        return self.an_image * self.images["train"] * epochs

    def whole(self, epochs):
        """From start to end."""
        return self.beside + self.training(epochs) + looking(self.an_image, epochs, self.images)


def looking(an_image, epochs, images):
    """Seconds of looking at the validation split after each epoch, and at the test split once."""
    return LOOK * an_image * (images["val"] * epochs + images["test"])


def tried(run, data):
    """The Tried of a run, from a short one in a folder that is gone afterwards; None, with a warning, where that cannot be trained."""
    asked = cli.Parser(None)
    for key, usual in (("epochs", 60), ("limit", None), ("masks", None)):
        asked.add_argument(f"--{key}", type=int, default=usual)
    known, _ = asked.parse_known_args(run.command[2:])
    images = {
        split: min(known.limit or n, n) for split, n in contract.describe(data)["splits"].items()
    }
    few = {split: min(REHEARSED, n) for split, n in images.items()}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        masks = [f"--masks={min(known.masks, few['train'] // 4 + 1)}"] if known.masks else []
        command = [*run.command, *REHEARSAL, f"--limit={few['train']}", f"--runs={place}", *masks]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            cli.warn(
                f"{name_of(run)} could not be tried with {few['train']} images, and may be refused: {last}"
            )
            return None
        with open(
            Path(place) / name_of(run) / run.test_path.parent.name / "log.csv",
            newline="",
            encoding="utf-8",
        ) as file:
            rows = list(csv.DictReader(file))
    seconds, trained = time.monotonic() - begin, sum(float(row["seconds"]) for row in rows)
    an_image = trained / len(rows) / few["train"]
    return Tried(
        an_image,
        max(seconds - trained - looking(an_image, len(rows), few), 0.0),
        images,
        known.epochs,
    )
