"""Augmentation: pixels, masks and boxes move together, as they did in earlier versions; one image
or a batch on a device."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import registry
from data.augment import (
    Augmentation,
    Held,
    augment,
    augment_boxes,
    crop_boxes,
    draw,
    sample_generator,
    turn_boxes,
)
from dataloader_mtl import MTLDataset, Sampling, batches, make_loader

CPU = torch.device("cpu")
TASKS = ("seg", "cls", "bbox", "border", "distance", "recon")
SIZE = 64
WHOLE = (0, 0, SIZE, SIZE)


def tasks(*names):
    return registry.find_tasks(names)


# ---------------------------------------------------------------------- samples of earlier versions


@pytest.mark.parametrize("mode", ["none", "flip", "full", "hard"])
def test_samples_are_those_of_earlier_versions(mode, rich):
    """samples.json was written by a version that moved each task's target on its own: epoch, row;
    means of the image's colours, left and right; digest of its mask; box; class; breed."""
    made = tasks("seg", "cls", "bbox", "column:breed")
    made[3].fit(MTLDataset(rich, "train"))
    if mode in ("none", "flip"):
        sampling = Sampling(seed=3, augment=mode)
    else:
        hard = "all" if mode == "hard" else None
        sampling = Sampling(seed=3, augment="full", sizes=(48, 64, 40), hard_augment=hard)
    dataset = MTLDataset(rich, "train", made, sampling)
    expected = json.loads(Path(__file__).with_name("samples.json").read_text())[mode]
    for epoch, row, colours, mask, box, label, breed in expected:
        sample = dataset[epoch, row]
        left, right = sample["image"].double().tensor_split(2, dim=-1)
        means = [*left.mean((1, 2)).tolist(), *right.mean((1, 2)).tolist()]
        assert means == pytest.approx(colours, abs=0.1), (epoch, row)
        assert zlib.crc32(sample["seg"].numpy().tobytes()) == mask, (epoch, row)
        assert sample["bbox"].tolist() == pytest.approx(
            box or [math.nan] * 4, abs=1e-5, nan_ok=True
        )
        assert (sample["cls"], sample["column:breed"]) == (label, breed)


# ------------------------------------------------------------------------------- one image, by hand


def picture(size=SIZE, box=(16, 8, 32, 24)):
    """An image whose bright rectangle is its mask and its head box."""
    x1, y1, x2, y2 = box
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[:, y1:y2, x1:x2] = 1
    return {"images": mask.expand(3, -1, -1) * 200, "masks": mask}, torch.tensor([box]) / size


def augmented(pictures, boxes, augmentation, size=SIZE):
    """Image, mask and box as they come out of one augmentation."""
    made = augment(pictures, augmentation, size)
    box = augment_boxes(boxes, [augmentation], pictures["masks"].shape[-1])[0]
    return made["images"], made["masks"], box


def test_a_flip_moves_image_mask_and_box_together():
    image, mask, box = augmented(*picture(), Augmentation(WHOLE, None, True))
    assert box.tolist() == [0.5, 0.125, 0.75, 0.375]  # x1 = 1 - 32/64, x2 = 1 - 16/64
    assert mask[0, 8:24, 32:48].all() and mask.sum() == 256
    assert torch.equal(image[0] > 0, mask[0] > 0)
    _, mask, box = augmented(*picture(), Augmentation(WHOLE, None, False))
    pictures, boxes = picture()
    assert torch.equal(mask, pictures["masks"]) and torch.equal(box, boxes[0])


def test_half_of_the_images_are_flipped():
    flips = [draw("flip", SIZE, np.random.default_rng(k)).flip for k in range(400)]
    assert 160 < sum(flips) < 240
    assert draw("none", SIZE, None) == Augmentation(WHOLE, None, False)


