"""Training and testing on tiny budgets: what a run records, what it trains, what it refuses."""

import json
import math

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from tiny import (
    FILES,
    assert_same_weights,
    config_of,
    configure,
    files_in,
    log,
    read_csv,
    result,
    train,
    weights,
)

import oeq_splits
import registry
from cli import InputError
from dataloader_mtl import MTLDataset, make_loader
from models import MTLNet, digest
from training import checkpoint, checks, optim
from training.evaluate import evaluate
from training.trainer import Trainer, seed_step
from utils import EqualWeightedLoss, UncertaintyWeightedLoss

PUBLISHED = ("seg", "cls", "bbox")
SCRIPTS = {
    "train_mtl": PUBLISHED,
    "train_baseline": ("seg",),
    "train_ablation_cls": ("seg", "cls"),
    "train_ablation_bbox": ("seg", "bbox"),
    "oeq_uncertainty": PUBLISHED,
}
SPLITS = ("80-10-10", "75-15-15")
RESULTS = {
    *("experiment", "seed", "dice", "dice_pooled", "iou_pooled", "border_iou", "accuracy"),
    *("box_iou", "n_images", "epochs", "best_epoch", "parameters", "train_seconds"),
    *("images_per_second", "split_hash", "border", "size", "device", "precision"),
}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """{experiment: folder} of the published experiments, two epochs each."""
    place = tmp_path_factory.mktemp("runs")
    folders = {}
    for script in SCRIPTS:
        folder = train(script, data, place)
        folders[folder.parent.name] = folder
    oeq_splits.main(configure("train_mtl", data, place), {"split": SPLITS})
    for text in SPLITS:
        name = f"split_{text.replace('-', '_')}"
        folders[name] = place / name / "seed0"
    return folders


def network(names=PUBLISHED, **options):
    return MTLNet(registry.find_tasks(names), **{"width": 2, **options})


def run_own(data, runs, model, criterion, *options):
    """Train a model of one's own, as a script does; returns the folder."""
    config = configure("train_mtl", data, runs, *options).replace(experiment="own")
    Trainer(config, model, criterion).run()
    return runs / "own" / f"seed{config.seed}"


# ----------------------------------------------------------------------------------- the records


