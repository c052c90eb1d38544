"""Batches from a re-chunked data folder: an image and one target per task, the same for every
experiment.

What an epoch's batches hold is a function of (seed, epoch, image) alone: each sample has a random
generator of its own, so the number of workers or processes, an interruption or what else the
program draws changes nothing. A sample is transformed whole before a task sees it; `raw`, from
which tasks make their targets, is described in tasks/__init__.py."""

import hashlib
import operator
import pickle
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import cli
from cli import InputError
from data import contract
from data.ahead import ahead
from data.annotations import Annotations
from data.augment import AUGMENTATIONS, Held, augment, augment_boxes, draw, sample_generator
from data.hard_augment import HardAugment
from data.index import breeds, read_index_rows
from data.order import EpochBatches, ShownMasks, choose_masks
from data.store import Stamps, Store

SLAB = 16  # rows that are read at a time where all are
HARD = 0x73636E65  # of the generator of an image's hard augmentation, apart from the usual one's


@dataclass(frozen=True)
class Sampling:
    """How images are drawn and changed.

    seed          of order, augmentation and the choice of masks.
    augment       "none", "flip" (half of the images) or "full" (also random crop and colour).
    sizes         image size in pixels of each epoch, S or smaller; None for S throughout.
    limit         use the first N images only.
    num_masks     how many images show their mask and trimap; None for all that have one.
    half_masked   at most half of the images show theirs in an epoch, and half of each batch.
    hard_augment  as --hard-augment has it (data/hard_augment.py); None for none.
    """

    seed: int = 0
    augment: str = "none"
    sizes: tuple | None = None
    limit: int | None = None
    num_masks: int | None = None
    half_masked: bool = False
    hard_augment: str | None = None

    def __post_init__(self):
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {AUGMENTATIONS} and was {self.augment!r}")


PLAIN = Sampling()


