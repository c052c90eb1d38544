"""What a run leaves behind, and what becomes of it: damaged and missing files, a full disk, two processes, other threads."""

import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import pytest
import torch
from conftest import ROOT
from tiny import arguments, assert_same_weights, log, result, weights

import oeq_uncertainty
from cli import InputError
from training import checkpoint, engine, run_folder

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The runs folder of a finished run of two epochs."""
    runs = tmp_path_factory.mktemp("finished")
    oeq_uncertainty.main(arguments(data, runs))
    return runs


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of it, as a kill at the very end leaves it."""
    shutil.copytree(finished, tmp_path / "runs")
    (tmp_path / "runs/uncertainty/seed0/test.json").unlink()
    return tmp_path / "runs/uncertainty/seed0"


def resume(folder, data, *more):
    oeq_uncertainty.main(arguments(data, folder.parent.parent, "--resume", *more))


def assert_as_finished(folder, finished):
    expected = finished / "uncertainty/seed0"
    assert result(folder) == result(expected) and log(folder) == log(expected)
    for name in ("last.pt", "previous.pt", "best.pt"):
        assert_same_weights(weights(folder, name), weights(expected, name))
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


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


@pytest.mark.parametrize("damage", [os.unlink, truncate, strip], ids=lambda f: f.__name__)
def test_the_previous_checkpoint_takes_the_place_of_a_damaged_one(
    data, finished, unfinished, capsys, damage
):
    damage(
        unfinished / "last.pt"
    )  # without it: what a kill between the two renamings of a save leaves
    resume(unfinished, data)
    captured = capsys.readouterr()
    assert "resumed after epoch 1" in captured.out
    assert captured.err.count("\n") == 1 and "last.pt was missing or damaged" in captured.err
    assert_as_finished(unfinished, finished)


def test_a_kill_after_that_loses_nothing_either(data, finished, unfinished, monkeypatch):
    """The damaged file must never take the good one's place."""

    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    flip(unfinished / "last.pt")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "flush_folder", kill)
        resume(unfinished, data)
    resume(unfinished, data)
    assert_as_finished(unfinished, finished)


@pytest.mark.parametrize("damage", [os.unlink, flip], ids=lambda f: f.__name__)
def test_a_damaged_best_network_is_written_again(data, finished, unfinished, damage):
    damage(unfinished / "best.pt")
    flip(unfinished / "last.pt")
    resume(unfinished, data)
    assert_as_finished(unfinished, finished)


def test_both_damaged_is_refused_and_nothing_touched(data, unfinished):
    flip(unfinished / "last.pt"), truncate(unfinished / "previous.pt")
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    with pytest.raises(InputError, match="neither .*last.pt nor previous.pt .* start again"):
        resume(unfinished, data)
    assert before == {path.name: path.read_bytes() for path in unfinished.iterdir()}


def test_a_run_without_its_configuration_is_refused(data, unfinished):
    (unfinished / "config.json").unlink()
    with pytest.raises(InputError, match="config.json is missing"):
        resume(unfinished, data)


def test_left_overs_of_a_killed_save_are_cleared_away(data, finished, unfinished):
    (unfinished / "last.pt.partial").write_bytes(b"half")
    (unfinished / "lock").write_text("1 on another machine")
    resume(unfinished, data)
    assert_as_finished(unfinished, finished)


def test_a_lock_file_alone_is_no_run(data, tmp_path):
    folder = tmp_path / "uncertainty/seed0"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    oeq_uncertainty.main(arguments(data, tmp_path, "--limit", "8", "--epochs", "1"))
    assert (folder / "test.json").exists() and not (folder / "lock").exists()


def test_another_number_of_threads_is_warned_of(data, finished, unfinished, monkeypatch, capsys):
    monkeypatch.setattr(run_folder.torch, "get_num_threads", lambda: 7)
    resume(unfinished, data)
    assert "threads was 1 and is 7" in capsys.readouterr().err
    assert result(unfinished) == result(finished / "uncertainty/seed0")


