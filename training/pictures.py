"""What is drawn of networks and runs: pictures with targets and predictions, and the curves of a
run.

What a task looks like, its own file says; here is where it goes. A picture is a row of panels: the
image, its target and its prediction with all tasks that draw into a common panel, then the panels
of those that have one of their own.
"""

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cli import InputError
from data import contract, lettering
from tasks import Task
from training.looking import outputs_of

BOX_COLOUR, LINES = (
    "gold",
    (
        "tab:green",
        "tab:blue",
        "tab:orange",
        "tab:purple",
        "tab:red",
        "tab:brown",
        "tab:pink",
        "tab:olive",
    ),
)
PANEL_INCHES, MAX_SIDE, DPI = 3.2, 1600, 120
GAP, TITLE_GAP, TALLEST = (
    0.08,
    0.05,
    1.6,
)  # inches between panels and below titles; height over width of a panel at most
NARROW = set("ijltfrI .,:;'|!()[]-")
MOST_PIXELS = 2**16 - 1  # of a figure's height, which is matplotlib's bound


@dataclass
class Picture:
    """One row of a figure. image (3, H, W) uint8; predicted and, for images with targets, truth:
    {task: value as its `answer` gives it, None where it has none or is unlabelled}; scores: {task:
    its first metric of this image}; frame: the whole photograph's (height, width) where `image` is
    a reduced one."""

    name: str
    image: torch.Tensor
    tasks: dict
    predicted: dict
    truth: dict | None = None
    scores: dict = field(default_factory=dict)
    frame: tuple[int, int] | None = None


@dataclass
class Panel:
    """What a task's `draw` changes: image (3, H, W) uint8, and boxes, each (4,) in pixels of it,
    dashed for a target."""

    image: torch.Tensor
    title: str
    dash: str = "-"
    boxes: list = field(default_factory=list)


def pictures_of_dataset(model, dataset, rows):
    """Pictures of some rows of an MTLDataset of the model's tasks, or of the first so many, with
    targets and predictions."""
    pictures = []
    for row in range(min(rows, len(dataset))) if isinstance(rows, int) else rows:
        sample = dataset[0, row]
        image, shape = sample["image"], sample["image"].shape[-2:]
        outputs = outputs_of(model, image, dataset.size)
        picture = Picture(dataset.names[row], image, model.task, {}, {})
        for name, task in model.task.items():
            picture.predicted[name] = task.answer(outputs[name], *shape)
            picture.truth[name] = task.truth(sample[name], *shape)
            first = next(iter(task.metrics), None)
            measured = task.measure(outputs[name][None], sample[name][None])
            if first in measured and not measured[first].isnan():
                picture.scores[name] = measured[first].item()
        pictures.append(picture)
    return pictures


def panels(picture):
    """The panels of a picture, from left to right."""
    common = {name: task for name, task in picture.tasks.items() if not task.panel}
    result = [Panel(picture.image, picture.name)]
    if picture.truth is not None and any(value is not None for value in picture.truth.values()):
        said = words(picture, common, picture.truth)
        result.append(
            draw(
                Panel(picture.image, f"target: {said}" if said else "target", "--"),
                common,
                picture.truth,
            )
        )
    # The first task's score comes last: it is the one that all pictures have.
    said = ", ".join(
        filter(
            None, [words(picture, common, picture.predicted), *reversed(scores(picture, common))]
        )
    )
    head = (
        "predicted: "
        if words(picture, common, picture.predicted)
        else "predicted, "
        if said
        else "predicted"
    )
    result.append(draw(Panel(picture.image, head + said), common, picture.predicted))
    for name, task in picture.tasks.items():
        if task.panel:
            if picture.truth is not None and picture.truth[name] is not None:
                result.append(
                    draw(
                        Panel(picture.image, f"target: {task.panel}", "--"),
                        {name: task},
                        picture.truth,
                    )
                )
            title = ", ".join(scores(picture, {name: task})) or task.panel
            result.append(
                draw(Panel(picture.image, f"predicted: {title}"), {name: task}, picture.predicted)
            )
    return result


def draw(panel, tasks, values):
    for name, task in tasks.items():
        if values[name] is not None:
            task.draw(panel, values[name], panel.dash == "--")
    return panel


