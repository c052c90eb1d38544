"""Ways to damage a file: its bytes, or what an HDF5 file, a checkpoint, an index or a trimap says."""

import json
import os
import pickle

import h5py
import numpy as np
import torch
from PIL import Image

# Damage after which nothing of the file can be trusted: every reader has to refuse it.
STRUCTURAL = ("truncated", "empty", "garbage", "text", "folder", "loop", "missing")
SUBTLE = ("bits", "bytes", "zeros", "longer")


def damage_bytes(path, rng, ways=STRUCTURAL + SUBTLE, spans=()):
    """Damage a file in one of the ways; half of the subtle damage lies within `spans` of (start, stop) where they are given.

    Returns the way."""
    way, content = str(rng.choice(ways)), bytearray(path.read_bytes())
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path.name)
    elif way != "missing":
        path.write_bytes(damaged(content, way, rng, spans))
    return way


def damaged(content, way, rng, spans):
    if way == "truncated":
        return content[: int(rng.integers(len(content)))]
    if way == "empty":
        return b""
    if way == "garbage":
        return rng.bytes(len(content))
    if way == "text":
        return b"row,name\n0,a\n"
    if way == "longer":
        return content + rng.bytes(int(rng.integers(1, 5000)))

    def place():
        start, stop = (
            spans[int(rng.integers(len(spans)))]
            if spans and rng.random() < 0.5
            else (0, len(content))
        )
        return int(rng.integers(start, stop))

    if way == "bits":
        for _ in range(int(rng.integers(1, 9))):
            content[place()] ^= 1 << int(rng.integers(8))
    else:
        at, length = place(), int(rng.integers(1, 64 if way == "bytes" else 4096))
        length = min(length, len(content) - at)
        content[at : at + length] = rng.bytes(length) if way == "bytes" else bytes(length)
    return content


# ------------------------------------------------------------------------------------------------------------- HDF5


def print_sample_spans(paths):
    """In a child: where the samples lie in HDF5 files, as JSON: {path: [[start, stop], ...]}."""
    spans = {}
    for path in paths:
        with h5py.File(path, "r") as file:
            dataset = next(iter(file.values()))
            if dataset.chunks:
                chunks = [dataset.id.get_chunk_info(k) for k in range(dataset.id.get_num_chunks())]
                spans[str(path)] = [
                    [chunk.byte_offset, chunk.byte_offset + chunk.size] for chunk in chunks
                ]
            else:
                start = dataset.id.get_offset()
                spans[str(path)] = [[start, start + dataset.nbytes]]
    print(json.dumps(spans))


def change_h5(path, kind, seed):
    """In a child: change what a file of the data contract, raw or re-chunked, says; prints "<way>: <expectation>".

    The expectation is "refuse" or, for what only reading all of it can tell, "check"."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "r+") as file:
        raw = f"chunked_{kind}" not in file
        name = kind if raw else f"chunked_{kind}"
        ways = [shape, dtype, values, values, renamed] + ([] if raw else [storage, digest])
        way = ways[int(rng.integers(len(ways)))]
        expect = way(file, name, kind, raw, rng) or "refuse"
    print(f"{way.__name__}: {expect}")


def replace(file, name, array, **options):
    """Put another array in a dataset's place, under both of its names and with its attributes."""
    attributes = dict(file[name].attrs)
    for old in list(file):
        del file[old]
    if (
        not options and name.startswith("chunked_") and array.ndim and array.size
    ):  # HDF5 has no chunks of nothing
        options["chunks"] = (1, *array.shape[1:])
    file.create_dataset(name, data=array, **options).attrs.update(attributes)
    if name.startswith("chunked_"):
        file[name.removeprefix("chunked_")] = file[name]


def shape(file, name, kind, raw, rng):
    array = file[name][:]
    others = [
        array[:-1],
        array[:0],
        array[:, :-1],
        array[..., None],
        array.reshape(-1),
        array[:, ::2],
        np.concatenate([array, array]),
        array[0],
        array.T,
    ]
    others = [
        other for other in others if other.shape != array.shape
    ]  # every second of one column is that column
    replace(file, name, others[int(rng.integers(len(others)))])


def dtype(file, name, kind, raw, rng):
    array = file[name][:]
    text = np.full(array.shape, b"cat", "S3")
    parts = np.zeros(array.shape, [("a", "u1"), ("b", "f4")])
    others = [text, parts, array.astype(np.complex64)]
    if (
        not raw or kind == "images"
    ):  # re-chunking takes masks, boxes and labels of any type of number
        others += [np.nan_to_num(array).astype(other) for other in ("i8", "f8", "f2", "i1", ">f4")]
    replace(file, name, others[int(rng.integers(len(others)))])


