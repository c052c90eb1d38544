"""Faster layers: gradients by hand and in double precision, which layers are replaced, folding."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import registry
from cli import InputError
from models import DoubleConv, MTLNet, Up, conv_bn_relu
from training import kernels
from training.devices import to_device

CPU = torch.device("cpu")
AVX2, AVX512 = {"avx2"}, {"avx2", "avx512f"}
AMX = AVX512 | {"avx512_bf16", "amx_bf16"}
LAYOUTS = (torch.channels_last, torch.contiguous_format)
LITE = "efficientnet_lite0"


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def network(names=("seg",), encoder="unet", sharing="hard", width=48):
    sharing, encoder = registry.find("sharing", sharing), registry.find("encoders", encoder)
    model = MTLNet(registry.find_tasks(names), width, 0, sharing, encoder)
    return to_device(model, CPU).train()


def exact(x, weight, gradient, stride=1, padding=1, groups=1):
    """(by x, by weight), as PyTorch computes them in double precision."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
    return torch.autograd.grad(y, (x, weight), gradient.double())


def gradients(model, side=64, precision="fp32", seed=0):
    """{parameter: gradient} of a batch of noise."""
    image = random(4, 3, side, side, seed=seed).mul(60).add(120)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(image.contiguous(memory_format=torch.channels_last))
    sum((output.float() ** 2).mean() for output in outputs.values()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def distance(found, wanted):
    """Mean over the parameters of the relative distance of two gradients."""
    distances = [(found[n] - value).norm() / value.norm() for n, value in wanted.items()]
    return torch.stack(distances).mean().item()


# ------------------------------------------------------------------------------------- 3 x 3


def test_the_winograd_gradient_by_hand():
    x = torch.arange(1.0, 17).view(1, 1, 4, 4)
    gradient = torch.zeros(1, 1, 4, 4)
    gradient[0, 0, 1, 1], gradient[0, 0, 0, 3] = 1, 10
    # The output at (1, 1) saw the corner's nine values; the one at (0, 3) the last two columns,
    # above and beyond which are zeros.
    wanted = [[1, 2, 3], [5 + 30, 6 + 40, 7], [9 + 70, 10 + 80, 11]]
    assert kernels.winograd_gradient(x, None, gradient, (1, 1)).tolist() == [[wanted]]


@pytest.mark.parametrize("n, cin, cout, height, width", [(5, 3, 2, 4, 8), (7, 40, 33, 16, 6)])
@pytest.mark.parametrize("chunk", [1, 3 * 16 * 16 * 6 * 40, 3 << 20])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_winograd_gradient_exactly(n, cin, cout, height, width, chunk, layout, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    x = random(n, cin, height, width).contiguous(memory_format=layout)
    gradient = random(n, cout, height, width).contiguous(memory_format=layout)
    found = kernels.winograd_gradient(x, None, gradient, (1, 1))
    assert found.is_contiguous(memory_format=torch.channels_last)
    _, wanted = exact(x, random(cout, cin, 3, 3), gradient)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=5e-4)


def test_a_convolution_after_upsampling_is_a_transposed_one():
    x, weight = random(2, 3, 7, 4).double(), random(5, 3, 3, 3).double()
    wanted = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    found = F.conv_transpose2d(x, kernels.transposed(weight), stride=2, padding=1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("conv", [DoubleConv, conv_bn_relu])
@pytest.mark.parametrize("cskip", [6, 40])  # the latter with channels enough for Winograd's way
def test_upsampling_is_left_out(conv, cskip):
    plain = Up(20, cskip, 32, conv).to(memory_format=torch.channels_last)
    fast = kernels.FastUp(copy.deepcopy(plain))
    found = []
    for layer in (plain, fast):
        x, skip = random(3, 20, 4, 6).requires_grad_(), random(3, cskip, 8, 12).requires_grad_()
        y = layer(x, skip)
        y.square().sum().backward()
        found.append([y, x.grad, skip.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm() and a.stride() == b.stride()
    assert not all(map(torch.equal, *found))
    odd = random(3, 20, 4, 6), random(3, cskip, 7, 12)
    assert torch.equal(plain(*odd), fast(*odd))


def test_a_step_computes_the_same_but_for_rounding():
    plain, fast = network(), network()
    kernels.install(fast, "winograd")
    kinds = [type(layer) for layer in fast.modules()]
    assert (kinds.count(kernels.Winograd), kinds.count(kernels.FastUp)) == (12, 4)
    exactly, off = network().double(), {fast: [], plain: []}
    for seed in range(4):
        wanted = gradients(exactly, seed=seed)
        for model, distances in off.items():
            distances.append(distance(gradients(model, seed=seed), wanted))
    # The least, as rounding that moves a value over zero in a ReLU changes all that follows.
    assert 0 < min(off[fast]) < 2 * min(off[plain]) < 1e-3
    strides = {name: gradient.stride() for name, gradient in gradients(fast).items()}
    assert strides == {name: gradient.stride() for name, gradient in gradients(plain).items()}
    fast.load_state_dict(plain.state_dict())  # the statistics, too
    image = random(2, 3, 64, 64)
    assert torch.equal(plain.eval()(image)["seg"], fast.eval()(image)["seg"])


def test_odd_sides_are_computed_as_pytorch_does(monkeypatch):
    """66 px are 33, 17, 9, 5 and 3 positions."""
    fast = network()
    kernels.install(fast, "winograd")
    monkeypatch.setattr(kernels, "winograd_gradient", None)
    monkeypatch.setattr(kernels, "transposed", None)
    gradients(fast, 66)


def test_in_bf16_nothing_is_upsampled(monkeypatch):
    plain, fast = network(), network()
    kernels.install(fast, "winograd")
    wanted = gradients(network())
    off = distance(gradients(plain, precision="bf16"), wanted)
    monkeypatch.setattr(kernels, "winograd_gradient", None)
    monkeypatch.setattr(F, "interpolate", None)
    assert distance(gradients(fast, precision="bf16"), wanted) < 1.5 * off < 1


@pytest.mark.parametrize(
    "asked, flags, precision, threads, chosen",
    [
        ("auto", AVX2, "fp32", 2, "winograd"),
        ("auto", AVX2, "fp32", 1, "direct"),
        ("auto", AVX2, "bf16", 2, "direct"),
        ("auto", AVX512, "fp32", 2, "direct"),
        ("auto", AVX512, "bf16", 2, "direct"),
        ("auto", AMX, "bf16", 2, "winograd"),
        ("auto", AMX, "bf16", 1, "direct"),
        ("auto", None, "fp32", 2, "direct"),
        ("direct", AVX2, "fp32", 2, "direct"),
        ("winograd", AVX512, "fp32", 1, "winograd"),
    ],
)
def test_the_processor_decides(asked, flags, precision, threads, chosen, monkeypatch):
    monkeypatch.setattr(kernels, "processor_flags", lambda: flags)
    assert kernels.choose(asked, CPU, precision, threads) == chosen
    assert kernels.choose("auto", torch.device("cuda"), precision, threads) == "direct"


def test_off_the_cpu_it_is_refused():
    with pytest.raises(InputError, match="--convolution"):
        kernels.choose("winograd", torch.device("cuda"), "fp32", 2)


# --------------------------------------------------------------------------------- depthwise


def test_depthwise_gradients_by_hand():
    x, weight = torch.arange(1.0, 26).view(1, 1, 5, 5), torch.arange(25.0).view(1, 1, 5, 5)
    gradient = torch.zeros(1, 1, 3, 3)
    gradient[0, 0, 2, 0] = 2  # the window's centre lies on x[4, 0]
    by_x = kernels.spaced_gradient(x, weight, gradient, (2, 2))[0, 0]
    assert by_x[2:, :3].tolist() == [[4, 6, 8], [14, 16, 18], [24, 26, 28]]
    assert not by_x[:2].any() and not by_x[:, 3:].any()
    by_weight = kernels.quartered_gradient(x, weight, gradient, (2, 2))[0, 0]
    assert by_weight[:3, 2:].tolist() == [[22, 24, 26], [32, 34, 36], [42, 44, 46]]
    assert not by_weight[3:].any() and not by_weight[:, :2].any()


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_depthwise_gradients_exactly(kernel, stride, padding, layout):
    x, weight = random(3, 8, 9, 6).contiguous(memory_format=layout), random(8, 1, kernel, kernel)
    y = F.conv2d(x, weight, stride=stride, padding=padding, groups=8)
    gradient = random(*y.shape).contiguous(memory_format=layout)
    wanted = exact(x, weight, gradient, stride, padding, groups=8)
    for function, value in zip(
        (kernels.spaced_gradient, kernels.quartered_gradient), wanted, strict=True
    ):
        found = function(x, weight, gradient, (stride, padding))
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-4)


def test_a_network_in_bf16_has_the_same_gradients(monkeypatch):
    plain = network(("seg", "cls"), LITE)
    fast = copy.deepcopy(plain)
    kernels.install(fast, "direct")
    layers = [name for name, m in fast.named_modules() if type(m) is kernels.Depthwise]
    assert len(layers) == 11  # of 16; the others are of 3 x 3 and stride 1
    calls, function = [], kernels.quartered_gradient

    def count(*args):
        calls.append(args[0].dtype)
        return function(*args)

    monkeypatch.setattr(kernels, "quartered_gradient", count)
    wanted, found = gradients(plain, precision="bf16"), gradients(fast, precision="bf16")
    assert calls == 11 * [torch.bfloat16]
    for name in (f"{layer}.weight" for layer in layers):
        assert F.cosine_similarity(wanted[name].flatten(), found[name].flatten(), 0) > 0.999, name
    # In fp32 and evaluated it is PyTorch's own.
    assert all(map(torch.equal, gradients(plain).values(), gradients(fast).values()))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [model.eval()(random(2, 3, 64, 64)).values() for model in (plain, fast)]
    assert all(map(torch.equal, *outputs)) and len(calls) == 11


# ------------------------------------------------------------------------------- replacement


def conv(cin=32, cout=32, kernel=3, **options):
    return nn.Conv2d(cin, cout, kernel, **{"padding": kernel // 2, "bias": False} | options)


def test_which_layers_are_replaced():
    winograd = [conv()]
    depthwise = [conv(groups=32, stride=2), conv(kernel=5, groups=32, padding=0)]
    others = [
        conv(bias=True),
        conv(stride=2),
        conv(groups=2),
        conv(padding=2, dilation=2),
        conv(padding=0),
        conv(kernel=1),
        conv(cin=16),
        conv(padding_mode="reflect"),
        conv(groups=32),
        conv(cout=64, groups=32, stride=2),
        conv(groups=32, stride=2, bias=True),
        conv(groups=32, stride=(1, 2)),
        conv(kernel=5, groups=32, padding="same"),
        conv(kernel=7, groups=32, stride=2),
        nn.ConvTranspose2d(32, 32, 3, groups=32, bias=False),
    ]
    model = nn.Sequential(*winograd, *depthwise, *others)
    names, weights = list(model.state_dict()), list(model.parameters())
    kernels.install(model, "direct")
    assert [type(m) for m in model] == [type(m) for m in winograd] + 2 * [kernels.Depthwise] + [
        type(m) for m in others
    ]
    kernels.install(model, "winograd")
    assert [type(m) for m in model[:3]] == [kernels.Winograd] + 2 * [kernels.Depthwise]
    assert list(model[3:]) == others
    assert list(model.state_dict()) == names
    assert all(p is q for p, q in zip(model.parameters(), weights, strict=True))


def test_a_layer_that_is_used_twice_stays_one():
    layer = conv()
    model = nn.Sequential(layer, nn.Sequential(layer)).eval()
    kernels.install(model, "winograd")
    assert type(model[0]) is kernels.Winograd and model[0] is model[1][0]
    assert not model[0].training


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_faster_layers_can_be_copied_and_pickled(copied):
    model = network(("seg",), LITE, width=12)
    kernels.install(model, "winograd")
    again = copied(model)
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    network(("seg",), LITE, width=12).load_state_dict(again.state_dict())
    for a, b in zip(gradients(model).values(), gradients(again).values(), strict=True):
        assert torch.equal(a, b)


# ----------------------------------------------------------------------------------- folding

# Normalisations that stay: those before a convolution, and those with an activation in them.
LEFT = {
    "unet": 0,
    LITE: 0,
    "torchvision:resnet18": 0,
    "torchvision:densenet121": 62,
    "timm:resnetv2_50": 48,
}


def trained(**options):
    """A network in evaluation mode whose normalisations are not those of a new one."""
    model, rng = network(("seg", "cls", "bbox"), width=12, **options), torch.Generator()
    rng.manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for values in (m.weight.data, m.bias.data, m.running_mean, m.running_var):
                values.add_(0.3 * torch.rand(len(values), generator=rng))
    return model.eval()


class Net(nn.Sequential):
    """Layers as a network of one task."""

    def forward(self, images):
        return {"seg": super().forward(images.float())}


def norms(model):
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_folding_by_hand():
    net = Net(conv_bn_relu(3, 1, kernel=1)).eval()
    plain, norm, _ = net[0]
    plain.weight.data[:], norm.weight.data[:], norm.bias.data[:] = 1.0, 6.0, 0.5
    norm.running_mean[:], norm.running_var[:], norm.eps = 10.0, 4.0, 0.0
    folded = kernels.fold(net)[0][0]
    # y = (sum - 10) / 2 x 6 + 0.5
    assert folded.weight.flatten().tolist() == [3, 3, 3] and folded.bias.tolist() == [-29.5]
    assert plain.bias is None and kernels.fold(net)(torch.full((1, 3, 1, 1), 5))["seg"] == 15.5


@pytest.mark.parametrize("encoder", LEFT)
def test_outputs_stay_and_normalisations_go(encoder):
    if encoder.startswith("timm"):
        pytest.importorskip("timm")
    model = trained(encoder=encoder)
    folded = kernels.fold(model)
    image = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        before, after = model(image), folded(image)
    for name, output in before.items():
        tolerance = 1e-4 * output.abs().max().item()
        torch.testing.assert_close(after[name], output, rtol=1e-3, atol=tolerance)
    assert norms(folded) == LEFT[encoder] < norms(model)


@pytest.mark.parametrize("sharing", ["soft", "cross_stitch", "mtan"])
def test_other_sharings_are_folded(sharing):
    model = trained(sharing=sharing)
    assert norms(kernels.fold(model)) == 0 < norms(model)


def test_a_network_of_another_order_stays_as_it_is():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean += 1

        def forward(self, x):
            x = self.conv(x)
            return x + self.norm(x)

    net = Net(Around()).eval()
    assert kernels.fold(net) is net and norms(net) == 1
