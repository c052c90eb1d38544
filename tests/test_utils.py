"""Losses, weightings and metrics by hand, and against the published formulas they replace."""

import math

import pytest
import torch

import registry
import utils
from utils import EqualWeightedLoss, UncertaintyWeightedLoss, WeightedLoss

LN2 = math.log(2)
NAMES = ("seg", "cls", "bbox")
TASKS = registry.find_tasks(NAMES)


def logit(p):
    return math.log(p / (1 - p))


def mask(*rows):
    """(1, 1, H, W) float from rows of numbers."""
    return torch.tensor([rows], dtype=torch.float32)[None]


def nan(*shape):
    return torch.full(shape, math.nan)


# ------------------------------------------------------------------------------------------ losses


def test_dice_loss_by_hand():
    # p = 0.75 0.25 / 0.5 0.5, t = 1 0 / 0 1: sum(pt) = 1.25, sum(p) = sum(t) = 2: 1 - 3.5 / 5.
    logits = mask([logit(0.75), logit(0.25)], [0.0, 0.0])
    assert utils.dice_loss(logits, mask([1, 0], [0, 1])).tolist() == pytest.approx([0.3])


def test_dice_loss_is_one_value_an_image():
    # First image: everything right, loss 0. Second, empty target, p = 0.5 on 4 pixels: 1 - 1 / 3.
    logits = torch.cat([mask([50.0, 50.0], [50.0, 50.0]), mask([0.0, 0.0], [0.0, 0.0])])
    target = torch.cat([mask([1, 1], [1, 1]), mask([0, 0], [0, 0])])
    assert utils.dice_loss(logits, target).tolist() == pytest.approx([0, 2 / 3])


def test_means_over_labelled_pixels():
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 5.0, 6.0]], requires_grad=True)
    labelled = torch.tensor([[True, True, False], [False, False, False]])
    means = utils.mean_over_pixels(values, labelled)
    assert means[0] == 1.5 and means[1].isnan()
    means[0].backward()
    assert values.grad.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]


def test_blank_puts_nan_where_an_image_is_not_labelled():
    labelled = torch.tensor([True, False])
    assert utils.blank(torch.tensor([1, 2]), labelled).tolist()[0] == 1  # integers, too
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    blanked = utils.blank(values * values, labelled)
    assert blanked[0] == 1 and blanked[1].isnan()
    blanked[0].backward()
    assert values.grad.tolist() == [2, 0]


# --------------------------------------------------------------------------------- loss weighting

LOSSES = {"seg": torch.tensor(2.0), "cls": torch.tensor(4.0), "bbox": torch.tensor(6.0)}


def test_equal_weights_are_one_over_n():
    criterion = EqualWeightedLoss(TASKS)
    assert criterion.total(LOSSES).item() == pytest.approx(4)
    assert criterion.weights() == pytest.approx(dict.fromkeys(NAMES, 1 / 3))
    assert EqualWeightedLoss(TASKS[:1]).total(LOSSES).item() == 2


def test_fixed_weights_sum_to_one_whatever_the_percentages_do():
    criterion = WeightedLoss(TASKS, (75, 15, 15))  # the published row, which sums to 105
    assert sum(criterion.weights().values()) == pytest.approx(1)
    assert criterion.total(LOSSES).item() == pytest.approx((75 * 2 + 15 * 4 + 15 * 6) / 105)


@pytest.mark.parametrize(
    "weights", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, math.nan), (1, 1, math.inf)]
)
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError):
        WeightedLoss(TASKS, weights)


def test_uncertainty_weighting_by_hand():
    criterion = UncertaintyWeightedLoss(TASKS)
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
    targets = {"seg": mask([1, 0]).byte(), "cls": torch.tensor([1]), "bbox": nan(1, 4)}
    losses = WeightedLoss(TASKS[:2], (9, 1))(outputs, targets)
    assert set(losses) == {"seg", "cls"} and losses["cls"].item() == pytest.approx(LN2)


def classes(*targets):
    """Outputs and targets of cls, whose losses are ln 4 of a cat, ln 4/3 of a dog."""
    logits = torch.tensor([[0.0, math.log(3)]] * len(targets), requires_grad=True)
    return {"cls": logits}, {"cls": torch.tensor(targets)}


def test_a_loss_is_the_mean_over_the_labelled_images():
    criterion = EqualWeightedLoss(TASKS[1:2])
    loss = criterion(*classes(0, 255, 1, 0))["cls"]
    assert loss.item() == pytest.approx((2 * math.log(4) + math.log(4 / 3)) / 3)
    assert criterion.counts == {"cls": 3}


def test_a_batch_without_a_label_has_a_loss_of_zero_and_a_gradient():
    criterion = EqualWeightedLoss(TASKS[1:2])
    outputs, targets = classes(255, 255)
    loss = criterion(outputs, targets)["cls"]
    loss.backward()
    assert loss.item() == 0 and criterion.counts == {"cls": 0}
    assert outputs["cls"].grad.eq(0).all()


