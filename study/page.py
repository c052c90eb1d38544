"""The page of the results as Markdown that also reads well as it is: short lines, tables of few columns, the answer first.

It takes rows, a dict of experiment -> list of records.Run by seed, and the comparisons of study/verdict.py, and returns
text: a function of the records, without a date or a path.
"""

import numpy as np

import registry
from cli import listed
from study import choices, conflicts, verdict
from study.mixture import FREE_OPTIONS, SEEDWISE, as_text, grouped
from study.records import dice_score
from study.table import BASELINE, DICE, EXPERIMENTS, METRICS
from study.text import bullets, count, in_words, interval, paragraph, table
from study.verdict import MAX_SEEDS, MIN_SEEDS

PUBLISHED_BATCH = 32


def make_page(rows, comparisons, left_out, not_paired):
    """The whole page."""
    runs = [run for of_row in rows.values() for run in of_row]
    parts = [
        "# Does multi-task learning help segmentation?",
        *answer(rows, comparisons),
        *warnings(runs, left_out, not_paired),
        "![Test Dice of every run, and means with intervals](dice.png)",
        "## Test Dice",
        paragraph(
            "Percent, mean and standard deviation over seeds (n runs a row). Per image: mean over images. Pooled: all "
            "pixels of the test split at once."
        ),
        table(
            ("experiment", "n", "per image", "pooled"),
            [
                (name, len(of_row), spread(of_row, "dice"), spread(of_row, "dice_pooled"))
                for name, of_row in rows.items()
            ],
        ),
        *own_rows(rows),
    ]
    if comparisons:
        varied = choices.is_varied(rows)
        parts += (
            ["## One choice at a time", *choice_section(rows, comparisons)]
            if varied
            else ["## Against the baseline"]
        )
        parts += verdict_section(rows, comparisons)
        parts += equal_time_section(rows, comparisons) if varied else []
    parts += (
        []
        if choices.is_varied(rows) and not any(map(is_published, rows.values()))
        else [
            "## Beside the published study",
            paragraph(
                "Dice per image here; the published test Dice, from one run a row; and that figure corrected for "
                "the formula behind it, which grows with an incomplete last batch. The corrected figures are "
                "inferred: they divide by 1.0407, for the likely number of test images, which the study does "
                "not state. In the published uncertainty row no weights were learned (they never reached the "
                "optimizer): it repeats mtl, and the 2.48 points between the two are noise. Its 75-15-15 was "
                "run as 70-15-15."
            ),
            table(
                ("experiment", "here", "published", "corrected"),
                [
                    (name, f"{mean_of(of_row, 'dice', 100):.2f}", *published(of_row))
                    for name, of_row in rows.items()
                ],
            ),
        ]
    )
    parts += [
        "## Other measures",
        *measures(rows),
        table(
            ("experiment", "parameters", "minutes"),
            [
                (
                    name,
                    f"{mean_of(of_row, 'parameters', 1e-6):.2f}",
                    f"{mean_of(of_row, 'train_seconds', 1 / 60):.1f}",
                )
                for name, of_row in rows.items()
            ],
        ),
        *further_measures(rows),
        "## Training curves",
        paragraph("One panel a row. The vertical axes leave the first fifth of the epochs out."),
        "![Validation Dice over epochs, one panel a row](curves.png)",
        "![Training loss of the segmentation over epochs, one panel a row](losses.png)",
    ]
    parts += conflicts.section(rows)
    learned = [name for name, of_row in rows.items() if of_row[0].learns_weights]
    moved = [name for name, of_row in rows.items() if all(run.moves_weights for run in of_row)]
    if learned:
        parts += [
            "## Learned loss weights",
            paragraph(
                f"What multiplies each loss in the {in_words(learned)} runs, mean over the batches of an epoch. "
                "All start at 1; what matters is how they stand to each other."
            ),
            "![Learned weights over epochs](weights.png)",
        ]
    if moved:
        parts += [
            "## Weights that a method chose",
            paragraph(
                f"What multiplied each loss, or each task's gradient, in the {in_words(moved)} runs, mean over "
                "the batches of an epoch."
            ),
            "![Weights over epochs](moved_weights.png)",
        ]
    parts += [
        "## One network, four Dice figures",
        *audit_section(rows, runs),
        "## Protocol",
        *protocol(runs),
    ]
    if left_out or not_paired:
        parts += ["## Left out"]
    if left_out:
        parts.append(
            bullets("Of everything:", [f"{folder}: {reason}" for folder, reason in left_out])
        )
    if not_paired:
        parts.append(
            bullets(
                "Of the comparison with the baseline, though not of the tables:",
                [f"{folder}: {reason}" for folder, reason in not_paired],
            )
        )
    parts.append(
        paragraph(
            "Every run stands in [results.csv](results.csv). This page is made by `python results.py` from "
            "the runs' records alone; the same records give the same page."
        )
    )
    return "\n\n".join(parts) + "\n"


