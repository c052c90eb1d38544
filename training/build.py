"""Builds a network and its criterion by the components' names."""

import registry
from cli import InputError
from models import MTLNet
from training.setup import fit_tasks
from weighting import make_criterion


def build(config):
    """(model, criterion) of a Config; its tasks are fitted to the training split."""
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
    return model, make_criterion(config.weighting, tasks)
