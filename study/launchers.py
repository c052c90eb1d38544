"""Where the commands of many runs are performed: here, by Slurm, by Ray. One function each, found by its name in LAUNCHERS.

    launcher(runs, jobs, report, args)

runs     each has a name, a command (list of words) and is_finished(). All are resumable: a command given again goes on.
jobs     how many at once; one slot each, numbered from 0. Slurm and Ray do as many as they have room for.
report   is told of what happens: begin(run, slot), line(run, text), end(run, slot, exit status). What it raises stops all.
args     of the command line: partition, time (minutes), address, and folder, where the runs lie.

A signal ends what was started here, which then ends as by Ctrl-C and can be resumed.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cli
from cli import InputError, usable_cores

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.5  # seconds between two looks at a cluster
RETRIES = 100  # of a run whose worker or time is lost: each goes on from its last epoch
LOOK = 30  # seconds between two looks at Slurm's queue
# Exit statuses of what a signal has ended; the last is what Slurm sends all processes of a job some time before its end.
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM, -getattr(signal, "SIGUSR2", signal.SIGTERM))


# ------------------------------------------------------------------------------------------------------------- here


def local(runs, jobs, report, args):
    """So many processes at once on this machine; where there are several, each has cores of its own."""
    waiting, active, lines = list(runs), {}, queue.Queue()
    slots, cores = list(range(min(jobs, len(runs)))), cores_of_slots(jobs)
    try:
        while waiting or active:
            while waiting and slots:
                run, slot = waiting.pop(0), slots.pop(0)
                report.begin(run, slot)
                active[run] = slot, start(run.command, cores[slot])
                threading.Thread(
                    target=read, args=(run, active[run][1], lines), daemon=True
                ).start()
            run, line = lines.get()
            if line is not None:
                report.line(run, line)
                continue
            slot, process = active.pop(run)
            slots.append(slot)
            report.end(run, slot, process.wait())
    except BaseException as stop:
        end_all(
            active,
            lines,
            report,
            signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM,
        )
        raise


def cores_of_slots(jobs):
    """The cores of each of so many slots, a set; None where a slot may use all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // jobs
    return [
        set(cores[slot * each : (slot + 1) * each]) if jobs > 1 and each else None
        for slot in range(jobs)
    ]


def start(command, cores=None):
    """Start a run's process with its output in a pipe."""
    # It ends with this one, however that ends, or the next start would find the run still going on. Any moment will do.
    more = {"PYTHONUNBUFFERED": "1", "STARTED_BY": str(os.getpid())}
    more |= {"OMP_NUM_THREADS": str(len(cores))} if cores else {}
    before = os.sched_getaffinity(0) if cores else None
    if cores:  # a process begins on the cores of the thread that starts it; later would be after it has begun threads
        os.sched_setaffinity(0, cores)
    try:
        # In a session of its own, as Ctrl-C would reach it directly, and then once more from here.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **more},
            start_new_session=True,
        )
    finally:
        if cores:
            os.sched_setaffinity(0, before)
    return process


def read(run, process, lines):
    """In a thread: hand on a process's lines, and None at their end."""
    for line in process.stdout:
        lines.put((run, line.rstrip("\n")))
    lines.put((run, None))


def end_all(active, lines, report, number):
    """Ask all processes to end, and wait for that; asked a second time, end them."""
    processes = {run: process for run, (_, process) in active.items()}
    try:
        for run, process in processes.items():
            report.line(run, "stopping")
            if os.name != "nt":  # on Windows Ctrl-C has reached it already
                process.send_signal(number)
        while processes:
            run, line = lines.get()
            if line is None:
                processes.pop(run).wait()
            else:
                report.line(run, line)
    except BaseException:
        for process in processes.values():
            process.kill()
        raise


# ------------------------------------------------------------------------------------------------------------ Slurm


class Command:
    """A run's command as a job of submitit. Where its time is over or it has to make room, it is asked to end and queued
    again."""

    def __init__(self, words):
        self.words, self.process = words, None

    def __call__(self):
        self.process = subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "STARTED_BY": str(os.getpid())},
        )
        status = self.process.wait()
        if (
            status in STOPPED
        ):  # the signal has reached the run before this process, which it is meant for as well
            time.sleep(60)
        return status

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        # This is called by a signal that interrupts Popen.wait, whose lock a second one would wait for for ever.
        with contextlib.suppress(ChildProcessError):  # the first one has seen the end
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Command(self.words))

    def __getstate__(self):
        return {"words": self.words, "process": None}


