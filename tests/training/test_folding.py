"""Normalisations folded into convolutions: by hand, same outputs in every encoder and sharing, and what must stay as it is."""

import pytest
import torch
from torch import nn

from models import MTLNet, conv_bn_relu
from training.folding import fold

# Of each, the normalisations that stay: where one comes before the convolution, or an activation is part of it.
LEFT = {
    "unet": 0,
    "efficientnet_lite0": 0,
    "torchvision:resnet18": 0,
    "torchvision:densenet121": 62,
    "timm:resnet18": 0,
    "timm:resnetv2_50": 48,
}


def noise(side=64):
    return torch.randint(
        0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def trained(**options):
    """A network whose normalisations are not those of a new one, in evaluation mode."""
    model, generator = (
        MTLNet(["seg", "cls", "bbox"], width=12, **options),
        torch.Generator().manual_seed(0),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (
                module.weight.data,
                module.bias.data,
                module.running_mean,
                module.running_var,
            ):
                values.add_(0.3 * torch.rand(len(values), generator=generator))
    return model.eval()


def count(model):
    """How many normalisations are computed."""
    calls = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: calls.append(output is not inputs[0])
        )
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model(noise())
    for hook in hooks:
        hook.remove()
    return sum(calls)


class Net(nn.Module):
    """Like a network, of one task."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images):
        return {"seg": self.layers(images.float())}


def test_by_hand():
    net = Net(conv_bn_relu(3, 1, kernel=1)).eval()
    conv, norm, _ = net.layers[0]
    conv.weight.data[:], norm.weight.data[:], norm.bias.data[:] = 1.0, 6.0, 0.5
    norm.running_mean[:], norm.running_var[:], norm.eps = 10.0, 4.0, 0.0
    fold(net)
    # y = (sum - 10) / 2 x 6 + 0.5
    assert conv.weight.flatten().tolist() == [3, 3, 3] and conv.bias.tolist() == [-29.5]
    assert net(torch.full((1, 3, 1, 1), 5))["seg"].item() == 15.5


@pytest.mark.parametrize("encoder", LEFT)
def test_outputs_stay_and_normalisations_go(encoder):
    if encoder.startswith("timm"):
        pytest.importorskip("timm")
    model, folded = trained(encoder=encoder), fold(trained(encoder=encoder))
    with torch.no_grad():
        before, after = model(noise(96)), folded(noise(96))
    for name, output in before.items():
        torch.testing.assert_close(
            after[name], output, rtol=1e-3, atol=1e-4 * output.abs().max().item()
        )
    assert count(folded) == LEFT[encoder] < count(model)


@pytest.mark.parametrize("sharing", ["soft", "cross_stitch", "mtan"])
def test_shared_in_other_ways(sharing):
    model, folded = trained(sharing=sharing), fold(trained(sharing=sharing))
    with torch.no_grad():
        for name, output in model(noise()).items():
            torch.testing.assert_close(folded(noise())[name], output, rtol=1e-3, atol=1e-4)
    assert count(folded) == 0


def test_an_output_that_goes_elsewhere_too():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean += 1

        def forward(self, x):
            x = self.conv(x)
            return x + self.norm(x)

    net = Net(Around()).eval()
    before = net(noise())["seg"]
    weight = net.layers[0].conv.weight
    assert torch.equal(fold(net)(noise())["seg"], before) and net.layers[0].conv.weight is weight


def test_a_layer_that_is_used_twice():
    conv, norms = nn.Conv2d(3, 3, 1), [nn.BatchNorm2d(3), nn.BatchNorm2d(3)]
    norms[1].running_mean += 1
    net = Net(conv, norms[0], conv, norms[1]).eval()
    weight, before = conv.weight, net(noise())["seg"]
    assert torch.equal(fold(net)(noise())["seg"], before) and conv.weight is weight
