"""Every experiment with every seed, one run after another; started again, it goes on where it was.

    python experiments.py                                          ten experiments x seeds 0 to 4 -> runs/
    python experiments.py --seeds 0 1 -- --epochs 1 --limit 64     what follows -- goes to every run
    python experiments.py --only mtl baseline --list               the commands, one a line, for a scheduler of your own
    python experiments.py --repeat runs/mtl/seed0                  train runs again, from their config.json -> repeated/

Each run is a process of the experiment's own script with --resume. One that has a test.json is finished and skipped; where
options after -- are not those that it was trained with, or its --data not of the same images, nothing is started. The first
seed of all experiments comes first, then the second, and so on: whenever this is stopped, the seeds that are there stand in
every row, and only such seeds can be compared with the baseline.

A run that fails is named and the others go on; but when two in a row are refused for the same reason, as with a mistyped
option, it stops. Exit status: 0 all are finished; 2 runs were refused (wrong options or data); 1 a run failed otherwise;
130 and 143 stopped by a signal, which the run in progress gets too. Afterwards 'python results.py' makes the table.

--repeat compares each run with the one that it repeats, times aside: exit status 0 where all are the same to the last
digit, else 1, and it says what differs. Options after -- come on top, as --data where the images lie elsewhere.
"""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

import cli
from cli import InputError
from study import repeat
from study.table import EXPERIMENTS

HERE = Path(__file__).resolve().parent
COMMANDS = {name: experiment.command for name, experiment in EXPERIMENTS.items()}  # in the order of the published table
LIBC, SET_PARENT_DEATH_SIGNAL = ctypes.CDLL(None) if sys.platform == "linux" else None, 1
tqdm.monitor_interval = 0  # no thread of its own beside the forks below
EPOCH = re.compile(r"epoch (\d+)/(\d+):")  # how a script begins the line that ends an epoch


class Run:
    """One experiment with one seed: its name, its command, and where it ends. command: the script and its own options,
    unless they are those of the table."""

    def __init__(self, experiment, seed, options, runs, command=None):
        self.name = f"{experiment} seed {seed}"
        script, *own = command or COMMANDS[experiment]
        self.command = [sys.executable, str(HERE / script), *own, "--seed", str(seed), "--resume", *options]
        self.test_path = runs / experiment / f"seed{seed}" / "test.json"

    def is_finished(self):
        return self.test_path.exists()


class Progress:
    """A bar over all runs (gone where output is no terminal), and an estimate of the time left.

    The estimate goes by the epochs trained since the start: runs and epochs that were there before took no time.
    """

    def __init__(self, total, finished):
        self.total, self.runs, self.share, self.trained = total, finished, 0.0, 0.0
        self.begin = time.monotonic()
        self.bar = tqdm(total=total, initial=finished, disable=None,
                        bar_format="{desc} |{bar}| {n:.1f}/{total} runs, {elapsed}{postfix}")

    def show(self, name):
        self.bar.set_description_str(name, refresh=False)
        self.bar.set_postfix_str(self.left(), refresh=False)
        self.bar.n = self.runs + self.share
        self.bar.refresh()

    def end_epoch(self, done, total):
        """The current run has ended its done-th of total epochs."""
        self.trained += 1 / total
        self.share = done / total

    def end_run(self):
        self.runs, self.share = self.runs + 1, 0.0

    def left(self):
        remaining = self.total - self.runs - self.share
        if not self.trained or not remaining:
            return ""
        minutes = round(remaining * (time.monotonic() - self.begin) / self.trained / 60)
        return f"about {minutes // 60} h {minutes % 60:02} min left" if minutes else "less than a minute left"


def start(command):
    """Start a run's process with its output in a pipe."""
    # In a session of its own, as Ctrl-C would reach it directly, and then once more from here.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            encoding="utf-8", errors="replace", env={**os.environ, "PYTHONUNBUFFERED": "1"},
                            start_new_session=True, preexec_fn=end_with_parent if sys.platform == "linux" else None)


def end_with_parent():
    """In the child: be killed when the parent is, or the next start would find the run still going on. Any moment will do,
    as runs resume exactly. Elsewhere than on Linux the run ends at its next line of output, which nobody reads."""
    LIBC.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def perform(run, progress):
    """Run one run to its end, printing what it says. Returns (exit status, its last line)."""
    last = ""
    process = start(run.command)
    try:
        for line in process.stdout:
            epoch = EPOCH.match(line)
            if epoch:  # the bar and log.csv tell it
                progress.end_epoch(*map(int, epoch.groups()))
                progress.show(run.name)
            elif line.strip():
                last = line.rstrip()
                say(f"    {last}")
        return process.wait(), last
    except (KeyboardInterrupt, cli.Terminated) as stop:
        say(f"    {run.name}: stopping")
        try:
            if os.name != "nt":  # on Windows Ctrl-C has reached it already
                process.send_signal(signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
            for line in process.stdout:
                say(f"    {line.rstrip()}")
            process.wait()
        except BaseException:  # asked a second time
            process.kill()
            raise
        raise


def say(text):
    """Print a line above the bar."""
    tqdm.write(text)
    sys.stdout.flush()


def places(options, runs="runs"):
    """Where the scripts will put their run folders (`runs` unless the options for every run say so) and where they are told
    to find the data (else None). Refuses what is set here.

    argparse in the scripts takes --runs X, --runs=X and unique beginnings such as --ru X; so it does here.
    """
    parser = cli.Parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path(runs))
    parser.add_argument("--data", type=Path)
    for name in ("--seed", "--split"):
        parser.add_argument(name, nargs="*")
    known, _ = parser.parse_known_args([option for option in options if option not in ("-h", "--help")])
    for name, instead in (("seed", "--seeds"), ("split", "--only")):
        if getattr(known, name) is not None:
            parser.error(f"--{name} does not go to every run; use {instead} before the --")
    return known.runs, known.data


