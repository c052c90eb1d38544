"""Small folders of photographs of which it is known what has to be stored: written and compared in children of the soak."""

import csv
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from soaking.pictures import STORED, write_odd, write_trimap

SIDE = 32  # of the stored images
# Names whose species nobody doubts.
SPECIES = {
    "Abyssinian_1": "cat",
    "beagle_1": "dog",
    "cat_001": "cat",
    "dog_001": "dog",
    "Dog_2": "dog",
    "CAT": "cat",
    "cat 3": "cat",
    "DOG-4": "dog",
    "Cats.5": "cat",
    "cat6": "cat",
    "Ärmel_1": "cat",
    "ärmel_1": "dog",
    "catalan_1": "dog",
    "Dogge_1": "cat",
    "dogs_7": "dog",
}
ENDINGS = {
    "jpg": ("jpg", "JPG", "jpeg", "Jpg"),
    "tif": ("tif", "tiff", "TIF"),
    "png": ("png", "PNG"),
    "apng": ("apng", "png"),
    "j2k": ("jp2", "j2k"),
    "webp": ("webp", "WEBP"),
}
# {what: (corners, frame) for the right corners and the picture's width and height}
BOXES = {
    "right": lambda box, w, h: (box, (w, h)),
    "no size": lambda box, w, h: (box, None),
    "a size of 0": lambda box, w, h: (box, (0, 0)),
    "a width of 0": lambda box, w, h: (box, (0, h)),
    "a height of 0": lambda box, w, h: (box, (w, 0)),
    "twice the size": lambda box, w, h: ([2 * v for v in box], (2 * w, 2 * h)),
    "a pixel over": lambda box, w, h: ((*box[:2], w + 1, h + 1), (w, h)),
    "a pixel under": lambda box, w, h: ((-1, -1, *box[2:]), (w, h)),
    "half pixels": lambda box, w, h: ([v + 0.5 for v in box], (w, h)),
    "out of order": lambda box, w, h: ((box[2], box[1], box[0], box[3]), (w, h)),
    "no width": lambda box, w, h: ((box[0], box[1], box[0], box[3]), (w, h)),
    "no number": lambda box, w, h: (("nan", *box[1:]), (w, h)),
    "endless": lambda box, w, h: ((*box[:3], "inf"), (w, h)),
    "far over": lambda box, w, h: ((*box[:2], w + 9, box[3]), (w, h)),
    "text": lambda box, w, h: (("left", *box[1:]), (w, h)),
    "nothing": lambda box, w, h: (("", *box[1:]), (w, h)),
    "of another picture": lambda box, w, h: (box, (1, 1)),
}
NO_BOX = {
    "out of order",
    "no width",
    "no number",
    "endless",
    "far over",
    "text",
    "nothing",
    "of another picture",
    "broken XML",
}


def layout(root):
    """The folders of the Oxford-IIIT Pet layout."""
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True)
    return root


def a_small_pet(source, rng):
    """(image, trimap (H, W), head box in pixels) of a drawn photograph, at a small size."""
    path = sorted((source / "images").glob("*.jpg"))[int(rng.integers(20))]
    size = [int(side) for side in rng.integers(36, 90, 2)]
    image = Image.open(path).convert("RGB").resize(size)
    trimap = Image.open(source / "annotations" / "trimaps" / f"{path.stem}.png").resize(
        size, Image.Resampling.NEAREST
    )
    (x1, x2), (y1, y2) = (
        np.sort(rng.choice(np.arange(2, side - 2), 2, replace=False)).tolist() for side in size
    )
    return image, np.asarray(trimap), (x1, y1, x2, y2)


def voc(box, frame):
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box)
    )
    size = (
        f"<size><width>{frame[0]}</width><height>{frame[1]}</height><depth>3</depth></size>"
        if frame
        else ""
    )
    return f"<annotation>{size}<object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"


