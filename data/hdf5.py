"""Reading HDF5 files that others wrote: every error is one sentence, and nothing that is not there
reads as zero.

HDF5 itself reads zeros where the source of a virtual dataset is gone, and where a chunk was never
written. Here links and sources are followed, or refused by the name of what is missing, and what
was never written is told apart (`Gaps`).
"""

import errno
import os
from bisect import bisect_left
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from cli import InputError
from data.layout import anew

SLAB_BYTES = 2 << 20  # read at a time: large enough for full speed, small enough for memory
HEAP_MARK, HEAP_SEARCH = b"GCOL\1\0\0\0", 1 << 16


def shorten(error):
    """The first sentence of a library's message."""
    return str(error).split("\n")[0].rstrip(".")[:160]


def open_h5(path):
    """Open an HDF5 file for reading."""
    try:
        refuse_endless_heap(path)
        return h5py.File(path, "r")
    except FileNotFoundError:
        what = "is a link to a file that is not there" if os.path.islink(path) else "is missing"
        raise InputError(f"{path} {what}; {anew(path)}") from None
    except PermissionError:
        raise InputError(
            f"{path} may not be read by this user; give yourself the right to"
        ) from None
    except OSError as error:
        is_busy = error.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
        if is_busy or "already open for write" in str(error):
            raise InputError(
                f"{path} is open for writing in another program, or was never closed there "
                f"({shorten(error)}); close it (file.close()) and try again"
            ) from None
        raise InputError(
            f"{path} is no readable HDF5 file ({shorten(error)}); {anew(path)}"
        ) from None


def refuse_endless_heap(path):
    """Refuse a file whose text attributes HDF5 would read for ever.

    They lie in a heap, a chain of objects (16 bytes: index, count, size; then the content), and
    where zeros took the place of some, HDF5 steps on by their size of 0 without end. Heaps of
    small attributes are at the file's beginning or end.
    """
    with open(path, "rb") as file:
        parts = [file.read(HEAP_SEARCH)]
        file.seek(max(0, os.fstat(file.fileno()).st_size - HEAP_SEARCH))
        parts.append(file.read())
    for part in parts:
        heap = part.find(HEAP_MARK)
        while heap >= 0:
            at, end = heap + 16, heap + int.from_bytes(part[heap + 8 : heap + 16], "little")
            while at + 16 <= min(end, len(part)):
                index = int.from_bytes(part[at : at + 2], "little")
                size = int.from_bytes(part[at + 8 : at + 16], "little")
                if index == size == 0:
                    raise InputError(
                        f"{path} is damaged (its attributes were overwritten); {anew(path)}"
                    )
                # index 0 is what is free, its own 16 bytes included
                at += size if index == 0 else 16 + (size + 7) // 8 * 8
            heap = part.find(HEAP_MARK, heap + 1)


@contextmanager
def naming(path):
    """Around reading an HDF5 file's structure: whatever h5py raises at a damaged one becomes an
    InputError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({shorten(error)}); {anew(path)}") from None


def read_rows(dataset, start, stop):
    """Rows of a dataset as an array; a damaged file is an InputError."""
    try:
        return dataset[start:stop]
    except (OSError, RuntimeError, ValueError) as error:
        path = dataset.file.filename
        raise InputError(
            f"{path}, rows {start} to {stop - 1} cannot be read ({shorten(error)}), so the file "
            f"is damaged; {anew(path)}"
        ) from None


def slabs(dataset, n=None):
    """(start, rows) over a whole dataset or its first n rows, SLAB_BYTES at a time."""
    row_bytes = max(1, int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize)
    step, n = max(1, SLAB_BYTES // row_bytes), len(dataset) if n is None else n
    for start in range(0, n, step):
        yield start, read_rows(dataset, start, min(start + step, n))


# -------------------------------------------------------------------------- links, sources, filters


def find_dataset(path, file, names):
    """The first of some names that is a dataset of an open file, or None. Refuses one that is a
    link to what is missing."""
    for name in names:
        if isinstance(file.get(name), h5py.Dataset):
            return file[name]
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{path}: '{name}' is a link to '{link.path}' of the file {link.filename}, which "
                "is not there; put that file back, or write the data into this one"
            )
        if isinstance(link, h5py.SoftLink):
            raise InputError(
                f"{path}: '{name}' is a link to '{link.path}', which is not there; write the data "
                "under that name"
            )
    return None


def refuse_lacking(path, dataset):
    """Refuse a dataset that needs what is not there: a filter of h5py's, a file of its own, the
    source of a virtual one."""
    refuse_missing_filter(path, dataset)
    for name, offset, size in dataset.external or ():
        place = Path(name)  # from where the command runs, as HDF5 has it
        if not place.is_file():
            raise InputError(
                f"{path} keeps its data in {place}, which is not there; put it back, or run this "
                "where it is"
            )
        if size != h5py.h5f.UNLIMITED and place.stat().st_size < offset + size:
            raise InputError(f"{path} keeps its data in {place}, which is cut off; copy it again")
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        refuse_missing_source(path, dataset, source)


def refuse_missing_source(path, dataset, source):
    """Refuse a part of a virtual dataset whose file or dataset is not there, or is too small; look
    into it, too."""
    places = [dataset.file.filename]
    if source.file_name != ".":
        places = [Path(dataset.file.filename).parent / source.file_name, Path(source.file_name)]
    place = next((one for one in map(Path, places) if one.is_file()), None)
    if place is None:
        raise InputError(
            f"{path} is virtual and made of {places[0]}, which is not there; put it back, or "
            "prepare the data again"
        )
    with open_h5(place) as file, naming(place):
        part = find_dataset(place, file, [source.dset_name])
        if part is None:
            raise InputError(
                f"{path} is virtual and made of '{source.dset_name}' of {place}, which that does "
                "not hold; put it back"
            )
        if not covers(part, source):
            raise InputError(
                f"{path} is virtual and takes more of '{source.dset_name}' of {place} than that "
                f"has ({part.shape}); write that anew"
            )
        refuse_lacking(place, part)
        if Gaps(part):
            raise InputError(
                f"{path} is virtual, and '{source.dset_name}' of {place} was never written in "
                "places; write all of it, or put the data into one file"
            )


def covers(part, source):
    """Whether a dataset has all that a part of a virtual one takes of it."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return part.size >= source.vspace.get_select_npoints()
    _, last = source.src_space.get_select_bounds()
    return all(end < side for end, side in zip(last, part.shape, strict=True))


