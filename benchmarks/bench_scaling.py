"""Training steps in 1, 2, 4 and 8 processes of this machine as far as its cores go, and what several machines would give.

    python benchmarks/bench_scaling.py [--data D] [--batch-size 16] [--rounds 3]

Measured: images/s of the full MTL network's step, one thread a process, the batch of the same size split among them; how
often the processes meet in a step, and how many bytes each hands over. What several machines would give is calculated from
that, for links that are simulated by their delay and bandwidth alone:

    seconds of a step = seconds of its part of the batch on one machine + meetings x delay + bytes x 2 (M - 1) / M / bandwidth

It is assumed that the M machines are like this one, that a meeting costs one delay, that all bytes go around in a ring, and
that nothing overlaps. No second machine was at hand. About two minutes on 2 idle cores.
"""

import contextlib

import common
import together

import cli
from dataloader_mtl import MTLDataset
from training import distributed

PROCESSES = (1, 2, 4, 8)
MACHINES = (1, 2, 4, 8)
LINKS = {
    "1 Gbit/s, 0.2 ms": (0.2e-3, 125e6),
    "10 Gbit/s, 0.05 ms": (0.05e-3, 1.25e9),
    "100 Gbit/s, 0.005 ms": (5e-6, 12.5e9),
}


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument("--batch-size", type=cli.integer(2, 4096), default=16)
    parser.add_argument("--rounds", type=cli.integer(1), default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    return parser.parse_args(argv)


def main(args):
    dataset = MTLDataset(common.data_folder(args.data), "train")
    if len(dataset) < args.batch_size:
        raise cli.InputError(
            f"{dataset.data} has {len(dataset)} training images and a batch {args.batch_size}; use a smaller "
            "--batch-size"
        )
    batch = dataset.__getitems__([(0, row) for row in range(args.batch_size)])
    cores = min(cli.usable_cores(), args.batch_size)
    speeds = {}
    for processes in [p for p in PROCESSES if p <= max(2, cores)]:
        measured = together.measure(processes, batch, args.precision, (0,), args.rounds)
        speeds[processes] = measured["processes", 0]
    with contextlib.closing(distributed.start(2, 1)) as team:
        meetings, nbytes = team.call(count_exchanges, batch, args.precision)
    rows = [
        [f"{p} processes", value, value / speeds[1], value / speeds[1] / p]
        for p, value in speeds.items()
    ]
    common.print_table(
        [
            f"this machine, {dataset.size} px, {args.precision}",
            "images/s",
            "over one",
            "efficiency",
        ],
        rows,
    )

    best = max(speeds, key=speeds.get)
    seconds = {}
    for machines in [m for m in MACHINES if m <= args.batch_size // best]:
        n = args.batch_size // machines
        part = {name: value[:n] for name, value in batch.items()}
        seconds[machines] = (
            n / together.measure(best, part, args.precision, (0,), args.rounds)["processes", 0]
        )
    several = {
        link: {
            m: args.batch_size / step_seconds(seconds[m], m, meetings, nbytes, *numbers)
            for m in seconds
        }
        for link, numbers in LINKS.items()
    }
    rows = [[link, *(speeds_of[m] for m in seconds)] for link, speeds_of in several.items()]
    common.report(
        [f"images/s by link, {best} processes a machine", *(f"{m} machines" for m in seconds)],
        rows,
        {
            "images_per_second": {str(p): value for p, value in speeds.items()},
            "meetings": meetings,
            "megabytes": nbytes / 1e6,
            "several_machines": {
                link: {str(m): value for m, value in of_link.items()}
                for link, of_link in several.items()
            },
            "batch_size": args.batch_size,
            "precision": args.precision,
            "size": dataset.size,
            "rounds": args.rounds,
        },
    )


def step_seconds(seconds, machines, meetings, nbytes, delay, bandwidth):
    """Seconds of a step on several machines, of which each computes its part in `seconds`."""
    if machines == 1:
        return seconds
    return seconds + meetings * delay + nbytes * 2 * (machines - 1) / machines / bandwidth


def count_exchanges(team, batch, precision):
    """(meetings of a step, bytes that a process hands over in it)."""
    take, counts = together.stepper(team, batch, precision, team.size), []
    take()
    exchange, meet = team.exchange, team.meet

    def counted(tensor):
        counts.append(tensor.nbytes)
        return exchange(tensor)

    team.exchange = counted
    team.meet = lambda: (counts.append(0), meet())[1]  # exchanges meet, too
    take()
    team.exchange, team.meet = exchange, meet
    # Gradients go through memory of their own, between processes of one machine.
    gradients = 4 * sum(p.numel() for p in together.MTLNet(together.TASKS).parameters())
    return sum(1 for nbytes in counts if not nbytes), sum(counts) + gradients


if __name__ == "__main__":
    cli.run(main, parse_args())
