"""Looking at photographs in parts, at tiles and at mirror images, by networks that mark what is bright: what comes out is known."""

import pytest
import torch
from torch.nn import functional as F

import registry
from models import MTLNet
from registry import PUBLISHED
from training import looking

SIZE = 32


class Bright(torch.nn.Module):
    """Marks bright squares of at least `least` pixels a side as it sees them: logits of 3, -1 elsewhere; its box is around all of
    them, and the logits of its two classes are the shares of red and of blue in them."""

    def __init__(self, least=1, tasks=PUBLISHED):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.task, self.least, self.seen = registry.tasks(tasks), least, 0

    def forward(self, image):
        self.seen += len(image)
        bright = (image.amax(1, keepdim=True) > 127).float()
        worn = -F.max_pool2d(-bright, self.least, 1)
        seen = F.max_pool2d(F.pad(worn, [self.least - 1] * 4), self.least, 1) > 0.5
        outputs = {
            "seg": torch.where(seen, 3.0, -1.0),
            "bbox": torch.stack([box_around(one[0]) for one in seen]),
            "cls": torch.stack([(image[:, k] > 127).flatten(1).float().mean(1) for k in (0, 2)], 1),
            "recon": image / 255,
        }
        return {name: outputs[name] for name in self.task}


def box_around(mask):
    """(4,) normalised xyxy around what is true; all zero where nothing is."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return torch.zeros(4)
    h, w = mask.shape
    return torch.stack(
        [columns.min() / w, rows.min() / h, (columns.max() + 1) / w, (rows.max() + 1) / h]
    )


def picture(height, width, *squares):
    """(3, H, W) uint8, black with (left, top, side, channel) bright in one colour."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for left, top, side, channel in squares:
        image[channel, top : top + side, left : left + side] = 255
    return image


# ------------------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("height, width", [(100, 100), (100, 300), (300, 100), (1, 1), (3, 1)])
def test_up_to_three_to_one_a_picture_is_looked_at_whole(height, width):
    assert looking.parts_of(height, width).tolist() == [[0, 0, 1, 1]]


def test_a_panorama_is_looked_at_in_overlapping_squares():
    parts = looking.parts_of(100, 400)
    # (400 - 100) / (100 * 2/3) = 4.5 steps, so 5 of 60 pixels.
    assert (
        parts[:, 0].tolist() == pytest.approx([0, 0.15, 0.3, 0.45, 0.6, 0.75])
        and (parts[:, 1:] == torch.tensor([0, 0.25, 1])).all()
    )
    assert torch.equal(looking.parts_of(400, 100), parts[:, [1, 0, 3, 2]])


@pytest.mark.parametrize("height, width", [(1, 60_000), (100, 301), (7, 100_000), (1000, 1)])
def test_parts_cover_the_picture_and_are_never_too_many(height, width):
    parts = looking.parts_of(height, width)
    lefts, wide = (parts[:, 0], parts[:, 2]) if width > height else (parts[:, 1], parts[:, 3])
    assert (
        len(parts) <= looking.MOST_PARTS
        and lefts[0] == 0
        and (lefts + wide)[-1] == pytest.approx(1)
    )
    assert (
        lefts[1:] - lefts[:-1] <= wide[0] * (1 - looking.OVERLAP) + 1.01 / max(height, width)
    ).all()