def values(file, name, kind, raw, rng):
    dataset, row = file[name], int(rng.integers(len(file[name])))
    side = 64
    if (
        kind == "images"
    ):  # any byte is a value of an image, so this only changes it; the split hash tells
        dataset[row] = 255 - dataset[row]
        return "refuse" if raw else "check"
    if kind == "masks":
        place = (row, *(int(k) for k in rng.integers(side, size=2)), 0)
        dataset[place] = int(rng.integers(2, 255))
    elif kind == "binary":
        dataset[row] = int(rng.integers(2, 255))
    elif kind == "trimaps":  # which the published tasks do not read
        place = (row, *(int(k) for k in rng.integers(side, size=2)), 0)
        dataset[place] = int(rng.choice([0, *range(4, 255)]))
        return "refuse" if raw else "check"
    else:
        wrong = [
            (20, 5, 10, 15),
            (5, 20, 15, 10),
            (-1, 5, 10, 15),
            (5, 5, side + 1, 15),
            (5, 5, 5, 15),
            (0, 0, np.inf, 5),
            (np.nan, 5, 10, 15),
            (5, 5, 10, np.nan),
            (-np.inf, 0, 5, 5),
            (1e30, 1e30, 2e30, 2e30),
        ]
        dataset[row] = wrong[int(rng.integers(len(wrong)))]


def renamed(file, name, kind, raw, rng):
    names = list(file)
    way = int(rng.integers(5))
    if way == 0:
        file.move(name, "data")
        if not raw:
            del file[kind]
        return
    for old in names:
        del file[old]
    for old in names:
        if way == 1:
            file.create_group(old)
        elif way == 2:
            file[old] = h5py.SoftLink("/nowhere")
        elif way == 3:
            file[old] = h5py.ExternalLink("elsewhere.h5", "/x")


def storage(file, name, kind, raw, rng):
    """What a re-chunked file must not be: filtered, two samples a chunk, contiguous, two storages."""
    array = file[name][:]
    chunk = (1, *array.shape[1:])
    options = [
        {"chunks": chunk, "compression": "gzip"},
        {"chunks": chunk, "fletcher32": True},
        {"chunks": (2, *chunk[1:])},
        {"compression": "lzf", "chunks": chunk, "shuffle": True},
        {"maxshape": None},
    ]
    replace(file, name, array, **options[int(rng.integers(len(options)))])


def digest(file, name, kind, raw, rng):
    """A re-chunked file whose digest or split hash is not that of its content."""
    way = int(rng.integers(4))
    if way == 0:
        del file[name].attrs["sha256"]
        return "refuse"
    if way == 1:
        file[name].attrs["sha256"] = ["0" * 64, np.arange(5), 3.5, b"\xff\xfe"][
            int(rng.integers(4))
        ]
        return "check"
    file.attrs["split_hash"] = ["0" * 64, np.arange(5), 3.5, b"\xff\xfe", ""][int(rng.integers(5))]
    return "refuse"


# ------------------------------------------------------------------------------------------------------- checkpoints


class Evil:
    """A pickle that would run a command, were it loaded without weights_only."""

    def __reduce__(self):
        return os.system, ("touch ran-foreign-code",)


def change_checkpoint(path, seed):
    """In a child: change what a checkpoint says; prints "<way>: refuse" or "<way>: any"."""
    rng = np.random.default_rng(seed)
    content = torch.load(path, weights_only=True)
    weights = content["model"]
    # Batch normalisation's counters of batches may be missing: they change nothing that is computed.
    key = str(
        rng.choice(sorted(name for name in weights if not name.endswith("num_batches_tracked")))
    )
    other = str(rng.choice(sorted(set(content) - {"model"})))
    odd = [None, -1, 0, 1.5, "x", [], {}, (), 10**9, float("nan"), torch.zeros(3), True]
    value = odd[int(rng.integers(len(odd)))]
    way = int(rng.integers(9))
    if way == 0:
        content.pop(other if other not in ("digest",) else "model")
        say = "a key is missing: any"
        if other in ("tasks", "width", "epoch", "optimizer", "history"):
            say = "a key is missing: refuse"
    elif way == 1:
        weights.pop(key)
        say = "a weight is missing: refuse"
    elif way == 2:
        weights[key] = torch.zeros(7, 5, 3)
        say = "a weight of another shape: refuse"
    elif way == 3:
        weights[key] = value if not isinstance(value, torch.Tensor) else None
        say = "a weight that is none: refuse"
    elif way == 4:
        content["model"] = [value, key][int(rng.integers(2))]
        say = "weights that are none: refuse"
    elif way == 5:
        content[other] = value
        say = f"{other} is {type(value).__name__}: any"
    elif way == 6:
        content = [value, [content], weights][int(rng.integers(3))]
        say = "no checkpoint: refuse"
    elif way == 7:
        path.write_bytes(pickle.dumps(Evil()))
        print("foreign code: refuse")
        return
    else:
        content[other] = Evil()
        say = "foreign code inside: refuse"
    torch.save(content, path)
    print(say)


