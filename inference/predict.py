"""Folders of photographs in, files out: masks, cut-outs, a table, a COCO file.

manifest.py says which results are there and still valid. A worker process takes one photograph at a
time, so what comes out does not depend on the others.
"""

import csv
import functools
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageFilter, ImageOps
from tqdm import tqdm

import cli
from cli import InputError
from data import photographs
from data.names import key_of, walk
from data.photographs import show_name
from data.pixels import of_pillow
from data.write import ordered
from files import atomic_write
from inference import alpha, manifest, onnx, tta, view
from training import checkpoint
from training.devices import to_device
from training.kernels import fold

TABLE = "predictions.csv"
WORK = ".predict-"  # folders of files that are not yet finished
KINDS = {
    "masks": ".png",
    "cutouts": ".png",
    "alpha": ".png",
    "overlays": ".jpg",
    "probability": ".png",
}
SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}  # of a cut-out
SAVE = {
    ".png": {"format": "PNG", "compress_level": 1},
    ".webp": {"format": "WEBP", "quality": 90},
    ".jpg": {"format": "JPEG", "quality": 92},
}
OVERLAY_SIDE = 2048
BLUR = 1 / 40  # radius of a blurred background, of the longer side
VISIBLE = 12  # of 255: a crop goes around pixels of this alpha
FOREGROUND = "pet"
COCO_MARK = '{"info": {"description": "predictions of predict.py"}'
START = {"cpu": None}  # how processes start; a forked one cannot use a GPU


@dataclass(frozen=True)
class Recipe:
    """What all photographs have in common.

    made    {kind of file: the options that make it}
    looks   {option of tta.look: value}
    """

    network: Path
    device: str
    out: Path
    looks: dict
    made: dict
    cutout: str | None = None  # soft or hard
    crop: float | None = None
    background: str | None = None
    suffix: str = ".png"
    force: bool = False

    def path(self, kind, result):
        """A file's path below the output folder."""
        suffix = self.suffix if kind == "cutouts" else KINDS[kind]
        return f"{kind}/{result}{suffix}"


@dataclass(frozen=True)
class Job:
    """path: the photograph's; name: its path below the folder that was named; result: the name of
    its files; entry: what the manifest holds of it."""

    recipe: Recipe
    path: str
    name: str
    result: str
    entry: dict


@functools.cache
def load(path, device):
    """(network, what its checkpoint says), once a process, which computes in one thread."""
    torch.set_num_threads(1)
    if path.suffix == ".onnx":
        return onnx.load_model(path, device)
    model, info = checkpoint.load_model(path)
    return to_device(fold(model), torch.device(device)), info


# ------------------------------------------------------------ which photographs


def find_photographs(sources, out):
    """({name: path} of photographs in order, [names of files that are none])."""
    found, passed = {}, []
    for source in sources:
        refuse_own_results(source, out)
        if source.is_dir():
            names, others = list_folder(source)
            passed += others
            if not names:
                raise InputError(f"{show_name(source)} holds no photograph; name another folder")
        elif source.exists():
            names = {source.name: source}
        else:
            raise InputError(f"there is no {show_name(source)}; name photographs or folders")
        for name, path in names.items():
            other = found.setdefault(name, path)
            if other is not path and not os.path.samefile(other, path):
                raise InputError(
                    f"{show_name(other)} and {show_name(path)} would have results of one name; "
                    "use an --out for each, or name the folder above both"
                )
    return {name: str(found[name]) for name in sorted(found)}, passed


def list_folder(folder):
    """({name: path} of the photographs below a folder, [names of other files])."""
    photographs, others = walk(folder)
    names = {path.relative_to(folder).as_posix(): path for path in photographs.values()}
    passed = []
    for name in others:
        if is_picture(folder / name):
            names[name] = folder / name
        else:
            passed.append(name)
    return names, passed


def is_picture(path):
    """Whether a file with an unusual name holds a picture."""
    try:
        with photographs.opened(path):
            return True
    except (photographs.Unreadable, FileNotFoundError):
        return False


def refuse_own_results(source, out):
    place, target = source.resolve(), out.resolve()
    if source.is_dir() and place in (target, *target.parents):
        raise InputError(
            f"--out {show_name(out)} lies in {show_name(source)}, whose photographs are read; "
            "choose a folder outside"
        )
    for kind in KINDS:
        if target / kind in (place, *place.parents):
            raise InputError(
                f"{show_name(source)} is what predict.py writes into {show_name(out)}; name "
                "photographs, or another --out"
            )


