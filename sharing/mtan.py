"""Multi-Task Attention Network: one encoder for all, and a task's own soft attention on its maps.

Stage k of the encoder has a map p_k at its end and a map u_k before its last layer. A task looks at
both:

    mask_k = sigmoid(bn(h(g([u_k, f_k]))))    g: 1 x 1 convolution, batch normalisation, ReLU;
                                              h: 1 x 1 convolution
    what the task gets: mask_k * p_k
    f_k = f(mask_(k-1) * p_(k-1))             f: 3 x 3 convolution, batch normalisation, ReLU,
                                              shared by the tasks

Two things differ from the paper: f follows the pooling, as convolutions do in this project's
encoder, which is four times cheaper than before it; and decoders are each task's own here, so only
the encoder has attention. One task alone has nothing to choose from what others need, so it has no
attention.

Source: Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", 2019.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from models import build, conv_bn_relu
from sharing import Sharing, of_each, run, stages


class Mtan(Sharing):
    def build(self, make_encoder, tasks, dropped, seed):
        parts = nn.Module()
        parts.encoder = make_encoder()
        stages(parts.encoder, self)
        p, u = parts.encoder.channels, parts.encoder.inner

        def make_passing():
            return nn.ModuleList(conv_bn_relu(a, b) for a, b in pairwise(p))

        def make_attention():
            layers = [_Attention(u[0], p[0])]
            for k in range(1, 5):
                layers.append(_Attention(u[k] + p[k], p[k]))
            return nn.ModuleList(layers)

        is_alone = len(tasks) + len(dropped) == 1
        parts.passing = nn.ModuleList() if is_alone else build(make_passing, "attention", seed)
        parts.attention = of_each(
            () if is_alone else tasks, lambda task: build(make_attention, f"attention/{task}", seed)
        )
        return parts

    def features(self, encoder, image, tasks, record):
        x, before, after = image, [], []
        for *layers, last in encoder.encoder.stages:
            u = run(layers, x)
            x = last(u)
            after.append(record(x))
            before.append(record(u) if layers else after[-1])
        if not encoder.attention:
            return dict.fromkeys(tasks, after)
        return {task: attend(encoder, task, before, after) for task in tasks}

    def encoders(self, encoder):
        return [encoder.encoder]

    def shared(self, encoder):
        return list(encoder.encoder.parameters())


def attend(encoder, task, before, after):
    """What a task gets of the maps before and at the end of the stages."""
    found = []
    for k, (u, p) in enumerate(zip(before, after, strict=True)):
        if found:
            pooled = F.max_pool2d(found[-1], 2, ceil_mode=True)
            u = torch.cat([u, encoder.passing[k - 1](pooled)], dim=1)
        found.append(encoder.attention[task][k](u) * p)
    return found


class _Attention(nn.Sequential):
    """(B, cin, H, W) -> a mask (B, cout, H, W) in (0, 1)."""

    def __init__(self, cin, cout):
        super().__init__(
            conv_bn_relu(cin, cout, kernel=1),
            nn.Conv2d(cout, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.Sigmoid(),
        )
