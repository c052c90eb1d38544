"""--conflicts: cosines and lengths by hand, what is refused, and a run that it does not change."""

import math
from types import SimpleNamespace

import pytest
from tiny import assert_same_run, log, train, weights
from torch import nn

import registry
from cli import InputError
from models import MTLNet
from training import dist
from training.conflicts import Conflicts, shared_stages

TRAINER = SimpleNamespace(world=dist.ALONE)


class Two(nn.Module):
    """Two stages with a weight or two each; losses are made of the weights themselves."""

    def __init__(self, *tasks, has_stages=True):
        super().__init__()
        self.tasks = tasks
        self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.stages = [[self.first], [nn.ReLU(), self.second, self.frozen]] if has_stages else None

    def encoders(self):
        return [self]

    def shared_parameters(self):
        return [p for p in self.parameters() if p.requires_grad]

    def losses(self, *factors):
        (x, y), z = self.first.weight[0], self.second.weight[0, 0]
        return {
            task: a * x + b * y + c * z for task, (a, b, c) in zip(self.tasks, factors, strict=True)
        }


def test_by_hand():
    """(3, 4) and (1, 0) at the first stage: cosine 3/5, lengths 5/1; 2 and -1 at the second."""
    model = Two("a", "b")
    conflicts = Conflicts(model, 2)
    conflicts.on_losses(TRAINER, 0, model.losses((3, 4, 2), (1, 0, -1)))
    conflicts.on_losses(TRAINER, 1, None)  # not a second one
    second = {"conflict_a_b_stage2": -1, "lengths_a_b_stage2": 2}
    first = {"conflict_a_b_stage1": 0.6, "lengths_a_b_stage1": 5}
    assert conflicts.columns() == pytest.approx({**first, **second}, abs=1e-6)
    assert set(conflicts.columns().values()) == {None}  # the next epoch begins anew
    for step, factors in ((0, (1, 0, -1)), (2, (0, 20, -1))):
        conflicts.on_losses(TRAINER, step, model.losses((3, 4, 2), factors))
    first = {"conflict_a_b_stage1": 0.7, "lengths_a_b_stage1": math.sqrt(5 / 4)}
    assert conflicts.columns() == pytest.approx({**first, **second}, abs=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_an_encoder_without_stages_is_one():
    model = Two("a", "b", has_stages=False)
    conflicts = Conflicts(model, 1)
    conflicts.on_losses(TRAINER, 0, model.losses((2, 2, 1), (1, 2, 2)))
    found = conflicts.columns()
    assert found == pytest.approx({"conflict_a_b_encoder": 8 / 9, "lengths_a_b_encoder": 1})


def test_a_task_without_a_gradient_is_left_out():
    model = Two("a", "b", "c")
    conflicts = Conflicts(model, 1)
    conflicts.on_losses(TRAINER, 0, model.losses((1, 0, 0), (0, 0, 0), (1, 1, 1)))
    found = conflicts.columns()
    assert found.pop("conflict_a_c_stage1") == pytest.approx(math.sqrt(0.5))
    assert found.pop("lengths_a_c_stage1") == pytest.approx(math.sqrt(0.5))
    assert set(found.values()) == {None}


@pytest.mark.parametrize("sharing, encoders", [("hard", 1), ("mtan", 1), ("cross_stitch", 2)])
def test_stages_hold_every_shared_weight_of_the_encoders(sharing, encoders):
    tasks = registry.find_tasks(("seg", "bbox"))
    model = MTLNet(tasks, 2, 0, registry.find("sharing", sharing))
    stages = shared_stages(model)
    assert list(stages) == [f"stage{k}" for k in range(1, 6)] and len(model.encoders()) == encoders
    found = {id(p) for parameters in stages.values() for p in parameters}
    assert found == {id(p) for encoder in model.encoders() for p in encoder.parameters()}


def test_a_run_is_the_same_with_it_and_without(data, tmp_path):
    """In bf16, over several encoders, whose units go to the log."""
    options = ["--tasks", "seg", "cls", "bbox", "--sharing", "cross_stitch", "--precision", "bf16"]
    plain = train("train", data, tmp_path / "plain", *options)
    found = train("train", data, tmp_path / "conflicts", *options, "--conflicts", "2")
    rows, plain_rows = log(found), log(plain)
    columns = rows[0].keys() - plain_rows[0].keys()
    assert len(columns) == 2 * 3 * 5 and (found / "conflicts.png").stat().st_size > 10_000
    for row, plain_row in zip(rows, plain_rows, strict=True):
        assert {key: value for key, value in row.items() if key not in columns} == plain_row
        for key in columns:
            assert not key.startswith("conflict") or -1 <= float(row[key]) <= 1
    (plain / "log.csv").write_text((found / "log.csv").read_text())
    assert_same_run(plain, found)
    unit = weights(found)["encoder.units.2.weight"].view(3, 3, -1).mean(2)  # bbox, cls, seg
    assert float(rows[1]["stitch_seg_bbox_stage3"]) == pytest.approx(unit[2, 0].item())


@pytest.mark.parametrize("options", [["seg"], ["seg", "bbox", "--sharing", "soft"]], ids=str)
def test_refused_where_nothing_is_shared(data, tmp_path, options):
    with pytest.raises(InputError, match="--conflicts"):
        train("train", data, tmp_path, "--conflicts", "1", "--tasks", *options)
    assert not list(tmp_path.rglob("config.json"))


def test_pairs_that_would_share_a_column_are_refused():
    with pytest.raises(InputError, match="a_b_c"):
        Conflicts(Two("a", "b_c", "a_b", "c"), 1)
