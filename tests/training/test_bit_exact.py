"""One table of option sets: killed and resumed, or in two processes, a run is the same.

A run that is killed in its second epoch and resumed elsewhere also repeats the first one.
"""

import functools
import importlib
import os
import signal

import pytest
import warm
from tiny import assert_same_run, assert_same_weights, log, train, weights

import registry
from cli import InputError

TASKS = ("train", "--tasks", "seg", "cls", "bbox")
# {name: (script, options)}. With three epochs DWA's weights have begun to move.
ROWS = {
    "default": ("train_mtl",),
    "uncertainty": ("oeq_uncertainty",),
    "ema": ("train_mtl", "--ema", "0.3"),
    "muon": ("train_mtl", "--optimizer", "muon", "--lr", "0.006"),
    "flip": ("train_mtl", "--augment", "flip", "--batch-size", "5"),
    "resize": ("train_mtl", "--resize-schedule", "32:0.5,64:1"),
    "column": ("train", "--tasks", "seg", "column:breed", "column:age", "distance"),
    "num_masks": ("train", "--tasks", "seg", "cls", "--num-masks", "5"),
    "hard_augment": ("train_mtl", "--hard-augment", "all"),
    "dwa": (*TASKS, "--weighting", "dwa", "--epochs", "3"),
    "rlw": (*TASKS, "--weighting", "rlw"),
    "gradnorm": (*TASKS, "--weighting", "gradnorm"),
    "famo": (*TASKS, "--weighting", "famo"),
    "torchjd": (*TASKS, "--weighting", "torchjd:UPGrad"),
    "soft": (*TASKS, "--sharing", "soft"),
    "cross_stitch": (*TASKS, "--sharing", "cross_stitch"),
    "mtan": (*TASKS, "--sharing", "mtan"),
    "init": ("train_baseline", "--init", "NETWORK"),
    "teacher": ("train_mtl", "--teacher", "NETWORK"),
    "conflicts": ("train_mtl", "--conflicts", "1"),
}
QUICK = ("default", "num_masks")  # of two processes; the others are slow
unix = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


@pytest.fixture(scope="module")
def network(rich, tmp_path_factory):
    """A trained baseline, for --init and --teacher."""
    return train("train_baseline", rich, tmp_path_factory.mktemp("network")) / "best.pt"


@pytest.fixture(scope="module")
def options_of(network):
    """options_of(row) -> (script, its options)."""

    def options(row):
        script, *words = ROWS[row]
        return script, [str(network) if word == "NETWORK" else word for word in words]

    return options


@pytest.fixture(scope="module")
def whole(rich, options_of, tmp_path_factory):
    """whole(row) -> the folder of that row's run, which nothing interrupted."""

    @functools.cache
    def run(row):
        script, words = options_of(row)
        return train(script, rich, tmp_path_factory.mktemp("whole"), *words)

    return run


def test_every_component_has_a_row():
    words = {word.partition(":")[0] for row in ROWS.values() for word in row}
    for folder in ("sharing", "weighting"):
        assert set(registry.names(folder)) - {"hard"} <= words


def test_a_repeated_run_is_the_same_with_any_number_of_workers(whole, rich, tmp_path):
    assert_same_run(train("train_mtl", rich, tmp_path, "--workers", "2"), whole("default"))


# {moment: (module, class, method at whose n-th call the run is killed, n)}
TRAINER = "training.trainer", "Trainer"
FOLDER = "training.run_folder", "RunFolder"
MOMENTS = {
    "in the first epoch": (*TRAINER, "step", 2),
    "in the second epoch": (*TRAINER, "step", 5),
    "between best.pt and last.pt": (*FOLDER, "save_last", 2),
    "between last.pt and log.csv": (*FOLDER, "write_log", 2),
    "in the test": (*FOLDER, "write_test", 1),
}


class Killed(BaseException):
    """Stands for a kill, which no clean-up code sees."""


def stop():
    raise Killed


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def train_until(moment, end, script, argv):
    """Train, and call end() at a moment."""
    module, owner, name, count = MOMENTS[moment]
    owner = getattr(importlib.import_module(module), owner)
    original, calls = getattr(owner, name), []

    def method(*args):
        calls.append(1)
        if len(calls) == count:
            end()
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, method)
        train(script, *argv)


@pytest.mark.parametrize("row", ROWS)
def test_a_stopped_and_resumed_run_is_the_same(row, whole, options_of, rich, tmp_path):
    script, words = options_of(row)
    with pytest.raises(Killed):
        train_until("in the second epoch", stop, script, (rich, tmp_path, *words))
    with pytest.raises(InputError, match="--resume"):
        train(script, rich, tmp_path, *words)
    assert_same_run(train(script, rich, tmp_path, *words, "--resume"), whole(row))


def kill_at(moment, script, rich, runs, *words):
    """The same in another process, which SIGKILL ends."""
    arguments = moment, kill, script, (rich, runs, *words)
    outcome = warm.Child(train_until, *arguments, cwd=runs).wait()
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr


@unix
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_and_resumed_run_is_the_same(moment, whole, options_of, rich, tmp_path):
    script, words = options_of("uncertainty")
    kill_at(moment, script, rich, tmp_path, *words)
    assert_same_run(train(script, rich, tmp_path, *words, "--resume"), whole("uncertainty"))


def assert_close_logs(found, expected):
    for a, b in zip(log(found), log(expected), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if key == "loss" or "_loss_" in key:
                assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-4, abs=1e-4), key


def slow_unless_quick(rows):
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(row, marks=marks[row in QUICK]) for row in rows]


@pytest.mark.parametrize("row", slow_unless_quick(ROWS))
def test_two_processes_have_the_losses_of_one(row, whole, options_of, rich, tmp_path):
    script, words = options_of(row)
    assert_close_logs(train(script, rich, tmp_path, *words, "--processes", "2"), whole(row))


@unix
@pytest.mark.slow
def test_two_processes_repeat_and_resume_bit_for_bit(rich, tmp_path):
    words = ("--ema", "0.3", "--processes", "2")
    first = train("oeq_uncertainty", rich, tmp_path / "first", *words)
    assert_same_run(train("oeq_uncertainty", rich, tmp_path / "again", *words), first)
    (tmp_path / "killed").mkdir()
    kill_at("in the second epoch", "oeq_uncertainty", rich, tmp_path / "killed", *words)
    resumed = train("oeq_uncertainty", rich, tmp_path / "killed", *words, "--resume")
    assert_same_run(resumed, first)


def test_what_is_logged_beside_changes_nothing(whole):
    """--conflicts takes gradients of its own."""
    assert_same_weights(weights(whole("conflicts")), weights(whole("default")))


def test_another_seed_gives_another_result(whole, rich, tmp_path):
    folder = train("train_mtl", rich, tmp_path, "--seed", "1")
    assert log(folder) != log(whole("default"))


def test_train_py_gives_the_published_experiment(whole, rich, tmp_path):
    folder = train("train", rich, tmp_path, *TASKS[1:], "--name", "mtl")
    assert_same_run(folder, whole("default"))
