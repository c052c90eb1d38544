"""--conflicts: cosines and lengths by hand, where there is nothing to compare, and runs that it does not change."""

import math

import pytest
import torch
from tiny import TINY, assert_same_weights, log, weights
from torch import nn

import train
from cli import InputError
from dataloader_mtl import MTLDataset, batches, make_loader
from models import MTLNet
from training import conflicts
from utils import make_criterion


class Two(nn.Module):
    """Two stages with a weight or two each; no maps, as losses are made of the weights themselves."""

    def __init__(self, *tasks, has_stages=True):
        super().__init__()
        self.tasks, self.team = tasks, None
        self.first, self.second, self.frozen = (
            nn.Linear(2, 1, bias=False),
            nn.Linear(1, 1, bias=False),
            nn.Linear(1, 1),
        )
        self.frozen.requires_grad_(False)
        self.stages = [[self.first], [nn.ReLU(), self.second, self.frozen]] if has_stages else None

    def encoders(self):
        return [self]

    def shared_parameters(self):
        return [p for p in self.parameters() if p.requires_grad]

    def losses(self, *factors):
        (x, y), z = self.first.weight[0], self.second.weight[0, 0]
        return {task: a * x + b * y + c * z for task, (a, b, c) in zip(self.tasks, factors)}


def test_by_hand():
    """(3, 4) and (1, 0) at the first stage: cosine 3/5, lengths 5/1; 2 and -1 at the second: -1 and 2."""
    model = Two("a", "b")
    compared = conflicts.Conflicts(model, 2)
    assert [compared.look(k) is None for k in range(5)] == [False, True, False, True, False]
    compared.look(0)(model.losses((3, 4, 2), (1, 0, -1)))
    assert compared.columns() == pytest.approx(
        {
            "conflict_a_b_stage1": 0.6,
            "lengths_a_b_stage1": 5,
            "conflict_a_b_stage2": -1,
            "lengths_a_b_stage2": 2,
        },
        abs=1e-6,
    )
    compared.look(2)(model.losses((3, 4, 2), (0, 20, -1)))
    assert compared.columns() == pytest.approx(
        {
            "conflict_a_b_stage1": 0.7,
            "lengths_a_b_stage1": math.sqrt(5 / 4),
            "conflict_a_b_stage2": -1,
            "lengths_a_b_stage2": 2,
        },
        abs=1e-6,
    )
    assert all(p.grad is None for p in model.parameters())


def test_an_encoder_without_stages_is_one():
    compared = conflicts.Conflicts(model := Two("a", "b", has_stages=False), 1)
    compared.measure(model.losses((2, 2, 1), (1, 2, 2)))
    assert compared.columns() == pytest.approx(
        {"conflict_a_b_encoder": 8 / 9, "lengths_a_b_encoder": 1}
    )


def test_a_task_that_teaches_nothing_is_left_out():
    compared = conflicts.Conflicts(model := Two("a", "b", "c"), 1)
    compared.measure(model.losses((1, 0, 0), (0, 0, 0), (1, 1, 1)))
    found = compared.columns()
    assert found.pop("conflict_a_c_stage1") == pytest.approx(math.sqrt(0.5))
    assert found.pop("lengths_a_c_stage1") == pytest.approx(math.sqrt(0.5)) and set(
        found.values()
    ) == {None}
    compared.measure(model.losses((0, 1, 0), (0, 2, 0), (1, 1, 1)))
    assert compared.columns()["conflict_a_b_stage1"] == pytest.approx(1)  # of one batch of two


@pytest.mark.parametrize("sharing, encoders", [("hard", 1), ("mtan", 1), ("cross_stitch", 2)])
def test_stages_hold_every_shared_weight_of_the_encoders(sharing, encoders):
    model = MTLNet(("seg", "bbox"), 2, 0, sharing)
    stages = conflicts.stages_of(model)
    assert list(stages) == [f"stage{k}" for k in range(1, 6)] and len(model.encoders()) == encoders
    assert {id(p) for of_stage in stages.values() for p in of_stage} == {
        id(p) for one in model.encoders() for p in one.parameters()
    }


def test_a_batch_without_boxes_compares_nothing(data):
    model, criterion = MTLNet(("seg", "bbox"), 2), make_criterion("equal", ("seg", "bbox"))
    batch = next(iter(batches(make_loader(MTLDataset(data, "train", tasks=("seg", "bbox")), 4), 0)))
    compared = conflicts.Conflicts(model, 1)
    compared.measure(
        criterion(model(batch["image"]), batch | {"bbox": torch.full_like(batch["bbox"], math.nan)})
    )
    assert set(compared.columns().values()) == {None}
    compared.measure(criterion(model(batch["image"]), batch))
    assert all(
        abs(value) <= 1.0001
        for key, value in compared.columns().items()
        if key.startswith("conflict_")
    )


def test_the_same_weights_with_it_and_without(data, tmp_path, no_pictures):
    """In bf16, over several encoders, whose units go to the log."""

    def run(*options):
        train.main(
            train.parse_args(
                [
                    "--data",
                    str(data),
                    *TINY,
                    "--processes",
                    "1",
                    "--precision",
                    "bf16",
                    "--name",
                    "x",
                    "--tasks",
                    "seg",
                    "cls",
                    "bbox",
                    "--sharing",
                    "cross_stitch",
                    *options,
                ]
            )
        )

    run("--runs", str(tmp_path / "without"))
    run("--runs", str(tmp_path / "with"), "--conflicts", "2")
    without, found = tmp_path / "without/x/seed0", tmp_path / "with/x/seed0"
    assert_same_weights(weights(without), weights(found))
    rows = log(found)
    new = rows[0].keys() - log(without)[0].keys()
    assert len(new) == 2 * 3 * 5
    assert all(
        -1 <= float(row[key]) <= 1 for row in rows for key in new if key.startswith("conflict_")
    )
    assert [{key: value for key, value in row.items() if key not in new} for row in rows] == log(
        without
    )
    assert (found / "conflicts.png").stat().st_size > 10_000 and not (
        without / "conflicts.png"
    ).exists()
    state = weights(found)
    unit = (
        state["encoder.units.2.weight"].view(3, 3, -1).mean(2)
    )  # the tasks sorted: bbox, cls, seg
    assert float(rows[1]["stitch_seg_bbox_stage3"]) == pytest.approx(unit[2, 0].item())
    assert float(rows[1]["stitch_cls_cls_stage3"]) == pytest.approx(unit[1, 1].item())


@pytest.mark.parametrize(
    "options, why",
    [
        (["--tasks", "seg"], "seg is its one task"),
        (["--tasks", "seg", "bbox", "--sharing", "soft"], "under the sharing soft"),
    ],
    ids=str,
)
def test_refused_where_nothing_is_shared(data, tmp_path, options, why):
    with pytest.raises(InputError, match=f"--conflicts .*{why}.*leave"):
        train.main(
            train.parse_args(
                [
                    "--data",
                    str(data),
                    *TINY,
                    "--processes",
                    "1",
                    "--runs",
                    str(tmp_path),
                    "--conflicts",
                    *options,
                ]
            )
        )
    assert not list(tmp_path.glob("*/*/config.json"))
    assert train.parse_args(["--tasks", "seg", "--conflicts"]).conflicts == 16


def test_pairs_that_would_share_a_column_are_refused():
    with pytest.raises(InputError, match="both be called a_b_c"):
        conflicts.refuse(Two("a", "b_c", "a_b", "c"))
