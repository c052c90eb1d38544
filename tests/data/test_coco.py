"""COCO files: which pixels and boxes their annotations give, hand-made, and what is refused. Drawn
by pycocotools."""

import json

import numpy as np
import pytest
from own import photograph, prepare, refused, write_coco
from oxford import names, read

SQUARE = [[10, 8, 30, 8, 30, 28, 10, 28]]  # x 10 to 29, y 8 to 27
RUNS = {
    "size": [48, 64],
    "counts": [48 * 10 + 8, 20, 28, 20, 48 * 64 - 48 * 10 - 76],
}  # two columns, x 10 and 11
WHOLE = {"size": [48, 64], "counts": [0, 48 * 64]}


@pytest.fixture
def coco():
    return pytest.importorskip("pycocotools.mask")


def folder(place, *found):
    for name in found:
        photograph(place / "photos", name)
    return place / "photos"


def prepared(place, images, annotations, categories=("pet",), foreground=(), size=64):
    path = write_coco(place / "coco.json", dict.fromkeys(images, (64, 48)), annotations, categories)
    out = prepare(
        place / f"data{len(list(place.iterdir()))}",
        "--images",
        place / "photos",
        "--coco",
        path,
        "--fractions",
        "0-0-100",
        *(("--foreground", *foreground) if foreground else ()),
        size=size,
    )
    arrays, rows = read(out)
    return {
        row["name"]: {kind: array[k] for kind, array in arrays.items()}
        for k, row in enumerate(rows)
    }


def box_of_mask(mask):
    """x and y of the first and the last foreground pixel, in a frame of 64 x 64 brought back to 64
    x 48."""
    y, x = np.nonzero(mask[..., 0] == 1)
    return x.min(), round(y.min() * 48 / 64), x.max(), round(y.max() * 48 / 64)


def test_the_categories_of_foreground_count_and_boxes_are_of_them(coco, tmp_path):
    folder(tmp_path, "a", "b")
    annotations = [
        ("a.JPG", "cat", SQUARE, {"bbox": [10, 8, 20, 20]}),
        ("a.JPG", "sofa", WHOLE, {"bbox": [0, 0, 64, 48]}),
        ("b.JPG", "big dog", RUNS, {"bbox": [10, 8, 2, 20]}),
    ]
    categories = ("cat", "sofa", "big dog", "unused")
    cats = prepared(tmp_path, ["a.JPG", "b.JPG"], annotations, categories, ["cat"])
    assert box_of_mask(cats["a"]["masks"]) == (10, 8, 29, 27) and not cats["b"]["masks"].any()
    assert not np.isnan(cats["a"]["bboxes"]).any()
    both = prepared(tmp_path, ["a.JPG", "b.JPG"], annotations, categories, ["big dog", "sofa"])
    assert (both["a"]["masks"] == 1).all() and both["a"]["bboxes"].tolist() == [0, 0, 64, 64]
    assert box_of_mask(both["b"]["masks"]) == (10, 8, 11, 27)
    options = [tmp_path / "x", "--images", tmp_path / "photos", "--coco", tmp_path / "coco.json"]
    assert "(cat, sofa, big dog, unused); say with --foreground NAME" in refused(*options)
    assert "has no category 'dog' (it has cat, sofa" in refused(*options, "--foreground", "dog")
    assert "nothing is foreground in any of the 2 masks" in refused(
        *options, "--foreground", "unused"
    )


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "a list of numbers"),
        ([[1, 2, 3, 4, 5, None]], "a list of numbers"),
        ([[1, 2, 3, 4, 5, 1e9]], "in a frame of 64 x 48"),
        ([1, 2, 3, 4, 5, 6], "a list of numbers"),
        (RUNS | {"size": [64, 48]}, "its size is '[64, 48]' and should be [48, 64]"),
        ({"counts": [1]}, "its size is 'None'"),
        (RUNS | {"counts": [1, 2]}, "add up to 3072"),
        (RUNS | {"counts": [-1, 3073]}, "add up to 3072"),
        (RUNS | {"counts": "ÿ"}, "no run lengths"),
        (RUNS | {"counts": "o" * 99}, "no run lengths"),
        (RUNS | {"counts": "o"}, "add up to 3072"),
        (RUNS | {"counts": "000"}, "add up to 3072"),
        (RUNS | {"counts": ""}, "add up to 3072"),
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_refused_by_name(
    segmentation, words, coco, tmp_path
):
    folder(tmp_path, "a", "b")
    path = write_coco(
        tmp_path / "c.json",
        {"a.JPG": (64, 48), "b.JPG": (64, 48)},
        [("a.JPG", "pet", segmentation, {}), ("b.JPG", "pet", SQUARE, {})],
    )
    message = refused(tmp_path / "data", "--images", tmp_path / "photos", "--coco", path)
    assert (
        "1 mask cannot be used; a: its annotation 1 cannot be drawn: " in message
        and words in message
    )
    out = prepare(
        tmp_path / "data",
        "--images",
        tmp_path / "photos",
        "--coco",
        path,
        "--leave-out",
        "--fractions",
        "0-0-100",
    )
    assert names(out) == ["b"]


def content(**changes):
    right = {
        "images": [{"id": 1, "file_name": "a.JPG", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "pet"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": SQUARE}],
    }
    return json.dumps(
        {
            key: value(right[key]) if callable(value) else value
            for key, value in (right | changes).items()
        }
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": []}', "has no list 'categories'"),
        ("[" * 100_000, "is no JSON"),
        (content(annotations={}), "has no list 'annotations'"),
        (content(images=[1]), "entry 0 of 'images' has no id"),
        (
            content(images=lambda right: [right[0] | {"width": 10**9}]),
            "'a.JPG' is 1000000000 x 48 there",
        ),
        (content(images=lambda right: right * 2), "the id 1 stands twice in 'images'"),
        (
            content(images=lambda right: [*right, right[0] | {"id": 2, "file_name": "a.png"}]),
            "the images 1 and 2 are both a",
        ),
        (
            content(
                images=lambda right: [
                    *right,
                    right[0] | {"id": 2, "file_name": "x.jpg"},
                    right[0] | {"id": 3, "file_name": "y.jpg"},
                ]
            ),
            "2 of its 3 images are not in",
        ),
        (content(annotations=[]), "holds no annotation"),
        (content(categories=[]), "of a category 1 that it does not name"),
        (
            content(annotations=lambda right: [right[0] | {"image_id": 9}]),
            "annotation 1 is of an image 9 that it does not name",
        ),
        (
            content(annotations=lambda right: [right[0] | {"segmentation": "x"}]),
            "neither polygons nor run lengths",
        ),
        (
            content(annotations=lambda right: [right[0] | {"segmentation": {"counts": 5}}]),
            "neither polygons nor run lengths",
        ),
    ],
)
def test_what_is_no_coco_file_of_these_photographs_is_refused(text, words, coco, tmp_path):
    photos = folder(tmp_path, "a", "b")
    (tmp_path / "c.json").write_text(text)
    message = refused(tmp_path / "data", "--images", photos, "--coco", tmp_path / "c.json")
    assert words in message and str(tmp_path / "c.json") in message and len(message) < 600
