"""A whole batch augmented at once, as on a GPU, beside one image after another: the same pictures and targets."""

import numpy as np
import pytest
import torch

from data.augmentation import Held, augment, draw, sample_generator
from dataloader_mtl import MTLDataset, batches, make_loader

CPU = torch.device("cpu")
TASKS = ("seg", "cls", "bbox", "border", "distance", "recon")


def pictures(n=6, size=64, seed=0):
    """Random pictures with structure at several scales, so that where a value comes from can be told."""
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
    drawn = [draw(mode, 64, 64, sample_generator(3, 1, row, k)) for k, row in enumerate(rows)]
    made = Held(given).batch(rows, drawn, side)
    for k, row in enumerate(rows):
        alone, _ = augment(
            {kind: values[row] for kind, values in given.items()},
            mode,
            side,
            sample_generator(3, 1, row, k),
        )
        assert torch.equal(made["masks"][k], alone["masks"])
        difference = (made["images"][k].int() - alone["images"].int()).abs()
        assert difference.max() <= 2 and difference.float().mean() < 0.5
        if side == 64 and mode != "full":
            assert difference.max() == 0


def test_mirrored_and_cropped_by_hand():
    row = torch.arange(8, dtype=torch.uint8) * 10
    given = {
        "images": row.expand(1, 3, 8, 8).clone(),
        "masks": (row > 30).to(torch.uint8).expand(1, 1, 8, 8).clone(),
    }
    held = Held(given)
    made = held.batch([0], [(None, None, True)], 8)
    assert made["images"][0, 0, 0].tolist() == [70, 60, 50, 40, 30, 20, 10, 0]
    assert made["masks"][0, 0, 5].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    made = held.batch([0], [((2, 2, 4, 4), None, False)], 4)  # columns 2 to 5
    assert made["images"][0, 1, 3].tolist() == [20, 30, 40, 50]
    made = held.batch(
        [0], [(None, None, False)], 4
    )  # antialiased: 1/8, 3/8, 3/8, 1/8 of four neighbours
    assert made["images"][0, 2, 0, 1].item() == 25
    assert made["masks"][0, 0, 0].tolist() == [0, 0, 1, 1]


def test_colours_by_hand():
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    made = Held({"images": image}).batch([0], [(None, (0.5, 1, 1), False)], 4)
    assert made["images"][0, :, 1, 2].tolist() == [100, 50, 25]
    made = Held({"images": image}).batch(
        [0], [(None, (1, 1, 0), False)], 4
    )  # grey: 0.2989 * 200 + 0.587 * 100 + 0.114 * 50
    assert made["images"][0, :, 0, 0].tolist() == [124, 124, 124]


@pytest.mark.parametrize("options", [{}, {"sides": [32, 64]}, {"masks": 3}, {"augment": "none"}])
def test_a_dataset_that_holds_its_pictures_gives_the_same_batches(data, options):
    options = {"augment": "full", **options}
    plain, held = (MTLDataset(data, "train", 5, tasks=TASKS, **options) for _ in range(2))
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
    dataset = MTLDataset(data, "train", 0, "full")
    dataset.hold(CPU)
    rows = torch.cat([batch["row"] for batch in batches(make_loader(dataset, 4, shuffle=True), 1)])
    assert sorted(rows.tolist()) == list(range(len(dataset)))


def test_what_is_not_known_is_not_known_on_a_device_either(data):
    dataset = MTLDataset(data, "train", 0, "full", masks=2, tasks=("seg",))
    dataset.hold(CPU)
    known = (
        (dataset.__getitems__([(0, row) for row in range(len(dataset))])["seg"] != 255)
        .flatten(1)
        .any(1)
    )
    assert known.tolist() == dataset.keeps.tolist() and known.sum() == 2


def test_a_task_that_computes_its_targets_gets_pictures_of_the_cpu(data, monkeypatch):
    """Distance calls numpy(), which a picture on a GPU does not have: here one of the device meta stands for it."""
    dataset = MTLDataset(data, "train", 0, "full", tasks=("seg", "distance"))
    dataset.hold(CPU)
    assert dataset.tasks["seg"].is_stored and not dataset.tasks["distance"].is_stored
    moved = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda tensor: moved.append(tensor.shape) or cpu(tensor)
    )
    dataset.__getitems__([(0, 0), (0, 1)])
    assert len(moved) == 2  # images and masks, for distance alone


def test_scenes_cannot_be_held(data):
    dataset = MTLDataset(data, "train", 0, "full", scenes="all:0.4")
    with pytest.raises(ValueError, match="image by image"):
        dataset.hold(CPU)
