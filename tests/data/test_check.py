"""What --check calls odd: one oddity at a time put into sound data, named with its number and the
first rows."""

import h5py
import numpy as np
import pytest
from conftest import rechunk, write_data

from cli import InputError
from data import check

SIZE = 64
COUNTS = {"train": 40, "val": 40, "test": 40}


@pytest.fixture
def data(tmp_path):
    """Prepared data whose splits hold as many cats as dogs, not re-chunked yet."""
    folder = write_data(tmp_path / "pets", COUNTS, SIZE)
    for split, n in COUNTS.items():
        change(folder, split, "binary", lambda labels: np.arange(len(labels))[:, None] % 2)
        lines = [f"{k},{split}_{k}" for k in range(n)]
        (folder / split / "index.csv").write_text("\n".join(["row,name", *lines, ""]))
    return folder


def change(folder, split, kind, function):
    with h5py.File(folder / split / f"{kind}.h5", "r+") as file:
        content = file[kind][:]
        file[kind][:] = function(content)


def set_rows(rows, value):
    def function(content):
        content[rows] = value
        return content

    return function


def odd(folder, capsys):
    """The lines in which --check tells what is odd."""
    return odd_of(rechunk(folder), capsys)


def odd_of(folder, capsys):
    """The same of data that is re-chunked already."""
    check.check(folder)
    lines = capsys.readouterr().out.splitlines()
    assert any(f"{folder} is sound" in line for line in lines)
    return [line.removeprefix("odd: ") for line in lines if line.startswith("odd: ")]


def test_nothing_is_odd_about_usual_data_and_its_classes_are_counted(data, capsys):
    assert odd(data, capsys) == []
    check.check(data)
    assert "  val: 20 cats, 20 dogs, 39 with a head box" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind, value, words",
    [
        ("masks", 0, "masks without any pet"),
        ("masks", 1, "masks that are pet all over"),
        ("bboxes", (0, 0, SIZE, SIZE), "head boxes that are the whole image"),
        ("images", 7, "images of a single colour"),
    ],
)
def test_odd_images_are_counted_and_the_first_are_named(kind, value, words, data, capsys):
    change(data, "val", kind, set_rows([3, 5, 8, 30, 31], value))
    lines = [line for line in odd(data, capsys) if words in line]
    assert lines == [f"5 {words}: val row 3 (val_3), val row 5 (val_5), val row 8 (val_8), ..."]


def test_a_box_beside_its_pet_is_odd_and_one_within_it_is_not(data, capsys):
    change(
        data,
        "train",
        "masks",
        lambda masks: set_rows(np.s_[:, 20:40, 20:40], 1)(np.zeros_like(masks)),
    )
    boxes = np.tile(np.float32([22, 22, 30, 30]), (40, 1))
    boxes[4], boxes[9] = (41, 41, 60, 60), (1, 1, 19.5, 19.5)
    change(data, "train", "bboxes", lambda _: boxes)
    assert odd(data, capsys) == [
        "2 head boxes with less than 20% of pet in them: train row 4 (train_4), "
        "train row 9 (train_9)"
    ]


def test_copies_within_a_split_are_odd(data, capsys):
    change(data, "test", "images", lambda images: set_rows([11, 12], images[10])(images))
    assert odd(data, capsys) == [
        "2 images that stand in their split before already: test row 11 (test_11), "
        "test row 12 (test_12)"
    ]


def test_a_split_of_one_class_and_splits_of_different_classes_are_odd(data, capsys):
    change(data, "test", "binary", set_rows(slice(None), 1))
    change(data, "val", "binary", set_rows(slice(4, None), 0))
    lines = odd(data, capsys)
    assert any("test holds dogs only" in line for line in lines)
    assert any("5% of val are dogs and 52% of all" in line for line in lines)
    assert not any("train" in line for line in lines)


def shown(folder, capsys):
    """The lines of --check on the splits, of data that are re-chunked already."""
    check.check(folder)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


def test_what_is_unlabelled_is_counted_and_is_no_pet(data, capsys):
    """Of the 40 masks of val, two are unlabelled, one of them behind a box, and three in part;
    none is pet all over."""

    def unlabel(masks):
        masks[[3, 5]] = 255
        masks[7, :30] = 255
        masks[8, 10:] = 255
        masks[8, :10] = 1  # pet wherever it is known
        masks[9] = 255
        masks[9, 0] = 0  # no pet where it is known
        return masks

    change(data, "val", "masks", unlabel)
    boxes = np.tile(np.float32([0, 0, 8, 8]), (40, 1))
    change(
        data,
        "val",
        "bboxes",
        lambda _: np.where(np.isin(np.arange(40), [3, 8])[:, None], boxes, np.nan),
    )
    change(data, "val", "binary", set_rows([0, 1, 2], 255))
    assert odd(data, capsys) == ["1 masks without any pet: val row 9 (val_9)"]
    assert shown(data, capsys) == [
        "  train: 20 cats, 20 dogs, 39 with a head box",
        "  val: 18 cats, 19 dogs, 3 of unknown class, 2 with a head box, 38 with a mask (3 of "
        "them in part unlabelled)",
        "  test: 20 cats, 20 dogs, 39 with a head box",
    ]


