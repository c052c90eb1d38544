"""Damaged pictures: refused in one sentence, or read, and never a word from a library."""

import struct

import numpy as np
import pytest
from drawn import quarters, refused
from PIL import Image

from data import photographs
from data.photographs import Unreadable


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "ppm", "tga", "webp", "jp2"])
def test_an_incomplete_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert "copy or download it again" in refused(path)


def test_a_png_that_breaks_off_between_its_parts_is_refused(tmp_path):
    """Whose first part decodes: reading its EXIF decodes it once, and what is wrong then must not be lost."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(
        path
    )
    data = path.read_bytes()
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    path.write_bytes(data[:second] + b"\1\2\3\4" + data[second + 4 :])
    assert "it is damaged" in refused(path)
    assert "it is damaged" in refused(path, photographs.read_mask)


def test_a_place_before_the_beginning_is_damage(tmp_path, monkeypatch):
    """What the system says of it would send one looking for a fault of the system."""

    def fail(*_):
        raise OSError(22, "Invalid argument")

    quarters().save(tmp_path / "a.bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert (
        refused(tmp_path / "a.bmp") == "it is damaged (Invalid argument); copy or download it again"
    )


def test_a_packing_that_pillow_lacks_is_named(tmp_path):
    """A TIFF file whose strips are said to be in another compression than they are."""
    quarters().save(tmp_path / "a.tif", compression="tiff_lzw")
    data = (tmp_path / "a.tif").read_bytes()
    tag = struct.pack("<HHIH", 259, 3, 1, 5)
    assert data.count(tag) == 1
    (tmp_path / "a.tif").write_bytes(
        data.replace(tag, struct.pack("<HHIH", 259, 3, 1, 50001))
    )  # WebP
    reason = refused(tmp_path / "a.tif")
    assert (
        "packed in a way that Pillow cannot decode" in reason or "Pillow cannot decode it" in reason
    )


def test_damaged_tiffs_are_refused_or_read_in_silence(tmp_path, capfd):
    array = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    outcomes = set()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"):
        image = Image.fromarray(array).convert("1" if compression == "group4" else "RGB")
        image.save(tmp_path / "a.tif", compression=compression)
        for seed in range(10):
            rng, data = np.random.default_rng(seed), bytearray((tmp_path / "a.tif").read_bytes())
            for place in rng.integers(8, len(data), 10):
                data[place] = rng.integers(256)
            (tmp_path / "b.tif").write_bytes(data)
            try:
                photographs.read(tmp_path / "b.tif")
                outcomes.add("read")
            except Unreadable:
                outcomes.add("refused")
    assert "refused" in outcomes and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(), SyntaxError(), Exception(), ValueError("\n"), RecursionError()],
)
def test_errors_without_a_text_have_a_sentence_too(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    quarters().save(tmp_path / "a.png")
    monkeypatch.setattr(photographs.Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert "memory" in refused(tmp_path / "a.png") or type(error).__name__ in refused(
        tmp_path / "a.png"
    )
