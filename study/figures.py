"""Figures of the results: Dice of every row, training curves, learned loss weights. Made to be read on a phone.

Each is a PNG of at most seven inches' width and holds no date and no version, so the same numbers give the same bytes.
"""

from itertools import cycle

import numpy as np

from data import lettering
from study.verdict import t_interval

# Distinguishable without red-green vision (Okabe and Ito, "Color Universal Design", 2008).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8a8a8a"
# Of as many lines as there are, beginning anew: seven colours and four dashes fall together again after 28.
COLOURS, DASHES = (
    (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    ("-", "--", "-.", ":"),
)
WIDTH, DPI = 5.5, 160  # inches, dots an inch
MOST_LETTERS = 28  # of a row, which would else run out of its panel
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}


def draw_dice(rows, baseline, path):
    """Every run's test Dice as a dot, and each row's mean with its 95% t interval over seeds.

    rows: dict of label -> (n,) Dice in percent, drawn from top to bottom; baseline: the label whose mean is the dashed line,
    or None. The interval of two seeds can be wider than anything else; it runs out of the picture then.
    """
    runs = np.concatenate(list(rows.values()))
    margin = max(np.ptp(runs), 0.5)
    with styled():
        figure = make_figure(1.2 + 0.36 * len(rows))
        axis = figure.subplots()
        for k, values in enumerate(rows.values()):
            axis.plot(
                values, np.full(len(values), k + 0.16), ".", color=GREY, markersize=6, alpha=0.8
            )
            if len(values) > 1:
                mean, low, high = t_interval(values)
                axis.plot(
                    [low, high], [k - 0.12] * 2, color=BLUE, linewidth=2, solid_capstyle="butt"
                )
            axis.plot([np.mean(values)], [k - 0.12], "o", color=BLUE, markersize=6)
        if baseline:
            axis.axvline(
                np.mean(rows[baseline]), color=ORANGE, linestyle="--", linewidth=1.2, zorder=0
            )
        labels = [lettering.text(shorten(label)) for label in rows]
        axis.set_yticks(range(len(rows)), labels, **lettering.style(*labels))
        axis.set_ylim(len(rows) - 0.4, -0.6)
        left, right = axis.get_xlim()
        axis.set_xlim(max(left, runs.min() - margin, -2), min(right, runs.max() + margin, 102))
        axis.set_xlabel("test Dice, %")
        figure.supxlabel(
            "grey: runs; blue: mean, 95% interval over seeds"
            + ("; dashed: baseline" if baseline else ""),
            fontsize=9.5,
        )
        axis.grid(axis="x", alpha=0.3)
        save(figure, path)


