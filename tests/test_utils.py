"""Losses, weightings and metrics against values computed by hand, and against the published formulas they replace."""

import math

import pytest
import torch

import registry
import utils
from utils import EqualWeightedLoss, UncertaintyWeightedLoss, WeightedLoss

LN2 = math.log(2)
TASKS = registry.tasks(registry.PUBLISHED)


def logit(p):
    return math.log(p / (1 - p))


def mask(*rows):
    """(1, 1, H, W) float from rows of numbers."""
    return torch.tensor([rows], dtype=torch.float32)[None]


def test_dice_loss_by_hand():
    # p = 0.75 0.25 / 0.5 0.5, t = 1 0 / 0 1: sum(pt) = 1.25, sum(p) = 2, sum(t) = 2 -> 1 - (2.5 + 1) / (4 + 1) = 0.3
    logits = mask([logit(0.75), logit(0.25)], [0.0, 0.0])
    assert utils.dice_loss(logits, mask([1, 0], [0, 1])).item() == pytest.approx(0.3)


def test_dice_loss_is_a_mean_over_images_not_over_pixels():
    # First image: everything right, loss 0. Second, empty target, p = 0.5 on 4 pixels: 1 - 1 / 3.
    logits = torch.cat([mask([50.0, 50.0], [50.0, 50.0]), mask([0.0, 0.0], [0.0, 0.0])])
    target = torch.cat([mask([1, 1], [1, 1]), mask([0, 0], [0, 0])])
    assert utils.dice_loss(logits, target).item() == pytest.approx((0 + 2 / 3) / 2)


def test_seg_loss_by_hand():
    # BCE: -ln of 0.75, 0.75, 0.5, 0.5, mean; plus the Dice loss above.
    logits = mask([logit(0.75), logit(0.25)], [0.0, 0.0])
    expected = (2 * -math.log(0.75) + 2 * LN2) / 4 + 0.3
    assert TASKS["seg"].loss(logits, mask([1, 0], [0, 1]).byte()).item() == pytest.approx(expected)


def test_cls_loss_by_hand():
    # Softmax of (0, ln 3) is (1/4, 3/4): -ln 1/4 for a cat, -ln 3/4 for a dog.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    assert TASKS["cls"].loss(logits, torch.tensor([0, 1])).item() == pytest.approx(
        (math.log(4) + math.log(4 / 3)) / 2
    )


def test_bbox_loss_by_hand():
    # Boxes 0.5 x 0.5, side by side, touching: L1 mean = (0.5 + 0 + 0.5 + 0) / 4; IoU 0, hull 1 x 0.5 all covered: GIoU 0.
    predicted, target = torch.tensor([[0.0, 0, 0.5, 0.5]]), torch.tensor([[0.5, 0, 1, 0.5]])
    assert TASKS["bbox"].loss(predicted, target).item() == pytest.approx(0.25 + 1)
    # Diagonal neighbours: hull 1, union 0.5: GIoU = 0 - 0.5; L1 0.5.
    assert TASKS["bbox"].loss(predicted, torch.tensor([[0.5, 0.5, 1, 1]])).item() == pytest.approx(
        0.5 + 1.5
    )


def test_bbox_loss_leaves_out_images_without_a_box():
    nan = torch.full((1, 4), math.nan)
    predicted = torch.tensor([[0.0, 0, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]], requires_grad=True)
    target = torch.cat([torch.tensor([[0.5, 0, 1, 0.5]]), nan])
    loss = TASKS["bbox"].loss(predicted, target)
    loss.backward()
    assert loss.item() == pytest.approx(1.25)
    assert (
        predicted.grad.isfinite().all()
        and predicted.grad[1].eq(0).all()
        and predicted.grad[0].ne(0).any()
    )


def test_bbox_loss_of_a_batch_without_boxes_is_zero_with_a_gradient():
    predicted = torch.rand(3, 4, requires_grad=True)
    loss = TASKS["bbox"].loss(predicted, torch.full((3, 4), math.nan))
    loss.backward()
    assert loss.item() == 0 and predicted.grad.eq(0).all()


LOSSES = {"seg": torch.tensor(2.0), "cls": torch.tensor(4.0), "bbox": torch.tensor(6.0)}


def test_equal_weights_are_one_over_n():
    criterion = EqualWeightedLoss(("seg", "cls", "bbox"))
    assert criterion.total(LOSSES).item() == pytest.approx(4)
    assert criterion.weights() == pytest.approx(dict.fromkeys(("seg", "cls", "bbox"), 1 / 3))
    assert EqualWeightedLoss(("seg",)).total(LOSSES).item() == 2


def test_fixed_weights_sum_to_one_whatever_the_percentages_do():
    criterion = WeightedLoss(
        ("seg", "cls", "bbox"), (75, 15, 15)
    )  # the published row, which sums to 105
    assert sum(criterion.weights().values()) == pytest.approx(1)
    assert criterion.total(LOSSES).item() == pytest.approx((75 * 2 + 15 * 4 + 15 * 6) / 105)


@pytest.mark.parametrize(
    "weights", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, math.nan), (1, 1, math.inf)]
)
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError):
        WeightedLoss(("seg", "cls", "bbox"), weights)


