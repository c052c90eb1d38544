"""The page of label efficiency: gains over the number of masks, equivalents, what to annotate."""

import math

import numpy as np

from study import compare, costs, label_efficiency, page
from study.label_efficiency import ALONE
from study.text import bullets, count, each, fill, in_words, interval, spread, table
from study.verdict import MIN_SEEDS, t_interval

PLACEBO = f"{ALONE}+placebo:"


def make_page(study, around, seconds):
    """The whole page; around: the page.Table of the same runs; seconds: prices of labels."""
    comparisons = label_efficiency.primary(study)
    equivalents = {arm: label_efficiency.equivalents(study, arm) for arm in study.arms}
    sizes = sorted({found.n for of_arm in equivalents.values() for found in of_arm})
    judged = sum(found.verdict is not None for found in comparisons)
    few = any(found.n < MIN_SEEDS for found in comparisons)

    def worth_cells(of_arm):
        by_size = {found.n: span(found, study) for found in of_arm}
        return [by_size.get(n, "-") for n in sizes]

    return fill(f"""
# How many masks is a label worth?

{answer(study, comparisons, equivalents)}

{around.note}

{page.caveats(around, has_sizes=True)}

![Gain over segmentation alone, points of Dice, over the number of masks](gain.png)

![Test Dice over the number of masks](masks.png)

## Test Dice

Percent per image, mean and standard deviation over seeds, and in brackets how many. A column for
each number of masks{f"; {study.whole} are all" if study.whole else ""}.

{dice_table(study)}

## What the labels bring

Points of Dice per image, arm minus segmentation alone with the same masks, paired by seed; the
primary outcome is the mean over {in_words(label_efficiency.primary_sizes(study))} masks. Holm p
is corrected for {count(judged, "arm")}; arms with fewer than {MIN_SEEDS} paired seeds, or over
another encoder, are not tested.

{gain_tables(study, comparisons)}

## What the labels are worth

An arm with n masks is as good as segmentation alone with so many: its curve read sideways, linear
over the logarithm of the number, with the 95% interval of {label_efficiency.RESAMPLES:,} draws of
the seeds. Below the smallest and above the largest number measured nothing else is known. With
all masks every image of a batch has a mask, with fewer half of them, so no equivalent is read off
the segment that ends at all masks. {
        "Of few seeds the interval is shorter than it should be." if few else ""
    }

{table(("arm", *(f"at {n}" for n in sizes)), each(equivalents, worth_cells))}

{costs.section(study, seconds)}

{encoder_section(study)}

{official_section(study.on("official"), around.runs)}

## Where the gain ends

{bullets(crossing(study, arm) for arm in study.arms)}

## Time

All arms of a column take the same number of steps and see as many masks. Training time over that
of segmentation alone, of the pairs that one kind of processor made:

{table(("arm", "parameters, millions", "pairs", "time"), time_lines(study))}

{page.ending(around)}
""")


def answer(study, comparisons, equivalents):
    """Verdicts in plain sentences, and the equivalents at the middle number of masks."""
    sizes = label_efficiency.primary_sizes(study)
    texts = [page.sentence(found) for found in comparisons if found.verdict is not None]
    if not texts:
        texts = [f"**No verdict yet**: it takes {MIN_SEEDS} seeds at {in_words(sizes)} masks."]
    middle = sorted(sizes)[len(sizes) // 2]
    said = []
    for arm in [found.experiment for found in comparisons if found.n >= MIN_SEEDS]:
        for found in equivalents[arm]:
            if found.n == middle and not arm.startswith(PLACEBO):
                said.append(f"{arm} is as good as segmentation alone with {span(found, study)}")
    if said:
        texts.append(f"With {middle} masks: {'; '.join(said)}.")
    return "\n\n".join(texts)


def dice_table(study):
    def cells(n, arm):
        values = list(study.values(arm, n).values())
        return f"{spread(values, 1)} ({len(values)})" if values else "-"

    return over_sizes(study, study.runs, cells)


def gain_tables(study, comparisons):
    lines = []
    for found in comparisons:
        p = "-" if found.adjusted is None else f"{found.adjusted:.3g}"
        mean = f"{found.mean:+.2f}"
        lines.append((found.experiment, found.n, mean, interval(found.interval), p))
    return f"""{table(("arm", "n", "difference", "95% interval", "Holm p"), lines)}

The same at each number of masks, with the 95% interval over seeds; not tested.

{over_sizes(study, study.arms, lambda n, arm: gain(study.differences(arm, n)))}"""


def over_sizes(study, arms, cell):
    """A table with a line an arm and a column a number of masks."""
    lines = [(arm, *(cell(n, arm) for n in study.sizes)) for arm in arms]
    return table(("arm", *study.sizes), lines)


def gain(differences):
    if not len(differences):
        return "-"
    ends = f" ({interval(t_interval(differences)[1:])})" if len(differences) > 1 else ""
    return f"{differences.mean():+.2f}{ends}"


def number(masks, study):
    """A number of masks with three digits; beyond those measured only the bound is known."""
    sizes = study.readable
    if masks == 0:
        return f"<{min(sizes)}"
    return f">{max(sizes)}" if math.isinf(masks) else digits(masks)


def digits(value):
    return f"{float(f'{value:.3g}'):.0f}"


def span(found, study):
    low, high = (number(end, study) for end in found.interval)
    return f"{number(found.masks, study)} ({low} to {high})"


def encoder_section(study):
    """What labels add over another encoder, against segmentation alone over the same one."""
    alone = {}
    for arm in study.arms:
        tasks = "+".join(name.removeprefix("column:") for name in study.example(arm).tasks)
        baseline = arm.replace(tasks, ALONE, 1)
        if baseline != arm and baseline in study.arms and not study.is_usual(arm):
            alone[arm] = baseline
    if not alone:
        return ""
    return f"""
## Over another encoder

Points of Dice per image, arm minus segmentation alone over the same encoder, with the 95%
interval over seeds; not tested.

{over_sizes(study, alone, lambda n, arm: gain(study.differences(arm, n, alone[arm])))}"""


def official_section(study, runs):
    """The replication on the official test half, of the runs that were measured there."""
    images = [run.official[0]["n_images"] for run in runs if run.official]
    if not images:
        return ""
    return f"""
## On the official test half

{max(images):,} photographs of the data set's own test list, in which nothing was trained, tuned or
chosen: a replication, analysed in the same way.

{dice_table(study)}

{gain_tables(study, label_efficiency.primary(study))}"""


def crossing(study, arm):
    at, ends, share = label_efficiency.crossings(study, arm)
    if not math.isnan(at):
        low, high = map(digits, ends)
        return f"""{arm}: the mean gain crosses zero at {digits(at)} ({low} to {high}) masks, in
            {share:.0%} of the draws."""
    means = [np.mean(d) for d in (study.differences(arm, n) for n in study.sizes) if len(d)]
    side = "above" if min(means) > 0 else "below" if max(means) < 0 else "at"
    return f"""{arm}: the mean gain stays {side} zero at all numbers measured; in {share:.0%} of the
        draws it crosses."""


def time_lines(study):
    for arm, of_arm in study.runs.items():
        parameters = [run.test["parameters"] for runs in of_arm.values() for run in runs.values()]
        seconds = []
        for n, runs in of_arm.items():
            for pair in compare.alike(runs.values(), study.runs[ALONE].get(n, {}).values()):
                seconds.append([run.test["train_seconds"] for run in pair])
        time = f"{np.divide(*np.sum(seconds, 0)):.2f}" if seconds else "-"
        yield arm, f"{np.mean(parameters) / 1e6:.2f}", len(seconds), time
