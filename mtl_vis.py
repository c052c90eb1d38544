"""Figures: what a network sees in test images, or in photographs of your own.

    python mtl_vis.py                         four test images -> mask.png
    python mtl_vis.py cat.jpg holiday.webp    custom photographs, any size and format
    python mtl_vis.py --checkpoint runs/baseline/seed0/best.pt --data datasets/synthetic
    python mtl_vis.py --gallery runs/mtl/seed0 --out gallery.png    best, median, worst

Green is the mask, yellow the head box: dashed for a target. The exit status is 1 if a photograph
could not be read, after the others are drawn.
"""

import sys
from pathlib import Path

import cli
from cli import InputError

MAX_PHOTOGRAPHS = 200  # in one figure


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="photographs; default: test images")
    add("--checkpoint", type=Path, help="default: mtl_model.pt, or the newest mtl run's best.pt")
    add("--gallery", type=Path, metavar="RUN", help="run folder: best, median, worst test images")
    add(
        "--data",
        type=Path,
        default=Path("datasets/data_new"),
        help="data folder of the test images",
    )
    add("--out", type=Path, default=Path("mask.png"), help="figure to write, e.g. mask.png")
    add("--n", type=cli.integer(1, 100), help="number of test images (4), or of each kind (1)")
    add("--force", action="store_true", help="replace a file that was not drawn by mtl_vis.py")
    args = parser.parse_args(argv)
    if args.gallery and (args.images or args.checkpoint):
        parser.error(
            "--gallery takes a run's own images and network; leave IMAGE and --checkpoint out"
        )
    if len(args.images) > MAX_PHOTOGRAPHS:
        parser.error(f"{len(args.images)} photographs are too many; name at most {MAX_PHOTOGRAPHS}")
    return args


def main(args):
    from data.photographs import show_name  # here, because --help does without PyTorch
    from inference import view

    for image in args.images:
        if image.exists() and args.out.exists() and image.samefile(args.out):
            raise InputError(f"--out {show_name(args.out)} is a photograph to read; choose another")
    view.refuse_figure(args.out, args.force)
    unread = 0
    if args.gallery:
        pictures, path = view.of_run(args.gallery, args.data, args.n or 1)
    elif args.images:
        pictures, path, unread = view.of_photographs(args.images, args.checkpoint)
    else:
        pictures, path = view.of_test_images(args.data, args.checkpoint, args.n or 4)
    view.draw_pictures(pictures, args.out)
    for picture in pictures:
        print(f"{show_name(picture.name)}: {view.describe(picture)}")
    print(f"{show_name(args.out)} drawn with {show_name(path)}")
    if unread:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, parse_args())