def draw_curves(rows, baseline, ylabel, path):
    """Small multiples of a quantity over epochs: the mean over seeds, and a band from the lowest seed to the highest.

    rows: dict of label -> (n, epochs); the row `baseline` (or None) is repeated in each panel. The vertical axis spans what
    comes after the first fifth of the epochs, where rows differ by less than anything at the start.
    """
    late = np.concatenate([values[:, values.shape[1] // 5 :].ravel() for values in rows.values()])
    low, high = late.min(), late.max()
    margin = 0.05 * (high - low) or 0.05
    with styled():
        lines = -(-len(rows) // 2)
        figure = make_figure(0.7 + 1.55 * lines)
        axes = figure.subplots(lines, 2, sharex=True, sharey=True, squeeze=False)
        for (label, values), axis in zip(rows.items(), axes.flat):
            if baseline and label != baseline:
                draw_band(axis, rows[baseline], ORANGE, "--")
            draw_band(axis, values, ORANGE if label == baseline else BLUE, "-")
            title = lettering.text(f"{shorten(label)} (n = {len(values)})")
            size = (
                {"fontsize": 7.5} if len(title) > MOST_LETTERS else {}
            )  # or it would run into that of the next panel
            axis.set_title(title, **size, **lettering.style(title))
            axis.set_ylim(low - margin, high + margin)
            axis.grid(alpha=0.3)
        for axis in axes.flat[len(rows) :]:
            axis.axis("off")
        integer_epochs(axes.flat[0])
        note = (
            "   ("
            + (f"dashed: {lettering.text(baseline)}; " if baseline else "")
            + "bands: lowest to highest seed)"
        )
        figure.supxlabel("epoch" + note, fontsize=10, **lettering.style(note))
        figure.supylabel(ylabel, fontsize=10)
        save(figure, path)


def draw_weights(rows, path, formula=", exp(-s)"):
    """Loss weights over epochs, a panel a row; rows: dict of label -> dict of task -> (n, epochs)."""
    with styled():
        figure = make_figure(3.4 * len(rows))
        for (label, weights), axis in zip(
            rows.items(), figure.subplots(len(rows), squeeze=False).flat
        ):
            for (task, values), colour, dash in zip(weights.items(), cycle(COLOURS), cycle(DASHES)):
                draw_band(axis, values, colour, dash, lettering.text(task))
            axis.set(xlabel="epoch", ylabel=f"weight of the loss{formula}")
            axis.set_ylim(0, 1.1 * max(values.max() for values in weights.values()))
            title = lettering.text(
                f"{shorten(label)} (n = {len(values)}; bands: lowest to highest seed)"
            )
            axis.set_title(title, **lettering.style(title))
            axis.grid(alpha=0.3)
            for line in axis.legend().get_texts():
                line.set(**lettering.style(line.get_text()))
            integer_epochs(axis)
        save(figure, path)


def draw_over_masks(rows, reference, ylabel, zero, path):
    """Small multiples of a quantity over the number of masks: the mean over seeds, and its 95% t interval as a band.

    rows: dict of label -> dict of n -> (k,) values of k seeds; the row `reference` (or None) is repeated in each panel, dashed;
    zero: draw the line at 0.
    """
    panels = {label: row for label, row in rows.items() if label != reference or len(rows) == 1}
    with styled():
        columns = min(2, len(panels))
        lines = -(-len(panels) // columns)
        figure = make_figure(0.8 + 1.7 * lines)
        axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        sizes = sorted({n for row in rows.values() for n in row})
        for (label, row), axis in zip(panels.items(), axes.flat):
            if reference in rows and label != reference:
                draw_over_sizes(axis, rows[reference], ORANGE, "--")
            draw_over_sizes(axis, row, BLUE, "-")
            if zero:
                axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xscale("log")
            axis.set_xticks(sizes, map(str, sizes), rotation=90 if len(sizes) > 4 else 0)
            axis.minorticks_off()
            title = lettering.text(shorten(label))
            axis.set_title(title, **lettering.style(title))
            axis.grid(alpha=0.3)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        note = "masks   (" + (
            f"dashed: {lettering.text(shorten(reference))}; " if reference in rows else ""
        )
        figure.supxlabel(note + "bands: 95% interval over seeds)", fontsize=10)
        figure.supylabel(ylabel, fontsize=10)
        save(figure, path)


def draw_over_sizes(axis, row, colour, dash):
    """Mean over seeds of {n: (k,) values}, and the 95% t interval where there are two seeds or more."""
    sizes = sorted(row)
    found = [t_interval(row[n]) if len(row[n]) > 1 else (row[n][0],) * 3 for n in sizes]
    means, low, high = np.array(found).T
    axis.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.plot(sizes, means, dash, color=colour, linewidth=1.5, marker="o", markersize=3)


def draw_stages(rows, ylabel, zero, path):
    """A quantity over the stages of the encoder: the mean over seeds, and a bar from the lowest seed to the highest.

    rows: dict of label -> dict of line -> dict of stage -> (n,), a panel a row; zero: draw the line at 0, which it may
    cross.
    """
    with styled():
        figure = make_figure(2.6 * len(rows))
        for (label, lines), axis in zip(
            rows.items(), figure.subplots(len(rows), sharey=True, squeeze=False).flat
        ):
            stages = list(dict.fromkeys(stage for line in lines.values() for stage in line))
            looks = zip(lines.items(), cycle(COLOURS), cycle(DASHES))
            for k, ((name, line), colour, dash) in enumerate(looks):
                # Beside each other, or the bars of one would hide those of another.
                x = np.array([stages.index(stage) for stage in line]) + 0.3 * (
                    (k + 0.5) / len(lines) - 0.5
                )
                means = np.array([values.mean() for values in line.values()])
                ends = np.array([(values.min(), values.max()) for values in line.values()]).T
                axis.errorbar(
                    x,
                    means,
                    np.abs(ends - means),
                    color=colour,
                    linestyle=dash,
                    linewidth=1.5,
                    marker="o",
                    markersize=4,
                    elinewidth=1,
                    capsize=2,
                    label=lettering.text(name),
                )
            if zero:
                axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xticks(range(len(stages)), stages)
            axis.set_ylabel(ylabel)
            n = max(len(values) for line in lines.values() for values in line.values())
            title = lettering.text(f"{shorten(label)} (n = {n}; bars: lowest to highest seed)")
            axis.set_title(title, **lettering.style(title))
            axis.grid(alpha=0.3)
            for text in axis.legend(fontsize=8, ncols=1 if len(lines) < 4 else 3).get_texts():
                text.set(**lettering.style(text.get_text()))
        save(figure, path)


def styled():
    """A context in which figures look like ours."""
    import matplotlib  # here and below, as it takes a while

    return matplotlib.rc_context(STYLE)


def make_figure(height):
    """An empty figure of some inches' height."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and may want a screen

    return Figure(figsize=(WIDTH, height), layout="constrained", dpi=DPI)


def draw_band(axis, values, colour, dash, label=None):
    """Mean over seeds of values (n, epochs), and the band from lowest to highest."""
    epochs = np.arange(1, values.shape[1] + 1)
    axis.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    axis.plot(
        epochs,
        values.mean(0),
        dash,
        color=colour,
        linewidth=1.5,
        label=label,
        marker="." if len(epochs) < 10 else None,
    )


def shorten(label):
    """A label of at most MOST_LETTERS: of a longer one its beginning and its end, where names made from options differ."""
    half = MOST_LETTERS // 2
    return label if len(label) <= MOST_LETTERS else label[:half] + "\u2026" + label[-(half - 1) :]


def integer_epochs(axis):
    axis.xaxis.get_major_locator().set_params(integer=True)


def save(figure, path):
    figure.savefig(path, metadata={"Software": None})
