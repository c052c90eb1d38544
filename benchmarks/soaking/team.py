"""Runs in two processes of which one is killed at random: the other must end too, and the run must lose nothing by it."""

import contextlib
import os
import shutil
import signal
import time

import numpy as np
from tqdm import tqdm

from soaking import kills, server
from soaking.kills import Lost
from soaking.server import TRAIN, Child, call, run_script

SCRIPT = "train_mtl.py"
PATIENCE = 30.0  # seconds in which the others have to end
EPOCHS = ("--epochs", "12")  # so that not all of a run is its start


def soak(reference, times, seed):
    """Kill a process of a run so many times; returns (rows of a table, results, failures)."""
    argv = [
        "--data",
        reference.data,
        "--runs",
        "runs",
        *TRAIN,
        *EPOCHS,
        "--processes",
        "2",
        "--threads",
        "1",
        "--resume",
    ]
    place = reference.folder / "team"
    place.mkdir()
    undisturbed = server.run(SCRIPT, argv, place)
    if undisturbed.status != 0:
        raise RuntimeError(
            f"a run in two processes ends with {undisturbed.status}: {undisturbed.err}"
        )
    expected, failures = place / "runs" / "mtl" / "seed0", []
    counts = {"the first": 0, "the other": 0, "before there was another": 0, "too late": 0}
    with tqdm(total=times, desc="kills in a team", unit="kill", disable=None) as bar:
        while sum(counts.values()) - counts["too late"] < times:
            try:
                attempt(
                    reference,
                    argv,
                    expected,
                    undisturbed.seconds,
                    np.random.default_rng(seed),
                    counts,
                )
            except Lost as loss:
                failures.append(f"kill in a team, --seed {seed}: {loss}")
            seed += 1
            bar.n = sum(counts.values()) - counts["too late"]
            bar.refresh()
    rows = [[whom, count] for whom, count in counts.items()]
    return (
        [["killed", "times"], *rows],
        {"team_kills": sum(counts.values()) - counts["too late"]},
        failures,
    )


def attempt(reference, argv, expected, seconds, rng, counts):
    """Kill one to three times, then let the run come to its end and compare."""
    place = reference.folder / "team-try"
    place.mkdir()
    try:
        for _ in range(int(rng.integers(1, 4))):
            child = Child(run_script, SCRIPT, argv, cwd=place)
            child.process.join(rng.uniform(0, seconds))
            whom = kill_one(child, rng)
            outcome = wait_for_all(child)
            if outcome.status == 0:
                counts["too late"] += 1
                break
            counts[whom] += 1
            if whom == "the other" and (
                outcome.status != 1 or "was killed by signal 9" not in outcome.err
            ):
                raise Lost(
                    f"the first process ends with {outcome.status}: {outcome.err.strip()[-500:]}"
                )
        outcome = server.run(SCRIPT, argv, place)
        if outcome.status != 0:
            raise Lost(f"the same command ends with {outcome.status}: {outcome.err.strip()[-500:]}")
        different = call(
            kills.print_differences, expected, place / "runs" / "mtl" / "seed0", cwd=place
        )
        if different:
            raise Lost(different)
    finally:
        shutil.rmtree(place)


def kill_one(child, rng):
    """Kill the first process of a run or, where there is one, the other; returns whom."""
    first = child.process.pid
    try:
        with open(f"/proc/{first}/task/{first}/children") as file:
            others = [pid for pid in map(int, file.read().split()) if is_worker(pid)]
    except OSError:  # it has ended
        others = []
    whom = (first, *others)[int(rng.integers(1 + len(others)))]
    with contextlib.suppress(ProcessLookupError):
        os.kill(whom, signal.SIGKILL)
    return "the other" if whom != first else "the first" if others else "before there was another"


def is_worker(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return "spawn_main" in file.read()
    except OSError:
        return False


def wait_for_all(child):
    """Wait until all processes of a run have ended, which nobody helps them with; returns the first one's Outcome."""
    child.process.join(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while group_is_there(child.process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    if group_is_there(child.process.pid):
        child.wait(0)
        raise Lost(f"{PATIENCE:g} s after one process was killed another is still there")
    return child.wait()


def group_is_there(group):
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
