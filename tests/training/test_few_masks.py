"""--masks N: the masks of N images and all other labels of all, half and half in every batch, whatever the tasks beside."""

import math

import h5py
import pytest
import torch
from conftest import rechunk, write_data
from tiny import TINY, assert_same_weights, log, result, weights

import registry
import train
from dataloader_mtl import MTLDataset, batches, make_loader
from models import MTLNet
from training import engine
from training.step import step, teaching_batch
from utils import EqualWeightedLoss

pytestmark = pytest.mark.usefixtures("no_pictures")


def dataset(data, masks, tasks=("seg", "cls"), **options):
    return MTLDataset(data, "train", tasks=tasks, masks=masks, **options)


def with_mask(samples, task="seg"):
    return {int(row) for row, mask in zip(samples["row"], samples[task]) if (mask != 255).any()}


def all_of(split):
    (batch,) = batches(make_loader(split, 24))
    return batch


def test_so_many_images_keep_their_mask_and_all_keep_the_rest(rich):
    whole, chosen = all_of(dataset(rich, None, ("seg", "cls", "bbox", "border", "distance"))), {}
    for n in (5, 10, 24):
        some = all_of(dataset(rich, n, ("seg", "cls", "bbox", "border", "distance")))
        chosen[n] = with_mask(some)
        kept = torch.tensor(sorted(chosen[n]))
        assert len(chosen[n]) == n and with_mask(some, "border") == chosen[n]
        assert torch.equal(
            ~some["distance"].isnan().flatten(1).all(1), torch.isin(some["row"], kept)
        )
        for key in ("seg", "border", "distance"):
            assert torch.equal(some[key][kept], whole[key][kept])
        for key in ("image", "cls", "bbox", "row"):
            assert torch.equal(some[key].nan_to_num(-1), whole[key].nan_to_num(-1))
    assert chosen[5] < chosen[10] < chosen[24]
    assert with_mask(all_of(dataset(rich, 5, seed=1))) != chosen[5]


@pytest.mark.parametrize("workers", [0, 1])
def test_every_batch_is_half_with_masks_and_does_not_depend_on_the_tasks(rich, workers):
    seen = {}
    for tasks in (("seg",), ("seg", "cls", "bbox", "column:breed")):
        split = dataset(rich, 6, [*map(learned, tasks)], augment="full", sides=[64, 64])
        loader = make_loader(split, 8, shuffle=True, workers=workers)
        assert len(loader) == len(make_loader(dataset(rich, None), 8, shuffle=True)) == 3
        found = [batch for epoch in range(2) for batch in batches(loader, epoch)]
        assert [int((batch["seg"] != 255).flatten(1).any(1).sum()) for batch in found] == [4] * 6
        seen[tasks] = [(batch["row"].tolist(), batch["image"], batch["seg"]) for batch in found]
    for a, b in zip(*seen.values()):
        assert a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])


def learned(name):
    task = registry.find("tasks", name)
    if name.startswith("column"):
        task.settings = {"classes": ["boxer", "pug", "sphynx"]}
    return task


def test_an_image_that_comes_again_is_augmented_anew(rich):
    split = dataset(rich, 3, augment="full")
    first, again, third = (split[2, 7, repeat] for repeat in range(3))
    assert torch.equal(split[2, 7]["image"], first["image"])
    assert not torch.equal(first["image"], again["image"]) and not torch.equal(
        again["image"], third["image"]
    )
    rows = [
        row
        for batch in batches(make_loader(split, 8, shuffle=True))
        for row in batch["row"].tolist()
    ]
    assert max(map(rows.count, with_mask(all_of(split)))) == 4  # 12 places for 3 images


def test_a_batch_without_one_mask_teaches_the_others(rich):
    """The loss of the masks is zero there, and every parameter still has a gradient."""
    split = dataset(rich, 4, ("seg", "distance", "cls"))
    rows = sorted(set(range(24)) - with_mask(all_of(split)))[:6]
    model = MTLNet(split.tasks.values(), width=2)
    total, losses = step(
        model,
        EqualWeightedLoss(split.tasks.values()),
        split.__getitems__([(0, row) for row in rows]),
        "fp32",
    )
    assert (
        losses["seg"] == losses["distance"] == 0
        and losses["cls"] > 0
        and total == losses["cls"] / 3
    )
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all((p.grad == 0).all() for p in (*model.seg.parameters(), *model.distance.parameters()))


def test_the_trial_step_sees_a_mask_wherever_it_lies(rich):
    split = dataset(rich, 1)
    (row,) = with_mask(all_of(split))
    batch = teaching_batch(split, 2, torch.device("cpu"))
    assert row in batch["row"].tolist()


def run(data, runs, *options):
    train.main(
        train.parse_args(
            [
                "--data",
                str(data),
                "--runs",
                str(runs),
                *TINY,
                "--tasks",
                "seg",
                "cls",
                "--masks",
                "5",
                "--name",
                "few",
                "--epochs",
                "3",
                *options,
            ]
        )
    )


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    rich, tmp_path_factory, tmp_path, monkeypatch, stop_at
):
    expected = tmp_path_factory.getbasetemp() / "few"
    if not expected.exists():
        run(rich, expected)
    calls, original = [], engine.step

    def stopping(*args):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "step", stopping)
        run(rich, tmp_path)
    run(rich, tmp_path, "--resume", "--workers", "1")
    folder, expected = tmp_path / "few/seed0", expected / "few/seed0"
    assert result(folder) == result(expected) and log(folder) == log(expected)
    assert_same_weights(weights(folder), weights(expected))


def test_data_with_few_masks_trains_without_the_option_too(tmp_path):
    """Four masks and six batches: in every epoch some have none."""
    folder = write_data(tmp_path / "pets", {"train": 24, "val": 6, "test": 6})
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][4:] = 255
        file["masks"].attrs["unlabelled"] = 255
    folder = rechunk(folder)
    counts = [
        len(with_mask(batch))
        for batch in batches(make_loader(MTLDataset(folder, "train"), 4, shuffle=True))
    ]
    assert len(counts) == 6 and sum(counts) == 4 and 0 in counts
    train.main(
        train.parse_args(
            [
                "--data",
                str(folder),
                "--runs",
                str(tmp_path),
                *TINY,
                "--tasks",
                "seg",
                "cls",
                "--batch-size",
                "4",
                "--name",
                "sparse",
            ]
        )
    )
    for row in log(tmp_path / "sparse/seed0"):
        assert all(
            math.isfinite(float(row[key]))
            for key in ("loss", "train_loss_seg", "train_loss_cls", "gradient_norm")
        )
    assert all(value.isfinite().all() for value in weights(tmp_path / "sparse/seed0").values())
    assert result(tmp_path / "sparse/seed0")["dice"] is not None


def test_validation_and_test_use_all_masks(rich, tmp_path):
    run(rich, tmp_path)
    with open(tmp_path / "few/seed0/test_per_image.csv") as file:
        assert all(line.split(",")[1] for line in file.read().splitlines()[1:])
