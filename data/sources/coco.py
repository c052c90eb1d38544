"""Photographs with the annotations of a COCO file: polygons and run lengths (RLE), drawn by pycocotools.

The mask of a photograph is the union of its annotations of the categories of --foreground, or of the only category there is.
A photograph that the file names without such an annotation has an empty mask; one that it does not name is unlabelled, and
so is one with a foreground annotation that is a box alone. A crowd is a group of objects of its category, so it counts as
they do. A photograph with one object of the foreground, and no crowd, gets its box, as bbox states it: x, y, width, height.
"""

import json
import math
from dataclasses import dataclass

import numpy as np

import cli
from cli import InputError
from data.photographs import MOST_PIXELS, show_name
from data.sample import BACKGROUND, PET, Box, Unusable, UnusableMask
from data.sources.folders import gather
from data.sources.pictures import Picture, Pictures, shown_cell

POLYGONS, RUNS = "masks of polygons", "masks of run lengths (RLE)"
CROWDS = "masks with crowds, which count as their category does"
KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}


@dataclass(frozen=True, kw_only=True)
class Annotated(Picture):
    """A photograph that the file names. frame: (width, height) as the file has it; annotations: those of the foreground;
    has_mask: whether they say what is foreground."""

    frame: tuple = ()
    annotations: tuple = ()
    has_mask: bool = True

    def read_mask(self):
        if not self.has_mask:
            return None, []
        width, height = self.frame
        mask, notes = np.full((height, width), BACKGROUND, np.uint8), set()
        for one in self.annotations:
            segmentation = one["segmentation"]
            notes.add(POLYGONS if isinstance(segmentation, list) else RUNS)
            if one.get("iscrowd"):
                notes.add(CROWDS)
            try:
                mask[draw(segmentation, height, width).astype(bool)] = PET
            except ValueError as error:
                raise UnusableMask(f"its annotation {one['id']} cannot be drawn: {error}") from None
        return mask, [(note, "") for note in sorted(notes)]

    def read_box(self):
        if (
            len(self.annotations) != 1
            or self.annotations[0].get("iscrowd")
            or "bbox" not in self.annotations[0]
        ):
            return None
        box = self.annotations[0]["bbox"]
        if not is_numbers(box) or len(box) != 4:
            raise Unusable(
                f"its bbox is {shown_cell(str(box))} and should be four numbers, x, y, width and height"
            )
        x, y, width, height = box
        return Box((x, y, x + width, y + height), self.frame)


