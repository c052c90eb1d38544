"""The study of label efficiency as data: which runs, in the order of their importance.

    experiments.py --study masks -- --data D

Segmentation is trained on the masks of a few images, alone and beside tasks whose labels all
images have, or none; every arm sees the same masks as often, in as many steps. Why:
results/masks/PROTOCOL.md.
"""

from dataclasses import dataclass

from cli import InputError
from data import contract
from study import commands
from study.records import read_columns

ALL = "all"
HALF = "all_half"  # all masks, but half of a batch has one, as with fewer
SIZES = (50, 100, 200, ALL, HALF)
PRIMARY = (50, 100, 200)  # the primary outcome is the mean over these
# Annotation time of a label in seconds (costs.py has the sources).
SECONDS = {"mask": 79.0, "bbox": 7.0, "breed": 2.0}
SHARE = 0.2  # of the loss that the auxiliary tasks have together
HOW = ("--threads", "1", "--epochs", "8")  # one thread: the same runs on any number of cores
LEAST = 50  # images with a mask that the study takes
COLUMN = "LABEL"  # stands for the column of index.csv that is the cheap label
PRETRAINED = ("--encoder", "efficientnet_lite0", "--encoder-weights", "package")


@dataclass(frozen=True)
class Arm:
    """Tasks and options; needs: of the data; starts: from a network that learned the label
    first."""

    tasks: tuple
    options: tuple = ()
    needs: tuple = ()
    starts: bool = False


ARMS = {
    "seg": Arm(("seg",)),
    "label": Arm(("seg", f"column:{COLUMN}"), needs=(COLUMN,)),
    "placebo": Arm(("seg", f"placebo:{COLUMN}"), needs=(COLUMN,)),
    "bbox": Arm(("seg", "bbox"), needs=("bboxes",)),
    "label+bbox": Arm(("seg", f"column:{COLUMN}", "bbox"), needs=(COLUMN, "bboxes")),
    "label first": Arm(("seg",), needs=(COLUMN,), starts=True),
    "pretrained": Arm(("seg",), PRETRAINED),
    "pretrained+bbox": Arm(("seg", "bbox"), PRETRAINED, needs=("bboxes",)),
    "cls": Arm(("seg", "cls"), needs=("binary",)),
    "border+distance": Arm(("seg", "border", "distance"), needs=("trimaps",)),
    "recon": Arm(("seg", "recon")),
}
CORE = ("seg", "label", "placebo", "bbox", "label+bbox")
RIVALS = ("pretrained", "pretrained+bbox", "label first")
# (arms, sizes, seeds), the most important first; what an earlier block has is not run again.
BLOCKS = (
    (CORE[:3], (50, 200), range(3)),
    (CORE, (50, 100, 200, ALL), range(5)),
    (("seg", *RIVALS), (50, 100, 200, ALL), range(5)),
    (CORE, (50, 100, 200), range(5, 10)),
    (("seg", "bbox"), (HALF,), range(5)),
    (tuple(ARMS), (50, 100, 200, ALL), range(5)),
)


@dataclass(frozen=True)
class Cell:
    """One run: an arm, a size or None for the network that "label first" starts from, a seed."""

    arm: str
    size: object
    seed: int


@dataclass(frozen=True)
class Data:
    """What a data folder can teach: needs of arms that it meets, label column, masks."""

    needs: frozenset
    column: str
    masks: int


def look_at(folder):
    """The Data of a folder. Refuses one without enough masks."""
    kinds = contract.describe(folder)["kinds"]["train"]
    if "masks" not in kinds:
        raise InputError(
            f"{folder} has no masks.h5, and the study needs masks; prepare it with --masks"
        )
    masks = count_masks(folder)
    if masks < LEAST:
        raise InputError(
            f"{folder} has {masks} training images with a mask; the study takes {LEAST}"
        )
    column = column_of(folder / "train" / "index.csv")
    return Data(frozenset(kinds) | ({COLUMN} if column else set()), column, masks)


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


def cells(data):
    """All runs that a Data allows, in their order; one that starts from another after that."""
    found = {}
    for arms, sizes, seeds in BLOCKS:
        for seed in seeds:
            for size in sizes:
                for arm in arms:
                    if not data.needs >= set(ARMS[arm].needs):
                        continue
                    if ARMS[arm].starts:
                        found[Cell(arm, None, seed)] = None
                    found[Cell(arm, fitting(size, data.masks), seed)] = None
    return list(found)


def fitting(size, masks):
    """A size for so many masks: ALL where it would be more than half of them."""
    return ALL if isinstance(size, int) and size > masks / 2 else size


def name_of(cell):
    """Name of a cell's experiment, and of its folder."""
    words = cell.arm.replace("+", "_").replace(" ", "_")
    return f"{words}_masks{cell.size}" if cell.size else words


def run_of(cell, data, options):
    """The Run of a cell; options: of every run.

    Networks that others start from are in a folder beside the runs, as no table can hold both.
    """
    arm, words = ARMS[cell.arm], []
    tasks = [task.replace(COLUMN, data.column) for task in arm.tasks]
    first = Cell(cell.arm, None, cell.seed)
    if cell.size is None:
        tasks = [f"column:{data.column}"]
    elif cell.size == HALF:
        words = ["--half-masked"]
    elif cell.size != ALL:
        words = ["--num-masks", cell.size]
    if len(tasks) > 1:
        others = [f"{SHARE / (len(tasks) - 1):.4g}"] * (len(tasks) - 1)
        words += ["--weighting", "-".join([f"{1 - SHARE:g}", *others])]
    own = "--name", name_of(cell), "--seed", cell.seed, *HOW, *arm.options
    config = commands.parse("--tasks", *tasks, *words, *own, *options)
    beside = config.runs.with_name(f"{config.runs.name}_first")
    if cell.size is None:
        config = config.replace(runs=beside)
    elif arm.starts:
        config = config.replace(init=beside / name_of(first) / f"seed{cell.seed}" / "best.pt")
    return commands.Run(("train.py",), config)


def parts(data, options):
    """[[Run]] of the whole study: the runs of a part may start when those before have ended."""
    found, before = [[]], False
    for cell in cells(data):
        waits = ARMS[cell.arm].starts and cell.size is not None
        if waits != before:
            found.append([])
        before = waits
        found[-1].append(run_of(cell, data, options))
    return found
