"""Commands of training runs: made from a Config, and held against what a finished run was."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from cli import InputError
from config import Config, diff
from data import contract
from study import records
from study.table import COMPONENTS, EXPERIMENTS

ROOT = Path(__file__).resolve().parent.parent
FILES = ("init", "teacher", "encoder_weights")  # may lie elsewhere by now


@dataclass(frozen=True)
class Run:
    """A run: its script with the words of its own, and every option, components included."""

    script: tuple
    config: Config

    @property
    def name(self):
        return f"{self.config.experiment} seed {self.config.seed}"

    @property
    def path(self):
        """The run folder."""
        return self.config.runs / self.config.experiment / f"seed{self.config.seed}"

    @property
    def is_finished(self):
        return (self.path / "test.json").exists()

    @property
    def words(self):
        """The command line; a script of the published study sets the components itself."""
        config = self.config.replace(resume=True)
        if self.script[0] != "train.py":
            usual = {one.name: one.default for one in COMPONENTS}
            config = config.replace(experiment=None, **usual)
        script, *own = self.script
        return [sys.executable, str(ROOT / script), *own, *config.argv()]


def parse(*words):
    """The Config of words of train.py, tasks among them; later words win."""
    return Config.parse("", None, map(str, words))


def published(name, *options):
    """The Run of an experiment of the table."""
    one = EXPERIMENTS[name]
    own = "--name", name, "--tasks", *one.tasks, "--weighting", one.weighting
    return Run(one.command, parse(*own, *options))


def without_conflicts(run):
    """One task alone has nothing to be in conflict with."""
    if len(run.config.tasks) > 1:
        return run
    return Run(run.script, run.config.replace(conflicts=None))


def refuse_named(options, instead):
    """Refuse options for every run that the name of an experiment is made of."""
    config = Config.parse("", "every run", options)  # refuses tasks and what no script has
    for one in fields(Config):
        if "named" in one.metadata and getattr(config, one.name) != one.default:
            option = one.name.replace("_", "-")
            raise InputError(f"--{option} after -- would be the same for every run; {instead}")


def refuse_other_settings(run):
    """Refuse to skip a finished run that was trained with other options, or on other images."""
    try:
        record = records.read_config(run.path / "config.json")
    except records.Unusable:
        return  # results.py will say why
    asked = run.config.to_json()
    changed = diff(record, asked)
    if asked["precision"] in (record["run"]["precision"], "auto"):
        changed.pop("precision", None)
    for key in FILES:
        if changed.get(key, ("none",))[0] not in (None, "none"):
            changed.pop(key)
    data = run.config.data
    if data.exists() or str(data) != record["data"]:
        hashes = record["run"]["split_hash"], split_hash_of(data)
        if hashes[0] != hashes[1]:
            changed["split hash of --data"] = hashes
    if changed:
        words = [f"{key} was {old} and is {new}" for key, (old, new) in changed.items()]
        raise InputError(
            f"{run.path} is finished, with other settings: {'; '.join(words)}; use those, or "
            "another --runs after the --"
        )


def split_hash_of(data):
    """The split hash of a data folder."""
    return contract.describe(data)["split_hash"]
