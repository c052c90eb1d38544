"""Statistics against values worked out by hand, against scipy, and in simulated tables."""

import numpy as np
import pytest
from scipy import stats

from study import verdict


def test_the_t_interval_by_hand():
    # Of 1, 2, 3, 4, 5: mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445.
    half = 2.776445 * np.sqrt(2.5 / 5)
    found = verdict.t_interval([1, 2, 3, 4, 5])
    assert found == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)


def test_p_by_hand():
    # Two differences, one degree of freedom: t is Cauchy; 0 and 2 give t = 1.
    assert verdict.paired_p([0.0, 2.0]) == pytest.approx(0.5)
    # One-sided that the mean is at least 0: a quarter lies above t = 1.
    assert verdict.at_least_p([0.0, 2.0], 0) == pytest.approx(0.25)
    assert verdict.at_least_p([0.0, 2.0], 2) == pytest.approx(0.75)


def test_differences_without_a_spread_give_no_nan():
    assert verdict.paired_p([0.0, 0.0, 0.0]) == 1 and verdict.paired_p([0.5, 0.5, 0.5]) == 0
    assert verdict.t_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert verdict.at_least_p([0.9, 0.9], 0.9) == 0 and verdict.at_least_p([0.8, 0.8], 0.9) == 1
    assert verdict.seeds_needed(0.5, 0.0, 0.05) == 2
    assert verdict.seeds_needed(0.0, 0.0, 0.05) is None
    assert verdict.seeds_needed(5.0, 1e-9, 0.05) == 2  # beyond scipy's noncentral t


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.5.
    assert verdict.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # A later product under an earlier one is raised to it, and nothing passes 1.
    assert verdict.holm([0.03, 0.035]) == pytest.approx([0.06, 0.06])
    assert verdict.holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert verdict.holm([]).shape == (0,)


def test_power_and_seeds_needed():
    # A difference of one standard deviation at 5%: Cohen's tables give 10 pairs for 80%.
    n = verdict.seeds_needed(1, 1, 0.05)
    assert n == 10
    assert verdict.power(1, 1, n - 1, 0.05) < verdict.POWER <= verdict.power(1, 1, n, 0.05)
    assert verdict.seeds_needed(0.1, 1, 0.05) is None


def test_noise_floor_is_every_two_of_the_seeds():
    assert verdict.pairwise_differences([1, 4, 2]) == pytest.approx([1, 2, 3])


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.3, 1, 1000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(1000)
    low, high = verdict.bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.006)
    assert verdict.bootstrap_interval(values) == (low, high)  # of a fixed seed


def test_false_verdicts_are_as_rare_as_they_say():
    rng, tables, rows = np.random.default_rng(2), 600, 4
    false = 0
    for _ in range(tables):
        p = [verdict.paired_p(rng.normal(0, 1, 5)) for _ in range(rows)]
        false += (verdict.holm(p) <= verdict.ALPHA).any()
    assert stats.binomtest(false, tables, verdict.ALPHA, "greater").pvalue > 0.001


def rows_of(differences):
    """A baseline of zeros, and rows whose Dice differs by this much in each seed, on one image."""
    rows = {"baseline": {seed: np.zeros(1) for seed in range(20)}}
    for name, values in differences.items():
        rows[name] = {seed: np.array([value]) for seed, value in enumerate(values)}
    return rows


def test_rows_are_compared_over_shared_seeds_and_judged_together():
    rows = rows_of({"good": [1, 1.1, 0.9, 1, 1.05], "open": [1, -1, 0.5, 0, 2], "few": [5, 5.1]})
    good, open_, few = verdict.compare(rows, verdict.against(rows, "baseline"))
    assert (good.verdict, open_.verdict, few.verdict) == (1, 0, None)
    p = [stats.ttest_1samp(found.differences, 0).pvalue for found in (good, open_)]
    assert (good.adjusted, open_.adjusted) == pytest.approx((2 * min(p), max(p)))
    assert few.n == 2 and few.interval is not None and few.needed is None
    sd = good.differences.std(ddof=1)
    assert good.needed == verdict.seeds_needed(good.mean, sd, 0.025)
    assert verdict.compare(rows, verdict.against(rows, "absent")) == []


def test_two_looks_keep_what_the_first_found_and_test_the_rest_at_their_own_level():
    early = [1, 1.1, 0.9, 1, 1.05, 1, 1.1, 0.9, 1, 1.05] + [-9] * 10  # significant at ten seeds
    late = [1, -0.5, 1, -0.5, 1, -0.5, 1, -0.5, 1, -0.5] + [1] * 10
    rows = rows_of({"early": early, "late": late})
    looks = verdict.Look(0.03, 10, 10), verdict.Look(0.02, 20, 20)
    first, second = verdict.compare(rows, verdict.against(rows, "baseline"), looks)
    assert (first.verdict, first.alpha) == (1, 0.03)
    assert (second.verdict, second.alpha) == (1, 0.02)
    only = verdict.compare(rows, verdict.against(rows, "baseline"), looks[:1])
    assert [found.verdict for found in only] == [1, 0]
    nine = {name: dict(list(of_row.items())[:9]) for name, of_row in rows.items()}
    none = verdict.compare(nine, verdict.against(nine, "baseline"), looks)
    assert [found.verdict for found in none] == [None, None]
