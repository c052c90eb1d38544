"""The page of the study of masks: the answer, the gain over the number of masks, what labels are worth in masks, where it ends.

Takes a worth.Study and what results.py left out; returns text, a function of the records alone.
"""

import math

import numpy as np

from study import choices, page, worth
from study.masks import PRIMARY
from study.text import bullets, count, interval, paragraph, table
from study.verdict import MIN_SEEDS, t_interval
from study.worth import ALONE

PLACEBO = "placebo:"


def make_page(study, comparisons, left_out):
    """The whole page."""
    runs = [
        run
        for of_arm in study.runs.values()
        for of_size in of_arm.values()
        for run in of_size.values()
    ]
    sizes, found = worth.primary_sizes(study), {arm: worth.worths(study, arm) for arm in study.arms}
    parts = [
        "# How many masks is a label worth?",
        *answer(study, comparisons, sizes, found),
        *page.warnings(runs, left_out, (), of_study=True),
        "![Gain over segmentation alone, points of Dice, over the number of masks](gain.png)",
        "![Test Dice over the number of masks](masks.png)",
        "## Test Dice",
        paragraph(
            "Percent per image, mean and standard deviation over seeds, and in brackets how many. A column for each number of "
            "masks" + (f"; {study.whole} are all." if study.whole else ".")
        ),
        table(
            ("arm", *study.sizes),
            [(arm, *(spread(study.values(arm, n)) for n in study.sizes)) for arm in study.runs],
        ),
        "## What the labels bring",
        paragraph(
            f"Points of Dice per image, arm minus segmentation alone with the same masks, paired by seed; the primary outcome is "
            f"the mean over {in_numbers(sizes)} masks. " + holm_words(comparisons)
        ),
        *primary_table(comparisons),
        paragraph(
            "The same at each number of masks, with the 95% interval over seeds of each by itself; these are not judged."
        ),
        table(
            ("arm", *study.sizes),
            [(arm, *(gain(study.differences(arm, n)) for n in study.sizes)) for arm in study.arms],
        ),
        "## What the labels are worth",
        paragraph(
            "An arm with n masks is as good as segmentation alone with so many: its curve read sideways, linear over the "
            f"logarithm of the number, with the 95% interval of {worth.RESAMPLES:,} draws of the seeds. Below the smallest and "
            "above the largest number tried nothing is known but that."
            + (
                f" Of fewer than {MIN_SEEDS} seeds too few differ for such an interval: it is shorter than it should be."
                if any(found.verdict is None for found in comparisons)
                else ""
            )
        ),
        *worth_table(study, found),
        "## Where it ends",
        bullets("", [crossing_words(study, arm) for arm in study.arms]),
        "## Time",
        paragraph(
            "All arms of a column take the same number of steps and see as many masks; an arm with more to compute takes "
            "longer. Its time of training over that of segmentation alone, of the pairs that one kind of processor made:"
        ),
        table(("arm", "parameters, millions", "pairs", "time"), times(study)),
        "## Protocol",
        *page.protocol(runs),
    ]
    if left_out:
        parts += [
            "## Left out",
            bullets("Of everything:", [f"{folder}: {reason}" for folder, reason in left_out]),
        ]
    parts.append(
        paragraph(
            "Every run stands in [results.csv](results.csv). This page is made by `python results.py` from the runs' "
            "records alone; the same records give the same page."
        )
    )
    return "\n\n".join(parts) + "\n"