def result_names(names):
    """{photograph's name: its results' name}: without the ending, unless two would be the same.

    Names are compared without regard to case, as some file systems do.
    """
    stems = {name: name.removesuffix(Path(name).suffix) for name in names}
    counts = Counter(key_of(stem).casefold() for stem in stems.values())
    results, taken = {}, set()
    for name in sorted(names):
        candidates = [name, *(f"{name}-{k}" for k in range(2, len(stems) + 2))]
        if counts[key_of(stems[name]).casefold()] == 1:
            candidates.insert(0, stems[name])
        for candidate in candidates:
            if key_of(candidate).casefold() not in taken:
                break
        results[name] = candidate
        taken.add(key_of(candidate).casefold())
    return results


def make_jobs(recipe, found):
    """A Job of each photograph {name: path}. Brings the folder's manifest up to date first."""
    out = recipe.out
    for folder in out.glob(f"{WORK}*"):  # of a run that was killed
        shutil.rmtree(folder, ignore_errors=True)
    head, entries = manifest.read(out)
    wanted = {"network": manifest.digest(recipe.network), "options": recipe.looks}
    if recipe.force:
        entries = {name: entry | {"made": {}} for name, entry in entries.items()}
    elif head:
        manifest.refuse_other(out, head, wanted)
    head = head | wanted
    manifest.write(out, head, entries)
    results = result_names({*found, *entries})
    for name, entry in entries.items():
        if entry["result"] != results[name]:
            entries[name] = manifest.rename(out, entry, results[name])
    jobs = []
    for name, path in found.items():
        jobs.append(Job(recipe, path, name, results[name], entries.get(name, {})))
    return jobs


# ------------------------------------------------------------ one photograph


def predict(job):
    """(entry, whether its files were there already) of one photograph."""
    out, entry = job.recipe.out, job.entry
    try:
        photographs.check_file(job.path)
        content = manifest.digest(job.path)
        paths = [job.recipe.path(kind, job.result) for kind in job.recipe.made if kind in KINDS]
        same = entry.get("digest") == content
        source = os.path.relpath(job.path, out)
        if not job.recipe.force:
            refuse_results(job, paths, same or entry.get("source") == source)
        made = entry.get("made", {})
        wanted = job.recipe.made.items()
        if same and wanted <= made.items() and manifest.is_intact(out, entry, paths):
            return settle(out, entry), True
        identity = {"name": job.name, "result": job.result, "source": source, "digest": content}
        old = entry if same else {}
        made = old.get("made", {}) | job.recipe.made
        with tempfile.TemporaryDirectory(dir=out, prefix=WORK) as folder:
            record, partials = look_at(job, Path(folder))
            files = old.get("files", {}) | {
                path: manifest.digest(partial) for path, partial in partials.items()
            }
            new = identity | {"made": made, "files": files, "record": record}
            manifest.commit(out, new, entry, partials)
        return new, False
    except FileNotFoundError:
        return fail(job, "it is no longer there"), False
    except photographs.Unreadable as reason:
        return fail(job, str(reason)), False
    except OSError as error:
        if error.errno not in cli.PATH_ERRORS:
            raise
        return fail(job, f"its results cannot have this name ({error.strerror}); rename it"), False


def settle(out, entry):
    """An entry whose problem is gone."""
    if "problem" in entry:
        entry = {key: value for key, value in entry.items() if key != "problem"}
        manifest.append(out, entry)
    return entry


def fail(job, reason):
    """The entry of a photograph without a result, which the manifest keeps."""
    identity = {"name": job.name, "result": job.result}
    entry = job.entry | identity | {"problem": reason}
    manifest.append(job.recipe.out, entry)
    return entry


def refuse_results(job, paths, is_same_source):
    """Raise Unreadable where results would be lost that predict.py did not make, or of another."""
    path = manifest.changed_file(job.recipe.out, job.entry, paths)
    if path:
        raise photographs.Unreadable(
            f"{path} was edited or made by something else, and is left as it is; move it away, or "
            "use --force"
        )
    if job.entry.get("files") and not is_same_source:
        raise photographs.Unreadable(
            "there are results of another photograph of this name; choose another --out, or use "
            "--force"
        )