def test_a_crop_moves_boxes_by_hand():
    # The left half, upper three quarters: x doubles, y is divided by 0.75.
    box = crop_boxes(torch.tensor([0.25, 0.15, 0.45, 0.6]), torch.tensor([0, 0, 0.5, 0.75]))
    assert box.tolist() == pytest.approx([0.5, 0.2, 0.9, 0.8])
    # A crop that begins in the middle of the box cuts it at the edge.
    box = crop_boxes(torch.tensor([0.25, 0.25, 0.75, 0.75]), torch.tensor([0.5, 0, 0.5, 1]))
    assert box.tolist() == pytest.approx([0, 0.25, 0.5, 0.75])
    # Pixels 16 to 48 of 64, flipped: 0.3125 to 0.5 of the picture are 0.125 to 0.5 of the crop.
    drawn = [Augmentation((0, 16, 64, 32), None, True), Augmentation(WHOLE, None, False)]
    boxes = augment_boxes(torch.tensor([[0.3125, 0.25, 0.5, 0.5]] * 2), drawn, SIZE)
    assert boxes.tolist() == [[0.5, 0.25, 0.875, 0.5], [0.3125, 0.25, 0.5, 0.5]]


@pytest.mark.parametrize("left, is_visible", [(0.39, True), (0.41, False), (0.6, False)])
def test_a_head_less_than_a_fifth_visible_has_no_box(left, is_visible):
    part = torch.tensor([left, 0, 1 - left, 1])
    box = crop_boxes(torch.tensor([0.0, 0.2, 0.4875, 0.4]), part)
    assert box.isnan().all().item() != is_visible


def test_turning_a_box_by_hand():
    box = torch.tensor([0.1, 0.2, 0.4, 0.3])
    assert turn_boxes(box, 1).tolist() == pytest.approx([0.2, 0.6, 0.3, 0.9])
    assert turn_boxes(box, 2).tolist() == pytest.approx([0.6, 0.7, 0.9, 0.8])
    assert torch.allclose(turn_boxes(turn_boxes(box, 3), 1), box)


def test_no_box_stays_no_box():
    pictures, _ = picture()
    for mode in ("none", "flip", "full"):
        drawn = draw(mode, SIZE, np.random.default_rng(0))
        assert augmented(pictures, torch.full((1, 4), math.nan), drawn)[2].isnan().all()
    assert turn_boxes(torch.full((4,), math.nan), 1).isnan().all()


@pytest.mark.parametrize("size", [32, 64])
def test_full_augmentation_keeps_image_mask_and_box_together(size):
    boxes = 0
    for k in range(40):
        drawn = draw("full", SIZE, np.random.default_rng(k))
        image, mask, box = augmented(*picture(), drawn, size)
        assert image.shape == (3, size, size) and mask.shape == (1, size, size)
        assert image.dtype == mask.dtype == torch.uint8 and mask.max() <= 1
        # The bright rectangle of the image is where the mask says, but for the blurred edge.
        assert ((image[0] > 50) == (mask[0] > 0)).float().mean() > 0.93
        if not box.isnan().any():
            boxes += 1
            ys, xs = torch.nonzero(mask[0], as_tuple=True)
            extent = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / size
            assert (extent - box).abs().max() < 1.6 / size
    assert boxes > 20


# ------------------------------------------------------------------------------ a batch on a device


