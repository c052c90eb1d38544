"""What the page shows of a photograph, and what one takes away: by a network whose answers are known."""

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from cli import InputError
from training import looking, shown


class Fixed(torch.nn.Module):
    """Stands in for a network: the left half is pet, the head in the upper left quarter, a dog by 9 to 1."""

    def __init__(self, *tasks, sees=5.0):
        super().__init__()
        self.sees = sees
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.task = registry.tasks(tasks)

    def forward(self, image):
        n, size = len(image), image.shape[-1]
        seg = torch.full((n, 1, size, size), -5.0)
        seg[..., : size // 2] = self.sees
        outputs = {
            "seg": seg,
            "distance": seg / 10,
            "bbox": torch.tensor([[0.0, 0.0, 0.5, 0.25]] * n),
            "cls": torch.tensor([[0.0, np.log(9.0)]] * n),
        }
        return {name: outputs[name] for name in self.task}


@pytest.fixture()
def photograph(tmp_path):
    """A reddish photograph, upright 60 wide and 40 high, that is stored turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60), (200, 60, 50)).save(tmp_path / "a <b> pet.png", exif=exif)
    return tmp_path / "a <b> pet.png"


def test_the_photograph_the_mask_the_box_and_the_words(tmp_path, photograph):
    seen = shown.show(Fixed("seg", "cls", "bbox"), 32, photograph, tmp_path)
    plain, drawn = (np.asarray(Image.open(path)).astype(int) for path in seen["pictures"])
    assert plain.shape == drawn.shape == (40, 60, 3)
    green = drawn[..., 1] - plain[..., 1]
    assert green[15:, :28].min() > 50 and abs(green[:, 34:]).max() < 10
    yellow = np.minimum(drawn[..., 0], drawn[..., 1]) - drawn[..., 2]
    assert yellow[1:9, 0].min() > 120 and yellow[9, 1:29].min() > 120 and yellow[12:].max() < 120
    assert seen["said"] == (
        '<p class="answer">dog 90%</p><p class="rest">50% of the picture is pet, head at 0 0 30 10</p>'
        '<p class="small">a &lt;b&gt; pet.png, 60 x 40 pixels</p>'
    )


def test_without_a_pet_no_box_is_drawn_or_told(tmp_path, photograph):
    seen = shown.show(Fixed("seg", "cls", "bbox", sees=-5.0), 32, photograph, tmp_path)
    plain, drawn = (np.asarray(Image.open(path)).astype(int) for path in seen["pictures"])
    assert (plain == drawn).all()
    assert '<p class="rest">0% of the picture is pet</p>' in seen["said"]


def test_the_cut_out_holds_the_pet_and_nothing_of_what_is_around(tmp_path, photograph):
    model = Fixed("seg")
    seen = shown.show(model, 32, photograph, tmp_path)
    cutout, mask = Image.open(seen["cutout"]), Image.open(seen["mask"])
    expected = looking.predict(model, torch.zeros(3, 40, 60, dtype=torch.uint8), 32)["seg"].numpy()
    assert (cutout.mode, mask.mode, cutout.size) == (
        "RGBA",
        "L",
        (60, 40),
    ) and 0 < expected.mean() < 1
    assert np.array_equal(np.asarray(mask), np.where(expected, 255, 0))
    pixels = np.asarray(cutout)
    assert (pixels[expected] == (200, 60, 50, 255)).all() and (pixels[~expected] == 0).all()
    assert seen["cutout"].endswith("/a <b> pet_cutout.png") and seen["mask"].endswith(
        "/a <b> pet_mask.png"
    )


def test_a_large_photograph_is_shown_small_and_taken_away_large(tmp_path):
    Image.new("RGB", (1800, 900)).save(tmp_path / "large.png")
    seen = shown.show(Fixed("seg", "bbox"), 32, tmp_path / "large.png", tmp_path)
    assert [Image.open(path).size for path in seen["pictures"]] == [(1200, 600)] * 2
    assert Image.open(seen["cutout"]).size == Image.open(seen["mask"]).size == (1800, 900)
    assert "head at 0 0 900 225" in seen["said"]


def test_tasks_have_panels_of_their_own_and_a_network_may_have_no_mask(tmp_path, photograph):
    seen = shown.show(Fixed("seg", "distance"), 32, photograph, tmp_path)
    assert len(seen["pictures"]) == 3 and "sides inside" in seen["said"]
    seen = shown.show(Fixed("cls"), 32, photograph, tmp_path)
    assert len(seen["pictures"]) == 2 and not {"cutout", "mask"} & seen.keys()


def test_two_looks_share_no_folder(tmp_path, photograph):
    model = Fixed("seg")
    one, other = (shown.show(model, 32, photograph, tmp_path) for _ in range(2))
    assert one["cutout"] != other["cutout"]


def test_what_is_no_photograph_is_refused_by_name_and_leaves_nothing(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for name, words in (
        ("text.jpg", "text.jpg cannot be read: it is text"),
        ("gone.jpg", "gone.jpg is no longer here"),
    ):
        with pytest.raises(InputError, match=words):
            shown.show(Fixed("seg"), 32, tmp_path / name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]
    assert shown.refusal("a < b") == '<p class="error" role="alert">a &lt; b</p>'
