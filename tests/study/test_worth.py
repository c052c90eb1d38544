"""What a label is worth in masks: readings of curves worked out by hand, simulated tables, and the page of fabricated runs."""

import itertools
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from fabricated import change_json, make_run

import results
from cli import InputError
from study import records, worth, worth_page
from study.worth import Study

SIZES = (25, 50, 100, 200, 800)


def simulated(curves, seeds, noise=0.0, whole=800, seed=0):
    """A Study whose Dice of an arm at n masks is curves[arm](n), plus what the seed does to all arms and what it does to one."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 3 * noise, (max(seeds) + 1, len(SIZES)))
    return Study(
        {
            arm: {
                n: {
                    of_seed: SimpleNamespace(
                        test={"dice": (curve(n) + shared[of_seed, k] + rng.normal(0, noise)) / 100}
                    )
                    for of_seed in seeds
                }
                for k, n in enumerate(SIZES)
            }
            for arm, curve in curves.items()
        },
        whole,
    )


def alone(n):
    """Five points more with every doubling."""
    return 60 + 5 * math.log2(n / 25)


def test_masks_that_are_as_good_by_hand():
    sizes, curve = np.array([25, 100, 400]), np.array([60.0, 70.0, 80.0])
    assert worth.equivalent(sizes, curve, 70) == pytest.approx(100)
    assert worth.equivalent(sizes, curve, 75) == pytest.approx(
        200
    )  # half way on a logarithmic axis
    assert (
        worth.equivalent(sizes, curve, 59) == 0 and worth.equivalent(sizes, curve, 81) == math.inf
    )
    assert worth.equivalent(sizes, np.array([60, np.nan, 80]), 70) == pytest.approx(100)
    assert worth.equivalent(sizes, np.array([70.0, 60.0, 80.0]), 75) == pytest.approx(
        200
    )  # what falls is held level
    assert math.isnan(worth.equivalent(sizes, curve, np.nan)) and math.isnan(
        worth.equivalent(sizes, curve * np.nan, 70)
    )


def test_where_a_gain_crosses_zero_by_hand():
    sizes = np.array([25, 100, 400])
    assert worth.crossing(sizes, np.array([2.0, 1.0, -1.0])) == pytest.approx(200)
    assert worth.crossing(sizes, np.array([-1.0, np.nan, 1.0])) == pytest.approx(100)
    assert math.isnan(worth.crossing(sizes, np.array([2.0, 1.0, 0.5])))


def test_labels_that_double_the_masks_are_worth_that():
    study = simulated(
        {
            "seg": alone,
            "seg+breed": lambda n: alone(2 * n),
            "seg+x": lambda n: alone(n) + 3 * math.log2(n / 70),
        },
        range(5),
    )
    found = worth.worths(study, "seg+breed")
    assert [one.n for one in found] == [
        25,
        50,
        100,
        200,
    ]  # at 800 there are no more to be compared with
    assert [one.masks for one in found] == pytest.approx([50, 100, 200, 400])
    assert all(one.interval == pytest.approx((one.masks,) * 2) for one in found)
    at, ends, share = worth.crossings(study, "seg+x")
    assert at == pytest.approx(70, rel=0.01) and ends == pytest.approx((at, at)) and share == 1
    assert worth.crossings(study, "seg+breed")[1:] == (None, 0)


def test_a_gain_is_of_the_seeds_that_both_have():
    study = simulated({"seg": alone, "seg+breed": lambda n: alone(n) + 1}, range(8), noise=0.5)
    for of_size in study.runs["seg+breed"].values():
        for of_seed in range(3, 8):
            del of_size[of_seed]
    del study.runs["seg"][50][0]
    sizes, curve, gains = worth.draws(study, "seg+breed")
    assert len(study.differences("seg+breed", 50)) == 2
    assert gains[0] == pytest.approx([study.differences("seg+breed", n).mean() for n in SIZES])
    assert curve[0] == pytest.approx(
        [np.mean(list(study.values("seg", n).values())) for n in SIZES]
    )


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    """Of 120 simulated tables with ten seeds each; percentile intervals of few seeds hold it a little less often than 95%."""
    monkeypatch.setattr(worth, "RESAMPLES", 300)
    held, crossed = [], []
    for seed in range(120):
        study = simulated(
            {
                "seg": alone,
                "seg+breed": lambda n: alone(2 * n),
                "seg+x": lambda n: alone(n) + 2 * math.log2(n / 70),
            },
            range(10),
            noise=0.6,
            seed=seed,
        )
        one = worth.worths(study, "seg+breed")[1]
        held.append(one.interval[0] <= 100 <= one.interval[1])
        _, ends, _ = worth.crossings(study, "seg+x")
        crossed.append(ends[0] <= 70 <= ends[1])
    assert 0.82 < np.mean(held) <= 1 and 0.82 < np.mean(crossed) <= 1


# --------------------------------------------------------------------------------------------------------------- the page


ARMS = {
    "seg": (["seg"], 0.0),
    "label": (["seg", "column:breed"], 0.03),
    "placebo": (["seg", "placebo:breed"], 0.0),
}
LEARNED = {"classes": ["a", "b"]}


@pytest.fixture
def runs(tmp_path):
    """Three arms at 50, 100, 200 and all masks, five seeds each; at 50 the label brings three points, at all nothing."""
    for (arm, (tasks, effect)), (masks, level), seed in itertools.product(
        ARMS.items(), {50: -0.2, 100: -0.12, 200: -0.06, None: 0.0}.items(), range(5)
    ):
        add(
            tmp_path / "runs",
            f"{arm}_masks{masks or 'all'}",
            seed,
            tasks,
            level + (effect if masks else 0),
            masks,
        )
    return tmp_path / "runs"


def add(root, name, seed, tasks, effect, masks, **changes):
    folder = make_run(
        root,
        name,
        seed,
        effect,
        0.002,
        tasks=tasks,
        weighting="equal",
        options={"masks": masks},
        settings={task: LEARNED for task in tasks if ":" in task},
        measured={
            f"{'placebo_' * (task[0] == 'p')}breed_{what}": [k % 2 for k in range(70)]
            for task in tasks
            if ":" in task
            for what in ("correct", "class")
        },
        metrics={
            f"{'placebo_' * (task[0] == 'p')}breed_{what}accuracy": 0.5
            for task in tasks
            if ":" in task
            for what in ("", "balanced_")
        },
    )
    change_json(
        folder / "config.json", taught=dict.fromkeys(tasks, 500) | {"seg": masks or 500}, **changes
    )
    return folder


def page(runs, out):
    results.main(results.parse_args(["--runs", str(runs), "--out", str(out)]))
    return " ".join((out / "README.md").read_text().split())


def test_the_page_says_what_labels_bring_and_are_worth(runs, tmp_path):
    text = page(runs, tmp_path / "out")
    assert text.startswith("# How many masks is a label worth? **seg+breed helps**: +")
    assert "**seg+placebo:breed: cannot be told** at 5 seeds" in text
    assert (
        "With 100 masks: seg+breed is as good as segmentation alone with 1" in text
        and "placebo:breed is as good" not in text
    )
    assert "shorter than it should be" not in text
    assert (
        "the mean over 50, 100 and 200 masks. Holm p is corrected for judging 2 arms at once"
        in text
    )
    assert "numbers of training masks" not in text  # no warning: it is what this is about
    assert "| arm | 50 | 100 | 200 | 500 |" in " ".join(text.split())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "results.csv", "masks.png", "gain.png"}
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    page(runs, tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_times_are_of_pairs_of_one_kind_of_processor(runs, tmp_path):
    study = worth.study_of(records.read_runs(runs)[0])
    for of_arm, seconds in zip(study.runs.values(), (100, 150, 100)):
        for run in (run for of_size in of_arm.values() for run in of_size.values()):
            run.test["train_seconds"], run.config["processor"] = seconds, "slow"
    for run in study.runs["seg+breed"][50].values():
        run.test["train_seconds"], run.config["processor"] = 1, "fast"
    times = {arm: (pairs, time) for arm, _, pairs, time in worth_page.times(study)}
    assert times == {
        "seg": ("20", "1.00"),
        "seg+breed": ("15", "1.50"),
        "seg+placebo:breed": ("20", "1.00"),
    }
    for of_size in study.runs["seg+breed"].values():
        for run in of_size.values():
            run.config["processor"] = "fast"
    assert ("seg+breed", "0", "-") in [
        (arm, pairs, time) for arm, _, pairs, time in worth_page.times(study)
    ]


def test_a_table_without_runs_of_all_masks_calls_no_number_all(runs, tmp_path):
    assert "500 are all" in page(runs, tmp_path / "whole")
    for folder in runs.glob("*_masksall"):
        shutil.rmtree(folder)
    assert "are all" not in page(runs, tmp_path / "out").partition("## What the labels bring")[0]
    study = worth.study_of(records.read_runs(runs)[0])
    assert study.whole is None and [one.n for one in worth.worths(study, "seg+breed")] == [
        50,
        100,
        200,
    ]


def test_few_seeds_have_no_verdict_and_a_missing_size_a_dash(runs, tmp_path):
    for folder in [*runs.glob("*/seed[234]"), runs / "label_masks100"]:
        shutil.rmtree(folder)
    text = page(runs, tmp_path / "out")
    assert (
        "No verdict yet**: it takes 5 seeds that an arm shares with segmentation alone at 50, 100 and 200 masks"
        in text
    )
    assert "| seg+breed |" in text and " - |" in text
    assert (
        "it is shorter than it should be" in text
        and "as good as segmentation alone with 1" not in text
    )


def test_a_network_that_learned_another_task_first_is_an_arm(runs, tmp_path):
    for masks, seed in itertools.product((50, 100, 200), range(5)):
        add(runs, f"first_masks{masks}", seed, ["seg"], -0.05, masks, init=f"{seed:064x}")
    assert "**seg after another task helps**" in page(runs, tmp_path / "out")
    change_json(runs / "first_masks50/seed0/config.json", init=None)
    with pytest.raises(InputError, match="--init"):
        page(runs, tmp_path / "other")


def test_two_runs_of_one_arm_size_and_seed_are_refused(runs, tmp_path):
    add(runs, "again", 3, ["seg"], 0, 50)
    with pytest.raises(InputError, match="both of seg with 50 masks and seed 3"):
        page(runs, tmp_path / "out")


def test_numbers_of_masks_in_words():
    study = simulated({"seg": alone, "seg+breed": alone}, range(2))
    assert [worth_page.number(n, study) for n in (0, 49.6, 123.4, 1234, math.inf)] == [
        "<25",
        "50",
        "123",
        "1230",
        ">800",
    ]
