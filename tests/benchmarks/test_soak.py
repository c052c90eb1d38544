"""The soak: a little of it, and that it finds what it looks for."""

import json
import sys

import pytest
import torch
import warm
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="soak.py runs on Linux")

sys.path.insert(0, str(ROOT / "benchmarks"))

import damage  # noqa: E402  (the path comes first)
import reference  # noqa: E402
import soak  # noqa: E402


@pytest.mark.slow
def test_runs_that_were_killed_and_files_that_were_damaged(tmp_path):
    """A try of every phase and two of every kind of damage."""
    options = "--kills", "6", "--damage", "14"
    done = warm.cold_script("benchmarks/soak.py", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["kills"].keys() == {"train", "rechunk", "train in two", "prepare", "evaluate"}
    assert len(results["damage"]) == 7 and results["failures"] == 0
    refused = sum(count.get("refused", 0) for count in results["damage"].values())
    assert refused > 3
    assert list(tmp_path.iterdir()) == []


def test_a_difference_of_one_bit_is_found(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    weights = torch.tensor([1.0, 2.0])
    for folder, values in ((a, weights), (b, weights.nextafter(torch.tensor(9.0)))):
        folder.mkdir()
        for name in ("last.pt", "best.pt"):
            torch.save({"model": {"w": weights}, "seconds": id(folder)}, folder / name)
        torch.save({"model": {"w": values}}, folder / "best.pt")
        (folder / "test.json").write_text(json.dumps({"dice": 0.5, "train_seconds": id(folder)}))
        for name in ("log.csv", "test_per_image.csv"):
            (folder / name).write_text("epoch,loss\n1,0.5\n")
    assert reference.different_run(a, a) is None
    assert reference.different_run(a, b) == "best.pt, model"
    (b / "best.pt").unlink()
    assert "best.pt" in reference.different_run(a, b)


def test_a_record_that_is_cut_off_cannot_be_read(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,loss\n1,0.5\n2\n")
    with pytest.raises(ValueError):
        reference.read(tmp_path / "log.csv")


@pytest.mark.parametrize(
    "status, err, expect, wrong",
    [
        (0, "", "any", None),
        (2, "evaluate.py: the file is wrong", "refuse", None),
        (0, "a.py: warning: so", "any", None),
        (None, "", "any", "hangs"),
        (-11, "", "any", "-11"),
        (1, "", "any", "status 1"),
        (0, "Traceback (most recent call last)", "any", "none of ours"),
        (0, "a.py: warning: so\nlib.c: Warning", "any", "lib.c"),
        (2, "", "any", "why"),
        (0, "", "refuse", "not refused"),
        (0, "", lambda outcome: "odd", "odd"),
    ],
)
def test_what_is_wrong_with_an_outcome(status, err, expect, wrong, tmp_path):
    found = damage.judge(warm.Outcome(status, "", err, 0.1), expect, tmp_path)
    assert found is None if wrong is None else wrong in found


def test_the_soak_has_to_be_told_what_to_do():
    for words in ([], ["--kills", "-1"]):
        with pytest.raises(SystemExit) as end:
            soak.parse_args(words)
        assert end.value.code == 2
