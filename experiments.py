"""Every experiment with every seed, several at once; started again, it goes on where it was.

    python experiments.py                                          ten experiments x seeds 0 to 4 ->
    runs/ python experiments.py --seeds 0 1 -- --epochs 1 --limit 64     what follows -- goes to
    every run python experiments.py --only mtl baseline --list               the commands, one a
    line, for a scheduler of your own python experiments.py --repeat runs/mtl/seed0
    train runs again, from their config.json -> repeated/ python experiments.py --grid
    tasks=seg,seg+bbox sharing=hard,mtan        every combination, with train.py python
    experiments.py --study masks --hours 8 -- --data MY      how many masks a label is worth, as far
    as that goes in 8 hours python experiments.py --jobs 1                                 one after
    another, each on all cores python experiments.py --launcher slurm --partition cpu         as an
    array job; --launcher ray --address auto on a Ray cluster

Each run is a process of the experiment's own script with --resume. One that has a test.json is
finished and skipped; where options after -- are not those that it was trained with, or its --data
not of the same images, nothing is started. The first seed of all experiments comes first, then the
second, and so on: whenever this is stopped, the seeds that are there stand in every row, and only
such seeds can be compared with the baseline.

A run that fails is named and the others go on; but when two in a row are refused for the same
reason, as with a mistyped option, it stops. Exit status: 0 all are finished; 2 runs were refused
(wrong options or data); 1 a run failed otherwise; 130 and 143 stopped by a signal, which the runs
in progress get too. Afterwards 'python results.py' makes the table.

--repeat compares each run with the one that it repeats, times aside: exit status 0 where all are
the same to the last digit, else 1, and it says what differs. Options after -- come on top, as
--data where the images lie elsewhere."""

import re
import shlex
import sys
import time
from pathlib import Path

from tqdm import tqdm

import cli
from cli import InputError
from study import grid, launchers, masks, repeat
from study.table import EXPERIMENTS

HERE = Path(__file__).resolve().parent
COMMANDS = {
    name: experiment.command for name, experiment in EXPERIMENTS.items()
}  # in the order of the published table
EPOCH = re.compile(r"epoch (\d+)/(\d+):")  # how a script begins the line that ends an epoch


class Run:
    """One experiment with one seed: its name, its command, and where it ends. command: the script
    and its own options, unless they are those of the table."""

    def __init__(self, experiment, seed, options, runs, command=None):
        self.name = f"{experiment} seed {seed}"
        script, *own = command or COMMANDS[experiment]
        self.command = [
            sys.executable,
            str(HERE / script),
            *own,
            "--seed",
            str(seed),
            "--resume",
            *options,
        ]
        self.test_path = runs / experiment / f"seed{seed}" / "test.json"

    def is_finished(self):
        return self.test_path.exists()


class Progress:
    """A bar over all runs (gone where output is no terminal), one for each of several at once, and
    an estimate of the time left.

    The estimate goes by the epochs trained since the start: runs and epochs that were there before
    took no time.
    """

    def __init__(self, total, finished, jobs=1):
        self.total, self.runs, self.shares, self.trained = total, finished, {}, 0.0
        self.begin = time.monotonic()
        self.bar = tqdm(
            total=total,
            initial=finished,
            disable=None,
            bar_format="{desc} |{bar}| {n:.1f}/{total} runs, {elapsed}{postfix}",
        )
        self.bars = [
            tqdm(
                total=1,
                position=slot + 1,
                leave=False,
                disable=None,
                bar_format="{desc} |{bar}| {percentage:.0f}%",
            )
            for slot in range(jobs if jobs > 1 else 0)
        ]

    def show(self, name, slot=0):
        self.bar.set_description_str(name if not self.bars else "all", refresh=False)
        self.bar.set_postfix_str(self.left(), refresh=False)
        self.bar.n = self.runs + sum(self.shares.values())
        self.bar.refresh()
        if slot < len(self.bars):
            self.bars[slot].set_description_str(name, refresh=False)
            self.bars[slot].n = self.shares.get(name, 0.0)
            self.bars[slot].refresh()

    def end_epoch(self, name, done, total):
        """A run has ended its done-th of total epochs."""
        self.trained += 1 / total
        self.shares[name] = done / total

    def end_run(self, name):
        self.runs = self.runs + 1
        self.shares.pop(name, None)

    def left(self):
        remaining = self.total - self.runs - sum(self.shares.values())
        if not self.trained or not remaining:
            return ""
        minutes = round(remaining * (time.monotonic() - self.begin) / self.trained / 60)
        return (
            f"about {minutes // 60} h {minutes % 60:02} min left"
            if minutes
            else "less than a minute left"
        )

    def close(self):
        for bar in [self.bar, *self.bars]:
            bar.close()


