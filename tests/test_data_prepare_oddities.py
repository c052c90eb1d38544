"""The oddities of real archives: what data_prepare.py reads all the same, and what it leaves out

or refuses, and why."""

# ruff: noqa: F401, F811  (pets is a fixture)

import numpy as np
import pytest
from oxford import (  # noqa: F401
    BLUE,
    RED,
    a_trimap,
    add,
    halves,
    layout,
    left_out,
    names,
    only,
    pets,
    prepare,
    read,
    refused,
)
from PIL import Image

# ----------------------------------------------------------------------------------- oddities: kept


@pytest.mark.parametrize(
    "image, save",
    [
        (lambda: halves().quantize(4), {"format": "GIF"}),
        (lambda: halves().convert("RGBA"), {"format": "PNG"}),
        (lambda: halves().convert("CMYK"), {"format": "JPEG"}),
        (lambda: halves().quantize(4), {"format": "PNG"}),
        (halves, {"format": "JPEG", "quality": 90}),
        (halves, {"format": "BMP"}),
    ],
    ids=["gif", "rgba", "cmyk", "palette", "jpeg", "bmp"],
)
def test_any_format_named_jpg_is_read_in_its_colours(image, save, tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", image(), a_trimap(64, 48), **save)
    stored = only(root, tmp_path / "data")["images"].astype(int)
    assert np.abs(stored[:, 1:14] - RED).max() < 25 and np.abs(stored[:, 18:-1] - BLUE).max() < 25


def test_apple_double_files_comments_and_photographs_without_a_box(tmp_path, capsys):
    root = layout(tmp_path / "pets")
    for name in ("Bengal_1", "Bengal_2", "pug_1"):
        add(root, name)
    add(root, "pug_2", box=None)
    for path in (
        "images/._Bengal_1.jpg",
        "annotations/._trimaps",
        "annotations/trimaps/._Bengal_1.png",
        "annotations/xmls/._Bengal_1.xml",
    ):
        (root / path).write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    (root / "annotations" / "list.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n\nBengal_1 1 1 1\nBengal_2 1 1 "
        "1\npug_1 2 2 1\n"
    )
    out = prepare(
        root, tmp_path / "data", "--fractions", "0-0-100"
    )  # pug_2 is not in list.txt, which is no reason
    arrays, rows = read(out)
    assert sorted(row["name"] for row in rows) == ["Bengal_1", "Bengal_2", "pug_1", "pug_2"]
    assert [np.isnan(box).all() for box in arrays["bboxes"]] == [
        row["name"] == "pug_2" for row in rows
    ]
    text = capsys.readouterr().out
    assert "left out: 0" in text
    assert ["all", "4", "2", "2", "3"] in [line.split() for line in text.splitlines()]


def test_the_folder_of_the_download_is_found_one_level_down(pets, tmp_path):
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "oxford-iiit-pet").symlink_to(pets)
    assert (
        len(names(prepare(tmp_path / "downloaded", tmp_path / "data", "--fractions", "0-0-100")))
        == 40
    )


