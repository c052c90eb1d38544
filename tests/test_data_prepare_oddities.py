"""The oddities of real archives: what data_prepare.py reads all the same, and what it leaves out or refuses, and why."""

import sys

import numpy as np
import pytest
from PIL import Image

import data_prepare
from oxford import BLUE, RED, a_trimap, add, halves, layout, names, only, pets, prepare, read, refused, voc  # noqa: F401

# ----------------------------------------------------------------------------------------- oddities: kept

def palette_with_transparency():
    image = halves().quantize(4)
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize("image, save", [
    (lambda: halves().quantize(4), {"format": "GIF"}),
    (lambda: Image.merge("RGBA", (*halves().split(), Image.new("L", (64, 48), 9))), {"format": "PNG"}),
    (lambda: halves().convert("CMYK"), {"format": "JPEG"}),
    (palette_with_transparency, {"format": "PNG"}),
    (halves, {"format": "JPEG", "quality": 90}),
    (halves, {"format": "BMP"})], ids=["gif", "rgba", "cmyk", "palette", "jpeg", "bmp"])
def test_any_format_named_jpg_is_read_in_its_colours(image, save, tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", image(), a_trimap(64, 48), **save)
    stored = only(root, tmp_path / "data")["images"].astype(int)
    assert np.abs(stored[:, 1:14] - RED).max() < 25 and np.abs(stored[:, 18:-1] - BLUE).max() < 25


def test_grey_photographs_become_rgb(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", Image.new("L", (64, 48), 77), format="JPEG")
    assert np.abs(only(root, tmp_path / "data")["images"].astype(int) - 77).max() <= 2


def test_apple_double_files_comments_and_photographs_without_a_box(tmp_path, capsys):
    root = layout(tmp_path / "pets")
    for name in ("Bengal_1", "Bengal_2", "pug_1"):
        add(root, name)
    add(root, "pug_2", box=None)
    for path in ("images/._Bengal_1.jpg", "annotations/._trimaps", "annotations/trimaps/._Bengal_1.png",
                 "annotations/xmls/._Bengal_1.xml"):
        (root / path).write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    (root / "annotations" / "list.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n\nBengal_1 1 1 1\nBengal_2 1 1 1\npug_1 2 2 1\n")
    out = prepare(root, tmp_path / "data", "--fractions", "0-0-100")  # pug_2 is not in list.txt, which is no reason
    arrays, rows = read(out)
    assert sorted(row["name"] for row in rows) == ["Bengal_1", "Bengal_2", "pug_1", "pug_2"]
    assert [np.isnan(box).all() for box in arrays["bboxes"]] == [row["name"] == "pug_2" for row in rows]
    text = capsys.readouterr().out
    assert "left out: 0" in text
    assert ["all", "4", "2", "2", "3"] in [line.split() for line in text.splitlines()]


def test_names_without_an_underscore_are_breeds_of_their_own(tmp_path):
    root = layout(tmp_path / "pets")
    for name in ("Tom", "rex"):
        add(root, name)
    (root / "annotations" / "list.txt").write_text("Tom 1 1 1\nrex 2 2 1\n")
    rows = read(prepare(root, tmp_path / "data", "--fractions", "0-0-100"))[1]
    assert {(row["name"], row["breed"], row["species"]) for row in rows} == {("Tom", "Tom", "cat"), ("rex", "rex", "dog")}


def test_the_folder_of_the_download_is_found_one_level_down(pets, tmp_path):
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "oxford-iiit-pet").symlink_to(pets)
    assert len(names(prepare(tmp_path / "downloaded", tmp_path / "data", "--fractions", "0-0-100"))) == 40


# -------------------------------------------------------------------------------------- oddities: left out

def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])


