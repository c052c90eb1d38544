"""The guides of sharing, weighting and encoders: their examples train in a copy of the project, and
their tables name every file and member."""

import json
import re

import pytest
import warm
from conftest import ROOT, copy_project
from tiny import TINY, log

import registry
from encoders import Encoder
from sharing import Sharing
from weighting import Weighting

GUIDES = {
    "sharing": ("apart", Sharing),
    "weighting": ("inverse", Weighting),
    "encoders": ("plain", Encoder),
}
# Of a base class, but for a component's own use, and explained in the text.
HELPERS = {
    "set_weights",
    "across",
    "global_losses",
    "has_labels",
    "forward",
    "load",
    "find_weights",
}


def guide(folder):
    return (ROOT / folder / "README.md").read_text(encoding="utf-8")


def example(folder):
    (code,) = re.findall(r"```python\n(.*?)```", guide(folder), re.S)
    return code


def test_the_examples_train_together_with_no_other_file_changed(data, tmp_path):
    place = copy_project(tmp_path)
    for folder, (name, _) in GUIDES.items():
        (place / folder / f"{name}.py").write_text(example(folder), encoding="utf-8")
    words = ["--tasks", "seg", "cls", "bbox", "--sharing", "apart:seg", "--weighting", "inverse"]
    words += ["--encoder", "plain", "--name", "all", "--data", data, *TINY]
    outcome = warm.run_script(place / "train.py", *words, cwd=place)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    run = place / "runs/all/seed0"
    config = json.loads((run / "config.json").read_text())
    found = config["sharing"], config["weighting"], config["encoder"]
    assert found == ("apart:seg", "inverse", "plain")
    first, second = log(run)
    inverse = {task: 1 / float(first[f"train_loss_{task}"]) for task in ("seg", "cls", "bbox")}
    for task, value in inverse.items():
        assert float(first[f"weight_{task}"]) == pytest.approx(1 / 3)
        share = value / sum(inverse.values())
        assert float(second[f"weight_{task}"]) == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("folder", GUIDES)
def test_a_guide_lists_every_file_and_every_member_and_its_example_is_short(folder):
    listed, _, contract = guide(folder).partition("## The contract")
    assert sorted(re.findall(r"^\| `(\w+)` \|", listed, re.M)) == registry.names(folder)
    named = set()
    for row in re.findall(r"^\| (`.*?) \|", contract, re.M):
        named.update(re.findall(r"`(\w+)`", row))
    members = set()
    for one in GUIDES[folder][1].__mro__:
        if one.__module__ in (folder, "utils", "models"):
            members.update(name for name in vars(one) if not name.startswith("_"))
    assert named == members - HELPERS - {"name", "weights_sha256"}
    assert len(example(folder).splitlines()) <= 30
