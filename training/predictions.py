"""What predict.py leaves of photographs: files of each, a row of predictions.csv, an annotation of
a COCO file.

What is done is told from the files themselves. A photograph's mask is written last, and a text in
its PNG says what made it and what stands in its row: a run that was stopped goes on where it was,
and ends with the same bytes.
"""

import contextlib
import csv
import functools
import hashlib
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

import cli
from cli import InputError
from data import photographs
from data.photographs import show_name
from data.pixels import of_pillow
from data.sources.oxford import key_of
from data.sources.pictures import below
from data.writing import ordered
from training import checkpoint, looking, pictures
from training.devices import set_threads, to_device
from training.folding import fold
from training.shown import cut_out, image_of

ENDINGS = {
    "masks": ".png",
    "cutouts": ".png",
    "overlays": ".jpg",
    "probability": ".png",
}  # of each kind, a folder of --out
TABLE, RECORD = (
    "predictions.csv",
    "prediction",
)  # the latter is what the text in a mask's PNG is called
FOREGROUND = "pet"
METHOD = {
    "cpu": None
}  # of starting processes; one that was forked from another which knows of a GPU cannot use it
OVERLAY_SIDE = 2048  # pixels of an overlay's longer side at most: it is for looking at


@dataclass(frozen=True)
class Recipe:
    """What is the same for all photographs. network: a checkpoint's path; made: a text that is
    another where the network or how it looks is; kinds: those of ENDINGS that are asked for;
    annotated: whether a COCO file is."""

    network: Path
    device: str
    tiles: bool
    mirror: bool
    out: Path
    kinds: tuple
    annotated: bool
    made: str

    def path(self, kind, name):
        return self.out / kind / f"{name}{ENDINGS[kind]}"


@dataclass(frozen=True, slots=True)
class Job:
    """path: a photograph's; name: its own below the folder that was named; result: that of its
    files, without an ending; is_done: whether they are there."""

    recipe: Recipe
    path: str
    name: str
    result: str
    is_done: bool = False


@functools.cache
def network(path, device):
    """A checkpoint's network and the side of its images in pixels, once a process, which computes
    in one thread: the cores are the other processes'."""
    set_threads(1)
    model, info = checkpoint.load_model(path)
    return to_device(fold(model), torch.device(device)), info["size"]


def recipe(path, device, args):
    """The Recipe of a checkpoint and predict.py's options."""
    kinds = (
        "masks",
        *(
            kind
            for kind, asked in (
                ("cutouts", args.cutout),
                ("overlays", args.overlay),
                ("probability", args.probability),
            )
            if asked
        ),
    )
    made = f"{hashlib.sha256(Path(path).read_bytes()).hexdigest()}{' tiles' * args.tiles}{' mirror' * args.mirror}"
    return Recipe(
        path, device, args.tiles, args.mirror, args.out, kinds, args.coco is not None, made
    )


# ------------------------------------------------------------------------------------------------
# which photographs


def list_photographs(sources, out):
    """{name: path} of all photographs of some folders and files, in order. Raises InputError for
    what cannot be read into `out`."""
    found = {}
    for source in sources:
        refuse_own_results(source, out)
        if source.is_dir():
            paths = [
                (path.relative_to(source).as_posix(), path)
                for paths in below(source)[0].values()
                for path in paths
            ]
            if not paths:
                raise InputError(
                    f"{show_name(source)} holds no photograph; name a folder with pictures of Pillow's formats"
                )
        elif source.exists():
            paths = [(source.name, source)]
        else:
            raise InputError(
                f"there is no {show_name(source)}; name photographs, or folders of them"
            )
        for name, path in paths:
            other = found.setdefault(name, path)
            if other is not path and not os.path.samefile(other, path):
                raise InputError(
                    f"{show_name(other)} and {show_name(path)} would have results of the same name; predict them into "
                    "folders of their own, or name the folder above both"
                )
    return {name: str(found[name]) for name in sorted(found)}


def refuse_own_results(source, out):
    place, target = source.resolve(), out.resolve()
    if source.is_dir() and place in (target, *target.parents):
        raise InputError(
            f"--out {show_name(out)} lies in {show_name(source)}, whose photographs are read; choose a folder outside"
        )
    for kind in ENDINGS:
        if target / kind in (place, *place.parents):
            raise InputError(
                f"{show_name(source)} is what predict.py itself writes into {show_name(out)}; name photographs, or "
                "another --out"
            )


