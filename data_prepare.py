"""Turn Oxford-IIIT Pet photographs into the HDF5 files of the data contract (data/contract.py shows it).

    python data_prepare.py --root DIR          a folder with images/ and annotations/, as the dataset's archives unpack
    python data_prepare.py --download DIR      the same, downloaded first (800 MB)
    python data_prepare.py --synthetic 600     pets drawn in code: no data and no network needed

Then `python data_rechunk.py`. 3,678 photographs of 256 px take about a minute on 2 cores. The folder appears under its name
only when it is complete.
"""

import argparse
import csv
import hashlib
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

import cli
from cli import InputError
from data import contract
from data import split as data_split
from data.contract import INDEX_FIELDS, KINDS, SPLITS, sample_dtype, sample_shape
from data.sources import synthetic
from training import lock

SPECIES = ("cat", "dog")
PET, BACKGROUND, BORDER = 1, 2, 3


class Unusable(Exception):
    """One image cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Sample:
    """A photograph of the folder and what its name says of it."""
    root: Path
    name: str
    breed: str
    species: int
    is_listed: bool = True  # by list.txt; also where there is no such file

    @property
    def image_path(self):
        return self.root / "images" / f"{self.name}.jpg"

    @property
    def trimap_path(self):
        return self.root / "annotations" / "trimaps" / f"{self.name}.png"

    @property
    def box_path(self):
        return self.root / "annotations" / "xmls" / f"{self.name}.xml"


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="folder in the Oxford-IIIT Pet layout")
    source.add_argument("--download", type=Path, metavar="DIR", help="download the dataset into DIR first")
    source.add_argument("--synthetic", type=cli.integer(10, 10**6), metavar="N", help="draw N pets")
    parser.add_argument("--out", type=Path, default=Path("datasets/data_new"), help="the data folder to make")
    parser.add_argument("--size", type=cli.integer(contract.MIN_SIZE, contract.MAX_SIZE), default=256,
                        help="side of the square images in pixels")
    parser.add_argument("--fractions", type=fractions, default=(80.0, 10.0, 10.0), metavar="80-10-10",
                        help="train, val and test in percent")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="of the shuffle, and of the synthetic pets")
    parser.add_argument("--border", choices=("pet", "background"), default="pet", help="what the trimap's border counts as")
    parser.add_argument("--force", action="store_true", help="replace an existing data folder")
    return parser.parse_args(argv)


def fractions(text):
    values = cli.percentages(text)
    if abs(sum(values) - 100) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} adds up to {sum(values):g} and should add up to 100")
    return values


def main(args):
    check_target(args.out, args.force)
    out = args.out.resolve()  # a link's target is replaced, not the link
    source = args.root or args.download
    if source and source.resolve().is_relative_to(out):
        raise InputError(f"--out {args.out} would replace {source}, from which it is made; choose another --out")
    with lock.hold(out.with_name(f".{out.name}.lock"), args.out):
        outcome = make(args, out)
    report(args, *outcome)


def make(args, out):
    """Prepare the folder `out` under another name and move it to its own when it is whole; returns what report() takes."""
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    for left_over in (partial, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{args.out} cannot be made ({error.strerror}: {error.filename}); choose another --out") from None
    try:
        outcome = prepare(args, partial)
        check_target(args.out, args.force)  # again, because somebody may have made it meanwhile
        if out.exists():
            os.replace(out, old)  # moved, because a folder half deleted when the power fails may pass for a whole one
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return outcome


def check_target(out, force):
    """Refuse to overwrite, and with --force to delete anything but a data folder."""
    if not out.exists():
        return
    if not force:
        raise InputError(f"{out} exists already; add --force to replace it or choose another --out")
    if not out.is_dir():
        raise InputError(f"{out} is not a folder, so --force does not delete it; choose another --out")
    ours = {"index.csv", *(f"{kind}.h5{end}" for kind in KINDS for end in ("", ".partial"))}
    foreign = [path for path in out.iterdir() if path.name not in (*SPLITS, "synthetic", "lock")]
    foreign += [path for split in SPLITS for path in (out / split).glob("*") if path.name not in ours]
    if foreign:
        raise InputError(f"{out} is not a data folder (it holds {foreign[0].relative_to(out)}), so --force does not delete "
                         "it; choose another --out")


def prepare(args, out):
    """Read the photographs that the arguments name and write the data folder `out`; returns what report() takes."""
    root = find_root(args, out)
    samples, left_out = list_samples(root)
    with cli.processes() as pool:
        usable, hashes, contents, empty = [], [], [], []
        for sample, (found, reason) in zip(samples, ordered(pool, inspect, [(s, args.size) for s in samples], "inspect")):
            if reason:
                left_out.append((sample.name, reason))
            else:
                usable.append(sample)
                hashes.append(found[0])
                contents.append(found[1])
                empty += [sample.name] * found[2]
        if not usable:
            reason = f"; the first of {len(left_out)} left out is {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
            raise InputError(f"{root} has no usable photograph{reason}; it needs images/NAME.jpg with "
                             "annotations/trimaps/NAME.png")
        pairs = data_split.copies(contents) + data_split.near_duplicates(np.stack(hashes))
        groups = data_split.group_duplicates(len(usable), pairs)
        assignment = data_split.split(groups, [s.breed for s in usable], args.fractions, args.seed)
        # Shuffled, so that the first N of a split are a fair sample of it.
        order = np.random.default_rng(args.seed).permutation(len(usable))
        chosen = [[usable[k] for k in order if assignment[k] == number] for number in range(len(SPLITS))]
        for split, members, fraction in zip(SPLITS, chosen, args.fractions):
            if fraction and not members:
                raise InputError(f"{len(usable)} photographs are too few for a {split} split of {fraction:g}%; use more of "
                                 "them or other --fractions")
        has_box = {split: write_split(pool, out / split, members, args)
                   for split, members in zip(SPLITS, chosen) if members}
    return chosen, has_box, groups, usable, left_out, empty


def find_root(args, out):
    """The folder to read: given, downloaded or drawn."""
    if args.synthetic:
        synthetic.draw_dataset(out / "synthetic", args.synthetic, seed=args.seed)
        return out / "synthetic"
    if args.download:
        from torchvision.datasets import OxfordIIITPet  # here, because it imports torch, which nothing else needs

        try:
            OxfordIIITPet(args.download, split="trainval", target_types="segmentation", download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(f"the download into {args.download} failed ({contract.shorten(error)}); try again, or unpack "
                             "images.tar.gz and annotations.tar.gz of the dataset by hand and use --root") from None
        return args.download / "oxford-iiit-pet"
    for root in (args.root, args.root / "oxford-iiit-pet"):
        if (root / "images").is_dir() and (root / "annotations" / "trimaps").is_dir():
            return root
    raise InputError(f"{args.root} has no folders images and annotations/trimaps; --root takes the folder that the "
                     "Oxford-IIIT Pet archives are unpacked in")


def list_samples(root):
    """The photographs of a folder that have a trimap, sorted by name, and (name, reason) for those left out."""
    listed = read_list(root / "annotations" / "list.txt")
    class_of = Counter((breed_of(name), class_id) for name, (class_id, _) in listed.items())
    usual_class = {breed: class_id for (breed, class_id), _ in reversed(class_of.most_common())}
    samples, left_out = [], []
    for path in sorted((root / "images").glob("*.jpg")):
        name = path.stem
        if name.startswith("."):  # AppleDouble files, which macOS puts beside the real ones
            continue
        sample = Sample(root, name, breed_of(name), int(not name[0].isupper()), name in listed or not listed)
        class_id, species = listed.get(name, (None, None))
        if not sample.trimap_path.is_file():
            left_out.append((name, "it has no trimap"))
        elif not name[0].isalpha():
            left_out.append((name, "its name does not begin with a letter, which tells cat from dog"))
        elif not is_text(name):
            left_out.append((name, "its name holds bytes that are no text; rename it"))
        elif species is not None and species != sample.species:
            left_out.append((name, f"its name says {SPECIES[sample.species]} and list.txt says {SPECIES[species]}"))
        elif class_id is not None and class_id != usual_class[sample.breed]:
            left_out.append((name, f"list.txt gives it class {class_id} and most of its breed {usual_class[sample.breed]}"))
        else:
            samples.append(sample)
    return samples, left_out


def is_text(name):
    """Whether a file's name can be written in UTF-8, as index.csv is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def breed_of(name):
    """The breed that a name begins with: saint_bernard of saint_bernard_12."""
    return name.rpartition("_")[0] or name


