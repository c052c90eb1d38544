"""One training step: taking it, trying it before training begins, and refusing it where it would
spoil the network."""

import contextlib
import copy
import math
import zlib

import torch
from torch.nn.utils import get_total_norm

from cli import InputError, listed
from dataloader_mtl import batches, make_loader
from training import depthwise


def step(model, criterion, batch, precision, look=None, recorded=None):
    """Forward and backward of one batch; returns the weighted total, with the sharing's penalty,
    and the dict of unweighted losses. look(losses) is called before they go back; recorded
    (replay.py) instead of the network."""
    with autocast(batch["image"].device, precision):
        outputs = (recorded or model)(batch["image"])
    losses = criterion(outputs, batch)
    if criterion.teacher:
        losses = criterion.teacher.join(losses, outputs, batch)
    if model.team:
        losses = model.team.whole(losses)
    if look:
        look(losses)
    total = criterion.backward(losses, model)
    penalty = model.penalty()
    if penalty is not None:
        penalty.backward()
        total = total + penalty.detach()
    return total, losses


def seed_step(seed, epoch, k, device):
    """Let random numbers of a step, as of layers that drop values, depend on the seed, the epoch
    and the step alone, so that a resumed run draws the same."""
    number = zlib.crc32(f"{seed}/{epoch}/{k}".encode())
    # torch.manual_seed seeds devices, too, that are not in use, and keeps for each what called it:
    # half a millisecond and more.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def autocast(device, precision, **options):
    """What a pass computes under; options: those of torch.autocast."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, **options)


def to(batch, device):
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def gradient_norm(parameters):
    """The norm over all gradients of parameters given by name, a scalar tensor; it costs a
    thousandth of a step."""
    return get_total_norm([p.grad for p in parameters.values() if p.grad is not None])


def refuse_divergence(values, norm, parameters, batch, dataset, epoch):
    """Stop before the update where a loss or a gradient is not finite; `norm` is gradient_norm of
    the parameters."""
    # The norm also overflows where gradients are merely huge, so each is asked only then.
    if norm.isfinite() and all(map(math.isfinite, values.values())):
        return
    bad = [
        name for name, p in parameters.items() if p.grad is not None and not p.grad.isfinite().all()
    ]
    if not bad and all(map(math.isfinite, values.values())):
        return
    losses = ", ".join(f"{key} {value:g}" for key, value in values.items())
    names = ", ".join(dataset.names[row] for row in batch["row"].tolist())
    what = f"the gradient of {listed(bad)}" if bad else "a loss"
    raise InputError(
        f"{what} is not finite in epoch {epoch + 1} ({losses}; images {names}); try a smaller --lr or "
        "--precision fp32"
    )


def refuse_untrained(criterion, optimizer):
    """Refuse a criterion whose parameters the optimizer would leave alone: learned weights that are
    none."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    dead = [
        name
        for name, p in criterion.named_parameters()
        if id(p) not in trained or not p.requires_grad
    ]
    if dead:
        raise InputError(
            f"the criterion's parameters {', '.join(dead)} are not in the optimizer or need no gradient, so "
            "they would never change; hand them to the optimizer"
        )


def refuse_unreached(model, criterion, batch):
    """Refuse parameters that a trial step on a batch gives no gradient: they would never change
    either.

    The batch is to hold a target of every task (teaching_batch): a loss without one is zero, and
    still reaches its head.
    """
    trial = trial_copy(model, criterion)
    step(*trial, batch, "fp32")
    unreached = [
        name for name, p in named_parameters(*trial).items() if p.requires_grad and p.grad is None
    ]
    if unreached:
        raise InputError(
            f"the loss does not depend on {listed(unreached)}, so they would never change; use them in the "
            "loss, or set requires_grad to False where that is meant"
        )


def trial_copy(model, criterion):
    """Copies to try a step with, which changes the statistics of batch normalisation. In bf16 it is
    as quick as in training."""
    model = copy.deepcopy(model).train()
    depthwise.install(model)
    return model, copy.deepcopy(criterion).train()


def trial_batch(dataset, epoch, n, device):
    """The first n images of the training split, or as many as there are, as they are in an
    epoch."""
    with contextlib.closing(batches(make_loader(dataset, n), epoch)) as source:
        return to(next(source), device)


def teaching_batch(dataset, n, device):
    """n images of the training split, or as many as there are, as they are stored, and for each
    task one among them whose target is known: cut or mirrored as in an epoch it might lose it."""
    rows = list(range(min(n, len(dataset))))
    for name, task in dataset.tasks.items():
        row = first_labelled(dataset, name, task)
        if row is not None and row not in rows:
            rows.append(row)
    plain = copy.copy(dataset)
    plain.augment, plain.scenes = "none", None
    return to(plain.__getitems__([(0, row) for row in rows]), device)


def first_labelled(dataset, name, task):
    """The first row whose target of a task is known, or None."""
    values = (value for raw in dataset.stream({name: task}) for value in task.value(raw))
    return next((row for row, value in enumerate(values) if value is not None), None)


def named_parameters(model, criterion):
    """The parameters of both by name; those of a criterion begin with "criterion."."""
    return dict(model.named_parameters()) | {
        f"criterion.{name}": p for name, p in criterion.named_parameters()
    }
