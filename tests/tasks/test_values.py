"""Targets, losses and measurements of single tasks against values computed by hand."""

import math

import pytest
import torch

import registry
from cli import InputError

NAN = math.nan


def make(name, **settings):
    task = registry.find("tasks", name)
    task.settings = settings
    return task


def index(**columns):
    class Index:
        data = "pets"

        def column(self, name):
            return columns[name]

    return Index()


# --------------------------------------------------------------------------------------------------------- seg


def test_seg_loss_with_unlabelled_pixels():
    # p = 1/2 everywhere. Labelled: 2 pet and 1 background pixel of the first image; nothing of the second.
    target = torch.tensor([[1, 1, 0, 255], [255] * 4], dtype=torch.uint8).view(2, 1, 2, 2)
    loss = make("seg").loss(torch.zeros(2, 1, 2, 2), target)
    dice = 1 - (2 * 1 + 1) / (1.5 + 2 + 1)
    assert loss.item() == pytest.approx(math.log(2) + dice)


def test_unlabelled_pixels_change_nothing_where_there_are_none():
    logits, target = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8), dtype=torch.uint8)
    task = make("seg")
    whole = task.loss(logits, target)
    # The same pixels, with a column that is unlabelled beside them: the same Dice and, up to rounding, the same entropy.
    wider = torch.cat([target, torch.full((2, 1, 8, 1), 255, dtype=torch.uint8)], 3)
    assert task.loss(
        torch.cat([logits, torch.full((2, 1, 8, 1), 9.0)], 3), wider
    ).item() == pytest.approx(whole.item(), rel=1e-5)


