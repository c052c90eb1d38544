"""What holds of every task: unlabelled is a value, losses are per image, answers can be shown."""

import json
import math

import pytest
import torch

import registry
from cli import InputError
from models import MTLNet
from tasks import Metric
from utils import EqualWeightedLoss

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
every_task = pytest.mark.parametrize("name", NAMES)


class Split:
    """Stands in for the training split."""

    data = "pets"
    summary = {"classes": ("cat", "dog")}

    def column(self, name):
        return {"breed": ["pug", "boxer", "", "pug"], "age": ["1", "3", "", "5"]}[name]


def fitted(name):
    task = registry.find("tasks", name)
    task.fit(Split())
    return task


def raw_batch(known=2, size=64):
    """Three images, of which the first `known` have all labels, and the others none."""
    masks = torch.full((3, 1, size, size), 255, dtype=torch.uint8)
    trimaps, bboxes = masks.clone(), torch.full((3, 4), math.nan)
    binary = torch.tensor([1, 0, 1])
    binary[known:] = 255
    masks[:known], trimaps[:known] = 0, 2
    masks[:known, :, 8:40, 8:40] = 1
    trimaps[:known, :, 8:40, 8:40] = 1
    bboxes[:known] = torch.tensor([0.125, 0.125, 0.5, 0.25])
    breeds = ["boxer", "pug", "pug"][:known] + [""] * (3 - known)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator)
    return {
        "image": image,
        "masks": masks,
        "trimaps": trimaps,
        "bboxes": bboxes,
        "binary": binary,
        "index:breed": breeds,
        "shuffled:breed": breeds,
        "index:age": ["4", "1.5", "2"][:known] + [""] * (3 - known),
    }


def some_outputs(task, raw):
    """Outputs of an untrained network for a batch, as a leaf that takes a gradient."""
    with torch.no_grad():
        output = MTLNet([task], width=3)(raw["image"])[task.name]
    return output.requires_grad_()


@every_task
@pytest.mark.parametrize("known", [0, 2, 3])
def test_losses_are_one_an_image_and_nan_exactly_where_it_is_not_labelled(name, known):
    task, raw = fitted(name), raw_batch(known)
    output, target = some_outputs(task, raw), task.target(raw)
    expected = [True] * 3 if name == "recon" else [True] * known + [False] * (3 - known)
    assert len(target) == 3 and task.labelled(target).tolist() == expected
    assert [kind is not None for kind in task.kinds(raw)] == expected
    losses = task.loss(output, target)
    assert losses.shape == (3,) and (~losses.isnan()).tolist() == expected
    losses.nansum().backward()
    reached = output.grad.flatten(1).ne(0).any(1)
    assert output.grad.isfinite().all() and reached.tolist() == expected
    for values in task.measure(output.detach(), target).values():
        assert values.shape == (3,) and values.isnan()[~task.labelled(target)].all()


@every_task
@pytest.mark.parametrize("known", [0, 2, 3])
def test_an_images_loss_does_not_depend_on_the_batch(name, known):
    task, raw = fitted(name), raw_batch(known)
    output, target = some_outputs(task, raw).detach(), task.target(raw)
    losses, measured = task.loss(output, target), task.measure(output, target)
    for k in range(3):
        alone = slice(k, k + 1)
        loss = task.loss(output[alone], target[alone])
        torch.testing.assert_close(loss, losses[alone], equal_nan=True)
        for key, values in task.measure(output[alone], target[alone]).items():
            torch.testing.assert_close(
                values.double(), measured[key][alone].double(), equal_nan=True
            )


@every_task
@pytest.mark.parametrize("known", [0, 2])
def test_a_batch_reaches_every_parameter_whatever_is_labelled(name, known):
    task, raw = fitted(name), raw_batch(known)
    model, criterion = MTLNet([task], width=3), EqualWeightedLoss([task])
    (loss,) = criterion(model(raw["image"]), {task.name: task.target(raw)}).values()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (loss == 0) == (known == 0 and name != "recon")


@every_task
@pytest.mark.parametrize("known", [0, 2])
def test_figures_of_a_split_are_finite_or_none(name, known):
    task, raw = fitted(name), raw_batch(known)
    output = some_outputs(task, raw).detach()
    metrics = task.summarise(task.measure(output, task.target(raw)))
    assert list(metrics) == list(task.metrics) and metrics
    for value in metrics.values():
        if known or name == "recon":
            assert math.isfinite(value)
        else:
            assert value is None


