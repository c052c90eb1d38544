"""Run folders, read and checked: what is usable, and what is left out with its reason."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from fabricated import change_cell, change_json, make_run, write_json

from study import records
from study.records import Unusable, read_run


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    return make_run(root, "mtl", 1, official=0.01)


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "runs/mtl/seed1")


def test_a_sound_run_is_read(folder):
    run = read_run(folder)
    assert (run.label, run.tasks) == ("mtl/seed1", ["seg", "cls", "bbox"])
    assert run.images.dice.mean() == pytest.approx(run.test["dice"])
    assert run.chosen_by[0] == "dice" and run.history["val_dice"].shape == (4,)
    figures, images = run.of("official")
    assert images.dice.mean() == pytest.approx(figures["dice"]) and len(images.names) == 40
    assert run.labels == {"masks": "a" * 16}


def test_dice_by_hand():
    # 2 x 50 / (100 + 60); both empty: 1; nothing found of a target: 0.
    counts = [[50, 100, 60], [0, 0, 0], [0, 0, 9]]
    assert records.dice_score(counts) == pytest.approx([100 / 160, 1, 0])


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def reformat(path, **values):
    content = json.loads(path.read_text())
    content["run"] |= values
    write_json(path, content)


BAD = {
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "config.json"),
    "unfinished": (lambda f: (f / "test.json").unlink(), "--resume"),
    "no log": (lambda f: (f / "log.csv").unlink(), "log.csv"),
    "test.json cut": (lambda f: cut(f / "test.json"), "test.json"),
    "config.json a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "config.json another's": (lambda f: (f / "config.json").write_text("{}"), "config.json"),
    "NaN": (lambda f: change_json(f / "test.json", dice=float("nan")), "dice in test.json"),
    "text for a number": (lambda f: change_json(f / "test.json", dice="0.9"), "damaged"),
    "key gone": (lambda f: change_json(f / "test.json", parameters=None), "parameters"),
    "other dice": (lambda f: change_json(f / "test.json", dice=0.95), "dice is 0.95"),
    "another test": (lambda f: change_json(f / "test.json", seed=0), "differ in seed"),
    "copied": (lambda f: change_json(f / "config.json", seed=0), "copied or renamed"),
    "another config": (lambda f: reformat(f / "config.json", split_hash="f" * 16), "split_hash"),
    "other epochs": (lambda f: change_json(f / "test.json", epochs=5), "epochs"),
    "log with a gap": (lambda f: change_cell(f / "log.csv", 2, "val_dice", ""), "val_dice"),
    "log infinite": (lambda f: change_cell(f / "log.csv", 2, "val_dice", "1e999"), "damaged"),
    "log of letters": (lambda f: change_cell(f / "log.csv", 2, "val_dice", "x"), "damaged"),
    "log short": (lambda f: change_cell(f / "log.csv", 4, "epoch", "5"), "epochs 1 to 4"),
    "log empty": (lambda f: (f / "log.csv").write_text(""), "log.csv"),
    "an image twice": (lambda f: change_cell(f / "test_per_image.csv", 3, "name", "pet_1"), "once"),
    "too many pixels": (
        lambda f: change_cell(f / "test_per_image.csv", 3, "target", "4097"),
        "impossible pixel counts",
    ),
    "a quarter pixel": (
        lambda f: change_cell(f / "test_per_image.csv", 3, "predicted", "900.25"),
        "impossible pixel counts",
    ),
    "no label": (lambda f: reformat(f / "config.json", labelled={"cls": 0}), "task cls"),
    "no label of a class": (
        lambda f: reformat(f / "config.json", labelled={"cls": {"cat": 9, "dog": 0}}),
        "task cls",
    ),
    "nothing measured": (lambda f: change_json(f / "test.json", box_iou=None), "task bbox"),
    "task gone": (
        lambda f: change_json(f / "config.json", tasks=["seg", "whiskers"]),
        "whiskers",
    ),
    "official of others": (lambda f: change_json(f / "official.json", dice=0.5), "dice is 0.5"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_run_is_left_out_with_the_reason(folder, kind):
    damage, words = BAD[kind]
    damage(folder)
    with pytest.raises(Unusable, match=words):
        read_run(folder)
    runs, left_out = records.read_runs(folder.parent.parent)
    assert runs == [] and [name for name, _ in left_out] == ["mtl/seed1"]


def test_images_without_a_mask_take_no_part(folder):
    path = folder / "test_per_image.csv"
    for column in ("dice", "intersection", "predicted", "target"):
        change_cell(path, 1, column, "")
    columns = records.read_columns(path)
    counts = np.stack([records.numbers(columns[key])[1:] for key in records.PIXELS], 1)
    dice, pooled = (records.dice_score(of) for of in (counts, counts.sum(0)))
    change_json(folder / "test.json", dice=dice.mean(), dice_pooled=pooled)
    assert len(read_run(folder).images.names) == 69


def test_a_task_without_segmentation_has_no_dice(tmp_path):
    run = read_run(make_run(tmp_path, "cls", 0, tasks=("cls",)))
    assert run.images is None and run.chosen_by[0] == "accuracy"


def test_records_of_the_first_version_are_read():
    run = read_run(ROOT / "results/runs/split_75_15_15/seed0")
    assert run.config["weighting"] == "75-15-15" and run.config["num_masks"] is None
    assert run.info["label_digest"] is None and run.labels == {}
    assert run.labelled("cls") == 2937 and run.processor == "unknown"
