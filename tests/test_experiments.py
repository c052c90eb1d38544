"""All runs by one command: what it starts, skips, survives and says, with stand-ins of scripts."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, copy_project
from fabricated import make_run

import experiments
from cli import InputError
from study import commands
from study.table import EXPERIMENTS

# A script that takes no time: it notes its arguments, then obeys a file named after its run.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
script, words = Path(sys.argv[0]).name, sys.argv[1:]
def value(key, default):
    return words[words.index(key) + 1] if key in words else default
seed, runs = value("--seed", "0"), Path(value("--runs", "runs"))
experiment = script.removeprefix("train_").removesuffix(".py")
with open("calls.txt", "a") as file:
    file.write(json.dumps([experiment, *words]) + "\\n")
orders = Path(f"{experiment}{seed}.txt")
order = orders.read_text() if orders.exists() else ""
if order == "refuse":
    print(f"{script}: the data are missing", file=sys.stderr)
    sys.exit(2)
if order == "fail":
    raise ValueError("a fault of seed " + seed)
if order == "vanish":
    sys.exit(0)
if order == "wait":
    def stop(number, frame):
        Path("stopped.txt").write_text(str(number))
        print("stopped; go on with --resume", flush=True)
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGTERM, stop)
    Path(f"waiting{experiment}.txt").touch()
    time.sleep(60)
if order == "slow":
    time.sleep(4)
if order == "meet":  # until all who are to are here, or never
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    Path(f"here_{experiment}{seed}.txt").write_text(json.dumps(cores))
    deadline = time.monotonic() + 30
    while len(list(Path().glob("here_*.txt"))) < 2:
        if time.monotonic() > deadline:
            sys.exit(3)
        time.sleep(0.01)
for epoch in (1, 2):
    print(f"epoch {epoch}/2: loss 1", flush=True)
folder = runs / experiment / f"seed{seed}"
folder.mkdir(parents=True, exist_ok=True)
(folder / "test.json").write_text("{}")
print(experiment, seed, "done")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a copy of the project in which two scripts are stand-ins."""
    copy_project(tmp_path)
    for name in ("train_mtl.py", "train_baseline.py"):
        (tmp_path / name).write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    return tmp_path


def perform(*argv, jobs="1"):
    words = ["--only", "mtl", "baseline", "--jobs", jobs, *argv]
    experiments.main(experiments.parse_args(words))


def calls(place):
    return [json.loads(line) for line in (place / "calls.txt").read_text().splitlines()]


def wait_for(condition, process, limit=60):
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_it_starts_without_what_only_training_takes():
    """PyTorch takes seconds to import, and the processes of the runs import it themselves."""
    code = "import sys, experiments; assert not sys.modules.keys() & {'torch', 'matplotlib'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_list_prints_a_command_a_line_that_a_shell_can_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "my runs", "mtl", 0, epochs=3, width=48)
    words = "--list", "--seeds", "0", "1", "--", "--runs", "my runs", "--epochs", "3"
    experiments.main(experiments.parse_args([*words, "--conflicts", "8"]))
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 19  # mtl seed 0 is finished
    scripts = [line[1].rpartition("/")[2] for line in lines]
    assert scripts[:2] == ["train_baseline.py", "train_ablation_cls.py"]
    assert lines[4][2:4] == ["--split", "80-10-10"]
    for line in lines:
        assert line[line.index("--runs") + 1] == "my runs" and "--resume" in line
        assert ("--conflicts" in line) != ("train_baseline.py" in line[1])
        assert "--tasks" not in line and "--weighting" not in line
    assert len(EXPERIMENTS) == 10


def test_seeds_go_round_and_what_is_finished_is_skipped(place, capsys):
    perform("--seeds", "0", "1", "--", "--epochs", "2")
    assert [call[0] for call in calls(place)] == ["mtl", "baseline"] * 2
    assert all(call[call.index("--epochs") + 1] == "2" for call in calls(place))
    out = capsys.readouterr().out
    assert "mtl seed 1: finished" in out and "mtl 1 done" in out and "epoch" not in out
    perform("--seeds", "0", "1", "2", "--", "--epochs", "2")
    assert len(calls(place)) == 6


@pytest.mark.parametrize("order, words", [("fail", "exit status 1"), ("vanish", "test.json")])
def test_a_failure_is_named_and_the_others_go_on(place, capsys, order, words):
    (place / "mtl0.txt").write_text(order)
    with pytest.raises(SystemExit) as stop:
        perform("--seeds", "0", "1", jobs="2")
    assert stop.value.code == 1 and len(calls(place)) == 4
    said = capsys.readouterr()
    assert "mtl seed 0" in said.err and words in said.err


def test_refused_runs_end_in_status_2_and_two_in_a_row_stop_it(place):
    (place / "mtl0.txt").write_text("refuse")
    with pytest.raises(SystemExit) as stop:
        perform("--seeds", "0", "1")
    assert stop.value.code == 2 and len(calls(place)) == 4
    (place / "baseline7.txt").write_text("refuse")
    (place / "mtl7.txt").write_text("refuse")
    with pytest.raises(InputError, match="the data are missing"):
        perform("--seeds", "7", "8")
    assert len(calls(place)) == 6


def test_no_run_is_started_after_the_hours(place, capsys):
    perform("--hours", "1e-9")
    assert not (place / "calls.txt").exists() and "10 runs left" in capsys.readouterr().out


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_runs_in_progress(place, number, status):
    for name in ("mtl", "baseline"):
        (place / f"{name}0.txt").write_text("wait")
    command = [sys.executable, "experiments.py", "--only", "mtl", "baseline", "--jobs", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
    wait_for(lambda: len(list(place.glob("waiting*.txt"))) == 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in err
    assert (place / "stopped.txt").read_text() == str(int(number)) and len(calls(place)) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--seeds", "-1"],
        ["--only", "nothing"],
        ["--grid", "tasks=seg", "--only", "mtl"],
        ["--study", "masks", "--repeat", "x"],
        ["--with-single-tasks"],
        ["--tune", "lr=1", "--seeds", "1000"],
        ["--tune", "lr=1", "--study", "masks"],
        ["--hours", "1", "--launcher", "ray"],
    ],
)
def test_wrong_use_is_refused(words):
    with pytest.raises(SystemExit) as stop:
        experiments.parse_args(words)
    assert stop.value.code == 2
