"""Statistics for runs that are paired by seed: is a difference larger than what the seeds alone make?

Differences are row minus baseline, one per seed, so what a seed does to both (order of the images, starting weights of the
shared parts) cancels. The t test treats seeds as the sample: it speaks of training again, on these test images. What other
test images would have given is another question, answered by `bootstrap_interval`.
"""

from dataclasses import dataclass

import numpy as np

ALPHA = 0.05  # two-sided; after Holm's correction the chance of one false verdict or more in a whole table
POWER = 0.8
MIN_SEEDS = (
    5  # of the same seeds as the baseline's; a spread estimated from fewer is worth too little
)
MAX_SEEDS = 100  # above this, "how many seeds" is answered by "more than"
RESAMPLES = 10_000


def t_interval(values):
    """Mean and its 95% t interval: values (..., n) of n >= 2 runs -> (mean, low, high), each (...)."""
    from scipy import stats  # here, as it takes a while to import

    values = np.asarray(values, float)
    n = values.shape[-1]
    mean = values.mean(-1)
    half = stats.t.ppf(1 - ALPHA / 2, n - 1) * values.std(-1, ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half


def paired_p(differences):
    """Two-sided p of the paired t test that the mean difference is 0: differences (..., n), n >= 2 -> (...).

    Where all differences are the same there is no spread to measure against: p is 1 if they are 0, else 0.
    Source: Student, "The Probable Error of a Mean", 1908.
    """
    from scipy import stats

    differences = np.asarray(differences, float)
    n = differences.shape[-1]
    mean, error = differences.mean(-1), differences.std(-1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean / error), n - 1)
    return np.where(error > 0, p, np.where(mean == 0, 1.0, 0.0))


def holm(p):
    """Holm's adjusted p: p (..., m) of m tests -> (..., m); the k-th smallest times m - k + 1, made monotone, at most 1.

    Rejecting where it is at most alpha keeps the chance of any false rejection at alpha or below, however the tests depend
    on each other; ours do, as all rows share the baseline's runs.
    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    p = np.asarray(p, float)
    order = p.argsort(-1)
    stepped = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(stepped, -1), 1), -1)
    return adjusted


def judge(mean, adjusted_p):
    """1 helps, -1 hurts, 0 cannot be told: mean differences and Holm's adjusted p, both (..., m) -> int (..., m)."""
    return np.where(np.asarray(adjusted_p) <= ALPHA, np.sign(mean), 0).astype(int)


def power(mean, sd, n, alpha):
    """Chance that a paired t test of n seeds finds a true difference `mean` of the standard deviation `sd` > 0, at a
    two-sided alpha; the chance to find it with the wrong sign is left out.

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988 (noncentral t).
    """
    from scipy import stats

    return stats.nct.sf(stats.t.ppf(1 - alpha / 2, n - 1), n - 1, abs(mean) / sd * np.sqrt(n))


def seeds_needed(mean, sd, alpha):
    """The least number of seeds that finds such a difference with POWER; None where it is above MAX_SEEDS."""
    if sd == 0:
        return 2 if mean else None
    return next((n for n in range(2, MAX_SEEDS + 1) if power(mean, sd, n, alpha) >= POWER), None)


def pairwise_differences(values):
    """What the seed alone does: absolute differences of every two of n runs, ascending, (n (n - 1) / 2,)."""
    values = np.asarray(values, float)
    first, second = np.triu_indices(len(values), 1)
    return np.sort(np.abs(values[first] - values[second]))


def bootstrap_interval(differences, seed=0):
    """95% interval of a mean over images, from RESAMPLES draws of the images with replacement.

    differences (N,): of each test image, row minus baseline, averaged over the paired seeds first -> (low, high).
    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979 (percentile interval).
    """
    differences = np.asarray(differences, float)
    n, rng = len(differences), np.random.default_rng(seed)
    # By parts, as 10,000 draws of some thousand images at once would take gigabytes.
    means = [differences[rng.integers(0, n, (RESAMPLES // 20, n))].mean(1) for _ in range(20)]
    low, high = np.quantile(np.concatenate(means), (ALPHA / 2, 1 - ALPHA / 2))
    return low, high


@dataclass
class Comparison:
    """A row against the baseline over the seeds of both, in the unit of the values, row minus baseline.

    differences (n,), one a seed; images: the interval from the choice of test images. interval (95%, over seeds) and p take
    two seeds; adjusted (Holm's p), verdict (1 helps, -1 hurts, 0 cannot be told) and needed (seeds, or None where above
    MAX_SEEDS) take MIN_SEEDS. Where rows have several baselines: baseline, choice, in which alone they differ, and number.
    """

    experiment: str
    differences: np.ndarray
    images: tuple
    interval: tuple | None = None
    p: float | None = None
    adjusted: float | None = None
    verdict: int | None = None
    needed: int | None = None
    baseline: str = ""
    choice: str = ""
    number: int | None = None

    @property
    def n(self):
        return len(self.differences)

    @property
    def mean(self):
        return self.differences.mean()


def compare(rows, baseline):
    """Compare every row that shares a seed with the row `baseline`; Holm's correction goes over those that share MIN_SEEDS.

    rows: dict of experiment -> dict of seed -> (N,) values of the N test images, the same images in all.
    Returns a list of Comparison in the order of rows; empty without a baseline.
    """
    return compare_pairs(
        rows, [(experiment, baseline, "") for experiment in rows if experiment != baseline]
    )


def compare_pairs(rows, pairs):
    """The same of pairs (experiment, baseline, choice), those with a choice numbered from 1."""
    comparisons = []
    for experiment, baseline, choice in pairs:
        of_seed, reference = rows[experiment], rows.get(baseline, {})
        seeds = sorted(of_seed.keys() & reference.keys())
        if not seeds:
            continue
        per_image = np.array([of_seed[seed] - reference[seed] for seed in seeds])
        found = Comparison(
            experiment,
            per_image.mean(1),
            bootstrap_interval(per_image.mean(0)),
            baseline=baseline,
            choice=choice,
            number=len(comparisons) + 1 if choice else None,
        )
        if found.n >= 2:
            found.interval, found.p = (
                t_interval(found.differences)[1:],
                float(paired_p(found.differences)),
            )
        comparisons.append(found)
    judged = [found for found in comparisons if found.n >= MIN_SEEDS]
    adjusted = holm([found.p for found in judged])
    for found, p, sign in zip(judged, adjusted, judge([found.mean for found in judged], adjusted)):
        found.adjusted, found.verdict = float(p), int(sign)
        found.needed = seeds_needed(found.mean, found.differences.std(ddof=1), ALPHA / len(judged))
    return comparisons
