"""What the benchmarks share: the way to the project's modules, synthetic data, timing in turns, cost, the report."""

import contextlib
import datetime
import importlib
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# The one place that makes the project's modules importable from this folder.
sys.path.insert(0, str(ROOT))

from tqdm import tqdm  # noqa: E402  (the path comes first)

import cli  # noqa: E402
import data_prepare  # noqa: E402
import data_rechunk  # noqa: E402
from cli import InputError  # noqa: E402

CACHE = ROOT / "datasets" / "bench-synthetic"
PETS = 1000
MEGA = 1e6


def make_parser(doc):
    """The option that all benchmarks have; `doc` is the script's docstring."""
    parser = cli.Parser(doc)
    parser.add_argument(
        "--data",
        type=Path,
        help=f"a re-chunked data folder; default: {PETS} pets drawn in code, kept "
        "in datasets/bench-synthetic",
    )
    return parser


def data_folder(asked=None):
    """The data folder that was asked for, or the synthetic one, which is made where it is not there yet."""
    if asked:
        return asked
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the table
        if not CACHE.exists():
            data_prepare.main(
                data_prepare.parse_args(["--synthetic", str(PETS), "--out", str(CACHE)])
            )
        data_rechunk.main(
            data_rechunk.parse_args(["--data", str(CACHE)])
        )  # and where it was interrupted
    return CACHE


def load_segmenter(path):
    """A checkpoint's network and what is known of it, as checkpoint.load_model; refused where it has no masks."""
    from training import checkpoint  # here, as it takes PyTorch

    model, info = checkpoint.load_model(path)
    if "seg" not in model.tasks:
        raise InputError(
            f"{path} has no task seg, and what a network finds is measured by masks; name one that has it"
        )
    return model, info


# ----------------------------------------------------------------------------------------------------- time and memory


def interleave(ways, rounds, before=None):
    """Time functions in turns: {name: function} -> {name: median seconds of `rounds` calls}, one untimed call first.

    In turns, so that whatever else the machine does hits all of them alike. before(name) runs untimed ahead of each.
    """
    seconds = {name: [] for name in ways}
    with tqdm(total=(rounds + 1) * len(ways), unit="call", leave=False, disable=None) as bar:
        for turn in range(rounds + 1):
            for name, way in ways.items():
                bar.set_description(name)
                if before:
                    before(name)
                begin = time.perf_counter()
                way()
                if turn:
                    seconds[name].append(time.perf_counter() - begin)
                bar.update()
    return {name: statistics.median(times) for name, times in seconds.items()}


def read_through(path):
    """Read a file from end to end, so that the next to read it finds it in memory."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(8 << 20)
        while file.readinto(buffer):
            pass


def peak_memory():
    """The most memory that this process, or one of its finished children, has had so far; bytes."""
    try:
        import resource  # not on Windows
    except ImportError:
        raise InputError(
            "this system does not tell how much memory a process had at most; run this benchmark on Linux "
            "or macOS"
        ) from None
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with contextlib.suppress(OSError, TypeError):
        # On Linux ru_maxrss begins with the size of the process that started this one; VmHWM begins with nothing.
        own = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)


def cost(module, function, *args):
    """(seconds, peak memory above start-up in MB) of one piece of work, in a process of its own.

    `function` of `module`, by their names and with arguments that are text, prepares the work and returns it as a
    function without arguments; only that one is measured.
    """
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import common; common.report_cost()"
    command = [sys.executable, "-c", code, module, function, *map(str, args)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if child.returncode:
        sys.exit(child.returncode)  # it has said why
    return tuple(json.loads(child.stdout.splitlines()[-1]))


def report_cost():
    """The other end of cost()."""
    module, function, *args = sys.argv[1:]
    sys.argv[0] = f"{module}.py"  # what an error message begins with

    def measure(_):
        work = getattr(importlib.import_module(module), function)(*args)
        before, begin = peak_memory(), time.perf_counter()
        work()
        print(json.dumps([time.perf_counter() - begin, (peak_memory() - before) / MEGA]))

    cli.run(measure, None)


# ---------------------------------------------------------------------------------------------------------- the report


def report(header, rows, results):
    """Print the machine, a Markdown table and, last, the results as one line of JSON."""
    print(f"{machine()}\n")
    print_table(header, rows)
    print_results(results)


def print_table(header, rows):
    """Print a Markdown table."""
    rows = [header, *[[text(cell) for cell in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    print()


def print_results(results):
    print(json.dumps(rounded(results), allow_nan=False))


def text(cell):
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return "" if cell is None else str(cell)


def rounded(value):
    """Four digits of every float: more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def machine():
    """One line: processor, cores, versions, date."""
    import torch

    from training.devices import processor

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "h5py", "numpy"))
    return (
        f"{processor(torch.device('cpu'))}, {cli.usable_cores()} cores, "
        f"{platform.system()}; Python {platform.python_version()}, {packages}; {datetime.date.today()}"
    )
