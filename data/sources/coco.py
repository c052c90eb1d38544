"""Photographs with the annotations of COCO files: one file, a file a split, or the zip or folder
of an export.

The mask of a photograph is the union of its annotations of the categories of --foreground, or of
the only category there is; data/shapes.py draws it. A photograph that a file names without such an
annotation has an empty mask, one that no file names is unlabelled. Of two categories of the
foreground the category is the class, of more a column `category`.
"""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cli
from cli import InputError
from data.gather import gather, new_source, splits_of_lists
from data.layout import UNLABELLED
from data.masks import ALL
from data.names import Ambiguous, Pictures, quoted, split_named
from data.photographs import MOST_PIXELS, show_name
from data.shapes import Object, Shapes
from data.sources.exports import find_files

KEYS = {
    "images": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}
OTHER_CATEGORY, NO_IMAGE = "of other categories", "of no photograph"  # fates
CROWDS_ALL = "every annotation is marked as a crowd, as CVAT's brush does it, so read as objects"
MIXED = "of no class, as they show objects of several categories"
NO_SIZE = "without a size in the COCO file, so drawn on the photograph's own"


@dataclass
class File:
    """A COCO file: its content, its own folder below that of all photographs ("" elsewhere), and
    its split or None."""

    path: Path
    content: dict
    folder: str
    split: str | None

    def is_near(self, name):
        """Whether a photograph lies beside the file, or in a folder of its split."""
        folders = name.split("/")[:-1]
        is_beside = self.folder and name.startswith(self.folder)
        return is_beside or any(split_named(one) == self.split for one in folders if self.split)


def list_records(args, place):
    """What --coco and --images give, a Source. place: a folder for what zips hold. Raises
    InputError."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise InputError(
            "--coco needs pycocotools; install it with 'pip install -r requirements-coco.txt'"
        ) from None
    paths, root = find_files(args.coco, args.images, place)
    is_unpacked = root.is_relative_to(place.resolve())
    try:
        return read_all(paths, Pictures(root, shown=args.coco[0] if is_unpacked else None), args)
    except InputError as error:  # of a file in a zip
        inside = re.sub(
            rf"{re.escape(str(place))}/\d+/", f"{show_name(args.coco[0])}: ", str(error)
        )
        raise InputError(inside) from None


def read_all(paths, pictures, args):
    """The Source of COCO files and the photographs below their folder."""
    root = pictures.folder
    files = read_files(paths, root)
    pictures.others = [name for name in pictures.others if not name.lower().endswith(".json")]
    source = new_source(pictures)
    wanted = choose_categories(files, args.foreground)
    has_masks = any(
        one.get("segmentation") for file in files for one in file.content["annotations"]
    )
    known, split_of = {}, {}
    for file in files:
        for key, told in records_of(file, pictures, source, (wanted, has_masks, args)).items():
            if key in known:
                raise InputError(
                    f"{show_name(file.path)}: {show_name(key)} is in another of the files too; "
                    "keep it in one of them"
                )
            known[key] = told
            split_of[key] = file.split
    others = [show_name(pictures.name_of(key)) for key in pictures.files if key not in known]
    if others:
        named = show_name(args.coco[0]) if len(files) == 1 else "the COCO files"
        source.remarks.append(
            f"not in {named}, so unlabelled: {len(others)} ({cli.listed(others)})"
        )
    name_classes(source, known, pictures)
    return gather(pictures, source, known, args, split_of if len(files) > 1 else None)


def wrong(path, what):
    return InputError(f"{show_name(path)}: {what}")


# ---------------------------------------------------------------------------------- what files hold


def read_files(paths, root):
    """The Files of some paths, each with its split where there are several."""
    splits = [None]
    if len(paths) > 1:
        if len(paths) > 3:
            raise InputError(
                f"--coco: there are {len(paths)} COCO files "
                f"({cli.listed([show_name(path) for path in paths])}); name those of train, val "
                "and test, one each"
            )
        named = [path.parent if path.stem.startswith("_annotations") else path for path in paths]
        splits = splits_of_lists(named)
    files = []
    for path, split in zip(paths, splits, strict=True):
        folder = os.path.relpath(path.parent.resolve(), root.resolve()).replace(os.sep, "/")
        is_below = len(paths) > 1 and folder != "." and not folder.startswith("..")
        files.append(File(path, read(path), f"{folder}/" if is_below else "", split))
    return files


def read(path):
    """The content of a COCO file, checked as far as it is used. Raises InputError."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise wrong(path, f"it cannot be read ({error.strerror}); name a COCO file") from None
    except (ValueError, RecursionError) as error:
        raise wrong(
            path, f"it is no JSON ({quoted(str(error))}); export the COCO file again"
        ) from None
    for part, keys in KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise wrong(
                path,
                f"it is no COCO file of instances, as it has no list '{part}'; {way_out(content)}",
            )
        seen = set()
        for number, one in enumerate(content[part]):
            if not isinstance(one, dict):
                one = {}
            missing = [key for key in keys if ident(one.get(key)) is None]
            if missing:
                raise wrong(
                    path, f"entry {number} of '{part}' has no {missing[0]}; export the file again"
                )
            for key in keys:
                if key.endswith("id"):
                    one[key] = ident(one[key])
            if one["id"] in seen:
                raise wrong(path, f"the id {one['id']} stands twice in '{part}'; give each its own")
            seen.add(one["id"])
    for one in content["annotations"]:
        check_outline(path, one)
    return content


