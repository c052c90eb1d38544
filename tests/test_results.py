"""From run folders to the page: what it says, that it says it again, and what it leaves out or refuses."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from fabricated import EXPERIMENTS, change_json, make_run, make_runs
from PIL import Image

import results
from cli import InputError
from study import mixture, page, records

FEW = ("mtl", "baseline", "ablation_cls")


def run(root, out):
    results.main(results.parse_args(["--runs", str(root), "--out", str(out)]))
    return (out / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study as it will be: five seeds of five rows, three of the splits; mtl is made worse and ablation_bbox better."""
    root, effects = tmp_path_factory.mktemp("study") / "runs", {"mtl": -0.04, "ablation_bbox": 0.04}
    make_runs(root, EXPERIMENTS[:5], effects=effects)
    return make_runs(root, EXPERIMENTS[5:], seeds=range(3))


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "results"
    run(study, out)
    return out


@pytest.fixture()
def few(study, tmp_path, monkeypatch):
    """A copy of three rows with two seeds each, to be damaged; their figures are left blank, which saves time."""
    monkeypatch.setattr(results.figures, "save", lambda figure, path: path.touch())
    for experiment in FEW:
        for seed in (0, 1):
            shutil.copytree(
                study / experiment / f"seed{seed}", tmp_path / "runs" / experiment / f"seed{seed}"
            )
    return tmp_path / "runs"


