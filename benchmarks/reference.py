"""What undisturbed runs of every phase leave, and comparing with it: for soak.py."""

import csv
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import warm

PREPARE = ("--size", "64", "--fractions", "60-20-20")
TRAIN = (
    *("--epochs", "3", "--width", "2", "--batch-size", "6", "--device", "cpu"),
    *("--precision", "fp32", "--threads", "1", "--resume"),
)
PETS = 20
RUN = Path("runs/mtl/seed0")
TIMES = ("seconds", "train_seconds", "images_per_second", "waiting")


class Lost(Exception):
    """Something that must not be; the message says what."""


@dataclass(frozen=True)
class Reference:
    """Folders of what undisturbed runs leave; seconds: {phase: of such a run}."""

    folder: Path
    photographs: Path
    prepared: Path
    data: Path
    seconds: dict = field(default_factory=dict)

    def run(self, processes=1):
        """The finished run folder of so many processes."""
        return self.folder / f"turn{processes}" / RUN

    def command(self, phase):
        """(script, its options) of a phase, with outputs relative to the folder that it runs in."""
        train = "--data", self.data, "--runs", "runs", *TRAIN
        network = "--checkpoint", self.run() / "best.pt", "--data", self.data
        return {
            "prepare": ("data_prepare.py", "--root", self.photographs, "--out", "data", *PREPARE),
            "rechunk": ("data_rechunk.py", "--data", "data"),
            "train": ("train_mtl.py", *train, "--processes", "1"),
            "train in two": ("train_mtl.py", *train, "--processes", "2"),
            "evaluate": ("evaluate.py", *network, "--device", "cpu"),
        }[phase]


def make_reference(folder):
    """Make small data, and run every phase undisturbed."""
    names = "photographs", "prepared", "data"
    reference = Reference(folder, *(folder / name for name in names))
    must("data_prepare.py", "--synthetic", PETS, "--out", "drawn", *PREPARE, cwd=folder)
    shutil.move(folder / "drawn" / "synthetic", reference.photographs)
    places = [folder / "turn1", folder / "turn2"]
    for place in places:
        place.mkdir()
    for phase in ("prepare", "rechunk", "train", "evaluate", "train in two"):
        place = places[phase == "train in two"]
        outcome = must(*reference.command(phase), cwd=place)
        reference.seconds[phase] = outcome.seconds
        (folder / f"{phase}.out").write_text(outcome.stdout)
        copy = {"prepare": reference.prepared, "rechunk": reference.data}.get(phase)
        if copy:
            shutil.copytree(place / "data", copy)
    return reference


def must(script, *options, cwd):
    """Run a script that has to succeed."""
    outcome = warm.run_script(script, *options, cwd=cwd)
    if outcome.returncode != 0:
        raise RuntimeError(f"{script} ends with {outcome.returncode} undisturbed: {outcome.stderr}")
    return outcome


# ---------------------------------------------------------------------------------------- comparing


def digests(folder):
    """{path relative to the folder: SHA-256} of every file in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def different_file(expected, folder):
    """The first file in which two folders differ, or None."""
    a, b = digests(expected), digests(folder)
    return next((name for name in sorted(a | b) if a.get(name) != b.get(name)), None)


def different_run(expected, folder):
    """The first record in which two run folders differ but for times, and where, or None."""
    for name in ("last.pt", "best.pt", "log.csv", "test.json", "test_per_image.csv"):
        if not (folder / name).exists():
            return f"{name} is missing"
        a, b = read(expected / name), read(folder / name)
        for place in a | b:
            if a.get(place) != b.get(place):
                return f"{name}, {place}"
    return None


def read(path):
    """A record as a dict of plain values that can be compared; None of what is no record."""
    if path.suffix == ".pt":
        return plain(torch.load(path, map_location="cpu", weights_only=True))
    if path.suffix == ".json":
        return plain(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix != ".csv":
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    if not rows or None in rows[-1] or None in rows[-1].values():
        raise ValueError("a row is incomplete")
    return plain(dict(enumerate(rows)))


def plain(value):
    """A record without times; a tensor as bytes; a number as text, so that NaN equals NaN."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    return repr(value)
