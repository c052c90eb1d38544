"""Imports point down only, without circles; each module imports alone; internals name no task."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import registry

COMPONENTS = ("tasks", "sharing", "weighting", "encoders")
FOLDERS = (*COMPONENTS, "data", "training", "inference", "study")
# What a place may import of others. What is not named here is a script, which may import all but
# another script.
GROUND = {"cli", "files"}
CORE = {*GROUND, "registry", "config", "legacy", "models", "utils", "dataloader_mtl"}
BELOW = {
    "cli": set(),
    "files": {"cli"},
    "models": set(),
    "utils": set(),
    "registry": {"cli"},
    "data": GROUND,
    "config": {*GROUND, "data"},
    "legacy": {"config"},
    "dataloader_mtl": {*GROUND, "data"},
    **dict.fromkeys(COMPONENTS, {*GROUND, "registry", "models", "utils"}),
    "training": {*CORE, *COMPONENTS, "data", "inference"},
    "inference": {*CORE, *COMPONENTS, "data", "training"},
    "study": {*CORE, *COMPONENTS, "data"},
    "recipe": {*CORE, *COMPONENTS, "data", "training"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def our_modules():
    """{name: path} of all modules of the project but tests and benchmarks."""
    paths = [*ROOT.glob("*.py")]
    for folder in FOLDERS:
        paths += (ROOT / folder).rglob("*.py")
    return {module_name(path): path for path in sorted(paths)}


MODULES = our_modules()


def place_of(name):
    """A folder, or a file at the root."""
    return name.partition(".")[0]


def imported(name):
    """Our modules that one imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; name the folder"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & MODULES.keys() - {name}


def is_allowed(importer, imported):
    """Whether a module of one place may import one of another."""
    if importer == imported:
        return True
    if importer in BELOW:
        return imported in BELOW[importer]
    return imported in BELOW


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name):
    wrong = []
    for other in imported(name):
        if not is_allowed(place_of(name), place_of(other)):
            wrong.append(other)
    assert wrong == []


@pytest.mark.parametrize(
    "importer, other",
    [
        ("training", "study"),
        ("training", "evaluate"),
        ("study", "training"),
        ("study", "results"),
        ("tasks", "training"),
        ("tasks", "sharing"),
        ("tasks", "dataloader_mtl"),
        ("models", "tasks"),
        ("models", "cli"),
        ("utils", "models"),
        ("dataloader_mtl", "tasks"),
        ("data", "dataloader_mtl"),
        ("data", "registry"),
        ("cli", "utils"),
        ("train", "train_mtl"),
        ("recipe", "train_mtl"),
    ],
)
def test_the_rule_finds_what_points_up(importer, other):
    assert not is_allowed(importer, other)


def test_there_is_no_circle():
    """Modules are taken away as long as one imports nothing that is left."""
    left = {name: imported(name) for name in MODULES}
    while True:
        free = [name for name, others in left.items() if not others & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    assert left == {}


PROGRAM = """
import importlib, json, os, sys
import torch, torchvision, h5py, scipy.stats, matplotlib
matplotlib.use("svg")
found = {}
for name in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            importlib.import_module(name)
            text = ""
            if matplotlib.get_backend() != "svg" or "matplotlib.pyplot" in sys.modules:
                text = "it changes matplotlib"
        except ModuleNotFoundError as error:
            text = "" if error.name.partition(".")[0] not in sys.argv[2] else repr(error)
        except BaseException as error:
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found[name] = file.read()
    os.wait()
print(json.dumps({name: text for name, text in found.items() if text}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks for each module")
def test_every_module_imports_alone_and_leaves_matplotlib_as_it_is():
    ours = json.dumps(sorted({place_of(name) for name in MODULES}))
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(MODULES)), ours]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


# --------------------------------------------------------------------- internals name no component

INTERNALS = ("training", "inference", "study", "data", "dataloader_mtl", "models", "utils")
# Components that a table of experiments is made of, and words that are also something else.
TABLES = {"study.table", "study.masks", "study.official", "study.tune"}
COCO_KEYS = {"data.sources.coco": {"bbox"}, "inference.predict": {"bbox"}}
WORDS = {"seg", "border", "column", "distance", "hard", "unet", "torchvision", "timm", "soft"}


def named_components(name):
    """Names of components that stand in a module's strings."""
    names = {stem for folder in COMPONENTS for stem in registry.names(folder)} - WORDS
    pattern = re.compile(rf"(?:{'|'.join(sorted(names))})(?::\w+|\d+)?")
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if pattern.fullmatch(node.value) else set()
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if place_of(name) in INTERNALS])
def test_internals_name_no_task_sharing_weighting_or_encoder(name):
    found = named_components(name)
    for other in imported(name):
        place, dot, stem = other.partition(".")
        if place in COMPONENTS and dot and stem != "view":
            found.add(other)
    assert name in TABLES or found - COCO_KEYS.get(name, set()) == set()
