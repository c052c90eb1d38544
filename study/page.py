"""The page of a study as Markdown: answer first, then tables, figures and the protocol.

A function of the records (Table): no date, no path.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

import registry
from cli import listed
from config import RESULT
from study import compare, conflicts, official, verdict
from study.records import dice_score, figures
from study.table import ALL, BASELINE, DICE, EXPERIMENTS, METRICS
from study.text import bullets, count, each, fill, in_words, interval, spread, table
from study.verdict import MAX_SEEDS

PUBLISHED_BATCH = 32


@dataclass
class Table:
    """What a page is made of.

    rows {experiment: [Run]}, runs by seed; left_out [(folder, reason)]; looks of verdict.py;
    half: of the primary outcome, test or official; duplicates: near-duplicates of the official
    half; tuning {experiment: tuning.json}; noise: baseline Dice in percent of another study, for
    a table of single runs; note: a paragraph under the answer.
    """

    rows: dict
    left_out: list = field(default_factory=list)
    looks: tuple = (verdict.Look(),)
    half: str = "test"
    duplicates: dict = field(default_factory=dict)
    tuning: dict = field(default_factory=dict)
    noise: list = field(default_factory=list)
    note: str = ""

    def __post_init__(self):
        # Single-task rows without segmentation take part in delta-m alone.
        self.segmenting = official.measured(self.rows, "test")
        self.runs = [run for of_row in self.rows.values() for run in of_row]
        self.is_single = len(self.runs) == len(self.rows)
        self.is_varied = compare.is_varied(self.segmenting)
        self.pairs = verdict.against(self.segmenting, BASELINE)
        if self.is_varied:
            self.pairs = compare.pairs(self.segmenting)

    @cached_property
    def comparisons(self):
        """The tests of the primary outcome."""
        return verdict.compare(official.dice(self.segmenting, self.half), self.pairs, self.looks)

    @property
    def tested(self):
        return [found for found in self.comparisons if found.verdict is not None]

    @property
    def unpaired(self):
        """Labels of runs whose seed the baseline lacks."""
        seeds = {run.seed for run in self.rows.get(BASELINE, self.runs)}
        return [run.label for run in self.runs if run.seed not in seeds and not self.is_varied]


def make_page(page):
    """The whole page of a Table."""
    return fill(f"""
# Does multi-task learning help segmentation?

{tuned_unequally(page)}

{answer(page)}

{page.note}

{caveats(page)}

![Test Dice of every run, and means with intervals](dice.png)

## Test Dice

Percent, mean and standard deviation over seeds (n runs a row). Per image: mean over images.
Pooled: all pixels of the test split at once.

{table(("experiment", "n", "per image", "pooled"), each(page.segmenting, dice_cells))}

{own_rows(page.rows)}

{comparison_section(page)}

{official.section(page.segmenting, page.pairs, page.looks, page.duplicates)}

{delta_section(page)}

{published_section(page)}

{measures(page.rows)}

{curves_section(page.segmenting)}

{audit_section(page.segmenting)}

{tuning_section(page.tuning)}

