"""What predict.py has done in a folder: a line of manifest.jsonl for each photograph, of one name
the last.

A result belongs to the bytes of its photograph, to a network and to options. An entry holds

    name     the photograph's path below the folder that was named; source: from the results' folder
    digest   SHA-256 of the photograph's file
    made     {kind of result: the options that made it}
    files    {path below the folder: SHA-256}
    record   what the table and the COCO file say of it; or problem: why there is no result

A line is appended before its files get their names, so a killed run leaves files that are missing,
never ones that nobody knows.
"""

import hashlib
import json
import os
from pathlib import Path

from cli import InputError
from data import photographs
from data.photographs import show_name
from files import atomic_write

FILE = "manifest.jsonl"


def digest(path):
    """SHA-256 of a file, in hexadecimal; None where there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read(out):
    """({key: value} of the folder, {name: entry}); both empty where nothing is known."""
    head, entries = {}, {}
    try:
        lines = (out / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return head, entries
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # a run was killed while it wrote this line
            continue
        if not isinstance(values, dict):
            continue
        if "name" in values:
            entries[values["name"]] = values
        else:
            head |= values
    return head, entries


def append(out, values):
    """Add a line and flush it to the disk; several processes may do so at once."""
    line = (json.dumps(values) + "\n").encode()
    descriptor = os.open(out / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(out, head, entries):
    """Write all of it in order, one line an entry."""
    ordered = [head, *(entries[name] for name in sorted(entries))]
    lines = [json.dumps(values) + "\n" for values in ordered]
    atomic_write(out / FILE, "".join(lines).encode())


def flush(path):
    """Flush a file to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def is_whole(path):
    """Whether a picture file can be decoded: not empty, not cut short."""
    try:
        with photographs.opened(path) as image:
            image.load()
    except (photographs.Unreadable, FileNotFoundError):
        return False
    return True


def changed_file(out, entry, paths):
    """The first of an entry's files that somebody changed, or of `paths` that somebody else made;
    or None.

    Files that are missing, empty or cut short are nobody's work.
    """
    files = entry.get("files", {})
    for path in dict.fromkeys([*files, *paths]):
        found = digest(out / path)
        if found is None or found in files.values():
            continue
        if is_whole(out / path):
            return path
    return None


def is_intact(out, entry, paths):
    """Whether an entry's files are there as they were written."""
    files = entry.get("files", {})
    return all(path in files and digest(out / path) == files[path] for path in paths)


def commit(out, entry, old, partials):
    """Put new files in their places: old ones are removed, the line written, the new ones named.

    partials   {path below the folder: path of a file that is written and flushed}
    """
    for path in old.get("files", {}):
        if path in partials or path not in entry.get("files", {}):
            (out / path).unlink(missing_ok=True)
    append(out, entry)
    for path, partial in partials.items():
        os.replace(partial, out / path)


def rename(out, entry, result):
    """An entry whose files get another name, as a photograph of the same name has come."""
    files = {}
    for path, found in entry.get("files", {}).items():
        kind, suffix = Path(path).parts[0], Path(path).suffix
        new = f"{kind}/{result}{suffix}"
        files[new] = found
        if digest(out / path) != found:
            continue
        if (out / new).exists():  # what is missing is made again
            (out / path).unlink()
        else:
            os.replace(out / path, out / new)
    entry = entry | {"result": result, "files": files}
    append(out, entry)
    return entry


def refuse_other(out, head, wanted):
    """Refuse a folder with results of another network or other options for looking."""
    for key, value in wanted.items():
        if head and head.get(key) != value:
            raise InputError(
                f"{show_name(out)} holds results of another {key}; choose another --out, or "
                "replace them with --force"
            )
