"""index.csv as people and spreadsheets write it: read where it says enough, else refused for the
right reason."""

import hashlib
import shutil

import h5py
import pytest
from conftest import rechunk, write_data

import data_rechunk
from cli import InputError
from data import contract
from data import index as data_index


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Re-chunked data of four images, val_0 to val_3, cats but for the second, all but the last
    with a box."""
    folder = write_data(tmp_path_factory.mktemp("index") / "pets", {"val": 4}, size=32)
    with h5py.File(folder / "val" / "binary.h5", "r+") as file:
        file["binary"][:] = [[0], [1], [0], [0]]
    rows = [
        "0,val_0,Bengal,cat,1",
        "1,val_1,pug,dog,1",
        "2,val_2,Bengal,cat,1",
        "3,val_3,Bengal,cat,0",
    ]
    (folder / "val" / "index.csv").write_text(
        "\n".join(["row,name,breed,species,has_box", *rows, ""])
    )
    return rechunk(folder)


@pytest.fixture
def data(sound, tmp_path):
    """A sound copy to spoil."""
    return shutil.copytree(sound, tmp_path / "data")


def check(data):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(data), "--check"]))


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: (text + ",,,,\n,,,,\n").encode(),
        lambda text: text.replace("cat", "").replace("dog", "").encode(),
        lambda text: "\n".join(",".join(line.split(",")[:2]) for line in text.split("\n")).encode(
            "utf-8-sig"
        ),
    ],
    ids=["bom", "bom-crlf", "crlf", "emptied", "no-species", "names-only"],
)
def test_an_index_as_spreadsheets_write_it_is_read(write, data):
    path = data / "val" / "index.csv"
    path.write_bytes(write(path.read_text()))
    check(data)
    assert contract.read_index(data, "val", 4) == ["val_0", "val_1", "val_2", "val_3"]


@pytest.mark.parametrize(
    "write, words",
    [
        (
            lambda text: text.replace(",", ";").encode("utf-8-sig"),
            "separated by semicolons; save it with commas",
        ),
        (lambda text: text.replace(",", "\t").encode(), "separated by tabs; save it with commas"),
        (
            lambda text: text.encode("utf-16"),
            "is no UTF-8 text (UTF-16, as Excel's 'Unicode Text' is); save it as 'CSV UTF-8'",
        ),
        (
            lambda text: text.replace("val_1", "Bébé").encode("cp1252"),
            "is no UTF-8 text (invalid continuation byte)",
        ),
        (
            lambda text: text.replace("row,", "nr,").encode(),
            "names no column row ('nr,name,breed,species,has_box')",
        ),
        (
            lambda text: text.partition("\n")[2].encode(),
            "names no column row and no name ('0,val_0",
        ),
        (lambda text: b"", "names no column row and no name ('')"),
        (lambda text: text.replace("\n2,", "\n3,").encode(), "where 2 should stand it says '3'"),
        (lambda text: text.replace("val_2,", ",").encode(), "row 2 has none; give it one"),
        (
            lambda text: text.rpartition("3,val")[0].encode(),
            "lists 3 rows; list one for each image",
        ),
        (
            lambda text: text.replace("dog", "Dog").encode(),
            "row 1: species is 'Dog' and binary.h5 beside it says dog; correct",
        ),
        (
            lambda text: text.replace(",1\n", ",TRUE\n").encode(),
            "has_box is 'TRUE' and bboxes.h5 beside it says 1",
        ),
    ],
)
def test_an_index_is_refused_for_the_right_reason_with_the_way_out(write, words, data):
    path = data / "val" / "index.csv"
    path.write_bytes(write(path.read_text()))
    with pytest.raises(InputError) as error:
        check(data)
    message = str(error.value)
    assert str(path) in message and words in message and "\n" not in message, message


def test_columns_of_ones_own_are_read_and_counted(data):
    cells = [('"3, or 4"', " x "), ("5", ""), ("", "x"), ('"3, or 4"', "  ")]
    lines = [f"{k},val_{k},{age},{colour},," for k, (age, colour) in enumerate(cells)]
    (data / "val" / "index.csv").write_text(
        "\n".join(["row,name,age of it,colour,,", *lines, ""])
    )  # two without a name
    check(data)
    rows = data_index.read_index_rows(data, "val", 4)
    assert data_index.column_names(rows) == ["row", "name", "age of it", "colour"]
    assert [row["age of it"] for row in rows] == ["3, or 4", "5", "", "3, or 4"]
    assert data_index.contents(rows, "age of it") == (2, 1) and data_index.contents(
        rows, "colour"
    ) == (1, 2)


def rename(data, names=None, labels=None):
    """Give the classes of binary.h5 names, or other labels."""
    with h5py.File(data / "val" / "binary.h5", "r+") as file:
        if names:
            file.attrs["classes"] = names
        if labels:
            file["binary"][:] = [[label] for label in labels]
            file["binary"].attrs["sha256"] = hashlib.sha256(file["binary"][:]).hexdigest()


def test_a_class_of_255_contradicts_no_species(data):
    rename(data, labels=[255, 1, 255, 0])
    check(data)
    rename(data, labels=[255, 255, 1, 0])
    with pytest.raises(
        InputError, match="row 2: species is 'cat' and binary.h5 beside it says dog"
    ):
        check(data)