@every_task
def test_a_metric_has_a_label_and_an_error_a_unit(name):
    for metric in fitted(name).metrics.values():
        assert isinstance(metric, Metric) and metric.label
        assert metric.higher or metric.unit


@every_task
def test_hits_of_a_metric_are_measured_and_zero_or_one(name):
    task, raw = fitted(name), raw_batch()
    measured = task.measure(some_outputs(task, raw).detach(), task.target(raw))
    for metric in task.metrics.values():
        if metric.hits:
            assert set(measured[metric.hits][:2].tolist()) <= {0, 1}


@every_task
def test_a_horizontal_flip_twice_is_the_output_itself(name):
    task, raw = fitted(name), raw_batch()
    for output in some_outputs(task, raw).detach():
        torch.testing.assert_close(task.hflip(task.hflip(output)), output)


@every_task
def test_settings_are_plain_and_make_the_same_task_again(name):
    task, other, raw = fitted(name), registry.find("tasks", name), raw_batch()
    other.settings = json.loads(json.dumps(task.settings))
    assert other.settings == task.settings and other.metrics == task.metrics
    torch.testing.assert_close(task.target(raw), other.target(raw), equal_nan=True)
    output = some_outputs(task, raw).detach()
    assert MTLNet([other], width=3)(raw["image"])[name].shape == output.shape


@every_task
def test_outputs_and_targets_can_be_drawn_and_described(name):
    task, raw = fitted(name), raw_batch()
    output, target = some_outputs(task, raw).detach(), task.target(raw)

    class Panel:
        image, boxes = torch.zeros(3, 90, 50, dtype=torch.uint8), []

    for value in task.answer(output[0], 90, 50), task.truth(target[0], 90, 50):
        task.draw(Panel, value, False)
        assert Panel.image.shape == (3, 90, 50) and Panel.image.dtype == torch.uint8
        assert isinstance(task.describe(value, 90, 50), str)
    assert (task.truth(target[2], 90, 50) is None) == (name != "recon")
    assert len(task.cells(task.answer(output[0], 90, 50), 90, 50)) == len(task.columns)


@pytest.mark.parametrize(
    "name, counts, is_lacking",
    [
        ("bbox", {}, True),
        ("bbox", {True: 1}, False),
        ("cls", {}, True),
        ("cls", {"cat": 5}, True),
        ("cls", {"cat": 1, "dog": 4}, False),
        ("seg", {}, True),
        ("seg", {"no pet": 5}, True),
        ("seg", {"pet": 2, "no pet": 3}, False),
        ("column:breed", {}, True),
        ("recon", {True: 5}, False),
    ],
)
def test_what_a_split_lacks(name, counts, is_lacking):
    words = registry.find("tasks", name).lacking(counts)
    assert isinstance(words, str) if is_lacking else words is None


# ---------------------------------------------------------------------------------------- registry


def test_all_files_are_found():
    stems = {name.partition(":")[0] for name in NAMES}
    assert registry.names("tasks") == sorted(stems)


@pytest.mark.parametrize(
    "name", ["nothing", "__init__", "../seg", "seg:x", "column", "column:", "README", "Seg", ""]
)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(InputError):
        registry.find_tasks(["seg", name])


@pytest.mark.parametrize("names", [[], ["seg", "seg"], ["column:breed", "column:breed"]])
def test_none_or_a_repeated_task_is_refused(names):
    with pytest.raises(InputError):
        registry.find_tasks(names)


@pytest.mark.parametrize(
    "text",
    [
        "class A: pass\nclass B: pass\n",
        "",
        "from tasks import Task\nclass A(Task):\n    pass\n",
    ],
    ids=["two classes", "no class", "abstract"],
)
def test_a_file_that_is_no_task_is_refused_by_its_path(tmp_path, monkeypatch, text):
    folder = tmp_path / f"tasks_{abs(hash(text))}"
    folder.mkdir()
    (folder / "one.py").write_text(text)
    monkeypatch.setattr(registry, "HERE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"{folder.name}/one.py"):
        registry.find(folder.name, "one")


def test_a_number_may_follow_a_name_of_a_folder_that_has_kinds():
    assert registry.find("encoders", "efficientnet_lite0").name == "efficientnet_lite0"
    with pytest.raises(InputError):
        registry.find("tasks", "seg0")
