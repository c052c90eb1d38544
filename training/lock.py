"""One process at a time: a lock file whose lock dies with the process that holds it, however that
ends.

The operating system keeps the lock, not the file's presence: a file that a killed process left
behind is in nobody's way.
"""

import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import cli
from cli import InputError

# The byte that is locked, beyond what is written: Windows lets nobody read a locked one, and the
# file says who holds it.
LOCKED_BYTE = 1 << 30


@contextmanager
def hold(path, what):
    """Hold the lock file `path` while the block runs; its folder is made, and unmade where nothing
    else was put into it.

    what  names the thing that is locked in the messages. Raises cli.InputError where another
    process holds the lock, naming
          it, and where the file cannot be made. On a file system without locks it warns and goes
          on.
    """
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        descriptor = acquire(path, what)
    except OSError as error:
        raise InputError(
            f"{what} cannot be made or written to ({error.strerror}: {error.filename or path}); "
            "choose another place"
        ) from None
    try:
        yield
    finally:
        release(path, descriptor)
        for folder in missing:  # the innermost first; one that holds something stays
            with suppress(OSError):
                folder.rmdir()


def acquire(path, what):
    """Open and lock a file; returns its descriptor."""
    for attempt in range(100):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (
            FileNotFoundError,
            FileExistsError,
        ):  # perhaps the process before us is just removing the folder
            if attempt == 99:
                raise
            continue
        try:
            lock(descriptor)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 200).decode(errors="replace").splitlines()
            os.close(descriptor)
            who = holder[0].strip() if holder else "of unknown number"
            raise InputError(
                f"{what} is in use by process {who}; wait until it ends, or choose another place"
            ) from None
        except OSError as error:
            cli.warn(
                f"{path.parent} is on a file system without locks ({error.strerror}); see to it "
                "yourself that no second process uses it"
            )
        # Where the process before us removed the file after we had opened it, our lock is on a file
        # that nobody else sees.
        if os.name == "nt" or is_same_file(descriptor, path):
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(
                descriptor, f"{os.getpid()} on {socket.gethostname()}".ljust(80).encode() + b"\n"
            )
            return descriptor
        os.close(descriptor)
    raise InputError(f"{path} is made and removed all the time; find out by whom")


def is_same_file(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def lock(descriptor):
    """Lock an open file for this process alone, or raise PermissionError or BlockingIOError at
    once."""
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        # lockf, not flock: forked workers that outlive a killed process for a moment do not inherit
        # this one.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)


def release(path, descriptor):
    """Remove the lock file and let go of it: in this order, or another process might lock what is
    then removed."""
    if (
        os.name == "nt"
    ):  # removes no open file; nor, then, one that another process has opened meanwhile
        os.close(descriptor)
    with suppress(OSError):
        path.unlink()
    if os.name != "nt":
        os.close(descriptor)
