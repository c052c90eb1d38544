"""Edges of cut-outs: where alpha lies, which colours are left, transparency of the photograph's
own."""

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from inference import alpha

PET, GROUND = (220, 120, 40), (40, 90, 160)


def disc(side, radius):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = (side - 1) / 2
    return ((rows - centre) ** 2 + (columns - centre) ** 2).sqrt() < radius


def two_colours(mask):
    mask = mask.numpy()[..., None]
    return Image.fromarray(np.where(mask, PET, GROUND).astype(np.uint8))


def trimap_of(mask, width):
    """A trimap whose edge reaches `width` pixels to both sides of a mask's contour."""
    inside = mask.float()
    return (1 - alpha.largest(1 - inside, width) + alpha.largest(inside, width)) / 2


@pytest.mark.parametrize("side", [128, 600])
def test_alpha_follows_the_photographs_edge_inside_the_unknown_band(side):
    mask = disc(side, side / 4)
    coarse = disc(256, 64 + 3)  # the network's contour is off by 3 of 256 pixels
    found = alpha.soft_cutout(two_colours(mask), trimap_of(coarse, 10)).getchannel("A")
    found = np.asarray(found) / 255
    assert np.abs(found - mask.numpy()).mean() < 0.004
    naive = np.asarray(Image.fromarray(coarse.numpy()).resize((side, side)))
    assert np.abs(naive ^ mask.numpy()).mean() > 0.015


def test_the_background_is_taken_out_of_mixed_pixels():
    side, mask = 256, disc(256, 64)
    soft = np.asarray(Image.fromarray(mask.numpy()).convert("L"), float) / 255
    for _ in range(3):  # an edge of some pixels
        soft = (soft + np.roll(soft, 1, 0) + np.roll(soft, 1, 1)) / 3
    mixed = soft[..., None] * PET + (1 - soft[..., None]) * GROUND
    image = Image.fromarray(mixed.round().astype(np.uint8))
    pet = np.asarray(alpha.soft_cutout(image, trimap_of(mask, 8))).astype(float)
    partly = (pet[..., 3] > 60) & (pet[..., 3] < 200)
    assert partly.sum() > side / 4
    before = np.abs(mixed[partly] - PET).mean()
    assert np.abs(pet[partly][:, :3] - PET).mean() < before / 3
    assert (pet[pet[..., 3] == 0][:, :3] == 0).all()


def test_strips_are_the_same_as_the_whole(monkeypatch):
    image, trimap = two_colours(disc(200, 50)), trimap_of(disc(256, 64), 8)
    whole = np.asarray(alpha.soft_cutout(image, trimap)).astype(int)
    monkeypatch.setattr(alpha, "STRIP", 200 * 7)
    assert np.abs(np.asarray(alpha.soft_cutout(image, trimap)) - whole).max() <= 1


def outputs_of(mask):
    logits = torch.where(mask, 4.0, -4.0)
    return {"seg": logits[None]}


@pytest.mark.parametrize(
    "border, inner, outer", [("pet", -8, 0), ("background", 0, 8), ("ignore", -4, 4)]
)
def test_without_a_trimap_the_unknown_edge_is_what_the_border_rule_left(border, inner, outer):
    tasks = {"seg": registry.find("tasks", "seg")}
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[64:192, 64:192] = True
    row = alpha.trimap(tasks, outputs_of(mask), border)[128]
    assert row[64 - inner] == 1 and row[63 - outer] == 0
    assert (row[64 - outer : 64 - inner] == 0.5).all()


def test_a_border_task_gives_the_trimap_inside_the_mask():
    tasks = {name: registry.find("tasks", name) for name in ("seg", "border")}
    mask = torch.tensor([[True, True, True, False]])
    border = torch.tensor([[[9.0, 0, 0, 9]], [[0.0, 0, 9, 0]], [[0.0, 9, 0, 0]]])
    found = alpha.trimap(tasks, outputs_of(mask) | {"border": border}, "pet")
    assert found.tolist() == [[1, 0.5, 0, 0]]
    assert (
        alpha.trimap({"cls": registry.find("tasks", "cls")}, {"cls": torch.zeros(2)}, "pet") is None
    )


def test_a_hard_cutout_is_the_mask():
    mask = disc(40, 10)
    pet = np.asarray(alpha.hard_cutout(two_colours(mask), mask))
    assert np.array_equal(pet[..., 3] == 255, mask.numpy()) and set(np.unique(pet[..., 3])) == {
        0,
        255,
    }
    assert (pet[mask.numpy()][:, :3] == PET).all() and (pet[~mask.numpy()] == 0).all()


def test_transparent_input_stays_transparent(tmp_path):
    pixels = np.full((30, 40, 4), 200, np.uint8)
    pixels[:, :20, 3], pixels[:, 20:, 3], pixels[:10, 20:, 3] = 0, 255, 100
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pet = Image.new("RGBA", (40, 30), (9, 8, 7, 255))
    found = np.asarray(alpha.keep_transparency(pet, tmp_path / "a.png"))
    assert (found[:, :20] == 0).all()
    assert (found[15, 30] == (9, 8, 7, 255)).all() and (found[5, 30] == (200, 200, 200, 100)).all()
    pet.convert("RGB").save(tmp_path / "b.jpg")
    assert alpha.keep_transparency(pet, tmp_path / "b.jpg") is pet
