"""Refuse a run that cannot teach, choose or measure what it is for, before anything is written."""

import contextlib
import copy
import hashlib
import math
from collections import Counter

import cli
from cli import InputError, listed
from data import contract
from dataloader_mtl import MTLDataset, batches, make_loader
from training.devices import to

# ------------------------------------------------------------------------------------------ labels


def count_labels(dataset, names=None):
    """{task: Counter of the kinds of its images' labels}; images are read once, as a stream."""
    counts = {name: Counter() for name in (dataset.tasks if names is None else names)}
    for raw in dataset.stream():
        for name, count in counts.items():
            count.update(kind for kind in dataset.tasks[name].kinds(raw) if kind is not None)
    return counts


def refuse_missing_files(dataset):
    """Refuse tasks whose file is not there."""
    for task in dataset.tasks.values():
        for need in task.needs:
            if need in contract.KINDS and need not in dataset.kinds:
                path = dataset.data / dataset.split / f"{need}.h5"
                raise InputError(
                    f"{path} is missing, which the task {task.name} needs; prepare the data with "
                    "it, or name the tasks that can be trained: python train.py --tasks ..."
                )


def refuse_unteachable(dataset):
    """{task: labelled training images}; refuses a task that the training split cannot teach."""
    refuse_missing_files(dataset)
    counts = count_labels(dataset)
    first = next(iter(dataset.tasks))
    for name, count in counts.items():
        missing = dataset.tasks[name].lacking(count)
        if missing is None:
            continue
        way = f"bring {dataset.tasks[name].labels} for each image"
        if name != first:  # which the others are there for
            way += ", or leave the task out (train.py --tasks ...)"
        if len(dataset) < dataset.summary["splits"][dataset.split]:
            way = "use a larger --limit"
        raise InputError(
            f"{dataset.data / dataset.split} cannot teach {name}: of its {len(dataset)} images "
            f"{missing}; {way}"
        )
    return {name: sum(count.values()) for name, count in counts.items()}


def refuse_blind_choice(dataset):
    """Refuse a validation split that cannot choose a checkpoint, which the first task does."""
    first = next(iter(dataset.tasks.values()))
    missing = first.lacking(count_labels(dataset, [first.name])[first.name])
    if missing is not None:
        raise InputError(
            f"{dataset.data / dataset.split} cannot choose a checkpoint: of its {len(dataset)} "
            f"images {missing}; bring {first.labels} for each image, or split the data again"
        )


def warn_of_unmeasured(dataset):
    """Warn of metrics that a split cannot measure, and of classes with other names."""
    where = dataset.data / dataset.split
    names = tuple(dataset.summary["classes"])
    for name, count in count_labels(dataset).items():
        task = dataset.tasks[name]
        if "binary" in task.needs and "binary" in dataset.kinds and tuple(task.classes) != names:
            cli.warn(
                f"{where} has the classes {' and '.join(names)}, and {name} was taught "
                f"{' and '.join(task.classes)}: its figures there say nothing"
            )
        missing = task.lacking(count)
        if missing is not None:
            metrics = ", ".join(metric.label for metric in task.metrics.values())
            cli.warn(
                f"{where} cannot measure {metrics} (null in the results): of its {len(dataset)} "
                f"images {missing}"
            )


def label_digest(data, needs):
    """{need: 16 hex digits of its labels in all splits}, of what some tasks read.

    data: {split: MTLDataset}; needs: names of files or index:COLUMN.
    """
    return {need: digest_of(data, need) for need in sorted(needs)}


def digest_of(data, need):
    content = hashlib.sha256()
    for split, dataset in data.items():
        kind, _, column = need.partition(":")
        content.update(f"{split} {need} ".encode())
        if column:
            content.update("\n".join(dataset.column(column)).encode())
        elif kind in dataset.kinds and kind != "images":
            file, stored = contract.open_rechunked(dataset.data, split, kind)
            with file:
                for _, rows in contract.slabs(stored, len(dataset)):
                    content.update(rows.tobytes())
    return content.hexdigest()[:16]


# -------------------------------------------------------------------------------------- parameters


def named_parameters(model, criterion):
    """The parameters of both by name; those of a criterion begin with "criterion."."""
    named = dict(model.named_parameters())
    for name, parameter in criterion.named_parameters():
        named[f"criterion.{name}"] = parameter
    return named


def refuse_untrained(criterion, optimizer):
    """Refuse a criterion whose parameters the optimizer would leave alone: dead loss weights."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    dead = []
    for name, parameter in criterion.named_parameters():
        if id(parameter) not in trained or not parameter.requires_grad:
            dead.append(name)
    if dead:
        raise InputError(
            f"the criterion's parameters {', '.join(dead)} are not in the optimizer or need no "
            "gradient, so they would never change; hand them to the optimizer"
        )


def refuse_unreached(parameters):
    """Refuse parameters, {name: parameter}, that a trial step gave no gradient: dead parameters."""
    unreached = []
    for name, parameter in parameters.items():
        if parameter.requires_grad and parameter.grad is None:
            unreached.append(name)
    if unreached:
        raise InputError(
            f"the loss does not depend on {listed(unreached)}, so they would never change; use "
            "them in the loss, or set requires_grad to False where that is meant"
        )


def trial_copy(model, criterion):
    """Copies to try a step with, which changes the statistics of batch normalisation."""
    return copy.deepcopy(model).train(), copy.deepcopy(criterion).train()


def trial_batch(dataset, epoch, n, device):
    """The first n images of the training split, as they are in an epoch."""
    with contextlib.closing(batches(make_loader(dataset, n), epoch)) as source:
        return to(next(source), device)


def teaching_batch(dataset, n, device):
    """The first n images as stored, and a labelled one for each task."""
    rows = list(range(min(n, len(dataset))))
    for name in dataset.tasks:
        row = first_labelled(dataset, name)
        if row is not None and row not in rows:
            rows.append(row)
    plain = MTLDataset(dataset.data, dataset.split, list(dataset.tasks.values()))
    return to(plain.__getitems__([(0, row) for row in rows]), device)


def first_labelled(dataset, name):
    """The first row whose label of a task is known, or None."""
    start = 0
    for raw in dataset.stream():
        kinds = dataset.tasks[name].kinds(raw)
        for k, kind in enumerate(kinds):
            if kind is not None:
                return start + k
        start += len(kinds)
    return None


def refuse_divergence(values, parameters, where):
    """Stop before the update where a loss or a gradient is not finite.

    values: {name: float} of the step; parameters: {name: parameter}; where: epoch and images.
    """
    bad = []
    for name, parameter in parameters.items():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            bad.append(name)
    if not bad and all(map(math.isfinite, values.values())):
        return
    losses = ", ".join(f"{key} {value:g}" for key, value in values.items())
    what = f"the gradient of {listed(bad)}" if bad else "a loss"
    raise InputError(
        f"{what} is not finite in {where} ({losses}); try a smaller --lr or --precision fp32"
    )
