"""What data/sources/oxford.py makes of a folder: endings, names of all kinds, species, lists as

anybody saves them, halves."""

# ruff: noqa: F401, F811  (pets is a fixture)

import codecs
import shutil
import sys
import types
import unicodedata

import numpy as np
import pytest
from oxford import add, all_of, halves, layout, left_out, names, noise, pets, prepare, read, refused
from PIL import Image

import data_prepare
import data_rechunk
from data import check, contract
from data.sources import oxford


def write_list(root, name, lines, encode=str.encode):
    (root / "annotations" / name).write_bytes(encode("".join(f"{line}\n" for line in lines)))


# -------------------------------------------------------------------------------- endings and stems


@pytest.mark.parametrize(
    "ending, kind",
    [
        (".JPG", "JPEG"),
        (".jpeg", "JPEG"),
        (".Jpeg", "JPEG"),
        (".jfif", "JPEG"),
        (".png", "PNG"),
        (".PNG", "PNG"),
        (".webp", "WEBP"),
        (".TIF", "TIFF"),
        (".bmp", "BMP"),
        (".gif", "GIF"),
        (".jp2", "JPEG2000"),
    ],
)
def test_photographs_of_every_format_and_ending_are_taken(ending, kind, tmp_path, capfd):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", halves(), ending=ending, format=kind)
    add(root, "pug_1")
    for path in root.glob("annotations/*/*"):
        path.rename(path.with_suffix(path.suffix.upper()))
    samples = all_of(root, tmp_path / "data")
    assert sorted(samples) == ["Bengal_1", "pug_1"]
    assert all(
        sample["masks"].any() and not np.isnan(sample["bboxes"]).any()
        for sample in samples.values()
    )
    captured = capfd.readouterr()
    assert left_out(captured.out) == {} and captured.err == ""


def test_names_that_occur_twice_are_left_out_and_named(tmp_path, capsys):
    root = layout(tmp_path / "pets")
    for name in ("Bengal_1", "Bengal_2", "Bengal_3", "Bengal_4", "pug_1"):
        add(root, name)
    for ending in (".PNG", ".JPG"):
        add(root, "Bengal_1", ending=ending)
    notes = root / "annotations"
    shutil.copy(notes / "trimaps" / "Bengal_2.png", notes / "trimaps" / "Bengal_2.PNG")
    shutil.copy(notes / "xmls" / "Bengal_3.xml", notes / "xmls" / "Bengal_3.XML")
    samples = all_of(root, tmp_path / "data")
    assert sorted(samples) == ["Bengal_3", "Bengal_4", "pug_1"]
    assert np.isnan(samples["Bengal_3"]["bboxes"]).all()
    text = capsys.readouterr().out
    assert left_out(text) == {
        "Bengal_1": "3 photographs have this name (Bengal_1.JPG, Bengal_1.PNG, Bengal_1.jpg); "
        "keep one of them",
        "Bengal_2": "2 trimaps have this name (Bengal_2.PNG, Bengal_2.png); keep one of them",
    }
    assert (
        "without a head box, because it cannot be used: 1\n  Bengal_3: 2 files have its name "
        "(Bengal_3.XML, "
        "Bengal_3.xml)\n" in text
    )


# ------------------------------------------------------------------------------------ names as text

KOREAN = "고양이"


def test_names_in_every_script_are_kept_and_found_again(tmp_path, capfd):
    """macOS spells accents and Korean syllables in parts, in file names; a list is mostly written
    otherwise."""
    root = layout(tmp_path / "pets")
    spelt = {name: unicodedata.normalize("NFD", name) for name in (f"cat_{KOREAN}_1", "Zoë_1")}
    assert all(len(apart) > len(name) for name, apart in spelt.items())
    whole = [
        "cat_猫_1",
        "dog_犬_2",
        "Ünïcode_🐈_1",
        "cat $x_1$ 100%_1",
        "猫_7",
        "cat_new\nline_1",
        "cat\t_1",
    ]
    for name in (*spelt.values(), *whole):
        add(root, name)
    notes = root / "annotations"
    (notes / "trimaps" / f"{spelt['Zoë_1']}.png").rename(notes / "trimaps" / "Zoë_1.png")
    write_list(root, "list.txt", [f"cat_{KOREAN}_1 1 1 1", "Zoë_1 2 1 2", "猫_7 3 1 3"])
    out = prepare(root, tmp_path / "data", "--fractions", "0-0-100")
    assert sorted(names(out)) == sorted([*spelt.values(), *whole])
    captured = capfd.readouterr()
    assert left_out(captured.out) == {} and captured.err == ""
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    assert check.verify(out)["splits"] == {"test": 9}