def test_every_experiment_leaves_a_complete_run_folder(runs):
    for name, folder in runs.items():
        assert {path.name for path in folder.iterdir()} == FILES
        config, test = config_of(folder), json.loads((folder / "test.json").read_text())
        assert test.keys() == RESULTS and test["experiment"] == config["experiment"] == name
        assert test["n_images"] == config["run"]["images"]["test"] == 10
        assert config["epochs"] == 2 and config["width"] == 2
        assert config["run"]["split_hash"] == test["split_hash"]
        assert (test["accuracy"] is None) == ("cls" not in config["tasks"])
        assert (test["box_iou"] is None) == ("bbox" not in config["tasks"])
        assert [row["epoch"] for row in log(folder)] == ["1", "2"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_train_their_tasks(runs, script):
    name = {"oeq_uncertainty": "uncertainty"}.get(script, script.removeprefix("train_"))
    content = checkpoint.load(runs[name] / "best.pt")
    assert tuple(content["tasks"]) == tuple(config_of(runs[name])["tasks"]) == SCRIPTS[script]
    parts = {key.partition(".")[0] for key in content["model"]}
    assert parts == {"encoder", *SCRIPTS[script]}


def test_values_per_image_give_the_metrics(runs, data):
    rows = read_csv(runs["mtl"] / "test_per_image.csv")
    test = result(runs["mtl"])
    values = {}
    for key in rows[0]:
        if key != "name":
            values[key] = [float(row[key]) for row in rows if row[key]]
    assert np.mean(values["dice"]) == pytest.approx(test["dice"])
    pixels = sum(values["predicted"]) + sum(values["target"])
    assert 2 * sum(values["intersection"]) / pixels == pytest.approx(test["dice_pooled"])
    assert np.mean(values["correct"]) == pytest.approx(test["accuracy"])
    assert np.mean(values["border_iou"]) == pytest.approx(test["border_iou"])
    assert len(values["box_iou"]) == 9  # one has no box
    assert np.mean(values["box_iou"]) == pytest.approx(test["box_iou"])
    with h5py.File(data / "test/masks.h5") as file:
        assert values["target"] == [mask.sum() for mask in file["masks"][:]]


def test_weights_of_a_split_are_logged_normalised(runs):
    row = log(runs["split_75_15_15"])[0]
    shares = [float(row[f"weight_{task}"]) for task in PUBLISHED]
    assert shares == pytest.approx([75 / 105, 15 / 105, 15 / 105])
    losses = [float(row[f"train_loss_{task}"]) for task in PUBLISHED]
    assert float(row["loss"]) == pytest.approx(np.dot(shares, losses))


def test_uncertainty_weights_move_and_differ_from_equal_weighting(runs):
    """In the published code they never reached the optimizer: its row repeats equal weighting."""
    first, last = log(runs["uncertainty"])
    assert first["weight_seg"] != last["weight_seg"]
    assert digest(weights(runs["uncertainty"])) != digest(weights(runs["mtl"]))


def test_the_checkpoint_is_the_best_validated_one(runs):
    for folder in runs.values():
        dice = [float(row["val_dice"]) for row in log(folder)]
        assert result(folder)["best_epoch"] == 1 + dice.index(max(dice))
        assert checkpoint.load(folder / "best.pt")["metrics"]["dice"] == max(dice)


def test_another_task_may_choose_the_epoch_and_less_of_an_error_is_better(rich, tmp_path):
    folder = train("train", rich, tmp_path, "--tasks", "distance", "--epochs", "3")
    errors = [float(row["val_distance_mae"]) for row in log(folder)]
    assert result(folder)["best_epoch"] == 1 + int(np.argmin(errors))
    metrics = checkpoint.load(folder / "best.pt")["metrics"]
    assert metrics["distance_mae"] == pytest.approx(min(errors))
    assert result(folder)["dice"] is None


def test_every_kind_of_task_is_in_the_records(rich, tmp_path):
    tasks = ("seg", "column:breed", "column:age", "border", "distance", "recon", "bbox")
    options = ("--tasks", *tasks, "--num-masks", "8", "--name", "own")
    folder = train("train", rich, tmp_path, *options)
    config, test = config_of(folder), result(folder)
    assert config["tasks"] == list(tasks) and config["num_masks"] == 8
    labelled = {"seg": 8, "column:breed": 18, "column:age": 20}
    labelled |= {"border": 8, "distance": 8, "recon": 24, "bbox": 23}
    assert config["run"]["labelled"] == labelled
    ages = [1 + k % 3 for k in range(24) if k % 5 != 4]
    mean, deviation = pytest.approx(np.mean(ages)), pytest.approx(np.std(ages))
    assert config["run"]["settings"] == {
        "column:breed": {"classes": ["boxer", "pug", "sphynx"]},
        "column:age": {"mean": mean, "deviation": deviation},
    }
    model, info = checkpoint.load_model(folder / "best.pt")
    assert info["settings"] == config["run"]["settings"]
    for name, task in model.task.items():
        assert all(test[metric] is not None for metric in task.metrics)
        for row in log(folder):
            assert math.isfinite(float(row[f"train_loss_{name}"]))
            assert math.isfinite(float(row[f"val_loss_{name}"]))
            assert float(row[f"weight_{name}"]) == pytest.approx(1 / 7)


def test_tasks_that_measure_the_same_are_refused(tmp_path):
    folder = write_data(tmp_path / "pets", {"train": 6, "val": 4, "test": 4})
    for split, n in (("train", 6), ("val", 4), ("test", 4)):
        rows = [f"{k},{k},{k % 2}x,{k % 3}x" for k in range(n)]
        (folder / split / "index.csv").write_text("\n".join(["row,name,a+b,a-b", *rows, ""]))
    tasks = ("--tasks", "seg", "column:a+b", "column:a-b")
    with pytest.raises(InputError, match="a_b_accuracy"):
        train("train", rechunk(folder), tmp_path / "runs", *tasks)


# --------------------------------------------------------------------------------- training itself


def test_all_configurations_see_the_same_batches(data, tmp_path, monkeypatch):
    seen, original = [], Trainer.step

    def step(trainer, batch, k):
        seen.append((batch["row"].tolist(), batch["image"].clone()))
        return original(trainer, batch, k)

    monkeypatch.setattr(Trainer, "step", step)
    for script in list(SCRIPTS)[:4]:
        train(script, data, tmp_path)
    assert len(seen) == 4 * 6
    for k, (rows, image) in enumerate(seen):
        assert rows == seen[k % 6][0] and torch.equal(image, seen[k % 6][1])


def test_a_run_of_one_step_trains(data, tmp_path):
    """Its learning rate would otherwise be that at the end of the schedule, which is zero."""
    options = ("--epochs", "1", "--limit", "12", "--batch-size", "8")
    folder = train("train_baseline", data, tmp_path, *options)
    (row,) = log(folder)
    assert float(row["lr"]) > 0
    before = network(("seg",)).state_dict()
    after = weights(folder)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == len(before)


def test_losses_are_means_over_the_batches_that_hold_a_label(tmp_path):
    """One box among 24 images, 3 batches an epoch; columns stay in place wherever it comes."""
    folder = write_data(tmp_path / "pets", {"train": 24, "val": 6, "test": 6})
    with h5py.File(folder / "train/bboxes.h5", "r+") as file:
        file["bboxes"][1:] = np.nan
    options = ("--epochs", "4", "--lr", "1e-9", "--augment", "none")
    run = train("train_mtl", rechunk(folder), tmp_path, *options)
    model = network()  # as the learning rate is nearly nothing
    batch = make_loader(MTLDataset(folder, "train", model.task.values()), 24)
    outputs = {}
    for row in log(run):
        outputs[row["epoch"]] = float(row["train_loss_bbox"])
        assert 0.5 < float(row["train_loss_bbox"]) < 2.5
        assert 0 < float(row["weight_bbox"]) < 1 and float(row["gradient_norm"]) > 0
    (batch,) = batch
    model.train()
    with torch.no_grad():
        box = model(batch["image"])["bbox"]
    loss = model.task["bbox"].loss(box, batch["bbox"])[0].item()
    assert list(outputs.values()) == pytest.approx([loss] * 4, rel=0.2)


def test_a_task_that_no_batch_of_an_epoch_teaches_has_an_empty_cell(tmp_path):
    """The last incomplete batch is left out: of 17 images one is in no batch of 16."""
    folder = write_data(tmp_path / "pets", {"train": 17, "val": 6, "test": 6})
    with h5py.File(folder / "train/bboxes.h5", "r+") as file:
        file["bboxes"][1:] = np.nan
    options = ("--epochs", "12", "--batch-size", "16")
    rows = log(train("train_mtl", rechunk(folder), tmp_path, *options))
    cells = [row["train_loss_bbox"] for row in rows]
    assert "" in cells or len(set(cells)) == 12  # the seed may be lucky
    assert all(row["train_loss_seg"] and row["val_dice"] for row in rows)


def test_numbers_of_numpy_are_seeds(data, tmp_path):
    seed = np.int64(1)
    model = network(("seg",), seed=seed)
    config = configure("train_baseline", data, tmp_path, "--epochs", "1").replace(seed=seed)
    Trainer(config, model, EqualWeightedLoss(model.task.values())).run()
    folder = train("train_baseline", data, tmp_path / "x", "--epochs", "1", "--seed", "1")
    assert config_of(tmp_path / "baseline/seed1")["seed"] == 1
    assert_same_weights(weights(tmp_path / "baseline/seed1"), weights(folder))


def test_random_numbers_of_a_step_depend_on_the_seed_and_the_step_alone():
    drawn = []
    for seed, step in ((0, (1, 2)), (0, (1, 2)), (0, (1, 3)), (1, (1, 2)), (0, (2, 2))):
        torch.rand(3)
        seed_step(seed, step, torch.device("cpu"))
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4


def test_uncertainty_parameters_do_not_decay(data, tmp_path):
    model = network()
    criterion = UncertaintyWeightedLoss(model.task.values())
    optimizer = optim.make_optimizer(model, criterion, configure("train_mtl", data, tmp_path))
    decay = {}
    for group in optimizer.param_groups:
        decay |= {id(p): group["weight_decay"] for p in group["params"]}
    assert [decay[id(p)] for p in criterion.parameters()] == [0, 0, 0]


def test_a_long_gradient_is_shortened_and_a_short_one_left_alone(data, tmp_path, monkeypatch):
    """Before the update, to MAX_GRADIENT_NORM; the log has the length before."""
    lengths = []
    for factor in (1e-4, 1.0, 1e4):
        model, updates, step = network(("seg",)), [], torch.optim.AdamW.step
        model.seg.logits.weight.register_hook(lambda gradient, factor=factor: gradient * factor)

        def record(optimizer, *args, model=model, updates=updates, step=step):
            norms = [p.grad.norm() for p in model.parameters()]
            updates.append(torch.stack(norms).norm().item())
            return step(optimizer, *args)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", record)
            criterion = EqualWeightedLoss(model.task.values())
            runs = tmp_path / f"{factor:g}"
            folder = run_own(data, runs, model, criterion, "--epochs", "1")
        lengths.append((max(updates), float(log(folder)[0]["gradient_norm"]), np.mean(updates)))
    for longest, logged, mean in lengths[:2]:
        assert longest <= optim.MAX_GRADIENT_NORM and logged == pytest.approx(mean, rel=1e-5)
    assert lengths[2][0] == pytest.approx(optim.MAX_GRADIENT_NORM, rel=1e-4)
    assert lengths[2][1] > 100 * optim.MAX_GRADIENT_NORM


# ------------------------------------------------------------------------------------- refusals


def test_a_criterion_that_would_not_be_trained_is_refused(data, tmp_path):
    model = network()
    criterion = UncertaintyWeightedLoss(model.task.values())
    forgotten = torch.optim.AdamW(model.parameters())  # what the published code did
    with pytest.raises(InputError, match="log_variance.seg"):
        checks.refuse_untrained(criterion, forgotten)
    criterion.log_variance["cls"].requires_grad_(False)
    with pytest.raises(InputError, match="log_variance.cls"):
        run_own(data, tmp_path, model, criterion)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_parameter_that_no_loss_reaches_is_refused_before_anything_is_written(data, tmp_path):
    model = network()
    model.seg.forgotten = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="seg.forgotten.weight"):
        run_own(data, tmp_path, model, EqualWeightedLoss(model.task.values()))
    assert not files_in(tmp_path)


