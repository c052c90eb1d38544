"""README.md and docs: every printed command is understood by its script, the first ones run, and
every link leads somewhere.
"""

import re
import runpy
import shlex
import shutil
import sys

import pytest
from conftest import ROOT
from warm import run_script

import cli

PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")})
COMMAND = re.compile(r"(?:\.venv/bin/)?python3? ([\w/]+\.py)\b(.*)")
# Names of the guides' examples, which tests/tasks/test_guide.py and its like lay into a copy of the
# project.
EXAMPLES = (" share ", "--sharing apart", "--weighting inverse", "--encoder plain")
# Budgets of `make train` for the tests; options that come last count.
TINY = {
    "data_prepare.py": ("--synthetic", "40", "--size", "64"),
    "train_mtl.py": ("--epochs", "1", "--width", "2", "--batch-size", "4", "--precision", "fp32"),
}


def commands_of(page):
    """The commands of a page's code blocks, without the comments behind them."""
    lines = re.findall(r"^(?:    |```\w*\n)(\S.*)$", page.read_text(encoding="utf-8"), re.M)
    commands = [re.split(r"\s{2,}|\s+#", line)[0].strip() for line in lines]
    return [part for command in commands for part in command.split(" && ")]


def script_commands():
    """(page, script, its words) of every printed command of a script."""
    found = []
    for page in PAGES:
        for line in commands_of(page):
            match = COMMAND.fullmatch(line)
            if match and not any(example in line for example in EXAMPLES):
                found.append((page.relative_to(ROOT).as_posix(), match[1], match[2]))
    return found


def parse(monkeypatch, script, words):
    """Let a script read its words, but not act on them; returns what it would have begun with."""
    begun = []
    monkeypatch.setattr(cli, "run", lambda main, args, *more: begun.append(args))
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    return begun


@pytest.mark.parametrize("page, script, words", script_commands())
def test_a_printed_command_is_understood(monkeypatch, page, script, words):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert len(parse(monkeypatch, script, shlex.split(words))) == 1


def test_a_wrong_command_is_not(monkeypatch):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "train_mtl.py", ["--no-such-option"])


def test_the_first_commands_run(tmp_path):
    """Those of `make train`, then a photograph with the network that comes along."""
    for name in (path.name for path in ROOT.glob("*.pt")):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = [line.replace("$(DATA)", "datasets/synthetic") for line in recipe()]
    for script in ("data_prepare.py", "data_rechunk.py", "train_mtl.py", "mtl_vis.py"):
        _, _, *words = shlex.split(next(line for line in lines if script in line))
        done = run_script(script, *words, *TINY.get(script, ()), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    drawn = sorted(tmp_path.glob("datasets/synthetic/synthetic/images/*.jpg"))[0]
    shutil.copy(drawn, tmp_path / "my_cat.jpg")
    assert run_script("mtl_vis.py", "my_cat.jpg", cwd=tmp_path).returncode == 0


def recipe():
    """The commands of the Makefile."""
    return re.findall(r"^\t(\$\(PY.*)$", (ROOT / "Makefile").read_text(), re.M)


def test_the_plain_commands_are_those_of_make():
    names = {"$(PYTHON)": "python3", "$(PY)": ".venv/bin/python", "$(DATA)": "datasets/synthetic"}
    plain = {re.sub(r"\$\(\w+\)", lambda name: names[name[0]], line) for line in recipe()}
    assert plain and plain <= set(commands_of(ROOT / "docs" / "install.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
