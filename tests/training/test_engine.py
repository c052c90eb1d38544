"""Training, evaluation and the run folder on tiny budgets: the recipe's numbers, exact resume, refusals."""

import csv
import json
import math
import shutil

import h5py
import pytest
import torch
from conftest import rechunk, write_data
from tiny import FILES, arguments, assert_same_weights, log, result, targets, weights

import oeq_splits
import oeq_uncertainty
import train_ablation_bbox
import train_ablation_cls
import train_baseline
import train_mtl
from cli import InputError
from dataloader_mtl import MTLDataset, make_loader
from models import MTLNet
from registry import PUBLISHED
from tasks.bbox import Bbox
from training import checkpoint, engine, recipe
from training.run_folder import RunFolder
from training.step import gradient_norm, seed_step
from utils import EqualWeightedLoss, UncertaintyWeightedLoss

TEST_KEYS = {
    "experiment",
    "seed",
    "dice",
    "dice_pooled",
    "iou_pooled",
    "border_iou",
    "accuracy",
    "box_iou",
    "n_images",
    "epochs",
    "best_epoch",
    "parameters",
    "train_seconds",
    "images_per_second",
    "split_hash",
    "border",
    "size",
    "device",
    "precision",
}


# ------------------------------------------------------------------------------------------------ the ten experiments

EXPERIMENTS = [
    (train_mtl, "mtl", PUBLISHED),
    (train_baseline, "baseline", ("seg",)),
    (train_ablation_cls, "ablation_cls", ("seg", "cls")),
    (train_ablation_bbox, "ablation_bbox", ("seg", "bbox")),
    (oeq_uncertainty, "uncertainty", PUBLISHED),
]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """All ten experiments, two epochs each."""
    runs = tmp_path_factory.mktemp("runs")
    for script, _, _ in EXPERIMENTS:
        script.main(arguments(data, runs))
    args = arguments(data, runs)
    args.split = oeq_splits.PUBLISHED
    oeq_splits.main(args)
    return runs


