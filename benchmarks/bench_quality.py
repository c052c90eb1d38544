"""Time to a result: one fixed training command, several seeds; mean and spread of wall time and
test Dice.

    python benchmarks/bench_quality.py --data D --seeds 0-9 --epochs 10 --runs results/time/runs90
    python benchmarks/bench_quality.py --data D --seeds 0-9 --epochs 40 --runs results/time/runs93

Each seed is one run of `train_mtl.py` with the options of RECIPE, a fixed number of epochs and no
early stopping. Options after `--` go to every run. The network of the last epoch is tested,
whatever validation chose. Wall time is that of training and validation, without start-up and test.
The row's p is that of a one-sided t test that the mean pooled Dice is at least --target: the chance
of such a mean or a higher one, were the true mean the target itself.

Each finished seed leaves a record, time.json, in its run folder; the row is made of the records.
Run again, the command goes on with the seeds that lack one. A run that was interrupted is to be
deleted first, as its wall time would not count.
"""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import common

import cli
from cli import InputError

RECIPE = (
    *("--optimizer", "muon", "--lr", "0.006", "--width", "32"),
    *("--resize-schedule", "128:0.5,192:0.88,256:1"),
)
TARGETS = {10: 0.90, 40: 0.93}  # of results/time/PROTOCOL.md, by epochs
RECORD = "time.json"


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    at = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="re-chunked data folder")
    parser.add_argument("--seeds", type=seed_range, default=seed_range("0-9"), help="e.g. 0-9")
    parser.add_argument("--epochs", type=cli.integer(1), default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--target", type=cli.positive_float, help="pooled test Dice, e.g. 0.90")
    args = parser.parse_args(argv[:at])
    args.options = ["--epochs", str(args.epochs), *RECIPE, *argv[at + 1 :]]
    args.target = args.target or TARGETS.get(args.epochs)
    if args.target is None:
        parser.error("--target is missing; name the pooled Dice to reach, e.g. --target 0.90")
    return args


def seed_range(text):
    """0-9 -> the seeds 0 to 9; 3 -> the seed 3."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match or int(match[1]) > int(match[2] or match[1]):
        raise cli.argparse.ArgumentTypeError(f"{text!r} is no range of seeds, e.g. 0-9")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def main(args):
    records = []
    for seed in args.seeds:
        folder = args.runs / "mtl" / f"seed{seed}"
        if not (folder / RECORD).exists():
            train(folder, seed, args)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["options"] != args.options:
            raise InputError(f"{folder} was trained with other options; choose other --runs")
        records.append(record)
        print(f"seed {seed}: {record['dice_pooled']:.4f} in {record['seconds']:.0f} s", flush=True)
    report(records, args)


def train(folder, seed, args):
    """Train one seed and test its last epoch's network; writes the record."""
    if folder.exists():
        raise InputError(
            f"{folder} lacks {RECORD}: it was interrupted, so that its wall time does not "
            "count, or made otherwise; delete it or choose other --runs"
        )
    run("train_mtl.py", "--data", args.data, "--runs", args.runs, "--seed", seed, *args.options)
    # Written before the first step, and after the last epoch's validation.
    begin = (folder / "config.json").stat().st_mtime
    end = (folder / "last.pt").stat().st_mtime
    options = "--checkpoint", folder / "last.pt", "--data", args.data, "--split", "test"
    metrics = json.loads(run("evaluate.py", *options))
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))["run"]
    record = {
        "options": args.options,
        "seconds": round(end - begin, 2),
        **{key: metrics[key] for key in ("dice_pooled", "dice", "n_images")},
        **{key: facts[key] for key in ("processor", "precision", "processes", "commit")},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def run(script, *options):
    """Run a script; returns its standard output."""
    command = [sys.executable, common.ROOT / script, *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return done.stdout


def report(records, args):
    """Print a table of the seeds, then the row for a page."""
    rows = []
    for seed, record in zip(args.seeds, records, strict=True):
        commit = (record["commit"] or "unknown")[:7]
        where = record["processor"], record["precision"], record["processes"], commit
        rows.append([seed, record["seconds"], record["dice_pooled"], record["dice"], *where])
    header = ["seed", "wall time, s", "pooled Dice", "Dice"]
    common.print_table([*header, "processor", "precision", "processes", "commit"], rows)
    seconds, dice = summary(rows, 1), summary(rows, 2)
    p = p_of_target([row[2] for row in rows], args.target)
    cells = [args.target, args.epochs, len(rows), plus_minus(seconds, 0), plus_minus(dice, 4), p]
    common.print_table(["target", "epochs", "n", "wall time, s", "pooled test Dice", "p"], [cells])
    results = {"target": args.target, "epochs": args.epochs, "n": len(rows), "p": p}
    common.print_results({**results, "seconds": seconds, "dice_pooled": dice})


def summary(rows, column):
    """(mean, standard deviation) of a column; of one row no deviation."""
    values = [row[column] for row in rows]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def plus_minus(summary, digits):
    mean, deviation = summary
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def p_of_target(dice, target):
    """One-sided p of the t test that the mean is at least the target (Student 1908); None for fewer
    than two values.
    """
    from scipy import stats

    if len(dice) < 2:
        return None
    return float(stats.ttest_1samp(dice, target, alternative="greater").pvalue)


if __name__ == "__main__":
    cli.run(main, parse_args())
