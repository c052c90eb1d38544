"""Runs of preparation, re-chunking, training and evaluation that are killed at random, and must lose nothing by it."""

import csv
import io
import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import torch
from tqdm import tqdm

from soaking import server
from soaking.server import Child, call, commands, digests, run_script
from study.repeat import TIMES

# The phase of each try, by its seed, over and over. A training is killed several times.
CYCLE = ("train", "rechunk", "prepare", "train", "evaluate", "rechunk", "prepare", "train")
# What makes a save. A kill aimed at saves comes just before, in the middle of, or just after a call of these.
SAVES = ((os, "replace"), (os, "fsync"), (torch, "save"), (shutil, "rmtree"), (h5py.File, "close"))
ATTEMPTS = 9  # of a try, most of them late, before it goes on to the next
AIMED = 0.5  # share of the kills that are aimed at saves


class Lost(Exception):
    """Something that a kill must not do; the message says what."""


def soak(reference, kills, seed):
    """Kill at least so many runs; returns (rows of a table, results, failures)."""
    counts = {
        phase: {"random": 0, "save": 0, "too late": 0, "tries": 0} for phase in dict.fromkeys(CYCLE)
    }
    saves = {phase: count_saves(reference, phase) for phase in counts}
    failures, total = [], 0
    with tqdm(total=kills, desc="kills", unit="kill", disable=None) as bar:
        while total < kills:
            phase = CYCLE[seed % len(CYCLE)]
            place = reference.folder / f"kill{seed}"
            place.mkdir()
            try:
                Try(reference, phase, place, seed, saves[phase], counts[phase]).run()
            except Lost as loss:
                failures.append(f"kill, {phase}, --seed {seed}: {loss}")
            seed += 1
            counts[phase]["tries"] += 1
            now = sum(count[how] for count in counts.values() for how in ("random", "save"))
            bar.update(now - total)
            total = now
            shutil.rmtree(place)
    header = [
        "phase",
        "seconds undisturbed",
        "tries",
        "killed at random",
        "killed at a save",
        "kill came too late",
    ]
    rows = [
        [
            phase,
            reference.seconds[phase],
            count["tries"],
            count["random"],
            count["save"],
            count["too late"],
        ]
        for phase, count in counts.items()
    ]
    return (
        [header, *rows],
        {
            "kills": total,
            "kills_by_phase": {p: c["random"] + c["save"] for p, c in counts.items()},
            "kills_at_saves": sum(c["save"] for c in counts.values()),
        },
        failures,
    )


class Try:
    """One run of a phase: killed, checked, run again to its end, compared with the reference."""

    def __init__(self, reference, phase, place, seed, saves, counts):
        self.reference, self.phase, self.place, self.saves, self.counts = (
            reference,
            phase,
            place,
            saves,
            counts,
        )
        self.rng = np.random.default_rng(seed)
        self.script, self.argv = commands(reference)[phase]

    def run(self):
        self.begin()
        kills, attempts = int(self.rng.integers(2, 7)) if self.phase == "train" else 1, 0
        while kills and attempts < ATTEMPTS:
            attempts += 1
            if self.killed(attempts):
                self.check_after_kill()
                kills -= 1
            elif kills and attempts < ATTEMPTS:  # it has ended before the kill: from the start
                shutil.rmtree(self.place)
                self.place.mkdir()
                self.begin()
        outcome = server.run(self.script, self.argv + self.extra(), self.place)
        if outcome.status != 0:
            raise Lost(f"the same command ends with {outcome.status}: {outcome.err.strip()[-500:]}")
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

    def killed(self, attempt):
        """Start the phase and kill it, sooner where attempts were too late; returns whether the kill came in time."""
        if self.saves and self.rng.random() < AIMED:
            aim = "save"
            at, how = (
                int(self.rng.integers(self.saves)),
                self.rng.choice(["before", "during", "after"]),
            )
            child = Child(
                run_and_die, self.script, self.argv + self.extra(), at, how, cwd=self.place
            )
        else:
            aim = "random"
            child = Child(run_script, self.script, self.argv + self.extra(), cwd=self.place)
            moment = self.rng.uniform(0, self.reference.seconds[self.phase]) / (
                1 if attempt < 4 else 4
            )
            child.process.join(moment)
            child.kill()
        outcome = child.wait()
        if outcome.status == -signal.SIGKILL:
            self.counts[aim] += 1
            return True
        if outcome.status != 0:
            raise Lost(
                f"before any kill it ends with {outcome.status}: {outcome.err.strip()[-500:]}"
            )
        self.counts["too late"] += 1
        return False

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
                # A killed process leaves its partial file and its lock file behind; neither is in the next one's way.
                if (
                    name != "lock"
                    and not name.endswith(".partial")
                    and digest not in (before[name], after[name])
                ):
                    raise Lost(f"{data / name} is neither as before nor re-chunked")
        elif self.phase == "train" and (self.place / "runs").exists():
            unreadable = call(print_unreadable, self.place / "runs", cwd=self.place)
            if unreadable:
                raise Lost(unreadable)

    def check_result(self, outcome):
        """The result is that of the reference, bit for bit."""
        left = [
            path.name for path in self.place.rglob("*") if path.name.endswith((".partial", ".old"))
        ]
        if left:
            raise Lost(f"{left[0]} is left over")
        if self.phase == "prepare":
            self.same_files(self.reference.prepared, self.place / "data")
        elif self.phase == "rechunk":
            self.same_files(self.reference.data, self.place / "data")
        elif self.phase == "evaluate" and outcome.out != self.reference.metrics:
            raise Lost(f"the metrics are {outcome.out} and were {self.reference.metrics}")
        elif self.phase == "train":
            different = call(
                print_differences,
                self.reference.run,
                self.place / "runs" / "mtl" / "seed0",
                cwd=self.place,
            )
            if different:
                raise Lost(different)

    def same_files(self, reference, folder):
        expected, found = digests(reference), digests(folder)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise Lost(f"{folder / name} is not that of an uninterrupted run")


