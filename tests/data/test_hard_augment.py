"""Hard augmentations: pictures and what is known of them change together, as functions of (seed,
epoch, image)."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import rechunk, write_data

import registry
from cli import InputError
from data import hard_augment, hard_augment_names, pixels
from data.contract import UNLABELLED
from data.hard_augment import NEITHER, HardAugment
from dataloader_mtl import MTLDataset, Sampling, batches, make_loader

SIZE = 64
PET, OTHER = (
    {"binary": torch.tensor(0), "index:breed": "pug"},
    {"binary": torch.tensor(1), "index:breed": "pug"},
)


def pet(left, top, side, value=200, **known):
    """A sample of a bright square pet on black, whose box is the pet's own."""
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[:, top : top + side, left : left + side] = 1
    box = torch.tensor([left, top, left + side, top + side]) / SIZE
    pictures = {"images": mask.expand(3, -1, -1) * value, "masks": mask, "trimaps": 2 - mask}
    return pictures | {"bboxes": box, **PET, **known}


def known(sample):
    """What is known of a sample beside pictures."""
    return sample["bboxes"].isnan().all().item(), sample["binary"].item(), sample["index:breed"]


def extent(mask):
    rows, columns = torch.nonzero(mask[0] == 1, as_tuple=True)
    return (
        torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        / mask.shape[-1]
    )


def placed(name, sample, other=None, seed=0):
    """What one augmentation, which always comes, makes of a sample."""
    made = getattr(HardAugment(name), name)
    rng = np.random.default_rng(seed)
    return made(sample, [1, 2, 3], lambda row: other or pet(4, 4, 24, 90), rng)


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "text, recorded, expected",
    [
        ("mosaic+small+small", "small+mosaic", {"small": 0.25, "mosaic": 0.1}),
        ("lit+small:2", "small:2+lit", {"small": 0.5, "lit": 0.3}),
        ("turned:1.0", "turned", {"turned": 0.1}),
        ("small:4", "small:4", {"small": 1.0}),
        ("all:1", "all", hard_augment_names.USUAL),
        ("all:.50", "all:0.5", {k: v / 2 for k, v in hard_augment_names.USUAL.items()}),
    ],
)
def test_names_and_probabilities(text, recorded, expected):
    assert hard_augment_names.canonical(text) == recorded
    assert hard_augment_names.parse(recorded) == pytest.approx(expected)
    assert tuple(HardAugment(text).probabilities) == tuple(expected)


@pytest.mark.parametrize(
    "text", ["smal+close", "", "all+lit", "lit:0", "lit:nan", "all:x", "small:3+several:2", "lit:4"]
)
def test_names_that_cannot_be(text):
    with pytest.raises(ValueError):
        HardAugment(text)


def test_they_come_as_often_as_they_should():
    def count(text):
        made, rng = HardAugment(text), np.random.default_rng(0)
        sample, other = pet(20, 30, 16), pet(4, 4, 24, 90)
        found = [made.place(sample, 0, 4, lambda row: other, rng) for _ in range(400)]
        return sum(not torch.equal(one["bboxes"], sample["bboxes"]) for one in found)

    assert 170 < count("small:2") < 230
    assert count("turned:10") == 400


# ------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize("name", ["small", "close", "elsewhere", "turned"])
def test_the_box_goes_where_the_pet_goes(name):
    for seed in range(20):
        sample = pet(20, 30, 16)
        if name == "turned":
            sample = hard_augment.turned(sample, 1 + seed % 3)
        else:
            sample = placed(name, sample, seed=seed)
        assert sample["images"].shape == (3, SIZE, SIZE) and sample["masks"].max() == 1
        assert torch.equal(sample["trimaps"], 2 - sample["masks"])
        assert known(sample)[1:] == (0, "pug")
        if not sample["bboxes"].isnan().any():
            assert (extent(sample["masks"]) - sample["bboxes"]).abs().max() < 2.5 / SIZE, seed
        else:
            assert name == "close"  # too little of it is left
        # The pet is bright where the mask says, but for soft and resized edges; what it stands on
        # has lost its own.
        inside = pixels.grown(sample["masks"][0] == 0, 2).logical_not()
        assert (sample["images"][:, inside] > 150).all()
        assert (sample["images"][:, ~pixels.grown(sample["masks"][0] == 1, 2)] < 60).all()


