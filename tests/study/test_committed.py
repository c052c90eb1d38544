"""The studies that come along: pages are what the records give, and docs say what the pages say."""

import csv
import json
import re

import pytest
from conftest import ROOT
from fabricated import cells

import results
from study import figures as study_figures
from study import records
from study.table import EXPERIMENTS

STUDY = ROOT / "results"
OPTIONS = {
    "confirmation2": ("--primary", "official", "--alpha", "0.03@10", "0.02@20"),
    "sixty": ("--noise-of", str(STUDY / "runs")),
}
STUDIES = sorted(path.parent.name for path in STUDY.glob("*/runs"))


@pytest.mark.parametrize("name", [".", *STUDIES])
def test_a_page_is_what_its_records_give_to_the_byte(name, tmp_path, monkeypatch):
    for draw in ("draw_all", "draw_study"):
        monkeypatch.setattr(study_figures, draw, lambda study, folder: None)
    note = STUDY / name / "NOTE.md"
    if note.exists():
        (tmp_path / "NOTE.md").write_bytes(note.read_bytes())
    words = "--runs", str(STUDY / name / "runs"), "--out", str(tmp_path), *OPTIONS.get(name, ())
    results.main(results.parse_args(words))
    for file in ("README.md", "results.csv"):
        made, kept = (tmp_path / file).read_bytes(), (STUDY / name / file).read_bytes()
        assert made == kept, f"run results.py {' '.join(words)}"
    assert (STUDY / name / "PROTOCOL.md").exists()


def test_total_compute_is_what_all_records_give(tmp_path):
    assert results.compute.make_page(STUDY) == (STUDY / "COMPUTE.md").read_text(encoding="utf-8")


def test_every_run_has_its_records_and_nothing_else():
    assert len(list((STUDY / "runs").glob("*/*"))) == 50
    for folder in STUDY.glob("**/runs/*/seed*"):
        names = {path.name for path in folder.iterdir()}
        assert set(records.FILES) <= names <= {*records.FILES, *records.OFFICIAL}


def test_the_table_of_experiments_says_what_their_runs_did():
    assert all(
        f"`python {one.command[0]}" in read("docs/training.md") for one in EXPERIMENTS.values()
    )
    for run in records.read_runs(STUDY / "runs")[0]:
        assert EXPERIMENTS[run.experiment].fits(run.config)
        assert not EXPERIMENTS[run.experiment].fits(run.config | {"weighting": "1-2-3"})


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def test_docs_say_what_the_pages_say():
    docs, page = read("docs/study.md"), read("results/README.md")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*) \|$", docs, re.M)
    assert {name for name, *_ in rows} == set(EXPERIMENTS)
    for name, n, rest in rows:
        dice, points, *_ = (cell.strip() for cell in rest.split("|"))
        source = page if n == "5" else read("results/confirmation/README.md")
        assert [n, dice] == cells(source, "Test Dice", name)[:2]
        if name != "baseline":
            _, mean, interval = cells(source, "Against the baseline", name)
            assert points == f"{mean} ({interval})"


@pytest.mark.parametrize("path", ["README.md", "docs/study.md"])
def test_intervals_in_prose_stand_on_a_page(path):
    pages = " ".join(file.read_text(encoding="utf-8") for file in STUDY.glob("**/README.md"))
    said = re.findall(r"[+-]\d+\.\d\d to [+-]\d+\.\d\d|\d+ \(\d+ to \d+\)", read(path))
    assert said and [interval for interval in said if interval not in pages] == []


def test_the_pilot_of_the_masks_study_is_what_its_records_say():
    pilot = STUDY / "masks/pilot"
    pattern = r"^\| (\w+_[\d._]+) \| [\w ]+ \| [\d.]+ \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$"
    rows = re.findall(pattern, read("results/masks/PROTOCOL.md"), re.M)
    assert sorted(row[0] for row in rows) == sorted(path.name for path in pilot.iterdir())
    for name, epochs, best_epoch, best, last in rows:
        folder = pilot / name / "seed100"
        assert json.loads((folder / "config.json").read_text())["options"]["masks"] == 100
        with open(folder / "log.csv", newline="", encoding="utf-8") as file:
            values = [100 * float(row["val_dice"]) for row in csv.DictReader(file)]
        assert (len(values), values.index(max(values)) + 1) == (int(epochs), int(best_epoch))
        assert (f"{max(values):.2f}", f"{values[-1]:.2f}") == (best, last)
        assert not (folder / "test.json").exists()  # nothing was measured on the test split
