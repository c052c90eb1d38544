"""What a run leaves behind: damage, other settings and data, figures, two processes."""

import json
import os
import shutil
import signal

import filelock
import h5py
import pytest
import torch
import warm
from conftest import rechunk, write_data
from tiny import (
    FILES,
    TINY,
    assert_same_run,
    config_of,
    read_csv,
    result,
    train,
)

from cli import InputError
from training import checkpoint, figures, run_folder

SCRIPT = "oeq_uncertainty"


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a finished run of two epochs. Read it, do not change it."""
    return train(SCRIPT, data, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "runs/uncertainty/seed0")


@pytest.fixture
def unfinished(copy):
    """A copy as a kill at the very end leaves it."""
    (copy / "test.json").unlink()
    return copy


def resume(folder, data, *options):
    return train(SCRIPT, data, folder.parents[1], "--resume", *options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_as(folder, finished):
    assert_same_run(folder, finished)
    assert {path.name for path in folder.iterdir()} == FILES


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def strip(path):
    """Take the digest away and keep the rest readable."""
    content = bytearray(path.read_bytes()[: -checkpoint.SEAL_BYTES])
    content[-2:] = bytes(2)
    path.write_bytes(content)


# ----------------------------------------------------------------------------- damaged checkpoints


@pytest.mark.parametrize("damage", [os.unlink, truncate, strip])
def test_the_previous_checkpoint_takes_the_place_of_a_damaged_one(
    data, finished, unfinished, capsys, damage
):
    damage(unfinished / "last.pt")  # a kill between the two renamings of a save leaves none
    resume(unfinished, data)
    printed = capsys.readouterr()
    assert "resumed after epoch 1" in printed.out
    assert printed.err.count("\n") == 1 and "last.pt" in printed.err
    assert_as(unfinished, finished)


def test_a_kill_after_that_loses_nothing_either(data, finished, unfinished, monkeypatch):
    """The damaged file must never take the good one's place."""

    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    flip(unfinished / "last.pt")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_folder.RunFolder, "write_log", kill)
        resume(unfinished, data)
    assert checkpoint.load(unfinished / "last.pt", run_folder.RESUME_KEYS)["epoch"] == 1
    resume(unfinished, data)
    assert_as(unfinished, finished)


def test_a_damaged_best_network_is_written_again(data, finished, unfinished):
    flip(unfinished / "best.pt")
    resume(unfinished, data)
    assert_as(unfinished, finished)


def test_both_damaged_is_refused_and_nothing_touched(data, unfinished):
    flip(unfinished / "last.pt")
    truncate(unfinished / "previous.pt")
    before = contents(unfinished)
    with pytest.raises(InputError, match="last.pt"):
        resume(unfinished, data)
    assert contents(unfinished) == before


def test_a_last_pt_of_another_network_is_refused(data, unfinished, tmp_path):
    other = train("train_baseline", data, tmp_path / "other")
    for name in "last.pt", "previous.pt":
        shutil.copy(other / name, unfinished / name)
    with pytest.raises(InputError, match="last.pt"):
        resume(unfinished, data)


def test_left_overs_of_a_killed_save_are_cleared_away(data, finished, unfinished):
    (unfinished / "last.pt.partial").write_bytes(b"half")
    (unfinished / "lock").write_text("1 on another machine")  # of an earlier version
    resume(unfinished, data)
    (unfinished / "lock").unlink(missing_ok=True)
    assert_as(unfinished, finished)


@pytest.mark.parametrize("name", [".lock", "lock"])
def test_a_lock_file_alone_is_no_run(data, tmp_path, name):
    folder = tmp_path / "uncertainty/seed0"
    folder.mkdir(parents=True)
    (folder / name).touch()
    train(SCRIPT, data, tmp_path, "--limit", "8", "--epochs", "1")
    assert (folder / "test.json").exists()


# --------------------------------------------------------------------------------- damaged records


