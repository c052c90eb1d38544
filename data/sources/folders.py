"""A folder of photographs and one of their masks, which have the same names: any formats, any
endings, sub-folders too."""

import re

from cli import InputError
from data.gather import gather, new_source
from data.masks import ALL, MaskFile, Rule, read_classes
from data.names import Ambiguous, Pictures, quoted, strip_suffix, walk, without_ending
from data.photographs import show_name

OF_NONE = "of no photograph"  # fate of a mask


def list_records(args):
    """What --images, --masks and --labels give, a Source. Raises InputError."""
    is_shared = args.masks and args.masks.resolve() == args.images.resolve()
    pictures = Pictures(args.images, args.masks, args.mask_suffix if is_shared else None)
    source, known = new_source(pictures), {}
    if args.masks:
        rule = make_rule(args, args.masks)
        known = read_masks(pictures, source, args, (args.masks, rule))
        source.has_border = args.trimaps
    return gather(pictures, source, known, args)


def make_rule(args, folder):
    """The Rule of the masks in a folder. Raises InputError."""
    numbers_by_name, colours = read_classes(folder)
    if [word.casefold() for word in args.foreground] == [ALL]:
        return Rule(ALL, threshold=args.threshold, colours=colours)
    numbers = []
    for word in args.foreground:
        number = numbers_by_name.get(word.casefold())
        if number is None and re.fullmatch(r"[0-9]{1,9}", word):
            number = int(word)
        if number is None:
            known = ", ".join(numbers_by_name) or "none are named by a labelmap.txt"
            raise InputError(
                f"--foreground {quoted(word)} is no class of {show_name(folder)} ({known}); write "
                "whole numbers as in the masks, such as --foreground 1 5, or all"
            )
        numbers.append(number)
    return Rule(tuple(numbers), args.trimaps, args.threshold, colours)


def read_masks(pictures, source, args, masks):
    """{photograph: {"mask": MaskFile} or the reason why it is left out}. masks: (their folder,
    their Rule)."""
    folder, rule = masks
    if not folder.is_dir():
        raise InputError(f"{show_name(folder)} is no folder; name the one with the masks")
    if folder.resolve() == pictures.folder.resolve() and not args.mask_suffix:
        raise InputError(
            f"--images and --masks are both {show_name(folder)}; put the masks into a folder of "
            "their own, with the names of their photographs, or say with --mask-suffix what "
            "their names end in"
        )
    files, _ = walk(folder)
    paths_of, without = match(pictures, files, rule, args.mask_suffix)
    if not paths_of:
        raise InputError(no_mask(pictures, folder, files))
    known = {}
    for key, paths in paths_of.items():
        if len(paths) == 1 or rule.foreground == ALL:
            known[key] = {"mask": MaskFile(tuple(paths), rule)}
            source.total += 1
            continue
        listed = ", ".join(show_name(path.relative_to(folder)) for path in paths)
        known[key] = (
            f"{len(paths)} masks have this name ({listed}); keep one of them, or join them with "
            "--foreground all"
        )
        source.fates["of photographs left out"] += 1
        source.total += 1
    source.total += len(without)
    source.fates[OF_NONE] += len(without)
    lacking = [pictures.name_of(key) for key in pictures.files if key not in known]
    for what, names in (
        ("without a mask, so unlabelled", lacking),
        ("masks without a photograph", without),
    ):
        for name in names:
            source.note(what, name)
    return known


def match(pictures, files, rule, suffix):
    """({photograph: [paths of its masks]}, names of masks that no photograph has)."""
    found, without = {}, []
    for name, path in files.items():
        text = strip_suffix(name, suffix) if suffix else without_ending(name)
        if text is None:  # a picture without the suffix is no mask
            continue
        texts = [text, re.sub(r"[_-]\d+$", "", text)] if rule.foreground == ALL else [text]
        try:
            keys = [pictures.find(one) for one in texts]
        except Ambiguous:
            keys = []
        key = next((one for one in keys if one), None)
        if key is None:
            without.append(without_ending(name))
        else:
            found.setdefault(key, []).append(path)
    return found, without


def no_mask(pictures, folder, files):
    """Why no mask of a folder is of a photograph, and the way out, in words."""
    masks = show_name(without_ending(next(iter(files)))) if files else "no picture"
    first = show_name(pictures.name_of(next(iter(pictures.files))))
    return (
        f"{show_name(folder)} holds no mask with the name of a photograph of {pictures.shown} (it "
        f"holds {masks} and the other {first}); name each like its photograph, with any ending, "
        "or say with --mask-suffix what their names end in, as _mask"
    )
