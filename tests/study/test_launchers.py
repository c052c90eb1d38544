"""Many runs at once: on cores of their own, by Slurm and by Ray, with stand-ins of scripts."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from test_experiments import calls, perform, place, wait_for  # noqa: F401  (place is a fixture)

from cli import InputError
from config import Config
from study import commands, launchers

FIVE = ["--seeds", "0", "1", "2", "3", "4"]


def test_two_jobs_run_at_once_each_on_cores_of_its_own(place):  # noqa: F811
    for name in ("mtl0", "baseline0"):
        (place / f"{name}.txt").write_text("meet")
    perform("--seeds", "0", jobs="2")
    first, second = (
        json.loads((place / f"here_{name}.txt").read_text()) for name in ("mtl0", "baseline0")
    )
    if len(os.sched_getaffinity(0)) >= 2:
        assert first and not set(first) & set(second)


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(launchers.os, "sched_getaffinity", lambda pid: {3, 1, 2, 7, 5})
    assert launchers.core_sets(1) == [None] and launchers.core_sets(9) == [None] * 9
    assert launchers.core_sets(2) == [{1, 2}, {3, 5}]


@pytest.mark.parametrize(
    "options, cores, jobs",
    [
        ({"threads": 1}, 1, 8),
        ({}, 1, 8),
        ({"threads": 2, "processes": 2}, 4, 2),
        ({"threads": 16}, 16, 1),
        ({"device": "cuda"}, 1, 1),
    ],
)
def test_as_many_jobs_as_there_are_cores_for(monkeypatch, options, cores, jobs):
    monkeypatch.setattr(launchers, "usable_cores", lambda: 8)
    monkeypatch.setattr(launchers.Path, "exists", lambda path: False)
    monkeypatch.setattr(launchers.sys, "platform", "linux")
    config = Config(**options)
    assert launchers.cores_of(config) == cores and launchers.jobs_by_default(config) == jobs


@pytest.mark.parametrize("launcher, module", [("slurm", "submitit"), ("ray", "ray")])
def test_what_is_not_installed_is_named_with_its_line(place, monkeypatch, launcher, module):  # noqa: F811
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"requirements-{launcher}\.txt"):
        perform("--launcher", launcher)
    assert not (place / "calls.txt").exists()


@pytest.mark.slow
def test_ten_runs_through_submitit(place, monkeypatch, capsys):  # noqa: F811
    pytest.importorskip("submitit", reason="it is installed with requirements-slurm.txt")
    on_this_machine = lambda *args: launchers.slurm(*args, cluster="local")  # noqa: E731
    monkeypatch.setitem(launchers.LAUNCHERS, "slurm", on_this_machine)
    monkeypatch.setenv("PYTHONPATH", str(launchers.ROOT))
    (place / "mtl3.txt").write_text("fail")
    with pytest.raises(SystemExit):
        perform(*FIVE, "--launcher", "slurm")
    said = capsys.readouterr()
    assert len(calls(place)) == 10 and "mtl seed 3 (exit status 1)" in said.err
    assert "a fault of seed 3" in said.out and said.out.count(": finished") == 9


@pytest.mark.slow
def test_a_job_that_has_to_make_room_is_queued_again_with_the_same_command(place):  # noqa: F811
    pytest.importorskip("submitit", reason="it is installed with requirements-slurm.txt")
    (place / "mtl0.txt").write_text("wait")
    job = launchers.Job([sys.executable, "train_mtl.py", "--seed", "0"])
    job.process = subprocess.Popen(job.words)
    wait_for((place / "waitingmtl.txt").exists, job.process)
    again = job.checkpoint()
    assert (place / "stopped.txt").exists() and again.function.words == job.words


SIGNALLED = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from study import launchers

job = launchers.Job([sys.executable, "-c", sys.argv[2]])
def signalled(*_):
    print(job.checkpoint().function.words == job.words, flush=True)
    os._exit(7)
signal.signal(signal.SIGUSR2, signalled)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGUSR2)).start()
print(job())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Slurm is for Linux")
def test_a_job_is_asked_to_make_room_by_a_signal_that_interrupts_its_waiting():
    pytest.importorskip("submitit", reason="it is installed with requirements-slurm.txt")
    run = "import time; time.sleep(60)"
    words = [sys.executable, "-c", SIGNALLED, launchers.ROOT, run]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (7, "True\n"), done.stderr


@pytest.mark.slow
def test_ten_runs_through_two_nodes_of_ray_of_which_one_is_killed(place):  # noqa: F811
    ray = pytest.importorskip("ray", reason="it is installed with requirements-ray.txt")
    from ray.cluster_utils import Cluster

    for name in ("mtl0", "baseline0"):  # the first two, one on each node
        (place / f"{name}.txt").write_text("slow")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        other = cluster.add_node(num_cpus=1)
        runs = []
        for seed in range(5):
            for name in ("mtl", "baseline"):
                run = commands.published(name, "--runs", place / "runs")
                runs.append(commands.Run(run.script, run.config.replace(seed=seed)))

        def kill_when_both_work():
            while not (place / "calls.txt").exists() or len(calls(place)) < 2:
                time.sleep(0.05)
            cluster.remove_node(other, allow_graceful=False)

        killer = threading.Thread(target=kill_when_both_work)
        killer.start()
        settings = launchers.Settings(address=cluster.address)
        outcomes = list(launchers.on_ray([run.words for run in runs], settings))
        killer.join()
        assert {status for _, status, _ in outcomes} == {0} and len(outcomes) == 10
        assert all(run.is_finished for run in runs)
        assert len(calls(place)) > 10  # what the lost node had in hand was begun again
    finally:
        ray.shutdown()
        cluster.shutdown()
