"""Folders of photographs for data_prepare.py."""

import csv
import json
import shutil

import numpy as np
from PIL import Image

from data.photographs import show_name
from soaking import damage, pictures, server
from soaking.bench import Case, pick, some
from soaking.damage import damage_bytes
from soaking.folders import NO_BOX, SIDE, SPECIES, layout, print_wrong, write_boxes, write_forms
from soaking.options import BYTES, TEXTS
from soaking.server import PREPARE, call, digests


def odd_folder(bench, place, rng):
    root = place / "photographs"
    shutil.copytree(bench.reference.photographs, root)
    name = pick(rng, sorted(path.stem for path in (root / "images").glob("*.jpg")))
    files = {
        "jpg": root / "images" / f"{name}.jpg",
        "png": root / "annotations" / "trimaps" / f"{name}.png",
        "xml": root / "annotations" / "xmls" / f"{name}.xml",
        "txt": root / "annotations" / "list.txt",
    }
    ending = pick(rng, tuple(files))
    changes = {"png": damage.change_trimap, "xml": damage.change_box, "txt": damage.change_list}
    if ending in changes and rng.random() < 0.5:
        changes[ending](files[ending], rng)
        what = "changed"
    else:
        what = damage_bytes(files[ending], rng)

    return Case(
        f"{ending} {what}",
        [("data_prepare.py", ["--root", root, "--out", "data", *PREPARE], sound(place))],
    )


def sound(place, wrong=lambda outcome: None):
    """An expectation: what data_prepare.py made of a folder stands the check, and nothing else is wrong with it."""

    def expect(outcome):
        if outcome.status == 0:
            for options in ([], ["--check"]):
                following = server.run("data_rechunk.py", ["--data", "data", *options], place)
                if following.status:
                    return f"data_rechunk.py {options} after it: {following.err.strip()[-500:]}"
        return wrong(outcome)

    return expect


def the_same_folder(bench, place, rng):
    """What must not change a bit: endings, byte order marks, line ends, hidden files, palettes, a profile that is sRGB."""
    root = place / "photographs"
    shutil.copytree(bench.reference.photographs, root)
    notes = root / "annotations"
    ways = some(rng, [endings, palettes, windows, clutter, upright_tags, elsewhere])
    for way in ways:
        way(root, notes, rng)
    before = digests(bench.reference.prepared)

    def same(outcome):
        if outcome.status or outcome.err:
            return f"status {outcome.status}: {outcome.err}"
        different = [
            name for name, digest in digests(place / "data").items() if before.get(name) != digest
        ]
        return f"{different[0]} is another" if different else None

    named = ", ".join(way.__name__.replace("_", " ") for way in ways)
    return Case(named, [("data_prepare.py", ["--root", root, "--out", "data", *PREPARE], same)])


def endings(root, notes, rng):
    """In capitals, or of the same format under another name."""
    new = {
        ".jpg": (".JPG", ".jpeg", ".Jpeg", ".JPE", ".png"),
        ".png": (".PNG", ".Png"),
        ".xml": (".XML", ".Xml"),
    }
    for path in [path for path in root.rglob("*") if path.suffix in new]:
        if rng.random() < 0.5:
            path.rename(path.with_suffix(pick(rng, new[path.suffix])))


def palettes(root, notes, rng):
    """Trimaps with a palette, as tools for labelling write them."""
    for path in (notes / "trimaps").iterdir():
        with Image.open(path) as trimap:
            trimap.load()
        trimap.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        trimap.save(path, format="PNG")


