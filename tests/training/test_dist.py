"""Several processes: what they compute is what one does, they end together, and the first says
why.
"""

import contextlib
import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from tiny import TINY, assert_same_run, log, train
from torch import nn
from torch.nn import functional as F

import registry
from cli import InputError
from dataloader_mtl import MTLDataset, make_loader
from models import MTLNet
from training import dist
from training.devices import to_device
from training.evaluate import evaluate
from utils import UncertaintyWeightedLoss

PETS = ("seg", "cls", "bbox")
CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


# ---------------------------------------------------------------------- three processes in one call


def make_trainer(data):
    """A network, a criterion, a validation split and a batch of 7 images with missing labels."""
    model = MTLNet(registry.find_tasks(PETS), width=2, seed=3)
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8, generator=rng)
    batch = {
        "image": image.contiguous(memory_format=torch.channels_last),
        "seg": torch.randint(0, 2, (7, 1, 64, 64), dtype=torch.uint8, generator=rng),
        "cls": torch.tensor([255, 255, 255, 255, 1, 0, 1]),
        "bbox": torch.tensor([0.1, 0.2, 0.6, 0.9]).repeat(7, 1),
    }
    batch["seg"][2:5] = 255
    batch["bbox"][6] = torch.nan
    tasks = list(model.task.values())
    model = to_device(model, CPU).train()
    return model, UncertaintyWeightedLoss(tasks), MTLDataset(data, "val", tasks), batch


