"""Damaged and hostile input for every script: refused in one sentence or harmless, never a traceback, a crash or a hang."""

import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soak_damage
import soak_kills
import soak_server
from soak_damage import STRUCTURAL, SUBTLE, damage_bytes
from soak_options import HOSTILE, TRAIN, scripts_and_options
from soak_server import Child, call, commands, digests, run_script
from tqdm import tqdm

from data.contract import KINDS, SPLITS


@dataclass
class Case:
    """One damaged or hostile input. The commands are (script, options, expectation): "refuse", "any", or a function of the
    outcome that returns what is wrong with it, or None."""
    what: str
    commands: list = field(default_factory=list)


def soak(reference, n, seed):
    """Try n inputs; returns (rows of a table, results, failures)."""
    bench = Bench(reference)
    counts, failures = {make.__name__: Counter() for make in KINDS_OF_INPUT}, []
    for number in tqdm(range(seed, seed + n), desc="fuzz", unit="input", disable=None):
        make = KINDS_OF_INPUT[number % len(KINDS_OF_INPUT)]
        place = reference.folder / f"fuzz{number}" / "here"
        place.mkdir(parents=True)
        case = make(bench, place, np.random.default_rng(number))
        wrong, outcomes = attempt(case, place)
        if wrong:
            failures.append(f"fuzz, {make.__name__}, --seed {number}, {case.what}: {wrong}")
        counts[make.__name__][outcome_of(outcomes, wrong)] += 1
        shutil.rmtree(place.parent)
    outcomes = ("refused", "refused by --check", "harmless", "wrong")
    rows = [[name.replace("_", " "), sum(count.values()), *(count[outcome] for outcome in outcomes)]
            for name, count in counts.items() if count]
    results = {"inputs": n, "inputs_by_kind": {name: sum(count.values()) for name, count in counts.items() if count},
               **{outcome.replace(" --", "_").replace(" ", "_"): sum(count[outcome] for count in counts.values())
                  for outcome in outcomes}}
    return [["input", "tried", *outcomes], *rows], results, failures


def attempt(case, place):
    """Run a case's commands; returns (what is wrong or None, the outcomes)."""
    outcomes = []
    for script, argv, expect in case.commands:
        outcome = soak_server.run(script, argv, place)
        outcomes.append((script, "--check" in argv, outcome))
        wrong = judge(outcome, expect, place)
        if wrong:
            shown = " ".join(str(word)[:60] for word in argv)
            return f"{script} {shown}: {wrong}", outcomes
    return None, outcomes


def judge(outcome, expect, place):
    """What is wrong with an outcome; None where nothing is."""
    said = outcome.err.strip()[-1500:]
    if outcome.status is None:
        return f"hangs: {said}"
    if outcome.status not in (0, 2) or "Traceback" in outcome.err:
        return f"status {outcome.status}: {said}"
    if outcome.status == 2 and ".py: " not in said.splitlines()[-1]:
        return f"it does not say why: {said}"
    if (place / "ran-foreign-code").exists():
        return "it ran code that a checkpoint held"
    if expect == "refuse" and outcome.status != 2:
        return "not refused"
    return expect(outcome) if callable(expect) else None


def outcome_of(outcomes, wrong):
    if wrong:
        return "wrong"
    refused = [check for _, check, outcome in outcomes if outcome.status == 2]
    return "harmless" if not refused else "refused by --check" if all(refused) else "refused"


