"""The recipe that all experiments share: AdamW (or Muon), a learning rate that rises linearly over
the first WARMUP of all steps and falls to zero on a cosine, and images that grow."""

import math

import torch

from cli import InputError
from training import muon
from training.options import pairs_of

WEIGHT_DECAY = 0.1
WARMUP = 0.1
# A gradient is usually 1 to 3 long. One that is a hundred times longer would move every weight by
# many learning rates, and slow AdamW down for a thousand steps.
MAX_GRADIENT_NORM = 5.0
# Training begins on smaller images, where a step is cheap, and ends at full size, or pets would be
# larger in validation than they ever were in training: (until this share of the epochs, side
# relative to S).
SIDES = ((0.6, 0.5), (0.8, 0.75), (1.0, 1.0))


def training_sides(epochs, size, asked=None):
    """Side in pixels of the training images in each epoch; S at the end.

    asked: what --sides says, as 128:0.5,256:1; by default SIDES, to a multiple of 32 and at least
    128 where S is. Raises cli.InputError where it ends at another size than S, that of the data.
    """
    if asked:
        found = pairs_of(asked)
        if found[-1][0] != size:
            raise InputError(
                f"--sides {asked} does not end at {size} px, which the images have; let it"
            )
    else:
        found = [
            (size if share == 1 else min(size, max(128, 32 * round(share * size / 32))), until)
            for until, share in SIDES
        ]
    return [
        next(side for side, until in found if epoch + 1 <= until * epochs or until == 1)
        for epoch in range(epochs)
    ]


def make_optimizer(model, criterion, lr, encoder_lr=None, name=None):
    """AdamW over the model's and the criterion's parameters; the criterion's, biases and norms do
    not decay.

    encoder_lr: the highest learning rate of the encoders that may have pretrained weights, where it
    is another than lr; name: "muon" for Muon (muon.py) instead.
    """
    encoder = {id(p) for one in model.encoders() for p in one.parameters()} if encoder_lr else set()
    given = [
        [p for p in model.parameters() if id(p) not in encoder],
        [p for p in model.parameters() if id(p) in encoder],
    ]
    groups = []
    for parameters, highest in zip(given, (lr, encoder_lr)):
        decays = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1] + (
            list(criterion.parameters()) if highest is lr else []
        )
        more = {"highest": encoder_lr} if highest is encoder_lr else {}
        groups += [
            {"params": decays, "weight_decay": WEIGHT_DECAY, **more},
            {"params": others, "weight_decay": 0.0, **more},
        ]
    groups = groups[: 4 if encoder else 2]
    if name == "muon":
        turned = {id(p) for p in muon.hidden(model)}
        parts = [
            (group, is_hidden, [p for p in group["params"] if (id(p) in turned) == is_hidden])
            for group in groups
            for is_hidden in (False, True)
        ]
        return muon.Muon(
            [
                {**group, "params": params, "is_hidden": is_hidden, "precision": "fp32"}
                for group, is_hidden, params in parts
                if params
            ],
            lr,
        )
    return torch.optim.AdamW(groups, lr=lr, fused=True)  # one pass over memory instead of ten


def learning_rate(step, total_steps, highest):
    """Linear rise over the first WARMUP of the steps, then a cosine to zero (Loshchilov and Hutter,
    "SGDR", 2017)."""
    progress = (step + 1) / total_steps
    if progress < WARMUP:
        return highest * progress / WARMUP
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
