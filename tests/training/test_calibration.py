"""Temperatures against values computed by hand, in a run, in a copy of a checkpoint, and in what is said of a photograph."""

import json
import math

import pytest
import torch
from tiny import arguments

import evaluate
import registry
from cli import InputError
from dataloader_mtl import MTLDataset, make_loader
from models import MTLNet
from tasks.cls import LEAST
from training import calibration, checkpoint, engine
from utils import EqualWeightedLoss


def test_the_calibration_error_by_hand():
    # Four say 3/4 and two are right; two say 9/10 and both are right: (4 |2/4 - 3/4| + 2 |1 - 9/10|) / 6.
    logits = torch.tensor([[0, math.log(3)]] * 4 + [[math.log(9), 0]] * 2, dtype=torch.double)
    classes = torch.tensor([1, 1, 0, 0, 0, 0])
    assert calibration.error(logits, classes) == pytest.approx((4 * 0.25 + 2 * 0.1) / 6)
    assert (
        calibration.error(torch.tensor([[0, 100.0]], dtype=torch.double), torch.tensor([1])) == 0
    )  # the last bin holds 1


def test_the_temperature_by_hand():
    # All say 9/10 and three of four are right: 3/4 is the likeliest, and log 9 / log 3 is 2.
    logits = torch.tensor([[0, math.log(9)]] * 4, dtype=torch.double)
    found = calibration.describe(logits, torch.tensor([1, 1, 1, 0]))
    assert found == {
        "temperature": pytest.approx(2),
        "ece_before": pytest.approx(0.15),
        "ece_after": pytest.approx(0),
        "n": 4,
    }
    assert calibration.fit(logits / 4, torch.tensor([1, 1, 1, 0])) == pytest.approx(0.5)


def test_the_temperature_of_logits_that_are_twice_too_sure():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=generator, dtype=torch.double) * 3
    classes = (logits / 2).softmax(1).multinomial(1, generator=generator)[:, 0]
    found = calibration.describe(logits, classes)
    assert (
        found["temperature"] == pytest.approx(2, rel=0.03)
        and found["ece_after"] < 0.02 < 0.1 < found["ece_before"]
    )


def test_nothing_is_learned_of_what_is_always_right_and_little_of_what_is_always_wrong():
    logits = torch.tensor([[0, 2.0]] * 3, dtype=torch.double)
    assert calibration.fit(logits, torch.tensor([1, 1, 1])) == 1
    assert calibration.fit(logits, torch.tensor([0, 0, 0])) == pytest.approx(calibration.RANGE[1])


@pytest.fixture(scope="module")
def rich_loader(rich):
    tasks = ("seg", "cls", "column:breed", "column:age")
    model = MTLNet(learned(rich, tasks).values(), width=2)
    return model, make_loader(MTLDataset(rich, "val", tasks=model.task.values()), 4)


def learned(data, names):
    dataset, tasks = MTLDataset(data, "train", tasks=()), registry.tasks(names)
    for task in tasks.values():
        task.learn(dataset)
    return tasks


def test_all_tasks_with_classes_are_calibrated_on_the_images_that_have_one(rich_loader):
    model, loader = rich_loader
    model.train()
    found = calibration.calibrate(model, loader)
    assert model.training and found.keys() == {"cls", "column:breed"}
    assert found["cls"]["n"] == 10 and found["column:breed"]["n"] == 8  # two of ten cells are empty
    again = calibration.calibrate(model, make_loader(loader.dataset, 10))
    for name, one in found.items():
        assert one == {key: pytest.approx(value, rel=1e-4) for key, value in again[name].items()}


def test_a_network_without_classes_is_not_run_for_it(data):
    model = MTLNet(("seg", "bbox"), width=2)
    model.forward = None
    assert (
        calibration.calibrate(
            model, make_loader(MTLDataset(data, "val", tasks=model.task.values()), 4)
        )
        == {}
    )


