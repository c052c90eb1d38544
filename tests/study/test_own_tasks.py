"""Runs of tasks that the published study does not have: what results.py says of them, takes anew from them, and refuses."""

import csv
import json
import math
import re
import shutil

import matplotlib
import numpy as np
import pytest
from fabricated import IMAGES, change_json, make_run
from test_results import cells, edit_cell, run

from cli import InputError
from study import figures, mixture, records

BREED, DISTANCE = "column:breed", "distance"
TASKS = ["seg", BREED, DISTANCE]
# Of 70 images 49 are boxers, all found; 20 are pugs, every second one found; of the last nothing is known.
BREEDS = {
    "breed_correct": [1] * 49 + [1, 0] * 10 + [math.nan],
    "breed_class": [0] * 49 + [1] * 20 + [math.nan],
}
DISTANCES = {"distance_mae": [0.03, 0.05] * 34 + [0.04, math.nan]}
METRICS = {
    "breed_accuracy": 59 / 69,
    "breed_balanced_accuracy": (1 + 0.5) / 2,
    "distance_mae": 0.04,
}
SETTINGS = {BREED: {"classes": ["boxer", "pug"]}}


def make(root, name="seg_more", seed=0, **changes):
    given = {
        "tasks": TASKS,
        "weighting": "0.8-0.1-0.1",
        "settings": SETTINGS,
        "measured": BREEDS | DISTANCES,
        "metrics": METRICS,
    }
    return make_run(root, name, seed, **given | changes)


@pytest.fixture()
def root(tmp_path, monkeypatch):
    """Two runs of the baseline and two of TASKS; their figures are left blank, which saves time."""
    monkeypatch.setattr(figures, "save", lambda figure, path: path.touch())
    for seed in (0, 1):
        make_run(tmp_path / "runs", "baseline", seed, weighting="equal", tasks=["seg"])
        make(tmp_path / "runs", seed=seed)
    return tmp_path / "runs"


def flat(text):
    return " ".join(text.split())


def reason(folder):
    with pytest.raises(records.Unusable) as refusal:
        records.read_run(folder)
    return str(refusal.value)


# ------------------------------------------------------------------------------------------------------ the page


def test_the_page_gives_what_other_tasks_measure_with_unit_and_direction(root, tmp_path):
    text = run(root, tmp_path / "out")
    measures = flat(text.partition("## Other measures")[2].partition("\n## ")[0])
    assert "breed accuracy in percent, higher is better" in measures
    assert "breed balanced accuracy in percent (mean over classes), higher is better" in measures
    assert "distance error (sides), lower is better" in measures
    # After accuracy and box IoU, parameters and minutes: one table a task, of the rows that have it.
    assert cells(text, "Other measures", "seg_more", 2) == ["85.51 ± 0.00", "75.00 ± 0.00"]
    assert cells(text, "Other measures", "seg_more", 3) == ["0.0400 ± 0.0000"]
    with pytest.raises(IndexError):
        cells(text, "Other measures", "baseline", 2)
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_row_that_the_table_lacks_is_told_by_its_tasks_and_weighting(root, tmp_path):
    text = flat(run(root, tmp_path / "out"))
    assert (
        "- seg_more: seg, column:breed and distance; loss weights: 0.8-0.1-0.1." in text
        and "baseline: seg" not in text
    )
    shutil.rmtree(root / "seg_more")
    assert "Rows beside" not in run(root, tmp_path / "out")


def test_a_row_says_its_sharing_and_encoder_and_holds_one_of_each(root, tmp_path):
    for seed in (0, 1):
        change_json(
            root / f"seg_more/seed{seed}/config.json",
            sharing="soft",
            encoder="timm:resnet18",
            encoder_weights=None,
        )
    text = flat(run(root, tmp_path / "out"))
    assert (
        "loss weights: 0.8-0.1-0.1; sharing: soft; encoder: timm:resnet18." in text
        and "encoder weights" not in text
    )
    change_json(root / "seg_more/seed1/config.json", sharing="mtan")
    with pytest.raises(
        InputError, match="runs of seg_more that differ in sharing cannot share a row"
    ):
        run(root, tmp_path / "out")


