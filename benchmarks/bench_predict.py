"""predict.py on a folder of photographs against one mtl_vis.py call for each, its memory at N and N / 10 of them, and what one
photograph takes by itself.

    python benchmarks/bench_predict.py [--photographs DIR] [--n 1000] [--calls 5]

Without --photographs they are pets drawn in code. Both look with the same checkpoint, mtl_vis.py at --calls of the photographs, one
after the other; predict.py writes a mask each with as many processes as there are cores. The peak is the sum over predict.py and its
processes of their resident memory, in which what they share counts for each (Linux). one_ms: from a photograph's file to its mask's,
one thread, after loading; the median of up to 100.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import common
from tqdm import tqdm

import cli
import predict as predict_py
from cli import InputError
from data.photographs import is_photograph_name
from data.sources import synthetic

WARM, ALONE = 5, 100  # photographs, of those that are looked at one after the other


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--photographs",
        type=Path,
        metavar="DIR",
        help="a folder of photographs; default: drawn ones",
    )
    parser.add_argument("--n", type=cli.integer(10), default=1000, help="of how many to make masks")
    parser.add_argument("--calls", type=cli.integer(1), default=5, help="of mtl_vis.py")
    parser.add_argument("--checkpoint", type=Path, default=common.ROOT / "mtl_model.pt")
    return parser.parse_args(argv)


def main(args):
    if not Path("/proc/self/status").exists():
        raise InputError(
            "this system does not tell what memory other processes have; run this benchmark on Linux"
        )
    common.CACHE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=common.CACHE.parent) as place:
        place = Path(place)
        counts = {"few": max(1, args.n // 10), "all": args.n}
        names = lay_out(args.photographs, place, counts)
        singles = [
            one_call(place, args.checkpoint, name)
            for name in tqdm(names[: args.calls], unit="call", leave=False, disable=None)
        ]
        measured = {name: predict(place, args.checkpoint, name) for name in counts}
        alone = one_photograph(place, args.checkpoint)
        single = statistics.median(singles)
    seconds, peaks = zip(*measured.values())
    speed = args.n / seconds[1]
    common.report(
        ["way", "photographs", "seconds", "photographs/s", "peak MB"],
        [
            ["mtl_vis.py, one call each", 1, single, 1 / single, None],
            ["one thread, after loading", 1, alone, 1 / alone, None],
            *(
                ["predict.py", n, time_, n / time_, peak]
                for n, time_, peak in zip(counts.values(), seconds, peaks)
            ),
        ],
        {
            "photographs_per_second": speed,
            "single_seconds": single,
            "ratio": speed * single,
            "one_ms": 1000 * alone,
            "n": list(counts.values()),
            "seconds": seconds,
            "peak_mb": peaks,
            "growth_of_memory": peaks[1] / peaks[0],
            "calls": args.calls,
        },
    )


def lay_out(source, place, counts):
    """Folders of as many photographs as are counted; returns the names of all."""
    if source is None:
        source = place / "pets"
        synthetic.draw_dataset(source, max(counts.values()))
        source /= "images"
    paths = sorted(path for path in source.iterdir() if is_photograph_name(path.name))[
        : max(counts.values())
    ]
    if len(paths) < max(counts.values()):
        raise InputError(
            f"{source} holds {len(paths)} photographs, and {max(counts.values())} are asked for; choose a smaller --n"
        )
    for name, count in counts.items():
        (place / name).mkdir()
        for path in paths[:count]:
            (place / name / path.name).symlink_to(path.resolve())
    return [path.name for path in paths]


def one_call(place, checkpoint, name):
    """Seconds of a mtl_vis.py call."""
    begin = time.perf_counter()
    call(
        [
            common.ROOT / "mtl_vis.py",
            "--checkpoint",
            checkpoint,
            place / "all" / name,
            "--out",
            place / "mask.png",
        ]
    )
    return time.perf_counter() - begin


def predict(place, checkpoint, name):
    """(seconds, peak of memory in MB) of predict.py on a folder."""
    begin = time.perf_counter()
    peak = call(
        [
            common.ROOT / "predict.py",
            "--checkpoint",
            checkpoint,
            place / name,
            "--out",
            place / f"{name}-seen",
        ]
    )
    return time.perf_counter() - begin, peak


def one_photograph(place, checkpoint):
    """Median seconds from a photograph's file to its mask's, as one of predict.py's processes writes it."""
    from training import predictions

    args = predict_py.parse_args([str(place / "all"), "--out", str(place / "one")])
    found = list(predictions.list_photographs(args.sources, args.out).items())[: WARM + ALONE]
    jobs = predictions.jobs(predictions.recipe(checkpoint, "cpu", args), dict(found), False)
    seconds = []
    for job in jobs:
        begin = time.perf_counter()
        predictions.predict(job)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[min(WARM, len(seconds) // 2) :])


def call(command):
    """Run a script; returns the peak in MB of what it and its processes have together, looked at ten times a second."""
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak, done = [0.0], threading.Event()

    def watch():
        while not done.wait(0.1):
            peak[0] = max(peak[0], together(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = child.communicate()
    done.set()
    watcher.join()
    if child.returncode:
        raise InputError(f"{Path(command[0]).name} failed: {said.strip()}")
    return peak[0]


def together(process):
    """MB of a process and all below it."""
    total = 0.0
    try:
        total += (
            int(re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.M)[1])
            * 1024
            / common.MEGA
        )
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(map(together, (task / "children").read_text().split()))
    except (OSError, TypeError):  # it has ended
        pass
    return total


if __name__ == "__main__":
    cli.run(main, parse_args())