class Report:
    """What a launcher tells of runs (study/launchers.py), printed. failures: [(run, exit
    status)]."""

    def __init__(self, progress, several):
        self.progress, self.several, self.failures = progress, several, []
        self.begun, self.slots, self.last, self.refusal, self.number = (
            {},
            {},
            {},
            None,
            progress.runs,
        )

    def begin(self, run, slot):
        self.begun[run], self.slots[run], self.last[run], self.number = (
            time.monotonic(),
            slot,
            "",
            self.number + 1,
        )
        self.progress.show(run.name, slot)
        say(f"{self.number}/{self.progress.total} {run.name}")

    def line(self, run, text):
        epoch = EPOCH.match(text)
        if epoch:  # the bar and log.csv tell it
            self.progress.end_epoch(run.name, *map(int, epoch.groups()))
            self.progress.show(run.name, self.slots[run])
        elif text.strip():
            self.last[run] = text.rstrip()
            say(f"    {run.name}: {text.rstrip()}" if self.several else f"    {text.rstrip()}")

    def end(self, run, slot, status):
        self.progress.end_run(run.name)
        self.progress.show(run.name, slot)
        failed = status != 0 or not run.is_finished()
        minutes = (time.monotonic() - self.begun[run]) / 60
        name = f"{run.name}: " if self.several else ""
        say(
            f"    {name}{describe(status) if failed else 'finished'} after {minutes:.1f} min; {self.progress.left()}".rstrip(
                "; "
            )
        )
        if failed:
            self.failures.append((run, status))
        earlier, last = self.refusal, self.last[run]
        self.refusal = (
            last.replace(Path(run.command[1]).name, "the script") if status == 2 else None
        )
        if self.refusal and self.refusal == earlier:
            raise InputError(
                f"two runs in a row are refused for the same reason, so the others wait: {self.refusal}; put it "
                "right, or name what can be run with --only"
            )


def say(text):
    """Print a line above the bar."""
    tqdm.write(text)
    sys.stdout.flush()


def places(options, runs="runs"):
    """Where the scripts will put their run folders (`runs` unless the options for every run say so)
    and where they are told to find the data (else None). Refuses what is set here.

    argparse in the scripts takes --runs X, --runs=X and unique beginnings such as --ru X; so it
    does here.
    """
    parser = cli.Parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path(runs))
    parser.add_argument("--data", type=Path)
    for name in ("--seed", "--split"):
        parser.add_argument(name, nargs="*")
    known, _ = parser.parse_known_args(
        [option for option in options if option not in ("-h", "--help")]
    )
    for name, instead in (("seed", "--seeds"), ("split", "--only")):
        if getattr(known, name) is not None:
            parser.error(f"--{name} does not go to every run; use {instead} before the --")
    return known.runs, known.data


def repetition(folder, options, runs, data):
    """The Run that repeats the one in a run folder; refuses what could not end with the same
    numbers."""
    config = repeat.read_config(folder)
    experiment, seed = config["experiment"], config["options"]["seed"]
    command = repeat.command(folder, config)
    repeat.refuse_unsound(folder)
    repeat.refuse_other_data(folder, config, data or Path(config["options"]["data"]))
    run = Run(
        experiment, seed, ["--runs", str(runs), *repeat.options_of(config), *options], runs, command
    )
    if run.test_path.parent.resolve() == folder.resolve():
        raise InputError(
            f"the repetition of {folder} would be that folder itself; name another place with --runs after "
            "the --"
        )
    return run


def compare(folder, run):
    """Say in what a repetition differs from the run that it repeats; returns whether it does."""
    again = run.test_path.parent
    found = repeat.differences(folder, again)
    other = repeat.conditions(folder, again)
    if not found:
        say(
            f"{run.name}: {again} is the same as {folder} to the last digit, times aside"
            + (f" (although {', '.join(other)})" if other else "")
        )
        return False
    say(
        f"{run.name}: {again} is not the same as {folder}: {'; '.join(found)}. "
        + (
            f"Not alike were: {', '.join(other)}."
            if other
            else "The machine may be of another type."
        )
    )
    return True


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(__doc__)
    parser.usage = (
        "experiments.py [-h] [--seeds K ...] [--only NAME ...] [--grid CHOICE=VALUES ...] [--list] [--repeat FOLDER ...] "
        "[--study masks [--hours H]] [--jobs J] [--launcher local|slurm|ray] [--partition P] [--time MINUTES] [--address A] [-- OPTIONS FOR EVERY RUN]"
    )
    parser.add_argument(
        "--seeds", type=cli.integer(0), nargs="+", default=[0, 1, 2, 3, 4], metavar="K"
    )
    parser.add_argument(
        "--only",
        choices=COMMANDS,
        nargs="+",
        default=list(COMMANDS),
        metavar="NAME",
        help=f"some of the experiments: {', '.join(COMMANDS)}",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        metavar="CHOICE=VALUES",
        help="instead of the published experiments, every combination of values of "
        f"{', '.join(grid.USUAL)}, as in tasks=seg,seg+bbox weighting=equal,dwa",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="print the commands of the runs that are left, and run none",
    )
    parser.add_argument(
        "--repeat",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="train the runs of these run folders again and compare; instead of --seeds and --only",
    )
    parser.add_argument(
        "--study",
        choices=("masks",),
        help="how many masks a label is worth, on any data (study/masks.py)",
    )
    parser.add_argument(
        "--hours",
        type=cli.positive_float,
        metavar="H",
        help="that the study may take from now on; chooses sizes, arms and seeds, and says which",
    )
    parser.add_argument(
        "--jobs",
        type=cli.integer(1, 1024),
        metavar="J",
        help="so many runs at once, each on cores of its own; default: as many as the threads of a run leave room for",
    )
    parser.add_argument(
        "--launcher", choices=launchers.LAUNCHERS, default="local", help="what performs the runs"
    )
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument(
        "--time",
        type=cli.integer(1),
        default=240,
        metavar="MINUTES",
        help="that Slurm gives a run at once; one that takes longer is queued again and goes on",
    )
    parser.add_argument(
        "--address",
        help="of a Ray cluster, as auto or ray://HOST:10001; default: one of this machine alone",
    )
    args = parser.parse_args(argv[:cut])
    args.options = argv[cut + 1 :]
    alone = [name for name in ("grid", "study", "repeat") if getattr(args, name)]
    if len(alone) > 1 or alone and alone != ["repeat"] and args.only != list(COMMANDS):
        parser.error(
            f"--{alone[0]} goes without --only, --grid, --study and --repeat, as it says by itself what is run"
        )
    if args.hours and not args.study:
        parser.error("--hours goes with --study")
    return args