# ---------------------------------------------------------------------------------------- - species


@pytest.mark.parametrize(
    "name, species",
    [
        ("Bengal_1", 0),
        ("beagle_1", 1),
        ("Tom", 0),
        ("Ünal_1", 0),
        ("ünal_1", 1),  # as the archives have it
        ("cat_001", 0),
        ("cat", 0),
        ("cat.12", 0),
        ("cat1", 0),
        ("cats_3", 0),
        ("CAT-1", 0),
        ("cat (3)", 0),
        ("dog_001", 1),
        ("Dog_001", 1),
        ("DOG7", 1),
        ("Dogs-1", 1),
        ("Dog", 1),
        ("catfish_1", 1),
        ("Dogge_1", 0),
        ("Catalan_1", 0),
        ("my_cat_1", 1),  # no words of their own, or not the first one
        ("猫_1", None),
        ("7_cats", None),
        ("_cat", None),
        ("cat猫_1", 1),
    ],
)
def test_what_a_name_says_of_the_species(name, species):
    assert oxford.species_of(name)[0] == species


def test_cats_and_dogs_by_their_names_without_a_list(tmp_path, capfd):
    root = layout(tmp_path / "pets")
    for name in ("cat_001", "cat_002", "Dog_001", "Bengal_1", "beagle_1", "猫_1", "7_1"):
        add(root, name)
    rows = read(prepare(root, tmp_path / "data", "--fractions", "0-0-100"))[1]
    assert {row["name"]: row["species"] for row in rows} == {
        "cat_001": "cat",
        "cat_002": "cat",
        "Dog_001": "dog",
        "Bengal_1": "cat",
        "beagle_1": "dog",
    }
    captured = capfd.readouterr()
    assert (
        "cat or dog by the first letter (a capital is a cat): 2; by the word cat or dog that the "
        "name begins with: 3\n" in captured.out
    )
    assert captured.err == ""
    reasons = left_out(captured.out)
    assert sorted(reasons) == ["7_1", "猫_1"]
    assert all("cat_ or dog_" in reason and "list.txt" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    "names_, species, rule",
    [
        (["felix_1", "tom_1"], "dogs", "the first letter (a capital is a cat)"),
        (["Rex_1", "Rover_2"], "cats", "the first letter (a capital is a cat)"),
        (["cat_1", "cat_2"], "cats", "the word cat or dog"),
    ],
)
def test_one_species_only_is_said_loudly_with_the_rule_and_the_way_out(
    names_, species, rule, tmp_path, capsys
):
    root = layout(tmp_path / "pets")
    for name in names_:
        add(root, name)
    prepare(root, tmp_path / "data", "--fractions", "0-0-100")
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1
        and f"warning: all photographs (2) are taken for {species}, by {rule}" in err
    )
    assert "cat_ or dog_" in err and str(root / "annotations" / "list.txt") in err


# --------------------------------------------------------------------------------------- ---- lists


def utf_16(text):
    return codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le")


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
        utf_16,
        lambda text: text.replace(" ", "\t").encode(),
    ],
    ids=["plain", "BOM", "CRLF", "BOM and CRLF", "UTF-16", "tabs"],
)
def test_lists_are_read_as_windows_programs_write_them(encode, tmp_path, capsys):
    root = layout(tmp_path / "pets")
    for name in ("Zoë_1", "pug_1", "Bengal_1"):
        add(root, name, box=None)
    write_list(root, "list.txt", ["Zoë_1 2 2 1", "pug_1 1 2 1"], encode)
    write_list(root, "trainval.txt", ["Zoë_1 2 2 1", "pug_1 1 2 1"], encode)
    assert names(
        prepare(root, tmp_path / "data", "--fractions", "0-0-100", "--only", "trainval")
    ) == ["pug_1"]
    assert left_out(capsys.readouterr().out) == {"Zoë_1": "its name says cat and list.txt says dog"}


# ------------------------------------------------------------------------------ the official halves