@pytest.mark.parametrize(
    "weighting, is_fit", [("torchjd:UW", True), ("uncertainty", False), ("0.8-0.1-0.1", False)]
)
def test_a_log_lacks_the_weights_only_where_a_weighting_has_none(root, weighting, is_fit):
    folder = root / "seg_more/seed0"
    change_json(folder / "config.json", weighting=weighting)
    with open(folder / "log.csv", newline="") as file:
        rows = [
            {key: value for key, value in row.items() if not key.startswith("weight_")}
            for row in csv.DictReader(file)
        ]
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if is_fit:
        assert records.read_run(folder).experiment == "seg_more"
    else:
        assert "log.csv lacks the column weight_seg" in reason(folder)


def test_the_name_of_a_published_row_does_not_make_other_tasks_its(root, tmp_path):
    make(root, "mtl")
    make_run(root, "ablation_cls", 0, weighting="0.9-0.1")
    make_run(root, "ablation_bbox", 0, weighting="equal")
    text = run(root, tmp_path / "out")
    for name, published in (
        ("mtl", "-"),
        ("ablation_cls", "-"),
        ("ablation_bbox", "92.75"),
        ("baseline", "92.94"),
    ):
        assert cells(text, "Beside the published study", name)[1] == published
    text = flat(text)
    assert (
        "- mtl: seg, column:breed and distance;" in text
        and "- ablation_cls: seg and cls; loss weights: 0.9-0.1." in text
    )