class Broken(EqualWeightedLoss):
    def forward(self, outputs, targets):
        losses = super().forward(outputs, targets)
        return losses | {"cls": losses["cls"] * math.nan}


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_before_the_update(data, tmp_path, what):
    model = network()
    before = {key: value.clone() for key, value in model.named_parameters()}
    if what == "loss":
        criterion, words = Broken(model.task.values()), "epoch 1, images .*train_loss_cls nan"
    else:
        criterion, words = EqualWeightedLoss(model.task.values()), "cls.logits.bias .*epoch 1"
        model.cls.logits.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(InputError, match=words):
        run_own(data, tmp_path, model, criterion)
    assert_same_weights(before, dict(model.named_parameters()))


def test_huge_gradients_are_still_finite():
    parameters = {"a": torch.nn.Parameter(torch.zeros(2))}
    parameters["a"].grad = torch.full((2,), 1e30)  # its square overflows
    checks.refuse_divergence({"loss": 1.0}, parameters, "epoch 1")
    with pytest.raises(InputError):
        checks.refuse_divergence({"loss": math.inf}, parameters, "epoch 1")


def test_an_existing_run_is_refused(data, runs):
    with pytest.raises(InputError, match="--resume"):
        train("train_mtl", data, runs["mtl"].parents[1])


