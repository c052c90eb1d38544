"""Run folders, read and checked: runs/<experiment>/seed<k>/ of finished runs.

A run holds config.json, log.csv, test.json and test_per_image.csv, and may hold official.json
with official_per_image.csv, what its best.pt gave on the official test half. A folder that is not
as it must be is left out with the reason; nothing is repaired or guessed.
"""

import csv
import json
import math
from dataclasses import dataclass

import numpy as np

import registry
from cli import InputError
from config import Config
from legacy import from_legacy
from study.table import EXPERIMENTS, METRICS

FILES = ("config.json", "log.csv", "test.json", "test_per_image.csv")
OFFICIAL = ("official.json", "official_per_image.csv")
TUNING = "tuning.json"  # beside the seeds of a row: values tried, and the one chosen
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
PIXELS = ("intersection", "predicted", "target")
TOLERANCE = 1e-5  # between a recorded Dice and the one of the pixel counts


class Unusable(Exception):
    """A run folder cannot be used; the message is the reason."""


@dataclass
class Images:
    """Images with a mask: names (N,), and pixel counts (N, 3) of PIXELS."""

    names: tuple
    counts: np.ndarray

    @property
    def dice(self):
        """Dice of each image, (N,)."""
        return dice_score(self.counts)


@dataclass(eq=False)
class Run:
    """A finished run.

    config, test: its JSON files; history {column of log.csv: (epochs,)}, NaN where a cell is
    empty; metrics {task: {key: Metric}}; images: of the test split, None without segmentation;
    official: (official.json, Images), or None where it was not measured.
    """

    experiment: str
    seed: int
    config: dict
    test: dict
    history: dict
    metrics: dict
    images: Images | None = None
    official: tuple | None = None

    @property
    def label(self):
        return f"{self.experiment}/seed{self.seed}"

    @property
    def info(self):
        """What was found and measured at the run's start (config.json: run)."""
        return self.config["run"]

    @property
    def labels(self):
        """{label: digest of what the tasks read}; of an earlier version unknown, {}."""
        digest = self.info.get("label_digest") or {}
        return digest if isinstance(digest, dict) else {"+".join(self.tasks): digest}

    def labelled(self, task):
        """Training images labelled for a task. Some versions counted classes: 0 if one has none."""
        n = (self.info.get("labelled") or {}).get(task, self.info["images"]["train"])
        counts = [n] if isinstance(n, int) else list(n.values() if isinstance(n, dict) else n)
        return sum(counts) if all(counts) else 0

    @property
    def processor(self):
        return self.info.get("processor") or "unknown"

    @property
    def tasks(self):
        return list(self.metrics)

    def of(self, half):
        """(figures, Images) of the test split or of the official half; None where it has none."""
        return self.official if half == "official" else self.images and (self.test, self.images)

    @property
    def chosen_by(self):
        """(key, Metric) that chose the checkpoint: the first of the first task."""
        return next(iter(self.metrics[self.tasks[0]].items()))

    @property
    def moves_weights(self):
        """Whether a method changed the loss weights, and the log says how."""
        if not is_named(self.config["weighting"]):
            return False
        weights = [self.history.get(f"weight_{task}", np.full(1, np.nan)) for task in self.tasks]
        return bool(np.isfinite(np.concatenate(weights)).all() and any(map(np.ptp, weights)))


def figures(runs, key, half="test"):
    """A figure of test.json or official.json of some runs, (n,); NaN where it was not measured."""
    found = [(run.of(half) or ({},))[0] if half != "test" else run.test for run in runs]
    return np.array([of_run.get(key) for of_run in found], float)


def is_named(weighting):
    """Whether a weighting is a file of weighting/, not equal, fixed numbers or uncertainty."""
    return str(weighting).partition(":")[0] in registry.names("weighting")


def dice_score(counts):
    """2 I / (P + T) of pixel counts (..., 3): intersection, prediction, target -> (...).

    1 where both are empty. Source: Dice, "Measures of the Amount of Ecologic Association Between
    Species", 1945.
    """
    intersection, predicted, target = np.moveaxis(np.asarray(counts, float), -1, 0)
    dice = 2 * intersection / np.maximum(predicted + target, 1)
    return np.where(predicted + target > 0, dice, 1.0)


# ----------------------------------------------------------------------------------------- reading


def read_runs(root):
    """All runs under a folder, by experiment and seed, and [(folder, reason)] of the others."""
    if not root.is_dir():
        raise InputError(
            f"there is no folder {root}; run 'python experiments.py' first or name it with --runs"
        )
    runs, left_out = [], []
    for experiment in sorted(root.glob("[!.]*/")):
        for folder in sorted(experiment.glob("[!.]*/")) or [experiment]:
            try:
                runs.append(read_run(folder))
            except Unusable as reason:
                left_out.append((folder.relative_to(root).as_posix(), str(reason)))
    runs.sort(key=lambda run: (run.experiment, run.seed))
    return runs, left_out


