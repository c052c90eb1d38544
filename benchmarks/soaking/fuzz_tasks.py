"""Data of which a task cannot be learned or measured: without targets, or without the file that would hold them."""

import json
import shutil

import h5py
import numpy as np

from data.contract import SPLITS
from soaking.bench import CPU, Case, measured, pick, refused_untouched, some
from soaking.kills import without_times
from soaking.options import EXPERIMENTS, TRAIN
from soaking.server import call

FILES = {"seg": "masks", "cls": "binary", "bbox": "bboxes"}
METRICS = {"cls": "accuracy", "bbox": "box_iou"}


def trained(bench, place, script, empty):
    """An expectation: a run that says null of what its test split cannot tell, and of a baseline what it always says.

    empty: {task: the splits that have no targets of it}"""
    experiment, tasks = EXPERIMENTS[script]

    def wrong(outcome):
        if outcome.status:
            return f"refused: {outcome.err}"
        found = measured(place / "runs" / experiment / "seed0")
        for task, metric in METRICS.items():
            null = task not in tasks or "test" in empty.get(task, ())
            if (found[metric] is None) != null:
                return f"{metric} is {found[metric]}"
        if experiment == "baseline" and not empty.get("seg") and found != bench.baseline:
            return f"other metrics than with the other files: {found} and {bench.baseline}"

    return wrong


def evaluated(bench, task, is_empty):
    """An expectation: an evaluation on the test split says null of what it cannot tell, else what it always says."""

    def wrong(outcome):
        if outcome.status:
            return f"refused: {outcome.err}"
        expected = without_times(bench.metrics) | ({METRICS[task]: None} if is_empty else {})
        found = without_times(json.loads(outcome.out))
        different = [key for key in expected if found.get(key) != expected[key]]
        if different:
            return f"{different[0]} is {found.get(different[0])} and should be {expected[different[0]]}"

    return wrong


def without_masks(outcome):
    """An expectation: what nobody can measure is refused or null."""
    if outcome.status == 0 and json.loads(outcome.out)["dice"] is not None:
        return f"Dice is {json.loads(outcome.out)['dice']} without a mask"


def evaluation(bench, expect):
    return "evaluate.py", ["--data", "data", *CPU, *bench.checkpoint], expect


def training(bench, place, rng, empty):
    """A training, and what it has to come to: refused where the training split cannot teach one of its tasks, or where masks
    to choose or to test by are missing."""
    script = pick(rng, tuple(EXPERIMENTS))
    refused = any("train" in empty.get(task, ()) for task in EXPERIMENTS[script][1])
    expect = (
        refused_untouched(place)
        if refused
        else "any"
        if empty.get("seg")
        else trained(bench, place, script, empty)
    )
    return script, ["--data", "data", *TRAIN], expect


def empty_task(bench, place, rng):
    """Targets that tell nothing: no box, one species, no pixel of a pet."""
    task = pick(rng, tuple(FILES))
    splits = pick(rng, (SPLITS, some(rng, SPLITS)))
    shutil.copytree(bench.reference.prepared, place / "data")
    call(empty_targets, task, splits, int(rng.integers(2**31)), cwd=place)
    commands = [
        ("data_rechunk.py", ["--data", "data"], "accept"),
        ("data_rechunk.py", ["--data", "data", "--check"], "accept"),
        training(bench, place, rng, {task: splits}),
    ]
    if task == "bbox":
        commands.append(evaluation(bench, evaluated(bench, task, "test" in splits)))
    return Case(f"no {task} in {', '.join(splits)}", commands)


def empty_targets(task, splits, seed):
    """In a child: take the targets of a task out of splits of the folder `data`, and their words out of index.csv."""
    rng = np.random.default_rng(seed)
    species = int(rng.integers(2))
    for split in splits:
        with h5py.File(f"data/{split}/{FILES[task]}.h5", "r+") as file:
            file[FILES[task]][...] = {"seg": 0, "cls": species, "bbox": np.nan}[task]
        path = f"data/{split}/index.csv"
        with open(path, encoding="utf-8") as file:
            head, *rows = [line.split(",") for line in file.read().splitlines()]
        for cells in rows:
            if task == "cls":
                cells[3] = ("cat", "dog")[species]
            if task == "bbox":
                cells[4] = "0"
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(",".join(cells) + "\n" for cells in [head, *rows]))


def missing_file(bench, place, rng):
    """Nothing but the images has to be there; what needs more is refused."""
    task = pick(rng, tuple(FILES))
    splits = pick(rng, (SPLITS, some(rng, SPLITS)))
    rechunked = rng.random() < 0.5
    shutil.copytree(bench.reference.data if rechunked else bench.reference.prepared, place / "data")
    for split in splits:
        (place / "data" / split / f"{FILES[task]}.h5").unlink()
    commands = [] if rechunked else [("data_rechunk.py", ["--data", "data"], "accept")]
    commands += [
        ("data_rechunk.py", ["--data", "data", "--check"], "accept"),
        training(bench, place, rng, {task: splits}),
    ]
    if task in METRICS:
        commands += [
            evaluation(bench, evaluated(bench, task, "test" in splits)),
            ("mtl_vis.py", ["--data", "data", *bench.checkpoint], "accept"),
        ]
    elif "test" in splits:
        commands.append(evaluation(bench, without_masks))
    return Case(f"no {FILES[task]}.h5 in {', '.join(splits)}", commands)


KINDS_OF_INPUT = (empty_task, missing_file)