def test_a_picture_of_one_part_is_what_the_network_sees():
    model, image = (
        MTLNet(PUBLISHED, width=2).eval(),
        torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8),
    )
    outputs = looking.outputs_of(model, image, SIZE)
    with torch.no_grad():
        assert all(
            torch.equal(outputs[name], value[0]) for name, value in model(image[None]).items()
        )


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_in_a_panorama_is_found_where_it_is(turned):
    image = picture(32, 256, (10, 4, 8, 0), (200, 12, 16, 2))
    expected = image.amax(0) > 127
    image, expected = (image.mT, expected.T) if turned else (image, expected)
    model = Bright()
    assert torch.equal(looking.predict(model, image, SIZE)["seg"], expected)
    assert model.seen == 12  # 7 / (2/3) = 10.5 steps
    small = looking.predict(model, image, SIZE, [side // 2 for side in image.shape[1:]])["seg"]
    assert torch.equal(small, expected[::2, ::2])


def test_the_box_and_the_class_are_of_where_most_is_seen():
    # A red square of 8 and a blue one of 16: together 320 pixels, no part has both.
    answers = looking.predict(Bright(), picture(32, 256, (10, 4, 8, 0), (186, 12, 16, 2)), SIZE)
    x1, y1, x2, y2 = answers["bbox"].tolist()
    assert (x1 * 256, y1 * 32, x2 * 256, y2 * 32) == pytest.approx((186, 12, 202, 28))
    outputs = looking.outputs_of(Bright(), picture(32, 256, (10, 4, 8, 0), (186, 12, 16, 2)), SIZE)[
        "cls"
    ]
    assert outputs[1] > 4 * outputs[0] > 0


# ------------------------------------------------------------------------------------------------------- merging by hand


def test_maps_fade_into_each_other():
    # Two halves of 4 and 4 of 6 pixels: their tents are 1, 3, 3, 1 eighths; where both are, the sums are 3 + 1 and 1 + 3.
    windows = torch.tensor([[0, 0, 2 / 3, 1], [1 / 3, 0, 2 / 3, 1]])
    maps = torch.stack([torch.full((1, 2, 4), 8.0), torch.zeros(1, 2, 4)])
    merged = registry.find("tasks", "seg").merge(maps, windows, torch.ones(2))
    assert merged.shape == (1, 2, 6) and merged[0, 1].tolist() == pytest.approx([8, 8, 6, 2, 0, 0])


def test_maps_of_two_scales_are_their_mean_at_the_finer():
    tiles = [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    maps = torch.tensor([2.0, 4, 6, 8, 10]).view(5, 1, 1, 1).expand(5, 1, 3, 3)
    merged = registry.find("tasks", "seg").merge(
        maps, torch.tensor([[0, 0, 1, 1], *tiles]), torch.ones(5)
    )
    assert merged.shape == (1, 6, 6)
    assert [merged[0, y, x].item() for y, x in ((0, 0), (2, 3), (3, 2), (5, 5))] == pytest.approx(
        [3, 4, 5, 6]
    )


def test_distances_are_in_sides_of_the_picture():
    windows = torch.tensor(
        [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    )
    merged = registry.find("tasks", "distance").merge(
        torch.full((4, 1, 2, 2), 0.4), windows, torch.ones(4)
    )
    assert torch.allclose(merged, torch.tensor(0.2))


def test_numbers_are_the_mean_by_what_each_part_holds():
    outputs, windows = torch.tensor([[1.0, 0], [0, 1], [5, 5]]), torch.tensor([[0.0, 0, 1, 1]] * 3)
    assert registry.find("tasks", "cls").merge(
        outputs, windows, torch.tensor([0.9, 0.3, 0])
    ).tolist() == pytest.approx([0.75, 0.25])


def test_a_box_is_of_the_smallest_part_that_holds_nearly_all_or_of_what_holds_most():
    task, windows = (
        registry.find("tasks", "bbox"),
        torch.tensor([[0, 0, 1, 1], [0.5, 0.25, 0.5, 0.5], [0, 0, 0.5, 0.5]]),
    )
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.9], [0, 0.5, 1, 1], [0, 0, 1, 1]])
    assert task.merge(boxes, windows, torch.tensor([1, 0.95, 0.3])).tolist() == pytest.approx(
        [0.5, 0.5, 1, 0.75]
    )
    assert task.merge(boxes, windows, torch.tensor([1, 0.8, 0.3])).tolist() == pytest.approx(
        [0.1, 0.1, 0.9, 0.9]
    )
    assert task.merge(boxes[1:], windows[1:], torch.tensor([0.3, 0.6])).tolist() == pytest.approx(
        [0, 0, 0.5, 0.5]
    )


@pytest.mark.parametrize("tasks", [("recon",), ("cls",), ("bbox", "recon"), PUBLISHED])
def test_parts_are_merged_whatever_a_network_tells(tasks):
    outputs = looking.outputs_of(
        Bright(tasks=tasks), picture(32, 256), SIZE, tiles=True, mirror=True
    )
    assert list(outputs) == list(tasks) and all(
        value.isfinite().all() for value in outputs.values()
    )


def test_where_no_pet_is_seen_there_is_no_head_box():
    nothing, something = picture(SIZE, SIZE), picture(SIZE, SIZE, (4, 4, 8, 0))
    seen = looking.predict(Bright(), nothing, SIZE)
    assert seen["bbox"] is None and seen["cls"][0] == "neither" and not seen["seg"].any()
    assert looking.predict(Bright(), something, SIZE)["bbox"] is not None
    assert (
        looking.predict(Bright(tasks=("bbox",)), nothing, SIZE)["bbox"] is not None
    )  # nothing tells where a pet is


# ------------------------------------------------------------------------------------------------------ tiles and mirror


def test_tiles_find_what_is_too_small_in_the_whole():
    # 12 of 128 pixels are 3 of 32 as the whole is seen, and 6 in a tile.
    image, model = picture(128, 128, (84, 20, 12, 0)), Bright(least=5)
    assert not looking.predict(model, image, SIZE)["seg"].any() and model.seen == 1
    found = looking.predict(model, image, SIZE, tiles=True)
    assert model.seen == 1 + 1 + 9
    rows, columns = found["seg"].any(1).nonzero(), found["seg"].any(0).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx(
        (20, 31, 84, 95), abs=1
    )
    assert (found["bbox"] * 128).tolist() == pytest.approx([84, 20, 96, 32], abs=2)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 5000), (2, 3), (5000, 3), (33, 100)])