class TwoProcesses:
    """The view of one of two processes; the other's batch has other labelled images."""

    size, rank = 2, 0

    def __init__(self, others):
        self.others = others

    def sum(self, counts):
        return counts + self.others


def test_the_mean_goes_over_the_batch_of_all_processes():
    """Parts with 1 and with 3 labelled images: their average is the mean over all 4."""
    parts, losses = [(0, 255), (0, 1, 1)], []
    for part, others in (parts, (3, 1)), (parts[::-1], (1, 3)):
        criterion = EqualWeightedLoss(TASKS[1:2])
        criterion.world = TwoProcesses(others[0])
        losses.append(criterion(*classes(*part[0]))["cls"].item())
        assert criterion.counts == {"cls": 4}
    whole = EqualWeightedLoss(TASKS[1:2])(*classes(0, 255, 0, 1, 1))["cls"]
    assert sum(losses) / 2 == pytest.approx(whole.item())


def test_a_process_without_a_label_takes_part_with_zero():
    criterion = EqualWeightedLoss(TASKS[1:2])
    criterion.world = TwoProcesses(4)
    loss = criterion(*classes(255, 255))["cls"]
    assert loss.item() == 0 and loss.requires_grad and criterion.counts == {"cls": 4}


# ----------------------------------------------------------------------------------------- metrics


def measured(name, output, target):
    """The metrics of a split that is one batch."""
    task = registry.find("tasks", name)
    return task.summarise(task.measure(output, target))


def counts_example():
    """Three images of 1 x 4 pixels: (I, P, T) = (1, 2, 2), (0, 0, 0), (0, 0, 3)."""
    logits = torch.cat([mask([1.0, 1.0, -1.0, -1.0]), mask([-1.0] * 4), mask([-1.0] * 4)])
    target = torch.cat([mask([1, 0, 1, 0]), mask([0] * 4), mask([1, 1, 1, 0])]).byte()
    return logits, target


def test_mask_counts_and_scores_by_hand():
    counts = utils.mask_counts(*counts_example())
    assert counts.tolist() == [[1, 2, 2], [0, 0, 0], [0, 0, 3]]
    assert utils.dice_score(*counts.T).tolist() == [0.5, 1.0, 0.0]  # both empty scores 1
    assert utils.iou_score(*counts.T).tolist() == [pytest.approx(1 / 3), 1.0, 0.0]


def test_figures_of_a_split_by_hand():
    metrics = measured("seg", *counts_example())
    assert metrics["dice"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics["dice_pooled"] == pytest.approx(2 * 1 / (2 + 5))
    assert metrics["iou_pooled"] == pytest.approx(1 / (2 + 5 - 1))
    logits = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    assert measured("cls", logits, torch.tensor([0, 1, 0]))["accuracy"] == pytest.approx(2 / 3)
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0, 0, 1, 1], [0, 0, 0.5, 0.5]])
    truth = torch.cat([torch.tensor([[0.0, 0, 1, 1]]), nan(1, 4), torch.tensor([[0.5, 0.5, 1, 1]])])
    # The image without a box does not count.
    assert measured("bbox", boxes, truth)["box_iou"] == pytest.approx((0.5 + 0) / 2)


def test_published_dice_grows_with_an_incomplete_batch_and_ours_does_not():
    # Published: sum of the batches' Dice / N * 32; 738 test images are 24 batches.
    n, batch = 738, 32
    published = len(range(0, n, batch)) / n * batch
    assert published == pytest.approx(1.0407, abs=1e-4)  # perfect masks: a Dice above one
    perfect = torch.ones(n, 1, 2, 5, dtype=torch.uint8)
    assert measured("seg", perfect.float(), perfect)["dice"] == 1.0


def test_published_box_iou_gives_half_for_nonsense_and_ours_gives_zero():
    def side(low, high):
        return max(0.0, high - low + 1)

    def published_iou(a, b):
        """With + 1 on every side, as for pixel coordinates, though these lie in [0, 1]."""
        inter = side(max(a[0], b[0]), min(a[2], b[2])) * side(max(a[1], b[1]), min(a[3], b[3]))
        area = [side(x[0], x[2]) * side(x[1], x[3]) for x in (a, b)]
        return inter / (sum(area) - inter)

    whole, half = [0.0, 0, 1, 1], [0.5, 0.5, 1, 1]
    assert published_iou(whole, half) > 0.5
    assert measured("bbox", torch.tensor([half]), torch.tensor([whole]))["box_iou"] == 0.25
    a, b = [0.0, 0, 0.1, 0.1], [0.9, 0.9, 1, 1]
    assert published_iou(a, b) > 0
    assert measured("bbox", torch.tensor([a]), torch.tensor([b]))["box_iou"] == 0
