"""Inference in windows, with flips and several animals, by networks that mark what is bright."""

import pytest
import torch
from torch.nn import functional as F

import registry
from inference import tta
from models import MTLNet

SIZE = 32
PUBLISHED = ("seg", "cls", "bbox")


class Bright(torch.nn.Module):
    """Marks bright squares of at least `least` pixels a side; its box is around all of them, and
    the logits of its two classes are the shares of red and of blue."""

    def __init__(self, least=1, tasks=PUBLISHED):
        super().__init__()
        self.task = {task.name: task for task in registry.find_tasks(tasks)}
        self.least, self.seen = least, 0

    def forward(self, image):
        self.seen += len(image)
        bright = (image.amax(1, keepdim=True) > 127).float()
        worn = -F.max_pool2d(-bright, self.least, 1)
        found = F.max_pool2d(F.pad(worn, [self.least - 1] * 4), self.least, 1) > 0.5
        colours = [(image[:, k] > 127).flatten(1).float().mean(1) for k in (0, 2)]
        outputs = {
            "seg": torch.where(found, 3.0, -1.0),
            "bbox": torch.stack([box_around(one[0]) for one in found]),
            "cls": 100 * torch.stack(colours, 1),
            "recon": image / 255,
        }
        return {name: outputs[name] for name in self.task}


def box_around(mask):
    """(4,) normalised xyxy around what is true; zero where nothing is."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return torch.zeros(4)
    h, w = mask.shape
    box = [columns.min() / w, rows.min() / h, (columns.max() + 1) / w, (rows.max() + 1) / h]
    return torch.stack(box)


def picture(height, width, *squares):
    """(3, H, W) uint8, black with squares (left, top, side, channel) bright in one colour."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for left, top, side, channel in squares:
        image[channel, top : top + side, left : left + side] = 255
    return image


def predict(model, image, **options):
    seen = tta.look(model, image, SIZE, **options)
    return tta.answers(model.task, seen.outputs, *image.shape[-2:])


def task(name):
    return registry.find("tasks", name)


def real_network(*tasks):
    return MTLNet(registry.find_tasks(tasks), width=2).eval()


def noise(height, width):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


# ------------------------------------------------------------ windows


@pytest.mark.parametrize("shape", [(100, 100), (100, 300), (300, 100), (1, 1), (3, 1)])
def test_up_to_three_to_one_one_window_is_the_whole(shape):
    assert tta.make_windows(*shape).tolist() == [[0, 0, 1, 1]]


def test_a_panorama_has_overlapping_windows():
    windows = tta.make_windows(100, 400)
    # (400 - 100) / (100 * 2/3) = 4.5 steps, so 5 of 60 pixels.
    assert windows[:, 0].tolist() == pytest.approx([0, 0.15, 0.3, 0.45, 0.6, 0.75])
    assert (windows[:, 1:] == torch.tensor([0, 0.25, 1])).all()
    assert torch.equal(tta.make_windows(400, 100), windows[:, [1, 0, 3, 2]])


@pytest.mark.parametrize("shape", [(1, 60_000), (100, 301), (7, 100_000), (1000, 1)])
def test_windows_cover_the_picture_and_are_never_too_many(shape):
    windows = tta.make_windows(*shape)
    along = 0 if shape[1] > shape[0] else 1
    starts, sides = windows[:, along], windows[:, along + 2]
    assert len(windows) <= tta.MAX_WINDOWS and starts[0] == 0
    assert (starts + sides)[-1] == pytest.approx(1)
    steps = starts[1:] - starts[:-1]
    assert (steps <= sides[0] * (1 - tta.OVERLAP) + 1.01 / max(shape)).all()


def test_one_window_is_what_the_network_sees():
    model, image = real_network(*PUBLISHED), noise(SIZE, SIZE)
    outputs = tta.look(model, image, SIZE).outputs
    with torch.no_grad():
        expected = model(image[None])
    assert all(torch.equal(outputs[name], value[0]) for name, value in expected.items())


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_in_a_panorama_is_found_where_it_is(turned):
    image = picture(32, 256, (200, 12, 16, 2))
    image = image.mT if turned else image
    model = Bright()
    assert torch.equal(predict(model, image)["seg"], image.amax(0) > 127)
    assert model.seen == 12  # 7 / (2/3) = 10.5 steps


def test_box_and_class_come_from_the_window_with_most_of_the_foreground():
    # A red square of 8 and a blue one of 16: together 320 pixels, no window has both.
    image = picture(32, 256, (10, 4, 8, 0), (186, 12, 16, 2))
    outputs = tta.look(Bright(), image, SIZE).outputs
    sides = outputs["bbox"] * torch.tensor([256, 32, 256, 32])
    assert sides.tolist() == pytest.approx([186, 12, 202, 28])
    assert outputs["cls"][1] > 4 * outputs["cls"][0] > 0


# ------------------------------------------------------------ merging, by hand


def test_maps_fade_into_each_other():
    # Two windows of 4 of 6 pixels: their tents are 1, 3, 3, 1 eighths.
    windows = torch.tensor([[0, 0, 2 / 3, 1], [1 / 3, 0, 2 / 3, 1]])
    maps = torch.stack([torch.full((1, 2, 4), 8.0), torch.zeros(1, 2, 4)])
    merged = tta.blend(maps, windows)
    assert merged.shape == (1, 2, 6)
    assert merged[0, 1].tolist() == pytest.approx([8, 8, 6, 2, 0, 0])


