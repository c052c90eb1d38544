"""The networks: outputs of the contract, shared initial weights, boxes that reach every place."""

import itertools

import numpy as np
import pytest
import torch

import models
import registry
from models import BoxHead, MTLNet, count_parameters, standardised

PUBLISHED = ("seg", "cls", "bbox")
CONFIGURATIONS = [PUBLISHED, ("seg",), ("seg", "cls"), ("seg", "bbox")]


def network(names=PUBLISHED, **options):
    return MTLNet(registry.find_tasks(names), **{"width": 2, **options})


def images(n, height=64, width=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("names", CONFIGURATIONS)
@pytest.mark.parametrize("height, width", [(64, 64), (50, 77), (32, 160)])
def test_outputs_have_the_contracts_keys_and_shapes(names, height, width):
    outputs = network(names, width=4).eval()(images(2, height, width))
    shapes = {"seg": (2, 1, height, width), "cls": (2, 2), "bbox": (2, 4)}
    assert list(outputs) == list(names)
    for name, value in outputs.items():
        assert value.shape == shapes[name] and value.dtype == torch.float32


@pytest.mark.parametrize("names", CONFIGURATIONS)
def test_only_the_asked_tasks_exist(names):
    assert {name for name, _ in network(names).named_children()} == {"encoder", *names}


def test_default_width_has_about_three_million_parameters():
    assert 3.0e6 < count_parameters(MTLNet(registry.find_tasks(PUBLISHED))) < 3.5e6


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(2, 33, 47), (1, 32, 32), (2, 1, 5)])
def test_images_are_standardised_to_the_bit_and_left_as_they_are(shape, dtype, layout):
    image = images(*shape).to(dtype).contiguous(memory_format=layout)
    before = image.clone()
    mean = torch.tensor([123.7, 116.3, 103.5]).view(3, 1, 1)
    std = torch.tensor([58.4, 57.1, 57.4]).view(3, 1, 1)
    pixels, expected = standardised(image, mean, std), (image.float() - mean) / std
    assert torch.equal(pixels, expected) and pixels.stride() == expected.stride()
    assert torch.equal(image, before)


def test_bytes_and_floats_give_the_same():
    model, image = network().eval(), images(1)
    for a, b in zip(model(image).values(), model(image.float()).values(), strict=True):
        assert torch.equal(a, b)


def test_configurations_of_one_seed_share_their_initial_weights():
    full = network(width=4, seed=3).state_dict()
    for names in CONFIGURATIONS[1:]:
        other = network(names, width=4, seed=3).state_dict()
        assert all(torch.equal(full[name], value) for name, value in other.items())
    other = network(width=4, seed=4).state_dict()
    assert not torch.equal(full["encoder.stem.0.weight"], other["encoder.stem.0.weight"])


def test_a_seed_may_be_an_integer_of_numpy_and_no_other_number():
    expected = network(seed=3).state_dict()
    weights = network(seed=np.int64(3)).state_dict()
    assert models.digest(weights) == models.digest(expected)
    with pytest.raises(TypeError):
        network(seed=3.0)


def test_initialisation_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network(seed=9)
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
    """A side lies in -1.125 to 2.125, and d box / d score = p (side - box), p (1 - p) <= 1/4."""
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
    model, image = network(), images(4)
    sum(value.sum() for value in model(image).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    first, second = model(image), model(image)
    assert all(torch.equal(first[name], second[name]) for name in PUBLISHED)


def test_recorded_features_are_all_that_the_losses_take_from_the_encoder():
    model = network()
    model(images(2))
    assert model.split_features == []
    model.record_features = True
    outputs = model(images(2))
    total = sum(value.sum() for value in outputs.values())
    gradients = torch.autograd.grad(total, model.split_features, retain_graph=True)
    torch.autograd.backward(model.split_features, gradients, retain_graph=True)
    through = [p.grad.clone() for p in model.shared_parameters()]
    model.zero_grad()
    total.backward()
    for a, b in zip(through, model.shared_parameters(), strict=True):
        assert torch.equal(a, b.grad)
    with torch.no_grad():
        model(images(2))
    assert model.split_features == []


def test_the_network_of_some_of_its_tasks_answers_as_the_whole():
    model = network().eval()
    part, image = model.subset(["bbox", "seg"]), images(2)
    whole, answers = model(image), part(image)
    assert not part.training and part.tasks == ("bbox", "seg") and part.dropped == ("cls",)
    assert all(torch.equal(answers[name], whole[name]) for name in answers)
    with pytest.raises(ValueError):
        model.subset(["seg", "depth"])


def test_frozen_statistics_stay_in_training():
    model = network()
    model.freeze_statistics = True
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(images(2))
    for name, value in model.named_buffers():
        if "num_batches" in name:
            assert (value == before[name]) == name.startswith("encoder")


@pytest.mark.parametrize("names, width", [((), 4), (("seg", "seg"), 4), (("seg",), 0)])
def test_wrong_configurations_are_refused(names, width):
    with pytest.raises(ValueError):
        MTLNet([registry.find("tasks", name) for name in names], width)


def test_a_task_may_not_be_called_as_a_part_of_the_network():
    task = registry.find("tasks", "seg")
    task.name = "encoder"
    with pytest.raises(ValueError):
        MTLNet([task], 2)


def test_every_subset_of_tasks_can_be_built():
    for n in (1, 2, 3):
        for names in itertools.combinations(PUBLISHED, n):
            model = network(names, width=1).eval()
            assert set(model(torch.zeros(1, 3, 32, 32))) == set(names)
