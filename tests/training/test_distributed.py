"""One run in several processes: the same as in one but for rounding; ended together, resumed exactly."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from tiny import TIMES, TINY, arguments, assert_same_weights, log, result, weights
from torch.nn import functional as F

import train_mtl
from cli import InputError
from data.order import EpochBatches
from data.shared import Shared, open_shared
from dataloader_mtl import MTLDataset, make_loader
from models import MTLNet
from registry import PUBLISHED
from training import distributed, engine, others, team
from training.step import gradient_norm, named_parameters, step
from utils import UncertaintyWeightedLoss

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the processes of a run are found in /proc"
)


# --------------------------------------------------------------------------------------------------- parts of batches


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_of_shuffled_batches_make_the_batches(parts):
    keeps = np.arange(23) % 3 == 0
    for kept in (None, keeps):
        whole = list(EpochBatches(23, 5, seed=1, keeps=kept))
        split = [
            list(EpochBatches(23, 5, seed=1, keeps=kept, part=(k, parts))) for k in range(parts)
        ]
        assert [sum(pieces, []) for pieces in zip(*split, strict=True)] == whole
        lengths = [len(piece) for pieces in zip(*split) for piece in pieces]
        assert max(lengths) - min(lengths) <= 1


def test_batches_in_order_are_dealt_whole():
    whole = list(EpochBatches(23, 5))
    split = [EpochBatches(23, 5, part=(k, 3)) for k in range(3)]
    assert [len(part) for part in split] == [2, 2, 1]
    assert list(split[0]) == [whole[0], whole[3]] and list(split[2]) == [whole[2]]


def test_shared_memory_is_seen_by_who_opens_it():
    memory = Shared(100)
    one, other = (open_shared(memory.place, (5, 4), np.int32, offset=20) for _ in range(2))
    memory.close()
    one[2, 1] = 7
    assert other[2, 1] == 7 and other.sum() == 7


def test_pictures_are_read_once_for_all_who_share_them(data, monkeypatch):
    datasets = [MTLDataset(data, "train") for _ in range(2)]
    memory = Shared(datasets[0].store.shared_bytes())
    for dataset in datasets:
        dataset.store.share(memory.place)
    memory.close()
    batch = datasets[0].__getitems__([(0, 3), (0, 5)])
    monkeypatch.setattr(
        type(datasets[1].store),
        "_read_file",
        lambda store, kind, rows: np.full((len(rows), *store._shapes()[kind][1:]), 9),
    )
    other = datasets[1].__getitems__([(0, 5), (0, 7)])
    assert torch.equal(other["image"][0], batch["image"][1]) and (other["image"][1] == 9).all()


# ------------------------------------------------------------------------------------------ three processes in one call


def together(team, data):
    """What three processes make of a batch of 7 images with missing labels, and what one makes of it; in each of them."""
    found = {"kinds": team.gather((team.rank, "text", None))}
    found["bits"] = team.exchange(torch.tensor([True, False])).tolist()
    large = torch.arange(3_000_000) + team.rank  # more than a slot holds
    found["large"] = all(
        torch.equal(part, large - team.rank + k) for k, part in enumerate(team.exchange(large))
    )

    dataset = MTLDataset(data, "train")
    batch = dataset.__getitems__([(0, row) for row in range(17, 24)])  # the last one has no box
    batch["seg"][2:6] = 255
    batch["cls"][:4] = 255
    plain, joint = (
        (MTLNet(PUBLISHED, width=2, seed=3).train(), UncertaintyWeightedLoss(PUBLISHED))
        for _ in range(2)
    )
    total, losses = step(*plain, batch, "fp32")
    distributed.join(team, joint[0])
    optimizer = engine.make_optimizer(*joint, 1e-2)
    update = distributed.Update(team, named_parameters(*joint), optimizer)
    k, size = team.rank, team.size
    part = {name: value[7 * k // size : 7 * (k + 1) // size] for name, value in batch.items()}
    same, their_losses = step(*joint, distributed.whole_batch(team, part), "fp32")
    found["losses"] = [(losses[name].item(), their_losses[name].item()) for name in losses] + [
        (total.item(), same.item())
    ]
    norm = update.average()
    found["norm"] = gradient_norm(named_parameters(*plain)).item(), norm.item()
    gradients = team.gather(
        {name: p.grad for name, p in update.parameters.items() if p.grad is not None}
    )
    theirs = {name: grad for each in gradients for name, grad in each.items()}
    found["apart"] = sum(map(len, gradients)) == len(theirs)
    found["gradients"] = max(
        (theirs[name] - p.grad).abs().max().item() / norm.item()
        for name, p in named_parameters(*plain).items()
    )
    found["statistics"] = max(
        (a - b).abs().max().item() for a, b in zip(plain[0].buffers(), joint[0].buffers())
    )
    optimizer.step()
    update.end()
    update.collect()
    values = torch.cat([p.detach().flatten() for p in joint[0].parameters()])
    found["same"] = all(torch.equal(values, other) for other in team.gather(values))
    found["remembered"] = len(optimizer.state_dict()["state"])
    distributed.align(team, joint[0])  # parameters are shared; each had counted its own statistics
    loader = make_loader(MTLDataset(data, "val"), 3, part=(team.rank, team.size))
    found["evaluation"] = engine.evaluate(joint[0], loader, joint[1], team)
    found["weights"] = {name: value.clone() for name, value in joint[0].state_dict().items()}
    update.parameters["seg.logits.bias"].grad = torch.full((4,), torch.inf)
    for p in update.trained:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    found["infinite"] = update.average().item(), sum(p.grad is not None for p in update.trained)
    return found


def both(team, data):
    return together(team, data), apart(team, data)


@pytest.fixture(scope="module")
def three(data):
    """What three processes found in one call, and their numbers, now that it is over."""
    with contextlib.closing(distributed.start(3, 1)) as started:
        return *started.call(both, data), [process.pid for process, _ in started.others]


def test_three_processes_compute_what_one_does(data, three):
    found, _, pids = three
    assert found["kinds"] == [(0, "text", None), (1, "text", None), (2, "text", None)]
    assert found["bits"] == [[True, False]] * 3 and found["large"]
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in found["losses"]), found["losses"]
    assert found["norm"][0] == pytest.approx(found["norm"][1], rel=1e-5)
    assert found["apart"] and found["gradients"] < 1e-5 and found["statistics"] < 1e-4
    assert (
        found["same"]
        and found["remembered"] == len(list(MTLNet(PUBLISHED, width=2).parameters())) + 3
    )
    model = MTLNet(PUBLISHED, width=2)
    model.load_state_dict(found["weights"])
    criterion = UncertaintyWeightedLoss(PUBLISHED)
    metrics, measured = engine.evaluate(model, make_loader(MTLDataset(data, "val"), 3), criterion)
    assert found["evaluation"][0] == metrics
    assert all(
        torch.equal(found["evaluation"][1][key].nan_to_num(9), value.nan_to_num(9))
        for key, value in measured.items()
    )
    norm, gradients = found["infinite"]
    assert (
        norm == float("inf") and gradients == found["remembered"]
    )  # whoever names what is not finite sees all
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def apart(team, data):
    """What three processes make of 7 images whose masks are known throughout, which are imitated, too, and what one makes of them."""
    dataset = MTLDataset(data, "train")
    batch = dataset.__getitems__([(0, row) for row in range(17, 24)])
    batch["cls"][:4] = 255
    batch["teacher: seg"] = torch.randn(
        batch["seg"].shape, generator=torch.Generator().manual_seed(1)
    )
    plain, joint = (
        (MTLNet(PUBLISHED, width=2, seed=3).train(), UncertaintyWeightedLoss(PUBLISHED))
        for _ in range(2)
    )
    for model, criterion in (plain, joint):
        criterion.teacher = others.Teacher(model, ("seg",), "")
    total, losses = step(*plain, batch, "fp32")
    distributed.join(team, joint[0])
    update = distributed.Update(team, named_parameters(*joint), engine.make_optimizer(*joint, 1e-2))
    part = {
        name: value[7 * team.rank // team.size : 7 * (team.rank + 1) // team.size]
        for name, value in batch.items()
    }
    given = distributed.whole_batch(team, part)
    same, their_losses = step(*joint, given, "fp32")
    norm = update.average().item()
    gradients = team.gather(
        {name: p.grad for name, p in update.parameters.items() if p.grad is not None}
    )
    gradients = {name: grad for each in gradients for name, grad in each.items()}
    return {
        "apart": team.apart,
        "lengths": {name: len(value) for name, value in given.items()},
        "losses": [(losses[name].item(), their_losses[name].item()) for name in losses]
        + [(total.item(), same.item())],
        "gradients": max(
            (gradients[name] - p.grad).abs().max().item() / norm
            for name, p in named_parameters(*plain).items()
        ),
    }


def test_losses_that_are_means_over_images_are_computed_apart(three):
    _, found, _ = three
    assert found["apart"] == {"seg"}
    assert {
        name: found["lengths"][name]
        for name in ("image", "seg", "teacher: seg", "cls", "bbox", "row")
    } == {"image": 2, "seg": 2, "teacher: seg": 2, "cls": 7, "bbox": 7, "row": 7}
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in found["losses"]), found["losses"]
    assert found["gradients"] < 1e-5


class One:
    """A team of one that exchanges."""

    rank, size, lengths, shares = 0, 1, [4], torch.ones(1, 1, 1)

    def exchange(self, tensor):
        return tensor[None]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype, off", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(
    "shape, k",
    [
        ((4, 16, 8, 8), 8),
        ((4, 24, 6, 12), 4),
        ((4, 1, 8, 8), 8),
        ((4, 2, 3, 64), 64),
        ((4, 48, 5, 7), 1),
        ((4, 200, 4, 4), 1),
        ((4, 16), 1),
    ],
)
def test_the_whole_batch_is_normalised_as_in_double_precision(shape, k, dtype, off, layout):
    rng = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=rng).mul(2).add(3).to(dtype) for _ in range(2))
    if x.ndim == 4:
        x, gradient = x.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
        rows, found = distributed.wide(x)
        assert found == (k if layout is torch.channels_last or shape[1] == 1 else 1)
        assert rows.shape == (4, k * shape[1], shape[2], shape[3] // k) or found == 1
        assert torch.equal(distributed.narrow(rows, found), x) and rows.data_ptr() == x.data_ptr()
    weight, bias = torch.rand(shape[1], generator=rng) + 0.5, torch.randn(shape[1], generator=rng)
    ours, exact = (
        [each.to(kind or each.dtype, copy=True).requires_grad_() for each in (x, weight, bias)]
        for kind in (None, torch.float64)
    )
    y, mean, var = distributed.Normalise.apply(One(), *ours, 1e-5)
    y.backward(gradient)
    wanted = F.batch_norm(exact[0], None, None, *exact[1:], training=True, eps=1e-5)
    wanted.backward(gradient.double())
    for a, b in [(y, wanted), *((a.grad, b.grad) for a, b in zip(ours, exact))]:
        assert (a - b).abs().max() < off * b.abs().max() and (
            a.stride() == b.stride() or shape[1] == 1
        )
    every = exact[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean.double(), every.mean(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(var.double(), every.var(1, correction=0), rtol=1e-3, atol=1e-3)


def refuse_in_the_second(team):
    if team.rank == 1:
        raise InputError("image 7 cannot be read; bring it back")
    while True:
        team.meet()


def test_what_goes_wrong_in_another_process_is_told_by_the_first():
    with (
        contextlib.closing(distributed.start(2, 1)) as two,
        pytest.raises(InputError, match="image 7 cannot be read"),
    ):
        two.call(refuse_in_the_second)


# --------------------------------------------------------------------------------------------------------- real runs


def start(data, runs, *more, begin=()):
    """train_mtl.py as a process of its own."""
    command = [
        *(begin or [sys.executable]),
        str(ROOT / "train_mtl.py"),
        "--data",
        str(data),
        "--runs",
        str(runs),
        *TINY,
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, status=0):
    out, errors = process.communicate()
    assert process.returncode == status, out + errors
    return out, errors


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """The run folder of a run in two processes."""
    runs = tmp_path_factory.mktemp("two")
    finish(start(data, runs, "--processes", "2", "--epochs", "6"))
    return runs / "mtl/seed0"


def test_a_run_in_two_processes_is_that_in_one_but_for_rounding(data, two, tmp_path):
    train_mtl.main(arguments(data, tmp_path, "--epochs", "6", "--processes", "1"))
    one = tmp_path / "mtl/seed0"
    rows = [(float(a["loss"]), float(b["loss"])) for a, b in zip(log(one), log(two), strict=True)]
    assert rows[0][0] == pytest.approx(rows[0][1], rel=1e-3)
    assert all(a == pytest.approx(b, rel=0.05) for a, b in rows)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    config = json.loads((two / "config.json").read_text())
    assert (config["processes"], config["threads"]) == (2, 1)
    assert weights(one).keys() == weights(two).keys()
    before, after = (
        torch.load(folder / "last.pt", weights_only=True)["optimizer"]["state"]
        for folder in (one, two)
    )
    assert before.keys() == after.keys()


def children(pid):
    """Processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_worker(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return "spawn_main" in file.read()


def interrupt(process, rows, n, whom, number):
    """Send a signal to the first or another process of a run that has logged n epochs; returns who was not the first."""
    while not rows.exists() or len(log(rows.parent)) < n:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    (other,) = (pid for pid in children(process.pid) if is_worker(pid))
    os.kill(other if whom == "another" else process.pid, number)
    return other


@linux
def test_a_run_ends_with_any_of_its_processes_and_is_resumed_exactly(data, two, tmp_path):
    rows = tmp_path / "mtl/seed0/log.csv"
    process = start(data, tmp_path, "--processes", "2", "--epochs", "6")
    interrupt(process, rows, 1, "another", signal.SIGKILL)
    _, errors = finish(process, 1)
    assert (
        len(errors.splitlines()) == 1
        and "was killed by signal 9" in errors
        and "--resume" in errors
    )
    with pytest.raises(InputError, match="begun in 2 processes and cannot be resumed in 3"):
        train_mtl.main(arguments(data, tmp_path, "--epochs", "6", "--resume", "--processes", "3"))
    process = start(data, tmp_path, "--epochs", "6", "--resume")
    other = interrupt(process, rows, 2, "first", signal.SIGTERM)
    _, errors = finish(process, 143)
    assert (
        "Traceback" not in errors and "stopped" in errors and not os.path.exists(f"/proc/{other}")
    )
    assert len(log(rows.parent)) < 6
    out, _ = finish(start(data, tmp_path, "--epochs", "6", "--resume"))
    assert "resumed after epoch" in out
    assert log(rows.parent) == log(two) and result(rows.parent) == result(two)
    for name in ("last.pt", "best.pt"):
        assert_same_weights(weights(rows.parent, name), weights(two, name))
    with pytest.raises(InputError, match="--processes was 2 and is 3"):
        train_mtl.main(arguments(data, tmp_path, "--epochs", "6", "--resume", "--processes", "3"))


def test_two_nodes_of_torchrun_make_one_run(data, two, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        start(
            data,
            tmp_path,
            "--epochs",
            "6",
            begin=[
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes",
                "2",
                "--node-rank",
                str(node),
                "--nproc-per-node",
                "1",
                "--master-addr",
                "127.0.0.1",
                "--master-port",
                str(port),
            ],
        )
        for node in range(2)
    ]
    said = [finish(node)[0] for node in nodes]
    assert "test dice" in said[0] and said[1] == ""
    folder = tmp_path / "mtl/seed0"
    assert json.loads((folder / "config.json").read_text())["processes"] == 2
    rows = [
        (float(a["loss"]), float(b["loss"])) for a, b in zip(log(folder), log(two), strict=True)
    ]
    assert rows[0][0] == pytest.approx(rows[0][1], rel=1e-4)
    assert {key for key in result(folder)} | set(TIMES) >= {key for key in result(two)}


# ------------------------------------------------------------------------------------------------- how many processes


class Args:
    def __init__(self, processes="auto", threads=None, batch_size=16):
        self.processes, self.threads, self.batch_size = processes, threads, batch_size


@pytest.mark.parametrize(
    "args, earlier, cores, device, expected",
    [
        (Args(), None, 1, "cpu", (1, None)),
        (Args(), None, 2, "cpu", (2, 1)),
        (Args(), None, 64, "cpu", (16, 4)),
        (Args(threads=1), None, 8, "cpu", (1, 1)),
        (Args(threads=4), None, 8, "cpu", (1, 4)),
        (Args(), None, 8, "cuda", (1, None)),
        (Args(2), None, 8, "cpu", (2, 4)),
        (Args(2, threads=3), None, 8, "cpu", (2, 3)),
        (Args(), 3, 1, "cpu", (3, 1)),
        (Args(), 1, 8, "cpu", (1, None)),
        (Args(batch_size=4), None, 8, "cpu", (4, 2)),
        (Args(3), 3, 8, "cpu", (3, 2)),
    ],
    ids=lambda value: str(vars(value)) if isinstance(value, Args) else str(value),
)
def test_how_many_processes_and_threads(monkeypatch, args, earlier, cores, device, expected):
    monkeypatch.setattr(distributed.torch, "get_num_threads", lambda: cores)
    assert (
        distributed.choose_processes(
            args, earlier, torch.device(device), 100, torch.nn.Identity(), None
        )
        == expected
    )


@pytest.mark.parametrize(
    "args, device, message",
    [
        (Args(17), "cpu", "more than the 16 images"),
        (Args(2), "cuda", "torchrun --nproc-per-node 2"),
        (Args(2), "mps", "for a CPU"),
    ],
)
def test_processes_that_cannot_be_are_refused(args, device, message):
    with pytest.raises(InputError, match=message):
        distributed.choose_processes(
            args, None, torch.device(device), 100, torch.nn.Identity(), None
        )


def test_normalisation_that_is_not_known_is_refused_and_auto_leaves_it_whole(monkeypatch):
    class Own(torch.nn.BatchNorm2d):
        pass

    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3), Own(3), torch.nn.BatchNorm2d(3, affine=False)
    )
    assert distributed.strange_layers(model) == ["1", "2"]
    monkeypatch.setattr(distributed.torch, "get_num_threads", lambda: 4)
    assert distributed.choose_processes(Args(), None, torch.device("cpu"), 100, model, None) == (
        1,
        None,
    )
    other = team.Alone()
    other.size = 2
    with pytest.raises(
        InputError, match="1 normalises over a batch .*2 such layers.*--processes 1"
    ):
        distributed.join(other, model)


def test_shares_are_about_even():
    sizes = [1, 100, 3, 50, 50, 2]
    shares = distributed.split_evenly(sizes, 2)
    assert sorted(sum(shares, [])) == list(range(6))
    assert abs(sum(sizes[k] for k in shares[0]) - sum(sizes[k] for k in shares[1])) <= 3