def test_probabilities_are_divided_by_the_temperature_and_a_doubtful_class_is_neither():
    task, output = registry.find("tasks", "cls"), torch.tensor([0, math.log(81)])
    assert task.answer(output, 9, 9) == ("dog", pytest.approx(81 / 82))
    task.temperature = 2.0
    assert task.answer(output, 9, 9) == ("dog", pytest.approx(0.9))
    task.temperature = 4.0
    assert LEAST > 0.75
    assert (
        task.answer(output, 9, 9) == ("neither", pytest.approx(0.75))
        and task.describe(task.answer(output, 9, 9), 9, 9) == "neither (75%)"
    )
    breed = registry.find("tasks", "column:breed")
    breed.settings, breed.temperature = {"classes": ["boxer", "pug"]}, 4.0
    assert breed.answer(output, 9, 9) == ("pug", pytest.approx(0.75))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, no_pictures):
    """The folder of a run with classes, and of one without."""
    runs = tmp_path_factory.mktemp("runs")
    for tasks in (("seg", "cls"), ("seg",)):
        engine.run(
            tasks[-1], MTLNet(tasks, width=2), EqualWeightedLoss(tasks), arguments(data, runs)
        )
    return runs


def test_a_finished_run_is_calibrated_on_its_validation_split(run, data):
    best = run / "cls/seed0/best.pt"
    model, info = checkpoint.load_model(best)
    expected = calibration.calibrate(
        model, make_loader(MTLDataset(data, "val", tasks=model.task.values()), 4)
    )
    assert info["calibration"].keys() == {"cls"}
    assert info["calibration"]["cls"] == {
        key: pytest.approx(value, rel=1e-3) for key, value in expected["cls"].items()
    }
    assert model.task["cls"].temperature == info["calibration"]["cls"]["temperature"]
    assert checkpoint.load_model(run / "seg/seed0/best.pt")[1]["calibration"] == {}


def test_a_checkpoint_of_an_earlier_version_is_calibrated_into_a_copy(run, data, tmp_path, capsys):
    earlier = checkpoint.load(run / "cls/seed0/best.pt")
    expected = earlier.pop("calibration")
    checkpoint.save(earlier, tmp_path / "old.pt")
    assert checkpoint.load_model(tmp_path / "old.pt")[0].task["cls"].temperature == 1
    command = ["--checkpoint", str(tmp_path / "old.pt"), "--data", str(data)]
    evaluate.main(evaluate.parse_args([*command, "--split", "val"]))
    plain = json.loads(capsys.readouterr().out)
    evaluate.main(
        evaluate.parse_args([*command, "--split", "val", "--calibrate", str(tmp_path / "new.pt")])
    )
    printed, new = json.loads(capsys.readouterr().out), checkpoint.load(tmp_path / "new.pt")
    assert new["calibration"] == printed.pop("calibration") and printed == plain
    assert new["calibration"]["cls"] == {
        key: pytest.approx(value, rel=1e-3) for key, value in expected["cls"].items()
    }
    assert new.keys() == earlier.keys() | {"calibration"}
    assert all(torch.equal(value, new["model"][name]) for name, value in earlier["model"].items())


def test_what_cannot_be_calibrated_is_refused(run, data, tmp_path, capsys):
    def refused(words, *args):
        with pytest.raises(InputError, match=words):
            evaluate.main(
                evaluate.parse_args(["--data", str(data), "--split", "val", *map(str, args)])
            )

    refused(
        "no task with classes",
        "--checkpoint",
        run / "seg/seed0/best.pt",
        "--calibrate",
        tmp_path / "x.pt",
    )
    refused("is a folder", "--checkpoint", run / "cls/seed0/best.pt", "--calibrate", tmp_path)
    refused(
        "in no folder",
        "--checkpoint",
        run / "cls/seed0/best.pt",
        "--calibrate",
        tmp_path / "none/x.pt",
    )
    refused(
        "run folder",
        "--checkpoint",
        run / "cls/seed0/best.pt",
        "--calibrate",
        run / "cls/seed0/best.pt",
    )
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(["--calibrate", "x.pt"])
    assert (
        stop.value.code == 2
        and "--split val" in capsys.readouterr().err
        and not list(tmp_path.iterdir())
    )