def test_a_box_is_held_against_what_is_known_of_its_mask(data, capsys):
    """A box of 10 x 10: 4 rows known, of which 1 is pet, is a quarter; of 6 rows known, a sixth."""
    masks = np.zeros((40, SIZE, SIZE, 1), np.uint8)
    masks[:, 30] = 1
    masks[:, 0] = 1
    masks[3, 4:10], masks[5, 6:10], masks[6, :10] = 255, 255, 255
    change(data, "val", "masks", lambda _: masks)
    boxes = np.full((40, 4), np.nan, np.float32)
    boxes[[3, 5, 6]] = 0, 0, 10, 10
    change(data, "val", "bboxes", lambda _: boxes)
    assert odd(data, capsys) == [
        "1 head boxes with less than 20% of pet in them: val row 5 (val_5)"
    ]


def test_trimaps_are_counted_and_missing_ones_are_odd_where_others_are(data, capsys):
    for split, unlabelled in (("train", 3), ("val", 40)):
        trimaps = np.full((40, SIZE, SIZE, 1), 2, np.uint8)
        trimaps[:unlabelled] = 255
        trimaps[5:, :, 9] = 255  # in part
        with h5py.File(data / split / "trimaps.h5", "w") as file:
            file["trimaps"] = trimaps
    assert odd(data, capsys) == [
        "test has no trimaps.h5, though train has: nothing measures the border"
    ]
    assert shown(data, capsys) == [
        "  train: 20 cats, 20 dogs, 39 with a head box, 37 with a trimap",
        "  val: 20 cats, 20 dogs, 39 with a head box, none with a trimap",
        "  test: 20 cats, 20 dogs, 39 with a head box",
    ]


def test_columns_of_ones_own_are_listed_and_where_they_are_missing(data, capsys):
    def index(split, columns, cells):
        lines = [f"{k},{split}_{k},cat breed,{cells(k)}" for k in range(40)]
        (data / split / "index.csv").write_text(
            "\n".join([f"row,name,breed,{columns}", *lines, ""])
        )

    index(
        "train",
        "age,colour,\x1b[2Jbad",
        lambda k: f"{'' if k < 4 else k % 7},{'red' if k else ''},x",
    )
    index("val", "age,colour,\x1b[2Jbad", lambda k: f"1,{'' if k % 2 else 'blue'},")
    assert odd(data, capsys) == [
        f"index.csv of test has no column {name}, though that of train has: nothing measures it"
        for name in ("breed", "age", "colour", r"\x1b[2Jbad")
    ]
    assert [line for line in shown(data, capsys) if "index.csv" in line] == [
        r"  train, index.csv: age (7 values, 4 empty), colour (1 value, 1 empty), \x1b[2Jbad (1 "
        r"value)",
        r"  val, index.csv: age (1 value), colour (1 value, 20 empty), \x1b[2Jbad (0 values, 40 "
        r"empty)",
    ]
    (data / "train" / "index.csv").unlink()
    assert (
        "index.csv of train has no column age, though that of val has: nothing teaches it"
        in odd_of(data, capsys)
    )


def test_classes_are_called_what_the_file_calls_them(data, capsys):
    for split in COUNTS:
        with h5py.File(data / split / "binary.h5", "r+") as file:
            file.attrs["classes"] = ["rabbit", "guinea\npig"]
    change(data, "test", "binary", set_rows(slice(None), 1))
    change(data, "val", "binary", set_rows(slice(4, None), 0))
    assert odd(data, capsys) == [
        r"5% of val are 'guinea\npig' and 52% of all: the splits are not alike",
        r"test holds 'guinea\npig' only: its accuracy says nothing",
    ]
    assert r"  val: 38 'rabbit', 2 'guinea\npig', 39 with a head box" in shown(data, capsys)


def test_normalised_boxes_are_refused_at_rechunking_and_at_the_check(data, tmp_path):
    change(data, "val", "bboxes", lambda boxes: boxes / SIZE)
    with pytest.raises(
        InputError, match="bboxes.h5: no box reaches beyond the first pixel.*multiply them by 64"
    ):
        rechunk(data)
    other = rechunk(write_data(tmp_path / "other", COUNTS, SIZE))
    change(other, "val", "bboxes", lambda boxes: boxes / SIZE)
    with pytest.raises(InputError, match="normalised"):
        check.check(other)
