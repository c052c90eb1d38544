"""Every experiment with every seed, several at once; started again, it goes on where it was.

    python experiments.py                                        ten experiments x seeds 0 to 4 ->
    runs/ python experiments.py --seeds 0 1 -- --epochs 1 --limit 64   what follows -- goes to every
    run python experiments.py --only mtl baseline --list             the commands, for your own
    scheduler python experiments.py --grid tasks=seg,seg+bbox sharing=hard,mtan    every
    combination, by train.py python experiments.py --grid tasks=seg+cls+bbox weighting=equal,dwa
    --with-single-tasks \\
                          --tune lr=0.0005,0.001,0.002,0.004     tuned alike, with rows for delta-m
    python experiments.py --study masks -- --data MY             how many masks a label is worth
    python experiments.py --repeat results/runs/mtl              repeat a run, row or study by its
    records python experiments.py --hours 8                              start no run after 8 hours
    python experiments.py --launcher slurm --partition cpu       as an array job; ray --address auto

Each run is a process of the experiment's own script with --resume. One that has a test.json is
finished and skipped; one finished with other options or images is refused. The first seed of all
experiments comes first, then the second: whenever this is stopped, rows share the seeds that are
there.

A run that fails is named and the others go on; when two in a row are refused for the same reason,
it stops. Exit status: 0 all are finished; 2 runs were refused; 1 a run failed, or a repetition
differs; 130 and 143 stopped by a signal, which the runs get too. Afterwards 'python results.py'
makes the page."""

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

import cli
from cli import InputError
from config import Config
from study import commands, grid, launchers, masks, repeat, tune
from study.commands import Run
from study.table import EXPERIMENTS
from study.text import count

EPOCH = re.compile(r"epoch \d+/\d+:")  # how a script begins the line that ends an epoch


def say(text):
    """Print a line above the bar."""
    tqdm.write(text)
    sys.stdout.flush()


@dataclass
class Progress:
    """Prints what runs print, and stops where two in a row are refused for the same reason."""

    runs: list
    bar: tqdm
    refusal: str | None = None
    failures: list = field(default_factory=list)  # [(Run, exit status)]

    def show(self, index, line):
        if EPOCH.match(line):
            self.bar.set_postfix_str(f"{self.runs[index].name}: {line.split(':')[0]}")
        elif line.strip():
            say(f"    {self.runs[index].name}: {line.rstrip()}")

    def end(self, index, status, lines):
        run = self.runs[index]
        self.bar.update()
        failed = status != 0 or not run.is_finished
        say(f"{run.name}: {outcome(status) if failed else 'finished'}")
        if failed:
            self.failures.append((run, status))
        script = run.script[0]
        last = lines[-1].replace(script, "the script") if status == 2 and lines else None
        if last and last == self.refusal:
            raise InputError(f"two runs in a row are refused for the same reason: {last}")
        self.refusal = last


def outcome(status):
    """An exit status of a run that failed, in words."""
    if status < 0:
        return f"killed by signal {-status}"
    return {0: "ended without a test.json", 2: "refused"}.get(status, f"exit status {status}")


# ------------------------------------------------------------------------------------ which runs


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(__doc__)
    add, several = parser.add_argument, {"nargs": "+", "metavar": "OPTION=VALUES"}
    names = list(EXPERIMENTS)
    add("--seeds", type=cli.integer(0), nargs="+", default=[0, 1, 2, 3, 4], metavar="K")
    add("--only", choices=names, nargs="+", metavar="NAME", help=f"of {', '.join(names)}")
    add("--grid", help=f"all combinations of values of {', '.join(grid.NAMED)}", **several)
    add("--with-single-tasks", action="store_true", help="each task of the grid alone, for delta-m")
    add("--tune", metavar="OPTION=VALUES", help=f"values that each row tries, seed {tune.SEED}")
    add("--study", choices=("masks",), help="runs of a study: label efficiency")
    add("--repeat", type=Path, nargs="+", metavar="FOLDER", help="runs, rows or studies to repeat")
    add("--list", action="store_true", help="print the commands that are left, and run none")
    add("--jobs", type=cli.integer(1, 1024), help="runs at once; default: one a core")
    add("--hours", type=cli.positive_float, help="start no run after so many hours")
    add("--launcher", choices=launchers.LAUNCHERS, default="local")
    add("--partition", help="Slurm partition")
    add("--time", type=cli.integer(1), default=240, metavar="MINUTES", help="of a Slurm job")
    add("--address", help="of a Ray cluster, e.g. auto")
    args = parser.parse_args(argv[:cut])
    args.options = argv[cut + 1 :]
    kinds = [name for name in ("only", "grid", "study", "repeat") if getattr(args, name)]
    if len(kinds) > 1:
        parser.error(f"--{kinds[0]} and --{kinds[1]} exclude each other")
    if args.with_single_tasks and not args.grid:
        parser.error("--with-single-tasks goes with --grid")
    if args.tune and (args.study or args.repeat):
        parser.error("--tune goes with the published experiments and with --grid")
    if args.tune and tune.SEED in args.seeds:
        parser.error(f"seed {tune.SEED} is that of --tune, which no comparison may use")
    if args.hours and args.launcher != "local":
        parser.error("--hours goes with --launcher local")
    return args


