"""From run folders to the page: what it says, that it says it again, and what it refuses."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from fabricated import EXPERIMENTS, cells, change_json, make_run, make_runs, write_json
from PIL import Image

import results
from cli import InputError
from study import figures as study_figures
from study import page, records

ALL = ("seg", "cls", "bbox")


def run(root, out, *words):
    results.main(results.parse_args(["--runs", str(root), "--out", str(out), *map(str, words)]))
    return (out / "README.md").read_text(encoding="utf-8")


def flat(text):
    return " ".join(text.split())


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(study_figures, "save", lambda figure, path: path.touch())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five seeds of five rows, three of the splits; mtl is made worse and ablation_bbox better."""
    root, effects = tmp_path_factory.mktemp("study") / "runs", {"mtl": -0.04, "ablation_bbox": 0.04}
    make_runs(root, EXPERIMENTS[:5], effects=effects)
    return make_runs(root, EXPERIMENTS[5:], seeds=range(3))


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "results"
    run(study, out)
    return out


def test_the_page_answers_first_and_in_plain_words(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    first = flat(text.split("\n\n")[1])
    assert first.startswith(
        "**Better than the baseline: ablation_bbox; worse than the baseline: mtl"
    )
    assert "split_80_10_10" in first.partition("too few seeds:")[2]
    text = flat(text)
    assert re.search(r"\*\*mtl hurts\*\* \(n = 5, p = [\d.e-]+\): -\d", text)
    assert re.search(r"\*\*uncertainty: inconclusive\*\* \(n = 5, p = ", text)
    assert "**split_80_10_10: no verdict** (n = 3, too few seeds)" in text
    assert "every two of 5 runs" in text


def test_the_tables_hold_the_runs_own_figures(study, made):
    text = (made / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Test Dice")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w+) ", section, re.MULTILINE)[1:] == list(EXPERIMENTS)
    tests = [json.loads((study / f"mtl/seed{k}/test.json").read_text()) for k in range(5)]
    for column, key in ((1, "dice"), (2, "dice_pooled")):
        values = [100 * test[key] for test in tests]
        spread = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
        assert cells(text, "Test Dice", "mtl")[column] == spread
    assert cells(text, "Beside the published study", "split_25_50_25")[1:] == ["89.83", "86.3"]
    assert cells(text, "Other measures", "baseline") == ["-", "-"]
    assert cells(text, "Other measures", "mtl", 1) == ["1.00", "1.7"]


def test_the_comparison_is_paired_by_seed(study, made):
    text = (made / "README.md").read_text(encoding="utf-8")
    dice = {}
    for name in ("mtl", "baseline"):
        paths = [study / name / f"seed{k}" / "test.json" for k in range(5)]
        dice[name] = np.array([json.loads(path.read_text())["dice"] for path in paths])
    difference = 100 * (dice["mtl"] - dice["baseline"])
    half = 2.776445 * difference.std(ddof=1) / np.sqrt(5)
    n, mean, interval = cells(text, "Against the baseline", "mtl")
    assert n == "5" and float(mean) == pytest.approx(difference.mean(), abs=0.006)
    ends = list(map(float, interval.split(" to ")))
    assert ends == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.006)
    p, adjusted, _ = cells(text, "Against the baseline", "mtl", 1)
    assert float(adjusted) > float(p)


