"""Temperatures and the calibration error against values by hand, and those of a run."""

import math

import pytest
import torch
from tiny import train

import registry
from dataloader_mtl import MTLDataset, make_loader
from models import MTLNet
from training import calibrate, checkpoint


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.double)


def test_the_calibration_error_by_hand():
    # Four say 3/4 and two are right; two say 9/10 and both are: (4 |2/4 - 3/4| + 2 |1 - 9/10|) / 6.
    logits = logits_of(*[[0, math.log(3)]] * 4, *[[math.log(9), 0]] * 2)
    found = calibrate.calibration_error(logits, torch.tensor([1, 1, 0, 0, 0, 0]))
    assert found == pytest.approx((4 * 0.25 + 2 * 0.1) / 6)
    assert calibrate.calibration_error(logits_of([0, 100.0]), torch.tensor([1])) == 0


def test_the_temperature_by_hand():
    # All say 9/10 and three of four are right: 3/4 is the likeliest, and log 9 / log 3 is 2.
    logits, classes = logits_of(*[[0, math.log(9)]] * 4), torch.tensor([1, 1, 1, 0])
    values = {"temperature": 2, "ece_before": 0.15, "ece_after": 0, "n": 4}
    assert calibrate.describe(logits, classes) == pytest.approx(values, abs=1e-6)
    assert calibrate.fit_temperature(logits / 4, classes) == pytest.approx(0.5)


def test_logits_that_are_twice_too_confident():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=rng, dtype=torch.double) * 3
    classes = (logits / 2).softmax(1).multinomial(1, generator=rng)[:, 0]
    found = calibrate.describe(logits, classes)
    assert found["temperature"] == pytest.approx(2, rel=0.03)
    assert found["ece_after"] < 0.02 < 0.1 < found["ece_before"]


def test_what_is_always_right_or_always_wrong():
    logits = logits_of(*[[0, 2.0]] * 3)
    assert calibrate.fit_temperature(logits, torch.tensor([1, 1, 1])) == 1
    found = calibrate.fit_temperature(logits, torch.tensor([0, 0, 0]))
    assert found == pytest.approx(calibrate.RANGE[1], rel=1e-4)


def test_tasks_with_classes_are_calibrated_on_labelled_images(rich):
    tasks = registry.find_tasks(("seg", "cls", "column:breed", "column:age"))
    for task in tasks:
        task.fit(MTLDataset(rich, "train", None))
    model = MTLNet(tasks, width=2).train()
    dataset = MTLDataset(rich, "val", tasks)
    found = calibrate.calibrate(model, make_loader(dataset, 4))
    assert model.training and {name: one["n"] for name, one in found.items()} == {
        "cls": 10,
        "column:breed": 8,  # two of ten cells are empty
    }
    again = calibrate.calibrate(model, make_loader(dataset, 10))
    for name, values in found.items():
        assert values == pytest.approx(again[name], rel=1e-4)


def test_a_network_without_classes_is_not_run(data):
    tasks = registry.find_tasks(("seg", "bbox"))
    loader = make_loader(MTLDataset(data, "val", tasks), 4)
    assert calibrate.calibrate(None, loader) == {}


def test_a_finished_run_is_calibrated_on_its_validation_split(data, tmp_path):
    best = train("train", data, tmp_path, "--tasks", "seg", "cls") / "best.pt"
    model, info = checkpoint.load_model(best)
    loader = make_loader(MTLDataset(data, "val", list(model.task.values())), 4)
    expected = calibrate.calibrate(model, loader)
    assert info["calibration"].keys() == expected.keys() == {"cls"}
    assert info["calibration"]["cls"] == pytest.approx(expected["cls"], rel=1e-3)
    assert model.task["cls"].temperature == info["calibration"]["cls"]["temperature"]
