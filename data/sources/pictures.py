"""The pictures of a folder of one's own, sub-folders and all, and what lists, tables and folders' names say of them.

A picture's name is its path below the folder without the ending, with "/" between. Names are compared as macOS and others
spell them alike; in lists and tables they may have an ending, in any case, and "\\" between. Hidden files and folders are
passed over, links followed.
"""

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

import cli
from cli import InputError
from data.contract import SPLITS
from data.photographs import is_photograph_name, show_name
from data.sample import Box, Sample, Source
from data.sources.oxford import is_text, key_of, read_lines, shown

SPLIT_OF = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}  # what each is called


@dataclass(frozen=True, kw_only=True)
class Picture(Sample):
    """A photograph of one's own. mask: what has a `read` as data/masks.py's MaskFile has, or None."""

    mask: object = None
    box: Box | None = None

    def read_mask(self):
        return self.mask.read() if self.mask else (None, [])

    def read_box(self):
        return self.box


class Pictures:
    """What lies below a folder: found {name as it is compared: [paths]}, in order; source, a Source without samples.

    apart: a folder below it that is passed over. Raises InputError where there is no picture.
    """

    def __init__(self, folder, apart=None):
        if not folder.is_dir():
            raise InputError(f"{show_name(folder)} is no folder; name the one with the photographs")
        self.folder = folder
        self.found, others = below(folder, apart)
        self.source = Source(folder, "a photograph in one of Pillow's formats")
        if others:
            self.source.remarks.append(
                f"no photographs, by their names: {len(others)} in {show_name(folder)} "
                f"({cli.listed(others)})"
            )
        if not self.found:
            more = (
                f" ({cli.listed(others)} {'are' if len(others) > 1 else 'is'} none, by the name)"
                if others
                else ""
            )
            raise InputError(
                f"{show_name(folder)} holds no photograph{more}; name a folder with pictures of Pillow's "
                "formats"
            )

    def find(self, text):
        """The picture that a list or a table means, as `found` has it, or None."""
        key = key_of(text.strip().replace("\\", "/").removeprefix("./"))
        stem = key.rpartition(".")[0] if is_photograph_name(key) else key
        return next((name for name in (stem, key) if name in self.found), None)

    def gather(self, make, labels=None, split_of=None):
        """The Source of these pictures: `make(key)` gives (class, what is known beside) or the reason why one is left out.

        labels: a Labels of data/sources/labels.py; split_of: {name: split}, without which all are to be shuffled.
        """
        source = self.source
        source.columns, source.classes = (labels.columns, labels.classes) if labels else ((), None)
        for key, paths in self.found.items():
            if split_of is not None and key not in split_of:
                continue
            name = self.name_of(paths[0])
            made = make(key)
            if len(paths) > 1:
                reason = (
                    f"{len(paths)} photographs have this name ({shown(paths)}); keep one of them"
                )
            elif not is_text(name):
                reason = "its name holds bytes that are no text; rename it"
            elif isinstance(made, str):
                reason = made
            else:
                kind, known = made
                known = (
                    {"stratum": name.rpartition("/")[0]}
                    | known
                    | (labels.of(key) if labels else {})
                )
                source.samples.append(
                    kind(
                        name=name,
                        image_path=paths[0],
                        split=split_of[key] if split_of else "",
                        **known,
                    )
                )
                continue
            source.left_out.append((name, reason))
        return source

    def name_of(self, path):
        return path.relative_to(self.folder).with_name(path.stem).as_posix()

    def split_by_lists(self, paths):
        """{name: split} of up to three lists, a name a line, each the list of the split that it is called, or else in the
        order train, val, test."""
        split_of = {}
        for path, split in zip(paths, splits_named(paths)):
            try:
                lines = read_lines(
                    path, errors="surrogateescape"
                )  # a file's name may be of any bytes
            except OSError as error:
                raise InputError(
                    f"{show_name(path)} cannot be read ({error.strerror}); name a list of photographs"
                ) from None
            for number, line in lines:
                key = self.find(line)
                if key is None:
                    raise InputError(
                        f"{show_name(path)}, line {number}: {shown_cell(line)} is no photograph of "
                        f"{show_name(self.folder)}; name each by its path below that, a line each"
                    )
                if split_of.setdefault(key, split) != split:
                    raise InputError(
                        f"{show_name(path)}, line {number}: {shown_cell(line)} stands in the list of "
                        f"{split_of[key]} too, so a network would be measured on what it knows; take it from "
                        "one"
                    )
            if not lines:
                raise InputError(
                    f"{show_name(path)} names no photograph; write a name a line, or leave the list out"
                )
        others = [
            show_name(self.name_of(paths[0]))
            for key, paths in self.found.items()
            if key not in split_of
        ]
        if others:
            self.source.remarks.append(
                f"in none of the lists, so not used: {len(others)} ({cli.listed(others)})"
            )
        return split_of

    def split_by_folders(self):
        """{name: split} where all pictures lie in folders called as splits are, else None."""
        tops = {
            key: SPLIT_OF.get(key.partition("/")[0].lower()) if "/" in key else None
            for key in self.found
        }
        named = sorted(set(tops.values()) - {None}, key=SPLITS.index)
        if len(named) < 2 or None in tops.values():
            if len(named) > 1:
                others = list(tops.values()).count(None)
                self.source.remarks.append(
                    f"folders {' and '.join(named)} are no split, as {others} of {len(tops)} "
                    "photographs lie in none of them"
                )
            return None
        self.source.remarks.append("split as their folders say; --fractions shuffles them instead")
        return tops


def splits_named(paths):
    """The split that each of some lists is of."""
    named = [SPLIT_OF.get(path.stem.lower()) for path in paths]
    if not any(named):
        return SPLITS[: len(paths)]
    unclear = [show_name(path) for path, split in zip(paths, named) if split is None]
    if unclear or len(set(named)) < len(named):
        raise InputError(
            f"--split-files: {unclear[0] if unclear else show_name(paths[-1])} is not told apart by its name, "
            "as the others are; call the lists train.txt, val.txt and test.txt, one each"
        )
    return named


def shown_cell(text):
    """The beginning of a line or cell, quoted."""
    return f"'{show_name(text[:60])}'" + "..." * (len(text) > 60)


def below(folder, apart=None):
    """The pictures below a folder by their names, and the names of other files. Raises InputError where one may not look."""
    found, others, apart = {}, [], apart and apart.resolve()
    waiting = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = os.stat(place)
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            folders = {
                entry.name for entry in entries if os.path.isdir(entry)
            }  # is_dir fails at a link to itself
        except OSError as error:
            raise InputError(
                f"{show_name(place)} cannot be read ({error.strerror}); put that right, or take it "
                "away"
            ) from None
        this = (status.st_dev, status.st_ino)
        if this in above:  # a link to a folder in which it lies
            continue
        for name in (entry.name for entry in entries if not entry.name.startswith(".")):
            path = place / name
            if name in folders:
                waiting += [(path, above | {this})] * (path.resolve() != apart)
            elif is_photograph_name(name):
                key = key_of(
                    (
                        PurePosixPath(path.relative_to(folder).as_posix()).with_name(path.stem)
                    ).as_posix()
                )
                found.setdefault(key, []).append(path)
            else:
                others.append(show_name(path.relative_to(folder)))
    return dict(sorted(found.items())), sorted(others)
