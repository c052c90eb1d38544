"""Damaged files and records, and hostile options: refused in one sentence, or the same result. For
soak.py.
"""

import os
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
import torch
import warm
from reference import RUN, TRAIN, Lost, different_run

from data.contract import SPLITS

# Nothing of the file can be trusted: every reader has to refuse it. After the subtle ones it may
# not notice.
STRUCTURAL = ("empty", "garbage", "truncated", "folder", "missing")
SUBTLE = ("bits", "zeros", "longer")
HOSTILE = (
    *("nan", "-1", "1e309", "", "9223372036854775808", "0", "x" * 5000, "a\nb", "\udcff"),
    *("--", "/", "/dev/null", "/dev/full", "nowhere/deeper", "a-folder", "%s%n", "0-0-0"),
)
MARK = "ran-foreign-code"


@dataclass
class Case:
    """what: in words; expect: "refuse", "any", or a function of the Outcome that returns what is
    wrong, or None.
    """

    what: str
    command: tuple
    expect: str | Callable = "any"


def attempt(reference, place, seed):
    """One try; returns (what was damaged, Counter of the result). Raises Lost."""
    make = CASES[seed % len(CASES)]
    case = make(reference, place, np.random.default_rng(seed))
    outcome = warm.run_script(*case.command, cwd=place)
    wrong = judge(outcome, case.expect, place)
    if wrong:
        raise Lost(f"{make.__name__}, {case.what}: {wrong}")
    return make.__name__, Counter(["refused" if outcome.returncode else "harmless"])


def judge(outcome, expect, place):
    """What is wrong with an Outcome, or None."""
    lines = outcome.stderr.strip().splitlines()
    if outcome.returncode is None:
        return "it hangs"
    if outcome.returncode not in (0, 2):
        return f"status {outcome.returncode}: {outcome.stderr[-1500:]}"
    for line in lines:
        if not re.match(r"[\w.]+\.py: ", line):
            return f"a line that is none of ours: {line}"
    if outcome.returncode == 2 and not lines:
        return "it does not say why"
    if (place / MARK).exists():
        return "it ran code that a checkpoint held"
    if expect == "refuse" and outcome.returncode != 2:
        return "not refused"
    return expect(outcome) if callable(expect) else None


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def damage_bytes(path, rng, ways=STRUCTURAL + SUBTLE):
    """Damage a file in one of the ways; returns it."""
    way, content = pick(rng, ways), bytearray(path.read_bytes())
    path.unlink()
    at = int(rng.integers(len(content)))
    if way in ("folder", "missing"):
        if way == "folder":
            path.mkdir()
        return way
    if way == "bits":
        content[at] ^= 1 << int(rng.integers(8))
    elif way == "zeros":
        length = min(int(rng.integers(1, 4096)), len(content) - at)
        content[at : at + length] = bytes(length)
    elif way == "longer":
        content += rng.bytes(int(rng.integers(1, 5000)))
    else:
        content = {"empty": b"", "garbage": rng.bytes(len(content)), "truncated": content[:at]}[way]
    path.write_bytes(content)
    return way


# -------------------------------------------------------------------------------- networks and runs


def checkpoint(reference, place, rng):
    """A checkpoint that is damaged, or holds something else, for what reads networks."""
    path = shutil.copy(reference.run() / "best.pt", place / "best.pt")
    if rng.random() < 0.5:
        what = damage_bytes(path, rng)
        expect = "any" if what in SUBTLE else "refuse"
    else:
        what, expect = change_checkpoint(path, rng), "refuse"
    data = "--data", reference.data
    commands = [
        ("evaluate.py", "--checkpoint", path, *data),
        ("mtl_vis.py", "--checkpoint", path, *data),
        ("export.py", path, "copy.pt"),
        ("train_mtl.py", "--init", path, *data, *TRAIN),
    ]
    return Case(what, pick(rng, commands), expect)