def repetition(folder, options, runs, data):
    """The Run that repeats the one in a run folder; refuses what could not end with the same numbers."""
    config = repeat.read_config(folder)
    experiment, seed = config["experiment"], config["options"]["seed"]
    command = repeat.command(folder, config)
    repeat.refuse_unsound(folder)
    repeat.refuse_other_data(folder, config, data or Path(config["options"]["data"]))
    run = Run(experiment, seed, ["--runs", str(runs), *repeat.options_of(config), *options], runs, command)
    if run.test_path.parent.resolve() == folder.resolve():
        raise InputError(f"the repetition of {folder} would be that folder itself; name another place with --runs after "
                         "the --")
    return run


def compare(folder, run):
    """Say in what a repetition differs from the run that it repeats; returns whether it does."""
    again = run.test_path.parent
    found = repeat.differences(folder, again)
    other = repeat.conditions(folder, again)
    if not found:
        say(f"{run.name}: {again} is the same as {folder} to the last digit, times aside"
            + (f" (although {', '.join(other)})" if other else ""))
        return False
    say(f"{run.name}: {again} is not the same as {folder}: {'; '.join(found)}. "
        + (f"Not alike were: {', '.join(other)}." if other else "The machine may be of another type."))
    return True


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(__doc__)
    parser.usage = ("experiments.py [-h] [--seeds K ...] [--only NAME ...] [--list] [--repeat FOLDER ...] "
                    "[-- OPTIONS FOR EVERY RUN]")
    parser.add_argument("--seeds", type=cli.integer(0), nargs="+", default=[0, 1, 2, 3, 4], metavar="K")
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=list(COMMANDS), metavar="NAME",
                        help=f"some of the experiments: {', '.join(COMMANDS)}")
    parser.add_argument("--list", action="store_true", help="print the commands of the runs that are left, and run none")
    parser.add_argument("--repeat", type=Path, nargs="+", metavar="FOLDER",
                        help="train the runs of these run folders again and compare; instead of --seeds and --only")
    args = parser.parse_args(argv[:cut])
    args.options = argv[cut + 1:]
    return args


def main(args):
    runs_folder, data = places(args.options, "repeated" if args.repeat else "runs")
    if args.repeat:
        runs = [repetition(folder, args.options, runs_folder, data) for folder in args.repeat]
    else:
        runs = [Run(experiment, seed, args.options, runs_folder)
                for seed in dict.fromkeys(args.seeds) for experiment in COMMANDS if experiment in args.only]
    waiting = [run for run in runs if not run.is_finished()]
    refuse_other_runs([run for run in runs if run.is_finished()], args.options, data)
    if args.list:
        for run in waiting:
            print(shlex.join(run.command))
        return
    say(f"{len(runs)} runs into {runs_folder}, of which {len(runs) - len(waiting)} are finished")
    failures = perform_all(waiting, Progress(len(runs), len(runs) - len(waiting)))
    if failures:
        named = ", ".join(f"{run.name} ({describe(status)})" for run, status in failures)
        cli.fail(f"{len(failures)} of {len(runs)} runs failed: {named}; the reasons stand above, and the same command goes "
                 "on with what is not finished", 2 if all(status == 2 for _, status in failures) else 1)
    differing = [run.name for folder, run in zip(args.repeat or [], runs) if compare(folder, run)]
    if differing:
        cli.fail(f"{len(differing)} of {len(runs)} repetitions differ: {', '.join(differing)}; how, stands above", 1)


def refuse_other_runs(finished, options, data):
    """Refuse to skip finished runs that were trained with other options than those asked for now, or on other data."""
    for run in finished:
        folder = run.test_path.parent
        found = repeat.other_options(folder, options, data)
        if found:
            raise InputError(f"{folder} is finished, and with other settings: {', '.join(found)}; use the earlier ones, or "
                             "another --runs after the --")


def perform_all(runs, progress):
    """Perform runs one after another; returns [(run, exit status)] of those that failed."""
    failures, refusal = [], None
    try:
        for run in runs:
            progress.show(run.name)
            say(f"{progress.runs + 1}/{progress.total} {run.name}")
            begin = time.monotonic()
            status, last = perform(run, progress)
            progress.end_run()
            failed = status != 0 or not run.is_finished()
            minutes = (time.monotonic() - begin) / 60
            say(f"    {describe(status) if failed else 'finished'} after {minutes:.1f} min; {progress.left()}".rstrip("; "))
            if failed:
                failures.append((run, status))
            earlier = refusal
            refusal = last.replace(Path(run.command[1]).name, "the script") if status == 2 else None
            if refusal and refusal == earlier:
                raise InputError(f"two runs in a row are refused for the same reason, so the others wait: {refusal}; put it "
                                 "right, or name what can be run with --only")
    finally:
        progress.bar.close()
    return failures


def describe(status):
    """An exit status of a run that failed, in words."""
    if status < 0:
        return f"killed by signal {-status}"
    return {0: "ended without a test.json", 2: "refused"}.get(status, f"exit status {status}")


if __name__ == "__main__":
    cli.run(main, parse_args())