def cells(text, heading, experiment, nth=0):
    """The cells of an experiment's row in the nth table under a heading."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith(f"| {experiment} ")]
    return [cell.strip() for cell in rows[nth].strip("|").split("|")][1:]


# ------------------------------------------------------------------------------------------------------ the page


def test_the_page_answers_first_and_in_plain_words(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    first = " ".join(text.split("\n\n")[1].split())
    assert first.startswith(
        "**Better than the baseline: ablation_bbox; worse than the baseline: mtl; cannot be told apart"
    )
    assert "split_80_10_10" in first.partition("No verdict, for want of seeds:")[2]
    flat = " ".join(text.split())
    assert "**mtl hurts**: -" in flat and "**ablation_bbox helps**: +" in flat
    assert re.search(
        r"\*\*uncertainty: cannot be told\*\* at 5 seeds: .* would take (about \d+|more than 100) seeds",
        flat,
    )
    assert "**split_80_10_10: no verdict** from 3 paired seeds (it takes 5)" in flat
    assert "every two of 5 runs" in flat


def test_the_tables_hold_the_published_order_and_the_runs_own_figures(study, made):
    text = (made / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (\w+) ", text.partition("## Test Dice")[2].partition("\n## ")[0], re.MULTILINE
    )[1:]
    assert rows == list(EXPERIMENTS)
    tests = [
        json.loads((study / "mtl" / f"seed{seed}" / "test.json").read_text()) for seed in range(5)
    ]
    for column, key in ((1, "dice"), (2, "dice_pooled")):
        values = [100 * test[key] for test in tests]
        assert (
            cells(text, "Test Dice", "mtl")[column]
            == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
        )
    assert (
        cells(text, "Test Dice", "mtl")[0] == "5"
        and cells(text, "Test Dice", "split_25_50_25")[0] == "3"
    )
    assert cells(text, "Beside the published study", "baseline")[1:] == ["92.94", "89.3"]
    assert cells(text, "Beside the published study", "split_25_50_25")[1:] == ["89.83", "86.3"]
    assert cells(text, "Other measures", "baseline") == ["-", "-"]
    assert cells(text, "Other measures", "mtl", 1) == ["1.00", "1.7"]


def test_the_comparison_is_paired_by_seed(study, made):
    text = (made / "README.md").read_text(encoding="utf-8")
    dice = {
        name: [
            json.loads((study / name / f"seed{seed}" / "test.json").read_text())["dice"]
            for seed in range(5)
        ]
        for name in ("mtl", "baseline")
    }
    difference = 100 * (np.array(dice["mtl"]) - dice["baseline"])
    half = 2.776445 * difference.std(ddof=1) / np.sqrt(5)
    n, mean, interval = cells(text, "Against the baseline", "mtl")
    assert n == "5" and float(mean) == pytest.approx(difference.mean(), abs=0.006)
    low, high = map(float, interval.split(" to "))
    assert (low, high) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.006
    )
    p, adjusted, _ = cells(text, "Against the baseline", "mtl", 1)
    assert float(adjusted) > float(p)


def test_the_page_names_the_protocol_and_no_place(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    for words in (
        "500 train, 70 val, 70 test",
        "0123456789abcdef",
        "counts as pet",
        "--epochs 4",
        "torch 2.9.0",
        "64 px",
        "c0ffee",
        "--seed",
    ):
        assert words in text
    assert "somebody" not in text and "/" not in text.partition("## Protocol")[2]


def test_the_page_is_narrow(made):
    for line in (made / "README.md").read_text(encoding="utf-8").splitlines():
        assert len(line) <= 80, line


def test_the_same_records_give_the_same_bytes(study, made, tmp_path):
    moved = shutil.copytree(study, tmp_path / "elsewhere" / "records")
    run(moved, tmp_path / "again")
    assert sorted(path.name for path in made.iterdir()) == [
        "README.md",
        "curves.png",
        "dice.png",
        "losses.png",
        "results.csv",
        "weights.png",
    ]
    for path in made.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_figures_fit_a_phone(made):
    for path in made.glob("*.png"):
        with Image.open(path) as image:
            assert image.size[0] <= 7 * 160 and np.asarray(image.convert("L")).std() > 5


def test_results_csv_holds_every_run(study, made):
    with open(made / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and [row["experiment"] for row in rows[:6]] == ["mtl"] * 5 + ["baseline"]
    test = json.loads((study / "mtl/seed3/test.json").read_text())
    assert rows[3].keys() == test.keys() | {"minutes"}
    assert (
        float(rows[3]["dice"]) == test["dice"]
        and rows[5]["accuracy"] == ""
        and rows[3]["minutes"] == "1.72"
    )


def test_other_files_in_out_stay_and_nothing_is_left_behind(few, tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    (out / "PROTOCOL.md").write_text("ours")
    (out / "README.md").write_text("old")
    assert run(few, out).startswith("# Does")
    assert (out / "PROTOCOL.md").read_text() == "ours" and not list(out.glob(".*"))


# --------------------------------------------------------------------------------------------------------- audit


def test_the_four_dice_figures_by_hand():
    # 33 images: 32 perfect ones and, alone in the second batch, one with half of its prediction right.
    counts = np.array([[100, 100, 100]] * 32 + [[100, 200, 200]])
    sample = records.Run("baseline", 0, {}, {}, {}, tuple(map(str, range(33))), counts)
    expected = [(32 + 0.5) / 33, 2 * 3300 / (3400 + 3400), (1 + 0.5) / 2, (1 + 0.5) / 33 * 32]
    assert page.audit(sample) == pytest.approx(100 * np.array(expected))


def test_the_published_formula_is_the_batch_figure_inflated(made):
    _, _, batch, published = cells(
        (made / "README.md").read_text(encoding="utf-8"), "One network, four Dice figures", "mtl"
    )
    assert float(published) == pytest.approx(float(batch) * 3 * 32 / 70, abs=0.02)


# ----------------------------------------------------------------------------------------- what cannot be averaged


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edit_cell(path, line, column, value):
    rows = [row.split(",") for row in path.read_text().splitlines()]
    rows[line][rows[0].index(column)] = value
    path.write_text("\n".join(map(",".join, rows)) + "\n")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def change_json_values(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_boxes(folder):
    """As a run leaves it whose data hold no head box."""
    change_json_values(folder / "test.json", box_iou=None)
    for line in range(1, 71):
        edit_cell(folder / "test_per_image.csv", line, "box_iou", "")


def without_pets(folder):
    for line in range(1, 71):
        for column, value in (
            ("intersection", "0"),
            ("predicted", "9"),
            ("target", "0"),
            ("dice", "0.0"),
        ):
            edit_cell(folder / "test_per_image.csv", line, column, value)


def add_column(path, name, value):
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},{name}", *(f"{row},{value}" for row in rows)]) + "\n")


BAD = {
    "empty": (empty, "empty"),
    "foreign": (lambda f: (empty(f), (f / "notes.txt").touch()), "no run folder"),
    "unfinished": (lambda f: (f / "test.json").unlink(), "not finished"),
    "no log": (lambda f: (f / "log.csv").unlink(), "no log.csv"),
    "no per image": (lambda f: (f / "test_per_image.csv").unlink(), "no test_per_image.csv"),
    "test.json cut": (lambda f: cut(f / "test.json"), "test.json is damaged"),
    "config.json a list": (
        lambda f: (f / "config.json").write_text("[1]"),
        "config.json holds no JSON object",
    ),
    "test.json binary": (
        lambda f: (f / "test.json").write_bytes(b"\xff\xfe\x00"),
        "test.json is damaged",
    ),
    "deep JSON": (lambda f: (f / "test.json").write_text("[" * 100_000), "test.json is damaged"),
    "NaN": (lambda f: edit(f / "test.json", '"dice": 0', '"dice": NaN, "x": 0'), "not finite"),
    "infinite": (
        lambda f: edit(f / "test.json", '"dice": 0', '"dice": 1e999, "x": 0'),
        "dice in test.json is inf",
    ),
    "key gone": (lambda f: change_json(f / "test.json", iou_pooled=None), "lacks iou_pooled"),
    "text for a number": (
        lambda f: change_json(f / "test.json", dice="0.9"),
        "dice in test.json is '0.9'",
    ),
    "true for a number": (
        lambda f: change_json(f / "test.json", dice=True),
        "dice in test.json is True",
    ),
    "other dice": (lambda f: change_json(f / "test.json", dice=0.95), "dice in test.json is 0.95"),
    "other box IoU": (
        lambda f: change_json(f / "test.json", box_iou=0.2),
        "box_iou in test.json is 0.2",
    ),
    "copied": (lambda f: change_json(f / "test.json", seed=0), "copied or renamed"),
    "another config": (
        lambda f: change_json(f / "config.json", split_hash="f" * 16),
        "differ in split_hash",
    ),
    "other epochs": (lambda f: change_json(f / "test.json", epochs=5), "differ in epochs"),
    "log short": (lambda f: edit(f / "log.csv", "\n2,", "\n3,"), "epochs 1 to 4"),
    "log with a gap": (lambda f: edit_cell(f / "log.csv", 2, "val_dice", ""), "empty cell"),
    "log infinite": (lambda f: edit_cell(f / "log.csv", 2, "train_loss_seg", "inf"), "line 3"),
    "log of 1e999": (lambda f: edit_cell(f / "log.csv", 2, "train_loss_seg", "1e999"), "line 3"),
    "log empty": (lambda f: (f / "log.csv").write_text(""), "log.csv is damaged or empty"),
    "log without rows": (
        lambda f: (f / "log.csv").write_text("epoch,train_loss_seg,val_dice\n"),
        "lacks the column",
    ),
    "an image less": (
        lambda f: (f / "test_per_image.csv").write_text(
            "\n".join((f / "test_per_image.csv").read_text().splitlines()[:-1])
        ),
        "69 images",
    ),
    "a cell less": (lambda f: cut(f / "test_per_image.csv"), "cells in line"),
    "a quarter pixel": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "predicted", "100.25"),
        "predicted in line 4",
    ),
    "too many pixels": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "intersection", "4096"),
        "impossible pixel counts",
    ),
    "huge": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "target", "9" * 40),
        "target in line 4",
    ),
    "dice of an image": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "dice", "0.123"),
        "its pixel counts do not give",
    ),
    "no dice of an image": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "dice", ""),
        "its pixel counts do not give",
    ),
    "half right": (lambda f: edit_cell(f / "test_per_image.csv", 3, "correct", "0.5"), "correct"),
    "a name twice": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "name", "pet_0"),
        "pet_0 more than once",
    ),
    "no box taught": (
        lambda f: change_json(f / "config.json", taught={"seg": 500, "cls": [200, 300], "bbox": 0}),
        "nothing taught it the task bbox (config.json: taught 0)",
    ),
    "one class taught": (
        lambda f: change_json(f / "config.json", taught={"seg": 500, "cls": [0, 500], "bbox": 9}),
        "nothing taught it the task cls (config.json: taught [0, 500])",
    ),
    "nothing taught": (
        lambda f: change_json(f / "config.json", taught={}),
        "nothing taught it the task seg",
    ),
    "taught nonsense": (
        lambda f: change_json(f / "config.json", taught={"seg": "many", "cls": [1, 1], "bbox": 1}),
        "nothing taught it the task seg (config.json: taught many)",
    ),
    "no boxes, older": (
        without_boxes,
        "does not say that anything taught it the task bbox, and box_iou was not measured",
    ),
    "no boxes, newer": (
        lambda f: (
            without_boxes(f),
            change_json(f / "config.json", taught={"seg": 500, "cls": [200, 300], "bbox": 0}),
        ),
        "nothing taught it the task bbox",
    ),
    "no boxes in training": (
        lambda f: add_column(f / "log.csv", "train_loss_bbox", "0.0"),
        "nothing taught it the task bbox (its loss is 0 in every epoch)",
    ),
    "no pets": (
        lambda f: change_json_values(f / "test.json", dice=None),
        "its test images could not measure dice",
    ),
    "no pets, older": (without_pets, "dice in test.json is"),
    "other names": (
        lambda f: edit_cell(f / "test_per_image.csv", 3, "name", "somebody"),
        "order or names of its test",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_an_unsound_run_is_left_out_by_name_and_reason(few, tmp_path, what, capsys):
    damage, reason = BAD[what]
    damage(few / "mtl" / "seed1")
    text = run(few, tmp_path / "out")
    errors = capsys.readouterr().err
    assert "mtl/seed1 is left out" in errors and reason in errors
    assert reason in " ".join(text.partition("## Left out")[2].split())
    assert (
        cells(text, "Test Dice", "mtl")[0] == "1" and cells(text, "Test Dice", "baseline")[0] == "2"
    )


def test_what_was_taught_and_could_not_be_measured_is_no_reason_to_leave_a_run_out(few, tmp_path):
    """A test split without a head box says nothing of them; the run's Dice is as good as any."""
    without_boxes(few / "mtl/seed1")
    change_json(few / "mtl/seed1/config.json", taught={"seg": 500, "cls": [200, 300], "bbox": 499})
    add_column(few / "mtl/seed1/log.csv", "train_loss_bbox", "0.5")
    text = run(few, tmp_path / "out")
    assert "## Left out" not in text and cells(text, "Test Dice", "mtl")[0] == "2"
    assert cells(text, "Other measures", "mtl")[1] == "only in 1 of 2 runs"