class Bench:
    """What the cases start from: the reference, an unfinished run, and where the samples lie in the data files."""

    def __init__(self, reference):
        self.reference = reference
        self.unfinished = reference.folder / "unfinished"
        self.unfinished.mkdir()
        script, argv = commands(reference)["train"]
        outcome = Child(run_two_epochs, script, argv, cwd=self.unfinished).wait()
        if outcome.status != -signal.SIGKILL:
            raise RuntimeError(f"the unfinished run ended with {outcome.status}: {outcome.err}")
        paths = [folder / split / f"{kind}.h5" for folder in (reference.prepared, reference.data) for split in SPLITS
                 for kind in KINDS]
        spans = json.loads(call(soak_damage.print_sample_spans, paths, cwd=reference.folder))
        self.samples = {Path(path): ranges for path, ranges in spans.items()}

    def structure(self, path):
        """The parts of a data file that hold no samples."""
        edges = [0, *(edge for span in sorted(self.samples[path]) for edge in span), path.stat().st_size]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2]) if a < b]

    def sampled_bytes(self, original, path):
        """The bytes that are samples in the original, taken from a damaged copy of the same layout."""
        content = path.read_bytes()
        return [content[a:b] for a, b in self.samples[original]]

    def readers(self, rng, split, expect):
        """A command that reads all of a split's samples of the folder `data`."""
        checkpoint = ["--checkpoint", self.reference.run / "best.pt"]
        ways = [("train_mtl.py", ["--data", "data", *TRAIN], expect),
                ("evaluate.py", ["--data", "data", "--split", split, "--device", "cpu", *checkpoint], expect)]
        if split == "test":
            ways.append(("mtl_vis.py", ["--data", "data", *checkpoint], expect))
        return ways[int(rng.integers(len(ways)))]

    def same_metrics(self, outcome):
        """An evaluation that is not refused gives the reference's metrics."""
        if outcome.status == 0 and outcome.out != self.reference.metrics:
            return f"other metrics: {outcome.out[:300]}"

    def same_run(self, place):
        """A resumed run that is not refused ends as the reference does."""
        def wrong(outcome):
            if outcome.status == 0:
                folder = place / "runs" / "mtl" / "seed0"
                return call(soak_kills.print_differences, self.reference.run, folder, cwd=place) or None
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


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


# -------------------------------------------------------------------------------------------------- data files


def damage_a_file(bench, folder, place, rng):
    """Copy a data folder to place/data and damage a file of it; returns (split, kind, how, whether its samples changed)."""
    split, kind = pick(rng, SPLITS), pick(rng, KINDS)
    shutil.copytree(folder, place / "data")
    original, path = folder / split / f"{kind}.h5", place / "data" / split / f"{kind}.h5"
    way = damage_bytes(path, rng, spans=bench.structure(original))
    changed = way not in STRUCTURAL and bench.sampled_bytes(original, path) != bench.sampled_bytes(original, original)
    return split, kind, way, changed


def damaged_prepared_file(bench, place, rng):
    split, kind, way, changed = damage_a_file(bench, bench.reference.prepared, place, rng)
    expect = "refuse" if way in STRUCTURAL or changed and kind == "images" else "any"
    return Case(f"{split}/{kind}.h5 {way}", [("data_rechunk.py", ["--data", "data"], expect)])


def changed_prepared_file(bench, place, rng):
    split, kind = pick(rng, SPLITS), pick(rng, KINDS)
    shutil.copytree(bench.reference.prepared, place / "data")
    said = call(soak_damage.change_h5, place / "data" / split / f"{kind}.h5", kind, int(rng.integers(2**31)), cwd=place)
    case = Case(f"{split}/{kind}.h5 {said.strip()}", [("data_rechunk.py", ["--data", "data"], "refuse")])
    if rng.random() < 0.2:
        case.commands.append(bench.readers(rng, split, "refuse"))
    return case


def damaged_rechunked_file(bench, place, rng):
    split, kind, way, changed = damage_a_file(bench, bench.reference.data, place, rng)
    expect = "refuse" if way in STRUCTURAL else "any"
    return Case(f"{split}/{kind}.h5 {way}", [
        bench.readers(rng, split, expect),
        ("data_rechunk.py", ["--data", "data", "--check"], "refuse" if changed else expect)])


def changed_rechunked_file(bench, place, rng):
    split, kind = pick(rng, SPLITS), pick(rng, KINDS)
    shutil.copytree(bench.reference.data, place / "data")
    said = call(soak_damage.change_h5, place / "data" / split / f"{kind}.h5", kind, int(rng.integers(2**31)), cwd=place)
    expect = "refuse" if said.strip().endswith("refuse") else "any"
    return Case(f"{split}/{kind}.h5 {said.strip()}", [("data_rechunk.py", ["--data", "data", "--check"], "refuse"),
                                                      bench.readers(rng, split, expect)])


