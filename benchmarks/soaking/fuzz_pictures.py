"""Photographs for mtl_vis.py and predict.py: damaged, in every form, under every name."""

import csv
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from soaking import pictures
from soaking.bench import Case, pick
from soaking.damage import STRUCTURAL, damage_bytes
from soaking.options import BYTES, TEXTS
from soaking.server import call


def damaged_photograph(bench, place, rng):
    source = pick(rng, photographs(bench))
    name, whole = "photograph.jpg", source.stat().st_size
    if rng.random() < 0.5:
        shutil.copy(source, place / name)
    else:
        call(write_other_format, source, place / name, int(rng.integers(2**31)), cwd=place)
        whole = None
    what = damage_bytes(place / name, rng)
    # The last bytes of a photograph may be missing without a trace.
    cut = what == "truncated" and (whole is None or (place / name).stat().st_size > 0.9 * whole)
    return Case(
        f"photograph {what}",
        [draw(bench, [name], "refuse" if what in STRUCTURAL and not cut else "any")],
    )


def unusual_photograph(bench, place, rng):
    """What is no photograph is refused and named once; what is a strange one is drawn or refused."""
    name, expect = json.loads(
        call(write_unusual, pick(rng, photographs(bench)), int(rng.integers(2**31)), cwd=place)
    )

    def refused(outcome):
        if outcome.status != 2:
            return "not refused"
        return None if outcome.err.count(name) == 1 else f"it is not named once: {outcome.err}"

    return Case(name, [draw(bench, [name], {"refuse": refused, "any": "any"}[expect])])


def photograph_in_another_form(bench, place, rng):
    """Another depth, mode, turn, profile or transparency: drawn exactly as the plain picture that it should look like."""
    names = ["odd/photograph.png", "plain/photograph.png"]
    for name in names:
        (place / name).parent.mkdir()
    seed = int(rng.integers(2**31))
    what, near, may_refuse = json.loads(
        call(print_twin, pick(rng, photographs(bench)), names, seed, cwd=place)
    )
    said = []

    def drawn(outcome):
        if outcome.err and not (outcome.status and may_refuse):
            return outcome.err
        said.append(outcome.out.splitlines()[:1] if outcome.status == 0 else None)

    def same(outcome):
        if outcome.status:
            return f"the plain picture is refused: {outcome.err}"
        if said == [None] or near:
            return None
        if said != [outcome.out.splitlines()[:1]]:
            return f"it says {said[0]} and of the plain picture {outcome.out.splitlines()[:1]}"
        different = json.loads(call(print_difference, ["odd.png", "plain.png"], cwd=place))
        return f"it is drawn otherwise than the plain picture: {different}" if different else None

    return Case(
        what, [draw(bench, names[:1], drawn, "odd.png"), draw(bench, names[1:], same, "plain.png")]
    )


def photographs_of_any_name(bench, place, rng):
    """Drawn, described in a line each, and nothing said on standard error."""
    names = list(
        dict.fromkeys(
            pick(rng, TEXTS + BYTES) + pick(rng, (".jpg", ".JPG", ".jpeg", ".Png", ".webp", ""))
            for _ in range(int(rng.integers(1, 4)))
        )
    )
    source = pick(rng, photographs(bench))
    for name in names:
        shutil.copy(source, place / name)

    def drawn(outcome):
        lines = outcome.out.splitlines()
        if (
            outcome.status
            or outcome.err
            or len(lines) != len(names) + 1
            or "drawn with" not in lines[-1]
        ):
            return f"status {outcome.status}: {outcome.err}, {outcome.out}"
        return None if (place / "mask.png").exists() else "there is no mask.png"

    return Case(f"the names {names}", [draw(bench, [f"./{name}" for name in names], drawn)])


def one_bad_of_several(bench, place, rng):
    """The others are drawn all the same."""
    count = int(rng.integers(2, 5))
    names, bad = [f"photograph{k}.jpg" for k in range(count)], int(rng.integers(count))
    for k, source in enumerate(rng.permutation(photographs(bench))[:count]):
        shutil.copy(source, place / names[k])
    what = damage_bytes(
        place / names[bad], rng, ("empty", "garbage", "text", "folder", "loop", "missing")
    )

    def drawn(outcome):
        others = [name for k, name in enumerate(names) if k != bad]
        if [line.split(":")[0] for line in outcome.out.splitlines()[:-1]] != others or not (
            place / "mask.png"
        ).exists():
            return (
                f"the others are not drawn, status {outcome.status}: {outcome.out}, {outcome.err}"
            )
        return (
            None
            if outcome.err.count(names[bad]) == 1
            else f"the bad one is not named once: {outcome.err}"
        )

    return Case(f"one of {count} {what}", [draw(bench, names, drawn)])


