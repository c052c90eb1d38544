"""The guide's example by hand, as its checklist asks; the guide's tables against the code."""

import re
import sys

import pytest
import torch
from conftest import ROOT

import registry
from tasks import Task

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
    loss = share.loss(output, target)
    assert loss[:2].tolist() == [0.25, 0] and loss[2].isnan()
    loss.nansum().backward()
    assert output.grad.flatten().tolist() == [1, 0, 0]
    measured = share.measure(output.detach(), target)
    assert measured["share_mae"][:2].tolist() == [0.25, 0]
    assert share.summarise(measured) == {"share_mae": 0.125}
    for value in share.answer(output[1], 4, 4), share.truth(target[1], 4, 4):
        assert share.describe(value, 4, 4) == "share 25%"
        assert share.cells(value, 4, 4) == [0.25]


def test_the_example_with_nothing_labelled(share):
    target = share.target({"masks": torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)})
    output = torch.rand(2, 1)
    assert share.loss(output, target).isnan().all() and share.truth(target[0], 4, 4) is None
    assert share.summarise(share.measure(output, target)) == {"share_mae": None}


def test_the_guide_lists_every_task_and_every_member():
    tasks, _, contract = GUIDE.partition("## The contract")
    assert sorted(re.findall(r"^\| `(\w+)` \|", tasks, re.M)) == registry.names("tasks")
    members = set()
    for cell in re.findall(r"^\| (`.*?) \|", contract.partition("**What `raw`")[0], re.M):
        members |= set(re.findall(r"`(\w+)`", cell))
    of_code = {name for name in dir(Task) if not name.startswith("_")}
    assert members <= of_code
    # What networks for cut-outs and ONNX graphs alone need is told in tasks/view.py.
    assert of_code - members <= {"opacity", "trimap", "is_absent", "exports"}


def test_the_guide_says_what_raw_holds():
    table = GUIDE.partition("**What `raw` holds.**")[2].partition("**Processes.**")[0]
    of_guide = set(re.findall(r"^\| `([\w:]+)` \|", table, re.M))
    docstring = sys.modules["tasks"].__doc__
    assert {name.partition(":")[0] for name in of_guide} == set(
        re.findall(r"^    (\w+)\b", docstring, re.M)
    )
