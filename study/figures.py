"""Figures of the results, made to be read on a phone.

Each is a PNG of at most seven inches' width and holds no date and no version, so the same numbers
give the same bytes.
"""

from dataclasses import dataclass
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from study import compare, conflicts
from study.page import weight_rows
from study.records import figures
from study.table import BASELINE
from study.verdict import t_interval

# Distinguishable without red-green vision (Okabe and Ito, "Color Universal Design", 2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8a8a"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")  # colours and dashes fall together again after 28 lines
WIDTH, DPI = 5.5, 160  # inches, dots an inch
MOST_LETTERS = 28  # of a row's name, which would else run out of its panel
LEAST = 3  # seeds of an interval over masks: that of two can be wider than the figure
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "text.parse_math": False,  # names may hold a $
}
# Families that have Chinese, Japanese and Korean letters; those that are installed are used.
FAMILIES = ("Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei")


@dataclass(frozen=True)
class Line:
    """x (k,), and of y the mean, the lower and the upper end (3, k) of a band; NaN: no band."""

    x: object
    y: np.ndarray
    label: str | None = None
    look: tuple = (BLUE, "-")


# ------------------------------------------------------------------------------- whole studies


def draw_all(page, folder):
    """The figures of a page.Table."""
    rows = page.segmenting
    baseline = BASELINE if BASELINE in rows else None
    draw_dice(rows, baseline, folder / "dice.png")
    draw_curves(rows, baseline, ("val_dice", 100, "validation Dice, %"), folder / "curves.png")
    loss = "train_loss_seg", 1, "training loss of the segmentation"
    draw_curves(rows, baseline, loss, folder / "losses.png")
    learned, moved = weight_rows(rows)
    draw_weights(rows, learned, "weight of the loss, exp(-s)", folder / "weights.png")
    draw_weights(rows, moved, "weight of the loss", folder / "moved_weights.png")
    cosines, stitches = conflicts.conflicts_of(rows), conflicts.stitches_of(rows)
    draw_stages(cosines, "cosine between gradients", folder / "conflicts.png")
    draw_stages(stitches, "weight of the own map", folder / "stitch.png")
    draw_delta(compare.delta_m(page.rows), page.rows, folder / "delta_m.png")


def draw_study(study, folder):
    """Dice and gain over the number of masks of a label_efficiency.Study."""
    sizes = study.sizes
    dice = {arm: [list(study.values(arm, n).values()) for n in sizes] for arm in study.runs}
    draw_over_masks(dice, sizes, study.alone, "test Dice, %", folder / "masks.png")
    gains = {arm: [study.differences(arm, n) for n in sizes] for arm in study.arms}
    placebo = next((arm for arm in gains if "placebo:" in arm), None)
    draw_over_masks(gains, sizes, placebo, "gain, points of Dice", folder / "gain.png")


# --------------------------------------------------------------------------------- single ones


def draw_dice(rows, baseline, path):
    """Every run's test Dice as a dot, and each row's mean with its 95% interval over seeds.

    rows {label: [Run]}, from top to bottom; baseline: the label whose mean is the dashed line, or
    None. The wide interval of two seeds runs out of the figure.
    """
    every = 100 * figures(sum(rows.values(), []), "dice")
    margin = max(np.ptp(every), 0.5)
    note = "grey: runs; blue: mean, 95% interval over seeds"
    with styled():
        figure = make_figure(1.2 + 0.36 * len(rows))
        axis = figure.subplots()
        for k, runs in enumerate(rows.values()):
            dice = 100 * figures(runs, "dice")
            axis.plot(dice, [k + 0.16] * len(dice), ".", color=GREY, markersize=6, alpha=0.8)
            if len(dice) > 1:
                axis.plot(t_interval(dice)[1:], [k - 0.12] * 2, color=BLUE, linewidth=2)
            axis.plot([dice.mean()], [k - 0.12], "o", color=BLUE, markersize=6)
        if baseline:
            mean = 100 * figures(rows[baseline], "dice").mean()
            axis.axvline(mean, color=ORANGE, linestyle="--", linewidth=1.2, zorder=0)
            note += "; dashed: baseline"
        axis.set_yticks(range(len(rows)), map(shorten, rows))
        axis.set_ylim(len(rows) - 0.4, -0.6)
        left, right = axis.get_xlim()
        axis.set_xlim(max(left, every.min() - margin, -2), min(right, every.max() + margin, 102))
        axis.set_xlabel("test Dice, %")
        figure.supxlabel(note, fontsize=9.5)
        axis.grid(axis="x", alpha=0.3)
        save(figure, path)


