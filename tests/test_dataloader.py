"""Batches: right content, a function of (seed, epoch, image) only, workers, pickling, bad input."""

import errno
import pickle
import subprocess
import sys
import threading
from multiprocessing.reduction import ForkingPickler

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
from dataloader_mtl import MTLDataset, Sampling, batches, make_loader

FULL = Sampling(augment="full")


def open_split(data, split="train", sampling=None, names=("seg", "cls", "bbox")):
    return MTLDataset(data, split, registry.find_tasks(names), sampling or Sampling())


def all_batches(dataset, epochs=(0,), **options):
    loader = make_loader(dataset, options.pop("batch_size", 8), **options)
    return [batch for epoch in epochs for batch in batches(loader, epoch)]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in a)


def test_a_batch_is_as_the_contract_says(data):
    batch = all_batches(open_split(data))[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "image": ((8, 3, 64, 64), torch.uint8),
        "seg": ((8, 1, 64, 64), torch.uint8),
        "cls": ((8,), torch.int64),
        "bbox": ((8, 4), torch.float32),
        "row": ((8,), torch.int64),
    }


def test_samples_are_what_the_files_hold(data):
    dataset = open_split(data, "val")
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
            [
                b["row"]
                for b in all_batches(
                    open_split(data, sampling=Sampling(seed)), (epoch,), shuffle=True
                )
            ]
        ).tolist()

    assert sorted(rows(0, 0)) == list(range(24))
    assert rows(0, 0) == rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)


def test_batches_do_not_depend_on_the_global_random_state_or_the_way_to_the_epoch(data):
    dataset = open_split(data, sampling=FULL)
    torch.manual_seed(1), np.random.seed(1)
    first = all_batches(dataset, (0, 1, 2), shuffle=True)
    torch.manual_seed(2), np.random.seed(2)
    assert_equal(first[-3:], all_batches(open_split(data, sampling=FULL), (2,), shuffle=True))
    assert not torch.equal(first[0]["image"], first[3]["image"])


def no_shared_memory(tensor):
    raise OSError(errno.ENOSPC, "no shared memory left")


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches_and_need_no_shared_memory(data, context, monkeypatch):
    if context not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"{context} is not to be had on this system")
    dataset = open_split(data, sampling=Sampling(5, "full", (64, 32)))
    # Opens the files here, so that a fork inherits the handles.
    expected = all_batches(dataset, (0, 1), shuffle=True)
    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, no_shared_memory)
    loader = make_loader(dataset, 8, shuffle=True, workers=2)
    loader.multiprocessing_context = context
    found = [batch for epoch in (0, 1) for batch in batches(loader, epoch)]
    assert_equal(expected, found)
    assert found[0]["image"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EROFS, errno.ENOSYS])
def test_workers_that_cannot_start_are_one_sentence(data, number, monkeypatch):
    def fail(*args):
        raise OSError(number, "what the system says")

    loader = make_loader(open_split(data), 8, workers=2)
    monkeypatch.setattr(type(loader), "_get_iterator", fail)
    with pytest.raises(InputError, match="--workers 0"):
        next(batches(loader))


def test_an_incomplete_batch_is_dropped_in_training_only(data):
    dataset = open_split(data)
    assert [len(b["row"]) for b in all_batches(dataset, batch_size=10)] == [10, 10, 4]
    assert [len(b["row"]) for b in all_batches(dataset, batch_size=10, shuffle=True)] == [10, 10]
    assert [len(b["row"]) for b in all_batches(dataset, batch_size=50, shuffle=True)] == [24]


def test_limit_takes_the_first_images(data):
    limited, whole = open_split(data, sampling=Sampling(limit=5)), open_split(data)
    assert len(limited) == 5 and len(open_split(data, sampling=Sampling(limit=999))) == 24
    assert_equal(
        all_batches(limited), [{key: value[:5] for key, value in all_batches(whole)[0].items()}]
    )


def test_handles_do_not_travel_in_a_pickle(data):
    dataset = open_split(data, "val")
    before = dataset[0, 1]
    assert len(pickle.dumps(dataset)) < 10_000
    assert_equal([before], [pickle.loads(pickle.dumps(dataset))[0, 1]])


def test_batches_left_half_way_leave_no_thread_behind(data):
    before = threading.active_count()
    source = batches(make_loader(open_split(data), 2))
    next(source)
    assert threading.active_count() == before + 1
    source.close()
    assert threading.active_count() == before


def test_batches_left_open_do_not_keep_the_program_from_ending(data):
    program = (
        "from dataloader_mtl import MTLDataset, batches, make_loader\n"
        f"source = batches(make_loader(MTLDataset({str(data)!r}, 'train'), 2))\n"
        "next(source)\nprint('end')"
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
    """Ctrl-C within start(): the thread may begin only later, when the program goes down, and
    PyTorch must not be in it then."""
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
    """Or the program would end while the thread is within HDF5, and then wait for HDF5's lock, for
    ever."""
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
    held = open_split(data)
    expected = all_batches(held, (0, 1), shuffle=True)
    assert held.store._held is not None and len(pickle.dumps(held)) < 10_000
    monkeypatch.setattr(MTLDataset, "fits_in_memory", lambda self, processes=1: False)
    dataset = open_split(data)
    assert_equal(expected, all_batches(dataset, (0, 1), shuffle=True))
    assert dataset.store._held is None


def test_sizes_set_the_size_of_each_epoch(data):
    dataset = open_split(data, sampling=Sampling(sizes=(32, 48, 64)))
    assert [b["image"].shape[-1] for b in all_batches(dataset, (0, 1, 2), batch_size=24)] == [
        32,
        48,
        64,
    ]
    batch = all_batches(dataset, batch_size=24)[0]
    # Half the side: the mask keeps its share of the picture, the box does not change.
    assert batch["seg"].float().mean().item() == pytest.approx(dataset_mask_share(data), abs=0.02)
    whole = all_batches(open_split(data), batch_size=24)[0]
    assert torch.equal(batch["bbox"].nan_to_num(), whole["bbox"].nan_to_num())


def dataset_mask_share(data):
    with h5py.File(data / "train/masks.h5") as file:
        return file["masks"][:].mean()


# ---------------------------------------------------------------------------------------- bad input


def test_a_folder_that_is_not_rechunked_is_refused(tmp_path):
    folder = write_data(tmp_path / "raw", {"train": 4})
    with pytest.raises(InputError, match="data_rechunk.py"):
        open_split(folder)


def test_a_missing_folder_and_a_missing_split_are_refused(tmp_path):
    with pytest.raises(InputError, match="--synthetic"):
        MTLDataset(tmp_path / "nowhere", "train")
    folder = rechunk(write_data(tmp_path / "d", {"train": 4}))
    with pytest.raises(InputError, match="no test split"):
        MTLDataset(folder, "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_damaged_while_in_use_gives_one_clear_sentence(tmp_path, workers):
    folder = rechunk(write_data(tmp_path / "d", {"train": 40}))
    dataset = open_split(folder)
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
        all_batches(open_split(folder))


@pytest.mark.parametrize(
    "factors", [(1, 1, 1), (1.2, 1, 1), (1, 0.7, 1), (1, 1, 1.3), (0.8, 1.3, 0.7), (1.1, 0.9, 1.2)]
)
def test_colours_change_as_torchvision_changes_them(factors):
    # Middling values, which no factor takes to the ends: there torchvision clamps after every step,
    # we at the end.
    image = torch.randint(
        90, 150, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = image.float() / 255
    adjusts = adjust_brightness, adjust_contrast, adjust_saturation
    for adjust, factor in zip(adjusts, factors, strict=True):
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
