"""Training steps in several processes, and beside neighbours that want the cores for themselves: for bench_train.py and
bench_scaling.py."""

import contextlib
import statistics
import subprocess
import sys
import time

import common  # noqa: F401  (the way to the project's modules)
import torch
from torch.nn.utils import clip_grads_with_norm_

from models import MTLNet
from training import convolution, distributed, engine
from training.devices import keep_memory
from training.recipe import MAX_GRADIENT_NORM
from training.step import autocast, named_parameters, step
from training.team import ALONE
from utils import EqualWeightedLoss

TASKS = ("seg", "cls", "bbox")
SECONDS = 1.5  # of a measurement, and at least one step
# Spins until the process that has started it ends, at normal priority.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(100000): pass"


def default_processes(batch_size):
    """What --processes auto is on this machine's CPU."""
    return min(torch.get_num_threads(), batch_size)


def measure(processes, batch, precision, neighbours, rounds):
    """{(way, number of neighbours): images/s}, medians of rounds in turns; way: "processes", "threads" (one process, as many
    threads as processes) or "one thread"."""
    before = torch.get_num_threads()
    try:
        with contextlib.closing(distributed.start(processes, 1)) as team:
            return team.call(in_team, batch, precision, neighbours, rounds)
    finally:
        torch.set_num_threads(before)


def in_team(team, batch, precision, neighbours, rounds):
    """What each process does: the first measures."""
    ways = {"processes": (stepper(team, batch, precision, team.size), 1)}
    for name, threads in (("threads", max(2, team.size)), ("one thread", 1)):
        ways[name] = stepper(ALONE, batch, precision, threads) if team.rank == 0 else None, threads
    found = {}
    for _ in range(rounds):
        for n in neighbours:
            with spinning(n if team.rank == 0 else 0):
                for name, (take, threads) in ways.items():
                    team.meet()
                    its_team = team if name == "processes" else ALONE
                    if its_team is team or team.rank == 0:
                        torch.set_num_threads(threads)
                        found.setdefault((name, n), []).append(
                            speed(take, its_team, len(batch["row"]))
                        )
                torch.set_num_threads(1)
                team.meet()
    return {key: statistics.median(speeds) for key, speeds in found.items()}


def speed(take, team, images):
    """images/s of a function that takes a step, after one that is not timed."""
    take()
    steps, begin, is_over = 0, time.perf_counter(), False
    while not is_over:
        take()
        steps += 1
        # All stop together, when the first says so.
        is_over = bool(team.exchange(torch.tensor([time.perf_counter() - begin > SECONDS]))[0])
    return steps * images / (time.perf_counter() - begin)


def stepper(team, batch, precision, computers):
    """A function that trains the default network for a step as train_mtl.py does, on this process's part of a batch. computers: threads
    of all processes together."""
    keep_memory()
    model, criterion = (
        engine.to_device(MTLNet(TASKS), torch.device("cpu")),
        EqualWeightedLoss(TASKS),
    )
    optimizer = engine.make_optimizer(model.train(), criterion, 2e-3)
    distributed.join(team, model)
    convolution.install(model, convolution.choose(None, torch.device("cpu"), precision, computers))
    update = distributed.Update(team, named_parameters(model, criterion), optimizer)
    n = len(batch["row"])
    part = {
        name: value[n * team.rank // team.size : n * (team.rank + 1) // team.size]
        for name, value in batch.items()
    }

    def take():
        optimizer.zero_grad()
        step(model, criterion, distributed.whole_batch(team, part), precision)
        clip_grads_with_norm_(update.parameters.values(), MAX_GRADIENT_NORM, update.average())
        optimizer.step()
        update.end()

    return take


@contextlib.contextmanager
def spinning(n):
    """n processes that use all the time they get, while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def peers(batch, precision_of, rounds):
    """{name: (parameters, images/s)} of segmentation networks of other libraries, where they are installed, in the same
    step: one mask, Dice and cross-entropy, AdamW, channels_last, as many threads as torch has. precision_of: their
    precision."""
    ways, found = {}, {}
    for name, make in (
        ("segmentation_models_pytorch Unet-ResNet34", lambda: smp("Unet")),
        ("segmentation_models_pytorch FPN-ResNet34", lambda: smp("FPN")),
        ("torchvision lraspp_mobilenet_v3", lraspp),
    ):
        with contextlib.suppress(ImportError):
            model = engine.to_device(make(), torch.device("cpu")).train()
            ways[name] = peer(model, batch, precision_of)
            found[name] = sum(p.numel() for p in model.parameters())
    seconds = common.interleave(ways, rounds) if ways else {}
    return {name: (found[name], len(batch["row"]) / seconds[name]) for name in ways}


def smp(kind):
    import segmentation_models_pytorch

    return getattr(segmentation_models_pytorch, kind)("resnet34", encoder_weights=None, classes=1)


def lraspp():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)


def peer(model, batch, precision):
    """A function that trains another library's network for a step."""
    criterion, parameters = EqualWeightedLoss(("seg",)), list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, 2e-3, fused=True)

    def take():
        optimizer.zero_grad()
        with autocast(torch.device("cpu"), precision):
            outputs = model(batch["image"].float() / 255)
        outputs = outputs["out"] if isinstance(outputs, dict) else outputs
        criterion.total(criterion({"seg": outputs.float()}, batch)).backward()
        optimizer.step()

    return take
