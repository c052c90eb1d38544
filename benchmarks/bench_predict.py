"""predict.py on a folder of photographs against one mtl_vis.py call for each, and its memory.

    python benchmarks/bench_predict.py [--photographs DIR] [--n 1000] [--calls 5]

Without --photographs they are drawn pets. Both use one checkpoint; mtl_vis.py takes --calls of the
photographs, one after the other. predict.py runs on N / 10 and on N photographs: their difference
is the speed without start-up. The peak is the resident memory of the largest process (Linux).
About three minutes on 2 idle cores.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

import cli
from cli import InputError
from data.photographs import is_photograph_name
from data.sources import synthetic

FRACTION = 10  # of the photographs: the smaller folder


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="folder of photographs")
    parser.add_argument("--n", type=cli.integer(FRACTION), default=1000, help="photographs")
    parser.add_argument("--calls", type=cli.integer(1), default=5, help="calls of mtl_vis.py")
    parser.add_argument("--checkpoint", type=Path, default=common.ROOT / "mtl_model.pt")
    return parser.parse_args(argv)


def main(args):
    if sys.platform != "linux":
        raise InputError("this benchmark reads memory from /proc; run it on Linux")
    common.CACHE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=common.CACHE.parent) as place:
        place = Path(place)
        few = args.n // FRACTION
        paths = lay_out(args.photographs, place, few, args.n)
        rows, singles = [], []
        for name, n in (("few", few), ("all", args.n)):
            options = "--checkpoint", args.checkpoint, place / name, "--out", place / f"{name}-out"
            seconds, peak = run("predict.py", *options)
            rows.append(["predict.py", n, seconds, n / seconds, peak])
        for path in paths[: args.calls]:
            options = "--checkpoint", args.checkpoint, path, "--out", place / "mask.png"
            singles.append(run("mtl_vis.py", *options)[0])
    single = statistics.median(singles)
    rows.append(["mtl_vis.py, one call each", 1, single, 1 / single, None])
    (*_, seconds_few, _, peak_few), (*_, seconds_all, _, peak_all), _ = rows
    common.report(
        ["way", "photographs", "seconds", "photographs/s", "peak MB"],
        rows,
        {
            "photographs_per_second": args.n / seconds_all,
            "photographs_per_second_started": (args.n - few) / (seconds_all - seconds_few),
            "ratio": args.n / seconds_all * single,
            "n": [few, args.n],
            "peak_mb": [peak_few, peak_all],
            "growth_of_memory": peak_all / peak_few,
        },
    )


def lay_out(source, place, few, n):
    """Folders `few` and `all` of links to photographs; returns the paths of all."""
    if source is None:
        synthetic.draw_dataset(place / "pets", n)
        source = place / "pets" / "images"
    paths = sorted(path for path in source.iterdir() if is_photograph_name(path.name))[:n]
    if len(paths) < n:
        raise InputError(
            f"{source} holds {len(paths)} photographs and {n} are asked for; lower --n"
        )
    for name, count in (("few", few), ("all", n)):
        (place / name).mkdir()
        for path in paths[:count]:
            (place / name / path.name).symlink_to(path.resolve())
    return paths


def run(script, *options):
    """(seconds, peak MB of the largest process so far) of a script."""
    begin = time.perf_counter()
    command = [sys.executable, common.ROOT / script, *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / common.MEGA
    return time.perf_counter() - begin, peak


if __name__ == "__main__":
    cli.run(main, parse_args())
