"""Targets, losses and measurements of single tasks against values computed by hand."""

import math

import pytest
import torch

import registry
from cli import InputError

NAN = math.nan
LN2 = math.log(2)


def make(name, **settings):
    task = registry.find("tasks", name)
    task.settings = settings
    return task


def fitted(name, cells):
    """A column task, fitted to these cells of the training split."""

    class Dataset:
        data = "pets"

        def column(self, column):
            return cells

    task = make(name)
    task.fit(Dataset())
    return task


def logit(p):
    return math.log(p / (1 - p))


def masks(*rows):
    """(B, 1, 2, 2) uint8, an image a row."""
    return torch.tensor(rows, dtype=torch.uint8).view(len(rows), 1, 2, 2)


# --------------------------------------------------------------------------------------------- seg


def test_seg_loss_by_hand():
    # BCE: -ln of 0.75, 0.75, 0.5, 0.5, mean. Dice: 1 - (2 * 1.25 + 1) / (2 + 2 + 1) = 0.3.
    logits = torch.tensor([logit(0.75), logit(0.25), 0, 0]).view(1, 1, 2, 2)
    expected = (2 * -math.log(0.75) + 2 * LN2) / 4 + 0.3
    assert make("seg").loss(logits, masks([1, 0, 0, 1])).tolist() == pytest.approx([expected])


def test_seg_loss_with_unlabelled_pixels():
    # p = 1/2 everywhere. Labelled: 2 pet and 1 background pixel of the first image.
    loss = make("seg").loss(torch.zeros(2, 1, 2, 2), masks([1, 1, 0, 255], [255] * 4))
    dice = 1 - (2 * 1 + 1) / (1.5 + 2 + 1)
    assert loss[0].item() == pytest.approx(LN2 + dice) and loss[1].isnan()


def test_unlabelled_pixels_change_nothing():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8), dtype=torch.uint8)
    whole = make("seg").loss(logits, target)
    # The same pixels, with an unlabelled column beside them.
    wider = torch.cat([target, torch.full((2, 1, 8, 1), 255, dtype=torch.uint8)], 3)
    loss = make("seg").loss(torch.cat([logits, torch.full((2, 1, 8, 1), 9.0)], 3), wider)
    assert loss.tolist() == pytest.approx(whole.tolist(), rel=1e-5)


def test_seg_soft_loss_by_hand():
    teacher = torch.tensor([[[[math.log(3), -math.log(3)]]]])  # probabilities 3/4 and 1/4
    soft_loss = make("seg").soft_loss
    assert soft_loss(torch.zeros(1, 1, 1, 2), teacher).tolist() == pytest.approx([LN2])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # the least there can be
    assert soft_loss(teacher, teacher).tolist() == pytest.approx([entropy])
    assert make("cls").soft_loss(torch.zeros(1, 2), torch.zeros(1, 2)) is None


def test_seg_measures_labelled_pixels_only():
    logits = torch.tensor([5.0, 5, -5, 5]).view(1, 1, 2, 2)
    measured = make("seg").measure(logits, masks([1, 0, 1, 255]))
    counts = [measured[key].item() for key in ("intersection", "predicted", "target")]
    assert counts == [1, 2, 2] and measured["dice"].item() == 0.5


def test_seg_pools_over_labelled_images():
    task = make("seg")
    measured = task.measure(torch.full((2, 1, 2, 2), 5.0), masks([1, 1, 1, 0], [255] * 4))
    metrics = task.summarise(measured)
    assert metrics["dice"] == metrics["dice_pooled"] == pytest.approx(6 / 7)
    assert metrics["iou_pooled"] == 0.75


@pytest.mark.parametrize("logit", [-5.0, 5.0])
def test_nothing_is_measured_where_no_mask_holds_a_pet(logit):
    task = make("seg")
    measured = task.measure(torch.full((2, 1, 2, 2), logit), masks([0] * 4, [255] * 4))
    assert measured["target"][0] == 0 and measured["target"][1].isnan()
    assert set(task.summarise(measured).values()) == {None}


def test_border_iou_sees_the_contour_alone():
    # 50 x 50: near is 1 pixel, the columns 24 and 25. The prediction is a column too wide.
    target = torch.zeros(1, 1, 50, 50, dtype=torch.uint8)
    target[..., :25] = 1
    logits = torch.full((1, 1, 50, 50), -5.0)
    logits[..., :26] = 5.0
    measured = make("seg").measure(logits, target)
    assert measured["border_intersection"].item() == 50
    assert measured["border_union"].item() == 100
    assert measured["border_iou"].item() == 0.5 and measured["dice"].item() > 0.97


