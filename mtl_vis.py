"""Pictures: what a network sees in test images, or in photographs of your own.

    python mtl_vis.py                         four test images with target and prediction ->
    mask.png python mtl_vis.py cat.jpg holiday.webp    photographs of your own, of any size and any
    of Pillow's formats python mtl_vis.py --checkpoint runs/baseline/seed0/best.pt --data
    datasets/synthetic --out baseline.png python mtl_vis.py --gallery runs/mtl/seed0 --out
    gallery.png    its best, median and worst test images

Green is the mask, yellow the head box: dashed where it is the target; tasks of your own look as
their files say. A photograph that cannot be read is named in a warning and the others are drawn;
the exit status is 2 only where none can be.
"""

from pathlib import Path

import cli

MOST_PHOTOGRAPHS = 200  # in one figure


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="photographs; default: test images"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt"
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="RUN",
        help="a run folder: its best, median and worst test images",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("datasets/data_new"),
        help="the data folder of the test images",
    )
    parser.add_argument("--out", type=Path, default=Path("mask.png"), help="the picture to write")
    parser.add_argument(
        "--n",
        type=cli.integer(1, 100),
        help="how many test images (4), or of each kind in a gallery (1)",
    )
    args = parser.parse_args(argv)
    if args.gallery and (args.images or args.checkpoint):
        parser.error(
            "--gallery draws a run's own test images with its own network; leave photographs and --checkpoint out"
        )
    if len(args.images) > MOST_PHOTOGRAPHS:
        parser.error(
            f"{len(args.images)} photographs are too many for one picture; name at most {MOST_PHOTOGRAPHS}"
        )
    return args


def main(args):
    from data import (
        photographs,
    )  # here, as PyTorch takes a while to import, and --help does without
    from training import gallery, pictures

    if args.gallery:
        drawn, path = gallery.of_run(args.gallery, args.data, args.n or 1)
    elif args.images:
        drawn, path = gallery.of_photographs(args.images, args.checkpoint)
    else:
        drawn, path = gallery.of_test_images(args.data, args.checkpoint, args.n or 4)
    pictures.draw_pictures(drawn, args.out)
    for picture in drawn:
        print(f"{photographs.show_name(picture.name)}: {pictures.describe(picture)}")
    print(f"{photographs.show_name(args.out)} drawn with {photographs.show_name(path)}")


if __name__ == "__main__":
    cli.run(main, parse_args())
