"""Training on a GPU, skipped where there is none: CUDA graphs, held images, exact repeats."""

import copy

import pytest
import torch
from tiny import assert_same_run, config_of, configure, train

import registry
from data.pixels import resize_images
from dataloader_mtl import MTLDataset, Sampling
from models import MTLNet
from training import cuda_graphs, dist
from training.devices import to, to_device
from training.precision import autocast
from training.run_folder import RunFolder
from training.trainer import seed_step
from utils import EqualWeightedLoss, UncertaintyWeightedLoss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")
OPTIONS = ("--epochs", "3", "--device", "cuda")


def make(data, kind=EqualWeightedLoss, encoder="unet"):
    """A network, its criterion and three batches of eight images."""
    tasks = registry.find_tasks(("seg", "cls", "bbox"))
    model = MTLNet(tasks, 8, 0, None, registry.find("encoders", encoder))
    dataset = MTLDataset(data, "train", tasks, Sampling(augment="full"))
    dataset.hold(GPU)
    batches = []
    for epoch in range(3):
        batches.append(to(dataset.__getitems__([(epoch, row) for row in range(8)]), GPU))
    return to_device(model, GPU).train(), kind(tasks).to(GPU), batches


def graphs_of(model, criterion, *options):
    config = configure("train_mtl", "data", "runs", *options)
    return cuda_graphs.make_graphs(model, criterion, config, dist.ALONE)


def take_steps(model, forward, criterion, batches, precision):
    """Losses of some steps of plain gradient descent."""
    losses = []
    for k, batch in enumerate(batches):
        seed_step(0, (0, k), GPU)
        model.zero_grad()
        with autocast(GPU, precision):
            outputs = forward(batch["image"])
        losses.append(criterion.backward(criterion(outputs, batch), model).item())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    return losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "kind, encoder",
    [
        (EqualWeightedLoss, "unet"),
        (UncertaintyWeightedLoss, "unet"),
        (EqualWeightedLoss, "efficientnet_lite0"),
    ],
)
def test_replayed_passes_are_those_of_the_network(data, precision, kind, encoder):
    model, criterion, batches = make(data, kind, encoder)
    plain, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    graphs = graphs_of(model, criterion, "--precision", precision)
    graphs.prepare(64)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert "forward" not in vars(model) and all(p.grad is None for p in model.parameters())
    assert graphs.passes[batches[0]["image"].shape] is not model
    losses = take_steps(model, graphs, criterion, batches, precision)
    wanted = take_steps(plain, plain, criterion, batches, precision)
    assert losses == pytest.approx(wanted, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_part_of_a_batch_is_not_replayed(data):
    model, criterion, batches = make(data)
    graphs, image = graphs_of(model, criterion), batches[0]["image"]
    graphs.prepare(64)
    assert list(graphs.passes) == [image.shape]
    for name, output in model(image[:5]).items():
        torch.testing.assert_close(graphs(image[:5])[name], output)


def test_no_graphs_where_a_step_looks_into_the_network(data):
    class Twice(EqualWeightedLoss):
        def backward(self, losses, model):
            return super().backward(losses, model)

    model, criterion, _ = make(data)
    assert graphs_of(model, criterion, "--conflicts", "2") is None
    assert graphs_of(model, Twice(model.task.values())) is None
    model.record_features = True
    assert graphs_of(model, criterion) is None


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--precision", "bf16"),
        ("--ema", "0.9"),
        ("--optimizer", "muon"),
        ("--workers", "2"),
        ("--resize-schedule", "32:0.4,64:1"),
    ],
    ids=str,
)
def test_repeated_and_resumed_runs_are_the_same(data, tmp_path, monkeypatch, more):
    options = (*OPTIONS, *more)
    once = train("train_mtl", data, tmp_path / "once", *options)
    assert config_of(once)["run"]["images_on"] == ("cpu" if "--workers" in more else "cuda")
    assert_same_run(train("train_mtl", data, tmp_path / "again", *options), once)
    save, saved = RunFolder.save_last, []

    def stop(folder, state):
        saved.append(state["epoch"])
        if saved == [1, 2]:
            raise KeyboardInterrupt
        save(folder, state)

    monkeypatch.setattr(RunFolder, "save_last", stop)
    with pytest.raises(KeyboardInterrupt):
        train("train_mtl", data, tmp_path / "resumed", *options)
    assert_same_run(train("train_mtl", data, tmp_path / "resumed", *options, "--resume"), once)


def test_images_are_resized_as_on_a_cpu():
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 41, 37), dtype=torch.uint8, generator=rng)
    off = resize_images(images, 64, 20).int() - resize_images(images.cuda(), 64, 20).cpu().int()
    assert off.abs().max() <= 1  # there in floating point, rounded once
