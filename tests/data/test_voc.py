"""Folders in PASCAL VOC's layout: classes by number and by name, boxes, and lists of a split."""

import numpy as np
import pytest
from own import palette, photograph, prepare, save_mask
from oxford import read


def voc(root, name, mask=None, objects=()):
    """A photograph of 64 x 48, its mask of class numbers and its objects (name, box)."""
    photograph(root / "JPEGImages", name, ".jpg")
    if mask is not None:
        save_mask(root / "SegmentationClass", name, palette(mask))
    if objects:
        (root / "Annotations").mkdir(exist_ok=True)
        part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>"
        boxes = [
            "".join(
                f"<{key}>{value}</{key}>"
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            for _, box in objects
        ]
        shapes = "".join(
            f"<object><name>{kind}</name>{part}<bndbox>{box}</bndbox></object>"
            for (kind, _), box in zip(objects, boxes, strict=True)
        )
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>64</width><height>48</height></size>{shapes}</annotation>"
        )
    return root


def columns(*values):
    """(48, 64): columns of 16 pixels of each value."""
    return np.repeat(np.repeat(np.array([values]), 16, 1), 48, 0)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "VOC2012"
    voc(root, "cat", columns(0, 8, 255, 12), [("cat", (16, 4, 32, 40)), ("dog", (48, 4, 63, 40))])
    voc(root, "dog", columns(12, 0, 0, 0), [("dog", (2, 4, 16, 40))])
    voc(root, "sofa", columns(18, 18, 0, 0), [("sofa", (1, 1, 32, 48))])
    voc(root, "boxed", None, [("cat", (8, 6, 24, 30))])
    voc(root, "plain")
    return root


def found(root, out, *options):
    arrays, rows = read(prepare(out, "--voc", root, "--fractions", "0-0-100", *options))
    masks = {
        row["name"]: mask[0, ::8, 0].tolist()
        for row, mask in zip(rows, arrays["masks"], strict=True)
    }
    boxes = {
        row["name"]: (box * (2, 1.5, 2, 1.5)).round(3).tolist()
        for row, box in zip(rows, arrays["bboxes"], strict=True)
        if row["has_box"] == "1"
    }
    return masks, boxes


UNKNOWN = dict.fromkeys(("boxed", "plain"), [255] * 4)


def test_every_class_is_foreground_unless_said_otherwise(root, tmp_path, capsys):
    masks, boxes = found(root, tmp_path / "data")
    assert masks == {"cat": [0, 1, 255, 1], "dog": [1, 0, 0, 0], "sofa": [1, 1, 0, 0]} | UNKNOWN
    assert boxes == {
        "dog": [2, 4, 16, 40],
        "sofa": [1, 1, 32, 48],
        "boxed": [8, 6, 24, 30],
    }  # not of two objects
    text = capsys.readouterr().out
    assert "all numbers but 0 are foreground: 3 (cat, dog, sofa)\n" in text
    assert "masks in which 255 is unlabelled: 1 (cat)\n" in text
    assert "without a mask, so unlabelled: 2 (boxed, plain)\n" in text


@pytest.mark.parametrize("foreground", [["8", "12"], ["cat", "Dog"], ["8", "dog"]])
def test_classes_by_number_and_by_name(foreground, root, tmp_path):
    masks, boxes = found(root, tmp_path / "data", "--foreground", *foreground)
    assert masks == {"cat": [0, 1, 255, 1], "dog": [1, 0, 0, 0], "sofa": [0, 0, 0, 0]} | UNKNOWN
    assert boxes == {"dog": [2, 4, 16, 40], "boxed": [8, 6, 24, 30]}
    masks, boxes = found(root, tmp_path / "cats", "--foreground", foreground[0])
    assert masks["cat"] == [0, 1, 255, 0] and boxes == {
        "cat": [16, 4, 32, 40],
        "boxed": [8, 6, 24, 30],
    }


def test_boxes_alone_and_a_damaged_box_file(root, tmp_path, capsys):
    for path in (root / "SegmentationClass").iterdir():
        path.unlink()
    (root / "SegmentationClass").rmdir()
    (root / "Annotations" / "dog.xml").write_text("<annotation>")
    arrays, rows = read(prepare(tmp_path / "data", "--voc", root, "--fractions", "0-0-100"))
    assert arrays.keys() == {"images", "bboxes"}
    assert {row["name"] for row in rows if row["has_box"] == "1"} == {"sofa", "boxed"}
    assert (
        "without a box, because it cannot be used: 1\n  dog: its file cannot be read as XML"
        in capsys.readouterr().out
    )
