"""Loss weighting against values computed by hand, in one process and in two; TorchJD's methods."""

import io
import math
import sys
import threading

import pytest
import torch
from torch import nn

import registry
import weighting
from cli import InputError
from models import MTLNet
from training.dist import ALONE, World, average_gradients
from weighting import Weighting

TASKS = ("seg", "cls", "bbox")
BATCH = {
    "image": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
    "seg": torch.randint(0, 2, (2, 1, 64, 64), dtype=torch.uint8),
    "cls": torch.tensor([0, 1]),
    "bbox": torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.3, 0.9, 0.8]]),
}


def make_criterion(spec, names=TASKS):
    """A criterion whose last batch had labels of all tasks."""
    criterion = weighting.make_criterion(spec, registry.find_tasks(names))
    criterion.counts = dict.fromkeys(names, 4)
    return criterion


def make_net(sharing="hard", width=2):
    return MTLNet(registry.find_tasks(TASKS), width, 0, registry.find("sharing", sharing)).train()


class Paired(World):
    """A process of two that are threads."""

    def __init__(self, rank, values, meeting):
        super().__init__(rank, 2)
        self.values, self.meeting = values, meeting

    def sum(self, tensor):
        self.values[self.rank] = tensor.detach().clone()
        self.meeting.wait(60)
        total = self.values[0] + self.values[1]
        self.meeting.wait(60)
        return total

    def exchange(self, all_reduce, tensor):
        tensor.copy_(self.sum(tensor))


def in_two(function):
    """[function(world) in each of two processes], by rank."""
    values, meeting, found = [None] * 2, threading.Barrier(2), [None] * 2

    def call(rank):
        found[rank] = function(Paired(rank, values, meeting))

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def losses(*values):
    return dict(
        zip(
            TASKS, (torch.tensor(float(value), requires_grad=True) for value in values), strict=True
        )
    )


def history(*epochs):
    return [
        {f"train_loss_{task}": value for task, value in zip(TASKS, values, strict=True)}
        for values in epochs
    ]


# ----------------------------------------------------------------------------------------- dwa, rlw


def test_dwa_by_hand():
    """Losses 4 2 1 and then 2 2 2: rates 0.5 1 2; softmax of their halves."""
    criterion, rows = make_criterion("dwa", TASKS), history((9, 9, 9), (4, 2, 1), (2, 2, 2))
    for epoch in (0, 1):
        criterion.begin_step(epoch, 0, rows[:epoch])
        assert criterion.weights() == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    criterion.begin_step(3, 0, rows)
    powers = [math.exp(rate / 2) for rate in (0.5, 1, 2)]
    assert criterion.weights() == pytest.approx(
        {task: p / sum(powers) for task, p in zip(TASKS, powers, strict=True)}
    )
    assert criterion.total(losses(1, 10, 100)).item() == pytest.approx(
        sum(p / sum(powers) * value for p, value in zip(powers, (1, 10, 100), strict=True))
    )
    before = criterion.weights()
    criterion.begin_step(3, 1, rows)
    assert criterion.weights() == before and criterion.spec == "dwa"


@pytest.mark.parametrize("first, last", [(0, 0), (0, None), (None, 1), (None, None)])
def test_dwa_without_a_rate_takes_a_loss_as_standing_still(first, last):
    """train_loss_cls is None where no batch of an epoch held a label of it."""
    criterion = make_criterion("dwa")
    criterion.begin_step(2, 0, history((1, first, 1), (1, last, 1)))
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
    assert first == pytest.approx(dict(zip(TASKS, (powers / powers.sum()).tolist(), strict=True)))
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
    "name",
    ["dwa:3", "rlw:", "dwar", "../utils", "dwa1", "famo:2", "gradnorm:x", "gradnorm:-1", "_adam"],
)
def test_names_that_mean_nothing_are_refused(name):
    with pytest.raises(InputError, match=name):
        make_criterion(name)


# ----------------------------------------------------------------------------------- gradnorm, famo


class Lines(nn.Module):
    """Losses (a . shared) head over one shared parameter (2,). What MTLNet offers to a
    weighting."""

    def __init__(self, *rows, head=1.0):
        super().__init__()
        self.shared, self.rows = nn.Parameter(torch.ones(2)), torch.tensor(rows)
        self.heads = nn.ParameterList(nn.Parameter(torch.tensor(head)) for _ in rows)
        self.record_features, self.split_features = False, []
        self.sharing = registry.find("sharing", "hard")

    def shared_parameters(self):
        return [self.shared]

    def forward(self):
        self.split_features = [self.shared * 1]
        found = [
            row @ self.split_features[0] * h for row, h in zip(self.rows, self.heads, strict=True)
        ]
        return dict(zip(TASKS[: len(found)], found, strict=True))