def exchanged_files(bench, place, rng):
    data = place / "data"
    shutil.copytree(bench.reference.data, data)
    a, b = (str(split) for split in rng.choice(SPLITS, 2, replace=False))
    if rng.random() < 0.3:  # one kind in the place of another
        kinds = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
        shutil.copy(data / a / f"{kinds[0]}.h5", data / a / f"{kinds[1]}.h5")
        what = f"{a}/{kinds[0]}.h5 in the place of {kinds[1]}.h5"
    else:
        kinds = [str(kind) for kind in rng.choice(KINDS, int(rng.integers(1, 4)), replace=False)]
        for kind in kinds:
            shutil.move(data / a / f"{kind}.h5", data / "kept")
            shutil.move(data / b / f"{kind}.h5", data / a / f"{kind}.h5")
            shutil.move(data / "kept", data / b / f"{kind}.h5")
        what = f"{', '.join(kinds)} of {a} and {b} exchanged"
    return Case(what, [bench.readers(rng, a, "refuse"), ("data_rechunk.py", ["--data", "data", "--check"], "refuse")])


def damaged_index(bench, place, rng):
    split = pick(rng, SPLITS)
    shutil.copytree(bench.reference.data, place / "data")
    path = place / "data" / split / "index.csv"
    if rng.random() < 0.5:
        way = damage_bytes(path, rng)
        # Data that others prepared has no index, so a missing one says nothing.
        what, expect = way, "refuse" if way in ("empty", "garbage", "text", "folder") else "any"
    else:
        what, expect = soak_damage.change_index(path, rng)
    return Case(f"{split}/index.csv {what}", [
        ("data_rechunk.py", ["--data", "data", "--check"], "refuse" if expect == "check" else expect),
        bench.readers(rng, split, "any" if expect == "check" else expect)])


# ------------------------------------------------------------------------------------------------- run folders


def damaged_network(bench, place, rng):
    path = place / pick(rng, ("best.pt", "mtl_model.pt"))
    shutil.copy(bench.reference.run / "best.pt", place / "source.pt")
    if path.name == "best.pt":
        shutil.copy(place / "source.pt", path)
    else:
        outcome = soak_server.run("training/checkpoint.py", ["source.pt", path], place)
        if outcome.status:
            raise RuntimeError(outcome.err)
    if rng.random() < 0.6:
        what = damage_bytes(path, rng)
        expect = "refuse" if what in STRUCTURAL else "any"
    else:
        said = call(soak_damage.change_checkpoint, path, int(rng.integers(2**31)), cwd=place)
        what, _, expect = said.strip().rpartition(": ")
    named = ["--checkpoint", path]
    data = ["--data", bench.reference.data]
    drawn = sorted((bench.reference.photographs / "images").glob("*.jpg"))[0]
    same = bench.same_metrics if path.name == "best.pt" and expect == "any" and what in SUBTLE else expect
    return Case(f"{path.name} {what}", [pick(rng, (
        ("evaluate.py", [*named, *data, "--device", "cpu"], same), ("mtl_vis.py", [*named, drawn], expect),
        ("mtl_vis.py", [*named, *data], expect), ("training/checkpoint.py", [path, "copy.pt"], expect),
        ("train_mtl.py", ["--init", path, *data, *TRAIN], expect)))])


def damaged_run(bench, place, rng):
    shutil.copytree(bench.unfinished, place, dirs_exist_ok=True)
    name = pick(rng, ("last.pt", "last.pt", "best.pt", "config.json"))
    path = place / "runs" / "mtl" / "seed0" / name
    ways = [way for way in STRUCTURAL + SUBTLE if way != "missing"]
    if rng.random() < 0.6:
        what = damage_bytes(path, rng, ways)
    elif name == "config.json":
        what = soak_damage.change_config(path, rng)
    else:
        what = call(soak_damage.change_checkpoint, path, int(rng.integers(2**31)), cwd=place).strip()
    script, argv = commands(bench.reference)["train"]
    return Case(f"{name} {what}", [(script, argv, bench.same_run(place))])


def damaged_records(bench, place, rng):
    """Of a finished run, for what reads run folders."""
    folder = place / "runs" / "mtl" / "seed0"
    shutil.copytree(bench.reference.run, folder)
    name = pick(rng, ("config.json", "log.csv", "test.json", "test_per_image.csv"))
    if name == "config.json" and rng.random() < 0.5:
        what = soak_damage.change_config(folder / name, rng)
    else:
        what = damage_bytes(folder / name, rng)
    return Case(f"{name} {what}", [pick(rng, (
        ("results.py", [], "refuse" if what in STRUCTURAL else "any"),  # there is no other run that a page could be made of
        ("experiments.py", ["--repeat", folder, "--list", "--", "--data", bench.reference.data], "any"),
        ("mtl_vis.py", ["--gallery", folder, "--data", bench.reference.data], "any")))])


