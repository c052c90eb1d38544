"""Training on a GPU; skipped where there is none. Recorded passes, pictures held there, exact repeats and resume."""

import copy
import json

import pytest
import torch
from test_dataloader import assert_equal
from tiny import assert_same_weights, log, result, weights

import registry
import train_mtl
from data.pixels import resize_images
from dataloader_mtl import MTLDataset
from models import MTLNet
from training import engine, replay
from training.step import seed_step, step
from training.team import ALONE
from utils import EqualWeightedLoss, make_criterion

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
PETS = ("seg", "cls", "bbox")


def arguments(data, runs, *more):
    return engine.make_parser("").parse_args(
        [
            "--data",
            str(data),
            "--runs",
            str(runs),
            "--epochs",
            "3",
            "--batch-size",
            "8",
            "--width",
            "4",
            "--device",
            "cuda",
            "--precision",
            "fp32",
            *more,
        ]
    )


def network(spec="equal", encoder="unet"):
    tasks = registry.tasks(PETS).values()
    model = (
        MTLNet(tasks, 8, 0, "hard", encoder).to("cuda", memory_format=torch.channels_last).train()
    )
    return model, make_criterion(spec, tasks).to("cuda")


def batches_of(data, n=3, size=8):
    dataset = MTLDataset(data, "train", 0, "full", tasks=PETS)
    dataset.hold(torch.device("cuda"))
    return [
        {
            key: value.to("cuda")
            for key, value in dataset.__getitems__([(epoch, row) for row in range(size)]).items()
        }
        for epoch in range(n)
    ]


def steps(model, criterion, batches, precision, recorded):
    """Losses of some steps of plain gradient descent."""
    losses = []
    for k, batch in enumerate(batches):
        seed_step(0, 0, k, torch.device("cuda"))
        model.zero_grad()
        total, _ = step(model, criterion, batch, precision, recorded=recorded)
        losses.append(total.item())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    return losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "spec, encoder", [("equal", "unet"), ("uncertainty", "unet"), ("equal", "efficientnet_lite0")]
)
def test_recorded_passes_are_those_of_the_network(data, precision, spec, encoder):
    torch.backends.cudnn.deterministic = True
    model, criterion = network(spec, encoder)
    twin = copy.deepcopy(model)
    given = batches_of(data)
    recorded = replay.recorder(model, criterion, arguments(data, "runs"), precision, ALONE)
    before = copy.deepcopy(model.state_dict())
    recorded.prepare(64)
    assert_same_weights(before, model.state_dict())
    assert "forward" not in vars(model) and all(p.grad is None for p in model.parameters())
    assert steps(model, criterion, given, precision, recorded) == pytest.approx(
        steps(twin, criterion, given, precision, None), rel=1e-5
    )
    assert recorded.passes[given[0]["image"].shape] is not model
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_part_of_a_batch_and_evaluation_are_computed_as_ever(data):
    model, criterion = network()
    recorded = replay.recorder(model, criterion, arguments(data, "runs"), "fp32", ALONE)
    image = batches_of(data, 1)[0]["image"]
    recorded.prepare(64)
    assert list(recorded.passes) == [image.shape]
    expected = model(image[:5])
    assert_equal([recorded(image[:5])], [expected])
    model.eval()
    with torch.no_grad():
        assert_equal([model(image)], [copy.deepcopy(model)(image)])


def test_not_recorded_where_a_step_looks_into_the_network(data):
    model, criterion = network()
    assert (
        replay.recorder(
            model, criterion, arguments(data, "runs", "--conflicts", "2"), "fp32", ALONE
        )
        is None
    )

    class Twice(EqualWeightedLoss):
        def backward(self, losses, model):
            return super().backward(losses, model)

    assert (
        replay.recorder(model, Twice(model.task.values()), arguments(data, "runs"), "fp32", ALONE)
        is None
    )


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--precision", "bf16"),
        ("--average", "0.9"),
        ("--optimizer", "muon"),
        ("--workers", "2"),
        ("--sides", "32:0.4,64:1"),
    ],
)
def test_repeats_and_resumed_runs_are_the_same_bit_for_bit(
    data, tmp_path, monkeypatch, more, no_pictures
):
    for name in ("once", "again"):
        train_mtl.main(arguments(data, tmp_path / name, *more))
    evaluate, asked = engine.evaluate, []

    def stop_in_epoch_2(*args, **kwargs):
        asked.append(args)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(engine, "evaluate", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        train_mtl.main(arguments(data, tmp_path / "resumed", *more))
    monkeypatch.setattr(engine, "evaluate", evaluate)
    train_mtl.main(arguments(data, tmp_path / "resumed", "--resume", *more))
    once, *others = (tmp_path / name / "mtl" / "seed0" for name in ("once", "again", "resumed"))
    for folder in others:
        assert_same_weights(weights(once), weights(folder))
        assert log(once) == log(folder) and result(once) == result(folder)
    held = json.loads((once / "config.json").read_text())["images_on"]
    assert held == ("cpu" if "--workers" in more else "cuda")


@pytest.mark.parametrize("began, went_on", [((), ("--workers", "2")), (("--workers", "2"), ())])
def test_a_resumed_run_goes_on_where_its_images_were(
    data, tmp_path, monkeypatch, began, went_on, no_pictures
):
    train_mtl.main(arguments(data, tmp_path / "once", *began))
    finish = engine.finish

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        train_mtl.main(arguments(data, tmp_path / "again", *began))
    monkeypatch.setattr(engine, "finish", finish)
    (tmp_path / "again/mtl/seed0/last.pt").unlink()  # the epoch before is repeated
    train_mtl.main(arguments(data, tmp_path / "again", "--resume", *went_on))
    once, again = (tmp_path / name / "mtl/seed0" for name in ("once", "again"))
    assert_same_weights(weights(once), weights(again))
    assert log(once) == log(again)


def test_images_are_resized_as_on_a_cpu():
    images = torch.randint(
        0, 256, (4, 3, 41, 37), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    off = resize_images(images, 64, 20).int() - resize_images(images.cuda(), 64, 20).cpu().int()
    assert off.abs().max() <= 1  # there in floating point, rounded once
