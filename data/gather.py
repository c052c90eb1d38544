"""Custom photographs become records: their labels, the split that the user says, and what has to
stay in one split.

A split is taken from --split-files, else (unless --fractions shuffles) from the files of the
source, from a column split of the table, or from folders called train, val, test and the like.
"""

import re
from functools import partial

import cli
from cli import InputError
from data.labels import Record, Source
from data.layout import SPLITS
from data.names import is_text, quoted, split_named
from data.photographs import show_name
from data.sources.tables import Labels, wrong

COPY = re.compile(r"\.rf\.[0-9A-Za-z]+$")  # Roboflow numbers the augmented copies of a picture so
NO_SPLIT, LEFT_OUT = "of photographs in no split", "of photographs left out"  # fates of labels


def new_source(pictures):
    """A Source of a folder's photographs, without records."""
    return Source(pictures.folder, "a photograph in one of Pillow's formats")


def gather(pictures, source, known, args, split_of=None):
    """Fill a Source with the records of photographs.

    known: {photograph: what a Record is told of it, or the reason (text) why it is left out};
    split_of: {photograph: split} as the source has it, or None.
    """
    labels = Labels(args.labels, pictures) if args.labels else None
    if pictures.others:
        listed = cli.listed(pictures.others)
        source.remarks.append(
            f"no photographs, by their names: {len(pictures.others)} in {pictures.shown} ({listed})"
        )
    if labels:
        refuse_two_boxes(labels, known, args)
        source.columns = merged_columns(source.columns, labels.columns)
        source.classes = labels.classes or source.classes
        source.remarks += labels.remarks
        source.total += len(labels.boxes)
    split_of, how = choose_splits(pictures, source, labels, args, split_of)
    group_of = groups(pictures, labels, args)
    unsplit = []
    for key in pictures.files:
        name, told = pictures.name_of(key), known.get(key, {})
        doubles = pictures.doubles(key)
        if len(doubles) > 1 and key not in pictures.exact:
            listed = ", ".join(show_name(other.rpartition("/")[2]) for other in doubles)
            told = f"{len(doubles)} photographs have this name ({listed}); keep one of them"
        elif not is_text(name):
            told = "its name holds bytes that are no text; rename it"
        if split_of is not None and split_of.get(key) is None:
            unsplit.append(show_name(name))
            count_lost(source, known.get(key), NO_SPLIT)
        elif isinstance(told, str):
            source.left_out.append((name, told))
            count_lost(source, known.get(key), LEFT_OUT)
        else:
            fields = {"stratum": name.rpartition("/")[0], "group": group_of[key], **told}
            if labels:
                labels.add_to(fields, key)
            for column in source.columns:
                fields.setdefault("cells", {}).setdefault(column, "")
            fields["split"] = split_of[key] if split_of else ""
            source.records.append(Record(name=name, path=pictures.files[key], **fields))
    if unsplit:
        source.remarks.append(f"{how}, so not used: {len(unsplit)} ({cli.listed(unsplit)})")
    return source


def count_lost(source, told, fate):
    """Count the labels of a photograph that is not used."""
    if isinstance(told, dict):
        source.fates[fate] += Record(name="", path=None, **told).labels


def merged_columns(ours, theirs):
    """The columns of a source and of a table; of two with one name the table's."""
    names = {name.casefold() for name in theirs}
    return (*(name for name in ours if name.casefold() not in names), *theirs)


def refuse_two_boxes(labels, known, args):
    has_boxes = args.coco or any(
        isinstance(told, dict) and told.get("box") is not None for told in known.values()
    )
    if labels.has_boxes and has_boxes:
        other = args.coco[0] if args.coco else args.voc
        raise InputError(
            f"{show_name(args.labels)} has boxes, and so has {show_name(other)}; take its columns "
            "xmin, ymin, xmax and ymax out"
        )


# ------------------------------------------------------------------------------------------- splits


