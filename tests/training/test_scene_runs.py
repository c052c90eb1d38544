"""Runs with scenes: resumed bit for bit, recorded, and taught by pictures without a pet."""

import json

import pytest
from conftest import rechunk, write_data
from tiny import TINY, assert_same_weights, log, result, weights

import train
from training import engine


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return rechunk(
        write_data(tmp_path_factory.mktemp("scenes") / "pets", {"train": 24, "val": 6, "test": 6})
    )


def run(split, runs, *more):
    train.main(
        train.parse_args(
            [
                "--data",
                str(split),
                "--runs",
                str(runs),
                *TINY,
                "--tasks",
                "seg",
                "cls",
                "bbox",
                "--name",
                "wild",
                *more,
            ]
        )
    )
    return runs / "wild/seed0"


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(split, tmp_path, monkeypatch):
    whole, original, calls = run(split, tmp_path / "whole", "--scenes", "all"), engine.step, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "step", stopping)
        run(split, tmp_path / "cut", "--scenes", "all")
    cut = run(split, tmp_path / "cut", "--scenes", "all", "--resume", "--workers", "1")
    assert result(cut) == result(whole) and log(cut) == log(whole)
    assert_same_weights(weights(cut), weights(whole))
    assert json.loads((whole / "config.json").read_text())["options"]["scenes"] == "all"


def test_scenes_change_what_is_learned_and_not_what_is_measured(split, tmp_path):
    plain, empty = (
        run(split, tmp_path / "plain"),
        run(split, tmp_path / "empty", "--scenes", "empty"),
    )
    assert log(plain)[0]["train_loss_seg"] != log(empty)[0]["train_loss_seg"]
    columns = [
        [line.split(",")[4:5] for line in (folder / "test_per_image.csv").read_text().splitlines()]
        for folder in (plain, empty)
    ]
    assert columns[0][0] == ["target"] and columns[0] == columns[1]
