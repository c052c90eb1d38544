"""Exports of labelling tools: the COCO files in a zip or a folder, and the folder that their
photographs lie below."""

import json
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from cli import InputError
from data.names import is_system
from data.photographs import is_photograph_name, show_name


def find_files(given, images, place):
    """(paths of COCO files, folder of the photographs) of what --coco and --images name.

    given: COCO files, or one zip or folder; place: a folder to unpack into. Raises InputError.
    """
    paths, roots = [], []
    for path in given:
        if zipfile.is_zipfile(path):
            path = unpack(path, place / str(len(roots)))
        if path.is_dir():
            paths += coco_files(path)
            roots.append(path)
        else:
            paths.append(path)
            roots.append(path.parent.parent if path.parent.name == "annotations" else path.parent)
    if images:
        return paths, images
    return paths, Path(os.path.commonpath([root.resolve() for root in roots]))


def coco_files(folder):
    """The JSON files below a folder that are COCO's."""
    found, others = [], []
    for path in sorted(folder.rglob("*.json")):
        if any(is_system(part) for part in path.relative_to(folder).parts):
            continue
        (found if is_coco(path) else others).append(path)
    if not found:
        more = f" ({show_name(others[0].relative_to(folder))} is none)" if others else ""
        raise InputError(
            f"{show_name(folder)} holds no COCO file of instances{more}; export the project as COCO"
        )
    instances = [path for path in found if path.stem.startswith("instances")]
    return instances or found  # keypoints and captions lie beside those


def is_coco(path):
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def unpack(path, place):
    """Unpack the photographs and JSON files of a zip into a new folder; returns it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if is_wanted(one.filename)]
            place.mkdir(parents=True)
            needed = sum(one.file_size for one in members)
            if needed > shutil.disk_usage(place).free:
                raise InputError(
                    f"{show_name(path)} holds {needed / 1e9:.1f} GB, for which there is no room "
                    "beside --out; free some space"
                )
            for member in members:
                member.filename = member.filename.replace("\\", "/")  # as Windows writes it
                archive.extract(member, place)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise InputError(
            f"{show_name(path)} cannot be unpacked ({str(error)[:100]}); download it again, or "
            "unpack it by hand and name the folder"
        ) from None
    return place


def is_wanted(name):
    path = PurePosixPath(name.replace("\\", "/"))
    if any(is_system(part) for part in path.parts):
        return False
    return is_photograph_name(path.name) or path.suffix.lower() == ".json"
