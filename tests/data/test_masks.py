"""The reader of masks: the numbers of the file, not the colours that it is shown in."""

import numpy as np
from PIL import Image
from test_photographs import refused, row_of

from data import photographs


def test_a_mask_is_the_numbers_of_its_file(tmp_path):
    palette = row_of("P", [0, 1, 2])
    palette.putpalette([0, 0, 0, 128, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "p.gif")
    row_of("L", [0, 1, 255]).save(tmp_path / "l.png")
    row_of("1", [0, 255]).save(tmp_path / "1.png")
    Image.fromarray(np.array([[1, 2, 60000]], np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.array([[1, 2, 70000]], np.int32)).save(tmp_path / "32.tif")
    row_of("RGB", [(3, 3, 3), (9, 9, 9)]).save(tmp_path / "rgb.png")
    row_of("LA", [(3, 255), (9, 0)]).save(tmp_path / "la.png")
    Image.fromarray(np.array([[1, 2, 3]], np.float32)).save(tmp_path / "f.tif")
    for name, dtype, values in (
        ("p.png", np.uint8, [0, 1, 2]),
        ("p.gif", np.uint8, [0, 1, 2]),
        ("l.png", np.uint8, [0, 1, 255]),
        ("1.png", np.uint8, [0, 1]),
        ("16.png", np.uint16, [1, 2, 60000]),
        ("32.tif", np.int32, [1, 2, 70000]),
        ("rgb.png", np.uint8, [3, 9]),
        ("la.png", np.uint8, [3, 9]),
        ("f.tif", np.int32, [1, 2, 3]),
    ):
        mask = photographs.read_mask(tmp_path / name)
        assert mask.dtype == dtype and mask.tolist() == [values], name


def test_a_mask_of_colours_or_of_transparency_is_refused(tmp_path):
    row_of("RGB", [(128, 0, 0), (0, 0, 0), (128, 0, 0)]).save(tmp_path / "a.png")
    reason = refused(tmp_path / "a.png", photographs.read_mask)
    assert "1 colour, (128, 0, 0)" in reason and "palette" in reason
    row_of("RGBA", [(0, 0, 0, 255), (0, 0, 0, 0)]).save(tmp_path / "b.png")
    assert "transparency" in refused(tmp_path / "b.png", photographs.read_mask)
    Image.fromarray(np.array([[0.5, np.nan]], np.float32)).save(tmp_path / "c.tif")
    assert "whole numbers" in refused(tmp_path / "c.tif", photographs.read_mask)
    (tmp_path / "d.png").touch()
    assert "empty" in refused(tmp_path / "d.png", photographs.read_mask)
