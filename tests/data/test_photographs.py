"""The reader of photographs and masks: exact values of every mode, orientation and profile; what
is refused how."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from drawn import quarters, refused
from PIL import Image, ImageCms, features

from data import photographs

COLOUR = (200, 100, 50)


def pixels(path, **options):
    """A photograph's pixels as a list of rows of RGB tuples."""
    array = np.asarray(photographs.read(path, **options).image)
    return [[tuple(value) for value in row] for row in array.tolist()]


def greys(path):
    """Of a photograph of one row, whose channels have to agree, the values."""
    row = np.asarray(photographs.read(path).image)[0]
    assert (row == row[:, :1]).all()
    return row[:, 0].tolist()


def row_of(mode, values):
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return image


# ---------------------------------------------------------------------------- ---- modes and depths


OLD = int(Image.__version__.split(".")[0]) < 13  # as Gradio asks for
YCBCR = pytest.param(
    "YCbCr",
    "tif",
    marks=pytest.mark.skipif(OLD, reason="Pillow before 13 cannot read what it writes there"),
)


@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("RGB", "png"),
        ("CMYK", "tif"),
        ("RGBA", "png"),
        ("RGB", "webp"),
        ("LAB", "tif"),
        YCBCR,
        ("CMYK", "jpg"),
        ("RGB", "jpg"),
        ("RGB", "bmp"),
        ("RGB", "jp2"),
    ],
)
def test_colours_are_what_they_are_in_every_mode(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (50, 30), COLOUR).convert(mode).save(path)
    photograph = photographs.read(path)
    assert photograph.image.mode == "RGB" and photograph.orientation == 1
    assert photograph.image.size == photograph.size == (50, 30)
    assert np.abs(np.asarray(photograph.image).astype(int) - COLOUR).max() <= (
        3 if suffix == "webp" else 1
    )


def test_grey_one_bit_and_palettes(tmp_path):
    row_of("L", [0, 77, 255]).save(tmp_path / "l.png")
    row_of("1", [0, 255]).save(tmp_path / "1.png")
    image = row_of("P", [1, 0])
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png")
    assert greys(tmp_path / "l.png") == [0, 77, 255] and greys(tmp_path / "1.png") == [0, 255]
    assert pixels(tmp_path / "p.png") == [[(40, 50, 60), (10, 20, 30)]]


DEEP = np.array([[0, 128, 129, 25700, 65535]])


@pytest.mark.parametrize(
    "name, dtype",
    [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tif", ">u2"), ("a.tif", np.int32)],
)
def test_sixteen_bits_are_divided_by_257(tmp_path, name, dtype):
    Image.fromarray(DEEP.astype(dtype)).save(tmp_path / name)
    assert greys(tmp_path / name) == [0, 0, 1, 100, 255]


def tiff(path, width, bits, data, **changes):
    """A TIFF file of one row and one channel, by hand."""
    tags = {
        256: width,
        257: 1,
        258: bits,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: 1,
        279: len(data),
        339: 1,
    }
    tags |= {int(tag[1:]): value for tag, value in changes.items()}
    data += bytes(len(data) % 2)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    path.write_bytes(
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )
    return path


def test_twelve_bits_and_white_that_is_zero(tmp_path):
    assert greys(tiff(tmp_path / "a.tif", 2, 12, bytes([0xFF, 0xF8, 0x00]))) == [255, 128]
    assert greys(tiff(tmp_path / "b.tif", 2, 16, struct.pack("<HH", 0, 65535), t262=0)) == [255, 0]
    assert greys(tiff(tmp_path / "c.tif", 2, 8, bytes([0, 255]), t262=0)) == [255, 0]


def test_floating_point_from_0_to_1(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 100 / 255, 1]], np.float32)).save(tmp_path / "a.tif")
    assert greys(tmp_path / "a.tif") == [0, 128, 100, 255]


@pytest.mark.parametrize(
    "values, dtype, words",
    [
        ([0, 1.5], np.float32, "from 0 to 1.5"),
        ([-0.5, 1], np.float32, "from -0.5 to 1"),
        ([0, np.nan], np.float32, "nan"),
        ([0, np.inf], np.float32, "inf"),
        ([0, 65536], np.int32, "from 0 to 65536"),
        ([-1, 9], np.int32, "from -1 to 9"),
        ([0, 255], np.int32, "at most 255"),
    ],
)
def test_values_without_a_rule_are_refused_with_their_range(tmp_path, values, dtype, words):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    reason = refused(tmp_path / "a.tif")
    assert words in reason and "save it with 8" in reason


