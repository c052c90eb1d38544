"""evaluate.py: figures as the test's, intervals, images that the network has seen, other sizes."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data, write_more
from scipy.stats import beta
from tiny import read_csv, result, train
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

import evaluate
import registry
from cli import InputError
from dataloader_mtl import MTLDataset
from training import checkpoint
from training import evaluate as evaluation

OWN = ("seg", "cls", "bbox", "column:breed", "column:age", "border", "distance", "recon")


@pytest.fixture(scope="module")
def network(rich, tmp_path_factory):
    """The best.pt of a run of tasks of all kinds."""
    words = ("--tasks", *OWN, "--name", "own")
    return train("train", rich, tmp_path_factory.mktemp("own"), *words) / "best.pt"


@pytest.fixture
def measure(network, rich, capsys):
    """measure(*options) -> (the figures that evaluate.py prints, its warnings)."""

    def run(*options, path=network, data=rich):
        capsys.readouterr()
        words = ["--checkpoint", path, "--data", data, "--device", "cpu", *options]
        evaluate.main(evaluate.parse_args(list(map(str, words))))
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err.splitlines()

    return run


def test_figures_are_those_of_the_runs_test(measure, network):
    figures, warnings = measure("--batch-size", "3")
    test = result(network.parent)
    assert warnings == []
    tasks = checkpoint.load_model(network)[0].task.values()
    metrics = {name for task in tasks for name in task.metrics}
    assert metrics >= {"dice", "accuracy", "box_iou", "breed_accuracy", "age_mae", "recon_mae"}
    for key in metrics | {"n_images", "split_hash", "size", "parameters", "experiment"}:
        expected = test[key]
        if isinstance(expected, float):
            expected = pytest.approx(expected, abs=1e-6)
        assert figures[key] == expected, key


# --------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("hits, n", [(0, 7), (7, 7), (3, 10), (9, 10)])
def test_the_interval_of_an_accuracy_is_exact(hits, n):
    """Clopper and Pearson: quantiles of two beta distributions."""
    values = torch.tensor([1.0] * hits + [0.0] * (n - hits) + [float("nan")] * 3)
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    assert evaluation.exact_interval(values) == pytest.approx([low, high])


def test_other_intervals_are_of_a_bootstrap_over_images():
    """Against a bootstrap of one's own, of other random numbers."""
    rng, task = np.random.default_rng(3), registry.find("tasks", "recon")
    values = rng.normal(0.3, 0.1, 200)
    measured = {"recon_mae": torch.from_numpy(values)}
    interval = evaluation.intervals({"recon": task}, measured)["recon_mae_interval"]
    means = rng.choice(values, (4000, 200)).mean(1)
    assert interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.003)


def test_intervals_hold_the_figure_and_leave_unlabelled_images_out(measure):
    figures, _ = measure()
    intervals = {key for key in figures if key.endswith("_interval")}
    assert len(intervals) == 13
    for key in intervals:
        low, high = figures[key]
        value = figures[key.removesuffix("_interval")]
        assert low <= value <= high and (low < high or value in (0, 1))
    # Exact, of the 7 images of 10 whose breed is known.
    hits = round(figures["breed_accuracy"] * 8)
    values = torch.tensor([1.0] * hits + [0.0] * (8 - hits))
    assert figures["breed_accuracy_interval"] == evaluation.exact_interval(values)


# ---------------------------------------------------------------------------------- what is missing


def test_what_the_split_cannot_measure_is_null(measure, tmp_path):
    folder = rechunk(write_data(tmp_path / "pets", {"test": 6}, seed=3))
    for kind in ("masks", "bboxes", "binary"):
        (folder / f"test/{kind}.h5").unlink()
    figures, warnings = measure(data=folder)
    tasks = registry.find_tasks(OWN)
    assert figures["n_images"] == 6 and figures["recon_mae"] is not None
    assert figures["dice"] is figures["box_iou"] is figures["accuracy"] is None
    assert figures["dice_interval"] is figures["accuracy_interval"] is None
    assert sum("cannot measure" in line for line in warnings) == len(tasks) - 1


def test_other_data_are_measured_in_the_networks_own_terms(measure, tmp_path):
    """Its classes are those of its training split, whatever another folder's column holds."""
    folder = rechunk(write_more(write_data(tmp_path / "pets", {"test": 10}, seed=5)))
    path = folder / "test/index.csv"
    text = path.read_text()
    for breed in ("boxer", "pug", "sphynx"):
        text = text.replace(breed, "beagle")
    path.write_text(text)
    figures, _ = measure(data=folder)
    assert figures["breed_accuracy"] == figures["breed_balanced_accuracy"] == 0
    assert figures["age_mae"] > 0


# ----------------------------------------------------------------------------------------- unseen


