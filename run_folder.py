"""The folder of one run: runs/<experiment>/seed<k>/ with its configuration, log, checkpoints and results.

config.json, log.csv (a row an epoch), last.pt (for --resume), best.pt (the chosen network), test.json,
test_per_image.csv, curves.png, mask.png.
"""

import csv
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import checkpoint
from cli import InputError

# Options that may differ between a run and its resumption without changing the result.
FREE_OPTIONS = {"resume", "data", "runs", "workers", "device"}
PACKAGES = ("torch", "torchvision", "h5py", "numpy", "matplotlib")
RESUME_KEYS = ("model", "criterion", "optimizer", "epoch", "history", "best_dice", "best_epoch", "train_seconds",
               "train_images")
PER_IMAGE_FIELDS = ("name", "dice", "intersection", "predicted", "target", "correct", "box_iou")


class RunFolder:
    """Paths and records of one run. Opening it refuses an existing run unless `resume`."""

    def __init__(self, path, resume):
        self.path = Path(path)
        self.config_path, self.test_path = self.path / "config.json", self.path / "test.json"
        self.last_path, self.best_path = self.path / "last.pt", self.path / "best.pt"
        if self.path.exists() and any(self.path.iterdir()) and not resume:
            raise InputError(f"{self.path} holds a run already; go on with --resume, choose another --seed or --runs, or "
                             "delete it")

    def is_finished(self):
        return self.test_path.exists()

    def begin(self, config):
        """Write config.json, or check that a run begun earlier was configured alike.

        Returns the configuration in force: a resumed run keeps the precision that was measured at its start.
        """
        if self.config_path.exists():
            try:
                earlier = json.loads(self.config_path.read_text(encoding="utf-8"))
                refuse_changes(self.path, earlier, config)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(f"{self.config_path} is damaged; delete the folder {self.path} and start again") from None
            return earlier
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(config, self.config_path)
        return config

    def load_last(self):
        """The state of the last finished epoch, or None where no epoch was finished."""
        return checkpoint.load(self.last_path, RESUME_KEYS) if self.last_path.exists() else None

    def write_log(self, history):
        """Write log.csv anew from all rows, so that each epoch stands in it once, however often the run was resumed."""
        write_csv(history[0].keys(), (row.values() for row in history), self.path / "log.csv")

    def write_test(self, results, names, measured, dice):
        """Write test_per_image.csv, then test.json, whose presence says that the run is complete."""
        columns = {key: value.tolist() for key, value in measured.items()}
        columns["dice"] = dice.tolist()
        columns["name"] = names
        rows = ([blank_nan(columns[field][k]) if field in columns else "" for field in PER_IMAGE_FIELDS]
                for k in range(len(names)))
        write_csv(PER_IMAGE_FIELDS, rows, self.path / "test_per_image.csv")
        write_json(results, self.test_path)


def refuse_changes(path, earlier, now):
    """Refuse to resume where something differs that changes the result."""
    before, after = earlier["options"], now["options"]
    changed = {f"--{key.replace('_', '-')}": (before.get(key), value) for key, value in after.items()
               if key not in FREE_OPTIONS and before.get(key) != value}
    changed |= {key: (earlier[key], now[key]) for key in ("split_hash", "border") if earlier[key] != now[key]}
    if changed:
        listed = ", ".join(f"{key} was {old} and is {new}" for key, (old, new) in changed.items())
        raise InputError(f"{path} cannot be resumed with other settings: {listed}; use the earlier ones or another --runs")


def environment():
    """Versions of what computes, and the git commit of the code (None outside a checkout)."""
    def git(*command):
        here = Path(__file__).parent
        result = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        commit = None
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"versions": versions, "commit": commit}


def write_json(content, path):
    replace_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path)


def write_csv(fields, rows, path):
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows(rows)
    os.replace(temporary, path)


def replace_text(text, path):
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def blank_nan(value):
    """An empty cell for what could not be measured."""
    return "" if value != value else value
