"""--tensorboard: each epoch once however often a run was stopped, and nothing else changes."""

import sys

import pytest
from PIL import Image
from tiny import assert_same_run, log, train

import training.setup
from cli import InputError
from training.run_folder import RunFolder

OPTIONS = ("--tasks", "seg", "bbox", "--name", "x", "--epochs", "3")


@pytest.fixture(autouse=True)
def picture(monkeypatch):
    """A picture as quickly as possible."""
    pytest.importorskip("tensorboard")
    draw = lambda trainer, path: Image.new("RGB", (7, 5)).save(path)  # noqa: E731
    monkeypatch.setattr(training.setup, "draw_validation", draw)


def read(folder):
    """What TensorBoard reads there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0}).Reload()


def steps(events):
    return [event.step for event in events]


def stop_at(monkeypatch, epoch, method="save_last"):
    """Stop a run once as it writes an epoch's checkpoint, or its test."""
    function, calls = getattr(RunFolder, method), []

    def stop(folder, *args):
        calls.append(1)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return function(folder, *args)

    monkeypatch.setattr(RunFolder, method, stop)


def test_refused_before_anything_where_the_package_is_missing(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match="requirements-tensorboard.txt"):
        train("train", data, tmp_path, *OPTIONS, "--tensorboard")
    assert not list(tmp_path.rglob("config.json"))


def test_each_epoch_is_there_once(data, tmp_path, monkeypatch):
    plain = train("train", data, tmp_path / "plain", *OPTIONS, "--conflicts", "2")
    options = data, tmp_path / "board", *OPTIONS, "--conflicts", "2", "--tensorboard"
    stop_at(monkeypatch, 2)  # TensorBoard has seen the second epoch, and its checkpoint is missing
    with pytest.raises(KeyboardInterrupt):
        train("train", *options)
    folder = train("train", *options, "--resume")
    assert_same_run(plain, folder)
    events, rows = read(folder), log(folder)
    for tag in (
        "losses/train_loss_bbox",
        "validation/val_dice",
        "weights/weight_seg",
        "conflicts, cosine/conflict_seg_bbox_stage3",
        "run/lr",
    ):
        column = [float(row[tag.partition("/")[2]]) for row in rows]
        assert steps(events.Scalars(tag)) == [1, 2, 3]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(column)
    assert steps(events.Images("validation images")) == [1, 2, 3]
    assert events.Images("validation images")[0].height == 5


def test_a_run_that_began_without_has_its_earlier_epochs(data, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train("train", data, tmp_path, *OPTIONS)
    folder = train("train", data, tmp_path, *OPTIONS, "--resume", "--tensorboard")
    assert steps(read(folder).Scalars("validation/val_dice")) == [1, 2, 3]


def test_a_picture_that_fails_is_a_warning(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.setup, "draw_validation", lambda trainer, path: 1 / 0)
    folder = train("train", data, tmp_path, *OPTIONS, "--tensorboard", "--epochs", "1")
    assert "epoch 1" in capsys.readouterr().err
    assert read(folder).Tags()["images"] == [] and (folder / "test.json").exists()
