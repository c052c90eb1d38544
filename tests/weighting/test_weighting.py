"""Weightings against values computed by hand; their names; TorchJD's where it is installed."""

import io
import math
import sys

import pytest
import torch
from torch import nn

import registry
from cli import InputError
from models import MTLNet
from registry import PUBLISHED
from training.devices import to_device
from training.distributed import Update
from training.recipe import make_optimizer
from training.step import named_parameters
from training.team import ALONE
from utils import make_criterion
from weighting import Weighting

TASKS = ("seg", "cls", "bbox")


def losses(*values):
    return dict(zip(TASKS, (torch.tensor(float(value), requires_grad=True) for value in values)))


def history(*epochs):
    return [
        {f"train_loss_{task}": value for task, value in zip(TASKS, values)} for values in epochs
    ]


# ------------------------------------------------------------------------------------------------------------- dwa, rlw


def test_dwa_by_hand():
    """Losses 4 2 1 and then 2 2 2: rates 0.5 1 2; softmax of their halves."""
    criterion, rows = make_criterion("dwa", TASKS), history((9, 9, 9), (4, 2, 1), (2, 2, 2))
    for epoch in (0, 1):
        criterion.begin_step(epoch, 0, rows[:epoch])
        assert criterion.weights() == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    criterion.begin_step(3, 0, rows)
    powers = [math.exp(rate / 2) for rate in (0.5, 1, 2)]
    assert criterion.weights() == pytest.approx(
        {task: p / sum(powers) for task, p in zip(TASKS, powers)}
    )
    assert criterion.total(losses(1, 10, 100)).item() == pytest.approx(
        sum(p / sum(powers) * value for p, value in zip(powers, (1, 10, 100)))
    )
    before = criterion.weights()
    criterion.begin_step(3, 1, rows)
    assert criterion.weights() == before and criterion.spec == "dwa"


def test_dwa_of_a_loss_that_was_zero_counts_as_one_that_stands_still():
    criterion = make_criterion("dwa", TASKS)
    criterion.begin_step(2, 0, history((0, 1, 1), (0, 1, 1)))
    assert criterion.weights() == pytest.approx(dict.fromkeys(TASKS, 1 / 3))


def test_rlw_is_the_softmax_of_what_is_drawn_anew_in_every_step():
    criterion = make_criterion("rlw", TASKS)
    assert criterion.weights() == pytest.approx(
        dict.fromkeys(TASKS, 1 / 3)
    )  # before the first step
    torch.manual_seed(5)
    criterion.begin_step(0, 0, [])
    first = criterion.weights()
    torch.manual_seed(5)
    powers = torch.randn(3).exp()
    assert first == pytest.approx(dict(zip(TASKS, (powers / powers.sum()).tolist())))
    criterion.begin_step(0, 1, [])
    assert criterion.weights() != first and sum(criterion.weights().values()) == pytest.approx(1)
    found = []
    for _ in range(2000):
        criterion.begin_step(0, 0, [])
        found.append(list(criterion.weights().values()))
    torch.testing.assert_close(
        torch.tensor(found).mean(0), torch.full((3,), 1 / 3), atol=0.02, rtol=0
    )


