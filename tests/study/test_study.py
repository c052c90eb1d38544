"""The study that comes along: its page is what its records give, and README.md and docs/study.md say what the page says."""

import re
import subprocess
import sys

import matplotlib
import pytest
from conftest import ROOT
from test_results import cells

import results
from study import records
from study.table import EXPERIMENTS

STUDY = ROOT / "results"
OTHERS = sorted(path.parent.name for path in STUDY.glob("*/runs"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page, made again without the figures."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw_all", lambda rows, folder: None)
        results.main(results.parse_args(["--runs", str(STUDY / "runs"), "--out", str(out)]))
    return out


def test_the_page_is_what_the_records_give_to_the_byte(page):
    for name in ("README.md", "results.csv"):
        assert (page / name).read_bytes() == (STUDY / name).read_bytes(), (
            f"{name}: run results.py --runs results/runs"
        )


@pytest.mark.parametrize("study", OTHERS)
def test_the_pages_of_other_studies_are_what_their_records_give(study, tmp_path, monkeypatch):
    for draw in ("draw_all", "draw_study"):
        monkeypatch.setattr(results, draw, lambda rows, folder: None)
    results.main(
        results.parse_args(["--runs", str(STUDY / study / "runs"), "--out", str(tmp_path)])
    )
    for name in ("README.md", "results.csv"):
        assert (tmp_path / name).read_bytes() == (STUDY / study / name).read_bytes(), (
            f"{study}/{name}: run results.py again"
        )
    assert (STUDY / study / "PROTOCOL.md").exists()


def test_every_run_has_its_four_records_and_nothing_else():
    assert len(list((STUDY / "runs").glob("*/*"))) == 50
    for folder in STUDY.glob("**/runs/*/*"):
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "log.csv",
            "test.json",
            "test_per_image.csv",
        }


def test_the_figures_are_what_the_records_give_to_the_byte(tmp_path):
    """Where matplotlib is the one that drew them; another letters and lays out in its own way."""
    drawn_with = set(
        re.findall(r"matplotlib ([\w.]+)", (STUDY / "README.md").read_text(encoding="utf-8"))
    )
    if drawn_with != {matplotlib.__version__}:
        pytest.skip(f"the figures are of matplotlib {', '.join(drawn_with)}")
    results.draw_all(results.rows_of(records.read_runs(STUDY / "runs")[0]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in STUDY.glob("*.png")
    )
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (STUDY / path.name).read_bytes(), path.name


def test_the_table_of_experiments_is_readmes():
    done = subprocess.run(
        [sys.executable, "-m", "study.table"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(done.stdout.splitlines()) == 2 + len(EXPERIMENTS)


def test_the_table_of_experiments_says_what_their_runs_did():
    for run in records.read_runs(STUDY / "runs")[0]:
        assert EXPERIMENTS[run.experiment].fits(run.config)
        assert not EXPERIMENTS[run.experiment].fits(run.config | {"weighting": "1-2-3"})


def test_docs_say_what_the_page_says():
    docs, page = (
        path.read_text(encoding="utf-8") for path in (ROOT / "docs/study.md", STUDY / "README.md")
    )
    answer = docs.partition("## The answer\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`:", answer, re.M)) == sorted(EXPERIMENTS)
    for name, experiment in EXPERIMENTS.items():
        assert f"\n| `{name}`: {experiment.words} |" in answer
        _, *figures, points, verdict, there, corrected = (
            cell.strip() for cell in re.search(rf"^\| (`{name}`.*) \|$", answer, re.M)[1].split("|")
        )
        assert figures == cells(page, "Test Dice", name)
        assert [there, corrected] == cells(page, "Beside the published study", name)[1:]
        if name == "baseline":
            assert points == verdict == ""
            continue
        n, mean, interval = cells(page, "Against the baseline", name)
        assert (points, n) == (f"{mean} ({interval})", figures[0])
        said = re.search(rf"\*\*{name}:? ([a-z ]+)\*\*", page.replace("\n  ", " "))[1]
        assert verdict == said


def test_docs_and_readme_say_what_the_page_of_the_confirmation_says():
    docs, readme, page = (
        path.read_text(encoding="utf-8")
        for path in (ROOT / "docs/study.md", ROOT / "README.md", STUDY / "confirmation/README.md")
    )
    table = docs.partition("## The confirmation\n")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", table, re.M)
    assert names == ["baseline", "ablation_cls", "ablation_bbox", "split_75_15_15"]
    answer = readme.partition("## All masks: the answer\n")[2].partition("\n2. ")[0]
    for name in names:
        n, dice, points, p, verdict = (
            cell.strip()
            for cell in re.search(rf"^\| `{name}` \| (.*) \|$", table, re.M)[1].split("|")
        )
        assert [n, dice] == cells(page, "Test Dice", name)[:2]
        if name == "baseline":
            assert points == p == verdict == ""
            continue
        pairs, mean, interval = (
            re.findall(rf"^\| {name} .*$", page, re.M)[1].strip("| ").split("|")[1:]
        )
        assert (points, n) == (f"{mean.strip()} ({interval.strip()})", pairs.strip())
        assert p == re.findall(rf"^\| {name} .*$", page, re.M)[2].split("|")[3].strip()
        assert f"**{name} {verdict}**" in page
        assert mean.strip()[1:] in answer
    assert set(re.findall(r"[+-]\d\.\d\d to [+-]\d\.\d\d", table)) <= set(
        re.findall(r"[+-]\d\.\d\d to [+-]\d\.\d\d", page)
    )


@pytest.mark.parametrize(
    "path, heading",
    [
        ("README.md", "## How many masks is a label worth?"),
        ("docs/study.md", "## How many masks a label is worth"),
    ],
)
def test_docs_and_readme_say_what_the_page_of_the_masks_study_says(path, heading):
    page = " ".join(
        (STUDY / "masks/README.md").read_text(encoding="utf-8").replace("|", " ").split()
    )
    said = " ".join(
        (ROOT / path)
        .read_text(encoding="utf-8")
        .partition(f"{heading}\n")[2]
        .partition("\n## ")[0]
        .split()
    )
    gains = re.findall(
        r"[+-]\d+\.\d\d to [+-]\d+\.\d\d|[+-]\d+\.\d\d", said
    )  # intervals, and figures by themselves
    assert len(gains) >= 6 and [gain for gain in gains if gain not in page] == []
    assert all(f"Holm p {p}" in page or f" {p} " in page for p in re.findall(r"\bp (0\.\d+)", said))
    assert all(span in page for span in re.findall(r"\d+ \(\d+ to \d+\)", said))
    runs = re.search(r"(\d+) (?:of its|runs of) (\d+)", said)
    assert f"Runs: {runs[1]}," in page and runs[2] == "375"
