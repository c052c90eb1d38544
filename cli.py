"""What every command line here has in common: exit status, one-sentence errors, option types.

Exit status: 0 done; 2 wrong use or wrong input; 1 a fault of ours, with a traceback; 130 or 143
stopped by a signal.
"""

import argparse
import errno
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

# The place to write to is at fault, not the program.
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}
# The path cannot be one, or is not of the kind that is needed there.
PATH_ERRORS = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
HANDLE_ERRORS = {errno.EMFILE, errno.ENFILE}


class InputError(Exception):
    """Wrong use or wrong input. The message is one sentence: what, where, and the way out."""


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that only clean-up code sees it on its way out."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line on standard error."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        message = re.sub(r"\S{61,}", lambda word: word[0][:60] + "...", message)
        self.exit(2, one_line(f"{self.prog}: {message}; see {self.prog} --help") + "\n")


def run(main, *args):
    """Call main(*args) and end the process with the exit status that the outcome asks for."""
    signal.signal(signal.SIGTERM, raise_terminated)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    try:
        main(*args)
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)  # as SIGPIPE would
    except InputError as error:
        fail(error, 2)
    except KeyboardInterrupt:
        fail("stopped by SIGINT", 130)
    except Terminated:
        fail("stopped by SIGTERM", 143)
    except (OSError, RuntimeError) as error:
        explain(error)
        raise


def explain(error):
    """End with a sentence where the system, not the program, is at fault; else return."""
    # HDF5 fails a second time, with a RuntimeError, as it closes what it could not write.
    cause = error.__context__ if isinstance(error, RuntimeError) else error
    if not isinstance(cause, OSError):
        return
    where = cause.filename or "".join(re.findall("filename = '(.*?)'", str(cause))[:1])
    where = os.fsdecode(where)
    reason = os.strerror(cause.errno) if cause.errno else str(cause)
    if cause.errno in PATH_ERRORS and where:
        fail(f"{where}: {reason}; choose another path", 2)
    if cause.errno in HANDLE_ERRORS:
        fail(f"{reason}; raise the limit with 'ulimit -n 1024', or use --workers 0", 2)
    if cause.errno in DISK_ERRORS:
        message = f"cannot go on: {reason}" + (f": {where}" if where else "")
        report_failure(f"{message}; free some space or choose a folder that can be written to")
        sys.stdout.flush()
        os._exit(2)  # the usual way out lets HDF5 try once more, and crash


def fail(message, status):
    report_failure(message)
    sys.exit(status)


def report_failure(message):
    print(one_line(f"{Path(sys.argv[0]).name}: {message}"), file=sys.stderr, flush=True)


def warn(message):
    """Say on standard error, in one line, what the user should know, and go on."""
    report_failure(f"warning: {message}")


def one_line(text):
    """Text with its line breaks spelt out, and very long words shortened: one readable line."""
    text = re.sub(r"\S{301,}", lambda word: word[0][:300] + "...", str(text))
    return text.replace("\n", "\\n").replace("\r", "\\r")


def listed(names, most=3):
    """The first of some names as text, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ------------------------------------------------------------------------- signals, processes


def raise_terminated(signum, frame):
    raise Terminated


def ignore_interrupts(*_):
    """For worker processes: Ctrl-C reaches the whole group, and the main process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def follow_parent():
    """For worker processes of a pool: as above, and end with a main process that was killed."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    ignore_interrupts()
    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def processes(count=None, method=None):
    """A pool of processes, by default one a core; what still waits is dropped when it is left.

    method   how they are started, as multiprocessing calls it; default: the system's way.
    """
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(count, context, initializer=follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores():
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---------------------------------------------------------------------------- types of options


def integer(minimum, maximum=2**31 - 1, also=None):
    """An argparse type: a whole number from minimum to maximum, or the word `also`."""

    def parse(text):
        if also and text == also:
            return text
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is not from {minimum} to {maximum}")
        return value

    return parse


def positive_float(text):
    """An argparse type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def share(text):
    """An argparse type: a number between 0 and 1, neither of them."""
    value = positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1")
    return value


def percentages(text):
    """Three numbers joined by '-', such as 80-10-10, as floats; finite and not negative."""
    try:
        values = tuple(float(part) for part in text.split("-"))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(map(math.isfinite, values)) or sum(values) <= 0:
        message = f"{text!r} is not three numbers joined by '-', such as 80-10-10"
        raise argparse.ArgumentTypeError(message)
    return values
