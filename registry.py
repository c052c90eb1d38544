"""Finds a component by its name: NAME.py in a folder holds one class, and nothing else names it.

    find("tasks", "bbox")                     the class of tasks/bbox.py, made with its name
    find("tasks", "column:breed")             that of tasks/column.py, which gets "breed"
    find("encoders", "efficientnet_lite0")    that of encoders/efficientnet_lite.py, which gets "0"

sharing/, weighting/ and encoders/ are searched in the same way.
"""

import importlib
import inspect
import re
from pathlib import Path

from cli import InputError

HERE = Path(__file__).resolve().parent
BASES = {"view"}  # files of base classes, which hold no component


def names(folder):
    """Names of all components in a folder, sorted."""
    paths = (HERE / folder).glob("[a-z]*.py")
    return sorted(path.stem for path in paths if path.stem not in BASES)


def find(folder, name, *more):
    """Make the component that a name such as "bbox" or "column:breed" stands for.

    Its class is called with (name, what follows the colon or None, *more). Raises cli.InputError
    for a name that no file has, and for a file that does not hold one class.
    """
    name = str(name)
    stem, colon, argument = name.partition(":")
    argument = argument if colon else None
    known = names(folder)
    has_number = None
    if stem not in known and not colon:
        has_number = re.fullmatch(r"(\w*[a-z_])(\d+)", stem)
    if has_number:
        stem, argument = has_number.groups()
    # Only what lies there is imported: the name may come out of a stranger's checkpoint.
    if stem in known and re.fullmatch(r"[a-z][a-z0-9_]*", stem):
        component = class_of(folder, stem)
        if not has_number or getattr(component, "counts_kinds", False):
            try:
                return component(name, argument, *more)
            except TypeError as error:  # a method that it must have is missing
                raise InputError(f"{folder}/{stem}.py: {error}") from None
    raise InputError(
        f"{folder}/ has no {name[:60]!r}; it has {', '.join(known)} "
        f"({folder}/README.md says how to add one)"
    )


def class_of(folder, stem):
    """The one class of a file."""
    module = importlib.import_module(f"{folder}.{stem}")
    classes = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and key[0] != "_"
    ]
    if len(classes) != 1:
        raise InputError(
            f"{folder}/{stem}.py should hold one class and holds {len(classes)}; "
            "begin the names of others with _"
        )
    return classes[0]


def find_tasks(task_names):
    """Tasks by their names, in order. Raises cli.InputError for none, unknown or repeated ones."""
    tasks = [find("tasks", name) for name in task_names]
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        were = " ".join(names) or "none"
        raise InputError(f"--tasks {were}: name at least one task, each once")
    return tasks
