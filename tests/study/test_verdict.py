"""Statistics against values worked out by hand, against scipy, and in simulated tables."""

import numpy as np
import pytest
from scipy import stats

from study import verdict

# Means of n normal draws with a difference of four standard deviations, and how many tables to try.
SEEDS, ROWS, TABLES = 5, 9, 4000


def test_the_t_interval_by_hand():
    # Of 1, 2, 3, 4, 5: mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445.
    mean, low, high = verdict.t_interval([1, 2, 3, 4, 5])
    half = 2.776445 * np.sqrt(2.5 / 5)
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)


def test_interval_and_p_equal_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, (2, 40, 7))
    expected = stats.ttest_rel(a, b, axis=1)
    interval = expected.confidence_interval(0.95)
    mean, low, high = verdict.t_interval(a - b)
    assert np.allclose(verdict.paired_p(a - b), expected.pvalue)
    assert (
        np.allclose(low, interval.low)
        and np.allclose(high, interval.high)
        and np.allclose(mean, (a - b).mean(1))
    )


def test_p_by_hand():
    # Two differences, one degree of freedom: t is Cauchy; 0 and 2 give t = 1, of which half lies outside -1 to 1.
    assert verdict.paired_p([0.0, 2.0]) == pytest.approx(0.5)


def test_differences_without_a_spread_give_no_nan():
    assert verdict.paired_p([0.0, 0.0, 0.0]) == 1 and verdict.paired_p([0.5, 0.5, 0.5]) == 0
    assert (
        verdict.seeds_needed(0.5, 0.0, 0.05) == 2 and verdict.seeds_needed(0.0, 0.0, 0.05) is None
    )


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.5.
    assert verdict.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # A later product under an earlier one is raised to it: 0.03 x 2 = 0.06, 0.035 x 1 -> 0.06; and nothing passes 1.
    assert verdict.holm([0.03, 0.035]) == pytest.approx([0.06, 0.06])
    assert verdict.holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert verdict.holm([]).shape == (0,)


def test_holm_works_table_by_table():
    p = np.random.default_rng(0).uniform(size=(5, 3, 4))
    assert np.array_equal(verdict.holm(p)[2, 1], verdict.holm(p[2, 1]))


def test_a_verdict_has_the_sign_of_the_difference():
    assert verdict.judge([1.5, -0.2, 3.0, -4.0], [0.05, 0.01, 0.051, 1.0]).tolist() == [1, -1, 0, 0]


def test_power_and_seeds_needed():
    # Cohen's table: d = 0.5, two-sided 0.05, 80% power: 34 pairs; d = 0.8: 15.
    assert (
        verdict.seeds_needed(0.5, 1.0, 0.05) == 34 and verdict.seeds_needed(-0.8, 1.0, 0.05) == 15
    )
    assert verdict.seeds_needed(0.05, 1.0, 0.05) is None
    rng = np.random.default_rng(0)
    found = verdict.paired_p(rng.normal(1.2, 1, (20_000, 6))) <= 0.05
    assert verdict.power(1.2, 1.0, 6, 0.05) == pytest.approx(found.mean(), abs=0.012)


def test_noise_floor_is_every_two_of_the_seeds():
    assert verdict.pairwise_differences([1.0, 4.0, 2.0]).tolist() == [1, 2, 3]
    assert len(verdict.pairwise_differences([5.0])) == 0


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(0).normal(2, 3, 400)
    half = 1.96 * values.std() / 20
    low, high = verdict.bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert verdict.bootstrap_interval(values) == (low, high)
    assert verdict.bootstrap_interval([0.7] * 9) == pytest.approx((0.7, 0.7))


def tables(planted, shared):
    """Differences of TABLES tables, (TABLES, ROWS, SEEDS), of standard deviation 1; the first row's mean is `planted`.

    shared: as all rows are compared with the same baseline runs, half of the variance is common to all rows.
    """
    rng = np.random.default_rng(7)
    differences = rng.normal(size=(TABLES, ROWS, SEEDS))
    if shared:
        differences = (differences - rng.normal(size=(TABLES, 1, SEEDS))) / np.sqrt(2)
    differences[:, 0] += planted
    return differences


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("planted", [0, 4, -4])
def test_simulated_tables(planted, shared):
    differences = tables(planted, shared)
    verdicts = verdict.judge(differences.mean(-1), verdict.holm(verdict.paired_p(differences)))
    null = verdicts[:, 1:] if planted else verdicts
    # A false verdict anywhere in a table counts; three standard errors of the simulation on top.
    assert (null != 0).any(1).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TABLES)
    if planted:
        assert (verdicts[:, 0] == np.sign(planted)).mean() >= 0.8


def rows_of(differences, images=50):
    """Rows for verdict.compare: a baseline and one row for each array of differences, one value a seed."""
    rng = np.random.default_rng(3)
    baseline = {seed: rng.uniform(70, 90, images) for seed in range(9)}
    return {
        "baseline": baseline,
        **{
            name: {seed: baseline[seed] + value for seed, value in values.items()}
            for name, values in differences.items()
        },
    }


def test_compare_pairs_by_seed_and_corrects_over_the_judged_rows_only():
    good = {seed: 2.0 + 0.1 * seed for seed in range(5)}
    rows = rows_of(
        {
            "good": good,
            "few": {3: 5.0, 1: 5.1, 0: 5.2, 2: 5.3},
            "one": {4: 1.0},
            "level": dict(zip(range(5), (0.3, -0.2, 0.1, -0.3, 0.2))),
        }
    )
    rows["other"] = {77: rows["baseline"][0]}
    good_, few, one, level = verdict.compare(rows, "baseline")
    assert [found.experiment for found in (good_, few, one, level)] == [
        "good",
        "few",
        "one",
        "level",
    ]
    assert good_.differences == pytest.approx([2.0, 2.1, 2.2, 2.3, 2.4]) and good_.verdict == 1
    assert good_.adjusted == pytest.approx(2 * good_.p) and level.adjusted == pytest.approx(level.p)
    assert level.verdict == 0 and level.needed is None
    assert few.n == 4 and few.verdict is None and few.adjusted is None and few.interval is not None
    assert (
        one.n == 1
        and one.interval is None
        and one.p is None
        and one.images == pytest.approx((1.0, 1.0))
    )


def test_compare_without_a_baseline_compares_nothing():
    rows = rows_of({"mtl": dict.fromkeys(range(5), 1.0)})
    del rows["baseline"]
    assert verdict.compare(rows, "baseline") == []
