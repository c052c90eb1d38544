"""Convolutions with fewer multiplications: against computations by hand and in double precision, what takes part in it, and runs
that do."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from tiny import arguments, assert_same_weights, log, result, weights
from torch import nn
from torch.nn import functional as F

import train_mtl
from cli import InputError
from models import DoubleConv, MTLNet, Up, conv_bn_relu
from study import repeat
from training import convolution, engine
from training.recipe import make_optimizer
from training.step import step
from utils import EqualWeightedLoss

CPU = torch.device("cpu")
OLD, NEW = {"avx2"}, {"avx2", "avx512f"}  # processors
TILES = NEW | {"avx512_bf16", "amx_bf16"}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def exact(x, gradient):
    """The gradient in double precision, as PyTorch computes it."""
    return torch.nn.grad.conv2d_weight(
        x.double(), (gradient.shape[1], x.shape[1], 3, 3), gradient.double(), padding=1
    )


def test_by_hand():
    x = torch.arange(1.0, 17).view(1, 1, 4, 4)
    gradient = torch.zeros(1, 1, 4, 4)
    gradient[0, 0, 1, 1], gradient[0, 0, 0, 3] = 1, 10
    # The output at (1, 1) saw the corner's nine values; the one at (0, 3) the last two columns, above and beyond which are zeros.
    assert convolution.weight_gradient(x, gradient).tolist() == [
        [[[1, 2, 3], [5 + 30, 6 + 40, 7], [9 + 70, 10 + 80, 11]]]
    ]


@pytest.mark.parametrize(
    "n, cin, cout, height, width",
    [(1, 1, 1, 2, 2), (5, 3, 2, 4, 8), (3, 7, 5, 10, 6), (2, 64, 33, 16, 16)],
)
@pytest.mark.parametrize("chunk", [1, 3 << 20])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_in_double_precision(n, cin, cout, height, width, chunk, layout, monkeypatch):
    monkeypatch.setattr(convolution, "CHUNK", chunk)
    x, gradient = (
        random(n, c, height, width).contiguous(memory_format=layout) for c in (cin, cout)
    )
    found = convolution.weight_gradient(x, gradient)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        found.double(), exact(x, gradient), rtol=1e-5, atol=1e-5 * (n * height * width) ** 0.5
    )


def test_chunks_that_do_not_come_out_even(monkeypatch):
    x, gradient = random(7, 4, 6, 6), random(7, 4, 6, 6)
    monkeypatch.setattr(convolution, "CHUNK", 3 * 16 * 36 * 4)  # three images
    torch.testing.assert_close(
        convolution.weight_gradient(x, gradient).double(), exact(x, gradient), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("height, width", [(1, 1), (2, 5), (7, 4)])
def test_a_convolution_of_what_was_upsampled_is_a_transposed_one(height, width):
    x, weight = random(2, 3, height, width).double(), random(5, 3, 3, 3).double()
    wanted = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    torch.testing.assert_close(
        F.conv_transpose2d(x, convolution.transposed(weight), stride=2, padding=1), wanted
    )


@pytest.mark.parametrize("conv", [DoubleConv, conv_bn_relu])
@pytest.mark.parametrize("cskip", [6, 40])  # the latter by Winograd's way
def test_upsampling_is_left_out(conv, cskip):
    def up(kind):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = Up(20, cskip, 32, conv).to(memory_format=torch.channels_last)
        layer.__class__ = kind
        x, skip = random(3, 20, 4, 6).requires_grad_(), random(3, cskip, 8, 12).requires_grad_()
        y = layer(x, skip)
        y.square().sum().backward()
        return [y, x.grad, skip.grad, *(p.grad for p in layer.parameters())], layer

    (wanted, one), (found, other) = up(Up), up(convolution.FastUp)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()
    assert not all(map(torch.equal, found, wanted))
    for p, q in zip(one.parameters(), other.parameters()):
        assert p.grad.stride() == q.grad.stride()
    odd = random(3, 20, 4, 6), random(3, cskip, 7, 12)
    assert torch.equal(one(*odd), other(*odd))
    other.load_state_dict(one.state_dict())  # the statistics, too
    even = random(3, 20, 4, 6), random(3, cskip, 8, 12)
    assert torch.equal(one.eval()(*even), other.eval()(*even))


def test_only_plain_convolutions_of_channels_enough_take_part():
    others = [
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(32, 32, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(32, 32, 3, bias=False),
        nn.Conv2d(32, 32, 1, bias=False),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect", bias=False),
    ]
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), *others)
    convolution.install(model, "direct")
    assert {type(layer) for layer in model} == {nn.Conv2d}
    convolution.install(model, "fast")
    assert [type(layer) for layer in model] == [convolution.Winograd] + len(others) * [nn.Conv2d]
    assert len(MTLNet(("seg",)).state_dict()) == len(model_with("fast").state_dict())


def model_with(way, tasks=("seg",)):
    model = engine.to_device(MTLNet(tasks), CPU)
    convolution.install(model, way)
    return model


def batch_of(side, seed=0):
    return {
        "image": random(4, 3, side, side, seed=seed)
        .mul(60)
        .add(120)
        .contiguous(memory_format=torch.channels_last),
        "seg": (random(4, 1, side, side, seed=seed) > 0).float(),
    }


def gradients(model, batch, precision="fp32"):
    model.train().zero_grad()
    step(model, EqualWeightedLoss(("seg",)), batch, precision)
    return {name: p.grad for name, p in model.named_parameters()}


def test_a_step_computes_the_same_but_for_the_rounding_of_gradients():
    one, other, batch = model_with("direct"), model_with("fast"), batch_of(64)
    kinds = [type(layer) for layer in other.modules()]
    assert (kinds.count(convolution.Winograd), kinds.count(convolution.FastUp)) == (12, 4)
    for model in (one, other):
        model.train()
    torch.testing.assert_close(
        one(batch["image"])["seg"], other(batch["image"])["seg"], rtol=1e-3, atol=1e-4
    )
    exact_one, off = model_with("direct").double(), []
    for seed in range(4):
        batch = batch_of(64, seed)
        wanted, *both = (gradients(model, batch) for model in (exact_one, other, one))
        assert all(both[0][name].stride() == value.stride() for name, value in both[1].items())
        off.append(
            [
                sum(
                    ((found[name] - value).norm() / value.norm()).item()
                    for name, value in wanted.items()
                )
                / len(wanted)
                for found in both
            ]
        )
    # The least, as a value that rounding moves over zero in a ReLU changes everything in some batch, either way.
    fast, direct = (min(values) for values in zip(*off))
    assert 0 < fast < 2 * direct < 1e-3
    other.load_state_dict(one.state_dict())  # the statistics, too
    assert torch.equal(one.eval()(batch["image"])["seg"], other.eval()(batch["image"])["seg"])


def test_odd_sides_are_pytorchs_own(monkeypatch):
    """66 px are 33 and 17 and 9 and 5 and 3 positions."""
    (
        monkeypatch.setattr(convolution, "weight_gradient", None),
        monkeypatch.setattr(convolution, "transposed", None),
    )
    gradients(model_with("fast"), batch_of(66))


def test_in_bf16_nothing_is_upsampled_and_gradients_are_pytorchs_own(monkeypatch):
    monkeypatch.setattr(convolution, "weight_gradient", None)
    wanted = gradients(model_with("direct"), batch_of(64))  # in fp32
    one, other = (gradients(model_with(way), batch_of(64), "bf16") for way in convolution.WAYS)
    off = [
        sum(((found[name] - value).norm() / value.norm()).item() for name, value in wanted.items())
        / len(wanted)
        for found in (one, other)
    ]
    assert all(
        found.dtype == torch.float32 and found.stride() == wanted[name].stride()
        for name, found in other.items()
    )
    assert 0 < off[1] < 1.5 * off[0] < 1 and not torch.equal(
        one["seg.ups.0.reduce.weight"], other["seg.ups.0.reduce.weight"]
    )
    monkeypatch.setattr(F, "interpolate", None)
    gradients(model_with("fast"), batch_of(64), "bf16")


@pytest.mark.parametrize(
    "asked, flags, precision, computers, way",
    [
        (None, OLD, "fp32", 2, "fast"),
        (None, OLD, "fp32", 1, "direct"),
        (None, NEW, "fp32", 2, "direct"),
        (None, None, "fp32", 2, "direct"),
        (None, {"asimd"}, "fp32", 2, "direct"),
        (None, OLD, "bf16", 2, "direct"),
        ("direct", OLD, "fp32", 2, "direct"),
        ("fast", NEW, "fp32", 1, "fast"),
        (None, TILES, "bf16", 2, "fast"),
        (None, TILES, "bf16", 1, "direct"),
        (None, TILES, "fp32", 2, "direct"),
        (None, NEW, "bf16", 2, "direct"),
        ("fast", OLD, "bf16", 1, "fast"),
        ("direct", TILES, "bf16", 2, "direct"),
    ],
)
def test_the_processor_is_asked(asked, flags, precision, computers, way, monkeypatch):
    monkeypatch.setattr(convolution, "processor_flags", lambda: flags)
    assert convolution.choose(asked, CPU, precision, computers) == way


@pytest.mark.parametrize("precision, flags", [("fp32", OLD), ("bf16", TILES)])
def test_on_a_gpu_it_is_refused(precision, flags, monkeypatch):
    with pytest.raises(InputError, match="trains on cuda; leave it out"):
        convolution.choose("fast", torch.device("cuda"), precision, 2)
    monkeypatch.setattr(convolution, "processor_flags", lambda: flags)
    assert convolution.choose(None, torch.device("cuda"), precision, 2) == "direct"


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_run_says_how_and_a_resumed_one_keeps_it(data, tmp_path, monkeypatch):
    (
        monkeypatch.setattr(convolution, "LEAST", 0),
        monkeypatch.setattr(convolution, "processor_flags", lambda: OLD),
    )
    calls = []
    monkeypatch.setattr(
        convolution,
        "weight_gradient",
        lambda *args, known=convolution.weight_gradient: calls.append(1) or known(*args),
    )
    monkeypatch.setattr(
        convolution, "choose", lambda *args, known=convolution.choose: known(*args[:3], 2)
    )  # as with two threads
    train_mtl.main(arguments(data, tmp_path / "whole", "--processes", "1"))
    assert config_of(tmp_path / "whole/mtl/seed0")["convolution"] == "fast" and calls

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "finish", stop)
        train_mtl.main(arguments(data, tmp_path / "parts", "--processes", "1"))
    folder = tmp_path / "parts/mtl/seed0"
    (folder / "previous.pt").replace(
        folder / "last.pt"
    )  # as if it had been stopped an epoch earlier
    monkeypatch.setattr(convolution, "processor_flags", lambda: NEW)
    calls.clear()
    train_mtl.main(arguments(data, tmp_path / "parts", "--processes", "1", "--resume"))
    assert config_of(folder)["convolution"] == "fast" and calls
    assert log(folder) == log(tmp_path / "whole/mtl/seed0") and result(folder) == result(
        tmp_path / "whole/mtl/seed0"
    )
    assert_same_weights(weights(folder), weights(tmp_path / "whole/mtl/seed0"))
    with pytest.raises(InputError, match="--convolution was None and is direct"):
        train_mtl.main(
            arguments(
                data, tmp_path / "parts", "--processes", "1", "--resume", "--convolution", "direct"
            )
        )


def test_a_run_of_an_earlier_version_goes_on_as_it_began(data, tmp_path, monkeypatch):
    (
        monkeypatch.setattr(convolution, "LEAST", 0),
        monkeypatch.setattr(convolution, "processor_flags", lambda: NEW),
    )
    train_mtl.main(arguments(data, tmp_path, "--processes", "1"))
    folder, wanted = tmp_path / "mtl/seed0", result(tmp_path / "mtl/seed0")
    config = config_of(folder)
    assert config.pop("convolution") == "direct" and config["options"].pop("convolution") is None
    (folder / "config.json").write_text(json.dumps(config))
    assert "--convolution=direct" in repeat.options_of(config)
    assert repeat.other_options(folder, ["--convolution", "direct"]) == []
    assert repeat.other_options(folder, ["--convolution", "fast"]) == [
        "--convolution was direct and is fast"
    ]
    (folder / "test.json").unlink(), (folder / "previous.pt").replace(folder / "last.pt")
    (
        monkeypatch.setattr(convolution, "choose", lambda *args: "fast"),
        monkeypatch.setattr(convolution, "weight_gradient", None),
    )
    train_mtl.main(arguments(data, tmp_path, "--processes", "1", "--resume"))
    assert result(folder) == wanted


def test_it_learns_as_the_other_way():
    """Ten steps each on one batch. AdamW's first steps are the gradients' signs, so that of one near zero, which rounding turns,
    counts in full; the first loss comes before that."""
    losses = {}
    for way in convolution.WAYS:
        model, criterion = model_with(way).train(), EqualWeightedLoss(("seg",))
        optimizer = make_optimizer(model, criterion, 2e-3)
        losses[way] = []
        for _ in range(10):
            optimizer.zero_grad()
            losses[way].append(step(model, criterion, batch_of(64), "fp32")[0].item())
            optimizer.step()
    assert losses["fast"][0] == pytest.approx(losses["direct"][0], rel=1e-5)
    assert losses["fast"] == pytest.approx(losses["direct"], rel=1e-2)
    assert all(found[-1] < 0.98 * found[0] for found in losses.values())


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator alone is told")
def test_memory_is_kept():
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import torch
from training.devices import keep_memory
if sys.argv[2] == "keep":
    keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(50 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(20)))  # of the first, as glibc finds a piece again only once its neighbours are free
"""
    found = {
        way: int(
            subprocess.run(
                [sys.executable, "-c", code, ROOT, way], check=True, capture_output=True, text=True
            ).stdout
        )
        for way in ("keep", "leave")
    }
    assert found["keep"] < 100 < found["leave"]
