"""A folder in the layout of the Oxford-IIIT Pet archives: which photographs it holds, and what names and lists say of them.

    images/NAME.jpg                 photographs, of any format that Pillow reads
    annotations/trimaps/NAME.png    the mask of each
    annotations/xmls/NAME.xml       its head box; may be missing
    annotations/list.txt            NAME CLASS-ID SPECIES BREED-ID (species 1 cat, 2 dog); may be missing
    annotations/trainval.txt, test.txt    the names of the official halves, first in each line; may be missing

Endings count in any case. What is in images/ and is not used is named, with the reason.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cli
from cli import InputError
from data import sample
from data.contract import CLASSES as SPECIES
from data.photographs import is_photograph_name, show_name
from data.sample import EMPTY, MASKS, Unusable

SPECIES_WORD = re.compile(
    r"(cat|dog)s?(?![^\W\d_])", re.IGNORECASE
)  # as a word of its own: no catfish
BY_LIST, BY_WORD = "list.txt", "the word cat or dog that the name begins with"
BY_LETTER = "the first letter (a capital is a cat)"
HALVES = ("trainval", "test")


@dataclass(frozen=True, kw_only=True)
class Sample(sample.Sample):
    """A photograph of the folder; its stratum is the breed, its label the species."""

    species_by: str
    is_listed: bool  # by list.txt; also where there is no such file
    half: str  # of HALVES, or "" where that was not asked
    trimap_path: Path
    box_paths: tuple
    mask_word, box_word = "trimap", "head box"

    def read_mask(self):
        trimap, white = sample.read_trimap(self.trimap_path)
        return trimap, [] if white is None else [(MASKS[white], "")]

    def read_box(self):
        return sample.read_box(self.box_paths)

    def note_of_empty(self, is_boxed):
        # A listed or boxed photograph shows a pet, so an empty trimap is a mistake in it. Of one that is neither, such as
        # the archives' Abyssinian_34, the trimap is all that is known, and it is taken at its word.
        if self.is_listed or is_boxed:
            raise Unusable("its trimap has no pet pixel")
        return EMPTY


def find_root(root):
    """The folder with images/ and annotations/: the given one, or the one that torchvision makes in it."""
    for folder in (root, root / "oxford-iiit-pet"):
        if (folder / "images").is_dir() and (folder / "annotations" / "trimaps").is_dir():
            return folder
    raise InputError(
        f"{root} has no folders images and annotations/trimaps; --root takes the folder that the "
        "Oxford-IIIT Pet archives are unpacked in"
    )


def list_samples(root, halves=()):
    """What a folder holds, a Source.

    halves: read only the photographs of trainval.txt, of test.txt, or of both. Raises InputError where a list is missing,
    malformed or at odds with the other.
    """
    annotations = root / "annotations"
    images, others = files_by_name(root / "images", is_photograph_name)
    trimaps, _ = files_by_name(annotations / "trimaps", is_photograph_name)
    boxes, _ = files_by_name(annotations / "xmls", lambda name: name.lower().endswith(".xml"))
    listed = read_list(annotations / "list.txt")
    half_of = read_halves(root, halves, images)
    class_of = Counter((breed_of(name), class_id) for name, (class_id, _) in listed.items())
    usual_class = {breed: class_id for (breed, class_id), _ in reversed(class_of.most_common())}
    folder = sample.Source(
        root,
        "images/NAME.jpg with annotations/trimaps/NAME.png",
        columns=("breed", "species"),
        has_border=True,
        is_own=False,
    )
    for key, paths in images.items():
        if halves and key not in half_of:
            continue
        name, breed = paths[0].stem, breed_of(key)
        species, rule = species_of(name)
        class_id, listed_species = listed.get(key, (None, None))
        if len(paths) > 1:
            reason = f"{len(paths)} photographs have this name ({shown(paths)}); keep one of them"
        elif key not in trimaps:
            reason = "it has no trimap"
        elif len(trimaps[key]) > 1:
            reason = f"{len(trimaps[key])} trimaps have this name ({shown(trimaps[key])}); keep one of them"
        elif not is_text(name):
            reason = "its name holds bytes that are no text; rename it"
        elif species is None and listed_species is None:
            reason = (
                "its name does not begin with a letter that is capital (cat) or small (dog); begin it with cat_ or "
                "dog_, or name it in list.txt"
            )
        elif None not in (species, listed_species) and species != listed_species:
            reason = f"its name says {SPECIES[species]} and list.txt says {SPECIES[listed_species]}"
        elif class_id is not None and class_id != usual_class[breed]:
            reason = (
                f"list.txt gives it class {class_id} and most of its breed {usual_class[breed]}"
            )
        else:
            if listed_species is not None:
                species, rule = listed_species, BY_LIST
            folder.samples.append(
                Sample(
                    name=name,
                    image_path=paths[0],
                    stratum=breed,
                    label=species,
                    species_by=rule,
                    cells={"breed": breed, "species": SPECIES[species]},
                    is_listed=key in listed or not listed,
                    half=half_of.get(key, ""),
                    trimap_path=trimaps[key][0],
                    box_paths=tuple(boxes.get(key, ())),
                )
            )
            continue
        folder.left_out.append((name, reason))
    named_in = " and ".join(f"{half}.txt" for half in halves) or "list.txt"
    if others:
        folder.remarks.append(
            f"no photographs, by their names: {len(others)} in {root / 'images'} ({cli.listed(others)})"
        )
    if halves:
        folder.remarks.append(
            f"photographs named in {named_in}: {len(half_of.keys() & images.keys())}; "
            f"others, not looked at: {len(images.keys() - half_of.keys())}"
        )
    absent = sorted((half_of if halves else listed).keys() - images.keys())
    if absent:
        examples = cli.listed([show_name(name) for name in absent])
        folder.remarks.append(f"named in {named_in} and not in images: {len(absent)} ({examples})")
    return folder


def files_by_name(folder, belongs):
    """The files of a folder by their names without the endings, and the names of those that do not belong there.

    Hidden files, such as the AppleDouble files that macOS puts beside the real ones, are none of either.
    """
    found, others = {}, []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if belongs(path.name):
            found.setdefault(key_of(path.stem), []).append(path)
        else:
            others.append(show_name(path.name) + "/" * path.is_dir())
    return found, others


def key_of(name):
    """A name as it is compared: macOS spells accents and Korean syllables in parts, and most lists do not."""
    return unicodedata.normalize("NFC", name)


def shown(paths):
    return ", ".join(show_name(path.name) for path in paths)


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


def species_of(name):
    """What a name says: (0 cat or 1 dog, the rule by which it says so), or (None, None).

    cat or dog (cats, dogs) as its first word is believed; else a capital first letter is a cat and a small one a dog, as the
    archives have it. A digit or a letter of a script without capitals says nothing.
    """
    word = SPECIES_WORD.match(name)
    if word:
        return SPECIES.index(word[1].lower()), BY_WORD
    if name[0].isupper() or name[0].islower():
        return int(name[0].islower()), BY_LETTER
    return None, None


def read_lines(path, errors="replace"):
    """(number, line) of each line of a list that is neither empty nor a comment; with the marks that Windows programs put at
    the beginning or without."""
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = content.decode(encoding, "replace" if encoding == "utf-16" else errors).splitlines()
    return [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]


def read_list(path):
    """list.txt as {name: (class id, species)}, species 0 cat and 1 dog; empty where there is no such file."""
    listed = {}
    for number, line in read_lines(path) if path.is_file() else ():
        try:
            name, class_id, species, _ = line.split()
            listed[key_of(name)] = int(class_id), {"1": 0, "2": 1}[species]
        except (ValueError, KeyError):
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} should be NAME CLASS-ID SPECIES BREED-ID with spaces "
                "between, species 1 (cat) or 2 (dog)"
            ) from None
    return listed


def read_halves(root, halves, images):
    """{name: half} of the lists of some halves, each of which has to name a photograph that is there."""
    half_of = {}
    for half in halves:
        path = root / "annotations" / f"{half}.txt"
        if not path.is_file():
            raise InputError(
                f"{path} is missing, the list of the official {half} half; take it from the dataset's "
                "annotations.tar.gz or prepare without --official-split and --only"
            )
        names = {key_of(line.split()[0]) for _, line in read_lines(path)}
        if not names & images.keys():
            raise InputError(
                f"{path} names no photograph of {root / 'images'}; each of its lines should begin with the "
                "name of one, without its ending"
            )
        both = sorted(names & half_of.keys())
        if both:
            raise InputError(
                f"{path} and trainval.txt beside it both name {cli.listed(both)}, which would be trained "
                "on and measured; take each from one of them"
            )
        half_of |= dict.fromkeys(names, half)
    return half_of


def one_species(samples, root):
    """A warning where all samples are taken for one species, with the rules that say so; None where both occur."""
    if len({one.label for one in samples}) > 1:
        return None
    rules = sorted({one.species_by for one in samples})
    return (
        f"all photographs ({len(samples)}) are taken for {SPECIES[samples[0].label]}s, by {' and '.join(rules)}; "
        f"where that is wrong, begin their names with cat_ or dog_ or name them in {root / 'annotations' / 'list.txt'} "
        "and prepare them again, and where it is right, train without classification"
    )
