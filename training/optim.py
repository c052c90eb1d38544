"""Optimisation: parameter groups, learning rate, image sizes, EMA of the weights, AdamW, Muon.

AdamW (or Muon), a learning rate that rises linearly over the first WARMUP of all steps and falls to
zero on a cosine, and images that grow.
"""

import functools
import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cli import InputError
from config import schedule_pairs

WEIGHT_DECAY = 0.1
WARMUP = 0.1
# A gradient is usually 1 to 3 long. One that is a hundred times longer would move every weight by
# many learning rates, and slow AdamW down for a thousand steps.
MAX_GRADIENT_NORM = 5.0
# Training begins on smaller images, where a step is cheap, and ends at full size, or pets would be
# larger in validation than they ever were in training: (side relative to S, until this share of the
# epochs).
SIZES = ((0.5, 0.6), (0.75, 0.8))
SMALLEST = 128  # px, where images are that large

MOMENTUM = 0.95
ROUNDS = 3  # of the polynomial: singular values not small beside the largest come to 0.3 to 1.2
POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5, steep at zero and near one at one
SCALE = 0.2  # root mean square of a step's entries, over the learning rate: about AdamW's


def image_sizes(epochs, size, schedule=None):
    """Side in pixels of the training images in each epoch, S at the end.

    schedule: as in "128:0.5,256:1", each side until a share of the epochs; by default SIZES, in
    multiples of 32. Raises cli.InputError where it ends at another size than S, that of the data.
    """
    pairs = [(min(size, max(SMALLEST, 32 * round(share * size / 32))), end) for share, end in SIZES]
    pairs.append((size, 1.0))
    if schedule:
        pairs = schedule_pairs(schedule)
    if pairs[-1][0] != size:
        raise InputError(
            f"--resize-schedule {schedule} must end with the size of the data, {size} px"
        )
    sizes = []
    for epoch in range(epochs):
        sizes.append(next(side for side, end in pairs if epoch + 1 <= end * epochs or end == 1))
    return sizes


def learning_rate(step, total_steps, highest):
    """Linear rise over the first WARMUP of the steps, then a cosine to zero.

    Source: Loshchilov and Hutter, "SGDR", 2017. The only step of a run has the highest one.
    """
    if total_steps == 1:
        return highest
    progress = (step + 1) / total_steps
    if progress < WARMUP:
        return highest * progress / WARMUP
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def make_optimizer(model, criterion, config):
    """AdamW or Muon (config.optimizer) over the parameters of the model and of the criterion.

    The criterion's parameters and vectors, as biases, do not decay. A group's "highest" is its
    highest learning rate: config.lr, or config.encoder_lr for encoders that may have pretrained
    weights. config.precision: fp32 or bf16, of Muon's matrix products.
    """
    encoder, hidden = set(), set()
    if config.encoder_lr:
        encoder = {id(p) for module in model.encoders() for p in module.parameters()}
    if config.optimizer == "muon":
        hidden = {id(p) for p in hidden_weights(model)}
    members = {}
    for p in model.parameters():
        kind = id(p) in encoder, p.ndim <= 1, id(p) in hidden
        members.setdefault(kind, []).append(p)
    members.setdefault((False, True, False), []).extend(criterion.parameters())
    groups = []
    for kind in sorted(members):
        is_encoder, is_vector, is_hidden = kind
        group = {
            "params": members[kind],
            "weight_decay": 0.0 if is_vector else WEIGHT_DECAY,
            "highest": config.encoder_lr if is_encoder else config.lr,
        }
        if hidden:
            group |= {"is_hidden": is_hidden, "precision": config.precision}
        groups.append(group)
    kind = Muon if hidden else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=True)  # one pass over memory instead of ten


def make_ema(model, decay):
    """Exponential moving average of a network's weights and statistics (EMA); None without decay.

    `.update_parameters(model)` takes a step up, `.module` is the network of averages. At first the
    average is short, (1 + n) / (10 + n) after n steps, as TensorFlow's; decay 0.998 looks back over
    about 500 steps. Late in training weights swing about a place, to which their average lies
    nearer. Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging",
    1992.
    """
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=functools.partial(average, decay), use_buffers=True)


@torch.no_grad()
def average(decay, averages, values, n):
    """Move averages towards values in place; n: steps before. Integers are copied."""
    if averages[0].is_floating_point():
        n = int(n)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, values, n)
    else:
        torch._foreach_copy_(averages, values)


class Muon(torch.optim.AdamW):
    """Muon for groups with "is_hidden", weights of convolutions (out, in, h, w), else AdamW.

    The gradient of a convolution, seen as a matrix of outputs by inputs, is mostly a few
    directions. Muon replaces the matrix M = U S V' by about U V', in which all directions are as
    long as each other, so that rare ones are learned as fast as common ones. Sources: Jordan et
    al., "Muon: An optimizer for hidden layers in neural networks", 2024, for the step and the
    polynomial; Liu et al., "Muon is scalable for LLM training", 2025, for decay and scale, with
    which a learning rate is about what it is for AdamW.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have a gradient; uses those of hidden weights up."""
        for group in self.param_groups:
            for p in group["params"]:
                if group["is_hidden"] and p.grad is not None:
                    self._update(p, group)
                    p.grad = None  # AdamW has nothing to do with it
        return super().step(closure)

    def _update(self, p, group):
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["momentum"] = torch.zeros_like(p)
        state["step"] += 1
        momentum = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
        direction = p.grad.lerp(momentum, MOMENTUM)  # Nesterov's
        matrix = direction.permute(0, 2, 3, 1).flatten(1)  # no copy of channels_last weights
        scale = SCALE * math.sqrt(max(matrix.shape))
        if group["precision"] == "bf16":
            matrix = matrix.bfloat16()
        update = orthogonal(matrix).to(p.dtype) * scale
        out, cin, height, width = p.shape
        update = update.view(out, height, width, cin).permute(0, 3, 1, 2)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"])


def orthogonal(matrix):
    """About U V' of the (m, n) matrix U S V'; zero stays zero."""
    a, b, c = POLYNOMIAL
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # the smaller products
    x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x


def hidden_weights(model):
    """The weights for Muon: of convolutions between feature maps.

    Those of the image, of depthwise convolutions and of output layers, which have a bias, are
    AdamW's.
    """
    weights = []
    for layer in model.modules():
        is_plain = isinstance(layer, nn.Conv2d) and layer.bias is None and layer.groups == 1
        if is_plain and layer.in_channels > 3:
            weights.append(layer.weight)
    return weights