NAMES = [name for _, name, _ in EXPERIMENTS] + [
    f"split_{text.replace('-', '_')}" for text in oeq_splits.PUBLISHED
]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_leaves_a_complete_run_folder(runs, name):
    folder = runs / name / "seed0"
    assert {path.name for path in folder.iterdir()} == FILES
    test = json.loads((folder / "test.json").read_text())
    assert set(test) == TEST_KEYS and test["experiment"] == name and test["n_images"] == 10
    config = json.loads((folder / "config.json").read_text())
    assert (
        config["options"]["epochs"] == 2
        and config["split_hash"] == test["split_hash"]
        and config["border"] == "unknown"
    )
    assert (test["accuracy"] is None) == ("cls" not in config["tasks"])
    assert (test["box_iou"] is None) == ("bbox" not in config["tasks"])
    rows = log(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {f"train_loss_{task}" for task in config["tasks"]} <= set(rows[0]) and {
        f"weight_{task}" for task in config["tasks"]
    } <= set(rows[0])


@pytest.mark.parametrize("script, name, tasks", EXPERIMENTS)
def test_scripts_train_their_tasks(runs, script, name, tasks):
    content = checkpoint.load(runs / name / "seed0/best.pt")
    assert tuple(content["tasks"]) == tasks
    assert {key.split(".")[0] for key in content["model"]} == {"encoder", *tasks}


def test_per_image_rows_add_up_to_the_metrics(runs):
    folder = runs / "mtl/seed0"
    with open(folder / "test_per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    test = json.loads((folder / "test.json").read_text())
    assert (
        list(rows[0])
        == [
            "name",
            "dice",
            "intersection",
            "predicted",
            "target",
            "border_intersection",
            "border_union",
            "border_iou",
            "correct",
            "label",
            "box_iou",
        ]
        and len(rows) == 10
    )
    column = {
        key: [float(row[key]) for row in rows if row[key]] for key in rows[0] if key != "name"
    }
    assert sum(column["dice"]) / 10 == pytest.approx(test["dice"])
    assert 2 * sum(column["intersection"]) / (
        sum(column["predicted"]) + sum(column["target"])
    ) == pytest.approx(test["dice_pooled"])
    assert sum(column["correct"]) / 10 == pytest.approx(test["accuracy"])
    assert len(column["box_iou"]) == 9 and sum(column["box_iou"]) / 9 == pytest.approx(
        test["box_iou"]
    )  # one has no box
    with h5py.File(
        json.loads((folder / "config.json").read_text())["options"]["data"] + "/test/masks.h5"
    ) as file:
        assert column["target"] == [mask.sum() for mask in file["masks"][:]]


def test_weights_of_a_split_are_logged_normalised(runs):
    row = log(runs / "split_75_15_15/seed0")[0]
    assert [float(row[f"weight_{task}"]) for task in PUBLISHED] == pytest.approx(
        [75 / 105, 15 / 105, 15 / 105]
    )
    row = log(runs / "mtl/seed0")[0]
    total = sum(
        float(row[f"weight_{task}"]) * float(row[f"train_loss_{task}"]) for task in PUBLISHED
    )
    assert float(row["loss"]) == pytest.approx(total)


def test_uncertainty_weights_move_and_differ_from_equal_weighting(runs):
    """In the published code they never reached the optimizer, and its row repeated equal weighting."""
    rows = log(runs / "uncertainty/seed0")
    assert rows[0]["weight_seg"] != rows[1]["weight_seg"]
    assert (runs / "uncertainty/seed0/best.pt").read_bytes() != (
        runs / "mtl/seed0/best.pt"
    ).read_bytes()


def test_the_checkpoint_is_the_best_validated_one(runs):
    for name in NAMES:
        dice = [float(row["val_dice"]) for row in log(runs / name / "seed0")]
        assert json.loads((runs / name / "seed0/test.json").read_text())[
            "best_epoch"
        ] == 1 + dice.index(max(dice))
        assert checkpoint.load(runs / name / "seed0/best.pt")["metrics"]["dice"] == max(dice)


# --------------------------------------------------------------------------------------------- repeats and resumption


def test_the_same_seed_gives_the_same_result_and_another_seed_another(data, runs, tmp_path):
    train_mtl.main(arguments(data, tmp_path, "--workers", "2"))
    assert result(tmp_path / "mtl/seed0") == result(runs / "mtl/seed0")
    assert log(tmp_path / "mtl/seed0") == log(runs / "mtl/seed0")
    assert_same_weights(weights(tmp_path / "mtl/seed0"), weights(runs / "mtl/seed0"))
    train_mtl.main(arguments(data, tmp_path, "--seed", "1"))
    assert result(tmp_path / "mtl/seed1") != result(runs / "mtl/seed0")


class Killed(BaseException):
    """Stands for a kill at a given moment."""


@pytest.mark.parametrize(
    "moment",
    [
        "in the first epoch",
        "in the second epoch",
        "between best.pt and last.pt",
        "between last.pt and log.csv",
        "in the test",
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    data, runs, tmp_path, monkeypatch, moment
):
    def kill_at(count, function):
        calls = [0]

        def killing(*args, **kwargs):
            calls[0] += 1
            if calls[0] == count:
                raise Killed
            return function(*args, **kwargs)

        return killing

    target, name, count = {
        "in the first epoch": (engine, "step", 2),
        "in the second epoch": (engine, "step", 5),
        "between best.pt and last.pt": (checkpoint, "save", 2),
        "between last.pt and log.csv": (RunFolder, "write_log", 2),
        "in the test": (engine.pictures, "draw_pictures", 1),
    }[moment]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(target, name, kill_at(count, getattr(target, name)))
        oeq_uncertainty.main(arguments(data, tmp_path))
    with pytest.raises(InputError, match="--resume"):
        oeq_uncertainty.main(arguments(data, tmp_path))
    oeq_uncertainty.main(arguments(data, tmp_path, "--resume"))
    finished, expected = tmp_path / "uncertainty/seed0", runs / "uncertainty/seed0"
    assert result(finished) == result(expected) and log(finished) == log(expected)
    assert_same_weights(weights(finished), weights(expected))
    assert_same_weights(weights(finished, "best.pt"), weights(expected, "best.pt"))
    assert (finished / "test_per_image.csv").read_text() == (
        expected / "test_per_image.csv"
    ).read_text()


def test_resuming_a_finished_run_says_so_and_changes_nothing(data, runs, capsys):
    before = {path: path.stat().st_mtime_ns for path in (runs / "mtl/seed0").iterdir()}
    train_mtl.main(arguments(data, runs, "--resume"))
    assert "finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (runs / "mtl/seed0").iterdir()}


def test_resuming_with_another_option_is_refused_by_name(data, runs, tmp_path):
    shutil.copytree(runs / "mtl", tmp_path / "mtl")
    (tmp_path / "mtl/seed0/test.json").unlink()
    with pytest.raises(InputError, match="--lr was 0.002 and is 0.01"):
        train_mtl.main(arguments(data, tmp_path, "--resume", "--lr", "0.01"))
    other = rechunk(write_data(tmp_path / "other", {"train": 24, "val": 10, "test": 10}, seed=9))
    with pytest.raises(InputError, match="split_hash"):
        train_mtl.main(arguments(other, tmp_path, "--resume"))
    train_mtl.main(
        arguments(data, tmp_path, "--resume", "--workers", "1")
    )  # what does not change the result may differ
    assert result(tmp_path / "mtl/seed0") == result(runs / "mtl/seed0")


def test_an_existing_run_is_refused(data, runs):
    with pytest.raises(InputError, match="holds a run already"):
        train_mtl.main(arguments(data, runs))


# ------------------------------------------------------------------------------------------------------- the details


@pytest.mark.parametrize("batch_size", [7, 32])
def test_metrics_do_not_depend_on_the_batch_size(data, batch_size):
    model, dataset = MTLNet(PUBLISHED, width=4, seed=1), MTLDataset(data, "train")
    one, _ = engine.evaluate(model, make_loader(dataset, 1), EqualWeightedLoss(PUBLISHED))
    other, _ = engine.evaluate(
        model, make_loader(dataset, batch_size), EqualWeightedLoss(PUBLISHED)
    )
    keys = ("dice", "dice_pooled", "iou_pooled", "accuracy", "box_iou", "loss_seg", "loss_cls")
    assert [other[key] for key in keys] == pytest.approx([one[key] for key in keys], abs=1e-5)


def test_evaluation_leaves_the_model_as_it_was(data):
    model = MTLNet(PUBLISHED, width=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    engine.evaluate(model, make_loader(MTLDataset(data, "val"), 4))
    assert model.training
    assert_same_weights(before, model.state_dict())


def test_all_configurations_see_the_same_batches(data, tmp_path, monkeypatch):
    seen = {}
    for script, name, _ in EXPERIMENTS[:4]:
        with monkeypatch.context() as patch:
            original = engine.refuse_divergence

            def record(values, norm, parameters, batch, dataset, epoch):
                seen.setdefault(name, []).append((batch["image"], batch["row"]))
                return original(values, norm, parameters, batch, dataset, epoch)

            patch.setattr(engine, "refuse_divergence", record)
            script.main(arguments(data, tmp_path))
    first = seen.pop("mtl")
    assert len(first) == 6 and len(seen) == 3
    for batches in seen.values():
        assert all(
            torch.equal(a, b) and torch.equal(rows, other)
            for (a, rows), (b, other) in zip(first, batches, strict=True)
        )


def test_a_criterion_that_would_not_be_trained_is_refused(data, tmp_path):
    model, criterion = MTLNet(PUBLISHED, width=2), UncertaintyWeightedLoss(PUBLISHED)
    forgotten = torch.optim.AdamW(model.parameters())  # what the published code did
    with pytest.raises(InputError, match="log_variance.seg"):
        engine.refuse_untrained(criterion, forgotten)
    criterion.log_variance["cls"].requires_grad_(False)
    with pytest.raises(InputError, match="log_variance.cls"):
        engine.run("x", model, criterion, arguments(data, tmp_path))
    assert not (tmp_path / "x").exists()


def test_uncertainty_parameters_do_not_decay():
    optimizer = recipe.make_optimizer(
        MTLNet(PUBLISHED, width=2), criterion := UncertaintyWeightedLoss(PUBLISHED), 1e-3
    )
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert [decay[id(p)] for p in criterion.parameters()] == [0, 0, 0]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(data, tmp_path, monkeypatch):
    class Broken(EqualWeightedLoss):
        def forward(self, outputs, targets):
            losses = super().forward(outputs, targets)
            return losses | {"cls": losses["cls"] * math.nan}

    model = MTLNet(PUBLISHED, width=2)
    before = {key: value.clone() for key, value in model.named_parameters()}
    with pytest.raises(InputError, match="train_loss_cls nan.*images "):
        engine.run("broken", model, Broken(PUBLISHED), arguments(data, tmp_path))
    assert_same_weights(before, dict(model.named_parameters()))


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(data, tmp_path):
    model = MTLNet(PUBLISHED, width=2)
    before = {key: value.clone() for key, value in model.named_parameters()}
    model.cls.logits.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        InputError,
        match="gradient of cls.logits.bias is not finite in epoch 1 .*loss.*train_loss_cls.*images ",
    ):
        engine.run("broken", model, EqualWeightedLoss(PUBLISHED), arguments(data, tmp_path))
    assert_same_weights(before, dict(model.named_parameters()))


def test_huge_gradients_are_still_finite(data):
    parameters = {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.nn.Parameter(torch.zeros(2))}
    parameters["a"].grad = torch.full((2,), 1e30)  # its square overflows
    norm = gradient_norm(parameters)
    assert norm == math.inf
    engine.refuse_divergence(
        {"loss": 1.0}, norm, parameters, {"row": torch.tensor([0])}, MTLDataset(data, "train"), 0
    )


def test_a_long_gradient_is_shortened_and_a_short_one_left_alone(data, tmp_path, monkeypatch):
    """Before the update, to the length MAX_GRADIENT_NORM; the log has the length before."""
    lengths = []
    for factor in (1e-4, 1.0, 1e4):
        model, updates = MTLNet(("seg",), width=2), []
        model.seg.logits.weight.register_hook(lambda gradient, factor=factor: gradient * factor)
        step = torch.optim.AdamW.step

        def record(optimizer, *args, **kwargs):
            updates.append(gradient_norm(dict(model.named_parameters())).item())
            return step(optimizer, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", record)
            engine.run(
                f"x{factor:g}",
                model,
                EqualWeightedLoss(("seg",)),
                arguments(data, tmp_path, "--epochs", "1"),
            )
        row = log(tmp_path / f"x{factor:g}" / "seed0")[0]
        lengths.append((float(row["gradient_norm"]), max(updates)))
    (low, low_used), (usual, usual_used), (high, high_used) = lengths
    assert low <= usual < recipe.MAX_GRADIENT_NORM < high
    assert low_used < recipe.MAX_GRADIENT_NORM and usual_used < recipe.MAX_GRADIENT_NORM
    assert high_used == pytest.approx(recipe.MAX_GRADIENT_NORM, rel=1e-4)


def test_parameters_that_the_loss_does_not_reach_are_refused(data, tmp_path):
    class Forgetful(UncertaintyWeightedLoss):
        def total(self, losses):  # as if somebody had learned weights and then summed without them
            return sum(losses.values())

    with pytest.raises(InputError, match="criterion.log_variance.seg"):
        engine.run("x", MTLNet(PUBLISHED, width=2), Forgetful(PUBLISHED), arguments(data, tmp_path))
    model = MTLNet(("seg",), width=2)
    model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="spare.weight, spare.bias"):
        engine.run("x", model, EqualWeightedLoss(("seg",)), arguments(data, tmp_path))
    assert not (tmp_path / "x").exists()
    model.spare.requires_grad_(False)
    engine.run("x", model, EqualWeightedLoss(("seg",)), arguments(data, tmp_path, "--limit", "8"))


def test_a_checkpoint_remembers_its_training_images(data, runs, tmp_path):
    hashes = MTLDataset(data, "train").image_hashes()
    assert len(hashes.unique()) == 24
    for name in ("best.pt", "last.pt"):
        assert torch.equal(
            torch.load(runs / "mtl/seed0" / name, weights_only=True)["trained_on"], hashes
        )
    assert torch.equal(
        MTLDataset(data, "train", augment="full", limit=5).image_hashes(), hashes[:5]
    )
    assert not torch.isin(MTLDataset(data, "test").image_hashes(), hashes).any()


def test_learning_rate_rises_and_falls():
    rates = [recipe.learning_rate(k, 100, 1.0) for k in range(100)]
    assert (
        rates[0] == pytest.approx(0.1)
        and rates[9] == pytest.approx(1)
        and rates[-1] == pytest.approx(0, abs=1e-9)
    )
    assert rates[54] == pytest.approx(0.5)  # half-way down the cosine
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)


@pytest.mark.parametrize("size, batch_size", [(32, 1), (32, 2), (50, 1)])
def test_the_smallest_images_train_or_are_refused(tmp_path, size, batch_size):
    folder = rechunk(write_data(tmp_path / "d", {"train": 4, "val": 2, "test": 2}, size=size))
    args = arguments(folder, tmp_path, "--batch-size", str(batch_size))
    if size * batch_size == 32:
        with pytest.raises(InputError, match="--batch-size"):
            train_baseline.main(args)
        assert not (tmp_path / "baseline").exists()
    else:
        train_baseline.main(args)
        assert 0 <= result(tmp_path / "baseline/seed0")["dice"] <= 1


@pytest.mark.parametrize(
    "epochs, size", [(1, 256), (2, 256), (8, 256), (60, 256), (5, 64), (3, 100)]
)
def test_images_grow_and_end_at_full_size(epochs, size):
    sides = recipe.training_sides(epochs, size)
    assert (
        len(sides) == epochs
        and sides == sorted(sides)
        and sides[-1] == size
        and min(sides) >= min(64, size)
    )


def test_images_grow_as_the_recipe_says():
    assert recipe.training_sides(10, 256) == 6 * [128] + 2 * [192] + 2 * [256]


def test_images_grow_as_one_says():
    assert recipe.training_sides(8, 250, "32:0.3,64:0.75,250:1") == 2 * [32] + 4 * [64] + 2 * [250]
    assert recipe.training_sides(1, 256, "32:0.3,256:1") == [256] and recipe.training_sides(
        2, 64, "64:1"
    ) == [64, 64]
    with pytest.raises(InputError, match="does not end at 128 px"):
        recipe.training_sides(8, 128, "32:0.3,256:1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "128",
        "128:0.5",
        "128:0.5,64:0.2,256:1",
        "100:0.5,256:1",
        "0:0.5,256:1",
        "128:x,256:1",
        "128:0,256:1",
    ],
)
def test_sides_in_other_words_are_refused(text, capsys):
    with pytest.raises(SystemExit) as end:
        engine.make_parser("").parse_args(["--sides", text])
    assert end.value.code == 2 and "is not as 128:0.5,256:1" in capsys.readouterr().err


def test_a_run_grows_through_sides_and_keeps_them(data, tmp_path):
    args = arguments(data, tmp_path, "--sides", "32:0.5,64:1", "--resume")
    train_baseline.main(args)
    assert [row["side"] for row in log(tmp_path / "baseline/seed0")] == ["32", "64"]
    args.sides = None
    with pytest.raises(InputError, match="sides"):
        train_baseline.main(args)


def test_precision_auto_measures_once_and_is_recorded(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "training.precision.processor_flags", lambda: {"avx512_bf16"}
    )  # whatever this one has
    train_baseline.main(arguments(data, tmp_path, "--precision", "auto"))
    assert "s a step" in capsys.readouterr().out
    assert json.loads((tmp_path / "baseline/seed0/config.json").read_text())["precision"] in (
        "fp32",
        "bf16",
    )


def test_bf16_trains_to_finite_losses(data, tmp_path):
    train_mtl.main(arguments(data, tmp_path, "--precision", "bf16"))
    test = result(tmp_path / "mtl/seed0")
    assert test["precision"] == "bf16" and 0 <= test["dice"] <= 1


def test_random_numbers_of_a_step_depend_on_seed_epoch_and_step_alone():
    drawn = []
    for where in ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2)):
        seed_step(*where, torch.device("cpu"))
        drawn.append(tuple(torch.rand(4).tolist()))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4


def test_the_network_learns(tmp_path):
    """Bright squares on a dark ground, a reddish cat or a bluish dog: a small network learns all of it in seconds."""
    folder = rechunk(write_data(tmp_path / "d", {"train": 96, "val": 32, "test": 32}))
    train_mtl.main(arguments(folder, tmp_path, "--epochs", "16", "--width", "24", "--lr", "0.006"))
    test = result(tmp_path / "mtl/seed0")
    train, truth = (targets(MTLDataset(folder, split), "bbox") for split in ("train", "test"))
    constant = (
        Bbox("bbox").measure(train.nanmean(0).expand_as(truth), truth)["box_iou"].nanmean().item()
    )
    assert test["dice"] > 0.93 and test["accuracy"] > 0.95 and test["box_iou"] > constant + 0.1
