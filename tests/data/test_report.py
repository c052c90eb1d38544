"""What --check calls odd: one oddity at a time put into sound data, named with its number and the first rows."""

import h5py
import numpy as np
import pytest

from cli import InputError
from conftest import rechunk, write_data
from data import report

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
    report.check(folder)
    lines = capsys.readouterr().out.splitlines()
    assert any(f"{folder} is sound" in line for line in lines)
    return [line.removeprefix("odd: ") for line in lines if line.startswith("odd: ")]


def test_nothing_is_odd_about_usual_data_and_its_classes_are_counted(data, capsys):
    assert odd(data, capsys) == []
    report.check(data)
    assert "  val: 20 cats, 20 dogs, 39 with a head box" in capsys.readouterr().out


@pytest.mark.parametrize("kind, value, words", [
    ("masks", 0, "masks without any pet"),
    ("masks", 1, "masks that are pet all over"),
    ("bboxes", (0, 0, SIZE, SIZE), "head boxes that are the whole image"),
    ("images", 7, "images of a single colour")])
def test_odd_images_are_counted_and_the_first_are_named(kind, value, words, data, capsys):
    change(data, "val", kind, set_rows([3, 5, 8, 30, 31], value))
    lines = [line for line in odd(data, capsys) if words in line]
    assert lines == [f"5 {words}: val row 3 (val_3), val row 5 (val_5), val row 8 (val_8), ..."]


def test_a_box_beside_its_pet_is_odd_and_one_within_it_is_not(data, capsys):
    change(data, "train", "masks", lambda masks: set_rows(np.s_[:, 20:40, 20:40], 1)(np.zeros_like(masks)))
    boxes = np.tile(np.float32([22, 22, 30, 30]), (40, 1))
    boxes[4], boxes[9] = (41, 41, 60, 60), (1, 1, 19.5, 19.5)
    change(data, "train", "bboxes", lambda _: boxes)
    assert odd(data, capsys) == ["2 head boxes with less than 20% of pet in them: train row 4 (train_4), "
                                 "train row 9 (train_9)"]


def test_copies_within_a_split_are_odd(data, capsys):
    change(data, "test", "images", lambda images: set_rows([11, 12], images[10])(images))
    assert odd(data, capsys) == ["2 images that stand in their split before already: test row 11 (test_11), "
                                 "test row 12 (test_12)"]


def test_a_split_of_one_class_and_splits_of_different_classes_are_odd(data, capsys):
    change(data, "test", "binary", set_rows(slice(None), 1))
    change(data, "val", "binary", set_rows(slice(4, None), 0))
    lines = odd(data, capsys)
    assert any("test holds dogs only" in line for line in lines)
    assert any("5% of val are dogs and 52% of all" in line for line in lines)
    assert not any("train" in line for line in lines)


def test_a_split_without_boxes_is_odd(data, capsys):
    change(data, "train", "bboxes", set_rows(slice(None), np.nan))
    assert odd(data, capsys) == ["train holds no head box: nothing teaches that task"]


@pytest.mark.parametrize("split, label, words", [
    ("train", 1, "train holds dogs only: nothing teaches to tell them apart"),
    ("val", 0, "val holds cats only: its accuracy says nothing")])
def test_what_a_split_of_one_class_is_no_use_for(split, label, words, data, capsys):
    change(data, split, "binary", set_rows(slice(None), label))
    assert words in odd(data, capsys)


@pytest.mark.parametrize("split, does", [("train", "teaches"), ("test", "measures")])
@pytest.mark.parametrize("pets", [0, 1])
def test_a_split_whose_masks_are_all_empty_is_odd(pets, split, does, data, capsys):
    change(data, split, "masks", lambda masks: set_rows(slice(pets), 1)(np.zeros_like(masks)))
    lines = odd(data, capsys)
    assert (f"{split} holds no mask with a pet in it: nothing {does} segmentation" in lines) == (pets == 0)
    assert lines[0 if pets == 0 else 1].startswith(f"{40 - pets} masks without any pet: {split} row {pets} ({split}_{pets})")


def test_boxes_are_held_against_masks_where_there_are_both(data, capsys):
    change(data, "val", "bboxes", set_rows(3, (0, 0, SIZE, SIZE)))
    assert len(odd(data, capsys)) == 2  # with little of a pet in it, and the whole image
    (data / "val" / "masks.h5").unlink()
    (data / "test" / "bboxes.h5").unlink()
    assert odd_of(data, capsys) == ["val has no masks.h5: nothing measures segmentation",
                                    "test has no bboxes.h5: nothing measures the head box"]


def test_names_are_shown_without_what_moves_the_cursor(data, capsys):
    path = data / "val" / "index.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("val_3\n", '"猫 Bébé\n\x1b[2J"\n'), encoding="utf-8")
    change(data, "val", "images", set_rows(3, 7))
    assert odd(data, capsys) == [r"1 images of a single colour: val row 3 (猫 Bébé\n\x1b[2J)"]


def test_normalised_boxes_are_refused_at_rechunking_and_at_the_check(data, tmp_path):
    change(data, "val", "bboxes", lambda boxes: boxes / SIZE)
    with pytest.raises(InputError, match="bboxes.h5: no box reaches beyond the first pixel.*multiply them by 64"):
        rechunk(data)
    other = rechunk(write_data(tmp_path / "other", COUNTS, SIZE))
    change(other, "val", "bboxes", lambda boxes: boxes / SIZE)
    with pytest.raises(InputError, match="normalised"):
        report.check(other)
