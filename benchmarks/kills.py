"""Runs of every phase that are killed and must lose nothing by it: for soak.py."""

import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import warm
from reference import RUN, Lost, different_file, different_run, digests, read
from warm import Child

# The phase of each try, by its seed, over and over. A training is killed several times.
CYCLE = ("train", "rechunk", "train in two", "prepare", "evaluate", "train in two", "train")
# What makes a save. A kill aimed at saves comes just before or just after a call of these.
SAVES = ((os, "replace"), (os, "fsync"), (shutil, "rmtree"), (h5py.File, "close"))
ATTEMPTS = 9  # of a try, most of them late, before it goes on to the next
AIMED = 0.5  # share of the kills that are aimed at saves
PATIENCE = 60.0  # seconds in which the others have to end when one process was killed


def attempt(reference, place, seed):
    """One try; returns (its phase, Counter of what happened). Raises Lost."""
    phase, counts = CYCLE[seed % len(CYCLE)], Counter()
    Try(reference, phase, place, seed).run(counts)
    return phase, counts


class Try:
    """One run of a phase: killed, checked, run again to its end, compared with the reference."""

    def __init__(self, reference, phase, place, seed):
        self.reference, self.phase, self.place = reference, phase, place
        self.rng = np.random.default_rng(seed)
        self.script, *self.options = reference.command(phase)
        self.trains = phase.startswith("train")
        self.old = {}

    def run(self, counts):
        self.begin()
        kills = int(self.rng.integers(2, 5)) if self.trains else 1
        for attempt in range(ATTEMPTS):
            how = self.kill_one(attempt)
            counts[how] += 1
            if how != "too late":
                self.check_after_kill()
                kills -= 1
            if not kills:
                break
            if how == "too late":  # from the start
                shutil.rmtree(self.place)
                self.place.mkdir()
                self.begin()
        outcome = warm.run_script(self.script, *self.options, *self.extra(), cwd=self.place)
        if outcome.returncode != 0:
            raise Lost(f"the same command ends with {outcome.returncode}: {outcome.stderr[-500:]}")
        self.check_result(outcome)

    def begin(self):
        """What lies there before the phase."""
        self.old = {}
        if self.phase == "rechunk":
            shutil.copytree(self.reference.prepared, self.place / "data")
        if self.phase == "prepare" and self.rng.random() < 0.5:  # there is a data folder to replace
            shutil.copytree(self.reference.data, self.place / "data")
            self.old = digests(self.place / "data")

    def extra(self):
        return ["--force"] if self.phase == "prepare" and (self.place / "data").exists() else []

    def kill_one(self, attempt):
        """Start the phase and kill it, sooner after late attempts; returns the kind of kill, or
        "too late".
        """
        options = *map(str, self.options), *self.extra()
        how = "save" if self.rng.random() < AIMED else "random"
        if how == "random" and self.phase == "train in two":
            how = "one of two"
        if how == "save":
            at = int(self.rng.integers(24) / (1 + attempt))
            moment = str(self.rng.choice(["before", "after"]))
            child = Child(run_and_die, at, moment, self.script, *options, cwd=self.place)
        else:
            child = Child(warm.as_script, self.script, *options, cwd=self.place)
            seconds = self.reference.seconds[self.phase] / (1 if attempt < 3 else 4)
            child.process.join(self.rng.uniform(0, seconds))
            if how == "random":
                child.kill()
            else:
                self.kill_a_process(child)
        outcome = child.wait()
        if outcome.returncode == 0:
            return "too late"
        if outcome.returncode not in (-signal.SIGKILL, 1 if how == "one of two" else None):
            raise Lost(f"it ended with {outcome.returncode}: {outcome.stderr.strip()[-500:]}")
        return how

    def kill_a_process(self, child):
        """Kill one process of a run; all of them must end by themselves."""
        pids = [child.pid, *children_of(child.pid)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[int(self.rng.integers(len(pids)))], signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        child.process.join(PATIENCE)
        while group_lives(child.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if group_lives(child.pid):
            child.wait(0)
            raise Lost(f"{PATIENCE:g} s after one process was killed another is still there")

    def check_after_kill(self):
        """No file under its final name is unreadable."""
        data = self.place / "data"
        if self.phase == "prepare":
            if data.exists() and digests(data) not in (self.old, digests(self.reference.prepared)):
                raise Lost(f"{data} is neither the old folder nor the new one")
            kept = self.place / ".data.old"
            if self.old and not data.exists() and (not kept.exists() or digests(kept) != self.old):
                raise Lost(f"{data} is gone and its old content, too")
        elif self.phase == "rechunk":
            before, after = digests(self.reference.prepared), digests(self.reference.data)
            for name, digest in digests(data).items():
                is_left_over = "lock" in name or name.endswith(".partial")
                if not is_left_over and digest not in (before[name], after[name]):
                    raise Lost(f"{data / name} is neither as before nor re-chunked")
        elif self.trains and (self.place / "runs").exists():
            for path in (self.place / "runs").rglob("*"):
                read(path)  # an error here is one

    def check_result(self, outcome):
        """The result is that of the reference, bit for bit."""
        left = [path for path in self.place.rglob("*") if path.name.endswith((".partial", ".old"))]
        if left:
            raise Lost(f"{left[0]} is left over")
        found = None
        written = {"prepare": self.reference.prepared, "rechunk": self.reference.data}
        if self.phase in written:
            found = different_file(written[self.phase], self.place / "data")
        elif self.trains:
            processes = 2 if self.phase == "train in two" else 1
            found = different_run(self.reference.run(processes), self.place / RUN)
        elif outcome.stdout != (self.reference.folder / "evaluate.out").read_text():
            found = outcome.stdout
        if found:
            raise Lost(f"not the result of an undisturbed run: {found}")


def children_of(pid):
    with contextlib.suppress(OSError):  # it has ended
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def group_lives(group):
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


# ------------------------------------------------------------------------------------- in the child


def run_and_die(at, how, script, *options):
    """Run a script that is killed before or after the at-th call that makes a save."""
    calls, main = [], os.getpid()

    def hook(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if os.getpid() != main:
                return original(*args, **kwargs)
            calls.append(name)
            if len(calls) - 1 != at:
                return original(*args, **kwargs)
            if how == "after":
                original(*args, **kwargs)
            os.killpg(0, signal.SIGKILL)

        setattr(owner, name, call)

    for owner, name in SAVES:
        hook(owner, name)
    warm.as_script(script, *options)
