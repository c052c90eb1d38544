"""Run folders, read and checked: what runs/<experiment>/seed<k>/ says of a finished run.

Needs config.json, log.csv, test.json and test_per_image.csv, nothing else of a run. What is not as it must be is left out
with its reason; it is never repaired, and nothing is guessed. What a run's tasks measure is taken anew by their own files;
records of earlier versions are held against what they have.
"""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

import registry
from cli import InputError
from study.table import DICE, METRICS

TEST_KEYS = (
    "experiment",
    "seed",
    *METRICS,
    "n_images",
    "epochs",
    "best_epoch",
    "parameters",
    "train_seconds",
    "images_per_second",
    "split_hash",
    "border",
    "size",
    "device",
    "precision",
)
TEXT_KEYS = {"experiment", "split_hash", "border", "device", "precision"}
CONFIG_KEYS = {"options": dict, "images": dict, "versions": dict, "tasks": list}
PIXELS = ("intersection", "predicted", "target")
PER_IMAGE_FIELDS = ("name", "dice", *PIXELS)
LOG_FIELDS = ("epoch", "train_loss_seg", "val_dice")
TOLERANCE = 1e-5  # between a recorded metric and the same taken from the pixel counts again


class Unusable(Exception):
    """A run folder cannot be used; the message ends the sentence "left out, because ..."."""


@dataclass
class Run:
    """A finished run. config and test are its JSON files; history its log, a dict of (epochs,) arrays, NaN where a cell is
    empty; names its N test images that have a mask, and counts (N, 3) their pixels in intersection, prediction and target;
    tasks {name: Task}, which know what they learned from the training split."""

    experiment: str
    seed: int
    config: dict
    test: dict
    history: dict
    names: tuple
    counts: np.ndarray
    tasks: dict = field(default_factory=dict)

    @property
    def label(self):
        return f"{self.experiment}/seed{self.seed}"

    @property
    def dice(self):
        """Dice of each test image, (N,)."""
        return dice_score(self.counts)

    @property
    def learns_weights(self):
        # Records of earlier versions do not say the weighting; there the experiment's name does.
        return self.config.get("weighting", self.experiment) == "uncertainty"

    @property
    def moves_weights(self):
        """Whether a weighting of weighting/ changed what the losses weigh, and the log says how."""
        weights = [self.history.get(f"weight_{task}") for task in self.tasks]
        are_known = all(values is not None and np.isfinite(values).all() for values in weights)
        return (
            is_named(self.config.get("weighting"))
            and are_known
            and any(np.ptp(values) for values in weights)
        )


def is_named(weighting):
    """Whether a run's weighting is one of weighting/, and not equal, fixed numbers or utils' learned ones."""
    return str(weighting).partition(":")[0] in registry.names("weighting")


def dice_score(counts):
    """2 I / (P + T) from pixel counts (..., 3) of intersection, prediction and target -> (...); 1 where both are empty.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species", 1945.
    """
    intersection, predicted, target = np.moveaxis(np.asarray(counts, float), -1, 0)
    return np.where(
        predicted + target > 0, 2 * intersection / np.maximum(predicted + target, 1), 1.0
    )


def read_runs(root):
    """All runs under a folder, by experiment and seed, and [(folder, reason)] of those that cannot be used."""
    if not root.is_dir():
        raise InputError(
            f"there is no folder {root}; run 'python experiments.py' first or name the folder with --runs"
        )
    runs, left_out = [], []
    for folder in run_folders(root):
        try:
            runs.append(read_run(folder))
        except Unusable as reason:
            left_out.append((folder.relative_to(root).as_posix(), str(reason)))
    runs.sort(key=lambda run: (run.experiment, run.seed))
    return runs, left_out


def run_folders(root):
    """The folders two levels down, and those one level down that hold none or cannot be looked into; hidden ones aside."""

    def inside(folder):
        return sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        )

    found = []
    for experiment in inside(root):
        try:
            found += inside(experiment) or [experiment]
        except OSError:  # read_run says why
            found.append(experiment)
    return found


