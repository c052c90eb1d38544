"""Shared by the tests: the project on the import path, small data folders, trained runs, 200 real
photographs.

Each shared folder is made once for all processes of the suite (`once`). Read them; copy what you
change.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

# Tiny tensors gain nothing from threads, and lose much where the machine is busy. Scripts that
# tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts what it runs in the background with Ctrl-C ignored, and so would be what tests
# start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import warm  # noqa: E402  (the path comes first)
from tiny import TINY  # noqa: E402

import data_rechunk  # noqa: E402
from training import figures as run_figures  # noqa: E402

SHARED = "shared"  # folder of `once`, beside the processes' own temporary folders
PHOTOGRAPHS = 200


@pytest.fixture(scope="session", autouse=True)
def no_memory(tmp_path_factory):
    """What runs remember of this machine for later ones stays among the tests; scripts that they
    start inherit it.
    """
    os.environ["XDG_CACHE_HOME"] = os.environ["LOCALAPPDATA"] = str(
        tmp_path_factory.mktemp("cache")
    )


# -------------------------------------------------------------------------------- made once for all


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make) -> the folder that make(folder) fills, in whichever process of the suite
    asks first.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    place = place / SHARED
    place.mkdir(exist_ok=True)

    def folder_of(name, make):
        folder, done = place / name, place / f"{name}.done"
        with FileLock(place / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # by a process that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def data(once):
    """A re-chunked data folder of 24, 10 and 10 images of 64 px."""
    return once("data", lambda folder: rechunk(write_data(folder, COUNTS)))


@pytest.fixture(scope="session")
def rich(once):
    """The images of `data`, with a trimap each, and breed and age of most."""
    return once("rich", lambda folder: rechunk(write_more(write_data(folder, COUNTS))))


@pytest.fixture(scope="session")
def trained(once, data):
    """trained("train_mtl.py") -> the runs folder of that script's run on `data` with the options of
    tiny.TINY.

    More words are more options, as in trained("train.py", "--tasks", "seg", "--name", "own").
    """

    def runs_of(script, *options):
        def train(folder):
            words = "--data", data, "--runs", folder, *TINY, *options
            outcome = warm.run_script(script, *words, cwd=folder)
            assert outcome.returncode == 0, outcome.stderr

        return once("-".join(["runs", script, *options]).replace("/", "_"), train)

    return runs_of


@pytest.fixture
def trained_copy(trained, tmp_path):
    """The same as a copy in tmp_path / "runs", to be changed."""
    return lambda *words: shutil.copytree(trained(*words), tmp_path / "runs")


@pytest.fixture(scope="session")
def photographs(once):
    """200 of the photographs of PETS_ROOT with their annotations, in the layout of the archives."""
    root = os.environ.get("PETS_ROOT")
    if not root:
        pytest.skip("PETS_ROOT does not name a folder")
    return once("photographs", lambda folder: link_photographs(Path(root), folder))


def link_photographs(root, folder):
    """Fill a folder with links to an even choice of the photographs that have a trimap, and to what
    belongs to them.
    """
    names = sorted(path.stem for path in (root / "annotations" / "trimaps").glob("[!.]*.png"))
    chosen = set(names[:: len(names) // PHOTOGRAPHS][:PHOTOGRAPHS])
    for part in ("images", "annotations/trimaps", "annotations/xmls"):
        (folder / part).mkdir(parents=True)
        for path in (root / part).iterdir():
            if path.stem in chosen:
                (folder / part / path.name).symlink_to(path.resolve())
    for path in (root / "annotations").glob("*.txt"):
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.split()[0] in chosen]
        (folder / "annotations" / path.name).write_text("".join(kept))


# ------------------------------------------------------------------------------------------ figures

DRAWING = {name: getattr(run_figures, name) for name in ("draw_curves", "draw_masks")}


@pytest.fixture(scope="session", autouse=True)
def no_figures():
    """Runs in the tests' own process draw no figures, which take most of so short a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in DRAWING:
            patch.setattr(run_figures, name, lambda trainer, path: path.touch())
        yield


@pytest.fixture(scope="module")
def figures():
    """For a module or a test that looks at the figures of runs in its own process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, draw in DRAWING.items():
            patch.setattr(run_figures, name, draw)
        yield


# --------------------------------------------------------------------------------------------- data

COUNTS = {"train": 24, "val": 10, "test": 10}


def write_data(folder, counts, size=64, seed=0):
    """A data folder as somebody else might prepare it: a bright square pet on a dark ground, a head
    box in it.

    A cat's square is reddish, a dog's bluish, so there is something to learn. The last image of
    each split has no box.
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
    """Copy all that runs, and the guides that lie in its folders, without the network, records and
    tests.
    """
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    for package in ROOT.glob("*/__init__.py"):
        room = package.parent
        shutil.copytree(room, folder / room.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def rechunk(folder):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(folder)]))
    return folder


def write_more(folder):
    """Add to a folder of write_data what only tasks of one's own need: trimaps, and columns breed
    and age with empty cells.
    """
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