def over_epochs(runs, key, scale=1.0, **more):
    """The Line of a column of log.csv: mean over seeds, from the lowest to the highest."""
    values = scale * np.array([run.history[key] for run in runs])
    y = np.array([values.mean(0), values.min(0), values.max(0)])
    return Line(np.arange(1, values.shape[1] + 1), y, **more)


def draw_curves(rows, baseline, what, path):
    """A panel a row; the row `baseline` (or None) is in each, dashed. what: key, scale, label.

    The vertical axis spans what comes after the first fifth of the epochs.
    """
    panels, late, (key, scale, ylabel) = {}, [], what
    for label, runs in rows.items():
        look = ORANGE if label == baseline else BLUE, "-"
        lines = [over_epochs(runs, key, scale, look=look)]
        late.append(lines[0].y[1:, len(lines[0].x) // 5 :].ravel())
        if baseline and label != baseline:
            lines.insert(0, over_epochs(rows[baseline], key, scale, look=(ORANGE, "--")))
        panels[f"{shorten(label)} (n = {len(runs)})"] = lines
    late = np.concatenate(late)
    margin = 0.05 * np.ptp(late) or 0.05
    dashed = f"dashed: {baseline}; " if baseline else ""
    with styled():
        figure, axes = draw_panels(panels, 2, 1.55, ylabel)
        axes[0].set_ylim(late.min() - margin, late.max() + margin)
        axes[0].xaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel(f"epoch   ({dashed}bands: lowest to highest seed)", fontsize=10)
        save(figure, path)


def draw_weights(rows, names, ylabel, path):
    """Loss weights over epochs, a panel a row, a line a task."""
    panels = {}
    for name in names:
        panels[f"{shorten(name)} (bands: lowest to highest seed)"] = drawn = []
        for task, look in zip(rows[name][0].tasks, looks(), strict=False):
            drawn.append(over_epochs(rows[name], f"weight_{task}", label=task, look=look))
    draw_lines(panels, "epoch", ylabel, path)


def draw_over_masks(rows, sizes, reference, ylabel, path):
    """A quantity over the number of masks, a panel a row: mean over seeds, 95% interval.

    rows {label: [values of the seeds, for each of sizes]}; the row `reference` is in each panel,
    dashed. Fewer than LEAST seeds have no interval.
    """

    def line(label, look):
        known = [k for k, values in enumerate(rows[label]) if len(values)]
        y = np.full((3, len(known)), np.nan)
        for column, values in zip(y.T, (rows[label][k] for k in known), strict=True):
            column[0] = np.mean(values)
            if len(values) >= LEAST:
                column[:] = t_interval(values)
        return Line(np.array(sizes)[known], y, look=look)

    panels = {}
    for label in rows:
        if label != reference or len(rows) == 1:
            lines = [line(label, (BLUE, "-"))]
            if reference in rows:
                lines.insert(0, line(reference, (ORANGE, "--")))
            panels[shorten(label)] = lines
    dashed = f"dashed: {shorten(reference)}; " if reference in rows else ""
    with styled():
        figure, axes = draw_panels(panels, min(2, len(panels)), 1.7, ylabel)
        axes[0].set_xscale("log")
        axes[0].set_xticks(sizes, map(str, sizes))
        for axis in axes:
            axis.minorticks_off()
            axis.tick_params("x", rotation=90 if len(sizes) > 4 else 0)
        note = f"masks   ({dashed}bands: 95% interval, {LEAST} seeds or more)"
        figure.supxlabel(note, fontsize=10)
        save(figure, path)


def draw_stages(rows, ylabel, path):
    """A quantity over the stages of the encoder, a panel a row, a line a pair or task.

    rows {label: {line: {stage: (n,)}}}; bands from the lowest to the highest seed.
    """
    panels = {}
    for label, lines in rows.items():
        panels[f"{shorten(label)} (bands: lowest to highest seed)"] = drawn = []
        for (name, stages), look in zip(lines.items(), looks(), strict=False):
            y = np.array([(v.mean(), v.min(), v.max()) for v in stages.values()])
            drawn.append(Line(list(stages), y.T, name, look))
    draw_lines(panels, "stage of the encoder", ylabel, path)


def draw_lines(panels, xlabel, ylabel, path):
    """Panels below each other; no file without one."""
    if panels:
        with styled():
            figure, _ = draw_panels(panels, 1, 2.6, ylabel)
            figure.supxlabel(xlabel, fontsize=10)
            save(figure, path)


def draw_delta(deltas, rows, path):
    """Delta-m over the training time of a step; deltas {row: values of the seeds}."""
    if not deltas:
        return
    with styled():
        figure = make_figure(3.6)
        axis = figure.subplots()
        for (name, values), (colour, _) in zip(deltas.items(), looks(), strict=False):
            time = compare.step_ms(rows[name])
            mean, low, high = t_interval(values) if len(values) >= LEAST else (np.mean(values),) * 3
            style = {"color": colour, "fmt": "o", "capsize": 2, "label": shorten(name)}
            axis.errorbar([time], [mean], [[mean - low], [high - mean]], **style)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xlabel="training time of a step, ms", ylabel="delta-m, %")
        axis.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize=8, ncols=2)
        save(figure, path)