def test_tiles_of_any_picture(height, width):
    model, image = (
        MTLNet(PUBLISHED, width=2).eval(),
        torch.zeros(3, height, width, dtype=torch.uint8),
    )
    assert looking.predict(model, image, SIZE, tiles=True)["seg"].shape == (height, width)
    box = looking.outputs_of(model, image, SIZE, tiles=True)["bbox"]
    assert (box >= 0).all() and (box <= 1.001).all()


def test_the_mirror_image_gives_the_mean():
    model = MTLNet((*PUBLISHED, "recon"), width=2).eval()
    image = torch.randint(
        0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    seen, mirrored, both = (
        looking.outputs_of(model, *way)
        for way in ((image, SIZE), (image.flip(-1), SIZE), (image, SIZE, False, True))
    )
    for name in ("seg", "recon"):
        assert torch.equal(both[name], (seen[name] + mirrored[name].flip(-1)) / 2)
    assert torch.equal(both["cls"], (seen["cls"] + mirrored["cls"]) / 2)
    x1, y1, x2, y2 = mirrored["bbox"]
    assert torch.equal(both["bbox"], (seen["bbox"] + torch.stack([1 - x2, y1, 1 - x1, y2])) / 2)
    assert not torch.equal(both["seg"], seen["seg"])


def test_with_mirrors_a_mirrored_panorama_is_seen_as_the_mirror_image():
    model = MTLNet(PUBLISHED, width=2).eval()
    image = torch.randint(
        0, 256, (3, 40, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    one, other = (
        looking.outputs_of(model, way, SIZE, tiles=True, mirror=True)
        for way in (image, image.flip(-1))
    )
    assert torch.allclose(one["seg"], other["seg"].flip(-1), atol=1e-4) and torch.allclose(
        one["cls"], other["cls"], atol=1e-4
    )
