"""Kill it and feed it rubbish: hours of bad luck in minutes, by hand; tests/test_faults.py does a little of it in the suite.

    python benchmarks/soak.py --kills 200     SIGKILL at random moments and at saves, in all four phases; run again, compare
    python benchmarks/soak.py --team 50       SIGKILL for one of the two processes of a run; run again, compare (Linux)
    python benchmarks/soak.py --fuzz 3000     damaged, hostile and odd input: refused in a sentence, or taken for what it is
    python benchmarks/soak.py --axes D        every sharing, weighting and encoder together, on a data folder: killed, resumed, exported

What is known of an input is held against what comes of it: a photograph of another depth, turn, profile or transparency, for
one, has to be stored and drawn exactly as the plain picture that it should look like. 3,000 inputs take half an hour.

On synthetic data in a temporary folder. Prints the counts by phase and by kind and, last, one JSON line. Exit status 0 only
if everything held; otherwise it names the first failures, each with the --seed that repeats it (with --kills 1, --team 1 or
--fuzz 1; the moment of a random kill varies with the machine's load). Needs a system that can fork.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a fork does not survive its threads

import sys
import tempfile
from pathlib import Path

import common
from soaking import axes, fuzz, kills, server, team

import cli

NAMED = 20  # of the failures


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--kills", type=cli.integer(0), default=0, metavar="N", help="kill N times")
    parser.add_argument(
        "--team",
        type=cli.integer(0),
        default=0,
        metavar="N",
        help="kill one process of a run in two N times",
    )
    parser.add_argument(
        "--fuzz",
        type=cli.integer(0),
        default=0,
        metavar="N",
        help="try N damaged, hostile or odd inputs",
    )
    parser.add_argument(
        "--axes",
        type=Path,
        metavar="DATA",
        help="train, kill and export every combination on a data folder",
    )
    parser.add_argument(
        "--seed", type=cli.integer(0), default=0, help="of the first try; each has the next number"
    )
    args = parser.parse_args(argv)
    if not args.kills and not args.team and not args.fuzz and not args.axes:
        parser.error("nothing to do: ask for --kills N, --team N, --fuzz N or --axes DATA")
    return args


def main(args):
    results, failures = {"seed": args.seed}, []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        reference = server.make_reference(Path(folder))
        for soak, n in (
            (kills.soak, args.kills),
            (team.soak, args.team),
            (fuzz.soak, args.fuzz),
            (axes.soak, args.axes and args.axes.resolve()),
        ):
            if n:
                (header, *rows), found, failed = soak(reference, n, args.seed)
                common.print_table(header, rows)
                results |= found
                failures += failed
    for failure in failures[:NAMED]:
        print(failure, file=sys.stderr)
    common.print_results(results | {"failures": len(failures)})
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, parse_args())