def test_images_that_the_network_has_seen_are_counted_and_left_out(measure, rich, tmp_path):
    _, warnings = measure("--split", "train")
    assert any("24 of the 24 images" in line for line in warnings)
    # A test split of 4 training images (2 at their own places) and 6 new ones.
    mixed = shutil.copytree(rich, tmp_path / "mixed")
    with (
        h5py.File(rich / "train/images.h5") as source,
        h5py.File(mixed / "test/images.h5", "r+") as target,
    ):
        target["images"][:4] = source["images"][:4]
    figures, warnings = measure(data=mixed)
    assert figures["n_seen"] == 4 and figures["n_images"] == 10
    assert any("4 of the 10 images" in line for line in warnings)
    unseen, warnings = measure("--unseen", "--out", tmp_path / "new", data=mixed)
    assert unseen["n_images"] == 6 and not any("4 of the 10" in line for line in warnings)
    rows = read_csv(tmp_path / "new_per_image.csv")
    assert [row["name"] for row in rows] == MTLDataset(rich, "test").names[4:]
    dice = np.mean([float(row["dice"]) for row in rows])
    assert unseen["dice"] == pytest.approx(dice)
    assert unseen["dice"] == json.loads((tmp_path / "new.json").read_text())["dice"]


def test_unseen_is_refused_where_all_were_seen_or_nothing_is_known(measure, network, tmp_path):
    with pytest.raises(InputError, match="--unseen"):
        measure("--split", "train", "--unseen")
    content = checkpoint.load(network) | {"trained_on": None, "trained_on_looks": None}
    checkpoint.save(content, tmp_path / "silent.pt")
    with pytest.raises(InputError, match="--unseen"):
        measure("--unseen", path=tmp_path / "silent.pt")


# ---------------------------------------------------------------------------------- size and flips


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A test split of 96 px for the network of 64 px."""
    folder = tmp_path_factory.mktemp("larger") / "pets"
    return rechunk(write_data(folder, {"test": 5}, size=96, seed=2))


def by_hand(network, data, see):
    """(dice, box_iou) of a split: see(model, image) -> (mask's logits as stored, box)."""
    model, _ = checkpoint.load_model(network)
    dataset = MTLDataset(data, "test", model.task.values())
    dice, ious = [], []
    for sample in dataset:
        with torch.no_grad():
            logits, box = see(model, sample["image"])
        mask, target = logits > 0, sample["seg"][None] == 1
        total = (mask.sum() + target.sum()).item()
        dice.append(2 * (mask & target).sum().item() / total)
        ious.append(model.task["bbox"].measure(box, sample["bbox"][None])["box_iou"].item())
    return np.mean(dice), np.nanmean(ious)


def at_64(image):
    return transforms.resize(image, [64, 64], antialias=True)[None]


def back(logits):
    return F.interpolate(logits, size=(96, 96), mode="bilinear", align_corners=False)


def test_resize_by_hand(measure, network, larger):
    def see(model, image):
        outputs = model(at_64(image))
        return back(outputs["seg"]), outputs["bbox"]

    figures, warnings = measure("--resize", "--batch-size", "3", data=larger)
    assert (figures["size"], figures["network_size"]) == (96, 64)
    assert not any("px" in line for line in warnings)
    dice, box_iou = by_hand(network, larger, see)
    assert figures["dice"] == pytest.approx(dice, abs=1e-4)
    assert figures["box_iou"] == pytest.approx(box_iou, abs=1e-5)
    plain, warnings = measure(data=larger)
    assert "network_size" not in plain and any("64 px" in line for line in warnings)


def test_hflip_by_hand(measure, network, larger):
    def see(model, image):
        outputs, flipped = model(at_64(image)), model(at_64(image.flip(-1)))
        x1, y1, x2, y2 = flipped["bbox"][0]
        box = torch.stack([1 - x2, y1, 1 - x1, y2])
        logits = (outputs["seg"] + flipped["seg"].flip(-1)) / 2
        return back(logits), (outputs["bbox"] + box) / 2

    figures, _ = measure("--resize", "--hflip", data=larger)
    dice, box_iou = by_hand(network, larger, see)
    assert figures["hflip"] is True
    assert figures["dice"] == pytest.approx(dice, abs=1e-4)
    assert figures["box_iou"] == pytest.approx(box_iou, abs=1e-5)


def test_at_the_networks_own_size_resize_changes_nothing(measure):
    assert measure("--resize") == measure()


def test_the_earlier_spelling_of_hflip_is_warned_of(capsys):
    assert evaluate.parse_args(["--mirror"]).hflip
    assert "--hflip" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--split", "val", "--calibrate", "x.pt", "--hflip"],
        ["--calibrate", "x.pt"],
        ["--split", "all"],
        ["--batch-size", "0"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.parse_args(words)
    assert end.value.code == 2 and words[-2 if len(words) == 2 else 2] in capsys.readouterr().err
