"""Run folders, read and checked: what runs/<experiment>/seed<k>/ says of a finished run.

Needs config.json, log.csv, test.json and test_per_image.csv, nothing else of a run. What is not as it must be is left out
with its reason; it is never repaired, and nothing is guessed.
"""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from cli import InputError, listed

METRICS = ("dice", "dice_pooled", "iou_pooled", "accuracy", "box_iou")
TEST_KEYS = ("experiment", "seed", *METRICS, "n_images", "epochs", "best_epoch", "parameters", "train_seconds",
             "images_per_second", "split_hash", "border", "size", "device", "precision")
MAY_BE_NULL = {"accuracy", "box_iou"}
MEASURES = {"cls": "accuracy", "bbox": "box_iou"}  # of the tasks that a table may lack
TEXT_KEYS = {"experiment", "split_hash", "border", "device", "precision"}
CONFIG_KEYS = {"options": dict, "images": dict, "versions": dict, "tasks": list}
PER_IMAGE_FIELDS = ("name", "dice", "intersection", "predicted", "target", "correct", "box_iou")
LOG_FIELDS = ("epoch", "train_loss_seg", "val_dice")
# Options that may differ between the runs of a table: they do not change the result, or they are what is compared.
FREE_OPTIONS = {"seed", "split", "resume", "data", "runs", "threads", "workers", "device", "init"}
TOLERANCE = 1e-5   # between a recorded metric and the same taken from the pixel counts again


class Unusable(Exception):
    """A run folder cannot be used; the message ends the sentence "left out, because ..."."""


@dataclass
class Run:
    """A finished run. config and test are its JSON files; history its log, a dict of (epochs,) arrays, NaN where a cell is
    empty; names its N test images, and counts (N, 3) their pixels in intersection, prediction and target."""
    experiment: str
    seed: int
    config: dict
    test: dict
    history: dict
    names: tuple
    counts: np.ndarray

    @property
    def label(self):
        return f"{self.experiment}/seed{self.seed}"

    @property
    def dice(self):
        """Dice of each test image, (N,)."""
        return dice_score(self.counts)


def dice_score(counts):
    """2 I / (P + T) from pixel counts (..., 3) of intersection, prediction and target -> (...); 1 where both are empty.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species", 1945.
    """
    intersection, predicted, target = np.moveaxis(np.asarray(counts, float), -1, 0)
    return np.where(predicted + target > 0, 2 * intersection / np.maximum(predicted + target, 1), 1.0)