def slurm(runs, jobs, report, args, cluster="slurm"):
    """One array job of Slurm, through submitit. What waits or runs there is cancelled where this is stopped."""
    try:
        import submitit
    except ImportError:
        raise InputError(
            "--launcher slurm takes submitit; install it with 'pip install -r requirements-slurm.txt'"
        ) from None
    folder = args.folder / ".slurm"
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=RETRIES)
    except RuntimeError as error:
        raise InputError(
            f"--launcher slurm: {error}; use --launcher local, or start this where Slurm is"
        ) from None
    executor.update_parameters(
        name="experiments",
        timeout_min=args.time,
        cpus_per_task=args.cores,
        **({"slurm_partition": args.partition} if args.partition else {}),
    )
    with executor.batch():
        submitted = {run: executor.submit(Command(run.command)) for run in runs}
    for slot, run in enumerate(runs):
        report.begin(run, slot)
    gone = Gone() if cluster == "slurm" else lambda job: job.done()
    try:
        while submitted:
            time.sleep(POLL)
            for run, job in list(submitted.items()):
                has_result = job.paths.result_pickle.exists()
                if has_result or gone(job):
                    del submitted[run]
                    for line in (job.stdout() or "").splitlines() + (
                        job.stderr() or ""
                    ).splitlines():
                        if not line.startswith("submitit "):
                            report.line(run, line)
                    if not has_result:
                        report.line(run, "its job has left Slurm's queue without a result")
                    # Else its command's exit status, unless it ended with an error.
                    report.end(
                        run,
                        runs.index(run),
                        job.result() if has_result and job.exception() is None else 1,
                    )
    except BaseException:
        for job in submitted.values():
            job.cancel()
        raise


class Gone:
    """Asks whether a job has left the queue, as seen in two looks: one that has no result then was cancelled or killed, and will have
    none. submitit would ask sacct, which knows nothing where Slurm keeps no accounts."""

    def __init__(self):
        self.looked, self.missing = time.monotonic(), {}

    def __call__(self, job):
        if time.monotonic() > self.looked + LOOK:
            self.looked = time.monotonic()
            done = subprocess.run(
                ["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True
            )
            if done.returncode == 0:  # else nobody knows, and the next look will tell
                queued = set(done.stdout.split())
                self.missing = {key: n + 1 for key, n in self.missing.items() if key not in queued}
        return self.missing.setdefault(job.job_id, 0) > 1


# -------------------------------------------------------------------------------------------------------------- Ray


def on_ray(runs, jobs, report, args):
    """Tasks of a Ray cluster; one whose worker is lost goes on elsewhere, so the folder of runs has to be one that all
    see."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "--launcher ray takes Ray; install it with 'pip install -r requirements-ray.txt'"
        ) from None
    if not ray.is_initialized():
        try:
            ray.init(
                args.address,
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
                log_to_driver=False,
            )
        except ConnectionError as error:
            raise InputError(
                f"--address {args.address}: there is no Ray cluster ({str(error).splitlines()[0]}); start one "
                "with 'ray start --head', or leave it out"
            ) from None
    remote = ray.remote(num_cpus=args.cores, max_retries=RETRIES)(perform)
    waiting = {remote.remote(run.command, os.getcwd()): run for run in runs}
    for slot, run in enumerate(runs):
        report.begin(run, slot)
    try:
        while waiting:
            for task in ray.wait(list(waiting), timeout=POLL)[0]:
                run = waiting.pop(task)
                try:
                    status, lines = ray.get(task)
                except ray.exceptions.RayError as error:
                    status, lines = 1, [str(error)]
                for line in lines:
                    report.line(run, line)
                report.end(run, runs.index(run), status)
    except BaseException:
        for task in waiting:
            ray.cancel(task)
        raise


def perform(command, folder):
    """In a worker: a command from its beginning to its end; (exit status, the lines that it printed)."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "STARTED_BY": str(os.getpid())},
    )
    try:
        lines = process.stdout.read().splitlines()
        return process.wait(), lines
    except BaseException:  # cancelled
        process.terminate()
        process.wait()
        raise


LAUNCHERS = {"local": local, "slurm": slurm, "ray": on_ray}


def cores_of(commands):
    """How many cores a run of these commands keeps busy: threads times processes, where it is told them, else one."""
    parser = cli.Parser(None)
    for name in ("--threads", "--processes"):
        parser.add_argument(name, default="1")
    parser.add_argument("--device")
    known = [parser.parse_known_args(command[2:])[0] for command in commands]
    return max((as_number(one.threads) * as_number(one.processes) for one in known), default=1)


def as_number(text):
    return int(text) if text.isdecimal() and int(text) else 1


def jobs_by_default(commands):
    """As many runs at once as there are cores for; one where a GPU is likely to compute."""
    words = [word for command in commands for word in command]
    if (
        sys.platform == "darwin"
        or Path("/dev/nvidia0").exists()
        or any(word in ("cuda", "--device=cuda") for word in words)
    ):
        return 1
    return max(1, usable_cores() // cores_of(commands))