def answer(rows, comparisons):
    """The first paragraphs: what can be said, in plain sentences."""
    varied = choices.is_varied(rows)
    if varied and not comparisons:
        return [
            paragraph(
                "**No two rows here differ in one choice alone and share a seed, so nothing can be compared and "
                "there are no verdicts.**"
            )
        ]
    if BASELINE not in rows and not varied:
        return [
            paragraph(
                "**There are no baseline runs here, so nothing can be compared and there are no verdicts.**"
            )
        ]
    tested = [found for found in comparisons if found.verdict is not None]
    whose = "its baseline" if varied else "the baseline"
    floor = noise_floor(rows, comparisons[0].baseline if varied else BASELINE)
    if not tested:
        return [
            paragraph(
                f"**No verdict yet**: it takes {MIN_SEEDS} seeds that a row shares with {whose}, and no "
                "row has them."
            ),
            floor,
        ]
    named = {
        sign: [name_of(found) for found in tested if found.verdict == sign] for sign in (1, -1, 0)
    }
    words = {
        1: f"better than {whose}",
        -1: f"worse than {whose}",
        0: f"cannot be told apart from {whose}",
    }
    said = [f"{words[sign]}: {', '.join(names)}" for sign, names in named.items() if names]
    text = "; ".join(said)
    candidates = (
        map(name_of, comparisons) if varied else (name for name in rows if name != BASELINE)
    )
    others = [name for name in candidates if name not in sum(named.values(), [])]
    more = f" No verdict, for want of seeds: {', '.join(others)}." if others else ""
    return [
        paragraph(
            f"**{text[0].upper() + text[1:]}.** That is test Dice, "
            f"{count(len(tested), 'pair' if varied else 'row')} judged over "
            f"{seeds_in_words(tested)}.{more}"
        ),
        floor,
    ]


def name_of(found):
    """What a comparison is called: by its row, and of several of a row by the choice."""
    return (
        f"{found.number}. {found.experiment} ({found.choice.replace('_', ' ')})"
        if found.choice
        else found.experiment
    )


def seeds_in_words(tested):
    counts = sorted({found.n for found in tested})
    return (
        f"{counts[0]} paired seeds each"
        if len(counts) == 1
        else f"{counts[0]} to {counts[-1]} paired seeds"
    )


def noise_floor(rows, baseline):
    """What the seed alone does to the baseline."""
    values = [100 * run.test["dice"] for run in rows[baseline]]
    if len(values) < 2:
        return paragraph(f"The noise floor is unknown: there is one {baseline} run.")
    floor = verdict.pairwise_differences(values)
    if len(floor) <= 15:
        listed = ", ".join(f"{value:.2f}" for value in floor)
    else:
        listed = "smallest {:.2f}, quartiles {:.2f}, {:.2f} and {:.2f}, largest {:.2f}".format(
            *np.quantile(floor, (0, 0.25, 0.5, 0.75, 1))
        )
    return paragraph(
        f"Noise floor: two {baseline} runs that differ in the seed alone differ by up to {floor[-1]:.2f} "
        f"points of Dice (every two of {len(values)} runs: {listed})."
    )