@pytest.mark.parametrize("value", [0, 1])
def test_border_iou_of_a_mask_without_contour_is_not_measured(value):
    task = make("seg")
    measured = task.measure(torch.full((1, 1, 2, 2), 5.0), masks([value] * 4))
    assert measured["border_iou"].isnan().all()
    assert task.summarise(measured)["border_iou"] is None


# --------------------------------------------------------------------------------------------- cls


def test_cls_leaves_unknown_classes_out():
    # Softmax of (0, ln 3) is (1/4, 3/4): -ln 3/4 for a dog, -ln 1/4 for a cat.
    logits = torch.tensor([[0.0, math.log(3)], [9.0, 0.0], [0.0, math.log(3)]])
    target, task = torch.tensor([1, 255, 0]), make("cls")
    loss = task.loss(logits, target)
    assert loss[::2].tolist() == pytest.approx([math.log(4 / 3), math.log(4)]) and loss[1].isnan()
    measured = task.measure(logits, target)
    assert measured["correct"].tolist()[::2] == [1, 0] and measured["label"].tolist()[::2] == [1, 0]
    assert measured["correct"][1].isnan() and measured["label"][1].isnan()
    assert task.summarise(measured) == {"accuracy": 0.5}


def test_an_image_that_shows_neither_class_teaches_half_and_half():
    logits, target, task = torch.tensor([[0.0, math.log(3)]]), torch.tensor([254]), make("cls")
    assert task.labelled(target).all()
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert task.loss(logits, target).tolist() == pytest.approx([expected])
    assert task.measure(logits, target)["correct"].isnan().all()
    name, probability = task.truth(target[0], 1, 1)
    assert name not in task.classes and probability is None


def test_accuracy_is_not_measured_where_only_one_class_occurs():
    logits, target = torch.tensor([[0.0, 9], [0, 9], [0, 9]]), torch.tensor([1, 1, 255])
    measured = make("cls").measure(logits, target)
    assert measured["correct"].tolist()[:2] == [1, 1]
    assert make("cls").summarise(measured) == {"accuracy": None}
    # Records of the first version hold what was right and not the labels.
    assert make("cls").summarise({"correct": measured["correct"]}) == {"accuracy": 1.0}


# -------------------------------------------------------------------------------------------- bbox


def test_bbox_loss_by_hand():
    # Boxes 0.5 x 0.5. Touching: L1 0.25; IoU 0, the hull 1 x 0.5 is all covered: GIoU 0.
    # Diagonal neighbours: L1 0.5; hull 1, union 0.5: GIoU = 0 - 0.5.
    predicted = torch.tensor([[0.0, 0, 0.5, 0.5]] * 3, requires_grad=True)
    target = torch.tensor([[0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1], [NAN] * 4])
    loss = make("bbox").loss(predicted, target)
    assert loss[:2].tolist() == pytest.approx([0.25 + 1, 0.5 + 1.5]) and loss[2].isnan()
    loss[:2].sum().backward()
    assert predicted.grad[:2].ne(0).any(1).all() and predicted.grad[2].eq(0).all()


def test_a_box_with_one_unknown_side_is_unlabelled():
    target = torch.tensor([[0.0, 0, NAN, 1]])
    assert not make("bbox").labelled(target).any()
    assert make("bbox").measure(torch.rand(1, 4), target)["box_iou"].isnan().all()


# ------------------------------------------------------------------------------------------ column


def test_a_column_of_text_is_a_classification():
    task = fitted("column:breed", ["pug", "boxer", " ", "pug"])
    assert task.settings == {"classes": ["boxer", "pug"]}
    target = task.target({"index:breed": ["pug", "", "beagle", "boxer"]})
    assert target.tolist() == [1, -1, 2, 0]
    assert task.labelled(target).tolist() == [True, False, False, True]
    logits = torch.tensor([[0.0, math.log(3)], [0, 0], [0, 9], [0, math.log(3)]])
    loss = task.loss(logits, target)
    assert loss[::3].tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    assert loss[1:3].isnan().all()
    # What the training split does not have is filled in and never right.
    metrics = task.summarise(task.measure(logits, target))
    third = pytest.approx(1 / 3)
    assert metrics == {"breed_accuracy": third, "breed_balanced_accuracy": third}


