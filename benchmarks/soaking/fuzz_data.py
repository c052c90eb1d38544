"""Data folders that are damaged, exchanged, incomplete, or as others write them."""

import csv
import json
import shutil

from data.contract import KINDS, SPLITS
from soaking import damage
from soaking.bench import CPU, OTHER_SIZES, Case, measured, pick
from soaking.damage import STRUCTURAL, damage_bytes
from soaking.options import TEXTS, TRAIN
from soaking.server import SIZE, call


def damage_a_file(bench, folder, place, rng):
    """Copy a data folder to place/data and damage a file of it; returns (split, kind, how, whether its samples changed)."""
    split, kind = pick(rng, SPLITS), pick(rng, KINDS)
    shutil.copytree(folder, place / "data")
    original, path = folder / split / f"{kind}.h5", place / "data" / split / f"{kind}.h5"
    way = damage_bytes(path, rng, spans=bench.structure(original))
    changed = way not in STRUCTURAL and bench.sampled_bytes(original, path) != bench.sampled_bytes(
        original, original
    )
    return split, kind, way, changed


def expectation(way, kind):
    """Nothing but the images has to be there."""
    return "refuse" if way in STRUCTURAL and (way != "missing" or kind == "images") else "any"


def damaged_prepared_file(bench, place, rng):
    split, kind, way, changed = damage_a_file(bench, bench.reference.prepared, place, rng)
    expect = "refuse" if changed and kind == "images" else expectation(way, kind)
    return Case(f"{split}/{kind}.h5 {way}", [("data_rechunk.py", ["--data", "data"], expect)])


def changed_prepared_file(bench, place, rng):
    split, kind = pick(rng, SPLITS), pick(rng, KINDS)
    shutil.copytree(bench.reference.prepared, place / "data")
    said = call(
        damage.change_h5,
        place / "data" / split / f"{kind}.h5",
        kind,
        int(rng.integers(2**31)),
        cwd=place,
    )
    case = Case(
        f"{split}/{kind}.h5 {said.strip()}", [("data_rechunk.py", ["--data", "data"], "refuse")]
    )
    if rng.random() < 0.2:
        case.commands.append(bench.readers(rng, split, "refuse"))
    return case


def damaged_rechunked_file(bench, place, rng):
    split, kind, way, changed = damage_a_file(bench, bench.reference.data, place, rng)
    expect = expectation(way, kind)
    return Case(
        f"{split}/{kind}.h5 {way}",
        [
            bench.readers(rng, split, expect),
            ("data_rechunk.py", ["--data", "data", "--check"], "refuse" if changed else expect),
        ],
    )


def changed_rechunked_file(bench, place, rng):
    split, kind = pick(rng, SPLITS), pick(rng, KINDS)
    shutil.copytree(bench.reference.data, place / "data")
    said = call(
        damage.change_h5,
        place / "data" / split / f"{kind}.h5",
        kind,
        int(rng.integers(2**31)),
        cwd=place,
    )
    expect = "refuse" if said.strip().endswith("refuse") else "any"
    return Case(
        f"{split}/{kind}.h5 {said.strip()}",
        [
            ("data_rechunk.py", ["--data", "data", "--check"], "refuse"),
            bench.readers(rng, split, expect),
        ],
    )


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
    return Case(
        what,
        [
            bench.readers(rng, a, "refuse"),
            ("data_rechunk.py", ["--data", "data", "--check"], "refuse"),
        ],
    )


def damaged_index(bench, place, rng):
    split = pick(rng, SPLITS)
    shutil.copytree(bench.reference.data, place / "data")
    path = place / "data" / split / "index.csv"
    if rng.random() < 0.5:
        way = damage_bytes(path, rng)
        # Data that others prepared has no index, so a missing one says nothing.
        what, expect = way, "refuse" if way in ("empty", "garbage", "text", "folder") else "any"
    else:
        what, expect = damage.change_index(path, rng)
    return Case(
        f"{split}/index.csv {what}",
        [
            (
                "data_rechunk.py",
                ["--data", "data", "--check"],
                "refuse" if expect == "check" else expect,
            ),
            bench.readers(rng, split, "any" if expect == "check" else expect),
        ],
    )


# ---------------------------------------------------------------------------------------------------- as others do