def photographs_for_masks(bench, place, rng):
    """Of each that can be read a mask of its size, of each a line in the table, whatever they are called."""
    sources = {}
    for name in dict.fromkeys(
        pick(rng, TEXTS + BYTES) + pick(rng, (".jpg", ".JPG", ".png"))
        for _ in range(int(rng.integers(1, 5)))
    ):
        sources[name] = pick(rng, photographs(bench))
        shutil.copy(sources[name], place / name)
    sizes = dict(zip(sources, json.loads(call(print_sizes, list(sources.values()), cwd=place))))
    bad = [name for name in sizes if rng.random() < 0.3]
    what = [damage_bytes(place / name, rng, ("empty", "garbage", "text")) for name in bad]
    again = rng.random() < 0.3

    def written(outcome):
        if outcome.status != (2 if len(bad) == len(sizes) else 0):
            return f"status {outcome.status}: {outcome.err}"
        with open(
            place / "seen" / "predictions.csv",
            encoding="utf-8",
            errors="surrogateescape",
            newline="",
        ) as file:
            lines = list(csv.DictReader(file))
        if [line["path"] for line in lines] != sorted(sizes):
            return f"the table has {[line['path'] for line in lines]}"
        wrong = [line["path"] for line in lines if bool(line["problem"]) != (line["path"] in bad)]
        if wrong:
            return f"the table is wrong about {wrong}"
        there = list((place / "seen" / "masks").iterdir()) if len(bad) < len(sizes) else []
        masks = sorted(json.loads(call(print_sizes, there, cwd=place)))
        expected = sorted(size for name, size in sizes.items() if name not in bad)
        return None if masks == expected else f"masks of {masks}, not {expected}"

    command = (
        "predict.py",
        [
            *bench.checkpoint,
            "--processes",
            "1",
            "--device",
            "cpu",
            "--out",
            "seen",
            *(f"./{name}" for name in sizes),
        ],
        written,
    )
    return Case(f"masks of {list(sizes)}, of which {bad} are {what}", [command] * (1 + again))


def photographs(bench):
    return sorted((bench.reference.photographs / "images").glob("*.jpg"))


def draw(bench, names, expect, out="mask.png"):
    return "mtl_vis.py", [*bench.checkpoint, "--out", out, *names], expect


# ------------------------------------------------------------------------------------------------------ in a child


def write_other_format(source, path, seed):
    """In a child: a photograph in some form, small."""
    rng = np.random.default_rng(seed)
    pictures.write_odd(small(source, rng), rng, lambda ending: path)


def small(source, rng):
    return (
        Image.open(source).convert("RGB").resize([int(side) for side in rng.integers(33, 120, 2)])
    )


def print_twin(source, names, seed):
    """In a child: write an odd picture and what a reader has to see in it, under two names; prints what it is, by how much
    they may differ and whether it may be refused, as JSON."""
    rng = np.random.default_rng(seed)
    written = pictures.write_odd(small(source, rng), rng, lambda ending: Path(names[0]))
    written.right.save(names[1], format="PNG")
    print(json.dumps([written.what, written.near, written.may_refuse]))


def print_difference(paths):
    """In a child: how two pictures differ, or null, as JSON."""
    a, b = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in paths)
    same = a.shape == b.shape and not (a != b).any()
    print(
        json.dumps(
            None
            if same
            else f"{a.shape} and {b.shape}"
            if a.shape != b.shape
            else f"by {np.abs(a - b).max()}"
        )
    )


def print_sizes(paths):
    """In a child: the sides of pictures, as JSON."""
    print(json.dumps([Image.open(path).size for path in paths]))


def write_unusual(source, seed):
    """In a child: write what is hardly a photograph; prints its name and whether it has to be refused, as JSON."""
    rng = np.random.default_rng(seed)
    image = Image.open(source).convert("RGB")
    ways = {
        "one.png any": lambda path: image.resize((1, 1)).save(path),
        "wide.png any": lambda path: image.resize((3000, 1)).save(path),
        "tall.png any": lambda path: image.resize((1, 3000)).save(path),
        "noise.png any": lambda path: Image.fromarray(
            rng.integers(0, 65536, (40, 50)).astype(np.uint16)
        ).save(path),
        "exif.jpg any": lambda path: image.save(path, exif=b"Exif\x00\x00" + rng.bytes(60)),
        "large.jpg any": lambda path: image.resize((6000, 5000)).save(path, quality=20),
        "huge.png refuse": lambda path: huge_png(image, path, rng),
        "nan.tiff refuse": lambda path: floating([[0.5, np.nan], [0, 1]]).save(path),
        "infinite.tiff refuse": lambda path: floating([[0.5, np.inf], [0, 1]]).save(path),
        "negative.tiff refuse": lambda path: Image.fromarray(
            np.array([[-5, 70000]], np.int32)
        ).save(path),
        "drawing.svg refuse": lambda path: path.write_text(
            "<svg xmlns='http://www.w3.org/2000/svg'/>"
        ),
        "drawing.eps refuse": lambda path: image.save(path),
        "drawing.wmf refuse": lambda path: path.write_bytes(b"\xd7\xcd\xc6\x9a" + bytes(300)),
        "document.pdf refuse": lambda path: image.save(path),
        "telephone.heic refuse": lambda path: path.write_bytes(
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.bytes(500)
        ),
        "film.mp4 refuse": lambda path: path.write_bytes(
            b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + rng.bytes(500)
        ),
        "folder.jpg refuse": lambda path: path.mkdir(),
        "pipe.jpg refuse": lambda path: os.mkfifo(path),
        "empty.jpg refuse": lambda path: path.write_bytes(b""),
        "page.html refuse": lambda path: path.write_text("<!doctype html><title>404</title>"),
        "data.npy refuse": lambda path: np.save(path, np.zeros((5, 5))),
    }
    name, expect = list(ways)[int(rng.integers(len(ways)))].split(" ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways[f"{name} {expect}"](Path(name))
    print(json.dumps([name, expect]))


def floating(values):
    return Image.fromarray(np.array(values, np.float32))


def huge_png(image, path, rng):
    """A small file whose header claims thousands of millions of pixels."""
    image.save(path)
    content = bytearray(path.read_bytes())
    side = int(rng.integers(30_000, 2**31 - 1)).to_bytes(4, "big")
    content[16:24] = side + side
    path.write_bytes(content)


KINDS_OF_INPUT = (
    damaged_photograph,
    unusual_photograph,
    photograph_in_another_form,
    photographs_of_any_name,
    one_bad_of_several,
    photographs_for_masks,
)
