"""Any tasks beside segmentation, shared, weighted and encoded in any way: the other scripts' recipe, its parts as options.

    python train.py --tasks seg bbox                                         both weigh 1/2
    python train.py --tasks seg column:breed distance --weighting 0.8-0.1-0.1
    python train.py --tasks seg cls bbox --weighting equal --name mtl        train_mtl.py to the last bit
    python train.py --tasks seg column:breed --masks 100                     100 masks, and the breed of all images
    python train.py --tasks seg bbox --sharing cross_stitch --weighting dwa
    python train.py --tasks seg bbox --encoder efficientnet_lite0 --encoder-weights package

Tasks, sharings, weightings and encoders are files in tasks/, sharing/, weighting/ and encoders/, whose guides list them and
say how to add one; column:NAME is any column of index.csv. The first task chooses the epoch: by its first metric on the
validation split.
"""

import re

import cli
import registry
from cli import InputError
from study.table import default_name
from training.options import make_parser


def name(text):
    """An argparse type: an experiment's name, which is a folder's too."""
    if not re.fullmatch(r"[\w+][\w.+-]{0,99}", text):
        raise cli.argparse.ArgumentTypeError(
            f"{text[:60]!r} cannot name a folder; use letters, digits, _ + - and dots"
        )
    return text


def make_tasks(args):
    """The tasks of --tasks, which have looked at the training split."""
    from training import engine

    try:
        return registry.tasks(engine.learn(registry.tasks(args.tasks), args).values()).values()
    except ValueError as error:
        raise InputError(f"--tasks {' '.join(args.tasks)}: {error}") from None


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--tasks", nargs="+", required=True, metavar="TASK", help=", ".join(registry.names("tasks"))
    )
    parser.add_argument(
        "--weighting",
        default="equal",
        help="equal, uncertainty, a number for each task as in 0.8-0.1-0.1, "
        f"or one of weighting/: {', '.join(registry.names('weighting'))}, as in torchjd:UPGrad",
    )
    parser.add_argument("--sharing", default="hard", help=", ".join(registry.names("sharing")))
    parser.add_argument(
        "--encoder",
        default="unet",
        help="unet, efficientnet_lite0 to 2, torchvision:NAME, timm:NAME",
    )
    parser.add_argument(
        "--encoder-weights",
        default="none",
        metavar="none|hub|package|FILE",
        help="what the encoder starts "
        "from: random weights, those that its library downloads or a package brings, a state dict",
    )
    parser.add_argument(
        "--encoder-lr",
        type=cli.positive_float,
        help="highest learning rate of the encoder; default: --lr",
    )
    parser.add_argument(
        "--encoder-bn",
        choices=("train", "keep"),
        default="train",
        help="keep: the encoder's batch normalisation goes on with the statistics of its trained weights",
    )
    parser.add_argument(
        "--name", type=name, help="of the experiment; default: made from the options"
    )
    return parser.parse_args(argv)


def main(args):
    from models import MTLNet  # here, as PyTorch takes a while to import, and --help does without
    from training import engine
    from utils import make_criterion

    args.name = args.name or default_name(args)
    if args.encoder_bn == "keep" and args.encoder_weights == "none" and not args.init:
        raise InputError(
            "--encoder-bn keep is for trained weights, and random ones have no statistics to keep; name some "
            "with --encoder-weights or --init, or leave it out"
        )
    tasks = make_tasks(args)
    try:
        model = MTLNet(tasks, args.width, args.seed, args.sharing, args.encoder)
    except ValueError as error:
        raise InputError(f"--tasks {' '.join(args.tasks)}: {error}") from None
    model.load_encoder(args.encoder_weights)
    model.keeps_statistics = args.encoder_bn == "keep"
    criterion = make_criterion(args.weighting, tasks)
    engine.run(args.name, model, criterion, args)


if __name__ == "__main__":
    cli.run(main, parse_args())
