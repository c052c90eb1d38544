"""A folder in the layout of PASCAL VOC, as labelling tools write it too.

    JPEGImages/NAME.jpg          photographs, or beside their NAME.xml
    SegmentationClass/NAME.png   masks of class numbers, 0 background and 255 unlabelled
    Annotations/NAME.xml         boxes of the objects
    labelmap.txt                 names of the class numbers, or class_names.txt

All but the photographs may be missing, of some or of all. Every class is foreground, or those of
--foreground: numbers, or names, in any case. Numbers and names belong together by labelmap.txt or
class_names.txt, else as in VOC's own list, unless an object has a name that this does not have. A
photograph with one object of these gets its box.
"""

import re

from cli import InputError
from data.gather import gather, new_source
from data.labels import Unusable, box_of, read_xml
from data.masks import ALL, Rule, read_classes
from data.names import Ambiguous, Pictures, quoted, walk
from data.photographs import show_name
from data.sources.folders import OF_NONE, read_masks

CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]  # 1 to 20
SEVERAL, OTHER_CLASS = "boxes of photographs with several objects", "of other classes"  # fates
MANY = "without a box, as they show several objects"


def list_records(args):
    """What --voc gives, a Source. Raises InputError."""
    root = args.voc
    place = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    notes = root / "Annotations" if (root / "Annotations").is_dir() else root
    pictures = Pictures(place, root / "SegmentationClass")
    pictures.others = [name for name in pictures.others if not name.lower().endswith(".xml")]
    source = new_source(pictures)
    trees = read_trees(pictures, source, notes)
    has_masks = (root / "SegmentationClass").is_dir()
    if place == root and not trees:
        raise InputError(
            f"{show_name(root)} has no folder JPEGImages; --voc takes a folder in the layout of "
            "PASCAL VOC, such as VOCdevkit/VOC2012"
        )
    if not has_masks and not trees:
        raise InputError(
            f"{show_name(root)} has neither SegmentationClass nor Annotations for its "
            "photographs; for those alone use --images"
        )
    numbers, names = choose_classes(root, args.foreground, names_in(trees), has_masks)
    known = {}
    if has_masks:
        rule = Rule(numbers, colours=read_classes(root / "SegmentationClass")[1])
        known = read_masks(pictures, source, args, (root / "SegmentationClass", rule))
    for key, tree in trees.items():
        box = read_box(tree, names, source, pictures.name_of(key))
        told = known.setdefault(key, {})
        if isinstance(told, dict):
            told["box"] = box
        elif box is not None:
            source.fates["of photographs left out"] += 1
    return gather(pictures, source, known, args)


def read_trees(pictures, source, folder):
    """{photograph: its XML tree, or the reason why that cannot be read}."""
    paths_of = {}
    for name in walk(folder)[1]:
        if not name.lower().endswith(".xml"):
            continue
        try:
            key = pictures.find(name[:-4])
        except Ambiguous:
            key = None
        if key is None:
            source.note("boxes without a photograph", name)
            source.fates[OF_NONE] += 1
            source.total += 1
        else:
            paths_of.setdefault(key, []).append(folder / name)
    trees = {}
    for key, paths in paths_of.items():
        try:
            trees[key] = read_xml(paths)
        except Unusable as reason:
            trees[key] = str(reason)
    return trees


def name_in(element):
    return (element.findtext("name") or "").strip().casefold()


def names_in(trees):
    """The names of all objects, folded."""
    names = set()
    for tree in trees.values():
        if not isinstance(tree, str):
            names.update(name_in(one) for one in tree.iterfind("object"))
    return names


def read_box(tree, names, source, name):
    """The Box of a photograph's only object of these names (None: of all), the reason why there is
    none, or None."""
    if isinstance(tree, str):
        source.total += 1
        return tree
    objects = tree.findall("object")
    counted = [one for one in objects if names is None or name_in(one) in names]
    source.total += len(objects)
    source.fates[OTHER_CLASS] += len(objects) - len(counted)
    if len(counted) > 1:
        source.fates[SEVERAL] += len(counted)
        source.note(MANY, name)
    if len(counted) != 1:
        return None
    try:
        return box_of(tree, counted[0].find("bndbox"))
    except Unusable as reason:
        return str(reason)


def choose_classes(root, words, used, has_masks):
    """(the numbers of the masks that count, or ALL; the names of the objects that count, or None
    for all)."""
    words = [word.casefold() for word in words]
    if not words or words == [ALL]:
        return ALL, None
    numbers_by_name = read_classes(root / "SegmentationClass")[0]
    if not numbers_by_name and used <= set(CLASSES):
        numbers_by_name = {name: number for number, name in enumerate(CLASSES, 1)}
    numbers, names = set(), set()
    for word in words:
        if re.fullmatch("[0-9]{1,3}", word) and 0 < int(word) < 255:
            numbers.add(int(word))
        elif word in used or word in numbers_by_name:
            names.add(word)
        else:
            known = ", ".join(sorted(used | numbers_by_name.keys()))
            raise InputError(
                f"--foreground {quoted(word)} is no class of {show_name(root)}; write numbers "
                f"from 1 to 254, or names: {known}"
            )
    if numbers_by_name:
        numbers |= {numbers_by_name[name] for name in names if name in numbers_by_name}
        names |= {name for name, number in numbers_by_name.items() if number in numbers}
        return tuple(sorted(numbers)), names
    if len(used) <= 1:  # masks and objects of one class, whatever its number is
        return tuple(sorted(numbers)) or ALL, None
    if (has_masks and not numbers) or not names:
        raise InputError(
            "--foreground: nothing tells which number in the masks is which of "
            f"{', '.join(sorted(used))}; name both, such as --foreground 1 {sorted(used)[0]}, or "
            f"put a labelmap.txt into {show_name(root)}"
        )
    return tuple(sorted(numbers)), names