def test_uncertainty_weighting_by_hand():
    criterion = UncertaintyWeightedLoss(("seg", "cls", "bbox"))
    assert criterion.total(LOSSES).item() == pytest.approx(12)  # s = 0: the plain sum
    with torch.no_grad():
        criterion.log_variance["cls"].fill_(LN2)  # exp(-s) = 1/2
    total = criterion.total(LOSSES)
    assert total.item() == pytest.approx(2 + 4 / 2 + LN2 + 6)
    assert criterion.weights() == pytest.approx({"seg": 1, "cls": 0.5, "bbox": 1})
    total.backward()
    # d/ds (exp(-s) L + s) = 1 - exp(-s) L
    assert criterion.log_variance["seg"].grad.item() == pytest.approx(1 - 2)
    assert criterion.log_variance["cls"].grad.item() == pytest.approx(1 - 2)


def test_a_criterion_returns_unweighted_losses_of_its_tasks_only():
    outputs = {"seg": mask([0.0, 0.0]), "cls": torch.zeros(1, 2)}
    targets = {
        "seg": mask([1, 0]).byte(),
        "cls": torch.tensor([1]),
        "bbox": torch.full((1, 4), math.nan),
    }
    losses = WeightedLoss(("seg", "cls"), (9, 1))(outputs, targets)
    assert set(losses) == {"seg", "cls"} and losses["cls"].item() == pytest.approx(LN2)


def measured(outputs, targets):
    """The metrics of a split that is one batch, of the tasks that have an output."""
    tasks = {task: TASKS[task] for task in outputs}
    return utils.summarise(tasks, utils.measure(tasks, outputs, targets))


def counts_example():
    """Three images of 1 x 4 pixels: (I, P, T) = (1, 2, 2), (0, 0, 0), (0, 0, 3)."""
    logits = torch.cat([mask([1.0, 1.0, -1.0, -1.0]), mask([-1.0] * 4), mask([-1.0] * 4)])
    target = torch.cat([mask([1, 0, 1, 0]), mask([0] * 4), mask([1, 1, 1, 0])]).byte()
    return logits, target


def test_mask_counts_and_scores_by_hand():
    logits, target = counts_example()
    counts = utils.mask_counts(logits, target)
    assert counts.tolist() == [[1, 2, 2], [0, 0, 0], [0, 0, 3]]
    assert utils.dice_score(*counts.T).tolist() == [0.5, 1.0, 0.0]  # both empty scores 1
    assert utils.iou_score(*counts.T).tolist() == [pytest.approx(1 / 3), 1.0, 0.0]


def test_summary_by_hand():
    logits, target = counts_example()
    outputs = {
        "seg": logits,
        "cls": torch.tensor([[1.0, 0], [0, 1], [0, 1]]),
        "bbox": torch.tensor([[0.0, 0, 0.5, 1], [0, 0, 1, 1], [0, 0, 0.5, 0.5]]),
    }
    targets = {
        "seg": target,
        "cls": torch.tensor([0, 1, 0]),
        "bbox": torch.tensor([[0.0, 0, 1, 1], [math.nan] * 4, [0.5, 0.5, 1, 1]]),
    }
    metrics = measured(outputs, targets)
    assert metrics["dice"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics["dice_pooled"] == pytest.approx(2 * 1 / (2 + 5))
    assert metrics["iou_pooled"] == pytest.approx(1 / (2 + 5 - 1))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["box_iou"] == pytest.approx(
        (0.5 + 0) / 2
    )  # the image without a box does not count


def test_what_cannot_be_measured_is_none():
    logits, target = counts_example()
    metrics = measured({"seg": logits}, {"seg": target})
    assert metrics["accuracy"] is None and metrics["box_iou"] is None
    nowhere = {"bbox": torch.full((2, 4), math.nan)}
    assert measured({"bbox": torch.rand(2, 4)}, nowhere)["box_iou"] is None


def test_published_dice_grows_with_an_incomplete_batch_and_ours_does_not():
    # The published formula: sum of the batches' Dice / N * 32, with the 738 test images in 24 batches, perfect masks.
    n, batch = 738, 32
    published = sum(1.0 for _ in range(0, n, batch)) / n * batch
    assert published == pytest.approx(1.0407, abs=1e-4)  # a Dice above one
    perfect = torch.ones(n, 1, 2, 5, dtype=torch.uint8)
    assert measured({"seg": perfect.float()}, {"seg": perfect})["dice"] == 1.0


def test_published_box_iou_gives_half_for_nonsense_and_ours_gives_zero():
    a, b = torch.tensor([[0.0, 0, 0.1, 0.1]]), torch.tensor([[0.9, 0.9, 1, 1]])

    def published_iou(a, b):
        """With + 1 on every side, as for pixel coordinates, though these lie in [0, 1]."""
        side = lambda low, high: max(0.0, high - low + 1)  # noqa: E731
        inter = side(max(a[0], b[0]), min(a[2], b[2])) * side(max(a[1], b[1]), min(a[3], b[3]))
        area = [side(x[0], x[2]) * side(x[1], x[3]) for x in (a, b)]
        return inter / (sum(area) - inter)

    whole, half = [0.0, 0, 1, 1], [0.5, 0.5, 1, 1]
    assert published_iou(whole, half) > 0.5
    assert (
        measured({"bbox": torch.tensor([half])}, {"bbox": torch.tensor([whole])})["box_iou"] == 0.25
    )
    assert published_iou(a[0].tolist(), b[0].tolist()) > 0
    assert measured({"bbox": a}, {"bbox": b})["box_iou"] == 0