def test_another_processor_is_warned_of(data, finished, unfinished, monkeypatch, capsys):
    name = json.loads((finished / "uncertainty/seed0/config.json").read_text())["processor"]
    monkeypatch.setattr(run_folder, "processor", lambda device: "Abacus (wood)")
    resume(unfinished, data)
    assert f"processor was {name} and is Abacus (wood)" in capsys.readouterr().err


def test_the_number_of_threads_can_be_chosen_and_is_recorded(data, tmp_path):
    before = torch.get_num_threads()
    try:
        oeq_uncertainty.main(
            arguments(data, tmp_path, "--limit", "8", "--epochs", "1", "--threads", str(before + 1))
        )
        assert torch.get_num_threads() == before + 1
        config = json.loads((tmp_path / "uncertainty/seed0/config.json").read_text())
        assert config["threads"] == config["options"]["threads"] == before + 1
        (tmp_path / "uncertainty/seed0/test.json").unlink()
        with pytest.raises(InputError, match=f"--threads was {before + 1} and is {before}"):
            oeq_uncertainty.main(
                arguments(
                    data,
                    tmp_path,
                    "--limit",
                    "8",
                    "--epochs",
                    "1",
                    "--resume",
                    "--threads",
                    str(before),
                )
            )
    finally:
        torch.set_num_threads(before)


def test_a_resumed_run_keeps_the_precision_that_was_measured(data, unfinished):
    config = json.loads((unfinished / "config.json").read_text())
    config["options"]["precision"], config["precision"] = "auto", "bf16"
    (unfinished / "config.json").write_text(json.dumps(config))
    resume(unfinished, data, "--precision", "auto")
    assert result(unfinished)["precision"] == "bf16"


def test_other_training_images_are_refused(data, unfinished, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    with h5py.File(other / "train/images.h5", "r+") as file:
        file["images"][3, 0, 0, 0] ^= 1  # the split hash in the attributes stays as it was
    with pytest.raises(InputError, match="training images .* are not those"):
        resume(unfinished, other)


# --------------------------------------------------------------------------------------------------- in processes


def start(data, folder, *more, preexec_fn=None):
    command = [
        sys.executable,
        str(ROOT / "oeq_uncertainty.py"),
        "--data",
        data,
        "--runs",
        folder.parent.parent,
        "--batch-size",
        "8",
        "--width",
        "2",
        "--precision",
        "fp32",
        "--device",
        "cpu",
        *more,
    ]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
    )


def assert_refused(process, *words):
    _, errors = process.communicate()
    assert process.returncode == 2 and errors.count("\n") == 1, errors
    assert all(word in errors for word in words), errors


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file-size limit")
def test_a_full_disk_stops_a_run_that_can_be_resumed(data, finished, unfinished):
    import resource

    os.replace(unfinished / "previous.pt", unfinished / "last.pt")  # after the first epoch
    before = (unfinished / "last.pt").read_bytes()
    limit = len(before) // 2
    assert_refused(
        start(
            data,
            unfinished,
            "--epochs",
            "2",
            "--resume",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ),
        "last.pt",
        "space",
    )
    assert (unfinished / "last.pt").read_bytes() == before and not list(
        unfinished.glob("*.partial")
    )
    resume(unfinished, data)
    assert_as_finished(unfinished, finished)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_of_two_runs_started_at_once_exactly_one_goes_on(data, tmp_path):
    folder = tmp_path / "runs/uncertainty/seed0"
    both = [start(data, folder, "--epochs", "100000", *more) for more in ((), ("--resume",))]
    try:
        # Until it has trained an epoch, or was refused; then its output ends, a moment before the process does.
        won = any(line.startswith("epoch 1/") for line in both[0].stdout)
        winner, loser = both if won else reversed(both)
        assert_refused(loser, str(folder), f"in use by process {winner.pid} ")
        assert winner.poll() is None
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert winner.returncode == -signal.SIGKILL and (folder / "lock").exists()
    with engine.open_folder("uncertainty", arguments(data, tmp_path / "runs", "--resume")).held():
        assert (
            str(os.getpid()) in (folder / "lock").read_text()
        )  # the killed one's lock is not in the way