class MTLDataset(Dataset):
    """One split of a re-chunked data folder.

    data      the folder.
    split     "train", "val" or "test".
    tasks     objects whose targets a batch has; None for images alone. What a missing file would
              tell is unlabelled.
    sampling  how images are drawn and changed; as they are unless it says so.

    Its keys are (epoch, row), or a row alone for epoch 0, as an ordinary DataLoader and a for loop
    have it; (epoch, row, repeat) where an epoch takes an image more than once. A sample, and
    likewise a batch, is a dict: image (3, S, S) uint8; row int64; and a target for each task, in
    the form that the task's file says. Raises cli.InputError for a folder or file that is not as
    data/contract.py describes it, IndexError for a row beyond it."""

    def __init__(self, data, split, tasks=None, sampling=PLAIN):
        self.data, self.split, self.sampling = Path(data), split, sampling
        # Taken first, so that nothing that is read later can be of another file unnoticed.
        stamps = Stamps(self.data / split)
        self.summary = contract.describe(data)
        if split not in self.summary["splits"]:
            raise InputError(
                f"{data} has no {split} split; prepare the data again with a fraction for it, or "
                f"write {self.data / split / 'images.h5'} and what belongs to it"
            )
        whole = self.summary["splits"][split]
        self.n = min(sampling.limit or whole, whole)
        self.size, self.kinds = self.summary["size"], self.summary["kinds"][split]
        self.index = read_index_rows(data, split, whole)[: self.n]
        self.names = [row["name"] for row in self.index]
        self.tasks = {task.name: task for task in tasks or ()}
        self.hard_augment = self._make_hard_augment()
        needs = {need for task in self.tasks.values() for need in task.needs}
        if self.hard_augment:
            needs.add("masks")  # which tell what is pet
        self.pictures = [k for k in contract.PICTURES if k == "images" or k in needs]
        self.store = Store(stamps, self.pictures, self.n, self.size)
        for kind in set(contract.KINDS) - set(self.kinds):
            stamps.refuse_changes(kind)  # it might have been there a moment ago
        self.annotations = Annotations(stamps, self.index, self.size)
        # A few bytes an image: read once, not with every batch.
        self.known = {need: self.annotations.read(need) for need in needs - set(self.pictures)}
        self.held, self.stays = None, ()
        self.processes = 1  # that hold the pictures in memory, each for itself
        self.shown = ShownMasks()
        self.shown = self._choose_masks()

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        return {name: value[0] for name, value in self._batch([key]).items()}

    def __getitems__(self, keys):
        """The samples of `keys`: of (epoch, row) of one epoch a batch, of rows alone a list for
        PyTorch's own collating."""
        batch = self._batch(keys)
        if isinstance(keys[0], (tuple, list)):
            return batch
        return [{name: value[k] for name, value in batch.items()} for k in range(len(keys))]

    def column(self, name):
        """The cells of a column of index.csv, a list of n texts."""
        return self.annotations.column(name)

    def stream(self):
        """`raw` of all images, some at a time, neither augmented nor held in memory."""
        for start in range(0, self.n, SLAB):
            yield raw_of(self._read(range(start, min(start + SLAB, self.n)), None, hold=False))

    def image_hashes(self):
        """(n,) int64, one of each image's stored bytes, read anew as a stream: two are equal where
        the images are.

        An image stored at another size, or as another JPEG decoder gives it, has another hash.
        """
        hashes = np.empty(self.n, np.int64)
        file, dataset = contract.open_rechunked(self.data, self.split, "images")
        with file:
            for start, images in contract.slabs(dataset, self.n):
                for row, image in enumerate(images, start):
                    digest = hashlib.sha256(image).digest()
                    hashes[row] = int.from_bytes(digest[:8], "little", signed=True)
        return torch.from_numpy(hashes)

    def fits_in_memory(self, processes=1):
        """Whether the pictures, once for each process, take at most a quarter of this machine's
        memory."""
        return self.store.fits_in_memory(processes)

    def hold(self, device):
        """Hold the pictures on a device from now on and make batches of them there; hard
        augmentations cannot be."""
        if self.hard_augment:
            raise ValueError("hard augmentations are made image by image")
        pictures = {kind: [] for kind in self.pictures}
        for raw in self.stream():
            for kind, parts in pictures.items():
                parts.append(raw["image" if kind == "images" else kind].to(device))
        # A target that is a picture as it is stays there.
        for name, task in self.tasks.items():
            target = task.target(raw)
            if any(target is value for value in raw.values()):
                self.stays += (name,)
        self.held = Held({kind: torch.cat(parts) for kind, parts in pictures.items()})

    # ------------------------------------------------------------------------------------ one batch

    def _batch(self, keys):
        keys = [self._whole_key(key) for key in keys]
        epoch, rows = keys[0][0], [row for _, row, _ in keys]
        size = self.sampling.sizes[epoch] if self.sampling.sizes else self.size
        drawn = [self._draw(key) for key in keys]
        if self.held:
            pictures = self.held.batch(rows, drawn, size)
            values = self.shown.hide(pictures, rows, epoch) | self._known(rows)
        else:
            values = self._values(rows, epoch)
        is_drawn = self.sampling.augment != "none"
        if not self.held and (is_drawn or size != self.size or self.hard_augment):
            samples = []
            for k, key in enumerate(keys):
                sample = {name: value[k] for name, value in values.items()}
                samples.append(self._augmented(sample, drawn[k], size, key))
            values = stack(samples)
        if is_drawn and "bboxes" in values:
            values["bboxes"] = augment_boxes(values["bboxes"], drawn, self.size)
        raw = raw_of(values)
        batch = {"image": raw["image"]}
        for name, task in self.tasks.items():
            leaves = self.held and name not in self.stays
            batch[name] = task.target(OnCPU(raw) if leaves else raw)
        return batch | {"row": torch.tensor(rows)}

    def _whole_key(self, key):
        """A key in full, its row from 0 on."""
        epoch, row, repeat = (*key, 0)[:3] if isinstance(key, (tuple, list)) else (0, key, 0)
        row = operator.index(row)
        if not -self.n <= row < self.n:
            place = self.data / self.split
            raise IndexError(f"there is no row {row} among the {self.n} of {place}")
        return epoch, row % self.n, repeat

    def _draw(self, key):
        mode, rng = self.sampling.augment, None
        if mode != "none":  # making a generator takes a while
            rng = sample_generator(self.sampling.seed, *key)
        return draw(mode, self.size, rng)

    def _augmented(self, sample, drawn, size, key):
        """One sample, hard_augment.py's, with its pictures as they are in an epoch."""
        hard, (epoch, row, repeat) = self.hard_augment, key
        if hard:
            rng = np.random.default_rng((self.sampling.seed, epoch, row + 1, repeat, HARD))
            sample = hard.place(sample, row, self.n, lambda row: self._sample(row, epoch), rng)
        pictures = {kind: sample[kind] for kind in self.pictures}
        pictures = augment(pictures, drawn, size)
        if hard:
            pictures["images"] = hard.take(pictures["images"], rng)
        return sample | pictures

    def _sample(self, row, epoch):
        return {name: value[0] for name, value in self._values([row], epoch).items()}

    def _values(self, rows, epoch):
        """All that is known of some rows, as stored, where it is not hidden in an epoch."""
        return self._read(rows, epoch, self.fits_in_memory(self.processes))

    def _read(self, rows, epoch, hold):
        pictures = self.store.read(rows, hold)
        return self.shown.hide(pictures, rows, epoch) | self._known(rows)

    def _known(self, rows):
        """What is known of some rows beside pictures."""
        found = {}
        for need, values in self.known.items():
            if isinstance(values, list):
                found[need] = [values[row] for row in rows]
            else:
                found[need] = torch.from_numpy(values[rows])
        return found

    # ------------------------------------------------------------------------------- how it is made

    def _make_hard_augment(self):
        if not self.sampling.hard_augment:
            return None
        made = HardAugment(self.sampling.hard_augment)
        made.refuse_blindness(self.kinds, self.data)
        return made

    def _choose_masks(self):
        """The ShownMasks of num_masks and half_masked."""
        n, half = self.sampling.num_masks, self.sampling.half_masked
        if not n and not half:
            return self.shown
        kind = (*self.pictures[1:], None)[0]  # masks, or trimaps where no task needs masks
        has_mask = []
        for raw in self.stream() if kind else ():
            has_mask += (raw[kind] != contract.UNLABELLED).flatten(1).any(1).tolist()
        if sum(has_mask) < (n or 1):
            raise InputError(
                f"--num-masks {n or 1} asks for more masks than the {sum(has_mask)} of "
                f"{self.data / self.split} that the tasks use; ask for fewer, or leave it out"
            )
        chosen = np.array(has_mask)
        if n:
            chosen = choose_masks(breeds(self.index), chosen, n, self.sampling.seed)
        return ShownMasks(chosen, half, self.sampling.seed)


