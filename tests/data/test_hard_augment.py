"""Scenes: pictures, masks and all other targets change together, as functions of (seed, epoch, image); pixels by hand."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import rechunk, write_data

import registry
from cli import InputError
from data import chances, pixels, scenes, stress
from data.contract import UNLABELLED
from dataloader_mtl import MTLDataset, batches, make_loader
from tasks import Task
from tasks.cls import NEITHER
from training import options

CLS, BBOX = registry.find("tasks", "cls"), registry.find("tasks", "bbox")
SIZE = 64


def pet(left, top, side, value=200, size=SIZE):
    """A photograph of a bright square pet on black, as pictures, and its box, which is the pet's own."""
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[:, top : top + side, left : left + side] = 1
    return (
        {"images": mask.expand(3, -1, -1) * value, "masks": mask, "trimaps": 2 - mask},
        torch.tensor([left, top, left + side, top + side]) / size,
    )


def extent(mask):
    rows, columns = torch.nonzero(mask[0] == 1, as_tuple=True)
    return (
        torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        / mask.shape[-1]
    )


def placed(name, pictures, other=None, seed=0):
    """What one scene, which always comes, makes of pictures: (pictures, Change)."""
    made = getattr(scenes.Scenes(name), name)
    return made(
        pictures, [1, 2, 3], lambda row: other or pet(4, 4, 24, 90)[0], np.random.default_rng(seed)
    )


@pytest.mark.parametrize(
    "text, recorded, expected",
    [
        ("mosaic+small+small", "small+mosaic", {"small": 0.25, "mosaic": 0.1}),
        ("lit+small:2", "small:2+lit", {"small": 0.5, "lit": 0.3}),
        ("turned:1.0", "turned", {"turned": 0.1}),
        ("small:4", "small:4", {"small": 1.0}),
    ],
)
def test_chances(text, recorded, expected):
    assert options.scenes(text) == recorded and chances.parse(recorded) == pytest.approx(expected)
    assert scenes.Scenes(text).names == tuple(expected)


def test_all_scenes_half_as_often():
    assert (
        options.scenes("all") == options.scenes("all:1") == "all"
        and options.scenes("all:.50") == "all:0.5"
    )
    assert chances.parse("all:0.5") == {
        name: chance / 2 for name, chance in chances.parse("all").items()
    }
    assert set(chances.parse("all")) == set(scenes.NAMES) and all(
        hasattr(scenes.Scenes, name) for name in scenes.NAMES if name != "turned"
    )


@pytest.mark.parametrize(
    "text, why",
    [
        ("smal+close", "no scene 'smal'"),
        ("", "no scene ''"),
        ("all+lit", "no scene 'all'"),
        ("lit:0", "'0' is no number of times"),
        ("lit:nan", "'nan' is no"),
        ("all:x", "'x' is no"),
        ("small:3+several:2", "have 1.05 of them"),
        ("lit:4", "may have 1"),
    ],
)
def test_scenes_that_cannot_be(text, why):
    with pytest.raises(options.argparse.ArgumentTypeError, match=why):
        options.scenes(text)
    with pytest.raises(ValueError, match=why):
        scenes.Scenes(text)


def test_scenes_come_as_often_as_they_should():
    def count(text):
        made, rng = scenes.Scenes(text), np.random.default_rng(0)
        changes = [
            made.place(pet(20, 30, 16)[0], 0, 4, lambda row: pet(4, 4, 24, 90)[0], rng)[1]
            for _ in range(400)
        ]
        return sum(change.part is not None for change in changes), sum(
            change.quarters > 0 for change in changes
        )

    small, quarters = count("small:2")
    assert 170 < small < 230 and not quarters
    assert count("turned:10") == (0, 400)


