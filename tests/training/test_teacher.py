"""--teacher: a run whose segmentation imitates a trained network, and what it must not be measured on."""

import json
import math
import shutil

import pytest
import torch
from conftest import rechunk, write_data
from tiny import TINY, arguments, assert_same_weights, log, result, weights
from torch.nn import functional as F

import train
import train_baseline
import train_mtl
from cli import InputError
from dataloader_mtl import MTLDataset, batches, make_loader
from models import MTLNet, digest
from tasks.seg import Seg
from training import checkpoint, others
from training.step import step
from utils import EqualWeightedLoss

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    """The best.pt of a segmentation alone, trained on `data`."""
    runs = tmp_path_factory.mktemp("first")
    train_baseline.main(arguments(data, runs))
    return runs / "baseline/seed0/best.pt"


def teacher_of(path):
    network, _ = checkpoint.load_model(path)
    return others.Teacher(network, ("seg",), "")


def test_imitating_by_hand():
    other = torch.tensor([[[[math.log(3), -math.log(3)]]]])  # probabilities 3/4 and 1/4
    assert Seg("seg").imitate(torch.zeros(1, 1, 1, 2), other).item() == pytest.approx(math.log(2))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # the least there can be
    assert Seg("seg").imitate(other, other).item() == pytest.approx(entropy)
    assert [task.can_imitate for task in MTLNet(("seg", "cls", "bbox"), width=2).task.values()] == [
        True,
        False,
        False,
    ]


def test_half_of_the_loss_is_to_agree(network, data):
    model, criterion = MTLNet(("seg", "cls"), width=2, seed=3), EqualWeightedLoss(("seg", "cls"))
    criterion.teacher = teacher_of(network)
    plain = next(batches(make_loader(MTLDataset(data, "train"), 8), 0))
    batch = others.asked(criterion.teacher, plain, "fp32")
    assert (
        batch.keys() - plain.keys() == {"teacher: seg"}
        and others.asked(None, plain, "fp32") is plain
    )
    with torch.no_grad():
        seen, outputs = (
            criterion.teacher.model(plain["image"])["seg"],
            model.train()(plain["image"]),
        )
    torch.testing.assert_close(batch["teacher: seg"], seen)
    model = MTLNet(("seg", "cls"), width=2, seed=3).train()
    _, losses = step(model, criterion, batch, "fp32")
    wanted = EqualWeightedLoss(("seg", "cls"))(outputs, plain)
    agreement = F.binary_cross_entropy_with_logits(outputs["seg"], seen.sigmoid())
    torch.testing.assert_close(losses["seg"].detach(), (wanted["seg"] + agreement) / 2)
    torch.testing.assert_close(losses["cls"].detach(), wanted["cls"])
    assert all(parameter.grad is None for parameter in criterion.teacher.model.parameters())
    # Where no mask is known the teacher's is all there is, and it reaches the network.
    model.zero_grad()
    step(model, criterion, batch | {"seg": torch.full_like(batch["seg"], 255)}, "fp32")
    assert model.seg.logits.weight.grad.abs().sum() > 0


def test_a_run_records_its_teacher_and_goes_on_with_no_other(network, data, tmp_path):
    train_mtl.main(arguments(data, tmp_path / "whole", "--teacher", str(network)))
    train_mtl.main(arguments(data, tmp_path / "alone"))
    whole, alone = tmp_path / "whole/mtl/seed0", tmp_path / "alone/mtl/seed0"
    assert log(whole)[0]["train_loss_seg"] != log(alone)[0]["train_loss_seg"]
    config = json.loads((whole / "config.json").read_text())
    assert config["teacher"] == digest(checkpoint.load_model(network)[0].state_dict())
    assert json.loads((alone / "config.json").read_text())["teacher"] is None
    moved = shutil.copy(network, tmp_path / "moved.pt")
    train_mtl.main(
        arguments(data, tmp_path / "whole", "--teacher", str(moved), "--resume")
    )  # is finished
    for more in ((), ("--teacher", str(alone / "best.pt"))):
        with pytest.raises(
            InputError, match="is finished, and with other settings: what --teacher imitates was"
        ):
            train_mtl.main(arguments(data, tmp_path / "whole", "--resume", *more))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut = tmp_path / "cut/mtl/seed0"
    (cut / "test.json").unlink()
    (cut / "last.pt").unlink()  # so the second epoch is done again
    with pytest.raises(InputError, match="cannot be resumed .*what --teacher imitates"):
        train_mtl.main(arguments(data, tmp_path / "cut", "--resume"))
    train_mtl.main(arguments(data, tmp_path / "cut", "--resume", "--teacher", str(moved)))
    assert result(cut) == result(whole) and log(cut) == log(whole)
    assert_same_weights(weights(cut), weights(whole))


def test_several_processes_learn_from_it_as_one(network, data, tmp_path):
    for processes in ("1", "2"):
        train_baseline.main(
            arguments(
                data,
                tmp_path / processes,
                "--teacher",
                str(network),
                "--processes",
                processes,
                "--threads",
                "1",
            )
        )
    one, two = (log(tmp_path / processes / "baseline/seed0") for processes in ("1", "2"))
    for a, b in zip(one, two):
        assert float(a["train_loss_seg"]) == pytest.approx(float(b["train_loss_seg"]), rel=1e-3)


def test_what_cannot_be_a_teacher(network, data, tmp_path):
    other = rechunk(write_data(tmp_path / "other", {"train": 12, "val": 6, "test": 6}, seed=7))
    swapped = tmp_path / "swapped"
    shutil.copytree(data, swapped)
    shutil.rmtree(swapped / "test")
    shutil.copytree(data / "train", swapped / "test")
    shutil.rmtree(swapped / "train")
    shutil.copytree(other / "train", swapped / "train")
    with pytest.raises(
        InputError, match="--teacher .* was trained on 24 of the 24 images of .*test"
    ):
        train_baseline.main(arguments(swapped, tmp_path / "runs", "--teacher", str(network)))
    cls = train.parse_args(
        [
            "--data",
            str(data),
            "--runs",
            str(tmp_path),
            *TINY,
            "--tasks",
            "cls",
            "--teacher",
            str(network),
        ]
    )
    assert cls.teacher == network
    with pytest.raises(
        InputError, match="is of the tasks seg, and in none of cls can it be imitated"
    ):
        train.main(cls)
    assert (tmp_path / "cls_teacher-best").exists() is False
    silent = tmp_path / "silent.pt"
    checkpoint.save(
        checkpoint.load(network) | {"trained_on": None, "trained_on_looks": None}, silent
    )
    with pytest.raises(InputError, match="does not say which images it was trained on"):
        train_baseline.main(arguments(data, tmp_path / "runs", "--teacher", str(silent)))
    with pytest.raises(InputError, match="there is no checkpoint"):
        train_baseline.main(
            arguments(data, tmp_path / "runs", "--teacher", str(tmp_path / "none.pt"))
        )


def test_the_network_remembers_what_its_teacher_saw(network, tmp_path):
    other = rechunk(write_data(tmp_path / "other", {"train": 12, "val": 6, "test": 6}, seed=7))
    train_baseline.main(arguments(other, tmp_path, "--teacher", str(network), "--epochs", "1"))
    known = checkpoint.load(tmp_path / "baseline/seed0/best.pt")["trained_on"]
    assert len(known) == 24 + 12
