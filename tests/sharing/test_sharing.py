"""Sharings against values computed by hand on tiny tensors, their limits, and one task alone: the
baseline in all of them."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import registry
from cli import InputError
from models import MTLNet, count_parameters
from sharing.cross_stitch import _Unit

PUBLISHED = ("seg", "cls", "bbox")
EVERY = ("hard", "soft", "cross_stitch", "mtan")
IMAGE = torch.arange(2 * 3 * 64 * 32).remainder(251).reshape(2, 3, 64, 32).byte()


def make_net(names, width, seed=0, sharing="hard"):
    return MTLNet(registry.find_tasks(names), width, seed, registry.find("sharing", sharing))


class Tiny(nn.Module):
    """An encoder of five stages, each a number per channel and a pooling: small enough to be
    computed by hand."""

    channels = inner = (1,) * 5

    def __init__(self, factors=(2.0, 1.0, 1.0, 1.0, 1.0)):
        super().__init__()
        self.factors = nn.ParameterList(nn.Parameter(torch.tensor([factor])) for factor in factors)
        self.stages = [
            [lambda x, factor=factor: factor * F.avg_pool2d(x, 2)] for factor in self.factors
        ]

    def forward(self, x):
        features = []
        for (layer,) in self.stages:
            features.append(layer(features[-1] if features else x))
        return features


def maps(sharing, encoder, image, tasks):
    """What each task gets of a sharing's own parts, as the first number of each map."""
    found = sharing.features(encoder, image, tasks, lambda value: value)
    return {task: [map.flatten()[0].item() for map in of_task] for task, of_task in found.items()}


# -------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("sharing", EVERY)
def test_one_task_alone_is_the_baseline_bit_for_bit(sharing):
    ours, baseline = make_net(("seg",), 3, 1, sharing).train(), make_net(("seg",), 3, 1).train()
    assert count_parameters(ours) == count_parameters(baseline) and ours.penalty() is None
    outputs = [model(IMAGE)["seg"] for model in (ours, baseline)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(ours.parameters(), baseline.parameters(), strict=True)
    )


