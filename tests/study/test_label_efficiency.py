"""Equivalent masks, costs and the page of label efficiency, against values worked out by hand."""

import numpy as np
import pytest
from fabricated import cells, make_run

import results
from cli import InputError
from study import costs, label_efficiency
from study import figures as study_figures
from study.label_efficiency import ALONE, crossing, equivalent, study_of
from study.records import read_runs

SIZES = np.array([50, 100, 200])
PRICES = {"mask": 79.0, "bbox": 7.0, "breed": 2.0}
LITE = {"encoder": "efficientnet_lite0", "encoder_weights": "package"}


def test_equivalent_masks_by_hand():
    curve = np.array([70.0, 80.0, 90.0])
    assert equivalent(SIZES, curve, 75) == pytest.approx(50 * 2**0.5)
    assert equivalent(SIZES, curve, 80) == pytest.approx(100)
    assert equivalent(SIZES, curve, 69) == 0 and equivalent(SIZES, curve, 91) == np.inf
    # Where the curve falls it is held: nothing above 85 is reached by (70, 85, 80).
    assert equivalent(SIZES, np.array([70.0, 85.0, 80.0]), 86) == np.inf
    assert np.isnan(equivalent(SIZES, curve, np.nan))
    assert equivalent(SIZES, np.array([np.nan, 80.0, 90.0]), 79) == 0


def test_where_a_gain_crosses_zero_by_hand():
    # From +1 at 100 to -1 at 200: the middle of the logarithms.
    assert crossing(SIZES, np.array([2.0, 1.0, -1.0])) == pytest.approx(100 * 2**0.5)
    assert np.isnan(crossing(SIZES, np.array([1.0, 1.0, 1.0])))
    assert np.isnan(crossing(SIZES, np.array([1.0, np.nan, np.nan])))


# Dice of segmentation alone, +10 points a doubling; a label's gain is half a doubling.
DICE = {50: 0.60, 100: 0.70, 200: 0.80}


def make_study(root, seeds=range(5), arms=("bbox", "column:breed", "placebo:breed")):
    """Runs of segmentation alone and of arms; bbox is worth half a doubling, the others nothing."""
    for seed in seeds:
        for n, dice in DICE.items():
            shared = {"noise": 0, "num_masks": n}
            make_run(root, f"seg_{n}", seed, effect=dice - 0.85, **shared)
            for arm in arms:
                gain = 0.05 if arm == "bbox" else 0
                name = f"{arm.replace(':', '-')}_{n}"
                make_run(root, name, seed, effect=dice + gain - 0.85, tasks=("seg", arm), **shared)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory, column_metrics):
    root = make_study(tmp_path_factory.mktemp("masks") / "runs")
    for seed in (0, 1):  # all masks, where every image of a batch has one
        make_run(root, "seg_all", seed, effect=0.10, noise=0)
        make_run(root, "bbox_all", seed, effect=0.11, noise=0, tasks=("seg", "bbox"))
        for n in (50, 100):
            own = {"num_masks": n, "noise": 0, **LITE}
            make_run(root, f"lite_{n}", seed, effect=0.0, official=0.0, **own)
            tasks = {"tasks": ("seg", "bbox"), "num_masks": n, "noise": 0}
            make_run(root, f"lite_bbox_{n}", seed, effect=0.02, **tasks, **LITE)
    return root


@pytest.fixture(scope="module")
def column_metrics():
    """Fabricated runs measure nothing of a column: its metrics are those of no classes."""
    with pytest.MonkeyPatch.context() as patch:
        from tasks.column import Column

        patch.setattr(Column, "metrics", {})
        yield


@pytest.fixture(scope="module")
def study(root):
    return study_of(read_runs(root)[0])


def test_a_label_is_worth_what_it_was_made_to_be_worth(study):
    found = {one.n: one for one in label_efficiency.equivalents(study, "seg+bbox")}
    assert found.keys() == {50, 100, 200}  # none at all masks
    for n in (50, 100):
        assert found[n].masks == pytest.approx(n * 2**0.5, rel=0.05)
        low, high = found[n].interval
        assert low <= found[n].masks <= high
    assert found[200].masks == np.inf  # beyond the largest that is of one kind


def test_the_point_of_all_masks_is_read_where_batches_are_half_masked(root, tmp_path):
    runs = read_runs(root)[0]
    for seed in (0, 1):
        make_run(tmp_path, "seg_half", seed, effect=0.10, noise=0, half_masked=True)
    study = study_of([*runs, *read_runs(tmp_path)[0]])
    assert study.whole == 500 and study.readable == [50, 100, 200, 499]
    found = {one.n: one for one in label_efficiency.equivalents(study, "seg+bbox")}
    assert 200 < found[200].masks < 499


