"""--masks N: a nested choice of images keeps its masks, half of every batch are such images, and nothing else changes."""

import math
import shutil

import h5py
import numpy as np
import pytest
import torch
from tiny import TINY, assert_same_weights, log, result, weights

import registry
import train
from conftest import rechunk, write_data
from dataloader_mtl import MTLDataset, batches, make_loader
from training import checkpoint, engine

pytestmark = pytest.mark.usefixtures("no_pictures")


def run(data, runs, *options):
    train.main(train.parse_args(["--data", str(data), "--runs", str(runs), *TINY, *options]))


def epoch_of(dataset, epoch=0, **options):
    return list(batches(make_loader(dataset, 8, shuffle=True, **options), epoch))


def known(batch, task="seg"):
    return registry.find("tasks", task).labelled(batch[task])


# ------------------------------------------------------------------------------------------------------ in the loader


@pytest.mark.parametrize("masks", [3, 12, 20])
def test_half_of_every_batch_has_a_mask_and_all_have_their_other_labels(data, masks):
    dataset, whole = MTLDataset(data, "train", masks=masks), MTLDataset(data, "train")
    seen = set()
    for epoch in range(3):
        found = epoch_of(dataset, epoch)
        assert len(found) == len(epoch_of(whole, epoch)) == 3
        for batch in found:
            has_mask = known(batch)
            assert has_mask.sum() == 4 and (batch["seg"][~has_mask] == 255).all()
            seen |= set(batch["row"][has_mask].tolist())
            for row, mask, label, box in zip(batch["row"], batch["seg"], batch["cls"], batch["bbox"]):
                sample = whole[int(row)]
                assert label == sample["cls"] and torch.equal(box.nan_to_num(-1), sample["bbox"].nan_to_num(-1))
                assert (mask == 255).all() or torch.equal(mask, sample["seg"])
    assert len(seen) == masks and seen == set(np.flatnonzero(dataset.keeps).tolist())


def test_a_smaller_choice_lies_in_a_larger_one_and_another_seed_chooses_others(data):
    chosen = {(masks, seed): set(np.flatnonzero(MTLDataset(data, "train", seed, masks=masks).keeps).tolist())
              for masks in (3, 9, 15) for seed in (0, 1)}
    assert chosen[3, 0] < chosen[9, 0] < chosen[15, 0] and chosen[9, 0] != chosen[9, 1]


def test_what_is_made_of_masks_and_trimaps_follows_the_choice(rich):
    for batch in epoch_of(MTLDataset(rich, "train", augment="full", tasks=("seg", "distance", "border"), masks=5)):
        assert torch.equal(known(batch), known(batch, "distance")) and torch.equal(known(batch), known(batch, "border"))
        assert known(batch).sum() == 4


@pytest.mark.parametrize("held", [True, False])
def test_an_image_that_comes_again_is_augmented_anew_and_the_same_every_time(data, held, monkeypatch):
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self: held)
    dataset = MTLDataset(data, "train", augment="full", masks=2)
    pictures = {}
    for batch in epoch_of(dataset):
        for row, image, mask in zip(batch["row"].tolist(), batch["image"], batch["seg"]):
            if not (mask == 255).all():
                pictures.setdefault(row, []).append(image)
    assert sorted(map(len, pictures.values())) == [6, 6]  # 12 places with a mask for two images
    for images in pictures.values():
        assert all(not torch.equal(a, b) for k, a in enumerate(images) for b in images[:k])
    again = MTLDataset(data, "train", augment="full", masks=2)
    for a, b in zip(epoch_of(dataset), epoch_of(again, workers=2), strict=True):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in a)
    # The first time is what it is without the choice; of a key alone, too.
    assert torch.equal(dataset[0, 5, 0]["image"], MTLDataset(data, "train", augment="full")[0, 5]["image"])
    assert not torch.equal(dataset[0, 5, 0]["image"], dataset[0, 5, 1]["image"])


def test_all_masks_is_no_choice(data):
    for a, b in zip(epoch_of(MTLDataset(data, "train", augment="full", masks=24)), epoch_of(MTLDataset(data, "train", augment="full"))):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in a)


# ----------------------------------------------------------------------------------------------------------- in a run


def test_steps_and_masks_do_not_depend_on_the_tasks_beside(data, tmp_path, monkeypatch):
    seen, original = {}, engine.refuse_divergence
    for tasks in (("seg",), ("seg", "cls", "bbox"), ("seg", "distance", "recon")):
        def record(values, norm, parameters, batch, dataset, epoch, tasks=tasks):
            seen.setdefault(tasks, []).append((batch["row"], batch["image"], batch["seg"]))
            return original(values, norm, parameters, batch, dataset, epoch)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "refuse_divergence", record)
            run(data, tmp_path, "--tasks", *tasks, "--masks", "5", "--augment", "full")
    first, *others = seen.values()
    assert len(first) == 6
    for other in others:
        assert all(torch.equal(x, y) for a, b in zip(first, other, strict=True) for x, y in zip(a, b))


def test_only_training_is_short_of_masks(data, tmp_path):
    args = train.parse_args(["--data", str(data), *TINY, "--tasks", "seg", "--masks", "5"])
    splits = engine.open_data(args, registry.tasks(args.tasks).values())
    labelled = {split: sum(int(known(batch).sum()) for batch in batches(make_loader(dataset, 4))) for split, dataset in splits.items()}
    assert labelled == {"train": 5, "val": 10, "test": 10}


def test_an_interrupted_run_on_few_masks_ends_bit_for_bit_as_it_would_have(data, tmp_path):
    options = ("--tasks", "seg", "cls", "--masks", "3", "--epochs", "3", "--name", "few")
    run(data, tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut, whole = tmp_path / "cut/few/seed0", tmp_path / "whole/few/seed0"
    (cut / "test.json").unlink(), (cut / "last.pt").unlink()  # so the last epoch is done again
    assert checkpoint.load(cut / "previous.pt", {"epoch": int})["epoch"] == 2
    run(data, tmp_path / "cut", *options, "--resume", "--workers", "2")
    assert result(cut) == result(whole) and log(cut) == log(whole)
    assert_same_weights(weights(cut), weights(whole))


def test_batches_without_one_mask_train_what_else_they_have(tmp_path):
    """Four masks and six batches: in every epoch some have none, and a loss of zero there."""
    folder = write_data(tmp_path / "pets", {"train": 24, "val": 6, "test": 6})
    with h5py.File(folder / "train/masks.h5", "r+") as file:
        file["masks"][4:] = 255
        file["masks"].attrs["unlabelled"] = 255
    folder = rechunk(folder)
    dataset = MTLDataset(folder, "train")
    counts = [int(known(batch).sum()) for batch in batches(make_loader(dataset, 4, shuffle=True))]
    assert len(counts) == 6 and sum(counts) == 4 and 0 in counts
    run(folder, tmp_path, "--tasks", "seg", "cls", "--batch-size", "4", "--name", "sparse")
    for row in log(tmp_path / "sparse/seed0"):
        assert all(math.isfinite(float(row[key])) for key in ("loss", "train_loss_seg", "train_loss_cls", "gradient_norm"))
    assert all(value.isfinite().all() for value in weights(tmp_path / "sparse/seed0").values())
    assert result(tmp_path / "sparse/seed0")["dice"] is not None
