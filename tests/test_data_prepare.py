"""Photographs in, contract files out: geometry by hand, the oddities of real archives, refusals and interruptions."""

import csv
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import data_check
import data_prepare
import data_rechunk
from cli import InputError

ROOT = Path(__file__).resolve().parent.parent
RED, BLUE = (200, 40, 40), (40, 40, 200)


# ------------------------------------------------------------- small folders in the Oxford-IIIT Pet layout

def layout(root):
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True)
    return root


def noise(name, width, height):
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def halves(width=64, height=48):
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def a_trimap(width, height):
    """Pet in the middle third, a border of 3 pixels around it."""
    trimap = np.full((height, width), 2, np.uint8)
    trimap[height // 3 - 3:2 * height // 3 + 3, width // 3 - 3:2 * width // 3 + 3] = 3
    trimap[height // 3:2 * height // 3, width // 3:2 * width // 3] = 1
    return trimap


def voc(box, frame):
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    size = f"<size><width>{frame[0]}</width><height>{frame[1]}</height><depth>3</depth></size>" if frame else ""
    return f"<annotation>{size}<object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"


def add(root, name, image=None, trimap=None, box=(10, 5, 30, 25), frame="image", **save):
    """Add a photograph of 64 x 48 noise, or the given one; box None leaves the XML out."""
    image = noise(name, 64, 48) if image is None else image
    trimap = a_trimap(*image.size) if trimap is None else trimap
    image.save(root / "images" / f"{name}.jpg", **{"format": "PNG", **save})
    Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
    if box is not None:
        xml = voc(box, image.size if frame == "image" else frame)
        (root / "annotations" / "xmls" / f"{name}.xml").write_text(xml)


def prepare(root, out, *options):
    data_prepare.main(data_prepare.parse_args(["--root", str(root), "--out", str(out), "--size", "32", *map(str, options)]))
    return out


def refused(root, out, *options):
    """The message of a refusal, after which nothing new may lie beside `out`."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError) as error:
        prepare(root, out, *options)
    assert sorted(out.parent.iterdir()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def read(out, split="test"):
    """The arrays of a split by kind, and its index rows as dicts."""
    arrays = {}
    for kind in data_check.KINDS:
        with h5py.File(out / split / f"{kind}.h5", "r") as file:
            arrays[kind] = file[kind][:]
    with open(out / split / "index.csv", newline="") as file:
        return arrays, list(csv.DictReader(file))


def only(root, out, *options):
    """Prepare a folder with one photograph and return its arrays without the first axis."""
    arrays, rows = read(prepare(root, out, "--fractions", "0-0-100", *options))
    assert len(rows) == 1
    return {kind: array[0] for kind, array in arrays.items()}


def names(out, split="test"):
    return [row["name"] for row in read(out, split)[1]]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """40 photographs of two breeds of cats and two of dogs, of many sizes and aspects; every tenth without a box."""
    root = layout(tmp_path_factory.mktemp("pets"))
    for k in range(40):
        breed = ("Abyssinian", "Maine_Coon", "beagle", "saint_bernard")[k % 4]
        image = noise(f"{breed}_{k}", 40 + 7 * (k % 9), 100 - 9 * (k % 8))
        add(root, f"{breed}_{k}", image, box=None if k % 10 == 9 else (10, 5, 30, 25))
    return root


# -------------------------------------------------------------------------------------- the contract's files

def test_files_are_as_the_contract_says(pets, tmp_path):
    out = prepare(pets, tmp_path / "data", "--fractions", "50-25-25", "--border", "background")
    assert sorted(p.name for p in out.iterdir()) == ["test", "train", "val"]
    seen = []
    for split, n in (("train", 20), ("val", 10), ("test", 10)):
        assert sorted(p.name for p in (out / split).iterdir()) == [
            "bboxes.h5", "binary.h5", "images.h5", "index.csv", "masks.h5"]
        arrays, rows = read(out, split)
        assert {k: (a.shape, a.dtype.name) for k, a in arrays.items()} == {
            "images": ((n, 32, 32, 3), "uint8"), "masks": ((n, 32, 32, 1), "uint8"),
            "bboxes": ((n, 4), "float32"), "binary": ((n, 1), "uint8")}
        assert list(rows[0]) == ["row", "name", "breed", "species", "has_box"]
        for k, row in enumerate(rows):
            number = int(row["name"].rpartition("_")[2])
            assert row["row"] == str(k)
            assert row["breed"] == ("Abyssinian", "Maine_Coon", "beagle", "saint_bernard")[number % 4]
            assert row["species"] == ("cat", "cat", "dog", "dog")[number % 4]
            assert arrays["binary"][k, 0] == (number % 4 > 1)
            assert row["has_box"] == str(int(number % 10 != 9))
            assert np.isnan(arrays["bboxes"][k]).tolist() == [number % 10 == 9] * 4
        for kind in data_check.KINDS:
            with h5py.File(out / split / f"{kind}.h5", "r") as file:
                assert file.attrs["border"] == "background"
                assert file.attrs["split_hash"] == hashlib.sha256(arrays["images"].tobytes()).hexdigest()
        seen += [row["name"] for row in rows]
    assert sorted(seen) == sorted(path.stem for path in (pets / "images").iterdir())


def test_a_photograph_that_is_not_square_is_stretched_with_its_mask_and_box(tmp_path):
    root = layout(tmp_path / "pets")
    trimap = np.full((100, 200), 2, np.uint8)
    trimap[:50, 100:] = 1  # upper right quarter
    add(root, "Bengal_1", halves(200, 100), trimap, box=(50, 10, 150, 60))
    sample = only(root, tmp_path / "data", "--size", 64)
    assert sample["bboxes"].tolist() == pytest.approx([16, 6.4, 48, 38.4])
    expected = np.zeros((64, 64, 1), np.uint8)
    expected[:32, 32:] = 1
    assert (sample["masks"] == expected).all()
    assert (sample["images"][:, :30] == RED).all() and (sample["images"][:, 34:] == BLUE).all()


def test_the_box_is_relative_to_the_frame_that_its_file_states(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", halves(100, 50), box=(100, 20, 300, 120), frame=(400, 200))
    assert only(root, tmp_path / "data")["bboxes"].tolist() == pytest.approx([8, 3.2, 24, 19.2])
    add(root, "Bengal_1", halves(100, 50), box=(25, 5, 100, 50), frame=None)  # states none: the photograph's own
    assert only(root, tmp_path / "again")["bboxes"].tolist() == pytest.approx([8, 3.2, 32, 32])


@pytest.mark.parametrize("border, columns", [("pet", 16), ("background", 8)])
def test_border_rule(border, columns, tmp_path):
    root = layout(tmp_path / "pets")
    trimap = np.full((64, 64), 2, np.uint8)
    trimap[:, :16], trimap[:, 16:32] = 1, 3
    add(root, "Bengal_1", noise("n", 64, 64), trimap)
    mask = only(root, tmp_path / "data", "--border", border)["masks"][:, :, 0]
    assert mask[:, :columns].all() and not mask[:, columns:].any()


def test_masks_are_resized_to_the_nearest_and_images_with_antialias(tmp_path):
    root = layout(tmp_path / "pets")
    trimap = np.random.default_rng(0).integers(1, 4, (50, 50)).astype(np.uint8)
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than 32 columns can show: grey, where picking pixels would give black or white
    add(root, "Bengal_1", Image.fromarray(stripes), trimap)
    sample = only(root, tmp_path / "data")
    nearest = ((np.arange(32) + 0.5) * 50 / 32).astype(int)  # the pixel in which the middle of each new one lies
    assert (sample["masks"][:, :, 0] == (trimap != 2)[np.ix_(nearest, nearest)]).all()
    assert np.abs(sample["images"][:, 2:-2].astype(int) - 127).max() < 16


# ---------------------------------------------------------------------------------------------------- splits

def hashes(out):
    found = []
    for split in data_check.SPLITS:
        with h5py.File(out / split / "images.h5", "r") as file:
            found.append(file.attrs["split_hash"])
    return found


def test_one_seed_one_split(pets, tmp_path):
    first, again, other, border = (
        prepare(pets, tmp_path / str(k), "--fractions", "50-25-25", *options)
        for k, options in enumerate((["--seed", 5], ["--seed", 5], ["--seed", 6], ["--seed", 5, "--border", "background"])))
    assert hashes(first) == hashes(again) == hashes(border)
    assert all(a != b for a, b in zip(hashes(first), hashes(other)))


def test_the_order_within_a_split_is_shuffled_so_that_the_first_few_are_mixed(pets, tmp_path):
    out = prepare(pets, tmp_path / "data", "--fractions", "0-0-100")
    assert names(out) != sorted(names(out))
    assert len({name.rpartition("_")[0] for name in names(out)[:12]}) > 2


@pytest.mark.parametrize("fractions, counts", [("34-33-33", [14, 13, 13]), ("100-0-0", [40]), ("50-0-50", [20, 20])])
def test_fractions_and_breeds(fractions, counts, pets, tmp_path, capsys):
    out = prepare(pets, tmp_path / "data", "--fractions", fractions)
    written = [split for split in data_check.SPLITS if (out / split).exists()]
    assert written == [s for s, f in zip(data_check.SPLITS, fractions.split("-")) if f != "0"]
    assert [len(names(out, split)) for split in written] == counts
    for split, n in zip(written, counts):
        breeds = [name.rpartition("_")[0] for name in names(out, split)]
        assert all(abs(breeds.count(breed) - n / 4) <= 1 for breed in set(breeds))
    table = capsys.readouterr().out
    for split, n in zip(written, counts):
        assert any(line.split()[:2] == [split, str(n)] for line in table.splitlines())


def test_near_duplicates_stay_in_one_split_and_are_named(pets, tmp_path, capsys):
    root = layout(tmp_path / "pets")
    for k in range(12):
        add(root, f"Bengal_{k}")
    scene = noise("scene", 17, 16).resize((170, 160), Image.Resampling.NEAREST)
    for k, variant in enumerate((scene, scene.resize((100, 80)), scene.point(lambda v: v // 2 + 60))):
        add(root, f"Bengal_copy{k}", variant)
    for seed in range(3):
        out = prepare(root, tmp_path / f"data{seed}", "--fractions", "34-33-33", "--seed", seed)
        home = [split for split in data_check.SPLITS for name in names(out, split) if "copy" in name]
        assert len(home) == 3 and len(set(home)) == 1
        text = capsys.readouterr().out
        assert "1 groups, 3 images" in text and "Bengal_copy0, Bengal_copy1, Bengal_copy2" in text


def test_copies_too_plain_to_compare_stay_in_one_split_too(tmp_path):
    root = layout(tmp_path / "pets")
    for k in range(12):
        add(root, f"Bengal_{k}")
    for k in range(6):  # one colour, of different sizes: the same image once stretched
        add(root, f"Bengal_plain{k}", Image.new("RGB", (40 + 10 * k, 50), RED))
    out = prepare(root, tmp_path / "data", "--fractions", "34-33-33")
    assert len({split for split in data_check.SPLITS for name in names(out, split) if "plain" in name}) == 1
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    data_check.verify(out)


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


# ---------------------------------------------------------------------------------------- the output folder

def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_existing_folder_is_refused_and_replaced_with_force(pets, tmp_path):
    out = prepare(pets, tmp_path / "data", "--fractions", "0-50-50")
    (out / "val" / "masks.h5.partial").write_text("left by a re-chunking that was killed")
    before = tree(out)
    assert "--force" in refused(pets, out)
    assert tree(out) == before
    prepare(pets, out, "--fractions", "50-0-50", "--force")
    assert sorted(p.name for p in out.iterdir()) == ["test", "train"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("foreign", ["photographs/a.jpg", "train/a.jpg", "val/sub/b.txt", ".hidden", "test/images.h5.bak"])
def test_force_deletes_nothing_but_a_data_folder(foreign, pets, tmp_path):
    out = tmp_path / "mine"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("not ours")
    message = refused(pets, out, "--force")
    assert str(out) in message and "not a data folder" in message
    assert tree(out) == {foreign: b"not ours"}


def test_force_does_not_delete_a_file(pets, tmp_path):
    (tmp_path / "mine").write_text("not ours")
    assert "not a folder" in refused(pets, tmp_path / "mine", "--force")
    assert (tmp_path / "mine").read_text() == "not ours"


def test_a_failed_replacement_leaves_the_old_folder(pets, tmp_path):
    out = prepare(pets, tmp_path / "data", "--fractions", "0-0-100")
    before = tree(out)
    refused(tmp_path / "nowhere", out, "--force")
    refused(layout(tmp_path / "empty"), out, "--force")
    assert tree(out) == before


def test_a_folder_that_somebody_else_makes_meanwhile_is_not_deleted(pets, tmp_path, monkeypatch):
    out, split = tmp_path / "data", data_prepare.data_split.split

    def split_while_another_works(*args):
        out.mkdir()
        (out / "theirs").write_text("not ours")
        return split(*args)

    monkeypatch.setattr(data_prepare.data_split, "split", split_while_another_works)
    with pytest.raises(InputError, match="exists already"):
        prepare(pets, out)
    assert tree(tmp_path) == {"data/theirs": b"not ours"}


def test_an_out_that_holds_the_photographs_is_refused(tmp_path):
    root = layout(tmp_path / "data" / "synthetic")
    add(root, "Bengal_1")
    before = tree(tmp_path / "data")
    assert "would replace" in refused(root, tmp_path / "data", "--force")
    assert tree(tmp_path / "data") == before


def test_a_link_is_followed(pets, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    prepare(pets, tmp_path / "link", "--fractions", "0-0-100", "--force")
    assert (tmp_path / "link").is_symlink() and len(names(tmp_path / "disk")) == 40


# -------------------------------------------------------------------------------------------- interruptions

@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = layout(tmp_path_factory.mktemp("many"))
    for k in range(200):
        add(root, f"{'Bengal' if k % 2 else 'pug'}_{k}", noise(str(k), 120, 90), format="JPEG")
    return root


def group_is_gone(group):
    """Whether no process of a process group is left, waiting for the last ones to notice."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


@pytest.mark.parametrize("stop, everyone, status", [
    (signal.SIGTERM, False, 143), (signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)], ids=["TERM", "Ctrl-C", "KILL"])
def test_an_interrupted_run_leaves_nothing_under_its_name(stop, everyone, status, many, tmp_path, tmp_path_factory):
    out = tmp_path / "data"
    command = [sys.executable, ROOT / "data_prepare.py", "--root", many, "--out", out, "--size", "448"]
    with open(tmp_path_factory.mktemp("log") / "log", "w+") as log:  # no pipe: workers that stay would hold it open
        run = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not list(tmp_path.glob(".*/train/images.h5")):
            assert run.poll() is None, "ended before it wrote"
            time.sleep(0.002)
        (os.killpg if everyone else os.kill)(run.pid, stop)
        assert run.wait() == status
        assert not out.exists()
        assert group_is_gone(run.pid)
        log.seek(0)
        printed = log.read()
    if stop == signal.SIGKILL:
        assert printed == "" and list(tmp_path.iterdir()) != []  # killed while it wrote
        with pytest.raises(InputError, match="no data set"):
            data_check.find_splits(out)
    else:
        assert printed.count("\n") == 1 and stop.name in printed
        assert list(tmp_path.iterdir()) == []
    prepare(many, out, "--fractions", "0-0-100")
    assert len(names(out)) == 200 and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_leaves_nothing(many, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "data_prepare.py", "--root", many, "--out", tmp_path / "data"],
                          capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20)))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "space" in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- whole data sets

