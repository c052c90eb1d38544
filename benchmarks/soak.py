"""Kills and damaged files: what must never be lost, and what must be refused in one sentence.

    python benchmarks/soak.py --kills 100     SIGKILL at random and at saves; run again, compare
    python benchmarks/soak.py --damage 500    damaged files: refused, or the same result

Phases: preparation, re-chunking, evaluation, training in one process and in two, of which one or
both are killed, training several times. After a kill the same command runs to its end and must
leave what an undisturbed run leaves, bit for bit. Damaged files, records and options must be
refused in one sentence, or change no result.

On small synthetic data in a temporary folder (Linux). Prints counts and, last, one JSON line. Exit
status 0 only if everything held; else the first failures with the --seed that repeats each (with
--kills 1 or --damage 1; the moment of a random kill varies with the machine's load).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import common

sys.path.insert(0, str(common.ROOT / "tests"))  # of warm.py

import damage
import kills
from reference import Lost, make_reference
from tqdm import tqdm

import cli

NAMED = 20  # of the failures


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    number = cli.integer(0)
    parser.add_argument("--kills", type=number, default=0, metavar="N", help="kill N runs")
    parser.add_argument("--damage", type=number, default=0, metavar="N", help="damage N files")
    parser.add_argument(
        "--seed", type=number, default=0, help="of the first try; each has the next"
    )
    args = parser.parse_args(argv)
    if not args.kills and not args.damage:
        parser.error("nothing to do: ask for --kills N or --damage N")
    return args


def main(args):
    if sys.platform != "linux":
        raise cli.InputError("soak.py starts its processes by a fork server; run it on Linux")
    results, failures = {"seed": args.seed}, []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        reference = make_reference(Path(folder))
        for module, n in ((kills, args.kills), (damage, args.damage)):
            counts, failed = soak(module, reference, range(args.seed, args.seed + n))
            failures += failed
            kinds = sorted({kind for count in counts.values() for kind in count})
            rows = [[name, *(count[kind] for kind in kinds)] for name, count in counts.items()]
            if rows:
                common.print_table([module.__name__, *kinds], rows)
            results[module.__name__] = {name: dict(count) for name, count in counts.items()}
    for failure in failures[:NAMED]:
        print(failure, file=sys.stderr)
    common.print_results(results | {"failures": len(failures)})
    if failures:
        sys.exit(1)


def soak(module, reference, seeds):
    """Try a module's `attempt` with every seed; returns ({name: Counter}, failures)."""
    counts, failures = defaultdict(Counter), []
    for seed in tqdm(seeds, module.__name__, disable=None):
        place = reference.folder / f"{module.__name__}{seed}"
        place.mkdir()
        try:
            name, found = module.attempt(reference, place, seed)
            counts[name] += found
        except Lost as loss:
            failures.append(f"{module.__name__}, --seed {seed}: {loss}")
        shutil.rmtree(place)
    return counts, failures


if __name__ == "__main__":
    cli.run(main, parse_args())
