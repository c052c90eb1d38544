"""The pictures of a split, read sample by sample from its re-chunked files, and held in memory where they fit."""

import math
import os
from pathlib import Path

import numpy as np
from torch.utils.data import get_worker_info

from cli import InputError
from data import contract


class Stamps:
    """What the files of a split were like when they were first looked at: a changed one is refused."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.stamps = {kind: stamp(self.path(kind)) for kind in contract.KINDS}

    def path(self, kind):
        return self.folder / f"{kind}.h5"

    def refuse_changes(self, kind):
        if stamp(self.path(kind)) != self.stamps[kind]:
            raise InputError(
                f"{self.path(kind)} was changed or replaced while it was in use; start again"
            )


class Store:
    """Some picture files of a split.

    stamps  of the split; kinds: images, masks, trimaps, of which each must be there; n: how many rows are used; size: their
    side in pixels. Files open in the process that reads, at its first read: an HDF5 handle means nothing in another one.
    """

    def __init__(self, stamps, kinds, n, size):
        self.stamps, self.kinds, self.n, self.size = stamps, tuple(kinds), n, size
        self._process, self._files, self._held = None, None, None

    def __getstate__(self):
        # What is held in memory would be copied.
        empty = {"_process": None, "_files": None, "_held": None, "_inherited": None}
        return self.__dict__ | empty

    def read(self, rows, hold=True):
        """{kind: (B, S, S, 3 or 1) uint8} of some rows; from memory where they were read before and `hold` allows it.

        One read without holding, as of a stream that sees each row once, says nothing of the next.
        """
        if self._process != os.getpid():
            self._open()
        if not hold or get_worker_info() is not None:  # in every worker it would be a copy more
            return {kind: self._read_file(kind, rows) for kind in self.kinds}
        if self._held is None:
            self._held = {kind: np.empty(self._shape(kind), np.uint8) for kind in self.kinds}
            self._is_held = np.zeros(self.n, bool)
        new = [row for row in rows if not self._is_held[row]]
        for kind, held in self._held.items():
            held[new] = self._read_file(kind, new)
        self._is_held[new] = True
        return {kind: held[rows] for kind, held in self._held.items()}

    def fits_in_memory(self, processes=1):
        """Whether the pictures, once for each process, take at most a quarter of this machine's memory (where it tells how
        much it has)."""
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
        # After a fork the parent's handles are here too; they are left alone, not closed, as is what it holds in memory.
        self._inherited = self._files, self._held
        self._files, self._held = {}, None
        folder = self.stamps.folder
        for kind in self.kinds:
            self._files[kind] = contract.open_rechunked(folder.parent, folder.name, kind)[1]
            self.stamps.refuse_changes(kind)
        self._process = os.getpid()

    def _read_file(self, kind, rows):
        file = self._files[kind]
        path = file.file.filename
        batch = np.empty((len(rows), *file.shape[1:]), np.uint8)
        for row, sample in zip(rows, batch, strict=True):
            try:
                # A sample is a chunk, stored as it is, so its bytes can be taken over whole: three times the speed of
                # selecting a row, and three hundred times that of selecting a list of rows.
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
    """What tells a file from what it was before or what took its place; None where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