def test_maps_of_two_sizes_are_averaged_at_the_finer_one():
    quarters = [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    maps = torch.tensor([2.0, 4, 6, 8, 10]).view(5, 1, 1, 1).expand(5, 1, 3, 3)
    merged = tta.blend(maps, torch.tensor([[0, 0, 1, 1], *quarters]))
    assert merged.shape == (1, 6, 6)
    values = [merged[0, y, x].item() for y, x in ((0, 0), (2, 3), (3, 2), (5, 5))]
    assert values == pytest.approx([3, 4, 5, 6])


def test_distances_are_in_sides_of_the_picture():
    placed = task("distance").unwindow(torch.full((1, 2, 2), 0.4), (0, 0, 0.5, 0.25))
    assert torch.allclose(placed, torch.tensor(0.2))


def test_a_box_is_placed_in_the_picture():
    placed = task("bbox").unwindow(torch.tensor([0, 0.5, 1, 1]), (0.5, 0.25, 0.5, 0.5))
    assert placed.tolist() == pytest.approx([0.5, 0.5, 1, 0.75])


def test_the_best_window_is_the_smallest_that_holds_nearly_all_else_the_fullest():
    windows = torch.tensor([[0, 0, 1, 1], [0.5, 0.25, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    assert tta.best_window(torch.tensor([1, 0.95, 0.3]), windows) == 1
    assert tta.best_window(torch.tensor([1, 0.8, 0.3]), windows) == 0
    assert tta.best_window(torch.tensor([0.2, 0.3, 0.6]), windows) == 2


@pytest.mark.parametrize("tasks", [("recon",), ("cls",), ("bbox", "recon"), PUBLISHED])
def test_windows_are_merged_whatever_a_network_tells(tasks):
    model = Bright(tasks=tasks)
    outputs = tta.look(model, picture(32, 256), SIZE, sliding_window=True, hflip=True).outputs
    assert list(outputs) == list(tasks)
    assert all(value.isfinite().all() for value in outputs.values())


# ------------------------------------------------------------ none, several


def test_without_a_foreground_there_is_no_head_box():
    seen = predict(Bright(), picture(SIZE, SIZE))
    assert seen["bbox"] is None and seen["cls"][0] == "no cat or dog" and not seen["seg"].any()
    assert predict(Bright(), picture(SIZE, SIZE, (4, 4, 8, 0)))["bbox"] is not None
    unknown = predict(Bright(tasks=("bbox",)), picture(SIZE, SIZE))
    assert unknown["bbox"] is not None


def test_each_of_several_animals_gets_its_own_look():
    image = picture(96, 96, (6, 6, 30, 0), (60, 48, 30, 2), (90, 2, 2, 0))
    model = Bright()
    seen = tta.look(model, image, SIZE)
    assert len(seen.animals) == 2 and model.seen == 3  # the small spot is none
    found = [tta.answers(model.task, one, 1, 1) for one in seen.animals]
    assert [one["cls"][0] for one in found] == ["cat", "dog"]
    assert (found[0]["bbox"] * 96).tolist() == pytest.approx([6, 6, 36, 36], abs=3)
    assert (found[1]["bbox"] * 96).tolist() == pytest.approx([60, 48, 90, 78], abs=3)
    assert seen.parts[3, 3] == 0 and seen.parts[20, 25] == 1


# ------------------------------------------------------------ sliding window, flip


def test_a_sliding_window_finds_what_is_too_small_in_the_whole():
    # 12 of 128 pixels are 3 of 32 in the whole, and 6 in a window.
    image, model = picture(128, 128, (84, 20, 12, 0)), Bright(least=5)
    assert not predict(model, image)["seg"].any() and model.seen == 1
    found = predict(model, image, sliding_window=True)
    assert model.seen == 1 + 1 + 9
    assert (box_around(found["seg"]) * 128).tolist() == pytest.approx([84, 20, 96, 32], abs=1)
    assert (found["bbox"] * 128).tolist() == pytest.approx([84, 20, 96, 32], abs=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (2, 3), (5000, 3), (33, 100)])
def test_sliding_windows_of_any_picture(shape):
    image = torch.zeros(3, *shape, dtype=torch.uint8)
    model = real_network(*PUBLISHED)
    seen = tta.look(model, image, SIZE, sliding_window=True)
    assert tta.answers(model.task, seen.outputs, *shape)["seg"].shape == shape
    assert (seen.outputs["bbox"] >= 0).all() and (seen.outputs["bbox"] <= 1.001).all()


def test_the_flip_gives_the_mean():
    model, image = real_network(*PUBLISHED, "recon"), noise(SIZE, SIZE)
    seen, flipped = (tta.look(model, one, SIZE).outputs for one in (image, image.flip(-1)))
    both = tta.look(model, image, SIZE, hflip=True).outputs
    for name in ("seg", "recon"):
        assert torch.equal(both[name], (seen[name] + flipped[name].flip(-1)) / 2)
    assert torch.equal(both["cls"], (seen["cls"] + flipped["cls"]) / 2)
    x1, y1, x2, y2 = flipped["bbox"]
    assert torch.equal(both["bbox"], (seen["bbox"] + torch.stack([1 - x2, y1, 1 - x1, y2])) / 2)
