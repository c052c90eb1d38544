"""What to annotate next: labels in seconds of annotation time, against the masks that they save.

Published times of one label (masks.SECONDS): a polygon mask, 79 s an object (Lin et al. 2014, COCO:
22 h for 1,000); a box by extreme clicking, 7 s (Papadopoulos et al. 2017; 35 s drawn, Su et al.
2012); a class, 1 to 2 s an image (Papadopoulos et al. 2014; Bearman et al. 2016: 1 s a class).
"""

import numpy as np

from study.label_efficiency import ALONE, draws, equivalents, quantiles
from study.text import table

HOURS = (1, 3, 10)
FEWEST = 10  # masks that a budget has to leave


def in_words(seconds):
    return " ".join(f"{label}={value:g}" for label, value in seconds.items())


def labels_of(study, arm):
    """{label: images that have it} that an arm needs beside masks."""
    run = study.example(arm)
    found = {
        task.removeprefix("column:"): run.labelled(task) for task in run.tasks if task != ALONE
    }
    if run.info.get("init_sha256"):
        found["the labels of --init"] = run.info["images"]["train"]
    return found


def priced(study, seconds):
    """{arm: seconds of its labels}, of the arms all of whose labels have a price."""
    found = {}
    for arm in study.runs:
        labels = labels_of(study, arm)
        if labels.keys() <= seconds.keys():
            found[arm] = sum(seconds[label] * n for label, n in labels.items())
    return found


def dice_at(study, arm, n):
    """Dice (R + 1,) of an arm with n masks in all draws, linear over the logarithm of the number.

    None where n is outside of the numbers measured.
    """
    sizes, alone, gains = draws(study, arm)
    curves = alone if arm == ALONE else alone + gains
    known = np.isin(sizes, study.readable) & ~np.isnan(curves[0])
    sizes, curves = sizes[known], curves[:, known]
    if not len(sizes) or not sizes.min() <= n <= sizes.max():
        return None
    return np.array([np.interp(np.log(n), np.log(sizes), curve) for curve in curves])


def uses(study, seconds, hours):
    """{arm: (masks, Dice of the draws)} of a budget: arms whose labels it pays, rest in masks."""
    found = {}
    for arm, labels in priced(study, seconds).items():
        n = (3600 * hours - labels) / seconds["mask"]
        if n >= FEWEST:
            found[arm] = n, dice_at(study, arm, n)
    return found


def section(study, seconds):
    """The page's section: what budgets buy, and when a label pays."""
    if not any(priced(study, seconds).values()):
        return ""
    budgets = {hours: uses(study, seconds, hours) for hours in HOURS}
    prices = ", ".join(f"{label} {value:g} s" for label, value in seconds.items())
    header = ("arm", "masks", "cost, h", "saves, masks", "saves, h", "break-even, s")
    return f"""
## What to annotate next

Annotation time: {prices} each (`--cost`; Lin et al. 2014, Papadopoulos et al. 2017). The labels
of an arm are bought for all images, as they were measured; the rest of a budget goes into masks.
Dice is read off the arm's curve, with the 95% interval of the draws; outside the numbers of masks
that were measured there is no figure.

{table(("budget", "arm", "masks", "Dice"), budget_lines(budgets))}

{" ".join(best(study, hours, found) for hours, found in budgets.items())}

When labels pay: hours that the labels of all images cost, hours of drawing masks that they save,
and the price of one label at which both are equal (95% interval). Labels that exist already cost
nothing and save the same.

{table(header, break_even(study, seconds))}"""


def budget_lines(budgets):
    for hours, found in budgets.items():
        for arm, (n, dice) in found.items():
            text = "not measured"
            if dice is not None:
                text = "{:.2f} ({:.2f} to {:.2f})".format(dice[0], *quantiles(dice[1:]))
            yield f"{hours} h", arm, f"{n:.0f}", text


def best(study, hours, found):
    """The best use of a budget, as a sentence."""
    known = {arm: dice for arm, (_, dice) in found.items() if dice is not None}
    unknown = [f"{arm} ({n:.0f} masks)" for arm, (n, dice) in found.items() if dice is None]
    ends = f"{min(study.readable)} to {max(study.readable)} masks"
    open_ = f"; outside the {ends} measured: {', '.join(unknown)}" if unknown else ""
    if len(found) == 1:
        arm, (n, _) = next(iter(found.items()))
        return f"**{hours} h: {arm} with {n:.0f} masks**, all that fits."
    if not known:
        return f"**{hours} h: open**{open_}."
    first = max(known, key=lambda arm: known[arm][0])
    text = f"**{hours} h: {first} with {found[first][0]:.0f} masks"
    text += " is the best use measured**" if unknown else " is the best use**"
    for arm, dice in known.items():
        if arm != first:
            low, high = quantiles((known[first] - dice)[1:])
            text += f", {known[first][0] - dice[0]:+.2f} ({low:+.2f} to {high:+.2f}) over {arm}"
    return f"{text}{open_}."


def break_even(study, seconds):
    """A line for each arm with labels and number of masks; the largest tells no more than > 0.

    Arms over another encoder would get the credit of the encoder, and are left out.
    """
    smallest, largest = min(study.readable), max(study.readable)
    for arm, cost in priced(study, seconds).items():
        labels = sum(labels_of(study, arm).values())
        for found in equivalents(study, arm) if labels and study.is_usual(arm) else ():
            masks = np.clip([found.masks, *found.interval], smallest, largest)
            signs = [{0: "<", np.inf: ">"}.get(m, "") for m in (found.masks, *found.interval)]
            cells = []
            for scale, digits in (
                (1, 0),
                (seconds["mask"] / 3600, 1),
                (seconds["mask"] / labels, 1),
            ):
                values = np.round(scale * (masks - found.n), digits) + 0.0
                texts = [f"{s}{v:.{digits}f}" for s, v in zip(signs, values, strict=True)]
                cells.append("{} ({} to {})".format(*texts))
            if found.n < largest:
                yield arm, found.n, f"{cost / 3600:.1f}", *cells