def test_drawn_pets_end_to_end(tmp_path):
    def script(name, *argv):
        done = subprocess.run([sys.executable, ROOT / name, *argv], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "", done
        return done.stdout

    text = script("data_prepare.py", "--synthetic", "20", "--size", "64")
    assert ["all", "20", "10", "10"] in [line.split()[:4] for line in text.splitlines()]
    assert "12 files re-chunked" in script("data_rechunk.py")
    assert "train 16, val 2, test 2; 64 px, border pet" in script("data_rechunk.py", "--check")
    assert sorted(p.name for p in (tmp_path / "datasets").iterdir()) == ["data_new"]


def real(variable):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder")
    return Path(folder)


def test_the_originals(tmp_path, capsys):
    """38 files: a GIF and an RGBA PNG named .jpg, AppleDouble files. The GIF's trimap is background throughout, but neither
    list.txt nor a head box says that it shows a pet."""
    out = prepare(real("PETS_ORIGINAL_ROOT"), tmp_path / "data", "--fractions", "0-0-100", "--size", 64)
    arrays, rows = read(out)
    assert len(rows) == 38 and arrays["images"].shape == (38, 64, 64, 3)
    text = capsys.readouterr().out
    assert "left out: 0\n" in text and "show a pet: Abyssinian_34\n" in text
    assert [row["name"] for row, mask in zip(rows, arrays["masks"]) if not mask.any()] == ["Abyssinian_34"]
    assert sorted(row["name"] for row in rows if row["has_box"] == "0") == ["Abyssinian_34", "Abyssinian_5"]


def test_the_trainval_photographs(tmp_path, capsys):
    out = prepare(real("PETS_ROOT"), tmp_path / "data")
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["train", "2937", "948", "1989", "2930"] in lines
    assert ["all", "3671", "1185", "2486", "3663"] in lines  # nine have no box, one of which has no pet pixel either
    assert ["left", "out:", "7"] in lines
    for name in ("Egyptian_Mau_162", "Egyptian_Mau_165", "Egyptian_Mau_196", "leonberger_18", "miniature_pinscher_14",
                 "saint_bernard_108", "saint_bernard_15"):
        assert f"  {name}: its trimap has no pet pixel\n" in text
    home = {name: split for split in data_check.SPLITS for name in names(out, split)}
    assert len(home) == 3671
    assert home["Bombay_107"] == home["Bombay_132"] == home["Bombay_19"]
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    assert data_check.verify(out)["splits"] == {"train": 2937, "val": 367, "test": 367}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_photograph_whose_name_is_no_text_is_left_out(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations" / "trimaps").mkdir(parents=True)
    (tmp_path / "images" / "Tabby\udcff_1.jpg").touch()
    (tmp_path / "annotations" / "trimaps" / "Tabby\udcff_1.png").touch()
    samples, left_out = data_prepare.list_samples(tmp_path)
    assert samples == [] and left_out == [("Tabby\udcff_1", "its name holds bytes that are no text; rename it")]
