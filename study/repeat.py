"""What it takes to repeat a run: the options that its config.json records, and how the repetition differs from it.

    python experiments.py --repeat results/runs/mtl/seed3 -- --data datasets/pets128

The same machine type, versions, precision and number of threads give the same numbers to the last digit. Where they differ,
`conditions` says in what the two runs were not alike.
"""

import csv
import json

from cli import InputError
from data import contract
from registry import AXES
from study import records
from study.mixture import EARLIER
from study.table import EXPERIMENTS

# Options that say where and what a run writes, or that experiments.py sets by itself.
OTHER_OPTIONS = {"runs", "resume", "seed", "split", "tensorboard"}
# Options that do not change the result, or that may lie elsewhere by now.
FREE_OPTIONS = {
    "data",
    "runs",
    "resume",
    "seed",
    "split",
    "workers",
    "device",
    "init",
    "conflicts",
    "tensorboard",
}
TIMES = {"train_seconds", "images_per_second", "seconds", "waiting"}
FILES = ("config.json", "log.csv", "test.json", "test_per_image.csv")


def read_config(folder):
    """The config.json of a finished run."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} is no finished run (it has no {', '.join(missing)}); name a run folder, as "
            "results/runs/mtl/seed0"
        )
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        options = config["options"]
        config["split_hash"], options_of(config)
        texts = (
            config["experiment"],
            options["data"],
            config.get("weighting", ""),
            *config["tasks"],
        )
        if not all(isinstance(value, str) for value in texts) or type(options["seed"]) is not int:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path} is damaged, so the run cannot be repeated; name another"
        ) from None
    return config


def command(folder, config):
    """The script and its own options that train a run again, a list of words: that of its experiment, or else train.py with
    what config.json says. That of an earlier version does not say how the losses were weighted."""
    experiment = EXPERIMENTS.get(config["experiment"])
    if experiment and experiment.fits(config):
        return list(experiment.command)
    if "weighting" in config:
        name, weighting = config["experiment"], config["weighting"]
        asked = {key: config[key] for key, usual in AXES.items() if config.get(key, usual) != usual}
        if "encoder_weights" in asked:  # it is their digest; where they came from is another value
            asked["encoder_weights"] = config.get("encoder_weights_from")
        return [
            "train.py",
            f"--name={name}",
            f"--weighting={weighting}",
            *(f"--{key.replace('_', '-')}={value}" for key, value in asked.items()),
            "--tasks",
            *config["tasks"],
        ]
    raise InputError(
        f"{folder} is a run of {config['experiment']!r}, of which config.json does not say the weighting and "
        f"the table of experiments nothing, so it cannot be repeated; name one of {', '.join(EXPERIMENTS)}"
    )


def options_of(config):
    """The command-line options that repeat a run. What was measured or found at its start is said outright."""
    measured = {key: config[key] for key in ("precision", "threads", "device")}
    options = (
        config["options"]
        | measured
        | {
            "processes": config.get("processes", 1),
            "convolution": config.get("convolution", "direct"),
        }
    )  # of an earlier version
    return [
        f"--{key.replace('_', '-')}={value}"
        for key, value in options.items()
        if key not in OTHER_OPTIONS and value is not None
    ]


def other_options(folder, given, data=None):
    """What options for every run, a list of words of a command line, ask otherwise than a finished run was trained with, as
    lines of text. Takes --key value, --key=value and unique beginnings of a key, as argparse does; what does not change the
    result (FREE_OPTIONS), and what config.json does not tell, is no difference. data: the folder that is asked for, or None;
    it may be gone where it is the run's own."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # An earlier version used all masks, no scenes, AdamW, one process, and convolutions as PyTorch computes them.
        options = {
            "masks": None,
            "scenes": None,
            **EARLIER,
            **config["options"],
            "processes": config.get("processes", 1),
            "convolution": config.get("convolution", "direct"),
        }
        trained_on = config["split_hash"]
        keys = [f"--{key.replace('_', '-')}" for key in options]
        experiment = EXPERIMENTS.get(config["experiment"])
        found = (
            {}
            if not experiment or experiment.fits(config)
            else {
                "tasks": f"it trained {', '.join(config['tasks'])} under the weighting {config.get('weighting')}"
                + "".join(
                    f", {key} {config[key]}"
                    for key, usual in AXES.items()
                    if config.get(key, usual) != usual
                )
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    for word, following in zip(given, [*given[1:], ""]):
        name, equals, value = word.partition("=")
        fitting = [key for key in keys if key == name] or [
            key for key in keys if key.startswith(name)
        ]
        if not name.startswith("--") or len(name) < 3 or len(fitting) != 1:
            continue
        key, asked = fitting[0], value if equals else following
        recorded = options[key[2:].replace("-", "_")]
        found.pop(key, None)  # the last of several counts
        is_free = (
            (key[2:] in FREE_OPTIONS and not (key == "--init" and recorded is None))
            or (key, asked) == ("--processes", "auto")
            or (key, asked, recorded) == ("--optimizer", "adamw", None)
        )
        if not is_free and not is_same(asked, recorded):
            found[key] = f"{key} was {recorded} and is {asked}"
    if (
        data
        and (data.exists() or str(data) != options.get("data"))
        and split_hash_of(data) != trained_on
    ):
        found["--data"] = f"the split hash of --data was {trained_on} and is {split_hash_of(data)}"
    return list(found.values())


def is_same(text, value):
    """Whether a word of a command line says a recorded value; numbers by their size, as 2e-3 and 0.002."""
    try:
        return text == str(value) or not isinstance(value, str) and float(text) == float(value)
    except (ValueError, TypeError):
        return False


def refuse_unsound(folder):
    """Refuse to train for minutes where the records could not be compared afterwards."""
    try:
        records.read_run(folder)
    except records.Unusable as reason:
        raise InputError(f"{folder} cannot be repeated: {reason}; name another") from None


def refuse_other_data(folder, config, data):
    """Refuse to train for minutes on images that are not the run's."""
    there = split_hash_of(data)
    if there != config["split_hash"]:
        raise InputError(
            f"{data} has the split hash {there}, and {folder} was trained on {config['split_hash']}; name the "
            "same data with --data after the --"
        )


def split_hash_of(data):
    """The split hash of a data folder."""
    return contract.describe(data)["split_hash"]


def differences(folder, again):
    """In what the records of two runs differ, as lines of text, times aside; none where they are the same."""
    first, second = (
        json.loads((path / "test.json").read_text(encoding="utf-8")) for path in (folder, again)
    )
    found = [
        f"{key} was {first.get(key)} and is {second.get(key)}"
        for key in first | second
        if key not in TIMES and first.get(key) != second.get(key)
    ]
    for name, row_name in (("log.csv", "epoch"), ("test_per_image.csv", "image")):
        before, after = (rows(path / name) for path in (folder, again))
        wrong = [k for k, pair in enumerate(zip(before, after)) if pair[0] != pair[1]]
        if len(before) != len(after):
            found.append(f"{name} had {len(before)} rows and has {len(after)}")
        elif wrong:
            found.append(
                f"{name} differs in {len(wrong)} of {len(before)} rows, first in {row_name} {wrong[0] + 1}"
            )
    return found


def rows(path):
    """The rows of a CSV file as dicts, times left out."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in csv.DictReader(file)
        ]


def conditions(folder, again):
    """What was not alike when two runs were trained, as lines of text."""
    before, after = (
        json.loads((path / "config.json").read_text(encoding="utf-8")) for path in (folder, again)
    )
    before, after = (
        {
            "commit": config.get("commit"),
            "device": config.get("device"),
            "processor": config.get("processor"),
            **config.get("versions", {}),
        }
        for config in (before, after)
    )
    return [
        f"{key} was {before.get(key)} and is {after.get(key)}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]