def warnings(runs, left_out, not_paired, of_study=False):
    """What a reader must know before trusting the figures; of_study: numbers of masks are what it is about."""
    said = []
    for what, value in (
        ("commits of the code", lambda run: str(run.config.get("commit"))[:12]),
        ("training precisions", lambda run: run.test["precision"]),
        ("devices", lambda run: run.test["device"]),
        ("processors", lambda run: run.config.get("processor", "unknown")),
        ("ways to compute convolutions", lambda run: run.config.get("convolution", "direct")),
        ("versions", lambda run: versions(run)),
        (
            "numbers of training masks",
            lambda run: None if of_study else run.config["options"].get("masks") or "all",
        ),
        ("sets of options", options_of),
    ):
        groups = grouped({run.label: value(run) for run in runs})
        if len(groups) > 1:
            said.append(
                f"The runs are of different {what}: "
                + "; ".join(f"{text} ({listed(labels, 6)})" for text, labels in groups.items())
                + "."
            )
    for name in dict.fromkeys(name for run in runs for name in run.tasks):
        groups = grouped(
            {run.label: as_text(run.tasks[name].settings) for run in runs if name in run.tasks}
        )
        if len(groups) > 1:
            said.append(
                f"The task {name} found other values (classes, mean) in its training images in "
                + " than in ".join(listed(labels, 6) for labels in groups.values())
                + "."
            )
    dirty = [run.label for run in runs if str(run.config.get("commit")).endswith("-dirty")]
    if dirty:
        said.append(f"The code had changes that are in no commit: {listed(dirty, 6)}.")
    if left_out:
        said.append(f"{count(len(left_out), 'run folder')} left out; the reasons stand at the end.")
    if not_paired:
        said.append(
            f"{count(len(not_paired), 'run')} without a baseline run of the same seed; named at the end."
        )
    return [bullets("**Mind:**", said)] if said else []


def options_of(run):
    """Names of the options of a run, as text. What an earlier version did not have, as nobody asked for it, is none."""
    options = run.config["options"]
    later = set() if options.get("convolution") else {"convolution"}
    return ", ".join(sorted(options.keys() - FREE_OPTIONS - later))


def own_rows(rows):
    """What the rows are that the table of experiments does not have, from their own records."""
    own = [
        f"{name}: {own_words(of_row[0])}."
        for name, of_row in rows.items()
        if not is_published(of_row)
    ]
    if own:
        yield bullets("Rows beside those of the published study:", own)


def is_published(runs):
    """Whether a row is an experiment of the table, by its name, tasks and weighting."""
    return runs[0].experiment in EXPERIMENTS and all(
        EXPERIMENTS[run.experiment].fits(run.config) for run in runs
    )


def own_words(run):
    weighting, chosen = (
        run.config.get("weighting"),
        {key: run.config["options"].get(key) for key in registry.CHOSEN},
    )
    words = {"masks": "masks of {} training images"}
    return (
        in_words(list(run.tasks))
        + (f"; loss weights: {weighting}" if weighting else "")
        + "".join(
            "; " + words.get(key, key + ": {}").format(value)
            for key, value in chosen.items()
            if value
        )
        + "".join(
            f"; {key.replace('_', ' ')}: {str(run.config[key])[:60]}"
            for key, usual in registry.AXES.items()
            if run.config.get(key, usual) != usual
        )
    )


def measures(rows):
    """What the tasks of the published study measure beside Dice; a column each, whether or not a run has them."""
    shown = {
        key: metric
        for task in registry.tasks(registry.PUBLISHED).values()
        for key, metric in task.metrics.items()
        if key in METRICS and key not in DICE
    }
    described = in_words([describe(metric) for metric in shown.values()])
    yield paragraph(
        f"{described[0].upper() + described[1:]}, mean and standard deviation over "
        "seeds; parameters in millions; minutes of training, mean, on whatever machine it was."
    )
    yield table(
        ("experiment", *(metric.label for metric in shown.values())),
        [
            (name, *(spread_of(of_row, key, metric) for key, metric in shown.items()))
            for name, of_row in rows.items()
        ],
    )


