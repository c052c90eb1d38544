"""--tensorboard: what it shows, each epoch once however often a run was stopped, and that nothing else of a run changes."""

import sys

import pytest
from tiny import FILES, TINY, assert_same_weights, log, weights

import train
from cli import InputError
from training import live


def run(data, runs, *options):
    train.main(
        train.parse_args(
            [
                "--data",
                str(data),
                *TINY,
                "--processes",
                "1",
                "--tasks",
                "seg",
                "bbox",
                "--name",
                "x",
                "--epochs",
                "3",
                "--runs",
                str(runs),
                *options,
            ]
        )
    )
    return runs / "x/seed0"


def shown(folder):
    """What TensorBoard reads there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0}).Reload()


def steps(events):
    return [event.step for event in events]


def test_refused_before_anything_where_the_package_is_missing(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match="pip install -r requirements-tensorboard.txt"):
        run(data, tmp_path, "--tensorboard")
    assert not list(tmp_path.rglob("config.json"))


def test_a_run_that_is_stopped_shows_each_epoch_once_and_changes_in_nothing(
    data, tmp_path, monkeypatch, no_pictures
):
    pytest.importorskip("tensorboard")
    plain = run(data, tmp_path / "plain", "--conflicts", "2")
    monkeypatch.setattr("training.live.pictures.draw_pictures", draw)
    save, saved = train_folder().save_last, []

    def stop(folder, state):
        saved.append(state["epoch"])
        if saved == [
            1,
            2,
        ]:  # TensorBoard has seen the second epoch, and its checkpoint is not there
            raise KeyboardInterrupt
        save(folder, state)

    monkeypatch.setattr(train_folder(), "save_last", stop)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "live", "--conflicts", "2", "--tensorboard")
    found = run(data, tmp_path / "live", "--conflicts", "2", "--tensorboard", "--resume")
    assert saved == [1, 2, 2, 3] and {path.name for path in found.iterdir()} == FILES | {
        "tensorboard",
        "conflicts.png",
    }
    assert_same_weights(weights(plain), weights(found))
    assert log(plain) == log(found)
    events, rows = shown(found), log(found)
    for tag in (
        "losses/train_loss_bbox",
        "validation/val_dice",
        "weights/weight_seg",
        "conflicts, cosine/conflict_seg_bbox_stage3",
    ):
        assert steps(events.Scalars(tag)) == [1, 2, 3]
        column = [float(row[tag.partition("/")[2]]) for row in rows]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(column)
    assert steps(events.Images("validation images")) == [1, 2, 3]
    assert (events.Images("validation images")[0].height, DRAWN[-1]) == (5, live.PICTURES)


def test_a_run_that_began_without_shows_its_earlier_epochs_as_well(
    data, tmp_path, monkeypatch, no_pictures
):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(
        train_folder(), "write_test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path)
    monkeypatch.undo()
    folder = run(data, tmp_path, "--resume", "--tensorboard")
    assert steps(shown(folder).Scalars("validation/val_dice")) == [1, 2, 3]


def test_a_picture_that_fails_is_a_warning(data, tmp_path, monkeypatch, no_pictures, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("training.live.pictures.draw_pictures", lambda pictures, path: 1 / 0)
    folder = run(data, tmp_path, "--tensorboard", "--epochs", "1")
    assert "the pictures of epoch 1 could not be drawn" in capsys.readouterr().err
    assert shown(folder).Tags()["images"] == [] and (folder / "test.json").exists()


DRAWN = []


def draw(pictures, path):
    """A picture as quickly as possible."""
    from PIL import Image

    DRAWN.append(len(pictures))
    Image.new("RGB", (7, 5)).save(path)


def train_folder():
    from training.run_folder import RunFolder

    return RunFolder
