"""Figures for people: panels of photographs with targets and predictions, captions, curves, the
page's view.

A task's file says what its outputs look like; here is where they go. A picture is a row of panels:
the image, its target and its prediction with all tasks that draw into a common panel, then the
panels of tasks that have one of their own.
"""

import csv
import html
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import cli
from cli import InputError
from data import contract, lettering, photographs
from data.pixels import of_pillow, to_pillow
from inference import alpha, tta
from tasks.view import View
from training import checkpoint

BOX_COLOUR = "gold"
LINES = tuple(
    f"tab:{name}" for name in ["green", "blue", "orange", "purple", "red", "brown", "pink", "olive"]
)
DPI = 120
PANEL_INCHES = 3.2
MAX_SIDE = 1600  # pixels of a photograph in a figure
TALLEST = 1.6  # height over width of a panel
TITLE_INCHES = 0.2
LETTERS = 13  # to an inch of a title
MAX_PIXELS = 2**16 - 1  # of a figure's side, matplotlib's bound
DRAWN_BY = "mtl_vis.py"
PAGE_SIDE = 1200
TILE = 16  # pixels of the chequerboard behind a cut-out


@dataclass
class Picture:
    """One row of a figure.

    image      (3, H, W) uint8
    animals    [{task: answer}], one for each animal; answers of whole maps are in the first
    truth      {task: answer} of the targets; None without
    scores     {task: its first metric of this image}
    frame      (height, width) of the whole photograph where `image` is reduced
    """

    name: str
    image: torch.Tensor
    tasks: dict
    animals: list
    truth: dict | None = None
    scores: dict = field(default_factory=dict)
    frame: tuple | None = None


@dataclass
class Panel:
    """What a task's `draw` changes: image (3, H, W) uint8, and boxes, each (4,) in pixels of it."""

    image: torch.Tensor
    title: str
    dash: str = "-"
    boxes: list = field(default_factory=list)


# ------------------------------------------------------------ what is drawn


def animals(tasks, seen, height, width):
    """[{task: answer}], one for each animal; answers of maps are of the whole picture."""
    whole = tta.answers(tasks, seen.outputs, height, width)
    found = []
    for outputs in seen.animals:
        one = tta.answers(tasks, outputs, 1, 1) if len(seen.animals) > 1 else whole
        for name, output in seen.outputs.items():
            if output.ndim == 3:
                one[name] = whole[name]
        found.append(one)
    return found


def see(model, image, size, name, shown=None, photograph=None):
    """A Picture of a PIL image; shown: a smaller copy that is drawn; photograph: its whole size."""
    seen = tta.look(model, of_pillow(image), size)
    shown = shown or image
    found = animals(model.task, seen, shown.height, shown.width)
    frame = photograph or image.size
    return Picture(name, of_pillow(shown), model.task, found, frame=frame[::-1]), seen


def pictures_of_dataset(model, dataset, rows):
    """Pictures of rows of an MTLDataset of the model's tasks, or of the first so many."""
    rows = range(min(rows, len(dataset))) if isinstance(rows, int) else rows
    pictures = []
    for row in rows:
        sample = dataset[0, row]
        shape = sample["image"].shape[-2:]
        seen = tta.look(model, sample["image"], dataset.size)
        found = animals(model.task, seen, *shape)
        picture = Picture(dataset.names[row], sample["image"], model.task, found, {})
        for name, task in model.task.items():
            picture.truth[name] = task.truth(sample[name], *shape)
            first = next(iter(task.metrics), None)
            measured = task.measure(seen.outputs[name][None], sample[name][None])
            if first in measured and not measured[first].isnan():
                picture.scores[name] = measured[first].item()
        pictures.append(picture)
    return pictures


def panels(picture):
    """The panels of a picture, from left to right."""
    common = {name: task for name, task in picture.tasks.items() if not task.panel}
    own = {name: task for name, task in picture.tasks.items() if task.panel}
    result = [Panel(picture.image, picture.name)]
    truth = picture.truth or {}
    if any(truth.get(name) is not None for name in picture.tasks):
        result.append(panel_of(picture, common, [truth], "target"))
    result.append(panel_of(picture, common, picture.animals, "predicted"))
    for name, task in own.items():
        if truth.get(name) is not None:
            result.append(panel_of(picture, {name: task}, [truth], f"target: {task.panel}"))
        result.append(panel_of(picture, {name: task}, picture.animals[:1], "predicted"))
    return result


