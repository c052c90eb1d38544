"""Damaged pictures: refused in one sentence, or read, and never a word from a library."""

import numpy as np
import pytest
from drawn import refused
from PIL import Image

from data import photographs


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "ppm", "tga", "webp", "jp2"])
def test_an_incomplete_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert "copy or download it again" in refused(path)


def test_a_png_that_breaks_off_between_its_parts_is_refused(tmp_path):
    """Whose first part decodes: reading its EXIF decodes it once, and what is wrong then must not
    be lost."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(
        path
    )
    data = path.read_bytes()
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    path.write_bytes(data[:second] + b"\1\2\3\4" + data[second + 4 :])
    assert "it is damaged" in refused(path)
    assert "it is damaged" in refused(path, photographs.read_mask)
