"""Memory that several processes of one machine see: no file, where the system allows that, so nothing is left of killed
ones."""

import contextlib
import os
import tempfile

import numpy as np


class Shared:
    """So many bytes of zeros, which take no memory before they are written to. `place` names them for other processes until
    `close`."""

    def __init__(self, nbytes):
        if hasattr(os, "memfd_create"):  # unlike /dev/shm, which containers often limit to 64 MB
            self.descriptor, self.file = os.memfd_create("shared"), None
            self.place = f"/proc/{os.getpid()}/fd/{self.descriptor}"
        else:
            self.descriptor, self.file = tempfile.mkstemp(prefix="shared-")
            self.place = self.file
        os.truncate(self.place, max(nbytes, 1))

    def close(self):
        """Nobody can open it any more; who has, keeps it."""
        os.close(self.descriptor)
        if self.file:
            with contextlib.suppress(OSError):  # Windows removes no open file
                os.unlink(self.file)


def open_shared(place, shape, dtype=np.uint8, offset=0):
    """An array of a shape in shared memory, `offset` bytes from its beginning."""
    return np.asarray(np.memmap(place, dtype, "r+", offset, tuple(shape)))