def way_out(content):
    """What to do with another file than COCO's, in words."""
    if isinstance(content, dict) and "shapes" in content:
        return "it is labelme's; convert its folder with labelme2coco"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and ("annotations" in first or "data" in first):
        return "it is Label Studio's own; export the project as COCO"
    return "export it anew, as COCO"


def ident(value):
    """An id, or a name, as text: 1, 1.0 and "1" are one; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_id = type(value) in (int, str)
    return str(value).strip() if is_id else None


def check_outline(path, one):
    shape = one.get("segmentation")
    is_runs = isinstance(shape, dict) and isinstance(shape.get("counts"), (list, str))
    if not (shape is None or isinstance(shape, list) or is_runs):
        raise wrong(
            path,
            f"the segmentation of annotation {one['id']} is neither polygons nor run lengths; "
            "export the file again",
        )
    flag = one.get("iscrowd")
    word = str(flag).strip().casefold()
    if word not in ("", "0", "1", "0.0", "1.0", "false", "true", "none"):
        raise wrong(
            path, f"iscrowd of annotation {one['id']} is {quoted(flag)}; write 0 or 1 there"
        )
    one["iscrowd"] = word in ("1", "1.0", "true")


def choose_categories(files, foreground):
    """The names of the categories that count, folded."""
    used, names = set(), {}  # names: {folded: as it is spelt first}
    for file in files:
        by_id = {one["id"]: str(one["name"]).strip() for one in file.content["categories"]}
        for name in by_id.values():
            names.setdefault(name.casefold(), name)
        for one in file.content["annotations"]:
            if one["category_id"] not in by_id:
                raise wrong(
                    file.path,
                    f"its annotations are of a category {one['category_id']} that it does not "
                    "name; export it again",
                )
            folded = by_id[one["category_id"]].casefold()
            one["category"] = names[folded]
            used.add(folded)
    if not used:
        raise wrong(files[0].path, "it holds no annotation; export those of your photographs")
    known = ", ".join(map(show_name, names.values())) or "none"
    words = [word.casefold() for word in foreground]
    if words == [ALL] and ALL not in names:
        return used
    if not words and len(used) > 1:
        raise wrong(
            files[0].path,
            f"it has annotations of several categories ({known}); say with --foreground NAME ... "
            "which of them are the foreground, or --foreground all",
        )
    for word in words:
        if word not in names:
            raise InputError(
                f"--foreground: {show_name(files[0].path)} has no category {show_name(word)!r} "
                f"(it has {known}); name one of these"
            )
    return set(words) or used


# ---------------------------------------------------------------------------- what records are told


def records_of(file, pictures, source, choice):
    """{photograph: what a Record is told} of a file. choice: (categories that count, whether there
    are outlines, arguments)."""
    wanted, has_masks, args = choice
    entries = find_images(file, pictures, source, args.leave_out)
    objects = {image["id"]: [] for image in file.content["images"]}
    source.total += len(file.content["annotations"])
    for one in file.content["annotations"]:
        if one["image_id"] not in objects:
            if not args.leave_out:
                raise wrong(
                    file.path,
                    f"annotation {one['id']} is of an image {one['image_id']} that it does not "
                    "name; export the file again, or add --leave-out to go on without it",
                )
            source.fates[NO_IMAGE] += 1
            source.note("annotations of no image", f"annotation {one['id']}")
        elif one["category"].casefold() not in wanted:
            source.fates[OTHER_CATEGORY] += 1
        else:
            objects[one["image_id"]].append(one)
    are_all_crowds = all(one["iscrowd"] for one in file.content["annotations"])
    if are_all_crowds:
        source.remarks.append(f"{CROWDS_ALL}: {len(file.content['annotations'])}")
    known, used = {}, set()
    for key, image in entries.items():
        used.add(image["id"])
        found = [make_object(one, are_all_crowds) for one in objects[image["id"]]]
        frame = image.get("frame")
        if frame is None:
            source.note(NO_SIZE, pictures.name_of(key))
        known[key] = {"shapes": Shapes(tuple(found), frame, has_masks)}
    for number, found in objects.items():
        if number not in used:
            source.fates["of photographs left out"] += len(found)
    return known


def make_object(one, are_all_crowds):
    """are_all_crowds: every annotation is marked as a crowd, as CVAT's brush does it: they are
    objects like others."""
    return Object(
        number=one["id"],
        category=one["category"],
        outline=one.get("segmentation") or None,
        box=one.get("bbox") or None,
        is_crowd=one["iscrowd"] and not are_all_crowds,
        area=one.get("area"),
    )


def find_images(file, pictures, source, leave_out):
    """{photograph: entry} of the images of a COCO file, each with its `frame`; all have to be
    there, unless they are left out."""
    found, missing = {}, []
    for image in file.content["images"]:
        name = str(image["file_name"])
        try:
            key = pictures.find(name, file.is_near)
        except Ambiguous as error:
            raise wrong(
                file.path,
                f"{quoted(name)} is not clear: {error}; name each by its path, with the ending",
            ) from None
        if key is None:
            missing.append(show_name(name))
        elif key in found:
            raise wrong(
                file.path,
                f"the images {found[key]['id']} and {image['id']} are both "
                f"{show_name(pictures.name_of(key))}; keep one of them",
            )
        else:
            found[key] = image
            image["frame"] = frame_of(file.path, image)
    if missing and (not leave_out or not found):
        raise wrong(
            file.path,
            f"{len(missing)} of its {len(file.content['images'])} images are not in "
            f"{pictures.shown} ({cli.listed(missing)}); name the folder that its paths begin in, "
            "or add --leave-out to go on without them",
        )
    source.left_out += [(name, f"it is not in {pictures.shown}") for name in missing]
    return found


def frame_of(path, image):
    """(width, height) of an entry of 'images', None where it states none."""
    sides = []
    for key in ("width", "height"):
        text = ident(image.get(key))
        sides.append(int(text) if text and text.lstrip("-").isdigit() else None)
    width, height = sides
    if not width or not height or min(sides) < 0:
        return None
    if width * height > MOST_PIXELS:
        raise wrong(
            path,
            f"{quoted(image['file_name'])} is {width} x {height} there, no size of a photograph; "
            "put that right",
        )
    return width, height


def name_classes(source, known, pictures):
    """Tell records their category: of two categories the class, of more a column."""
    names = sorted({one.category for told in known.values() for one in told["shapes"].objects})
    if len(names) < 2:
        return
    source.columns = ("category",)
    source.classes = tuple(names) if len(names) == 2 else None
    for key, told in known.items():
        counts = Counter(one.category for one in told["shapes"].objects)
        if len(counts) > 1:
            source.note(MIXED, pictures.name_of(key), ", ".join(sorted(counts)))
        name = next(iter(counts)) if len(counts) == 1 else ""
        told["cells"] = {"category": name}
        told["stratum"] = name
        if source.classes:
            told["label"] = names.index(name) if name else UNLABELLED
