"""The benchmarks on tiny budgets: what they print, never how fast they are."""

import json
import math
import shutil
import sys

import pytest
import torch
from conftest import ROOT, rechunk, write_data
from torch.utils.flop_counter import FlopCounterMode
from warm import run_script

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_data  # noqa: E402  (the path comes first)
import bench_predict  # noqa: E402
import bench_quality  # noqa: E402
import bench_train  # noqa: E402
import common  # noqa: E402

from cli import InputError  # noqa: E402
from models import count_parameters  # noqa: E402


@pytest.fixture
def place(data, tmp_path):
    """The small data folder under a path whose neighbourhood may be written to."""
    (tmp_path / "pets").symlink_to(data)
    return tmp_path


def run(module, capsys, *options):
    """The last line that a benchmark prints, as JSON."""
    module.main(module.parse_args([str(option) for option in options]))
    lines = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("| -") for line in lines)
    return json.loads(lines[-1])


def assert_positive(values):
    for value in values:
        assert math.isfinite(value) and value > 0


def test_the_reference_is_the_published_network():
    with torch.device("meta"):
        model, image = bench_train.Published(), torch.empty(2, 3, 256, 256, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        outputs = model(image)
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(14.2, abs=0.05)
    assert count_parameters(model) / 1e6 == pytest.approx(3.7, abs=0.1)
    shapes = {task: tuple(value.shape) for task, value in outputs.items()}
    assert shapes == {"seg": (2, 1, 256, 256), "cls": (2, 2), "bbox": (2, 4)}


@pytest.mark.slow
def test_train(capsys, tmp_path):
    large = write_data(tmp_path / "pets", {"train": 4, "val": 1, "test": 1}, size=256)
    results = run(bench_train, capsys, "--data", rechunk(large), "--rounds", 1, "--batch-size", 2)
    speeds = results["images_per_second"]
    assert_positive(speeds.values())
    assert {bench_train.PUBLISHED, "ours, fp32"} < speeds.keys()
    best = max(speed for name, speed in speeds.items() if name.startswith("ours"))
    assert results["ratio"] == pytest.approx(best / speeds[bench_train.PUBLISHED], rel=2e-3)


@pytest.mark.parametrize("name", [bench_train.PUBLISHED, "ours, fp32", bench_train.PEER])
def test_every_network_takes_a_step(name, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_train, "STEPS", 1)
    large = write_data(tmp_path / "pets", {"train": 2, "val": 1, "test": 1}, size=256)
    bench_train.make_step(name, rechunk(large), 2)()


def test_train_refuses_data_of_another_side(data):
    with pytest.raises(InputError, match="64 px"):
        bench_train.main(bench_train.parse_args(["--data", str(data)]))


def test_data(place, capsys):
    before = (place / "pets" / "train" / "images.h5").read_bytes()
    options = "--data", place / "pets", "--rounds", 1, "--batch-size", 4, "--n", 20
    results = run(bench_data, capsys, *options)
    assert_positive(results["images_per_second"].values())
    assert_positive(results["ratio_copy"])
    assert results["n"] == [20, 40, 80]
    assert (place / "pets" / "train" / "images.h5").read_bytes() == before
    assert [path.name for path in place.iterdir()] == ["pets"]


@pytest.mark.slow
def test_predict(capsys, monkeypatch, tmp_path, trained):
    monkeypatch.setattr(common, "CACHE", tmp_path / "datasets" / "pets")
    checkpoint = trained("train_mtl.py") / "mtl/seed0/best.pt"
    options = "--n", 10, "--calls", 1, "--checkpoint", checkpoint
    results = run(bench_predict, capsys, *options)
    assert results["n"] == [1, 10] and min(results["peak_mb"]) > 50
    assert results["photographs_per_second"] > 0
    assert list((tmp_path / "datasets").iterdir()) == []


# --------------------------------------------------------------------------------- time to a result


TINY = ["--batch-size", "8", "--width", "2", "--resize-schedule", "64:1", "--precision", "fp32"]


@pytest.fixture
def quality(data, tmp_path, monkeypatch):
    """Its words for two seeds of one tiny epoch, whose scripts run in warm processes."""

    def run_warm(script, *options):
        outcome = run_script(script, *options)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    monkeypatch.setattr(bench_quality, "run", run_warm)
    words = ["--data", str(data), "--runs", str(tmp_path), "--seeds", "3-4", "--epochs", "1"]
    return [*words, "--target", "0.5", "--", *TINY]


def test_quality_makes_its_row_of_records_that_it_goes_on_from(quality, tmp_path, capsys):
    first = run(bench_quality, capsys, *quality)
    assert first["n"] == 2 and first["epochs"] == 1 and 0 <= first["p"] <= 1
    assert_positive([*first["seconds"], first["dice_pooled"][0]])
    logs = sorted(tmp_path.glob("mtl/*/log.csv"))
    before = [path.stat().st_mtime_ns for path in logs]
    (tmp_path / "mtl/seed4/time.json").unlink()  # as if it had been interrupted
    with pytest.raises(InputError, match="seed4"):
        run(bench_quality, capsys, *quality)
    shutil.rmtree(tmp_path / "mtl/seed4")
    again = run(bench_quality, capsys, *quality)
    assert again["dice_pooled"] == first["dice_pooled"]
    now = [path.stat().st_mtime_ns for path in logs]
    assert now[0] == before[0] and now[1] > before[1]
    with pytest.raises(InputError, match="seed3"):
        run(bench_quality, capsys, *quality, "--lr", "0.1")
    # Of one epoch the last is the chosen one.
    record = json.loads((tmp_path / "mtl/seed3/time.json").read_text())
    test = json.loads((tmp_path / "mtl/seed3/test.json").read_text())
    assert record["dice_pooled"] == pytest.approx(test["dice_pooled"], abs=1e-5)


def test_p_of_the_target_by_hand():
    # t = 0.02 / (0.01 / sqrt(3)) = 3.464 with 2 degrees of freedom: one-sided p 0.0371
    assert bench_quality.p_of_target([0.91, 0.92, 0.93], 0.90) == pytest.approx(0.0371, abs=1e-4)
    assert bench_quality.p_of_target([0.87, 0.88, 0.89], 0.90) == pytest.approx(0.9629, abs=1e-4)
    assert bench_quality.p_of_target([0.91], 0.90) is None


def test_quality_takes_ranges_of_seeds_and_the_targets_of_its_protocol():
    parse = bench_quality.parse_args
    args = parse(["--data", "d", "--seeds", "0-9", "--epochs", "40", "--", "--threads", "1"])
    assert list(args.seeds) == list(range(10)) and args.target == 0.93
    assert args.options[-2:] == ["--threads", "1"] and "muon" in args.options
    for words in (["--seeds", "9-0"], ["--seeds", "x"], ["--epochs", "7"]):
        with pytest.raises(SystemExit):
            parse(["--data", "d", *words])


# ------------------------------------------------------------------------------------------- common


@pytest.mark.parametrize("tick", [1.0, 1000.0])
def test_timing_in_turns_gives_medians_of_whatever_the_clock_says(monkeypatch, tick):
    clock, calls = [0.0], []
    durations = {"slow": iter([90, 6, 2, 4]), "fast": iter([50, 1, 3, 2])}

    def make(name):
        def way():
            calls.append(name)
            clock[0] += tick * next(durations[name])

        return way

    def before(name):
        calls.append(f"before {name}")
        clock[0] += 77

    monkeypatch.setattr(common.time, "perf_counter", lambda: clock[0])
    seconds = common.interleave({name: make(name) for name in durations}, 3, before)
    assert seconds == {"slow": 4 * tick, "fast": 2 * tick}
    assert calls == ["before slow", "slow", "before fast", "fast"] * 4


def test_numbers_are_printed_with_four_digits(capsys):
    common.print_results({"a": [1.23456, (2, 98765.4321)], "b": None})
    assert json.loads(capsys.readouterr().out) == {"a": [1.235, [2, 98770.0]], "b": None}
    cells = [common.text(cell) for cell in (0.123456, 12.3456, 12345.6, 7, None)]
    assert cells == ["0.1235", "12.35", "12,346", "7", ""]


def test_every_benchmark_shows_its_command():
    scripts = [*(ROOT / "benchmarks").glob("bench_*.py"), ROOT / "benchmarks" / "soak.py"]
    for path in scripts:
        assert f"python benchmarks/{path.name}" in path.read_text(encoding="utf-8")
