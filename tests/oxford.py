"""Small folders in the Oxford-IIIT Pet layout for the tests of data_prepare.py, and what it makes
of them."""

import csv
import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import data_prepare
from cli import InputError
from data import contract

RED, BLUE = (200, 40, 40), (40, 40, 200)


def layout(root):
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True)
    return root


def noise(name, width, height):
    pixels = np.random.default_rng(zlib.crc32(os.fsencode(name))).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels)


def halves(width=64, height=48):
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def a_trimap(width, height):
    """Pet in the middle third, a border of 3 pixels around it."""
    trimap = np.full((height, width), 2, np.uint8)
    trimap[height // 3 - 3 : 2 * height // 3 + 3, width // 3 - 3 : 2 * width // 3 + 3] = 3
    trimap[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 1
    return trimap


def voc(box, frame):
    corners = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    size = (
        f"<size><width>{frame[0]}</width><height>{frame[1]}</height><depth>3</depth></size>"
        if frame
        else ""
    )
    inner = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    return f"<annotation>{size}{inner}</annotation>"


def add(
    root, name, image=None, trimap=None, box=(10, 5, 30, 25), frame="image", ending=".jpg", **save
):
    """Add a photograph of 64 x 48 noise, or the given one; trimap: an array or an image; box None
    leaves the XML out."""
    image = noise(name, 64, 48) if image is None else image
    trimap = a_trimap(*image.size) if trimap is None else trimap
    trimap = Image.fromarray(trimap) if isinstance(trimap, np.ndarray) else trimap
    image.save(root / "images" / f"{name}{ending}", **{"format": "PNG", **save})
    trimap.save(root / "annotations" / "trimaps" / f"{name}.png")
    if box is not None:
        xml = voc(box, image.size if frame == "image" else frame)
        (root / "annotations" / "xmls" / f"{name}.xml").write_text(xml)


def real(variable):
    """The folder of real photographs that an environment variable names; without it the test is
    skipped."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder")
    return Path(folder)


def prepare(root, out, *options):
    data_prepare.main(
        data_prepare.parse_args(
            ["--root", str(root), "--out", str(out), "--size", "32", *map(str, options)]
        )
    )
    return out


def refused(root, out, *options):
    """The message of a refusal, after which nothing new may lie beside `out`."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError) as error:
        prepare(root, out, *options)
    assert sorted(out.parent.iterdir()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def read(out, split="test"):
    """The arrays of a split by kind, and its index rows as dicts."""
    arrays = {}
    for kind in contract.kinds_of(out, split):
        with h5py.File(out / split / f"{kind}.h5", "r") as file:
            arrays[kind] = file[kind][:]
    with open(out / split / "index.csv", newline="") as file:
        return arrays, list(csv.DictReader(file))


def only(root, out, *options):
    """Prepare a folder with one photograph and return its arrays without the first axis."""
    arrays, rows = read(prepare(root, out, "--fractions", "0-0-100", *options))
    assert len(rows) == 1
    return {kind: array[0] for kind, array in arrays.items()}


def names(out, split="test"):
    return [row["name"] for row in read(out, split)[1]]


def all_of(root, out, *options):
    """Prepare a folder as one split: {name: its arrays by kind}."""
    arrays, rows = read(prepare(root, out, "--fractions", "0-0-100", *options))
    return {
        row["name"]: {kind: array[k] for kind, array in arrays.items()}
        for k, row in enumerate(rows)
    }


def left_out(text):
    """What a report says of the photographs left out: {name: reason}; the number that it states is
    checked."""
    count, *lines = text.partition("left out: ")[2].splitlines()
    found = dict(line.strip().split(": ", 1) for line in lines if line.startswith("  "))
    assert int(count) == len(found)
    return found


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """40 photographs of two breeds of cats and two of dogs, of many sizes and aspects; every tenth
    without a box."""
    root = layout(tmp_path_factory.mktemp("pets"))
    for k in range(40):
        breed = ("Abyssinian", "Maine_Coon", "beagle", "saint_bernard")[k % 4]
        image = noise(f"{breed}_{k}", 40 + 7 * (k % 9), 100 - 9 * (k % 8))
        add(root, f"{breed}_{k}", image, box=None if k % 10 == 9 else (10, 5, 30, 25))
    return root