@pytest.mark.parametrize("sharing", EVERY)
def test_gradients_reach_every_parameter_and_evaluation_is_deterministic(sharing):
    model = make_net(PUBLISHED, 2, 0, sharing)
    sum(value.sum() for value in model(IMAGE).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    assert all(
        torch.equal(a, b) for a, b in zip(model(IMAGE).values(), model(IMAGE).values(), strict=True)
    )


@pytest.mark.parametrize(
    "sharing, needed", [("hard", 1), ("soft", 1), ("cross_stitch", 3), ("mtan", 1)]
)
def test_a_part_of_the_tasks_alone_gives_the_same_with_no_more_than_it_needs(sharing, needed):
    model = make_net(PUBLISHED, 2, 0, sharing).train()
    model(IMAGE)  # so that the statistics of batch normalisation are not the first ones
    model.eval()
    alone, two = model.subset(["seg"]), model.subset(["bbox", "seg"])
    assert alone.tasks == ("seg",) and alone.dropped == ("cls", "bbox") and not alone.training
    assert torch.equal(alone(IMAGE)["seg"], model(IMAGE)["seg"]) and torch.equal(
        two(IMAGE)["bbox"], model(IMAGE)["bbox"]
    )
    assert torch.equal(two.subset(["seg"])(IMAGE)["seg"], model(IMAGE)["seg"])
    assert len(alone.encoders()) == needed and count_parameters(alone) < count_parameters(model)
    with pytest.raises(ValueError, match="border"):
        model.subset(["border"])


@pytest.mark.parametrize("sharing", EVERY)
def test_every_task_starts_with_the_baselines_encoder_and_its_own_head(sharing):
    model, baseline = make_net(PUBLISHED, 2, 4, sharing), make_net(("cls",), 2, 4)
    for encoder in model.encoders():
        assert all(
            torch.equal(p, q)
            for p, q in zip(encoder.parameters(), baseline.encoder.parameters(), strict=True)
        )
    assert all(
        torch.equal(p, q)
        for p, q in zip(model.cls.parameters(), baseline.cls.parameters(), strict=True)
    )


@pytest.mark.parametrize("sharing", ("hard", "cross_stitch", "mtan"))
def test_losses_depend_on_shared_parameters_through_the_recorded_features_alone(sharing):
    """By the chain rule over the maps at the split point, each as if it did not depend on another,
    gradients are those of backward."""
    model = make_net(PUBLISHED, 2, 0, sharing).train()
    model.record_features = True
    other = copy.deepcopy(model)
    sum(value.square().sum() for value in other(IMAGE).values()).backward()
    loss = sum(value.square().sum() for value in model(IMAGE).values())
    features, shared = model.split_features, model.shared_parameters()
    by_map = torch.autograd.grad(loss, features, allow_unused=True)
    given = [
        (map, gradient)
        for map, gradient in zip(features, by_map, strict=True)
        if gradient is not None
    ]
    found = torch.autograd.grad(
        [map for map, _ in given], shared, [gradient for _, gradient in given]
    )
    for gradient, p in zip(found, other.shared_parameters(), strict=True):
        torch.testing.assert_close(
            gradient, p.grad, rtol=1e-3, atol=1e-4 * p.grad.abs().max().item()
        )


@pytest.mark.parametrize("sharing", ("cross_stitch", "mtan"))
def test_an_encoder_that_cannot_be_taken_apart_is_refused_between_whose_stages_a_sharing_works(
    sharing,
):
    encoder = Tiny()
    encoder.stages = None
    with pytest.raises(InputError, match=f"{sharing}.*--sharing hard or soft"):
        registry.find("sharing", sharing).build(lambda: encoder, ("a", "b"), (), 0)


@pytest.mark.parametrize("sharing", ("soft", "cross_stitch", "mtan"))
def test_a_task_that_has_the_name_of_a_modules_member_is_refused(sharing):
    with pytest.raises(ValueError, match="keys"):
        registry.find("sharing", sharing).build(Tiny, ("seg", "keys"), (), 0)


@pytest.mark.parametrize(
    "name",
    [
        "soft:much",
        "soft:-1",
        "soft:nan",
        "cross_stitch:2",
        "cross_stitch:x",
        "mtan:3",
        "hard:",
        "firm",
    ],
)
def test_names_that_mean_nothing_are_refused(name):
    with pytest.raises(InputError, match=name):
        registry.find("sharing", name)


# --------------------------------------------------------------------------------------------- soft


def test_soft_by_hand():
    """Weights 2 1 1 1 1, 5 1 1 1 1 and 2 1 1 1 3 have the squared distances 9, 4 and 9 + 4."""
    sharing = registry.find("sharing", "soft:0.5")
    encoder = sharing.build(Tiny, ("a", "b", "c"), (), 0)
    assert sharing.penalty(encoder).item() == 0
    with torch.no_grad():
        encoder["b"].factors[0] += 3
        encoder["c"].factors[4] += 2
    penalty = sharing.penalty(encoder)
    assert penalty.item() == pytest.approx(0.5 * (9 + 4 + 13))
    penalty.backward()  # d / d b's first: 0.5 * 2 * ((5 - 2) + (5 - 2))
    assert encoder["b"].factors[0].grad.item() == pytest.approx(6) and encoder["a"].factors[
        0
    ].grad.item() == pytest.approx(-3)
    assert encoder["a"].factors[1].grad.item() == 0
    assert maps(sharing, encoder, torch.ones(1, 1, 64, 64), ("a", "b")) == {
        "a": [2, 2, 2, 2, 2],
        "b": [5, 5, 5, 5, 5],
    }


def test_soft_at_infinite_strength_is_hard_and_the_stronger_the_nearer():
    hard, limit = (make_net(PUBLISHED, 2, 0, sharing).train() for sharing in ("hard", "soft:inf"))
    assert (
        hard.state_dict().keys() == limit.state_dict().keys()
        and limit.penalty() is None
        and limit.shared_parameters()
    )
    assert all(
        torch.equal(a, b) for a, b in zip(hard(IMAGE).values(), limit(IMAGE).values(), strict=True)
    )
    distances = []
    for strength in (0, 0.1, 10, 1000):
        model = make_net(("cls", "bbox"), 2, 0, f"soft:{strength}").train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(12):
            optimizer.zero_grad()
            outputs, penalty = model(IMAGE), model.penalty()
            (
                outputs["cls"].square().sum()
                - outputs["bbox"].sum()
                + (0 if penalty is None else penalty)
            ).backward()
            optimizer.step()
        distances.append(
            sum(
                (p - q).square().sum().item()
                for p, q in zip(*(one.parameters() for one in model.encoders()), strict=True)
            )
        )
    assert distances == sorted(distances, reverse=True) and distances[-1] < distances[0] / 4
    assert not make_net(PUBLISHED, 2, 0, "soft").shared_parameters()


# ------------------------------------------------------------------------------------- cross_stitch


def test_cross_stitch_by_hand():
    """Tasks a and b give 2 and 5 in the first stage. 0.75 * 2 + 0.25 * 5 = 2.75, 0.25 * 2 + 0.75 *
    5 = 4.25; in the second 0.75 * 2.75 + 0.25 * 4.25 = 3.125."""
    sharing = registry.find("sharing", "cross_stitch:0.75")
    encoder = sharing.build(Tiny, ("a", "b"), (), 0)
    with torch.no_grad():
        encoder.of["b"].factors[0] += 3
    found = maps(sharing, encoder, torch.ones(1, 1, 64, 64), ("a", "b"))
    assert found["a"][:2] == pytest.approx([2.75, 3.125]) and found["b"][:2] == pytest.approx(
        [4.25, 3.875]
    )


def test_a_unit_has_a_weight_for_each_channel_and_pair_of_tasks_that_does_not_decay():
    unit = _Unit(3, 2, 0.9)
    weights = unit.weight.view(3, 3, 2)
    torch.testing.assert_close(weights[0, :, 1], torch.tensor([0.9, 0.05, 0.05]))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, 2))
    with torch.no_grad():
        weights[2, 1, 1] = 7
    a, b, c = (torch.full((1, 2, 1, 1), value) for value in (1.0, 10.0, 100.0))
    # Of the third task: 0.05 * 1 + 0.05 * 10 + 0.9 * 100 in the first channel, with 7 * 10 in the
    # second.
    assert (
        unit([a, b, c])[2].flatten().tolist() == pytest.approx([90.55, 160.05])
        and unit.weight.ndim == 1
    )