def windows(root, notes, rng):
    """A byte order mark and line ends as Windows programs write them."""
    for path in (notes / "list.txt", *(notes / "xmls").iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


def clutter(root, notes, rng):
    """Hidden files beside the real ones."""
    for path in [*(root / "images").iterdir(), *(notes / "trimaps").iterdir()][::3]:
        path.with_name(f"._{path.name}").write_bytes(rng.bytes(100))
    (root / "images" / ".DS_Store").write_bytes(b"x")
    (root / "images" / "Thumbs.db").write_bytes(b"x")


def upright_tags(root, notes, rng):
    """EXIF that says upright, or nothing that is valid; put in by hand, so that the picture stays as it is."""
    for path in (root / "images").iterdir():
        exif = Image.Exif()
        exif[pictures.ORIENTATION] = int(rng.choice([1, *pictures.INVALID_TAGS]))
        segment = exif.tobytes()
        content = path.read_bytes()
        if content.startswith(b"\xff\xd8"):
            path.write_bytes(
                content[:2]
                + b"\xff\xe1"
                + (len(segment) + 2).to_bytes(2, "big")
                + segment
                + content[2:]
            )


def elsewhere(root, notes, rng):
    """Photographs that are links to files in another place."""
    store = root.parent / "store"
    store.mkdir()
    for k, path in enumerate(sorted((root / "images").iterdir())[::2]):
        path.rename(store / f"{k}")
        path.symlink_to(store / f"{k}")


def photographs_in_other_forms(bench, place, rng):
    """Each stored, with its mask and its box, exactly as the plain photograph that it should look like."""
    written = json.loads(
        call(write_forms, bench.reference.photographs, int(rng.integers(2**31)), cwd=place)
    )

    def right(outcome):
        if outcome.status:
            return f"refused: {outcome.err}"
        gone = json.loads(call(print_wrong, cwd=place))
        for name, wrong in gone.items():
            if wrong != "missing" or not written[name]["may_refuse"] or name not in outcome.out:
                return f"{name}, {written[name]['what']}: {wrong}"

    return Case(
        "; ".join(what["what"] for what in written.values()),
        [
            (
                "data_prepare.py",
                [
                    "--root",
                    "photographs",
                    "--out",
                    "data",
                    "--size",
                    SIDE,
                    "--fractions",
                    "0-0-100",
                ],
                sound(place, right),
            )
        ],
    )


def photographs_of_odd_names(bench, place, rng):
    """Nothing vanishes: each photograph is in index.csv, as the species that its name says, or named as left out."""
    source = pick(rng, sorted((bench.reference.photographs / "images").glob("*.jpg")))
    trimap = bench.reference.photographs / "annotations" / "trimaps" / f"{source.stem}.png"
    root = layout(place / "photographs")
    names = list(
        dict.fromkeys(pick(rng, TEXTS + BYTES) + f"_{k}" for k in range(int(rng.integers(2, 6))))
    )
    names += [name for k, name in enumerate(SPECIES) if k < 2 or rng.random() < 0.2]
    for name in names:
        shutil.copy(source, root / "images" / (name + pick(rng, (".jpg", ".JPG", ".jpeg"))))
        shutil.copy(trimap, root / "annotations" / "trimaps" / f"{name}.png")
    twice, foreign = rng.random() < 0.5, rng.random() < 0.5
    if twice:
        for ending in pick(rng, ((".jpg", ".png"), (".jpg", ".JPG"), (".webp", ".tif"))):
            shutil.copy(source, root / "images" / f"Twice{ending}")
        shutil.copy(trimap, root / "annotations" / "trimaps" / "Twice.png")
    if foreign:
        (root / "images" / "notes.txt").write_text("x")
    (root / "images" / "._hidden.jpg").write_text("x")

    def complete(outcome):
        if outcome.status:
            return f"refused: {outcome.err}"
        with open(place / "data" / "test" / "index.csv", newline="", encoding="utf-8") as file:
            species = {row["name"]: row["species"] for row in csv.DictReader(file)}
        for name in names:
            if name not in species and show_name(name) not in outcome.out:
                return f"{name!r} is neither in index.csv nor said to be left out"
            if species.get(name) != SPECIES.get(name, species.get(name)):
                return f"{name!r} is a {species.get(name)}"
        if twice and ("Twice" in species or "Twice" not in outcome.out):
            return "of two photographs with one name one is used, or they are not named"
        if foreign and "notes.txt" not in outcome.out:
            return "notes.txt is not named"
        return "hidden files are named" if "hidden" in outcome.out else None

    return Case(
        f"names {names}",
        [
            (
                "data_prepare.py",
                ["--root", root, "--out", "data", "--size", SIDE, "--fractions", "0-0-100"],
                sound(place, complete),
            )
        ],
    )


def odd_boxes(bench, place, rng):
    """A box that cannot be used costs the photograph its box, never its mask; one that can be is stored where it is."""
    written = json.loads(
        call(write_boxes, bench.reference.photographs, int(rng.integers(2**31)), cwd=place)
    )

    def right(outcome):
        if outcome.status:
            return f"refused: {outcome.err}"
        for name, wrong in json.loads(call(print_wrong, cwd=place)).items():
            return f"{name}, {written[name]}: {wrong}"
        unnamed = [
            what for name, what in written.items() if what in NO_BOX and name not in outcome.out
        ]
        return f"no word of {unnamed[0]}" if unnamed else None

    return Case(
        ", ".join(written.values()),
        [
            (
                "data_prepare.py",
                [
                    "--root",
                    "photographs",
                    "--out",
                    "data",
                    "--size",
                    SIDE,
                    "--fractions",
                    "0-0-100",
                ],
                sound(place, right),
            )
        ],
    )


def official_halves(bench, place, rng):
    """trainval.txt and test.txt: the test half stays whole, and --only takes one of them."""
    root = place / "photographs"
    shutil.copytree(bench.reference.photographs, root)
    names = sorted(path.stem for path in (root / "images").glob("*.jpg"))
    test = set(some(rng, names, 3)[:8])
    halves = {"trainval": [name for name in names if name not in test], "test": sorted(test)}
    mark, end = pick(rng, (("", "\n"), ("\ufeff", "\r\n")))
    for half, members in halves.items():
        lines = "".join(f"{name} 1 1 1{end}" for name in members)
        (root / "annotations" / f"{half}.txt").write_bytes((mark + lines).encode())
    options = pick(
        rng,
        (
            ["--official-split", "--fractions", "70-30-0"],
            ["--only", "trainval", "--fractions", "60-20-20"],
            ["--only", "test", "--fractions", "0-0-100"],
            ["--official-split", "--fractions", "60-20-20"],
        ),
    )
    lacks = rng.random() < 0.2
    if lacks:
        (root / "annotations" / ("trainval.txt" if "trainval" in options else "test.txt")).unlink()

    def halved(outcome):
        if lacks or options[-1] == "60-20-20" and "--official-split" in options:
            return None if outcome.status == 2 else "not refused"
        if outcome.status:
            return f"refused: {outcome.err}"
        found = {}
        for path in (place / "data").glob("*/index.csv"):
            with open(path, newline="", encoding="utf-8") as file:
                found[path.parent.name] = [row["name"] for row in csv.DictReader(file)]
        everything = sorted(name for members in found.values() for name in members)
        expected = halves[options[1]] if "--only" in options else names
        if everything != expected:
            return f"it holds {everything} and should hold {expected}"
        if "--only" not in options and sorted(found["test"]) != halves["test"]:
            return f"the test split is {found['test']}"

    return Case(
        " ".join(options),
        [
            (
                "data_prepare.py",
                ["--root", root, "--out", "data", "--size", SIDE, *options],
                sound(place, halved),
            )
        ],
    )


KINDS_OF_INPUT = (
    odd_folder,
    the_same_folder,
    photographs_in_other_forms,
    photographs_of_odd_names,
    odd_boxes,
    official_halves,
)
