"""Inference on photographs, one or a hundred thousand, as files: masks, cut-outs, a table.

    python predict.py photographs --out seen
    python predict.py my_cat.jpg another.webp --out seen --cutout
    python predict.py photographs --out seen --crop --background white --format jpeg
    python predict.py photographs --out seen --coco seen.json       for a labelling tool
    python predict.py photographs --out seen --sliding-window --hflip    test-time augmentation
    python predict.py my_cat.jpg --out seen --checkpoint pets.onnx

Into --out go, by sub-folders as the photographs have them:

    masks/NAME.png          0 and 255, upright
    cutouts/NAME.png        --cutout: RGBA, soft edges; --cutout hard: the mask's
    alpha/NAME.png          --alpha: the cut-out's transparency, 0 to 255
    overlays/NAME.jpg       --overlay: the photograph with mask and box
    probability/NAME.png    --probability: 0 to 255, over 127 in the mask
    predictions.csv         a line a photograph: animals, share of the picture, class, box in pixels
    manifest.jsonl          what belongs to which photograph, network and options

Results that are there and still valid are skipped, so a stopped run goes on. The exit status is 1
if a photograph could not be read, after all others. docs/inference.md says more.
"""

import argparse
import sys
from pathlib import Path

import cli
from cli import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
OLD = {"--mirror": "--hflip", "--tiles": "--sliding-window"}
MARGIN = 0.05


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("sources", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="photographs, or folders")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder of the results")
    add(
        "--checkpoint", type=Path, help=".pt or .onnx; default: mtl_model.pt, or the newest mtl run"
    )
    add("--cutout", nargs="?", const="soft", choices=("soft", "hard"), help="cut-out, transparent")
    add("--crop", nargs="?", const=MARGIN, type=margin, metavar="MARGIN",
        help="crop cut-outs to the pet; margin of its longer side, e.g. 0.1")  # fmt: skip
    add("--background", metavar="COLOUR|blur|FILE", help="cut-outs on white, #RRGGBB, a picture")
    add("--format", choices=("png", "webp", "jpeg"), help="format of cut-outs; default: png")
    add("--alpha", action="store_true", help="write the cut-out's transparency as a grey picture")
    add("--overlay", action="store_true", help="write the photograph with mask and box")
    add("--probability", action="store_true", help="write the mask's probability")
    add("--coco", type=Path, metavar="FILE", help="write the masks as COCO annotations too (RLE)")
    add("--sliding-window", "--tiles", action="store_true",
        help="test-time augmentation: windows of half the side, for small pets")  # fmt: skip
    add("--hflip", "--mirror", action="store_true",
        help="test-time augmentation: mean with the horizontal flip")  # fmt: skip
    add("--force", action="store_true", help="replace results that are there")
    add("--processes", type=cli.integer(1, 1024), help="photographs at once; default: one a core")
    add("--device", choices=DEVICES, default="auto")
    args = parser.parse_args(argv)
    for word in sys.argv[1:] if argv is None else argv:
        if word in OLD:
            cli.warn(
                f"{word} is now called {OLD[word]}; the old spelling goes with the next version"
            )
    args.format = args.format or "png"
    shaped = args.crop is not None or args.background or args.format != "png"
    args.cutout = args.cutout or ("soft" if shaped else None)
    if args.format == "jpeg" and not args.background:
        parser.error("a JPEG has no transparency; add --background white, or use --format png")
    return args


def margin(text):
    """An argparse type: a number from 0 to 10."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10")
    return value


def main(args):
    import files
    from data.photographs import show_name  # here, because --help does without PyTorch
    from inference import predict, tta
    from training import checkpoint
    from training.devices import choose_device

    path = checkpoint.find(args.checkpoint)
    found, passed = predict.find_photographs(args.sources, args.out)
    check_files(args, found, predict)
    model, _ = predict.load(path, "cpu")
    if tta.mask_task(model.task) is None:
        raise InputError(
            f"{show_name(path)} has no masks (its tasks are {', '.join(model.task)}); use "
            "mtl_vis.py, or name a network with the task seg"
        )
    recipe = make_recipe(args, path, choose_device(args.device).type, predict)
    with files.lock(args.out / ".lock", args.out):
        processes = args.processes or cli.usable_cores()
        counts = predict.predict_all(recipe, found, processes, args.coco)
    if not counts["done"]:
        raise InputError(
            f"none of the {len(found)} photographs can be read ({predict.TABLE} says "
            "why); name others"
        )
    notes = [f"{counts['done']} masks"]
    if counts["old"]:
        notes.append(f"{counts['old']} of them were there already")
    if counts["unread"]:
        notes.append(f"{counts['unread']} photographs without a result")
    if passed:
        names = cli.listed([show_name(name) for name in passed])
        notes.append(f"{len(passed)} files that are no pictures passed over ({names})")
    print(f"{show_name(args.out)}: {', '.join(notes)}; network {show_name(path)}")
    if counts["unread"]:
        sys.exit(1)


def make_recipe(args, path, device, predict):
    """What the options ask for."""
    made = {"masks": ""}
    if args.cutout:
        made["cutouts"] = f"{args.cutout} crop {args.crop} background {args.background}"
    for kind, wanted in (
        ("alpha", args.alpha),
        ("overlays", args.overlay),
        ("probability", args.probability),
        ("coco", args.coco),
    ):
        if wanted:
            made[kind] = args.cutout or "soft" if kind == "alpha" else ""
    return predict.Recipe(
        network=path,
        device=device,
        out=args.out,
        looks={"sliding_window": args.sliding_window, "hflip": args.hflip},
        made=made,
        cutout=args.cutout,
        crop=args.crop,
        background=args.background,
        suffix=predict.SUFFIXES[args.format],
        force=args.force,
    )


def check_files(args, found, predict):
    """Refuse a --coco or --background that cannot be."""
    from data import photographs

    if args.background and args.background != "blur" and not predict.colour_of(args.background):
        try:
            photographs.read(args.background)
        except (photographs.Unreadable, FileNotFoundError):
            raise InputError(
                f"--background {args.background} is no colour such as white or #20a080, and no "
                "picture that can be read; name another, or blur"
            ) from None
    if not args.coco:
        return
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        message = "--coco needs pycocotools; run pip install -r requirements-coco.txt"
        raise InputError(message) from None
    predict.refuse_coco(args.coco, args.out, args.force)
    if not args.coco.parent.exists():
        args.coco.parent.mkdir(parents=True)


if __name__ == "__main__":
    cli.run(main, parse_args())