def further_measures(rows):
    """A table for each task that measures more than METRICS: of the rows that have it, with unit and direction."""
    found = {}
    for name, of_row in rows.items():
        for task in of_row[0].tasks.values():
            for key, metric in task.metrics.items():
                if key not in METRICS and any(key in run.test for run in of_row):
                    shown, of_task = found.setdefault(task.name, ({}, {}))
                    shown.setdefault(key, metric)
                    of_task[name] = of_row
    for name, (shown, of_task) in found.items():
        described = [
            f"{describe(metric)}, {'higher' if metric.higher else 'lower'} is better"
            for metric in shown.values()
        ]
        yield paragraph(f"Task {name}: {'; '.join(described)}.")
        yield table(
            ("experiment", *(metric.label for metric in shown.values())),
            [
                (row, *(spread_of(of_row, key, metric) for key, metric in shown.items()))
                for row, of_row in of_task.items()
            ],
        )


def describe(metric):
    """A metric as the text beside a table names it: with its unit, and what it is the mean of."""
    return (
        metric.text
        + (" in percent" if metric.percent else "")
        + (f" ({metric.note})" if metric.note else "")
    )


def spread_of(runs, key, metric):
    if metric.percent:
        return spread(runs, key)
    largest = max((abs(run.test[key]) for run in runs if run.test.get(key) is not None), default=0)
    return spread(runs, key, 1, 3 if not metric.unit else 2 if largest >= 1 else 4)


def verdict_section(rows, comparisons):
    tested = [found for found in comparisons if found.verdict is not None]
    varied = bool(comparisons[0].choice)
    header = "pair" if varied else "experiment"
    which = (lambda found: found.number) if varied else (lambda found: found.experiment)
    yield bullets("", [sentence(found) for found in comparisons])
    compared = {name for found in comparisons for name in (found.experiment, found.baseline)}
    absent = [name for name in rows if name != BASELINE and name not in compared]
    if absent:
        yield paragraph(
            f"{'No row to be compared with' if varied else 'No seed in common with the baseline'}, "
            f"so no comparison: {', '.join(absent)}."
        )
    yield paragraph(
        "Points of Dice per image (%), row minus baseline, over the seeds that both have; 95% interval of "
        "the paired t test over seeds, for each row by itself."
    )
    yield table(
        (header, "n", "difference", "95% interval"),
        [
            (which(found), found.n, f"{found.mean:+.2f}", interval(found.interval))
            for found in comparisons
        ],
    )
    if tested:
        yield paragraph(
            f"Holm p is p corrected for judging {count(len(tested), 'pair' if varied else 'row')} at "
            f"once (rows with fewer than {MIN_SEEDS} paired seeds are not judged); a verdict needs it at "
            f"{verdict.ALPHA} or below. Seeds: about how many it would take to find the observed difference "
            f"with {verdict.POWER:.0%} power, were difference and spread the true ones, at the strictest level "
            f"of Holm's correction ({verdict.ALPHA} / {len(tested)})."
        )
        yield table(
            (header, "p", "Holm p", "seeds"),
            [
                (which(found), f"{found.p:.3g}", f"{found.adjusted:.3g}", needed(found))
                for found in tested
            ],
        )
    yield paragraph(
        f"Other test images would have given other figures too. The interval below is from the choice of "
        f"images alone: the differences of each image, averaged over the seeds, "
        f"{verdict.RESAMPLES:,} times drawn anew with replacement. It is no part of the verdict, which is "
        "about training again and testing on these images."
    )
    yield table(
        (header, "difference", "over images"),
        [(which(found), f"{found.mean:+.2f}", interval(found.images)) for found in comparisons],
    )