def look_at(job, folder):
    """Predict a photograph; returns (its record, {path below the output folder: file in
    `folder`})."""
    recipe = job.recipe
    model, info = load(recipe.network, recipe.device)
    photograph = photographs.read(job.path, max_pixels=alpha.MAX_PIXELS)
    image = photograph.image
    pixels = of_pillow(image)
    seen = tta.look(model, pixels, info["size"], **recipe.looks)
    name = tta.mask_task(model.task)
    mask = model.task[name].answer(seen.outputs[name], image.height, image.width)
    record = describe(model, seen, mask, photograph.size)
    pictures = {"masks": Image.fromarray(mask.numpy().astype(np.uint8) * 255)}
    if "coco" in recipe.made:
        record["coco"] = annotations(record, seen, mask, photograph.size)
    if "cutouts" in recipe.made or "alpha" in recipe.made:
        pet = cut_out(recipe, model, info, seen, photograph, job.path)
        if "alpha" in recipe.made:
            pictures["alpha"] = pet.getchannel("A")
        if "cutouts" in recipe.made:
            pictures["cutouts"] = present(pet, image, recipe)
    if "overlays" in recipe.made:
        pictures["overlays"] = view.overlay(model.task, seen, image, OVERLAY_SIDE)
    if "probability" in recipe.made:
        probability = model.task[name].probability(seen.outputs[name], image.height, image.width)
        pictures["probability"] = Image.fromarray((255 * probability).round().byte().numpy())
    partials = {}
    for kind, picture in pictures.items():
        if kind in ("masks", "probability", "alpha") and picture.size != photograph.size:
            picture = picture.resize(photograph.size, Image.Resampling.NEAREST)
        path = recipe.path(kind, job.result)
        (recipe.out / path).parent.mkdir(parents=True, exist_ok=True)
        partials[path] = folder / kind
        save(picture, partials[path], Path(path).suffix)
    return record, partials


def save(picture, path, suffix):
    picture.save(path, **SAVE[suffix])
    manifest.flush(path)


def describe(model, seen, mask, size):
    """What the table says of a photograph of `size` (width, height)."""
    width, height = size
    found = view.animals(model.task, seen, 1, 1)  # maps are not needed
    mask_name, cells = tta.mask_task(model.task), []
    for name, task in model.task.items():
        if not task.columns:
            continue
        is_map = seen.outputs[name].ndim == 3
        value = found[0][name]
        if is_map:
            value = task.answer(seen.outputs[name], height, width) if name != mask_name else mask
        if value is None or (len(found) > 1 and not is_map):  # one row has room for one animal
            cells += [""] * len(task.columns)
        else:
            cells += task.cells(value, height, width)
    labels = [label_of(model.task, one) for one in found]
    n = len(found) if mask.any() else 0
    task, output = model.task[mask_name], seen.outputs[mask_name]
    probability = task.probability(output, *output.shape[-2:])
    inside = task.foreground(output)
    score = round(probability[inside].mean().item(), 4) if inside.any() else 0.0
    return {
        "size": [width, height],
        "animals": n,
        "cells": cells,
        "labels": labels,
        "score": score,
        "reduced": None if mask.shape == (height, width) else list(mask.shape[::-1]),
    }


def label_of(tasks, found):
    """The class of an animal, a word; None where no task has one."""
    for name, task in tasks.items():
        if task.classes:
            return found[name][0]
    return None


def annotations(record, seen, mask, size):
    """COCO annotations of a mask, one an animal: segmentation, area, bbox, score and label."""
    from pycocotools import mask as coco  # an optional package

    picture = Image.fromarray(mask.numpy())
    mask = np.asarray(picture.resize(size, Image.Resampling.NEAREST))
    regions = [mask]
    if seen.parts is not None:
        parts = Image.fromarray(seen.parts.astype(np.uint8))
        parts = np.asarray(parts.resize(size, Image.Resampling.NEAREST))
        regions = [mask & (parts == k) for k in range(len(record["labels"]))]
    found = []
    for region, label in zip(regions, record["labels"], strict=True):
        if not region.any():
            continue
        rle = coco.encode(np.asfortranarray(region, dtype=np.uint8))
        found.append(
            {
                "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
                "area": int(coco.area(rle)),
                "bbox": coco.toBbox(rle).tolist(),
                "score": record["score"],
                "label": label,
            }
        )
    return found


# ------------------------------------------------------------ cut-outs


def cut_out(recipe, model, info, seen, photograph, path):
    """The pet of a photograph as an RGBA image."""
    image = photograph.image
    if recipe.cutout == "hard":
        name = tta.mask_task(model.task)
        mask = model.task[name].answer(seen.outputs[name], image.height, image.width)
        pet = alpha.hard_cutout(image, mask)
    else:
        trimap = alpha.trimap(model.task, seen.outputs, info["border"])
        pet = alpha.soft_cutout(image, trimap)
    return alpha.keep_transparency(pet, path)


def present(pet, image, recipe):
    """A cut-out as the options ask for it: cropped, on a background."""
    box = None
    if recipe.crop is not None:
        box = crop_box(pet, recipe.crop)
    if recipe.background:
        picture = make_background(recipe.background, image)
        picture.paste(pet, mask=pet.getchannel("A"))
        pet = picture
    return pet.crop(box) if box else pet


def crop_box(pet, margin):
    """(left, top, right, bottom) around what is visible, with a margin of its longer side."""
    box = pet.getchannel("A").point(lambda value: 255 * (value >= VISIBLE)).getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    margin = round(margin * max(right - left, bottom - top))
    right, bottom = min(pet.width, right + margin), min(pet.height, bottom + margin)
    return max(0, left - margin), max(0, top - margin), right, bottom