def read_run(folder):
    """Read one run folder and hold its files against each other; raises Unusable."""
    try:
        is_empty = not any(folder.iterdir())
    except OSError as error:  # deleted meanwhile, for one
        raise Unusable(f"the folder cannot be looked into ({error.strerror})") from None
    if is_empty:
        raise Unusable("the folder is empty")
    if not (folder / "config.json").exists():
        raise Unusable("it is no run folder (it has no config.json)")
    if not (folder / "test.json").exists():
        raise Unusable(
            "the run is not finished (it has no test.json); the same command with --resume goes on with it"
        )
    config = read_config(folder / "config.json")
    tasks = make_tasks(config)
    test = read_test(folder / "test.json", tasks)
    experiment, seed = test["experiment"], test["seed"]
    if (folder.parent.name, folder.name) != (experiment, f"seed{seed}"):
        raise Unusable(f"it holds a run of {experiment}, seed {seed}, so it was copied or renamed")
    for key in ("experiment", "split_hash", "border", "size"):
        if config.get(key) != test[key]:
            raise Unusable(
                f"config.json and test.json differ in {key} ({config.get(key)} and {test[key]})"
            )
    for key in ("seed", "epochs"):
        if config["options"].get(key) != test[key]:
            raise Unusable(
                f"config.json and test.json differ in {key} ({config['options'].get(key)} and {test[key]})"
            )
    history = read_log(folder / "log.csv", config, test["epochs"])
    refuse_untaught(tasks, config, test, history)
    measured = tasks | absent_tasks(tasks)
    columns = PerImage(folder / "test_per_image.csv", measured)
    if len(columns.names) != test["n_images"]:
        raise Unusable(
            f"test_per_image.csv has {len(columns.names)} images, test.json {test['n_images']}"
        )
    names, counts = read_pixels(columns, test["size"])
    for key, again in measure_again(measured, columns).items():
        if key not in test:  # an earlier version did not measure it
            continue
        recorded = test[key]
        if (
            (again is None) != (recorded is None)
            or again is not None
            and not abs(again - recorded) <= TOLERANCE
        ):
            raise Unusable(f"{key} in test.json is {recorded}, and {again} from test_per_image.csv")
    return Run(experiment, seed, config, test, history, names, counts, tasks)


def read_json(path):
    def refuse(constant):
        raise ValueError(constant)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError):
        raise Unusable(f"{path.name} is damaged or holds a number that is not finite") from None
    if not isinstance(content, dict):
        raise Unusable(f"{path.name} holds no JSON object")
    return content


def read_config(path):
    config = read_json(path)
    for key, kind in CONFIG_KEYS.items():
        if not isinstance(config.get(key), kind):
            raise Unusable(f"{path.name} does not say {key}")
    if not isinstance(config.get("weighting", ""), str):
        raise Unusable(f"{path.name} does not say how the losses were weighted")
    return config


def make_tasks(config):
    """The tasks of a run, {name: Task}, with what they learned from its training split."""
    from tasks import Task  # here, as experiments.py starts without PyTorch

    names, settings = config["tasks"], config.get("settings", {})
    if (
        not all(isinstance(name, str) for name in names)
        or not isinstance(settings, dict)
        or not all(isinstance(learned, dict) for learned in settings.values())
    ):
        raise Unusable("config.json does not say its tasks and what they learned")
    try:
        tasks = registry.tasks(names)
        for name, task in tasks.items():
            if name in settings:
                task.settings = settings[name]
        tasks = registry.tasks(tasks.values())  # some know what they measure only now
        measured = {key for task in tasks.values() for key in task.metrics}
    except Exception as error:  # a task is a user's own file, and may be gone, or changed since
        raise Unusable(f"its tasks cannot be made: {error}") from None
    if DICE[0] not in measured:
        raise Unusable("none of its tasks measures dice, by which rows are compared")
    for name, task in tasks.items():
        if not task.settings and not task.metrics and type(task).learn is not Task.learn:
            raise Unusable(
                f"config.json does not say what its task {name} learned of the training split"
            )
    return tasks


