"""One place names: the photographs below a folder, and which of them a label means, whatever
program wrote its name.

An exact file name comes first, then a name without its ending, both in the same case before any
case, then a path that is the tail of the other (exports of other machines begin elsewhere).
Unicode is composed, as macOS spells accents in parts; backslashes, drives, URLs with %20 and what
follows a `?` are understood. What fits several is refused.
"""

import os
import re
import unicodedata
from urllib.parse import unquote

import cli
from cli import InputError
from data.photographs import is_photograph_name, show_name

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
FILLERS = {"set", "split", "subset", "data", "image", "images", "img", "imgs", "photos"}
SYSTEM = {"@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx"}
SYSTEM |= {"thumbs.db", "ehthumbs.db", "desktop.ini"}
UPLOADED = re.compile(r"(^|/)[0-9a-f]{8}-([^/]+)$")  # Label Studio puts this before a name


def split_named(text, is_loose=False):
    """The split that a folder or a cell names ("Training", "val2017", "test_set"), or None.

    is_loose: other words may stand beside it, as in the name of a file.
    """
    words = re.findall(r"[^\W\d_]+", text.casefold())
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    others = [word for word in words if word not in SPLIT_WORDS and word not in FILLERS]
    return splits.pop() if len(splits) == 1 and (is_loose or not others) else None


def key_of(name):
    """A name as it is compared: macOS spells accents and Korean syllables in parts."""
    return unicodedata.normalize("NFC", name)


def is_system(name):
    """Whether a file or folder is a system's or a server's own: hidden, thumbnails, bins."""
    return name.startswith(".") or name.casefold() in SYSTEM


def is_text(name):
    """Whether a file's name can be written in UTF-8, as index.csv is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(text):
    """The beginning of a line or cell, quoted."""
    text = str(text)
    return f"'{show_name(text[:60])}'" + "..." * (len(text) > 60)


def without_ending(path):
    """A path without its ending, where that is one of a photograph's."""
    return path.rpartition(".")[0] if is_photograph_name(path) else path


def walk(folder, apart=None):
    """(photographs, other files) below a folder: {path below it: Path} and names. Links are
    followed, once."""
    photographs, others = {}, []
    apart = apart and apart.resolve()
    waiting = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = os.stat(place)
            entries = sorted(entry.name for entry in os.scandir(place))
        except OSError as error:
            raise InputError(
                f"{show_name(place)} cannot be read ({error.strerror}); put that right, or take "
                "it away"
            ) from None
        this = (status.st_dev, status.st_ino)
        if this in above:  # a link to a folder in which it lies
            continue
        for name in entries:
            path = place / name
            if is_system(name):
                continue
            if os.path.isdir(path):
                if path.resolve() != apart:
                    waiting.append((path, above | {this}))
            elif is_photograph_name(name):
                photographs[key_of(path.relative_to(folder).as_posix())] = path
            else:
                others.append(show_name(path.relative_to(folder)))
    return dict(sorted(photographs.items())), sorted(others)


def below(folder, apart=None):
    """({name without ending: [paths]} of the photographs below a folder, names of other files)."""
    photographs, others = walk(folder, apart)
    found = {}
    for name, path in photographs.items():
        found.setdefault(without_ending(name), []).append(path)
    return dict(sorted(found.items())), others


class Ambiguous(Exception):
    """A name fits several photographs; the message lists them."""


