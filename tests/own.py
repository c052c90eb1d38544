"""Photographs and masks as people have them, for the tests of data_prepare.py with --images,
--coco and --voc."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from oxford import a_trimap, noise
from PIL import Image

import data_prepare
from cli import InputError


def photograph(folder, name, ending=".JPG", size=(64, 48), **save):
    """A photograph of noise, another for each name; save: as PIL takes it."""
    path = Path(folder) / f"{name}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(name, *size).save(path, **{"format": "JPEG", **save})
    return path


def ellipse(size=(64, 48), shift=0):
    """(H, W) bool, an ellipse in the middle, moved to the right by `shift` pixels."""
    y, x = np.mgrid[: size[1], : size[0]]
    return ((x - size[0] / 2 - shift) / (size[0] / 4)) ** 2 + (
        (y - size[1] / 2) / (size[1] / 3)
    ) ** 2 < 1


def save_mask(folder, name, values, ending=".png", **save):
    """A mask of numbers (an array) or of any kind (an image)."""
    path = Path(folder) / f"{name}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **save)
    return path


def palette(indices):
    """Indices with colours as PASCAL VOC has them, the last of them near white."""
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 756 + [224, 224, 192])
    return image


def own(place, masks, **photos):
    """A folder of photographs and one of masks, {name: mask or None}; returns the options that
    name them."""
    for name, mask in masks.items():
        photograph(place / "photos", name, **photos)
        if mask is not None:
            save_mask(place / "masks", name, mask)
    return ["--images", place / "photos", "--masks", place / "masks"]


def prepare(out, *options, size=32):
    """Run data_prepare.py in this process; returns the data folder."""
    data_prepare.main(
        data_prepare.parse_args([*map(str, options), "--out", str(out), "--size", str(size)])
    )
    return out


def refused(out, *options):
    """The message of a refusal, after which nothing new may lie beside `out`."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError) as error:
        prepare(out, *options)
    assert sorted(out.parent.iterdir()) == before
    message = str(error.value)
    assert "\n" not in message and ";" in message
    return message


def lay_out(place):
    """All that docs/data.md shows of data of one's own: 24 photographs, masks of every kind, a
    table, lists, COCO, VOC."""
    names = [f"p{k:02}" for k in range(24)]
    for name in names:
        photo = photograph(place / "photos", name)
        (place / "voc" / "JPEGImages").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place / "voc" / "JPEGImages" / f"{name}.jpg")
        save_mask(place / "masks", name, ellipse())
        save_mask(
            place / "classes",
            name,
            np.where(ellipse(), 5, np.where(ellipse(shift=20), 1, 7)).astype(np.uint8),
        )
        save_mask(place / "trimaps", name, a_trimap(64, 48))
        save_mask(place / "voc" / "SegmentationClass", name, palette(ellipse() * 13))
    lines = [
        f"{name}.JPG,{'horse' if k % 2 else 'pony'},{k},animal {k // 2},4,4,30,30\n"
        for k, name in enumerate(names)
    ]
    head = "filename,class,age,animal,xmin,ymin,xmax,ymax\n"
    (place / "labels.csv").write_text("".join([head, *lines]))
    for split, members in (("train", names[:16]), ("val", names[16:20]), ("test", names[20:])):
        (place / f"{split}.txt").write_text("\n".join(members))
    square = [[10, 8, 30, 8, 30, 28, 10, 28]]
    write_coco(
        place / "coco.json",
        {f"{name}.JPG": (64, 48) for name in names},
        [(f"{name}.JPG", ("horse", "pony")[k % 2], square, {}) for k, name in enumerate(names)],
        ("horse", "pony"),
    )
    lay_out_exports(place, names, square)


def lay_out_exports(place, names, square):
    """The zips of CVAT, Roboflow and Label Studio that docs/data.md shows."""
    exports = {
        "job": {"annotations/instances_default.json": ("images", names)},
        "labelstudio": {"result.json": ("images", names)},
        "roboflow": {
            f"{split}/_annotations.coco.json": (split, members)
            for split, members in (
                ("train", names[:16]),
                ("valid", names[16:20]),
                ("test", names[20:]),
            )
        },
    }
    for export, files in exports.items():
        for path, (folder, members) in files.items():
            for name in members:
                photograph(place / export / folder, name)
            categories = ("cat", "dog") if export == "labelstudio" else ("pet",)
            annotations = [
                (f"{name}.JPG", categories[k % len(categories)], square, {})
                for k, name in enumerate(members)
            ]
            (place / export / path).parent.mkdir(parents=True, exist_ok=True)
            images = {f"{name}.JPG": (64, 48) for name in members}
            write_coco(place / export / path, images, annotations, categories)
        shutil.make_archive(str(place / export), "zip", place / export)


def write_coco(path, images, annotations, categories=("pet",)):
    """images: {file name: (width, height)}; annotations: (file name, category, segmentation, more
    keys)."""
    ids = {name: k for k, name in enumerate(images, 1)}
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": ids[name], "file_name": name, "width": w, "height": h}
                    for name, (w, h) in images.items()
                ],
                "annotations": [
                    {
                        "id": k,
                        "image_id": ids[name],
                        "category_id": categories.index(category) + 1,
                        "segmentation": segmentation,
                        "iscrowd": 0,
                        **more,
                    }
                    for k, (name, category, segmentation, more) in enumerate(annotations, 1)
                ],
                "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
            }
        )
    )
    return path
