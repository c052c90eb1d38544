"""The folder of one run: runs/<experiment>/seed<k>/ with its configuration, log, checkpoints and results.

config.json, log.csv (a row an epoch), last.pt (for --resume), previous.pt (last.pt of the epoch before), best.pt (the chosen
network), test.json, test_per_image.csv, curves.png, mask.png; while a process works on it, lock.
"""

import csv
import io
import json
import os
import platform
import subprocess
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

import cli
from cli import InputError
from registry import AXES
from training import checkpoint, lock
from training.devices import processor
from training.options import CONVOLUTIONS

# Options that may differ between a run and its resumption without changing the result.
FREE_OPTIONS = {
    "resume",
    "data",
    "runs",
    "workers",
    "device",
    "init",
    "teacher",
    "processes",
    "tensorboard",
}
PACKAGES = ("torch", "torchvision", "h5py", "numpy", "matplotlib")
RESUME_KEYS = {
    "model": dict,
    "criterion": dict,
    "optimizer": dict,
    "epoch": int,
    "history": list,
    "best": dict,
    "best_value": float,
    "best_epoch": int,
    "train_seconds": float,
    "train_images": int,
    "trained_on": torch.Tensor,
}


class RunFolder:
    """Paths and records of one run. `held` comes before anything is read from it or written to it."""

    def __init__(self, path, resume):
        self.path, self.resume = Path(path), resume
        self.config_path, self.test_path = self.path / "config.json", self.path / "test.json"
        self.last_path, self.previous_path = self.path / "last.pt", self.path / "previous.pt"
        self.best_path, self.lock_path = self.path / "best.pt", self.path / "lock"

    @contextmanager
    def held(self):
        """For this process alone while the block runs. Refuses a run that another process works on, and an existing one
        unless it is to be resumed."""
        with lock.hold(self.lock_path, self.path):
            if not self.resume and any(path != self.lock_path for path in self.path.iterdir()):
                raise InputError(
                    f"{self.path} holds a run already; go on with --resume, choose another --seed or --runs, "
                    "or delete it"
                )
            for left_over in (
                *self.path.glob("*.partial"),
                *self.path.glob("*.partial.png"),
            ):  # by a run that was killed
                left_over.unlink()
            yield

    def is_finished(self):
        return self.test_path.exists()

    def begin(self, config):
        """Write config.json, or check that a run begun earlier was configured alike.

        Returns the configuration in force: a resumed run keeps the precision that was measured at its start, how convolutions
        were computed and where images were augmented. What may change the last digits, though nobody chose it, is warned of.
        """
        if not self.config_path.exists() and not any(
            path.exists() for path in (self.last_path, self.previous_path, self.test_path)
        ):
            write_json(config, self.config_path)
            return config
        with self.earlier_config() as earlier:
            refuse_changes(self, earlier, config)
            warn_of_changes(self.path, earlier, config)
            kept = {
                "precision": earlier["precision"],
                "convolution": earlier.get("convolution", "direct"),
            }
            if earlier["device"] == config["device"]:
                kept["images_on"] = earlier.get("images_on", "cpu")
            if kept["precision"] not in ("fp32", "bf16") or kept["convolution"] not in CONVOLUTIONS:
                raise ValueError
        return config | kept

    def earlier_processes(self):
        """In how many processes the run was begun, or None where it was not."""
        if not self.config_path.exists():
            return None
        with self.earlier_config() as earlier:
            return processes_of(earlier)

    @contextmanager
    def earlier_config(self):
        """The content of config.json; what the block finds wrong in it becomes an InputError."""
        try:
            yield json.loads(self.config_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{self.config_path} is missing, so nobody knows how the run was configured; delete the "
                f"folder {self.path} and start again"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self.config_path} is damaged; delete the folder {self.path} and start again"
            ) from None

    def check_finished(self, config):
        """Refuse to call a run finished that was configured otherwise, or whose test.json cannot be read. `config` holds
        what is known without its data: split_hash and border may be missing."""
        with self.earlier_config() as earlier:
            refuse_changes(self, earlier, config)
        try:
            json.loads(self.test_path.read_text(encoding="utf-8"))["dice"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{self.test_path} is damaged; delete it, and the same command tests the network "
                "again"
            ) from None

    def draw(self, name, function, *args):
        """Draw a picture with function(*args, path). One that fails, whatever it raises, is a warning: the records are
        there."""
        path = self.path / name
        partial = path.with_suffix(
            ".partial" + path.suffix
        )  # an ending that says which kind of picture it is
        try:
            function(*args, partial)
            os.replace(partial, path)
        except Exception as error:
            partial.unlink(missing_ok=True)
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            cli.warn(
                f"{path} could not be drawn ({reason}); nothing else is missing, and the same command with --resume "
                "tries again"
            )

    def save_last(self, state):
        """Write last.pt; the one before becomes previous.pt."""
        checkpoint.save(state, self.last_path, self.previous_path)

    def load_last(self):
        """The state of the last finished epoch, or None where no epoch was finished.

        Where last.pt is damaged, or missing because the run was killed as it was replaced, previous.pt takes its place: the
        epoch between them is repeated, with the same result.
        """
        if not self.last_path.exists() and not self.previous_path.exists():
            return None
        try:
            return checkpoint.load(self.last_path, RESUME_KEYS)
        except InputError:
            pass
        try:
            state = checkpoint.load(self.previous_path, RESUME_KEYS)
        except InputError:
            raise InputError(
                f"neither {self.last_path} nor {self.previous_path.name} beside it can be used; delete the "
                f"folder {self.path} and start again"
            ) from None
        # At once: the next epoch's save would otherwise put the damaged one in the good one's place.
        os.replace(self.previous_path, self.last_path)
        cli.warn(
            f"{self.last_path} was missing or damaged; going on from the one before, so an epoch is repeated"
        )
        return state

    def write_log(self, history):
        """Write log.csv anew from all rows, so that each epoch stands in it once, however often the run was resumed."""
        write_csv(history[0].keys(), (row.values() for row in history), self.path / "log.csv")

    def write_test(self, results, names, measured, tasks):
        """Write test_per_image.csv, then test.json, whose presence says that the run is complete.

        measured: {value: (N,) tensor} of N test images; tasks: {name: Task}, which say what is a whole number.
        """
        counts = {key for task in tasks.values() for key in task.counts}
        columns = {
            "name": names,
            **{key: cells(value, key in counts) for key, value in measured.items()},
        }
        write_csv(columns, zip(*columns.values()), self.path / "test_per_image.csv")
        write_json(results, self.test_path)


