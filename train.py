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
import registry
from cli import InputError
from config import Config


def main(config):
    # Here, as PyTorch takes seconds to import, and --help does without.
    from models import MTLNet
    from training.setup import fit_tasks
    from training.trainer import Trainer
    from weighting import make_criterion

    if not config.experiment:
        config = config.replace(experiment=config.default_name())
    if config.encoder_bn == "keep" and config.encoder_weights == "none" and not config.init:
        raise InputError(
            "--encoder-bn keep is for pretrained weights; name some with --encoder-weights or "
            "--init, or leave it out"
        )
    tasks = registry.find_tasks(config.tasks)
    sharing = registry.find("sharing", config.sharing)
    encoder = registry.find("encoders", config.encoder)
    fit_tasks(tasks, config)
    try:
        model = MTLNet(tasks, config.width, config.seed, sharing, encoder)
    except ValueError as error:
        raise InputError(f"--tasks {' '.join(config.tasks)}: {error}") from None
    encoder.load(model.encoders(), config.encoder_weights)
    model.freeze_statistics = config.encoder_bn == "keep"
    criterion = make_criterion(config.weighting, tasks)
    Trainer(config, model, criterion).run()


if __name__ == "__main__":
    cli.run(main, Config.parse(__doc__))
