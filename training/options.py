"""The options that all training scripts have. Nothing here takes a while to import, so --help and mistakes are answered at once."""

import argparse
from pathlib import Path

import cli
from data import hard_augment_names as chances

# Beside what they choose from they would take PyTorch to import; a test holds them together.
AUGMENTATIONS = ("none", "flip", "full")  # dataloader_mtl.AUGMENTATIONS
CONVOLUTIONS = ("direct", "fast")  # convolution.WAYS
OPTIMIZERS = ("adamw", "muon")  # recipe.make_optimizer
DEVICES = ("auto", "cpu", "cuda", "mps")  # devices.choose_device


def make_parser(doc):
    """The options of every training script; `doc` is its docstring."""
    parser = cli.Parser(doc)
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/data_new"), help="the re-chunked data folder"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    parser.add_argument("--epochs", type=cli.integer(1, 10**6), default=60)
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    parser.add_argument("--lr", type=cli.positive_float, default=2e-3, help="highest learning rate")
    parser.add_argument(
        "--optimizer",
        type=optimizer,
        metavar="{adamw,muon}",
        help="muon learns more in a short time (try --lr 0.006); default: adamw",
    )
    parser.add_argument(
        "--seed", type=cli.integer(0), default=0, help="of weights, order and augmentation"
    )
    parser.add_argument(
        "--average",
        type=cli.share,
        metavar="DECAY",
        help="measure and keep a moving average of the weights, of which so much stays at each step, as 0.998",
    )
    parser.add_argument(
        "--width", type=cli.integer(1, 256), default=48, help="channels of the second stage"
    )
    parser.add_argument("--augment", choices=AUGMENTATIONS, default="full")
    parser.add_argument(
        "--scenes",
        type=scenes,
        metavar="NAME[:TIMES]+NAME",
        help=f"photographs as people take them, made of the training images: some of {', '.join(chances.USUAL)}, or all; "
        "all:0.5 half as often",
    )
    parser.add_argument(
        "--sides",
        type=sides,
        metavar="PX:SHARE,...",
        help="of the training images, each until a share of the epochs, as "
        "192:0.5,256:1; default: half the data's size until 0.6, three quarters until 0.8",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of training; auto times a step in both and takes the faster",
    )
    parser.add_argument(
        "--convolution",
        choices=CONVOLUTIONS,
        help="of 3 x 3: direct, or with fewer multiplications, on a CPU; default: as it is faster here",
    )
    parser.add_argument(
        "--processes",
        type=cli.integer(1, 1024, also="auto"),
        default="auto",
        metavar="P",
        help="that share each batch; auto: on a CPU one a core, unless --threads is given",
    )
    parser.add_argument(
        "--threads",
        type=cli.integer(1, 1024),
        help="that compute in each process; default: one a core altogether",
    )
    parser.add_argument(
        "--workers",
        type=cli.integer(0, 64),
        default=0,
        help="processes that read and augment, for each process",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="CHECKPOINT",
        help="start from a trained network's weights, in every part that both have; default: random ones",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="CHECKPOINT",
        help="a trained network that the segmentation imitates on every training image, with half of its loss",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run, or begin it")
    parser.add_argument(
        "--limit", type=cli.integer(1), help="use the first so many images of each split"
    )
    parser.add_argument(
        "--conflicts",
        type=cli.integer(1),
        nargs="?",
        const=16,
        metavar="K",
        help="log how far the tasks' gradients agree in the shared encoder, on every K-th batch; 16 where it is "
        "not said",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write what log.csv gets, and pictures, for TensorBoard as well",
    )
    parser.add_argument(
        "--masks",
        type=cli.integer(1),
        help="use the masks of so many training images, and all other labels of all",
    )
    return parser


def scenes(text):
    """An argparse type: what data/chances.py can read."""
    try:
        return chances.canonical(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def optimizer(text):
    """An argparse type: None for adamw, which runs of earlier versions had without a name, else the name."""
    if text not in OPTIMIZERS:
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text!r} (choose from {', '.join(OPTIMIZERS)})"
        )
    return None if text == "adamw" else text


def pairs_of(text):
    """[(side, share)] of what --sides says. Raises ValueError for other words."""
    return [
        (int(side), float(share)) for side, share in (part.split(":") for part in text.split(","))
    ]


def sides(text):
    """An argparse type: sides in pixels until shares of the epochs, both rising, the last until 1: "128:0.5,256:1" -> the same text."""
    try:
        found = pairs_of(text)
    except ValueError:
        found = []
    shares = [share for _, share in found]
    if (
        not shares
        or shares != sorted(set(shares))
        or not shares[0] > 0
        or shares[-1] != 1
        or any(side < 32 for side, _ in found)
        or any(side % 32 for side, _ in found[:-1])
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not as 128:0.5,256:1 - multiples of 32 px, but for the last, which is the data's; "
            "shares that rise to 1"
        )
    return text
