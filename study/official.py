"""The official test half: photographs that took part in nothing, measured with each run's best.pt.

A run has figures there where its folder holds official.json (records.py). Near-duplicates of
training photographs are a CSV file: name, looks_like, distance.
"""

import numpy as np

from cli import InputError
from study import records
from study.text import count, each, interval, spread, table
from study.verdict import compare

HALVES = ("test", "official")


def measured(rows, half="official"):
    """{row: [runs that have images of a half]}."""
    found = {name: [run for run in runs if run.of(half)] for name, runs in rows.items()}
    return {name: runs for name, runs in found.items() if runs}


def dice(rows, half="test", without=()):
    """{row: {seed: (N,) Dice in percent}} of the runs that have a half; without: names left out."""
    found, names = {}, None
    for name, runs in measured(rows, half).items():
        for run in runs:
            _, images = run.of(half)
            names = names or images.names
            if images.names != names:
                raise InputError(
                    f"{run.label} was measured on other {half} images; measure it again"
                )
            kept = ~np.isin(names, list(without))
            found.setdefault(name, {})[run.seed] = 100 * images.dice[kept]
    return found


def read_duplicates(path):
    """{name: the training photograph that it looks like} of a CSV file."""
    try:
        columns = records.read_columns(path)
        return dict(zip(columns["name"], columns["looks_like"], strict=True))
    except (records.Unusable, KeyError):
        raise InputError(f"{path} is no table of near-duplicates (name, looks_like)") from None


def section(rows, pairs, looks, duplicates):
    """The page's section: figures, paired differences, and both without near-duplicates."""
    there = measured(rows)
    if not there:
        return ""
    figures, images = next(iter(there.values()))[0].official
    near = sorted(set(images.names) & duplicates.keys())
    note = without = ""
    if near:
        alike = count(len(near), "photograph")
        note = f"{alike} of them are near-duplicates of trainval photographs (near_duplicates.csv)."
        others = compare(dice(there, "official", near), pairs, looks)
        without = f"The same without near-duplicates:\n\n{differences(others)}"
    return f"""
## On the official test half

{len(images.names):,} photographs of the data set's own test list, at {figures["size"]} px, split
hash {figures["split_hash"]}. Nothing was trained, tuned or chosen on them. {note} Percent, mean and
standard deviation over seeds.

{table(("experiment", "n", "per image", "pooled", "border IoU"), each(there, figure_cells))}

Points of Dice per image, row minus baseline, paired by seed: 95% interval over seeds, Holm p over
the rows, and the interval over images.

{differences(compare(dice(there, "official"), pairs, looks))}

{without}"""


def figure_cells(runs):
    dice, pooled, border = (
        records.figures(runs, key, "official") for key in ("dice", "dice_pooled", "border_iou")
    )
    return len(runs), spread(dice), spread(pooled), spread(border, 1, 3)


def differences(comparisons):
    """The table of comparisons on one page: over seeds and over images."""
    lines = []
    for found in comparisons:
        p = "-" if found.adjusted is None else f"{found.adjusted:.3g}"
        name = f"{found.number}. {found.experiment}" if found.number else found.experiment
        ends = interval(found.interval), p, interval(found.images)
        lines.append((name, found.n, f"{found.mean:+.2f}", *ends))
    return table(("row", "n", "difference", "over seeds", "Holm p", "over images"), lines)