def compute(world, trainer):
    """What one process makes of its part of a step, and of what the processes exchange."""
    model, criterion, dataset, batch = trainer
    dist.sync_batchnorm(model, world)
    loader = make_loader(dataset, 3, part=(world.rank, world.size))
    metrics, measured = evaluate(model, loader, criterion, world)
    criterion.world = world
    part = slice(7 * world.rank // world.size, 7 * (world.rank + 1) // world.size)
    batch = {name: value[part] for name, value in batch.items()}
    losses = criterion(model(batch["image"]), batch)
    total = criterion.backward(losses, model)
    parameters = [*model.parameters(), *criterion.parameters()]
    for _ in range(2):  # the second time all have the mean already, in the same memory
        dist.average_gradients(parameters, world)
    gradients = torch.cat([p.grad.flatten() for p in parameters])
    return {
        "metrics": metrics,
        "measured": torch.stack(list(measured.values())).nan_to_num(9),
        "losses": world.mean(torch.stack([total, *losses.values()])).detach(),
        "gradients": gradients.clone(),
        "strides": [p.grad.stride() for p in parameters],
        "statistics": torch.cat([value.flatten() for value in model.buffers()]),
        "same": all(torch.equal(gradients, other) for other in world.gather(gradients)),
        "values": world.gather((world.rank, "text", None)),
        "first": world.broadcast(f"of {world.rank}"),
        "stacked": world.stack(torch.tensor([world.rank, 5])).tolist(),
        "summed": world.sum(torch.tensor([world.rank, 5])).tolist(),
        "large": world.stack(torch.full((30_000,), world.rank)).sum(1).tolist(),
        "large_sum": world.sum(torch.full((30_000,), world.rank)).unique().tolist(),
    }


@pytest.fixture(scope="module")
def three(data):
    return dist.launch(compute, make_trainer(data), 3, 1)


def test_three_processes_compute_what_one_does(three, data):
    one = dist.launch(compute, make_trainer(data), 1, None)
    assert three["metrics"] == one["metrics"] and three["measured"].equal(one["measured"])
    for name in ("losses", "statistics"):
        torch.testing.assert_close(three[name], one[name], rtol=1e-4, atol=1e-4)
    error = (three["gradients"] - one["gradients"]).norm() / one["gradients"].norm()
    assert error < 1e-5 and three["strides"] == one["strides"] and three["same"]


def test_what_processes_exchange(three):
    assert three["values"] == [(rank, "text", None) for rank in range(3)]
    assert three["first"] == "of 0"
    assert three["stacked"] == [[0, 5], [1, 5], [2, 5]] and three["summed"] == [3, 15]
    assert three["large"] == [0, 30_000, 60_000] and three["large_sum"] == [3]


def test_one_process_exchanges_nothing():
    tensor = torch.tensor([1.0, 2.0])
    assert dist.ALONE.sum(tensor).equal(tensor) and dist.ALONE.mean(tensor).equal(tensor)
    assert dist.ALONE.stack(tensor).equal(tensor[None])
    assert dist.ALONE.gather("a") == ["a"] and dist.ALONE.broadcast("a") == "a"


def test_gradients_are_laid_out_as_their_parameters():
    p = nn.Parameter(torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
    p.grad = gradient = torch.randn(2, 3, 4, 4)
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    dist.average_gradients([p, frozen], dist.ALONE)
    assert p.grad.stride() == p.stride() and p.grad.equal(gradient)


# ----------------------------------------------------------------------------- batch normalisation


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(
    "shape, k",
    [
        ((4, 16, 8, 8), 8),
        ((4, 2, 3, 64), 64),
        ((4, 48, 5, 7), 1),
        ((4, 200, 4, 4), 1),
        ((4, 16), 1),
    ],
)
def test_normalisation_as_in_double_precision(shape, k, dtype, tolerance, layout):
    rng = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=rng).mul(2).add(3).to(dtype) for _ in range(2))
    if x.ndim == 4:
        x, gradient = x.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
        rows, found = dist.wide(x)
        assert found == (k if layout is torch.channels_last else 1)
        assert dist.narrow(rows, found).equal(x) and rows.data_ptr() == x.data_ptr()
    weight, bias = torch.rand(shape[1], generator=rng) + 0.5, torch.randn(shape[1], generator=rng)
    inputs = [value.clone().requires_grad_() for value in (x, weight, bias)]
    exact = [value.double().requires_grad_() for value in (x, weight, bias)]
    y, mean, var, n = dist.Normalise.apply(*inputs, (dist.ALONE, 1e-5))
    y.backward(gradient)
    wanted = F.batch_norm(exact[0], None, None, *exact[1:], training=True, eps=1e-5)
    wanted.backward(gradient.double())
    pairs = [(a.grad, b.grad) for a, b in zip(inputs, exact, strict=True)]
    for a, b in [(y, wanted), *pairs]:
        assert (a - b).abs().max() < tolerance * b.abs().max() and a.stride() == b.stride()
    channels = exact[0].transpose(0, 1).flatten(1)
    assert n == channels.shape[1]
    torch.testing.assert_close(mean.double(), channels.mean(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(var.double(), channels.var(1, correction=0), rtol=1e-3, atol=1e-3)


def test_normalisation_keeps_names_statistics_and_evaluation():
    two = dist.World(0, 2)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(2)))
    plain = copy.deepcopy(model)
    dist.sync_batchnorm(model, two)
    assert [type(m) for m in (model[0], model[1][0])] == [dist.SyncBatchNorm] * 2
    assert model.state_dict().keys() == plain.state_dict().keys()
    model[0].world = dist.ALONE
    x = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        torch.testing.assert_close(model[0](x), plain[0](x), rtol=1e-5, atol=1e-5)
    for a, b in zip(model[0].buffers(), plain[0].buffers(), strict=True):
        torch.testing.assert_close(a, b)
    plain[0].load_state_dict(model[0].state_dict())
    assert torch.equal(model[0].eval()(x), plain[0].eval()(x))


@pytest.mark.parametrize(
    "layer",
    [type("Own", (nn.BatchNorm2d,), {})(3)]
    + [
        nn.BatchNorm2d(3, **{key: value})
        for key, value in (("affine", False), ("momentum", None), ("track_running_stats", False))
    ],
    ids=str,
)
def test_strange_normalisation_is_refused(layer):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    with pytest.raises(InputError, match="--processes 1"):
        dist.choose_processes(2, None, CPU, model, 16)
    assert dist.choose_processes(1, None, CPU, model, 16) == (1, None)


# ------------------------------------------------------------------------------- how many processes


@pytest.mark.parametrize(
    "asked, threads, cores, device, chosen",
    [
        (1, None, 8, "cpu", (1, None)),
        (1, 4, 8, "cuda", (1, 4)),
        (2, None, 8, "cpu", (2, 4)),
        (2, 3, 8, "cpu", (2, 3)),
        (3, None, 2, "cpu", (3, 1)),
    ],
)
def test_how_many_threads(monkeypatch, asked, threads, cores, device, chosen):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    device = torch.device(device)
    assert dist.choose_processes(asked, threads, device, nn.Identity(), 16) == chosen


