"""Run folders made up without training: records that agree with each other, and differences that are known."""

import csv
import json

import numpy as np

SIZE, IMAGES = 64, 70
EXPERIMENTS = (
    "mtl",
    "baseline",
    "ablation_cls",
    "ablation_bbox",
    "uncertainty",
    "split_80_10_10",
    "split_75_15_15",
    "split_50_25_25",
    "split_25_25_50",
    "split_25_50_25",
)


def make_runs(root, experiments=EXPERIMENTS, seeds=range(5), effects=None, noise=0.004, **changes):
    """One run folder for each experiment and seed; effects: dict of experiment -> shift of Dice."""
    for experiment in experiments:
        for seed in seeds:
            make_run(root, experiment, seed, (effects or {}).get(experiment, 0.0), noise, **changes)
    return root


def make_run(
    root,
    experiment,
    seed,
    effect=0.0,
    noise=0.004,
    epochs=4,
    images=IMAGES,
    options=None,
    tasks=None,
    weighting=None,
    settings=None,
    measured=None,
    metrics=None,
    **changes,
):
    """One run folder. changes go into config.json and test.json alike; options into config.json's options.

    As an earlier version wrote it, unless there is a weighting; then with what it says since of weighting and settings.
    measured: {column: list of N numbers, NaN where empty} for test_per_image.csv, and metrics for test.json, beside the old.
    """
    shared, own = np.random.default_rng(0), np.random.default_rng([seed, *experiment.encode()])
    target = shared.integers(400, 2500, images)
    difficulty = shared.beta(12, 2, images)
    quality = np.clip(
        difficulty + effect + own.normal(0, noise) + own.normal(0, 0.02, images), 0, 1
    )
    intersection, predicted = np.round(quality * target).astype(int), target
    tasks = tasks or {
        "baseline": ["seg"],
        "ablation_cls": ["seg", "cls"],
        "ablation_bbox": ["seg", "bbox"],
    }.get(experiment, ["seg", "cls", "bbox"])
    correct = own.integers(0, 2, images) if "cls" in tasks else None
    box_iou = (
        np.where(np.arange(images) % 7 == 0, np.nan, own.uniform(0.3, 0.9, images))
        if "bbox" in tasks
        else None
    )
    dice = 2 * intersection / (predicted + target)
    union = (predicted + target - intersection).sum()
    record = {
        "split_hash": "0123456789abcdef",
        "border": "pet",
        "size": SIZE,
        "device": "cpu",
        "precision": "fp32",
        **changes,
    }
    test = {
        "experiment": experiment,
        "seed": seed,
        "dice": dice.mean(),
        "dice_pooled": 2 * intersection.sum() / (predicted + target).sum(),
        "iou_pooled": intersection.sum() / union,
        "accuracy": None if correct is None else correct.mean(),
        "box_iou": None if box_iou is None else np.nanmean(box_iou),
        "n_images": images,
        "epochs": epochs,
        "best_epoch": epochs,
        "parameters": 1_000_000 + 1000 * len(tasks),
        "train_seconds": 100.0 + seed,
        "images_per_second": 50.0,
        **record,
        **(metrics or {}),
    }
    config = {
        "experiment": experiment,
        "options": {
            "data": "/home/somebody/pets",
            "runs": "runs",
            "epochs": epochs,
            "batch_size": 16,
            "lr": 0.002,
            "seed": seed,
            "width": 16,
            "augment": "full",
            "device": "auto",
            "precision": "auto",
            "threads": None,
            "workers": 0,
            "resume": True,
            "limit": None,
            **(options or {}),
        },
        "tasks": tasks,
        "parameters": test["parameters"],
        "images": {"train": 500, "val": 70, "test": images},
        "versions": {"python": "3.12.1", "torch": "2.9.0", "numpy": "2.1.0"},
        "commit": "c0ffee" + 34 * "0",
        **record,
    }
    if weighting:
        config |= {
            "weighting": weighting,
            "settings": settings or {},
            "taught": dict.fromkeys(tasks, 500),
        }
        config["options"].setdefault("masks", None)
    folder = root / experiment / f"seed{seed}"
    folder.mkdir(parents=True)
    for name, content in (("config.json", config), ("test.json", test)):
        (folder / name).write_text(json.dumps(content, default=float, indent=2))
    rows = [
        [
            f"pet_{k}",
            dice[k],
            intersection[k],
            predicted[k],
            target[k],
            "" if correct is None else correct[k],
            "" if box_iou is None or np.isnan(box_iou[k]) else box_iou[k],
        ]
        for k in range(images)
    ]
    header = ["name", "dice", "intersection", "predicted", "target", "correct", "box_iou"]
    for column, values in (measured or {}).items():
        header.append(column)
        for row, value in zip(rows, values):
            row.append("" if value != value else value)
    write_csv(folder / "test_per_image.csv", header, rows)
    weights = {
        f"weight_{task}": [
            1 + (0.3 if task == "seg" else -0.2) * e / epochs + own.normal(0, 0.02)
            for e in range(1, epochs + 1)
        ]
        for task in tasks
    }
    log = [
        [
            e + 1,
            1.2 * 0.7**e + own.normal(0, 0.02),
            0.9 - 0.5 * 0.6**e + own.normal(0, 0.01),
            *(values[e] for values in weights.values()),
        ]
        for e in range(epochs)
    ]
    write_csv(folder / "log.csv", ["epoch", "train_loss_seg", "val_dice", *weights], log)
    return folder


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def change_json(path, **values):
    """Set keys of a JSON file; the value None removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(
        json.dumps(
            {key: value for key, value in content.items() if value is not None or key not in values}
        )
    )
