"""The pictures of a split, read sample by sample from its re-chunked files, and held in memory
where they fit."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import get_worker_info

from cli import InputError
from data import contract


class Stamps:
    """What the files of a split were like when they were first looked at: a changed one is
    refused."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.paths = {kind: str(self.folder / f"{kind}.h5") for kind in contract.KINDS}
        self.stamps = {kind: stamp(path) for kind, path in self.paths.items()}

    def refuse_changes(self, kind):
        path = self.paths[kind]
        if stamp(path) != self.stamps[kind]:
            raise InputError(f"{path} was changed or replaced while it was in use; start again")


class Store:
    """Some kinds of pictures of a split.

    stamps  of the split.
    kinds   of images, masks and trimaps.
    n       how many rows are used.
    size    their side in pixels.

    Files open in the process that reads, at its first read: an HDF5 handle means nothing in another
    one.
    """

    def __init__(self, stamps, kinds, n, size):
        self.stamps, self.n, self.size = stamps, n, size
        self.kinds = [kind for kind in kinds if stamps.stamps[kind]]
        self.missing = [kind for kind in kinds if not stamps.stamps[kind]]
        self._process, self._files, self._held = None, None, None

    def __getstate__(self):
        # What is held in memory would be copied.
        empty = {"_process": None, "_files": None, "_held": None, "_inherited": None}
        return self.__dict__ | empty

    def read(self, rows, hold=True):
        """{kind: (B, 3 or 1, S, S) uint8} of some rows; 255 where there is no file.

        From memory where they were read before and `hold` allows it. One read without holding, as
        of a stream that sees each row once, says nothing of the next."""
        if self._process != os.getpid():
            self._open()
        # In every worker it would be a copy more.
        read = self._read_held if hold and not get_worker_info() else self._read_files
        found = {}
        for kind, values in read(rows).items():
            # Stored as height x width x channel; seen as channel x height x width this is the
            # channels_last layout, which convolutions on a CPU prefer.
            found[kind] = torch.from_numpy(values).permute(0, 3, 1, 2)
        for kind in self.missing:
            shape = len(rows), 1, self.size, self.size
            found[kind] = torch.full(shape, contract.UNLABELLED, dtype=torch.uint8)
        return found

    def fits_in_memory(self, processes=1):
        """Whether the pictures, once for each process, take at most a quarter of this machine's
        memory (where it tells how much it has)."""
        try:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            memory = 8 << 30
        return processes * self.bytes() <= memory / 4

    def bytes(self):
        """How many bytes all pictures take."""
        return sum(math.prod(self._shape(kind)) for kind in self.kinds)

    def _shape(self, kind):
        return self.n, *contract.sample_shape(kind, self.size)

    def _open(self):
        # After a fork the parent's handles are here too; they are left alone, not closed, as is
        # what it holds in memory.
        self._inherited = self._files, self._held
        self._files, self._held = {}, None
        folder = self.stamps.folder
        for kind in self.kinds:
            self._files[kind] = contract.open_rechunked(folder.parent, folder.name, kind)[1]
            self.stamps.refuse_changes(kind)
        self._process = os.getpid()

    def _read_held(self, rows):
        if self._held is None:
            self._held = {kind: np.empty(self._shape(kind), np.uint8) for kind in self.kinds}
            self._is_held = np.zeros(self.n, bool)
        new = [row for row in rows if not self._is_held[row]]
        for kind, values in self._read_files(new).items():
            self._held[kind][new] = values
        self._is_held[new] = True
        return {kind: held[rows] for kind, held in self._held.items()}

    def _read_files(self, rows):
        """{kind: (B, S, S, 3 or 1) uint8} of some rows, from their files."""
        return {kind: self._read_file(kind, rows) for kind in self.kinds}

    def _read_file(self, kind, rows):
        file, path = self._files[kind], self.stamps.paths[kind]
        batch = np.empty((len(rows), *file.shape[1:]), np.uint8)
        for row, sample in zip(rows, batch, strict=True):
            try:
                # A sample is a chunk, stored as it is, so its bytes can be taken over whole: three
                # times the speed of selecting a row, and three hundred times that of selecting a
                # list of rows.
                file.id.read_direct_chunk((row, 0, 0, 0), out=sample.reshape(-1))
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"{path}, row {row} cannot be read ({contract.shorten(error)}); "
                    f"{contract.anew(path)}"
                ) from None
        self.stamps.refuse_changes(kind)  # after reading, as it might change during it
        if kind != "images" and batch.max(initial=0) > 1:
            for row, sample in zip(rows, batch, strict=True):
                contract.check_values(path, kind, sample[None], self.size, row)
        return batch


def stamp(path):
    """What tells a file from what it was before or what took its place; None where there is no such
    file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