def test_a_gain_is_of_the_seeds_that_both_have(study):
    assert len(study.differences("seg+bbox", 500)) == 2
    sizes, alone, gains = label_efficiency.draws(study, "seg+bbox")
    assert sizes.tolist() == [50, 100, 200, 500] and alone.shape == gains.shape == (2001, 4)
    expected = [study.differences("seg+bbox", n).mean() for n in sizes]
    assert gains[0] == pytest.approx(expected)


def test_arms_over_another_encoder_are_described_and_not_judged(study):
    found = {one.experiment: one for one in label_efficiency.primary(study)}
    assert found["seg+bbox"].verdict == 1 and found["seg+breed"].adjusted is not None
    assert "seg, efficientnet_lite0 pretrained" in study.arms
    assert not study.is_usual("seg, efficientnet_lite0 pretrained")


def test_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(label_efficiency, "RESAMPLES", 200)
    rng, held = np.random.default_rng(0), 0
    runs = {ALONE: {n: {} for n in DICE}, "arm": {n: {} for n in DICE}}

    class Made:
        def __init__(self, dice):
            self.dice = dice

        def of(self, half):
            return {"dice": self.dice}, None

    for _ in range(60):
        for n, dice in DICE.items():
            for seed in range(8):
                runs[ALONE][n][seed] = Made(dice + rng.normal(0, 0.01))
                runs["arm"][n][seed] = Made(dice + 0.05 + rng.normal(0, 0.01))
        study = label_efficiency.Study(runs, None)
        low, high = label_efficiency.equivalents(study, "arm")[0].interval
        held += low <= 50 * 2**0.5 <= high
    assert held >= 48  # percentile intervals of eight seeds are somewhat short


# ---------------------------------------------------------------------------------------- costs


def test_costs_by_hand(study):
    # 500 boxes of 7 s are 3500 s; of 10 hours 32,500 s are left for masks of 79 s.
    assert costs.priced(study, PRICES)["seg+bbox"] == 3500
    assert "seg+placebo:breed" not in costs.priced(study, PRICES)
    found = costs.uses(study, PRICES, 3)
    assert found[ALONE][0] == pytest.approx(10800 / 79)
    assert found["seg+bbox"][0] == pytest.approx((10800 - 3500) / 79)
    # 92.4 masks with boxes: as good as 130.7 masks alone, of which there are 136.7.
    alone, boxes = found[ALONE][1][0], found["seg+bbox"][1][0]
    assert alone > boxes
    assert alone == pytest.approx(70 + 10 * np.log2(10800 / 79 / 100), abs=0.7)
    assert costs.uses(study, PRICES, 10)[ALONE][1] is None  # more masks than were measured
    cheap = {ALONE, "seg+breed", "seg, efficientnet_lite0 pretrained"}
    assert costs.uses(study, PRICES, 0.5).keys() == cheap


def test_break_even_by_hand(study):
    lines = {(line[0], line[1]): line[2:] for line in costs.break_even(study, PRICES)}
    cost, masks, hours, price = lines["seg+bbox", 100]
    saved = float(masks.split(" ")[0])
    assert cost == "1.0" and saved == pytest.approx(41, abs=4)  # 100 sqrt 2 - 100
    assert float(hours.split(" ")[0]) == pytest.approx(saved * 79 / 3600, abs=0.06)
    assert float(price.split(" ")[0]) == pytest.approx(saved * 79 / 500, abs=0.15)
    assert ("seg+bbox", 200) not in lines
    assert not any("efficientnet" in arm for arm, _ in lines)  # the encoder's credit


def test_the_page(root, tmp_path, monkeypatch):
    monkeypatch.setattr(study_figures, "save", lambda figure, path: path.touch())
    words = ["--runs", root, "--out", tmp_path, "--cost", "mask=79", "bbox=1000"]
    results.main(results.parse_args(list(map(str, words))))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    assert {"gain.png", "masks.png", "results.csv"} <= {path.name for path in tmp_path.iterdir()}
    assert "**seg+bbox helps**" in flat and "With 100 masks: seg+bbox is as good as" in flat
    assert cells(text, "What the labels are worth", "seg+bbox")[2].startswith(">200")
    assert "no equivalent is read off the segment" in flat
    assert cells(text, "Over another encoder", "seg+bbox, efficientnet_lite0 pretrained")[0] != "-"
    assert "## On the official test half" in text and "bbox 1000 s" in flat
    assert "**3 h: seg with 137 masks is the best use" in flat
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "!"))) <= 80


def test_two_runs_of_one_arm_size_and_seed_are_refused(root, tmp_path):
    make_run(tmp_path, "again", 0, num_masks=50)
    with pytest.raises(InputError, match="again/seed0"):
        study_of([*read_runs(root)[0], *read_runs(tmp_path)[0]])