class Pictures:
    """The photographs below a folder. files: {path below it: Path}; others: names of other files.

    apart: a folder below it that is passed over; shown: what it is called in messages. Raises
    InputError where there is no photograph.
    """

    def __init__(self, folder, apart=None, mask_suffix=None, shown=None):
        self.folder, self.shown = folder, show_name(shown or folder)
        if not folder.is_dir():
            raise InputError(f"{self.shown} is no folder; name the one with the photographs")
        self.files, self.others = walk(folder, apart)
        if mask_suffix:
            masks = [name for name in self.files if strip_suffix(name, mask_suffix)]
            for name in masks:
                del self.files[name]
        if not self.files:
            more = ""
            if self.others:
                verb = "are" if len(self.others) > 1 else "is"
                more = f" ({cli.listed(self.others)} {verb} none, by the name)"
            raise InputError(
                f"{self.shown} holds no photograph{more}; name a folder with pictures of Pillow's "
                "formats"
            )
        self.levels = [{} for _ in range(5)]
        self.exact = set()  # photographs that a label names with their ending
        for name in self.files:
            self._add(name)

    def _add(self, name):
        stem = without_ending(name)
        parts = name.casefold().split("/")
        tails = {"/".join(parts[k:]) for k in range(len(parts))}
        tails |= {without_ending(tail) for tail in tails}
        keys = ([name], [stem], [name.casefold()], [stem.casefold()], tails)
        for level, found in zip(self.levels, keys, strict=True):
            for key in found:
                level.setdefault(key, []).append(name)

    def doubles(self, name):
        """The photographs that have a name's stem, more than one where the ending tells them
        apart."""
        return self.levels[1][without_ending(name)]

    def name_of(self, key):
        """What index.csv calls a photograph: its path as the disk spells it, without the ending
        unless that is needed."""
        path = self.files[key].relative_to(self.folder)
        is_double = len(self.doubles(key)) > 1
        return path.as_posix() if is_double else path.with_name(path.stem).as_posix()

    def find(self, text, is_near=None):
        """The photograph that a text means, as `files` has it, or None.

        is_near: of several that it may mean, whether one is preferred, by its name. Raises
        Ambiguous.
        """
        for wanted in spellings(text):
            for level, key in self._places(wanted):
                found = level.get(key, [])
                near = [name for name in found if is_near(name)] if is_near else []
                near = near or found
                if len(near) > 1:
                    listed = cli.listed([show_name(name) for name in near])
                    raise Ambiguous(f"it fits several photographs ({listed})")
                if near:
                    if level is self.levels[0]:
                        self.exact.add(near[0])
                    return near[0]
        return None

    def require(self, text, wrong):
        """The same of a name that has to be one. wrong: what makes an error of a sentence."""
        try:
            key = self.find(text)
        except Ambiguous as error:
            raise wrong(
                f"{quoted(text)} is not clear: {error}; name it with its path and ending"
            ) from None
        if key is None:
            raise wrong(
                f"{quoted(text)} is no photograph of {self.shown}; correct the name, or take it out"
            )
        return key

    def _places(self, wanted):
        """(index, key) of each way in which a path may be meant, the strictest first."""
        names, stems, any_names, any_stems, tails = self.levels
        stem, folded = without_ending(wanted), wanted.casefold()
        places = [(names, wanted), (stems, wanted), (stems, stem)]
        places += [(any_names, folded), (any_stems, folded), (any_stems, stem.casefold())]
        places += [(tails, folded), (tails, stem.casefold())]
        parts = folded.split("/")
        for k in range(1, len(parts)):
            tail = "/".join(parts[k:])
            places += [(any_names, tail), (any_stems, tail), (any_stems, without_ending(tail))]
        return places


def spellings(text):
    """The paths that a text may mean: as it stands, then as a URL, then without what Label Studio
    puts before names."""
    text = key_of(str(text).strip())
    found = [plain_path(text)]
    local = re.sub(r"^.*\?d=", "", text)  # how Label Studio names files of its own disk
    address = re.sub(r"[?#].*$", "", re.sub(r"^\w+://", "", local))
    found.append(plain_path(unquote(address)))
    found += [UPLOADED.sub(r"\1\2", path) for path in found]
    return [path for path in dict.fromkeys(found) if path]


def plain_path(text):
    """A path with "/" between, without a drive and without . and .. in it."""
    parts = re.sub(r"^[A-Za-z]:(?=[\\/])", "", text.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def strip_suffix(name, suffix):
    """A mask's path without a suffix such as _mask, with or without the ending (.jpg.png); None
    where it has none."""
    for text in (name, without_ending(name)):
        if text.casefold().endswith(suffix.casefold()) and len(text) > len(suffix):
            return text[: -len(suffix)]
    return None
