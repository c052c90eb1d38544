"""What one varies, found by its name: NAME.py in tasks/ holds one class, and nothing else names it.

    find("tasks", "bbox")                     the class of tasks/bbox.py, made with its name
    find("tasks", "column:breed")             that of tasks/column.py, which is told "breed"
    find("encoders", "efficientnet_lite0")    that of encoders/efficientnet_lite.py, which counts its kinds and is told "0"

sharing/, weighting/ and encoders/ are searched in the same way.
"""

import importlib
import inspect
import re
from pathlib import Path

from cli import InputError

HERE = Path(__file__).resolve().parent
# The tasks of the published study, in its order: what a data folder is asked for where nobody says which.
PUBLISHED = ("seg", "cls", "bbox")
# What a run's config.json says of its sharing and encoder, and what it is where nothing else is asked for; earlier versions had
# no other and did not say it.
AXES = {
    "sharing": "hard",
    "encoder": "unet",
    "encoder_weights": None,
    "encoder_lr": None,
    "encoder_bn": "train",
}
# Options by which the rows of a table may differ, too; none of them is usual. What a table calls that.
CHOSEN = {"masks": "all", "scenes": "none", "teacher": "none"}


def names(folder):
    """Names of all that a folder offers, sorted."""
    return sorted(path.stem for path in (HERE / folder).glob("[a-z]*.py"))


def find(folder, name, *more):
    """Make what a name such as "bbox" or "column:breed" stands for.

    Its class is called with (name, what follows the colon or None, *more). Raises cli.InputError for a name that no file
    has, and for a file that does not hold one class.
    """
    stem, colon, argument = str(name).partition(":")
    known = names(folder)
    unknown = InputError(
        f"{folder}/ has no {str(name)[:60]!r}; it has {', '.join(known)} ({folder}/README.md says how to "
        "add one)"
    )
    number = None if stem in known or colon else re.fullmatch(r"(\w*[a-z_])(\d+)", stem)
    if number:
        stem, argument = number.groups()
    # Only what lies there is imported: the name may come out of a stranger's checkpoint.
    if stem not in known or not re.fullmatch(r"[a-z][a-z0-9_]*", stem):
        raise unknown
    module = importlib.import_module(f"{folder}.{stem}")
    classes = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    if len(classes) != 1:
        raise InputError(
            f"{folder}/{stem}.py should hold one class and holds {len(classes)}; begin the names of others with "
            "_"
        )
    if number and not getattr(classes[0], "counts_kinds", False):
        raise unknown
    try:
        return classes[0](str(name), argument if colon or number else None, *more)
    except TypeError as error:  # a method that it must have is missing
        raise InputError(f"{folder}/{stem}.py: {error}") from None


def tasks(names_or_tasks):
    """{name: Task} of names, or of tasks that were made already, in their order.

    Raises ValueError where there is none, and for one that is repeated; cli.InputError for an unknown one.
    """
    found = [find("tasks", task) if isinstance(task, str) else task for task in names_or_tasks]
    by_name = {task.name: task for task in found}
    if not found or len(by_name) < len(found):
        were = ", ".join(task.name for task in found) or "none"
        raise ValueError(f"tasks must be at least one, each once, and were {were}")
    owner = {}
    for task in found:
        for metric in task.metrics:
            if owner.setdefault(metric, task.name) != task.name:
                raise ValueError(
                    f"the tasks {owner[metric]} and {task.name} both measure {metric}; rename one"
                )
    return by_name