def adam(values, gradients, decay=0.0):
    """Adam at 0.025 by its formula, from some values, after some gradients."""
    mean = square = torch.zeros_like(values)
    for k, gradient in enumerate(gradients, start=1):
        gradient = gradient + decay * values
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + 1e-8)
        values = values - 0.025 * step
    return values


def gradnorm_steps(rows, world=None):
    """The weights in three steps of GradNorm, alpha 0.5, and the gradient in each; losses change
    between them."""
    criterion, model = make_criterion("gradnorm:0.5", TASKS[:2]), Lines(*rows)
    criterion.world = world
    weights, gradients = [], []
    for step in range(3):
        model.zero_grad()
        with torch.no_grad():
            model.shared.copy_(torch.tensor([1.0, 9.0 if step else 1.0]))
        criterion.begin_step(0, step, [])
        criterion.backward(model(), model)
        average_gradients(model.parameters(), world or ALONE)
        weights.append(list(criterion.weights().values()))
        gradients.append([p.grad.tolist() for p in model.parameters()])
    return weights, gradients


def test_gradnorm_by_hand():
    """Losses x and 2 y at (1, 1), then (1, 9); gradients' lengths 1 and 2.

    First G = 1 2, mean 1.5, r = 1 1: signs - +, gradient (-1, 2), and Adam's first step is 0.025
    against it. Then losses are 1 and 9 times the first, r = 0.2 1.8, G = 1.025 1.95, mean 1.4875:
    wanted are 0.665 and 1.996, so the gradient is (1, -2), and Adam's mean has a nineteenth of
    that left: (0.1 - 0.09) / 0.19.
    """
    weights, gradients = gradnorm_steps([(1.0, 0.0), (0.0, 2.0)])
    step = 0.025 / 19
    expected = [[0.5, 0.5], [1.025 / 2, 0.975 / 2], [(1.025 - step) / 2, (0.975 + step) / 2]]
    for found, wanted, gradient in zip(weights, expected, gradients, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)
        assert gradient[0] == pytest.approx([wanted[0], 2 * wanted[1]], abs=1e-6)
    assert gradients[0][1:] == [0.5, 1.0]  # each head's: a . shared times its weight


def test_gradnorm_in_two_processes_is_gradnorm_in_one():
    """Each has half of the batch: what its gradients and losses are is another, their mean is that
    of one."""
    whole = gradnorm_steps([(1.0, 0.0), (0.0, 2.0)])
    parts = [[(2.0, -1.0), (1.0, 3.0)], [(0.0, 1.0), (-1.0, 1.0)]]
    for found in in_two(lambda world: gradnorm_steps(parts[world.rank], world)):
        for one, other in zip(whole, found, strict=True):
            torch.testing.assert_close(flat(one), flat(other))


def flat(nested):
    """All numbers of nested lists, in order."""
    if not isinstance(nested, list):
        return torch.tensor([nested])
    return torch.cat([flat(one) for one in nested])


