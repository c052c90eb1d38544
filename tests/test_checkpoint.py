"""Checkpoints: round trips, half precision, damage, and files from strangers."""

import os
import pickle

import pytest
import torch

import checkpoint
from cli import InputError
from models import MTLNet, TASKS


def content(width=2, tasks=TASKS):
    return {"model": MTLNet(tasks, width=width, seed=1).state_dict(), "tasks": list(tasks), "width": width, "size": 64,
            "metrics": {"dice": 0.5, "box_iou": None}, "experiment": "mtl", "seed": 1, "split_hash": "0" * 16, "border": "pet"}


def test_a_round_trip_gives_the_same_network(tmp_path):
    saved = content()
    checkpoint.save(saved, tmp_path / "best.pt")
    model, info = checkpoint.load_model(tmp_path / "best.pt")
    assert not model.training and info["metrics"] == saved["metrics"] and "model" not in info
    assert all(torch.equal(value, saved["model"][name]) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_the_half_precision_copy_is_half_the_size_and_nearly_the_same(tmp_path):
    saved = content(width=8)
    checkpoint.save(saved, tmp_path / "best.pt")
    checkpoint.main(checkpoint.parse_args([str(tmp_path / "best.pt"), str(tmp_path / "small.pt")]))
    assert (tmp_path / "small.pt").stat().st_size < 0.55 * (tmp_path / "best.pt").stat().st_size
    model, _ = checkpoint.load_model(tmp_path / "small.pt")
    for name, value in model.state_dict().items():
        assert torch.allclose(value.float(), saved["model"][name].float(), rtol=1e-3, atol=1e-6)


def test_the_default_network_fits_the_16_mb_of_the_shared_file(tmp_path):
    checkpoint.save(content(width=16), tmp_path / "best.pt")
    checkpoint.main(checkpoint.parse_args([str(tmp_path / "best.pt"), str(tmp_path / "mtl_model.pt")]))
    assert (tmp_path / "mtl_model.pt").stat().st_size < 16e6


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(content(), tmp_path / "best.pt")
    before = (tmp_path / "best.pt").read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        checkpoint.save(content(width=3), tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class Harmful:
    """What a stranger's pickle could do."""
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def write_stranger(path):
    torch.save({**content(), "metrics": Harmful()}, path)


def write_pickle(path):
    path.write_bytes(pickle.dumps(Harmful()))


def write_truncated(path):
    checkpoint.save(content(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def write_flipped(path):
    checkpoint.save(content(), path)
    data = bytearray(path.read_bytes())
    data[: 64] = bytes(64)
    path.write_bytes(data)


def write_other_keys(path):
    torch.save({"state_dict": {}}, path)


def write_other_width(path):
    checkpoint.save({**content(width=3), "width": 2}, path)


def write_other_tasks(path):
    checkpoint.save({**content(tasks=("seg",)), "tasks": list(TASKS)}, path)


@pytest.mark.parametrize("write", [
    lambda path: None, lambda path: path.write_text("not a checkpoint"), lambda path: path.write_bytes(b""), lambda path: path.mkdir(),
    lambda path: torch.save(torch.zeros(3), path), write_stranger, write_pickle, write_truncated, write_flipped, write_other_keys,
    write_other_width, write_other_tasks,
], ids=["missing", "text", "empty", "folder", "tensor", "stranger", "pickle", "truncated", "damaged", "keys", "width", "tasks"])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pt")
    with pytest.raises(InputError) as error:
        checkpoint.load_model(tmp_path / "x.pt")
    assert "x.pt" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "harmed").exists()


def test_the_network_to_use_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="train_mtl.py"):
        checkpoint.find()
    for seed, age in ((0, 100), (1, 50), (2, 200)):
        folder = tmp_path / f"runs/mtl/seed{seed}"
        folder.mkdir(parents=True)
        (folder / "best.pt").touch()
        os.utime(folder / "best.pt", (1e9 - age, 1e9 - age))
    assert checkpoint.find().as_posix() == "runs/mtl/seed1/best.pt"
    (tmp_path / "mtl_model.pt").touch()
    assert checkpoint.find().name == "mtl_model.pt"
    assert checkpoint.find("named.pt").name == "named.pt"
