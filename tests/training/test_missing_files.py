"""Folders with fewer files than there are tasks, through the scripts: what is known is trained and measured as ever."""

import json
import shutil

import pytest
from tiny import arguments, assert_same_weights, log, result, weights

import evaluate
import train_ablation_bbox
import train_baseline
import train_mtl
from cli import InputError
from dataloader_mtl import MTLDataset
from models import MTLNet
from registry import PUBLISHED
from training import pictures


@pytest.fixture
def partial(data, tmp_path):
    """A function that copies the shared data without some files."""

    def copy(*missing):
        folder = shutil.copytree(data, tmp_path / "data")
        for name in missing:
            (folder / f"{name}.h5").unlink()
        return folder

    return copy


SPLITS = ("train", "val", "test")


def test_the_baseline_needs_images_and_masks_alone(data, partial, tmp_path):
    folder = partial(*(f"{split}/{kind}" for split in SPLITS for kind in ("bboxes", "binary")))
    for place, runs in ((data, tmp_path / "whole"), (folder, tmp_path / "few")):
        train_baseline.main(arguments(place, runs))
    whole, few = tmp_path / "whole/baseline/seed0", tmp_path / "few/baseline/seed0"
    assert result(whole) == result(few) and log(whole) == log(few)
    assert_same_weights(weights(whole), weights(few))
    assert (few / "mask.png").stat().st_size > 10_000 and (few / "curves.png").exists()


@pytest.mark.parametrize(
    "script, missing, words",
    [
        (train_mtl, "binary", "train/binary.h5 is missing, which the task cls needs"),
        (train_ablation_bbox, "bboxes", "train/bboxes.h5 is missing, which the task bbox needs"),
        (train_baseline, "masks", "train/masks.h5 is missing, which the task seg needs"),
    ],
)
def test_a_task_whose_file_is_missing_is_refused_before_anything_is_written(
    script, missing, words, partial, tmp_path
):
    with pytest.raises(InputError, match=words):
        script.main(arguments(partial(f"train/{missing}"), tmp_path / "runs"))
    assert not list((tmp_path / "runs").rglob("*.json")) and not list(
        (tmp_path / "runs").rglob("*.pt")
    )


def test_what_a_split_does_not_know_is_null_there_and_the_rest_as_ever(
    data, partial, tmp_path, capsys
):
    folder = partial("val/binary", "test/bboxes")
    for place, runs in ((data, tmp_path / "whole"), (folder, tmp_path / "few")):
        train_mtl.main(arguments(place, runs))
    whole, few = tmp_path / "whole/mtl/seed0", tmp_path / "few/mtl/seed0"
    assert result(few) == result(whole) | {"box_iou": None} and result(whole)["box_iou"] is not None
    assert_same_weights(weights(whole), weights(few))
    for row, other in zip(log(few), log(whole), strict=True):
        assert (
            row["val_accuracy"]
            == row["val_loss_cls"]
            == ""
            not in (other["val_accuracy"], other["val_loss_cls"])
        )
        assert all(
            row[key] == other[key] for key in row if key not in ("val_accuracy", "val_loss_cls")
        )
    capsys.readouterr()
    evaluate.main(
        evaluate.parse_args(
            ["--checkpoint", str(few / "best.pt"), "--data", str(folder), "--device", "cpu"]
        )
    )
    printed = json.loads(capsys.readouterr().out)
    assert {key: printed[key] for key in ("dice", "accuracy", "box_iou")} == {
        key: result(few)[key] for key in ("dice", "accuracy", "box_iou")
    }


@pytest.mark.parametrize("missing", ["masks", "bboxes", "binary", "masks bboxes binary"])
def test_pictures_show_the_targets_that_are_known(missing, partial, tmp_path):
    dataset = MTLDataset(
        partial(*(f"test/{kind}" for kind in missing.split())), "test", tasks=PUBLISHED
    )
    model = MTLNet(PUBLISHED, width=2).eval()
    picture = pictures.pictures_of_dataset(model, dataset, 1)[0]
    assert {task: value is None for task, value in picture.truth.items()} == {
        "seg": "masks" in missing,
        "cls": "binary" in missing,
        "bbox": "bboxes" in missing,
    }
    titles = [panel.title for panel in pictures.panels(picture)]
    assert len(titles) == (2 if len(missing) > 10 else 3)
    if len(missing) < 10:
        assert titles[1] == (
            "target" if missing == "binary" else f"target: {picture.truth['cls'][0]}"
        )
    assert ("Dice" in titles[-1]) == ("masks" not in missing)
    pictures.draw_pictures([picture], tmp_path / "mask.png")