class OnCPU(dict):
    """`raw` whose tensors are copied to the CPU as a task takes them: its code may compute with
    anything."""

    def __getitem__(self, name):
        value = super().__getitem__(name)
        return value.cpu() if isinstance(value, torch.Tensor) else value


def raw_of(values):
    """`raw` of a batch's values."""
    raw = {"image": values["images"].contiguous(memory_format=torch.channels_last)}
    for name, value in values.items():
        if name != "images":
            raw[name] = value.contiguous() if isinstance(value, torch.Tensor) else value
    return raw


def stack(samples):
    """Samples as a batch: tensors stacked, all else in lists."""
    batch = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        batch[name] = torch.stack(values) if isinstance(first, torch.Tensor) else values
    return batch


# ------------------------------------------------------------------------------------------ loaders


def make_loader(dataset, batch_size, shuffle=False, workers=0, part=(0, 1)):
    """A DataLoader over an MTLDataset; `shuffle` by its seed; part: data/order.py."""
    dataset.processes = part[1]
    seed = dataset.sampling.seed if shuffle else None
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), batch_size, seed, dataset.shown, part),
        collate_fn=pack,  # __getitems__ gives whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=cli.ignore_interrupts,
        pin_memory=torch.cuda.is_available() and not dataset.held,
    )


def pack(batch):
    """A batch as it is, or as a worker sends it: through a pipe, not in shared memory, which
    containers often limit."""
    return pickle.dumps(batch, pickle.HIGHEST_PROTOCOL) if get_worker_info() else batch


def start_workers(loader):
    """The loader's iterator, whose worker processes read ahead by themselves."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None  # an iterator that is half made complains as it goes
    try:
        return iter(loader)
    except OSError as error:
        traceback.clear_frames(error.__traceback__)
        raise InputError(
            f"the {loader.num_workers} workers of the loader cannot start ({error.strerror}); "
            "use fewer, or --workers 0"
        ) from None
    finally:
        sys.unraisablehook = hook


def batches(loader, epoch=0):
    """The batches of one epoch, read ahead of their use. Close it (contextlib.closing) where it may
    be left half-way."""
    loader.batch_sampler.epoch = epoch
    if not loader.num_workers:
        yield from ahead(loader)
        return
    packed = start_workers(loader)
    try:
        for batch in packed:
            batch = pickle.loads(batch)
            if loader.pin_memory:
                batch = {name: value.pin_memory() for name, value in batch.items()}
            yield batch
        return
    except InputError as error:
        # A worker's error arrives with the worker's traceback around it; its last line is the
        # sentence.
        sentence = str(error).strip().splitlines()[-1].removeprefix("cli.InputError: ")
        # Its frames would keep the loader's iterator until the garbage collector comes by, and that
        # takes the workers' semaphores away before it ends the workers. Cleared, they end here.
        traceback.clear_frames(error.__traceback__)
    raise InputError(sentence)