def main(args):
    args.folder, data = places(args.options, "repeated" if args.repeat else "runs")
    parts, words = None, ""
    if args.repeat:
        runs = [repetition(folder, args.options, args.folder, data) for folder in args.repeat]
    elif args.study:
        runs, parts, words = study(args, data)
    else:
        commands = (
            grid.experiments(args.grid)
            if args.grid
            else {name: command for name, command in COMMANDS.items() if name in args.only}
        )
        runs = [
            Run(experiment, seed, grid.fitting(args.options, command), args.folder, command)
            for seed in dict.fromkeys(args.seeds)
            for experiment, command in commands.items()
        ]
    parts = parts or [runs]
    left = [[run for run in part if not run.is_finished()] for part in parts]
    every, finished = sum(parts, []), [run for run in runs if run.is_finished()]
    refuse_other_runs([run for run in every if run.is_finished()], args.options, data)
    if args.list:
        for run in sum(left, []):
            print(shlex.join(run.command))
        return
    if args.grid:
        grid.plan(commands, left[0], finished, args.options, data, args.launcher == "local")
    say(words + f"{len(runs)} runs into {args.folder}, of which {len(finished)} are finished")
    failures = [
        failure for waiting in filter(None, left) for failure in perform_all(waiting, every, args)
    ]
    if failures:
        named = ", ".join(f"{run.name} ({describe(status)})" for run, status in failures)
        cli.fail(
            f"{len(failures)} of {len(runs)} runs failed: {named}; the reasons stand above, and the same command goes "
            "on with what is not finished",
            2 if all(status == 2 for _, status in failures) else 1,
        )
    differing = [run.name for folder, run in zip(args.repeat or [], runs) if compare(folder, run)]
    if differing:
        cli.fail(
            f"{len(differing)} of {len(runs)} repetitions differ: {', '.join(differing)}; how, stands above",
            1,
        )


def study(args, data):
    """The runs of --study: (all that count, [those that may go on at once, after all of the parts
    before], what they are in words)."""

    def make(experiment, seed, command, folder):
        more = () if folder == args.folder else ("--runs", str(folder))
        return Run(experiment, seed, [*args.options, *more], folder, command)

    jobs = args.jobs or launchers.jobs_by_default([["", "", *masks.HOW, *args.options]])
    return masks.plan(make, args.folder, args.options, data, args.hours, jobs)


def perform_all(waiting, every, args):
    """Perform runs, which are left of more; returns [(run, exit status)] of those that failed."""
    commands = [run.command for run in waiting]
    is_local, args.cores = args.launcher == "local", launchers.cores_of(commands)
    jobs = (
        min(args.jobs or launchers.jobs_by_default(commands), len(waiting))
        if is_local
        else len(waiting)
    )
    report = Report(
        Progress(len(every), sum(run.is_finished() for run in every), jobs if is_local else 1),
        jobs > 1,
    )
    try:
        launchers.LAUNCHERS[args.launcher](waiting, jobs, report, args)
    finally:
        report.progress.close()
    return report.failures


def refuse_other_runs(finished, options, data):
    """Refuse to skip finished runs that were trained with other options than those asked for now,
    or on other data."""
    for run in finished:
        folder = run.test_path.parent
        grid.refuse_others(run)
        found = repeat.other_options(folder, options, data)
        if found:
            raise InputError(
                f"{folder} is finished, and with other settings: {', '.join(found)}; use the earlier ones, or "
                "another --runs after the --"
            )


def describe(status):
    """An exit status of a run that failed, in words."""
    if status < 0:
        return f"killed by signal {-status}"
    return {0: "ended without a test.json", 2: "refused"}.get(status, f"exit status {status}")


if __name__ == "__main__":
    cli.run(main, parse_args())