def pictures(n=6, size=64, seed=0):
    """Random pictures with structure at several scales, so that where a value comes from can be
    told."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(
        np.kron(rng.integers(0, 256, (n, 3, 8, 8), np.uint8), np.ones((8, 8), np.uint8))
    )
    masks = torch.from_numpy(rng.choice(np.array([0, 1, 255], np.uint8), (n, 1, size, size)))
    return {"images": images, "masks": masks}


@pytest.mark.parametrize("mode", ["none", "flip", "full"])
@pytest.mark.parametrize("side", [64, 48, 32, 80])
def test_a_batch_holds_what_single_images_do(mode, side):
    given, rows = pictures(), [4, 0, 2, 2]
    drawn = [draw(mode, SIZE, sample_generator(3, 1, row, k)) for k, row in enumerate(rows)]
    made = Held(given).batch(rows, drawn, side)
    for k, row in enumerate(rows):
        alone = augment({kind: values[row] for kind, values in given.items()}, drawn[k], side)
        assert torch.equal(made["masks"][k], alone["masks"])
        difference = (made["images"][k].int() - alone["images"].int()).abs()
        assert difference.max() <= 2 and difference.float().mean() < 0.5
        if side == 64 and mode != "full":
            assert difference.max() == 0


def test_flipped_and_cropped_by_hand():
    row = torch.arange(8, dtype=torch.uint8) * 10
    given = {
        "images": row.expand(1, 3, 8, 8).clone(),
        "masks": (row > 30).to(torch.uint8).expand(1, 1, 8, 8).clone(),
    }
    held = Held(given)
    made = held.batch([0], [Augmentation((0, 0, 8, 8), None, True)], 8)
    assert made["images"][0, 0, 0].tolist() == [70, 60, 50, 40, 30, 20, 10, 0]
    assert made["masks"][0, 0, 5].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    made = held.batch([0], [Augmentation((2, 2, 4, 4), None, False)], 4)  # columns 2 to 5
    assert made["images"][0, 1, 3].tolist() == [20, 30, 40, 50]
    made = held.batch(
        [0], [Augmentation((0, 0, 8, 8), None, False)], 4
    )  # antialiased: 1/8, 3/8, 3/8, 1/8 of four neighbours
    assert made["images"][0, 2, 0, 1].item() == 25
    assert made["masks"][0, 0, 0].tolist() == [0, 0, 1, 1]


def test_colours_by_hand():
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    made = Held({"images": image}).batch([0], [Augmentation((0, 0, 4, 4), (0.5, 1, 1), False)], 4)
    assert made["images"][0, :, 1, 2].tolist() == [100, 50, 25]
    made = Held({"images": image}).batch(
        [0], [Augmentation((0, 0, 4, 4), (1, 1, 0), False)], 4
    )  # grey: 0.2989 * 200 + 0.587 * 100 + 0.114 * 50
    assert made["images"][0, :, 0, 0].tolist() == [124, 124, 124]


@pytest.mark.parametrize(
    "options",
    [{}, {"sizes": (32, 64)}, {"num_masks": 3}, {"half_masked": True}, {"augment": "none"}],
)
def test_a_dataset_that_holds_its_pictures_gives_the_same_batches(data, options):
    sampling = Sampling(seed=5, **{"augment": "full", **options})
    plain, held = (MTLDataset(data, "train", tasks(*TASKS), sampling) for _ in range(2))
    held.hold(CPU)
    for epoch in (0, 1):
        keys = [(epoch, row) for row in (5, 0, 3, 5)]
        expected, got = plain.__getitems__(keys), held.__getitems__(keys)
        assert expected.keys() == got.keys()
        assert got["image"].is_contiguous(memory_format=torch.channels_last)
        for name in expected:
            assert (
                got[name].dtype == expected[name].dtype and got[name].shape == expected[name].shape
            )
        assert (expected["image"].int() - got["image"].int()).abs().max() <= 2
        for name in ("seg", "cls", "bbox", "border", "distance", "row"):
            torch.testing.assert_close(got[name], expected[name], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(got["recon"], expected["recon"], rtol=0, atol=2 / 255)


def test_a_loader_gives_all_of_an_epoch_from_a_dataset_that_holds_its_pictures(data):
    dataset = MTLDataset(data, "train", sampling=Sampling(augment="full"))
    dataset.hold(CPU)
    rows = torch.cat([batch["row"] for batch in batches(make_loader(dataset, 4, shuffle=True), 1)])
    assert sorted(rows.tolist()) == list(range(len(dataset)))


def test_what_is_not_known_is_not_known_on_a_device_either(data):
    dataset = MTLDataset(data, "train", tasks("seg"), Sampling(augment="full", num_masks=2))
    dataset.hold(CPU)
    masks = dataset.__getitems__([(0, row) for row in range(len(dataset))])["seg"]
    is_known = (masks != 255).flatten(1).any(1)
    assert is_known.tolist() == dataset.shown.chosen.tolist() and is_known.sum() == 2


def test_a_task_that_computes_its_targets_gets_pictures_of_the_cpu(data, monkeypatch):
    """A task's code may call numpy(), which a picture on a GPU does not have."""
    dataset = MTLDataset(data, "train", tasks("seg", "recon"), Sampling(augment="full"))
    dataset.hold(CPU)
    moved, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda tensor: moved.append(tensor.shape) or cpu(tensor)
    )
    dataset.__getitems__([(0, 0), (0, 1)])
    assert moved == [(2, 3, 64, 64)]  # the images, for recon alone


def test_hard_augmentations_cannot_be_held(data):
    dataset = MTLDataset(data, "train", sampling=Sampling(hard_augment="all:0.4"))
    with pytest.raises(ValueError, match="image by image"):
        dataset.hold(CPU)
