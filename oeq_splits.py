"""Full MTL network with fixed loss weights, one run for each split of the weights.

    python oeq_splits.py                           the five splits of the published study, one after another
    python oeq_splits.py --split 80-10-10 60-20-20 these, given as seg-cls-bbox

Weights are normalised to sum to one: the published 75-15-15 sums to 105. The run folder carries the split's name as given.

Each run takes as long as one of train_mtl.py, which says how long that is.
"""

import cli
from training.options import make_parser

TASKS = ("seg", "cls", "bbox")
PUBLISHED = ("80-10-10", "75-15-15", "50-25-25", "25-25-50", "25-50-25")


def split(text):
    """An argparse type: the text of a split, checked."""
    if min(cli.percentages(text)) <= 0:
        raise cli.argparse.ArgumentTypeError(
            f"{text!r} has a weight of 0; to leave a task out, use an ablation script"
        )
    return text


def main(args):
    from models import MTLNet  # here, as PyTorch takes a while to import, and --help does without
    from training import engine
    from utils import WeightedLoss

    experiments = {f"split_{text.replace('-', '_')}": text for text in args.split}
    for experiment in experiments:
        with engine.open_folder(experiment, args).held():
            pass  # refuses all before it trains any
    for experiment, text in experiments.items():
        args.split = text
        model = MTLNet(TASKS, width=args.width, seed=args.seed)
        criterion = WeightedLoss(TASKS, cli.percentages(text))
        engine.run(experiment, model, criterion, args)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument(
        "--split",
        nargs="+",
        type=split,
        default=PUBLISHED,
        metavar="SEG-CLS-BBOX",
        help="loss weights",
    )
    cli.run(main, parser.parse_args())