{ending(page)}
""")


# ---------------------------------------------------------------------------------------- answer


def answer(page):
    """The first paragraphs: verdicts in plain sentences, and the noise floor."""
    rows = page.segmenting
    if page.is_single:
        floor = noise_floor(BASELINE, page.noise, " of the first study") if len(page.noise) else ""
        return f"**One run a row: no comparison and no verdict.**\n\n{floor}"
    if not page.comparisons:
        lack = "two rows that differ in one option" if page.is_varied else "baseline runs"
        return (
            f"**There are no {lack} and share a seed, so there is no comparison and no verdict.**"
        )
    name = page.comparisons[0].baseline
    text = verdicts(page)
    if not page.tested:
        text = f"**No verdict yet**: it takes {page.looks[0].least} seeds shared with the baseline."
    return f"{text}\n\n{noise_floor(name, 100 * figures(rows[name], 'dice'))}"


def verdicts(page):
    named = {"better than the baseline": [], "worse than the baseline": [], "inconclusive": []}
    for found in page.tested:
        named[list(named)[(0, 1, -1).index(found.verdict) - 1]].append(name_of(found))
    text = "; ".join(f"{words}: {', '.join(names)}" for words, names in named.items() if names)
    few = [name_of(found) for found in page.comparisons if found.verdict is None]
    half = "Dice on the official test half" if page.half == "official" else "Test Dice"
    seeds = in_words(sorted({found.n for found in page.tested}))
    tests = count(len(page.tested), "pair" if page.is_varied else "row")
    more = f" No verdict, too few seeds: {', '.join(few)}." if few else ""
    return f"**{text[:1].upper() + text[1:]}.** {half}, {tests} tested, {seeds} paired seeds.{more}"


def name_of(found):
    """Name of a comparison: its row, and the number and axis of a pair."""
    if not found.number:
        return found.experiment
    return f"{found.number}. {found.experiment} ({found.choice.replace('_', ' ')})"


def noise_floor(name, values, whose=""):
    """What the seed alone does to the baseline."""
    if len(values) < 2:
        return f"The noise floor is unknown: there is one {name} run."
    floor = verdict.pairwise_differences(values)
    texts = ", ".join(f"{value:.2f}" for value in floor)
    if len(floor) > 15:
        texts = "smallest {:.2f}, quartiles {:.2f}, {:.2f} and {:.2f}, largest {:.2f}"
        texts = texts.format(*np.quantile(floor, (0, 0.25, 0.5, 0.75, 1)))
    return f"""Noise floor: two {name} runs{whose} that differ in the seed alone differ by up to
        {floor[-1]:.2f} points of Dice (every two of {len(values)} runs: {texts})."""


def sentence(found):
    """The verdict on one row, in bold, with its figures."""
    points = f"{found.mean:+.2f} points"
    if found.verdict is None:
        return f"**{name_of(found)}: no verdict** (n = {found.n}, too few seeds): {points}."
    test = f"(n = {found.n}, p = {found.adjusted:.2g}): {points} ({interval(found.interval)})"
    if found.verdict:
        return f"**{name_of(found)} {'helps' if found.verdict > 0 else 'hurts'}** {test}."
    return (
        f"**{name_of(found)}: inconclusive** {test}. Seeds to find a difference of this size: "
        f"{'about ' if found.needed else ''}{needed(found)}."
    )


def needed(found):
    return found.needed or f"more than {MAX_SEEDS}"


def caveats(page, has_sizes=False):
    """What to know before trusting the figures; has_sizes: numbers of masks are the subject."""
    differing = {
        "commits of the code": lambda run: str(run.info.get("commit"))[:12],
        "training precisions": lambda run: run.info["precision"],
        "devices": lambda run: run.info["device"],
        "processors": lambda run: run.processor,
        "convolution algorithms": lambda run: run.info.get("convolution"),
        "versions": versions,
        "numbers of training masks": lambda run: has_sizes or run.config["num_masks"] or "all",
    }
    items = []
    for what, value in differing.items():
        groups = compare.grouped(page.runs, value)
        texts = [f"{text} ({listed(labels, 6)})" for text, labels in groups.items()]
        if len(groups) > 1:
            items.append(f"The runs are of different {what}: {'; '.join(texts)}.")
    dirty = [run.label for run in page.runs if str(run.info.get("commit")).endswith("-dirty")]
    if dirty:
        items.append(f"The code had changes that are in no commit: {listed(dirty, 6)}.")
    if page.left_out:
        items.append(f"{count(len(page.left_out), 'run folder')} left out; reasons at the end.")
    if page.unpaired and not has_sizes:
        items.append(f"No baseline run of the same seed: {listed(page.unpaired, 6)}.")
    return f"**Caveats:**\n\n{bullets(items)}" if items else ""


def versions(run):
    return ", ".join(f"{name} {value}" for name, value in sorted(run.info["versions"].items()))


# ------------------------------------------------------------------------------------- verdicts


def dice_cells(runs):
    return len(runs), spread(figures(runs, "dice")), spread(figures(runs, "dice_pooled"))


def is_published(runs):
    """Whether a row is an experiment of the published table, by name, tasks and weighting."""
    experiment = EXPERIMENTS.get(runs[0].experiment)
    return bool(experiment) and all(experiment.fits(run.config) for run in runs)


def own_rows(rows):
    """What the rows are that the published table does not have."""
    own = [own_words(name, runs[0]) for name, runs in rows.items() if not is_published(runs)]
    return f"Rows beside those of the published study:\n\n{bullets(own)}" if own else ""


def own_words(name, run):
    """A row by the options that are not default."""
    text = f"{name}: {in_words(run.tasks)}; loss weights: {run.config['weighting']}"
    for axis in compare.AXES[2:]:
        if compare.value_of(run, axis) not in (None, compare.usual(axis)):
            text += f"; {axis.replace('_', ' ')}: {compare.shown(run, axis)[:60]}"
    return f"{text}."


def comparison_section(page):
    """Verdicts, differences, p and the interval over images of the primary outcome."""
    if not page.comparisons or page.is_single:
        return ""
    compared = {name for found in page.comparisons for name in (found.experiment, found.baseline)}
    absent = [name for name in page.segmenting if name not in (*compared, BASELINE)]
    tests, secondary = "", ""
    if page.tested:

        def cells(found):
            return f"{found.p:.3g}", f"{found.adjusted:.3g}", needed(found)

        tests = comparison_table(page, ("p", "Holm p", "seeds"), cells, page.tested)
        tests = f"{levels(page)}\n\n{tests}"

    def seeds(found):
        return found.n, f"{found.mean:+.2f}", interval(found.interval)

    def images(found):
        return f"{found.mean:+.2f}", interval(found.images)

    if page.half == "official":
        others = verdict.compare(official.dice(page.segmenting), page.pairs, page.looks)
        secondary = f"""### On the run's own test split

