"""What data/masks.py reads masks of one's own as, and which it refuses."""

import numpy as np
import pytest
from own import ellipse, palette, save_mask
from oxford import noise
from PIL import Image

from data import masks
from data.labels import BACKGROUND, PET, UNLABELLED, UnusableMask
from data.masks import Rule

SHAPE = ellipse()
VALUES = np.where(SHAPE, PET, BACKGROUND)
SPOT = np.zeros_like(SHAPE)
SPOT[:5, :9] = True


def MaskFile(path, foreground=(), is_trimap=False):
    return masks.MaskFile((path,), Rule(foreground, is_trimap))


def cut_out(opacity, image=None, mode="RGBA"):
    image = image or noise("cut-out", 64, 48)
    return Image.merge(mode, (*image.split(), Image.fromarray(opacity.astype(np.uint8))))


def numbers(ones, others=0, dtype=np.uint8, spot=None):
    """An array of `ones` in the shape and `others` around it; spot: a number in a corner."""
    values = np.where(SHAPE, ones, others).astype(dtype)
    if spot is not None:
        values[SPOT] = spot
    return values


READ = {
    "0 and 255": (numbers(255), masks.TWO[255]),
    "0 and 1": (numbers(1), masks.TWO[1]),
    "1 bit": (SHAPE, masks.TWO[1]),
    "palette": (palette(SHAPE), masks.TWO[1]),
    "16 bits": (numbers(65535, dtype=np.uint16), masks.TWO[65535]),
    "16 bits of 1": (numbers(1, dtype=np.uint16), masks.TWO[1]),
    "grey in colours": (Image.fromarray(numbers(255)).convert("RGB"), masks.TWO[255]),
    "opaque": (Image.fromarray(numbers(255)).convert("RGBA"), masks.TWO[255]),
    "grey palette": (Image.fromarray(numbers(255)).convert("P"), masks.TWO[255]),
    "cut-out": (cut_out(numbers(255)), masks.CUT_OUT),
    "soft cut-out": (cut_out(numbers(128, 127)), masks.CUT_OUT),
    "grey cut-out": (cut_out(numbers(255), noise("g", 64, 48).convert("L"), "LA"), masks.CUT_OUT),
    "silhouette": (cut_out(numbers(255), Image.new("RGB", (64, 48))), masks.CUT_OUT),
    "white and transparent": (
        cut_out(numbers(255), Image.new("RGB", (64, 48), "white")),
        masks.CUT_OUT,
    ),
    "mask in its own transparency": (
        cut_out(numbers(255), Image.fromarray(numbers(255)).convert("RGB")),
        masks.CUT_OUT,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_foreground_is_read_off_the_file(name, tmp_path):
    image, note = READ[name]
    values, notes = MaskFile(save_mask(tmp_path, "m", image)).read()
    assert values.dtype == np.uint8 and (values == VALUES).all() and notes == [(note, "")]


def test_a_palette_that_is_transparent_in_places_is_a_cut_out(tmp_path):
    image = noise("p", 64, 48).quantize(8)
    pixels = np.asarray(image).copy()
    pixels[~SHAPE] = 7
    pixels[SHAPE & (pixels == 7)] = 0
    again = Image.fromarray(pixels).convert("P")
    again.putpalette(image.getpalette())
    values, notes = MaskFile(save_mask(tmp_path, "m", again, transparency=7)).read()
    assert (values == VALUES).all() and notes == [(masks.CUT_OUT, "")]


def test_unlabelled_and_one_valued_masks(tmp_path):
    values, notes = MaskFile(save_mask(tmp_path, "three", palette(numbers(1, spot=255)))).read()
    assert (values == np.where(SPOT, UNLABELLED, VALUES)).all() and notes == [(masks.THREE, "")]
    for number, expected, note in (
        (0, BACKGROUND, masks.ONE[0]),
        (1, PET, masks.ONE[1]),
        (255, PET, masks.ONE[255]),
    ):
        values, notes = MaskFile(
            save_mask(tmp_path, "one", np.full((48, 64), number, np.uint8))
        ).read()
        assert (values == expected).all() and notes == [(note, "")]


def test_the_numbers_of_foreground_count_and_the_others_do_not(tmp_path):
    image = numbers(5, 2, spot=255)
    image[40:, 50:], image[40:, :5] = 1, 0
    expected = np.where(SHAPE, PET, BACKGROUND)
    expected[40:, 50:], expected[SPOT] = PET, UNLABELLED
    for kind in (image, palette(image), image.astype(np.uint16)):
        values, notes = MaskFile(save_mask(tmp_path, "m", kind), (1, 5, 9)).read()
        assert (values == expected).all()
        assert [note for note, _ in notes] == [
            masks.chosen(1),
            masks.chosen(5),
            masks.VOID,
            masks.OTHERS,
        ]
    values, notes = MaskFile(save_mask(tmp_path, "m", image), (255,)).read()
    assert ((values == PET) == SPOT).all() and masks.VOID not in dict(notes)


@pytest.mark.parametrize(
    "image, words",
    [
        (numbers(3), "its mask holds the values 0, 3; it should hold"),
        (numbers(128, spot=255), "holds the values 0, 128, 255; "),
        (numbers(2, dtype=np.int32), "0, 2;"),
        (np.arange(48 * 64, dtype=np.uint16).reshape(48, 64), "0, 1, 2, 3, 4, 5 and 3066 more;"),
        (noise("n", 64, 48), "colours, such as"),
        (palette(numbers(7, 4)), "4, 7;"),
        (
            cut_out(np.where(SPOT, 0, 255), Image.fromarray(numbers(255)).convert("RGB")),
            "another one than its transparency",
        ),
        (Image.new("1", (3, 2)), None),
    ],
)
def test_what_fits_no_rule_is_refused_with_its_values(image, words, tmp_path):
    path = save_mask(
        tmp_path,
        "m",
        image,
        ".tif" if isinstance(image, np.ndarray) and image.dtype == np.int32 else ".png",
    )
    if words is None:
        path.write_bytes(path.read_bytes()[:40])
        words = "its mask cannot be decoded: "
    with pytest.raises(UnusableMask) as error:
        MaskFile(path).read()
    assert words in str(error.value)


# ------------------------------------------------------------------------------------------ all
# masks together
