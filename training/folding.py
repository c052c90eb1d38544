"""Batch normalisation as part of the convolution before it: in evaluation mode it is a factor and a
shift a channel, which weights can hold.

A convolution's output is then not read and written again: of EfficientNet-Lite2, one photograph in
one thread, 0.88 of the time.
"""

from collections import Counter

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE = 64  # pixels of the noise on which outputs are compared
NEAR = 1e-3  # of the largest output; rounding is a hundredth of it


@torch.no_grad()
def fold(model):
    """Fold what can be of a network (models.MTLNet, on the CPU, in evaluation mode), in place;
    returns it.

    Where a convolution's output also goes elsewhere, as around a pre-activation block, outputs
    would be others. They are compared on noise, and a network whose outputs differ stays as it is.
    """
    noise = torch.randint(
        0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    before, pairs = _look(model, noise)
    weights = [(conv.weight, conv.bias) for conv, _ in pairs]
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias, norm.forward = fused.weight, fused.bias, nn.Identity().forward
    after = model(noise)
    if any(
        (after[name] - output).abs().max() > NEAR * output.abs().max()
        for name, output in before.items()
    ):
        for (conv, norm), (conv.weight, conv.bias) in zip(pairs, weights):
            del norm.forward  # the class has its own
    return model


def _look(model, images):
    """What a network says of images, and [(convolution, normalisation)], each of which is called
    with nothing but the other."""
    made, calls, pairs, hooks = {}, Counter(), Counter(), []

    def convolved(module, inputs, output):
        made[id(output)] = module, output  # which keeps the output, and so its id
        calls[module] += 1

    def normalising(module, inputs):
        calls[module] += 1
        if id(inputs[0]) in made:
            pairs[made[id(inputs[0])][0], module] += 1

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(convolved))
        elif (
            type(module) is nn.BatchNorm2d
        ):  # what derives from it may do more, as timm's, which end with an activation
            hooks.append(module.register_forward_pre_hook(normalising))
    try:
        outputs = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, [
        pair for pair, times in pairs.items() if {calls[module] for module in pair} == {times}
    ]
