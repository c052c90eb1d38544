"""A folder in the layout of the Oxford-IIIT Pet archives, and what its names and lists say.

    images/NAME.jpg               photographs, of any format that Pillow reads
    annotations/trimaps/NAME.png  the mask of each
    annotations/xmls/NAME.xml     its head box; may be missing
    annotations/list.txt          NAME CLASS-ID SPECIES BREED-ID (1 cat, 2 dog); may be missing
    annotations/trainval.txt      the names of the official halves, first in each line, and
    annotations/test.txt          may be missing

Endings count in any case. What is in images/ and is not used is named, with the reason.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cli
from cli import InputError
from data.gather import read_lines
from data.labels import EMPTY, MASKS, Record, Source, Unusable, box_of, read_xml
from data.layout import CLASSES as SPECIES
from data.masks import read_trimap
from data.names import is_system, is_text, key_of
from data.photographs import is_photograph_name, show_name

SPECIES_WORD = re.compile(
    r"(cat|dog)s?(?![^\W\d_])", re.IGNORECASE
)  # as a word of its own: no catfish
BY_LIST, BY_WORD = "list.txt", "the word cat or dog that the name begins with"
BY_LETTER = "the first letter (a capital is a cat)"
HALVES = ("trainval", "test")


@dataclass(frozen=True)
class Trimap:
    """The file of a trimap, or of a mask without border."""

    path: Path

    def read(self):
        trimap, white = read_trimap(self.path)
        return trimap, [] if white is None else [(MASKS[white], "")]


@dataclass(frozen=True, kw_only=True)
class Pet(Record):
    """A photograph of the folder; its stratum is the breed, its label the species.

    species_by: the rule that tells it; is_listed: by list.txt, also where there is none; half: of
    HALVES, or "" unasked.
    """

    species_by: str
    is_listed: bool
    half: str
    mask_word = "trimap"
    box_word = "head box"

    def note_of_empty(self, is_boxed):
        # A listed or boxed photograph shows a pet, so an empty trimap is a mistake in it. Of one
        # that is neither, such as
        # the archives' Abyssinian_34, the trimap is all that is known, and it is taken at its
        # word.
        if self.is_listed or is_boxed:
            raise Unusable("its trimap has no pet pixel")
        return EMPTY


def read_box(paths):
    """The head box of a PASCAL VOC file, the first where there are several; None where there is
    none, text why it is bad."""
    if not paths:
        return None
    try:
        tree = read_xml(paths)
        return None if tree.find("object") is None else box_of(tree, tree.find("object/bndbox"))
    except Unusable as reason:
        return str(reason)


def find_root(root):
    """The folder with images/ and annotations/: the given one, or the one that torchvision makes
    in it."""
    for folder in (root, root / "oxford-iiit-pet"):
        if (folder / "images").is_dir() and (folder / "annotations" / "trimaps").is_dir():
            return folder
    raise InputError(
        f"{root} has no folders images and annotations/trimaps; --root takes the folder that the "
        "Oxford-IIIT Pet archives are unpacked in"
    )


def list_records(root, halves=()):
    """What a folder holds, a Source.

    halves: read only the photographs of trainval.txt, of test.txt, or of both. Raises InputError
    where a list is missing, malformed or at odds with the other.
    """
    annotations = root / "annotations"
    images, others = files_by_name(root / "images", is_photograph_name)
    trimaps, _ = files_by_name(annotations / "trimaps", is_photograph_name)
    boxes, _ = files_by_name(annotations / "xmls", lambda name: name.lower().endswith(".xml"))
    listed = read_list(annotations / "list.txt")
    half_of = read_halves(root, halves, images)
    class_of = Counter((breed_of(name), class_id) for name, (class_id, _) in listed.items())
    usual_class = {breed: class_id for (breed, class_id), _ in reversed(class_of.most_common())}
    source = Source(root, "images/NAME.jpg with annotations/trimaps/NAME.png")
    source.columns, source.has_border, source.is_own = ("breed", "species"), True, False
    for key, paths in images.items():
        if halves and key not in half_of:
            continue
        breed, name = breed_of(key), paths[0].stem
        class_id, listed_species = listed.get(key, (None, None))
        species, rule = species_of(name)
        reason = fault_of(name, paths, trimaps.get(key, ()), (species, listed_species))
        if reason is None and class_id is not None and class_id != usual_class[breed]:
            reason = (
                f"list.txt gives it class {class_id} and most of its breed {usual_class[breed]}"
            )
        source.total += 1 + (key in boxes)
        if reason:
            source.left_out.append((name, reason))
            source.fates["of photographs left out"] += 1 + (key in boxes)
            continue
        if listed_species is not None:
            species, rule = listed_species, BY_LIST
        source.records.append(
            Pet(
                name=name,
                path=paths[0],
                stratum=breed,
                label=species,
                species_by=rule,
                cells={"breed": breed, "species": SPECIES[species]},
                is_listed=key in listed or not listed,
                half=half_of.get(key, ""),
                mask=Trimap(trimaps[key][0]),
                box=read_box(boxes.get(key, ())),
            )
        )
    source.remarks += remarks_on(root, others, (halves, half_of, images, listed))
    return source


def fault_of(name, paths, trimaps, species):
    """Why a photograph is left out, or None. species: as its name and as list.txt say it, None
    where they do not."""
    if len(paths) > 1:
        return f"{len(paths)} photographs have this name ({shown(paths)}); keep one of them"
    if not trimaps:
        return "it has no trimap"
    if len(trimaps) > 1:
        return f"{len(trimaps)} trimaps have this name ({shown(trimaps)}); keep one of them"
    if not is_text(name):
        return "its name holds bytes that are no text; rename it"
    if species == (None, None):
        return (
            "its name does not begin with a letter that is capital (cat) or small (dog); begin it "
            "with cat_ or dog_, or name it in list.txt"
        )
    if None not in species and species[0] != species[1]:
        return f"its name says {SPECIES[species[0]]} and list.txt says {SPECIES[species[1]]}"
    return None


def remarks_on(root, others, lists):
    """Sentences on what else a folder and its lists hold."""
    halves, half_of, images, listed = lists
    named_in = " and ".join(f"{half}.txt" for half in halves) or "list.txt"
    remarks = []
    if others:
        remarks.append(
            f"no photographs, by their names: {len(others)} in {root / 'images'} "
            f"({cli.listed(others)})"
        )
    if halves:
        remarks.append(
            f"photographs named in {named_in}: {len(half_of.keys() & images.keys())}; others, not "
            f"looked at: {len(images.keys() - half_of.keys())}"
        )
    absent = sorted((half_of if halves else listed).keys() - images.keys())
    if absent:
        examples = cli.listed([show_name(name) for name in absent])
        remarks.append(f"named in {named_in} and not in images: {len(absent)} ({examples})")
    return remarks


def files_by_name(folder, belongs):
    """The files of a folder by their names without the endings, and the names of those that do not
    belong there.

    Hidden files, such as the AppleDouble files that macOS puts beside the real ones, are none of
    either.
    """
    found, others = {}, []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_system(path.name):
            continue
        if belongs(path.name):
            found.setdefault(key_of(path.stem), []).append(path)
        else:
            others.append(show_name(path.name) + "/" * path.is_dir())
    return found, others


def shown(paths):
    return ", ".join(show_name(path.name) for path in paths)


def breed_of(name):
    """The breed that a name begins with: saint_bernard of saint_bernard_12."""
    return name.rpartition("_")[0] or name


def species_of(name):
    """What a name says: (0 cat or 1 dog, the rule by which it says so), or (None, None).

    cat or dog (cats, dogs) as its first word is believed; else a capital first letter is a cat and
    a small one a dog, as the archives have it. A digit or a letter of a script without capitals
    says nothing.
    """
    word = SPECIES_WORD.match(name)
    if word:
        return SPECIES.index(word[1].lower()), BY_WORD
    if name[0].isupper() or name[0].islower():
        return int(name[0].islower()), BY_LETTER
    return None, None


def read_list(path):
    """list.txt as {name: (class id, species)}, species 0 cat and 1 dog; empty where there is no
    such file."""
    listed = {}
    for number, line in read_lines(path, "replace") if path.is_file() else ():
        try:
            name, class_id, species, _ = line.split()
            listed[key_of(name)] = int(class_id), {"1": 0, "2": 1}[species]
        except (ValueError, KeyError):
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} should be NAME CLASS-ID SPECIES BREED-ID "
                "with spaces between, species 1 (cat) or 2 (dog)"
            ) from None
    return listed


def read_halves(root, halves, images):
    """{name: half} of the lists of some halves, each of which has to name a photograph that is
    there."""
    half_of = {}
    for half in halves:
        path = root / "annotations" / f"{half}.txt"
        if not path.is_file():
            raise InputError(
                f"{path} is missing, the list of the official {half} half; take it from the "
                "dataset's annotations.tar.gz or prepare without --official-split and --only"
            )
        names = {key_of(line.split()[0]) for _, line in read_lines(path, "replace")}
        if not names & images.keys():
            raise InputError(
                f"{path} names no photograph of {root / 'images'}; each of its lines should begin "
                "with the name of one, without its ending"
            )
        both = sorted(names & half_of.keys())
        if both:
            raise InputError(
                f"{path} and trainval.txt beside it both name {cli.listed(both)}, which would be "
                "trained on and measured; take each from one of them"
            )
        half_of |= dict.fromkeys(names, half)
    return half_of


def one_species(samples, root):
    """A warning where all samples are taken for one species, with the rules that say so; None
    where both occur."""
    if len({one.label for one in samples}) > 1:
        return None
    rules = sorted({one.species_by for one in samples})
    return (
        f"all photographs ({len(samples)}) are taken for {SPECIES[samples[0].label]}s, by "
        f"{' and '.join(rules)}; where that is wrong, begin their names with cat_ or dog_ or "
        f"name them in {root / 'annotations' / 'list.txt'} and prepare them again, and where it "
        "is right, train without classification"
    )
