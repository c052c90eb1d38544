"""What an input of benchmarks/soaking/fuzz.py is, and what they all start from."""

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from data.contract import KINDS, SPLITS
from soaking import damage, kills
from soaking.options import TRAIN
from soaking.server import PREPARE, Child, call, commands, must, run_script

OTHER_SIZES = (32, 96)
CPU = ("--device", "cpu")


@dataclass
class Case:
    """One damaged, hostile or odd input. The commands are (script, options, expectation): "refuse", "accept", "any", or a
    function of the outcome that returns what is wrong with it, or None."""

    what: str
    commands: list = field(default_factory=list)


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def some(rng, choices, least=1):
    """At least so many of the choices, in their order."""
    chosen = rng.permutation(len(choices))[: int(rng.integers(least, len(choices) + 1))]
    return [choices[k] for k in sorted(chosen)]


class Bench:
    """What the cases start from: the reference, an unfinished run, the same photographs at other sizes, what a run of the
    baseline measures, and where the samples lie in the data files."""

    def __init__(self, reference):
        self.reference = reference
        self.unfinished = self.folder("unfinished")
        script, argv = commands(reference)["train"]
        outcome = Child(run_two_epochs, script, argv, cwd=self.unfinished).wait()
        if outcome.status != -signal.SIGKILL:
            raise RuntimeError(f"the unfinished run ended with {outcome.status}: {outcome.err}")
        paths = [
            folder / split / f"{kind}.h5"
            for folder in (reference.prepared, reference.data)
            for split in SPLITS
            for kind in KINDS
        ]
        spans = json.loads(call(damage.print_sample_spans, paths, cwd=reference.folder))
        self.samples = {Path(path): ranges for path, ranges in spans.items()}
        self.sized = {}
        for size in OTHER_SIZES:
            place = self.folder(f"size{size}")
            must(
                "data_prepare.py",
                ["--root", reference.photographs, "--out", "data", *PREPARE, "--size", size],
                place,
            )
            must("data_rechunk.py", ["--data", "data"], place)
            self.sized[size] = place / "data"
        place = self.folder("baseline")
        must("train_baseline.py", ["--data", reference.data, *TRAIN], place)
        self.baseline = measured(place / "runs" / "baseline" / "seed0")

    def folder(self, name):
        folder = self.reference.folder / name
        folder.mkdir()
        return folder

    @property
    def checkpoint(self):
        return ["--checkpoint", self.reference.run / "best.pt"]

    @property
    def metrics(self):
        """What evaluate.py says of the reference."""
        return json.loads(self.reference.metrics)

    def structure(self, path):
        """The parts of a data file that hold no samples."""
        edges = [
            0,
            *(edge for span in sorted(self.samples[path]) for edge in span),
            path.stat().st_size,
        ]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2]) if a < b]

    def sampled_bytes(self, original, path):
        """The bytes that are samples in the original, taken from a damaged copy of the same layout."""
        content = path.read_bytes()
        return [content[a:b] for a, b in self.samples[original]]

    def readers(self, rng, split, expect):
        """A command that reads all of a split's samples of the folder `data`."""
        ways = [
            ("train_mtl.py", ["--data", "data", *TRAIN], expect),
            ("evaluate.py", ["--data", "data", "--split", split, *CPU, *self.checkpoint], expect),
        ]
        if split == "test":
            ways.append(("mtl_vis.py", ["--data", "data", *self.checkpoint], expect))
        return pick(rng, ways)

    def same_metrics(self, outcome):
        """An evaluation that is not refused gives the reference's metrics."""
        if outcome.status == 0 and outcome.out != self.reference.metrics:
            return f"other metrics: {outcome.out[:300]}"

    def same_run(self, place):
        """A resumed run that is not refused ends as the reference does."""

        def wrong(outcome):
            if outcome.status == 0:
                folder = place / "runs" / "mtl" / "seed0"
                return call(kills.print_differences, self.reference.run, folder, cwd=place) or None

        return wrong


def measured(folder):
    """test.json of a finished run without its times."""
    return kills.without_times(json.loads((folder / "test.json").read_text()))


def refused_untouched(place):
    """An expectation: refused, and before a run folder holds anything."""

    def wrong(outcome):
        if outcome.status != 2:
            return "not refused"
        left = [path for path in (place / "runs").rglob("*") if path.is_file()]
        return f"refused, and it left {left[0].relative_to(place)}" if left else None

    return wrong


def run_two_epochs(script, argv):
    """In a child: train until two epochs stand in the log."""
    rename, logged = os.replace, []

    def replace(source, target):
        rename(source, target)
        logged.extend([target] if Path(target).name == "log.csv" else [])
        if len(logged) == 2:
            os.killpg(0, signal.SIGKILL)

    os.replace = replace
    run_script(script, argv)