@pytest.fixture
def official(pets, tmp_path):  # noqa: F811
    """The 40 photographs with lists: every fourth of a breed in the test half; three
    near-duplicates across the halves."""
    root = tmp_path / "official"
    shutil.copytree(pets, root)
    of = {"trainval": [], "test": []}
    for path in sorted((root / "images").iterdir()):
        of["test" if int(path.stem.rpartition("_")[2]) // 4 % 4 == 0 else "trainval"].append(
            path.stem
        )
    scene = noise("scene", 17, 16).resize((170, 160), Image.Resampling.NEAREST)
    for half, name, image in (
        ("trainval", "Bengal_1", scene.point(lambda v: v // 2 + 60)),
        ("test", "Bengal_2", scene),
        ("trainval", "Bengal_3", scene.resize((100, 80))),
        ("trainval", "Bengal_4", halves()),
    ):
        add(root, name, image)
        of[half].append(name)
    for half, members in of.items():
        write_list(root, f"{half}.txt", [f"{name} 1 1 1" for name in members])
    return root, of


def split_of(out):
    return {
        name: split
        for split in contract.SPLITS
        if (out / split).is_dir()
        for name in names(out, split)
    }


def test_the_official_split_keeps_the_test_half_and_takes_val_out_of_trainval(
    official, tmp_path, capsys
):
    root, of = official
    add(root, "pug_nowhere")
    out = prepare(root, tmp_path / "data", "--official-split", "--fractions", "75-25-0")
    home = split_of(out)
    text = capsys.readouterr().out
    assert {name for name, split in home.items() if split == "test"} == set(of["test"])
    rest = set(of["trainval"]) - {"Bengal_1", "Bengal_3"}
    assert {name for name, split in home.items() if split != "test"} == rest
    assert sum(split == "val" for split in home.values()) == round(len(rest) / 4)
    assert left_out(text) == dict.fromkeys(
        ("Bengal_1", "Bengal_3"), "it shows the same as Bengal_2 of the test half"
    )
    assert "near-duplicates of the test half left out of the trainval half: 2\n" in text
    n = len(of["trainval"] + of["test"])
    assert (
        f"photographs named in trainval.txt and test.txt: {n}; others, not looked at: 1\n" in text
    )
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    check.verify(out)


def test_a_folder_of_one_half_alone_and_that_half_of_the_whole_folder_are_the_same(
    official, tmp_path
):
    root, of = official
    whole = prepare(root, tmp_path / "whole", "--only", "trainval", "--fractions", "50-25-25")
    for name in of["test"]:
        (root / "images" / f"{name}.jpg").unlink()
    alone = prepare(root, tmp_path / "alone", "--fractions", "50-25-25")
    for split in contract.SPLITS:
        (a, rows), (b, others) = read(whole, split), read(alone, split)
        assert rows == others and all(a[kind].tobytes() == b[kind].tobytes() for kind in a)


@pytest.mark.parametrize(
    "options, half",
    [
        (["--official-split"], "trainval"),
        (["--official-split"], "test"),
        (["--only", "test"], "test"),
    ],
)
def test_a_list_that_is_missing_or_names_nothing_here_is_refused(options, half, official, tmp_path):
    root, _ = official
    path = root / "annotations" / f"{half}.txt"
    path.write_text("# nothing\n\nSphynx_1 1 1 1\n")
    assert f"{path} names no photograph of {root / 'images'}" in refused(
        root, tmp_path / "data", *options
    )
    path.unlink()
    assert f"{path} is missing" in refused(root, tmp_path / "data", *options)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--root", "x", "--official-split", "--only", "test"], "not allowed with"),
        (
            ["--root", "x", "--official-split", "--fractions", "80-10-10"],
            "third number of --fractions",
        ),
        (["--synthetic", "20", "--official-split"], "drawn pets have no official halves"),
        (["--synthetic", "20", "--only", "trainval"], "drawn pets have no official halves"),
        (["--root", "x", "--only", "train"], "--only"),
    ],
)
def test_contradictions_are_refused(argv, words, capsys):
    with pytest.raises(SystemExit) as error:
        data_prepare.parse_args(argv)
    err = capsys.readouterr().err
    assert error.value.code == 2 and err.count("\n") == 1 and words in err


def test_the_download_and_one_half_of_it(official, tmp_path, monkeypatch):
    root, of = official

    def unpack(folder, **options):
        assert options["download"]
        shutil.copytree(root, folder / "oxford-iiit-pet")

    fake = types.ModuleType("torchvision.datasets")
    fake.OxfordIIITPet = unpack
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    out = tmp_path / "data"
    data_prepare.main(
        data_prepare.parse_args(
            [
                "--download",
                str(tmp_path / "there"),
                "--out",
                str(out),
                "--size",
                "32",
                "--only",
                "trainval",
            ]
        )
    )
    assert set(split_of(out)) == set(of["trainval"])
