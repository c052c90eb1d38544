"""Rewrite the files of a data folder so that one sample is one HDF5 chunk, which is what random
access wants.

    python data_rechunk.py [--data datasets/data_new] [--ignore 255]  re-chunk what is not yet
    python data_rechunk.py [--data datasets/data_new] --check         verify a re-chunked folder,
    write nothing

Each file FILE.h5 ends with one storage under two names, `chunked_FILE` and a hard link `FILE`, and
a digest of its content. It streams (memory does not grow with N), checks what it wrote against
what it read, and replaces a file only then, so it needs room for one more copy of the largest
file. Takes about twice as long as copying the files.

Folders that others prepared in this layout work too, with images.h5 and whichever of the other
files there are. In a file of masks of 0 and 255 alone, 255 is the pet and becomes 1, unless
`--ignore 255` says that those pixels are unlabelled. Beside 1, or where the file's attribute
`unlabelled` is 255, 255 is an unlabelled pixel and stays one.
"""

import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

import cli
import files
from cli import InputError
from data import check, contract, convert
from data.hdf5 import find_dataset, naming, open_h5, refuse_lacking, slabs
from data.index import column_names, read_index_rows
from data.layout import LAYOUT, SPLITS, UNLABELLED, chunked, sample_dtype, sample_shape
from data.report import cli_words

TASKS = {"masks": "seg", "binary": "cls", "bboxes": "bbox"}  # what learns from a kind of file
SLABS_AHEAD = 3  # that hashing may lag behind writing: enough to level out, and a bound on memory


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/data_new"), help="the data folder"
    )
    parser.add_argument(
        "--ignore",
        choices=[str(UNLABELLED)],
        help="255: in masks of 0 and 255 alone, 255 is no pet but unlabelled",
    )
    parser.add_argument("--check", action="store_true", help="verify without writing")
    return parser.parse_args(argv)


def main(args):
    if args.check:
        print_next(args.data, check.check(args.data))
        return
    done = 0
    jobs = [
        (split, kind)
        for split in contract.find_splits(args.data)
        for kind in contract.kinds_of(args.data, split)
    ]
    with files.lock(args.data / ".lock", args.data):
        for split, kind in tqdm(jobs, desc="re-chunk", unit="file", disable=None):
            done += rechunk(args.data, split, kind, ignore=args.ignore is not None)
    summary = contract.describe(args.data)
    state = (
        f"{done} files re-chunked" if done else "nothing to do, all files are re-chunked already"
    )
    print(f"{args.data}: {state}; split hash {summary['split_hash']}")
    print_next(args.data, summary)


def print_next(data, summary):
    """Print the training that finds the files that it needs, where one does."""
    known = set.intersection(*map(set, summary["kinds"].values()))
    tasks = [task for kind, task in TASKS.items() if kind in known]
    train = [] if len(tasks) == len(TASKS) else ["--tasks", *tasks]
    if train and "binary" not in known and has_column(data, summary, "category"):
        train.append("column:category")
    if len(summary["splits"]) < len(SPLITS):
        print("next: prepare the data with train, val and test, which a training needs")
    elif train != ["--tasks"]:
        where = [] if data == Path("datasets/data_new") else ["--data", data]
        print(f"next: {cli_words('train.py' if train else 'train_mtl.py', *where, *train)}")


def has_column(data, summary, name):
    """Whether index.csv of every split has a column."""
    rows = [read_index_rows(data, split, n) for split, n in summary["splits"].items()]
    return all(name in column_names(one) for one in rows)


def rechunk(data, split, kind, ignore=False):
    """Re-chunk one file in place; returns whether there was anything to do. ignore: whether 255 is
    no pet in any masks."""
    path = Path(data) / split / f"{kind}.h5"
    temporary = path.with_name(path.name + ".partial")
    with open_h5(path) as source:
        with naming(path):
            if contract.is_rechunked(source, kind):
                convert.refuse_other_reading(path, source.attrs, ignore)
                return False
            dataset = source_dataset(path, source, kind)
            n, size = images_shape(data, split)
            contract.check_shape(path, dataset.name[1:], dataset, kind, size)
            contract.refuse_other_number(path, len(dataset), n)
            attributes = {"border": "unknown", **dataset_attributes(dataset), **source.attrs}
            attributes.pop(convert.PET_WAS, None)  # it told of the content before
            if kind == "binary":
                contract.class_names(path, attributes)
            to_contract = convert.make_converter(path, kind, dataset, attributes, ignore)
        try:
            # The cores and the disk work side by side: hashing beside writing, flushing beside
            # reading back.
            with ThreadPoolExecutor(1) as helper:
                with h5py.File(temporary, "w") as target:
                    digest = write_chunked(target, kind, dataset, to_contract, size, helper)
                    target[chunked(kind)].attrs["sha256"] = digest
                    belongs_to = split_hash(path, kind, digest, attributes)
                    copy_attributes(path, attributes | to_contract.attributes, target)
                    target.attrs["split_hash"] = belongs_to
                flushed = helper.submit(flush_to_disk, temporary)
                compare(temporary, kind, dataset, to_contract)
                flushed.result()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    os.replace(temporary, path)
    for sentence in to_contract.notes:
        tqdm.write(f"{path}: {sentence}")
    return True


