"""Batches from a re-chunked data folder: a picture and all targets that are known, the same for every experiment.

What an epoch's batches hold is a function of (seed, epoch, image) alone: each sample has a random generator of its own,
so the number of workers, an interruption or what else the program draws changes nothing.
"""

import contextlib
import hashlib
import math
import operator
import os
import queue
import threading
import traceback
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torchvision.transforms.v2 import functional as transforms
from torchvision.transforms.v2 import InterpolationMode

import cli
import data_check
from cli import InputError

AUGMENTATIONS = ("none", "flip", "full")
CROP_AREA = (0.5, 1.0)      # of the image's area, for "full"
CROP_ASPECT = (0.8, 1.25)   # width to height of the crop
JITTER = 0.3                # brightness, contrast and saturation each change by up to this factor
GREY = torch.tensor([0.2989, 0.587, 0.114])  # of red, green and blue in grey (ITU-R BT.601)
MIN_HEAD_VISIBLE = 0.2      # a head box that keeps less of its area after a crop is no box any more


class MTLDataset(Dataset):
    """One split of a re-chunked data folder.

    data     the folder; split  "train", "val" or "test".
    seed     of the augmentation.
    augment  "none", "flip" (half of the images mirrored) or "full" (also random crop and colour).
    sides    side in pixels of the images in each epoch, smaller or equal to S; None for S throughout.
    limit    use the first so many images only.
    tasks    whose targets have to be there, or it is refused; None for whatever there is.

    Its keys are (epoch, row), or a row alone for epoch 0, as an ordinary DataLoader and a for loop have it. A sample, and
    likewise a batch, is a dict: image (3, S, S) uint8; seg (1, S, S) uint8 of 0 and 1; cls int64, 0 cat and 1 dog; bbox
    (4,) float32 normalised xyxy, or NaN; row int64. A target whose file is missing has no key.
    Raises cli.InputError for a folder or file that is not as data_check.py describes it, IndexError for a row beyond it.
    """

    def __init__(self, data, split, seed=0, augment="none", sides=None, limit=None, tasks=None):
        if augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {AUGMENTATIONS} and was {augment!r}")
        # Taken first, so that nothing that is read later can be of another file unnoticed.
        self._stamps = {kind: stamp(Path(data) / split / f"{kind}.h5") for kind in data_check.KINDS}
        self.summary = data_check.describe(data)
        if split not in self.summary["splits"]:
            raise InputError(f"{data} has no {split} split; prepare the data again with a fraction for it, or write "
                             f"{Path(data) / split / 'images.h5'} and what belongs to it")
        self.data, self.split, self.seed, self.augment, self.sides = Path(data), split, seed, augment, sides
        whole = self.summary["splits"][split]
        self.n, self.size, self.kinds = min(limit or whole, whole), self.summary["size"], self.summary["kinds"][split]
        for kind in set(data_check.KINDS) - set(self.kinds):
            self._refuse_changes(kind)  # it might have been there a moment ago
        data_check.require(data, split, tasks or ())
        self.names = data_check.read_index(data, split, whole)[: self.n]
        # 24 bytes an image, None where the file is missing; pictures and masks are read when they are asked for.
        boxes, labels = (self._read_all(kind) if kind in self.kinds else None for kind in ("bboxes", "binary"))
        self.bboxes = None if boxes is None else torch.from_numpy(boxes) / self.size
        self.labels = None if labels is None else torch.from_numpy(labels[:, 0].astype(np.int64))
        self._process, self._stores, self._held, self._targets = None, None, None, None

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        return {name: value[0] for name, value in self._batch([key]).items()}

    def __getitems__(self, keys):
        """The samples of `keys`: of (epoch, row) of one epoch a batch, of rows alone a list, which PyTorch's own collating
        takes."""
        batch = self._batch(keys)
        if isinstance(keys[0], (tuple, list)):
            return batch
        return [{name: value[k] for name, value in batch.items()} for k in range(len(keys))]

    def _batch(self, keys):
        keys = [self._epoch_and_row(key) for key in keys]
        epoch, rows = keys[0][0], [row for _, row in keys]
        images, masks = self._read(rows)
        # Stored as height x width x channel; seen as channel x height x width this is the channels_last layout, which
        # convolutions on a CPU prefer.
        images, masks = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks).permute(0, 3, 1, 2)
        bboxes = torch.full((len(rows), 4), math.nan) if self.bboxes is None else self.bboxes[rows]
        side = self.sides[epoch] if self.sides else self.size
        if self.augment != "none" or side != self.size:
            samples = [
                augment(image, mask, box, self.augment, side, sample_generator(self.seed, epoch, row))
                for image, mask, box, row in zip(images, masks, bboxes, rows)
            ]
            images, masks, bboxes = map(torch.stack, zip(*samples))
        images = images.contiguous(memory_format=torch.channels_last)
        batch = {"image": images, "seg": masks.contiguous(), "cls": None if self.labels is None else self.labels[rows],
                 "bbox": bboxes, "row": torch.tensor(rows)}
        # What went through the above in the place of a missing file is left out.
        return {key: value for key, value in batch.items() if data_check.NEEDS.get(key, "images") in self.kinds}

    def _epoch_and_row(self, key):
        """A key in full, its row from 0 on."""
        epoch, row = key if isinstance(key, (tuple, list)) else (0, key)
        row = operator.index(row)
        if not -self.n <= row < self.n:
            raise IndexError(f"there is no row {row} among the {self.n} of {self.data / self.split}")
        return epoch, row % self.n

    def __getstate__(self):
        # An HDF5 handle means nothing in another process, and what is held in memory would be copied.
        return {**self.__dict__, "_process": None, "_stores": None, "_held": None}

    def _read_all(self, kind):
        file, dataset = data_check.open_rechunked(self.data, self.split, kind)
        with file:
            rows = data_check.read_rows(dataset, 0, self.n)
            data_check.check_values(file.filename, kind, rows, self.size)
        self._refuse_changes(kind)
        return rows

    def _refuse_changes(self, kind):
        """Refuse a file that is not the one any more that was there when the dataset was made."""
        path = self.data / self.split / f"{kind}.h5"
        if stamp(path) != self._stamps[kind]:
            raise InputError(f"{path} was changed or replaced while it was in use; start again")

    def image_hashes(self):
        """(n,) int64, one of each image's stored bytes, read anew as a stream: two are equal where the images are.

        An image stored at another size, or as another JPEG decoder gives it, has another hash.
        """
        hashes = np.empty(self.n, np.int64)
        file, dataset = data_check.open_rechunked(self.data, self.split, "images")
        with file:
            for start, images in data_check.slabs(dataset, self.n):
                for row, image in enumerate(images, start):
                    hashes[row] = int.from_bytes(hashlib.sha256(image).digest()[:8], "little", signed=True)
        return torch.from_numpy(hashes)

    def targets_summary(self):
        """How many images teach or measure each task, without those whose file is missing: {"seg": images whose mask has a
        pet, "cls": [cats, dogs], "bbox": images with a head box}. Masks are read once, as a stream."""
        if self._targets is None:
            targets = {}
            if "masks" in self.kinds:
                file, dataset = data_check.open_rechunked(self.data, self.split, "masks")
                with file:
                    targets["seg"] = sum(int((masks == 1).any(axis=(1, 2, 3)).sum())
                                         for _, masks in data_check.slabs(dataset, self.n))
                self._refuse_changes("masks")
            if self.labels is not None:
                targets["cls"] = [int((self.labels == label).sum()) for label in (0, 1)]
            if self.bboxes is not None:
                targets["bbox"] = int((~self.bboxes.isnan().any(dim=1)).sum())
            self._targets = targets
        return self._targets

    def count_among(self, hashes):
        """How many of its images are among those of some hashes."""
        return int(torch.isin(self.image_hashes(), hashes).sum())

    def fits_in_memory(self):
        """Whether images and masks take at most a quarter of this machine's memory (where it tells how much it has)."""
        try:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            memory = 8 << 30
        return self.n * 4 * self.size**2 <= memory / 4

    def _open(self):
        """Open the files in this process, at its first read."""
        # After a fork the parent's handles are here too; they are left alone, not closed, as is what it holds in memory.
        self._inherited = self._stores, self._held
        self._stores = {kind: data_check.open_rechunked(self.data, self.split, kind)[1] for kind in ("images", "masks")
                        if kind in self.kinds}
        for kind in self._stores:
            self._refuse_changes(kind)
        self._held = None
        if self.fits_in_memory() and get_worker_info() is None:  # in every worker it would be a copy more
            self._held = [np.empty((self.n, *store.shape[1:]), np.uint8) for store in self._stores.values()]
            self._is_held = np.zeros(self.n, bool)
        self._process = os.getpid()

    def _read(self, rows):
        """Images (B, S, S, 3) and masks (B, S, S, 1) of some rows, both uint8; from memory where they were read before.

        Masks that are not known are empty here."""
        if self._process != os.getpid():
            self._open()
        if self._held is None:
            found = [self._read_file(kind, rows) for kind in self._stores]
        else:
            new = [row for row in rows if not self._is_held[row]]
            for held, kind in zip(self._held, self._stores):
                held[new] = self._read_file(kind, new)
            self._is_held[new] = True
            found = [held[rows] for held in self._held]
        return found if "masks" in self._stores else [*found, np.zeros((len(rows), self.size, self.size, 1), np.uint8)]

    def _read_file(self, kind, rows):
        """Rows of one file as an array."""
        store = self._stores[kind]
        batch = np.empty((len(rows), *store.shape[1:]), np.uint8)
        for row, sample in zip(rows, batch):
            try:
                # A sample is a chunk, stored as it is, so its bytes can be taken over whole: three times the speed of
                # selecting a row, and three hundred times that of selecting a list of rows.
                store.id.read_direct_chunk((row, 0, 0, 0), out=sample.reshape(-1))
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(f"{store.file.filename}, row {row} cannot be read ({data_check.shorten(error)}); "
                                 f"{data_check.anew(store.file.filename)}") from None
        self._refuse_changes(kind)  # after reading, as it might change during it
        if kind == "masks" and batch.max(initial=0) > 1:
            for row, sample in zip(rows, batch):
                data_check.check_values(store.file.filename, kind, sample[None], self.size, row)
        return batch