def read_run(folder):
    """Read one run folder and check its files against each other. Raises Unusable."""
    for name in FILES:
        if not (folder / name).is_file():
            hint = "; finish it with --resume" if name == "test.json" else ""
            raise Unusable(f"it has no {name}{hint}")
    try:
        config, test = read_config(folder / FILES[0]), read_json(folder / "test.json")
        columns = read_columns(folder / "log.csv")
        history = {key: numbers(cells) for key, cells in columns.items()}
        run = Run(config["experiment"], config["seed"], config, test, history, read_metrics(config))
        if any("dice" in metrics for metrics in run.metrics.values()):
            run.images = read_images(folder / "test_per_image.csv", test)
            if (folder / OFFICIAL[0]).is_file():
                official = read_json(folder / OFFICIAL[0])
                run.official = official, read_images(folder / OFFICIAL[1], official)
        _check(run, folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Unusable(f"its records are damaged: {error!r}") from None
    return run


def _check(run, folder):
    """Refuse records that disagree, and a task that no image was labelled for."""
    test, history = run.test, run.history
    if (folder.parent.name, folder.name) != (run.experiment, f"seed{run.seed}"):
        raise Unusable(f"it holds {run.label}: copied or renamed")
    for key in ("experiment", "seed", "epochs", "split_hash", "border", "size"):
        value = run.info.get(key, run.config.get(key))
        if value != test[key]:
            raise Unusable(f"config.json and test.json differ in {key} ({value} and {test[key]})")
    for key in TEST_KEYS:
        if key not in METRICS and not isinstance(test[key], str | int | float):
            raise Unusable(f"{key} in test.json is {test[key]!r}")
    if not np.array_equal(history["epoch"], np.arange(1, test["epochs"] + 1)):
        raise Unusable(f"log.csv does not hold the epochs 1 to {test['epochs']}, each once")
    key = f"val_{run.chosen_by[0]}"
    if not np.isfinite(history[key]).all():
        raise Unusable(f"log.csv has an empty cell in the column {key}")
    for task, metrics in run.metrics.items():
        if not run.labelled(task) or not history.get(f"train_loss_{task}", np.ones(1)).any():
            raise Unusable(f"no training image is labelled for its task {task}")
        if metrics and all(test.get(key) is None for key in metrics):
            raise Unusable(f"test.json has no figure of its task {task}")


def read_json(path):
    """A JSON object whose numbers are finite."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=float)
    except (OSError, ValueError, RecursionError):
        raise Unusable(f"{path.name} is damaged") from None
    if not isinstance(content, dict):
        raise Unusable(f"{path.name} holds no JSON object")
    for key, value in content.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise Unusable(f"{key} in {path.name} is {value}")
    return content


def read_config(path):
    """config.json in the present form; the first version's weighting is that of its experiment."""
    try:
        config = Config().to_json() | from_legacy(read_json(path))
        published = EXPERIMENTS.get(config["experiment"])
        if config["weighting"] is None and published and published.tasks == tuple(config["tasks"]):
            config["weighting"] = published.weighting
        if isinstance(config["run"]["images"], dict):
            return config
    except (KeyError, TypeError, AttributeError):
        pass
    raise Unusable(f"{path.name} does not say how the run was configured")


def read_metrics(config):
    """{task: {key: Metric}} of the tasks of a run, with what they learned of its training split."""
    try:
        tasks = registry.find_tasks(config["tasks"])
        for task in tasks:
            task.settings = config["run"]["settings"].get(task.name, task.settings)
        return {task.name: dict(task.metrics) for task in tasks}
    except Exception as error:  # a task is a user's own file, and may be gone, or changed since
        raise Unusable(f"its tasks cannot be read: {error}") from None


def read_columns(path):
    """Columns of a CSV file, {name: list of text}; every row as long as the header."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        return dict(zip(header, map(list, columns), strict=True))
    except (OSError, ValueError, csv.Error):
        raise Unusable(f"{path.name} is damaged, empty or gone") from None


def numbers(cells):
    """A column as a float array, NaN where a cell is empty."""
    values = np.array([float(cell or "nan") for cell in cells])
    if np.isinf(values).any():
        raise ValueError("a number that is not finite")
    return values


def read_images(path, figures):
    """Images of a test_per_image.csv that have a mask; their Dice must give the recorded one."""
    columns = read_columns(path)
    counts = np.stack([numbers(columns[key]) for key in PIXELS], 1)
    names = np.array(columns["name"])
    if len(names) != figures["n_images"] or len(set(names)) < len(names):
        raise Unusable(f"{path.name} does not name {figures['n_images']} images, each once")
    labelled = ~np.isnan(counts).any(1)
    names, counts = names[labelled], counts[labelled]
    possible = (counts >= 0) & (counts == counts.round()) & (counts <= figures["size"] ** 2)
    if not possible.all() or (counts[:, 0] > counts[:, 1:].min(1)).any():
        raise Unusable(f"{path.name} has impossible pixel counts")
    images = Images(tuple(names.tolist()), counts.astype(np.int64))
    for key, again in (("dice", images.dice.mean()), ("dice_pooled", dice_score(counts.sum(0)))):
        if not abs(figures[key] - again) <= TOLERANCE:
            raise Unusable(f"{key} is {figures[key]}, and {again} from {path.name}")
    return images


def read_tuning(root):
    """{experiment: its tuning.json} of the rows that were tuned."""
    return {path.parent.name: read_json(path) for path in sorted(root.glob(f"*/{TUNING}"))}