def test_no_verdict_for_a_row_whose_task_was_never_taught(study, tmp_path, capsys):
    root = shutil.copytree(study, tmp_path / "runs")
    for folder in (root / "ablation_bbox").iterdir():
        without_boxes(folder)
    text = run(root, tmp_path / "out")
    assert "ablation_bbox" not in text.partition("## Left out")[0]
    said = capsys.readouterr()
    assert (
        "ablation_bbox" not in said.out
        and said.err.count("nothing") + said.err.count("anything taught") == 5
    )


def test_order_and_masks_of_the_test_images_must_agree(few):
    runs, _ = records.read_runs(few)
    turned = runs[0]
    turned.names, turned.counts = turned.names[::-1], turned.counts[::-1]
    runs[3].counts = runs[3].counts + np.array([0, 0, 1])
    kept, left_out = mixture.same_images(runs)
    assert len(kept) == 4 and [label for label, _ in left_out] == [runs[0].label, runs[3].label]
    assert "order" in left_out[0][1] and "masks" in left_out[1][1]


def test_a_seed_that_the_baseline_lacks_is_named(few, tmp_path, capsys):
    make_run(few, "mtl", 7)
    text = run(few, tmp_path / "out")
    assert (
        "mtl/seed7 is left out of the comparison: there is no baseline run of this seed"
        in capsys.readouterr().err
    )
    assert "mtl/seed7" in text.partition("## Left out")[2]
    assert (
        cells(text, "Test Dice", "mtl")[0] == "3"
        and cells(text, "Against the baseline", "mtl")[0] == "2"
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"split_hash": "f" * 16}, "split_hash"),
        ({"border": "background"}, "border cannot .*: pet in"),
        ({"size": 128}, "size"),
        ({"epochs": 5}, "--epochs cannot .*: 4 in"),
        ({"options": {"lr": 0.1}}, "--lr"),
        ({"images": 60}, "images"),
        ({"options": {"batch_size": 8}}, "--batch-size"),
        ({"init": "abc"}, "weights of --init cannot .*: None in .*abc in uncertainty"),
    ],
    ids=str,
)
def test_what_no_table_can_hold_together_is_refused(few, tmp_path, changes, words):
    make_run(few, "uncertainty", 0, **changes)
    with pytest.raises(InputError, match=words) as refusal:
        run(few, tmp_path / "out")
    assert "uncertainty/seed0" in str(refusal.value) and "baseline/seed0" in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_other_code_or_another_machine_is_said_on_the_page(few, tmp_path):
    make_run(
        few, "mtl", 2, precision="bf16", device="cuda", options={"workers": 4, "new_option": 1}
    )
    change_json(
        few / "mtl/seed2/config.json",
        commit="badc0de" + "0" * 33 + "-dirty",
        versions={"torch": "3.0"},
        processor="Abacus (wood)",
        convolution="fast",
    )
    text = " ".join(run(few, tmp_path / "out").partition("## Test Dice")[0].split())
    for words in (
        "different commits of the code",
        "badc0de",
        "different training precisions",
        "bf16 (mtl/seed2)",
        "cuda (mtl/seed2)",
        "torch 3.0 (mtl/seed2)",
        "in no commit: mtl/seed2",
        "different sets of options",
        "different processors",
        "Abacus (wood) (mtl/seed2)",
        "different ways to compute convolutions",
        "fast (mtl/seed2)",
    ):
        assert words in text


