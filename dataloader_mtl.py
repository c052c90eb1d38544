"""Batches from a re-chunked data folder: a picture and one target per task, the same for every
experiment.

What an epoch's batches hold is a function of (seed, epoch, image) alone: each sample has a random
generator of its own, so the number of workers, an interruption or what else the program draws
changes nothing.
"""

import hashlib
import operator
import traceback
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import cli
import registry
from cli import InputError
from data import contract
from data.ahead import ahead
from data.augmentation import AUGMENTATIONS, Held, augment, draw, mover, sample_generator
from data.index import breeds, read_index_rows
from data.order import EpochBatches, choose_masks
from data.scenes import make as make_scenes
from data.store import Store, stamp

SCENES = 0x73636E65  # tells the generator of an image's scenes from that of its augmentation, which is as without


class MTLDataset(Dataset):
    """One split of a re-chunked data folder.

    data     the folder; split  "train", "val" or "test". seed     of the augmentation, and of the
             choice of masks. augment  "none", "flip" (half of the images mirrored) or "full" (also
             random crop and colour). sides    side in pixels of the images in each epoch, smaller
             or equal to S; None for S throughout. limit    use the first so many images only. tasks
             names or tasks whose targets a batch has; None for those of the published study that
             the split knows. masks    how many images keep their mask and trimap (data/order.py);
             None for all. scenes   names of data/scenes.py as of --scenes, or an object with
             `place` and `take` like its Scenes; None for none.

    Its keys are (epoch, row), or a row alone for epoch 0, as an ordinary DataLoader and a for loop
    have it; (epoch, row, repeat) where an epoch takes an image more than once. A sample, and
    likewise a batch, is a dict: image (3, S, S) uint8; row int64; and a target for each task, in
    the form that the task's file says. What a missing file would tell is unlabelled. Raises
    cli.InputError for a folder or file that is not as data/contract.py describes it, IndexError for
    a row beyond it.
    """

    def __init__(
        self,
        data,
        split,
        seed=0,
        augment="none",
        sides=None,
        limit=None,
        tasks=None,
        masks=None,
        scenes=None,
    ):
        if augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {AUGMENTATIONS} and was {augment!r}")
        # Taken first, so that nothing that is read later can be of another file unnoticed.
        stamps = {kind: stamp(Path(data) / split / f"{kind}.h5") for kind in contract.KINDS}
        self.summary = contract.describe(data)
        if split not in self.summary["splits"]:
            raise InputError(
                f"{data} has no {split} split; prepare the data again with a fraction for it, or write "
                f"{Path(data) / split / 'images.h5'} and what belongs to it"
            )
        self.data, self.split, self.seed, self.augment, self.sides = (
            Path(data),
            split,
            seed,
            augment,
            sides,
        )
        whole = self.summary["splits"][split]
        self.n, self.size, self.kinds = (
            min(limit or whole, whole),
            self.summary["size"],
            self.summary["kinds"][split],
        )
        self.index = read_index_rows(data, split, whole)[: self.n]
        self.names = [row["name"] for row in self.index]
        self.tasks = self._make_tasks(tasks)
        needs = {need for task in self.tasks.values() for need in task.needs}
        self.scenes = make_scenes(scenes, self.kinds, self.data)
        needs |= {"masks"} if self.scenes else set()  # they tell what is pet
        self._pictures = [kind for kind in contract.PICTURES if kind == "images" or kind in needs]
        self.store = Store(
            data,
            split,
            [kind for kind in self._pictures if kind in self.kinds],
            self.n,
            self.size,
            stamps,
        )
        for kind in set(contract.KINDS) - set(self.kinds):
            self.store.refuse_changes(kind)  # it might have been there a moment ago
        self._whole, self.held, self.keeps = {}, None, self._choose_masks(masks) if masks else None
        # A few bytes an image: what is made of no picture is made once.
        self._fixed = {
            name: task.target(self._raw(task.needs))
            for name, task in self.tasks.items()
            if task.needs and not set(task.needs) & set(contract.PICTURES)
        }

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
        if name not in self.index[0]:
            known = ", ".join(self.index[0]) if "row" in self.index[0] else "it has no index.csv"
            raise InputError(
                f"{self.data / self.split / 'index.csv'} has no column {name!r} ({known}); add it, a cell an image, "
                "empty where nothing is known"
            )
        return [row[name] or "" for row in self.index]

    def stream(self, tasks):
        """What the targets of some tasks, {name: Task}, are made from (`raw`): 16 images at a time,
        neither augmented nor held."""
        needs = list(dict.fromkeys(need for task in tasks.values() for need in task.needs))
        looks = any(
            not set(task.needs) - {"images"} or set(task.needs) & set(contract.PICTURES)
            for task in tasks.values()
        )
        for start in range(0, self.n if tasks else 0, 16):
            rows = list(range(start, min(start + 16, self.n)))
            yield self._raw(needs, rows, self._read(rows, hold=False) if looks else None)

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
                    hashes[row] = int.from_bytes(
                        hashlib.sha256(image).digest()[:8], "little", signed=True
                    )
        return torch.from_numpy(hashes)

    def hold(self, device):
        """Hold the pictures on a device from now on and make batches of them there, but for targets
        that a task's own code makes of pictures. Scenes are made of single images, and cannot
        be."""
        if self.scenes:
            raise ValueError("scenes are made image by image")
        parts = [
            self._read(list(rows), hold=False)
            for rows in np.array_split(np.arange(self.n), -(-self.n // 64))
        ]
        self.held = Held(
            {kind: torch.cat([part[kind].to(device) for part in parts]) for kind in self._pictures}
        )

    def fits_in_memory(self):
        """Whether the pictures take at most a quarter of this machine's memory."""
        return self.store.fits_in_memory()

    def _make_tasks(self, tasks):
        if tasks is None:
            tasks = [
                task
                for task in registry.tasks(registry.PUBLISHED).values()
                if set(task.needs) <= set(self.kinds)
            ]
        return registry.tasks(tasks) if len(tasks) else {}  # of images alone nothing is known

    def _batch(self, keys):
        keys = [self._whole_key(key) for key in keys]
        epoch, rows = keys[0][0], [row for _, row, _ in keys]
        side, moves = self.sides[epoch] if self.sides else self.size, None
        if self.held:
            drawn = [
                draw(self.augment, self.size, self.size, sample_generator(self.seed, *key))
                for key in keys
            ]
            pictures = self.held.batch(rows, drawn, side)
            moves = [mover(crop, mirrored, self.size, self.size) for crop, _, mirrored in drawn]
        else:
            pictures = self._read(rows, self.fits_in_memory())
        if not self.held and (self.augment != "none" or side != self.size or self.scenes):
            samples = [
                self._change({kind: pixels[k] for kind, pixels in pictures.items()}, side, *key)
                for k, key in enumerate(keys)
            ]
            pictures = {
                kind: torch.stack([sample[kind] for sample, _ in samples]) for kind in pictures
            }
            moves = [move for _, move in samples]
        image = pictures["images"] = pictures["images"].contiguous(
            memory_format=torch.channels_last
        )
        batch, copies = {"image": image}, None
        for name, task in self.tasks.items():
            if name in self._fixed:
                target = self._fixed[name][rows]
            else:
                if self.held and not task.is_stored:  # its code may compute with anything
                    copies = copies or {kind: pixels.cpu() for kind, pixels in pictures.items()}
                target = task.target(
                    self._raw(task.needs, rows, pictures if task.is_stored else copies or pictures)
                )
            changes = moves and (task.moves or self.scenes)
            batch[name] = (
                torch.stack([move(task, one) for one, move in zip(target, moves)])
                if changes
                else target
            )
        return batch | {"row": torch.tensor(rows)}

    def _change(self, pictures, side, epoch, row, repeat):
        """Pictures of one image as they are in an epoch, and a function (task, target) -> target
        that does it to a target."""
        rng = sample_generator(self.seed, epoch, row, repeat)
        if not self.scenes:
            return augment(pictures, self.augment, side, rng)
        own = np.random.default_rng((self.seed, epoch, row + 1, repeat, SCENES))
        pictures, change = self.scenes.place(pictures, row, self.n, self._one, own)
        pictures, move = augment(pictures, self.augment, side, rng)
        pictures["images"] = self.scenes.take(pictures["images"], own)
        return pictures, lambda task, target: move(
            task, change.apply(task, target, lambda row: self._fixed_target(task, row))
        )

    def _one(self, row):
        return {
            kind: pixels[0] for kind, pixels in self._read([row], self.fits_in_memory()).items()
        }

    def _fixed_target(self, task, row):
        """One row's target of a task that is made of no picture, else None."""
        return self._fixed[task.name][row] if task.name in self._fixed else None

    def _whole_key(self, key):
        """A key in full, its row from 0 on."""
        epoch, row, repeat = (*key, 0)[:3] if isinstance(key, (tuple, list)) else (0, key, 0)
        row = operator.index(row)
        if not -self.n <= row < self.n:
            raise IndexError(
                f"there is no row {row} among the {self.n} of {self.data / self.split}"
            )
        return epoch, row % self.n, repeat

    def _read(self, rows, hold):
        """{kind: (B, 3 or 1, S, S) uint8} of the pictures that the tasks need; 255 where nothing is
        known."""
        # Stored as height x width x channel; seen as channel x height x width this is the
        # channels_last layout, which convolutions on a CPU prefer.
        found = {
            kind: torch.from_numpy(pixels).permute(0, 3, 1, 2)
            for kind, pixels in self.store.read(rows, hold).items()
        }
        for kind in self._pictures[1:]:
            if kind not in found:
                found[kind] = torch.full(
                    (len(rows), 1, self.size, self.size), contract.UNLABELLED, dtype=torch.uint8
                )
            elif self.keeps is not None:
                found[kind][~self.keeps[rows]] = contract.UNLABELLED
        return found

    def _raw(self, needs, rows=None, pictures=None):
        """What a task's `target` is made from (tasks/__init__.py), of some rows or, without
        pictures, of all."""
        raw = {"size": self.size} | ({"image": pictures["images"]} if pictures is not None else {})
        for need in needs:
            if need in contract.PICTURES:
                raw[need] = pictures[need].contiguous() if need != "images" else pictures[need]
            else:
                values = self._all_rows(need)
                raw[need] = (
                    values
                    if rows is None
                    else [values[k] for k in rows]
                    if ":" in need
                    else values[rows]
                )
        return raw

    def _all_rows(self, need):
        """All of a file without pictures, a tensor, or of a column of index.csv, a list; read once,
        not with every batch."""
        if need not in self._whole:
            kind, _, column = need.partition(":")
            if column:  # without an index.csv nothing is known
                self._whole[need] = self.column(column) if "row" in self.index[0] else [""] * self.n
            else:
                self._whole[need] = torch.from_numpy(self._read_all(kind))
        return self._whole[need]

    def _read_all(self, kind):
        """All rows of a file that holds no pictures; unlabelled ones where it is missing."""
        if kind not in self.kinds:
            return contract.unlabelled(kind, self.n)
        file, dataset = contract.open_rechunked(self.data, self.split, kind)
        with file:
            rows = contract.read_rows(dataset, 0, self.n)
            contract.check_values(file.filename, kind, rows, self.size)
        self.store.refuse_changes(kind)
        return rows

    def _choose_masks(self, n):
        kind, self.keeps = (
            next(iter(self._pictures[1:]), None),
            None,
        )  # masks, or trimaps where no task needs masks
        masked = (
            np.concatenate(
                [
                    (self._read(list(rows), hold=False)[kind] != contract.UNLABELLED)
                    .flatten(1)
                    .any(1)
                    .numpy()
                    for rows in np.array_split(np.arange(self.n), -(-self.n // 16))
                ]
            )
            if kind
            else np.zeros(0)
        )
        if masked.sum() < n:
            raise InputError(
                f"--masks {n} asks for more masks than the {int(masked.sum())} of {self.data / self.split} that "
                "the tasks use; ask for fewer, or leave it out to use all"
            )
        return choose_masks(breeds(self.index), masked, n, self.seed)


def make_loader(dataset, batch_size, shuffle=False, workers=0, context=None, part=(0, 1)):
    """A DataLoader over an MTLDataset; `shuffle` by its seed; context "fork", "spawn" or None, the
    default; part: data/order.py."""
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(
            len(dataset), batch_size, dataset.seed if shuffle else None, dataset.keeps, part
        ),
        collate_fn=as_it_is,  # __getitems__ gives whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=context if workers else None,
        worker_init_fn=cli.ignore_interrupts,
        pin_memory=torch.cuda.is_available() and not dataset.held,
    )


def as_it_is(batch):
    return batch


def batches(loader, epoch=0):
    """The batches of one epoch, read ahead of their use. Close it (contextlib.closing) where it may
    be left half-way."""
    loader.batch_sampler.epoch = epoch
    try:
        # Worker processes read ahead by themselves.
        yield from loader if loader.num_workers else ahead(loader)
        return
    except InputError as error:
        # A worker's error arrives with the worker's traceback around it; its last line is the
        # sentence.
        sentence = str(error).strip().splitlines()[-1].removeprefix("cli.InputError: ")
        # Its frames would keep the loader's iterator until the garbage collector comes by, and that
        # takes the workers' semaphores away before it ends the workers. Cleared, they end here.
        traceback.clear_frames(error.__traceback__)
    raise InputError(sentence)