Secondary outcome, no part of the verdicts.

{official.differences(others)}"""
    return f"""
## {"One option at a time" if page.is_varied else "Against the baseline"}

{pairs_section(page) if page.is_varied else ""}

{"Primary outcome: Dice per image on the official test half." if secondary else ""}

{bullets(map(sentence, page.comparisons))}

{f"No row or no seed to be compared with: {', '.join(absent)}." if absent else ""}

Points of Dice per image (%), row minus baseline, over the seeds of both; 95% interval of the
paired t test over seeds, each row by itself.

{comparison_table(page, ("n", "difference", "95% interval"), seeds, page.comparisons)}

{tests}

Interval over test images: the differences of each image, averaged over the seeds, drawn
{verdict.RESAMPLES:,} times with replacement. It is no part of the verdict, which is about
training again and testing on these images.

{comparison_table(page, ("difference", "over images"), images, page.comparisons)}

{secondary}

{equal_time_section(page) if page.is_varied else ""}"""


def comparison_table(page, header, cells, comparisons):
    """A line a comparison: its number or row, and cells(comparison)."""
    lines = [(found.number or found.experiment, *cells(found)) for found in comparisons]
    return table(("pair" if page.is_varied else "experiment", *header), lines)


def levels(page):
    """What the verdicts were tested at."""
    tests, last = len(page.tested), page.looks[-1]
    text = f"a verdict needs {last.alpha:g} or below"
    if len(page.looks) > 1:
        shares = [f"{look.alpha:g} at {look.least} seeds" for look in page.looks]
        text = f"two looks share the 5%: a verdict needs {in_words(shares)} or below"
    return f"""Holm p: p corrected for {count(tests, "test")} (rows with fewer than
        {page.looks[0].least} paired seeds are not tested); {text}. Seeds: how many would find the
        observed difference with {verdict.POWER:.0%} power, were difference and spread the true
        ones, at the strictest level of Holm's correction ({last.alpha:g} / {tests})."""


