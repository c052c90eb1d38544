"""Pictures: what a network sees in test images, or in photographs of your own.

    python mtl_vis.py                         four test images with target and prediction -> mask.png
    python mtl_vis.py cat.jpg holiday.webp    photographs of your own, of any size and any of Pillow's formats
    python mtl_vis.py --checkpoint runs/baseline/seed0/best.pt --data datasets/synthetic --out baseline.png
    python mtl_vis.py --gallery runs/mtl/seed0 --out gallery.png    its best, median and worst test images

Green is the mask, yellow the head box: dashed where it is the target; tasks of your own look as their files say. A photograph
that cannot be read is named in a warning and the others are drawn; the exit status is 2 only where none can be.
"""

import csv
import math
from pathlib import Path

import numpy as np
import torch

import cli
from cli import InputError
from data import photographs
from dataloader_mtl import MTLDataset
from training import checkpoint, pictures
from training.pictures import MAX_SIDE, Picture

MOST_PHOTOGRAPHS = 200  # in one figure


def gallery(run, data, n):
    """The n best, n median and n worst test images of a finished run, by test_per_image.csv, as its best.pt sees them.

    run: the run folder; data: the data folder that it was tested on. Returns (pictures, best first, and the checkpoint's
    path). Raises cli.InputError where run and data do not belong together.
    """
    path = run / "best.pt"
    model, info = checkpoint.load_model(path)
    names, dice = read_test_dice(run / "test_per_image.csv")
    dataset = MTLDataset(data, "test", limit=len(names), tasks=model.task.values())
    if dataset.summary["split_hash"] != info["split_hash"] or dataset.names != names:
        raise InputError(f"{run} was tested on other images than those of {data} (split hash {info['split_hash']} against "
                         f"{dataset.summary['split_hash']}); name its data folder with --data")
    order = sorted((row for row in range(len(names)) if not math.isnan(dice[row])), key=lambda row: (-dice[row], row))
    n = max(1, min(n, len(order) // 3))  # no image twice, as far as there are enough
    middle = (len(order) - n) // 2
    kinds = {"best": order[:n], "median": order[middle:middle + n], "worst": order[-n:]}
    drawn = pictures.pictures_of_dataset(model, dataset, [row for rows in kinds.values() for row in rows])
    for picture, kind in zip(drawn, [kind for kind, rows in kinds.items() for _ in rows]):
        picture.name = f"{kind}: {picture.name}"
    return drawn, path


def read_test_dice(path):
    """Names and Dice of a run's test images, NaN where one has no mask."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["name"], float(row["dice"] or "nan")) for row in csv.DictReader(file)]
        names, dice = map(list, zip(*rows))
        if all(map(math.isnan, dice)):
            raise ValueError
    except FileNotFoundError:
        raise InputError(f"there is no {path}: the run is not finished, or it is no run folder; run its script with "
                         "--resume or name another") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path} is damaged or empty; test the run again or name another") from None
    return names, dice


def picture_of_photograph(model, path, size, side):
    """The picture of a photograph, reduced to `side` pixels, as a network of images of `size` pixels sees it. Raises
    cli.InputError."""
    name = photographs.show_name(path)
    try:
        photograph = photographs.read(path)
    except FileNotFoundError:
        raise InputError(f"there is no photograph {name}") from None
    except photographs.Unreadable as reason:
        raise InputError(f"{name} cannot be read: {reason}") from None
    image = photograph.image
    pixels = to_tensor(image)
    image.thumbnail((side, side))
    shown = to_tensor(image)
    predicted = pictures.predict(model, pixels, size, shown.shape[-2:])
    return Picture(photographs.show_name(path.name), shown, model.task, predicted, frame=photograph.size[::-1])


def to_tensor(image):
    """A PIL image in RGB as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="photographs; default: test images")
    parser.add_argument("--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt")
    parser.add_argument("--gallery", type=Path, metavar="RUN", help="a run folder: its best, median and worst test images")
    parser.add_argument("--data", type=Path, default=Path("datasets/data_new"), help="the data folder of the test images")
    parser.add_argument("--out", type=Path, default=Path("mask.png"), help="the picture to write")
    parser.add_argument("--n", type=cli.integer(1, 100), help="how many test images (4), or of each kind in a gallery (1)")
    args = parser.parse_args(argv)
    if args.gallery and (args.images or args.checkpoint):
        parser.error("--gallery draws a run's own test images with its own network; leave photographs and --checkpoint out")
    if len(args.images) > MOST_PHOTOGRAPHS:
        parser.error(f"{len(args.images)} photographs are too many for one picture; name at most {MOST_PHOTOGRAPHS}")
    return args


def main(args):
    if args.gallery:
        drawn, path = gallery(args.gallery, args.data, args.n or 1)
    else:
        drawn, path = choose_pictures(args)
    pictures.draw_pictures(drawn, args.out)
    for picture in drawn:
        print(f"{photographs.show_name(picture.name)}: {pictures.describe(picture)}")
    print(f"{photographs.show_name(args.out)} drawn with {photographs.show_name(path)}")


def choose_pictures(args):
    """Pictures of own photographs or the first test images, and the checkpoint that made them."""
    path = checkpoint.find(args.checkpoint)
    model, info = checkpoint.load_model(path)
    if args.images:
        return pictures_of_photographs(model, args.images, info["size"]), path
    dataset = MTLDataset(args.data, "test", tasks=model.task.values())
    if dataset.size != info["size"]:
        cli.warn(f"the network was trained on images of {info['size']} px, and those of {args.data} are of {dataset.size} px, "
                 "where it is mostly worse")
    return pictures.pictures_of_dataset(model, dataset, args.n or 4), path


def pictures_of_photographs(model, paths, size):
    """Pictures of those photographs that can be read; warns of the others. Raises cli.InputError where none can be."""
    side = MAX_SIDE if len(paths) == 1 else MAX_SIDE // 2  # of several, a panel shows still less
    drawn, reasons = [], []
    for path in paths:
        try:
            drawn.append(picture_of_photograph(model, path, size, side))
        except InputError as reason:
            reasons.append(reason)
    if not drawn and len(paths) == 1:
        raise reasons[0]
    for reason in reasons:
        cli.warn(reason)
    if not drawn:
        raise InputError(f"none of the {len(paths)} photographs can be read; name others")
    return drawn


if __name__ == "__main__":
    cli.run(main, parse_args())