def test_an_option_that_an_earlier_version_did_not_have_is_said_where_asked_for(few, tmp_path):
    for asked in (None, "fast"):
        (
            shutil.rmtree(few / "mtl/seed2", ignore_errors=True),
            make_run(few, "mtl", 2, options={"convolution": asked}),
        )
        assert (
            "different sets of options" in " ".join(run(few, tmp_path / str(asked)).split())
        ) == bool(asked)


def test_weights_that_all_runs_start_from_are_said_on_the_page(few, tmp_path):
    for path in few.glob("*/*/config.json"):
        change_json(path, init="0123456789abcdef")
    assert (
        "- Initial weights: SHA-256 0123456789ab (`--init`)."
        in run(few, tmp_path / "out").partition("## Protocol")[2]
    )


def test_no_baseline_gives_a_table_without_verdicts(few, tmp_path):
    shutil.rmtree(few / "baseline")
    text = run(few, tmp_path / "out")
    assert (
        "no baseline runs" in text
        and "Against the baseline" not in text
        and cells(text, "Test Dice", "mtl")[0] == "2"
    )


def test_a_row_of_ones_own_stands_after_the_published_ones(few, tmp_path):
    make_run(few, "attention", 0)
    text = run(few, tmp_path / "out")
    assert cells(text, "Beside the published study", "attention")[1:] == ["-", "-"]
    assert text.index("| ablation_cls") < text.index("| attention")


