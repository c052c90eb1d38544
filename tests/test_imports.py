"""Imports point down only, by folder; nothing imports a script; what loops over tasks names none; files stay short."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import registry

FIRST = ("models", "dataloader_mtl", "utils")  # what one reads first
GROUND = ("cli", "registry")  # what anything may use
VARIED = ("tasks", "sharing", "weighting", "encoders")
BELOW = {  # what a place may import of other places
    "what one runs": {"training", "study", *VARIED, "what one reads first", "data", "ground"},
    "training": {*VARIED, "what one reads first", "data", "ground"},
    "study": {*VARIED, "what one reads first", "data", "ground"},
    **dict.fromkeys(VARIED, {"what one reads first", "data", "ground"}),
    "what one reads first": {"data", "ground"},
    "data": {"ground"},
    "ground": set(),
}
ROOMS = ("training", "study", *VARIED, "data")
OURS = sorted(
    [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
)
MECHANICS = [
    path
    for path in OURS
    if path.relative_to(ROOT).parts[0] in ("training", "study", "dataloader_mtl.py", "models.py")
]
MOST_LINES, MOST_LINES_AT_ROOT, MOST_FILES_AT_ROOT = 400, 300, 24


def place_of(top):
    """The place of a file at the root, or of a folder, by its name without an ending; None for what is not ours."""
    if top in ROOMS:
        return top
    if top in GROUND:
        return "ground"
    if top in FIRST:
        return "what one reads first"
    return "what one runs" if (ROOT / f"{top}.py").exists() else None


def imported(path):
    """Names of the modules and packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the folder"
            names.add(node.module.split(".")[0])
    return names


def wrong_imports(place, names):
    """What of these a file of a place must not import; its own folder it may, but no script another."""
    may = BELOW[place] | ({place} if place != "what one runs" else set())
    return sorted(name for name in names if place_of(name) and place_of(name) not in may)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path):
    top = Path(path.relative_to(ROOT).parts[0]).stem
    assert wrong_imports(place_of(top), imported(path)) == []


@pytest.mark.parametrize(
    "place, name",
    [
        ("training", "study"),
        ("study", "training"),
        ("training", "evaluate"),
        ("study", "results"),
        ("tasks", "training"),
        ("what one reads first", "tasks"),
        ("data", "dataloader_mtl"),
        ("data", "registry"),
        ("data", "training"),
        ("ground", "utils"),
        ("what one runs", "train_mtl"),
    ],
)
def test_the_rule_finds_what_points_up(place, name):
    found = wrong_imports(place, {name, "torch", "cli"})
    assert (name in found) == ((place, name) != ("data", "registry"))


def test_files_stay_short_and_the_root_holds_few():
    at_root = [path for path in OURS if path.parent == ROOT]
    assert len(at_root) <= MOST_FILES_AT_ROOT
    others = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (*OURS, *others)
    }
    assert {
        name: n
        for name, n in lines.items()
        if n > (MOST_LINES if "/" in name else MOST_LINES_AT_ROOT)
    } == {}


def test_the_mechanics_name_no_task():
    """But for the tables of the studies' experiments, which are made of tasks."""
    names = "|".join(
        name
        for name in registry.names("tasks")
        if name not in ("seg", "border", "column", "distance")
    )
    named = re.compile(rf'["\']({names}|breed)["\']|box_iou|accuracy')
    found = {
        str(path.relative_to(ROOT))
        for path in MECHANICS
        if named.search(path.read_text(encoding="utf-8"))
    }
    assert found - {"study/table.py", "study/masks.py"} == set()


def test_the_mechanics_name_no_sharing_weighting_or_encoder():
    """But for what is usual, which is all that earlier versions had; torchvision is also what loaders are made of."""
    usual = {"hard", "unet", "torchvision"}
    names = {
        name for folder in ("sharing", "weighting", "encoders") for name in registry.names(folder)
    } - usual
    named = re.compile(rf'["\'](?:{"|".join(sorted(names))})[\w:]*["\']')
    found = {path.name: named.findall(path.read_text(encoding="utf-8")) for path in MECHANICS}
    assert {name: all_of_it for name, all_of_it in found.items() if all_of_it} == {}


@pytest.mark.parametrize("modules", ["mtl_vis", "training.engine", "study.figures, results"])
def test_importing_leaves_matplotlib_as_it_is(modules):
    code = (
        f"import matplotlib; matplotlib.use('svg'); import sys, {modules}; "
        "assert matplotlib.get_backend() == 'svg'; assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
