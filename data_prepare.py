"""Turn photographs and what is known of them into the HDF5 files of the data contract
(data/contract.py shows it).

    python data_prepare.py --root DIR                    the Oxford-IIIT Pet dataset, as its
    archives unpack python data_prepare.py --download DIR                the same, downloaded first
    (800 MB) python data_prepare.py --synthetic 600               pets drawn in code: no data and no
    network needed python data_prepare.py --images DIR --masks DIR      photographs of your own and
    a mask each, with the same name python data_prepare.py --images DIR --coco FILE      photographs
    with polygons or RLE of a COCO file python data_prepare.py --voc DIR
    JPEGImages, SegmentationClass and Annotations of PASCAL VOC

Then `python data_rechunk.py`. 3,678 photographs of 256 px take about a minute on 2 cores. The
folder appears under its name only when it is complete. data/sample.py says how photographs, masks
and boxes are read, data/sources/oxford.py what is taken of the dataset's folder, docs/data.md
everything of one's own:

    --labels labels.csv                     classes, boxes and columns, a line for each photograph
    (data/sources/labels.py) --foreground 1 5 | cat dog              which classes of masks, of a
    COCO file or of VOC are foreground (data/masks.py) --trimaps                               masks
    are trimaps: 1 pet, 2 background, 3 border --split-files train.txt val.txt test.txt    the names
    of each split; folders train, val and test are splits by themselves --leave-out
    leave out photographs whose mask cannot be used, by name, in place of refusing

--only trainval (or test) takes the photographs of that official half alone and splits them as ever.
--official-split keeps the halves: annotations/test.txt is the test split, and trainval.txt is
shared out between train and val as the first two numbers of --fractions say (90-10-0 unless given).
Near-duplicates stay together there too; a photograph of trainval.txt that is a near-duplicate of
one of the test half is left out, so that the half stays whole and nothing of it is trained on.
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np

import cli
from cli import InputError
from data import contract, masks
from data import split as data_split
from data.account import Outcome, report
from data.contract import KINDS, SPLITS
from data.photographs import show_name
from data.sample import UnusableMask
from data.sources import coco, folders, oxford, synthetic, voc
from data.sources.oxford import HALVES
from data.writing import BORDERS, inspect, ordered, write_split
from training import lock


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="folder in the Oxford-IIIT Pet layout")
    source.add_argument(
        "--download", type=Path, metavar="DIR", help="download the dataset into DIR first"
    )
    source.add_argument("--synthetic", type=cli.integer(10, 10**6), metavar="N", help="draw N pets")
    source.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder with photographs of your own, sub-folders too",
    )
    source.add_argument(
        "--voc", type=Path, metavar="DIR", help="folder in the layout of PASCAL VOC"
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="with --images: folder of masks with the same names",
    )
    parser.add_argument(
        "--coco", type=Path, metavar="JSON", help="with --images: COCO file with their annotations"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="classes, boxes and columns of your own photographs",
    )
    parser.add_argument(
        "--foreground",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="the classes that count: numbers in masks, names of a COCO file, either of VOC",
    )
    parser.add_argument(
        "--trimaps",
        action="store_true",
        help="the masks are trimaps: 1 pet, 2 background, 3 border",
    )
    parser.add_argument(
        "--leave-out", action="store_true", help="leave out photographs whose mask cannot be used"
    )
    parser.add_argument(
        "--split-files",
        type=Path,
        nargs="+",
        metavar="TXT",
        help="lists of the photographs of train, val and test, a name a line",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("datasets/data_new"), help="the data folder to make"
    )
    parser.add_argument(
        "--size",
        type=cli.integer(contract.MIN_SIZE, contract.MAX_SIZE),
        default=256,
        help="side of the square images in pixels",
    )
    parser.add_argument(
        "--fractions",
        type=fractions,
        metavar="80-10-10",
        help="train, val and test in percent; with --official-split 90-10-0, as test has its own",
    )
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument(
        "--official-split",
        action="store_true",
        help="the official test half is the test split, and val is taken out of the trainval half",
    )
    halves.add_argument(
        "--only", choices=HALVES, help="take the photographs of that official half alone"
    )
    parser.add_argument(
        "--seed", type=cli.integer(0), default=0, help="of the shuffle, and of the synthetic pets"
    )
    parser.add_argument(
        "--border",
        choices=BORDERS,
        help="what the trimap's border counts as (pet); ignored pixels teach and measure nothing",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing data folder")
    args = parser.parse_args(argv)
    contradiction = contradiction_in(args)
    if contradiction:
        parser.error(contradiction)
    args.is_shuffled = (
        args.fractions is not None
    )  # else folders called train, val and test are splits
    args.fractions = args.fractions or (
        (90.0, 10.0, 0.0) if args.official_split else (80.0, 10.0, 10.0)
    )
    args.border = args.border or "pet"
    return args


def contradiction_in(args):
    """What is wrong about options that do not go together, and the way out; None where nothing
    is."""
    is_own, has_classes = args.images or args.voc, args.masks or args.coco or args.voc
    halves = "--official-split and --only are for --root and --download"
    wrong = {
        f"{halves}; drawn pets have no official halves": args.synthetic
        and (args.official_split or args.only),
        f"{halves}; name the photographs of each split with --split-files": is_own
        and (args.official_split or args.only),
        "the third number of --fractions has to be 0 with --official-split, whose test split is test.txt": args.official_split
        and args.fractions
        and args.fractions[2],
        "--masks needs the photographs' folder, --images": args.masks and not args.images,
        "--coco needs the photographs' folder, --images": args.coco and not args.images,
        "--masks and --coco both say what is foreground; leave one of them out": args.masks
        and args.coco,
        "--labels and --split-files are for --images and --voc; --root has its own lists": not is_own
        and (args.labels or args.split_files),
        "--foreground is for the classes of --masks, --coco or --voc; name one of them": args.foreground
        and not has_classes,
        "--trimaps is for --masks; name their folder": args.trimaps and not args.masks,
        "--trimaps and --foreground both say what is foreground; leave one of them out": args.trimaps
        and args.foreground,
        "--leave-out is for masks of your own; name them with --masks, --coco or --voc": args.leave_out
        and not has_classes,
        "--border is for trimaps, and these masks have no border; leave it out or add --trimaps": args.border
        and is_own
        and not args.trimaps,
        "--split-files takes at most three lists": len(args.split_files or ()) > 3,
        "--split-files and --fractions both say what each split holds; leave one of them out": args.split_files
        and args.fractions,
        "--foreground takes whole numbers for --masks, such as --foreground 1 5": args.masks
        and not all(
            word.isascii() and word.isdigit() and len(word) < 10 for word in args.foreground
        ),
    }
    return next((sentence for sentence, is_so in wrong.items() if is_so), None)


def fractions(text):
    values = cli.percentages(text)
    if abs(sum(values) - 100) > 1e-6:
        raise argparse.ArgumentTypeError(
            f"{text!r} adds up to {sum(values):g} and should add up to 100"
        )
    return values


def main(args):
    check_target(args.out, args.force)
    out = args.out.resolve()  # a link's target is replaced, not the link
    check_apart(args, out)
    with lock.hold(out.with_name(f".{out.name}.lock"), args.out):
        outcome = make(args, out)
    report(args, outcome)


def make(args, out):
    """Prepare the folder `out` under another name and move it to its own when it is whole; returns
    what report() takes."""
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    for left_over in (partial, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"{args.out} cannot be made ({error.strerror}: {error.filename}); choose another --out"
        ) from None
    try:
        outcome = prepare(args, partial)
        check_target(args.out, args.force)  # again, because somebody may have made it meanwhile
        if out.exists():
            os.replace(
                out, old
            )  # moved, because a folder half deleted when the power fails may pass for a whole one
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return outcome


def check_apart(args, out):
    """Refuse an `out` that holds what it is made from, or lies in a folder of one's own photographs
    or masks."""
    given = [
        args.root,
        args.download,
        args.images,
        args.voc,
        args.masks,
        args.coco,
        args.labels,
        *(args.split_files or ()),
    ]
    for source in filter(None, given):
        if source.resolve().is_relative_to(out):
            raise InputError(
                f"--out {args.out} would replace {source}, from which it is made; choose another --out"
            )
    for folder in filter(None, (args.images, args.voc, args.masks)):
        if out.is_relative_to(folder.resolve()):
            raise InputError(
                f"--out {args.out} lies in {folder}, from which it is made; choose another --out"
            )


def check_target(out, force):
    """Refuse to overwrite, and with --force to delete anything but a data folder."""
    if not out.exists():
        return
    if not force:
        raise InputError(f"{out} exists already; add --force to replace it or choose another --out")
    if not out.is_dir():
        raise InputError(
            f"{out} is not a folder, so --force does not delete it; choose another --out"
        )
    ours = {"index.csv", *(f"{kind}.h5{end}" for kind in KINDS for end in ("", ".partial"))}
    foreign = [path for path in out.iterdir() if path.name not in (*SPLITS, "synthetic", "lock")]
    foreign += [
        path for split in SPLITS for path in (out / split).glob("*") if path.name not in ours
    ]
    if foreign:
        raise InputError(
            f"{out} is not a data folder (it holds {foreign[0].relative_to(out)}), so --force does not delete "
            "it; choose another --out"
        )


def prepare(args, out):
    """Read the photographs that the arguments name and write the data folder `out`; returns what
    report() takes."""
    source = find_source(args, out)
    outcome = Outcome(source)
    with cli.processes() as pool:
        usable, looks = look_at(pool, outcome, args)
        assignment, shares = place(usable, looks, outcome, args)
        # Shuffled, so that the first N of a split are a fair sample of it.
        order = np.random.default_rng(args.seed).permutation(len(usable))
        members = {
            split: [k for k in order if assignment[k] == number]
            for number, split in enumerate(SPLITS)
        }
        for (split, rows), share in zip(members.items(), shares):
            if share and not rows:
                if usable[0].split:
                    raise InputError(
                        f"the {split} split has no usable photograph; look at those it names, or leave it out"
                    )
                raise InputError(
                    f"{len(usable)} photographs are too few for a {split} split of {share:g}%; use more of "
                    "them or other --fractions"
                )
        outcome.chosen = [[usable[k] for k in rows] for rows in members.values()]
        taken = [looks[k] for rows in members.values() for k in rows]
        for split, rows in members.items():
            if rows:
                kinds = kinds_to_write(source, taken, [looks[k] for k in rows])
                samples = [(usable[k], looks[k].has_border) for k in rows]
                outcome.known[split] = write_split(pool, out / split, samples, kinds, source, args)
    if not source.is_own:
        outcome.warnings += filter(
            None, [oxford.one_species(sum(outcome.chosen, []), source.where)]
        )
    return outcome


def look_at(pool, outcome, args):
    """(the samples that can be used, a Look at each); what cannot be used is left out, or refused.
    Raises InputError."""
    source, usable, looks, faults = outcome.source, [], [], {}
    jobs = [(sample, args.size) for sample in source.samples]
    for sample, (look, reason, notes) in zip(
        source.samples, ordered(pool, inspect, jobs, "inspect")
    ):
        if isinstance(reason, UnusableMask) and source.is_own and not args.leave_out:
            faults.setdefault(str(reason), []).append(show_name(sample.name))
        elif reason:
            source.left_out.append((sample.name, str(reason)))
        else:
            usable.append(sample)
            looks.append(look)
            for what, detail in notes:
                outcome.notes.setdefault(what, []).append((sample.name, detail))
    if faults:
        n, shown = (
            sum(map(len, faults.values())),
            [f"{cli.listed(names)}: {reason}" for reason, names in faults.items()],
        )
        shown[3:] = ["and others"] * (len(shown) > 3)
        raise InputError(
            f"{n} mask{'s' * (n > 1)} cannot be used; {'; '.join(shown)}; put that right, or add --leave-out "
            "to go on without these photographs"
        )
    if not usable:
        reasons = (
            [
                f"; the first of {len(source.left_out)} left out is {show_name(name)}: {reason}"
                for name, reason in source.left_out[:1]
            ]
            or [f"; {remark}" for remark in source.remarks[:1]]
            or [""]
        )
        raise InputError(
            f"{show_name(source.where)} has no usable photograph{reasons[0]}; it needs {source.needs}"
        )
    if source.is_own:
        masks.check(outcome.notes, sum(look.has_mask for look in looks), args.foreground)
    return usable, looks


def place(usable, looks, outcome, args):
    """(the split of each sample, -1 where it comes into none; the share of each split).
    Near-duplicates stay together."""
    source, shares = outcome.source, args.fractions
    strata, contents = [sample.stratum for sample in usable], [look.content for look in looks]
    pairs = data_split.copies(contents) + data_split.near_duplicates(
        np.stack([look.hash for look in looks])
    )
    if args.official_split:
        shares = (*args.fractions[:2], 100)
        groups, assignment, seen = data_split.split_around_test(
            pairs,
            np.array([sample.half == "test" for sample in usable]),
            strata,
            args.fractions[:2],
            args.seed,
        )
        source.left_out += [
            (
                usable[k].name,
                f"it shows the same as {show_name(usable[test].name)} of the test half",
            )
            for k, test in sorted(seen.items())
        ]
        source.remarks.append(
            f"near-duplicates of the test half left out of the trainval half: {len(seen)}"
        )
    elif usable[0].split:
        shares = [any(sample.split == split for sample in source.samples) for split in SPLITS]
        assignment = np.array([SPLITS.index(sample.split) for sample in usable])
        groups, apart, gone = data_split.look_at_given(pairs, contents, assignment)
        source.left_out += [
            (
                usable[k].name,
                f"it is the same image as {show_name(usable[other].name)} of {usable[other].split}",
            )
            for k, other in sorted(gone.items())
        ]
        outcome.apart = [[(usable[k].name, usable[k].split) for k in pair] for pair in apart]
    else:
        groups = data_split.group_duplicates(len(usable), pairs)
        assignment = data_split.split(groups, strata, args.fractions, args.seed)
    outcome.together = [[usable[k].name for k in group] for group in groups if len(group) > 1]
    return assignment, shares


def kinds_to_write(source, taken, looks):
    """The kinds of files of a split; taken: Looks at the samples of all splits, looks: at its
    own."""
    known = (
        {
            "masks": any(look.has_mask for look in taken),
            "bboxes": any(look.has_box for look in taken),
            "binary": bool(source.classes),
        }
        if source.is_own
        else {}
    )
    known["trimaps"] = source.has_border and any(look.has_border for look in looks)
    return [kind for kind in KINDS if known.get(kind, True)]


def find_source(args, out):
    """The Source of what is given, downloaded or drawn."""
    if args.voc:
        return voc.list_samples(args)
    if args.images:
        return (coco if args.coco else folders).list_samples(args)
    return oxford.list_samples(
        find_root(args, out), HALVES if args.official_split else (args.only,) if args.only else ()
    )


def find_root(args, out):
    """The folder to read: given, downloaded or drawn."""
    if args.synthetic:
        synthetic.draw_dataset(out / "synthetic", args.synthetic, seed=args.seed)
        return out / "synthetic"
    if args.download:
        from torchvision.datasets import (
            OxfordIIITPet,
        )  # here, because it imports torch, which nothing else needs

        try:
            OxfordIIITPet(
                args.download, split="trainval", target_types="segmentation", download=True
            )
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"the download into {args.download} failed ({contract.shorten(error)}); try again, or unpack "
                "images.tar.gz and annotations.tar.gz of the dataset by hand and use --root"
            ) from None
        return args.download / "oxford-iiit-pet"
    return oxford.find_root(args.root)


if __name__ == "__main__":
    cli.run(main, parse_args())
