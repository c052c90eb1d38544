"""Run folders made up without training: records that agree, and differences that are known."""

import csv
import json

import numpy as np

from config import Config
from study.table import EXPERIMENTS as TABLE

SIZE, IMAGES, OFFICIAL = 64, 70, 40
EXPERIMENTS = tuple(TABLE)


def make_runs(root, experiments=EXPERIMENTS, seeds=range(5), effects=None, noise=0.004, **changes):
    """One run folder for each experiment and seed; effects: {experiment: shift of Dice}."""
    for experiment in experiments:
        for seed in seeds:
            effect = (effects or {}).get(experiment, 0.0)
            make_run(root, experiment, seed, effect=effect, noise=noise, **changes)
    return root


def make_run(root, experiment, seed, effect=0.0, noise=0.004, official=None, **changes):
    """One run folder.

    official: shift of Dice on the official half, which is measured then; measured: {column: values}
    of test_per_image.csv; metrics: {key: value} of test.json; log: {column: values}; info: of
    config.json's run; all else: options.
    """
    measured, metrics = changes.pop("measured", {}), changes.pop("metrics", {})
    log, info = changes.pop("log", {}), changes.pop("info", {})
    config = configure(experiment, seed, **changes)
    tasks, epochs = list(config.tasks), config.epochs
    rng = np.random.default_rng([seed, *experiment.encode()])
    luck = rng.normal(0, noise)
    facts = {
        "device": "cpu",
        "precision": "fp32",
        "processes": 1,
        "threads": 1,
        "convolution": "direct",
        "parameters": 1_000_000 + 1000 * len(tasks),
        "init_sha256": "1" * 64 if config.init else None,
        "teacher_sha256": None,
        "encoder_weights_sha256": "2" * 64 if config.encoder_weights != "none" else None,
        "settings": {},
        "images": {"train": 500, "val": 70, "test": IMAGES},
        "labelled": dict.fromkeys(tasks, 500) | {"seg": config.num_masks or 500},
        "split_hash": "0123456789abcdef",
        "label_digest": {"masks": "a" * 16},
        "border": "pet",
        "size": SIZE,
        "versions": {"python": "3.12.1", "torch": "2.9.0", "numpy": "2.1.0"},
        "commit": "c0ffee" + 34 * "0",
        "processor": "Fast CPU",
        **info,
    }
    columns, figures = images(IMAGES, 0.85 + effect + luck, rng, "seg" in tasks)
    figures |= {"accuracy": None, "box_iou": None}
    if "cls" in tasks:
        columns["correct"] = rng.integers(0, 2, IMAGES)
        figures["accuracy"] = columns["correct"].mean()
    if "bbox" in tasks:
        columns["box_iou"] = rng.uniform(0.3, 0.9, IMAGES)
        figures["box_iou"] = columns["box_iou"].mean()
    test = {
        "experiment": experiment,
        "seed": seed,
        **figures,
        "n_images": IMAGES,
        "epochs": epochs,
        "best_epoch": epochs,
        "parameters": facts["parameters"],
        "train_seconds": 100.0 + seed,
        "images_per_second": 50.0,
        **{key: facts[key] for key in ("split_hash", "border", "size", "device", "precision")},
        **metrics,
    }
    folder = root / experiment / f"seed{seed}"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {**config.to_json(), "run": facts})
    write_json(folder / "test.json", test)
    write_csv(folder / "test_per_image.csv", {**columns, **measured})
    if official is not None:
        columns, figures = images(OFFICIAL, 0.85 + official + luck, rng, True)
        shared = {"n_images": OFFICIAL, "split_hash": "f" * 16, "size": SIZE}
        write_json(folder / "official.json", {**figures, **shared})
        write_csv(folder / "official_per_image.csv", columns)
    write_csv(folder / "log.csv", {**make_log(tasks, epochs, rng), **log})
    return folder


def configure(experiment, seed, tasks=None, weighting=None, epochs=4, **options):
    """The Config of a run; an experiment of the table has its tasks and weighting."""
    one = TABLE.get(experiment)
    tasks = tasks or (one.tasks if one else ("seg",))
    weighting = weighting or (one.weighting if one else "equal")
    config = Config(experiment=experiment, tasks=tuple(tasks), weighting=weighting, seed=seed)
    return config.replace(**{"epochs": epochs, "width": 16, **options})


def images(n, quality, rng, has_masks):
    """(columns, figures) of n images of about such a Dice."""
    target = np.random.default_rng(0).integers(400, 2500, n)
    spread = np.random.default_rng(1).normal(0, 0.05, n)
    share = np.clip(quality + spread + rng.normal(0, 0.02, n), 0, 1)
    counts = np.round(share * target).astype(int)
    dice = counts / target
    columns = {"name": [f"pet_{k}" for k in range(n)]}
    if not has_masks:
        return columns, {"dice": None, "dice_pooled": None, "iou_pooled": None}
    columns |= {"dice": dice, "intersection": counts, "predicted": target, "target": target}
    inside, area = counts.sum(), target.sum()
    iou = inside / (2 * area - inside)
    figures = {"dice": dice.mean(), "dice_pooled": inside / area, "iou_pooled": iou}
    return columns, figures


def make_log(tasks, epochs, rng):
    """Columns of log.csv."""
    epoch = np.arange(epochs)
    log = {"epoch": epoch + 1, "seconds": np.full(epochs, 25.0)}
    log["train_loss_seg"] = 1.2 * 0.7**epoch + rng.normal(0, 0.02, epochs)
    for key in ("val_dice", "val_accuracy", "val_box_iou"):
        log[key] = 0.9 - 0.5 * 0.6**epoch + rng.normal(0, 0.01, epochs)
    for task in tasks:
        log[f"weight_{task}"] = 1 + epoch / epochs + rng.normal(0, 0.02, epochs)
    return log


def write_json(path, content):
    path.write_text(json.dumps(content, default=float, indent=2))


def write_csv(path, columns):
    """{name: values}; nothing for NaN."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(["" if value != value else value for value in row])


def change_json(path, **values):
    """Set keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | values)


def change_cell(path, line, column, value):
    """Set a cell of a CSV file; line 1 is the first below the header."""
    rows = [row.split(",") for row in path.read_text().splitlines()]
    rows[line][rows[0].index(column)] = value
    path.write_text("\n".join(map(",".join, rows)) + "\n")


def cells(text, heading, name, nth=0):
    """The cells of a row in the nth table under a heading of a page."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in rows[nth].strip("|").split("|")][1:]