def stamp(path):
    """What tells a file from what it was before or what took its place; None where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def sample_generator(seed, epoch, row):
    """The random generator of one image in one epoch."""
    # Rows count from one here: a trailing zero would give the generator of (seed, epoch), which shuffles.
    return np.random.default_rng((seed, epoch, row + 1))


def augment(image, mask, box, mode, side, rng):
    """Transform an image, its mask and its head box together.

    image (3, H, W) uint8, mask (1, H, W) uint8, box (4,) normalised xyxy or NaN; mode as in MTLDataset; `side` of the
    result in pixels; rng a numpy Generator. Returns the three in the same form, at side x side.
    """
    height, width = image.shape[-2:]
    if mode == "full":
        top, left, h, w = random_crop(height, width, rng)
        image, mask = image[:, top:top + h, left:left + w], mask[:, top:top + h, left:left + w]
        box = crop_box(box, left / width, top / height, w / width, h / height)
    if image.shape[-2:] != (side, side):
        image = transforms.resize(image, [side, side], InterpolationMode.BILINEAR, antialias=True)
        mask = transforms.resize(mask, [side, side], InterpolationMode.NEAREST_EXACT)
    if mode == "full":
        image = adjust_colours(image, *rng.uniform(1 - JITTER, 1 + JITTER, 3))
    if mode != "none" and rng.random() < 0.5:
        image, mask, box = image.flip(-1), mask.flip(-1), flip_box(box)
    return image, mask, box


def adjust_colours(image, brightness, contrast, saturation):
    """Multiply brightness, contrast and saturation, in this order, with factors: (3, H, W) uint8 -> the same.

    What torchvision's functions of these names do one after another. Each mixes a pixel, its grey and the mean grey, so all
    three together do too: a third of the time. Values are clamped once, at the end.
    """
    # No matrix product: inside a forked worker that can spin for ever (seen with MKL).
    pixels = image.flatten(1).float()                      # (3, HW)
    grey = (pixels * GREY[:, None]).sum(0)                 # (HW,)
    offset = (1 - contrast) * brightness * grey.mean() + 0.5  # rounded, not cut
    grey *= contrast * brightness * (1 - saturation)
    pixels *= contrast * brightness * saturation
    return pixels.add_(grey).add_(offset).clamp_(0, 255).to(torch.uint8).view_as(image)


def random_crop(height, width, rng):
    """A crop (top, left, height, width) in pixels of an image of the given size."""
    area, aspect = rng.uniform(*CROP_AREA), math.exp(rng.uniform(*np.log(CROP_ASPECT)))
    h = min(height, max(1, round(height * math.sqrt(area / aspect))))
    w = min(width, max(1, round(width * math.sqrt(area * aspect))))
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def crop_box(box, left, top, width, height):
    """A box (4,) in the frame of a crop, all normalised; NaN where less than MIN_HEAD_VISIBLE of it remains."""
    frame = torch.tensor([left, top, left, top]), torch.tensor([width, height, width, height])
    moved = (box - frame[0]) / frame[1]
    clipped = moved.clamp(0, 1)
    if not box_area(clipped) >= MIN_HEAD_VISIBLE * box_area(moved):  # "not >=" so that NaN stays NaN
        return torch.full_like(box, math.nan)
    return clipped


def box_area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def flip_box(box):
    """A normalised box (4,) mirrored left to right."""
    x1, y1, x2, y2 = box.unbind()
    return torch.stack([1 - x2, y1, 1 - x1, y2])


class EpochBatches(Sampler):
    """Batches of keys (epoch, row) for the epoch that `epoch` says.

    Shuffled by (seed, epoch) unless seed is None. A last incomplete batch is left out when shuffled and there are others:
    batch normalisation over one or two images disturbs the network.
    """

    def __init__(self, n, batch_size, seed=None):
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0

    def __len__(self):
        return self.n // self.batch_size if self._drops_last() else math.ceil(self.n / self.batch_size)

    def __iter__(self):
        order = np.arange(self.n)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for k in range(len(self)):
            yield [(self.epoch, int(row)) for row in order[k * self.batch_size:(k + 1) * self.batch_size]]

    def _drops_last(self):
        return self.seed is not None and self.n >= self.batch_size


def make_loader(dataset, batch_size, shuffle=False, workers=0, context=None):
    """A DataLoader over an MTLDataset; `shuffle` by the dataset's seed; context "fork", "spawn" or None for the default."""
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), batch_size, dataset.seed if shuffle else None),
        collate_fn=as_it_is,  # __getitems__ gives whole batches
        num_workers=workers,
        worker_init_fn=cli.ignore_interrupts,
        multiprocessing_context=context if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def as_it_is(batch):
    return batch


