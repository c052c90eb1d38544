"""The guide's example, taken out of it as it stands, in a copy of the project: one new file, and everything knows the task."""

import csv
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT, copy_project

OPTIONS = [
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--width",
    "2",
    "--precision",
    "fp32",
    "--device",
    "cpu",
]
# All in one process, as importing torch takes longer than all else.
PROGRAM = """
import runpy, sys
for command in {commands!r}:
    sys.argv = command
    print("$", *command, flush=True)
    runpy.run_path(command[0], run_name="__main__")
from dataloader_mtl import MTLDataset
from training import checkpoint, pictures
model, _ = checkpoint.load_model("runs/seg_share/seed0/best.pt")
(picture,) = pictures.pictures_of_dataset(model, MTLDataset({data!r}, "test", tasks=model.task.values()), 1)
for panel in pictures.panels(picture):
    print("panel:", panel.title)
"""


def example():
    """The code block of tasks/README.md."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "tasks/README.md").read_text(encoding="utf-8"), re.S
    )
    return code


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def place(data, tmp_path_factory):
    """The copy, and what its scripts printed."""
    place = copy_project(tmp_path_factory.mktemp("project"))
    before = files(place)
    (place / "tasks/share.py").write_text(example(), encoding="utf-8")
    data = str(data)
    commands = [
        ["train_baseline.py", "--data", data, *OPTIONS],
        ["train.py", "--tasks", "seg", "share", "--data", data, *OPTIONS],
        ["evaluate.py", "--checkpoint", "runs/seg_share/seed0/best.pt", "--data", data],
        ["mtl_vis.py", "--checkpoint", "runs/seg_share/seed0/best.pt", "--data", data, "--n", "2"],
        ["results.py"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(commands=commands, data=data)],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = files(place)
    assert {name: after[name] for name in before} == before
    made = {
        name for name in after.keys() - before.keys() if not name.startswith(("runs/", "results/"))
    }
    assert made == {"tasks/share.py", "mask.png"}
    return place, done.stdout


def test_the_example_is_short():
    assert len(example().splitlines()) <= 30


def test_its_metric_is_in_the_log_and_the_test(place):
    folder = place[0] / "runs/seg_share/seed0"
    test = json.loads((folder / "test.json").read_text())
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0 <= test["share_mae"] <= 1 and test["dice"] is not None
    for row in rows:
        assert (
            0 <= float(row["val_share_mae"]) <= 1
            and float(row["train_loss_share"]) > 0
            and float(row["weight_share"]) == 0.5
        )
    with open(folder / "test_per_image.csv", newline="") as file:
        values = [float(row["share_mae"]) for row in csv.DictReader(file)]
    assert sum(values) / len(values) == pytest.approx(test["share_mae"])
    (printed,) = (json.loads(line) for line in place[1].splitlines() if line.startswith("{"))
    assert printed["share_mae"] == pytest.approx(test["share_mae"], abs=1e-6)


def test_it_is_on_the_page_with_its_name_unit_and_direction(place):
    page = (place[0] / "results/README.md").read_text(encoding="utf-8")
    test = json.loads((place[0] / "runs/seg_share/seed0/test.json").read_text())
    assert (
        "seg_share" in page
        and "share error" in page
        and "of the picture" in page
        and "lower is better" in page
    )
    digits = f"{test['share_mae']:.3f}"
    assert digits in page, page
    with open(place[0] / "results/results.csv", newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert (
        float(rows["seg_share"]["share_mae"]) == pytest.approx(test["share_mae"])
        and rows["baseline"]["share_mae"] == ""
    )


def test_pictures_say_it(place):
    titles = [line for line in place[1].splitlines() if line.startswith("panel: ")]
    assert any(re.search(r"target: share \d+%", title) for title in titles)
    assert any(
        re.search(
            r"predicted: share \d+%.*share error 0\.\d+ of the picture \(lower is better\)", title
        )
        for title in titles
    )
    assert re.search(r"share \d+%, \d+% of the picture is pet", place[1])
    assert (place[0] / "mask.png").stat().st_size > 10_000
    assert all(
        (place[0] / "runs/seg_share/seed0" / name).exists() for name in ("curves.png", "mask.png")
    )
