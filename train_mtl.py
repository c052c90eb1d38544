"""Full MTL network: segmentation with classification and head-box regression.

    python train_mtl.py [--data datasets/data_new] [--epochs 60] [--seed 0]

EXPECT
"""

import cli
import engine
from models import MTLNet
from utils import EqualWeightedLoss

TASKS = ("seg", "cls", "bbox")


def main(args):
    model = MTLNet(TASKS, width=args.width, seed=args.seed)
    criterion = EqualWeightedLoss(TASKS)
    engine.run("mtl", model, criterion, args)


if __name__ == "__main__":
    cli.run(main, engine.make_parser(__doc__).parse_args())
