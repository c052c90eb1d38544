"""Groups, schedule, image sizes, EMA and Muon against values by hand."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import registry
from cli import InputError
from config import Config
from models import MTLNet
from training import optim
from utils import EqualWeightedLoss, UncertaintyWeightedLoss

PETS = ("seg", "cls", "bbox")


def network(names=PETS, encoder="unet", width=12):
    encoder = registry.find("encoders", encoder)
    return MTLNet(registry.find_tasks(names), width, 0, None, encoder)


# --------------------------------------------------------------------------------- schedules


def test_the_learning_rate_rises_for_a_tenth_and_falls_on_a_cosine():
    rates = [optim.learning_rate(step, 20, 3.0) for step in range(20)]
    assert (rates[0], rates[1], rates[10]) == pytest.approx((1.5, 3.0, 1.5))
    assert rates[19] == 0 and rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[4] == 3.0 * 0.5 * (1 + math.cos(math.pi * (0.25 - 0.1) / (1 - 0.1)))


def test_the_only_step_of_a_run_has_its_learning_rate():
    assert optim.learning_rate(0, 1, 3.0) == 3.0


@pytest.mark.parametrize(
    "epochs, size, schedule, sizes",
    [
        (5, 256, None, [128, 128, 128, 192, 256]),
        (1, 256, None, [256]),
        (5, 64, None, [64] * 5),
        (5, 200, None, [128, 128, 128, 160, 200]),
        (4, 256, "64:0.5,256:1", [64, 64, 256, 256]),
    ],
)
def test_images_grow(epochs, size, schedule, sizes):
    assert optim.image_sizes(epochs, size, schedule) == sizes


def test_a_schedule_that_ends_at_another_size_is_refused():
    with pytest.raises(InputError, match="--resize-schedule"):
        optim.image_sizes(4, 256, "64:0.5,128:1")


# ------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize("options", [{}, {"encoder_lr": 1e-4}, {"optimizer": "muon"}], ids=str)
def test_every_parameter_is_in_one_group(options):
    model, config = network(), Config(lr=0.01, **options)
    criterion = UncertaintyWeightedLoss(model.task.values())
    groups = optim.make_optimizer(model, criterion, config).param_groups
    found = {id(p): group for group in groups for p in group["params"]}
    parameters = [*model.parameters(), *criterion.parameters()]
    assert len(found) == sum(len(group["params"]) for group in groups) == len(parameters)
    encoder = {id(p) for p in model.encoder.parameters()}
    for p in parameters:
        group = found[id(p)]
        assert group["weight_decay"] == (optim.WEIGHT_DECAY if p.ndim > 1 else 0)
        is_slow = "encoder_lr" in options and id(p) in encoder
        assert group["highest"] == (1e-4 if is_slow else 0.01)
    assert all(p.ndim == 4 for group in groups if group.get("is_hidden") for p in group["params"])


@pytest.mark.parametrize(
    "encoder, of_adamw",
    [
        ("unet", {"encoder.stem.0.weight", "seg.logits.weight", "bbox.cells.weight"}),
        (
            "efficientnet_lite0",
            {"encoder.conv_stem.weight", "seg.logits.weight", "bbox.cells.weight"},
        ),
    ],
)
def test_hidden_weights_are_those_between_maps(encoder, of_adamw):
    model = network(encoder=encoder)
    hidden = {id(p) for p in optim.hidden_weights(model)}
    matrices = {name for name, p in model.named_parameters() if p.ndim == 4 and p.shape[1] > 1}
    others = {name for name, p in model.named_parameters() if id(p) not in hidden}
    assert matrices & others == of_adamw


# --------------------------------------------------------------------------------------- EMA


def test_the_ema_by_hand():
    model = nn.BatchNorm1d(1)
    ema, expected = optim.make_ema(model, 0.2), 0.0
    for n, value in enumerate((4.0, 8.0, -2.0, 6.0)):
        model.weight.data.fill_(value)
        model.running_mean.fill_(10 * value)
        model.num_batches_tracked += 1
        ema = pickle.loads(pickle.dumps(ema))
        ema.update_parameters(model)
        share = min((0, 2 / 11, 3 / 12, 4 / 13)[n], 0.2)  # the first step is taken as it is
        expected = share * expected + (1 - share) * value
        assert ema.module.weight.item() == pytest.approx(expected, abs=1e-5)
        assert ema.module.running_mean.item() == pytest.approx(10 * expected, abs=1e-4)
        assert ema.module.num_batches_tracked == n + 1
    assert optim.make_ema(model, None) is None


# -------------------------------------------------------------------------------------- Muon


def by_singular_values(matrix):
    """What the polynomial makes of a matrix, by numpy's decomposition in double precision."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16), (1, 5)])
def test_a_matrix_keeps_its_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    found = optim.orthogonal(matrix)
    np.testing.assert_allclose(found, by_singular_values(matrix.double().numpy()), atol=1e-5)
    torch.testing.assert_close(optim.orthogonal(1000 * matrix), found)
    assert not optim.orthogonal(torch.zeros(shape)).any()
    assert optim.orthogonal(matrix.bfloat16()).float().sub(found).abs().max() < 0.05


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_two_steps_of_muon_by_hand(layout):
    """Hidden weights by the formula, in double precision; the others as AdamW has them."""
    layers = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1)
    model = nn.Sequential(*layers).to(memory_format=layout)
    plain, criterion = copy.deepcopy(model), EqualWeightedLoss([])
    optimizers = []
    for network, name in ((model, "muon"), (plain, "adamw")):
        optimizers.append(optim.make_optimizer(network, criterion, Config(optimizer=name)))
        for group in optimizers[-1].param_groups:
            group["lr"] = 0.02  # as a schedule does it
    weight, momentum = model[0].weight.detach().double().numpy().copy(), 0.0
    for _ in range(2):
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        gradient = model[0].weight.grad.double().numpy().copy()
        momentum = 0.95 * momentum + 0.05 * gradient
        mixed = (0.05 * gradient + 0.95 * momentum).transpose(0, 2, 3, 1).reshape(6, 36)
        update = by_singular_values(mixed).reshape(6, 3, 3, 4).transpose(0, 3, 1, 2)
        weight = weight * (1 - 0.02 * optim.WEIGHT_DECAY) - 0.02 * 0.2 * 36**0.5 * update
        for optimizer in optimizers:
            optimizer.step()
        np.testing.assert_allclose(model[0].weight.detach(), weight, atol=1e-5)
        assert model[0].weight.stride() == plain[0].weight.stride()
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]) == (name != "0.weight"), name