def refuse_options(args):
    """Refuse options after -- that no script has, that belong to single runs, or to a name."""
    if args.repeat:
        return
    if Config.parse("", "every run", args.options).seed:
        raise InputError("--seed after -- would be the same for every run; use --seeds")
    if args.grid or args.study:
        instead = "make it a column of --grid" if args.grid else "the study sets it"
        commands.refuse_named(args.options, instead)


def experiments_of(args):
    """{name: Run} of the experiments that are asked for, with seed 0."""
    if args.grid:
        found = grid.experiments(args.grid, args.options, args.with_single_tasks)
    else:
        names = [name for name in EXPERIMENTS if name in (args.only or EXPERIMENTS)]
        found = {name: commands.published(name, *args.options) for name in names}
    return {name: commands.without_conflicts(run) for name, run in found.items()}


def seeds_of(experiments, args):
    """[Run], seed by seed; tuned ones with the value that was chosen."""
    found = []
    for seed in dict.fromkeys(args.seeds):
        for run in experiments.values():
            options = tune.chosen(run, tune.values_of(args.tune)) if args.tune else {}
            found.append(Run(run.script, run.config.replace(seed=seed, **options)))
    return found


# --------------------------------------------------------------------------------------- running


def perform(left, total, args):
    """Run what is left of so many; returns [(Run, exit status)] of those that failed."""
    form = "{desc}{n_fmt}/{total_fmt} runs [{elapsed}<{remaining}{postfix}]"
    done, config = total - len(left), left[0].config
    with tqdm(total=total, initial=done, disable=None, bar_format=form) as bar:
        progress = Progress(left, bar)
        settings = launchers.Settings(
            jobs=args.jobs or launchers.jobs_by_default(config),
            cores=launchers.cores_of(config),
            folder=config.runs,
            partition=args.partition,
            minutes=args.time,
            address=args.address,
            hours=args.hours,
            show=progress.show,
        )
        launcher = launchers.LAUNCHERS[args.launcher]
        for index, status, lines in launcher([run.words for run in left], settings):
            if args.launcher != "local":
                for line in lines:
                    progress.show(index, line)
            progress.end(index, status, lines)
    return progress.failures


def main(args):
    refuse_options(args)
    if args.repeat:
        repeated = [folder for path in args.repeat for folder in repeat.folders(path)]
        runs = [repeat.run_of(folder, args.options) for folder in repeated]
        run_all(runs, args)
        if not args.list:
            tell_differences(repeated, runs)
    elif args.study:
        run_all(masks.runs(Config.parse("", "study", args.options).data, args.options), args)
    else:
        experiments = experiments_of(args)
        if not args.tune or tune_all(experiments, args):
            run_all(seeds_of(experiments, args), args)


def tune_all(experiments, args):
    """Run and choose the values of --tune; returns whether all experiments are tuned."""
    values, waiting = tune.values_of(args.tune), {}
    for name, run in experiments.items():
        if tune.chosen(run, values) is None:
            waiting[name] = tune.runs_of(run, values)
    runs = [run for tried in waiting.values() for run in tried.values()]
    run_all(runs, args)
    if args.list or not all(run.is_finished for run in runs):
        return not waiting
    for name, tried in waiting.items():
        tune.choose(experiments[name], tried)
    return True


def run_all(every, args):
    """Run what is not finished, or list it; fails where a run did."""
    left = [run for run in every if not run.is_finished]
    for run in every:
        if run.is_finished:
            commands.refuse_other_settings(run)
    if args.list:
        for run in left:
            print(shlex.join(run.words))
        return
    if not left:
        return
    say(f"{count(len(every), 'run')} into {every[0].config.runs}, {len(left)} left")
    failures = perform(left, len(every), args)
    if failures:
        named = ", ".join(f"{run.name} ({outcome(status)})" for run, status in failures)
        refused = all(status == 2 for _, status in failures)
        cli.fail(
            f"{len(failures)} of {len(every)} runs failed: {named}; the same command goes on with "
            "what is not finished",
            2 if refused else 1,
        )
    left = [run for run in left if not run.is_finished]
    if left:
        say(f"{count(len(left), 'run')} left; the same command goes on")


def tell_differences(folders, runs):
    """Say how far repetitions come out from their records; fails where one is not the same."""
    differing = []
    for folder, run in zip(folders, runs, strict=True):
        if not run.is_finished:
            continue
        found, conditions = repeat.compare(folder, run.path)
        unlike = f" Not alike: {', '.join(conditions)}." if conditions else ""
        if found:
            differing.append(run.name)
            say(f"{run.name}: {run.path} differs from {folder}: {'; '.join(found)}.{unlike}")
        else:
            say(f"{run.name}: {run.path} is bit-exact with {folder}, times aside.{unlike}")
    if differing:
        cli.fail(f"{len(differing)} of {len(runs)} repetitions differ: {', '.join(differing)}", 1)


if __name__ == "__main__":
    cli.run(main, parse_args())