# ------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("batch_size", [7, 32])
def test_metrics_do_not_depend_on_the_batch_size(data, batch_size):
    model = network(width=4, seed=1)
    dataset = MTLDataset(data, "train", model.task.values())
    criterion = EqualWeightedLoss(model.task.values())
    one, _ = evaluate(model, make_loader(dataset, 1), criterion)
    other, _ = evaluate(model, make_loader(dataset, batch_size), criterion)
    assert one.keys() == other.keys() >= {"dice", "accuracy", "box_iou", "loss_bbox"}
    for key, value in one.items():
        assert other[key] == pytest.approx(value, abs=1e-5), key


def test_evaluation_leaves_the_model_as_it_was(data):
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, make_loader(MTLDataset(data, "val", model.task.values()), 4))
    assert model.training
    assert_same_weights(before, model.state_dict())


def test_the_ema_is_validated_and_kept_and_training_is_as_without(runs, data, tmp_path):
    averaged = train("train_mtl", data, tmp_path, "--ema", "0.3")
    assert_same_weights(weights(averaged), weights(runs["mtl"]))
    for a, b in zip(log(averaged), log(runs["mtl"]), strict=True):
        assert a["loss"] == b["loss"] and a["val_loss_seg"] != b["val_loss_seg"]
    last = torch.load(averaged / "last.pt", weights_only=True)
    model, info = checkpoint.load_model(averaged / "last.pt")  # the last epoch's EMA
    assert info["metrics"] == {} and torch.equal(info["trained_on"], last["trained_on"])
    kept = model.state_dict()
    assert_same_weights(kept, {name: last["ema"][f"module.{name}"] for name in kept})
    if last["best_epoch"] == 2:
        assert_same_weights(kept, weights(averaged, "best.pt"))
