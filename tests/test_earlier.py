"""Networks and runs of earlier versions: they load, and give the figures that they gave then.

tests/earlier/ holds a run of commit 20c796e, killed after its first epoch. The figures below are
those that commit's evaluate.py printed for the pets of `write_pets`.
"""

import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import COUNTS, ROOT, rechunk, write_data
from tiny import config_of, log, result

import evaluate
from config import Config
from legacy import from_legacy
from training import checkpoint

EARLIER = ROOT / "tests/earlier"
FIGURES = json.loads((EARLIER / "figures.json").read_text())
SIDE = 128


def smooth(values, reach):
    """Sums over squares of integers, in integers: the same bytes on every machine."""
    for axis in (0, 1):
        values = sum(np.roll(values, shift, axis) for shift in range(-reach, reach + 1))
    return values // (2 * reach + 1) ** 2


def write_pets(folder):
    """Six furry ellipses with a head on a lawn: networks for photographs know them as pets."""
    y, x = np.mgrid[:SIDE, :SIDE]

    def ellipse(centre, a, b):
        dx, dy = x - centre[0], y - centre[1]
        return dx * dx * b * b + dy * dy * a * a < a * a * b * b

    images, masks, boxes = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        centre = rng.integers(45, 80, 2)
        head = centre + (30, -24)
        pet = ellipse(centre, 38, 26) | ellipse(head, 16, 16)
        lawn = smooth(rng.integers(0, 2000, (SIDE, SIDE, 3)), 3) - 1000 + (90, 130, 70)
        fur = smooth(rng.integers(0, 600, (SIDE, SIDE, 1)), 1) - 300 + (170, 110, 60)
        image = np.where(pet[..., None], fur, lawn)
        for shift in (-6, 6):
            image[ellipse(head + (shift, -3), 3, 3)] = 20
        image[ellipse(head + (0, 5), 3, 2)] = 40
        images.append(image.clip(0, 255).astype(np.uint8))
        masks.append(pet[..., None].astype(np.uint8))
        boxes.append([*(head - 16), *(head + 16)])
    arrays = {"images": np.stack(images), "masks": np.stack(masks)}
    arrays["bboxes"] = np.float32(boxes)
    arrays["binary"] = np.uint8([[0], [1]] * 3)
    (folder / "test").mkdir(parents=True)
    for kind, array in arrays.items():
        with h5py.File(folder / "test" / f"{kind}.h5", "w") as file:
            file[kind] = array
    return rechunk(folder)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_pets(tmp_path_factory.mktemp("pets") / "pets")


@pytest.mark.parametrize("case", FIGURES)
def test_the_shipped_networks_give_the_figures_that_they_gave(pets, case, capsys):
    words = case.split()
    words[0] = str(ROOT / words[0])
    evaluate.main(evaluate.parse_args(["--data", str(pets), "--checkpoint", *words]))
    figures = json.loads(capsys.readouterr().out)
    assert FIGURES[case]["dice"] > 0.1
    for key, value in FIGURES[case].items():
        if isinstance(value, float):
            assert figures[key] == pytest.approx(value, abs=1e-6), key
        else:
            assert figures[key] == value


@pytest.fixture
def run(tmp_path):
    """(data, the folder of the run) of the earlier version."""
    folder = shutil.copytree(EARLIER / "seed0", tmp_path / "runs/earlier/seed0")
    return rechunk(write_data(tmp_path / "pets", COUNTS)), folder


def test_a_run_of_an_earlier_version_is_read(run):
    _, folder = run
    record = from_legacy(config_of(folder))
    config = Config.from_json(record)
    assert (
        config.ema == 0.5 and config.weighting == "uncertainty" and config.tasks == ("seg", "cls")
    )
    model, info = checkpoint.load_model(folder / "best.pt")
    assert model.tasks == ("seg", "cls") and info["metrics"]["dice"] == pytest.approx(
        0.199, abs=1e-3
    )
    assert checkpoint.load_model(folder / "last.pt")[0].tasks == ("seg", "cls")


def test_a_run_of_an_earlier_version_goes_on(run):
    data, folder = run
    import train

    record = from_legacy(config_of(folder))
    first = log(folder)[0]
    config = Config.from_json(record).replace(data=data, runs=folder.parents[1], resume=True)
    train.main(config)
    rows = log(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["loss"]) == float(first["loss"])
    # What commit 20c796e had in its second epoch.
    assert float(rows[1]["loss"]) == pytest.approx(2.1107160, abs=1e-5)
    assert float(rows[1]["val_dice"]) == pytest.approx(0.1974579, abs=1e-5)
    assert result(folder)["dice"] == pytest.approx(0.1885, abs=1e-4)
