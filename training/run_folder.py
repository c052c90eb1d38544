"""The folder of one run: runs/<experiment>/seed<k>/ with its records and checkpoints.

config.json, log.csv (a row an epoch), last.pt (for --resume), previous.pt (last.pt of the epoch
before), best.pt (the chosen network), test.json, test_per_image.csv, curves.png, mask.png. A lock
file lies beside it, .seed<k>.lock.
"""

import os
import platform
import subprocess
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

import cli
import files
from cli import InputError
from config import diff
from files import read_json, write_csv, write_json
from legacy import from_legacy
from training import checkpoint
from training.devices import processor

PACKAGES = ("torch", "torchvision", "h5py", "numpy", "matplotlib")
# What a resumed run has to agree in beside the options that change the result.
SAME_FACTS = ("split_hash", "label_digest", "border", "settings", "init_sha256", "teacher_sha256")
LOCKS = {".lock", "lock"}  # files that earlier versions left in a run folder
# Options of which the digest counts, not the name.
BY_DIGEST = ("init", "teacher", "encoder_weights")
# What a resumed run keeps of its beginning.
KEPT_FACTS = ("precision", "convolution", "images_on")
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
    """Paths and records of one run. `lock` comes before anything is read or written."""

    def __init__(self, path, resume):
        self.path, self.resume = Path(path), resume
        self.config_path, self.test_path = self.path / "config.json", self.path / "test.json"
        self.last_path, self.previous_path = self.path / "last.pt", self.path / "previous.pt"
        self.best_path = self.path / "best.pt"

    @contextmanager
    def lock(self):
        """Keep the folder for this process while the block runs.

        Refuses a run that another process works on, and an existing one unless it is resumed.
        """
        path = self.path.with_name(f".{self.path.name}.lock")
        way = "wait for it, or use another --seed or --runs"
        with files.lock(path, self.path, way):
            names = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
            if names - LOCKS and not self.resume:
                raise InputError(
                    f"{self.path} holds a run already; go on with --resume, choose another --seed "
                    "or --runs, or delete it"
                )
            for left_over in self.path.glob("*.partial*"):  # by a run that was killed
                left_over.unlink()
            yield

    def is_finished(self):
        return self.test_path.exists()

    def has_begun(self):
        paths = (self.config_path, self.last_path, self.previous_path, self.test_path)
        return any(path.exists() for path in paths)

    def begin(self, record):
        """Write config.json, or check that the run was begun with the same options.

        Returns the record in force: a resumed run keeps its precision and how it computed.
        """
        if not self.has_begun():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config_path, record)
            return record
        earlier = self.read_config()
        self.refuse_changes(earlier, record)
        warn_of_changes(self.path, earlier["run"], record["run"])
        for key in KEPT_FACTS:
            if earlier["run"].get(key) is not None:
                record["run"][key] = earlier["run"][key]
        return record

    def read_config(self):
        """config.json in the present form."""
        try:
            record = from_legacy(read_json(self.config_path))
            record["run"]["versions"].items()  # as a record has it
            return record
        except FileNotFoundError:
            raise InputError(
                f"{self.config_path} is missing; delete the folder {self.path} and start again"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self.config_path} is damaged; delete the folder {self.path} and start again"
            ) from None

    def refuse_changes(self, earlier, record):
        """Refuse to go on where an option or the data differ in what changes the result."""
        changed = diff(earlier, record)
        if "auto" in changed.get("precision", ()):  # then the run's own precision holds
            changed.pop("precision")
        for key in BY_DIGEST:
            changed.pop(key, None)
        for key in (*SAME_FACTS, "encoder_weights_sha256"):
            values = earlier["run"].get(key), record["run"].get(key)
            is_new = key == "label_digest" and values[0] is None  # of an earlier version
            if key in record["run"] and values[0] != values[1] and not is_new:
                changed[key] = values
        if not changed:
            return
        what = "is finished" if self.is_finished() else "was begun"
        way = "use the earlier ones or another --runs"
        if "epochs" in changed:
            # The learning rate has fallen to zero by the last epoch.
            way += f"; to train longer, fine-tune: --init {self.best_path} with another --runs"
        if "label_digest" in changed:
            way = "bring the earlier labels back or use another --runs"
            old, new = changed.pop("label_digest")
            for need in new:
                if new[need] != old.get(need):
                    changed[f"digest of the label {need}"] = old.get(need), new[need]
        words = [f"{key} was {old} and is {new}" for key, (old, new) in changed.items()]
        raise InputError(f"{self.path} {what} with other settings: {', '.join(words)}; {way}")

    def check_finished(self, record):
        """Refuse to call a run finished that had other options, or whose test.json is damaged.

        record: without `run` facts where the data are gone.
        """
        self.refuse_changes(self.read_config(), record)
        try:
            read_json(self.test_path)["dice"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{self.test_path} is damaged; delete it, and the same command tests the network "
                "again"
            ) from None

    def draw(self, name, function, *args):
        """Draw a figure that is missing with function(*args, path). One that fails is a warning."""
        path = self.path / name
        if path.exists():
            return
        partial = path.with_suffix(".partial" + path.suffix)
        try:
            function(*args, partial)
            os.replace(partial, path)
        except Exception as error:
            partial.unlink(missing_ok=True)
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            cli.warn(
                f"{path} could not be drawn ({reason}); nothing else is missing, and the same "
                "command with --resume tries again"
            )

    def save_last(self, state):
        """Write last.pt; the one before becomes previous.pt."""
        checkpoint.save(state, self.last_path, self.previous_path)

    def load_last(self):
        """The state of the last finished epoch, or None where no epoch was finished.

        Where last.pt is damaged, or missing because the run was killed as it was replaced,
        previous.pt takes its place: the epoch between them is repeated, with the same result.
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
                f"neither {self.last_path} nor {self.previous_path.name} beside it can be used; "
                f"delete the folder {self.path} and start again"
            ) from None
        # At once: the next epoch would otherwise put the damaged one in the good one's place.
        os.replace(self.previous_path, self.last_path)
        cli.warn(f"{self.last_path} was missing or damaged; an epoch is repeated")
        return state

    def write_log(self, history):
        """Write log.csv from all rows, so that each epoch stands in it once."""
        columns = list(history[0])
        rows = [[row[column] for column in columns] for row in history]
        write_csv(self.path / "log.csv", columns, rows)

    def write_test(self, results, names, measured):
        """Write test_per_image.csv, then test.json, which completes the run.

        names: of the N images; measured: {value: (N,) tensor}.
        """
        write_per_image(self.path / "test_per_image.csv", names, measured)
        write_json(self.test_path, results)


def write_per_image(path, names, measured):
    """A table of values per image; an empty cell where a value is NaN."""
    columns = [names, *(cells(values) for values in measured.values())]
    write_csv(path, ["name", *measured], zip(*columns, strict=True))


def cells(values):
    """The values of a tensor for a table: nothing for NaN, counts without a decimal point."""
    values = values.double()
    known = values[~values.isnan()]
    are_counts = bool((known == known.round()).all())
    found = []
    for value in values.tolist():
        if value != value:
            found.append("")
        else:
            found.append(int(value) if are_counts else value)
    return found


def warn_of_changes(path, earlier, now):
    """Warn where something differs that may change the last digits of the result."""
    changed = []
    for key in ("device", "processes", "threads", "commit", "processor"):
        old, new = earlier.get(key), now.get(key)
        if old is not None and old != new:
            changed.append(f"{key} was {old} and is {new}")
    for name, new in now["versions"].items():
        old = earlier["versions"].get(name)
        if old != new:
            changed.append(f"{name} was {old} and is {new}")
    if changed:
        cli.warn(
            f"{path} goes on under other conditions ({', '.join(changed)}): its last digits may "
            "differ from those of a run that was never interrupted"
        )


def environment(device):
    """Versions of what computes, the processor, and the git commit (None outside a checkout)."""
    versions = {"python": platform.python_version()}
    versions |= {name: version(name) for name in PACKAGES}
    return {"versions": versions, "commit": commit(), "processor": processor(device)}


def commit():
    """The git commit of the code, with "-dirty" where files differ from it; None without git."""
    here = Path(__file__).parent
    results = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        results.append(done.stdout.decode().strip())
    return results[0] + ("-dirty" if results[1] else "")