def result_names(names):
    """{a photograph's name: that of its results}: without the ending, unless another's would be the
    same."""
    found = {name: name.removesuffix(Path(name).suffix) for name in names}
    while True:
        counts = Counter(map(key_of, found.values()))
        if len(counts) == len(found):
            return found
        longer = {
            name: result if counts[key_of(result)] == 1 else name for name, result in found.items()
        }
        if (
            longer == found
        ):  # they differ only in how accents are spelt, so both can lie in a folder
            return found
        found = longer


def jobs(recipe, found, force):
    """The Jobs of photographs {name: path}. Raises InputError where there are results in their
    place that something else made."""
    made = []
    there = (recipe.out / "masks").is_dir() and not force
    for name, result in tqdm(
        result_names(found).items(),
        desc="look",
        unit="image",
        leave=False,
        disable=None if there else True,
    ):
        is_done = False
        if there:
            record = read_record(recipe.path("masks", result))
            if record is not None and (record.get("made"), record.get("path")) != (
                recipe.made,
                name,
            ):
                other = (
                    f"of {show_name(record['path'])}"
                    if record.get("path", name) != name
                    else "of another network or other options"
                )
                what = f"is {other}" if record else "was not made by predict.py, or changed since"
                raise InputError(
                    f"{show_name(recipe.path('masks', result))} {what}; choose another --out, or replace what is there "
                    "with --force"
                )
            is_done = record is not None and all(
                recipe.path(kind, result).exists() for kind in recipe.kinds
            )
        made.append(Job(recipe, found[name], name, result, is_done))
    return made


def read_record(path):
    """What a mask's file says of itself, {} where it says nothing; None where there is none, or
    only a damaged one."""
    try:
        with photographs.quiet(), Image.open(path) as image:
            text = image.info.get(RECORD)
    except Exception:  # no file, or what a failing disk left of one
        return None
    try:
        record = json.loads(text)
        return record if isinstance(record, dict) else {}
    except (TypeError, ValueError):
        return {}


# -------------------------------------------------------------------------------------------------
# one photograph


def predict(job):
    """Write the files of one photograph, unless they are there. Returns (its record, its RLE as a
    dict or None, None), or (None, None, the reason why there is no result)."""
    recipe = job.recipe
    path = recipe.path("masks", job.result)
    if job.is_done:
        record, mask = read_record(path), None
    else:
        try:
            record, mask = look_at(job)
        except FileNotFoundError:
            return None, None, "it is no longer there"
        except photographs.Unreadable as reason:
            return None, None, str(reason)
        except OSError as error:
            if error.errno not in cli.PATH_ERRORS:
                raise
            return (
                None,
                None,
                f"the files of its results cannot be called so ({error.strerror}); rename it",
            )
    if not recipe.annotated or not record["found"]:
        return record, None, None
    if mask is None:
        with photographs.quiet(), Image.open(path) as image:
            mask = np.asarray(image)
    return record, run_lengths(mask), None


def look_at(job):
    """Predict a photograph and write its files; returns (its record, its mask (H, W) uint8 of 0 and
    255)."""
    recipe = job.recipe
    model, size = network(recipe.network, recipe.device)
    photograph = photographs.read(job.path)
    image, (width, height) = photograph.image, photograph.size
    outputs = looking.outputs_of(model, of_pillow(image), size, recipe.tiles, recipe.mirror)
    seg, output = model.task["seg"], outputs["seg"]
    told = {name: task for name, task in model.task.items() if task.columns}
    answers = looking.answers(told, outputs, image.height, image.width)
    mask, cells, label = answers["seg"], [], None
    for name, task in told.items():
        cells += (
            [""] * len(task.columns)
            if answers[name] is None
            else task.cells(answers[name], height, width)
        )
        label = label or (answers[name][0] if task.classes else None)
    cut, alpha = cut_out(image, mask)
    alpha = (
        alpha
        if alpha.size == photograph.size
        else alpha.resize(photograph.size, Image.Resampling.NEAREST)
    )
    inside = output > 0
    record = {
        "made": recipe.made,
        "path": job.name,
        "width": width,
        "height": height,
        "found": mask.any().item(),
        "cells": cells,
        "label": label,
        "score": round(output.sigmoid()[inside].mean().item(), 4) if inside.any() else 0.0,
    }
    if "cutouts" in recipe.kinds:
        save(cut, recipe.path("cutouts", job.result), "PNG", compress_level=1)
    if "overlays" in recipe.kinds:
        save(
            overlay(model, image, outputs), recipe.path("overlays", job.result), "JPEG", quality=90
        )
    if "probability" in recipe.kinds:
        grey = (255 * seg.probability(output, image.height, image.width)).round().to(torch.uint8)
        save(
            Image.fromarray(grey.numpy()).resize(photograph.size, Image.Resampling.NEAREST),
            recipe.path("probability", job.result),
            "PNG",
            compress_level=1,
        )
    text = PngImagePlugin.PngInfo()
    text.add_text(RECORD, json.dumps(record))
    save(alpha, recipe.path("masks", job.result), "PNG", compress_level=1, pnginfo=text)
    return record, np.asarray(alpha)