def change_config(path, rng):
    """Change what a config.json says; returns the way."""
    content = json.loads(path.read_text())
    value = [None, -1, "x", [], {}, 1e308, True][int(rng.integers(7))]
    inside = content["options"] if rng.random() < 0.5 else content
    key = str(rng.choice(sorted(inside)))
    if rng.random() < 0.3:
        del inside[key]
        way = "a key is missing"
    else:
        inside[key] = value
        way = "another value"
    path.write_text(json.dumps([content] if rng.random() < 0.05 else content))
    return way


# -------------------------------------------------------------------------------------------- index and trimaps


def change_index(path, rng):
    """Change what an index.csv says; returns (way, expectation)."""
    head, *rows = path.read_text().splitlines()
    k = int(rng.integers(len(rows)))
    cells = rows[k].split(",")
    way = int(rng.integers(10))
    if way == 0:
        del rows[k]
        say = "a row is missing", "refuse"
    elif way == 1:
        rows.insert(k, rows[k])
        say = "a row twice", "refuse"
    elif way == 2:
        rows[k], rows[k - 1] = rows[k - 1], rows[k]
        say = "rows exchanged", "refuse"
    elif way == 3:
        rows[k] = ",".join([cells[0], "", *cells[2:]])
        say = "a name is missing", "refuse"
    elif way == 4:
        rows[k] = ",".join([*cells[:3], {"cat": "dog", "dog": "cat"}[cells[3]], cells[4]])
        say = "another species", "check"
    elif way == 5:
        rows[k] = ",".join([*cells[:4], str(1 - int(cells[4]))])
        say = "another has_box", "check"
    elif way == 6:
        rows[k] = ",".join([cells[0], "é" * 200_000, *cells[2:]])
        say = "a very long name", "any"
    elif way == 7:
        head = head.replace("name", "nom")
        say = "a column is missing", "refuse"
    elif way == 8:
        rows[k] = cells[0] + "," + "\x00\udcff"
        say = "bytes that are no UTF-8", "refuse"
    else:
        rows[k] += ",more,and,more"
        say = "too many cells", "any"
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8", errors="surrogateescape")
    return say


def change_box(path, rng):
    """Change what a PASCAL VOC file says."""
    words = ["nan", "inf", "-5", "1e309", "", "x", "9" * 400, "<a/>", "&lol;", "٣", "0x10"]
    text = path.read_text()
    tag = str(rng.choice(["xmin", "xmax", "ymin", "ymax", "width", "height"]))
    start = text.index(f"<{tag}>") + len(tag) + 2
    path.write_text(
        text[:start] + words[int(rng.integers(len(words)))] + text[text.index(f"</{tag}>") :]
    )


def change_trimap(path, rng):
    """Another size, value or mode of a trimap."""
    trimap = np.asarray(Image.open(path))
    others = [
        trimap[: len(trimap) // 2],
        trimap * 80,
        np.zeros_like(trimap),
        np.full_like(trimap, 2),
        trimap[:1, :1],
        np.stack([trimap] * 3, 2),
        trimap.astype(np.uint16) * 300,
    ]
    Image.fromarray(others[int(rng.integers(len(others)))]).save(path)


def change_list(path, rng):
    """Change a line of list.txt."""
    lines = path.read_text().splitlines()
    k = int(rng.integers(len(lines)))
    words = [
        "",
        "x",
        "x y",
        "Ünïcode_1 1 1 1",
        lines[k] + " 5",
        lines[k].replace("1", "9"),
        "a 1 3 1",
        "\x00\x00 1 1 1",
        "a " + "9" * 5000 + " 1 1",
        lines[k].replace(" ", "\t"),
    ]
    lines[k] = words[int(rng.integers(len(words)))]
    path.write_text("\n".join(lines))