def choose_splits(pictures, source, labels, args, given):
    """({photograph: split or None}, why some have none), or (None, "") where all are to be
    shuffled."""
    if args.split_files:
        return split_by_lists(pictures, args.split_files), "in none of the lists"
    by_column = labels.splits(source) if labels else None
    by_folder = None if given or by_column else split_by_folders(pictures, source)
    for split_of, what, why in (
        (by_column, "the cells of the column split", "without a split in the table"),
        (given, "the COCO files", "in none of the files"),
        (by_folder, "their folders", ""),
    ):
        if split_of:
            if args.is_shuffled:
                source.remarks.append(f"shuffled by --fractions, whatever {what} say")
                return None, ""
            source.remarks.append(f"split as {what} say; --fractions shuffles them instead")
            return split_of, why
    return None, ""


def split_by_lists(pictures, paths):
    """{photograph: split} of up to three lists, a name a line, each the list of the split that it
    is called, or else in the order train, val, test."""
    split_of = {}
    for path, split in zip(paths, splits_of_lists(paths), strict=False):
        lines = read_lines(path)
        for number, line in lines:
            key = pictures.require(line, partial(wrong, path, number=number))
            if split_of.setdefault(key, split) != split:
                raise InputError(
                    f"{show_name(path)}, line {number}: {quoted(line)} stands in the list of "
                    f"{split_of[key]} too, so a network would be measured on what it knows; take "
                    "it from one"
                )
        if not lines:
            raise InputError(
                f"{show_name(path)} names no photograph; write a name a line, or leave the list out"
            )
    return split_of


def splits_of_lists(paths):
    """The split that each of some lists is of."""
    named = [split_named(path.stem, is_loose=True) for path in paths]
    if not any(named):
        return SPLITS[: len(paths)]
    unclear = [show_name(path) for path, split in zip(paths, named, strict=True) if split is None]
    if unclear or len(set(named)) < len(named):
        raise InputError(
            f"{unclear[0] if unclear else show_name(paths[-1])} is not told apart by its name, as "
            "the others are; call the files after their splits, such as train.txt, val.txt and "
            "test.txt, one each"
        )
    return named


def split_by_folders(pictures, source):
    """{photograph: split} where all lie in folders called as splits are, else None."""
    tops = {}
    for key in pictures.files:
        named = [split_named(part) for part in key.split("/")[:-1]]
        tops[key] = next((split for split in named if split), None)
    named = sorted(set(tops.values()) - {None}, key=SPLITS.index)
    if len(named) < 2:
        return None
    if None in tops.values():
        outside = list(tops.values()).count(None)
        source.warnings.append(
            f"folders {' and '.join(named)} are no split, as {outside} of {len(tops)} photographs "
            "lie in none of them; put those into one too, or leave them out"
        )
        return None
    return tops


def groups(pictures, labels, args):
    """{photograph: what has to stay in one split with it, or ""}."""
    if not args.group:
        found = {}
        for key in pictures.files:
            name = pictures.name_of(key)
            found[key] = COPY.sub("", name) if COPY.search(name) else ""
        return found
    if args.group == "folder":
        return {key: key.rpartition("/")[0] for key in pictures.files}
    cells = labels.column(args.group) if labels else None
    if cells is None:
        columns = (
            ", ".join(labels.columns) if labels else "there is no table; name one with --labels"
        )
        raise InputError(
            f"--group {quoted(args.group)} is no column of the table ({columns}); name one of "
            "them, or 'folder'"
        )
    return {key: cells.get(key, "") for key in pictures.files}


def read_lines(path, errors="surrogateescape"):
    """(number, line) of each line of a list that is neither empty nor a comment, as any program
    writes it. A file's name may be of any bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{show_name(path)} cannot be read ({error.strerror}); name a list of photographs"
        ) from None
    is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content.decode(*(("utf-16", "replace") if is_wide else ("utf-8-sig", errors)))
    lines = enumerate(text.splitlines(), 1)
    return [(k, line) for k, line in lines if line.strip() and not line.startswith("#")]
