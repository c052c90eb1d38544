"""How many masks a label is worth, from runs that differ in the number of masks and in what is learned beside segmentation.

An arm is what is trained, and how; its curve is test Dice over the number of masks. All arms stand beside segmentation alone with the
same masks and the same seed. Read upwards, the difference is what the labels of all images bring at n masks; read sideways, it is how
many masks segmentation alone would need for the same Dice: that is what the labels are worth.
"""

from dataclasses import dataclass

import numpy as np

from cli import InputError
from registry import AXES
from study import verdict
from study.masks import PRIMARY

RESAMPLES = 2_000
ALONE = "seg"


@dataclass
class Study:
    """The runs by arm, number of masks and seed: {arm: {n: {seed: Run}}}, the arms in the order in which they are given; whole: the
    number of masks that there are, or None where no run has them all."""

    runs: dict
    whole: int | None

    @property
    def arms(self):
        return [arm for arm in self.runs if arm != ALONE]

    @property
    def sizes(self):
        return sorted({n for of_arm in self.runs.values() for n in of_arm})

    def values(self, arm, n):
        """{seed: test Dice in percent, mean over images}."""
        return {seed: 100 * run.test["dice"] for seed, run in self.runs[arm].get(n, {}).items()}

    def differences(self, arm, n):
        """(k,) arm minus segmentation alone, of the k seeds that both have."""
        own, alone = self.values(arm, n), self.values(ALONE, n)
        return np.array([own[seed] - alone[seed] for seed in sorted(own.keys() & alone.keys())])


def arm_of(run):
    """What an arm is called: its tasks, whether it starts from another network, and what of its encoder is not usual."""
    words = "+".join(name.removeprefix("column:") for name in run.tasks)
    if run.config.get("init"):
        words += " after another task"
    return (
        words
        + "".join(
            f", {run.config[key]}"
            for key, usual in AXES.items()
            if key != "encoder_weights" and run.config.get(key, usual) != usual
        )
        + (" pretrained" if run.config.get("encoder_weights") else "")
    )


def masks_of(run):
    """How many masks taught a run."""
    taught = run.config.get("taught", {}).get("seg", 0)
    return run.config["options"].get("masks") or (
        sum(taught.values()) if isinstance(taught, dict) else taught
    )


def is_study(runs):
    """Whether runs are of this study: segmentation alone with several numbers of masks, and something beside it."""
    alone = {run.config["options"].get("masks") for run in runs if arm_of(run) == ALONE}
    return len(alone) > 1 and any(arm_of(run) != ALONE for run in runs)


def study_of(runs):
    """The Study of some runs. Raises cli.InputError for two of one arm, size and seed."""
    found = {ALONE: {}}
    whole = max(
        (masks_of(run) for run in runs if not run.config["options"].get("masks")), default=None
    )
    for run in runs:
        place = found.setdefault(arm_of(run), {}).setdefault(masks_of(run), {})
        if run.seed in place:
            raise InputError(
                f"{run.label} and {place[run.seed].label} are both of {arm_of(run)} with {masks_of(run)} masks and "
                f"seed {run.seed}; move one out of the folder"
            )
        place[run.seed] = run
    return Study(found, whole)


# ------------------------------------------------------------------------------------------------------- up: the gain


def primary_sizes(study):
    """The numbers of masks that the primary outcome is a mean over: those of the protocol that segmentation alone has, else all but
    the whole."""
    there = [n for n in PRIMARY if n in study.runs[ALONE]]
    return there or [n for n in study.sizes if n != study.whole]


def primary(study):
    """Every arm against segmentation alone, by the mean over primary_sizes of a seed that has all of them: [Comparison], Holm's
    correction over those that are judged."""
    sizes = primary_sizes(study)

    def of(arm):
        seeds = set.intersection(*(set(study.runs[arm].get(n, ())) for n in sizes))
        return {
            seed: np.mean([100 * study.runs[arm][n][seed].dice for n in sizes], 0)
            for seed in sorted(seeds)
        }

    return verdict.compare({arm: of(arm) for arm in study.runs}, ALONE)