def draws(task):
    """Whether a task draws anything; of one that does not, a title says what it has to say."""
    return type(task).draw is not Task.draw


def words(picture, tasks, values):
    """What tasks that draw nothing have to say of values, for a title."""
    return told(picture, {name: task for name, task in tasks.items() if not draws(task)}, values)


def told(picture, tasks, values):
    """What tasks have to say of values, in words; of None nothing."""
    height, width = picture.frame or picture.image.shape[-2:]
    said = [
        task.describe(values[name], height, width)
        for name, task in tasks.items()
        if values[name] is not None
    ]
    return ", ".join(filter(None, said))


def scores(picture, tasks):
    """The first metric of each task that could be measured on this image, in words with unit and,
    for errors, direction."""
    said = []
    for name in tasks:
        if name in picture.scores:
            metric = next(iter(tasks[name].metrics.values()))
            text = f"{metric.label} {picture.scores[name]:.3f}"
            said.append(text if metric.higher else f"{text} {metric.unit} (lower is better)")
    return said


def describe(picture):
    """One line of text for what was predicted: first what is not drawn, then what is."""
    tasks = dict(sorted(picture.tasks.items(), key=lambda item: draws(item[1])))
    return told(picture, tasks, picture.predicted)


def draw_pictures(pictures, path):
    """Draw pictures into an image file, one a row, each at its own aspect; over MAX_SIDE pixels
    they are reduced."""
    rows = [panels(picture) for picture in pictures]
    # A very tall photograph gets a narrower panel, so that one row stays within a screen.
    aspects = [
        min(picture.image.shape[1] / picture.image.shape[2], TALLEST) for picture in pictures
    ]
    columns = max(map(len, rows))
    # One photograph alone is shown large, up to its own size.
    inches = (
        PANEL_INCHES
        if len(pictures) > 1
        else max(PANEL_INCHES, min(pictures[0].image.shape[2], MAX_SIDE) / DPI)
    )
    most = int(13 * inches)  # letters in a line of a title, were all as wide as an x
    titles = [[wrap(lettering.text(panel.title), most) for panel in row] for row in rows]
    above = [0.2 + 0.15 * max(1 + title.count("\n") for title in row) for row in titles]
    width, height = columns * inches, sum(aspects) * inches + sum(above)
    figure = make_figure((width, height), min(DPI, MOST_PIXELS / max(height, width)))
    # One pair of axes in inches: a pair for each panel, laid out by matplotlib, takes three times
    # as long.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), aspect="auto")
    axis.axis("off")
    bottom = 0
    for row, row_titles, aspect, its_height in zip(rows, titles, aspects, above):
        bottom += its_height + aspect * inches
        for k, (panel, title) in enumerate(zip(row, row_titles)):
            _, h, w = panel.image.shape
            scale = (inches - GAP) / max(w, h / aspect)  # inches a pixel
            draw_panel(
                axis,
                panel,
                title,
                k * inches + (inches - scale * w) / 2,
                bottom - GAP / 2 - scale * h,
                scale,
            )
    save_figure(figure, path)


def draw_panel(axis, panel, title, left, top, scale):
    """Draw a panel's image, title and boxes; the image's left and top in the units of the axes,
    scale: units a pixel."""
    from matplotlib.patches import Rectangle

    _, h, w = panel.image.shape
    axis.imshow(
        panel.image.permute(1, 2, 0).numpy(),
        extent=(left, left + scale * w, top + scale * h, top),
        aspect="auto",
    )
    axis.text(
        left + scale * w / 2,
        top - TITLE_GAP,
        title,
        fontsize=9,
        ha="center",
        va="bottom",
        **lettering.style(title),
    )
    for x1, y1, x2, y2 in (box.tolist() for box in panel.boxes):
        axis.add_patch(
            Rectangle(
                (left + scale * x1, top + scale * y1),
                scale * (x2 - x1),
                scale * (y2 - y1),
                fill=False,
                color=BOX_COLOUR,
                linewidth=2,
                linestyle=panel.dash,
            )
        )


def make_figure(inches, dpi):
    """An empty figure of (width, height)."""
    from matplotlib.figure import (
        Figure,
    )  # not pyplot, which keeps figures and may want a screen; here, as it takes a while

    return Figure(inches, dpi)