def make_background(background, image):
    """A colour's name or number, "blur", or a picture's file, as an image of the size of
    `image`."""
    if background == "blur":
        return image.filter(ImageFilter.GaussianBlur(BLUR * max(image.size)))
    colour = colour_of(background)
    if colour:
        return Image.new("RGB", image.size, colour)
    return ImageOps.fit(photographs.read(background).image, image.size)


def colour_of(text):
    """(red, green, blue), or None where a text is no colour."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        return None


# ------------------------------------------------------------ all photographs


def predict_all(recipe, found, processes, coco):
    """Predict photographs {name: path}; returns a Counter: done, there already, unread."""
    jobs = make_jobs(recipe, found)
    counts, width = Counter(), min(processes, len(jobs))
    with cli.processes(width, START.get(recipe.device, "spawn")) as pool:
        for job, (entry, is_old) in zip(jobs, ordered(pool, predict, jobs, "predict"), strict=True):
            if "problem" in entry:
                with tqdm.external_write_mode():
                    cli.warn(f"{show_name(job.path)}: {entry['problem']}")
                counts["unread"] += 1
                continue
            reduced = entry["record"]["reduced"]
            if reduced and not is_old:
                width, height = reduced
                cli.warn(f"{show_name(job.path)} was reduced to {width} x {height} px")
            counts["old"] += is_old
            counts["done"] += 1
    head, entries = manifest.read(recipe.out)
    model, _ = load(recipe.network, "cpu")
    write_table(recipe.out / TABLE, model.task, entries)
    if coco:
        head |= {"coco": write_coco(coco, model.task, entries)}
    manifest.write(recipe.out, head, entries)
    return counts


def columns(tasks):
    """Names of the columns that tasks fill; a name that is taken gets the task's before it."""
    names = ["path", "width", "height", "animals", "problem"]
    fixed = len(names)
    for name, task in tasks.items():
        for column in task.columns:
            names.append(f"{name} {column}" if column in names else column)
    return names[fixed:]


def write_table(path, tasks, entries):
    """predictions.csv: a line a photograph, those of earlier calls included."""
    names = columns(tasks)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["path", "width", "height", "animals", *names, "problem"])
    for name in sorted(entries):
        entry = entries[name]
        if "problem" in entry:
            table.writerow([name, *[""] * (3 + len(names)), entry["problem"]])
        else:
            record = entry["record"]
            table.writerow([name, *record["size"], record["animals"], *record["cells"], ""])
    atomic_write(path, text.getvalue().encode("utf-8", "surrogateescape"))


def write_coco(path, tasks, entries):
    """The COCO file of all photographs that have annotations; returns its SHA-256."""
    classes = [name for task in tasks.values() for name in task.classes]
    categories = {name: k for k, name in enumerate(dict.fromkeys([FOREGROUND, *classes]), 1)}
    images, found = [], []
    for name in sorted(entries):
        record = entries[name].get("record", {})
        if "problem" in entries[name] or "coco" not in record:
            continue
        width, height = record["size"]
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for one in record["coco"]:
            category = categories.get(one["label"], categories[FOREGROUND])
            values = {key: value for key, value in one.items() if key != "label"}
            identity = {"id": len(found) + 1, "image_id": number, "category_id": category}
            found.append(identity | values | {"iscrowd": 0})
    named = [{"id": number, "name": name} for name, number in categories.items()]
    parts = {"annotations": found, "images": images, "categories": named}
    lines = [COCO_MARK]
    for key, values in parts.items():
        rows = ",\n".join(json.dumps(value) for value in values)
        lines.append(f'"{key}": [\n{rows}]')
    atomic_write(path, (",\n".join(lines) + "}\n").encode())
    return manifest.digest(path)


def refuse_coco(path, out, force):
    """Refuse a --coco file that predict.py did not write, or that was edited since."""
    if path.is_dir():
        raise InputError(f"--coco {show_name(path)} is a folder; name the file to write")
    is_own = path.resolve() in (out.resolve() / TABLE, out.resolve() / manifest.FILE)
    if is_own:
        raise InputError(f"--coco {show_name(path)} is a file that predict.py writes; name another")
    if not path.exists():
        return
    with open(path, "rb") as file:
        is_ours = file.read(len(COCO_MARK)) == COCO_MARK.encode()
    head, _ = manifest.read(out)
    if not is_ours or (manifest.digest(path) != head.get("coco") and not force):
        hint = "or use --force" if is_ours else "which is left as it is"
        raise InputError(
            f"--coco {show_name(path)} was edited or not written by predict.py for this --out; "
            f"name another file, {hint}"
        )
