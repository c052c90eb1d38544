"""What the benchmarks share: the project on the import path, synthetic data, timing in turns,
memory, the report.
"""

import contextlib
import datetime
import json
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The one place that makes the project's modules importable from this folder.
sys.path.insert(0, str(ROOT))

from tqdm import tqdm  # noqa: E402  (the path comes first)

import cli  # noqa: E402
import data_prepare  # noqa: E402
import data_rechunk  # noqa: E402

CACHE = ROOT / "datasets" / "bench-synthetic"
PETS = 1000
MEGA = 1e6


def make_parser(doc):
    """The options that benchmarks of training and loading have; `doc` is the script's docstring."""
    parser = cli.Parser(doc)
    parser.add_argument(
        "--data", type=Path, help=f"re-chunked data folder; default: {PETS} drawn pets in {CACHE}"
    )
    parser.add_argument("--rounds", type=cli.integer(1), default=5, help="measurements of each row")
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    return parser


def data_folder(asked=None):
    """The data folder that was asked for, or the synthetic one, made where it is missing."""
    if asked:
        return asked
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the table
        if not CACHE.exists():
            words = ["--synthetic", str(PETS), "--out", str(CACHE)]
            data_prepare.main(data_prepare.parse_args(words))
        # And where that was interrupted.
        data_rechunk.main(data_rechunk.parse_args(["--data", str(CACHE)]))
    return CACHE


# ---------------------------------------------------------------------------------- time


def interleave(ways, rounds, before=None):
    """Time functions in turns: {name: function} -> {name: median seconds of `rounds` calls}, one
    untimed call first.

    In turns, so that whatever else the machine does hits all of them alike. before(name) runs
    untimed ahead of each.
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


# --------------------------------------------------------------------------------------- the report


def report(header, rows, results):
    """Print the machine, a Markdown table and, last, the results as one line of JSON."""
    print(f"{machine()}\n")
    print_table(header, rows)
    print_results(results)


def print_table(header, rows):
    """Print a Markdown table."""
    cells = [header, *([text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(padded) + " |")
    print()


def print_results(results):
    """Print one line of JSON, four digits of every float: more would be noise."""
    text = json.dumps(results, allow_nan=False)
    print(json.dumps(json.loads(text, parse_float=lambda digits: float(f"{float(digits):.4g}"))))


def text(cell):
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return "" if cell is None else str(cell)


def machine():
    """One line: processor, cores, versions, date."""
    import torch

    from training.devices import processor

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "h5py", "numpy"))
    return (
        f"{processor(torch.device('cpu'))}, {cli.usable_cores()} cores, {platform.system()}; "
        f"Python {platform.python_version()}, {packages}; {datetime.date.today()}"
    )
