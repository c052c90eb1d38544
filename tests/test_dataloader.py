"""Batches: right content, a function of (seed, epoch, image) only, joint augmentation, workers and pickling."""

import math
import pickle
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, rechunk, write_data
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
)
from torchvision.transforms.v2.functional import resize as resize_of_torchvision

import registry
from cli import InputError
from data import pixels
from data.ahead import ahead
from dataloader_mtl import MTLDataset, augment, batches, make_loader


def all_batches(dataset, epochs=(0,), **options):
    loader = make_loader(dataset, options.pop("batch_size", 8), **options)
    return [batch for epoch in epochs for batch in batches(loader, epoch)]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in a)


def test_a_batch_is_as_the_contract_says(data):
    batch = all_batches(MTLDataset(data, "train"))[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "image": ((8, 3, 64, 64), torch.uint8),
        "seg": ((8, 1, 64, 64), torch.uint8),
        "cls": ((8,), torch.int64),
        "bbox": ((8, 4), torch.float32),
        "row": ((8,), torch.int64),
    }


def test_samples_are_what_the_files_hold(data):
    dataset = MTLDataset(data, "val")
    with (
        h5py.File(data / "val/images.h5") as i,
        h5py.File(data / "val/masks.h5") as m,
        h5py.File(data / "val/bboxes.h5") as b,
    ):
        for row in (0, 3, 9):
            sample = dataset[0, row]
            assert np.array_equal(sample["image"].permute(1, 2, 0), i["images"][row])
            assert np.array_equal(sample["seg"].permute(1, 2, 0), m["masks"][row])
            assert np.allclose(sample["bbox"] * 64, b["bboxes"][row], equal_nan=True)
    assert dataset[0, 9]["bbox"].isnan().all() and not dataset[0, 0]["bbox"].isnan().any()


def test_epochs_are_shuffled_by_the_seed_and_complete(data):
    def rows(seed, epoch):
        return torch.cat(
            [b["row"] for b in all_batches(MTLDataset(data, "train", seed), (epoch,), shuffle=True)]
        ).tolist()

    assert sorted(rows(0, 0)) == list(range(24))
    assert rows(0, 0) == rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)


def test_batches_do_not_depend_on_the_global_random_state_or_the_way_to_the_epoch(data):
    dataset = MTLDataset(data, "train", augment="full")
    torch.manual_seed(1), np.random.seed(1)
    first = all_batches(dataset, (0, 1, 2), shuffle=True)
    torch.manual_seed(2), np.random.seed(2)
    assert_equal(
        first[-3:], all_batches(MTLDataset(data, "train", augment="full"), (2,), shuffle=True)
    )
    assert not torch.equal(first[0]["image"], first[3]["image"])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches(data, context):
    if context not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"{context} is not to be had on this system")
    dataset = MTLDataset(data, "train", seed=5, augment="full", sides=[64, 32])
    expected = all_batches(
        dataset, (0, 1), shuffle=True
    )  # opens the files here, so that a fork inherits the handles
    assert_equal(expected, all_batches(dataset, (0, 1), shuffle=True, workers=2, context=context))


def test_an_incomplete_batch_is_dropped_in_training_only(data):
    dataset = MTLDataset(data, "train")
    assert [len(b["row"]) for b in all_batches(dataset, batch_size=10)] == [10, 10, 4]
    assert [len(b["row"]) for b in all_batches(dataset, batch_size=10, shuffle=True)] == [10, 10]
    assert [len(b["row"]) for b in all_batches(dataset, batch_size=50, shuffle=True)] == [24]


def test_limit_takes_the_first_images(data):
    limited, whole = MTLDataset(data, "train", limit=5), MTLDataset(data, "train")
    assert len(limited) == 5 and len(MTLDataset(data, "train", limit=999)) == 24
    assert_equal(
        all_batches(limited), [{key: value[:5] for key, value in all_batches(whole)[0].items()}]
    )


def test_handles_do_not_travel_in_a_pickle(data):
    dataset = MTLDataset(data, "val")
    before = dataset[0, 1]
    assert len(pickle.dumps(dataset)) < 10_000
    assert_equal([before], [pickle.loads(pickle.dumps(dataset))[0, 1]])


def test_batches_left_half_way_leave_no_thread_behind(data):
    before = threading.active_count()
    source = batches(make_loader(MTLDataset(data, "train"), 2))
    next(source)
    assert threading.active_count() == before + 1
    source.close()
    assert threading.active_count() == before


