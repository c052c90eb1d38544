"""train.py: its refusals before anything is written, custom columns, few masks, components."""

import math

import h5py
import numpy as np
import pytest
from conftest import rechunk, write_data
from tiny import config_of, files_in, log, read_csv, result, train, weights

from cli import InputError
from training import checkpoint


@pytest.mark.parametrize(
    "options, words",
    [
        ("--tasks seg nothing", "nothing"),
        ("--tasks seg seg", "seg seg"),
        ("--tasks seg column", "column"),
        ("--tasks seg cls:x", "cls:x"),
        ("--tasks seg column:colour", "index.csv.* 'colour'"),
        ("--tasks seg column:name", "'name'"),
        ("--tasks seg column:height.cm", "height.cm"),
        ("--tasks seg cls bbox --weighting 0.8-0.2", "--weighting '0.8-0.2'"),
        ("--tasks seg cls --weighting 1-0", "--weighting '1-0'"),
        ("--tasks seg cls --weighting nan-1", "--weighting"),
        ("--tasks seg cls --weighting dwb", "dwb"),
        ("--tasks seg cls --sharing firm", "firm"),
        ("--tasks seg cls --encoder resnet", "resnet"),
        ("--tasks seg --encoder-weights none.pt", "none.pt"),
        ("--tasks seg --encoder-bn keep", "--encoder-bn"),
        ("--tasks seg --num-masks 25", "--num-masks 25"),
        ("--tasks cls bbox --num-masks 4", "--num-masks 4"),
        ("--tasks seg --resize-schedule 64:0.5,128:1", "--resize-schedule"),
        ("--tasks seg --conflicts", "--conflicts"),
        ("--tasks seg cls --conflicts --sharing soft:0", "soft"),
        ("--tasks seg --processes 9", "--processes 9"),
        ("--tasks seg --device mps", "--device mps"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(rich, tmp_path, options, words):
    with pytest.raises(InputError, match=words) as error:
        train("train", rich, tmp_path, *options.split())
    assert "\n" not in str(error.value)
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    "options, name",
    [
        ("--weighting uncertainty", "weighting"),
        ("--sharing mtan", "sharing"),
        ("--num-masks 9", "num_masks"),
        ("--encoder-lr 0.1", "encoder_lr"),
    ],
)
def test_a_run_is_not_resumed_with_other_components(rich, tmp_path, options, name):
    words = ("--tasks", "seg", "cls", "--name", "own")
    folder = train("train", rich, tmp_path, *words, "--epochs", "1")
    for is_finished in (True, False):
        if not is_finished:
            (folder / "test.json").unlink()
        with pytest.raises(InputError, match=name):
            train("train", rich, tmp_path, *words, "--epochs", "1", "--resume", *options.split())


def test_other_tasks_are_another_run(rich, tmp_path):
    words = ("--name", "own", "--epochs", "1")
    train("train", rich, tmp_path, "--tasks", "seg", "cls", *words)
    with pytest.raises(InputError, match="tasks"):
        train("train", rich, tmp_path, "--tasks", "seg", "bbox", *words, "--resume")


def test_a_column_may_be_called_anything(tmp_path):
    counts = {"train": 12, "val": 6, "test": 6}
    folder = rechunk(write_data(tmp_path / "pets", counts))
    names = ["height cm", "Gewicht (kg)", "encoder", "色"]
    for split, n in counts.items():
        rows = [f"{k},{split}{k},{k % 4},{2 * k % 5},{'ab'[k % 2]},{k % 3}" for k in range(n)]
        lines = [",".join(["row", "name", *names]), *rows, ""]
        (folder / split / "index.csv").write_text("\n".join(lines), encoding="utf-8")
    tasks = ("seg", *(f"column:{name}" for name in names))
    options = ("--tasks", *tasks, "--weighting", "uncertainty", "--name", "odd")
    run = train("train", folder, tmp_path, *options)
    test = result(run)
    for key in ("height_cm_mae", "Gewicht_kg_mae", "encoder_accuracy", "色_mae"):
        assert test[key] is not None
    assert checkpoint.load_model(run / "best.pt")[0].tasks == tasks


def test_data_with_few_masks_train_without_the_option_too(tmp_path):
    """Four masks and six batches: in every epoch some have none."""
    folder = write_data(tmp_path / "pets", {"train": 24, "val": 6, "test": 6})
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][4:] = 255
        file["masks"].attrs["unlabelled"] = 255
    options = ("--tasks", "seg", "cls", "--batch-size", "4", "--name", "sparse")
    run = train("train", rechunk(folder), tmp_path, *options)
    for row in log(run):
        for key in "loss", "train_loss_seg", "train_loss_cls", "gradient_norm":
            assert math.isfinite(float(row[key]))
        assert float(row["train_loss_seg"]) > 0.5  # not diluted by batches without a mask
    assert all(value.isfinite().all() for value in weights(run).values())


def test_validation_and_test_use_all_masks(rich, tmp_path):
    options = ("--tasks", "seg", "cls", "--num-masks", "5", "--name", "few")
    run = train("train", rich, tmp_path, *options)
    assert config_of(run)["run"]["labelled"] == {"seg": 5, "cls": 24}
    assert all(row["dice"] for row in read_csv(run / "test_per_image.csv"))


def test_what_augmentation_changes_is_learned_and_not_measured(data, tmp_path):
    runs = {}
    for name, options in (("plain", ()), ("hard", ("--hard-augment", "empty"))):
        runs[name] = train("train_mtl", data, tmp_path / name, *options)
    assert log(runs["plain"])[0]["loss"] != log(runs["hard"])[0]["loss"]
    columns = []
    for run in runs.values():
        columns.append([row["target"] for row in read_csv(run / "test_per_image.csv")])
    assert columns[0] == columns[1] and np.sum(np.float64(columns[0])) > 0
