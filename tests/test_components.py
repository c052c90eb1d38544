"""Sharings, weightings and encoders in whole runs: combinations and pretrained weights."""

import json

import pytest
import torch
from tiny import config_of, log, result, train

import evaluate
import export
import registry
from cli import InputError
from training import checkpoint

# ------------------------------------------------------------------------------------ combinations

# Of every two of sharing, weighting and encoder that go together, some.
COMBINATIONS = [
    ("soft", "dwa", "unet"),
    ("cross_stitch", "torchjd:UW", "unet"),
    pytest.param("mtan", "uncertainty", "efficientnet_lite0", marks=pytest.mark.slow),
]


def measure(path, data, capsys):
    """What evaluate.py prints."""
    capsys.readouterr()
    evaluate.main(evaluate.parse_args(["--checkpoint", str(path), "--data", str(data)]))
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("sharing, weighting, encoder", COMBINATIONS)
def test_a_combination_is_trained_measured_and_taken_out_alone(
    rich, tmp_path, capsys, sharing, weighting, encoder
):
    kinds = ("--sharing", sharing, "--weighting", weighting, "--encoder", encoder)
    tasks = ("--tasks", "seg", "cls", "bbox", "column:breed", "--name", "own")
    run = train("train", rich, tmp_path, *tasks, *kinds)
    test, content = result(run), checkpoint.load(run / "best.pt")
    assert (content["sharing"], content["encoder"]) == (sharing, encoder)
    assert "weight_seg" in log(run)[0]
    whole = measure(run / "best.pt", rich, capsys)
    for key in ("dice", "breed_accuracy", "box_iou"):
        assert whole[key] == pytest.approx(test[key], abs=1e-5)
    words = ["--tasks", "seg", str(run / "best.pt"), str(tmp_path / "seg.pt")]
    export.main(export.parse_args(words))
    alone = measure(tmp_path / "seg.pt", rich, capsys)
    assert alone["dice"] == pytest.approx(whole["dice"], abs=2e-3) and alone["accuracy"] is None
    assert alone["parameters"] < whole["parameters"]


# ------------------------------------------------------------------------------ pretrained weights


def save_weights(path):
    encoder = registry.find("encoders", "unet").build(2)
    torch.save(encoder.state_dict(), path)
    return path


def options(weights, **changes):
    """Words of a run over pretrained weights."""
    values = {"encoder_lr": "0.001", "encoder_weights": weights, "encoder_bn": "keep"} | changes
    words = ["--tasks", "seg", "bbox", "--name", "own", "--limit", "8", "--epochs", "1"]
    for key, value in values.items():
        words += ["--" + key.replace("_", "-"), value]
    return words


@pytest.fixture
def pretrained(data, tmp_path):
    """(folder of a finished run, the weights that it began with)."""
    path = save_weights(tmp_path / "w.pt")
    return train("train", data, tmp_path, *options(path)), path


def test_the_records_hold_where_weights_come_from_and_what_they_are(data, pretrained, capsys):
    run, path = pretrained
    config = config_of(run)
    assert config["encoder_weights"] == str(path) and config["encoder_bn"] == "keep"
    assert len(config["run"]["encoder_weights_sha256"]) == 64 and config["encoder_lr"] == 0.001
    moved = path.rename(path.with_name("moved.pt"))
    train("train", data, run.parents[1], *options(moved), "--resume")  # wherever they lie
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_pretrained_weights_are_another_run(data, pretrained, is_finished):
    run, path = pretrained
    if not is_finished:
        (run / "test.json").unlink()
    torch.manual_seed(1)
    other = save_weights(path.with_name("other.pt"))
    for changes in ({"encoder_lr": "0.002"}, {"encoder_bn": "train"}, {"encoder_weights": other}):
        (name,) = changes
        with pytest.raises(InputError, match=name):
            train("train", data, run.parents[1], *options(path, **changes), "--resume")
    with pytest.raises(InputError, match="encoder_weights"):
        words = options(path, encoder_weights="none", encoder_bn="train")
        train("train", data, run.parents[1], *words, "--resume")


def test_weights_of_an_aggregator_are_logged_as_means_of_the_epoch(data, tmp_path):
    pytest.importorskip("torchjd", reason="requirements-torchjd.txt")
    words = ("--tasks", "seg", "bbox", "--weighting", "torchjd:UPGrad", "--epochs", "1")
    (row,) = log(train("train", data, tmp_path, *words))
    # Never less than the mean's.
    assert float(row["weight_seg"]) >= 0.5 - 1e-6 and float(row["weight_bbox"]) >= 0.5 - 1e-6
    mean = (float(row["train_loss_seg"]) + float(row["train_loss_bbox"])) / 2
    assert float(row["loss"]) == pytest.approx(mean, rel=1e-5)
