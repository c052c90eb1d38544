"""Any tasks, parameter sharing, loss weighting and backbone: the recipe as options.

    python train.py --tasks seg bbox                                         both weigh 1/2 python
    train.py --tasks seg column:breed distance --weighting 0.8-0.1-0.1 python train.py --tasks seg
    cls bbox --name mtl                          as train_mtl.py, bit-exact python train.py --tasks
    seg column:breed --num-masks 100                 100 masks, all breeds python train.py --tasks
    seg bbox --sharing cross_stitch --weighting dwa python train.py --tasks seg bbox --encoder
    efficientnet_lite0 --encoder-weights package

Components are files in tasks/, sharing/, weighting/ and encoders/, whose guides list them and say
how to add one; column:NAME is any column of index.csv. The first task chooses the checkpoint, by
its first metric on the validation split.
"""

import cli
from config import Config


def main(config):
    # Here, as PyTorch takes seconds to import, and --help does without.
    from training.build import build
    from training.trainer import Trainer

    config = config.replace(experiment=config.experiment or config.default_name())
    model, criterion = build(config)
    Trainer(config, model, criterion).run()


if __name__ == "__main__":
    cli.run(main, Config.parse(__doc__))
