"""What shares a table, which rows are pairs, and delta-m, from fabricated records."""

import numpy as np
import pytest
from fabricated import make_run, make_runs

from cli import InputError
from study import compare
from study.records import read_runs

ALL = ("seg", "cls", "bbox")


def rows_of(root):
    rows = {}
    for run in read_runs(root)[0]:
        rows.setdefault(run.experiment, []).append(run)
    return rows


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Rows that vary sharing, weighting and encoder, and two tasks alone."""
    root = tmp_path_factory.mktemp("varied")
    make_runs(root, ("seg",), range(3))
    make_runs(root, ("cls",), range(3), tasks=("cls",), metrics={"accuracy": 0.5})
    make_runs(root, ("bbox",), range(3), tasks=("bbox",), metrics={"box_iou": 0.8})
    make_runs(root, ("all",), range(3), tasks=ALL)
    make_runs(root, ("dwa",), range(3), tasks=ALL, weighting="dwa")
    make_runs(root, ("mtan",), range(3), tasks=ALL, sharing="mtan")
    make_runs(root, ("mtan_dwa",), range(3), tasks=ALL, sharing="mtan", weighting="dwa")
    make_runs(root, ("lite",), range(3), encoder="efficientnet_lite0")
    make_runs(root, ("lite_pretrained",), [0], encoder="efficientnet_lite0", encoder_weights="hub")
    return rows_of(root)


def test_pairs_differ_in_one_option_and_the_baseline_has_the_usual_value(varied):
    segmenting = {name: runs for name, runs in varied.items() if runs[0].images}
    assert compare.is_varied(segmenting)
    assert sorted(compare.pairs(segmenting)) == [
        ("all", "seg", "tasks"),
        ("dwa", "all", "weighting"),
        ("dwa", "seg", "tasks"),
        ("lite", "seg", "encoder"),
        ("lite_pretrained", "lite", "encoder_weights"),
        ("mtan", "all", "sharing"),
        ("mtan", "seg", "tasks"),
        ("mtan_dwa", "dwa", "sharing"),
        ("mtan_dwa", "mtan", "weighting"),
        ("mtan_dwa", "seg", "tasks"),
    ]
    words = compare.in_words("encoder_weights", varied["lite_pretrained"], varied["lite"])
    assert words == "encoder weights: hub, not random"


def test_the_published_table_has_one_baseline(tmp_path):
    rows = rows_of(make_runs(tmp_path, ("mtl", "baseline", "uncertainty"), [0]))
    assert not compare.is_varied(rows)


def test_delta_m_by_hand(tmp_path):
    # Seed 0: dice 0.9 against 0.8 (+12.5%), accuracy 0.6 against 0.5 (+20%), box IoU 0.6 against
    # 0.8 (-25%): 2.5% on average. Seed 1 has no single-task run of every task.
    changed = {"dice": 0.9, "accuracy": 0.6, "box_iou": 0.6}
    for seed in (0, 1):
        make_run(tmp_path, "all", seed, tasks=ALL)
    make_run(tmp_path, "seg", 0)
    make_run(tmp_path, "cls", 0, tasks=("cls",))
    make_run(tmp_path, "bbox", 0, tasks=("bbox",))
    make_run(tmp_path, "bbox", 1, tasks=("bbox",))
    rows = rows_of(tmp_path)
    rows["all"][0].test.update(changed)
    rows["seg"][0].test["dice"] = 0.8
    rows["cls"][0].test["accuracy"] = 0.5
    rows["bbox"][0].test["box_iou"] = 0.8
    assert compare.delta_m(rows) == {"all": [pytest.approx(2.5)]}
    # Of an error less is better: the same changes count with the other sign.
    for run in (*rows["all"], *rows["bbox"]):
        metric = run.metrics["bbox"]["box_iou"]
        object.__setattr__(metric, "higher", False)
    try:
        assert compare.delta_m(rows)["all"] == [pytest.approx((12.5 + 20 + 25) / 3)]
    finally:
        object.__setattr__(metric, "higher", True)
    del rows["cls"]
    assert compare.delta_m(rows) == {}


def test_delta_m_takes_the_single_task_row_of_the_same_encoder(varied):
    found = compare.delta_m(varied)
    assert found.keys() == {"all", "dwa", "mtan", "mtan_dwa"}
    assert all(len(values) == 3 for values in found.values())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"info": {"split_hash": "f" * 16}}, "split-hash"),
        ({"info": {"border": "ignore"}}, "border"),
        ({"info": {"images": {"train": 4, "val": 70, "test": 70}}}, "images"),
        ({"lr": 0.001}, "--lr"),
        ({"limit": 20}, "--limit"),
        ({"init": "x.pt"}, "--init"),
        ({"info": {"precision": "bf16"}}, "precision, of seed 0"),
        ({"info": {"label_digest": {"masks": "b" * 16}}}, "labels of masks"),
    ],
)
def test_what_no_table_can_hold_together_is_refused(tmp_path, changes, words):
    make_runs(tmp_path, ("mtl", "baseline"), range(2))
    make_run(tmp_path, "ablation_cls", 0, **changes)
    with pytest.raises(InputError, match=words) as error:
        compare.refuse_mixture(read_runs(tmp_path)[0])
    assert "ablation_cls/seed0" in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"num_masks": 40}, {"sharing": "mtan"}, {"info": {"settings": {"seg": {"a": 1}}}}]
)
def test_a_row_holds_runs_of_one_kind(tmp_path, changes):
    make_run(tmp_path, "own", 0, tasks=ALL)
    make_run(tmp_path, "own", 1, tasks=ALL, **changes)
    make_run(tmp_path, "baseline", 0)
    with pytest.raises(InputError, match="of one row"):
        compare.refuse_mixture(read_runs(tmp_path)[0])


def test_what_may_differ_may_differ(tmp_path):
    """Seeds of two precisions, digests of other labels, last digits of a mean, tuned options."""
    make_runs(tmp_path, ("mtl", "baseline"), [0], lr=0.001)
    make_runs(tmp_path, ("mtl",), [1], info={"precision": "bf16"}, lr=0.001)
    digest = {"masks": "a" * 16, "binary": "c" * 16}
    settings = {"bbox": {"mean": 0.1234567890123}}
    make_run(tmp_path, "own", 0, lr=0.004, info={"label_digest": digest, "settings": settings})
    settings = {"bbox": {"mean": 0.1234567890124}}
    make_run(tmp_path, "own", 1, lr=0.004, info={"label_digest": None, "settings": settings})
    compare.refuse_mixture(read_runs(tmp_path)[0][:2] + read_runs(tmp_path)[0][3:], {"lr"})


def test_runs_on_other_test_images_are_left_out(tmp_path):
    make_runs(tmp_path, ("mtl", "baseline"), range(2))
    runs, _ = read_runs(tmp_path)
    names = runs[0].images.names
    runs[0].images.names = (*names[1:], names[0])
    kept, left_out = compare.same_images(runs)
    assert kept == runs[1:] and [label for label, _ in left_out] == [runs[0].label]


def test_equal_time_by_hand(tmp_path):
    # The row takes 50 s an epoch, the baseline 25: after its 100 s the row has ended two epochs.
    make_run(tmp_path, "row", 0, log={"seconds": [50] * 4, "val_dice": [0.5, 0.7, 0.8, 0.9]})
    make_run(tmp_path, "base", 0, log={"val_dice": [0.4, 0.6, 0.8, 0.75]})
    row, base = rows_of(tmp_path)["row"], rows_of(tmp_path)["base"]
    assert compare.at_equal_time(row, base) == pytest.approx((2, 10, -10))
    row[0].config["run"]["processor"] = "Slow CPU"
    assert compare.at_equal_time(row, base) is None
    parameters, time = compare.ratios(row, base)
    assert parameters == 1 and np.isnan(time)