def read_list(path):
    """list.txt as {name: (class id, species)}, species 0 cat and 1 dog; empty where there is no such file."""
    listed = {}
    if not path.is_file():
        return listed
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, class_id, species, _ = line.split()
            listed[name] = int(class_id), {"1": 0, "2": 1}[species]
        except (ValueError, KeyError):
            raise InputError(f"{path}, line {number}: {line[:60]!r} should be NAME CLASS-ID SPECIES BREED-ID, with species "
                             "1 (cat) or 2 (dog)") from None
    return listed


def ordered(pool, function, items, what):
    """Map over the processes, in order, with a bar; only a few results wait at a time, however many items there are."""
    items = iter(items)
    waiting = deque()
    total = items.__length_hint__()
    with tqdm(total=total, desc=what, unit="image", disable=None) as bar:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 64:
                yield waiting.popleft().result()
                bar.update()
        while waiting:
            yield waiting.popleft().result()
            bar.update()


def inspect(job):
    """Look at one sample: ((perceptual hash, digest of the image as stored, whether its mask is empty), None), or
    (None, the reason why it cannot be used)."""
    sample, size = job
    try:
        image, trimap, _ = read_sample(sample)
        return (data_split.difference_hash(image), hashlib.sha256(stretch(image, size)).digest(),
                PET not in trimap), None
    except Unusable as reason:
        return None, str(reason)