def absent_tasks(tasks):
    """Tasks of the published study that a run does not have, {name: Task}: its records must not hold anything of them."""
    own = {key for task in tasks.values() for key in task.metrics}
    return {
        name: task
        for name, task in registry.tasks(registry.PUBLISHED).items()
        if name not in tasks and not own & task.metrics.keys()
    }


def read_test(path, tasks):
    test = read_json(path)
    for name, task in tasks.items():
        if task.metrics and not test.keys() & task.metrics.keys():
            raise Unusable(
                f"{path.name} lacks {next(iter(task.metrics))}, which its task {name} measures"
            )
    others = [
        key
        for task in tasks.values()
        for key in task.metrics
        if key in test and key not in TEST_KEYS
    ]
    for key in (*TEST_KEYS, *others):
        if key not in test:
            raise Unusable(f"{path.name} lacks {key}")
        value = test[key]
        if value is None and key in DICE:
            raise Unusable(f"its test images could not measure {key}")
        if value is None and key in (*METRICS, *others):
            continue
        right = (
            isinstance(value, str)
            if key in TEXT_KEYS
            else type(value) in (int, float) and math.isfinite(value)
        )
        if not right:
            raise Unusable(f"{key} in {path.name} is {value!r}")
    return test


def refuse_untaught(tasks, config, test, history):
    """Refuse a run with a task that nothing taught: it is not what its name says, and a verdict on it would be on nothing.

    config.json says since some version how many images taught each task; some versions say it of each class. Before, a loss
    of 0 in every epoch says it, or that nothing could be measured at the end.
    """
    taught = config.get("taught")
    for name, task in tasks.items():
        if isinstance(taught, dict):
            counts = taught.get(name)
            counts = (
                list(counts.values())
                if isinstance(counts, dict)
                else counts
                if isinstance(counts, list)
                else [counts]
            )
            if not counts or not all(type(count) is int and count > 0 for count in counts):
                raise Unusable(
                    f"nothing taught it the task {name} (config.json: taught {taught.get(name)})"
                )
        elif task.metrics and all(test.get(key) is None for key in task.metrics):
            raise Unusable(
                f"it does not say that anything taught it the task {name}, and {next(iter(task.metrics))} was "
                "not measured"
            )
        elif not history.get(f"train_loss_{name}", np.ones(1)).any():
            raise Unusable(f"nothing taught it the task {name} (its loss is 0 in every epoch)")