def pairs_section(page):
    """Which rows are compared, and in what their networks differ besides."""
    items = []
    for found in page.comparisons:
        row, baseline = page.rows[found.experiment], page.rows[found.baseline]
        difference = compare.in_words(found.choice, row, baseline)
        text = f"{found.number}. {found.experiment} against {found.baseline} ({difference})."
        for ratio, what in zip(compare.ratios(row, baseline), ("parameters", "time"), strict=True):
            if abs(ratio - 1) > compare.SAME:
                text += f" {ratio:.2f} times the {what}."
        items.append(text)
    has_conflicts = any(run.config["conflicts"] for run in page.runs)
    return f"""
Each row is compared with the row that differs from it in one option alone and has the usual value
there: the first task alone, equal weights, hard sharing, this project's encoder, random weights,
all masks, no hard augmentation. One task alone stands for all sharings and weightings. Parameters
and training time (pairs made on one kind of processor) are named where they differ by more than
{compare.SAME:.0%}. {"Time includes that of --conflicts." if has_conflicts else ""}

{bullets(items)}"""


def equal_time_section(page):
    """Differences once both rows of a pair have trained as long, from the logs."""
    lines = []
    for found in page.comparisons:
        row, baseline = page.rows[found.experiment], page.rows[found.baseline]
        reached = compare.at_equal_time(row, baseline)
        if reached:
            early = "-" if np.isnan(reached[2]) else f"{reached[2]:+.2f}"
            lines.append((found.number, f"{reached[0]:.1f}", f"{reached[1]:+.2f}", early))
    if not lines:
        return ""
    return f"""
### At equal time

Validation Dice, best epoch, row minus baseline: after all epochs of both, and at the epoch that
the row had reached when its baseline had ended; means over the pairs made on one kind of
processor. A row that is stopped early has not lowered its learning rate, so one planned for that
time would do better. No verdict is drawn from it.

{table(("pair", "epoch", "equal epochs", "equal time"), lines)}"""


# ------------------------------------------------------------------------------ delta-m, tuning


def delta_section(page):
    """Mean relative change over all tasks against the single-task rows."""
    found = compare.delta_m(page.rows)
    least = page.looks[0].least
    tested = {name: verdict.paired_p(v) for name, v in found.items() if len(v) >= max(least, 2)}
    adjusted = dict(zip(tested, verdict.holm(list(tested.values())), strict=True))

    def cells(name):
        values = found[name]
        ends = verdict.t_interval(values)[1:] if len(values) > 1 else None
        p = f"{adjusted[name]:.3g}" if name in adjusted else "-"
        ms = f"{compare.step_ms(page.rows[name]):.0f}"
        return len(values), f"{np.mean(values):+.2f}", interval(ends), p, ms

    if not found:
        return ""
    lines = [(name, *cells(name)) for name in found]
    return f"""
## All tasks at once: delta-m

Mean relative change over a row's tasks against the single-task rows of the same seed, in percent,
by each task's first metric on the test split; above 0 is better (Maninis et al. 2019). 95% interval
over paired seeds; Holm p over {count(len(tested), "row")} with {least} seeds or more. ms: a
training step.

{table(("row", "n", "delta-m", "95% interval", "Holm p", "ms"), lines)}

![Delta-m over the training time of a step](delta_m.png)"""


def tuned_unequally(page):
    """The first words of a page whose rows had different budgets of tuning."""
    budgets = {}
    for name in page.rows:
        values = page.tuning.get(name, {}).get("values", {})
        budgets.setdefault(", ".join(values) or "none", []).append(name)
    if len(budgets) < 2:
        return ""
    texts = [f"{values} ({', '.join(names)})" for values, names in budgets.items()]
    return f"**The rows were tuned unequally.** Values tried: {'; '.join(texts)}."


def tuning_section(tuning):
    def cells(of_row):
        return ", ".join(of_row["values"]), *(
            of_row[k] for k in ("chosen", "metric", "runs", "seed")
        )

    if not tuning:
        return ""
    return f"""
## Tuning

Values tried for each row with one seed that no comparison uses; chosen by the best epoch's
validation figure.

{table(("row", "values tried", "chosen", "by", "runs", "seed"), each(tuning, cells))}"""


# --------------------------------------------------------------------------------- other figures