# ---------------------------------------------------------------------------- -------- transparency


def test_what_is_transparent_is_white(tmp_path):
    rgba = row_of("RGBA", [(9, 9, 9, 0), (100, 100, 100, 51), (100, 100, 100, 255), (0, 0, 0, 51)])
    rgba.save(tmp_path / "rgba.png")
    rgba.save(tmp_path / "rgba.tif")
    rgba.save(tmp_path / "rgba.webp", lossless=True, exact=True)
    rgba.convert("LA").save(tmp_path / "la.png")
    for name in ("rgba.png", "rgba.tif", "rgba.webp", "la.png"):
        assert greys(tmp_path / name) == [255, 224, 100, 204], name


def test_a_transparent_value_is_white(tmp_path):
    palette = row_of("P", [0, 1])
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    palette.save(tmp_path / "p.gif", transparency=0)
    for name in ("p.png", "p.gif"):
        assert pixels(tmp_path / name) == [[(255, 255, 255), (40, 50, 60)]]
    palette.save(tmp_path / "part.png", transparency=bytes([51, 255]))
    assert pixels(tmp_path / "part.png") == [[(206, 208, 210), (40, 50, 60)]]
    row_of("L", [7, 8]).save(tmp_path / "l.png", transparency=7)
    assert greys(tmp_path / "l.png") == [255, 8]
    row_of("RGB", [(1, 2, 3), (4, 5, 6)]).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert pixels(tmp_path / "rgb.png") == [[(255, 255, 255), (4, 5, 6)]]
    wide = Image.new("RGB", (160, 1), (1, 2, 3))  # its width must not pass for 16 bits
    wide.save(tmp_path / "wide.png", transparency=(1, 2, 3))
    assert pixels(tmp_path / "wide.png") == [[(255, 255, 255)] * 160]


# ---------------------------------------------------------------------------- ------------ profiles


def curve(gamma):
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"


def numbers(*values):
    return b"XYZ " + struct.pack(">I3i", 0, *[round(value * 65536) for value in values])


def icc(space, tags):
    """An ICC profile, version 2, of some tags, by hand."""
    start = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    header = struct.pack(
        ">I4sI4s4s4s", start + len(data), b"none", 0x02400000, b"mntr", space, b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + table + data


WHITE = numbers(0.9642, 1, 0.8249)
# Adobe RGB (1998): its primaries seen under D50, gamma 563 / 256.
ADOBE_RGB = icc(
    b"RGB ",
    {
        b"wtpt": WHITE,
        b"rXYZ": numbers(0.60974, 0.31111, 0.01947),
        b"gXYZ": numbers(0.20528, 0.62567, 0.06087),
        b"bXYZ": numbers(0.14919, 0.06322, 0.74457),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(563 / 256)),
    },
)
LINEAR_GREY = icc(b"GRAY", {b"wtpt": WHITE, b"kTRC": curve(1)})
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_adobe_rgb_becomes_srgb(tmp_path):
    row_of("RGB", [(200, 100, 50), (100, 150, 100), (128, 128, 128)]).save(
        tmp_path / "a.png", icc_profile=ADOBE_RGB
    )
    # By the formulas of both: linear light, the matrix to sRGB's primaries, its curve.
    expected = [(227, 100, 42), (66, 151, 97), (129, 129, 129)]
    assert np.abs(np.subtract(pixels(tmp_path / "a.png")[0], expected)).max() <= 1


def test_grey_profiles_and_grey_of_a_colour_profile(tmp_path):
    row_of("L", [0, 55, 128, 255]).save(tmp_path / "a.png", icc_profile=LINEAR_GREY)
    assert (
        np.abs(np.subtract(greys(tmp_path / "a.png"), [0, 128, 188, 255])).max() <= 1
    )  # sRGB of 0.2157 and 0.502
    row_of("L", [0, 128, 255]).save(tmp_path / "b.png", icc_profile=ADOBE_RGB)
    assert np.abs(np.subtract(greys(tmp_path / "b.png"), [0, 129, 255])).max() <= 1


