"""Full MTL network with fixed loss weights, one run for each split of the weights.

    python oeq_splits.py                           the five splits of the published study
    python oeq_splits.py --split 80-10-10 60-20-20 these, given as seg-cls-bbox

Weights are normalised to sum to one: the published 75-15-15 sums to 105. The run folder carries the
split's name as given. Each run takes as long as one of train_mtl.py, which says how long that is.
"""

import argparse

import cli
from config import Config

PUBLISHED = ("80-10-10", "75-15-15", "50-25-25", "25-25-50", "25-50-25")


def split(text):
    """An argparse type: the text of a split, checked."""
    if min(cli.percentages(text)) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} has a weight of 0; to leave a task out, use an ablation script"
        )
    return text


SPLIT = (
    ["--split"],
    {
        "nargs": "+",
        "type": split,
        "default": PUBLISHED,
        "metavar": "SEG-CLS-BBOX",
        "help": "loss weights, e.g. 80-10-10",
    },
)


def main(config, options):
    # Here, as PyTorch takes seconds to import, and --help does without.
    from recipe import Bbox, Cls, MTLNet, Seg, Trainer, WeightedLoss

    trainers = []
    for text in options["split"]:
        tasks = [Seg(), Cls(), Bbox()]
        model = MTLNet(tasks, width=config.width, seed=config.seed)
        criterion = WeightedLoss(tasks, cli.percentages(text))
        name = f"split_{text.replace('-', '_')}"
        trainers.append(Trainer(config.replace(experiment=name), model, criterion))
    for trainer in trainers:
        with trainer.folder.lock():
            pass  # refuses all before it trains any
    for trainer in trainers:
        trainer.run()


if __name__ == "__main__":
    cli.run(main, *Config.parse(__doc__, name="split", extra=[SPLIT]))
