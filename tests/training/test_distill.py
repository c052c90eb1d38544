"""--init and --teacher: what a run takes of a trained network, and what it must not measure on."""

import shutil

import pytest
import torch
from conftest import rechunk, write_data
from tiny import assert_same_run, assert_same_weights, config_of, files_in, log, train
from torch.nn import functional as F

import registry
from cli import InputError
from dataloader_mtl import MTLDataset, batches, make_loader
from models import MTLNet, digest
from training import checkpoint, distill, leakage
from utils import EqualWeightedLoss

both = pytest.mark.parametrize("option", ["--init", "--teacher"])


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    """The best.pt of an MTL run on `data`."""
    return train("train_mtl", data, tmp_path_factory.mktemp("first")) / "best.pt"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another data folder, of other images."""
    folder = tmp_path_factory.mktemp("other") / "pets"
    return rechunk(write_data(folder, {"train": 16, "val": 6, "test": 6}, seed=7))


def change(path, target, **values):
    checkpoint.save(checkpoint.load(path) | values, target)
    return target


def untrained(names, **options):
    return MTLNet(registry.find_tasks(names), **{"width": 2, "seed": 5, **options})


# --------------------------------------------------------------------------------------- fine-tune


@pytest.mark.parametrize("names", [("seg",), ("cls",), ("bbox", "seg", "cls")], ids=str)
def test_every_part_that_both_have_is_copied(network, names):
    model = untrained(names)
    parts, info, sha256 = checkpoint.load_parts(network, model)
    assert set(parts) == {"encoder", *names} and len(info["trained_on"]) == 24
    source = checkpoint.load(network)["model"]
    assert sha256 == digest(source)
    expected = {}
    for name, value in source.items():
        if name.partition(".")[0] in parts:
            expected[name] = value
    assert_same_weights(model.state_dict(), expected)


def test_a_part_that_the_checkpoint_lacks_or_that_means_something_else_stays_random(rich, tmp_path):
    options = ("--tasks", "seg", "column:breed")
    path = train("train", rich, tmp_path, *options) / "best.pt"
    tasks = registry.find_tasks(["seg", "cls", "column:breed"])
    tasks[2].settings = {"classes": ["a", "b"]}  # of other classes
    model, untouched = MTLNet(tasks, 2, 5), MTLNet(tasks, 2, 5)
    assert checkpoint.load_parts(path, model)[0] == ["encoder", "seg"]
    for name in "cls", "column:breed":
        part, other = getattr(model, name), getattr(untouched, name)
        assert_same_weights(part.state_dict(), other.state_dict())


def test_a_run_goes_on_from_the_network(network, other, tmp_path):
    """With a learning rate of nearly nothing the network stays what it was."""
    options = ("--init", network, "--lr", "1e-12", "--augment", "none")
    run = train("train_mtl", other, tmp_path, *options)
    after = checkpoint.load(run / "best.pt")["model"]
    for name, value in checkpoint.load(network)["model"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options", [("--width", "4"), ("--sharing", "mtan", "--name", "x"), ("--init", "none.pt")]
)
def test_a_network_of_another_kind_is_refused(network, other, tmp_path, options):
    script = "train" if "--sharing" in options else "train_baseline"
    tasks = ("--tasks", "seg") if script == "train" else ()
    with pytest.raises(InputError):
        train(script, other, tmp_path, *tasks, "--init", network, *options)
    assert not files_in(tmp_path)


# ------------------------------------------------------------------------------------ distillation


def test_half_of_the_loss_is_to_agree_with_the_teacher(network, data):
    model = untrained(("seg", "cls")).train()
    tasks = model.task.values()
    own = {"trained_on": torch.tensor([0]), "trained_on_looks": None}
    splits = {split: MTLDataset(data, split, tasks) for split in ("train", "val", "test")}
    teacher = distill.Teacher(network, model, splits, own)
    assert teacher.names == ["seg"]
    batch = next(batches(make_loader(splits["train"], 8)))
    soft = teacher.soft_targets(batch["image"], "fp32")
    outputs = model(batch["image"])
    losses = EqualWeightedLoss(tasks)(outputs, batch)
    joined = teacher.join(losses, outputs, soft, 1 / 8)
    agreement = F.binary_cross_entropy_with_logits(outputs["seg"], soft["seg"].sigmoid())
    torch.testing.assert_close(joined["seg"], (losses["seg"] + agreement) / 2)
    assert joined["cls"] is losses["cls"]
    joined["seg"].backward()
    assert all(p.grad is None for p in teacher.network.parameters())


def test_a_teacher_reaches_the_network_where_no_mask_is_known(network, data, tmp_path):
    """With one mask among 24 most batches teach by the teacher alone."""
    options = ("--teacher", network, "--num-masks", "1")
    rows = log(train("train_baseline", data, tmp_path / "a", *options))
    plain = log(train("train_baseline", data, tmp_path / "b", "--num-masks", "1"))
    for row, other in zip(rows, plain, strict=True):
        assert float(row["train_loss_seg"]) > 0 and row["train_loss_seg"] != other["train_loss_seg"]


def test_a_teacher_of_no_common_task_is_refused(network, data, tmp_path):
    options = ("--tasks", "cls", "--teacher", network)
    with pytest.raises(InputError, match="--teacher"):
        train("train", data, tmp_path, *options)
    assert not files_in(tmp_path)


# -------------------------------------------------------------------------------- records, leakage


@both
def test_a_run_records_the_network_and_remembers_its_images(network, other, tmp_path, option):
    run = train("train_mtl", other, tmp_path, option, network, "--epochs", "1")
    config, key = config_of(run), f"{option[2:]}_sha256"
    assert config[option[2:]] == str(network)
    assert config["run"][key] == digest(checkpoint.load(network)["model"])
    assert config_of(network.parent)["run"][key] is None
    own = leakage.fingerprints(MTLDataset(other, "train"))
    expected = leakage.join(own, checkpoint.load(network))
    kept = checkpoint.load(run / "best.pt")
    for name in leakage.KEYS:
        assert torch.equal(kept[name], expected[name]) and len(kept[name]) == 40


@both
@pytest.mark.parametrize("is_finished", [True, False])
def test_resuming_takes_the_same_network_wherever_it_lies_and_no_other(
    network, other, tmp_path, option, is_finished
):
    whole = train("train_mtl", other, tmp_path / "whole", option, network)
    moved = shutil.copy(network, tmp_path / "moved.pt")
    changed = checkpoint.load(network)["model"]
    changed["seg.logits.bias"] += 1
    another = change(network, tmp_path / "another.pt", model=changed)
    cut = shutil.copytree(whole, tmp_path / "cut/mtl/seed0")
    if not is_finished:
        (cut / "test.json").unlink()
        (cut / "last.pt").unlink()  # so the second epoch is repeated
    for words in ((), (option, another)):
        with pytest.raises(InputError, match=option[2:]):
            train("train_mtl", other, tmp_path / "cut", "--resume", *words)
    train("train_mtl", other, tmp_path / "cut", "--resume", option, moved)
    assert_same_run(cut, whole)


@both
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_network_that_was_trained_on_images_to_measure_on_is_refused(
    network, other, tmp_path, option, split
):
    hashes = MTLDataset(other, split).image_hashes()[:2]
    leaky = change(network, tmp_path / "leaky.pt", trained_on=hashes)
    with pytest.raises(InputError, match=f"2 of the 6 images of .*{split}"):
        train("train_mtl", other, tmp_path / "runs", option, leaky)
    silent = change(network, tmp_path / "silent.pt", trained_on=None, trained_on_looks=None)
    with pytest.raises(InputError, match="silent.pt"):
        train("train_mtl", other, tmp_path / "runs", option, silent)
    assert not files_in(tmp_path / "runs")


@both
@pytest.mark.parametrize("name", ["none.pt", "config.json"])
def test_what_is_no_checkpoint_is_refused(network, other, tmp_path, option, name):
    with pytest.raises(InputError, match=name):
        train("train_mtl", other, tmp_path, option, network.with_name(name))
    assert not files_in(tmp_path)
