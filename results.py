"""The table that writes itself: run folders -> results/README.md with verdicts and figures, and
results.csv.

    python results.py                                  runs/ -> results/ python results.py --runs
    results/runs --out other  the same page from the records alone: it is a function of them

Reads config.json, log.csv, test.json and test_per_image.csv of every run. A run that is not
finished or not sound is named, with the reason, and left out; runs of different data, image sizes
or options that change the result are refused, as no table can hold both. Each row is compared with
the baseline over the seeds that both have (study/verdict.py); where sharings, weightings or
encoders were varied, with the row that differs from it in one choice alone (study/choices.py).
"""

import contextlib
import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import cli
from cli import InputError
from study import choices, conflicts, figures, worth, worth_page
from study.mixture import refuse_mixture, same_images
from study.page import count, make_page, sentence
from study.records import TEST_KEYS, read_runs
from study.table import BASELINE, EXPERIMENTS
from study.verdict import compare, compare_pairs


def rows_of(runs):
    """{experiment: runs by seed}, in the order of the published table, then others by name."""
    names = {run.experiment for run in runs}
    order = [name for name in EXPERIMENTS if name in names] + sorted(names - set(EXPERIMENTS))
    return {name: [run for run in runs if run.experiment == name] for name in order}


def unpaired(rows):
    """[(folder, reason)] of runs whose seed the baseline lacks."""
    if choices.is_varied(rows):
        return []
    seeds = {run.seed for run in rows.get(BASELINE, ())}
    return [
        (run.label, "there is no baseline run of this seed")
        for runs in rows.values()
        for run in runs
        if seeds and run.seed not in seeds
    ]


def write_all(out, rows, page, draw):
    """Write everything into a folder beside, then put file after file in its place; others in `out`
    stay as they are."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out} is a file; name a folder") from None
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be made ({error.strerror}: {error.filename}); name another folder"
        ) from None
    partial = Path(tempfile.mkdtemp(prefix=".results.", suffix=".partial", dir=out))
    try:
        draw(partial)
        write_csv(rows, partial / "results.csv")
        (partial / "README.md").write_text(page, encoding="utf-8", newline="\n")
        names = sorted(path.name for path in partial.iterdir())
        for name in sorted(
            names, key=lambda name: name == "README.md"
        ):  # the page last: it shows the others
            os.replace(partial / name, out / name)
    except IsADirectoryError as error:
        where = error.filename2 or error.filename
        raise InputError(
            f"{where} is a folder where a file is to go; choose another --out"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)


def draw_all(rows, folder):
    baseline = BASELINE if BASELINE in rows else None
    figures.draw_dice(
        {name: [100 * run.test["dice"] for run in runs] for name, runs in rows.items()},
        baseline,
        folder / "dice.png",
    )
    for key, scale, label, name in (
        ("val_dice", 100, "validation Dice, %", "curves.png"),
        ("train_loss_seg", 1, "training loss of the segmentation", "losses.png"),
    ):
        figures.draw_curves(
            {row: stack(runs, key, scale) for row, runs in rows.items()},
            baseline,
            label,
            folder / name,
        )
    weights = {
        row: {task: stack(runs, f"weight_{task}") for task in runs[0].tasks}
        for row, runs in rows.items()
        if runs[0].learns_weights or all(run.moves_weights for run in runs)
    }
    if learned := {row: of_row for row, of_row in weights.items() if rows[row][0].learns_weights}:
        figures.draw_weights(learned, folder / "weights.png")
    if moved := {row: of_row for row, of_row in weights.items() if row not in learned}:
        figures.draw_weights(moved, folder / "moved_weights.png", "")
    if apart := conflicts.conflicts_of(rows):
        figures.draw_stages(apart, "cosine between gradients", True, folder / "conflicts.png")
    if stitched := conflicts.stitches_of(rows):
        figures.draw_stages(stitched, "weight of the own map", False, folder / "stitch.png")


def draw_study(study, folder):
    """Dice and gain over the number of masks."""
    dice = {
        arm: {n: np.array(list(study.values(arm, n).values())) for n in of_arm}
        for arm, of_arm in study.runs.items()
    }
    figures.draw_over_masks(dice, worth.ALONE, "test Dice, %", False, folder / "masks.png")
    gains = {
        arm: {n: found for n in study.sizes if len(found := study.differences(arm, n))}
        for arm in study.arms
    }
    placebo = next((arm for arm in gains if worth_page.PLACEBO in arm), None)
    figures.draw_over_masks(
        {arm: row for arm, row in gains.items() if row},
        placebo,
        "gain, points of Dice",
        True,
        folder / "gain.png",
    )


def stack(runs, key, scale=1.0):
    """A column of the logs of some runs, (n, epochs)."""
    return scale * np.array([run.history[key] for run in runs])


def write_csv(rows, path):
    """A line a run: what test.json says, figures that only some tasks measure at the end, and
    minutes of training."""
    runs = [run for of_row in rows.values() for run in of_row]
    measured = [
        key
        for run in runs
        for task in run.tasks.values()
        for key in task.metrics
        if key in run.test
    ]
    fields = list(dict.fromkeys([*TEST_KEYS, *measured]))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*fields, "minutes"])
        for run in runs:
            writer.writerow(
                [
                    *(run.test.get(field) for field in fields),
                    round(run.test["train_seconds"] / 60, 2),
                ]
            )


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="the folder of the run folders"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        help="where README.md, results.csv and figures go",
    )
    return parser.parse_args(argv)


def main(args):
    runs, left_out = read_runs(args.runs)
    if runs:
        refuse_mixture(runs)
        runs, others = same_images(runs)
        left_out = sorted(left_out + others)
    rows, study = rows_of(runs), worth.study_of(runs) if worth.is_study(runs) else None
    not_paired = unpaired(rows) if not study else []
    for folder, reason in left_out:
        print(f"results.py: {folder} is left out: {reason}", file=sys.stderr)
    for folder, reason in not_paired:
        print(f"results.py: {folder} is left out of the comparison: {reason}", file=sys.stderr)
    if not runs:
        raise InputError(
            f"no usable run under {args.runs}; train some with 'python experiments.py' or name another --runs"
        )
    if study:
        comparisons = worth.primary(study)
        page, draw = (
            worth_page.make_page(study, comparisons, left_out),
            lambda folder: draw_study(study, folder),
        )
    else:
        comparisons = compare_rows(rows)
        page, draw = (
            make_page(rows, comparisons, left_out, not_paired),
            lambda folder: draw_all(rows, folder),
        )
    write_all(args.out, rows, page, draw)
    print(
        f"{args.out / 'README.md'}: {count(len(runs), 'run')} of {count(len(rows), 'experiment')}, "
        f"{len(left_out)} left out"
    )
    for found in comparisons:
        print(sentence(found).replace("*", ""))


def compare_rows(rows):
    """Every row against the baseline, or where choices were varied against the row that differs in
    one alone."""
    dice = {name: {run.seed: 100 * run.dice for run in of_row} for name, of_row in rows.items()}
    return (
        compare_pairs(dice, choices.pairs(rows))
        if choices.is_varied(rows)
        else compare(dice, BASELINE)
    )


if __name__ == "__main__":
    cli.run(main, parse_args())
