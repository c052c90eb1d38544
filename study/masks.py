"""The study of masks and labels as data: which runs, in the order of their importance, and how many fit into some hours.

    experiments.py --study masks [--hours H] -- --data D

How many masks is a label worth? Segmentation is trained on the masks of a few images, alone and beside tasks whose labels all images
have, or none; every arm sees the same masks as often, in as many steps. results/masks/PROTOCOL.md says why it is so.
"""

import csv
import json
import time
from dataclasses import dataclass

import cli
from cli import InputError
from data import contract
from study import grid

ALL = "all"
SIZES = (25, 50, 100, 200, 800, ALL)  # numbers of masks; the primary outcome is a mean over PRIMARY
PRIMARY = (50, 100, 200)
SHARE = 0.2  # of the loss that auxiliary tasks have together
EPOCHS, LEAST = 8, 1  # of a run; where a budget is too small even for the least design, fewer
LEAST_SEEDS = 2
PLANNED = (
    0.85  # of --hours; runs side by side slow each other down, and a short run does not tell all
)
FIRST = "first"  # what the folder of the networks that others start from is called, beside the runs
HOW = ("--threads=1",)  # so that a machine of any number of cores makes the same runs
COLUMN = "LABEL"  # stands for the column of index.csv that is the cheap label


@dataclass(frozen=True)
class Arm:
    """What is trained beside segmentation, by which options; `needs` of the data; starts: whether it starts from a network that has
    learned the label first."""

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
    "pretrained": Arm(("seg",), ("--encoder=efficientnet_lite0", "--encoder-weights=package")),
    "cls": Arm(("seg", "cls"), needs=("binary",)),
    "border+distance": Arm(("seg", "border", "distance"), needs=("trimaps",)),
    "recon": Arm(("seg", "recon")),
}
CORE = ("seg", "label", "placebo", "bbox", "label+bbox")
RIVALS = ("label first", "pretrained")
# (arms, sizes, seeds), the most important first; what a block repeats of an earlier one is not run again.
BLOCKS = (
    (CORE[:3], (50, 200), range(3)),
    (CORE, (50, 100, 200, ALL), range(5)),
    (("seg", *RIVALS), (50, 100, 200, ALL), range(5)),
    (CORE, (50, 200, ALL), range(5, 10)),
    (tuple(ARMS), (50, 100, 200, ALL), range(5)),
    (tuple(ARMS), (25, 800), range(5)),
)


@dataclass(frozen=True)
class Cell:
    """One run: an arm, a number of masks or ALL, a seed; or, without masks, the network that "label first" starts from."""

    arm: str
    masks: object
    seed: int


def groups(known):
    """All runs of the study in their order, of what the data know (`knowledge`): a list of Cells for each seed of each block, of those
    that are in none before."""
    arms = {name for name, arm in ARMS.items() if set(arm.needs) <= known["needs"]}
    fitting, found, before = {size: nearest(size, known["masks"]) for size in SIZES}, [], set()
    for of_block, sizes, seeds in BLOCKS:
        for seed in seeds:
            group = dict.fromkeys(
                Cell(arm, fitting[size], seed) for size in sizes for arm in of_block if arm in arms
            )
            found.append([cell for cell in group if cell not in before])
            before |= set(group)
    return [group for group in found if group]


def nearest(size, masks):
    """A number of masks as a set of so many can give it: ALL where it would be more than half of them."""
    return size if size == ALL or size <= masks / 2 else ALL


def chosen(every, seconds, budget, jobs, epochs=None):
    """As many of the first groups as fit into a budget with so many runs at once, and the number of epochs: that given, else EPOCHS,
    or fewer where not even LEAST_SEEDS of the first block would fit.

    seconds  a function of a cell and a number of epochs: those of its run, 0 where it is there already, None where it cannot be
             trained and is left out. It is asked of no cell beyond those that fit.
    budget   a function: the seconds that are left, which `seconds` uses up where it has to try.
    """

    def cost(group, epochs):
        return sum(seconds(cell, epochs) or 0 for cell in group) / jobs

    if epochs is None:
        epochs = next(
            (
                n
                for n in range(EPOCHS, LEAST, -1)
                if sum(cost(group, n) for group in every[:LEAST_SEEDS]) <= budget()
            ),
            LEAST,
        )
    taken, spent = [], 0.0
    for k, group in enumerate(every):
        spent += cost(group, epochs)
        if spent > budget() and k >= LEAST_SEEDS:
            break
        taken += [cell for cell in group if seconds(cell, epochs) is not None]
    return taken, epochs


def knowledge(data):
    """What a data folder can teach: {"needs": names of files and, where index.csv has such a column, COLUMN, "column": its name or
    None, "masks": how many training images have a mask}."""
    kinds = contract.describe(data)["kinds"]["train"]
    column = column_of(data)
    if "masks" not in kinds:
        raise InputError(
            f"{data} has no masks.h5, and the study is about masks; prepare it with --masks"
        )
    masks = count_masks(data)
    if masks < 2 * SIZES[0]:
        raise InputError(
            f"{data} has {masks} training images with a mask, and the study takes {2 * SIZES[0]}, as there would be "
            "nothing to compare"
        )
    return {"needs": set(kinds) | ({COLUMN} if column else set()), "column": column, "masks": masks}


def column_of(data):
    """The cheap label: the column breed where it has two values or more, else the first column of one's own that has."""
    path = data / "train" / "index.csv"
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in (rows[0] if rows else ()) if name not in ("row", "name", "has_box")]
    for name in sorted(columns, key=lambda name: name != "breed"):
        values = {row[name] for row in rows if row[name]}
        if 2 <= len(values) <= len(rows) // 4:  # of more classes there would be few images each
            return name
    return None


