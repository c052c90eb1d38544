"""What --tiles and --mirror bring, measured on pictures made by rule: the pictures by hand, and the table on a tiny budget."""

import json
import sys

import pytest
import torch
from conftest import ROOT

import registry
from models import MTLNet
from training import checkpoint

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_looking  # noqa: E402  (the path comes first)


def test_a_pet_on_another_ground_by_hand():
    sample = {
        "image": torch.full((3, 8, 8), 200, dtype=torch.uint8),
        "seg": torch.zeros(1, 8, 8, dtype=torch.uint8),
        "cls": torch.tensor(1),
        "bbox": torch.tensor([0.25, 0.25, 0.75, 0.5]),
    }
    sample["seg"][0, 2:6, 2:6] = 1
    ground = torch.full((3, 8, 8), 40, dtype=torch.uint8)
    found = bench_looking.pasted(
        registry.tasks(["seg", "cls", "bbox"]), sample, ground, 3, 0.5, 1.0
    )
    left, top = 8, 16  # half and all of the 16 pixels of room
    assert found["image"].shape == (3, 24, 24) and found["seg"].sum() == 16
    assert (found["seg"][0, top + 2 : top + 6, left + 2 : left + 6] == 1).all()
    assert (found["image"][:, top + 3 : top + 5, left + 3 : left + 5] == 200).all() and (
        found["image"][:, :top] == 40
    ).all()
    assert found["cls"] == 1
    assert (found["bbox"] * 24).tolist() == pytest.approx(
        [left + 2, top + 2, left + 6, top + 4], abs=1e-4
    )


def test_a_collage_by_hand():
    samples = [
        {
            "image": torch.full((3, 2, 2), k, dtype=torch.uint8),
            "seg": torch.full((1, 2, 2), k % 2, dtype=torch.uint8),
        }
        for k in range(4)
    ]
    found = bench_looking.collage(samples, 2)
    assert found["image"][0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert found["seg"][0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]] * 2


def test_the_table(capsys, data, tmp_path):
    tasks = ("seg", "cls", "bbox")
    torch.manual_seed(0)
    content = {
        "model": MTLNet(tasks, width=2).state_dict(),
        "tasks": list(tasks),
        "width": 2,
        "metrics": {},
        "experiment": "mtl",
        "seed": 0,
        "split_hash": "",
        "border": "pet",
        "trained_on": torch.zeros(0, dtype=torch.int64),
        "size": 64,
    }
    checkpoint.save(content, tmp_path / "net.pt")
    options = ["--data", str(data), "--checkpoint", str(tmp_path / "net.pt"), "--limit", "2"]
    bench_looking.main(bench_looking.parse_args(options))
    lines = capsys.readouterr().out.strip().splitlines()
    results = json.loads(lines[-1])
    assert results["n"] == 2 and results["time"]["the whole alone"] == 1 < results["time"]["both"]
    assert list(results["pictures"]) == list(bench_looking.PICTURES)
    for picture, ways in results["pictures"].items():
        shows_one = picture in bench_looking.TIMES
        for figures in ways.values():
            assert set(figures) == {"dice", *(bench_looking.FIGURES if shows_one else ())}
            assert all(0 <= value <= 1 for value in figures.values())
    assert sum(line.startswith("| ") for line in lines) == 2 + 4 * 3