# ------------------------------------------------------------------------------------------------- photographs


def odd_photograph(bench, place, rng):
    source = pick(rng, sorted((bench.reference.photographs / "images").glob("*.jpg")))
    if rng.random() < 0.5:
        name, expect = json.loads(call(soak_damage.odd_photograph, place, source, int(rng.integers(2**31)), cwd=place))
        what = "unusual"
    else:
        name, whole = "photograph.jpg", source.stat().st_size
        shutil.copy(source, place / name)
        what = damage_bytes(place / name, rng)
        # The last bytes of a photograph may be missing without a trace.
        cut = what == "truncated" and (place / name).stat().st_size > 0.9 * whole
        expect = "refuse" if what in STRUCTURAL and not cut else "any"
    return Case(f"{name} {what}", [
        ("mtl_vis.py", ["--checkpoint", bench.reference.run / "best.pt", place / name], expect)])


def odd_folder(bench, place, rng):
    root = place / "photographs"
    shutil.copytree(bench.reference.photographs, root)
    name = pick(rng, sorted(path.stem for path in (root / "images").glob("*.jpg")))
    files = {"jpg": root / "images" / f"{name}.jpg", "png": root / "annotations" / "trimaps" / f"{name}.png",
             "xml": root / "annotations" / "xmls" / f"{name}.xml", "txt": root / "annotations" / "list.txt"}
    ending = pick(rng, tuple(files))
    changes = {"png": soak_damage.change_trimap, "xml": soak_damage.change_box, "txt": soak_damage.change_list}
    if ending in changes and rng.random() < 0.5:
        changes[ending](files[ending], rng)
        what = "changed"
    elif rng.random() < 0.15:
        new = pick(rng, ("Ünïcode_🐈_1", "a\nb_1", "_", " ", "-1", "x" * 240, "\udcff_1", "Kat;rm_1"))
        files["jpg"].rename(files["jpg"].with_name(new + ".jpg"))
        files["png"].rename(files["png"].with_name(new + ".png"))
        what = "renamed"
    else:
        what = damage_bytes(files[ending], rng)

    def sound(outcome):
        """What it made of it stands the check."""
        if outcome.status == 0:
            for options in ([], ["--check"]):
                following = soak_server.run("data_rechunk.py", ["--data", "data", *options], place)
                if following.status:
                    return f"data_rechunk.py {options} after it: {following.err.strip()[-500:]}"

    return Case(f"{ending} {what}", [("data_prepare.py", ["--root", root, "--out", "data", *soak_server.PREPARE], sound)])


# ----------------------------------------------------------------------------------------------------- options


def hostile_option(bench, place, rng):
    (place / "a-file").write_text("a file")
    (place / "a-folder").mkdir()
    (place / "a-loop").symlink_to("a-loop")
    table = scripts_and_options(bench.reference)
    script = pick(rng, tuple(table))
    usual, every = table[script]
    option, value = pick(rng, every), pick(rng, HOSTILE)
    if script == "training/checkpoint.py":
        argv = [value, "copy.pt"] if option == "SOURCE" else [bench.reference.run / "best.pt", value]
    elif option == "IMAGE":
        argv = [*(word for pair in usual.items() for word in pair), value]
    else:
        if option == "--synthetic":
            usual = {key: value for key, value in usual.items() if key != "--root"}
        argv = [word for pair in {**usual, option: value}.items() for word in pair]
    before = digests(bench.reference.data)

    def untouched(outcome):
        if digests(bench.reference.data) != before:
            return "it changed the data"

    return Case(f"{option} {value[:40]!r}", [(script, argv, untouched)])


KINDS_OF_INPUT = (damaged_prepared_file, changed_prepared_file, damaged_rechunked_file, changed_rechunked_file,
                  exchanged_files, damaged_index, damaged_network, damaged_run, damaged_records, odd_photograph, odd_folder,
                  hostile_option, hostile_option)
