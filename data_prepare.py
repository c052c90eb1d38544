"""Turn Oxford-IIIT Pet photographs into the HDF5 files of the data contract (data/contract.py shows it).

    python data_prepare.py --root DIR          a folder with images/ and annotations/, as the dataset's archives unpack
    python data_prepare.py --download DIR      the same, downloaded first (800 MB)
    python data_prepare.py --synthetic 600     pets drawn in code: no data and no network needed

Then `python data_rechunk.py`. 3,678 photographs of 256 px take about a minute on 2 cores. The folder appears under its name
only when it is complete. data/sources/oxford.py says what is taken of a folder, data/sample.py how photographs, trimaps and
boxes are read.

--only trainval (or test) takes the photographs of that official half alone and splits them as ever. --official-split keeps
the halves: annotations/test.txt is the test split, and trainval.txt is shared out between train and val as the first two
numbers of --fractions say (90-10-0 unless given). Near-duplicates stay together there too; a photograph of trainval.txt that
is a near-duplicate of one of the test half is left out, so that the half stays whole and nothing of it is trained on.
"""

import argparse
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import cli
from cli import InputError
from data import contract
from data import split as data_split
from data.contract import KINDS, SPLITS
from data.photographs import show_name
from data.sample import COMMON, MASKS, NO_BOX
from data.sources import oxford, synthetic
from data.sources.oxford import BY_LIST, HALVES
from data.writing import BORDERS, inspect, ordered, write_split
from training import lock


@dataclass
class Outcome:
    """What went into a data folder and what did not, for report()."""
    chosen: list = field(default_factory=list)     # the samples of each split
    has_box: dict = field(default_factory=dict)    # of each sample of a split
    together: list = field(default_factory=list)   # names of near-duplicates
    folder: oxford.Folder | None = None       # with whatever is left out
    notes: dict = field(default_factory=dict)      # sentence of data/sample.py -> [(name, detail)]
    warning: str | None = None


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="folder in the Oxford-IIIT Pet layout")
    source.add_argument("--download", type=Path, metavar="DIR", help="download the dataset into DIR first")
    source.add_argument("--synthetic", type=cli.integer(10, 10**6), metavar="N", help="draw N pets")
    parser.add_argument("--out", type=Path, default=Path("datasets/data_new"), help="the data folder to make")
    parser.add_argument("--size", type=cli.integer(contract.MIN_SIZE, contract.MAX_SIZE), default=256,
                        help="side of the square images in pixels")
    parser.add_argument("--fractions", type=fractions, metavar="80-10-10",
                        help="train, val and test in percent; with --official-split 90-10-0, as test has its own")
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument("--official-split", action="store_true",
                        help="the official test half is the test split, and val is taken out of the trainval half")
    halves.add_argument("--only", choices=HALVES, help="take the photographs of that official half alone")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="of the shuffle, and of the synthetic pets")
    parser.add_argument("--border", choices=BORDERS, default="pet",
                        help="what the trimap's border counts as; ignored pixels teach and measure nothing")
    parser.add_argument("--force", action="store_true", help="replace an existing data folder")
    args = parser.parse_args(argv)
    if args.synthetic and (args.official_split or args.only):
        parser.error("--official-split and --only are for --root and --download; drawn pets have no official halves")
    if args.official_split and args.fractions and args.fractions[2]:
        parser.error("the third number of --fractions has to be 0 with --official-split, whose test split is test.txt")
    args.fractions = args.fractions or ((90.0, 10.0, 0.0) if args.official_split else (80.0, 10.0, 10.0))
    return args


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
    report(args, outcome)


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
    folder = oxford.list_samples(root, HALVES if args.official_split else (args.only,) if args.only else ())
    outcome = Outcome(folder=folder)
    with cli.processes() as pool:
        usable, hashes, contents = [], [], []
        jobs = [(sample, args.size) for sample in folder.samples]
        for sample, (found, reason) in zip(folder.samples, ordered(pool, inspect, jobs, "inspect")):
            if reason:
                folder.left_out.append((sample.name, reason))
                continue
            usable.append(sample)
            hashes.append(found[0])
            contents.append(found[1])
            for what, detail in found[2]:
                outcome.notes.setdefault(what, []).append((sample.name, detail))
        if not usable:
            reasons = [f"; the first of {len(folder.left_out)} left out is {show_name(name)}: {reason}"
                       for name, reason in folder.left_out[:1]] or [f"; {remark}" for remark in folder.remarks[:1]] or [""]
            raise InputError(f"{root} has no usable photograph{reasons[0]}; it needs images/NAME.jpg with "
                             "annotations/trimaps/NAME.png")
        pairs = data_split.copies(contents) + data_split.near_duplicates(np.stack(hashes))
        breeds, shares = [sample.breed for sample in usable], args.fractions
        if args.official_split:
            shares = (*args.fractions[:2], 100)
            groups, assignment, seen = data_split.split_around_test(
                pairs, np.array([sample.half == "test" for sample in usable]), breeds, args.fractions[:2], args.seed)
            folder.left_out += [(usable[k].name, f"it shows the same as {show_name(usable[test].name)} of the test half")
                                for k, test in sorted(seen.items())]
            folder.remarks.append(f"near-duplicates of the test half left out of the trainval half: {len(seen)}")
        else:
            groups = data_split.group_duplicates(len(usable), pairs)
            assignment = data_split.split(groups, breeds, args.fractions, args.seed)
        # Shuffled, so that the first N of a split are a fair sample of it.
        order = np.random.default_rng(args.seed).permutation(len(usable))
        outcome.chosen = [[usable[k] for k in order if assignment[k] == number] for number in range(len(SPLITS))]
        for split, members, fraction in zip(SPLITS, outcome.chosen, shares):
            if fraction and not members:
                raise InputError(f"{len(usable)} photographs are too few for a {split} split of {fraction:g}%; use more of "
                                 "them or other --fractions")
        masks = {name for what in MASKS.values() for name, _ in outcome.notes.get(what, ())}
        outcome.has_box = {split: write_split(pool, out / split, members, masks, args)
                           for split, members in zip(SPLITS, outcome.chosen) if members}
    outcome.together = [[usable[k].name for k in group] for group in groups if len(group) > 1]
    outcome.warning = oxford.one_species(sum(outcome.chosen, []), root)
    return outcome


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
    return oxford.find_root(args.root)