# ------------------------------------------------------------------------------------------------ sideways: the worth


def draws(study, arm, seed=0):
    """Mean Dice of segmentation alone by number of masks, and an arm's gain over it, and both again with the seeds drawn anew with
    replacement, the same for all numbers: (sizes (K,), alone (R + 1, K), gains (R + 1, K)), the first row as it is; NaN where no
    drawn seed has that size.

    A gain is of the seeds that both have; the curve of segmentation alone is of all its own. Source: Efron 1979, as in verdict.py;
    seeds are drawn, and not runs, as runs of one seed share subset, weights and order.
    """
    sizes = np.array(study.sizes)
    seeds = sorted(
        {seed for name in (ALONE, arm) for of_size in study.runs[name].values() for seed in of_size}
    )
    tables = np.full((2, len(seeds), len(sizes)), np.nan)
    for table, name in zip(tables, (ALONE, arm)):
        for k, n in enumerate(sizes):
            for of_seed, value in study.values(name, n).items():
                table[seeds.index(of_seed), k] = value
    rng = np.random.default_rng(seed)
    picked = np.concatenate(
        [np.arange(len(seeds))[None], rng.integers(0, len(seeds), (RESAMPLES, len(seeds)))]
    )
    return sizes, *(mean_of_known(table[picked]) for table in (tables[0], tables[1] - tables[0]))


def mean_of_known(values):
    """Mean over the second dimension of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, 1) / np.where(known.any(1), known.sum(1), np.nan)


def equivalent(sizes, curve, value):
    """How many masks segmentation alone needs for a Dice: by linear interpolation of its curve over the logarithm of the number,
    made to rise where it falls; 0 below its beginning and infinity above its end."""
    known = ~np.isnan(curve)
    sizes, curve = sizes[known], np.maximum.accumulate(curve[known])
    if np.isnan(value) or not len(sizes):
        return np.nan
    if value < curve[0]:
        return 0.0
    if value > curve[-1]:
        return np.inf
    return float(np.exp(np.interp(value, curve, np.log(sizes))))


@dataclass
class Worth:
    """An arm at n masks is as good as segmentation alone with so many: masks, and its 95% interval; 0 and infinity stand for less and
    more than were tried."""

    n: int
    masks: float
    interval: tuple


def worths(study, arm):
    """[Worth] of each number of masks that an arm has, the whole aside."""
    sizes, alone, gains = draws(study, arm)
    found = []
    for k, n in enumerate(sizes):
        if n == study.whole or np.isnan(gains[0, k]):
            continue
        values = np.array(
            [
                equivalent(sizes, curve, value)
                for curve, value in zip(alone, alone[:, k] + gains[:, k])
            ]
        )
        known = values[1:][~np.isnan(values[1:])]
        # "nearest", as between a number and infinity there is nothing.
        ends = tuple(
            np.quantile(
                known, (verdict.ALPHA / 2, 1 - verdict.ALPHA / 2), method="nearest"
            ).tolist()
        )
        found.append(Worth(int(n), values[0], ends))
    return found


def crossing(sizes, gains):
    """The number of masks at which a gain changes its sign first, by linear interpolation over the logarithm; NaN where it never
    does."""
    known = ~np.isnan(gains)
    logs, gains = np.log(sizes[known]), gains[known]
    for (x1, y1), (x2, y2) in zip(zip(logs, gains), zip(logs[1:], gains[1:])):
        if y1 * y2 < 0:
            return float(np.exp(x1 + (x2 - x1) * y1 / (y1 - y2)))
    return np.nan


def crossings(study, arm):
    """Where an arm's gain crosses zero: (masks or NaN, its 95% interval or None, share of the draws in which it crosses at all)."""
    sizes, _, every = draws(study, arm)
    values = np.array([crossing(sizes, gains) for gains in every])
    known = values[1:][~np.isnan(values[1:])]
    ends = (
        tuple(np.quantile(known, (verdict.ALPHA / 2, 1 - verdict.ALPHA / 2)).tolist())
        if len(known)
        else None
    )
    return values[0], ends, len(known) / RESAMPLES
