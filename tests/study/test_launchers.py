"""Many runs at once: on cores of their own, by Slurm's and Ray's ways; stopped together. With stand-ins for the scripts."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from test_experiments import calls, perform, place, wait_for  # noqa: F401  (place is a fixture)

import experiments
from cli import InputError
from study import launchers

TEN = ["--seeds", "0", "1", "2", "3", "4"]


# -------------------------------------------------------------------------------------------------------------- here


def test_two_jobs_run_at_once_each_on_cores_of_its_own(place, capsys):
    for name in ("mtl0", "baseline0"):
        (place / f"{name}.txt").write_text("meet")
    perform("--seeds", "0", jobs="2")
    said = capsys.readouterr().out
    assert (
        "    mtl seed 0: mtl 0 done" in said
        and "    baseline seed 0: finished" in said
        and "epoch" not in said
    )
    found = [json.loads((place / f"here_{name}.txt").read_text()) for name in ("mtl0", "baseline0")]
    if hasattr(os, "sched_getaffinity") and launchers.usable_cores() >= 2:
        (first, threads), (second, _) = found
        assert first and not set(first) & set(second) and threads == str(len(first))


def test_with_several_jobs_a_failure_is_named_and_the_others_go_on(place, capsys):
    (place / "mtl0.txt").write_text("fail")
    with pytest.raises(SystemExit) as stop:
        perform(*TEN, jobs="3")
    assert stop.value.code == 1 and len(calls(place)) == 10
    told = capsys.readouterr()
    assert "1 of 10 runs failed: mtl seed 0 (exit status 1)" in told.err
    assert "    mtl seed 0: ValueError: a fault of seed 0" in told.out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_a_signal_stops_all_runs_in_progress(place):
    for name in ("mtl0", "baseline0"):
        (place / f"{name}.txt").write_text("wait")
    process = subprocess.Popen(
        [sys.executable, "experiments.py", "--only", "mtl", "baseline", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(
        lambda: (
            (place / "calls.txt").exists()
            and len(calls(place)) == 2
            and (place / "waiting.txt").exists()
        ),
        process,
    )
    time.sleep(0.3)  # until both have their handlers
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate()
    assert process.returncode == 143 and "Traceback" not in errors
    assert len(calls(place)) == 2 and out.count("go on with --resume") == 2


@pytest.mark.parametrize(
    "commands, cores, jobs",
    [
        ([["py", "a.py"]], 8, 8),
        ([["py", "a.py", "--threads", "2"], ["py", "b.py"]], 8, 4),
        ([["py", "a.py", "--threads=3"]], 8, 2),
        ([["py", "a.py", "--processes", "2", "--threads", "2"]], 8, 2),
        ([["py", "a.py", "--processes", "auto"]], 2, 2),
        ([["py", "a.py", "--threads", "16"]], 8, 1),
        ([["py", "a.py", "--device", "cuda"]], 8, 1),
    ],
    ids=str,
)
def test_as_many_jobs_as_there_are_cores_for(monkeypatch, commands, cores, jobs):
    monkeypatch.setattr(launchers, "usable_cores", lambda: cores)
    monkeypatch.setattr(launchers.sys, "platform", "linux")
    monkeypatch.setattr(launchers.Path, "exists", lambda path: False)  # no GPU
    assert launchers.jobs_by_default(commands) == jobs


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the system pins no process to cores"
)
def test_slots_share_the_cores_out(monkeypatch):
    monkeypatch.setattr(launchers.os, "sched_getaffinity", lambda pid: {3, 1, 2, 7, 5})
    assert launchers.cores_of_slots(1) == [None] and launchers.cores_of_slots(9) == [None] * 9
    assert launchers.cores_of_slots(2) == [{1, 2}, {3, 5}]


# ---------------------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize("launcher, module", [("slurm", "submitit"), ("ray", "ray")])
def test_what_is_not_installed_is_named_with_its_line(place, monkeypatch, launcher, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install -r requirements-{launcher}.txt"):
        perform("--launcher", launcher)
    assert not (place / "calls.txt").exists()


def test_ten_runs_through_submitit(place, monkeypatch, capsys):
    pytest.importorskip("submitit", reason="it is installed with requirements-slurm.txt")
    monkeypatch.setitem(
        launchers.LAUNCHERS, "slurm", lambda *args: launchers.slurm(*args, cluster="local")
    )
    monkeypatch.setenv("PYTHONPATH", str(launchers.ROOT))
    (place / "mtl3.txt").write_text("fail")
    with pytest.raises(SystemExit):
        perform(*TEN, "--launcher", "slurm")
    told = capsys.readouterr()
    assert len(calls(place)) == 10 and "1 of 10 runs failed: mtl seed 3 (exit status 1)" in told.err
    assert (
        "    mtl seed 3: ValueError: a fault of seed 3" in told.out
        and told.out.count("finished after") == 9
    )


def test_a_job_that_has_to_make_room_is_queued_again_with_the_same_command(place):
    pytest.importorskip("submitit", reason="it is installed with requirements-slurm.txt")
    (place / "mtl0.txt").write_text("wait")
    command = launchers.Command([sys.executable, "train_mtl.py", "--seed", "0"])
    command.process = subprocess.Popen(command.words)
    wait_for((place / "waiting.txt").exists, command.process)
    again = command.checkpoint()
    assert (place / "stopped.txt").read_text() == str(
        int(signal.SIGTERM)
    ) and again.function.words == command.words


SIGNALLED = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from study import launchers

command = launchers.Command([sys.executable, "-c", sys.argv[2]])
def signalled(*_):
    print(command.checkpoint().function.words == command.words, flush=True)
    os._exit(7)
signal.signal(signal.SIGUSR2, signalled)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGUSR2)).start()
print(command())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Slurm is for Linux")
@pytest.mark.parametrize(
    "run",
    ["import time; time.sleep(60)", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"],
)
def test_a_job_is_asked_to_make_room_by_a_signal_that_interrupts_its_waiting(run):
    """As a real Slurm does, which signals the run as well."""
    pytest.importorskip("submitit", reason="it is installed with requirements-slurm.txt")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, launchers.ROOT, run],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout) == (7, "True\n"), done.stderr


def test_a_job_is_given_up_when_it_has_left_the_queue(monkeypatch):
    looks = [
        (0, "7_0\n7_1\n"),
        (0, "7_1\n"),
        (1, ""),
        (0, "7_0\n7_1\n"),
        (0, "7_1\n"),
        (0, "7_1\n"),
        (0, ""),
    ]
    monkeypatch.setattr(launchers, "LOOK", -1)
    monkeypatch.setattr(
        launchers.subprocess,
        "run",
        lambda *args, **kwargs: subprocess.CompletedProcess(args, *looks.pop(0)),
    )
    gone, job = launchers.Gone(), argparse.Namespace(job_id="7_0")
    assert [gone(job) for _ in range(6)] == [False] * 5 + [True] and len(looks) == 1


def test_ten_runs_through_two_nodes_of_ray_of_which_one_is_killed(place, capsys):
    pytest.importorskip("ray", reason="it is installed with requirements-ray.txt")
    from ray.cluster_utils import Cluster

    (
        (place / "mtl0.txt").write_text("slow"),
        (place / "baseline0.txt").write_text("slow"),
    )  # the first two, one on each node
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        other = cluster.add_node(num_cpus=1)
        runs = [
            experiments.Run(name, seed, [], place / "runs")
            for seed in range(5)
            for name in ("mtl", "baseline")
        ]

        class Report:
            ended = {}

            def begin(self, run, slot):
                pass

            def line(self, run, text):
                pass

            def end(self, run, slot, status):
                self.ended[run.name] = status

        def kill_when_both_work():
            while not (place / "calls.txt").exists() or len(calls(place)) < 2:
                time.sleep(0.05)
            cluster.remove_node(other, allow_graceful=False)

        killer = threading.Thread(target=kill_when_both_work)
        killer.start()
        launchers.on_ray(runs, 10, Report(), argparse.Namespace(cores=1, address=cluster.address))
        killer.join()
        assert all(run.is_finished() for run in runs) and set(Report.ended.values()) == {0}, (
            Report.ended
        )
        assert len(calls(place)) > 10  # what the lost node had in hand was begun again
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
