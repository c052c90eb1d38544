"""Where commands run: here, on Slurm, on Ray. A launcher takes commands and gives their outcomes.

    launcher(commands, settings) yields (index, exit status, lines that the command printed)

Commands are resumable: given again, they go on. When the caller stops, what was started ends,
too.
"""

import contextlib
import importlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cli import InputError, usable_cores

ROOT = Path(__file__).resolve().parent.parent
RETRIES = 100  # of a run whose worker or time is lost: each goes on from its last epoch


@dataclass(frozen=True)
class Settings:
    """jobs: commands at once, here; cores: that one keeps busy; folder: of the runs; minutes: of a
    Slurm job; hours: after which no command is started; show(index, line): what a command prints.
    """

    jobs: int = 1
    cores: int = 1
    folder: Path = Path("runs")
    partition: str | None = None
    minutes: int = 240
    address: str | None = None
    hours: float | None = None
    show: Callable = lambda index, line: None


def start(command, **more):
    """Start a command, in a session of its own, as Ctrl-C would else reach it twice."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    own = {"stdin": subprocess.DEVNULL, "start_new_session": True}
    return subprocess.Popen(command, env=environment, **own, **more)


# ------------------------------------------------------------------------------------------ here


def local(commands, settings):
    """So many processes at once on this machine; where there are several, each has its cores."""
    cores, processes = queue.SimpleQueue(), []
    for of_job in core_sets(settings.jobs):
        cores.put(of_job)
    end = time.monotonic() + 3600 * (settings.hours or 1e9)

    def perform(index):
        if time.monotonic() > end:
            return None
        own, lines = cores.get(), []
        if own:  # of this thread, whose process inherits them
            os.sched_setaffinity(0, own)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = start(commands[index], encoding="utf-8", errors="replace", **pipes)
        processes.append(process)
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            settings.show(index, lines[-1])
        cores.put(own)
        return index, process.wait(), lines

    pool = ThreadPoolExecutor(settings.jobs)
    try:
        for future in as_completed([pool.submit(perform, k) for k in range(len(commands))]):
            if future.result():
                yield future.result()
    except BaseException as stop:
        pool.shutdown(wait=False, cancel_futures=True)
        end_all(processes, isinstance(stop, KeyboardInterrupt))
        raise


def core_sets(jobs):
    """The cores of each of so many jobs; None where one may use all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // jobs
    if jobs == 1 or not each:
        return [None] * jobs
    return [set(cores[job * each : (job + 1) * each]) for job in range(jobs)]


def end_all(processes, interrupted):
    """Ask processes to end and wait for them; asked a second time, kill them."""
    try:
        for process in processes:
            process.send_signal(signal.SIGINT if interrupted else signal.SIGTERM)
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.kill()
        raise


# ----------------------------------------------------------------------------------------- Slurm


class Job:
    """A command as a job of submitit; where its time is over it ends and is queued again."""

    def __init__(self, words):
        self.words, self.process = words, None

    def __call__(self):
        self.process = start(self.words)
        return self.process.wait()

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        # A signal interrupts Popen.wait, whose lock a second one would wait for.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(self.words))


def slurm(commands, settings, cluster="slurm"):
    """One array job; what waits or runs there is cancelled where this is stopped."""
    submitit, helpers = load("submitit", "slurm"), load("submitit.helpers", "slurm")
    options = {"timeout_min": settings.minutes, "cpus_per_task": settings.cores}
    if settings.partition:
        options["slurm_partition"] = settings.partition
    try:
        executor = submitit.AutoExecutor(
            settings.folder / ".slurm", cluster=cluster, slurm_max_num_timeout=RETRIES
        )
    except RuntimeError as error:
        raise InputError(f"--launcher slurm: {error}; use --launcher local here") from None
    executor.update_parameters(name="experiments", **options)
    jobs = executor.map_array(Job.__call__, map(Job, commands))
    try:
        for job in helpers.as_completed(jobs, poll_frequency=0.5):
            lines = f"{job.stdout() or ''}\n{job.stderr() or ''}".splitlines()
            lines = [line for line in lines if not line.startswith("submitit ")]
            yield jobs.index(job), job.result() if job.exception() is None else 1, lines
    except BaseException:
        for job in jobs:
            job.cancel()
        raise


# ------------------------------------------------------------------------------------------- Ray


def on_ray(commands, settings):
    """Tasks of a Ray cluster; one whose worker is lost goes on elsewhere, in the same folder."""
    ray = load("ray", "ray")
    if not ray.is_initialized():
        path = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        try:
            ray.init(settings.address, runtime_env=path, log_to_driver=False)
        except ConnectionError:
            raise InputError(
                f"--address {settings.address}: no Ray cluster; start one with 'ray start --head'"
            ) from None
    remote = ray.remote(num_cpus=settings.cores, max_retries=RETRIES)(perform)
    waiting = {remote.remote(command, os.getcwd()): k for k, command in enumerate(commands)}
    try:
        while waiting:
            for task in ray.wait(list(waiting), timeout=0.5)[0]:
                try:
                    status, lines = ray.get(task)
                except ray.exceptions.RayError as error:
                    status, lines = 1, [str(error)]
                yield waiting.pop(task), status, lines
    except BaseException:
        for task in waiting:
            ray.cancel(task)
        raise


def perform(command, folder):
    """In a worker: (exit status, lines) of a command, which is killed where this is cancelled."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, **pipes)
    return done.returncode, done.stdout.splitlines()


def load(module, launcher):
    """Import what a launcher takes."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"--launcher {launcher} takes {module}: pip install -r requirements-{launcher}.txt"
        ) from None


LAUNCHERS = {"local": local, "slurm": slurm, "ray": on_ray}


def jobs_by_default(config):
    """As many runs at once as there are cores for; one where a GPU is likely to compute."""
    has_gpu = sys.platform == "darwin" or Path("/dev/nvidia0").exists()
    if has_gpu or config.device == "cuda":
        return 1
    return max(1, usable_cores() // cores_of(config))


def cores_of(config):
    """Cores that a run keeps busy."""
    return (config.threads or 1) * config.processes