def test_the_page_is_narrow_names_the_protocol_and_no_place(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 80
    protocol = "500 train, 70 val, 70 test", "0123456789abcdef", "--epochs 4", "64 px", "c0ffee"
    for words in protocol:
        assert words in flat(text)
    assert "somebody" not in text and "runs/" not in text


def test_the_same_records_give_the_same_bytes(study, made, tmp_path):
    moved = shutil.copytree(study, tmp_path / "elsewhere" / "records")
    run(moved, tmp_path / "again")
    names = ["README.md", "curves.png", "dice.png", "losses.png", "results.csv", "weights.png"]
    assert sorted(path.name for path in made.iterdir()) == names
    for path in made.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
        if path.suffix == ".png":  # made for a phone
            with Image.open(path) as image:
                assert image.size[0] <= 7 * 160 and np.asarray(image.convert("L")).std() > 5


def test_results_csv_holds_every_run(study, made):
    with open(made / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    test = json.loads((study / "mtl/seed3/test.json").read_text())
    assert len(rows) == 40 and rows[3].keys() == test.keys() | {"minutes"}
    assert float(rows[3]["dice"]) == test["dice"] and rows[3]["minutes"] == "1.72"


def test_other_files_in_out_stay_and_a_note_is_taken_over(study, tmp_path, no_drawing):
    out = tmp_path / "results"
    out.mkdir()
    (out / "PROTOCOL.md").write_text("ours")
    (out / "NOTE.md").write_text("The larger set says more.")
    assert "The larger set says more." in run(study, out)
    assert (out / "PROTOCOL.md").read_text() == "ours" and not list(out.glob(".*"))


def test_the_four_dice_figures_by_hand():
    # 33 images: 32 perfect ones and, alone in the second batch, one with half of it right.
    counts = np.array([[100, 100, 100]] * 32 + [[100, 200, 200]])
    images = records.Images(tuple(map(str, range(33))), counts)
    sample = records.Run("baseline", 0, {}, {}, {}, {}, images)
    expected = [(32 + 0.5) / 33, 2 * 3300 / (3400 + 3400), (1 + 0.5) / 2, (1 + 0.5) / 33 * 32]
    assert page.audit(sample) == pytest.approx(100 * np.array(expected))


# ------------------------------------------------------------------------------------ official half


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Ten seeds of two rows; the head box helps on the test split, less on the official half."""
    root = tmp_path_factory.mktemp("official") / "runs"
    for seed in range(20, 30):
        make_run(root, "baseline", seed, official=0)
        make_run(root, "ablation_bbox", seed, effect=0.05, official=0.01)
    return root


def test_the_official_half_with_and_without_near_duplicates(official, tmp_path, no_drawing):
    near = tmp_path / "near.csv"
    near.write_text("name,looks_like,distance\npet_3,pug_1,4\npet_5,pug_2,30\nother,pug_3,9\n")
    text = run(official, tmp_path / "out", "--near-duplicates", near)
    heading = "On the official test half"
    assert "40 photographs" in text and "2 photographs of them are near-duplicates" in flat(text)
    rows = [cells(text, heading, "ablation_bbox", nth) for nth in range(3)]
    figures = {}
    for name in ("baseline", "ablation_bbox"):
        paths = [official / name / f"seed{seed}" for seed in range(20, 30)]
        runs = [records.read_run(path) for path in paths]
        figures[name] = np.array([100 * run.official[1].dice for run in runs])
    difference = figures["ablation_bbox"] - figures["baseline"]
    kept = np.delete(difference, (3, 5), axis=1)
    assert rows[0][1].split(" ")[0] == f"{figures['ablation_bbox'].mean():.2f}"
    assert rows[1][:2] == ["10", f"{difference.mean():+.2f}"]
    assert rows[2][1] == f"{kept.mean():+.2f}"
    assert text.startswith("# Does") and "Test Dice, 1 row tested, 10 paired seeds" in flat(text)


def test_the_official_half_may_be_primary_at_levels_of_two_looks(official, tmp_path, no_drawing):
    text = run(official, tmp_path / "out", "--primary", "official", "--alpha", "0.03@10", "0.02@20")
    assert "Dice on the official test half, 1 row tested" in flat(text)
    assert "0.03 at 10 seeds and 0.02 at 20 seeds" in flat(text)
    first = float(cells(text, "Against the baseline", "ablation_bbox")[1])
    assert first == float(cells(text, "On the official test half", "ablation_bbox", 1)[1])
    section = text.partition("### On the run's own test split")[2]
    assert float(re.search(r"\| ablation_bbox +\| +10 \| +(\S+)", section)[1]) > first


def test_official_figures_of_other_images_are_refused(official, tmp_path, no_drawing):
    root = shutil.copytree(official, tmp_path / "runs")
    path = root / "baseline/seed20/official_per_image.csv"
    path.write_text(path.read_text().replace("pet_1,", "cat_1,"))
    with pytest.raises(InputError, match="seed20|seed21"):
        run(root, tmp_path / "out")
    with pytest.raises(InputError, match="near.csv"):
        run(official, tmp_path / "out", "--near-duplicates", tmp_path / "near.csv")


# ------------------------------------------------------------------------------ tables of their own


def test_a_table_of_single_runs_has_no_verdicts(tmp_path, study, no_drawing):
    make_runs(tmp_path / "runs", seeds=[0], official=0.02)
    text = run(tmp_path / "runs", tmp_path / "out", "--noise-of", study)
    assert "**One run a row: no comparison and no verdict.**" in text
    assert "two baseline runs of the first study" in flat(text)
    assert "Against the baseline" not in text
    here, there, *published = cells(text, "Beside the published study", "mtl")
    assert float(there) > float(here) and published == ["90.21", "86.7"]


def test_options_one_at_a_time_with_delta_m_and_tuning(tmp_path, no_drawing):
    root = tmp_path / "runs"
    make_runs(root, ("seg",), lr=0.001)
    make_runs(root, ("cls",), tasks=("cls",))
    make_runs(root, ("all",), tasks=("seg", "cls"), effects={"all": 0.05})
    make_runs(root, ("all_dwa",), tasks=("seg", "cls"), weighting="dwa")
    tuning = {"option": "lr", "chosen": "lr=0.001", "metric": "val_dice", "seed": 1000}
    values = {"lr=0.001": 0.8, "lr=0.002": 0.7}
    write_json(root / "seg/tuning.json", {**tuning, "values": values, "runs": 2})
    text = run(root, tmp_path / "out")
    first = flat(text.split("\n\n")[1])
    assert first.startswith("**The rows were tuned unequally.**") and "none (" in first
    assert cells(text, "Tuning", "seg")[1:] == ["lr=0.001", "val_dice", "2", "1000"]
    n, mean, interval, p, ms = cells(text, "All tasks at once: delta-m", "all")
    assert n == "5" and ms == "320" and float(p) <= 1 and float(mean) != 0
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"delta_m.png", "moved_weights.png"} <= made
    assert "2. all_dwa against all (weighting: dwa, not equal)" in flat(text)
    with open(tmp_path / "out/results.csv", newline="") as file:
        names = {row["experiment"] for row in csv.DictReader(file)}
    assert names == {"seg", "cls", "all", "all_dwa"}


def test_other_tasks_have_tables_of_their_own(tmp_path, no_drawing):
    log = {"val_border_iou": [0.5] * 4}
    make_runs(tmp_path / "runs", ("baseline",), [0, 1], metrics={"border_iou": 0.61}, log=log)
    text = run(tmp_path / "runs", tmp_path / "out")
    assert "Task seg: border IoU" in flat(text) and "| 0.610 ± 0.000 |" in text


def test_conflicts_are_drawn_and_named(tmp_path, no_drawing):
    cosines = [-0.4, -0.2, -0.3, -0.3]
    log = {"conflict_seg_cls_stage1": [0.2] * 4, "conflict_seg_cls_stage2": cosines}
    make_run(tmp_path / "runs", "ablation_cls", 2, log=log, conflicts=16)
    make_runs(tmp_path / "runs", ("baseline",), [2, 3])
    text = flat(run(tmp_path / "runs", tmp_path / "out"))
    assert "**Strongest conflict: seg and cls at stage 2, in the row ablation_cls**" in text
    assert "-0.300" in text and (tmp_path / "out/conflicts.png").exists()


# ------------------------------------------------------------------------- other pages, refusals


def test_total_compute_by_hand(tmp_path):
    # Four epochs of 25 s: two processes of three threads are 600 s of cores; a GPU's are its own.
    make_run(tmp_path / "runs", "mtl", 0, info={"threads": 3, "processes": 2})
    make_run(tmp_path / "runs", "mtl", 1, info={"device": "cuda", "processor": "GPU"})
    make_run(tmp_path / "axes/runs", "seg", 0)
    (tmp_path / "axes/runs/seg/seed0/test.json").unlink()  # unfinished runs took time, too
    results.main(results.parse_args(["--compute", str(tmp_path)]))
    text = (tmp_path / "COMPUTE.md").read_text()
    text = re.sub(" +", " ", text)
    assert "| first study: Fast CPU | 1 | 0.2 | 0.00 |" in text
    assert "| first study: GPU | 1 | 0.0 | 0.03 |" in text
    assert "| axes: Fast CPU | 1 | 0.0 | 0.00 |" in text and "| all | 3 | 0.2 | 0.03 |" in text


def test_time_to_a_result_by_hand(tmp_path):
    for seed, (seconds, dice) in enumerate([(60, 0.89), (120, 0.91), (180, 0.93)]):
        folder = make_run(tmp_path / "runs90", "mtl", seed, epochs=10)
        write_json(folder / "time.json", {"seconds": seconds, "dice_pooled": dice})
    results.main(results.parse_args(["--times", str(tmp_path)]))
    text = (tmp_path / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| 0.9 "))
    # t = 0.01 / (0.02 / sqrt 3) = 0.866 of two degrees of freedom: p = 0.239.
    expected = ["0.9", "10", "3", "2.00 ± 1.00", "0.9100 ± 0.0200", "yes", "0.24", "Fast CPU"]
    assert [cell.strip() for cell in row.strip("|").split("|")] == expected


def test_what_cannot_be_used_is_named_and_left_out(study, tmp_path, no_drawing, capsys):
    root = shutil.copytree(study, tmp_path / "runs")
    (root / "mtl/seed4/test.json").unlink()
    text = run(root, tmp_path / "out")
    assert "mtl/seed4" in capsys.readouterr().err and "- mtl/seed4: " in text
    assert "1 run folder left out" in flat(text)


@pytest.mark.parametrize("words", [["--runs", "nowhere"], ["--runs", "."], ["--out", "file"]])
def test_what_cannot_be_made_is_refused(study, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        results.main(results.parse_args(["--runs", str(study), "--out", "out", *words]))
    assert not (tmp_path / "out").exists()


def test_runs_of_other_data_are_refused(study, tmp_path, no_drawing):
    root = shutil.copytree(study, tmp_path / "runs")
    make_run(root, "own", 0, info={"split_hash": "e" * 16})
    with pytest.raises(InputError, match="own/seed0"):
        run(root, tmp_path / "out")
    change_json(root / "own/seed0/config.json", tasks=["seg", "gone"])
    assert "own/seed0: " in run(root, tmp_path / "out")


@pytest.mark.parametrize("words", [["--alpha", "2"], ["--alpha", "0.05@1"], ["--cost", "mask"]])
def test_wrong_options_are_refused(words):
    with pytest.raises(SystemExit) as stop:
        results.parse_args(words)
    assert stop.value.code == 2