def report(args, outcome):
    """Print what went into the data folder and what did not."""
    print(f"{'split':8}{'images':>8}{'cats':>8}{'dogs':>8}{'with box':>10}")
    rows = [(split, len(members), sum(not s.species for s in members), sum(s.species for s in members),
             sum(outcome.has_box.get(split, ()))) for split, members in zip(SPLITS, outcome.chosen)]
    rows.append(("all", *(sum(column) for column in list(zip(*rows))[1:])))
    for name, *counts in rows:
        print(f"{name:8}{counts[0]:8}{counts[1]:8}{counts[2]:8}{counts[3]:10}")
    print(f"near-duplicates kept together: {len(outcome.together)} groups, {sum(map(len, outcome.together))} images "
          f"(256-bit difference hash, at most {data_split.NEAR_DUPLICATE_BITS} bits apart)")
    for group in outcome.together:
        print("  " + ", ".join(map(show_name, group)))
    rules = Counter(sample.species_by for members in outcome.chosen for sample in members)
    if set(rules) != {BY_LIST}:
        print("cat or dog by " + "; by ".join(f"{rule}: {count}" for rule, count in sorted(rules.items())))
    for what, found in outcome.notes.items():
        names = [show_name(name) for name, _ in found]
        if what == NO_BOX:
            print(f"{what}: {len(names)}")
            for name, (_, reason) in zip(names, found):
                print(f"  {name}: {reason}")
        else:
            print(f"{what}: {len(names)} ({cli.listed(names) if what in COMMON else ', '.join(names)})")
    for remark in outcome.folder.remarks:
        print(remark)
    print(f"left out: {len(outcome.folder.left_out)}")
    for name, reason in outcome.folder.left_out:
        print(f"  {show_name(name)}: {reason}")
    if outcome.warning:
        cli.warn(outcome.warning)
    print(f"written to {args.out}; next: python data_rechunk.py --data {args.out}")


if __name__ == "__main__":
    cli.run(main, parse_args())