def read_sample(sample):
    """Read one sample: (PIL image in RGB, trimap (H, W) uint8 of 1, 2 and 3, box).

    The box is four floats relative to width and height, or None. Raises Unusable.
    """
    image = decode(sample.image_path, "RGB", "photograph")
    trimap = np.asarray(decode(sample.trimap_path, "L", "trimap"))
    height, width = trimap.shape
    if abs(width * image.height - height * image.width) > max(width, height, *image.size):
        raise Unusable(f"its trimap is {width} x {height} and the photograph {image.width} x {image.height}")
    foreign = np.setdiff1d(trimap, (PET, BACKGROUND, BORDER))
    if foreign.size:
        raise Unusable(f"its trimap holds the value {foreign[0]}, not only 1, 2 and 3")
    box = read_box(sample.box_path, image.size)
    # A listed or boxed photograph shows a pet, so an empty trimap is a mistake in it. Of one that is neither, such as the
    # archives' Abyssinian_34, the trimap is all that is known, and it is taken at its word.
    if PET not in trimap and (sample.is_listed or box is not None):
        raise Unusable("its trimap has no pet pixel")
    return image, trimap, box


def decode(path, mode, what):
    """Decode a picture of whatever format, whole, so that a truncated one is noticed."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except Exception as error:  # Pillow raises many kinds, down to SyntaxError and struct.error
        raise Unusable(f"its {what} cannot be decoded ({contract.shorten(error)})") from None


def read_box(path, image_size):
    """The head box of a PASCAL VOC file relative to the frame, (4,) xyxy in [0, 1]; None where there is none."""
    if not path.is_file():
        return None
    try:
        tree = ElementTree.parse(path)
        if tree.find("object") is None:
            return None
        box = tree.find("object/bndbox")
        box = np.array([float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")])
        size = tree.find("size")
        frame = image_size if size is None else (float(size.findtext("width")), float(size.findtext("height")))
        box /= np.tile(frame, 2)
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise Unusable(f"its head box cannot be read ({contract.shorten(error)})") from None
    if not (np.isfinite(box).all() and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise Unusable("its head box is out of order or out of the frame")
    return box


def stretch(image, size):
    """A PIL image as (size, size, 3) uint8."""
    # Pillow's bilinear filter widens with the reduction: antialiased, the same as torchvision's antialias=True.
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def convert(job):
    """One sample in the contract's form: a dict of arrays."""
    sample, size, border = job
    image, trimap, box = read_sample(sample)
    mask = (trimap == PET) | ((trimap == BORDER) & (border == "pet"))
    mask = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return {
        "images": stretch(image, size),
        "masks": np.asarray(mask)[:, :, None],
        "bboxes": np.full(4, np.nan) if box is None else box * size,
        "binary": np.array([sample.species]),
    }


def write_split(pool, folder, samples, args):
    """Write the four files and index.csv of a split, one sample after another; returns has_box of each."""
    folder.mkdir()
    digest, has_box = hashlib.sha256(), []
    files = {kind: h5py.File(folder / f"{kind}.h5", "w") for kind in KINDS}
    try:
        stores = {kind: files[kind].create_dataset(kind, (len(samples), *sample_shape(kind, args.size)), sample_dtype(kind))
                  for kind in KINDS}
        jobs = [(sample, args.size, args.border) for sample in samples]
        for row, arrays in enumerate(ordered(pool, convert, jobs, f"write {folder.name}")):
            for kind in KINDS:
                stores[kind][row] = arrays[kind]
            digest.update(arrays["images"])
            has_box.append(not np.isnan(arrays["bboxes"]).any())
        for file in files.values():
            file.attrs.update(split_hash=digest.hexdigest(), border=args.border)
    finally:
        for file in files.values():
            file.close()
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(INDEX_FIELDS)
        writer.writerows((row, sample.name, sample.breed, SPECIES[sample.species], int(box))
                         for row, (sample, box) in enumerate(zip(samples, has_box)))
    return has_box


def report(args, chosen, has_box, groups, usable, left_out, empty):
    """Print what went into the data folder and what did not."""
    print(f"{'split':8}{'images':>8}{'cats':>8}{'dogs':>8}{'with box':>10}")
    rows = [(split, len(members), sum(not s.species for s in members), sum(s.species for s in members),
             sum(has_box.get(split, ()))) for split, members in zip(SPLITS, chosen)]
    rows.append(("all", *(sum(column) for column in list(zip(*rows))[1:])))
    for name, *counts in rows:
        print(f"{name:8}{counts[0]:8}{counts[1]:8}{counts[2]:8}{counts[3]:10}")
    together = [group for group in groups if len(group) > 1]
    print(f"near-duplicates kept together: {len(together)} groups, {sum(map(len, together))} images "
          f"(256-bit difference hash, at most {data_split.NEAR_DUPLICATE_BITS} bits apart)")
    for group in together:
        print("  " + ", ".join(usable[k].name for k in group))
    if empty:
        print(f"kept with an empty mask, as neither list.txt nor a head box says that they show a pet: {', '.join(empty)}")
    print(f"left out: {len(left_out)}")
    for name, reason in left_out:
        print(f"  {name}: {reason}")
    print(f"written to {args.out}; next: python data_rechunk.py --data {args.out}")


if __name__ == "__main__":
    cli.run(main, parse_args())
