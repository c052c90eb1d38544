"""What every command line here has in common: the exit status, one-sentence errors, option types.

Exit status: 0 done; 2 wrong use or wrong input; 1 a fault of ours (with a traceback); 130 or 143 stopped by a signal.
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

# What an operating system says when the place to write to is at fault, not the program.
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}
# What it says of a path that cannot be one, or not of the kind that is needed there.
PATH_ERRORS = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


class InputError(Exception):
    """Wrong use or wrong input. The message is one sentence: what is wrong, where, and what to do about it."""


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that only clean-up code sees it on its way out."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line on standard error."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        message = re.sub(
            r"\S{61,}", lambda word: word[0][:60] + "...", message
        )  # what was given may be of any length
        self.exit(2, one_line(f"{self.prog}: {message}; see {self.prog} --help") + "\n")


def run(main, args):
    """Call main(args) and end the process with the exit status that the outcome asks for."""
    end_with_starter()
    signal.signal(signal.SIGTERM, raise_terminated)
    sys.unraisablehook = send_again
    if hasattr(sys.stdout, "reconfigure"):  # not where somebody has put another object in its place
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    try:
        main(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has closed it, as `| head` does
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # where Python's own last flush may go
        sys.exit(128 + 13)  # as SIGPIPE would
    except InputError as error:
        fail(error, 2)
    except KeyboardInterrupt:
        fail("stopped by SIGINT", 130)
    except Terminated:
        fail("stopped by SIGTERM", 143)
    except (OSError, RuntimeError) as error:
        # HDF5 fails a second time, with a RuntimeError, as it closes what it could not write.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.errno in PATH_ERRORS and cause.filename:
            reason = os.strerror(cause.errno)
            fail(
                f"{os.fsdecode(cause.filename)}: {reason}; choose another path or put right what lies there",
                2,
            )
        if not isinstance(cause, OSError) or cause.errno not in DISK_ERRORS:
            raise
        where = cause.filename or "".join(re.findall("filename = '(.*?)'", str(cause))[:1])
        message = os.strerror(cause.errno) + (f": {where}" if where else "")
        message += "; free some space or choose a folder that can be written to"
        if cause.filename:
            fail(f"cannot go on: {message}", 2)
        report_failure(f"cannot go on: {message}")
        os._exit(2)  # the usual way out lets HDF5 try a third time, and crash


def end_with_starter():
    """Be killed when the process that started this one ends, where it asks for that: nobody would read what is printed. On Linux
    only; elsewhere the next line of output ends it."""
    starter = os.environ.pop("STARTED_BY", None)
    if starter and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(starter):  # it has ended already
            os.kill(os.getpid(), signal.SIGKILL)


def fail(message, status):
    report_failure(message)
    sys.exit(status)


def report_failure(message):
    print(one_line(f"{Path(sys.argv[0]).name}: {message}"), file=sys.stderr, flush=True)


def one_line(text):
    """Text with its line breaks spelt out, and of very long words, as paths can be, the beginning: a message is one line that
    can be read."""
    text = re.sub(r"\S{301,}", lambda word: word[0][:300] + "...", str(text))
    return text.replace("\n", "\\n").replace("\r", "\\r")


def listed(names, most=3):
    """The first of some names as text, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def warn(message):
    """Say on standard error what the user should know, in one line, and go on."""
    print(one_line(f"{Path(sys.argv[0]).name}: warning: {message}"), file=sys.stderr, flush=True)


def raise_terminated(signum, frame):
    raise Terminated


def send_again(unraisable):
    """An unraisablehook: what a signal raised inside a destructor or a weak reference's callback is lost there; send it
    again, a moment later."""
    number = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
    else:
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def ignore_interrupts(*_):
    """For worker processes: Ctrl-C reaches the whole process group, and only the main process should answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def follow_parent():
    """For worker processes of a pool: as above, and end with a main process that was killed, not wait for it for ever."""
    ignore_interrupts()
    threading.Thread(
        target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True
    ).start()


@contextmanager
def processes(count=None, method=None):
    """A pool of `count` processes, one a core by default, that forgets what waits when it is left: a signal in the middle of
    handing work over would otherwise leave it waiting for ever for work that it never got. method: how they are started, as
    multiprocessing calls it; default: as the system has it."""
    pool = ProcessPoolExecutor(
        count, multiprocessing.get_context(method), initializer=follow_parent
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """Three numbers joined by '-', such as 80-10-10, as a tuple of floats; each finite and not negative."""
    try:
        values = tuple(float(part) for part in text.split("-"))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(math.isfinite(v) for v in values) or sum(values) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three numbers joined by '-', such as 80-10-10"
        )
    return values