def test_border_iou_stands_on_the_page_once_a_run_has_it(root, tmp_path):
    assert (
        "border"
        not in run(root, tmp_path / "out").partition("## Other measures")[2].partition("\n## ")[0]
    )
    values = [0.5, 0.75] * (IMAGES // 2)
    make(
        root,
        "later",
        tasks=["seg"],
        weighting="equal",
        measured={"border_iou": values},
        metrics={"border_iou": 0.625},
    )
    text = run(root, tmp_path / "out")
    assert "border IoU (mean over images with a contour), higher is better" in flat(text)
    assert cells(text, "Other measures", "later", 2) == ["0.625"]
    with open(tmp_path / "out/results.csv", newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert rows["later"]["border_iou"] == "0.625" and rows["baseline"]["border_iou"] == ""


def test_results_csv_has_the_figures_of_every_task_after_those_of_all(root, tmp_path):
    run(root, tmp_path / "out")
    with open(tmp_path / "out/results.csv", newline="") as file:
        header, baseline, _, own, _ = csv.reader(file)
    assert header == [*records.TEST_KEYS, *METRICS, "minutes"]
    assert baseline[-4:-1] == [""] * 3 and [float(cell) for cell in own[-4:-1]] == pytest.approx(
        list(METRICS.values())
    )


def test_errors_are_given_with_digits_that_fit_their_size(root, tmp_path):
    make(
        root,
        "ages",
        tasks=["seg", "column:age"],
        settings={"column:age": {"mean": 50.0, "deviation": 9.0}},
        measured={"age_mae": [11.0, 14.0] * (IMAGES // 2)},
        metrics={"age_mae": 12.5},
    )
    text = run(root, tmp_path / "out")
    assert "age error (as in index.csv), lower is better" in flat(text)
    assert cells(text, "Other measures", "ages", 2) == ["12.50"]


def test_the_protocol_names_what_chose_the_checkpoints(root, tmp_path):
    assert "the checkpoint with the best validation Dice is tested" in flat(
        run(root, tmp_path / "out")
    )
    make(
        root,
        "turned",
        tasks=["distance", "seg"],
        weighting="equal",
        settings={},
        measured=DISTANCES,
        metrics={"distance_mae": 0.04},
    )
    assert "best validation Dice; distance error is tested" in flat(run(root, tmp_path / "out"))


def test_learned_weights_are_drawn_of_every_row_that_has_them(root, tmp_path, monkeypatch):
    for seed in (0, 1):
        make(root, "learned", seed, weighting="uncertainty")
        make_run(root, "uncertainty", seed)  # of an earlier version
    drawn = {}
    monkeypatch.setattr(
        figures, "draw_weights", lambda rows, path: (drawn.update(rows), path.touch())
    )
    text = run(root, tmp_path / "out")
    tasks = {row: list(weights) for row, weights in drawn.items()}
    assert tasks == {"uncertainty": ["seg", "cls", "bbox"], "learned": TASKS}
    assert drawn["learned"][BREED].shape == (
        2,
        4,
    ) and "in the uncertainty and learned runs" in flat(text)


def test_a_figure_of_weights_has_a_line_for_each_of_many_tasks(tmp_path):
    rows = {
        "few": {"seg": np.ones((1, 3))},
        "many": {f"column:größe {k}": np.full((2, 3), 0.1 * k) for k in range(9)},
    }
    shown = {}

    def look(figure, path):
        axes = figure.axes
        shown.update(
            {
                axis.get_title().split()[0]: [
                    (line.get_label(), line.get_color(), line.get_linestyle())
                    for line in axis.lines
                ]
                for axis in axes
            }
        )
        figure.savefig(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", look)
        figures.draw_weights(rows, tmp_path / "weights.png")
    assert len(shown["few"]) == 1 and len({line[1:] for line in shown["many"]}) == 9
    assert shown["many"][0][0] == "column:größe 0" and matplotlib.colors.is_color_like(
        shown["many"][8][1]
    )


def test_a_long_name_is_shortened_in_figures_and_nothing_else():
    assert (
        figures.shorten("split_80_10_10") == "split_80_10_10"
        and figures.shorten("a" * 28) == "a" * 28
    )
    assert (
        figures.shorten("seg_column-breed_distance_uncertainty_masks20")
        == "seg_column-bre\u2026ainty_masks20"
    )
    assert len(figures.shorten("a" * 100)) == figures.MOST_LETTERS


# ------------------------------------------------------------------------------------- what is taken anew from runs


def test_a_run_whose_tasks_agree_with_its_records_is_read(root):
    found = records.read_run(root / "seg_more/seed1")
    assert (
        list(found.tasks) == TASKS
        and found.tasks[BREED].settings == SETTINGS[BREED]
        and not found.learns_weights
    )


@pytest.mark.parametrize(
    "damage, words",
    [
        (
            lambda f: change_json(f / "test.json", breed_accuracy=0.9),
            "breed_accuracy in test.json is 0.9, and 0.855",
        ),
        (
            lambda f: change_json(f / "test.json", distance_mae="0.04"),
            "distance_mae in test.json is '0.04'",
        ),
        (
            lambda f: change_json(f / "test.json", box_iou=0.6),
            "box_iou in test.json is 0.6, and None",
        ),
        (
            lambda f: change_json(f / "test.json", border_iou=0.6),
            "border_iou in test.json is 0.6, and None",
        ),
        (
            lambda f: edit_cell(f / "test_per_image.csv", 1, "correct", "1"),
            "accuracy in test.json is None, and 1.0",
        ),
        (
            lambda f: edit_cell(f / "test_per_image.csv", 1, "distance_mae", "0.4"),
            "distance_mae in test.json is 0.04, and 0.0",
        ),
        (
            lambda f: edit_cell(f / "test_per_image.csv", 1, "distance_mae", "far"),
            "distance_mae in line 2 .* is 'far'",
        ),
        (
            lambda f: edit_cell(f / "test_per_image.csv", 1, "breed_class", "0.5"),
            "breed_class in line 2 .* is '0.5'",
        ),
        (
            lambda f: edit_cell(f / "test_per_image.csv", 1, "breed_correct", "2"),
            "a value of breed_correct that is not 0 or 1",
        ),
        (
            lambda f: change_json(f / "config.json", taught={"seg": 9, BREED: 0}),
            "nothing taught it .* column:breed",
        ),
        (
            lambda f: change_json(f / "config.json", settings={}),
            "does not say what its task column:breed learned",
        ),
        (
            lambda f: change_json(f / "config.json", settings={BREED: []}),
            "its tasks and what they learned",
        ),
        (
            lambda f: change_json(f / "config.json", tasks=["seg", 3]),
            "its tasks and what they learned",
        ),
        (lambda f: change_json(f / "config.json", weighting=3), "how the losses were weighted"),
        (
            lambda f: change_json(f / "config.json", tasks=["seg", "whiskers"]),
            "its tasks cannot be made: .* has no 'whiskers'",
        ),
        (
            lambda f: change_json(f / "config.json", tasks=[]),
            "its tasks cannot be made: tasks must be at least one",
        ),
        (
            lambda f: change_json(f / "config.json", tasks=["distance"]),
            "none of its tasks measures dice",
        ),
        (
            lambda f: change_json(f / "config.json", settings={BREED: {"mean": 1}}),
            "lacks breed_mae, which its task column:bre",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_disagrees_is_left_out_with_the_reason(root, damage, words):
    damage(root / "seg_more/seed1")
    assert re.search(words, reason(root / "seg_more/seed1"))


def test_the_page_goes_on_without_the_run_of_a_task_that_is_gone(root, tmp_path, capsys):
    change_json(root / "seg_more/seed1/config.json", tasks=["seg", "whiskers"])
    text = run(root, tmp_path / "out")
    assert cells(text, "Test Dice", "seg_more")[0] == "1" and "tasks/ has no 'whiskers'" in flat(
        text
    )
    assert "seg_more/seed1 is left out: its tasks cannot be made" in capsys.readouterr().err


def test_a_metric_that_some_records_do_not_have_is_not_asked_of_them(root):
    content = json.loads((root / "seg_more/seed0/test.json").read_text())
    del content["breed_balanced_accuracy"]
    (root / "seg_more/seed0/test.json").write_text(json.dumps(content))
    assert records.read_run(root / "seg_more/seed0").test["breed_accuracy"] == 59 / 69


def test_numbers_of_what_taught_it_as_earlier_versions_wrote_them(root):
    config = root / "seg_more/seed0/config.json"
    for taught, fits in (
        ({"boxer": 3, "pug": 4}, True),
        ([3, 4], True),
        ({"boxer": 3, "pug": 0}, False),
        ([3, 0], False),
        ({}, False),
        (True, False),
        (None, False),
    ):
        change_json(config, taught={"seg": 9, BREED: taught, DISTANCE: 9})
        if fits:
            records.read_run(config.parent)
        else:
            assert "nothing taught it the task column:breed" in reason(config.parent)


def test_test_images_without_a_mask_take_no_part_in_dice(root, tmp_path):
    for folder in root.glob("*/*"):
        for column in ("dice", *records.PIXELS):
            edit_cell(folder / "test_per_image.csv", 2, column, "")
        counts = np.array(
            [
                [int(row[key]) for key in records.PIXELS]
                for k, row in enumerate(
                    csv.DictReader((folder / "test_per_image.csv").read_text().splitlines())
                )
                if k != 1
            ]
        )
        inside, predicted, target = counts.sum(0)
        change_json(
            folder / "test.json",
            dice=float(records.dice_score(counts).mean()),
            dice_pooled=2 * inside / (predicted + target),
            iou_pooled=inside / (predicted + target - inside),
        )
    found = records.read_run(root / "baseline/seed0")
    assert found.counts.shape == (IMAGES - 1, 3) and found.names[:2] == ("pet_0", "pet_2")
    text = flat(run(root, tmp_path / "out"))
    assert (
        f"Dice is over the {IMAGES - 1} test images with a mask" in text
        and f"For N = {IMAGES - 1} it is" in text
    )
    edit_cell(root / "baseline/seed0/test_per_image.csv", 2, "predicted", "7")
    assert "line 3 of test_per_image.csv (pet_1) has impossible pixel counts" in reason(
        root / "baseline/seed0"
    )


# ----------------------------------------------------------------------------------------------- what shares a row


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"tasks": ["seg", DISTANCE]}, "differ in tasks"),
        ({"weighting": "equal"}, "differ in weighting"),
        (
            {"settings": {BREED: {"classes": ["boxer", "sphynx"]}}},
            "differ in settings .*sphynx.* in seg_more/seed2",
        ),
        ({"options": {"masks": 100}}, "differ in --masks .*100 in seg_more/seed2"),
    ],
    ids=str,
)
def test_runs_of_one_name_that_differ_in_what_is_compared_are_refused(
    root, tmp_path, changes, words
):
    make(root, seed=2, **changes)
    with pytest.raises(InputError, match="runs of seg_more that " + words) as refusal:
        run(root, tmp_path / "out")
    assert "seg_more/seed0, seg_more/seed1" in str(refusal.value) and "cannot share a row" in str(
        refusal.value
    )


def test_seeds_may_be_of_two_precisions_and_the_runs_of_one_seed_not(root, tmp_path):
    for folder in root.glob("*/seed0"):
        change_json(
            folder / "config.json",
            options=json.loads((folder / "config.json").read_text())["options"]
            | {"precision": "fp32"},
        )
    text = run(root, tmp_path / "out")
    assert (
        "--precision"
        not in text.partition("Options of all runs")[2].partition("- Options that differ")[0]
    )
    assert "--precision" in text.partition("- Options that differ")[2].partition("- Device")[0]
    one = root / "seg_more/seed0/config.json"
    change_json(one, options=json.loads(one.read_text())["options"] | {"precision": "bf16"})
    with pytest.raises(
        InputError,
        match="differ in --precision, of seed 0, cannot share a table.*bf16 in seg_more/seed0",
    ):
        run(root, tmp_path / "out")


def test_long_lists_of_classes_are_shown_where_they_differ(root, tmp_path):
    classes = [f"breed {k:03}" for k in range(300)]
    shutil.rmtree(root / "seg_more")
    make(root, settings={BREED: {"classes": classes}})
    make(root, seed=1, settings={BREED: {"classes": [*classes[:-1], "sphynx"]}})
    with pytest.raises(InputError, match="sphynx.*in seg_more/seed1") as refusal:
        run(root, tmp_path / "out")
    assert len(str(refusal.value)) < 500


def test_the_last_digits_of_a_mean_make_no_other_row(root):
    learned = {"column:age": {"mean": 3.0, "deviation": 1.0}}
    given = {
        "tasks": ["seg", "column:age"],
        "measured": {"age_mae": [1.0] * IMAGES},
        "metrics": {"age_mae": 1.0},
    }
    make(root, "ages", 0, settings=learned, **given)
    make(root, "ages", 1, settings={"column:age": {"mean": 3.0, "deviation": 1 + 1e-15}}, **given)
    mixture.refuse_mixture(records.read_runs(root)[0])
    make(root, "ages", 2, settings={"column:age": {"mean": 3.5, "deviation": 1.0}}, **given)
    with pytest.raises(InputError, match="differ in settings"):
        mixture.refuse_mixture(records.read_runs(root)[0])


def test_a_run_of_an_earlier_version_shares_the_row_of_its_experiment(root):
    make_run(root, "baseline", 2)
    runs, left_out = records.read_runs(root)
    assert left_out == []
    mixture.refuse_mixture(runs)


def test_a_run_of_an_earlier_version_had_adamw(root):
    folders = [folder.parent for folder in root.glob("*/seed0/config.json")]
    options = [json.loads((folder / "config.json").read_text())["options"] for folder in folders]
    assert len(folders) > 1 and not any("optimizer" in each for each in options)
    change_json(folders[0] / "config.json", options=options[0] | {"optimizer": None})
    mixture.refuse_mixture(records.read_runs(root)[0])
    change_json(folders[0] / "config.json", options=options[0] | {"optimizer": "muon"})
    with pytest.raises(
        InputError,
        match="differ in --optimizer cannot share a table: .*muon in " + folders[0].parent.name,
    ):
        mixture.refuse_mixture(records.read_runs(root)[0])


def test_rows_of_other_numbers_of_masks_are_told_apart(root, tmp_path):
    for seed in (0, 1):
        make(root, "seg_masks", seed, options={"masks": 100})
    text = flat(run(root, tmp_path / "out"))
    for words in (
        "different numbers of training masks: all (baseline/seed0",
        "100 (seg_masks/seed0, seg_masks/seed1)",
        "loss weights: 0.8-0.1-0.1; masks of 100 training images.",
        "Options that differ: --masks, --seed",
    ):
        assert words in text
