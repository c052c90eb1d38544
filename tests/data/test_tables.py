"""Tables of labels: columns, boxes and classes, as spreadsheets write them, and what is refused
with its line."""

import pytest
from own import photograph

from cli import InputError
from data.names import Pictures
from data.sources.tables import Labels

TABLE = 'filename,class,age,note\na.JPG,cat,3,"one, two"\nsub/b,dog,,\n'


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a", "sub/b", "Zoe\u0308", "d"):
        photograph(folder, name)
    return Pictures(folder)


def of(table, name):
    """What a table tells the record of a photograph."""
    fields = {}
    table.add_to(fields, f"{name}.JPG")
    return fields


def labels(pictures, tmp_path, text, encoding="utf-8"):
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    return Labels(tmp_path / "labels.csv", pictures)


@pytest.mark.parametrize(
    "text, encoding",
    [
        (TABLE, "utf-8"),
        (TABLE, "utf-8-sig"),
        (TABLE.replace("\n", "\r\n"), "utf-8-sig"),
        (TABLE, "utf-16"),
        (TABLE.replace("filename", "Image").replace("sub/b", " sub\\b.png "), "utf-8"),
        (TABLE.replace("a.JPG", "./a.jpeg"), "utf-8"),
        (f"\n{TABLE}\n,,,\n", "utf-8"),
        (
            TABLE.replace("filename", ",name").replace("a.JPG", "0,a").replace("sub", "1,sub"),
            "utf-8",
        ),
    ],
    ids=[
        "plain",
        "mark",
        "Windows",
        "UTF-16",
        "other names",
        "other ending",
        "empty lines",
        "as pandas writes it",
    ],
)
def test_a_table_as_anybody_writes_it(text, encoding, pictures, tmp_path):
    table = labels(pictures, tmp_path, text, encoding)
    assert (
        table.columns == ("class", "age", "note")
        and table.classes == ("cat", "dog")
        and not table.has_boxes
    )
    assert of(table, "a") == {
        "cells": {"class": "cat", "age": "3", "note": "one, two"},
        "stratum": "cat",
        "label": 0,
    }
    assert of(table, "sub/b")["label"] == 1 and of(table, "sub/b")["cells"]["age"] == ""
    assert of(table, "d") == {
        "cells": {"class": "", "age": "", "note": ""},
        "stratum": "",
        "label": 255,
    }
    assert (
        len(table.remarks) == 1 and "labels.csv" in table.remarks[0] and ": 2 (" in table.remarks[0]
    )


def test_boxes_are_of_the_upright_photograph_and_may_be_missing(pictures, tmp_path):
    table = labels(
        pictures, tmp_path, "file,xmin,ymin,xmax,ymax,breed\na,1,2.5,30,40,pug\nd,,, ,,\n"
    )
    assert (
        table.columns == ("breed",)
        and table.has_boxes
        and table.classes is None
        and of(table, "a")["stratum"] == "pug"
    )
    box = of(table, "a")["box"]
    assert box.corners == (1, 2.5, 30, 40) and box.frame is None and box.is_upright
    assert "box" not in of(table, "d") and "box" not in of(table, "sub/b")


@pytest.mark.parametrize(
    "values, words",
    [("x", "holds 1 value ('x')"), ("xyz", "holds 3 values"), (" ", "0 values")],
)
def test_a_class_of_other_than_two_values_stays_a_column_and_that_is_said(
    values, words, pictures, tmp_path
):
    pairs = zip(("a", "sub/b", "d"), values * 3, strict=False)
    lines = [f"{name},{value}" for name, value in pairs]
    table = labels(pictures, tmp_path, "\n".join(["file,class", *lines]))
    assert table.classes is None and table.columns == ("class",) and words in table.remarks[0]
    assert ("column:class learns it" in table.remarks[0]) == (
        values == "xyz"
    ) and "label" not in of(table, "a")


@pytest.mark.parametrize(
    "text, words",
    [
        ("file,age\nnowhere.jpg,3\n", "line 2: 'nowhere.jpg' is no photograph of"),
        ("file,age\na,3\n\nc,3\n", "line 4: 'c' is no photograph"),
        ("file,age\na,3\nd,4\na.jpg,3\n", "line 4: 'a.jpg' stands in line 2 already"),
        ("file,age\n,3\n", "line 2: '' is no photograph of"),
        ("age,class\n3,cat\n", "file, image, path or name ('age,class')"),
        ("file,age,age\na,3,4\n", "names the column 'age' twice"),
        ("file,age\na,3,4\n", "line 2: it has more cells than"),
        ("file,age\na\n", "line 2: it has 1 cells and there are 2 columns"),
        ("file,age\n", "holds no line of labels"),
        ("", "holds no line"),
        ("file,name\na,Rex\n", "its column name would take the place"),
        ("file,row\na,1\n", "its column row"),
        ("file,Has_Box\na,1\n", "Has_Box"),
        ("file,xmin,ymin\na,1,2\n", "it has no column xmax and no ymax"),
        ("file,xmin,ymin,xmax,ymax\na,1,2,wide,4\n", "line 2: xmax is 'wide', no number"),
        ("file,xmin,ymin,xmax,ymax\na,1,2,,4\n", "line 2: xmax is '', no number"),
        ("file,xmin,ymin,xmax,ymax\na,1,2,nan,4\n", "line 2: xmax is '', no number"),
    ],
)
def test_what_is_wrong_in_a_table_is_refused_with_its_line(text, words, pictures, tmp_path):
    with pytest.raises(InputError) as error:
        labels(pictures, tmp_path, text)
    message = str(error.value)
    assert (
        words in message
        and message.startswith(str(tmp_path / "labels.csv"))
        and "\n" not in message
    )
    assert ";" in message or "add one" in message


def test_what_is_no_table_is_refused(pictures, tmp_path):
    with pytest.raises(InputError, match="cannot be read .*name a CSV file"):
        Labels(tmp_path / "nowhere.csv", pictures)
    with pytest.raises(InputError, match="is no UTF-8 text .*CSV UTF-8"):
        labels(pictures, tmp_path, "file,note\na,Zoë\n", "latin-1")
    with pytest.raises(InputError, match="no readable CSV .*field larger"):
        labels(pictures, tmp_path, "file,note\na," + "x" * 200_000)