# ----------------------------------------------------------------------------------------- parts


def draw_panels(panels, columns, height, ylabel):
    """(figure, axes) of {title: [Line]}, a panel each, in so many columns; axes are shared."""
    rows = -(-len(panels) // columns)
    figure = make_figure(0.7 + height * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = grid.ravel()
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for (title, lines), axis in zip(panels.items(), axes, strict=False):
        for line in lines:
            colour, dash = line.look
            dots = "." if len(line.x) < 10 else None
            style = {"color": colour, "linewidth": 1.5, "label": line.label, "marker": dots}
            axis.plot(line.x, line.y[0], dash, **style)
            axis.fill_between(line.x, line.y[1], line.y[2], color=colour, alpha=0.2, linewidth=0)
        axis.set_title(title, fontsize=7.5 if len(title) > MOST_LETTERS and columns > 1 else 10)
        axis.grid(alpha=0.3)
        low, high = axis.get_ylim()
        if low < 0 < high:
            axis.axhline(0, color="black", linewidth=0.8)
        if lines[0].label:
            axis.legend(fontsize=8, ncols=1 if len(lines) < 4 else 3)
    figure.supylabel(ylabel, fontsize=10)
    return figure, axes


def looks():
    """(colour, dash) of as many lines as there are."""
    return zip(cycle(COLOURS), cycle(DASHES), strict=False)


def styled():
    """A context in which figures look like the project's."""
    installed = set(font_manager.get_font_names())
    families = ["DejaVu Sans", *(family for family in FAMILIES if family in installed)]
    return matplotlib.rc_context({**STYLE, "font.family": families})


def make_figure(height):
    return Figure(figsize=(WIDTH, height), layout="constrained", dpi=DPI)


def shorten(label):
    """A label of at most MOST_LETTERS: of a longer one its beginning and its end."""
    half = MOST_LETTERS // 2
    if len(label) <= MOST_LETTERS:
        return label
    return f"{label[:half]}\u2026{label[-(half - 1) :]}"


def save(figure, path):
    figure.savefig(path, metadata={"Software": None})