def published_section(page):
    if page.is_varied and not any(map(is_published, page.rows.values())):
        return ""
    has_official = bool(official.measured(page.segmenting))

    def cells(runs):
        published = ("-", "-")
        if is_published(runs):
            published = "{:.2f} {:.1f}".format(*EXPERIMENTS[runs[0].experiment].published).split()
        there = spread(figures(runs, "dice", "official")).split(" ")[0] if has_official else ""
        here = f"{100 * figures(runs, 'dice').mean():.2f}"
        return here, *([there] if there else []), *published

    middle = ("official half",) if has_official else ()
    header = ("experiment", "here", *middle, "published", "corrected")
    return f"""
## Beside the published study

Dice per image here; the published test Dice, from one run a row; and that figure corrected for
its formula, which grows with an incomplete last batch. The corrected figures are inferred: they
divide by 1.0407, for the likely number of test images, which the study does not state. In the
published uncertainty row no weights were learned (they never reached the optimizer): it repeats
mtl, and the 2.48 points between the two are noise. Its 75-15-15 was run as 70-15-15.

{table(header, each(page.segmenting, cells))}"""


def measures(rows):
    """Other metrics than Dice: those of the published tasks, parameters, minutes, then by task."""
    shown, further = {}, {}
    for task in registry.find_tasks(ALL):
        shown |= {key: task.metrics[key] for key in METRICS[len(DICE) :] if key in task.metrics}
    for name, runs in rows.items():
        for task, metrics in runs[0].metrics.items():
            for key in metrics.keys() - METRICS & {key for run in runs for key in run.test}:
                further.setdefault(task, ({}, {}))[0][key] = metrics[key]
                further[task][1][name] = runs
    described = in_words(describe(metric) for metric in shown.values())
    by_task = []
    for task, (metrics, having) in further.items():
        texts = [
            f"{describe(m)}, {'higher' if m.higher else 'lower'} is better"
            for m in metrics.values()
        ]
        by_task.append(f"Task {task}: {'; '.join(texts)}.\n\n{measures_table(having, metrics)}")
    return f"""
## Other measures

{described[0].upper() + described[1:]}, mean and standard deviation over seeds; parameters in
millions; minutes of training, mean, on whatever machine it was.

{measures_table(rows, shown)}

{table(("experiment", "parameters", "minutes"), each(rows, size_cells))}

{(chr(10) * 2).join(by_task)}"""


def measures_table(rows, metrics):
    def cells(runs):
        return [metric_cell(runs, key, metric) for key, metric in metrics.items()]

    return table(("experiment", *(metric.label for metric in metrics.values())), each(rows, cells))


def size_cells(runs):
    parameters, seconds = figures(runs, "parameters"), figures(runs, "train_seconds")
    return f"{parameters.mean() / 1e6:.2f}", f"{seconds.mean() / 60:.1f}"


def describe(metric):
    """A metric with its unit, and what the mean is taken over."""
    percent = " in percent" if metric.percent else ""
    return metric.text + percent + (f" ({metric.note})" if metric.note else "")


def metric_cell(runs, key, metric):
    """Mean and spread of a metric, with digits that fit its size."""
    values = figures(runs, key)
    if metric.percent:
        return spread(values)
    digits = 2 if np.nanmax([0, *np.abs(values)]) >= 1 else 4
    return spread(values, 1, digits if metric.unit else 3)


def curves_section(rows):
    learned, moved = weight_rows(rows)
    weights = ""
    if learned:
        weights = f"""## Learned loss weights

Factor of each loss in the {in_words(learned)} runs, mean over the batches of an epoch. All start
at 1; their ratios matter.

![Learned weights over epochs](weights.png)

"""
    if moved:
        weights += f"""## Weights that a method chose

Factor of each loss, or of each task's gradient, in the {in_words(moved)} runs, mean over the
batches of an epoch.

![Weights over epochs](moved_weights.png)"""
    return f"""
## Training curves

A panel for each row. The vertical axes leave the first fifth of the epochs out.

![Validation Dice over epochs, one panel a row](curves.png)

![Training loss of the segmentation over epochs, one panel a row](losses.png)

{conflicts.section(rows)}

{weights}"""