@pytest.mark.parametrize("text", [None, "", "{", "[]", "[" * 100_000, '{"options": 5}'], ids=repr)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_without_a_readable_configuration_is_refused(data, copy, text, is_finished):
    if not is_finished:
        (copy / "test.json").unlink()
    (copy / "config.json").unlink()
    if text is not None:
        (copy / "config.json").write_text(text)
    before = contents(copy)
    with pytest.raises(InputError, match="config.json"):
        resume(copy, data)
    assert contents(copy) == before


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_damaged_results_are_refused(data, copy, text):
    (copy / "test.json").write_text(text)
    with pytest.raises(InputError, match="test.json"):
        resume(copy, data)


def test_records_without_checkpoints_and_configuration_are_no_run_to_begin(data, copy):
    """What was copied out of a run folder must not be taken for the beginning of one."""
    for name in ("config.json", "last.pt", "previous.pt", "best.pt"):
        (copy / name).unlink()
    with pytest.raises(InputError, match="config.json"):
        resume(copy, data)


# --------------------------------------------------------------------- other settings, other data


def test_resuming_a_finished_run_says_so_and_changes_nothing(data, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    resume(finished, data)
    assert "finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("options", ["--lr 0.01", "--epochs 3", "--ema 0.9", "--limit 20"])
def test_another_option_is_refused_by_name(data, copy, options, is_finished):
    if not is_finished:
        (copy / "test.json").unlink()
    name, _ = options.removeprefix("--").split()
    with pytest.raises(InputError, match=name):
        resume(copy, data, *options.split())


def test_what_does_not_change_the_result_may_differ(data, finished, unfinished, tmp_path, capsys):
    (unfinished / "last.pt").unlink()
    moved = shutil.copytree(data, tmp_path / "moved")
    resume(unfinished, moved, "--workers", "1")
    assert_as(unfinished, finished)


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_data_are_refused(data, copy, tmp_path, is_finished):
    if not is_finished:
        (copy / "test.json").unlink()
    other = write_data(tmp_path / "other", {"train": 24, "val": 10, "test": 10}, seed=9)
    with pytest.raises(InputError, match="split_hash"):
        resume(copy, rechunk(other))


def test_other_training_images_are_refused(data, unfinished, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    with h5py.File(other / "train/images.h5", "r+") as file:
        file["images"][3, 0, 0, 0] ^= 1  # the split hash in the attributes stays as it was
    with pytest.raises(InputError, match="training images"):
        resume(unfinished, other)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["masks", "bboxes", "binary"])
def test_changed_labels_are_refused(data, unfinished, tmp_path, split, kind):
    other = shutil.copytree(data, tmp_path / "other")
    with h5py.File(other / split / f"{kind}.h5", "r+") as file:
        file[kind][:2] = 1 - file[kind][:2] if kind != "bboxes" else file[kind][:2] + 1
    with pytest.raises(InputError, match="label"):
        resume(unfinished, other)


def test_labels_that_no_task_reads_may_change(data, tmp_path):
    run = train("train_baseline", data, tmp_path)
    (run / "test.json").unlink()
    other = shutil.copytree(data, tmp_path / "other")
    for split in ("train", "val", "test"):
        (other / split / "bboxes.h5").unlink()
        with h5py.File(other / split / "binary.h5", "r+") as file:
            file["binary"][:] = 1
    train("train_baseline", other, tmp_path, "--resume")
    assert (run / "test.json").exists()


@pytest.mark.parametrize("change", ["a cell", "an image beside"])
def test_a_changed_column_is_refused(rich, tmp_path, change):
    words = ("--tasks", "seg", "column:breed", "--name", "own")
    run = train("train", rich, tmp_path, *words)
    (run / "test.json").unlink()
    other = shutil.copytree(rich, tmp_path / "other")
    path = other / ("train" if change == "a cell" else "val") / "index.csv"
    lines = path.read_text().splitlines()
    lines[1], lines[2] = lines[1].replace("pug", "boxer"), lines[2].replace("boxer", "pug")
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(InputError, match="label"):
        train("train", other, tmp_path, *words, "--resume")


def test_other_classes_are_refused_of_a_finished_run_too(rich, tmp_path):
    words = ("--tasks", "seg", "column:breed", "--name", "own")
    train("train", rich, tmp_path, *words)
    other = shutil.copytree(rich, tmp_path / "other")
    path = other / "train/index.csv"
    path.write_text(path.read_text().replace("sphynx", "siamese"))
    with pytest.raises(InputError, match="settings"):
        train("train", other, tmp_path, *words, "--resume")


def test_a_finished_run_whose_data_are_gone_is_finished(data, tmp_path, capsys):
    place = shutil.copytree(data, tmp_path / "pets")
    train("train_baseline", place, tmp_path)
    shutil.rmtree(place)
    train("train_baseline", place, tmp_path, "--resume")
    assert "finished" in capsys.readouterr().out
    with pytest.raises(InputError, match="mistyped"):
        train("train_baseline", tmp_path / "mistyped", tmp_path, "--resume")


# ------------------------------------------------------------------------------- other conditions


@pytest.mark.parametrize(
    "target, name, value, words",
    [
        (torch, "get_num_threads", lambda: 7, "threads was 1 and is 7"),
        (run_folder, "processor", lambda device: "Abacus (wood)", "Abacus (wood)"),
        (run_folder, "commit", lambda: "0" * 40, "0" * 40),
    ],
    ids=["threads", "processor", "commit"],
)
def test_other_conditions_are_warned_of(
    data, finished, unfinished, monkeypatch, capsys, target, name, value, words
):
    config = config_of(unfinished)
    config["run"]["commit"] = "1" * 40
    (unfinished / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(target, name, value)
    resume(unfinished, data)
    assert words in capsys.readouterr().err
    assert result(unfinished) == result(finished)


def test_a_resumed_run_keeps_the_precision_that_was_measured(data, unfinished):
    config = config_of(unfinished)
    config["precision"], config["run"]["precision"] = "auto", "bf16"
    (unfinished / "config.json").write_text(json.dumps(config))
    resume(unfinished, data, "--precision", "auto")
    assert result(unfinished)["precision"] == "bf16"


def test_the_number_of_threads_can_be_chosen_and_is_recorded(data, tmp_path):
    before = torch.get_num_threads()
    run = train(SCRIPT, data, tmp_path, "--limit", "8", "--epochs", "1", "--threads", "2")
    config = config_of(run)
    assert config["threads"] == config["run"]["threads"] == 2
    torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------- figures


def failing(error):
    def fail(*args):
        args[-1].write_bytes(b"half")  # as a full disk leaves
        raise error

    return fail


FAILURES = [InputError("cannot write"), MemoryError(), ValueError("one\ntwo"), OSError(28, "disk")]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_figure_that_fails_is_a_warning_and_resume_draws_it(
    data, finished, tmp_path, monkeypatch, capsys, error
):
    with monkeypatch.context() as patch:
        for name in "draw_curves", "draw_masks":
            patch.setattr(figures, name, failing(error))
        run = train(SCRIPT, data, tmp_path)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert str(run / "curves.png") in warnings[0] and str(run / "mask.png") in warnings[1]
    assert {path.name for path in run.iterdir()} == FILES - {"curves.png", "mask.png"}
    before = contents(run)
    resume(run, data)
    assert capsys.readouterr().err == ""
    assert contents(run) == {**before, "curves.png": b"", "mask.png": b""}
    assert_same_run(run, finished)


@pytest.mark.parametrize("damage", [flip, os.unlink])
@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_figure_that_cannot_be_drawn_again_does_not_change_the_run(data, copy, damage, name):
    (copy / "mask.png").unlink()
    (copy / "previous.pt").unlink()
    damage(copy / name)
    before = contents(copy)
    resume(copy, data)
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["curves.png", "mask.png"])
def test_a_kill_while_a_figure_is_drawn_leaves_a_finished_run(
    data, finished, tmp_path, monkeypatch, name
):
    class Killed(BaseException):
        pass

    def kill(source, target):
        if str(target).endswith(name):
            raise Killed
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", kill)
        train(SCRIPT, data, tmp_path)
    run = tmp_path / "uncertainty/seed0"
    assert result(run) == result(finished) and not (run / name).exists()
    resume(run, data)
    assert_as(run, finished)


@pytest.mark.usefixtures("figures")
def test_figures_are_drawn_whatever_the_images_are_called(tmp_path, capsys):
    folder = rechunk(write_data(tmp_path / "pets", {"train": 16, "val": 4, "test": 4}))
    names = ("costs $5_a", "a$^$b", "\\frac{$x$}", "$\\alpha$")
    rows = [f"{k},{name}" for k, name in enumerate(names)]
    (folder / "test/index.csv").write_text("\n".join(["row,name", *rows, ""]))
    run = train("train_baseline", folder, tmp_path / "runs", "--epochs", "1")
    assert capsys.readouterr().err == ""
    assert [row["name"] for row in read_csv(run / "test_per_image.csv")] == list(names)
    for name in "mask.png", "curves.png":
        assert (run / name).stat().st_size > 10_000


# ---------------------------------------------------------------------------------------- processes


def test_a_run_in_use_is_refused_and_left_alone(data, copy):
    (copy / "test.json").unlink()
    before = contents(copy)
    with (
        filelock.FileLock(copy.with_name(f".{copy.name}.lock")),
        pytest.raises(InputError, match=str(copy)),
    ):
        resume(copy, data)
    assert contents(copy).items() >= before.items()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_the_lock_of_a_killed_process_is_not_in_the_way(data, tmp_path):
    options = ("--data", data, "--runs", tmp_path, *TINY, "--epochs", "100000")
    child = warm.start_script("train_baseline.py", *options, cwd=tmp_path)
    run = tmp_path / "baseline/seed0"
    while not (run / "log.csv").exists() and child.process.is_alive():
        child.process.join(0.1)
    outcome = warm.run_script("train_baseline.py", *options, "--resume", cwd=tmp_path)
    assert outcome.returncode == 2 and str(run) in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    child.kill()
    assert child.wait().returncode == -signal.SIGKILL
    assert (run.parent / ".seed0.lock").exists()
    folder = run_folder.RunFolder(run, resume=True)
    with folder.lock():
        assert folder.load_last()["epoch"] >= 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file-size limit")
def test_a_full_disk_stops_a_run_that_can_be_resumed(data, finished, unfinished):
    os.replace(unfinished / "previous.pt", unfinished / "last.pt")  # after the first epoch
    before = (unfinished / "last.pt").read_bytes()
    words = ["--data", data, "--runs", unfinished.parents[1], *TINY, "--resume"]
    child = warm.Child(
        with_little_space, len(before) // 2, f"{SCRIPT}.py", *map(str, words), cwd=unfinished
    )
    outcome = child.wait()
    assert outcome.returncode == 2 and "last.pt" in outcome.stderr, outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert (unfinished / "last.pt").read_bytes() == before
    assert not list(unfinished.glob("*.partial"))
    resume(unfinished, data)
    assert_as(unfinished, finished)


def with_little_space(limit, script, *words):
    """Run a script whose files may not be larger than so many bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    warm.as_script(script, *words)


# ------------------------------------------------------------------------------------------- tables


def test_cells_of_counts_have_no_decimal_point_and_unknown_ones_are_empty():
    assert run_folder.cells(torch.tensor([2.0, float("nan"), 3.0])) == [2, "", 3]
    assert run_folder.cells(torch.tensor([2.0, 0.5])) == [2.0, 0.5]
    assert run_folder.cells(torch.tensor([1, 0])) == [1, 0]