def choice_section(rows, comparisons):
    """Which rows are compared, and in what their networks differ beside the choice."""
    yield paragraph(
        "Each row is compared with the row that differs from it in one choice alone and has the usual there: "
        "one task alone, equal weights, one shared encoder, this project's, from random weights, all masks, no scenes. "
        "One task alone shares and weighs nothing, so it stands for all sharings and weightings. Parameters "
        "and time of training, of seeds that one kind of processor made of both, are named where they differ by "
        f"more than {choices.SAME:.0%}."
    )
    if any(run.config["options"].get("conflicts") for of_row in rows.values() for run in of_row):
        yield paragraph(
            "Time includes what --conflicts took in the runs that had it, here and at equal time below."
        )
    yield bullets(
        "",
        [
            f"{found.number}. {found.experiment} against {found.baseline} ("
            f"{choices.in_words(found.choice, rows[found.experiment], rows[found.baseline])}). "
            + choices.unlike(rows[found.experiment], rows[found.baseline])
            for found in comparisons
        ],
    )


def equal_time_section(rows, comparisons):
    """What the pairs differ in once both have trained as long, from the logs."""
    found = {
        pair.number: choices.at_equal_time(rows[pair.experiment], rows[pair.baseline])
        for pair in comparisons
    }
    found = {number: figures for number, figures in found.items() if figures}
    if found:
        yield "### At equal time"
        yield paragraph(
            "Validation Dice, not test, as the test split is measured once, at the end: points that a row's "
            "best epoch is above its baseline's, after all epochs of both, and at the epoch that the row had "
            "reached when its baseline had ended; means over the seeds that one kind of processor made of "
            "both. A row that is stopped early has not lowered its learning rate, so one that was planned for "
            "that time would do better. No verdict is drawn from it."
        )
        yield table(
            ("pair", "epoch", "equal epochs", "equal time"),
            [
                (
                    number,
                    f"{epoch:.1f}",
                    f"{at_end:+.2f}",
                    "-" if np.isnan(at_time) else f"{at_time:+.2f}",
                )
                for number, (epoch, at_end, at_time) in found.items()
            ],
        )


def sentence(found):
    """The verdict on one row in plain words."""
    n = found.n
    if found.verdict is None:
        return (
            f"**{name_of(found)}: no verdict** from {count(n, 'paired seed')} (it takes {MIN_SEEDS}); "
            f"{found.mean:+.2f} points so far."
        )
    figures_ = f"{found.mean:+.2f} points ({interval(found.interval)}, {n} paired seeds, Holm p {found.adjusted:.2g})"
    if found.verdict == 0:
        about = "about " if found.needed else ""
        return (
            f"**{name_of(found)}: cannot be told** at {n} seeds: {figures_}. To tell a difference of this size would "
            f"take {about}{needed(found)} seeds."
        )
    return f"**{name_of(found)} {'helps' if found.verdict > 0 else 'hurts'}**: {figures_}."


def needed(found):
    return str(found.needed) if found.needed else f"more than {MAX_SEEDS}"