def test_gradnorm_gives_the_gradient_of_the_weighted_sum():
    for sharing in ("hard", "cross_stitch", "mtan"):
        found = []
        for spec in ("0.2-0.5-0.3", "gradnorm"):
            model, criterion = make_net(sharing), make_criterion(spec)
            criterion.prepare(model)
            criterion.set_weights((0.2, 0.5, 0.3))
            total = criterion.backward(criterion(model(BATCH["image"]), BATCH), model)
            found.append((total, [p.grad for p in model.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def famo_steps(rows, world=None):
    """The weights in three steps of FAMO, and the gradient in each; after each the losses are
    measured at another place."""
    criterion, model = make_criterion("famo", TASKS[:2]), Lines(*rows)
    criterion.world = world
    places = torch.tensor([[1.0, 2.0], [0.5, 1.5], [0.4, 0.5], [0.3, 0.5]])
    weights, gradients = [], []
    for step in range(3):
        model.zero_grad()
        model.shared.data = places[step].clone()
        criterion.begin_step(0, step, [])
        criterion.backward(model(), model)
        average_gradients(model.parameters(), world or ALONE)
        weights.append(list(criterion.weights().values()))
        gradients.append(model.shared.grad.tolist())
        model.shared.data = places[step + 1].clone()
        with torch.no_grad():
            criterion.end_step(model)
    return weights, gradients


def test_famo_by_hand():
    """Losses x and y, at (1, 2), then (0.5, 1.5): z = 1/2 1/2, shares of 1/2 and 1/4 are 2/3 and
    1/3. Logs fall by ln 2 and ln 4/3; J^T of that is 1/4 (a - b) and its negative."""
    weights, gradients = famo_steps([(1.0, 0.0), (0.0, 1.0)])
    assert weights[0] == pytest.approx([2 / 3, 1 / 3]) and gradients[0] == pytest.approx(
        [2 / 3, 1 / 3]
    )
    difference = (math.log(2) - math.log(4 / 3)) / 4
    steps = [torch.tensor([difference, -difference])]
    z = adam(torch.zeros(2), steps, 0.001).softmax(0)
    shares = z / torch.tensor([0.5, 1.5])
    assert weights[1] == pytest.approx((shares / shares.sum()).tolist(), abs=1e-6)
    # Then to (0.4, 0.5): the second fell more, so it weighs less than its logarithm says.
    fall = torch.tensor([math.log(0.5 / 0.4), math.log(1.5 / 0.5)])
    jacobian = torch.diag(z) - torch.outer(z, z)
    xi = adam(torch.zeros(2), [*steps, jacobian @ fall], 0.001)
    shares = xi.softmax(0) / torch.tensor([0.4, 0.5])
    assert weights[2] == pytest.approx((shares / shares.sum()).tolist(), abs=1e-6)


def test_famo_in_two_processes_is_famo_in_one():
    whole = famo_steps([(1.0, 0.0), (0.0, 1.0)])
    parts = [[(1.5, 0.1), (0.0, 1.5)], [(0.5, -0.1), (0.0, 0.5)]]
    for found in in_two(lambda world: famo_steps(parts[world.rank], world)):
        for one, other in zip(whole, found, strict=True):
            torch.testing.assert_close(flat(one), flat(other))


def test_famo_is_torchjds():
    scalarization = pytest.importorskip("torchjd.scalarization")
    other, values = scalarization.FAMO(2), torch.tensor([1.0, 2.0], requires_grad=True)
    weights, _ = famo_steps([(1.0, 0.0), (0.0, 1.0)])
    for step, after in enumerate([(0.5, 1.5), (0.4, 0.5), (0.3, 0.5)]):
        other(values).backward()
        assert values.grad.tolist() == pytest.approx(weights[step], abs=1e-5)
        values = torch.tensor(after, requires_grad=True)
        other.update(values.detach())


@pytest.mark.parametrize("spec", ["gradnorm", "famo"])
def test_a_resumed_run_goes_on_with_what_was_learned_and_a_task_without_labels_takes_no_part(spec):
    criterion, model = make_criterion(spec), Lines((1.0, 0.0), (0.0, 2.0), (1.0, 1.0))
    for step in range(4):
        if step == 2:  # no box in the batch
            criterion.counts["bbox"] = 0
            model.rows = model.rows * torch.tensor([[1.0], [1.0], [0.0]])
        if step == 3:
            torch.save(criterion.state_dict(), buffer := io.BytesIO())
            buffer.seek(0)
            other = make_criterion(spec)
            other.load_state_dict(torch.load(buffer, weights_only=True))
            other.counts = dict(criterion.counts)
        for one in (criterion, other) if step == 3 else (criterion,):
            model.zero_grad()
            one.begin_step(0, step, [])
            one.backward(model(), model)
            one.end_step(lambda: {task: loss / 2 for task, loss in model().items()})
            assert all(p.grad.isfinite().all() for p in model.parameters())
    assert criterion.weights() == other.weights()
    assert torch.equal(criterion.learned.values, other.learned.values)
    assert criterion.learned.values.isfinite().all() and not list(criterion.parameters())


def test_where_nothing_is_labelled_nothing_is_learned():
    for spec in ("gradnorm", "famo"):
        criterion, model = make_criterion(spec), Lines((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
        criterion.counts = dict.fromkeys(TASKS, 0)
        criterion.begin_step(0, 0, [])
        criterion.backward(model(), model)
        criterion.end_step(model)
        assert criterion.learned.values.std() == 0
        assert criterion.weights() == pytest.approx(dict.fromkeys(TASKS, 1 / 3))


def test_gradnorm_is_refused_where_tasks_share_no_parameters():
    with pytest.raises(InputError, match="soft"):
        make_criterion("gradnorm").prepare(make_net("soft"))


# ------------------------------------------------------------------------------------------ torchjd


def test_without_torchjd_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.setattr("weighting.torchjd.version", lambda name: raise_missing())
    with pytest.raises(InputError, match="pip install -r requirements-torchjd.txt"):
        make_criterion("torchjd:UPGrad", TASKS)


def raise_missing():
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError("torchjd")


# ------------------------------------------------------------------------------------------ torchjd

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


def backward(criterion, model):
    criterion.prepare(model)
    model.zero_grad()
    return criterion.backward(model(), model)


def test_upgrad_by_hand(torchjd):
    """Gradients (2, 0) and (-2, 2): each projected onto the vectors that hurt neither is (1, 1) and
    (0, 2); their mean (0.5, 1.5)."""
    model, criterion = (
        Lines((1.0, 0.0), (-1.0, 1.0), head=2.0),
        make_criterion("torchjd:UPGrad", TASKS[:2]),
    )
    total = backward(criterion, model)
    assert model.shared.grad.tolist() == pytest.approx([0.5, 1.5], abs=1e-3)
    assert [head.grad.item() for head in model.heads] == [1, 0]  # each its own loss's: a . shared
    assert total.item() == pytest.approx((2 + 0) / 2) and model.split_features == []
    # 1.0 and 0.75 of the rows give that: 2 a - 2 b = 0.5 and 2 b = 1.5.
    assert criterion.weights() == pytest.approx({"seg": 1.0, "cls": 0.75}, abs=1e-3)


def test_pcgrad_by_hand(torchjd):
    """(2, 0) and (-2, 2): the first without its part along the second is (1, 1), the second without
    its along the first (0, 2)."""
    model = Lines((1.0, 0.0), (-1.0, 1.0), head=2.0)
    backward(make_criterion("torchjd:PCGrad", TASKS[:2]), model)
    assert model.shared.grad.tolist() == pytest.approx([1, 3], abs=1e-5)


def test_the_mean_as_an_aggregator_is_equal_weighting_in_the_shared_parameters(torchjd):
    for sharing in ("hard", "cross_stitch", "mtan"):
        found = []
        for spec in ("equal", "torchjd:aggregation.Mean"):
            model, criterion = make_net(sharing), make_criterion(spec)
            criterion.prepare(model)
            total = criterion.backward(criterion(model(BATCH["image"]), BATCH), model)
            assert all(p.grad is not None for p in model.parameters())
            shared = [p.grad for p in model.shared_parameters()]
            found.append((total, shared, model.seg.logits.weight.grad))
        (total, shared, head), (other, again, whole) = found
        assert other.item() == pytest.approx(total.item())
        torch.testing.assert_close(shared, again, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(3 * head, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", ["equal", "torchjd:PCGrad", "gradnorm"])
def test_an_update_moves_each_place_by_its_own_gradient(torchjd, spec):
    """Networks train in channels_last, and fused AdamW takes gradients for laid out as their
    parameters: an aggregator's, which are not, would move other places than theirs. Against the
    first step of AdamW by its formula: p - lr (decay p + g / (|g| + eps))."""
    model, criterion = make_net(width=4), make_criterion(spec)
    model = model.to(memory_format=torch.channels_last)
    criterion.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05, fused=True)
    criterion.backward(criterion(model(BATCH["image"]), BATCH), model)
    average_gradients(model.parameters(), ALONE)
    expected = []
    for p in model.parameters():
        step = 0.05 * p.detach() + p.grad / (p.grad.abs() + 1e-8)
        expected.append(p.detach() - 0.01 * step)
    optimizer.step()
    torch.testing.assert_close([p.detach() for p in model.parameters()], expected)


def method_names():
    try:
        from weighting.torchjd import find_classes

        return [(kind, one.__name__) for kind, one in find_classes()]
    except (ImportError, InputError):
        return [("aggregation", "UPGrad")]


@pytest.mark.parametrize("spec", ["torchjd:UPGrad", "torchjd:GeometricMean", "torchjd:UW"])
def test_two_processes_give_the_gradients_of_one(torchjd, spec):
    """Each has half of the batch; the mean of what they have is that of one."""

    def gradients(rows, world=None):
        model, criterion = Lines(*rows), make_criterion(spec, TASKS[:2])
        criterion.world = world
        criterion.prepare(model)
        criterion.backward(model(), model)
        parameters = [*model.parameters(), *criterion.parameters()]
        average_gradients(parameters, world or ALONE)
        return [p.grad.clone() for p in parameters], criterion.weights()

    whole = gradients([(1.0, 0.0), (-0.5, 2.0)])
    parts = [[(2.0, -1.0), (1.0, 3.0)], [(0.0, 1.0), (-2.0, 1.0)]]
    for found in in_two(lambda world: gradients(parts[world.rank], world)):
        torch.testing.assert_close(found[0], whole[0])
        assert found[1] == pytest.approx(whole[1])


@pytest.mark.parametrize("kind, name", method_names())
def test_every_method_of_torchjd_takes_steps_goes_on_from_its_state_and_bears_a_task_without_labels(
    torchjd, kind, name
):
    """What is remembered after two steps, given to a new one, makes the third step the same."""
    spec = f"torchjd:{kind}.{name}{ALL.get(name, '')}"
    model, criterion = Lines((1.0, 0.0), (-1.0, 1.0), (0.5, 0.5)), make_criterion(spec, TASKS)
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
    model = Lines((1.0, 0.0), (-1.0, 1.0), (0.0, 0.0), head=2.0)
    criterion = make_criterion("torchjd:PCGrad")
    backward(criterion, model)
    assert model.shared.grad.tolist() == pytest.approx([1, 3], abs=1e-5)  # as of two
    assert criterion.weights()["bbox"] == 0 and model.heads[2].grad.item() == 0


def test_a_scalarizer_by_hand(torchjd):
    """The root of 1 * 4 is 2, and its gradient 2 / (2 * 1) and 2 / (2 * 4); a loss of 0 is left
    out."""
    model, criterion = (
        Lines((1.0, 0.0), (2.0, 2.0)),
        make_criterion("torchjd:GeometricMean", TASKS[:2]),
    )
    assert backward(criterion, model).item() == pytest.approx(2)
    assert criterion.weights() == pytest.approx({"seg": 1, "cls": 0.25})
    assert model.shared.grad.tolist() == pytest.approx([1.5, 0.5])
    model.rows = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert backward(criterion, model).item() == pytest.approx(1)
    assert model.shared.grad.tolist() == [1, 0] and model.heads[1].grad.item() == 0


def test_learned_weights_are_parameters_of_the_criterion(torchjd):
    assert [p.shape for p in make_criterion("torchjd:UW").parameters()] == [(3,)]
    assert list(make_criterion("torchjd:UPGrad").parameters()) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":Nothing",
        ":CAGrad",
        ":UPGrad:d=1",
        ":CAGrad:c=-1",
        ":CAGrad:c",
        ":CAGrad:c=__import__('os')",
        ":FAMO",
        ":Krum:n_byzantine=2",
        ":TrimmedMean:trim_number=2",
        ":aggregation.UW",
        ":WeightedAggregator",
    ],
)
def test_methods_that_cannot_be_made_are_refused(torchjd, name):
    with pytest.raises(InputError, match="torchjd") as error:
        make_criterion(f"torchjd{name}")
    assert "\n" not in str(error.value)


def test_aggregators_are_refused_where_tasks_share_no_parameters(torchjd):
    with pytest.raises(InputError, match="soft"):
        make_criterion("torchjd:UPGrad").prepare(make_net("soft"))
    make_criterion("torchjd:UW").prepare(make_net("soft"))


def test_another_version_of_torchjd_is_refused(torchjd, monkeypatch):
    monkeypatch.setattr("weighting.torchjd.version", lambda name: "0.19.1")
    with pytest.raises(InputError, match="0.19.1"):
        make_criterion("torchjd:UPGrad", TASKS)


def test_a_weighting_of_ones_own_shares_as_it_says():
    class Own(Weighting):
        def begin_step(self, epoch, step, history):
            self.set_weights([1, 1, 2])

    criterion = Own("own", None, registry.find_tasks(TASKS))
    criterion.begin_step(0, 0, [])
    assert list(criterion.weights().values()) == [0.25, 0.25, 0.5] and criterion.spec == "own"
