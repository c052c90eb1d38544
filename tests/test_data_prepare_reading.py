"""What data/sample.py makes of one photograph, trimap and box: orientations, masks of every kind,
boxes that are off."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from oxford import a_trimap, add, all_of, layout, left_out, names, noise, only, prepare, read, voc
from PIL import Image

import data_prepare
import data_rechunk
from cli import InputError, processes
from data import check
from data import labels as data_sample
from data import write as writing

ORIENTATION = 0x0112
# How a picture lies in a file that says: turn it like this to have it upright.
LYING = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def tagged(tag):
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    return exif


def same(sample, other):
    return all(sample[kind].tobytes() == other[kind].tobytes() for kind in sample)


# -------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("width, height", [(60, 60), (64, 48)])
def test_a_turned_photograph_is_stored_as_its_upright_twin_bit_for_bit(
    width, height, tmp_path, capsys
):
    root, twins = layout(tmp_path / "pets"), layout(tmp_path / "twins")
    for tag in range(1, 9):
        image = noise(str(tag), width, height)
        lying = image.transpose(LYING[tag]) if tag > 1 else image
        trimap = a_trimap(width, height)
        trimap[:5, :9] = 1  # so that it is different every way round
        add(root, f"Bengal_{tag}", lying, trimap, exif=tagged(tag), frame=(width, height))
        add(twins, f"Bengal_{tag}", image, trimap)
    expected = all_of(twins, tmp_path / "expected")
    assert "EXIF" not in capsys.readouterr().out
    samples = all_of(root, tmp_path / "data")
    assert sorted(samples) == sorted(expected) and all(
        same(samples[name], expected[name]) for name in samples
    )
    text = capsys.readouterr().out
    assert (
        "turned upright, as their EXIF orientation says: 7 (Bengal_2, Bengal_3, Bengal_4 and 4 "
        "more)\n" in text
    )
    assert "not turned" not in text


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_a_photograph_whose_trimap_fits_it_only_as_it_lies_stays_so(tag, tmp_path, capsys):
    root, twins = layout(tmp_path / "pets"), layout(tmp_path / "twins")
    for k, size in enumerate(((64, 48), (32, 24))):  # of its size, and of its aspect
        add(root, f"Bengal_{k}", noise(str(k), 64, 48), a_trimap(*size), exif=tagged(tag))
        add(twins, f"Bengal_{k}", noise(str(k), 64, 48), a_trimap(*size))
    samples, expected = all_of(root, tmp_path / "data"), all_of(twins, tmp_path / "expected")
    assert all(same(samples[name], expected[name]) for name in expected)
    text = capsys.readouterr().out
    assert (
        "not turned as their EXIF orientation says, because only so they fit their trimap or box "
        "file: 2 "
        "(Bengal_0, Bengal_1)\n"
        in text
        and "turned upright" not in text
    )


@pytest.mark.parametrize(
    "trimap, frame, turned",
    [
        ((30, 30), (60, 59), False),
        ((30, 30), (59, 60), True),
        ((30, 30), None, True),
        ((30, 30), (120, 118), False),
        ((30, 30), (118, 120), True),
        ((60, 59), None, False),
        ((59, 60), None, True),
        ((60, 59), (59, 60), False),
        ((59, 60), (60, 59), True),
    ],
)
def test_of_a_nearly_square_photograph_the_exact_trimap_decides_then_the_box_file(
    trimap, frame, turned, tmp_path, capsys
):
    root = layout(tmp_path / "pets")
    image = noise("n", 60, 59)
    add(
        root,
        "Bengal_1",
        image,
        a_trimap(*trimap),
        exif=tagged(6),
        box=(5, 5, 20, 20) if frame else None,
        frame=frame,
    )
    stored = only(root, tmp_path / "data")["images"]
    assert (
        stored
        == writing.stretch(image.transpose(Image.Transpose.ROTATE_270) if turned else image, 32)
    ).all()
    assert ("not turned" in capsys.readouterr().out) != turned


# ------------------------------------------------------------------- photographs through the reader


def test_a_huge_photograph_takes_little_memory(tmp_path):
    """108 megapixels as a telephone gives them: 324 MB decoded, and the trimap 108."""
    root = layout(tmp_path / "pets")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (12000, 9000)
    ).save(root / "images" / "Bengal_1.jpg", quality=50)
    Image.fromarray(a_trimap(12000, 9000)).save(
        root / "annotations" / "trimaps" / "Bengal_1.png", compress_level=1
    )
    argv = [
        sys.executable,
        ROOT / "data_prepare.py",
        "--root",
        root,
        "--out",
        tmp_path / "data",
        "--fractions",
        "0-0-100",
    ]
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) / (1 << 20 if sys.platform == "darwin" else 1 << 10) < 600
    assert names(tmp_path / "data") == ["Bengal_1"]


def vanish(_):
    os._exit(9)


def test_a_process_that_was_ended_is_said_in_one_sentence():
    with pytest.raises(InputError, match="lack of memory"), processes(2) as pool:
        list(writing.ordered(pool, vanish, [1, 2], "vanish"))


def test_a_photograph_that_changes_meanwhile_is_refused_by_name(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1")
    (sample,) = data_prepare.oxford.list_records(root).records
    assert writing.inspect((sample, 32))[1] is None
    sample.path.write_bytes(b"")
    with pytest.raises(
        InputError, match="Bengal_1.jpg has changed while it was read: .* the file is empty"
    ):
        writing.convert((sample, 32, "pet", False))


# ----------------------------------------------------------------------------------------- -- masks


def palette(indices):
    """Indices with colours whose brightness says something else."""
    image = Image.fromarray(indices).convert("P")
    image.putpalette([5, 5, 5, 128, 0, 0, 0, 128, 0, 224, 224, 192] + [9] * 756)
    return image


def pet_mask():
    return a_trimap(64, 48) == 1


AS_MASKS = {
    "palette_trimap": (lambda: palette(a_trimap(64, 48)), None),
    "deep_trimap": (lambda: Image.fromarray(a_trimap(64, 48).astype(np.uint16)), None),
    "rgb_trimap": (lambda: Image.fromarray(np.repeat(a_trimap(64, 48)[:, :, None], 3, 2)), None),
    "without_border": (lambda: Image.fromarray(np.where(pet_mask(), 1, 2).astype(np.uint8)), None),
    "white": (lambda: Image.fromarray(pet_mask().astype(np.uint8) * 255), 255),
    "ones": (lambda: Image.fromarray(pet_mask().astype(np.uint8)), 1),
    "bits": (lambda: Image.fromarray(pet_mask()), 1),
    "palette": (lambda: palette(pet_mask().astype(np.uint8)), 1),
    "deep": (lambda: Image.fromarray(pet_mask().astype(np.uint16) * 65535), 65535),
    "rgba": (lambda: Image.fromarray(pet_mask().astype(np.uint8) * 255).convert("RGBA"), 255),
}


def test_masks_and_trimaps_of_every_kind_are_read_and_said(tmp_path, capsys):
    root, twins = layout(tmp_path / "pets"), layout(tmp_path / "twins")
    for name, (mask, _) in AS_MASKS.items():
        add(root, f"Bengal_{name}", noise(name, 64, 48), mask())
        add(twins, f"Bengal_{name}", noise(name, 64, 48), a_trimap(64, 48))
    samples = all_of(root, tmp_path / "data", "--border", "background")
    text = capsys.readouterr().out
    expected = all_of(twins, tmp_path / "expected", "--border", "background")
    assert len(samples) == len(AS_MASKS)
    for name, (_, white) in AS_MASKS.items():
        found, twin = samples[f"Bengal_{name}"], expected[f"Bengal_{name}"]
        trimap, whole = found.pop("trimaps"), twin.pop("trimaps")
        assert same(found, twin), name
        # A mask says nothing of the border; neither does "without_border", but nothing tells that
        # it does not.
        if white is not None:
            assert (trimap == 255).all()
        elif name != "without_border":
            assert (trimap == whole).all()
    for white, count in ((1, 3), (255, 2), (65535, 1)):
        assert (
            f"masks of 0 and {white} read as trimaps ({white} pet, 0 background, no border): "
            f"{count} (" in text
        )
    assert "masks of" not in capsys.readouterr().out


def test_trimaps_are_stored_as_they_are_and_an_ignored_border_is_unlabelled(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1", trimap=a_trimap(64, 64), image=noise("Bengal_1", 64, 64))
    expected = a_trimap(64, 64)[::2, ::2]  # nearest, at half the side
    stored = {
        border: only(root, tmp_path / border, "--border", border)
        for border in ("pet", "background", "ignore")
    }
    for border, value in (("pet", 1), ("background", 0), ("ignore", 255)):
        trimap, mask = stored[border]["trimaps"][:, :, 0], stored[border]["masks"][:, :, 0]
        assert (
            set(np.unique(trimap)) == {1, 2, 3}
            and abs((trimap == 3).mean() - (expected == 3).mean()) < 0.05
        )
        assert (
            (mask[trimap == 1] == 1).all()
            and (mask[trimap == 2] == 0).all()
            and (mask[trimap == 3] == value).all()
        )


def test_re_chunking_keeps_an_ignored_border(tmp_path):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1")
    prepare(root, tmp_path / "data", "--border", "ignore", "--fractions", "0-0-100")
    before = read(tmp_path / "data")[0]["masks"]
    data_rechunk.main(data_rechunk.parse_args(["--data", str(tmp_path / "data")]))
    assert (
        set(np.unique(before)) == {0, 1, 255}
        and (read(tmp_path / "data")[0]["masks"] == before).all()
    )


@pytest.mark.parametrize(
    "values, listed",
    [
        ((0, 1, 255), "values 0, 1, 255"),
        ((0, 128), "values 0, 128"),
        ((0, 1, 2), "values 0, 1, 2"),
        ((0, 2), "values 0, 2"),
        ((1, 2, 3, 255), "values 1, 2, 3, 255"),
        ((38, 75), "values 38, 75"),
        ((7, 7), "value 7;"),
    ],
)
def test_what_fits_no_rule_is_refused_with_its_values(values, listed, tmp_path, capsys):
    root = layout(tmp_path / "pets")
    add(root, "Bengal_1")
    add(root, "Bengal_2", trimap=np.resize(np.array(values, np.uint8), (48, 64)))
    all_of(root, tmp_path / "data")
    reason = left_out(capsys.readouterr().out)["Bengal_2"]
    assert (
        f"its trimap holds the {listed}" in reason
        and "it should hold 1 (pet), 2 (background) and 3 (border)" in reason
    )


# ----------------------------------------------------------------------------------------- -- boxes


def xml(size, *corners):
    return f"<annotation>{size}<object><bndbox>{''.join(corners)}</bndbox></object></annotation>"


SIDES = "<xmin>10</xmin><ymin>12</ymin><xmax>30</xmax><ymax>24</ymax>"
GOOD = [10 / 64, 12 / 48, 30 / 64, 24 / 48]
SOUND = {
    "as it is": (voc((10, 12, 30, 24), (64, 48)), GOOD),
    "frame of twice the size": (voc((20, 24, 60, 48), (128, 96)), GOOD),
    "frame of 0": (voc((10, 12, 30, 24), (0, 0)), GOOD),
    "width of 0": (voc((10, 12, 30, 24), (0, 480)), GOOD),
    "height of 0": (voc((10, 12, 30, 24), (640, 0)), GOOD),
    "no frame": (voc((10, 12, 30, 24), None), GOOD),
    "frame without width": (xml("<size><height>48</height></size>", SIDES), GOOD),
    "empty frame": (xml("<size><width/><height> </height></size>", SIDES), GOOD),
    "Windows": (voc((10, 12, 30, 24), (64, 48)).replace("<object", "\r\n<object"), GOOD),
    "the whole frame": (voc((0, 0, 64, 48), (64, 48)), [0, 0, 1, 1]),
    "a pixel over": (voc((-1, -1, 65, 49), (64, 48)), [0, 0, 1, 1]),
    "a side over": (voc((10, 12, 64.5, 24), (64, 48)), [10 / 64, 12 / 48, 1, 24 / 48]),
    "a pixel over no frame": (voc((10, 12, 65, 24), (0, 0)), [10 / 64, 12 / 48, 1, 24 / 48]),
}
BAD = {
    "flat": (
        voc((10, 12, 10, 24), (64, 48)),
        "the box 10 12 10 24 in a frame of 64 x 48 is out of order or has no extent",
    ),
    "turned": (voc((30, 12, 10, 24), (64, 48)), "out of order"),
    "a hair": (voc((10, 12, 10.0001, 24), (64, 48)), "no extent"),
    "outside": (
        voc((10, 12, 65.5, 24), (64, 48)),
        "the box 10 12 65.5 24 in a frame of 64 x 48 is out of it",
    ),
    "beyond": (voc((64, 12, 65, 24), (64, 48)), "no extent"),
    "left of it": (voc((-2, 12, 30, 24), (64, 48)), "is out of it"),
    "nan": (voc(("nan", 12, 30, 24), (64, 48)), "its xmin is 'nan', no number"),
    "infinite": (voc((10, 12, 30, "1e999"), (64, 48)), "its ymax is '1e999', no number"),
    "word": (voc((10, "left", 30, 24), (64, 48)), "its ymin is 'left', no number"),
    "frame of words": (voc((10, 12, 30, 24), ("wide", 48)), "its width is 'wide', no number"),
    "frame below 0": (voc((10, 12, 30, 24), (-64, 48)), "its frame is -64 x 48"),
    "infinite frame": (voc((10, 12, 30, 24), ("inf", "inf")), "its width is 'inf', no number"),
    "huge": (voc((10, 12, "1e308", 24), ("1e-300", 48)), "it was drawn on"),
    "no corner": (xml("", SIDES.replace("ymin", "top")), "it has no ymin"),
    "empty corner": (xml("", SIDES.replace(">12<", "> <")), "it has no ymin"),
    "no box": (
        "<annotation><object><name>cat</name></object></annotation>",
        "its object has no bndbox",
    ),
    "cut off": (voc((10, 12, 30, 24), (64, 48))[:90], "its file cannot be read as XML ("),
    "empty": ("", "cannot be read as XML"),
    "encoding": (
        '<?xml version="1.0" encoding="none-such"?><annotation/>',
        "cannot be read as XML",
    ),
    "a heart": ("I ♥ pets", "cannot be read as XML"),
}


def test_boxes_that_are_sound_or_nearly(tmp_path, capfd):
    root = layout(tmp_path / "pets")
    for name, (text, _) in SOUND.items():
        add(root, f"Bengal {name}")
        (root / "annotations" / "xmls" / f"Bengal {name}.xml").write_text(text)
    samples = all_of(root, tmp_path / "data")
    assert {name: sample["bboxes"].tolist() for name, sample in samples.items()} == {
        f"Bengal {name}": pytest.approx([32 * c for c in corners])
        for name, (_, corners) in SOUND.items()
    }
    captured = capfd.readouterr()
    assert (
        "head boxes cut at the frame, over which they reached by at most a pixel: 3 (Bengal a "
        "pixel over no frame, "
        "Bengal a pixel over, Bengal a side over)\n" in captured.out
    )
    assert "Warning" not in captured.err and "head box, because" not in captured.out


def test_a_bad_box_leaves_its_photograph_without_one_and_is_named(tmp_path, capfd):
    root = layout(tmp_path / "pets")
    for name, (text, _) in BAD.items():
        add(root, f"Bengal {name}")
        (root / "annotations" / "xmls" / f"Bengal {name}.xml").write_text(text)
    add(root, "Bengal folder", box=None)
    (root / "annotations" / "xmls" / "Bengal folder.xml").mkdir()
    add(root, "pug_1", box=None)  # says nothing of a box, which is no fault
    out = prepare(root, tmp_path / "data", "--fractions", "0-0-100")
    captured = capfd.readouterr()
    assert len(names(out)) == len(BAD) + 2 and left_out(captured.out) == {}
    n = len(BAD) + 1
    lines = captured.out.partition(f"without a head box, because it cannot be used: {n}\n")[
        2
    ].splitlines()[:n]
    reasons = dict(line.strip().split(": ", 1) for line in lines)
    assert reasons.pop("Bengal folder") == "its file cannot be read as XML (Is a directory)"
    assert {
        name
        for name, reason in reasons.items()
        if BAD[name.removeprefix("Bengal ")][1] not in reason
    } == set()
    assert len(reasons) == len(BAD) and captured.err == ""
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    check.verify(out)


def test_a_bad_box_says_all_the_same_that_there_is_a_pet(tmp_path, capsys):
    root = layout(tmp_path / "pets")
    for name in ("Bengal_1", "Bengal_2", "Bengal_3"):
        add(
            root,
            name,
            trimap=np.full((48, 64), 2, np.uint8) if name != "Bengal_3" else None,
            box=None,
        )
    (root / "annotations" / "xmls" / "Bengal_1.xml").write_text(voc((30, 12, 10, 24), (64, 48)))
    (root / "annotations" / "list.txt").write_text("Bengal_3 1 1 1\n")
    assert sorted(all_of(root, tmp_path / "data")) == ["Bengal_2", "Bengal_3"]
    text = capsys.readouterr().out
    assert (
        left_out(text) == {"Bengal_1": "its trimap has no pet pixel"}
        and f"{data_sample.EMPTY}: 1 (Bengal_2)\n" in text
    )