def index_of_others(bench, place, rng):
    """An index.csv as spreadsheets and people write it: taken for what it is, or refused for the reason."""
    split = pick(rng, SPLITS)
    shutil.copytree(bench.reference.data, place / "data")
    path = place / "data" / split / "index.csv"
    text = path.read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()]
    taken = {
        "BOM": "\ufeff" + text,
        "CRLF": text.replace("\n", "\r\n"),
        "BOM and CRLF": "\ufeff" + text.replace("\n", "\r\n"),
        "CR": text.replace("\n", "\r"),
        "no last line break": text.strip(),
        "blank lines": text.replace("\n", "\n\n"),
        "lines of commas": text + ",,,,\n" * 3,
        "row and name": table([cells[:2] for cells in rows]),
        "another order of columns": table([cells[::-1] for cells in rows]),
        "columns of one's own": table([[*cells, '"a, b"', "ü"] for cells in rows]),
        "quotes": "\n".join(",".join(f'"{cell}"' for cell in cells) for cells in rows),
        "empty cells": table(rows[:1] + [[*cells[:2], "", "", ""] for cells in rows[1:]]),
    }
    refused = {
        "semicolons": (text.replace(",", ";"), "semicolon"),
        "tabs": (text.replace(",", "\t"), "tab"),
        "UTF-16": (text, "UTF-16"),
        "no names": (table([cells[:1] for cells in rows]), "name"),
    }
    what = pick(rng, [*taken, *refused])
    content, word = refused.get(what, (taken.get(what), None))
    path.write_bytes(content.encode("utf-16" if what == "UTF-16" else "utf-8"))
    if word:

        def expect(outcome):
            return (
                None
                if outcome.status == 2 and word in outcome.err
                else f"it does not say {word}: {outcome.err}"
            )
    else:

        def expect(outcome):
            return outcome.err or bench.same_metrics(outcome)

    return Case(
        f"{split}/index.csv with {what}",
        [
            ("data_rechunk.py", ["--data", "data", "--check"], "refuse" if word else "accept"),
            ("evaluate.py", ["--data", "data", *CPU, *bench.checkpoint], expect),
        ],
    )


def table(rows):
    return "".join(",".join(cells) + "\n" for cells in rows)


def names_in_the_index(bench, place, rng):
    """Images of any name are trained on, measured and drawn under it."""
    shutil.copytree(bench.reference.data, place / "data")
    names = {}
    for split in SPLITS:
        path = place / "data" / split / "index.csv"
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        names[split] = [pick(rng, TEXTS) + f"_{k}" for k in range(len(rows))]
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [
                    head.split(","),
                    *(
                        [cells[0], name, *cells[2:]]
                        for name, cells in zip(names[split], (row.split(",") for row in rows))
                    ),
                ]
            )

    def drawn(outcome):
        if outcome.status or outcome.err:
            return f"status {outcome.status}: {outcome.err}"
        folder = place / "runs" / "baseline" / "seed0"
        with open(folder / "test_per_image.csv", newline="", encoding="utf-8") as file:
            found = [row["name"] for row in csv.DictReader(file)]
        if found != names["test"]:
            return f"test_per_image.csv has the names {found}"
        if measured(folder) != bench.baseline:
            return f"other metrics: {measured(folder)}"
        return None if (folder / "mask.png").exists() else "there is no mask.png"

    def described(outcome):
        if (
            outcome.status
            or outcome.err
            or len(outcome.out.splitlines()) != min(4, len(names["test"])) + 1
        ):
            return f"status {outcome.status}: {outcome.err}, {outcome.out}"

    return Case(
        f"names such as {names['test'][0]!r}",
        [
            ("train_baseline.py", ["--data", "data", *TRAIN], drawn),
            (
                "mtl_vis.py",
                ["--data", "data", "--checkpoint", "runs/baseline/seed0/best.pt"],
                described,
            ),
        ],
    )


def data_of_another_size(bench, place, rng):
    """What a network sees at another size than its own is said in one warning, or mended with --resize."""
    size = pick(rng, OTHER_SIZES)
    data, split = ["--data", bench.sized[size]], pick(rng, SPLITS)

    def warned(outcome):
        lines = [
            line
            for line in outcome.err.splitlines()
            if str(size) in line and str(SIZE) in line and "px" in line
        ]
        if outcome.status or len(lines) != 1:
            return f"status {outcome.status} and {len(lines)} lines name both sizes: {outcome.err}"

    def same(outcome):
        return f"it says {outcome.err}" if outcome.err else bench.same_metrics(outcome)

    def resized(outcome):
        found = json.loads(outcome.out) if outcome.status == 0 else {}
        if found.get("size") != size:
            return f"the size is {found.get('size')}: {outcome.err}"
        if split == "test" and abs(found["dice"] - bench.metrics["dice"]) > 0.15:
            return f"Dice is {found['dice']} and {bench.metrics['dice']} at the network's size"

    evaluate = ["--split", split, *CPU, *bench.checkpoint]
    return Case(
        f"{size} px, {split}",
        [
            pick(
                rng,
                (
                    ("evaluate.py", [*data, *evaluate], warned),
                    ("evaluate.py", [*data, *evaluate, "--resize"], resized),
                    (
                        "evaluate.py",
                        ["--data", bench.reference.data, "--resize", *CPU, *bench.checkpoint],
                        same,
                    ),
                    (
                        "train_mtl.py",
                        [*data, *TRAIN, "--init", bench.reference.run / "best.pt"],
                        warned,
                    ),
                    ("mtl_vis.py", [*data, *bench.checkpoint], "accept"),
                ),
            )
        ],
    )


KINDS_OF_INPUT = (
    damaged_prepared_file,
    changed_prepared_file,
    damaged_rechunked_file,
    changed_rechunked_file,
    exchanged_files,
    damaged_index,
    index_of_others,
    names_in_the_index,
    data_of_another_size,
)
