"""What the targets of a split can teach a network, and what they can measure.

Without this a task that has no targets would be trained, on a loss that is always 0, and drawn and judged like any other.
"""

import cli
from cli import InputError
from dataloader_mtl import MTLDataset

# The script that trains what is left of the tasks.
SCRIPTS = {("seg",): "train_baseline.py", ("seg", "cls"): "train_ablation_cls.py", ("seg", "bbox"): "train_ablation_bbox.py"}
BRING = {"seg": "masks of pets", "cls": "images of both classes", "bbox": "head boxes"}
METRICS = {"seg": "Dice and IoU", "cls": "accuracy", "bbox": "box IoU"}


def taught(tasks, dataset):
    """What a run's records say of its targets: {"seg": images with a pet in the mask, "cls": [cats, dogs], "bbox": images
    with a box}, of its tasks alone. Raises cli.InputError where there is nothing to learn of one."""
    summary = dataset.targets_summary()
    missing = {task: found for task in tasks if (found := lacking(task, summary, len(dataset)))}
    if missing:
        left = SCRIPTS.get(tuple(task for task in tasks if task not in missing))
        ways = [f"train without it ({left})" if len(missing) == 1 else f"train without them ({left})"] if left else []
        ways.append(f"bring {' and '.join(BRING[task] for task in missing)}")
        if len(dataset) < dataset.summary["splits"][dataset.split]:
            whole = MTLDataset(dataset.data, dataset.split)
            if not any(lacking(task, whole.targets_summary(), len(whole)) for task in missing):
                ways = ["use a larger --limit"]
        raise InputError(f"{dataset.data / dataset.split} cannot teach {' and '.join(missing)}: of {images(len(dataset))} "
                         f"{' and '.join(missing.values())}; {', or '.join(ways)}")
    return {task: summary[task] for task in tasks}


def refuse_blind_choice(dataset):
    """Refuse a validation split on which no network could be chosen."""
    found = lacking("seg", dataset.targets_summary(), len(dataset))
    if found:
        raise InputError(f"{dataset.data / dataset.split} cannot choose a network: of {images(len(dataset))} {found}; bring "
                         "masks of pets, or split the data again")


def warn_of_unmeasured(tasks, dataset):
    """Say what a split cannot measure of some tasks; it is null in the results."""
    summary = dataset.targets_summary()
    for task in tasks:
        found = lacking(task, summary, len(dataset))
        if found:
            cli.warn(f"{dataset.data / dataset.split} cannot measure {METRICS[task]}, which is null there: of "
                     f"{images(len(dataset))} {found}")


def lacking(task, summary, n):
    """What the targets of n images lack to teach or to measure a task, in words, or None."""
    found = summary.get(task)
    if found is None:
        return f"it is not known which have {BRING[task]}"
    if task == "cls":
        return None if min(found) else f"all are {'dogs' if found[1] else 'cats'}"
    return None if found else {"seg": "no mask holds a pet", "bbox": "none has a head box"}[task]


def images(n):
    return "its one image" if n == 1 else f"its {n} images"