def panel_of(picture, tasks, values, title):
    """A panel with what tasks draw of some values; its title says what they do not draw."""
    is_target = title.startswith("target")
    panel = Panel(picture.image, title, "--" if is_target else "-")
    for name, task in tasks.items():
        is_map = picture.animals and task.panel is not None
        for one in values[:1] if is_map else values:
            if one.get(name) is not None:
                task.draw(panel, one[name], is_target)
    silent = {name: task for name, task in tasks.items() if not draws(task)}
    notes = [words(picture, silent, values)]
    if not is_target:
        notes += scores(picture, tasks)
        own = [task.panel for task in tasks.values() if task.panel]
        if not any(notes):
            notes = own
    notes = ", ".join(filter(None, notes))
    if notes:
        panel.title = f"{title}: {notes}"
    return panel


def draws(task):
    """Whether a task draws anything; of another a title tells its answer."""
    return type(task).draw is not View.draw


def words(picture, tasks, values):
    """What tasks say of values in words; of several animals a list."""
    height, width = picture.frame or picture.image.shape[-2:]
    found = []
    for one in values:
        notes = []
        for name, task in tasks.items():
            if one.get(name) is not None:
                notes.append(task.describe(one[name], height, width))
        found.append(", ".join(filter(None, notes)))
    if len(values) > 1 and any(found):
        return f"{len(values)} animals: {'; '.join(found)}"
    return found[0]


def scores(picture, tasks):
    """The first metric of each task that could be measured on this image; the first task's comes
    last."""
    notes = []
    for name in tasks:
        if name in picture.scores:
            metric = next(iter(tasks[name].metrics.values()))
            note = f"{metric.label} {picture.scores[name]:.3f}"
            notes.append(note if metric.higher else f"{note} {metric.unit} (lower is better)")
    return notes[::-1]


def describe(picture):
    """One line for what was predicted: classes first, then each map, then boxes."""
    groups = {0: {}, 1: {}, 2: {}}
    for name, task in picture.tasks.items():
        kind = 2 * draws(task) - (draws(task) and not task.needs_foreground)
        groups[kind][name] = task
    parts = []
    for kind, tasks in groups.items():
        values = picture.animals[:1] if kind == 1 else picture.animals
        parts.append(words(picture, tasks, values))
    return ", ".join(filter(None, parts))