def answer(study, comparisons, sizes, worths):
    """The first paragraphs: what can be said, in plain sentences. worths: {arm: [Worth]}."""
    judged = [found for found in comparisons if found.verdict is not None]
    if not judged:
        yield paragraph(
            f"**No verdict yet**: it takes {MIN_SEEDS} seeds that an arm shares with segmentation alone at "
            f"{in_numbers(sizes)} masks, and no arm has them."
        )
    for found in judged:
        yield paragraph(page.sentence(found))
    middle = sorted(sizes)[len(sizes) // 2]
    certain = {found.experiment for found in judged}
    said = [
        (arm, one)
        for arm, of_arm in worths.items()
        for one in of_arm
        if one.n == middle and arm in certain and not arm.startswith(f"{ALONE}+{PLACEBO}")
    ]
    if said:
        yield paragraph(
            f"With {middle} masks: "
            + "; ".join(
                f"{arm} is as good as segmentation alone with {span(one.masks, one.interval, study)}"
                for arm, one in said
            )
            + "."
        )


def holm_words(comparisons):
    judged = sum(found.verdict is not None for found in comparisons)
    return (
        f"Holm p is corrected for judging {count(judged, 'arm')} at once; arms with fewer than {MIN_SEEDS} paired seeds are not "
        "judged."
    )


def primary_table(comparisons):
    if comparisons:
        yield table(
            ("arm", "n", "difference", "95% interval", "Holm p"),
            [
                (
                    found.experiment,
                    found.n,
                    f"{found.mean:+.2f}",
                    interval(found.interval),
                    "-" if found.adjusted is None else f"{found.adjusted:.3g}",
                )
                for found in comparisons
            ],
        )


def worth_table(study, worths):
    found = {arm: {one.n: one for one in of_arm} for arm, of_arm in worths.items()}
    sizes = [n for n in study.sizes if any(n in of_arm for of_arm in found.values())]
    if sizes:
        yield table(
            ("arm", *(f"at {n}" for n in sizes)),
            [
                (
                    arm,
                    *(
                        span(of_arm[n].masks, of_arm[n].interval, study) if n in of_arm else "-"
                        for n in sizes
                    ),
                )
                for arm, of_arm in found.items()
            ],
        )


def crossing_words(study, arm):
    at, ends, share = worth.crossings(study, arm)
    if math.isnan(at):
        known = [
            study.differences(arm, n).mean() for n in study.sizes if len(study.differences(arm, n))
        ]
        side = (
            "above" if known and min(known) > 0 else "below" if known and max(known) < 0 else "at"
        )
        return (
            f"{arm}: the mean gain does not change its sign between the numbers tried, it stays {side} zero; in {share:.0%} of "
            "the draws it does."
        )
    return f"{arm}: the mean gain crosses zero at {span(at, ends, study)} masks, in {share:.0%} of the draws."


def times(study):
    """Parameters, and seconds of training over those of segmentation alone: a row an arm."""
    for arm, of_arm in study.runs.items():
        parameters = (
            np.mean(
                [run.test["parameters"] for of_size in of_arm.values() for run in of_size.values()]
            )
            / 1e6
        )
        pairs = [
            pair
            for n, of_size in of_arm.items()
            for pair in choices.alike(of_size.values(), study.runs[ALONE].get(n, {}).values())
        ]
        own, alone = (
            (sum(run.test["train_seconds"] for run in runs) for runs in zip(*pairs))
            if pairs
            else (np.nan, 1)
        )
        yield arm, f"{parameters:.2f}", str(len(pairs)), f"{own / alone:.2f}" if pairs else "-"


def spread(values):
    values = list(values.values())
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation} ({len(values)})"


def gain(differences):
    if not len(differences):
        return "-"
    ends = f" ({interval(t_interval(differences)[1:])})" if len(differences) > 1 else ""
    return f"{differences.mean():+.2f}{ends}"


def number(masks, study):
    """A number of masks in words, three digits at most; beyond what segmentation alone was tried with there is only that."""
    sizes = sorted(study.runs[ALONE])
    if masks == 0:
        return f"<{sizes[0]}"
    return f">{sizes[-1]}" if math.isinf(masks) else f"{float(f'{masks:.3g}'):.0f}"


def span(masks, ends, study):
    return f"{number(masks, study)} ({number(ends[0], study)} to {number(ends[1], study)})"


def in_numbers(sizes):
    *others, last = map(str, sizes or PRIMARY)
    return f"{', '.join(others)} and {last}" if others else last