# ------------------------------------------------------------------------------- oddities: left out


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def fault_files(root):
    """A folder of three good photographs and one for each fault; returns {name: the reason, whole
    or a part of it}."""

    def photo(name):
        return root / "images" / f"{name}.jpg"

    def trimap(name):
        return root / "annotations" / "trimaps" / f"{name}.png"

    holds = (
        "; it should hold 1 (pet), 2 (background) and 3 (border), or 0 (background) and 1 or "
        "255 (pet)"
    )
    reasons = {
        "Bengal_notrimap": "it has no trimap",
        "Bengal_cut": "its photograph cannot be decoded: it is incomplete; copy or",
        "Bengal_text": "its photograph cannot be decoded: it is text",
        "Bengal_empty": "decoded: the file is empty; copy or",
        "Bengal_link": "its photograph cannot be decoded: there is no such file",
        "Bengal_folder": "decoded: it is a folder",
        "Bengal_cuttrimap": "its trimap cannot be decoded: it is incomplete",
        "Bengal_nopet": "its trimap has no pet pixel",
        "Bengal_onlyborder": "its trimap has no pet pixel",
        "Bengal_zeros": "its trimap has no pet pixel",
        "Bengal_values": "its trimap holds the values 1, 2, 7" + holds,
        "Bengal_zero": "its trimap holds the values 0, 1, 3" + holds,
        "Bengal_many": "the values 0, 1, 2, 3, 4, 5 and 42 more" + holds,
        "Bengal_one": "its trimap holds the value 200" + holds,
        "Bengal_sizes": "its trimap is 48 x 64 and the photograph 64 x 48",
        "Bengal_species": "its name says cat and list.txt says dog",
        "Bengal_class": "class 5",
        "1Bengal_1": "does not begin with a letter",
    }
    for name in ("Bengal_1", "Bengal_2", "Bengal_3", *reasons):
        add(root, name, format="JPEG", quality=95)
    trimap("Bengal_notrimap").unlink()
    photo("Bengal_text").write_text("no photograph")
    photo("Bengal_empty").write_bytes(b"")
    photo("Bengal_link").unlink()
    photo("Bengal_link").symlink_to("nowhere")
    photo("Bengal_folder").unlink()
    photo("Bengal_folder").mkdir()
    cut(photo("Bengal_cut"), 0.6)
    cut(trimap("Bengal_cuttrimap"), 0.6)
    for name, change in (
        ("nopet", {1: 2, 3: 2}),
        ("onlyborder", {1: 3}),
        ("values", {3: 7}),
        ("zero", {2: 0}),
        ("zeros", {1: 0, 2: 0, 3: 0}),
        ("one", {1: 200, 2: 200, 3: 200}),
    ):
        pixels = a_trimap(64, 48)
        changed = pixels.copy()
        for old, new in change.items():
            changed[pixels == old] = new
        Image.fromarray(changed).save(trimap(f"Bengal_{name}"))
    Image.fromarray(np.repeat(np.arange(48, dtype=np.uint8)[:, None], 64, 1)).save(
        trimap("Bengal_many")
    )
    Image.fromarray(a_trimap(48, 64)).save(trimap("Bengal_sizes"))
    (root / "annotations" / "list.txt").write_text(
        "Bengal_1 1 1 1\nBengal_2 1 1 1\nBengal_species 1 2 1\nBengal_class 5 1 1\nBengal_zeros 1 "
        "1 1\n"
    )
    return reasons


def test_what_cannot_be_used_is_left_out_and_named_with_its_reason(tmp_path, capfd):
    root = layout(tmp_path / "pets")
    reasons = fault_files(root)
    add(root, "pug_1")
    out = prepare(root, tmp_path / "data", "--fractions", "0-0-100")
    assert sorted(names(out)) == ["Bengal_1", "Bengal_2", "Bengal_3", "pug_1"]
    captured = capfd.readouterr()
    found = left_out(captured.out)
    assert sorted(found) == sorted(reasons)
    assert {name: reason for name, reason in found.items() if reasons[name] not in reason} == {}
    assert (
        str(tmp_path)
        not in captured.out.partition("left out: ")[2].partition("every photograph")[0]
    )  # the name says which it is
    assert captured.err == ""


@pytest.mark.parametrize(
    "line",
    ["Bengal_1 1 1", "Bengal_1 one 1 1", "Bengal_1 1 3 1", "Bengal_1 1 1 1 1", "Bengal_1,1,1,1"],
)
def test_a_malformed_list_is_refused_with_its_line(line, pets, tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1")
    (root / "annotations" / "list.txt").write_text(f"# comment\nBengal_2 1 1 1\n{line}\n")
    message = refused(root, tmp_path / "data")
    assert "list.txt, line 3" in message and line in message


def test_too_few_photographs_for_a_split_are_refused(tmp_path):
    root = layout(tmp_path / "pets")
    for k in range(3):
        add(root, f"Bengal_{k}")
    message = refused(root, tmp_path / "data")
    assert "3 photographs" in message and "--fractions" in message
