"""Shared by the tests: the repository root on the import path, and small data folders in the contract's form."""

import os
import shutil
import signal
import sys
from pathlib import Path

# Tiny tensors gain nothing from threads, and lose much where the machine is busy. Scripts that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts what it runs in the background with Ctrl-C ignored, and so would be what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import data_rechunk  # noqa: E402  (the path comes first)


@pytest.fixture(scope="session", autouse=True)
def no_memory(tmp_path_factory):
    """What runs remember of this machine for later ones stays among the tests; scripts that they start inherit it."""
    os.environ["XDG_CACHE_HOME"] = os.environ["LOCALAPPDATA"] = str(
        tmp_path_factory.mktemp("cache")
    )


def write_data(folder, counts, size=64, seed=0):
    """A data folder as somebody else might prepare it: a bright square pet on a dark ground, a head box in it.

    A cat's square is reddish, a dog's bluish, so there is something to learn. The last image of each split has no box.
    """
    rng = np.random.default_rng(seed)
    for split, n in counts.items():
        images = rng.integers(0, 100, (n, size, size, 3), dtype=np.uint8)
        masks = np.zeros((n, size, size, 1), np.uint8)
        boxes = np.full((n, 4), np.nan, np.float32)
        labels = rng.integers(0, 2, (n, 1)).astype(np.uint8)
        for k in range(n):
            side = int(rng.integers(size // 4, size // 2))
            x, y = (int(v) for v in rng.integers(0, size - side, 2))
            images[k, y : y + side, x : x + side, 2 * labels[k, 0]] += 120
            masks[k, y : y + side, x : x + side] = 1
            if k < n - 1:
                boxes[k] = x, y, x + side / 2, y + side / 2
        (folder / split).mkdir(parents=True)
        for kind, array in (
            ("images", images),
            ("masks", masks),
            ("bboxes", boxes),
            ("binary", labels),
        ):
            with h5py.File(folder / split / f"{kind}.h5", "w") as file:
                file[kind] = array
    return folder


def copy_project(folder):
    """Copy all that runs, and the guides that lie in its folders, without the network, records and tests."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    for room in ("data", "encoders", "sharing", "study", "tasks", "training", "weighting"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def rechunk(folder):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(folder)]))
    return folder


def write_more(folder):
    """Add to a folder of write_data what only tasks of one's own need: trimaps, and columns breed and age with empty cells."""
    for split in (path for path in folder.iterdir() if path.is_dir()):
        with h5py.File(split / "masks.h5", "r") as file:
            masks = file["masks"][:]
        trimaps = np.where(masks, 1, 2).astype(np.uint8)
        trimaps[:, :, 1:][masks[:, :, 1:] != masks[:, :, :-1]] = 3
        with h5py.File(split / "trimaps.h5", "w") as file:
            file["trimaps"] = trimaps
        cells = [
            (("pug", "boxer", "sphynx", "")[k % 4], "" if k % 5 == 4 else str(1 + k % 3))
            for k in range(len(masks))
        ]
        lines = [f"{k},{split.name}_{k},{breed},{age}" for k, (breed, age) in enumerate(cells)]
        (split / "index.csv").write_text("\n".join(["row,name,breed,age", *lines, ""]))
    return folder


@pytest.fixture(scope="session")
def rich(tmp_path_factory):
    """The images of `data`, with a trimap each, and breed and age of most. Read it, do not change it."""
    return rechunk(
        write_more(
            write_data(
                tmp_path_factory.mktemp("rich") / "pets", {"train": 24, "val": 10, "test": 10}
            )
        )
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A re-chunked data folder of 24, 10 and 10 images of 64 px. Read it, do not change it."""
    return rechunk(
        write_data(tmp_path_factory.mktemp("data") / "pets", {"train": 24, "val": 10, "test": 10})
    )


@pytest.fixture(scope="module")
def no_pictures():
    """Drawing takes most of so short a run's time, and other tests look at pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.pictures.draw_curves", lambda history, tasks, path: path.touch())
        patch.setattr("training.pictures.draw_pictures", lambda pictures, path: path.touch())
        yield