def make_row(axes):
    """(figure, axes): so many in a row, for curves. Laying them out by their contents would take as
    long as drawing them."""
    figure = make_figure((4.75 * axes + 0.5, 3.8), DPI)
    width, height = figure.get_size_inches()
    return figure, figure.subplots(
        1,
        axes,
        gridspec_kw={
            "left": 0.75 / width,
            "right": 1 - 0.15 / width,
            "bottom": 0.5 / height,
            "top": 1 - 0.35 / height,
            "wspace": 0.2,
        },
    )


def wrap(title, most):
    """A title in at most two lines; breaks are put in, as layout knows nothing of those that
    matplotlib would make."""
    words = shorten(title, 2 * most - 10).split(" ")
    n = next(
        (n for n in range(len(words), 1, -1) if sum(map(breadth, " ".join(words[:n]))) <= most), 1
    )
    return "\n".join(
        shorten(line, most) for line in (" ".join(words[:n]), " ".join(words[n:])) if line
    )


def breadth(letter):
    """About how wide a letter is, as a multiple of a small Latin one."""
    if unicodedata.east_asian_width(letter) in "WF":
        return 2
    return (
        0.6
        if letter in NARROW
        else 1.6
        if letter in "mwMW@%\u25a1\u2026"
        else 1.25
        if letter.isupper()
        else 1
    )


def shorten(title, most):
    """A title without its middle where it is wider than `most` Latin letters: names without a space
    are not wrapped."""
    widths = list(map(breadth, title))
    if sum(widths) <= most:
        return title
    begin, end = np.cumsum(widths) <= most // 2, np.cumsum(widths[::-1])[::-1] < most // 2
    return (
        "".join(c for c, keep in zip(title, begin) if keep)
        + "\u2026"
        + "".join(c for c, keep in zip(title, end) if keep)
    )


def draw_masks(model, dataset, path):
    """What a network sees in the first images of a split."""
    draw_pictures(pictures_of_dataset(model.eval(), dataset, 4), path)


def draw_curves(history, tasks, path):
    """Draw a run's losses, and the first validation metric of each task, over its epochs; history
    is a list of log.csv's rows as dicts. What is no share between 0 and 1 has an axis of its
    own."""
    metrics = {
        f"val_{key}": metric
        for task in tasks.values()
        for key, metric in list(task.metrics.items())[:1]
        if any(row[f"val_{key}"] is not None for row in history)
    }
    errors = {key: metric for key, metric in metrics.items() if metric.unit}
    figure, axes = make_row(3 if errors else 2)
    for key, style in (("train_loss_", "-"), ("val_loss_", "--")):
        for task, colour in zip(tasks, LINES * len(tasks)):
            plot(
                axes[0],
                history,
                key + task,
                f"{task}, {key.split('_')[0]}",
                color=colour,
                linestyle=style,
            )
    axes[0].set(xlabel="epoch", ylabel="loss, unweighted", title="losses")
    for key, metric in metrics.items():
        axis = axes[2] if key in errors else axes[1]
        plot(
            axis,
            history,
            key,
            metric.text
            + (", higher is better" if metric.higher else ", lower is better") * bool(errors),
        )
    axes[1].set(xlabel="epoch", ylim=(0, 1), title="validation")
    if errors:
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
    values = [np.nan if row.get(key) is None else row[key] for row in history]
    axis.plot(
        [row["epoch"] for row in history],
        values,
        marker="." if len(history) < 10 else None,
        label=lettering.text(label),
        **style,
    )


def write_png(figure, path, **options):
    """What savefig does, which draws twice, the first time to lay out what drawing lays out,
    too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(path, **options)


def save_figure(figure, path):
    path = Path(path)
    try:
        if path.is_dir() or not path.suffix:  # matplotlib would write a file of another name
            raise ValueError("it is a folder or has no ending such as .png")
        if path.suffix.lower() == ".png":
            write_png(
                figure, path, pil_kwargs={"compress_level": 3}
            )  # twice as fast as the usual 6, for files an eighth larger
        else:
            figure.savefig(path)
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        reason = contract.shorten(error) or type(error).__name__
        raise InputError(
            f"cannot write the picture {path} ({reason}); choose another --out"
        ) from None
