"""HEIC pictures, where pillow-heif is installed (requirements-heif.txt)."""

import numpy as np
import pytest
from drawn import quarters, refused
from PIL import Image

from data import photographs


@pytest.fixture()
def heif():
    return pytest.importorskip("pillow_heif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_heic_of_eight_bits(tmp_path, heif, mode):
    image = quarters().convert(mode)
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (20, 0, 40, 12))
    image.save(tmp_path / "a.heic", format="HEIF", quality=100, chroma=444)
    photograph = photographs.read(tmp_path / "a.heic")
    expected = Image.new("RGB", (40, 24), "white")
    expected.paste(image.convert("RGB"), mask=image.getchannel("A") if mode == "RGBA" else None)
    assert photograph.size == (40, 24) and photograph.image.mode == "RGB"
    assert np.abs(np.asarray(photograph.image).astype(int) - np.asarray(expected)).mean() < 2


def test_a_damaged_heic_is_refused(tmp_path, heif, capfd):
    quarters().save(tmp_path / "a.heic", format="HEIF")
    data = (tmp_path / "a.heic").read_bytes()
    for end in (20, 100, len(data) // 2, len(data) - 10):
        (tmp_path / "b.heic").write_bytes(data[:end])
        assert "copy or download it again" in refused(tmp_path / "b.heic")
    assert capfd.readouterr() == ("", "")
