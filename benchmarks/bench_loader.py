"""The loader, from re-chunked files in the page cache to batches of 16, against other ways to the same bytes.

    python benchmarks/bench_loader.py [--rounds 5]

Ours runs in one process without augmentation, once reading the files and once with the set held in memory, as it is
from the second epoch on where it fits. It is measured against
- the way of the published study: four files opened for every sample, float64 arrays;
- a gather from arrays in memory into buffers that are ready, which is as fast as copying goes;
and, which is the case for re-chunking, one-sample chunks against the chunks that h5py guesses, read by the same code.
About half a minute once the data is there.
"""

import tempfile
from pathlib import Path

import common
import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import cli
from data import contract
from data.contract import chunked
from dataloader_mtl import MTLDataset, batches, make_loader

SPLIT = "train"
KINDS = ("images", "masks", "bboxes", "binary")  # what the published tasks need
# The slow ways are timed over fewer images.
FEW, FEWEST = 256, 32


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
        image, mask = (
            torch.from_numpy(sample[kind] / 255).permute(2, 0, 1) for kind in ("images", "masks")
        )
        return (image - 0.45) / 0.23, mask * 255, sample["bboxes"] / 255, int(sample["binary"][0])


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument("--rounds", type=cli.integer(1), default=5)
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    return parser.parse_args(argv)


def main(args):
    data = common.data_folder(args.data)
    folder = data / SPLIT
    from_files, in_memory = MTLDataset(data, SPLIT), MTLDataset(data, SPLIT)
    from_files.fits_in_memory, in_memory.fits_in_memory = lambda: False, lambda: True
    rows = np.random.default_rng(0).permutation(len(from_files))
    arrays = {kind: read_all(data, kind) for kind in KINDS}
    # On the disk that holds the data, so that both chunkings are read from the same place.
    with tempfile.TemporaryDirectory(dir=data.parent) as place:
        guessed = write_guessed(Path(place) / "images.h5", arrays["images"])
        with h5py.File(guessed) as guessed_file, h5py.File(folder / "images.h5") as ours_file:
            ways = {  # name: (function, images that it reads)
                "ours, from files": drain(make_loader(from_files, args.batch_size, shuffle=True)),
                "ours, in memory": drain(make_loader(in_memory, args.batch_size, shuffle=True)),
                "four file opens a sample": drain(
                    DataLoader(OpenPerSample(folder, rows[:FEW]), args.batch_size)
                ),
                "gather from memory": gather(arrays, rows, args.batch_size),
                "images only, one-sample chunks": read_single(ours_file[chunked("images")], rows),
                "images only, guessed chunks": read_single(guessed_file["images"], rows[:FEWEST]),
            }
            paths = [*(folder / f"{kind}.h5" for kind in KINDS), guessed]

            def warm(name):
                for path in paths:
                    common.read_through(path)

            seconds = common.interleave(
                {name: way for name, (way, _) in ways.items()}, args.rounds, before=warm
            )
            chunks = guessed_file["images"].chunks
    speeds = {name: images / seconds[name] for name, (_, images) in ways.items()}
    ours, memory, opening, ram, single, guess = speeds.values()
    table = [
        [name, speed, (single if "images only" in name else ours) / speed]
        for name, speed in speeds.items()
    ]
    table[-1][0] += f" {chunks}"
    common.report(
        ["way", "images/s", "ours, or one-sample chunks, over it"],
        table,
        {
            "images_per_second": ours,
            "images_per_second_in_memory": memory,
            "ratio_open_per_sample": ours / opening,
            "ratio_ram": ours / ram,
            "ratio_guessed_chunks": single / guess,
            "images": len(rows),
            "size": from_files.size,
            "rounds": args.rounds,
        },
    )


def read_all(data, kind):
    file, dataset = contract.open_rechunked(data, SPLIT, kind)
    with file:
        return contract.read_rows(dataset, 0, len(dataset))


def write_guessed(path, images):
    """Write the images to a file whose chunks h5py chooses; returns its path."""
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=True)
    return path


def drain(loader):
    """(A function that takes all batches of a loader, the number of images in them)."""

    def take():
        for _ in batches(loader) if isinstance(loader.dataset, MTLDataset) else loader:
            pass

    return take, sum(map(len, loader.batch_sampler))


def gather(arrays, rows, batch_size):
    """(A function that gathers batches of all four kinds into ready buffers, the number of images)."""
    buffers = {
        kind: np.empty((batch_size, *array.shape[1:]), array.dtype)
        for kind, array in arrays.items()
    }
    rows = rows[: max(1, len(rows) // batch_size) * batch_size]

    def take():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            for kind, array in arrays.items():
                # mode="clip" lets numpy write straight into the buffer.
                np.take(array, batch, axis=0, out=buffers[kind][: len(batch)], mode="clip")

    return take, len(rows)


def read_single(dataset, rows):
    """(A function that reads rows one after the other, the number of rows)."""
    rows = rows.tolist()

    def take():
        for row in rows:
            dataset[row]

    return take, len(rows)


if __name__ == "__main__":
    cli.run(main, parse_args())