def overlay(model, image, outputs):
    """A photograph with what its tasks draw into the panel that they share."""
    image = image.copy()
    image.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    tasks = {
        name: task
        for name, task in model.task.items()
        if task.panel is None and pictures.draws(task)
    }
    answers = looking.answers(tasks, outputs, image.height, image.width)
    return image_of(pictures.draw(pictures.Panel(of_pillow(image), ""), tasks, answers))


def save(image, path, kind, **options):
    """Write a picture's file: beside it first, then put in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with put_in_place(path) as partial:
        image.save(partial, kind, **options)


def run_lengths(mask):
    """A mask (H, W) as a COCO annotation has it: segmentation, area and bbox (x, y, width,
    height)."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return dict(
        segmentation={"size": list(mask.shape), "counts": rle["counts"].decode()},
        area=int(coco.area(rle)),
        bbox=coco.toBbox(rle).tolist(),
    )


# -------------------------------------------------------------------------------------------------
# all photographs


def predict_all(made, processes, coco):
    """Predict Jobs of one Recipe, and write predictions.csv and, where coco is a path, the COCO
    file. Returns how many could be read; warns of the others."""
    recipe, read = made[0].recipe, 0
    model, _ = network(recipe.network, "cpu")
    with (
        beside(recipe.out / TABLE) as file,
        Annotations(coco, model) as annotations,
        cli.processes(processes, METHOD.get(recipe.device, "spawn")) as pool,
    ):
        table = csv.writer(file)
        table.writerow(["path", "width", "height", *columns(model.task), "problem"])
        for number, (job, (record, rle, problem)) in enumerate(
            zip(made, ordered(pool, predict, made, "predict")), 1
        ):
            if problem:
                with tqdm.external_write_mode():
                    cli.warn(f"{show_name(job.path)} cannot be read: {problem}")
                table.writerow([job.name, *[""] * (2 + len(columns(model.task))), problem])
                continue
            read += 1
            table.writerow([job.name, record["width"], record["height"], *record["cells"], ""])
            annotations.add(number, record, rle)
    return read


def columns(tasks):
    """The names of the columns that tasks fill; one that is taken has its task's name before it."""
    found = ["path", "width", "height", "problem"]
    for name, task in tasks.items():
        found += [f"{name} {column}" if column in found else column for column in task.columns]
    return found[4:]


@contextlib.contextmanager
def beside(path):
    """A file to write text into; it is put in its place when the block is done, and removed where
    that fails."""
    with (
        put_in_place(path) as partial,
        open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


@contextlib.contextmanager
def put_in_place(path):
    """Another path, whose file takes this one's place when the block is done, and is removed where
    that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class Annotations:
    """The COCO file at a path, as a stream; nothing where that is None. A context."""

    def __init__(self, path, model):
        self.path, self.context, self.comma = path, contextlib.ExitStack(), ""
        classes = next((task.classes for task in model.task.values() if task.classes), ())
        self.categories = {
            name: number for number, name in enumerate(dict.fromkeys([FOREGROUND, *classes]), 1)
        }

    def __enter__(self):
        if self.path:
            self.file = self.context.enter_context(beside(self.path))
            self.images = self.context.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            self.file.write('{"annotations": [')
        return self

    def add(self, number, record, rle):
        """The image of this number, and its mask unless that is empty."""
        if not self.path:
            return
        image = {
            "id": number,
            "file_name": record["path"],
            "width": record["width"],
            "height": record["height"],
        }
        self.images.write((",\n" if self.images.tell() else "\n") + json.dumps(image))
        if rle:
            category = self.categories.get(record["label"], self.categories[FOREGROUND])
            one = {
                "id": number,
                "image_id": number,
                "category_id": category,
                **rle,
                "iscrowd": 0,
                "score": record["score"],
            }
            self.file.write(f"{self.comma}\n{json.dumps(one)}")
            self.comma = ","

    def __exit__(self, *error):
        if self.path and error[0] is None:
            self.images.seek(0)
            self.file.write('],\n"images": [')
            for line in self.images:
                self.file.write(line)
            categories = [{"id": number, "name": name} for name, number in self.categories.items()]
            self.file.write(f'],\n"categories": {json.dumps(categories)}}}\n')
        return self.context.__exit__(*error)