@pytest.mark.parametrize("name", ["small", "close", "elsewhere", "turned"])
def test_the_box_goes_where_the_pet_goes(name):
    for seed in range(20):
        pictures, box = pet(20, 30, 16)
        if name == "turned":
            pictures, change = scenes.turned(pictures, scenes.Change(), 1 + seed % 3)
        else:
            pictures, change = placed(name, pictures, seed=seed)
        moved = change.apply(BBOX, box, None)
        assert pictures["images"].shape == (3, SIZE, SIZE) and pictures["masks"].max() == 1
        assert torch.equal(pictures["trimaps"], 2 - pictures["masks"])
        if not moved.isnan().any():
            assert (extent(pictures["masks"]) - moved).abs().max() < 2.5 / SIZE, seed
        else:
            assert name == "close"  # too little of it is left
        # The pet is bright where the mask says, but for soft and resized edges; what it stands on has lost its own.
        inside = pixels.grown(pictures["masks"][0] == 0, 2).logical_not()
        assert (pictures["images"][:, inside] > 150).all()
        assert (pictures["images"][:, ~pixels.grown(pictures["masks"][0] == 1, 2)] < 60).all()


def test_a_small_pet_by_hand():
    pictures, box = pet(0, 0, 32)
    made, change = scenes.small(
        pictures, pet(40, 40, 16, 90)[0], 0.25, (1, 0)
    )  # half its side, at the right, at the top
    expected = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    expected[:, 0:16, 32:48] = 1
    assert torch.equal(made["masks"], expected) and torch.equal(made["trimaps"], 2 - expected)
    assert (
        made["images"].max() == 200 and (made["images"][:, 40:56, 40:56] == 0).all()
    )  # the other pet is painted over
    assert change.apply(BBOX, box, None).tolist() == [0.5, 0, 0.75, 0.25]
    alone, _ = scenes.small(
        pictures,
        {**pet(40, 40, 16)[0], "images": torch.full((3, SIZE, SIZE), 50, dtype=torch.uint8)},
        0.25,
        (1, 0),
        is_alone=True,
    )
    assert torch.equal(alone["masks"], expected) and (alone["images"][:, 20:32, 34:60] == 50).all()


def test_turning_a_box_by_hand():
    box = torch.tensor([0.1, 0.2, 0.4, 0.3])
    assert BBOX.turn(box, 1).tolist() == pytest.approx([0.2, 0.6, 0.3, 0.9])
    assert BBOX.turn(box, 2).tolist() == pytest.approx([0.6, 0.7, 0.9, 0.8])
    assert torch.allclose(BBOX.turn(BBOX.turn(box, 3), 1), box)
    assert BBOX.turn(torch.full((4,), math.nan), 1).isnan().all()


def test_several_pets_have_one_mask_no_box_and_a_class_where_all_are_of_one():
    pictures, box = pet(2, 2, 12)
    counts = []
    for seed in range(12):
        made, change = placed("several", pictures, seed=seed)
        assert made["masks"].sum() >= pictures["masks"].sum() and set(change.others) <= {1, 2, 3}
        counts.append(len(change.others))
        if change.others:
            assert change.apply(BBOX, box, lambda row: torch.rand(4)).isnan().all()
            assert change.apply(CLS, torch.tensor(1), lambda row: torch.tensor(1)) == 1
            assert change.apply(CLS, torch.tensor(1), lambda row: torch.tensor(row % 2)) == (
                1 if set(change.others) <= {1, 3} else UNLABELLED
            )
    assert {1, 2, 3} <= set(counts)


def test_a_mosaic_by_hand():
    four = [pet(16, 16, 32, value)[0] for value in (50, 100, 150, 200)]
    made = scenes.mosaic(four, 32, 32)
    assert [made["images"][0, row, column].item() for row in (16, 48) for column in (16, 48)] == [
        50,
        100,
        150,
        200,
    ]
    assert (
        torch.equal(made["masks"][:, :32, :32], made["masks"][:, 32:, 32:])
        and made["masks"].sum() == 4 * 16 * 16
    )
    assert made["images"][:, 30:34, 30:34].max() == 0


def test_without_a_pet_the_mask_is_empty_and_the_class_neither():
    for seed in range(10):
        pictures, box = pet(20, 20, 20)
        made, change = placed("empty", pictures, seed=seed)
        assert (
            not made["masks"].any() and (made["trimaps"] == 2).all() and made["images"].max() == 0
        )
        assert (
            change.apply(CLS, torch.tensor(0), None) == NEITHER
            and change.apply(BBOX, box, None).isnan().all()
        )
    full = pet(0, 0, SIZE)[0]
    assert placed("empty", full)[0] is full  # nothing is left to paint with
    assert placed("small", pet(4, 4, 8)[0], full)[1] == scenes.Change()


