"""Networks, unfinished and finished runs that are damaged, or that are gone on with otherwise."""

import shutil

from soaking import damage, server
from soaking.bench import Case, pick
from soaking.damage import STRUCTURAL, SUBTLE, damage_bytes
from soaking.options import TRAIN
from soaking.server import call, commands, digests


def damaged_network(bench, place, rng):
    path = place / pick(rng, ("best.pt", "mtl_model.pt"))
    shutil.copy(bench.reference.run / "best.pt", place / "source.pt")
    if path.name == "best.pt":
        shutil.copy(place / "source.pt", path)
    else:
        outcome = server.run("export.py", ["source.pt", path], place)
        if outcome.status:
            raise RuntimeError(outcome.err)
    if rng.random() < 0.6:
        what = damage_bytes(path, rng)
        expect = "refuse" if what in STRUCTURAL else "any"
    else:
        said = call(damage.change_checkpoint, path, int(rng.integers(2**31)), cwd=place)
        what, _, expect = said.strip().rpartition(": ")
    named = ["--checkpoint", path]
    data = ["--data", bench.reference.data]
    drawn = sorted((bench.reference.photographs / "images").glob("*.jpg"))[0]
    same = (
        bench.same_metrics
        if path.name == "best.pt" and expect == "any" and what in SUBTLE
        else expect
    )
    return Case(
        f"{path.name} {what}",
        [
            pick(
                rng,
                (
                    ("evaluate.py", [*named, *data, "--device", "cpu"], same),
                    ("mtl_vis.py", [*named, drawn], expect),
                    ("mtl_vis.py", [*named, *data], expect),
                    ("export.py", [path, "copy.pt"], expect),
                    ("train_mtl.py", ["--init", path, *data, *TRAIN], expect),
                ),
            )
        ],
    )


def damaged_run(bench, place, rng):
    shutil.copytree(bench.unfinished, place, dirs_exist_ok=True)
    name = pick(rng, ("last.pt", "last.pt", "best.pt", "config.json"))
    path = place / "runs" / "mtl" / "seed0" / name
    ways = [way for way in STRUCTURAL + SUBTLE if way != "missing"]
    if rng.random() < 0.6:
        what = damage_bytes(path, rng, ways)
    elif name == "config.json":
        what = damage.change_config(path, rng)
    else:
        what = call(damage.change_checkpoint, path, int(rng.integers(2**31)), cwd=place).strip()
    script, argv = commands(bench.reference)["train"]
    return Case(f"{name} {what}", [(script, argv, bench.same_run(place))])


def damaged_records(bench, place, rng):
    """Of a finished run, for what reads run folders."""
    folder = place / "runs" / "mtl" / "seed0"
    shutil.copytree(bench.reference.run, folder)
    name = pick(rng, ("config.json", "log.csv", "test.json", "test_per_image.csv"))
    if name == "config.json" and rng.random() < 0.5:
        what = damage.change_config(folder / name, rng)
    else:
        what = damage_bytes(folder / name, rng)
    return Case(
        f"{name} {what}",
        [
            pick(
                rng,
                (
                    (
                        "results.py",
                        [],
                        "refuse" if what in STRUCTURAL else "any",
                    ),  # there is no other run that a page could be made of
                    (
                        "experiments.py",
                        ["--repeat", folder, "--list", "--", "--data", bench.reference.data],
                        "any",
                    ),
                    ("mtl_vis.py", ["--gallery", folder, "--data", bench.reference.data], "any"),
                ),
            )
        ],
    )


def finished_run_again(bench, place, rng):
    """--resume of a finished run, or a study that has it: nothing to do if all is the same, else refused by what differs."""
    folder = place / "runs" / "mtl" / "seed0"
    shutil.copytree(bench.reference.run, folder)
    script, argv = commands(bench.reference)["train"]
    other = bench.sized[32]
    (place / "link").symlink_to(bench.reference.data)
    refused = {
        ("--epochs", "4"): "--epochs",
        ("--epochs", "1"): "--epochs",
        ("--epochs", "60"): "--epochs",
        ("--lr", "0.01"): "--lr",
        ("--batch-size", "5"): "--batch-size",
        ("--augment", "none"): "--augment",
        ("--width", "4"): "--width",
        ("--limit", "5"): "--limit",
        ("--precision", "bf16"): "--precision",
        ("--data", other): "split",
        ("--init", bench.reference.run / "best.pt"): "--init",
    }
    same = [(), ("--workers", "1"), ("--data", place / "link"), ("--device", "auto")]
    before = digests(folder)

    def untouched(outcome):
        if digests(folder) != before:
            return "it changed the run"

    if rng.random() < 0.2:
        ways = [way for way in STRUCTURAL if way != "missing"]
        what = damage_bytes(folder / "config.json", rng, [*ways, "missing"])
        return Case(f"config.json {what}", [(script, argv, "refuse")])
    options = pick(rng, [*refused, *same * 2])
    word = refused.get(options)

    def expect(outcome):
        if word and (outcome.status != 2 or word not in outcome.err):
            return f"status {outcome.status}, and it does not name {word}: {outcome.err}"
        if not word and (outcome.status or "finished" not in outcome.out):
            return f"status {outcome.status}: {outcome.err}"
        return untouched(outcome)

    what = f"finished, {' '.join(map(str, options)) or 'as it was'}"
    if (
        rng.random() < 0.3
    ):  # where they are given, a study compares options with the run that it would skip
        study = ["--only", "mtl", "--seeds", "0", "--", *argv[:-1], *options]
        return Case(f"a study, {what}", [("experiments.py", study, expect)])
    return Case(what, [(script, [*argv, *options], expect)])


KINDS_OF_INPUT = (damaged_network, damaged_run, damaged_records, finished_run_again)
