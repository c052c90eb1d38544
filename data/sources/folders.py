"""A folder of photographs and one of their masks, which have the same names: any formats, any endings, sub-folders too."""

import cli
from cli import InputError
from data.masks import MaskFile
from data.photographs import show_name
from data.sources.labels import Labels
from data.sources.oxford import shown
from data.sources.pictures import Picture, Pictures, below


def list_samples(args):
    """What --images, --masks and --labels give, a Source. Raises InputError."""
    pictures = Pictures(args.images, args.masks)
    masks, foreground = find_masks(pictures, args.masks), tuple(map(int, args.foreground))

    def make(key):
        files = masks.get(key, ())
        if len(files) > 1:
            return f"{len(files)} masks have this name ({shown(files)}); keep one of them"
        return Picture, {"mask": MaskFile(files[0], foreground, args.trimaps) if files else None}

    source = gather(pictures, make, args)
    source.has_border = args.trimaps
    return source


def find_masks(pictures, folder):
    """{name: [paths]} of the masks in a folder, or {} without one. Raises InputError where none is of a picture."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise InputError(f"{show_name(folder)} is no folder; name the one with the masks")
    if folder.resolve() == pictures.folder.resolve():
        raise InputError(
            f"--images and --masks are both {show_name(folder)}; put the masks into a folder of their own, "
            "with the names of their photographs"
        )
    masks, _ = below(folder)
    if not masks.keys() & pictures.found.keys():
        example = (
            f"it holds {show_name(next(iter(masks)))} and the other"
            if masks
            else "it holds no picture, and the other"
        )
        raise InputError(
            f"{show_name(folder)} holds no mask with the name of a photograph of {show_name(pictures.folder)} "
            f"({example} {show_name(next(iter(pictures.found)))}); name each like its photograph, with any "
            "ending"
        )
    for what, names in (
        ("without a mask, so unlabelled", pictures.found.keys() - masks.keys()),
        ("masks without a photograph", masks.keys() - pictures.found.keys()),
    ):
        if names:
            shown_names = [show_name(name) for name in sorted(names)]
            pictures.source.remarks.append(f"{what}: {len(names)} ({cli.listed(shown_names)})")
    return masks


def gather(pictures, make, args, has_boxes=False):
    """The Source of pictures, with the labels and the split that the arguments ask for; used by all sources of one's own.

    has_boxes: whether the source has boxes itself, beside which a table must not have others.
    """
    labels = Labels(args.labels, pictures) if args.labels else None
    if labels and labels.has_boxes and has_boxes:
        raise InputError(
            f"{show_name(args.labels)} has boxes, and so has {show_name(args.coco or args.voc)}; take its "
            "columns xmin, ymin, xmax and ymax out"
        )
    split_of = (
        pictures.split_by_lists(args.split_files)
        if args.split_files
        else (None if args.is_shuffled else pictures.split_by_folders())
    )
    if labels:
        pictures.source.remarks += labels.remarks
    return pictures.gather(make, labels, split_of)