@pytest.mark.parametrize(
    "name, words",
    [
        ("dwa:3", "takes nothing after a colon"),
        ("rlw:", "takes nothing after a colon"),
        ("dwar", "is neither equal nor uncertainty"),
        ("../utils", "is neither equal nor"),
        ("dwa1", "is neither equal nor .* nor one of weighting/: dwa, rlw, torchjd"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        make_criterion(name, TASKS)


def test_without_torchjd_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.setattr("weighting.torchjd.version", lambda name: raise_missing())
    with pytest.raises(
        InputError, match="torchjd is not installed .*pip install -r requirements-torchjd.txt"
    ):
        make_criterion("torchjd:UPGrad", TASKS)


def raise_missing():
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError("torchjd")


# -------------------------------------------------------------------------------------------------------------- torchjd

ALL = {
    "CAGrad": ":c=0.5",
    "FairGrad": ":alpha=2.0",
    "Krum": ":n_byzantine=0",
    "TrimmedMean": ":trim_number=1",
    "COSMOS": ":lambda_=0.5",
    "PBI": ":theta=1.0",
    "STCH": ":mu=0.5",
}


@pytest.fixture
def torchjd():
    return pytest.importorskip(
        "torchjd", reason="torchjd is not installed (requirements-torchjd.txt)"
    )


class Two(nn.Module):
    """Two tasks over one shared parameter (2,), with a head each: losses a . shared * head. What MTLNet offers to a weighting."""

    def __init__(self, *rows):
        super().__init__()
        self.shared, self.rows = nn.Parameter(torch.ones(2)), torch.tensor(rows)
        self.heads = nn.ParameterList(nn.Parameter(torch.tensor(2.0)) for _ in rows)
        self.keeps_trunk, self.trunk, self.team, self.sharing = (
            False,
            [],
            None,
            registry.find("sharing", "hard"),
        )

    def shared_parameters(self):
        return [self.shared]

    def forward(self):
        self.trunk = [self.shared * 1]
        return {
            task: row @ self.trunk[0] * head
            for task, row, head in zip(TASKS, self.rows, self.heads)
        }


def backward(criterion, model):
    criterion.prepare(model)
    model.zero_grad()
    return criterion.backward(model(), model)


def test_upgrad_by_hand(torchjd):
    """Gradients (2, 0) and (-2, 2): each projected onto the vectors that hurt neither is (1, 1) and (0, 2); their mean (0.5, 1.5)."""
    model, criterion = Two((1.0, 0.0), (-1.0, 1.0)), make_criterion("torchjd:UPGrad", TASKS[:2])
    total = backward(criterion, model)
    assert model.shared.grad.tolist() == pytest.approx([0.5, 1.5], abs=1e-3)
    assert [head.grad.item() for head in model.heads] == [1, 0]  # each its own loss's: a . shared
    assert total.item() == pytest.approx((2 + 0) / 2) and model.trunk == []
    # 1.0 and 0.75 of the rows give that: 2 a - 2 b = 0.5 and 2 b = 1.5.
    assert criterion.weights() == pytest.approx({"seg": 1.0, "cls": 0.75}, abs=1e-3)


def test_pcgrad_by_hand(torchjd):
    """(2, 0) and (-2, 2): the first without its part along the second is (1, 1), the second without its along the first (0, 2)."""
    model = Two((1.0, 0.0), (-1.0, 1.0))
    backward(make_criterion("torchjd:PCGrad", TASKS[:2]), model)
    assert model.shared.grad.tolist() == pytest.approx([1, 3], abs=1e-5)


def test_the_mean_as_an_aggregator_is_equal_weighting_in_the_shared_parameters(torchjd):
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = {
        "image": image,
        "seg": torch.randint(0, 2, (2, 1, 64, 64), dtype=torch.uint8),
        "cls": torch.tensor([0, 1]),
        "bbox": torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.3, 0.9, 0.8]]),
    }
    for sharing in ("hard", "cross_stitch", "mtan"):
        found = {}
        for spec in ("equal", "torchjd:aggregation.Mean"):
            model, criterion = (
                MTLNet(PUBLISHED, 2, 0, sharing).train(),
                make_criterion(spec, PUBLISHED),
            )
            criterion.prepare(model)
            total = criterion.backward(criterion(model(image), batch), model)
            found[spec] = (
                total.item(),
                [p.grad for p in model.shared_parameters()],
                model.seg.logits.weight.grad,
            )
            assert all(p.grad is not None for p in model.parameters())
        (total, shared, head), (other, again, whole) = found.values()
        assert other == pytest.approx(total)
        for a, b in zip(shared, again, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(3 * head, whole, rtol=1e-4, atol=1e-6)


def test_an_update_moves_each_place_by_its_own_gradient(torchjd):
    """Networks train in channels_last, and AdamW in one pass takes gradients for laid out as their parameters: an aggregator's, which are
    not, would move other places than theirs. Against the first step of AdamW by its formula: p - lr (decay p + g / (|g| + eps))."""
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = {
        "image": image,
        "seg": torch.randint(0, 2, (2, 1, 64, 64), dtype=torch.uint8),
        "cls": torch.tensor([0, 1]),
        "bbox": torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.3, 0.9, 0.8]]),
    }
    for spec in ("equal", "torchjd:aggregation.Mean", "torchjd:PCGrad"):
        model, criterion = (
            to_device(MTLNet(PUBLISHED, 4, 0).train(), "cpu"),
            make_criterion(spec, PUBLISHED),
        )
        criterion.prepare(model)
        optimizer = make_optimizer(model, criterion, 0.01)
        update = Update(ALONE, named_parameters(model, criterion), optimizer)
        criterion.backward(criterion(model(image), batch), model)
        update.average()
        expected = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                value, gradient = p.detach().numpy().copy(), p.grad.numpy().copy()
                expected[p] = value - 0.01 * (
                    group["weight_decay"] * value + gradient / (abs(gradient) + group["eps"])
                )
        optimizer.step()
        for p, value in expected.items():
            torch.testing.assert_close(p.detach(), torch.from_numpy(value), rtol=1e-4, atol=1e-5)


def names():
    try:
        from weighting.torchjd import KINDS, REFUSED, _classes

        return [(kind, name) for kind in KINDS for name in _classes(kind) if name not in REFUSED]
    except ImportError:
        return [("aggregation", "UPGrad")]


