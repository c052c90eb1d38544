"""Turn photographs and their labels into the HDF5 files of a data folder (data/contract.py).

    python data_prepare.py --root DIR                 the Oxford-IIIT Pet dataset, unpacked
    python data_prepare.py --download DIR             the same, downloaded first (800 MB)
    python data_prepare.py --synthetic 600            pets drawn in code: no data needed
    python data_prepare.py --images DIR --masks DIR   photographs and a mask each, of the same name
    python data_prepare.py --coco EXPORT              the COCO export of a tool: its zip or folder
    python data_prepare.py --coco FILE --images DIR   a COCO file, or one a split
    python data_prepare.py --voc DIR                  the layout of PASCAL VOC

Then `python data_rechunk.py`. 3,678 photographs of 256 px take about a minute on 2 cores. The
folder appears under its name only when it is complete; its report.csv names every photograph whose
labels were changed, cut, left out or doubted. Custom data (docs/data.md):

    --labels labels.csv            classes, boxes and columns, a line for each photograph
    --foreground 1 5 | cat | all   which classes of masks, of a COCO file or of VOC count
    --threshold 128                masks with grey edges (JPEG, anti-aliased)
    --trimaps                      masks are trimaps: 1 pet, 2 background, 3 border
    --mask-suffix _mask            what masks' names have more than their photographs'
    --split-files A.txt B.txt ...  the names of each split; folders and a column split do, too
    --group animal                 photographs with one value in a column stay in one split
    --leave-out                    leave out photographs whose labels cannot be used

--only trainval (or test) takes the photographs of that official half alone. --official-split keeps
the halves: annotations/test.txt is the test split, and trainval.txt is shared out between train and
val as the first two numbers of --fractions say (90-10-0 unless given). Near-duplicates stay
together there too; a photograph of trainval.txt that is a near-duplicate of one of the test half is
left out, so that the half stays whole and nothing of it is trained on.
"""

import argparse
import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

