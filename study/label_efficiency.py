"""Label efficiency: to how many more masks are labels equivalent?

Runs differ in the number of masks and in the arm: what is learned beside segmentation, and over
which encoder. Read upwards, an arm's curve minus that of segmentation alone is its gain at n
masks; read sideways, it is the number of masks with which segmentation alone would be as good.
"""

from dataclasses import dataclass, replace

import numpy as np

from cli import InputError
from study import verdict
from study.compare import usual
from study.masks import PRIMARY

RESAMPLES = 2_000
ALONE = "seg"
ENCODER = ("encoder", "encoder_lr", "encoder_bn", "sharing")


@dataclass(frozen=True)
class Study:
    """Runs {arm: {n: {seed: Run}}}; whole: the number of all masks, where runs have them all.

    With all masks every image of a batch has a mask, with fewer only half of them: the point
    `whole` is of another kind, and no equivalent is read off the segment that ends there.
    """

    runs: dict
    whole: int | None
    half: str = "test"
    alone = ALONE

    @property
    def arms(self):
        return [arm for arm in self.runs if arm != ALONE]

    @property
    def sizes(self):
        return sorted({n for of_arm in self.runs.values() for n in of_arm})

    @property
    def readable(self):
        """Numbers of masks of segmentation alone that equivalents are read off."""
        return [n for n in sorted(self.runs[ALONE]) if n != self.whole]

    def values(self, arm, n):
        """{seed: Dice in percent, mean over images}."""
        runs = self.runs[arm].get(n, {})
        return {
            s: 100 * run.of(self.half)[0]["dice"] for s, run in runs.items() if run.of(self.half)
        }

    def differences(self, arm, n, baseline=ALONE):
        """(k,) arm minus segmentation alone (or another baseline), of the k seeds of both."""
        own, other = self.values(arm, n), self.values(baseline, n)
        return np.array([own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())])

    def example(self, arm):
        """A run of an arm."""
        return next(iter(next(iter(self.runs[arm].values())).values()))

    def is_usual(self, arm):
        """Whether an arm has the encoder and the sharing of segmentation alone."""
        run, alone = self.example(arm), self.example(ALONE)
        same = all(run.config[key] == alone.config[key] for key in ENCODER)
        key = "encoder_weights_sha256"
        return same and run.info.get(key) == alone.info.get(key)

    def on(self, half):
        """The same study on another half."""
        return replace(self, half=half)


def arm_of(run):
    """Name of an arm: tasks, whether it starts from another network, what is not usual."""
    words = "+".join(name.removeprefix("column:") for name in run.tasks)
    if run.info.get("init_sha256"):
        words += " after another task"
    for key in ENCODER:
        if run.config[key] != usual(key):
            words += f", {run.config[key]}"
    return words + (" pretrained" if run.info.get("encoder_weights_sha256") else "")


def masks_of(run):
    """The number of masks of a run; one less where half of a batch is masked of all masks."""
    all_of_them = run.labelled(ALONE)
    return all_of_them - 1 if run.config["half_masked"] else run.config["num_masks"] or all_of_them


def is_study(runs):
    """Whether runs are of such a study: several numbers of masks, and something beside."""
    alone = {run.config["num_masks"] for run in runs if arm_of(run) == ALONE}
    return len(alone) > 1 and any(arm_of(run) != ALONE for run in runs)


def study_of(runs):
    """The Study of some runs. Refuses two of one arm, size and seed."""
    found = {ALONE: {}}
    whole = None
    for run in runs:
        n = masks_of(run)
        if run.config["num_masks"] is None and not run.config["half_masked"]:
            whole = max(n, whole or 0)
        place = found.setdefault(arm_of(run), {}).setdefault(n, {})
        if run.seed in place:
            raise InputError(
                f"{run.label} and {place[run.seed].label} are both {arm_of(run)}, {n} masks, seed "
                f"{run.seed}; move one out of the folder"
            )
        place[run.seed] = run
    return Study(found, whole)


# ------------------------------------------------------------------------------- up: the gain


def primary_sizes(study):
    """The numbers of masks of the primary outcome: the protocol's, else all but the whole."""
    there = [n for n in PRIMARY if n in study.runs[ALONE]]
    return there or [n for n in study.sizes if n != study.whole]