@pytest.mark.parametrize("kind, name", names())
def test_every_method_of_torchjd_takes_steps_goes_on_from_its_state_and_bears_a_task_without_labels(
    torchjd, kind, name
):
    """What is remembered after two steps, given to a new one, makes the third step the same."""
    spec = f"torchjd:{kind}.{name}{ALL.get(name, '')}"
    model, criterion = Two((1.0, 0.0), (-1.0, 1.0), (0.5, 0.5)), make_criterion(spec, TASKS)
    gradients = []
    for step in range(4):
        if step == 3:  # nothing of the third task is labelled
            model.rows = model.rows * torch.tensor([[1.0], [1.0], [0.0]])
        if step == 2:
            saved, other = criterion.state_dict(), make_criterion(spec, TASKS)
            torch.save(saved, buffer := io.BytesIO())
            buffer.seek(0)
            other.load_state_dict(torch.load(buffer, weights_only=True))
            other.prepare(model)
            other.begin_step(1, 0, [])
        torch.manual_seed(step)
        criterion.begin_step(step // 2, step % 2, [])
        criterion.prepare(model)
        model.zero_grad()
        with torch.no_grad():
            model.shared.copy_(torch.tensor([1.0, 1.5]) + step / 10)
        found = {task: loss.square() for task, loss in model().items()}
        criterion.backward(found, model)
        gradients.append(model.shared.grad.clone())
        assert model.shared.grad.isfinite().all() and all(
            p.grad.isfinite().all() for p in model.heads
        ), (spec, step)
        if step == 2:
            torch.manual_seed(step)
            model.zero_grad()
            other.backward({task: loss.square() for task, loss in model().items()}, model)
            assert torch.equal(model.shared.grad, gradients[-1]), spec
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_task_without_labels_is_left_out_of_its_batch(torchjd):
    model, criterion = (
        Two((1.0, 0.0), (-1.0, 1.0), (0.0, 0.0)),
        make_criterion("torchjd:PCGrad", TASKS),
    )
    backward(criterion, model)
    assert model.shared.grad.tolist() == pytest.approx([1, 3], abs=1e-5)  # as of two
    assert criterion.weights()["bbox"] == 0 and model.heads[2].grad.item() == 0


def test_learned_weights_are_parameters_of_the_criterion(torchjd):
    criterion = make_criterion("torchjd:UW", TASKS)
    assert [p.shape for p in criterion.parameters()] == [(3,)] and list(
        make_criterion("torchjd:UPGrad", TASKS).parameters()
    ) == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "torchjd has no method ''; it has AlignedMTL, CAGrad"),
        (":Nothing", "has no method 'Nothing'"),
        (":CAGrad", "has to be told c, as in "),
        (":UPGrad:c=1", "no setting c; it has pref_vector, projector"),
        (":CAGrad:c=-1", "cannot be made for 3 tasks with c=-1"),
        (":CAGrad:c", "are written as in c=0.4"),
        (":CAGrad:c=__import__('os')", "are written as in"),
        (":FAMO", "again after the step"),
        (":Krum:n_byzantine=2", "cannot be made for 3 tasks"),
        (":TrimmedMean:trim_number=2", "cannot be made for 3 tasks"),
        (":aggregation.UW", "has no method 'aggregation.UW'"),
        (":WeightedAggregator", "has no method"),
    ],
)
def test_methods_that_cannot_be_made_are_refused(torchjd, name, words):
    with pytest.raises(InputError, match=words) as error:
        make_criterion(f"torchjd{name}", TASKS)
    assert "\n" not in str(error.value)


def test_aggregators_are_refused_where_tasks_share_no_parameters(torchjd):
    with pytest.raises(
        InputError,
        match="torchjd:UPGrad makes one gradient .* under the sharing soft they share none",
    ):
        make_criterion("torchjd:UPGrad", PUBLISHED).prepare(MTLNet(PUBLISHED, 2, 0, "soft"))
    make_criterion("torchjd:UW", PUBLISHED).prepare(MTLNet(PUBLISHED, 2, 0, "soft"))


def test_another_version_of_torchjd_is_refused(torchjd, monkeypatch):
    monkeypatch.setattr("weighting.torchjd.version", lambda name: "0.19.1")
    with pytest.raises(InputError, match=r"torchjd 0.19.1 is installed, and 0.18.\* is needed"):
        make_criterion("torchjd:UPGrad", TASKS)


def test_a_weighting_of_ones_own_shares_as_it_says():
    class Own(Weighting):
        def begin_step(self, epoch, step, history):
            self.share(torch.tensor([1.0, 1.0, 2.0]))

    criterion = Own("own", None, TASKS)
    criterion.begin_step(0, 0, [])
    assert list(criterion.weights().values()) == [0.25, 0.25, 0.5] and criterion.spec == "own"
