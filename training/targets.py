"""What the targets of a split can teach a network, and what they can measure.

Without this a task that has no targets would be trained, on a loss that is always 0, and drawn and
judged like any other.
"""

from collections import Counter

import cli
from cli import InputError
from data import contract
from dataloader_mtl import MTLDataset


def survey(dataset, tasks=None):
    """{task: Counter of what its images teach}, of some of a dataset's tasks or of all; pictures
    are read once, as a stream."""
    counts = {name: Counter() for name in (dataset.tasks if tasks is None else tasks)}
    for raw in dataset.stream({name: dataset.tasks[name] for name in counts}):
        for name, count in counts.items():
            count.update(value for value in dataset.tasks[name].value(raw) if value is not None)
    return counts


def taught(dataset):
    """What a run's records say of its training targets: {task: number of images that are labelled}.
    Raises cli.InputError where there is nothing to learn of a task."""
    contract.require(dataset.data, dataset.split, dataset.tasks.values())
    counts = survey(dataset)
    missing = {
        name: found for name in counts if (found := dataset.tasks[name].lacking(counts[name]))
    }
    if missing:
        # The first task is what the others are there for.
        ways = [
            f"leave {'it' if len(missing) == 1 else 'them'} out of the tasks (train.py --tasks ...)"
        ] * (next(iter(counts)) not in missing)
        ways.append(f"bring {' and '.join(wanted(dataset.tasks[name]) for name in missing)}")
        if len(dataset) < dataset.summary["splits"][dataset.split]:
            whole = MTLDataset(
                dataset.data, dataset.split, tasks=[dataset.tasks[name] for name in missing]
            )
            if not any(dataset.tasks[name].lacking(count) for name, count in survey(whole).items()):
                ways = ["use a larger --limit"]
        raise InputError(
            f"{dataset.data / dataset.split} cannot teach {' and '.join(missing)}: of {images(len(dataset))} "
            f"{' and '.join(missing.values())}; {', or '.join(ways)}"
        )
    return {name: sum(count.values()) for name, count in counts.items()}


def refuse_blind_choice(dataset):
    """Refuse a validation split on which no network could be chosen, which the first task does."""
    first = next(iter(dataset.tasks.values()))
    contract.require(dataset.data, dataset.split, [first])
    found = first.lacking(survey(dataset, [first.name])[first.name])
    if found:
        raise InputError(
            f"{dataset.data / dataset.split} cannot choose a network: of {images(len(dataset))} {found}; bring "
            f"{wanted(first)}, or split the data again"
        )


def warn_of_unmeasured(dataset):
    """Say what a split cannot measure of its tasks; it is null in the results. And where its two
    classes are called otherwise than those that a task was taught: what is measured then says
    nothing."""
    for name, task in dataset.tasks.items():
        known, taught = dataset.summary["classes"], tuple(task.classes)
        if "binary" in dataset.kinds and "binary" in task.needs and taught and taught != known:
            cli.warn(
                f"{dataset.data / dataset.split} has the classes {' and '.join(known)}, and {name} was taught "
                f"{' and '.join(taught)}: what it measures there takes {known[0]} for {taught[0]} and says nothing of either"
            )
    for name, count in survey(dataset).items():
        task = dataset.tasks[name]
        found = task.lacking(count)
        if found:
            *others, last = [metric.label for metric in task.metrics.values()]
            measures = (
                f"{', '.join(others)} and {last}, which are" if others else f"{last}, which is"
            )
            cli.warn(
                f"{dataset.data / dataset.split} cannot measure {measures} null there: of {images(len(dataset))} {found}"
            )


def wanted(task):
    return task.wanted or f"{task.labels} for each image"


def images(n):
    return "its one image" if n == 1 else f"its {n} images"
