"""The study that comes along: its page is what its records give, and README.md says of it what the page says."""

import re

import pytest
from test_results import cells

import results
from conftest import ROOT
from study.page import PUBLISHED

STUDY = ROOT / "results"


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
        assert (page / name).read_bytes() == (STUDY / name).read_bytes(), f"results/{name}: run results.py --runs results/runs"


def test_every_run_has_its_four_records_and_nothing_else():
    runs = [folder for row in (STUDY / "runs").iterdir() for folder in row.iterdir()]
    assert len(runs) == 40
    for folder in runs:
        assert {path.name for path in folder.iterdir()} == {"config.json", "log.csv", "test.json", "test_per_image.csv"}


def test_readme_says_what_the_page_says():
    readme, page = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", STUDY / "README.md"))
    answer = readme.partition("## The answer\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`:", answer, re.M)) == sorted(PUBLISHED)
    for name in PUBLISHED:
        _, *figures, points, verdict, there, corrected = (
            cell.strip() for cell in re.search(rf"^\| (`{name}`.*) \|$", answer, re.M)[1].split("|"))
        assert figures == cells(page, "Test Dice", name)
        assert [there, corrected] == cells(page, "Beside the published study", name)[1:]
        if name == "baseline":
            assert points == verdict == ""
            continue
        n, mean, interval = cells(page, "Against the baseline", name)
        assert (points, n) == (f"{mean} ({interval})", figures[0])
        said = re.search(rf"\*\*{name}:? ([a-z ]+)\*\*", page.replace("\n  ", " "))[1]
        assert verdict == said