def count_masks(data):
    """How many training images have a mask, at least in part."""
    file, dataset = contract.open_rechunked(data, "train", "masks")
    with file:
        return sum(
            int((part != contract.UNLABELLED).reshape(len(part), -1).any(1).sum())
            for _, part in contract.slabs(dataset, len(dataset))
        )


def name_of(arm, masks):
    """What an experiment is called, and its folder."""
    words = arm.replace("+", "_").replace(" ", "_")
    return f"{words}_masks{masks}" if masks else words


def weighting(tasks):
    """Segmentation has 1 - SHARE of the loss, the others the rest in equal parts; numbers as of --weighting."""
    others = len(tasks) - 1
    return "-".join([f"{1 - SHARE:g}", *[f"{SHARE / others:.4g}"] * others]) if others else None


def command(cell, known, folder, epochs):
    """The script and options of a cell's run."""

    def of(text):
        return text.replace(COLUMN, known["column"] or "")

    if cell.masks is None:
        return (
            "train.py",
            "--tasks",
            of(f"column:{COLUMN}"),
            f"--name={name_of(cell.arm, None)}",
            *HOW,
            f"--epochs={epochs}",
        )
    arm = ARMS[cell.arm]
    weights, options = weighting(arm.tasks), list(arm.options)
    if weights:
        options.append(f"--weighting={weights}")
    if cell.masks != ALL:
        options.append(f"--masks={cell.masks}")
    if arm.starts:
        options.append(
            f"--init={first_folder(folder) / name_of(cell.arm, None) / f'seed{cell.seed}' / 'best.pt'}"
        )
    return (
        "train.py",
        "--tasks",
        *map(of, arm.tasks),
        *options,
        f"--name={name_of(cell.arm, cell.masks)}",
        *HOW,
        f"--epochs={epochs}",
    )


def first_folder(folder):
    """Where the networks go that others start from: beside the runs, as no table can hold them."""
    return folder.with_name(f"{folder.name}_{FIRST}")


def firsts(taken):
    """The runs that others among these start from."""
    return list(
        dict.fromkeys(Cell(cell.arm, None, cell.seed) for cell in taken if ARMS[cell.arm].starts)
    )


def in_words(taken, known, epochs):
    """What is going to be run, a line an arm."""
    lines = []
    for arm in dict.fromkeys(cell.arm for cell in taken):
        seeds = {}
        for cell in taken:
            if cell.arm == arm:
                seeds.setdefault(cell.masks, []).append(cell.seed)
        sizes = ", ".join(
            f"{masks} masks ({len(of_size)} seeds)" for masks, of_size in seeds.items()
        )
        what = "+".join(ARMS[arm].tasks).replace(COLUMN, known["column"] or "")
        lines.append(f"{arm:16} {what}: {sizes}")
    return [
        *lines,
        f"{len(taken)} runs of {epochs} epochs; {known['masks']} training images have a mask",
    ]


# ----------------------------------------------------------------------------------------------------------- planning


def plan(make, folder, options, data, hours, jobs):
    """Choose the runs, and return (all that count, the parts in which they are made, what is run in words). A part is a list of runs;
    those whose networks others start from come before the first of these, and after what is more important.

    make     (experiment, seed, command, folder) -> a run of experiments.py.
    folder   of the runs; options: for every run, a list of words; data: the folder, or None.
    hours    that may be spent from now on, or None for the whole study; jobs: runs at once.
    """
    known = knowledge(data or grid.DATA)
    every, epochs = groups(known), epochs_of(folder, options)

    def run_of(cell, epochs):
        place = first_folder(folder) if cell.masks is None else folder
        return make(
            name_of(cell.arm, cell.masks), cell.seed, command(cell, known, folder, epochs), place
        )

    if hours is None:
        taken, epochs = sum(every, []), epochs or EPOCHS
    else:
        end = time.monotonic() + 3600 * hours * PLANNED
        taken, epochs = chosen(
            every, Times(run_of, data or grid.DATA), lambda: end - time.monotonic(), jobs, epochs
        )
        if not any(cell.arm == "seg" for cell in taken):
            raise InputError(
                "segmentation alone cannot be trained on these data; the reason stands above"
            )
    runs, start = (
        [run_of(cell, epochs) for cell in taken],
        [run_of(cell, epochs) for cell in firsts(taken)],
    )
    before = next((k for k, cell in enumerate(taken) if ARMS[cell.arm].starts), len(taken))
    return (
        runs,
        [runs[:before], start, runs[before:]],
        "\n".join(in_words(taken, known, epochs)) + "\n",
    )


def epochs_of(folder, options):
    """The number of epochs that is asked for, or that the runs in a folder have, or None."""
    asked = cli.Parser(None)
    asked.add_argument("--epochs", type=cli.integer(1))
    if (given := asked.parse_known_args(options)[0].epochs) is not None:
        return given
    for path in sorted(folder.glob("*/seed*/config.json")):
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["options"]["epochs"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the run itself will say what is wrong with it
    return None


class Times:
    """Seconds of a cell's run, from a short run of each arm when it is first asked for; see `chosen`."""

    def __init__(self, run_of, data):
        self.run_of, self.data, self.found = run_of, data, {}

    def __call__(self, cell, epochs):
        # One that starts from another network takes as long as that takes to learn.
        arm = "label" if ARMS[cell.arm].starts else cell.arm
        if arm not in self.found:
            tried = self.run_of(Cell(arm, cell.masks, cell.seed), 1)
            self.found[arm] = grid.tried(tried, self.data)
        if self.found[arm] is None:
            return None
        return 0.0 if self.run_of(cell, epochs).is_finished() else self.found[arm].whole(epochs)