def audit_section(rows, runs):
    n = len(runs[0].counts)
    factor = -(-n // PUBLISHED_BATCH) * PUBLISHED_BATCH / n
    yield paragraph(
        "The same predictions by four formulas, percent, mean over seeds. Image: mean over images (the figure "
        f"of this page). Pooled: all pixels at once. Batch: mean over batches of {PUBLISHED_BATCH} images, each "
        f"pooled over its pixels. Published: sum of these batch figures / N x {PUBLISHED_BATCH}, the formula of "
        f"the published study. For N = {n} it is the batch figure times ceil(N / {PUBLISHED_BATCH}) x "
        f"{PUBLISHED_BATCH} / N = {factor:.4f}, and can pass 100."
    )
    yield table(
        ("experiment", "image", "pooled", "batch", "published"),
        [
            (name, *(f"{value:.2f}" for value in np.mean([audit(run) for run in of_row], 0)))
            for name, of_row in rows.items()
        ],
    )


def protocol(runs):
    first = runs[0]
    images = first.config["images"]
    shared = {
        key: value
        for key, value in first.config["options"].items()
        if key not in FREE_OPTIONS
        and all(run.config["options"].get(key, runs) == value for run in runs)
    }
    for key in registry.CHOSEN:
        values = {run.config["options"].get(key) for run in runs}
        shared |= {key: values.pop()} if len(values) == 1 else {}
    options = " ".join(
        f"--{key.replace('_', '-')} {value}"
        for key, value in sorted(shared.items())
        if value is not None
    )
    differing = sorted(
        {key for run in runs for key in run.config["options"]}
        & {
            "seed",
            "split",
            "processes",
            "threads",
            "workers",
            "device",
            *SEEDWISE,
            *registry.CHOSEN,
        }
    )
    differing = [
        key for key in differing if len({str(run.config["options"].get(key)) for run in runs}) > 1
    ]

    def of_runs(value):
        return "; ".join(grouped({run.label: value(run) for run in runs}))

    yield bullets(
        "",
        [
            f"Runs: {len(runs)}, seeds {', '.join(map(str, sorted({run.seed for run in runs})))}.",
            f"Images of {first.test['size']} px: "
            + ", ".join(
                f"{images[split]} {split}" for split in ("train", "val", "test") if split in images
            )
            + f"; Dice is over the {len(first.counts)} test images with a mask"
            * (len(first.counts) < first.test["n_images"])
            + ".",
            f"Split hash {first.test['split_hash']}; the trimap's border counts as {first.test['border']}.",
            f"Epochs: {first.test['epochs']}; the checkpoint with the best validation {of_runs(chosen_by)} is tested once.",
            f"Options of all runs: `{options}`.",
            *(
                [f"Initial weights: SHA-256 {str(first.config['init'])[:12]} (`--init`)."]
                if first.config.get("init")
                else []
            ),
            f"Options that differ: {', '.join('--' + key for key in differing) or 'none'}.",
            f"Device: {of_runs(lambda run: run.test['device'])}; precision: {of_runs(lambda run: run.test['precision'])}.",
            f"Processor: {of_runs(lambda run: run.config.get('processor', 'unknown'))}.",
            f"Versions: {of_runs(versions)}.",
            f"Commit: {of_runs(lambda run: str(run.config.get('commit'))[:12])}.",
        ],
    )


def chosen_by(run):
    """What chose a run's checkpoint: the first metric of its first task."""
    return next(iter(next(iter(run.tasks.values())).metrics.values())).label


def versions(run):
    return ", ".join(f"{name} {value}" for name, value in sorted(run.config["versions"].items()))


def published(runs):
    if not is_published(runs):
        return "-", "-"
    figure, corrected = EXPERIMENTS[runs[0].experiment].published
    return f"{figure:.2f}", f"{corrected:.1f}"


def mean_of(runs, key, scale=1.0):
    return scale * np.mean([run.test[key] for run in runs])


def spread(runs, key, scale=100.0, digits=2):
    """Mean and standard deviation over seeds as text; a dash where the task is absent."""
    values = [scale * run.test[key] for run in runs if run.test.get(key) is not None]
    if len(values) < len(runs):
        return "-" if not values else f"only in {len(values)} of {len(runs)} runs"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def audit(run):
    """The test Dice (%) of one run by four formulas: per image, pooled, mean over batches of 32, and as published."""
    starts = range(0, len(run.counts), PUBLISHED_BATCH)
    batches = dice_score(np.array([run.counts[k : k + PUBLISHED_BATCH].sum(0) for k in starts]))
    return 100 * np.array(
        [
            run.dice.mean(),
            dice_score(run.counts.sum(0)),
            batches.mean(),
            batches.sum() / len(run.counts) * PUBLISHED_BATCH,
        ]
    )
