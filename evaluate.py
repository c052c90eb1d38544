"""Measure any checkpoint on any prepared data, in fp32; prints one JSON object on standard output.

    python evaluate.py [--checkpoint mtl_model.pt] [--data datasets/data_new] [--split test]
    python evaluate.py --data datasets/official --unseen --out results/network/official

The figures do not depend on the batch size; what the split cannot measure is null. Beside each
stands its 95% interval over images, as "dice_interval": exact (Clopper and Pearson) for an
accuracy, else a bootstrap. A warning says how many images of the split the network was trained on;
--unseen leaves them and their near-duplicates out. --out also writes NAME.json and
NAME_per_image.csv.

A network measured at another image size than its own is mostly worse. With --resize it works at its
own size, and its logits, brought back to the data's size, are compared with the masks as stored.
"""

import argparse
from pathlib import Path

import cli

SPLITS = ("train", "val", "test")


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/data_new"), help="re-chunked data folder"
    )
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    parser.add_argument(
        "--resize", action="store_true", help="work at the network's own image size"
    )
    parser.add_argument(
        "--hflip", action="store_true", help="test-time augmentation: mean with the horizontal flip"
    )
    parser.add_argument("--mirror", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--unseen", action="store_true", help="leave out images that the network was trained on"
    )
    parser.add_argument(
        "--out", type=Path, metavar="NAME", help="write NAME.json, NAME_per_image.csv"
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="with --split val: write the checkpoint with temperatures fitted on it",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    args = parser.parse_args(argv)
    if args.mirror:
        cli.warn("--mirror is now called --hflip; the old spelling goes with the next version")
        args.hflip = True
    if args.calibrate and (args.split != "val" or args.hflip):
        parser.error(
            "--calibrate fits temperatures on the validation split: --split val, no --hflip"
        )
    return args


def main(args):
    # Here, as PyTorch takes seconds to import, and --help does without.
    from training import measure

    measure.measure(args)


if __name__ == "__main__":
    cli.run(main, parse_args())