def as_stored(image, mask, box, species, near=0):
    """What has to be stored of a photograph. box relative to the frame, or None."""
    mask = Image.fromarray(np.array(mask, np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return {
        "images": np.asarray(image),
        "masks": np.asarray(mask)[..., None],
        "bboxes": np.full(4, np.nan) if box is None else np.array(box, float) * SIDE,
        "near": near,
        "species": species,
    }


def write_forms(source, seed):
    """In a child: photographs and trimaps in every form in the folder `photographs`, and what has to be stored of them;
    prints {name: {what, may_refuse}} as JSON."""
    rng, root = np.random.default_rng(seed), layout(Path("photographs"))
    known = sorted(SPECIES)
    expected, written = {}, {}
    for name in [known[k] for k in rng.permutation(len(known))[: int(rng.integers(4, 8))]]:
        image, trimap, box = a_small_pet(source, rng)
        picture = write_odd(
            image, rng, lambda ending: root / "images" / f"{name}.{pick_ending(ending, rng)}"
        )
        right, tag = picture.right, picture.tag
        what = picture.what
        unturned = (
            tag in (5, 6, 7, 8) and rng.random() < 0.4 and max(image.size) > 1.3 * min(image.size)
        )
        if unturned:  # trimap and box were drawn on the picture as it lies in its file
            what += ", its trimap unturned"
            right, trimap = (turned(part, tag) for part in (right, trimap))
            box = turned_box(box, image.size, tag)
        said, mask = write_trimap(
            trimap, rng, root / "annotations" / "trimaps" / f"{name}.{pick_ending('png', rng)}"
        )
        boxed = rng.random() < 0.7
        if boxed:
            (root / "annotations" / "xmls" / f"{name}.xml").write_text(voc(box, right.size))
        relative = np.array(box) / np.tile(right.size, 2) if boxed else None
        # What rounding makes of half a step is a step more after it was reduced.
        expected[name] = as_stored(
            right, mask, relative, SPECIES[name], picture.near + (picture.near > 0)
        )
        written[name] = {"what": f"{what}, {said}", "may_refuse": picture.may_refuse}
    Path("expected").write_bytes(pickle.dumps(expected))
    print(json.dumps(written))


def pick_ending(ending, rng):
    endings = ENDINGS.get(ending, (ending, ending.upper()))
    return endings[int(rng.integers(len(endings)))]


def turned(part, tag):
    """An image or an array as a camera stores it under a tag."""
    if isinstance(part, Image.Image):
        return part.transpose(STORED[tag])
    return np.asarray(Image.fromarray(part).transpose(STORED[tag]))


def turned_box(box, size, tag):
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 1
    pixels = turned(pixels, tag)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write_boxes(source, seed):
    """In a child: photographs with boxes of every kind in the folder `photographs`, and what has to be stored of them;
    prints {name: the kind of box} as JSON."""
    rng, root = np.random.default_rng(seed), layout(Path("photographs"))
    expected, written = {}, {}
    for k in range(int(rng.integers(3, 8))):
        name, (image, trimap, box) = f"Pet_{k}", a_small_pet(source, rng)
        image.save(root / "images" / f"{name}.png")
        Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
        kind = [*BOXES, "no object", "broken XML", "UTF-16"][int(rng.integers(len(BOXES) + 3))]
        written[name] = kind
        corners, frame = BOXES.get(kind, BOXES["right"])(box, *image.size)
        text = {"no object": "<annotation></annotation>", "broken XML": voc(box, frame)[:-30]}.get(
            kind, voc(corners, frame)
        )
        content = (
            ("<?xml version='1.0' encoding='utf-16'?>" + text).encode("utf-16")
            if kind == "UTF-16"
            else text.encode()
        )
        (root / "annotations" / "xmls" / f"{name}.xml").write_bytes(content)
        relative = None
        if kind not in NO_BOX and kind != "no object":
            sides = frame if frame and min(frame) else image.size
            relative = np.clip(np.array(corners, float) / np.tile(sides, 2), 0, 1)
        expected[name] = as_stored(image, trimap != 2, relative, "cat")
    Path("expected").write_bytes(pickle.dumps(expected))
    print(json.dumps(written))


def print_wrong():
    """In a child: {name: what is wrong with what the folder `data` holds of it, "missing" if that is nothing} as JSON."""
    with open("data/test/index.csv", newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    files = {
        kind: h5py.File(f"data/test/{kind}.h5", "r")
        for kind in ("images", "masks", "bboxes", "binary")
    }
    wrong = {}
    for name, right in pickle.loads(Path("expected").read_bytes()).items():
        if name not in rows:
            wrong[name] = "missing"
            continue
        row = int(rows[name]["row"])
        found = {kind: file[f"chunked_{kind}"][row] for kind, file in files.items()}
        off = int(np.abs(found["images"].astype(int) - right["images"]).max())
        if off > right["near"]:
            wrong[name] = f"the image is off by {off}"
        elif not np.array_equal(found["masks"], right["masks"]):
            wrong[name] = (
                f"{(found['masks'] != right['masks']).sum()} pixels of the mask are others"
            )
        elif not np.allclose(found["bboxes"], right["bboxes"], atol=1e-4, equal_nan=True):
            wrong[name] = (
                f"the box is {found['bboxes'].tolist()} and should be {right['bboxes'].tolist()}"
            )
        elif ("cat", "dog")[found["binary"][0]] != right["species"] or rows[name][
            "species"
        ] != right["species"]:
            wrong[name] = f"it is a {rows[name]['species']}"
    print(json.dumps(wrong))
