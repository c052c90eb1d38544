"""What holds of every task: its file has one class, unlabelled is a value, and what it says of itself is complete."""

import math

import pytest
import torch

import registry
from cli import InputError
from models import MTLNet
from tasks import Metric
from utils import EqualWeightedLoss, measure, summarise

NAMES = [
    "seg",
    "cls",
    "bbox",
    "column:breed",
    "column:age",
    "placebo:breed",
    "border",
    "distance",
    "recon",
]


class Index:
    """Stands in for the training split."""

    data = "pets"

    def column(self, name):
        return {"breed": ["pug", "boxer", "", "pug"], "age": ["1", "3", "", "5"]}[name]


def tasks(names):
    found = registry.tasks(names)
    for task in found.values():
        task.learn(Index())
    return found


def a_batch(labelled=True, size=64):
    """Three images; of the third nothing is known, and with labelled=False of none."""
    masks = torch.full((3, 1, size, size), 255, dtype=torch.uint8)
    trimaps, bboxes, binary = (
        masks.clone(),
        torch.full((3, 4), math.nan),
        torch.full((3, 1), 255, dtype=torch.uint8),
    )
    if labelled:
        masks[:2], trimaps[:2], bboxes[:2], binary[:2, 0] = (
            0,
            2,
            torch.tensor([8.0, 8, 32, 16]),
            torch.tensor([1, 0]),
        )
        masks[:2, :, 8:40, 8:40] = 1
        trimaps[:2, :, 8:40, 8:40] = 1
    image = torch.randint(
        0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return {
        "image": image,
        "masks": masks,
        "trimaps": trimaps,
        "bboxes": bboxes,
        "binary": binary,
        "size": size,
        "index:breed": ["boxer", "pug", ""] if labelled else [""] * 3,
        "index:age": ["4", "1.5", ""] if labelled else [""] * 3,
    }


def targets(found, batch):
    return {name: task.target(batch) for name, task in found.items()}


def test_all_files_are_found():
    assert registry.names("tasks") == [
        "bbox",
        "border",
        "cls",
        "column",
        "distance",
        "placebo",
        "recon",
        "seg",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_finite_and_has_a_gradient_whatever_is_labelled(name):
    found = tasks([name])
    model, criterion = MTLNet(found.values(), width=3), EqualWeightedLoss(found.values())
    for labelled in (True, False):
        batch = a_batch(labelled)
        model.zero_grad()
        losses = criterion(model(batch["image"]), targets(found, batch))
        assert list(losses) == [name] and losses[name].isfinite()
        losses[name].backward()
        assert all(p.grad is not None for p in model.parameters())
        if not labelled and name != "recon":
            assert losses[name] == 0


@pytest.mark.parametrize("name", NAMES)
def test_measurements_are_nan_and_metrics_none_where_nothing_is_labelled(name):
    found = tasks([name])
    model, task = MTLNet(found.values(), width=3).eval(), found[name]
    with torch.no_grad():
        for labelled in (True, False):
            batch = a_batch(labelled)
            target = targets(found, batch)
            expected = [True] * 3 if name == "recon" else [labelled, labelled, False]
            assert task.labelled(target[name]).tolist() == expected
            measured = measure(found, model(batch["image"]), target)
            assert all(value.shape == (3,) for value in measured.values())
            assert all(value[2].isnan() for value in measured.values()) == (name != "recon")
            metrics = task.summarise(measured)
            assert list(metrics) == list(task.metrics) and task.metrics
            assert all(
                (value is None) == (not labelled and name != "recon") for value in metrics.values()
            )
            assert all(value is None or math.isfinite(value) for value in metrics.values())
            assert set(task.counts) <= set(measured)


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_says_its_name_direction_and_unit(name):
    for metric in tasks([name])[name].metrics.values():
        assert isinstance(metric, Metric) and metric.label and isinstance(metric.higher, bool)
        assert metric.higher or metric.unit  # an error has a unit


@pytest.mark.parametrize("name", NAMES)
def test_targets_and_outputs_can_be_drawn_and_described(name):
    found = tasks([name])
    model, task, batch = MTLNet(found.values(), width=3).eval(), found[name], a_batch()
    with torch.no_grad():
        output, target = model(batch["image"])[name], targets(found, batch)[name]

    class Panel:
        image, boxes = torch.zeros(3, 90, 50, dtype=torch.uint8), []

    for value in (task.answer(output[0], 90, 50), task.truth(target[0], 90, 50)):
        task.draw(Panel, value, False)
        assert Panel.image.shape == (3, 90, 50) and Panel.image.dtype == torch.uint8
        assert isinstance(task.describe(value, 90, 50), str)
    assert (task.truth(target[2], 90, 50) is None) == (name != "recon")


def test_metrics_of_the_published_tasks_are_always_there():
    found = registry.tasks(["recon"])
    metrics = summarise(found, {"recon_mae": torch.tensor([0.25, 0.75])})
    assert metrics == {
        "dice": None,
        "dice_pooled": None,
        "iou_pooled": None,
        "border_iou": None,
        "accuracy": None,
        "box_iou": None,
        "recon_mae": 0.5,
    }


@pytest.mark.parametrize(
    "name", ["nothing", "__init__", "../seg", "seg:x", "column", "column:", "README", "Seg", ""]
)
def test_an_unknown_name_is_refused_in_a_sentence(name):
    with pytest.raises(InputError) as error:
        registry.tasks(["seg", name])
    assert "\n" not in str(error.value) and "task" in str(error.value)


@pytest.mark.parametrize("names", [[], ["seg", "seg"], ["column:breed", "column:breed"]])
def test_none_or_a_repeated_task_is_refused(names):
    with pytest.raises(ValueError):
        registry.tasks(names)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("class A: pass\nclass B: pass\n", "one class"),
        ("", "one class"),
        ("from tasks import Task\nclass A(Task):\n    pass\n", "abstract"),
    ],
)
def test_a_file_that_is_no_task_is_refused_in_a_sentence(tmp_path, monkeypatch, text, reason):
    folder = tmp_path / f"tasks_{abs(hash(text))}"
    folder.mkdir()
    (folder / "one.py").write_text(text)
    monkeypatch.setattr(registry, "HERE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=reason):
        registry.find(folder.name, "one")


def test_only_targets_in_coordinates_are_moved_one_by_one():
    assert [name for name, task in tasks(NAMES).items() if task.moves] == ["bbox"]
