"""Files that are written whole or not at all; JSON and CSV; locks."""

import csv
import io
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from cli import InputError


def atomic_write(path, content, previous=None):
    """Write bytes beside a file, flush them to the disk, then put them in the file's place.

    At every moment the old file or the new one is there. previous: a path that gets the old file.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(partial, path)
        _flush_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a write names no file
            error.filename = str(path)
        raise


def _flush_folder(folder):
    """Make a new name in a folder survive a power failure, where folders can be opened."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path, content):
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    atomic_write(path, text.encode())


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path, fields, rows):
    """fields: names of the columns; rows: lists of their values."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(fields)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def read_csv(path):
    """The rows of a table, as dicts of text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def lock(path, what, way="wait for it, or choose another place"):
    """Hold a lock file while the block runs; `what` names the thing that is locked in messages.

    The system keeps the lock, so the file of a killed process is in nobody's way. The file's folder
    is made, and removed again where nothing else was put into it. Raises cli.InputError where
    another process holds the lock, or where the file cannot be made.
    """
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    held = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(f"{what} is in use by another process; {way}") from None
    except OSError as error:
        raise InputError(
            f"{what} cannot be made or written to ({error.strerror}: {error.filename or path}); "
            "choose another place"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            path.unlink()  # before the lock is released: a file that is gone locks nobody out
        held.release()
        for folder in missing:  # the innermost first; one that holds something stays
            with suppress(OSError):
                folder.rmdir()