def test_a_small_pet_by_hand():
    sample = pet(0, 0, 32)
    # Half its side, at the right, at the top.
    made = hard_augment.small(sample, pet(40, 40, 16, 90), 0.25, (1, 0))
    expected = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    expected[:, 0:16, 32:48] = 1
    assert torch.equal(made["masks"], expected) and torch.equal(made["trimaps"], 2 - expected)
    assert made["images"].max() == 200
    assert (made["images"][:, 40:56, 40:56] == 0).all()  # the other pet is painted over
    assert made["bboxes"].tolist() == [0.5, 0, 0.75, 0.25] and known(made)[1:] == (0, "pug")
    grey = torch.full((3, SIZE, SIZE), 50, dtype=torch.uint8)
    other = pet(40, 40, 16) | {"images": grey}
    alone = hard_augment.small(sample, other, 0.25, (1, 0), is_alone=True)
    assert torch.equal(alone["masks"], expected) and (alone["images"][:, 20:32, 34:60] == 50).all()


@pytest.mark.parametrize(
    "other, expected",
    [
        ({}, (True, 0, "pug")),
        (OTHER, (True, UNLABELLED, "pug")),
        ({"index:breed": "boxer"}, (True, 0, "")),
        ({"binary": torch.tensor(UNLABELLED), "index:breed": ""}, (True, UNLABELLED, "")),
    ],
)
def test_several_animals_have_one_mask_no_box_and_what_all_agree_on(other, expected):
    sample, counts = pet(2, 2, 12), set()
    for seed in range(12):
        other_pet = pet(4, 4, 24, 90, **other)
        made = placed("several", sample, other_pet, seed)
        assert made["masks"].sum() >= sample["masks"].sum()
        counts.add(made["masks"].sum().item())
        unchanged = torch.equal(made["masks"], sample["masks"])
        assert known(made) == expected or unchanged and known(made) == (False, 0, "pug")
        assert known(placed("mosaic", sample, other_pet, seed)) == expected
    assert len(counts) > 5


def test_a_mosaic_by_hand():
    four = [pet(16, 16, 32, value) for value in (50, 100, 150, 200)]
    made = hard_augment.mosaic(four, 32, 32)
    centres = [made["images"][0, row, column].item() for row in (16, 48) for column in (16, 48)]
    assert centres == [50, 100, 150, 200]
    assert torch.equal(made["masks"][:, :32, :32], made["masks"][:, 32:, 32:])
    assert made["masks"].sum() == 4 * 16 * 16 and made["images"][:, 30:34, 30:34].max() == 0


def test_without_a_pet_the_mask_is_empty_and_nothing_is_known_but_that():
    for seed in range(10):
        made = placed("empty", pet(20, 20, 20), seed=seed)
        assert not made["masks"].any() and (made["trimaps"] == 2).all()
        assert made["images"].max() == 0 and known(made) == (True, NEITHER, "")
    full = pet(0, 0, SIZE)
    assert placed("empty", full) is full  # nothing is left to paint with
    sample = pet(4, 4, 8)
    assert placed("small", sample, full) is sample


def test_an_unlabelled_mask_leaves_the_sample_as_it_is():
    unknown = pet(20, 20, 20)
    unknown["masks"] = torch.full((1, SIZE, SIZE), UNLABELLED, dtype=torch.uint8)
    for name in ("close", "elsewhere", "empty"):
        assert placed(name, unknown) is unknown
    made = placed("several", pet(20, 20, 20), unknown)
    assert known(made) == (False, 0, "pug")
    assert torch.equal(made["masks"], pet(20, 20, 20)["masks"])