def refuse_changes(folder, earlier, now):
    """Refuse to go on with a run, or to call it finished, where something differs that changes the result."""
    before, after = earlier["options"], now["options"]
    changed = {
        f"--{key.replace('_', '-')}": (before.get(key), value)
        for key, value in after.items()
        if key not in FREE_OPTIONS and before.get(key) != value
    }
    asked = now.get(
        "processes", after.get("processes")
    )  # of a finished run only what was asked for is known
    if asked not in ("auto", None, processes_of(earlier)):
        changed["--processes"] = processes_of(earlier), asked
    # A run of an earlier version does not say how it was weighted, and its tasks had nothing to learn; it had one encoder.
    earlier = {"weighting": now["weighting"], "settings": {}, **AXES} | earlier
    changed |= {
        key: (earlier[key], now[key])
        for key in ("tasks", "weighting", "settings", *AXES, "split_hash", "border")
        if key in now and earlier[key] != now[key]
    }
    for key, words in (("init", "what --init starts from"), ("teacher", "what --teacher imitates")):
        if earlier.get(key) != now[key]:  # a run of an earlier version does not have it
            changed[words] = earlier.get(key), now[key]
    if changed:
        listed = ", ".join(f"{key} was {old} and is {new}" for key, (old, new) in changed.items())
        what = (
            "is finished, and with other settings"
            if folder.is_finished()
            else "cannot be resumed with other settings"
        )
        # The learning rate has fallen to zero by the last epoch, so more of them would have been another run from the first.
        longer = f"; to train longer, begin another run from its network with --init {folder.best_path} and another --runs"
        raise InputError(
            f"{folder.path} {what}: {listed}; use the earlier ones or another --runs"
            + (longer if "--epochs" in changed else "")
        )


def processes_of(config):
    """In how many processes a run trained; those of an earlier version had one."""
    processes = config.get("processes", 1)
    if type(processes) is not int or processes < 1:
        raise ValueError
    return processes


def warn_of_changes(path, earlier, now):
    """Say where something differs that may change the last digits of the result."""
    before, after = (
        {
            "device": config["device"],
            "threads": config["threads"],
            "commit": config["commit"],
            **config["versions"],
        }
        | ({"processor": config["processor"]} if "processor" in earlier else {})
        for config in (earlier, now)
    )  # an earlier version does not say the processor
    changed = [
        f"{key} was {before.get(key)} and is {after[key]}"
        for key in after
        if before.get(key) != after[key]
    ]
    if changed:
        cli.warn(
            f"{path} goes on under other conditions ({', '.join(changed)}): it may not end with exactly the numbers of "
            "a run that was never interrupted"
        )


def environment(device=None):
    """Versions of what computes, its number of threads, and the git commit of the code (None outside a checkout); with a device
    the name of its processor."""

    def git(*command):
        here = Path(__file__).parent
        result = subprocess.run(
            ["git", *command], cwd=here, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD") + (
            "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        commit = None
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    more = {"processor": processor(device)} if device else {}
    return {"versions": versions, "threads": torch.get_num_threads(), "commit": commit, **more}


def write_json(content, path):
    checkpoint.replace((json.dumps(content, indent=2, allow_nan=False) + "\n").encode(), path)


def write_csv(fields, rows, path):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(fields)
    writer.writerows(rows)
    checkpoint.replace(text.getvalue().encode(), path)


def cells(values, are_counts):
    """A column of measurements for a table: nothing where a value is NaN."""
    return [
        "" if value != value else int(value) if are_counts else value for value in values.tolist()
    ]