def test_an_unlabelled_mask_leaves_the_image_as_it_is():
    unknown = {
        **pet(20, 20, 20)[0],
        "masks": torch.full((1, SIZE, SIZE), UNLABELLED, dtype=torch.uint8),
    }
    for name in ("close", "elsewhere", "empty"):
        made, change = placed(name, unknown)
        assert made is unknown and change == scenes.Change()
    made, change = placed("several", pet(20, 20, 20)[0], unknown)
    assert not change.others and torch.equal(made["masks"], pet(20, 20, 20)[0]["masks"])


def test_painting_over_takes_what_lies_mirrored_at_the_edge():
    image = torch.arange(8, dtype=torch.uint8).expand(3, 2, 8).contiguous()
    region = torch.zeros(2, 8, dtype=torch.bool)
    region[:, 4:6] = True
    # 4 lies one beyond 3, so it mirrors 2; 5 lies one before 6, so it mirrors 7.
    assert pixels.painted_over(image, region)[0, 0].tolist() == [0, 1, 2, 3, 2, 7, 6, 7]
    region[:, 0] = True  # mirrored at 1 would be 2
    assert pixels.painted_over(image, region)[0, 1].tolist() == [2, 1, 2, 3, 2, 7, 6, 7]


def test_light_blur_and_shaking_by_hand():
    image = torch.full((3, 9, 9), 100, dtype=torch.uint8)
    assert (pixels.lit(image, 1, (0.5, 1, 3), 0, None)[:, 0, 0].tolist()) == [50, 100, 255]
    assert pixels.lit(image, 2, (1, 1, 1), 0, None)[0, 0, 0] == round(255 * (100 / 255) ** 2)
    noisy = pixels.lit(
        torch.full((3, 64, 64), 100, dtype=torch.uint8), 1, (1, 1, 1), 5, np.random.default_rng(0)
    ).double()
    assert noisy.mean().item() == pytest.approx(
        100, abs=0.2
    ) and noisy.std().item() == pytest.approx(5, abs=0.2)
    image[:, 4, 4] = 199
    assert pixels.shaken(image, 3, 0)[0, 4].tolist() == [100] * 3 + [133] * 3 + [100] * 3
    assert (
        pixels.shaken(image, 3, math.pi / 2)[0, :, 4].tolist() == [100] * 3 + [133] * 3 + [100] * 3
    )
    assert 100 < pixels.blurred(image, 1)[0, 4, 4] < 130
    for made in (pixels.compressed(image, 10), pixels.coarse(image, 0.5)):
        assert (
            made.shape == image.shape and made.dtype == torch.uint8 and not torch.equal(made, image)
        )


def test_the_loss_of_neither_is_that_of_half_and_half():
    output = torch.tensor([[2.0, 0.0], [1.0, -1.0], [5.0, 5.0]], requires_grad=True)
    either = math.log(1 + math.exp(-2))
    neither = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert CLS.loss(output[:2], torch.tensor([0, NEITHER])).item() == pytest.approx(
        (either + neither) / 2
    )
    assert CLS.loss(output[2:], torch.tensor([NEITHER])).item() == pytest.approx(
        math.log(2)
    )  # its least
    measured = CLS.measure(output, torch.tensor([0, NEITHER, UNLABELLED]))
    assert measured["correct"].tolist()[0] == 1 and measured["correct"][1:].isnan().all()
    assert len(CLS.classified(output, torch.tensor([0, NEITHER, UNLABELLED]))[1]) == 1
    assert CLS.describe(CLS.truth(torch.tensor(NEITHER), 8, 8), 8, 8) == "neither"


