"""The study of label efficiency as data: which runs, in the order of their importance.

    experiments.py --study masks -- --data D

Segmentation is trained on the masks of a few images, alone and beside tasks whose labels all
images have, or none; every arm sees the same masks as often, in as many steps. Why:
results/masks/PROTOCOL.md.
"""

from dataclasses import dataclass
from itertools import product

from cli import InputError
from data import contract
from study.commands import Run, parse
from study.records import read_columns

ALL = "all"
HALF = "all_half"  # all masks, but half of a batch has one, as with fewer
PRIMARY = (50, 100, 200)  # the primary outcome is the mean over these
# Annotation time of a label in seconds (costs.py has the sources).
SECONDS = {"mask": 79.0, "bbox": 7.0, "breed": 2.0}
SHARE = 0.2  # of the loss that the auxiliary tasks have together
HOW = ("--threads", "1", "--epochs", "8")  # one thread: the same runs on any number of cores
LEAST = 50  # images with a mask that the study takes
COLUMN = "LABEL"  # stands for the column of index.csv that is the cheap label
PRETRAINED = ("--encoder=efficientnet_lite0", "--encoder-weights=package")


@dataclass(frozen=True)
class Arm:
    """What is trained: tasks, options, and what it needs of the data."""

    tasks: tuple
    needs: tuple = ()
    options: tuple = ()


LABEL = f"column:{COLUMN}"
ARMS = {
    "seg": Arm(("seg",)),
    "label": Arm(("seg", LABEL), (COLUMN,)),
    "placebo": Arm(("seg", f"placebo:{COLUMN}"), (COLUMN,)),
    "bbox": Arm(("seg", "bbox"), ("bboxes",)),
    "label_bbox": Arm(("seg", LABEL, "bbox"), (COLUMN, "bboxes")),
    "pretrained": Arm(("seg",), (), PRETRAINED),
    "pretrained_bbox": Arm(("seg", "bbox"), ("bboxes",), PRETRAINED),
}
CORE = ("seg", "label", "placebo", "bbox", "label_bbox")
RIVALS = ("pretrained", "pretrained_bbox")
# (arms, sizes, seeds), the most important first; what an earlier block has is not run again.
BLOCKS = (
    (CORE[:3], (50, 200), range(3)),
    (CORE, (50, 100, 200, ALL), range(5)),
    (RIVALS, (50, 100, 200, ALL), range(5)),
    (("seg", "bbox"), (HALF,), range(5)),
    (CORE, (50, 100, 200), range(5, 10)),
)


def runs(folder, options):
    """[Run] of the whole study, in the order of importance; folder: of the data.

    Leaves out arms that the data lack labels for. Refuses data without enough masks.
    """
    kinds = contract.describe(folder)["kinds"]["train"]
    masks = count_masks(folder) if "masks" in kinds else 0
    if masks < LEAST:
        raise InputError(f"{folder} has masks of {masks} training images; the study takes {LEAST}")
    column = column_of(folder / "train" / "index.csv")
    known, found = {*kinds, COLUMN} if column else set(kinds), {}
    for arms, sizes, seeds in BLOCKS:
        for seed, size, arm in product(seeds, sizes, arms):
            if isinstance(size, int) and size > masks / 2:
                size = ALL
            if known.issuperset(ARMS[arm].needs):
                run = run_of(arm, size, column, ("--seed", seed, *options))
                found.setdefault((run.config.experiment, seed), run)
    return list(found.values())


def run_of(arm, size, column, options):
    """The Run of an arm and a number of masks."""
    tasks = [task.replace(COLUMN, column) for task in ARMS[arm].tasks]
    words = ["--name", f"{arm}_masks{size}", *HOW, *ARMS[arm].options]
    if size == HALF:
        words.append("--half-masked")
    elif size != ALL:
        words += ["--num-masks", size]
    if len(tasks) > 1:
        others = [f"{SHARE / (len(tasks) - 1):.4g}"] * (len(tasks) - 1)
        words += ["--weighting", "-".join([f"{1 - SHARE:g}", *others])]
    return Run(("train.py",), parse("--tasks", *tasks, *words, *options))


def column_of(path):
    """The cheap label: breed, else the first custom column with two classes or more; "" if none."""
    if not path.exists():
        return ""
    columns = read_columns(path)
    for name in sorted(columns, key=lambda name: name != "breed"):
        classes = set(columns[name]) - {""}
        # Of more classes there would be few images each.
        if name not in ("row", "name", "has_box") and 2 <= len(classes) <= len(columns[name]) // 4:
            return name
    return ""


def count_masks(folder):
    """How many training images have a mask, at least in part."""
    file, dataset = contract.open_rechunked(folder, "train", "masks")
    found = 0
    with file:
        for _, part in contract.slabs(dataset, len(dataset)):
            found += int((part != contract.UNLABELLED).reshape(len(part), -1).any(1).sum())
    return found
