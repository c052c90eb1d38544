"""A run trained again from its config.json, by the real scripts: the same to the last digit, or what differs."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, rechunk, write_data
from fabricated import change_json

import experiments
from cli import InputError
from study import repeat


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """The runs folder of two runs of two epochs, trained with --threads and --precision left to be found out."""
    runs = tmp_path_factory.mktemp("first") / "runs"
    for command in (("train_baseline.py",), ("oeq_splits.py", "--split", "50-25-25")):
        done = subprocess.run(
            [
                sys.executable,
                ROOT / command[0],
                *command[1:],
                "--data",
                data,
                "--runs",
                runs,
                "--epochs",
                "2",
                "--batch-size",
                "8",
                "--width",
                "2",
                "--seed",
                "3",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return runs


@pytest.fixture
def run(first, tmp_path):
    """A copy of the baseline run, to be changed."""
    return shutil.copytree(first / "baseline/seed3", tmp_path / "runs/baseline/seed3")


def again(place, *args):
    return subprocess.run(
        [sys.executable, ROOT / "experiments.py", "--repeat", *args],
        cwd=place,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )


def test_runs_repeated_are_the_same_to_the_last_digit(first, tmp_path):
    """The number of threads that the environment asks for is another; the recorded one counts."""
    done = again(tmp_path, first / "baseline/seed3", first / "split_50_25_25/seed3")
    assert done.returncode == 0, done.stderr
    for name in ("baseline", "split_50_25_25"):
        assert f"repeated/{name}/seed3 is the same as" in done.stdout
        old, new = (
            json.loads((runs / name / "seed3/test.json").read_text())
            for runs in (first, tmp_path / "repeated")
        )
        assert all(
            new[key] == value
            for key, value in old.items()
            if key not in ("train_seconds", "images_per_second")
        )
    config = json.loads((tmp_path / "repeated/baseline/seed3/config.json").read_text())
    assert (config["threads"], config["options"]["threads"]) == (1, 1)
    assert config["options"]["precision"] == config["precision"] != "auto"


def test_a_run_of_train_py_is_repeated_with_its_tasks_weighting_and_masks(rich, tmp_path):
    options = [
        "--tasks",
        "seg",
        "column:breed",
        "distance",
        "--weighting",
        "uncertainty",
        "--masks",
        "8",
        "--name",
        "mine",
        "--data",
        str(rich),
        "--runs",
        "first",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--width",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    done = again(tmp_path, "first/mine/seed0")
    assert done.returncode == 0, done.stderr
    assert "repeated/mine/seed0 is the same as first/mine/seed0 to the last digit" in done.stdout
    old, new = (
        json.loads((tmp_path / runs / "mine/seed0/config.json").read_text())
        for runs in ("first", "repeated")
    )
    assert [new[key] for key in ("tasks", "weighting", "settings", "taught")] == [
        old[key] for key in ("tasks", "weighting", "settings", "taught")
    ] and new["options"]["masks"] == 8


@pytest.mark.parametrize(
    "config, words",
    [
        (
            {"experiment": "mtl", "tasks": ["seg", "cls", "bbox"], "weighting": "equal"},
            "train_mtl.py",
        ),
        (
            {"experiment": "split_80_10_10", "tasks": ["seg", "cls", "bbox"]},
            "oeq_splits.py --split 80-10-10",
        ),
        (
            {
                "experiment": "split_60_20_20",
                "tasks": ["seg", "cls", "bbox"],
                "weighting": "60-20-20",
            },
            "train.py --name=split_60_20_20 --weighting=60-20-20 --tasks seg cls bbox",
        ),
        (
            {"experiment": "mtl", "tasks": ["seg", "recon"], "weighting": "equal"},
            "train.py --name=mtl --weighting=equal --tasks seg recon",
        ),
        (
            {
                "experiment": "mtl",
                "tasks": ["seg", "cls", "bbox"],
                "weighting": "equal",
                "sharing": "mtan",
                "encoder": "efficientnet_lite0",
                "encoder_weights": "0" * 64,
                "encoder_weights_from": "package",
                "encoder_lr": 0.0001,
                "encoder_bn": "train",
            },
            "train.py --name=mtl --weighting=equal --sharing=mtan --encoder=efficientnet_lite0 --encoder-weights=package --encoder-lr=0.0001 "
            "--tasks seg cls bbox",
        ),
    ],
    ids=str,
)
def test_a_run_is_repeated_by_its_experiments_script_or_else_by_train_py(tmp_path, config, words):
    assert repeat.command(tmp_path, config) == words.split()


def test_a_finished_run_of_other_tasks_is_not_that_of_the_table(run):
    assert repeat.other_options(run, []) == []
    change_json(run / "config.json", tasks=["seg", "recon"])
    assert repeat.other_options(run, []) == ["it trained seg, recon under the weighting equal"]
    change_json(run / "config.json", tasks=["seg"], sharing="soft")
    assert repeat.other_options(run, []) == [
        "it trained seg under the weighting equal, sharing soft"
    ]


@pytest.mark.parametrize(
    "recorded, asked, found",
    [
        (50, "50", []),
        (50, "60", ["--masks was 50 and is 60"]),
        (None, "60", ["--masks was None and is 60"]),
    ],
)
def test_other_numbers_of_masks_are_other_runs(run, recorded, asked, found):
    """None: as an earlier version wrote it, which does not know the option."""
    options = json.loads((run / "config.json").read_text())["options"]
    options.pop("masks")
    change_json(run / "config.json", options=options | ({"masks": recorded} if recorded else {}))
    assert repeat.other_options(run, ["--masks", asked]) == found


@pytest.mark.parametrize(
    "recorded, asked, found",
    [
        ("unsaid", "adamw", []),
        (None, "adamw", []),
        ("muon", "muon", []),
        ("unsaid", "muon", ["--optimizer was None and is muon"]),
        (None, "muon", ["--optimizer was None and is muon"]),
        ("muon", "adamw", ["--optimizer was muon and is adamw"]),
    ],
)
def test_runs_of_other_optimizers_are_other_runs(run, recorded, asked, found):
    """An earlier version had AdamW alone, and does not say so."""
    options = json.loads((run / "config.json").read_text())["options"]
    options.pop("optimizer", None)
    change_json(
        run / "config.json",
        options=options | ({} if recorded == "unsaid" else {"optimizer": recorded}),
    )
    assert repeat.other_options(run, ["--optimizer", asked]) == found


def test_what_differs_is_named_and_in_what_the_runs_were_not_alike(run, tmp_path):
    dice = json.loads((run / "test.json").read_text())["dice"]
    change_json(run / "test.json", dice=dice + 1e-15)
    change_json(run / "config.json", commit="abc")
    lines = (run / "log.csv").read_text().splitlines()
    header = lines[0].split(",")
    row = lines[2].split(",")
    row[header.index("train_loss_seg")] += "1"
    (run / "log.csv").write_text("\n".join([*lines[:2], ",".join(row)]) + "\n")
    done = again(tmp_path, run)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for words in (
        f"dice was {dice + 1e-15} and is {dice}",
        "log.csv differs in 1 of 2 rows, first in epoch 2",
        "Not alike were: commit was abc and is",
    ):
        assert words in done.stdout
    assert (
        "test_per_image" not in done.stdout
        and "1 of 1 repetitions differ: baseline seed 3" in done.stderr
    )


def test_times_make_no_difference(run, first):
    change_json(run / "test.json", train_seconds=1e6)
    with open(run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(run / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            row | {"seconds": "9", "waiting": "0.5", "images_per_second": "1"} for row in rows
        )
    assert repeat.differences(run, first / "baseline/seed3") == []
    (run / "log.csv").write_text("")
    assert repeat.differences(run, first / "baseline/seed3") == ["log.csv had 0 rows and has 2"]


def refused(words, folder, *options):
    args = experiments.parse_args(["--repeat", str(folder), "--", *options])
    with pytest.raises(InputError, match=words):
        experiments.main(args)


def test_what_cannot_be_repeated_is_refused_before_anything_is_trained(
    run, first, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "perform_all", None)
    refused(
        "would be that folder itself; name another place", run, "--runs", str(tmp_path / "runs")
    )
    refused("is no finished run .*test.json", tmp_path / "runs/baseline")
    other = rechunk(write_data(tmp_path / "pets", {"train": 4, "val": 2, "test": 2}, seed=9))
    refused("has the split hash .*was trained on", run, "--data", str(other))
    change_json(run / "config.json", experiment="my_own")
    refused("differ in experiment", run)
    change_json(run / "config.json", weighting=None)
    refused("a run of 'my_own', .* does not say the weighting .*name one of mtl, baseline", run)
    change_json(run / "config.json", tasks=[3])
    refused("config.json is damaged", run)
    change_json(run / "config.json", options=[])
    refused("config.json is damaged", run)
    (run / "config.json").write_text("{")
    refused("config.json is damaged", run)
    assert not (tmp_path / "repeated").exists()


@pytest.mark.parametrize(
    "damage, words",
    [
        (
            lambda run: change_json(run / "config.json", experiment=["mtl"]),
            "config.json is damaged",
        ),
        (
            lambda run: change_json(run / "test.json", dice="0.9"),
            "cannot be repeated: dice in test.json is '0.9'",
        ),
        (lambda run: (run / "log.csv").write_text("\0"), "cannot be repeated: log.csv"),
        (
            lambda run: (run / "test_per_image.csv").write_text("name\n"),
            "cannot be repeated: test_per_image.csv",
        ),
    ],
    ids=["experiment", "test.json", "log.csv", "test_per_image.csv"],
)
def test_records_that_could_not_be_compared_are_refused_first(
    run, tmp_path, monkeypatch, damage, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "perform_all", None)
    damage(run)
    refused(words, run)
