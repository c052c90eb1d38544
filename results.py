"""Run folders -> a page with verdicts and figures: README.md, results.csv, PNGs.

    python results.py                                        runs/ -> results/
    python results.py --runs results/runs --out other        the same page from the records alone
    python results.py --runs results/masks/runs --out results/masks --cost mask=79 bbox=7 breed=2
    python results.py --runs results/confirmation2/runs --out results/confirmation2 \\
                      --primary official --alpha 0.03@10 0.02@20
    python results.py --runs results/sixty/runs --out results/sixty --noise-of results/runs
    python results.py --times results/time                   time to a result, from timed runs
    python results.py --compute results                      core hours of all studies

Reads config.json, log.csv, test.json and test_per_image.csv of every run, and official.json where
it is. A run that is not finished or not sound is named and left out; runs of different data, labels
or options are refused. Each row is compared with the baseline over the seeds of both, or, where
sharing, weighting or encoder vary, with the row that differs from it in one option. Runs of several
numbers of masks give the page of label efficiency. A file NOTE.md in --out goes under the
answer."""

import argparse
import contextlib
import csv
import io
import os
import shutil
import tempfile
from pathlib import Path

import cli
from cli import InputError
from study import (
    compare,
    compute,
    costs,
    label_efficiency,
    masks,
    masks_page,
    official,
    page,
    records,
    times,
)
from study.table import BASELINE, EXPERIMENTS
from study.text import count
from study.verdict import MIN_SEEDS, Look

DUPLICATES = Path(__file__).resolve().parent / "results/official/near_duplicates.csv"


def rows_of(runs):
    """{experiment: runs by seed}, in the order of the published table, then others by name."""
    names = {run.experiment for run in runs}
    order = [name for name in EXPERIMENTS if name in names] + sorted(names - set(EXPERIMENTS))
    return {name: [run for run in runs if run.experiment == name] for name in order}


def write_all(out, pages, draw):
    """Write the files of a folder beside it, then put each in its place; others in `out` stay.

    pages {name: text}; draw(folder) makes the figures.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} is no folder ({error.strerror}); name another") from None
    partial = Path(tempfile.mkdtemp(prefix=".results.", suffix=".partial", dir=out))
    try:
        draw(partial)
        for name, text in pages.items():
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
        names = sorted(path.name for path in partial.iterdir())
        for name in sorted(names, key=lambda name: name == "README.md"):  # it shows the others
            os.replace(partial / name, out / name)
    except IsADirectoryError as error:
        place = error.filename2 or error.filename
        raise InputError(
            f"{place} is a folder where a file has to go; name another --out"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)


def csv_text(runs):
    """A line a run: the keys of test.json, then figures that only some tasks measure, minutes."""
    fields = dict.fromkeys(records.TEST_KEYS)
    for run in runs:
        for metrics in run.metrics.values():
            fields |= dict.fromkeys(key for key in metrics if key in run.test)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*fields, "minutes"])
    for run in runs:
        minutes = round(run.test["train_seconds"] / 60, 2)
        writer.writerow([*(run.test.get(field) for field in fields), minutes])
    return file.getvalue()


def look(text):
    """An argparse type: a level, or a level at a number of seeds, as 0.03@10."""
    alpha, at, seeds = text.partition("@")
    seeds = cli.integer(2)(seeds) if at else None
    return Look(cli.share(alpha), seeds or MIN_SEEDS, seeds)


def cost(text):
    """An argparse type: a label and the seconds that one takes, as bbox=7."""
    label, equals, seconds = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=SECONDS, such as bbox=7")
    return label, cli.positive_float(seconds)


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    add("--out", type=Path, default=Path("results"), help="folder of README.md and figures")
    add("--primary", choices=official.HALVES, default="test", help="half of the verdicts")
    add(
        "--alpha",
        type=look,
        nargs="+",
        default=[Look()],
        metavar="LEVEL",
        help="level of the verdicts, or LEVEL@SEEDS of several looks; default: 0.05",
    )
    add("--near-duplicates", type=Path, metavar="CSV", help="of the official half")
    add("--noise-of", type=Path, metavar="RUNS", help="study whose baseline gives the noise floor")
    add(
        "--cost",
        type=cost,
        nargs="+",
        default=[],
        metavar="LABEL=SECONDS",
        help=f"annotation time of a label; default: {costs.in_words(masks.SECONDS)}",
    )
    add("--times", type=Path, metavar="FOLDER", help="make the page of time to a result")
    add("--compute", type=Path, metavar="FOLDER", help="make COMPUTE.md: core hours of all studies")
    return parser.parse_args(argv)


def read(args):
    """([Run], left out) of a study: what can share its table."""
    runs, left_out = records.read_runs(args.runs)
    if runs:
        tuning = records.read_tuning(args.runs)
        compare.refuse_mixture(runs, {of_row["option"] for of_row in tuning.values()})
        runs, others = compare.same_images(runs)
        left_out = sorted(left_out + others)
    for folder, reason in left_out:
        cli.warn(f"{folder} is left out: {reason}")
    if not runs:
        raise InputError(
            f"no usable run under {args.runs}; train some with 'python experiments.py' or name "
            "another --runs"
        )
    return runs, left_out


def make_table(args, rows, left_out):
    """The page.Table of a study."""
    path = args.near_duplicates or DUPLICATES
    options = {}
    if args.near_duplicates or path.exists():
        options["duplicates"] = official.read_duplicates(path)
    if args.noise_of:
        baseline = rows_of(records.read_runs(args.noise_of)[0]).get(BASELINE, [])
        options["noise"] = 100 * records.figures(baseline, "dice")
    note = args.out / "NOTE.md"
    if note.is_file():
        options["note"] = note.read_text(encoding="utf-8")
    tuning = records.read_tuning(args.runs)
    return page.Table(rows, left_out, tuple(args.alpha), args.primary, tuning=tuning, **options)


def main(args):
    if args.compute:
        write_all(
            args.compute, {"COMPUTE.md": compute.make_page(args.compute)}, lambda folder: None
        )
        print(args.compute / "COMPUTE.md")
        return
    if args.times:
        write_all(args.times, {"README.md": times.make_page(args.times)}, lambda folder: None)
        print(args.times / "README.md")
        return
    from study import figures  # matplotlib, which --help does without

    runs, left_out = read(args)
    rows = rows_of(runs)
    table = make_table(args, rows, left_out)
    if label_efficiency.is_study(runs):
        study = label_efficiency.study_of(runs)
        comparisons = label_efficiency.primary(study)
        text = masks_page.make_page(study, table, masks.SECONDS | dict(args.cost))
        draw = figures.draw_study, study
    else:
        comparisons = table.comparisons
        text = page.make_page(table)
        draw = figures.draw_all, table
    ordered = [run for of_row in rows.values() for run in of_row]
    pages = {"README.md": text, "results.csv": csv_text(ordered)}
    write_all(args.out, pages, lambda folder: draw[0](draw[1], folder))
    print(
        f"{args.out / 'README.md'}: {count(len(runs), 'run')} of {count(len(rows), 'experiment')}, "
        f"{len(left_out)} left out"
    )
    for found in comparisons:
        print(page.sentence(found).replace("*", ""))


if __name__ == "__main__":
    cli.run(main, parse_args())
