"""The guide's example in a copy of the project: one new file, and every script knows the task."""

import csv
import json
import re

import pytest
import warm
from conftest import ROOT, copy_project
from tiny import TINY

NETWORK = "runs/seg_share/seed0/best.pt"


def example():
    """The code block of tasks/README.md."""
    guide = (ROOT / "tasks/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    return code


def contents(folder):
    """{path below a folder: bytes} of its files."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(data, tmp_path_factory):
    """(the copy, {script: what it printed})."""
    place = copy_project(tmp_path_factory.mktemp("project"))
    before = contents(place)
    (place / "tasks/share.py").write_text(example(), encoding="utf-8")
    photo = place / "photo.png"
    write_photo(photo)
    of_network = ["--checkpoint", NETWORK, "--data", data]
    printed = {}
    for script, *words in (
        ("train_baseline.py", "--data", data, *TINY),
        ("train.py", "--tasks", "seg", "share", "--data", data, *TINY),
        ("evaluate.py", *of_network),
        ("mtl_vis.py", *of_network, "--n", "2"),
        ("predict.py", "--checkpoint", NETWORK, "--out", "predictions", photo),
        ("results.py",),
    ):
        outcome = warm.run_script(place / script, *words, cwd=place)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        printed[script] = outcome.stdout
    after = contents(place)
    assert {name: after[name] for name in before} == before
    made = after.keys() - before.keys() - {"tasks/share.py", "mask.png", "photo.png"}
    assert {name.partition("/")[0] for name in made} == {"runs", "results", "predictions"}
    return place, printed


def write_photo(path):
    from PIL import Image

    image = Image.new("RGB", (80, 64), (60, 60, 60))
    image.paste((60, 60, 200), (20, 10, 50, 50))
    image.save(path)


def test_the_example_is_short():
    assert len(example().splitlines()) <= 30


def test_its_metric_is_in_the_log_and_the_test(place):
    folder, printed = place[0] / "runs/seg_share/seed0", place[1]
    test = json.loads((folder / "test.json").read_text())
    assert 0 <= test["share_mae"] <= 1 and test["dice"] is not None
    for row in read_csv(folder / "log.csv"):
        assert 0 <= float(row["val_share_mae"]) <= 1
        assert float(row["train_loss_share"]) > 0 and float(row["weight_share"]) == 0.5
    values = [float(row["share_mae"]) for row in read_csv(folder / "test_per_image.csv")]
    assert sum(values) / len(values) == pytest.approx(test["share_mae"])
    evaluated = json.loads(printed["evaluate.py"])
    assert evaluated["share_mae"] == pytest.approx(test["share_mae"], abs=1e-6)


def test_it_is_on_the_page_with_its_name_unit_and_direction(place):
    page = (place[0] / "results/README.md").read_text(encoding="utf-8")
    test = json.loads((place[0] / "runs/seg_share/seed0/test.json").read_text())
    for words in "seg_share", "share error", "of the picture", "lower is better":
        assert words in page
    assert f"{test['share_mae']:.3f}" in page
    rows = {row["experiment"]: row for row in read_csv(place[0] / "results/results.csv")}
    assert float(rows["seg_share"]["share_mae"]) == pytest.approx(test["share_mae"])
    assert rows["baseline"]["share_mae"] == ""


def test_it_is_drawn_told_and_in_the_table_of_predictions(place):
    place, printed = place
    assert len(re.findall(r"\bshare -?\d+%", printed["mtl_vis.py"])) >= 2
    for name in "mask.png", "runs/seg_share/seed0/curves.png", "runs/seg_share/seed0/mask.png":
        assert (place / name).stat().st_size > 10_000
    (row,) = read_csv(place / "predictions/predictions.csv")
    assert 0 <= abs(float(row["pet share"])) <= 2
