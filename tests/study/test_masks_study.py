"""The study of masks as data: which runs in which order, what fits into some hours, and the whole of it on drawn pets."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import rechunk, write_data, write_more

import experiments
import registry
import results
from cli import InputError
from data import contract
from study import grid, launchers, masks
from study.masks import ALL, Cell

KNOWN = {
    "needs": {"bboxes", "binary", "trimaps", "masks", masks.COLUMN},
    "column": "breed",
    "masks": 2937,
}


def test_the_runs_come_in_the_order_of_their_importance():
    every = sum(masks.groups(KNOWN), [])
    assert len(every) == len(set(every)) == 375
    assert every[:6] == [Cell(arm, n, 0) for n in (50, 200) for arm in ("seg", "label", "placebo")]
    for seed, n in ((9, 50), (9, ALL), (4, 25), (4, 100)):
        assert Cell("label", n, seed) in every
    assert Cell("label", 100, 5) not in every and Cell("recon", 50, 5) not in every
    assert {cell.arm for cell in every} == set(masks.ARMS)
    # Whenever it is stopped, what is there stands beside segmentation alone with the same masks and seed.
    position = {cell: k for k, cell in enumerate(every)}
    assert all(position[Cell("seg", cell.masks, cell.seed)] <= k for cell, k in position.items())


def test_data_that_know_less_have_fewer_arms_and_sizes():
    every = sum(masks.groups({"needs": {"masks"}, "column": None, "masks": 150}), [])
    assert {cell.arm for cell in every} == {"seg", "pretrained", "recon"} and {
        cell.masks for cell in every
    } == {25, 50, ALL}
    assert every[:4] == [
        Cell("seg", 50, 0),
        Cell("seg", ALL, 0),
        Cell("seg", 50, 1),
        Cell("seg", ALL, 1),
    ]  # 200 are too many


@pytest.mark.parametrize(
    "budget, jobs, seeds, epochs",
    [
        (6 * 8 * 3 * 10, 1, 3, 8),
        (6 * 8 * 2 * 10, 1, 2, 8),
        (6 * 8 * 10, 2, 2, 8),
        (6 * 8 * 10, 1, 2, 4),
        (1, 1, 2, 1),
        (10**9, 1, None, 8),
    ],
)
def test_what_fits_into_a_budget(budget, jobs, seeds, epochs):
    """Ten seconds an epoch; the first block is six runs a seed."""
    every = masks.groups(KNOWN)
    taken, found = masks.chosen(every, lambda cell, epochs: 10 * epochs, lambda: budget, jobs)
    assert found == epochs and taken == sum(every, [])[: len(taken)]
    assert len(taken) == (375 if seeds is None else 6 * seeds)


def test_what_is_there_costs_nothing_and_its_epochs_are_kept():
    every, asked = sum(masks.groups(KNOWN), []), []

    def seconds(cell, epochs):
        asked.append(cell)
        return 0 if cell in every[:12] else 10 * epochs if cell.arm != "placebo" else None

    taken, epochs = masks.chosen(masks.groups(KNOWN), seconds, lambda: 4 * 3 * 10, 1, epochs=3)
    assert epochs == 3 and taken == [
        cell for cell in every[:18] if cell in every[:12] or cell.arm != "placebo"
    ]
    assert not set(asked) & set(every[80:])  # what does not fit is not tried


def test_what_a_short_run_tells_of_a_whole_one(tmp_path, monkeypatch):
    """By hand: 5 epochs of 64 images in 9.6 s are 0.03 s an image, so looking at one takes 0.01 s."""

    def perform(command, **how):
        place = (
            Path(next(word for word in command if word.startswith("--runs=")).partition("=")[2])
            / "seg"
            / "seed0"
        )
        place.mkdir(parents=True)
        (place / "log.csv").write_text(
            "epoch,seconds\n" + "".join(f"{k},1.92\n" for k in range(1, 6))
        )
        assert command[-1] == "--masks=17" and "--limit=64" in command
        clock[0] += 9.6 + 0.01 * (5 * 10 + 20) + 4
        return SimpleNamespace(returncode=0)

    clock = [100.0]
    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=perform, DEVNULL=None))
    monkeypatch.setattr(grid, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(
        contract, "describe", lambda data: {"splits": {"train": 200, "val": 10, "test": 20}}
    )
    run = SimpleNamespace(
        command=["python", "train.py", "--epochs=7", "--masks=50"],
        test_path=tmp_path / "seg" / "seed0" / "test.json",
    )
    found = grid.tried(run, tmp_path)
    assert (
        found.an_image == pytest.approx(0.03)
        and found.beside == pytest.approx(4)
        and found.epochs == 7
    )
    assert found.training(7) == pytest.approx(42) and found.whole(2) == pytest.approx(4 + 12 + 0.4)


def test_segmentation_keeps_at_least_half_of_the_loss():
    for arm in masks.ARMS.values():
        weights = masks.weighting(arm.tasks)
        if weights:
            shares = [float(share) for share in weights.split("-")]
            assert (
                len(shares) == len(arm.tasks)
                and sum(shares) == pytest.approx(1)
                and shares[0] >= 0.5
            )


def test_commands():
    assert masks.command(Cell("label+bbox", 50, 3), KNOWN, Path("r"), 8) == (
        "train.py",
        "--tasks",
        "seg",
        "column:breed",
        "bbox",
        "--weighting=0.8-0.1-0.1",
        "--masks=50",
        "--name=label_bbox_masks50",
        "--threads=1",
        "--epochs=8",
    )
    assert masks.command(Cell("label first", ALL, 3), KNOWN, Path("r"), 8) == (
        "train.py",
        "--tasks",
        "seg",
        f"--init={Path('r_first/label_first/seed3/best.pt')}",
        "--name=label_first_masksall",
        "--threads=1",
        "--epochs=8",
    )
    assert masks.firsts(
        [Cell("label first", 50, 3), Cell("label first", ALL, 3), Cell("seg", 50, 3)]
    ) == [Cell("label first", None, 3)]


def test_what_others_start_from_comes_before_them_and_after_what_is_more_important(
    rich, tmp_path, monkeypatch
):
    monkeypatch.setattr(masks, "knowledge", lambda data: KNOWN)
    made = lambda experiment, seed, command, folder: (experiment, seed, folder.name)  # noqa: E731
    runs, parts, words = masks.plan(made, tmp_path / "runs", [], rich, None, 2)
    assert len(runs) == 375 and "375 runs of 8 epochs" in words
    first, start, then = parts
    assert first + then == runs and start == [
        ("label_first", seed, "runs_first") for seed in range(5)
    ]
    assert not any("label_first" in name for name, _, _ in first) and then[:3] == [
        ("label_first_masks50", 0, "runs"),
        ("pretrained_masks50", 0, "runs"),
        ("label_first_masks100", 0, "runs"),
    ]


def test_what_data_can_teach(rich, data, monkeypatch):
    with pytest.raises(
        InputError, match="has 24 training images with a mask, and the study takes 50"
    ):
        masks.knowledge(rich)
    monkeypatch.setattr(masks, "SIZES", (12, ALL))
    known = masks.knowledge(rich)
    kinds = contract.describe(rich)["kinds"]["train"]
    assert (
        known["needs"] == {*kinds, masks.COLUMN}
        and known["masks"] == contract.describe(rich)["splits"]["train"]
    )
    assert masks.knowledge(data)["column"] is None  # it has no index.csv
    with pytest.raises(InputError, match="nowhere"):
        masks.knowledge(Path("nowhere"))


@pytest.mark.parametrize(
    "rows, column",
    [
        ([{"breed": "a", "x": "1"}] * 8 + [{"breed": "b", "x": "1"}] * 8, "breed"),
        ([{"breed": "a", "x": "1"}] * 8 + [{"breed": "a", "x": "2"}] * 8, "x"),
        ([{"breed": "", "has_box": str(k % 2), "name": str(k)} for k in range(16)], None),
        ([{"x": str(k)} for k in range(16)], None),
    ],
)
def test_the_cheap_label_of_data(tmp_path, rows, column):
    (tmp_path / "train").mkdir()
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (tmp_path / "train" / "index.csv").write_text("\n".join(lines) + "\n")
    assert masks.column_of(tmp_path) == column


def test_a_placebo_has_the_same_labels_on_other_images():
    task, true = registry.tasks(["placebo:breed", "column:x"]).values()
    task.settings = {"classes": ["a", "b", "c"]}
    cells = ["a", "b", "", "c", "a", "b", "", "c", "a", "a"] * 20
    shuffled = task.target({"index:breed": cells})
    true.settings = task.settings
    plain = true.target({"index:x": cells})
    assert torch.equal(shuffled, task.target({"index:breed": cells}))
    assert torch.equal(shuffled == -1, plain == -1)  # what is empty stays so
    assert torch.equal(shuffled.sort().values, plain.sort().values)
    agree = (shuffled == plain)[plain >= 0].double().mean().item()
    shares = np.bincount(plain[plain >= 0]) / (plain >= 0).sum().item()
    assert agree == pytest.approx((shares**2).sum(), abs=0.1)  # as chance has it
    assert list(task.metrics) == ["placebo_breed_accuracy", "placebo_breed_balanced_accuracy"]


def test_the_study_within_a_budget(tmp_path, monkeypatch, no_pictures, capsys):
    """As for a folder of one's own: too little time even for the least, which is made with one epoch; then the page. The scripts run in
    this process, as importing torch takes longer than all else."""

    def perform(words):
        module = importlib.import_module(Path(words[1]).stem)
        module.main(module.parse_args(words[2:]))
        return SimpleNamespace(returncode=0, stderr="")

    def local(runs, jobs, report, args):
        for run in runs:
            report.begin(run, 0)
            perform(run.command)
            report.end(run, 0, 0)

    monkeypatch.setitem(launchers.LAUNCHERS, "local", local)
    monkeypatch.setattr(
        grid,
        "subprocess",
        SimpleNamespace(run=lambda command, **how: perform(command), DEVNULL=None),
    )
    monkeypatch.chdir(tmp_path)
    folder = rechunk(
        write_more(write_data(tmp_path / "pets", {"train": 104, "val": 8, "test": 8}, size=32))
    )
    options = (
        "--study",
        "masks",
        "--hours",
        "1e-6",
        "--jobs",
        "2",
        "--",
        "--data",
        str(folder),
        "--width",
        "2",
        "--precision",
        "fp32",
    )
    experiments.main(experiments.parse_args(options))
    said = capsys.readouterr().out
    assert "label            seg+column:breed: 50 masks (2 seeds), all masks (2 seeds)" in said
    assert "12 runs of 1 epochs; 104 training images have a mask" in said and "bbox" not in said
    configs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/*/config.json")]
    assert {config["options"]["masks"] for config in configs} == {50, None} and len(configs) == 12
    experiments.main(experiments.parse_args(options))
    assert "12 runs into runs, of which 12 are finished" in capsys.readouterr().out
    results.main(results.parse_args(["--out", "page"]))
    page = (tmp_path / "page" / "README.md").read_text()
    assert page.startswith("# How many masks is a label worth?") and "| seg+placebo:breed " in page
    assert (tmp_path / "page" / "gain.png").exists()