def box_on(panel):
    """A panel with its boxes as a PIL image."""
    image = to_pillow(panel.image)
    draw = ImageDraw.Draw(image)
    for x1, y1, x2, y2 in (box.tolist() for box in panel.boxes):
        corners = x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)  # Pillow counts the last ones in
        draw.rectangle(corners, outline=BOX_COLOUR, width=max(2, max(image.size) // 200))
    return image


def overlay(tasks, seen, image, side):
    """A photograph, reduced to `side` pixels, with what tasks draw into the common panel."""
    image = image.copy()
    image.thumbnail((side, side))
    found = animals(tasks, seen, image.height, image.width)
    picture = Picture("", of_pillow(image), tasks, found)
    common = {name: task for name, task in tasks.items() if not task.panel}
    return box_on(panel_of(picture, common, found, "predicted"))


# ------------------------------------------------------------ figures


def draw_pictures(pictures, path):
    """Draw pictures into an image file, one a row, each at its own aspect."""
    rows = [panels(picture) for picture in pictures]
    columns = max(map(len, rows))
    inches = PANEL_INCHES
    if len(pictures) == 1:  # one photograph is shown large, up to its own size
        inches = max(inches, min(pictures[0].image.shape[2], MAX_SIDE) / DPI)
    layout, bottom = [], 0
    for picture, row in zip(pictures, rows, strict=True):
        titles = [wrap(lettering.text(panel.title), int(LETTERS * inches)) for panel in row]
        lines = 1 + max(title.count("\n") for title in titles)
        tall = min(picture.image.shape[1] / picture.image.shape[2], TALLEST) * inches
        bottom += TITLE_INCHES * lines + tall
        layout.append((row, titles, bottom, tall))
    width, height = columns * inches, bottom + 0.1
    figure = make_figure((width, height), min(DPI, MAX_PIXELS / max(height, width)))
    # One pair of axes in inches: a pair for each panel would take three times as long.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), aspect="auto")
    axis.axis("off")
    for row, titles, bottom, tall in layout:
        for k, (panel, title) in enumerate(zip(row, titles, strict=True)):
            h, w = panel.image.shape[-2:]
            scale = 0.97 * min(inches / w, tall / h)  # inches a pixel
            left, top = (k + 0.5) * inches - scale * w / 2, bottom - scale * h
            draw_panel(axis, panel, title, (left, top, scale))
    save_figure(figure, path)


def draw_panel(axis, panel, title, place):
    """Draw a panel; place: its image's left and top and its scale, in units of the axes."""
    from matplotlib.patches import Rectangle

    left, top, scale = place
    h, w = panel.image.shape[-2:]
    pixels = panel.image.permute(1, 2, 0).numpy()
    axis.imshow(pixels, extent=(left, left + scale * w, top + scale * h, top), aspect="auto")
    middle = left + scale * w / 2
    properties = {"fontsize": 9, "ha": "center", "va": "bottom", **lettering.style(title)}
    axis.text(middle, top - 0.05, title, **properties)
    for x1, y1, x2, y2 in (box.tolist() for box in panel.boxes):
        corner, wide, tall = (left + scale * x1, top + scale * y1), x2 - x1, y2 - y1
        style = {"fill": False, "color": BOX_COLOUR, "linewidth": 2, "linestyle": panel.dash}
        axis.add_patch(Rectangle(corner, scale * wide, scale * tall, **style))


def wrap(title, most):
    """A title in at most two lines of `most` letters; the middle of what is longer is left out."""
    if len(title) <= most:
        return title
    cut = title.rfind(" ", 0, most)
    if cut <= 0:
        return shorten(title, most)
    return title[:cut] + "\n" + shorten(title[cut + 1 :], most)


def shorten(text, most):
    if len(text) <= most:
        return text
    return text[: most // 2] + "\u2026" + text[len(text) - (most - most // 2 - 1) :]


def make_figure(inches, dpi=DPI):
    """An empty figure of (width, height), drawn without a screen."""
    from matplotlib.figure import Figure  # here, because it takes a while to import

    return Figure(inches, dpi)


def make_row(n):
    """(figure, its n axes in a row), for curves."""
    figure = make_figure((4.75 * n + 0.5, 3.8))
    width, height = figure.get_size_inches()
    margins = {
        "left": 0.75 / width,
        "right": 1 - 0.15 / width,
        "bottom": 0.5 / height,
        "top": 1 - 0.35 / height,
    }
    return figure, figure.subplots(1, n, gridspec_kw={**margins, "wspace": 0.2})


def save_figure(figure, path):
    """Write a figure's file; a PNG says that it was drawn here."""
    path = Path(path)
    options = {}
    if path.suffix.lower() == ".png":
        options = {"metadata": {"Software": DRAWN_BY}, "pil_kwargs": {"compress_level": 3}}
    try:
        if path.is_dir() or not path.suffix:  # matplotlib would write a file of another name
            raise ValueError("it is a folder or has no ending such as .png")
        figure.savefig(path, **options)
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        reason = contract.shorten(error) or type(error).__name__
        raise InputError(f"cannot write {path} ({reason}); choose another --out") from None


def refuse_figure(path, force):
    """Refuse to write over a file that no figure of ours lies in."""
    if not path.exists() or path.is_dir() or force:
        return
    try:
        with photographs.opened(path) as image:
            is_ours = image.info.get("Software") == DRAWN_BY
    except photographs.Unreadable:
        is_ours = False
    if not is_ours:
        raise InputError(
            f"--out {photographs.show_name(path)} is there and was not drawn by mtl_vis.py; choose "
            "another, or replace it with --force"
        )


def draw_masks(model, dataset, path):
    """What a network sees in the first images of a split."""
    draw_pictures(pictures_of_dataset(model.eval(), dataset, 4), path)


def draw_curves(history, tasks, path):
    """Draw losses and the first validation metric of each task over the epochs; history: log.csv's
    rows.

    A metric with a unit has an axis of its own.
    """
    metrics = {}
    for task in tasks.values():
        for key, metric in list(task.metrics.items())[:1]:
            if any(row[f"val_{key}"] is not None for row in history):
                metrics[f"val_{key}"] = metric
    has_units = any(metric.unit for metric in metrics.values())
    figure, axes = make_row(3 if has_units else 2)
    for split, style in (("train", "-"), ("val", "--")):
        for k, task in enumerate(tasks):
            colour = LINES[k % len(LINES)]
            line = {"color": colour, "linestyle": style}
            plot(axes[0], history, f"{split}_loss_{task}", f"{task}, {split}", **line)
    axes[0].set(xlabel="epoch", ylabel="loss, unweighted", title="losses")
    for key, metric in metrics.items():
        direction = ", higher is better" if metric.higher else ", lower is better"
        label = metric.text + (direction if has_units else "")
        plot(axes[2 if metric.unit else 1], history, key, label)
    axes[1].set(xlabel="epoch", ylim=(0, 1), title="validation")
    if has_units:
        axes[2].set(xlabel="epoch", title="validation, in units")
        axes[2].set_ylim(0, 1.15 * axes[2].dataLim.ymax or 1)  # a level line would lie on the frame
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))  # longer numbers would not fit beside it
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    save_figure(figure, path)


def plot(axis, history, key, label, **style):
    """A column of a log over its epochs; what could not be measured is a gap."""
    epochs = [row["epoch"] for row in history]
    values = [np.nan if row.get(key) is None else row[key] for row in history]
    marker = "." if len(history) < 10 else None
    axis.plot(epochs, values, marker=marker, label=lettering.text(label), **style)


# ------------------------------------------------------------ which pictures


def of_test_images(data, network, n):
    """(pictures of the first n test images of a data folder, the network's path)."""
    from dataloader_mtl import MTLDataset  # here, because photographs do without

    path = checkpoint.find(network)
    model, info = checkpoint.load_model(path)
    dataset = MTLDataset(data, "test", tasks=list(model.task.values()))
    if dataset.size != info["size"]:
        cli.warn(
            f"the network was trained at {info['size']} px and {data} has images of {dataset.size} "
            "px, where it is mostly worse"
        )
    return pictures_of_dataset(model, dataset, n), path


def of_photographs(paths, network):
    """(pictures of the photographs that can be read, the network's path, number of the others).

    Warns of the others. Raises cli.InputError where none can be read.
    """
    path = checkpoint.find(network)
    model, info = checkpoint.load_model(path)
    side = MAX_SIDE if len(paths) == 1 else MAX_SIDE // 2
    pictures, reasons = [], []
    for photograph in paths:
        try:
            pictures.append(picture_of_photograph(model, photograph, info["size"], side))
        except InputError as reason:
            reasons.append(reason)
    if not pictures and len(paths) == 1:
        raise reasons[0]
    for reason in reasons:
        cli.warn(reason)
    if not pictures:
        raise InputError(f"none of the {len(paths)} photographs can be read; name others")
    return pictures, path, len(reasons)


def picture_of_photograph(model, path, size, side):
    """The Picture of a photograph, reduced to `side` pixels."""
    photograph = read(path, photographs.show_name(path))
    small = photograph.image.copy()
    small.thumbnail((side, side))
    name = photographs.show_name(Path(path).name)
    return see(model, photograph.image, size, name, small, photograph.size)[0]


def read(path, name, **options):
    """A Photograph. Raises cli.InputError for one that cannot be read, which it calls `name`."""
    try:
        return photographs.read(path, **options)
    except FileNotFoundError:
        raise InputError(f"there is no photograph {name}") from None
    except photographs.Unreadable as reason:
        raise InputError(f"{name} cannot be read: {reason}") from None


def of_run(run, data, n):
    """The n best, median and worst test images of a finished run, as its best.pt sees them.

    Returns (pictures, best first, the network's path). Raises cli.InputError where run and data do
    not belong together.
    """
    from dataloader_mtl import MTLDataset  # here, because photographs do without

    path = run / "best.pt"
    model, info = checkpoint.load_model(path)
    names, dice = read_test_dice(run / "test_per_image.csv")
    dataset = MTLDataset(data, "test", tasks=list(model.task.values()))
    if dataset.summary["split_hash"] != info["split_hash"] or dataset.names[: len(names)] != names:
        raise InputError(
            f"{run} was tested on other images than those of {data} (split hash "
            f"{info['split_hash']} against {dataset.summary['split_hash']}); name its data folder "
            "with --data"
        )
    order = [row for row, value in enumerate(dice) if not math.isnan(value)]
    order.sort(key=lambda row: (-dice[row], row))
    n = max(1, min(n, len(order) // 3))  # no image twice, if there are enough
    middle = (len(order) - n) // 2
    kinds = {"best": order[:n], "median": order[middle : middle + n], "worst": order[-n:]}
    pictures = []
    for kind, rows in kinds.items():
        for picture in pictures_of_dataset(model, dataset, rows):
            picture.name = f"{kind}: {picture.name}"
            pictures.append(picture)
    return pictures, path


def read_test_dice(path):
    """Names and Dice of a run's test images, NaN where one has no mask."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["name"], float(row["dice"] or "nan")) for row in csv.DictReader(file)]
        names, dice = map(list, zip(*rows, strict=True))
        if all(map(math.isnan, dice)):
            raise ValueError
    except FileNotFoundError:
        raise InputError(
            f"there is no {path}; finish the run with --resume, or name another"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(
            f"{path} is damaged or empty; test the run again or name another"
        ) from None
    return names, dice


# ------------------------------------------------------------ the page


def view_page(model, info, path, folder):
    """What the page shows of a photograph, as files in a new folder below `folder`, and what it
    offers.

    Returns a dict. pictures: [(path, caption)]; words: HTML; and, where something was found,
    cutout: path of an RGBA PNG; mask: path of a PNG of 0 and 255. Raises cli.InputError.
    """
    name = photographs.show_name(Path(path).name)
    photograph = read(path, name, max_pixels=alpha.MAX_PIXELS)
    image, small = photograph.image, photograph.image.copy()
    small.thumbnail((PAGE_SIDE, PAGE_SIDE))
    picture, seen = see(model, image, info["size"], name, small, photograph.size)
    folder = Path(tempfile.mkdtemp(dir=folder))  # of a name that nobody can guess
    shown, files = [], {}
    mask_name = tta.mask_task(model.task)
    if mask_name and picture.animals[0][mask_name].any() and not is_absent(picture):
        files = cut_files(model, info, seen, photograph, path, folder)
        with Image.open(files["cutout"]) as pet:
            pet.thumbnail((PAGE_SIDE, PAGE_SIDE))
            shown.append((save(on_chequers(pet), folder / "cut-out.jpg"), "Cut-out"))
    captions = ["Photograph", "What the network sees"]
    for k, panel in enumerate(panels(picture)):
        caption = captions[k] if k < len(captions) else panel.title
        shown.append((save(box_on(panel), folder / f"{k}.jpg"), caption))
    return {"pictures": shown, "words": page_words(picture, image.size), **files}


def cut_files(model, info, seen, photograph, path, folder):
    """{cutout, mask: path} of the files that one takes away."""
    image, stem = photograph.image, Path(path).stem
    name = tta.mask_task(model.task)
    mask = model.task[name].answer(seen.outputs[name], image.height, image.width)
    trimap = alpha.trimap(model.task, seen.outputs, info["border"])
    pet = alpha.keep_transparency(alpha.soft_cutout(image, trimap), path)
    made = {"cutout": pet, "mask": Image.fromarray(255 * mask.numpy().astype(np.uint8))}
    files = {}
    for kind, picture in made.items():
        files[kind] = str(folder / f"{stem}_{kind}.png")
        picture.save(files[kind], compress_level=1)
    return files


def is_absent(picture):
    """Whether a task says that there is nothing to see."""
    found = picture.animals[0]
    return any(task.is_absent(found[name]) for name, task in picture.tasks.items())


def on_chequers(pet):
    """An RGBA image over a chequerboard."""
    rows, columns = np.indices((pet.height, pet.width)) // TILE
    board = np.where((rows + columns) % 2, 255, 208).astype(np.uint8)
    board = Image.fromarray(board).convert("RGB")
    board.paste(pet, mask=pet.getchannel("A"))
    return board


def save(image, path):
    image.save(path, quality=90)
    return str(path)


def page_words(picture, read_size):
    """The words about a picture as HTML; read_size: (width, height) of what was read of it."""
    height, width = picture.frame
    found = tta.mask_task(picture.tasks)
    is_empty = found and not picture.animals[0][found].any()
    silent = {name: task for name, task in picture.tasks.items() if not draws(task)}
    answer = words(picture, silent, picture.animals)
    if is_empty or is_absent(picture):
        answer = "no cat or dog found" if is_empty else f"{answer} found"
    reduced = "" if read_size == (width, height) else f", read as {read_size[0]} x {read_size[1]}"
    lines = {"answer": answer, "small": f"{picture.name}, {width} x {height} pixels{reduced}"}
    paragraphs = []
    for kind, line in lines.items():
        line = line[:1].upper() + line[1:] if kind == "answer" else line
        paragraphs.append(f'<p class="{kind}">{html.escape(line)}</p>')
    return "".join(paragraphs)


def refusal(error):
    """The HTML of an error; here one chooses a photograph, and names none."""
    text = str(error).replace("name a photograph", "choose a photograph")
    text = html.escape(text.replace("name another", "choose another"))
    return f'<p class="error" role="alert">{text}</p>'