def test_what_no_task_of_its_own_tells_becomes_unknown():
    task = registry.tasks(["column:age"])["column:age"]
    task.settings = {"classes": ["a", "b"]}
    assert scenes.Change(is_empty=True).apply(task, torch.tensor(1), None) == -1
    assert scenes.Change(others=(3,)).apply(task, torch.tensor(1), lambda row: None) == -1
    task.settings = {"mean": 0.0, "deviation": 1.0}
    assert scenes.Change(is_empty=True).apply(task, torch.tensor(0.5), None).isnan()

    class Corner(type(BBOX)):
        turn = Task.turn  # as a task of one's own that does not say what turning does

    assert Corner("corner").turn(torch.rand(4), 1).isnan().all()


# ------------------------------------------------------------------------------------------------------------- the loader


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return rechunk(
        write_data(tmp_path_factory.mktemp("scenes") / "pets", {"train": 12, "val": 8, "test": 4})
    )


def samples(split, keys=range(12), **options):
    dataset = MTLDataset(
        split, "train", seed=3, augment="full", sides=[48, 64], **{"scenes": "all", **options}
    )
    return [dataset[(1, row)] for row in keys]


def test_a_sample_hangs_on_seed_epoch_and_image_alone(split):
    first, again = samples(split), samples(split, reversed(range(12)))[::-1]
    assert all(
        torch.equal(a[key], b[key]) or a[key].isnan().all() and b[key].isnan().all()
        for a, b in zip(first, again)
        for key in a
    )
    dataset = MTLDataset(split, "train", seed=3, augment="full", sides=[48, 64], scenes="all")
    for workers in (0, 2):
        for batch in batches(make_loader(dataset, 5, shuffle=True, workers=workers), 1):
            for k, row in enumerate(batch["row"].tolist()):
                assert torch.equal(batch["image"][k], first[row]["image"]) and torch.equal(
                    batch["seg"][k], first[row]["seg"]
                )


def test_an_image_that_no_scene_befalls_is_augmented_as_without(split):
    plain, changed = samples(split, scenes=None), samples(split, scenes="mosaic+empty")
    same = [torch.equal(a["image"], b["image"]) for a, b in zip(plain, changed)]
    assert 0 < sum(same) < 12


def test_scenes_need_masks_even_where_no_task_does(split):
    dataset = MTLDataset(
        split, "train", seed=3, augment="full", sides=[48, 64], tasks=("cls",), scenes="all"
    )
    for row, whole in enumerate(samples(split)):
        assert torch.equal(dataset[(1, row)]["image"], whole["image"]) and torch.equal(
            dataset[(1, row)]["cls"], whole["cls"]
        )


def test_scenes_that_need_to_know_the_pet_are_refused_without_masks(split, tmp_path):
    folder = shutil.copytree(split, tmp_path / "pets")
    (folder / "train" / "masks.h5").unlink()
    with pytest.raises(
        InputError, match="has no masks.h5, and the scenes small, empty need to know what is pet"
    ):
        MTLDataset(folder, "train", tasks=("cls",), scenes="lit+empty+small")
    turned = MTLDataset(folder, "train", tasks=("cls",), scenes="turned+lit+mosaic")
    assert {turned[(epoch, row)]["cls"].item() for epoch in range(3) for row in range(12)} >= {0, 1}


@pytest.mark.parametrize("kind", [kind for kind in stress.KINDS if kind != "as it is"])
def test_every_kind_of_stress_changes_every_image_and_is_the_same_again(split, kind):
    plain = MTLDataset(split, "val")
    one, two = (MTLDataset(split, "val", scenes=stress.Stress(kind)) for _ in range(2))
    for row in range(8):
        assert torch.equal(one[row]["image"], two[row]["image"])
        shrinks = kind == "small" and (plain[row]["seg"] == 1).double().mean() > 0.1
        if kind != "small" or shrinks:
            assert not torch.equal(one[row]["image"], plain[row]["image"])
        if shrinks:
            assert (one[row]["seg"] == 1).double().mean().item() == pytest.approx(0.1, abs=0.02)
        if kind == "empty":
            assert not one[row]["seg"].any() and one[row]["cls"] == NEITHER
        if kind in ("dark", "blurred", "compressed"):
            assert torch.equal(one[row]["seg"], plain[row]["seg"])