def test_seg_measures_labelled_pixels_only():
    logits = torch.tensor([5.0, 5, -5, 5]).view(1, 1, 2, 2)
    measured = make("seg").measure(
        logits, torch.tensor([1, 0, 1, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    )
    assert [measured[key].item() for key in ("intersection", "predicted", "target")] == [1, 2, 2]
    assert measured["dice"].item() == 0.5


def test_seg_pools_over_labelled_images():
    logits = torch.full((2, 1, 2, 2), 5.0)
    target = torch.tensor([[1, 1, 1, 0], [255] * 4], dtype=torch.uint8).view(2, 1, 2, 2)
    metrics = make("seg").summarise(make("seg").measure(logits, target))
    assert (
        metrics["dice"] == metrics["dice_pooled"] == pytest.approx(6 / 7)
        and metrics["iou_pooled"] == 0.75
    )


def test_nothing_is_measured_where_no_mask_holds_a_pet():
    task, ground = make("seg"), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    ground[1] = 255
    for logits in (torch.full((2, 1, 8, 8), -5.0), torch.full((2, 1, 8, 8), 5.0)):
        measured = task.measure(logits, ground)
        assert measured["target"][0] == 0 and measured["target"][1].isnan()
        assert task.summarise(measured) == dict.fromkeys(
            ("dice", "dice_pooled", "iou_pooled", "border_iou")
        )


def test_border_iou_sees_the_contour_alone():
    # 50 x 50, so near is 1 pixel: the columns 24 and 25 beside the contour. The prediction is a column too wide.
    target = torch.zeros(1, 1, 50, 50, dtype=torch.uint8)
    target[..., :25] = 1
    logits = torch.full((1, 1, 50, 50), -5.0)
    logits[..., :26] = 5.0
    measured = make("seg").measure(logits, target)
    assert (measured["border_intersection"].item(), measured["border_union"].item()) == (50, 100)
    assert measured["border_iou"].item() == 0.5 and measured["dice"].item() > 0.97


def test_border_iou_of_a_mask_without_contour_is_not_measured():
    task = make("seg")
    for value in (0, 1):
        measured = task.measure(
            torch.full((1, 1, 32, 32), 5.0), torch.full((1, 1, 32, 32), value, dtype=torch.uint8)
        )
        assert (
            measured["border_iou"].isnan().all() and task.summarise(measured)["border_iou"] is None
        )


# --------------------------------------------------------------------------------------------------- cls, bbox


def test_cls_leaves_unknown_classes_out():
    logits, target = (
        torch.tensor([[0.0, math.log(3)], [9.0, 0.0], [0.0, math.log(3)]]),
        torch.tensor([1, 255, 0]),
    )
    assert make("cls").loss(logits, target).item() == pytest.approx(
        (math.log(4 / 3) + math.log(4)) / 2
    )
    measured = make("cls").measure(logits, target)
    assert measured["correct"].tolist()[::2] == [1, 0] and measured["label"].tolist()[::2] == [1, 0]
    assert measured["correct"][1].isnan() and measured["label"][1].isnan()
    assert make("cls").summarise(measured) == {"accuracy": 0.5}


def test_accuracy_is_not_measured_where_only_one_class_occurs():
    logits, target = torch.tensor([[0.0, 9], [0, 9], [0, 9]]), torch.tensor([1, 1, 255])
    measured = make("cls").measure(logits, target)
    assert measured["correct"].tolist()[:2] == [1, 1] and make("cls").summarise(measured) == {
        "accuracy": None
    }
    # Records of earlier versions hold what was right and not the labels.
    assert make("cls").summarise({"correct": measured["correct"]}) == {"accuracy": 1.0}


def test_bbox_is_relative_to_the_stored_side_and_follows_crop_and_mirror():
    task = make("bbox")
    target = task.target({"bboxes": torch.tensor([[16.0, 0, 48, 32], [NAN] * 4]), "size": 64})
    assert target[0].tolist() == [0.25, 0, 0.75, 0.5] and target[1].isnan().all()
    assert task.flip(torch.tensor([0.1, 0, 0.3, 0.5])).tolist() == pytest.approx([0.7, 0, 0.9, 0.5])
    assert task.crop(target[0], 0.5, 0, 0.5, 0.5).tolist() == [0, 0, 0.5, 1]
    assert (
        task.crop(torch.tensor([0.0, 0, 1, 1]), 0.9, 0.9, 0.1, 0.1).isnan().all()
    )  # a hundredth of it is left


# ------------------------------------------------------------------------------------------------------ column


def test_a_column_of_text_is_a_classification():
    task = make("column:breed")
    task.learn(index(breed=["pug", "boxer", " ", "pug"]))
    assert task.settings == {"classes": ["boxer", "pug"]}
    target = task.target({"index:breed": ["pug", "", "beagle", "boxer"]})
    assert target.tolist() == [1, -1, 2, 0] and task.labelled(target).tolist() == [
        True,
        False,
        True,
        True,
    ]
    logits = torch.tensor([[0.0, math.log(3)], [0, 0], [0, 9], [0, math.log(3)]])
    assert task.loss(logits, target).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    measured = task.measure(logits, target)
    assert task.summarise(measured) == {
        "breed_accuracy": pytest.approx(1 / 3),
        "breed_balanced_accuracy": pytest.approx(1 / 3),
    }


def test_balanced_accuracy_weighs_classes_alike():
    task = make("column:breed", classes=["boxer", "pug"])
    logits = torch.tensor([[9.0, 0]] * 4)  # always a boxer
    metrics = task.summarise(task.measure(logits, torch.tensor([0, 0, 0, 1])))
    assert metrics == {"breed_accuracy": 0.75, "breed_balanced_accuracy": 0.5}


def test_a_column_of_numbers_is_a_regression_in_its_own_unit():
    task = make("column:age")
    task.learn(index(age=["1", "3", "", "5"]))
    deviation = math.sqrt(8 / 3)
    assert task.settings == {"mean": 3.0, "deviation": pytest.approx(deviation)}
    target = task.target({"index:age": ["5", ""]})
    assert target[0].item() == pytest.approx(2 / deviation) and target[1].isnan()
    output = torch.tensor([[0.0], [7.0]])
    assert task.loss(output, target).item() == pytest.approx(2 / deviation)
    assert task.summarise(task.measure(output, target)) == {"age_mae": pytest.approx(2.0)}
    assert task.describe(task.answer(torch.tensor([1 / deviation]), 1, 1), 1, 1) == "age 4"


@pytest.mark.parametrize(
    "cells, reason",
    [
        (["", ""], "empty cells only"),
        (["pug", "pug", ""], "one value only"),
        (["3", "3"], "one number only"),
        (["a", "b", "c"], "too many"),
        (["1", "2", "x"], "'x' is none"),
    ],
)
def test_a_column_that_teaches_nothing_is_refused(cells, reason):
    with pytest.raises(InputError, match=reason):
        make("column:breed").learn(index(breed=cells))


def test_text_in_a_column_of_numbers_is_refused():
    with pytest.raises(InputError, match="'old' is none"):
        make("column:age", mean=3.0, deviation=1.0).target({"index:age": ["4", "old"]})


# ------------------------------------------------------------------------------------- border, distance, recon


def test_border_is_measured_class_by_class():
    task = make("border")
    target = torch.tensor([[1, 2, 3, 255]], dtype=torch.uint8).view(1, 1, 1, 4)
    output = torch.zeros(1, 3, 1, 4)
    output[0, 0, 0, :2] = 5.0  # pet, pet, border, and something where it is unlabelled
    output[0, 2, 0, 2:] = 5.0
    measured = task.measure(output, target)
    assert measured["trimap_iou"].item() == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert measured["trimap_accuracy"].item() == pytest.approx(2 / 3)
    right = math.log(1 + 2 * math.exp(-5))
    assert task.loss(output, target).item() == pytest.approx((2 * right + right + 5) / 3, rel=1e-5)


def test_distance_counts_pixels_to_the_contour():
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    masks[..., 2:] = 1
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5]) / 4
    target = make("distance").target({"masks": masks})
    assert torch.equal(target, expected.expand(1, 1, 4, 4))
    assert make("distance").measure(target + 0.25, target)["distance_mae"].item() == pytest.approx(
        0.25
    )


def test_distance_where_there_is_no_contour_or_no_mask():
    masks = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in (0, 1, 255)])
    target = make("distance").target({"masks": masks})
    assert (target[0] == -1).all() and (target[1] == 1).all() and target[2].isnan().all()


def test_recon_is_the_image_at_a_quarter():
    image = torch.full((1, 3, 34, 32), 51, dtype=torch.uint8)
    target = make("recon").target({"image": image})
    assert target.shape == (1, 3, 9, 8) and torch.allclose(target, torch.tensor(0.2))
    assert make("recon").measure(target + 0.1, target)["recon_mae"].item() == pytest.approx(0.1)