def batches(loader, epoch=0):
    """The batches of one epoch, read ahead of their use. Close it (contextlib.closing) where it may be left half-way."""
    loader.batch_sampler.epoch = epoch
    try:
        # Worker processes read ahead by themselves.
        yield from loader if loader.num_workers else ahead(loader)
        return
    except InputError as error:
        # A worker's error arrives with the worker's traceback around it; its last line is the sentence.
        sentence = str(error).strip().splitlines()[-1].removeprefix("cli.InputError: ")
        # Its frames would keep the loader's iterator until the garbage collector comes by, and that takes the workers'
        # semaphores away before it ends the workers. Cleared, they end here.
        traceback.clear_frames(error.__traceback__)
    raise InputError(sentence)


def ahead(iterable, depth=2):
    """Iterate in a thread, up to `depth` items ahead of their use."""
    items, stopped, end = queue.Queue(depth), threading.Event(), object()

    def put(item):
        # The main thread has ended where somebody left the generator open; the program then waits for this thread.
        while not stopped.is_set() and threading.main_thread().is_alive():
            with contextlib.suppress(queue.Full):
                return items.put(item, timeout=0.1)
        stopped.set()

    def produce():
        torch.set_num_threads(1)  # of this thread: the cores are the network's
        try:
            for item in iterable:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:  # raised again where the item would have been used
            put((end, error))

    # No daemon: a thread inside PyTorch while the interpreter goes down would bring it down with an abort.
    thread = threading.Thread(target=produce)
    try:
        thread.start()
        while True:
            item, error = items.get()
            if error:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        if thread.is_alive():
            thread.join()
