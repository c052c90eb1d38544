"""All runs by one command: what it starts, skips, survives and says. Mostly with stand-ins for the scripts, once with a real
one that is killed on its way."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import experiments
from cli import InputError
from study.table import EXPERIMENTS

# A script that takes no time: it notes its arguments, then does what a file called after its run says.
STAND_IN = """
import json, signal, sys, time
from pathlib import Path
script, seed = Path(sys.argv[0]).name, sys.argv[sys.argv.index("--seed") + 1]
runs = Path(sys.argv[sys.argv.index("--runs") + 1]) if "--runs" in sys.argv else Path("runs")
experiment = script.removeprefix("train_").removesuffix(".py")
with open("calls.txt", "a") as file:
    file.write(json.dumps([experiment, *sys.argv[1:]]) + "\\n")
orders = Path(f"{experiment}{seed}.txt")
order = orders.read_text() if orders.exists() else ""
if "--mistyped" in sys.argv or order == "refuse":
    print(f"{script}: unrecognized arguments: --mistyped; see {script} --help", file=sys.stderr)
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
    Path("waiting.txt").touch()
    time.sleep(60)
if order == "slow":
    time.sleep(4)
if order == "meet":  # until all who are to are here, or never
    import os
    Path(f"here_{experiment}{seed}.txt").write_text(json.dumps([
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], os.environ.get("OMP_NUM_THREADS")]))
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


@pytest.fixture()
def place(tmp_path, monkeypatch):
    """A working directory with experiments.py, what it imports, and stand-ins of two scripts."""
    for name in ("train_mtl.py", "train_baseline.py"):
        (tmp_path / name).write_text(STAND_IN)
    for name in ("experiments.py", "cli.py", "registry.py"):
        shutil.copy(ROOT / name, tmp_path)
    for room in ("study", "data"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "HERE", tmp_path)
    return tmp_path


def perform(*argv, jobs="1"):
    experiments.main(experiments.parse_args(["--only", "mtl", "baseline", "--jobs", jobs, *argv]))


def calls(place):
    return [json.loads(line) for line in (place / "calls.txt").read_text().splitlines()]


def test_ten_experiments_in_the_order_of_the_table():
    assert list(experiments.COMMANDS) == list(EXPERIMENTS) and len(EXPERIMENTS) == 10
    assert all((ROOT / command[0]).exists() for command in experiments.COMMANDS.values())


def test_it_starts_without_what_only_training_takes(tmp_path):
    """PyTorch takes seconds to import, and the processes of the runs import it themselves."""
    code = "import sys, experiments; assert not sys.modules.keys() & {'torch', 'matplotlib', 'training'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_list_prints_a_command_a_line_that_a_shell_can_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs/mtl/seed0").mkdir(parents=True)
    (tmp_path / "my runs/mtl/seed0/test.json").touch()
    experiments.main(
        experiments.parse_args(
            ["--list", "--seeds", "0", "1", "--", "--runs", "my runs", "--epochs", "3"]
        )
    )
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(commands) == 19  # mtl seed 0 is finished
    assert all(
        command[-4:] == ["--runs", "my runs", "--epochs", "3"] and "--resume" in command
        for command in commands
    )
    assert [command[command.index("--seed") + 1] for command in commands] == ["0"] * 9 + ["1"] * 10
    assert commands[4] == [
        sys.executable,
        str(ROOT / "oeq_splits.py"),
        "--split",
        "80-10-10",
        "--seed",
        "0",
        "--resume",
        "--runs",
        "my runs",
        "--epochs",
        "3",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "my runs"]


@pytest.mark.parametrize(
    "options, folder",
    [
        ([], "runs"),
        (["--runs", "x"], "x"),
        (["--runs=x y"], "x y"),
        (["--ru", "x"], "x"),
        (["--data", "d", "--run=x", "--lr", "1"], "x"),
        (["--runs", "x", "--runs", "z"], "z"),
    ],
    ids=str,
)
def test_finished_runs_are_looked_for_where_the_scripts_put_them(options, folder):
    assert str(experiments.places(options)[0]) == folder