@pytest.mark.parametrize("asked, device", [(17, "cpu"), (2, "cuda"), (2, "mps")])
def test_processes_that_cannot_be_are_refused(asked, device):
    with pytest.raises(InputError, match=f"--processes {asked}"):
        dist.choose_processes(asked, None, torch.device(device), nn.Identity(), 16)


# --------------------------------------------------------------------------------- ends together


def refuse(world, trainer):
    if world.rank == 1:
        raise InputError("image 7 cannot be read; bring it back")
    while True:
        world.barrier()


def test_what_another_process_refuses_is_refused_by_the_first():
    with pytest.raises(InputError, match="image 7 cannot be read; bring it back"):
        dist.launch(refuse, None, 2, 1)


SCRIPT = """
import os, sys, time
import torch
import cli
from training import dist

def work(world, folder):
    open(f"{folder}/{world.rank}-{os.getpid()}", "w").close()
    print("of", world.rank, flush=True)
    for _ in range(int(sys.argv[2])):
        time.sleep(0.01)
        world.sum(torch.ones(3))
    return world.size

def main():
    if not dist.follow(torch.device("cpu")):
        print("size", dist.launch(work, sys.argv[1], int(sys.argv[3]), 1))

if __name__ == "__main__":
    cli.run(main)
"""


def start(folder, steps, processes=2, begin=()):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [*(begin or [sys.executable]), str(script), str(folder), str(steps), str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def pids(folder, processes=2):
    """Of the processes of a script by rank, once all have begun."""
    found = []
    while len(found) < processes:
        time.sleep(0.02)
        found = sorted(tuple(map(int, p.name.split("-"))) for p in folder.glob("?-*"))
    return [pid for _, pid in found]


def started_by(pid):
    """The other processes of a run that a process has started."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended since
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def is_gone(pid):
    for _ in range(500):
        if not os.path.exists(f"/proc/{pid}"):
            return True
        time.sleep(0.02)
    return False


@linux
@pytest.mark.parametrize("rank, number, status", [(1, 9, 1), (0, 9, -9), (0, 15, 143)])
def test_processes_end_together(tmp_path, rank, number, status):
    process = start(tmp_path, 10**6)
    both = pids(tmp_path)
    os.kill(both[rank], number)
    out, errors = process.communicate()
    assert process.returncode == status and out == "of 0\n"
    assert len(errors.splitlines()) == (number != 9 or rank > 0)
    if rank == 1:
        assert f"process {both[1]}" in errors and f"signal {number}" in errors
        assert "--resume" in errors
    assert all(map(is_gone, both))


@linux
def test_a_process_that_dies_before_it_joins_ends_all(tmp_path):
    process, children = start(tmp_path, 1, processes=3), []
    while not children:
        children = started_by(process.pid)
    os.kill(children[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1 and f"process {children[0]}" in errors
    assert len(errors.splitlines()) == 1


def test_torchrun_starts_the_processes(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = start(tmp_path, 3, 1, [*torchrun, "--nproc-per-node", "2"])
    out, errors = process.communicate()
    assert process.returncode == 0 and out == "of 0\nsize 2\n", errors


@linux
@pytest.mark.slow
def test_a_run_is_resumed_exactly_whichever_process_was_killed(data, tmp_path):
    words = ["--epochs", "5", "--processes", "2"]
    whole = train("train_mtl", data, tmp_path / "whole", *words)
    folder, command = tmp_path / "killed/mtl/seed0", [sys.executable, str(ROOT / "train_mtl.py")]
    words = ["--data", str(data), "--runs", str(tmp_path / "killed"), *TINY, *words, "--resume"]
    for epochs, rank in ((1, 1), (3, 0)):
        process = subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True)
        while not (folder / "log.csv").exists() or len(log(folder)) < epochs:
            assert process.poll() is None
            time.sleep(0.01)
        both = [process.pid, *started_by(process.pid)]
        os.kill(both[rank], signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == (1 if rank else -signal.SIGKILL)
        assert not rank or "signal 9" in errors and len(errors.splitlines()) == 1
        assert all(map(is_gone, both))
    subprocess.run([*command, *words], check=True)
    assert_same_run(folder, whole)
