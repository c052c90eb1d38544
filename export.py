"""Make a copy of a network to keep or to share, in half precision.

    python export.py runs/mtl/seed0/best.pt mtl_model.pt
    python export.py a/best.pt b/best.pt mtl_model.pt        of the mean of their weights

A mean is worth something only of networks that went on from the same one (--init): others lie in different valleys of the
loss ("Model soups", Wortsman et al. 2022). Its metrics are unknown until evaluate.py measures them.
"""

from pathlib import Path

import torch

import cli
from cli import InputError
from training import checkpoint


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("sources", type=Path, nargs="+", metavar="source", help="a run's best.pt")
    parser.add_argument("target", type=Path, help="the file to write")
    return parser.parse_args(argv)


def main(args):
    if args.target.is_dir():
        raise InputError(f"{args.target} is a folder; name the file to write last, such as {args.target / checkpoint.DEFAULT.name}")
    if args.target.with_name("config.json").exists():
        raise InputError(f"{args.target} lies in a run folder, whose files are the run's own; name the file to write last")
    weights, info = checkpoint.mean(args.sources)
    content = {"model": checkpoint.cast(weights, torch.float16), **info}
    checkpoint.save({key: content[key] for key in checkpoint.MODEL_KEYS}, args.target)
    dice = info["metrics"].get("dice")
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, {info['experiment']} seed {info['seed']}"
          + (f", validation Dice {dice:.4f}" if isinstance(dice, float) else ""))


if __name__ == "__main__":
    cli.run(main, parse_args())
