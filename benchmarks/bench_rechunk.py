"""Re-chunking an images.h5 against copying the same file, flushing the copy to the disk and reading it back.

    python benchmarks/bench_rechunk.py [--n 500] [--rounds 5]

Both end with a second file on the disk whose content was read once more. Time is measured in turns, peak memory in a
process of its own, at N, 2N and 4N images of the data's size, repeated where it holds fewer. Needs room for 16 N
images beside the data (1.6 GB as it is). About a minute once the data is there.
"""

import shutil
import tempfile
from pathlib import Path

import common
import h5py
import numpy as np

import cli
import data_rechunk
from data import contract

SPLIT, KIND = "train", "images"


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--n", type=cli.integer(1), default=500, help="the smallest number of images"
    )
    parser.add_argument("--rounds", type=cli.integer(1), default=5)
    return parser.parse_args(argv)


def main(args):
    common.peak_memory()  # where the system does not tell it, say so now
    data = common.data_folder(args.data)
    table = []
    # On the disk that holds the data: a temporary folder of the system may be memory.
    with tempfile.TemporaryDirectory(dir=data.parent) as place:
        for n in (args.n, 2 * args.n, 4 * args.n):
            table.append(measure(data, Path(place), n, args.rounds))
    _, _, _, _, ratios, peaks = zip(*table)
    common.report(
        ["N", "MB", "copy, flush, read back: s", "re-chunk: s", "ratio", "peak MB above start-up"],
        table,
        {
            "ratio_copy": ratios[-1],
            "peak_mb": peaks,
            "ratios": ratios,
            "n": [row[0] for row in table],
            "rounds": args.rounds,
        },
    )


def measure(data, place, n, rounds):
    """One row of the table."""
    source, copied, target = place / "source.h5", place / "copy.h5", place / SPLIT / f"{KIND}.h5"
    target.parent.mkdir(exist_ok=True)
    write_source(data, source, n)

    def fresh(_=None):
        """The file to re-chunk and the one to copy, on the disk and in the page cache alike."""
        copied.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        data_rechunk.flush_to_disk(target)
        for path in (target, source):
            common.read_through(path)

    def copy():
        shutil.copyfile(source, copied)
        data_rechunk.flush_to_disk(copied)
        common.read_through(copied)

    seconds = common.interleave({"copy": copy, "re-chunk": rechunk(place)}, rounds, before=fresh)
    fresh()
    _, peak = common.cost("bench_rechunk", "rechunk", place)
    megabytes = round(source.stat().st_size / common.MEGA)
    return [
        n,
        megabytes,
        seconds["copy"],
        seconds["re-chunk"],
        seconds["re-chunk"] / seconds["copy"],
        peak,
    ]


def rechunk(folder):
    """A function that re-chunks the file."""
    return lambda: data_rechunk.rechunk(folder, SPLIT, KIND)


def write_source(data, path, n):
    """Write n images of the data, from the start again where they run out, in one piece as data_prepare.py does."""
    images = data / SPLIT / f"{KIND}.h5"
    with contract.open_h5(images) as file, h5py.File(path, "w") as target:
        dataset = data_rechunk.source_dataset(images, file, KIND)
        store = target.create_dataset(KIND, (n, *dataset.shape[1:]), np.uint8)
        filled = 0
        while filled < n:
            for _, rows in contract.slabs(dataset):
                rows = rows[: n - filled]
                store[filled : filled + len(rows)] = rows
                filled += len(rows)
    data_rechunk.flush_to_disk(path)


if __name__ == "__main__":
    cli.run(main, parse_args())