@pytest.mark.parametrize(
    "profile",
    [SRGB, b"", b"nonsense", SRGB[:200], ADOBE_RGB[:150], LINEAR_GREY, bytes(1000)],
    ids=["sRGB", "empty", "text", "cut", "cut Adobe RGB", "of grey", "zeros"],
)
def test_a_profile_that_is_srgb_or_of_no_use_changes_nothing(tmp_path, capfd, profile):
    array = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(np.asarray(photographs.read(tmp_path / "a.png").image), array)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------- --------- orientation


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "avif"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_orientation_is_turned_upright_or_left(tmp_path, suffix, tag):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = tag
    quarters().save(
        path, exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 100})
    )
    upright, stored = photographs.read(path), photographs.read(path, upright=False)
    corners = {
        1: "wrgb",
        2: "rwbg",
        3: "bgrw",
        4: "gbwr",
        5: "wgrb",
        6: "gwbr",
        7: "brgw",
        8: "rbwg",
    }[tag]
    names = {(255, 255, 255): "w", (255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b"}

    def letters(image):
        width, height = image.size
        spots = [(5, 5), (width - 6, 5), (5, height - 6), (width - 6, height - 6)]
        return "".join(
            names[tuple(255 * (value > 127) for value in image.getpixel(spot))] for spot in spots
        )

    assert letters(upright.image) == corners and letters(stored.image) == "wrgb"
    assert upright.size == upright.image.size == ((24, 40) if tag > 4 else (40, 24))
    assert stored.size == stored.image.size == (40, 24)
    assert upright.orientation == stored.orientation == tag


# ---------------------------------------------------------------------------- ---------------- size


@pytest.mark.parametrize(
    "suffix, mode",
    [("jpg", "RGB"), ("jpg", "L"), ("png", "RGB"), ("png", "RGBA"), ("gif", "P"), ("png", "I;16")],
)
def test_a_large_photograph_is_reduced_while_reading(tmp_path, suffix, mode):
    image = quarters().resize((400, 240), Image.Resampling.NEAREST)
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    image = Image.fromarray(deep) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    photograph = photographs.read(tmp_path / f"a.{suffix}", max_pixels=30_000)
    assert photograph.size == (400, 240) and photograph.image.size == (200, 120)
    whole = photographs.read(tmp_path / f"a.{suffix}").image
    assert whole.size == (400, 240)
    assert np.abs(np.asarray(whole.reduce(2)).astype(int) - np.asarray(photograph.image)).mean() < 1


def test_the_pixels_of_a_telephone_need_little_memory_and_too_many_are_refused(tmp_path, capfd):
    Image.new("L", (12000, 9000), 200).save(tmp_path / "a.jpg")
    code = (
        "import resource, sys; from data import photographs; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "read = photographs.read(sys.argv[1]); print(read.size, read.image.size, "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.jpg"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.startswith("(12000, 9000) (6000, 4500) ")
    assert int(done.stdout.split()[-1]) < 300_000 * (
        1024 if sys.platform == "darwin" else 1
    )  # of 324 MB of pixels
    Image.new("1", (30000, 30000)).save(tmp_path / "bomb.png")
    assert "268 million pixels" in refused(tmp_path / "bomb.png")
    assert capfd.readouterr() == ("", "") and Image.MAX_IMAGE_PIXELS == 89478485


# --------------------------------------------------------------------------- --- what is no picture


def test_heic_without_its_reader(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr(photographs, "pillow_heif", None)
    assert "pip install -r requirements-heif.txt" in refused(tmp_path / "a.heic")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_folders_pipes_and_what_is_missing(tmp_path):
    assert "folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "no ordinary file" in refused(tmp_path / "pipe.jpg") and "no ordinary file" in refused(
        "/dev/zero"
    )
    with pytest.raises(FileNotFoundError):
        photographs.read(tmp_path / "none.jpg")


# ---------------------------------------------------------------------------- --------------- names


@pytest.mark.parametrize(
    "name, shown",
    [
        (b"caf\xe9 $x_1$ \xe7\x8c\xab.jpg", "caf\\xe9 $x_1$ 猫.jpg"),
        ("a\nb\tc\x1b[31m.jpg", "a\\nb\\tc\\x1b[31m.jpg"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("plain \u3000.jpg", "plain \u3000.jpg"),
        ("caf\\xe9", "caf\\xe9"),
    ],
)
def test_any_name_can_be_shown(name, shown):
    assert photographs.show_name(name) == shown
    photographs.show_name(name).encode()