def dataset_attributes(dataset):
    """What somebody wrote to the dataset that belongs to the file."""
    return {
        name: dataset.attrs[name] for name in ("classes", "unlabelled") if name in dataset.attrs
    }


def copy_attributes(path, attributes, target):
    """Give an open file the attributes of the one that it is to replace."""
    for name, value in attributes.items():
        try:
            target.attrs[name] = value
        except (UnicodeError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path} has an attribute {name!r} that cannot be copied "
                f"({contract.shorten(error)}); delete it"
            ) from None


def source_dataset(path, source, kind):
    """The dataset to read from: `kind`, or `chunked_kind` where only that is there, and all that
    it is made of."""
    dataset = find_dataset(path, source, (kind, chunked(kind)))
    if dataset is None:
        names = ", ".join(map(str, source)) or "nothing"
        raise InputError(
            f"{path} has no dataset '{kind}' (it has: {names}); give it that name, with "
            f"{LAYOUT[kind]}"
        )
    refuse_lacking(path, dataset)
    return dataset


def images_shape(data, split):
    """(N, S) of a split, from its images; the other files have to match."""
    path = Path(data) / split / "images.h5"
    with open_h5(path) as file, naming(path):
        dataset = source_dataset(path, file, "images")
        return len(dataset), contract.check_shape(path, dataset.name[1:], dataset, "images")


def write_chunked(file, kind, source, to_contract, size, helper):
    """Write `source` to an open, empty file with one sample a chunk; returns the SHA-256 of its
    content.

    `helper` is an executor of one thread, which does the hashing.
    """
    digest, hashing = hashlib.sha256(), deque()
    shape = sample_shape(kind, size)
    target = file.create_dataset(
        chunked(kind), (len(source), *shape), sample_dtype(kind), chunks=(1, *shape), fillvalue=None
    )
    file[kind] = target
    for start, rows in slabs(source):
        rows = np.ascontiguousarray(to_contract(rows, start))
        contract.check_values(source.file.filename, kind, rows, size, start)
        hashing.append(helper.submit(digest.update, rows))
        if len(hashing) > SLABS_AHEAD:
            hashing.popleft().result()
        for k, row in enumerate(rows):
            # A chunk is a sample: handing it over whole skips HDF5's own gathering.
            target.id.write_direct_chunk((start + k,) + (0,) * len(shape), row)
    for done in hashing:
        done.result()
    return digest.hexdigest()


def compare(path, kind, source, to_contract):
    """Read a re-chunked file back and compare it with its source."""
    with open_h5(path) as file, naming(path):
        dataset = file[chunked(kind)]
        first = (0,) * (dataset.ndim - 1)
        for start, rows in slabs(source):
            # As bytes, because NaN does not equal itself.
            rows = (
                np.ascontiguousarray(to_contract(rows, start)).reshape(len(rows), -1).view(np.uint8)
            )
            written = np.empty_like(rows)
            for k, sample in enumerate(written, start):
                dataset.id.read_direct_chunk((k, *first), out=sample)
            if not np.array_equal(written, rows):
                bad = start + int(np.argmax((written != rows).any(axis=1)))
                raise InputError(
                    f"{path}, row {bad} does not hold what was written to it; check the disk"
                )


def split_hash(path, kind, digest, attributes):
    """The hash of the split's images: the file's own digest for images.h5, what images.h5 says for
    the others."""
    if kind == "images":
        recorded = str(attributes.get("split_hash", digest))
        if recorded != digest:
            raise InputError(
                f"{path}: its images are not those that were prepared (their split hash differs); "
                "prepare them again, or, where you changed them yourself, delete the file's "
                "attribute 'split_hash'"
            )
        return digest
    images = path.with_name("images.h5")
    with open_h5(images) as file:
        recorded = str(file.attrs["split_hash"])
    contract.refuse_other_images(path, str(attributes.get("split_hash", recorded)), recorded)
    return recorded


def flush_to_disk(path):
    """Make sure that a file's content is on the disk before it takes another one's place."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    cli.run(main, parse_args())
