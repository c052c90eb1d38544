"""Muon: its step by hand, which weights get it, exact resume, several processes."""

import copy

import numpy as np
import pytest
import torch
from tiny import arguments, assert_same_weights, log, result, weights
from torch import nn

import train_mtl
from cli import InputError
from models import MTLNet
from registry import PUBLISHED
from training import engine, muon, options, recipe
from utils import EqualWeightedLoss

MUON = ("--optimizer", "muon", "--epochs", "4")


def by_singular_values(matrix):
    """What the polynomial makes of a matrix, by numpy's decomposition in double precision."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16), (1, 5)])
def test_a_matrix_keeps_its_directions_and_they_come_to_be_alike(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    found = muon.orthogonal(matrix)
    np.testing.assert_allclose(found, by_singular_values(matrix.double().numpy()), atol=1e-5)
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(found)
    assert after.max() < 1.25 and after.max() / after.min() <= before.max() / before.min()
    torch.testing.assert_close(muon.orthogonal(1000 * matrix), found)
    assert not muon.orthogonal(torch.zeros(shape)).any()
    assert muon.orthogonal(matrix.bfloat16()).float().sub(found).abs().max() < 0.05


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_two_steps_by_hand(layout):
    """Hidden weights by the formula, in double precision; the others as AdamW has them, to the last bit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1)).to(
        memory_format=layout
    )
    plain, criterion = copy.deepcopy(model), EqualWeightedLoss(("seg",))
    ours = recipe.make_optimizer(model, criterion, 0.01, name="muon")
    theirs = recipe.make_optimizer(plain, criterion, 0.01)
    weight, momentum = model[0].weight.detach().double().numpy().copy(), 0.0
    for group in ours.param_groups:
        group["lr"] = 0.02  # as a schedule does it
    for group in theirs.param_groups:
        group["lr"] = 0.02
    for _ in range(2):
        for p, q in zip(model.parameters(), plain.parameters()):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        gradient = model[0].weight.grad.double().numpy().copy()
        momentum = 0.95 * momentum + 0.05 * gradient
        mixed = 0.05 * gradient + 0.95 * momentum
        turned = (
            by_singular_values(mixed.transpose(0, 2, 3, 1).reshape(6, 36))
            .reshape(6, 3, 3, 4)
            .transpose(0, 3, 1, 2)
        )
        weight = weight * (1 - 0.02 * recipe.WEIGHT_DECAY) - 0.02 * 0.2 * 36**0.5 * turned
        ours.step(), theirs.step()
        np.testing.assert_allclose(model[0].weight.detach(), weight, atol=1e-5)
        assert model[0].weight.stride() == plain[0].weight.stride()
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]) == (name != "0.weight"), name


def test_which_weights_are_hidden():
    def names(*args, **kwargs):
        model = MTLNet(*args, **kwargs)
        found = {id(p) for p in muon.hidden(model)}
        return {name for name, p in model.named_parameters() if id(p) in found}, model

    found, model = names(PUBLISHED, width=12)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert not [
        name
        for name in found
        if len(shapes[name]) != 4 or "logits" in name or "cells" in name or shapes[name][1] == 3
    ]
    (first,) = (name for name, shape in shapes.items() if len(shape) == 4 and shape[1] == 3)
    assert {name for name, shape in shapes.items() if len(shape) == 4} - found == {
        first,
        "seg.logits.weight",
        "bbox.cells.weight",
    }
    found, model = names(("seg",), encoder="efficientnet_lite0")
    assert [name for name in found if "conv_pw" in name] and not [
        name for name in found if "conv_dw" in name or "stem" in name
    ]
    groups = recipe.make_optimizer(
        model, EqualWeightedLoss(("seg",)), 1e-3, 1e-4, "muon"
    ).param_groups
    assert [
        (group["weight_decay"], group.get("highest")) for group in groups if group["is_hidden"]
    ] == [(recipe.WEIGHT_DECAY, None), (recipe.WEIGHT_DECAY, 1e-4)]
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        p.numel() for p in model.parameters()
    )


@pytest.fixture(scope="module")
def run(data, no_pictures, tmp_path_factory):
    runs = tmp_path_factory.mktemp("muon")
    train_mtl.main(arguments(data, runs, *MUON))
    return runs / "mtl/seed0"


def test_a_run_is_another_one_and_is_resumed_exactly(data, run, tmp_path, monkeypatch):
    calls, plain = [], engine.step

    def step(*args, **kwargs):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "step", step)
        train_mtl.main(arguments(data, tmp_path, *MUON))
    with pytest.raises(InputError, match="--optimizer was muon and is None"):
        train_mtl.main(
            arguments(data, tmp_path, "--epochs", "4", "--optimizer", "adamw", "--resume")
        )
    train_mtl.main(arguments(data, tmp_path, *MUON, "--resume"))
    found = tmp_path / "mtl/seed0"
    assert result(found) == result(run) and log(found) == log(run)
    assert_same_weights(weights(found), weights(run))
    states = [
        torch.load(folder / "last.pt", weights_only=True)["optimizer"]["state"]
        for folder in (found, run)
    ]
    assert_same_weights(
        *(
            {f"{k} {name}": value for k, state in found.items() for name, value in state.items()}
            for found in states
        )
    )
    assert any("momentum" in state for state in states[0].values()) and any(
        "exp_avg" in state for state in states[0].values()
    )
    train_mtl.main(arguments(data, tmp_path / "adamw", "--epochs", "4"))
    assert [row["loss"] for row in log(run)] != [
        row["loss"] for row in log(tmp_path / "adamw/mtl/seed0")
    ]


def test_two_processes_train_as_one_but_for_rounding(data, run, tmp_path):
    train_mtl.main(arguments(data, tmp_path, *MUON, "--processes", "2"))
    found = tmp_path / "mtl/seed0"
    rows = [(float(a["loss"]), float(b["loss"])) for a, b in zip(log(run), log(found), strict=True)]
    assert rows[0][0] == pytest.approx(rows[0][1], rel=1e-3)
    assert all(a == pytest.approx(b, rel=0.05) for a, b in rows)
    before, after = (
        torch.load(folder / "last.pt", weights_only=True)["optimizer"]["state"]
        for folder in (run, found)
    )
    assert before.keys() == after.keys() and all(
        before[k].keys() == after[k].keys() for k in before
    )


def test_the_usual_optimizer_may_be_named(data, tmp_path, capsys):
    train_mtl.main(arguments(data, tmp_path, "--optimizer", "adamw"))
    train_mtl.main(arguments(data, tmp_path, "--resume"))
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        arguments(data, tmp_path, "--optimizer", "sgd")
    assert (
        "invalid choice: 'sgd' (choose from adamw, muon)" in capsys.readouterr().err
        and options.OPTIMIZERS == ("adamw", "muon")
    )