def draw(segmentation, height, width):
    """A segmentation as (H, W) uint8 of 0 and 1. Raises ValueError with the reason."""
    from pycocotools import mask as coco  # here, as only this needs it

    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not is_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(
                    "a polygon should be x and y of at least three points, a list of numbers"
                )
            # What reaches far out of the frame would take memory without end.
            if (
                min(polygon) < -max(width, height)
                or max(polygon[::2]) > 2 * width
                or max(polygon[1::2]) > 2 * height
            ):
                raise ValueError(f"a polygon reaches far out of the frame of {width} x {height}")
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, height, width)))
    counts = segmentation["counts"]
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"its size is {shown_cell(str(segmentation.get('size')))} and should be [{height}, {width}]"
        )
    counts = unpack(counts) if isinstance(counts, str) else counts
    # pycocotools does not look: what runs that are too short leave out would be whatever lay in memory.
    if (
        not all(type(count) is int and count >= 0 for count in counts)
        or sum(counts) != height * width
    ):
        raise ValueError(f"its run lengths should be whole numbers that add up to {height * width}")
    return coco.decode(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def unpack(text):
    """The run lengths that COCO packs into text: 5 bits a letter, the lowest first, the sixth where more follow; from the
    fourth on what each has more than the one two before. Raises ValueError."""
    counts, value, shift = [], 0, 0
    for bits in (ord(letter) - 48 for letter in text):
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its counts are no run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the highest bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def is_numbers(values):
    return isinstance(values, list) and all(
        type(value) in (int, float) and math.isfinite(value) for value in values
    )


def list_samples(args):
    """What --coco and --images give, a Source. Raises InputError."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise InputError(
            "--coco needs pycocotools; install it with 'pip install -r requirements-coco.txt'"
        ) from None
    content = read(args.coco)
    wanted = choose_categories(args.coco, content, args.foreground)
    pictures = Pictures(args.images)
    images = find_images(args.coco, content["images"], pictures)
    annotations = {image["id"]: [] for image in images.values()}
    for one in content["annotations"]:
        if one["image_id"] not in annotations:
            raise wrong(
                args.coco,
                f"annotation {one['id']} is of an image {one['image_id']} that it does not name; export "
                "the file again",
            )
        if one["category_id"] in wanted:
            annotations[one["image_id"]].append(
                {
                    key: one[key]
                    for key in ("id", "segmentation", "bbox", "iscrowd")
                    if one.get(key) not in (None, [])
                }
            )
    has_masks = any(one.get("segmentation") for one in content["annotations"])
    others = [show_name(key) for key in pictures.found if key not in images]
    if others:
        pictures.source.remarks.append(
            f"not in {show_name(args.coco)}, so unlabelled: {len(others)} ({cli.listed(others)})"
        )

    def make(key):
        if key not in images:
            return Picture, {}
        image, found = images[key], tuple(annotations[images[key]["id"]])
        return Annotated, {
            "frame": (image["width"], image["height"]),
            "annotations": found,
            "has_mask": has_masks and all("segmentation" in one for one in found),
        }

    return gather(pictures, make, args, has_boxes=True)


def wrong(path, what):
    return InputError(f"{show_name(path)}: {what}")


def read(path):
    """The content of a COCO file, checked as far as it is used. Raises InputError."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise wrong(path, f"it cannot be read ({error.strerror}); name a COCO file") from None
    except (ValueError, RecursionError) as error:
        raise wrong(
            path, f"it is no JSON ({shown_cell(str(error))}); export the COCO file again"
        ) from None
    for part, keys in KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise wrong(
                path, f"it is no COCO file of instances, as it has no list '{part}'; export it anew"
            )
        seen = set()
        for number, one in enumerate(content[part]):
            missing = [
                key
                for key in keys
                if not isinstance(one, dict) or type(one.get(key)) not in (int, str)
            ]
            if missing:
                raise wrong(
                    path, f"entry {number} of '{part}' has no {missing[0]}; export the file again"
                )
            if one["id"] in seen:
                raise wrong(path, f"the id {one['id']} stands twice in '{part}'; give each its own")
            seen.add(one["id"])
    for one in content["annotations"]:
        shape = one.get("segmentation")
        if not (
            shape is None
            or isinstance(shape, list)
            or isinstance(shape, dict)
            and isinstance(shape.get("counts"), (list, str))
        ):
            raise wrong(
                path,
                f"the segmentation of annotation {one['id']} is neither polygons nor run lengths; export the "
                "file again",
            )
    return content


def choose_categories(path, content, foreground):
    """The ids of the categories that count."""
    used = {one["category_id"] for one in content["annotations"]}
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    unknown = sorted(map(str, used - names.keys()))
    if unknown:
        raise wrong(
            path,
            f"its annotations are of a category {unknown[0]} that it does not name; export it again",
        )
    known = ", ".join(show_name(name) for name in dict.fromkeys(names.values())) or "none"
    if not used:
        raise wrong(path, "it holds no annotation; export those of your photographs")
    if not foreground:
        if len({names[category] for category in used}) > 1:
            raise wrong(
                path,
                f"it has annotations of several categories ({known}); say with --foreground NAME ... which of "
                "them are the foreground",
            )
        return used
    other = [show_name(name) for name in foreground if name not in names.values()]
    if other:
        raise InputError(
            f"--foreground: {show_name(path)} has no category {other[0]!r} (it has {known}); name one of these"
        )
    return {category for category, name in names.items() if name in foreground}


def find_images(path, images, pictures):
    """{name: entry} of the images of a COCO file, all of which have to be there."""
    found, missing = {}, []
    for image in images:
        key = pictures.find(str(image["file_name"]))
        if key is None:
            missing.append(show_name(str(image["file_name"])))
        elif key in found:
            raise wrong(
                path,
                f"the images {found[key]['id']} and {image['id']} are both {show_name(key)}; keep one of them",
            )
        else:
            found[key] = image
        sides = image["width"], image["height"]
        if (
            not all(type(side) is int and side > 0 for side in sides)
            or sides[0] * sides[1] > MOST_PIXELS
        ):
            raise wrong(
                path,
                f"{shown_cell(str(image['file_name']))} is {sides[0]} x {sides[1]} there, no size of a "
                "photograph; put that right",
            )
    if missing:
        raise wrong(
            path,
            f"{len(missing)} of its {len(images)} images are not in {show_name(pictures.folder)} "
            f"({cli.listed(missing)}); name the folder that its paths begin in, or take them out of the file",
        )
    return found
