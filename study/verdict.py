"""Statistics of runs that are paired by seed: is a difference larger than what the seeds make?

Differences are row minus baseline, one a seed, so that what a seed does to both (order of images,
starting weights) cancels. The t test takes seeds as the sample: it speaks of training again, on
these test images. Other test images are another question: `bootstrap_interval`.
"""

import warnings
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05  # two-sided, after Holm's correction
POWER = 0.8
MIN_SEEDS = 5  # paired seeds of a verdict
MAX_SEEDS = 100  # above it, "how many seeds" is answered by "more than"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Look:
    """One test of a table: its level, and the paired seeds from which and of which it is made.

    most None: of all seeds. Several looks share the 5%: what is significant at one stays so.
    """

    alpha: float = ALPHA
    least: int = MIN_SEEDS
    most: int | None = None


def scipy_stats():
    from scipy import stats  # half a second, which --help does without

    return stats


def t_interval(values):
    """Mean of n >= 2 values with its 95% t interval: (mean, low, high)."""
    values = np.asarray(values, float)
    if not np.ptp(values):
        return values[0], values[0], values[0]
    ends = scipy_stats().ttest_1samp(values, 0).confidence_interval(1 - ALPHA)
    return values.mean(), ends.low, ends.high


def paired_p(differences):
    """Two-sided p of the paired t test that the mean of n >= 2 differences is 0.

    Where all are equal there is no spread: p is 1 if they are 0, else 0.
    Source: Student, "The Probable Error of a Mean", 1908.
    """
    differences = np.asarray(differences, float)
    if not np.ptp(differences):
        return float(differences[0] == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are nearly equal
        return float(scipy_stats().ttest_rel(differences, np.zeros_like(differences)).pvalue)


def at_least_p(values, target):
    """One-sided p of the t test that the mean is at least `target`: small where it is shown."""
    values = np.asarray(values, float)
    if not np.ptp(values):
        return float(values[0] < target)
    return float(scipy_stats().ttest_1samp(values, target, alternative="greater").pvalue)


def holm(p):
    """Holm's adjusted p of m tests: the k-th smallest times m - k + 1, made monotone, at most 1.

    Rejecting where it is at most alpha keeps the chance of any false rejection at alpha or below,
    however the tests depend on each other; here all rows share the baseline's runs.
    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    p = np.asarray(p, float)
    order = p.argsort()
    stepped = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


def power(mean, sd, n, alpha):
    """Chance that a paired t test of n seeds finds a true difference, sd > 0, with its sign.

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988 (noncentral t).
    """
    shift = abs(mean) / sd * np.sqrt(n)
    return float(scipy_stats().nct.sf(scipy_stats().t.ppf(1 - alpha / 2, n - 1), n - 1, shift))


def seeds_needed(mean, sd, alpha):
    """The least number of seeds that finds such a difference with POWER; None above MAX_SEEDS."""
    if sd <= 1e-6 * abs(mean):  # beyond what scipy's noncentral t can take
        return 2 if mean else None
    for n in range(2, MAX_SEEDS + 1):
        if power(mean, sd, n, alpha) >= POWER:
            return n
    return None


def pairwise_differences(values):
    """Absolute differences of every two of n runs, ascending: what the seed alone does."""
    values = np.asarray(values, float)
    first, second = np.triu_indices(len(values), 1)
    return np.sort(np.abs(values[first] - values[second]))


def bootstrap_interval(differences, seed=0):
    """95% interval of a mean over N images, from RESAMPLES draws of the images: (low, high).

    differences (N,): row minus baseline of each image, averaged over the paired seeds first.
    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979 (percentile interval).
    """
    options = {"method": "percentile", "n_resamples": RESAMPLES, "batch": RESAMPLES // 20}
    if len(differences) < 2:
        return float(differences[0]), float(differences[0])
    rng = np.random.default_rng(seed)
    found = scipy_stats().bootstrap((differences,), np.mean, rng=rng, **options).confidence_interval
    return float(found.low), float(found.high)


@dataclass
class Comparison:
    """A row against its baseline over the seeds of both, in the unit of the values.

    differences (n,), one a seed; images: interval over images; interval (95%, over seeds) and p
    take two seeds; adjusted (Holm's p), verdict (1 helps, -1 hurts, 0 inconclusive), needed
    (seeds, None above MAX_SEEDS) and alpha take the seeds of a Look. choice: the option in which
    alone row and baseline differ, "" in a table with one baseline; number: of a pair with a
    choice.
    """

    experiment: str
    baseline: str
    choice: str
    differences: np.ndarray
    images: tuple
    interval: tuple | None = None
    p: float | None = None
    adjusted: float | None = None
    verdict: int | None = None
    needed: int | None = None
    alpha: float = ALPHA
    number: int | None = None

    @property
    def n(self):
        return len(self.differences)

    @property
    def mean(self):
        return self.differences.mean()


def against(rows, baseline):
    """[(row, baseline, "")] of all rows but the baseline."""
    return [(row, baseline, "") for row in rows if row != baseline]


def compare(rows, pairs, looks=(Look(),)):
    """Compare the two rows of each pair over the seeds of both, and judge the pairs together.

    rows: {experiment: {seed: (N,) values of the same N images}}; pairs: (row, baseline, choice).
    Returns a list of Comparison in the order of pairs, without those that share no seed.
    """
    comparisons = []
    for row, baseline, choice in pairs:
        seeds = sorted(rows[row].keys() & rows.get(baseline, {}).keys())
        if not seeds:
            continue
        per_image = np.array([rows[row][seed] - rows[baseline][seed] for seed in seeds])
        images = bootstrap_interval(per_image.mean(0))
        found = Comparison(row, baseline, choice, per_image.mean(1), images)
        if found.n >= 2:
            found.interval = t_interval(found.differences)[1:]
            found.p = paired_p(found.differences)
        comparisons.append(found)
        if choice:
            found.number = len(comparisons)
    for look in looks:
        judge(comparisons, look)
    return comparisons


def judge(comparisons, look):
    """Give verdicts with Holm's correction over the rows that have a look's seeds."""
    judged = [found for found in comparisons if found.n >= look.least]
    adjusted = holm([paired_p(found.differences[: look.most]) for found in judged])
    for found, p in zip(judged, adjusted, strict=True):
        if found.verdict:  # significant at an earlier look
            continue
        differences = found.differences[: look.most]
        found.adjusted, found.alpha = float(p), look.alpha
        found.verdict = int(np.sign(differences.mean())) if p <= look.alpha else 0
        sd = differences.std(ddof=1)
        found.needed = seeds_needed(differences.mean(), sd, look.alpha / len(judged))