def test_painting_over_takes_what_lies_mirrored_at_the_edge():
    image = torch.arange(8, dtype=torch.uint8).expand(3, 2, 8).contiguous()
    region = torch.zeros(2, 8, dtype=torch.bool)
    region[:, 4:6] = True
    # 4 lies one beyond 3, so it mirrors 2; 5 lies one before 6, so it mirrors 7.
    assert pixels.painted_over(image, region)[0, 0].tolist() == [0, 1, 2, 3, 2, 7, 6, 7]
    region[:, 0] = True  # mirrored at 1 would be 2
    assert pixels.painted_over(image, region)[0, 1].tolist() == [2, 1, 2, 3, 2, 7, 6, 7]


def test_light_blur_and_shaking_by_hand():
    image = torch.full((3, 9, 9), 100, dtype=torch.uint8)
    assert (pixels.lit(image, 1, (0.5, 1, 3), 0, None)[:, 0, 0].tolist()) == [50, 100, 255]
    assert pixels.lit(image, 2, (1, 1, 1), 0, None)[0, 0, 0] == round(255 * (100 / 255) ** 2)
    noisy = pixels.lit(
        torch.full((3, 64, 64), 100, dtype=torch.uint8), 1, (1, 1, 1), 5, np.random.default_rng(0)
    ).double()
    assert noisy.mean().item() == pytest.approx(
        100, abs=0.2
    ) and noisy.std().item() == pytest.approx(5, abs=0.2)
    image[:, 4, 4] = 199
    assert pixels.shaken(image, 3, 0)[0, 4].tolist() == [100] * 3 + [133] * 3 + [100] * 3
    assert (
        pixels.shaken(image, 3, math.pi / 2)[0, :, 4].tolist() == [100] * 3 + [133] * 3 + [100] * 3
    )
    assert 100 < pixels.blurred(image, 1)[0, 4, 4] < 130
    for made in (pixels.compressed(image, 10), pixels.coarse(image, 0.5)):
        assert (
            made.shape == image.shape and made.dtype == torch.uint8 and not torch.equal(made, image)
        )


# --------------------------------------------------------------------------------------- the loader


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hard") / "pets"
    return rechunk(write_data(folder, {"train": 12, "val": 8, "test": 4}))


def open_split(split, names=("seg", "cls", "bbox"), **options):
    options = {"seed": 3, "augment": "full", "sizes": (48, 64), "hard_augment": "all", **options}
    return MTLDataset(split, "train", registry.find_tasks(names), Sampling(**options))


def samples(split, **options):
    dataset = open_split(split, **options)
    return [dataset[1, row] for row in range(12)]


def test_a_sample_hangs_on_seed_epoch_and_image_alone(split):
    first, dataset = samples(split), open_split(split)
    for workers in (0, 2):
        for batch in batches(make_loader(dataset, 5, shuffle=True, workers=workers), 1):
            for k, row in enumerate(batch["row"].tolist()):
                for name, value in batch.items():
                    torch.testing.assert_close(
                        value[k], first[row][name], rtol=0, atol=0, equal_nan=True
                    )


def test_an_image_to_which_none_comes_is_augmented_as_without(split):
    plain, changed = samples(split, hard_augment=None), samples(split, hard_augment="mosaic+empty")
    same = 0
    for one, other in zip(plain, changed, strict=True):
        same += torch.equal(one["image"], other["image"])
    assert 0 < same < 12


def test_masks_are_read_even_where_no_task_needs_them(split):
    dataset = open_split(split, ["cls"])
    for row, whole in enumerate(samples(split)):
        assert torch.equal(dataset[1, row]["image"], whole["image"])
        assert dataset[1, row]["cls"] == whole["cls"]


def test_those_that_need_to_know_the_pet_are_refused_without_masks(split, tmp_path):
    folder = shutil.copytree(split, tmp_path / "pets")
    (folder / "train" / "masks.h5").unlink()
    with pytest.raises(InputError, match="masks.h5.*small, empty"):
        open_split(folder, ["cls"], hard_augment="lit+empty+small")
    turned = open_split(folder, ["cls"], hard_augment="turned+lit+mosaic", sizes=None)
    assert {turned[epoch, row]["cls"].item() for epoch in range(3) for row in range(12)} >= {0, 1}