@pytest.mark.parametrize(
    "options", [["--seed", "3"], ["--se=3"], ["--split", "80-10-10"], ["--runs"]], ids=str
)
def test_options_that_belong_to_single_runs_are_refused(options, capsys):
    with pytest.raises(SystemExit) as stop:
        experiments.places(options)
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["--only", "nonsense"],
        ["--seeds", "-1"],
        ["--seeds"],
        ["--seeds", "x"],
        ["mtl"],
        ["--epochs", "3"],
    ],
    ids=str,
)
def test_wrong_use_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        experiments.parse_args(argv)
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_seeds_go_round_and_what_is_finished_is_skipped(place, capsys):
    perform("--seeds", "1", "0", "1", "--", "--width", "2")
    order = [(call[0], call[2]) for call in calls(place)]
    assert order == [("mtl", "1"), ("baseline", "1"), ("mtl", "0"), ("baseline", "0")]
    assert calls(place)[0][1:] == ["--seed", "1", "--resume", "--width", "2"]
    said = capsys.readouterr().out
    assert (
        "4/4 baseline seed 0" in said
        and "    mtl 1 done" in said
        and " left\n" in said
        and "epoch" not in said
    )
    (place / "runs/mtl/seed0/test.json").unlink()
    perform("--seeds", "0", "1")
    assert len(calls(place)) == 5 and calls(place)[4][:3] == ["mtl", "--seed", "0"]


def test_a_failure_is_named_and_the_others_go_on(place, capsys):
    (place / "mtl0.txt").write_text("fail")
    (place / "baseline1.txt").write_text("vanish")
    with pytest.raises(SystemExit) as stop:
        perform("--seeds", "0", "1", "2")
    told = capsys.readouterr()
    assert stop.value.code == 1 and len(calls(place)) == 6
    assert (
        "2 of 6 runs failed: mtl seed 0 (exit status 1), baseline seed 1 (ended without a test.json)"
        in told.err
    )
    assert "ValueError: a fault of seed 0" in told.out
    (place / "mtl0.txt").unlink(), (place / "baseline1.txt").unlink()
    perform("--seeds", "0", "1", "2")
    assert len(calls(place)) == 8


def test_one_refused_run_ends_in_status_2(place, capsys):
    (place / "mtl0.txt").write_text("refuse")
    with pytest.raises(SystemExit) as stop:
        perform("--seeds", "0")
    assert (
        stop.value.code == 2
        and "1 of 2 runs failed: mtl seed 0 (refused)" in capsys.readouterr().err
    )


def test_a_mistyped_option_stops_it_after_two_runs(place):
    with pytest.raises(InputError, match="two runs in a row .* unrecognized arguments: --mistyped"):
        perform("--", "--mistyped")
    assert len(calls(place)) == 2


def test_the_estimate_goes_by_what_was_trained_since_the_start(monkeypatch):
    clock = iter((0.0, 240.0))
    monkeypatch.setattr(experiments.time, "monotonic", lambda: next(clock))
    progress = experiments.Progress(total=10, finished=6)
    assert progress.left() == ""
    progress.end_epoch(
        "mtl seed 0", 3, 4
    )  # resumed after epoch 2: one quarter of a run in four minutes
    assert progress.left() == "about 0 h 52 min left"  # 3.25 runs of 16 minutes


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_in_progress_and_all(place, number, status):
    (place / "mtl0.txt").write_text("wait")
    process = subprocess.Popen(
        [sys.executable, "experiments.py", "--only", "mtl", "baseline", "--jobs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((place / "waiting.txt").exists, process)
    process.send_signal(number)
    out, errors = process.communicate()
    assert process.returncode == status and "Traceback" not in errors
    assert (place / "stopped.txt").read_text() == str(int(number)) and "go on with --resume" in out
    assert len(calls(place)) == 1


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere the run ends at its next line of output"
)
def test_a_real_run_is_killed_with_its_parent_and_resumed(data, tmp_path):
    command = [
        sys.executable,
        ROOT / "experiments.py",
        "--only",
        "baseline",
        "--seeds",
        "0",
        "--",
        "--data",
        str(data),
        "--epochs",
        "40",
        "--limit",
        "8",
        "--width",
        "2",
        "--batch-size",
        "4",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    log = tmp_path / "runs/baseline/seed0/log.csv"
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 1, process)
    process.kill()
    process.communicate()
    time.sleep(0.5)
    rows = log.read_text().splitlines()
    time.sleep(0.5)
    assert log.read_text().splitlines() == rows and len(rows) < 41  # nobody trains any more
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch" in done.stdout and "1/1 baseline seed 0" in done.stdout
    assert [row.split(",")[0] for row in log.read_text().splitlines()[1:]] == [
        str(k + 1) for k in range(40)
    ]
    assert (log.parent / "test.json").exists()