def weight_rows(rows):
    """Names of the rows that learned their loss weights, and of those whose method moved them."""
    learned = [n for n, runs in rows.items() if runs[0].config["weighting"] == "uncertainty"]
    moved = [n for n, runs in rows.items() if all(run.moves_weights for run in runs)]
    return learned, moved


def audit_section(rows):
    def cells(runs):
        return [f"{value:.2f}" for value in np.mean([audit(run) for run in runs], 0)]

    n, batch = len(next(iter(rows.values()))[0].images.names), PUBLISHED_BATCH
    lines = each(rows, cells)
    return f"""
## One network, four Dice figures

The same predictions by four formulas, percent, mean over seeds. Image: mean over images (the
figure of this page). Pooled: all pixels at once. Batch: mean over batches of {batch} images, each
pooled over its pixels. Published: sum of these batch figures / N x {batch}, the formula of the
published study. For N = {n} it is the batch figure times ceil(N / {batch}) x {batch} / N = {
        -(-n // batch) * batch / n:.4f}, and can pass 100.

{table(("experiment", "image", "pooled", "batch", "published"), lines)}"""


def audit(run):
    """Test Dice (%) of one run: per image, pooled, mean over batches of 32, and as published."""
    counts = run.images.counts
    starts = range(0, len(counts), PUBLISHED_BATCH)
    batches = dice_score([counts[k : k + PUBLISHED_BATCH].sum(0) for k in starts])
    published = batches.sum() / len(counts) * PUBLISHED_BATCH
    pooled = dice_score(counts.sum(0))
    return 100 * np.array([run.images.dice.mean(), pooled, batches.mean(), published])


# -------------------------------------------------------------------------------------- protocol


def ending(page):
    """How the runs were made, and what was left out."""
    runs, first = page.runs, page.runs[0]
    images = first.info["images"]
    sizes = [f"{images[split]} {split}" for split in ("train", "val", "test") if split in images]
    if first.images and len(first.images.names) < first.test["n_images"]:
        sizes[-1] += f"; Dice is over the {len(first.images.names)} test images with a mask"
    same, differing = options_of(runs)
    init = first.info.get("init_sha256")
    start = f" Initial weights: SHA-256 {init[:12]} (`--init`)." if init else ""

    def of(value):
        return "; ".join(compare.grouped(runs, value))

    left_out = [f"{name}: {reason}" for name, reason in page.left_out]
    return f"""
## Protocol

- Runs: {len(runs)}, seeds {", ".join(map(str, sorted({run.seed for run in runs})))}.
- Images of {first.test["size"]} px: {", ".join(sizes)}.
- Split hash {first.test["split_hash"]}; the trimap's border counts as {first.test["border"]}.
- Epochs: {first.test["epochs"]}; the checkpoint with the best validation
  {of(lambda run: run.chosen_by[1].label)} is tested once.
- Options of all runs: `{" ".join(same)}`.
- Options that differ: {", ".join(differing) or "none"}.{start}
- Device: {of(lambda run: run.info["device"])}; precision: {of(lambda run: run.info["precision"])}.
- Processor: {of(lambda run: run.processor)}.
- Versions: {of(versions)}.
- Commit: {of(lambda run: str(run.info.get("commit"))[:12])}.

{"## Left out" if left_out else ""}

{bullets(left_out)}

Every run is in [results.csv](results.csv). This page is made by `python results.py` from the
runs' records alone; the same records give the same page.
"""


def options_of(runs):
    """The options that all runs have, as "--key value", and those that differ, as "--key"."""
    same, differing = [], []
    for key, one in sorted(compare.FIELDS.items()):
        if one.metadata["role"] == RESULT and "component" not in one.metadata and key != "init":
            option, value = f"--{key.replace('_', '-')}", runs[0].config[key]
            if len(compare.grouped(runs, lambda run, key=key: run.config[key])) > 1:
                differing.append(option)
            elif value not in (None, False) and key != "seed":
                same.append(f"{option} {value}")
    return same, differing
