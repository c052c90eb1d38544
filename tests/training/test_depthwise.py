"""Gradients of depthwise convolutions in bf16: by hand, against PyTorch's, which layers take part, and runs that do."""

import copy

import pytest
import torch
from tiny import TINY, result
from torch import nn
from torch.nn import functional as F

import registry
import train
from models import MTLNet
from training import convolution, depthwise
from training.step import trial_copy
from utils import EqualWeightedLoss


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def exact(x, weight, gradient, stride, padding):
    """(by x, by weight), as PyTorch computes them in double precision."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))
    return torch.autograd.grad(y, (x, weight), gradient.double())


def test_by_hand():
    x, weight = torch.arange(1.0, 26).view(1, 1, 5, 5), torch.arange(25.0).view(1, 1, 5, 5)
    gradient = torch.zeros(1, 1, 3, 3)
    gradient[0, 0, 2, 0] = (
        2  # with a stride of 2 and a padding of 2 it is the corner's output: the window's centre lies on x[4, 0]
    )
    by_x = depthwise.input_gradient(x, weight, gradient, 2, 2)[0, 0]
    assert by_x.tolist() == [
        [0] * 5,
        [0] * 5,
        [4, 6, 8, 0, 0],
        [14, 16, 18, 0, 0],
        [24, 26, 28, 0, 0],
    ]
    by_weight = depthwise.weight_gradient(x, weight, gradient, 2, 2)[0, 0]
    assert by_weight.tolist() == [
        [0, 0, 22, 24, 26],
        [0, 0, 32, 34, 36],
        [0, 0, 42, 44, 46],
        [0] * 5,
        [0] * 5,
    ]


@pytest.mark.parametrize("kernel", depthwise.KERNELS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("height, width", [(8, 8), (9, 6), (5, 11)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_in_double_precision(kernel, stride, padding, height, width, layout):
    x, weight = (
        random(3, 8, height, width).contiguous(memory_format=layout),
        random(8, 1, kernel, kernel),
    )
    gradient = random(
        *F.conv2d(x, weight, stride=stride, padding=padding, groups=8).shape
    ).contiguous(memory_format=layout)
    wanted = exact(x, weight, gradient, stride, padding)
    found = (
        depthwise.input_gradient(x, weight, gradient, stride, padding),
        depthwise.weight_gradient(x, weight, gradient, stride, padding),
    )
    for one, other in zip(found, wanted):
        torch.testing.assert_close(
            one.double(), other, rtol=1e-5, atol=1e-5 * (height * width) ** 0.5
        )


def test_which_layers_take_part():
    def conv(cin=8, cout=8, kernel=3, **options):
        return nn.Conv2d(
            cin, cout, kernel, **{"groups": 8, "bias": False, "padding": kernel // 2} | options
        )

    taken = [conv(), conv(kernel=5, stride=2), conv(kernel=5, padding=0)]
    others = [
        conv(groups=1),
        conv(groups=4),
        conv(cout=16),
        conv(bias=True),
        conv(kernel=7),
        conv(dilation=2),
        conv(padding_mode="reflect"),
        conv(padding="same"),
        conv(stride=(1, 2)),
        conv(kernel=1),
        nn.ConvTranspose2d(8, 8, 3, groups=8, bias=False),
        nn.Conv1d(8, 8, 3, groups=8, bias=False),
    ]
    model = nn.Sequential(*taken, *others)
    before = model.state_dict()
    depthwise.install(model)
    depthwise.install(model)
    assert [isinstance(layer, depthwise.Depthwise) for layer in model] == [True] * len(taken) + [
        False
    ] * len(others)
    assert list(model.state_dict()) == list(before)


def lite():
    torch.manual_seed(0)
    return MTLNet(list(registry.tasks(["seg", "cls"]).values()), encoder="efficientnet_lite0")


def gradients(model, precision):
    x = random(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(x)
    sum((output.float() ** 2).mean() for output in outputs.values()).backward()
    return {name: parameter.grad.flatten().float() for name, parameter in model.named_parameters()}


def test_a_network_in_bf16_learns_as_before(monkeypatch):
    plain = lite().to(memory_format=torch.channels_last).train()
    model = copy.deepcopy(plain)
    convolution.install(model, "direct")
    assert sum(isinstance(layer, depthwise.Depthwise) for layer in model.modules()) == 16
    calls = []
    monkeypatch.setattr(
        depthwise,
        "weight_gradient",
        lambda *args, known=depthwise.weight_gradient: calls.append(args[0].dtype) or known(*args),
    )
    wanted, found = gradients(plain, "bf16"), gradients(model, "bf16")
    assert calls == 16 * [torch.bfloat16]
    # Of all together, but for the first layer, in which the rounding of those behind it gathers; and of every such layer.
    first = "encoder.conv_stem.weight"
    both = [
        torch.cat([gradient for name, gradient in each.items() if name != first])
        for each in (wanted, found)
    ]
    assert first in wanted and float(F.cosine_similarity(*both, 0)) > 0.999
    for name, layer in model.named_modules():
        if isinstance(layer, depthwise.Depthwise):
            assert (
                float(F.cosine_similarity(wanted[f"{name}.weight"], found[f"{name}.weight"], 0))
                > 0.999
            ), name
    # In fp32, when it does not train, and without gradients, it is PyTorch's to the last bit.
    plain.zero_grad(), model.zero_grad(), calls.clear()
    for one, other in zip(gradients(plain, "fp32").values(), gradients(model, "fp32").values()):
        assert torch.equal(one, other)
    x = random(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(plain.eval()(x).values(), model.eval()(x).values()):
            assert torch.equal(one, other)
    assert not calls


def test_what_is_copied_computes_so_too():
    model, _ = trial_copy(lite(), EqualWeightedLoss(("seg", "cls")))
    model = copy.deepcopy(model)
    names = {
        type(layer).__name__ for layer in model.modules() if isinstance(layer, depthwise.Depthwise)
    }
    assert names == {"Conv2d", "_Halving"}
    lite().load_state_dict(model.state_dict())


def test_a_run_of_several_processes(data, tmp_path):
    train.main(
        train.parse_args(
            [
                "--data",
                str(data),
                "--runs",
                str(tmp_path),
                *TINY[:4],
                "--tasks",
                "seg",
                "--encoder",
                "efficientnet_lite0",
                "--precision",
                "bf16",
                "--processes",
                "2",
                "--threads",
                "1",
                "--limit",
                "8",
                "--name",
                "two",
            ]
        )
    )
    assert 0 <= result(tmp_path / "two" / "seed0")["dice"] <= 1
