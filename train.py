"""Any tasks beside segmentation, under any loss weights: the recipe of the other scripts, its parts as options.

    python train.py --tasks seg bbox                                         both weigh 1/2
    python train.py --tasks seg column:breed distance --weighting 0.8-0.1-0.1
    python train.py --tasks seg cls bbox --weighting equal --name mtl        train_mtl.py to the last bit
    python train.py --tasks seg column:breed --masks 100                     100 masks, and the breed of all images

A task is a file in tasks/ (tasks/README.md says how to add one); column:NAME is any column of index.csv. The first task
chooses the epoch: by its first metric on the validation split.
"""

import re

import cli
import registry
from cli import InputError
from training.options import make_parser


def name(text):
    """An argparse type: an experiment's name, which is a folder's too."""
    if not re.fullmatch(r"[\w+][\w.+-]{0,99}", text):
        raise cli.argparse.ArgumentTypeError(f"{text[:60]!r} cannot name a folder; use letters, digits, _ + - and dots")
    return text


def default_name(args):
    """seg_bbox, seg_column-breed_uncertainty, seg_bbox_0.8-0.2_masks100: what differs from the defaults."""
    parts = [re.sub(r"[^\w.]+", "-", task) for task in args.tasks]
    parts += [] if args.weighting == "equal" else [args.weighting]
    parts += [f"masks{args.masks}"] if args.masks else []
    return "_".join(parts)[:100]


def make_tasks(args):
    """The tasks of --tasks, which have looked at the training split."""
    from training import engine

    try:
        return registry.tasks(engine.learn(registry.tasks(args.tasks), args).values()).values()
    except ValueError as error:
        raise InputError(f"--tasks {' '.join(args.tasks)}: {error}") from None


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help=", ".join(registry.names("tasks")))
    parser.add_argument("--weighting", default="equal", help="equal, uncertainty, or a number for each task as in 0.8-0.1-0.1")
    parser.add_argument("--name", type=name, help="of the experiment; default: made from the options")
    return parser.parse_args(argv)


def main(args):
    from models import MTLNet  # here, as PyTorch takes a while to import, and --help does without
    from training import engine
    from utils import make_criterion

    args.name = args.name or default_name(args)
    tasks = make_tasks(args)
    model = MTLNet(tasks, width=args.width, seed=args.seed)
    criterion = make_criterion(args.weighting, tasks)
    engine.run(args.name, model, criterion, args)


if __name__ == "__main__":
    cli.run(main, parse_args())
