"""Run scripts and functions in processes that begin with PyTorch imported: a start takes 0.2 s
instead of 2 to 5 s.

A fork server (multiprocessing's) imports third-party packages once, never this project: scripts of
a copy of the project import their own modules. It computes nothing and opens no file, as threads
and handles do not survive a fork. Where a system cannot fork safely, a new interpreter does the
same.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IS_WARM = sys.platform == "linux"
PACKAGES = (
    "torch",
    "torch._dynamo",
    "torchvision",
    "h5py",
    "tqdm",
    "scipy.stats",
    "matplotlib.figure",
)
LIMIT = 600.0  # seconds; only a hang takes so long


@dataclass(frozen=True)
class Outcome:
    """returncode as of subprocess.Popen (minus the signal's number), or None for a process that had
    to be ended.
    """

    returncode: int | None
    stdout: str
    stderr: str
    seconds: float


class Child:
    """function(*args) in a process group of its own, which works in the folder `cwd`.

    function and args travel by pickle. environment: variables that differ from this process's.
    """

    def __init__(self, function, *args, cwd, environment=None):
        self.logs = [Path(tempfile.mkstemp(suffix=end)[1]) for end in (".out", ".err")]
        self.begin = time.perf_counter()
        variables = {**os.environ, **(environment or {})}
        context = multiprocessing.get_context("forkserver" if IS_WARM else "spawn")
        if IS_WARM:
            context.set_forkserver_preload(list(PACKAGES))
        job = function, args, str(cwd), self.logs, variables
        self.process = context.Process(target=in_child, args=job)
        self.process.start()
        self.pid = self.process.pid

    def output(self):
        """(standard output, standard error) so far."""
        return [path.read_text(encoding="utf-8", errors="replace") for path in self.logs]

    def wait(self, limit=LIMIT):
        """The Outcome, after `limit` seconds at most; whatever the process has started ends with
        it.
        """
        self.process.join(limit)
        is_alive = self.process.is_alive()
        self.kill()
        self.process.join()
        seconds = time.perf_counter() - self.begin
        code = None if is_alive else self.process.exitcode
        outcome = Outcome(code, *self.output(), seconds)
        for path in self.logs:
            path.unlink()
        return outcome

    def kill(self):
        """SIGKILL for the process group."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()


def run_script(script, *args, cwd=ROOT, environment=None):
    """What `python SCRIPT ARGS...` does, as an Outcome."""
    return start_script(script, *args, cwd=cwd, environment=environment).wait()


def start_script(script, *args, cwd=ROOT, environment=None):
    """The same as a Child that has just begun."""
    return Child(as_script, str(script), *map(str, args), cwd=cwd, environment=environment)


def call(function, *args, cwd=ROOT):
    """What a function prints in a Child; an error there is one here."""
    outcome = Child(function, *args, cwd=cwd).wait()
    if outcome.returncode != 0:
        raise RuntimeError(f"{function.__name__} ended with {outcome.returncode}: {outcome.stderr}")
    return outcome.stdout


def cold_script(script, *args, cwd=ROOT):
    """The same as `run_script` in a new interpreter."""
    command = [sys.executable, ROOT / script, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


# ------------------------------------------------------------------------------------- in the child


def in_child(function, args, cwd, logs, variables):
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.stdout = redirect(1, logs[0], "strict")
    sys.stderr = redirect(2, logs[1], "backslashreplace")
    function(*args)


def redirect(number, path, errors):
    """Let a file descriptor write to a file; returns it as a text stream."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, number)
    os.close(descriptor)
    return open(number, "w", encoding="utf-8", errors=errors, closefd=False, buffering=1)


def as_script(script, *args):
    """Run a script of the project, or of a copy of it that a path names."""
    path = ROOT / script
    sys.argv = [str(path), *args]
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if entry not in PROJECT)]
    runpy.run_path(str(path), run_name="__main__")


PROJECT = (str(ROOT), str(ROOT / "tests"))  # which pytest has put on the import path
