"""Masks of photographs, one or a hundred thousand, as files: what a network sees in each, at the
photograph's own size.

    python predict.py photographs --out seen python predict.py my_cat.jpg another.webp --out seen
    --cutout --overlay --probability python predict.py photographs --out seen --coco seen.json
    for a labelling tool, in which somebody corrects it python predict.py photographs --out seen
    --tiles --mirror          slower and better: small pets, and the mirror image too

Into --out go, by sub-folders as the photographs have them:

    masks/NAME.png          0 and 255, upright cutouts/NAME.png        --cutout: RGBA, transparent
                            and black around the pet overlays/NAME.jpg       --overlay: the
                            photograph with mask and box, at most 2,048 pixels a side
                            probability/NAME.png    --probability: 0 to 255, over 127 in the mask
                            predictions.csv         a line a photograph: share of the picture,
                            class, box in pixels, and what other tasks say

NAME is the photograph's without its ending, or with it where several differ in nothing else. What
is there already is skipped, so a run that was stopped goes on where it was; --force makes all of it
anew. A photograph that cannot be read is named in a warning and in the table's last column; the
exit status is 2 only where none can be. docs/predict.md says more.
"""

from pathlib import Path

import cli
from cli import InputError
DEVICES = ("auto", "cpu", "cuda", "mps")


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="IMAGE|FOLDER",
        help="photographs, or folders of them",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where results go"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt"
    )
    parser.add_argument(
        "--cutout", action="store_true", help="write the pet alone, transparent around it"
    )
    parser.add_argument(
        "--overlay", action="store_true", help="write the photograph with what was seen in it"
    )
    parser.add_argument(
        "--probability", action="store_true", help="write how sure the network is of each pixel"
    )
    parser.add_argument(
        "--coco", type=Path, metavar="FILE", help="write the masks as a COCO file too (RLE)"
    )
    parser.add_argument(
        "--tiles", action="store_true", help="look again at overlapping tiles, for small pets"
    )
    parser.add_argument(
        "--mirror", action="store_true", help="look at the mirror image too, and take the mean"
    )
    parser.add_argument("--force", action="store_true", help="make anew what is there already")
    parser.add_argument(
        "--processes",
        type=cli.integer(1, 1024),
        help="how many photographs at once; default: one a core",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    return parser.parse_args(argv)


def main(args):
    if args.coco:
        refuse_coco(args.coco)

    from data.photographs import (
        show_name,
    )  # here, as PyTorch takes a while to import, and --help does without
    from training import checkpoint, lock, predictions
    from training.devices import choose_device

    path = checkpoint.find(args.checkpoint)
    found = predictions.list_photographs(args.sources, args.out)
    model, _ = predictions.network(path, "cpu")
    if "seg" not in model.task:
        raise InputError(
            f"{show_name(path)} has no masks to write (its tasks are {', '.join(model.task)}); mtl_vis.py draws "
            "what it has, or name a network with the task seg"
        )
    with lock.hold(args.out / "lock", args.out):
        jobs = predictions.jobs(
            predictions.recipe(path, choose_device(args.device).type, args), found, args.force
        )
        read = predictions.predict_all(
            jobs, min(args.processes or cli.usable_cores(), len(jobs)), args.coco
        )
    skipped, unread = sum(job.is_done for job in jobs), len(jobs) - read
    if not read:
        raise InputError(
            f"none of the {len(jobs)} photographs can be read ({predictions.TABLE} says why); name others"
        )
    notes = [f"{skipped} of them were there already"] * (skipped > 0) + [
        f"{unread} cannot be read"
    ] * (unread > 0)
    print(
        f"{show_name(args.out)}: {', '.join([f'{read} masks', *notes])}; drawn with {show_name(path)}"
    )


def refuse_coco(path):
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"--coco {path} is {'a folder' if path.is_dir() else 'in no folder that is there'}; name the file to write, "
            "such as predictions.json"
        )
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise InputError(
            "--coco needs pycocotools; install it with 'pip install -r requirements-coco.txt'"
        ) from None


if __name__ == "__main__":
    cli.run(main, parse_args())