def primary(study):
    """Every arm against segmentation alone, mean over primary_sizes of the seeds that have all.

    Holm's correction goes over the arms of the usual encoder; others are another question than a
    label, and are described without a verdict.
    """
    sizes = primary_sizes(study)
    means = {}
    for arm in study.runs:
        values = [study.values(arm, n) for n in sizes]
        seeds = sorted(set.intersection(*(set(of_size) for of_size in values)))
        means[arm] = {seed: np.array([np.mean([v[seed] for v in values])]) for seed in seeds}
    pairs = verdict.against(means, ALONE)
    found = verdict.compare(means, pairs, looks=())
    verdict.judge([of for of in found if study.is_usual(of.experiment)], verdict.Look())
    return found


# -------------------------------------------------------------------- sideways: the equivalent


def draws(study, arm):
    """Curves of segmentation alone and gains of an arm, with the seeds drawn with replacement.

    Returns sizes (K,), alone (R + 1, K), gains (R + 1, K); the first row as it is, NaN where no
    seed drawn has that size. A gain is of the seeds of both; the curve of all seeds of its own.
    Seeds are drawn, not runs, as runs of a seed share masks, weights and order. Source: Efron
    1979.
    """
    sizes, names = np.array(study.sizes), (ALONE, arm)
    seeds = sorted({seed for arm in names for n in sizes for seed in study.values(arm, n)})
    tables = np.full((2, len(seeds), len(sizes)), np.nan)
    for table, name in zip(tables, names, strict=True):
        for k, n in enumerate(study.sizes):
            for seed, value in study.values(name, n).items():
                table[seeds.index(seed), k] = value
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(seeds), (RESAMPLES, len(seeds)))
    picked = np.concatenate([np.arange(len(seeds))[None], drawn])
    alone, gains = tables[0], tables[1] - tables[0]
    return sizes, mean_of_known(alone[picked]), mean_of_known(gains[picked])


def mean_of_known(values):
    """Mean over the second dimension of what is not NaN; NaN where nothing is."""
    known = (~np.isnan(values)).sum(1)
    return np.nansum(values, 1) / np.where(known, known, np.nan)


def equivalent(sizes, curve, value):
    """Masks that segmentation alone needs for a Dice: its curve read sideways.

    Linear over the logarithm of the number, the curve made to rise where it falls; 0 below its
    beginning and infinity above its end.
    """
    known = ~np.isnan(curve)
    sizes, curve = sizes[known], np.maximum.accumulate(curve[known])
    if np.isnan(value) or not len(sizes):
        return np.nan
    if value < curve[0]:
        return 0.0
    if value > curve[-1]:
        return np.inf
    return float(np.exp(np.interp(value, curve, np.log(sizes))))


def quantiles(values, method="linear"):
    """95% interval of draws; those that are NaN do not count."""
    known = values[~np.isnan(values)]
    shares = (verdict.ALPHA / 2, 1 - verdict.ALPHA / 2)
    return tuple(np.quantile(known, shares, method=method).tolist()) if len(known) else None


@dataclass(frozen=True)
class Equivalent:
    """An arm with n masks is as good as segmentation alone with `masks`, with its 95% interval.

    0 and infinity: fewer and more than were measured.
    """

    n: int
    masks: float
    interval: tuple


def equivalents(study, arm):
    """[Equivalent] at each number of masks of an arm, the whole aside."""
    sizes, alone, gains = draws(study, arm)
    kept = np.isin(sizes, study.readable)
    found = []
    for k in np.flatnonzero((sizes != study.whole) & ~np.isnan(gains[0])):
        masks = []
        for curve, gain in zip(alone, gains[:, k], strict=True):
            masks.append(equivalent(sizes[kept], curve[kept], curve[k] + gain))
        # "nearest", as there is nothing between a number and infinity.
        ends = quantiles(np.array(masks[1:]), "nearest")
        found.append(Equivalent(int(sizes[k]), masks[0], ends))
    return found


def crossing(sizes, gains):
    """Masks at which a gain changes its sign first, linear over the logarithm; else NaN."""
    known = ~np.isnan(gains)
    logs, gains = np.log(sizes[known]), gains[known]
    for k in range(len(logs) - 1):
        if gains[k] * gains[k + 1] < 0:
            share = gains[k] / (gains[k] - gains[k + 1])
            return float(np.exp(logs[k] + (logs[k + 1] - logs[k]) * share))
    return np.nan


def crossings(study, arm):
    """Where an arm's gain crosses zero: (masks or NaN, 95% interval or None, share of draws)."""
    sizes, _, every = draws(study, arm)
    values = np.array([crossing(sizes, gains) for gains in every])
    return values[0], quantiles(values[1:]), float(np.mean(~np.isnan(values[1:])))