def read_runs(root):
    """All runs under a folder, by experiment and seed, and [(folder, reason)] of those that cannot be used."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; run 'python experiments.py' first or name the folder with --runs")
    runs, left_out = [], []
    for folder in run_folders(root):
        try:
            runs.append(read_run(folder))
        except Unusable as reason:
            left_out.append((folder.relative_to(root).as_posix(), str(reason)))
    runs.sort(key=lambda run: (run.experiment, run.seed))
    return runs, left_out


def run_folders(root):
    """The folders two levels down, and those one level down that hold none; hidden ones aside."""
    def inside(folder):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder for experiment in inside(root) for folder in inside(experiment) or [experiment]]


def read_run(folder):
    """Read one run folder and hold its files against each other; raises Unusable."""
    if not any(folder.iterdir()):
        raise Unusable("the folder is empty")
    if not (folder / "config.json").exists():
        raise Unusable("it is no run folder (it has no config.json)")
    if not (folder / "test.json").exists():
        raise Unusable("the run is not finished (it has no test.json); the same command with --resume goes on with it")
    config, test = read_config(folder / "config.json"), read_test(folder / "test.json")
    experiment, seed = test["experiment"], test["seed"]
    if (folder.parent.name, folder.name) != (experiment, f"seed{seed}"):
        raise Unusable(f"it holds a run of {experiment}, seed {seed}, so it was copied or renamed")
    for key in ("experiment", "split_hash", "border", "size"):
        if config.get(key) != test[key]:
            raise Unusable(f"config.json and test.json differ in {key} ({config.get(key)} and {test[key]})")
    for key in ("seed", "epochs"):
        if config["options"].get(key) != test[key]:
            raise Unusable(f"config.json and test.json differ in {key} ({config['options'].get(key)} and {test[key]})")
    history = read_log(folder / "log.csv", config["tasks"], test["epochs"])
    refuse_untaught(config, test, history)
    names, counts, metrics = read_per_image(folder / "test_per_image.csv", test["size"])
    if len(names) != test["n_images"]:
        raise Unusable(f"test_per_image.csv has {len(names)} images, test.json {test['n_images']}")
    for key in METRICS:
        again, recorded = metrics[key], test[key]
        if (again is None) != (recorded is None) or again is not None and abs(again - recorded) > TOLERANCE:
            raise Unusable(f"{key} in test.json is {recorded}, and {again} from test_per_image.csv")
    return Run(experiment, seed, config, test, history, names, counts)


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
    return config


def read_test(path):
    test = read_json(path)
    for key in TEST_KEYS:
        if key not in test:
            raise Unusable(f"{path.name} lacks {key}")
        value = test[key]
        if value is None and key in MAY_BE_NULL:
            continue
        if value is None and key in METRICS:
            raise Unusable(f"its test images could not measure {key}")
        right = isinstance(value, str) if key in TEXT_KEYS else type(value) in (int, float) and math.isfinite(value)
        if not right:
            raise Unusable(f"{key} in {path.name} is {value!r}")
    return test


def refuse_untaught(config, test, history):
    """Refuse a run with a task that nothing taught: it is not what its name says, and a verdict on it would be on nothing.

    config.json says since some version how many targets there were. Before, a loss of 0 in every epoch says it of boxes, or
    that nothing could be measured at the end.
    """
    taught = config.get("taught")
    for task in config["tasks"]:
        if isinstance(taught, dict):
            counts = taught.get(task)
            counts = counts if isinstance(counts, list) else [counts]
            if not counts or not all(type(count) is int and count > 0 for count in counts):
                raise Unusable(f"nothing taught it the task {task} (config.json: taught {taught.get(task)})")
        elif task in MEASURES and test[MEASURES[task]] is None:
            raise Unusable(f"it does not say that anything taught it the task {task}, and {MEASURES[task]} was not measured")
        elif task == "bbox" and not history.get("train_loss_bbox", np.ones(1)).any():
            raise Unusable("nothing taught it the task bbox (its loss is 0 in every epoch)")


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
            raise Unusable(f"{path.name} has {len(row)} cells in line {number} and {len(header)} columns")
    if not rows:
        raise Unusable(f"{path.name} has no rows")
    return dict(zip(header, map(list, zip(*rows))))


def numbers(path, field, cells, kind=float):
    """The cells of a column as a (rows,) array; an empty cell of a float column is NaN, anything not finite refused."""
    values = []
    for number, cell in enumerate(cells, start=2):
        # Python would also read "1_0" and " 1", which nobody wrote there.
        if not re.fullmatch(r"[-+]?[0-9]+" if kind is int else r"[-+0-9.eE]*", cell):
            raise Unusable(f"{field} in line {number} of {path.name} is {cell!r}")
        try:
            values.append(kind(cell) if cell else math.nan)
        except ValueError:
            raise Unusable(f"{field} in line {number} of {path.name} is {cell!r}") from None
        if cell and not abs(values[-1]) < 2**63:
            raise Unusable(f"{field} in line {number} of {path.name} is {cell[:20]}")
    return np.array(values, np.int64 if kind is int else float)


def read_log(path, tasks, epochs):
    needed = (*LOG_FIELDS, *(f"weight_{task}" for task in tasks))
    history = {field: numbers(path, field, cells) for field, cells in read_csv(path, needed).items()}
    found = history["epoch"]
    if len(found) != epochs or (found != np.arange(1, len(found) + 1)).any():
        raise Unusable(f"{path.name} does not hold the epochs 1 to {epochs}, each once")
    for field in needed:
        if np.isnan(history[field]).any():
            raise Unusable(f"{path.name} has an empty cell in the column {field}")
    return history


def read_per_image(path, size):
    """Names, counts (N, 3) and the metrics of the whole split, taken anew from the rows."""
    columns = read_csv(path, PER_IMAGE_FIELDS)
    names = tuple(columns["name"])
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    if repeated:
        raise Unusable(f"{path.name} names {min(repeated)} more than once")
    counts = np.stack([numbers(path, field, columns[field], int) for field in ("intersection", "predicted", "target")], 1)
    impossible = (counts < 0).any(1) | (counts[:, 0] > counts[:, 1:].min(1)) | (counts[:, 1:].max(1) > size**2)
    recorded, again = numbers(path, "dice", columns["dice"]), dice_score(counts)
    for wrong, what in ((impossible, "has impossible pixel counts"),
                        (~(np.abs(recorded - again) <= TOLERANCE), "has a dice that its pixel counts do not give")):
        if wrong.any():
            raise Unusable(f"line {wrong.argmax() + 2} of {path.name} ({names[wrong.argmax()]}) {what}")
    correct, box_iou = (numbers(path, field, columns[field]) for field in ("correct", "box_iou"))
    if not np.isnan(correct).all() and not np.isin(correct, (0, 1)).all():
        raise Unusable(f"{path.name} has a value of correct that is not 0 or 1")
    intersection, predicted, target = counts.sum(0)
    union = predicted + target - intersection
    metrics = {
        # Of masks without a pet anywhere nothing can be measured, which utils.summarise does not either.
        "dice": float(again.mean()) if target else None,
        "dice_pooled": float(dice_score(counts.sum(0))) if target else None,
        "iou_pooled": float(intersection / union) if target else None,
        "accuracy": None if np.isnan(correct).all() else float(correct.mean()),
        "box_iou": None if np.isnan(box_iou).all() else float(np.nanmean(box_iou)),
    }
    return names, counts, metrics


# ------------------------------------------------------------------------------------------ which runs share a table


def refuse_mixture(runs):
    """Refuse runs that no table can hold together, naming what differs and which runs have which."""
    values = {key: {run.label: run.test[key] for run in runs} for key in ("split_hash", "border", "size")}
    values["images"] = {run.label: str(sorted(run.config["images"].items())) for run in runs}
    values["the weights of --init"] = {run.label: run.config.get("init") for run in runs}
    for option in sorted({option for run in runs for option in run.config["options"]} - FREE_OPTIONS):
        # A run of an older version may not know the option yet; that is a difference of code, which the page tells.
        values[f"--{option.replace('_', '-')}"] = {
            run.label: run.config["options"][option] for run in runs if option in run.config["options"]}
    for key, of_run in values.items():
        if len(set(map(str, of_run.values()))) > 1:
            groups = "; ".join(f"{value} in {listed(labels, 6)}" for value, labels in grouped(of_run).items())
            raise InputError(f"runs that differ in {key} cannot share a table: {groups}; move one kind out of the folder")


def grouped(of_run):
    """{label: value} -> {value as text: [labels]}, the largest group first."""
    groups = {}
    for label, value in of_run.items():
        groups.setdefault(str(value), []).append(label)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def same_images(runs):
    """Runs that were tested on the images that most were, and [(folder, reason)] of the others.

    Names, order and target pixels must be the same: images are compared one by one, and by batches in the published formula.
    """
    def images(run):
        return run.names, run.counts[:, 2].tobytes()

    most = Counter(map(images, runs)).most_common(1)[0][0]  # the first of equals
    left_out = []
    for run in runs:
        if images(run) != most:
            what = "order or names of its test images" if run.names != most[0] else "masks of its test images"
            left_out.append((run.label, f"the {what} are not those of most other runs"))
    return [run for run in runs if images(run) == most], left_out