def test_cross_stitch_with_identity_units_is_separate_networks():
    model = make_net(PUBLISHED, 2, 3, "cross_stitch:1").train()
    outputs = model(IMAGE)
    for task in PUBLISHED:
        alone = make_net((task,), 2, 3).train()
        assert torch.equal(alone(IMAGE)[task], outputs[task])
    assert not torch.equal(
        make_net(PUBLISHED, 2, 3, "cross_stitch:0.5").encoder.units[0].weight,
        model.encoder.units[0].weight,
    )


# --------------------------------------------------------------------------------------------- mtan


def test_mtan_by_hand():
    """Maps are 4 after the first stage and 4 after the second. With g and h of weight 1, and batch
    normalisation that keeps values (eps aside): the first mask is s(4), s the sigmoid; the second
    sees u = 4 and f = relu(9 / 9 * 4 s(4)), a 3 x 3 convolution of 1/9 inside, and its mask is s(4
    + 4 s(4)) where g adds them."""
    sharing = registry.find("sharing", "mtan")
    encoder = sharing.build(lambda: Tiny((4.0, 1.0, 1.0, 1.0, 1.0)), ("a", "b"), (), 0).eval()
    with torch.no_grad():
        for _name, p in encoder.named_parameters():
            if p.ndim == 4:
                p.fill_(1 / p.shape[2] ** 2)
        found = maps(sharing, encoder, torch.ones(1, 1, 256, 256), ("a", "b"))
        s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
        first = 4 * s(4)
        edge = 4 / 9 * first  # the corner, which found looks at, has 4 of 9 neighbours
        assert found["a"] == found["b"] and found["a"][0] == pytest.approx(first, rel=1e-4)
        assert found["a"][1] == pytest.approx(4 * s(4 + edge), rel=1e-4)
        encoder.attention["b"][0][1].weight.zero_()  # h of b: its mask is s(0)
        found = maps(sharing, encoder, torch.ones(1, 1, 256, 256), ("a", "b"))
    assert found["a"][0] == pytest.approx(first, rel=1e-4) and found["b"][0] == pytest.approx(
        2, rel=1e-4
    )


def test_mtan_has_one_encoder_and_each_task_its_own_attention():
    model = make_net(PUBLISHED, 2, 0, "mtan")
    assert len(model.encoders()) == 1 and set(model.encoder.attention) == set(PUBLISHED)
    model.eval()(IMAGE)
    attentions = [
        torch.cat([p.flatten() for p in one.parameters()])
        for one in model.encoder.attention.values()
    ]
    assert not torch.equal(attentions[0], attentions[1])
    other = make_net(("bbox", "seg"), 2, 0, "mtan")
    assert all(
        torch.equal(p, q)
        for p, q in zip(
            other.encoder.attention["seg"].parameters(),
            model.encoder.attention["seg"].parameters(),
            strict=True,
        )
    )