class Foreign:
    """A pickle that would run a command, were it loaded without weights_only."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


def change_checkpoint(path, rng):
    """Change what a checkpoint says; returns the way."""
    content = torch.load(path, weights_only=True)
    weights = content["model"]
    key = pick(rng, [name for name in weights if name.endswith("weight")])
    way = pick(rng, ("code", "code inside", "missing weight", "other shape"))
    if way == "code":
        path.write_bytes(pickle.dumps(Foreign()))
        return way
    if way == "code inside":
        content["metrics"] = Foreign()
    elif way == "missing weight":
        del weights[key]
    else:
        weights[key] = torch.zeros(7, 5, 3)
    torch.save(content, path)
    return way


def unfinished_run(reference, place, rng):
    """A run that is to be resumed: the same result, or refused."""
    shutil.copytree(reference.run().parents[1], place / "runs")
    (place / RUN / "test.json").unlink()
    path = place / RUN / pick(rng, ("last.pt", "last.pt", "best.pt", "config.json", "previous.pt"))
    what = damage_bytes(path, rng)

    def same(outcome):
        if outcome.returncode == 0:
            return different_run(reference.run(), place / RUN)

    return Case(f"{path.name}: {what}", reference.command("train"), same)


# --------------------------------------------------------------------------------------- data files


def data_file(reference, place, rng):
    """A file as data_prepare.py leaves it, or a re-chunked one."""
    split, kind = pick(rng, SPLITS), pick(rng, ("images", "masks"))
    network = "--checkpoint", reference.run() / "best.pt"
    source, command = pick(
        rng,
        [
            (reference.prepared, ("data_rechunk.py", "--data", "data")),
            (reference.data, ("evaluate.py", "--data", "data", *network)),
        ],
    )
    shutil.copytree(source, place / "data")
    what = damage_bytes(place / "data" / split / f"{kind}.h5", rng)
    # Nothing but the images has to be there.
    must_fail = what in STRUCTURAL and not (what == "missing" and kind == "masks")
    return Case(f"{split}/{kind}.h5: {what}", command, "refuse" if must_fail else "any")


def values(reference, place, rng):
    """What a re-chunked file holds, its type, its number of samples or its digest is changed, for
    --check.
    """
    shutil.copytree(reference.data, place / "data")
    split, kind = pick(rng, SPLITS), pick(rng, ("images", "masks", "bboxes", "binary"))
    way = pick(rng, ("value", "type", "number", "chunks", "digest", "split hash"))
    with h5py.File(place / "data" / split / f"{kind}.h5", "r+") as file:
        name = f"chunked_{kind}"
        array, attributes = file[name][:], dict(file[name].attrs)
        if way == "digest":
            file[name].attrs["sha256"] = "0" * 64
        elif way == "split hash":
            file.attrs["split_hash"] = "0" * 64
        elif way == "value":
            change = {"images": 255 - array[0], "masks": 7, "bboxes": (20, 5, 10, 15), "binary": 9}
            file[name][0] = change[kind]
        else:
            del file[name], file[kind]
            chunks = (2 if way == "chunks" else 1, *array.shape[1:])
            array = array[:-1] if way == "number" else array
            array = np.nan_to_num(array).astype("f8") if way == "type" else array
            file.create_dataset(name, data=array, chunks=chunks).attrs.update(attributes)
            file[kind] = file[name]
    command = "data_rechunk.py", "--data", "data", "--check"
    return Case(f"{split}/{kind}.h5: {way}", command, "refuse")


def index(reference, place, rng):
    """index.csv of a re-chunked folder, for --check."""
    shutil.copytree(reference.data, place / "data")
    path = place / "data" / pick(rng, SPLITS) / "index.csv"
    head, *rows = path.read_text().splitlines()
    way = pick(rng, ("missing row", "row twice", "exchanged", "bytes"))
    rows = {
        "missing row": rows[1:],
        "row twice": [rows[0], *rows],
        "exchanged": [rows[1], rows[0], *rows[2:]],
        "bytes": ["0,\x00\udcff", *rows[1:]],
    }[way]
    path.write_text("\n".join([head, *rows, ""]), errors="surrogateescape")
    command = "data_rechunk.py", "--data", "data", "--check"
    return Case(way, command, "refuse")


def photographs(reference, place, rng):
    """A photograph, trimap or box of the source: its loss is reported by name."""
    shutil.copytree(reference.photographs, place / "photographs")
    folder = pick(rng, ("images", "annotations/trimaps", "annotations/xmls"))
    path = pick(rng, sorted((place / "photographs" / folder).iterdir()))
    what = damage_bytes(path, rng)

    def named(outcome):
        is_lost = what in ("empty", "garbage") and "xmls" not in folder
        if outcome.returncode == 0 and is_lost and path.stem not in outcome.stdout:
            return f"the report does not name {path.stem}"

    options = "--root", "photographs", "--out", "data", "--size", "64"
    return Case(f"{folder}: {what}", ("data_prepare.py", *options), named)


def hostile_option(reference, place, rng):
    """An option with a value that it cannot have, or a place that cannot be read or written."""
    (place / "a-folder").mkdir()
    data, network = {"--data": reference.data}, {"--checkpoint": reference.run() / "best.pt"}
    small = {"--epochs": "1", "--width": "2", "--runs": "runs", "--lr": "1", "--seed": "1"}
    script, usual = pick(
        rng,
        [
            ("train_mtl.py", {**data, **small, "--limit": "6"}),
            ("data_prepare.py", {"--root": reference.photographs, "--out": "data", "--size": "32"}),
            ("evaluate.py", {**data, **network, "--split": "val", "--batch-size": "4"}),
            ("mtl_vis.py", {**data, **network, "--out": "mask.png", "--n": "1"}),
            ("predict.py", {**network, "--out": "seen"}),
            ("results.py", {"--runs": reference.run().parents[1], "--out": "page"}),
        ],
    )
    option, value = pick(rng, sorted(usual)), pick(rng, HOSTILE)
    usual[option] = value
    words = [word for pair in usual.items() for word in pair]
    return Case(f"{script} {option} {value[:20]!r}", (script, *words))


CASES = (
    checkpoint,
    unfinished_run,
    data_file,
    values,
    index,
    photographs,
    hostile_option,
)