def refuse_missing_filter(path, dataset):
    """Refuse a dataset whose compression h5py cannot undo here; hdf5plugin is used where it is
    installed."""
    properties = dataset.id.get_create_plist()
    for k in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(k)
        if h5py.h5z.filter_avail(code):
            continue
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401  (here, as few files need it)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{path} is compressed by the filter {code} ({name.decode(errors='replace')}), "
                "which h5py lacks here; install it with 'pip install hdf5plugin', or write the "
                "file with gzip or without compression"
            )


class Gaps:
    """The parts of a dataset that were never written, and so read as whatever its writer did not
    say.

    True where there are any. Known by chunk, as HDF5 stores them; of a dataset in one piece all or
    nothing, of a virtual one what no source covers.
    """

    def __init__(self, dataset):
        self.shape, self.blocks = dataset.shape, []
        if dataset.is_virtual:
            self._find_uncovered(dataset)
        elif dataset.chunks:
            self._find_chunks(dataset)
        elif dataset.id.get_storage_size() == 0 and dataset.size and not dataset.external:
            self.blocks = [tuple(slice(0, side) for side in self.shape)]

    def _find_chunks(self, dataset):
        counts = [-(-side // chunk) for side, chunk in zip(self.shape, dataset.chunks, strict=True)]
        if dataset.id.get_num_chunks() >= np.prod(counts):
            return
        written = set()
        dataset.id.chunk_iter(lambda chunk: written.add(chunk.chunk_offset))
        for place in np.ndindex(*counts):
            start = tuple(k * chunk for k, chunk in zip(place, dataset.chunks, strict=True))
            if start not in written:
                ends = [a + chunk for a, chunk in zip(start, dataset.chunks, strict=True)]
                self.blocks.append(tuple(map(slice, start, ends)))

    def _find_uncovered(self, dataset):
        covered = np.zeros(len(dataset), bool)
        for source in dataset.virtual_sources():
            first, last = source.vspace.get_select_bounds()
            covered[first[0] : last[0] + 1] = True
        for row in np.flatnonzero(~covered).tolist():
            self.blocks.append((slice(row, row + 1), *map(slice, self.shape[1:])))

    def __bool__(self):
        return bool(self.blocks)

    def rows(self):
        """Numbers of the rows that were never written, if only in part."""
        rows = set()
        for block in self.blocks:
            rows.update(range(block[0].start, min(block[0].stop, self.shape[0])))
        return sorted(rows)

    def fill(self, rows, start, value):
        """Put a value into what was never written of some rows, of which `start` is the first."""
        starts = [block[0].start for block in self.blocks]  # in order
        height = self.blocks[0][0].stop - self.blocks[0][0].start
        first = bisect_left(starts, start - height + 1)
        for block in self.blocks[first : bisect_left(starts, start + len(rows))]:
            inside = slice(max(block[0].start - start, 0), block[0].stop - start)
            rows[(inside, *block[1:])] = value