def run_and_die(script, argv, at, how):
    """In a child: run a script that is killed at the at-th call that makes a save."""
    hook_saves(lambda number: how if number == at else None)
    run_script(script, argv)


def hook_saves(decide):
    """Call decide(number of the call) at every call in SAVES: "before", "during" or "after" kills the group there."""
    main, calls = os.getpid(), []

    def hook(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if os.getpid() != main:
                return original(*args, **kwargs)
            calls.append(name)
            how = decide(len(calls) - 1)
            if how == "during" and name == "save":
                write_half(original, *args)
            if how in ("before", "during"):
                os.killpg(0, signal.SIGKILL)
            result = original(*args, **kwargs)
            if how == "after":
                os.killpg(0, signal.SIGKILL)
            return result

        setattr(owner, name, call)

    for owner, name in SAVES:
        hook(owner, name)


def write_half(save, content, file):
    """What the disk holds of a checkpoint when the process dies in the middle of writing it."""
    whole = io.BytesIO()
    save(content, whole)
    half = whole.getvalue()[: len(whole.getvalue()) // 2]
    if hasattr(file, "write"):
        file.write(half)
        file.flush()
    else:
        Path(file).write_bytes(half)


def count_saves(reference, phase):
    """How many calls make saves when a phase runs undisturbed."""
    place = reference.folder / f"saves-{phase}"
    place.mkdir()
    if phase == "rechunk":
        shutil.copytree(reference.prepared, place / "data")
    return int(call(print_saves, *commands(reference)[phase], cwd=place).split()[-1])


def print_saves(script, argv):
    calls = []
    hook_saves(calls.append)
    run_script(script, argv)
    print(len(calls))


# ------------------------------------------------------------------------------------------------- looking into run folders


def print_unreadable(folder):
    """In a child: the first file of a run folder that cannot be read, and why."""
    for path in sorted(folder.rglob("*")):
        try:
            read(path)
        except Exception as error:  # whatever it is, the file is of no use
            print(f"{path} is unreadable: {error}")
            return


def read(path):
    """Content of one file of a run folder, times left out; None for what is no record."""
    if path.suffix == ".pt":
        content = torch.load(path, map_location="cpu", weights_only=True)
        return without_times(content)
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        if not rows or any(None in row or None in row.values() for row in rows):
            raise ValueError("a row is incomplete")
        return [without_times(row) for row in rows]
    return None


def without_times(value):
    """A record without what may differ between two equal runs."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [without_times(item) for item in value]
    return value


def print_differences(reference, folder):
    """In a child: the first difference between what two runs have left."""
    for name in ("best.pt", "last.pt", "log.csv", "test.json", "test_per_image.csv"):
        different = difference(read(reference / name), read(folder / name), name)
        if different:
            print(different)
            return
    for name in ("curves.png", "mask.png", "config.json"):
        if not (folder / name).exists():
            print(f"{name} is missing")


def difference(a, b, where):
    """The first place where two records differ, in words; None where they do not. Digests follow the times they cover."""
    if type(a) is not type(b):
        return f"{where}: {a!r} and {b!r}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where}: the keys {sorted(map(str, a.keys() ^ b.keys()))} are in one only"
        found = (difference(a[key], b[key], f"{where}, {key}") for key in a if key != "digest")
        return next(filter(None, found), None)
    if isinstance(a, list):
        if len(a) != len(b):
            return f"{where}: {len(a)} and {len(b)} entries"
        return next(
            filter(None, (difference(x, y, f"{where}[{k}]") for k, (x, y) in enumerate(zip(a, b)))),
            None,
        )
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)
        return None if same else f"{where}: tensors differ"
    return None if a == b or (a != a and b != b) else f"{where}: {a!r} and {b!r}"


def bytes_of(tensor):
    return (
        tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        if tensor.ndim
        else tensor.numpy().tobytes()
    )