def read_csv(path, fields):
    """Columns of a CSV file as a dict of lists of text; at least `fields` and one row."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError:
        raise Unusable(f"it has no {path.name}") from None
    except (OSError, ValueError, csv.Error):
        raise Unusable(f"{path.name} is damaged or empty") from None
    missing = [field for field in fields if field not in header]
    if missing:
        raise Unusable(f"{path.name} lacks the column {missing[0]}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise Unusable(
                f"{path.name} has {len(row)} cells in line {number} and {len(header)} columns"
            )
    if not rows:
        raise Unusable(f"{path.name} has no rows")
    return dict(zip(header, map(list, zip(*rows))))


def numbers(path, field, cells, kind=float):
    """The cells of a column as a (rows,) array; an empty cell is NaN, which no int has, and anything not finite refused."""
    values = []
    for number, cell in enumerate(cells, start=2):
        # Python would also read "1_0" and " 1", which nobody wrote there.
        if not re.fullmatch(r"([-+]?[0-9]+)?" if kind is int else r"[-+0-9.eE]*", cell):
            raise Unusable(f"{field} in line {number} of {path.name} is {cell!r}")
        try:
            values.append(kind(cell) if cell else math.nan)
        except ValueError:
            raise Unusable(f"{field} in line {number} of {path.name} is {cell!r}") from None
        if cell and not abs(values[-1]) < 2**63:
            raise Unusable(f"{field} in line {number} of {path.name} is {cell[:20]}")
    return np.array(values, np.int64 if kind is int and all(cells) else float)


def read_log(path, config, epochs):
    weights = tuple(f"weight_{task}" for task in config["tasks"])
    # Under a weighting of weighting/ that makes a gradient in another way there are none.
    has_none = config.get("weighting", "").partition(":")[0] in registry.names(
        "weighting"
    ) and not any(field in read_csv(path, LOG_FIELDS) for field in weights)
    needed = LOG_FIELDS if has_none else (*LOG_FIELDS, *weights)
    history = {
        field: numbers(path, field, cells) for field, cells in read_csv(path, needed).items()
    }
    found = history["epoch"]
    if len(found) != epochs or (found != np.arange(1, len(found) + 1)).any():
        raise Unusable(f"{path.name} does not hold the epochs 1 to {epochs}, each once")
    for field in needed:
        if np.isnan(history[field]).any():
            raise Unusable(f"{path.name} has an empty cell in the column {field}")
    return history


class PerImage(dict):
    """Columns of test_per_image.csv, tensors (N,) of its N images; one is read when a task asks for it, and one that the
    file lacks, as that of an earlier version may, has nothing in it. names: those of the images."""

    def __init__(self, path, tasks):
        super().__init__()
        self.path, self.cells = path, read_csv(path, PER_IMAGE_FIELDS)
        self.names = tuple(self.cells["name"])
        self.counts = {key for task in tasks.values() for key in task.counts}
        self.flags = {key for task in tasks.values() for key in task.flags}
        if len(set(self.names)) < len(self.names):
            repeated = min(name for name, times in Counter(self.names).items() if times > 1)
            raise Unusable(f"{path.name} names {repeated} more than once")

    def __contains__(self, key):
        return key in self.cells

    def __missing__(self, key):
        import torch  # here, as above

        cells = self.cells.get(key, [""] * len(self.names))
        values = numbers(self.path, key, cells, int if key in self.counts else float)
        if key in self.flags and not np.isin(values[~np.isnan(values)], (0, 1)).all():
            raise Unusable(f"{self.path.name} has a value of {key} that is not 0 or 1")
        self[key] = torch.from_numpy(values)
        return self[key]


def read_pixels(columns, size):
    """Names of the images that have a mask, and their counts (N, 3), which give each image's dice."""
    counts, recorded = (
        np.stack([columns[key].numpy() for key in PIXELS], 1),
        columns["dice"].numpy(),
    )
    unlabelled = np.isnan(counts).all(1) & np.isnan(recorded)
    possible = (
        (counts >= 0).all(1)
        & (counts[:, 0] <= counts[:, 1:].min(1))
        & (counts[:, 1:].max(1) <= size**2)
    )
    agrees = np.abs(recorded - dice_score(counts)) <= TOLERANCE
    for right, what in (
        (possible, "has impossible pixel counts"),
        (agrees, "has a dice that its pixel counts do not give"),
    ):
        wrong = ~(right | unlabelled)
        if wrong.any():
            line = wrong.argmax()
            raise Unusable(f"line {line + 2} of {columns.path.name} ({columns.names[line]}) {what}")
    return tuple(np.array(columns.names)[~unlabelled].tolist()), counts[~unlabelled].astype(
        np.int64
    )


def measure_again(tasks, columns):
    """{metric: number or None} of the whole split from its images; those of METRICS that no task measures are None."""
    metrics = dict.fromkeys(METRICS)
    for name, task in tasks.items():
        try:
            metrics |= task.summarise(columns)
        except Unusable:
            raise
        except Exception as error:  # a task is a user's own file, and may have changed since
            raise Unusable(
                f"what the task {name} measured cannot be taken anew from {columns.path.name}: "
                f"{error!r}"
            ) from None
    return metrics