import cli
import files
from cli import InputError
from data import masks
from data import split as data_split
from data.hdf5 import shorten
from data.labels import BOTH, STORED, UPRIGHT, UnusableMask, weigh
from data.layout import KINDS, MAX_SIZE, MIN_SIZE, SPLITS
from data.photographs import show_name
from data.report import Outcome, report, write_report
from data.sources import coco, folders, oxford, synthetic, voc
from data.sources.oxford import HALVES
from data.write import BORDERS, inspect, ordered, write_split


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--root", type=Path, help="folder in the Oxford-IIIT Pet layout")
    source.add_argument(
        "--download", type=Path, metavar="DIR", help="download the dataset into DIR first"
    )
    source.add_argument("--synthetic", type=cli.integer(10, 10**6), metavar="N", help="draw N pets")
    source.add_argument(
        "--images", type=Path, metavar="DIR", help="folder with photographs, sub-folders too"
    )
    source.add_argument(
        "--voc", type=Path, metavar="DIR", help="folder in the layout of PASCAL VOC"
    )
    parser.add_argument(
        "--coco",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="COCO file, one file a split, or an export's zip or folder",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="with --images: folder of masks with the same names",
    )
    parser.add_argument(
        "--mask-suffix",
        metavar="TEXT",
        help="end of masks' names that photographs lack, e.g. _mask",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="classes, boxes and columns of custom photographs",
    )
    parser.add_argument(
        "--foreground",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="the classes that count: numbers in masks, names of a COCO file, either of VOC, or "
        "all",
    )
    parser.add_argument(
        "--threshold",
        type=cli.integer(1, 65535),
        metavar="N",
        help="masks with grey edges: values from N on are foreground, e.g. 128",
    )
    parser.add_argument(
        "--trimaps",
        action="store_true",
        help="the masks are trimaps: 1 pet, 2 background, 3 border",
    )
    parser.add_argument(
        "--drawn-on",
        choices=(UPRIGHT, STORED),
        help="photographs turned by EXIF, where sizes do not tell: what the labels were drawn on",
    )
    parser.add_argument(
        "--leave-out", action="store_true", help="leave out photographs whose labels cannot be used"
    )
    parser.add_argument(
        "--split-files",
        type=Path,
        nargs="+",
        metavar="TXT",
        help="lists of the photographs of train, val and test, a name a line",
    )
    parser.add_argument(
        "--group",
        metavar="COLUMN",
        help="photographs with one value in this column (or one 'folder') stay in one split",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("datasets/data_new"), help="the data folder to make"
    )
    parser.add_argument(
        "--size",
        type=cli.integer(MIN_SIZE, MAX_SIZE),
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
    args.is_shuffled = args.fractions is not None  # else splits that are given hold
    usual = (90.0, 10.0, 0.0) if args.official_split else (80.0, 10.0, 10.0)
    args.fractions = args.fractions or usual
    args.border = args.border or "pet"
    return args


def contradiction_in(args):
    """What is wrong about options that do not go together, and the way out, or None."""
    is_pets = args.root or args.download or args.synthetic
    is_own = args.images or args.voc or (args.coco and not is_pets)
    has_masks = args.masks or args.coco or args.voc
    is_halved = args.official_split or args.only
    halves = "--official-split and --only are for --root and --download"
    test_share = args.official_split and args.fractions and args.fractions[2]
    wrong = [
        (
            not (is_pets or is_own),
            "one of --root --download --synthetic --images --coco --voc is required",
        ),
        (args.synthetic and is_halved, f"{halves}; drawn pets have no official halves"),
        (is_own and is_halved, f"{halves}; name the photographs of each split with --split-files"),
        (
            test_share,
            "the third number of --fractions has to be 0 with --official-split, whose test split "
            "is test.txt",
        ),
        (args.masks and not args.images, "--masks needs the photographs' folder, --images"),
        (
            args.coco and (is_pets or args.voc),
            "--coco needs the photographs' folder, --images, or none",
        ),
        (
            args.masks and args.coco,
            "--masks and --coco both say what is foreground; leave one of them out",
        ),
        (
            not is_own and (args.labels or args.split_files or args.group),
            "--labels and --split-files are for --images, --coco and --voc, --group too; --root "
            "has its own lists",
        ),
        (
            args.foreground and not has_masks,
            "--foreground is for the classes of --masks, --coco or --voc; name one of them",
        ),
        (
            (args.trimaps or args.threshold or args.mask_suffix) and not args.masks,
            "--trimaps is for --masks, --threshold and --mask-suffix too; name their folder",
        ),
        (
            (args.trimaps or args.threshold)
            and (args.foreground or args.trimaps and args.threshold),
            "--trimaps, --threshold and --foreground all say what is foreground; leave all but "
            "one out",
        ),
        (
            args.leave_out and not has_masks,
            "--leave-out is for masks of your own; name them with --masks, --coco or --voc",
        ),
        (
            args.border and is_own and not args.trimaps,
            "--border is for trimaps, and these masks have no border; leave it out or add "
            "--trimaps",
        ),
        (len(args.split_files or ()) > 3, "--split-files takes at most three lists"),
        (
            args.split_files and args.fractions,
            "--split-files and --fractions both say what each split holds; leave one of them out",
        ),
    ]
    for is_so, sentence in wrong:
        if is_so:
            return sentence
    return None


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
    with files.lock(out.with_name(f".{out.name}.lock"), args.out):
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
    """Refuse an `out` that holds what it is made from, or lies in a folder of custom photographs
    or masks."""
    given = [args.root, args.download, args.images, args.voc, args.masks, args.labels]
    given += [*(args.coco or ()), *(args.split_files or ())]
    for source in filter(None, given):
        if source.resolve().is_relative_to(out):
            raise InputError(
                f"--out {args.out} would replace {source}, from which it is made; choose another "
                "--out"
            )
    for folder in filter(None, (args.images, args.voc, args.masks, *(args.coco or ()))):
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
    beside = (*SPLITS, "synthetic", "lock", "report.csv")
    foreign = [path for path in out.iterdir() if path.name not in beside]
    foreign += [
        path for split in SPLITS for path in (out / split).glob("*") if path.name not in ours
    ]
    if foreign:
        raise InputError(
            f"{out} is not a data folder (it holds {foreign[0].relative_to(out)}), so --force "
            "does not delete it; choose another --out"
        )


def prepare(args, out):
    """Read the photographs that the arguments name and write the data folder `out`; returns what
    report() takes."""
    with tempfile.TemporaryDirectory(dir=out, prefix="unpacked") as place:
        source = find_source(args, out, Path(place).resolve())
        outcome = Outcome(source, notes=source.notes)
        with cli.processes() as pool:
            write_splits(pool, out, outcome, args)
    if not source.is_own:
        warning = oxford.one_species(sum(outcome.chosen, []), source.where)
        outcome.warnings += [warning] * (warning is not None)
    write_report(out / "report.csv", outcome)
    return outcome


def write_splits(pool, out, outcome, args):
    """Look at all records, split them and write the splits; fills the Outcome."""
    source = outcome.source
    usable, looks = look_at(pool, outcome, args)
    assignment, shares = place(usable, looks, outcome, args)
    # Shuffled, so that the first N of a split are a fair sample of it.
    order = np.random.default_rng(args.seed).permutation(len(usable))
    members = {split: [] for split in SPLITS}
    for k in order:
        if assignment[k] >= 0:
            members[SPLITS[assignment[k]]].append(k)
    for (split, rows), share in zip(members.items(), shares, strict=True):
        if share and not rows:
            raise InputError(too_few(usable, split, share))
    outcome.chosen = [[usable[k] for k in rows] for rows in members.values()]
    taken = [looks[k] for rows in members.values() for k in rows]
    count_labels(outcome, taken)
    for split, rows in members.items():
        if rows:
            kinds = kinds_to_write(source, taken, [looks[k] for k in rows])
            samples = [(usable[k], looks[k].has_border) for k in rows]
            outcome.known[split] = write_split(pool, out / split, samples, kinds, (source, args))


def too_few(usable, split, share):
    if usable[0].split:
        return (
            f"the {split} split has no usable photograph; look at those it names, or leave it out"
        )
    return (
        f"{len(usable)} photographs are too few for a {split} split of {share:g}%; use more of "
        "them or other --fractions"
    )


def count_labels(outcome, taken):
    """Count what became of all labels: those of records that were not taken went with them."""
    source = outcome.source
    outcome.fates += source.fates
    for look in taken:
        outcome.fates += look.fates
    lost = source.total - sum(outcome.fates.values())
    if lost:
        outcome.fates["of photographs left out"] += lost


def look_at(pool, outcome, args):
    """(the records that can be used, a Look at each); what cannot be used is left out, or refused.
    Raises InputError."""
    source = outcome.source
    found = look_at_all(pool, source.records, args)
    if source.is_own:
        found = weigh_orientations(pool, found, outcome, args)
    usable, looks, faults = [], [], {}
    for record, (look, reason, notes) in found:
        if isinstance(reason, UnusableMask) and source.is_own and not args.leave_out:
            faults.setdefault(str(reason), []).append(show_name(record.name))
        elif reason:
            source.left_out.append((record.name, str(reason)))
        else:
            usable.append(record)
            looks.append(look)
            for what, detail in notes:
                outcome.notes.setdefault(what, []).append((record.name, detail))
    if faults:
        refuse(faults)
    if not usable:
        more = f"; {source.remarks[0]}" if source.remarks else ""
        if source.left_out:
            name, reason = source.left_out[0]
            more = f"; the first of {len(source.left_out)} left out is {show_name(name)}: {reason}"
        raise InputError(
            f"{show_name(source.where)} has no usable photograph{more}; it needs {source.needs}"
        )
    if source.is_own:
        masks.check(outcome.notes, sum(look.has_mask for look in looks), args.foreground)
    return usable, looks


def look_at_all(pool, records, args):
    """[(record, what inspect gives)] of all records."""
    jobs = [(record, args.size) for record in records]
    return list(zip(records, ordered(pool, inspect, jobs, "inspect"), strict=True))


def weigh_orientations(pool, found, outcome, args):
    """Look again at photographs turned by EXIF whose labels fit both ways, as the others or the
    user tell it; else refuse them.

    A table's boxes alone are of the upright photograph, unless others tell otherwise.
    """
    told = weigh(look.fits for _, (look, _, _) in found if look)
    told = told or args.drawn_on
    unclear = [k for k, (_, (look, _, _)) in enumerate(found) if look and look.fits == BOTH]
    if told and unclear:
        outcome.source.remarks.append(
            f"turned by EXIF, with labels that fit both ways, so read as drawn on the {told} "
            f"photograph: {len(unclear)}"
        )
    if told == STORED and unclear:
        records = [dataclasses.replace(found[k][0], drawn_on=STORED) for k in unclear]
        for k, again in zip(unclear, look_at_all(pool, records, args), strict=True):
            found[k] = again
    elif not told:
        for k in unclear:
            record = found[k][0]
            if record.mask or record.shapes or getattr(record.box, "frame", None):
                reason = UnusableMask(
                    f"its {record.mask_word} fits the photograph as stored and as EXIF turns it; "
                    "say with --drawn-on upright or stored which it was drawn on"
                )
                found[k] = (record, (None, reason, []))
    return found


def refuse(faults):
    """Refuse masks that cannot be used. faults: {reason: names}."""
    n = sum(map(len, faults.values()))
    shown = [f"{cli.listed(names)}: {reason}" for reason, names in faults.items()]
    if len(shown) > 3:
        shown[3:] = ["and others"]
    raise InputError(
        f"{n} mask{'s' * (n > 1)} cannot be used; {'; '.join(shown)}; put that right, or add "
        "--leave-out to go on without these photographs"
    )


def place(usable, looks, outcome, args):
    """(the split of each record, -1 where it comes into none; the share of each split).
    Near-duplicates stay together."""
    source, shares = outcome.source, args.fractions
    strata, contents = [record.stratum for record in usable], [look.content for look in looks]
    hashes = np.stack([look.hash for look in looks])
    pairs = data_split.copies(contents) + data_split.near_duplicates(hashes)
    turned = data_split.near_duplicates(hashes, np.stack([look.turned for look in looks]))
    if source.is_own:
        pairs = sorted({pair[1:]: pair for pair in sorted(pairs + turned, reverse=True)}.values())
    names = [record.group for record in usable]
    if args.official_split:
        shares = (*args.fractions[:2], 100)
        is_test = np.array([record.half == "test" for record in usable])
        groups, assignment, seen = data_split.split_around_test(
            pairs, is_test, strata, args.fractions[:2], args.seed
        )
        for k, test in sorted(seen.items()):
            reason = f"it shows the same as {show_name(usable[test].name)} of the test half"
            source.left_out.append((usable[k].name, reason))
        source.remarks.append(
            f"near-duplicates of the test half left out of the trainval half: {len(seen)}"
        )
    elif usable[0].split:
        named = {record.split for record in source.records}
        shares = [split in named for split in SPLITS]
        assignment = np.array([SPLITS.index(record.split) for record in usable])
        groups, apart, gone = data_split.look_at_given(pairs, contents, assignment)
        for k, other in sorted(gone.items()):
            reason = (
                f"it is the same image as {show_name(usable[other].name)} of {usable[other].split}"
            )
            source.left_out.append((usable[k].name, reason))
        outcome.apart = [[(usable[k].name, usable[k].split) for k in pair] for pair in apart]
        warn_of_groups(usable, assignment, outcome)
    else:
        groups = data_split.group_duplicates(len(usable), pairs)
        joined = data_split.join(groups, names)
        assignment = data_split.split(joined, strata, args.fractions, args.seed)
        if any(names):
            n = len(set(names) - {""})
            source.remarks.append(
                f"groups kept in one split each: {n}, by {args.group or 'the name before .rf.'}"
            )
    outcome.together = [[usable[k].name for k in group] for group in groups if len(group) > 1]
    if not source.is_own:
        outcome.twins = [
            (usable[i].name, usable[j].name)
            for _, i, j in turned
            if -1 < assignment[i] != assignment[j] > -1
        ]
    return assignment, shares


def warn_of_groups(usable, assignment, outcome):
    """Warn of groups of photographs that lie in several of the given splits."""
    splits_of = {}
    for record, number in zip(usable, assignment, strict=True):
        if record.group and number >= 0:
            splits_of.setdefault(record.group, set()).add(SPLITS[number])
    torn = [show_name(name) for name, splits in splits_of.items() if len(splits) > 1]
    if torn:
        outcome.warnings.append(
            f"groups in several of the given splits: {len(torn)} ({cli.listed(torn)}), so a "
            "network would be measured on what it knows; put each into one split, or let "
            "--fractions do it"
        )


def kinds_to_write(source, taken, looks):
    """The kinds of files of a split; taken: Looks at all records, looks: at its own."""
    known = {}
    if source.is_own:
        known = {
            "masks": any(look.has_mask for look in taken),
            "bboxes": any(look.has_box for look in taken),
            "binary": bool(source.classes),
        }
    known["trimaps"] = source.has_border and any(look.has_border for look in looks)
    return [kind for kind in KINDS if known.get(kind, True)]


def find_source(args, out, place):
    """The Source of what is given, downloaded or drawn. place: a folder for what zips hold."""
    if args.voc:
        return voc.list_records(args)
    if args.coco:
        return coco.list_records(args, place)
    if args.images:
        return folders.list_records(args)
    halves = (args.only,) if args.only else ()
    return oxford.list_records(find_root(args, out), HALVES if args.official_split else halves)


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
                f"the download into {args.download} failed ({shorten(error)}); try again, or "
                "unpack images.tar.gz and annotations.tar.gz of the dataset by hand and use "
                "--root"
            ) from None
        return args.download / "oxford-iiit-pet"
    return oxford.find_root(args.root)


if __name__ == "__main__":
    cli.run(main, parse_args())
