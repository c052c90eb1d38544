"""The loader against other ways to the same bytes, and re-chunking against copying a file.

    python benchmarks/bench_data.py [--rounds 5] [--n 500]

Loading, from files in the page cache to batches of 16, without augmentation. Ours reads re-chunked
files, or holds the set in memory as it does from the second epoch on where it fits. Beside it: the
published study's way (four files opened for every sample, float64 arrays), and images alone from
one-sample chunks and from the chunks that h5py guesses, which is the case for re-chunking.

Re-chunking an images.h5 of N, 2N and 4N images, against copying it, flushing the copy to the disk
and reading it back. Needs room for 16 N images beside the data. About two minutes once the data is
there.
"""

import shutil
import tempfile
from pathlib import Path

import common
import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import cli
import data_rechunk
from data import contract
from data.contract import chunked
from dataloader_mtl import MTLDataset, batches, make_loader
from tasks.bbox import Bbox
from tasks.cls import Cls
from tasks.seg import Seg

SPLIT = "train"
KINDS = ("images", "masks", "bboxes", "binary")  # what the published tasks need
FEW, FEWEST = 256, 32  # images: the slow ways are timed over fewer


class OpenPerSample(Dataset):
    """The published way: a sample opens the four files and makes float64 of what it reads."""

    def __init__(self, folder, rows):
        self.folder, self.rows = folder, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        sample = {}
        for kind in KINDS:
            with h5py.File(self.folder / f"{kind}.h5", "r") as file:
                sample[kind] = file[chunked(kind)][self.rows[index]]
        image = torch.from_numpy(sample["images"] / 255).permute(2, 0, 1)
        mask = torch.from_numpy(sample["masks"] / 255).permute(2, 0, 1)
        return (image - 0.45) / 0.23, mask * 255, sample["bboxes"] / 255, int(sample["binary"][0])


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument("--n", type=cli.integer(1), default=500, help="fewest images to re-chunk")
    return parser.parse_args(argv)


def main(args):
    data = common.data_folder(args.data)
    print(f"{common.machine()}\n")
    # On the disk that holds the data: a temporary folder of the system may be memory.
    with tempfile.TemporaryDirectory(dir=data.parent) as place:
        speeds = measure_loading(data, Path(place), args)
        ours, single = speeds["from files"], speeds["images alone, one-sample chunks"]
        rows = []
        for name, speed in speeds.items():
            reference = single if "alone" in name else ours
            rows.append([name, speed, reference / speed])
        common.print_table(["way", "images/s", "ours over it"], rows)
        rows = []
        for n in (args.n, 2 * args.n, 4 * args.n):
            rows.append(measure_rechunking(data, Path(place), n, args.rounds))
    header = ["N", "MB", "copy, flush, read back: s", "re-chunk: s", "ratio"]
    common.print_table(header, rows)
    common.print_results(
        {
            "images_per_second": speeds,
            "ratio_copy": [row[4] for row in rows],
            "n": [row[0] for row in rows],
            "rounds": args.rounds,
        }
    )


# ------------------------------------------------------------------------------------------ loading


def measure_loading(data, place, args):
    """{way: images/s}."""
    folder, size = data / SPLIT, args.batch_size
    tasks = [Seg(), Cls(), Bbox()]
    from_files, in_memory = MTLDataset(data, SPLIT, tasks), MTLDataset(data, SPLIT, tasks)
    from_files.fits_in_memory = lambda *_: False
    in_memory.fits_in_memory = lambda *_: True
    rows = np.random.default_rng(0).permutation(len(from_files))
    paths = [*(folder / f"{kind}.h5" for kind in KINDS), place / "guessed.h5"]
    with h5py.File(place / "guessed.h5", "w") as guessed, h5py.File(paths[0]) as ours:
        guessed.create_dataset("images", data=read_all(data, "images"), chunks=True)
        opening = DataLoader(OpenPerSample(folder, rows[:FEW]), size)
        ways = {  # name: (function, images that it reads)
            "from files": drain(make_loader(from_files, size, shuffle=True)),
            "held in memory": drain(make_loader(in_memory, size, shuffle=True)),
            "four files opened a sample": drain(opening),
            "images alone, one-sample chunks": read_single(ours[chunked("images")], rows),
            "images alone, guessed chunks": read_single(guessed["images"], rows[:FEWEST]),
        }
        functions = {name: function for name, (function, _) in ways.items()}

        def warm(name):
            for path in paths:
                common.read_through(path)

        seconds = common.interleave(functions, args.rounds, before=warm)
    return {name: images / seconds[name] for name, (_, images) in ways.items()}


def read_all(data, kind):
    file, dataset = contract.open_rechunked(data, SPLIT, kind)
    with file:
        return contract.read_rows(dataset, 0, len(dataset))


def drain(loader):
    """(A function that takes all batches of a loader, the number of images in them)."""

    def take():
        for _ in batches(loader) if isinstance(loader.dataset, MTLDataset) else loader:
            pass

    return take, sum(map(len, loader.batch_sampler))


def read_single(dataset, rows):
    """(A function that reads rows one after the other, the number of rows)."""

    def take():
        for row in rows.tolist():
            dataset[row]

    return take, len(rows)


# -------------------------------------------------------------------------------------- re-chunking


def measure_rechunking(data, place, n, rounds):
    """One row of the table."""
    source, copied, target = place / "source.h5", place / "copy.h5", place / SPLIT / "images.h5"
    target.parent.mkdir(exist_ok=True)
    write_source(data, source, n)

    def fresh(_=None):
        """The file to re-chunk and the one to copy, on the disk and in the page cache alike."""
        copied.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        data_rechunk.flush_to_disk(target)
        common.read_through(target)
        common.read_through(source)

    def copy():
        shutil.copyfile(source, copied)
        data_rechunk.flush_to_disk(copied)
        common.read_through(copied)

    def rechunk():
        data_rechunk.rechunk(place, SPLIT, "images")

    seconds = common.interleave({"copy": copy, "ours": rechunk}, rounds, before=fresh)
    megabytes = round(source.stat().st_size / common.MEGA)
    ratio = seconds["ours"] / seconds["copy"]
    return [n, megabytes, seconds["copy"], seconds["ours"], ratio]


def write_source(data, path, n):
    """Write n images of the data, from the start again where they run out, in one piece."""
    images = read_all(data, "images")
    with h5py.File(path, "w") as file:
        store = file.create_dataset("images", (n, *images.shape[1:]), np.uint8)
        for start in range(0, n, len(images)):
            store[start : start + len(images)] = images[: n - start]
    data_rechunk.flush_to_disk(path)


if __name__ == "__main__":
    cli.run(main, parse_args())