def fault_files(root):
    """A folder of three good photographs and one for each fault; returns {name: words of the reason}."""
    def photo(name):
        return root / "images" / f"{name}.jpg"

    def trimap(name):
        return root / "annotations" / "trimaps" / f"{name}.png"

    def xml(name):
        return root / "annotations" / "xmls" / f"{name}.xml"

    reasons = {
        "Bengal_notrimap": "no trimap", "Bengal_text": "photograph cannot be decoded", "Bengal_cut": "truncated",
        "Bengal_empty": "photograph cannot be decoded", "Bengal_cuttrimap": "trimap cannot be decoded",
        "Bengal_nopet": "no pet pixel", "Bengal_onlyborder": "no pet pixel", "Bengal_values": "value 7",
        "Bengal_zero": "value 0", "Bengal_sizes": "48 x 64 and the photograph 64 x 48", "Bengal_xmlorder": "out of order",
        "Bengal_xmloutside": "out of the frame", "Bengal_xmlflat": "out of order", "Bengal_xmlnan": "head box",
        "Bengal_xmlcut": "head box cannot be read", "Bengal_xmlword": "head box cannot be read",
        "Bengal_xmlnobox": "head box cannot be read", "Bengal_species": "list.txt says dog", "Bengal_class": "class 5",
        "1Bengal_1": "does not begin with a letter"}
    for name in ("Bengal_1", "Bengal_2", "Bengal_3", *reasons):
        add(root, name, format="JPEG", quality=95)
    trimap("Bengal_notrimap").unlink()
    photo("Bengal_text").write_text("no photograph")
    photo("Bengal_empty").write_bytes(b"")
    cut(photo("Bengal_cut"), 0.6)
    cut(trimap("Bengal_cuttrimap"), 0.6)
    for name, change in (("nopet", {1: 2, 3: 2}), ("onlyborder", {1: 3}), ("values", {3: 7}), ("zero", {2: 0})):
        pixels = a_trimap(64, 48)
        changed = pixels.copy()
        for old, new in change.items():
            changed[pixels == old] = new
        Image.fromarray(changed).save(trimap(f"Bengal_{name}"))
    Image.fromarray(a_trimap(48, 64)).save(trimap("Bengal_sizes"))
    for name, box in (("order", (30, 5, 10, 25)), ("outside", (10, 5, 65, 25)), ("flat", (10, 5, 10, 25)),
                      ("nan", ("nan", 5, 10, 25)), ("word", ("left", 5, 10, 25))):
        xml(f"Bengal_xml{name}").write_text(voc(box, (64, 48)))
    cut(xml("Bengal_xmlcut"), 0.6)
    xml("Bengal_xmlnobox").write_text("<annotation><object><name>cat</name></object></annotation>")
    (root / "annotations" / "list.txt").write_text(
        "Bengal_1 1 1 1\nBengal_2 1 1 1\nBengal_species 1 2 1\nBengal_class 5 1 1\n")
    return reasons


def test_what_cannot_be_used_is_left_out_and_named_with_its_reason(tmp_path, capsys):
    root = layout(tmp_path / "pets")
    reasons = fault_files(root)
    out = prepare(root, tmp_path / "data", "--fractions", "0-0-100")
    assert sorted(names(out)) == ["Bengal_1", "Bengal_2", "Bengal_3"]
    text = capsys.readouterr().out
    listed = dict(line.strip().split(": ", 1) for line in text.partition(f"left out: {len(reasons)}\n")[2].splitlines()[:-1])
    assert sorted(listed) == sorted(reasons)
    assert {name: reason for name, reason in listed.items() if reasons[name] not in reason} == {}


def test_a_trimap_of_the_same_aspect_may_have_another_size(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", halves(64, 48), a_trimap(128, 96))
    assert only(root, tmp_path / "data")["masks"].any()


@pytest.mark.parametrize("line", [
    "Bengal_1 1 1", "Bengal_1 one 1 1", "Bengal_1 1 3 1", "Bengal_1 1 1 1 1", "Bengal_1,1,1,1"])
def test_a_malformed_list_is_refused_with_its_line(line, pets, tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1")
    (root / "annotations" / "list.txt").write_text(f"# comment\nBengal_2 1 1 1\n{line}\n")
    message = refused(root, tmp_path / "data")
    assert "list.txt, line 3" in message and line in message


def test_a_folder_without_one_usable_photograph_is_refused_with_the_first_reason(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1")
    (root / "annotations" / "trimaps" / "Bengal_1.png").unlink()
    message = refused(root, tmp_path / "data")
    assert "Bengal_1: it has no trimap" in message


def test_too_few_photographs_for_a_split_are_refused(tmp_path):
    root = layout(tmp_path / "pets")
    for k in range(3):
        add(root, f"Bengal_{k}")
    message = refused(root, tmp_path / "data")
    assert "3 photographs" in message and "--fractions" in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_photograph_whose_name_is_no_text_is_left_out(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations" / "trimaps").mkdir(parents=True)
    (tmp_path / "images" / "Tabby\udcff_1.jpg").touch()
    (tmp_path / "annotations" / "trimaps" / "Tabby\udcff_1.png").touch()
    samples, left_out = data_prepare.list_samples(tmp_path)
    assert samples == [] and left_out == [("Tabby\udcff_1", "its name holds bytes that are no text; rename it")]
