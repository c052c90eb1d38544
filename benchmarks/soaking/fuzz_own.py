"""Photographs of one's own with masks or a COCO file, for data_prepare.py."""

import json
import shutil

import numpy as np
from PIL import Image

from soaking.bench import Case, pick, some
from soaking.damage import damage_bytes
from soaking.folders import SIDE
from soaking.fuzz_folders import sound
from soaking.server import PREPARE

STRANGE = (
    None,
    True,
    "",
    "x",
    "1",
    -1,
    0,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    2**70,
    [],
    [[]],
    {},
    [1, 2, 3],
    [["x"] * 6],
    {"counts": [1], "size": [1, 1]},
    {"counts": "\udcff", "size": [10**6, 10**6]},
    "../../etc/passwd",
    "a" * 5000,
)


def own_masks(bench, place, rng):
    """Masks of 0 and 255 beside photographs, of which some are damaged, of another size or of other values, too many or missing."""
    photographs, masks = place / "photographs", place / "masks"
    photographs.mkdir(), masks.mkdir()
    for path in sorted((bench.reference.photographs / "images").glob("*.jpg")):
        shutil.copy(path, photographs / path.name)
        trimap = np.array(
            Image.open(bench.reference.photographs / "annotations" / "trimaps" / f"{path.stem}.png")
        )
        Image.fromarray(np.where(trimap == 2, 0, 255).astype(np.uint8)).save(
            masks / f"{path.stem}.png"
        )
    ways = some(
        rng, [one_damaged, one_of_another_size, one_of_other_values, one_too_many, one_in_colour]
    )
    for way in ways:
        way(photographs, masks, rng)
    options = pick(rng, ([], ["--leave-out"], ["--foreground", "255"], ["--trimaps"]))
    command = ["--images", photographs, "--masks", masks, "--out", "data", *PREPARE, *options]
    return Case(
        f"{', '.join(way.__name__ for way in ways)}; {options}",
        [("data_prepare.py", command, sound(place))],
    )


def one_damaged(photographs, masks, rng):
    damage_bytes(one(pick(rng, (photographs, masks)), rng), rng)


def one_of_another_size(photographs, masks, rng):
    path = one(masks, rng)
    if path.is_file():
        Image.fromarray(
            np.full((int(rng.integers(1, 90)), int(rng.integers(1, 90))), 255, np.uint8)
        ).save(path, format="PNG")


def one_of_other_values(photographs, masks, rng):
    path = one(masks, rng)
    if path.is_file():
        values = rng.integers(0, int(rng.integers(2, 257)), (SIDE, SIDE))
        picture = (
            Image.fromarray(values.astype(np.uint16) * 257)
            if rng.random() < 0.3
            else Image.fromarray(values.astype(np.uint8))
        )
        picture.save(path, format="PNG")


def one_in_colour(photographs, masks, rng):
    path, bands = one(masks, rng), pick(rng, (2, 3, 4))
    if path.is_file():
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, bands), dtype=np.uint8)).save(
            path, format="PNG"
        )


def one_too_many(photographs, masks, rng):
    folder = pick(rng, (photographs, masks))
    path = one(folder, rng)
    if path.is_file():
        shutil.copy(
            path,
            folder
            / pick(
                rng, ("another.png", "another.jpg", f"{path.stem}.tif", f"{path.stem}_mask.png")
            ),
        )


def one(folder, rng):
    return pick(rng, sorted(folder.iterdir()))


def coco_file(bench, place, rng):
    """A COCO file with polygons, in which something is another value, gone, or there twice; or its bytes are damaged."""
    photographs = sorted((bench.reference.photographs / "images").glob("*.jpg"))
    images, annotations = [], []
    for number, path in enumerate(photographs, 1):
        with Image.open(path) as picture:
            width, height = picture.size
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        left, top, right, bottom = (
            round(share * side) for share, side in zip((0.2, 0.3, 0.7, 0.8), (width, height) * 2)
        )
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1 + number % 2,
                "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    whats = [change(content, rng) for _ in range(int(rng.integers(0, 3)))]
    path = place / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    if not whats:
        whats = [damage_bytes(path, rng)]
    options = pick(
        rng, ([], ["--leave-out"], ["--foreground", "cat"], ["--foreground", "dog", "cat"])
    )
    command = [
        "--images",
        bench.reference.photographs / "images",
        "--coco",
        path,
        "--out",
        "data",
        *PREPARE,
        *options,
    ]
    return Case(f"{'; '.join(whats)}; {options}", [("data_prepare.py", command, sound(place))])


def change(content, rng):
    """Change one value, at any depth; returns what."""
    node, words = content, []
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not len(keys):
            return "nothing"
        key = pick(rng, list(keys))
        words.append(str(key))
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.03:
            break
        node = node[key]
    way = pick(rng, ("another", "another", "gone", "twice"))
    if way == "gone":
        del node[key]
    elif way == "twice" and isinstance(node, list):
        node.append(node[key])
    else:
        way = pick(rng, STRANGE)
        node[key] = way
    return f"{'/'.join(words)}: {str(way)[:30]}"


KINDS_OF_INPUT = (own_masks, coco_file)
