"""Commands of training runs: the options in them, and whether a finished run was trained so."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cli
from cli import InputError
from data import contract
from study import records
from study.records import DEFAULTS, PLACE, RENAMED, SPEED
from study.table import EXPERIMENTS

ROOT = Path(__file__).resolve().parent.parent
# Options that the name of an experiment of train.py is made of: a grid may vary these.
NAMED = {
    "tasks": None,
    "sharing": "hard",
    "weighting": "equal",
    "encoder": "unet",
    "encoder_weights": "none",
    "encoder_lr": None,
    "encoder_bn": "train",
    "optimizer": None,
    "num_masks": None,
    "hard_augment": None,
    "teacher": None,
}
FREE = (*SPEED, *PLACE, "seed", "split", "name", "experiment", "init")


@dataclass(frozen=True)
class Run:
    """One experiment with one seed. command: script and options, without Python; folder: of
    runs."""

    experiment: str
    seed: int
    command: tuple
    folder: Path

    @property
    def name(self):
        return f"{self.experiment} seed {self.seed}"

    @property
    def path(self):
        """The run folder."""
        return self.folder / self.experiment / f"seed{self.seed}"

    @property
    def is_finished(self):
        return (self.path / "test.json").exists()

    @property
    def words(self):
        """The command line."""
        script, *options = self.command
        place = [f"--seed={self.seed}", f"--runs={self.folder}", "--resume"]
        return [sys.executable, str(ROOT / script), *options, *place]


def option(field):
    """A field as an option: --num-masks."""
    return f"--{field.replace('_', '-')}"


def parse(words):
    """{field: text} of options of a training script; takes --key value, --key=value and unique
    beginnings of a key, as the scripts do. Refuses what no script has."""
    parser = cli.Parser(None)
    for field in (*DEFAULTS, *RENAMED, "name", "split"):
        if field != "experiment":
            parser.add_argument(option(field), nargs="*")
    known, unknown = parser.parse_known_args(
        [word for word in words if word not in ("-h", "--help")]
    )
    if unknown:
        raise InputError(f"no training script takes {unknown[0][:60]}; see python train.py --help")
    found = {}
    for field, values in vars(known).items():
        if values is not None:
            found[RENAMED.get(field, field)] = " ".join(values)
    return found


def refuse_given(options, fields, instead):
    """Refuse options for every run that are not for every run."""
    for field in parse(options):
        if field in fields:
            raise InputError(f"{option(field)} after -- would be the same for every run; {instead}")


def tasks_of(command):
    """The tasks of a command."""
    found = parse(command[1:]).get("tasks")
    if found:
        return found.split()
    for experiment in EXPERIMENTS.values():
        if experiment.command == tuple(command[: len(experiment.command)]):
            return list(experiment.tasks)
    return []


def fitting(options, command):
    """The options for every run without --conflicts where there is one task alone."""
    if len(tasks_of(command)) > 1:
        return options
    kept, skips = [], False
    for word in options:
        is_it = len(word) > 4 and option("conflicts").startswith(word.partition("=")[0])
        if not is_it and not (skips and word.isdigit()):
            kept.append(word)
        skips = is_it and "=" not in word
    return kept


# --------------------------------------------------------------------------------- finished runs


def refuse_other_settings(run, data):
    """Refuse to skip a finished run that was trained with other options, or on other images.

    data: the folder that is asked for, or None for that of the run.
    """
    try:
        config = records.read_config(run.path / "config.json")
    except records.Unusable:
        return
    found = differing(run, config)
    if data and (data.exists() or str(data) != config["data"]):
        there, trained = split_hash_of(data), config["run"]["split_hash"]
        if there != trained:
            found.append(f"--data had the split hash {trained} and has {there}")
    if found:
        raise InputError(
            f"{run.path} is finished, with other settings: {'; '.join(found)}; use those, or another "
            "--runs after the --"
        )


def differing(run, config):
    """What the command of a run asks otherwise than a config, as lines of text."""
    asked = parse(run.command[1:])
    published = EXPERIMENTS.get(run.experiment)
    found = []
    if "tasks" in asked:
        asked = {key: str(value) for key, value in NAMED.items() if value} | asked
    elif published and not published.fits(config):
        found.append(f"it trained {', '.join(config['tasks'])} under {config['weighting']}")
    for field, text in asked.items():
        was = config.get(field)
        if field == "precision":
            was = was if is_same(text, was) else config["run"]["precision"]
        if field == "tasks":
            was = " ".join(was)
        is_new_init = field == "init" and was is None
        if is_new_init or field not in FREE and not is_same(text, was):
            found.append(f"{option(field)} was {was} and is {text}")
    return found


def is_same(text, value):
    """Whether a word of a command line says a recorded value; numbers by their size."""
    if value is None:
        return text in ("none", "")
    try:
        return text == str(value) or float(text) == float(value)
    except (ValueError, TypeError):
        return False


def split_hash_of(data):
    """The split hash of a data folder."""
    return contract.describe(data)["split_hash"]


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))