def test_batches_left_open_do_not_keep_the_program_from_ending(data):
    program = (
        "from dataloader_mtl import MTLDataset, batches, make_loader\n"
        f"source = batches(make_loader(MTLDataset({str(data)!r}, 'train'), 2))\nnext(source)\nprint('end')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_reading_ahead_keeps_the_order_and_raises_what_went_wrong_in_its_place():
    def items():
        yield from range(20)
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == list(range(20)) and list(ahead([])) == []


def test_reading_ahead_that_is_stopped_as_its_thread_starts_touches_nothing(monkeypatch):
    """Ctrl-C within start(): the thread may begin only later, when the program goes down, and PyTorch must not be in it then."""
    begun, start = threading.Event(), threading.Thread.start

    def stopped(thread):
        run = thread.run
        thread.run = lambda: begun.wait(10) and run()
        start(thread)
        raise KeyboardInterrupt

    made = []
    monkeypatch.setattr(threading.Thread, "start", stopped)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        next(ahead(made.append(k) for k in range(3)))
    monkeypatch.undo()
    begun.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert made == []


def test_a_signal_while_the_thread_that_reads_ahead_is_waited_for_waits_for_it_all_the_same():
    """Or the program would end while the thread is within HDF5, and then wait for HDF5's lock, for ever."""
    program = """
import os, signal, threading, time
from data.ahead import ahead

def items():
    yield 0
    inside.set()
    time.sleep(1)
    print("made", flush=True)
    yield 1

inside = threading.Event()
source = ahead(items(), depth=1)
next(source)
inside.wait()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    source.close()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "made\nstopped\n", "")


def test_a_set_too_large_for_memory_gives_the_same_batches(data, monkeypatch):
    held = MTLDataset(data, "train")
    expected = all_batches(held, (0, 1), shuffle=True)
    assert held.store._held is not None and len(pickle.dumps(held)) < 10_000
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self: False)
    dataset = MTLDataset(data, "train")
    assert_equal(expected, all_batches(dataset, (0, 1), shuffle=True))
    assert dataset.store._held is None


def test_sides_set_the_size_of_each_epoch(data):
    dataset = MTLDataset(data, "train", sides=[32, 48, 64])
    assert [b["image"].shape[-1] for b in all_batches(dataset, (0, 1, 2), batch_size=24)] == [
        32,
        48,
        64,
    ]
    batch = all_batches(dataset, batch_size=24)[0]
    # Half the side: the mask keeps its share of the picture, the box does not change.
    assert batch["seg"].float().mean().item() == pytest.approx(dataset_mask_share(data), abs=0.02)
    whole = all_batches(MTLDataset(data, "train"), batch_size=24)[0]
    assert torch.equal(batch["bbox"].nan_to_num(), whole["bbox"].nan_to_num())


def dataset_mask_share(data):
    with h5py.File(data / "train/masks.h5") as file:
        return file["masks"][:].mean()


# --------------------------------------------------------------------------------------------------- augmentation


def picture(size=64, box=(16, 8, 32, 24)):
    """An image whose bright rectangle is its mask and its head box."""
    x1, y1, x2, y2 = box
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[:, y1:y2, x1:x2] = 1
    return mask.expand(3, -1, -1) * 200, mask, torch.tensor(box) / size


BBOX = registry.find("tasks", "bbox")


def augmented(image, mask, box, *how):
    """Image, mask and box as they come out of one augmentation."""
    pictures, move = augment({"images": image, "masks": mask}, *how)
    return pictures["images"], pictures["masks"], move(BBOX, box)


class Fixed:
    """Stands in for a random generator: gives the numbers it was made with."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def test_a_flip_mirrors_image_mask_and_box_together():
    image, mask, box = augmented(*picture(), "flip", 64, Fixed(0.2))
    assert box.tolist() == [0.5, 0.125, 0.75, 0.375]  # x1 = 1 - 32/64, x2 = 1 - 16/64
    assert mask[0, 8:24, 32:48].all() and mask.sum() == 256
    assert torch.equal(image[0] > 0, mask[0] > 0)
    image, mask, box = augmented(*picture(), "flip", 64, Fixed(0.7))
    assert torch.equal(mask, picture()[1]) and torch.equal(box, picture()[2])


def test_a_crop_moves_the_box_by_hand():
    # The left half, upper three quarters: x doubles, y is divided by 0.75.
    box = BBOX.crop(torch.tensor([0.25, 0.15, 0.45, 0.6]), 0.0, 0.0, 0.5, 0.75)
    assert box.tolist() == pytest.approx([0.5, 0.2, 0.9, 0.8])
    # A crop that begins in the middle of the box cuts it at the edge.
    box = BBOX.crop(torch.tensor([0.25, 0.25, 0.75, 0.75]), 0.5, 0.0, 0.5, 1.0)
    assert box.tolist() == pytest.approx([0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize("left, visible", [(0.39, True), (0.41, False), (0.6, False)])
def test_a_head_less_than_a_fifth_visible_has_no_box(left, visible):
    box = BBOX.crop(torch.tensor([0.0, 0.2, 0.4875, 0.4]), left, 0.0, 1 - left, 1.0)
    assert box.isnan().all().item() != visible


def test_no_box_stays_no_box():
    image, mask, _ = picture()
    box = torch.full((4,), math.nan)
    for mode in ("none", "flip", "full"):
        assert augmented(image, mask, box, mode, 32, np.random.default_rng(0))[2].isnan().all()


@pytest.mark.parametrize("side", [32, 64])
def test_full_augmentation_keeps_image_mask_and_box_together(side):
    boxes = 0
    for k in range(40):
        image, mask, box = augmented(*picture(), "full", side, np.random.default_rng(k))
        assert image.shape == (3, side, side) and mask.shape == (1, side, side)
        assert image.dtype == mask.dtype == torch.uint8 and mask.max() <= 1
        # The bright rectangle of the image is where the mask says, but for the blurred edge.
        assert ((image[0] > 50) == (mask[0] > 0)).float().mean() > 0.93
        if not box.isnan().any():
            boxes += 1
            ys, xs = torch.nonzero(mask[0], as_tuple=True)
            extent = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / side
            assert (extent - box).abs().max() < 1.6 / side
    assert boxes > 20


def test_full_augmentation_varies_and_repeats():
    results = [augmented(*picture(), "full", 64, np.random.default_rng(k))[0] for k in (1, 1, 2)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


# ------------------------------------------------------------------------------------------------------ bad input


def test_a_folder_that_is_not_rechunked_is_refused(tmp_path):
    folder = write_data(tmp_path / "raw", {"train": 4})
    with pytest.raises(InputError, match="data_rechunk.py"):
        MTLDataset(folder, "train")


def test_a_missing_folder_and_a_missing_split_are_refused(tmp_path):
    with pytest.raises(InputError, match="--synthetic"):
        MTLDataset(tmp_path / "nowhere", "train")
    folder = rechunk(write_data(tmp_path / "d", {"train": 4}))
    with pytest.raises(InputError, match="no test split"):
        MTLDataset(folder, "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_damaged_while_in_use_gives_one_clear_sentence(tmp_path, workers):
    folder = rechunk(write_data(tmp_path / "d", {"train": 40}))
    dataset = MTLDataset(folder, "train")
    path = folder / "train/images.h5"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(InputError) as error:
        all_batches(dataset, workers=workers)
    assert "images.h5" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind, value",
    [("masks", 7), ("binary", 3), ("bboxes", (30, 5, 10, 20)), ("bboxes", (0, 0, 9, 999))],
)
def test_values_out_of_range_are_refused_as_they_are_read(tmp_path, kind, value):
    folder = rechunk(write_data(tmp_path / "d", {"train": 8}))
    with h5py.File(folder / f"train/{kind}.h5", "r+") as file:
        file[kind][3] = value
    with pytest.raises(InputError, match=f"{kind}.h5, row 3"):
        all_batches(MTLDataset(folder, "train"))


@pytest.mark.parametrize(
    "factors", [(1, 1, 1), (1.2, 1, 1), (1, 0.7, 1), (1, 1, 1.3), (0.8, 1.3, 0.7), (1.1, 0.9, 1.2)]
)
def test_colours_change_as_torchvision_changes_them(factors):
    # Middling values, which no factor takes to the ends: there torchvision clamps after every step, we at the end.
    image = torch.randint(
        90, 150, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = image.float() / 255
    for adjust, factor in zip((adjust_brightness, adjust_contrast, adjust_saturation), factors):
        expected = adjust(expected, factor)
    assert (pixels.adjust_colours(image, *factors) - 255 * expected).abs().max() <= 0.51


@pytest.mark.parametrize("height, width", [(20, 30), (64, 64), (16, 16), (7, 90), (1, 5)])
def test_pictures_are_resized_as_torchvision_resizes_them(height, width):
    stored = torch.randint(
        0, 256, (41, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).permute(2, 0, 1)
    for image in (stored, stored.contiguous(), stored[:, 3:33, 5:25]):
        bilinear = resize_of_torchvision(image, [height, width], antialias=True)
        assert torch.equal(pixels.resize("images", image, height, width), bilinear)
        assert torch.equal(
            pixels.resize_images(torch.stack([image, image]), height, width)[1], bilinear
        )
        mask = resize_of_torchvision(image[:1], [height, width], InterpolationMode.NEAREST_EXACT)
        assert torch.equal(pixels.resize("masks", image[:1], height, width), mask)


def test_colours_stay_within_a_byte():
    image = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2)
    assert pixels.adjust_colours(image, 1.3, 1.3, 1.3).tolist() == [[[0, 255]]] * 3
