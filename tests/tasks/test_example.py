"""The guide's example against values computed by hand, as its checklist asks for; and the guide's tables against the code."""

import re
import sys

import pytest
import torch
from conftest import ROOT

import registry
from tasks import Task
from training.pictures import Picture, panels

GUIDE = (ROOT / "tasks/README.md").read_text(encoding="utf-8")


@pytest.fixture
def share(tmp_path, monkeypatch):
    """The example's task."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
    (tmp_path / "share.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import share

    yield share.Share("share")
    del sys.modules["share"]


def test_the_example_by_hand(share):
    masks = torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)
    masks[0], masks[0, :, :1] = 0, 1  # a quarter
    masks[1, :, :2], masks[1, 0, 0, :2] = 0, 1  # 2 of the 8 labelled pixels
    target = share.target({"masks": masks})
    assert target[:2].tolist() == [0.25, 0.25] and target[2].isnan()
    assert share.labelled(target).tolist() == [True, True, False]
    output = torch.tensor([[0.5], [0.25], [9.0]], requires_grad=True)
    assert share.loss(output, target).item() == pytest.approx(0.125)
    measured = share.measure(output.detach(), target)
    assert measured["share_mae"][:2].tolist() == [0.25, 0] and share.summarise(measured) == {
        "share_mae": 0.125
    }
    assert (
        share.describe(share.answer(output[1], 4, 4), 4, 4)
        == share.describe(share.truth(target[1], 4, 4), 4, 4)
        == "share 25%"
    )


def test_the_example_with_nothing_labelled(share):
    target = share.target({"masks": torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)})
    output = torch.rand(2, 1, requires_grad=True)
    loss = share.loss(output, target)
    loss.backward()
    assert loss.item() == 0 and output.grad.eq(0).all() and share.truth(target[0], 4, 4) is None
    assert share.summarise(share.measure(output.detach(), target)) == {"share_mae": None}


def test_its_target_prediction_and_error_stand_over_the_pictures(share):
    picture = Picture(
        "cat.jpg",
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        {"share": share},
        {"share": torch.tensor([0.25])},
        {"share": torch.tensor(0.5)},
        {"share": 0.25},
    )
    assert [panel.title for panel in panels(picture)] == [
        "cat.jpg",
        "target: share 50%",
        "predicted: share 25%, share error 0.250 of the picture (lower is better)",
    ]


def test_the_guide_lists_every_task_and_every_member():
    tasks, _, contract = GUIDE.partition("## The contract")
    assert sorted(re.findall(r"^\| `(\w+)` \|", tasks, re.M)) == registry.names("tasks")
    asked = {
        name
        for row in re.findall(r"^\| (`.*?) \|", contract, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    members = {name for name in vars(Task) if not name.startswith("_")}
    assert asked <= members
    assert members - asked <= {
        "counts",
        "flags",
        "labels",
        "wanted",
        "panel",
        "value",
        "lacking",
    }  # which __init__.py explains
