"""The warm server of soak.py: it has imported everything once and forks for each try, so that a try costs milliseconds.

It computes nothing itself and opens no HDF5 file: what a process has of threads and handles does not survive a fork. Data
is made, damaged and looked into by forked children as well.
"""

import contextlib
import faulthandler
import hashlib
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import common

from cli import InputError

LIMIT = 60.0  # seconds after which a script counts as hanging
SIZE, PETS = 64, 20
PREPARE = ("--size", str(SIZE), "--fractions", "60-20-20")
TRAIN = (
    "--epochs",
    "3",
    "--width",
    "2",
    "--batch-size",
    "6",
    "--device",
    "cpu",
    "--precision",
    "fp32",
)


@dataclass(frozen=True)
class Outcome:
    """How a child ended. status: its exit status, minus the number of the signal that ended it, or None if it hung."""

    status: int | None
    out: str
    err: str
    seconds: float


class Child:
    """function(*args) in a forked process: a process group of its own, working in `cwd`, its output in files beside that."""

    def __init__(self, function, *args, cwd):
        self.logs = [Path(f"{cwd}.{end}") for end in ("out", "err")]
        self.begin = time.perf_counter()
        self.process = multiprocessing.get_context("fork").Process(
            target=in_child, args=(function, args, cwd, self.logs)
        )
        self.process.start()
        with contextlib.suppress(OSError):  # the child does it as well, whichever comes first
            os.setpgid(self.process.pid, self.process.pid)

    def wait(self, limit=LIMIT):
        """Wait for the end, which is made after `limit` seconds; returns the Outcome."""
        self.process.join(limit)
        hung = self.process.is_alive()
        self.kill()
        self.process.join()
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in self.logs)
        return Outcome(
            None if hung else self.process.exitcode, out, err, time.perf_counter() - self.begin
        )

    def kill(self):
        """SIGKILL for the child and whatever it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def in_child(function, args, cwd, logs):
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for number, path in zip((1, 2), logs):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", errors=errors, closefd=False)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    faulthandler.enable()  # a crash in a library says where
    faulthandler.dump_traceback_later(LIMIT - 5)  # and a hang
    os.chdir(cwd)
    function(*args)
    faulthandler.cancel_dump_traceback_later()


def run_script(script, argv):
    """In a child: what `python SCRIPT ARGV...` does, without the imports that the server has done already."""
    sys.argv = [script, *map(str, argv)]
    runpy.run_path(str(common.ROOT / script), run_name="__main__")


def run(script, argv, cwd):
    """Run a script to its end; returns the Outcome."""
    return Child(run_script, script, argv, cwd=cwd).wait()


def call(function, *args, cwd):
    """Call a function in a child; returns what it printed. Whatever goes wrong there is a fault of the soak itself."""
    outcome = Child(function, *args, cwd=cwd).wait()
    if outcome.status != 0:
        raise RuntimeError(f"{function.__name__}{args} ended with {outcome.status}: {outcome.err}")
    return outcome.out


# ---------------------------------------------------------------------------------------------------- the reference


@dataclass(frozen=True)
class Reference:
    """What uninterrupted runs leave, and how long they took. All paths but `prepared` hold re-chunked or finished things."""

    folder: Path
    seconds: dict

    @property
    def photographs(self):
        return self.folder / "photographs"

    @property
    def prepared(self):
        return self.folder / "prepared"

    @property
    def data(self):
        return self.folder / "data"

    @property
    def runs(self):
        return self.folder / "runs"

    @property
    def run(self):
        return self.folder / "runs" / "mtl" / "seed0"

    @property
    def metrics(self):
        return (self.folder / "evaluate.json").read_text()


def commands(reference):
    """The command of each phase: script and options, with outputs relative to the folder that it runs in."""
    return {
        "prepare": (
            "data_prepare.py",
            ["--root", reference.photographs, "--out", "data", *PREPARE],
        ),
        "rechunk": ("data_rechunk.py", ["--data", "data"]),
        "train": ("train_mtl.py", ["--data", reference.data, "--runs", "runs", *TRAIN, "--resume"]),
        "evaluate": (
            "evaluate.py",
            [
                "--checkpoint",
                reference.run / "best.pt",
                "--data",
                reference.data,
                "--device",
                "cpu",
            ],
        ),
    }


def make_reference(folder):
    """Make small data and run every phase once, uninterrupted; then again, warm, to see how long it takes."""
    if not hasattr(os, "fork"):
        raise InputError("soak.py forks, which this system cannot; run it on Linux or macOS")
    reference = Reference(folder, {})
    must("data_prepare.py", ["--synthetic", PETS, "--out", "drawn", *PREPARE], folder)
    shutil.move(folder / "drawn" / "synthetic", reference.photographs)
    for turn in range(2):
        place = folder / f"turn{turn}"
        place.mkdir()
        for phase, (script, argv) in commands(reference).items():
            if phase == "rechunk" and not turn:
                shutil.copytree(place / "data", reference.prepared)
            outcome = must(script, argv, place)
            reference.seconds[phase] = outcome.seconds
            if phase == "rechunk" and not turn:
                shutil.copytree(place / "data", reference.data)
            if phase == "train" and not turn:
                shutil.copytree(place / "runs", reference.runs)
            if phase == "evaluate":
                (folder / "evaluate.json").write_text(outcome.out)
    return reference


def must(script, argv, cwd):
    """Run a script that has to succeed, then import here what it imported there."""
    outcome = Child(run_script_and_list_modules, script, argv, cwd=cwd).wait()
    if outcome.status != 0:
        raise InputError(
            f"{script} fails undisturbed already, with status {outcome.status}: {outcome.err.strip()}"
        )
    for name in json.loads(Path(f"{cwd}.modules").read_text()):
        with contextlib.suppress(
            ImportError
        ):  # what the child made up while running cannot be imported
            importlib.import_module(name)
    return outcome


def run_script_and_list_modules(script, argv):
    before, place = set(sys.modules), os.getcwd()
    run_script(script, argv)
    Path(f"{place}.modules").write_text(json.dumps(sorted(set(sys.modules) - before)))


def digests(folder):
    """{path relative to the folder: SHA-256} of every file in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
