"""Panels, captions and what the page shows, by a network whose answers are known."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from cli import InputError
from data.pixels import of_pillow
from inference import tta, view


class Fixed(torch.nn.Module):
    """The left half is pet, its head in the upper left quarter, a dog by 9 to 1."""

    def __init__(self, *tasks, pet=5.0):
        super().__init__()
        self.task = {task.name: task for task in registry.find_tasks(tasks)}
        self.pet = pet

    def forward(self, image):
        size = image.shape[-1]
        seg = torch.full((len(image), 1, size, size), -5.0)
        seg[..., : size // 2] = self.pet
        outputs = {
            "seg": seg,
            "bbox": torch.tensor([[0.0, 0.0, 0.5, 0.25]]).expand(len(image), 4),
            "cls": torch.tensor([[0.0, np.log(9.0)]]).expand(len(image), 2),
            "distance": seg / 10,
        }
        return {name: outputs[name] for name in self.task}


pytestmark = pytest.mark.usefixtures("figures")
PUBLISHED = ("seg", "cls", "bbox")
INFO = {"size": 64, "border": "ignore"}


@pytest.fixture()
def photograph(tmp_path):
    Image.new("RGB", (60, 40), (200, 60, 50)).save(tmp_path / "a <b> pet.png")
    return tmp_path / "a <b> pet.png"


def test_a_picture_has_mask_box_and_words():
    image = Image.new("RGB", (200, 90))
    picture, _ = view.see(Fixed(*PUBLISHED), image, 64, "x")
    photo, drawn = view.panels(picture)
    assert photo.title == "x" and photo.image.sum() == 0 and drawn.title == "predicted: dog 90%"
    assert [box.tolist() for box in drawn.boxes] == [[0, 0, 100, 22.5]]
    assert drawn.image[1, :, :98].float().mean() == 100 and drawn.image[:, :, 102:].sum() == 0
    assert view.describe(picture) == "dog 90%, 50% of the picture is pet, head at 0 0 100 22"


def test_a_large_photograph_is_drawn_small_and_told_in_its_own_pixels(tmp_path):
    Image.new("RGB", (4000, 2000)).save(tmp_path / "a.jpg")
    picture = view.picture_of_photograph(Fixed(*PUBLISHED), tmp_path / "a.jpg", 64, 1600)
    assert picture.image.shape == (3, 800, 1600)
    assert view.panels(picture)[1].boxes[0].tolist() == [0, 0, 800, 200]
    assert "head at 0 0 2000 500" in view.describe(picture)


def test_each_animal_has_its_words_and_its_box():
    model, image = Fixed(*PUBLISHED), Image.new("RGB", (100, 100))
    seen = tta.look(model, of_pillow(image), 64)
    seen.animals = [seen.outputs, seen.outputs | {"cls": torch.tensor([5.0, 0])}]
    found = view.animals(model.task, seen, 100, 100)
    picture = view.Picture("x", of_pillow(image), model.task, found)
    panel = view.panels(picture)[1]
    assert panel.title == "predicted: 2 animals: dog 90%; cat 99%" and len(panel.boxes) == 2


def test_titles_keep_to_their_panel():
    assert view.wrap("short.jpg", 20) == "short.jpg"
    assert view.wrap("predicted: dog 90%, Dice 0.9", 20) == "predicted: dog 90%,\nDice 0.9"
    assert view.wrap("a" * 100 + "b" * 100, 41) == "a" * 20 + "\u2026" + "b" * 20


def test_any_name_can_be_drawn(tmp_path, recwarn):
    pictures = []
    for name in ("$x_1$ 猫.jpg", "caf\udce9\n\x07.png", "x" * 250, "\U0001f408"):
        pictures.append(view.Picture(name, torch.zeros(3, 30, 40, dtype=torch.uint8), {}, [{}]))
    view.draw_pictures(pictures, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Software"] == view.DRAWN_BY and image.width == 768
    assert not recwarn.list
    with pytest.raises(InputError, match="folder"):
        view.save_figure(view.make_figure((1, 1)), tmp_path)


def test_curves_have_an_axis_for_metrics_with_units(tmp_path):
    tasks = {task.name: task for task in registry.find_tasks(["seg", "distance"])}
    rows = []
    for epoch in (1, 2):
        row = {"epoch": epoch, "val_dice": 0.5, "val_distance_mae": None if epoch == 1 else 0.1}
        rows.append(row | {"train_loss_seg": 1.0, "val_loss_seg": 2.0, "train_loss_distance": 1.0})
    view.draw_curves(rows, tasks, tmp_path / "two.png")
    view.draw_curves(rows, {"seg": tasks["seg"]}, tmp_path / "one.png")
    widths = [Image.open(tmp_path / name).width for name in ("two.png", "one.png")]
    assert widths[0] > widths[1] > 900


def test_a_table_of_scores_that_is_missing_or_damaged_is_refused(tmp_path):
    path = tmp_path / "test_per_image.csv"
    with pytest.raises(InputError, match="test_per_image.csv"):
        view.read_test_dice(path)
    for text in ("name,Dice\na,0.5\n", "name,dice\n", "name,dice\na,x\n", "name,dice\na,\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="damaged"):
            view.read_test_dice(path)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["name", "dice"], ["a", 0.5], ["b", ""]])
    assert view.read_test_dice(path)[0] == ["a", "b"]


# ------------------------------------------------------------ the page


def test_the_page_shows_the_cutout_first_over_a_chequerboard(tmp_path, photograph):
    seen = view.view_page(Fixed(*PUBLISHED), INFO, photograph, tmp_path)
    assert [caption for _, caption in seen["pictures"]] == [
        "Cut-out",
        "Photograph",
        "What the network sees",
    ]
    first = np.asarray(Image.open(seen["pictures"][0][0])).astype(int)
    assert np.abs(first[:, :24] - (200, 60, 50)).max() < 12
    greys = first[:, 45:].reshape(-1, 3)
    assert (np.ptp(greys, axis=1) < 12).all() and np.ptp(greys[:, 0]) > 30
    with Image.open(seen["cutout"]) as pet, Image.open(seen["mask"]) as mask:
        assert (pet.mode, mask.mode, pet.size, mask.size) == ("RGBA", "L", (60, 40), (60, 40))
        assert set(np.unique(mask)) == {0, 255}
    assert seen["cutout"].endswith("/a <b> pet_cutout.png")
    assert "Dog 90%" in seen["words"] and "a &lt;b&gt; pet.png" in seen["words"]


def test_without_a_pet_the_page_says_so_and_offers_nothing(tmp_path, photograph):
    seen = view.view_page(Fixed(*PUBLISHED, pet=-5.0), INFO, photograph, tmp_path)
    assert "No cat or dog found" in seen["words"] and not {"cutout", "mask"} & seen.keys()
    seen = view.view_page(Fixed("cls"), INFO, photograph, tmp_path)
    assert len(seen["pictures"]) == 2 and not {"cutout", "mask"} & seen.keys()


def test_two_looks_share_no_folder_and_tasks_have_their_own_panel(tmp_path, photograph):
    model = Fixed("seg", "distance")
    one, other = (view.view_page(model, INFO, photograph, tmp_path) for _ in range(2))
    assert one["cutout"] != other["cutout"] and len(one["pictures"]) == 4


def test_refusals_are_in_the_pages_words(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(InputError) as error:
        view.view_page(Fixed("seg"), INFO, tmp_path / "a.jpg", tmp_path)
    html = view.refusal(error.value)
    assert 'role="alert"' in html and "choose a photograph" in html