def test_balanced_accuracy_weighs_classes_alike():
    task = make("column:breed", classes=["boxer", "pug"])
    logits = torch.tensor([[9.0, 0]] * 4)  # always a boxer
    metrics = task.summarise(task.measure(logits, torch.tensor([0, 0, 0, 1])))
    assert metrics == {"breed_accuracy": 0.75, "breed_balanced_accuracy": 0.5}


@pytest.mark.parametrize("unknown", ["", " ", "NA", "nan", "n/a", "None", "NULL", "--"])
def test_a_column_of_numbers_is_a_regression_in_its_own_unit(unknown):
    task = fitted("column:age", ["1", " 3", unknown, "5e0"])
    deviation = math.sqrt(8 / 3)
    assert task.settings == {"mean": 3.0, "deviation": pytest.approx(deviation)}
    target = task.target({"index:age": ["5", unknown]})
    assert target[0].item() == pytest.approx(2 / deviation) and target[1].isnan()
    output = torch.tensor([[0.0], [7.0]])
    loss = task.loss(output, target)
    assert loss[0].item() == pytest.approx(2 / deviation) and loss[1].isnan()
    assert task.summarise(task.measure(output, target)) == {"age_mae": pytest.approx(2.0)}
    assert task.describe(task.answer(torch.tensor([1 / deviation]), 1, 1), 1, 1) == "age 4"


@pytest.mark.parametrize(
    "cells",
    [
        ["", ""],
        ["pug", "pug", ""],
        ["3", "3"],
        ["3", "3.0"],
        ["a", "b", "c"],
        ["1", "2", "x"],
        ["1", "2", "3", "old", "old"],
        ["2,5", "3,5", "2,5"],
        ["1", "2", "inf"],
        ["1", "2", "1e400"],
        ["1", "2", "1_000"],
    ],
    ids=" ".join,
)
def test_a_column_that_teaches_nothing_or_mixes_numbers_and_words_is_refused(cells):
    with pytest.raises(InputError, match="'breed'"):
        fitted("column:breed", cells)


def test_a_few_numbers_among_words_are_words():
    task = fitted("column:breed", ["pug", "pug", "boxer", "boxer", "7"])
    assert task.classes == ("7", "boxer", "pug")


def test_text_in_a_column_of_numbers_is_refused():
    with pytest.raises(InputError, match="'old'"):
        make("column:age", mean=3.0, deviation=1.0).target({"index:age": ["4", "old"]})


# ---------------------------------------------------------------- border, distance, recon


def test_border_is_measured_class_by_class():
    task = make("border")
    target = masks([1, 2, 3, 255])
    output = torch.zeros(1, 3, 2, 2)
    output[0, 0, 0] = 5.0  # pet, pet, border, and something where it is unlabelled
    output[0, 2, 1] = 5.0
    measured = task.measure(output, target)
    assert measured["trimap_iou"].item() == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert measured["trimap_accuracy"].item() == pytest.approx(2 / 3)
    right = math.log(1 + 2 * math.exp(-5))
    assert task.loss(output, target).item() == pytest.approx((2 * right + right + 5) / 3, rel=1e-5)


def test_distance_counts_pixels_to_the_contour():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    mask[..., 2:] = 1
    task = make("distance")
    target = task.target({"masks": mask})
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5]) / 4
    assert torch.equal(target, expected.expand(1, 1, 4, 4))
    assert task.measure(target + 0.25, target)["distance_mae"].item() == pytest.approx(0.25)
    target[..., 0] = NAN
    assert task.loss(target.nan_to_num(7) + 0.5, target).item() == pytest.approx(0.5)


def test_distance_where_there_is_no_contour_or_no_mask():
    mask = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in (0, 1, 255)])
    target = make("distance").target({"masks": mask})
    assert (target[0] == -1).all() and (target[1] == 1).all() and target[2].isnan().all()


def test_recon_is_the_image_at_a_quarter():
    image, task = torch.full((1, 3, 34, 32), 51, dtype=torch.uint8), make("recon")
    target = task.target({"image": image})
    assert target.shape == (1, 3, 9, 8) and torch.allclose(target, torch.tensor(0.2))
    assert task.measure(target + 0.1, target)["recon_mae"].item() == pytest.approx(0.1)
    assert task.loss(target + 0.1, target).item() == pytest.approx(0.1)
