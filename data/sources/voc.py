"""A folder in the layout of PASCAL VOC, as labelling tools write it too.

    JPEGImages/NAME.jpg           photographs, of any of Pillow's formats
    SegmentationClass/NAME.png    masks of class numbers, 0 background and 255 unlabelled; of some photographs, or missing
    Annotations/NAME.xml          boxes of the objects; of some photographs, or missing

Every class is foreground, or those of --foreground: numbers, or names of VOC's own list. A photograph with one object of
these gets its box.
"""

from dataclasses import dataclass

from cli import InputError
from data.masks import MaskFile
from data.photographs import show_name
from data.sample import box_of, read_xml
from data.sources.folders import find_masks, gather
from data.sources.oxford import files_by_name, shown
from data.sources.pictures import Picture, Pictures, shown_cell

CLASSES = (
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
)  # 1 to 20
ALL = tuple(range(1, 255))


@dataclass(frozen=True, kw_only=True)
class Annotated(Picture):
    """A photograph with a file of boxes; names: of the objects that count, None for all."""

    box_paths: tuple = ()
    names: tuple | None = None

    def read_box(self):
        if not self.box_paths:
            return None
        tree = read_xml(self.box_paths)
        objects = [
            one
            for one in tree.iterfind("object")
            if self.names is None or (one.findtext("name") or "").strip() in self.names
        ]
        return box_of(tree, objects[0].find("bndbox")) if len(objects) == 1 else None


def list_samples(args):
    """What --voc gives, a Source. Raises InputError."""
    root = args.voc
    if not (root / "JPEGImages").is_dir():
        raise InputError(
            f"{show_name(root)} has no folder JPEGImages; --voc takes a folder in the layout of PASCAL VOC, "
            "such as VOCdevkit/VOC2012"
        )
    numbers = tuple(map(number_of, args.foreground))
    pictures = Pictures(root / "JPEGImages")
    masks = find_masks(
        pictures, root / "SegmentationClass" if (root / "SegmentationClass").is_dir() else None
    )
    boxes, _ = files_by_name(root / "Annotations", lambda name: name.lower().endswith(".xml"))
    if not masks and not boxes.keys() & pictures.found.keys():
        raise InputError(
            f"{show_name(root)} has neither SegmentationClass nor Annotations for its photographs; for those "
            "alone use --images"
        )
    names = (
        tuple(CLASSES[number - 1] for number in numbers if number <= len(CLASSES))
        if numbers
        else None
    )

    def make(key):
        files = masks.get(key, ())
        if len(files) > 1:
            return f"{len(files)} masks have this name ({shown(files)}); keep one of them"
        mask = MaskFile(files[0], numbers or ALL) if files else None
        return Annotated, {"mask": mask, "box_paths": tuple(boxes.get(key, ())), "names": names}

    return gather(pictures, make, args, has_boxes=bool(boxes))


def number_of(text):
    """The class that a word of --foreground means."""
    if text.lower() in CLASSES:
        return CLASSES.index(text.lower()) + 1
    if text.isascii() and text.isdigit() and int(text) in ALL:
        return int(text)
    raise InputError(
        f"--foreground {shown_cell(text)} is no class of PASCAL VOC; write numbers from 1 to {ALL[-1]}, or "
        f"names: {', '.join(CLASSES)}"
    )
