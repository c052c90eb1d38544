"""The networks: outputs of the contract, shared initial weights, boxes that can reach every place."""

import itertools

import pytest
import torch

from cli import InputError
from models import BoxHead, MTLNet, count_parameters, standardised
from registry import PUBLISHED

CONFIGURATIONS = [("seg", "cls", "bbox"), ("seg",), ("seg", "cls"), ("seg", "bbox")]


@pytest.mark.parametrize("tasks", CONFIGURATIONS)
@pytest.mark.parametrize("height, width", [(64, 64), (50, 77), (32, 160)])
def test_outputs_have_the_contracts_keys_and_shapes(tasks, height, width):
    model = MTLNet(tasks, width=4).eval()
    outputs = model(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
    shapes = {"seg": (2, 1, height, width), "cls": (2, 2), "bbox": (2, 4)}
    assert {task: tuple(value.shape) for task, value in outputs.items()} == {
        task: shapes[task] for task in tasks
    }
    assert all(value.dtype == torch.float32 for value in outputs.values())


@pytest.mark.parametrize("tasks", CONFIGURATIONS)
def test_only_the_asked_tasks_exist(tasks):
    assert {name for name, _ in MTLNet(tasks, width=2).named_children()} == {"encoder", *tasks}


def test_default_width_has_about_three_million_parameters():
    assert 3.0e6 < count_parameters(MTLNet(PUBLISHED)) < 3.5e6


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(2, 3, 33, 47), (1, 3, 32, 32), (2, 3, 1, 5)])
def test_images_are_standardised_to_the_bit_and_left_as_they_are(shape, dtype, layout):
    image = (
        torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
        .to(dtype)
        .contiguous(memory_format=layout)
    )
    mean, std, before = (
        torch.tensor([123.7, 116.3, 103.5]).view(3, 1, 1),
        torch.tensor([58.4, 57.1, 57.4]).view(3, 1, 1),
        image.clone(),
    )
    found, wanted = standardised(image, mean, std), (image.float() - mean) / std
    assert (
        torch.equal(found, wanted)
        and found.stride() == wanted.stride()
        and torch.equal(image, before)
    )


def test_bytes_and_floats_give_the_same():
    model = MTLNet(PUBLISHED, width=2).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    for a, b in zip(model(image).values(), model(image.float()).values()):
        assert torch.equal(a, b)


def test_configurations_of_one_seed_share_their_initial_weights():
    full = MTLNet(PUBLISHED, width=4, seed=3).state_dict()
    for tasks in CONFIGURATIONS[1:]:
        other = MTLNet(tasks, width=4, seed=3).state_dict()
        assert all(torch.equal(full[name], value) for name, value in other.items())
    assert not torch.equal(
        full["encoder.stem.0.weight"],
        MTLNet(PUBLISHED, width=4, seed=4).state_dict()["encoder.stem.0.weight"],
    )


def test_initialisation_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    MTLNet(PUBLISHED, width=2, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_boxes_are_ordered_and_inside_whatever_the_weights():
    torch.manual_seed(0)
    for scale in (0.1, 1, 10, 100):
        head = BoxHead(8)
        torch.nn.init.normal_(head.cells.weight, std=scale)
        x1, y1, x2, y2 = head([torch.randn(32, 8, 3, 5) * scale], None).detach().T
        assert ((x1 >= 0) & (x1 <= x2) & (x2 <= 1) & (y1 >= 0) & (y1 <= y2) & (y2 <= 1)).all()


@pytest.mark.parametrize(
    "target",
    [
        (0.0, 0.0, 0.05, 0.05),
        (0.95, 0.95, 1.0, 1.0),
        (0.0, 0.9, 0.1, 1.0),
        (0.0, 0.0, 1.0, 1.0),
        (0.4, 0.1, 0.45, 0.9),
        (0.1, 0.2, 0.3, 0.25),
    ],
)
def test_boxes_reach_every_place(target):
    # The published head could not give a coordinate under 0.5.
    torch.manual_seed(0)
    head, features, target = BoxHead(8).eval(), torch.randn(1, 8, 4, 4), torch.tensor([target])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.005)
    for _ in range(400):
        optimizer.zero_grad()
        (head([features], None) - target).square().sum().backward()
        optimizer.step()
    assert (head([features], None) - target).abs().max() < 0.02


@pytest.mark.parametrize("scale", [0.1, 1, 10, 100])
def test_no_score_can_throw_the_box_about(scale):
    """A side lies between -1.125 and 2.125 whatever the weights, and d box / d score = p (side - box), p (1 - p) <= 1/4."""
    torch.manual_seed(0)
    head, kept = BoxHead(8), []
    torch.nn.init.normal_(head.cells.weight, std=scale)
    head.cells.register_forward_hook(
        lambda module, inputs, output: output.retain_grad() or kept.append(output)
    )
    for side in range(4):
        head([torch.randn(32, 8, 3, 5)], None)[:, side].sum().backward()
        assert 0 < kept[-1].grad[:, 0].abs().max() <= 3.25 / 4


def test_a_box_outside_the_frame_still_learns():
    head = BoxHead(8).eval()
    with torch.no_grad():  # sides far outside: the output is clamped to the whole frame
        head.cells.bias.copy_(torch.tensor([0.0, -2, -2, 2, 2]))
    box = head([torch.zeros(1, 8, 2, 2)], None)
    assert box.tolist() == [[0, 0, 1, 1]]
    (box - torch.tensor([[0.2, 0.2, 0.8, 0.8]])).abs().sum().backward()
    assert head.cells.bias.grad[1:].abs().min() > 0


def test_evaluation_is_deterministic_and_gradients_reach_every_parameter():
    model = MTLNet(PUBLISHED, width=2)
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    sum(value.sum() for value in model(image).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(model(image).values(), model(image).values()))


@pytest.mark.parametrize(
    "tasks, width, error",
    [
        ((), 4, ValueError),
        (("seg", "seg"), 4, ValueError),
        (("seg",), 0, ValueError),
        (("seg", "depth"), 4, InputError),
    ],
)
def test_wrong_configurations_are_refused(tasks, width, error):
    with pytest.raises(error):
        MTLNet(tasks, width=width)


def test_every_subset_of_tasks_can_be_built():
    for n in (1, 2, 3):
        for tasks in itertools.combinations(PUBLISHED, n):
            assert set(MTLNet(tasks, width=1).eval()(torch.zeros(1, 3, 32, 32))) == set(tasks)