def test_nothing_to_show_is_refused(few, tmp_path, capsys):
    for path in few.rglob("test.json"):
        path.unlink()
    with pytest.raises(InputError, match="no usable run"):
        run(few, tmp_path / "out")
    assert capsys.readouterr().err.count("is left out") == 6 and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="there is no folder"):
        run(tmp_path / "nowhere", tmp_path / "out")


def test_out_must_be_a_folder(few, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="name a folder"):
        run(few, tmp_path / "file")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be made .*name another folder"):
        run(few, tmp_path / "loop/out")
    (tmp_path / "out" / "README.md").mkdir(parents=True)
    with pytest.raises(InputError, match="README.md is a folder"):
        run(few, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("gone", ["mtl/seed1", "mtl"])
@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file or directory"), PermissionError(13, "Permission denied")],
)
def test_a_folder_that_cannot_be_looked_into_is_left_out_by_name(few, monkeypatch, gone, error):
    """Deleted between being listed and being read, as another program may do it, or another user's."""
    listing, there = type(few).iterdir, few / gone

    def iterdir(path):
        if path == there:
            raise error
        return listing(path)

    monkeypatch.setattr(type(few), "iterdir", iterdir)
    runs, left_out = records.read_runs(few)
    assert left_out == [(gone, f"the folder cannot be looked into ({error.strerror})")]
    assert {run.label for run in runs} == {
        f"{name}/seed{seed}" for name in FEW for seed in (0, 1)
    } - {"mtl/seed1", *(["mtl/seed0"] if gone == "mtl" else [])}
