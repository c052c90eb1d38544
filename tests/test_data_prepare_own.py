"""Photographs, masks and labels of one's own: every way in gives the same data, and trains;
splits; what is refused."""

import shutil

import numpy as np
import pytest
from own import ellipse, own, palette, photograph, prepare, refused, save_mask, write_coco
from oxford import left_out, names, noise, read
from PIL import Image
from scipy import ndimage

import data_prepare
import data_rechunk
from data import check, contract

N = 60


# ------------------------------------------------------------------------------------------ ways in


def contour(mask):
    """The corners of a mask without holes, as a polygon in pixels: left edges down, right edges
    up."""
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    corners = [(x, y + step) for x, y in zip(left, rows, strict=True) for step in (0, 1)]
    corners += [
        (x, y + step) for x, y in zip(right[::-1], rows[::-1], strict=True) for step in (1, 0)
    ]
    return [float(value) for corner in corners for value in corner]


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    """60 photographs with upper-case endings and their masks in every form; {way: options}, {name:
    mask}."""
    place = tmp_path_factory.mktemp("sixty")
    masks = {f"pet {k:02}": ellipse(shift=k % 13 - 6) for k in range(N)}
    for name, mask in masks.items():
        photo = photograph(place / "photos", name)
        (place / "voc" / "JPEGImages").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place / "voc" / "JPEGImages" / f"{name}.jpg")
        save_mask(place / "masks", name, mask.astype(np.uint8) * 255)
        save_mask(place / "palettes", name, palette(mask))
        save_mask(place / "voc" / "SegmentationClass", name, palette(mask * 8))
        save_mask(
            place / "cut-outs",
            name,
            Image.merge(
                "RGBA", (*Image.open(photo).split(), Image.fromarray(mask * np.uint8(255)))
            ),
        )
    write_coco(
        place / "coco.json",
        {f"{name}.JPG": (64, 48) for name in masks},
        [(f"{name}.JPG", "pet", [contour(mask)], {}) for name, mask in masks.items()],
    )
    photos = ["--images", place / "photos"]
    return {way: [*photos, "--masks", place / way] for way in ("masks", "palettes", "cut-outs")} | {
        "coco": [*photos, "--coco", place / "coco.json"],
        "voc": ["--voc", place / "voc"],
    }, masks


@pytest.fixture(scope="module")
def plain(sixty, tmp_path_factory):
    """The data of the plain masks."""
    return prepare(tmp_path_factory.mktemp("plain") / "data", *sixty[0]["masks"])


@pytest.mark.parametrize("way", ["masks", "palettes", "cut-outs", "coco", "voc"])
def test_every_way_in_gives_the_same_data(way, sixty, plain, tmp_path):
    if way == "coco":
        pytest.importorskip("pycocotools")
    out = prepare(tmp_path / "data", *sixty[0][way])
    for split, n in (("train", 48), ("val", 6), ("test", 6)):
        (found, rows), (expected, others) = read(out, split), read(plain, split)
        assert [row["name"] for row in rows] == [row["name"] for row in others] and len(rows) == n
        assert found.keys() - {"bboxes"} == expected.keys() == {"images", "masks"}
        assert (found["images"] == expected["images"]).all() and list(rows[0])[:2] == [
            "row",
            "name",
        ]
        for mask, right in zip(found["masks"][..., 0], expected["masks"][..., 0], strict=True):
            inside = ndimage.binary_erosion(right, np.ones((3, 3)))
            around = ndimage.binary_dilation(right, np.ones((3, 3)))
            assert inside.any() and not around.all()
            assert (mask[inside] == 1).all() and not mask[
                ~around
            ].any()  # to a pixel of the contour
            assert way in ("cut-outs", "coco") or (mask == right).all()
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out), "--check"]))


def test_pictures_of_every_format_with_masks_of_other_formats_in_sub_folders(tmp_path, capsys):
    formats = {
        ".tif": "TIFF",
        ".GIF": "GIF",
        ".webp": "WEBP",
        ".bmp": "BMP",
        ".avif": "AVIF",
        ".PNG": "PNG",
        ".jpeg": "JPEG",
    }
    for k, (ending, kind) in enumerate(formats.items()):
        photograph(tmp_path / "photos", f"farm/{kind}/Ünal {k}", ending, format=kind)
        save_mask(
            tmp_path / "masks",
            f"farm/{kind}/U\u0308nal {k}",
            ellipse(),
            (".TIF", ".gif", ".png")[k % 3],
        )
    noise("cmyk", 64, 48).convert("CMYK").save(tmp_path / "photos" / "farm" / "cmyk.jpg")
    deep = np.asarray(noise("deep", 64, 48).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "photos" / "farm" / "deep.png")
    noise("p", 64, 48).quantize(16).save(tmp_path / "photos" / "farm" / "p.png", transparency=3)
    (tmp_path / "photos" / ".hidden").mkdir()
    photograph(tmp_path / "photos" / ".hidden", "x")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos" / "farm" / "TIFF")
    (tmp_path / "photos" / "farm" / "up").symlink_to(tmp_path / "photos")
    out = prepare(
        tmp_path / "data",
        "--images",
        tmp_path / "photos",
        "--masks",
        tmp_path / "masks",
        "--fractions",
        "0-0-100",
    )
    arrays, rows = read(out)
    masked = {
        row["name"] for row, mask in zip(rows, arrays["masks"], strict=True) if (mask != 255).any()
    }
    assert masked == {f"farm/{kind}/Ünal {k}" for k, kind in enumerate(formats.values())}
    assert {row["name"] for row in rows} - masked == {
        "farm/cmyk",
        "farm/deep",
        "farm/p",
        "again/Ünal 0",
    }
    text = capsys.readouterr().out
    assert (
        "without a mask, so unlabelled: 4 (again/Ünal 0, farm/cmyk, farm/deep and 1 more)\n" in text
    )
    assert "no photographs, by their names: 1 in" in text and left_out(text) == {}


def test_pictures_alone_and_pictures_that_cannot_be_read(tmp_path, capsys):
    for name in ("a", "b", "twice"):
        photograph(tmp_path / "photos", name)
    photograph(tmp_path / "photos", "twice", ".png", format="PNG")
    (tmp_path / "photos" / "damaged.jpg").write_bytes(
        (tmp_path / "photos" / "a.JPG").read_bytes()[:300]
    )
    (tmp_path / "photos" / "link.jpg").symlink_to("nowhere")
    (tmp_path / "photos" / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "photos" / "no\udcfftext.jpg").write_bytes(
        (tmp_path / "photos" / "a.JPG").read_bytes()
    )
    out = prepare(tmp_path / "data", "--images", tmp_path / "photos", "--fractions", "0-0-100")
    arrays, rows = read(out)
    assert sorted(row["name"] for row in rows) == ["a", "b"] and arrays.keys() == {"images"}
    reasons = left_out(capsys.readouterr().out)
    assert (
        reasons["twice.JPG"] == reasons["twice.png"] == "2 photographs have this name (twice.JPG, "
        "twice.png); keep one of them"
    )
    assert reasons["no\\xfftext"] == "its name holds bytes that are no text; rename it"
    assert (
        "incomplete" in reasons["damaged"]
        and "no such file" in reasons["link"]
        and "itself" in reasons
    )


def test_a_turned_photograph_has_its_mask_as_one_sees_it(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(tmp_path / "photos", "turned", ".png", format="PNG", exif=exif)
    photograph(tmp_path / "photos", "lying", ".png", format="PNG", exif=exif)
    save_mask(tmp_path / "masks", "turned", ellipse((48, 64)))
    save_mask(tmp_path / "masks", "lying", ellipse())
    (tmp_path / "l.csv").write_text(
        "file,xmin,ymin,xmax,ymax\nturned,12,16,24,48\nlying,12,16,24,48\n"
    )
    out = prepare(
        tmp_path / "data",
        "--images",
        tmp_path / "photos",
        "--masks",
        tmp_path / "masks",
        "--labels",
        tmp_path / "l.csv",
        "--fractions",
        "0-0-100",
    )
    arrays, rows = read(out)
    of = {row["name"]: k for k, row in enumerate(rows)}
    upright = (
        noise("turned", 64, 48)
        .transpose(Image.Transpose.ROTATE_270)
        .resize((32, 32), Image.Resampling.BILINEAR)
    )
    assert (arrays["images"][of["turned"]] == np.asarray(upright)).all()
    assert (
        arrays["bboxes"][of["turned"]].tolist() == [8, 8, 16, 24]
        and np.isnan(arrays["bboxes"][of["lying"]]).all()
    )
    text = capsys.readouterr().out
    assert (
        "not turned as their EXIF orientation says, because only so they fit their mask or box "
        "file: 1 (lying)\n" in text
    )
    assert (
        "without a box, because it cannot be used: 1\n  lying: it is of the upright photograph, "
        "and the mask" in text
    )


# ----------------------------------------------------------------------------------------- - splits


def home(out):
    return {
        name: split
        for split in contract.SPLITS
        if (out / split).is_dir()
        for name in names(out, split)
    }


def test_a_split_by_lists_with_endings_marks_and_what_is_in_none(tmp_path, capsys):
    options = own(tmp_path, {f"sub/p{k}": ellipse() for k in range(9)})
    lists = {
        "val": "\ufeffsub/p0.JPG\r\nsub\\p1.jpg\r\n",
        "train": "# kept\nsub/p2\n\n./sub/p3.png\nsub/p4\n",
        "test": "sub/p5\nsub/p6\n",
    }
    for split, text in lists.items():
        (tmp_path / f"{split}.txt").write_bytes(text.encode())
    out = prepare(
        tmp_path / "data",
        *options,
        "--split-files",
        *(tmp_path / f"{split}.txt" for split in lists),
    )
    assert home(out) == {
        f"sub/p{k}": split for k, split in enumerate(["val"] * 2 + ["train"] * 3 + ["test"] * 2)
    }
    assert "in none of the lists, so not used: 2 (sub/p7, sub/p8)\n" in capsys.readouterr().out
    photograph(tmp_path / "photos", "no\udcfftext")
    (tmp_path / "one").write_bytes(b"sub/p0\nno\xfftext.JPG\n")
    out = prepare(tmp_path / "bytes", *options, "--split-files", tmp_path / "one")
    assert home(out) == {"sub/p0": "train"} and list(left_out(capsys.readouterr().out)) == [
        "no\\xfftext"
    ]
    (tmp_path / "one").write_bytes("\n".join(f"sub/p{k}" for k in range(4)).encode("utf-16"))
    (tmp_path / "two").write_text("sub/p8")
    out = prepare(tmp_path / "again", *options, "--split-files", tmp_path / "one", tmp_path / "two")
    assert home(out) == {**{f"sub/p{k}": "train" for k in range(4)}, "sub/p8": "val"}


def test_a_copy_across_given_splits_is_left_out_of_the_earlier_one_and_a_near_duplicate_is_named(
    tmp_path, capsys
):
    options = own(
        tmp_path,
        {f"{folder}/p{k}": ellipse() for folder in ("train", "val", "test") for k in range(3)},
    )
    for copy in ("train/p0", "val/p1"):
        shutil.copy(tmp_path / "photos" / "test" / "p2.JPG", tmp_path / "photos" / f"{copy}.JPG")
    scene = noise("scene", 17, 16).resize((68, 51), Image.Resampling.NEAREST)
    scene.save(tmp_path / "photos" / "train" / "p2.JPG", format="PNG")
    scene.point(lambda value: value // 2 + 60).save(
        tmp_path / "photos" / "val" / "p2.JPG", format="PNG"
    )
    out = prepare(tmp_path / "data", *options)
    captured = capsys.readouterr()
    assert left_out(captured.out) == dict.fromkeys(
        ("train/p0", "val/p1"), "it is the same image as test/p2 of test"
    )
    assert len(home(out)) == 7 and "left where they are given: 1 (256-bit" in captured.out
    assert "  train/p2 (train), val/p2 (val)\n" in captured.out
    assert (
        captured.err.count("\n") == 1 and "train/p2" in captured.err and "warning" in captured.err
    )
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    check.verify(out)


def test_breeds_classes_or_folders_are_spread_evenly(tmp_path):
    masks = {f"{'ab'[k % 2]}/p{k:02}": ellipse() for k in range(24)}
    options = [*own(tmp_path, masks), "--fractions", "50-25-25"]
    lines = [f"{name},{'xyz'[k % 3]},{'uv'[k // 12]}" for k, name in enumerate(masks)]
    found = home(prepare(tmp_path / "folders", *options))
    assert sorted((name[0], split) for name, split in found.items()) == sorted(
        (folder, split)
        for folder in "ab"
        for split, n in (("train", 6), ("val", 3), ("test", 3))
        for _ in range(n)
    )
    for column, of in (
        ("class", lambda name: "xyz"[int(name[-2:]) % 3]),
        ("breed", lambda name: "uv"[int(name[-2:]) // 12]),
    ):
        (tmp_path / "labels.csv").write_text(
            "\n".join([f"image,class,{'breed' if column == 'breed' else 'b'}", *lines])
        )
        found = home(prepare(tmp_path / column, *options, "--labels", tmp_path / "labels.csv"))
        counts = [
            sum(of(name) == value and split == "val" for name, split in found.items())
            for value in set(map(of, masks))
        ]
        assert sum(counts) == 6 and max(counts) - min(counts) == 0


# ------------------------------------------------------------------------------------------ classes


def test_horses_are_called_horses(tmp_path, capsys):
    """Two custom classes: in the files, in the report, in the check."""
    options = own(tmp_path, {f"p{k:02}": ellipse() for k in range(24)})
    lines = [f"p{k:02},{'horse' if k % 2 else 'alpaca'},10,8,40,30" for k in range(23)] + [
        "p23,,,,,"
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *lines]))
    out = prepare(
        tmp_path / "data", *options, "--labels", tmp_path / "labels.csv", "--fractions", "50-25-25"
    )
    assert ["all", "24", "24", "12", "11", "23"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    for split in contract.SPLITS:
        arrays, rows = read(out, split)
        for row, label, box in zip(rows, arrays["binary"][:, 0], arrays["bboxes"], strict=True):
            assert label == {"alpaca": 0, "horse": 1, "": 255}[row["class"]]
            assert row["has_box"] == str(int(not np.isnan(box).any()))
            assert np.isnan(box).all() or box.tolist() == pytest.approx([5, 16 / 3, 20, 20])
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out)]))
    data_rechunk.main(data_rechunk.parse_args(["--data", str(out), "--check"]))
    assert "'alpaca'" in capsys.readouterr().out and contract.describe(out)["classes"] == (
        "alpaca",
        "horse",
    )


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--images", "x", "--root", "y"], "not allowed with"),
        (["--voc", "x", "--images", "y"], "not allowed with"),
        (["--root", "x", "--masks", "y"], "--masks needs"),
        (["--voc", "x", "--masks", "y"], "--masks needs"),
        (["--root", "x", "--coco", "y"], "--coco needs"),
        (["--masks", "y"], "required"),
        (["--images", "x", "--masks", "y", "--coco", "z"], "both say what is foreground"),
        (["--root", "x", "--labels", "y"], "--labels and --split-files are for"),
        (["--synthetic", "20", "--split-files", "y"], "--labels and --split-files are for"),
        (["--images", "x", "--foreground", "1"], "--foreground is for"),
        (["--root", "x", "--foreground", "1"], "--foreground is for"),
        (["--images", "x", "--trimaps"], "--trimaps is for"),
        (["--root", "x", "--trimaps"], "--trimaps is for"),
        (["--images", "x", "--masks", "y", "--trimaps", "--foreground", "1"], "--trimaps"),
        (["--images", "x", "--masks", "y", "--trimaps", "--threshold", "9"], "--threshold"),
        (["--images", "x", "--mask-suffix", "_m"], "--mask-suffix"),
        (["--root", "x", "--group", "animal"], "--group"),
        (["--out", "x"], "required"),
        (["--images", "x", "--leave-out"], "--leave-out is for"),
        (["--images", "x", "--masks", "y", "--border", "ignore"], "--border is for"),
        (["--images", "x", "--split-files", "a", "b", "c", "d"], "at most three"),
        (
            ["--images", "x", "--split-files", "a", "--fractions", "80-10-10"],
            "--split-files and --fractions",
        ),
        (["--images", "x", "--official-split"], "--official-split and --only"),
        (["--voc", "x", "--only", "test"], "--official-split and --only"),
    ],
)
def test_options_that_do_not_go_together_are_refused(argv, words, capsys):
    with pytest.raises(SystemExit) as error:
        data_prepare.parse_args(argv)
    err = capsys.readouterr().err
    assert error.value.code == 2 and err.count("\n") == 1 and words in err


def test_folders_that_do_not_go_together_are_refused(tmp_path):
    options = own(tmp_path, {"a": ellipse(), "b": ellipse()})
    photos, masks, out = tmp_path / "photos", tmp_path / "masks", tmp_path / "data"
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    save_mask(tmp_path / "others", "a_mask", ellipse())
    assert "is no folder" in refused(out, "--images", tmp_path / "nowhere")
    assert "holds no photograph" in refused(out, "--images", tmp_path / "empty")
    assert "is no folder" in refused(out, "--images", photos, "--masks", tmp_path / "nowhere")
    assert "both" in refused(out, "--images", photos, "--masks", photos)
    assert "a_mask" in refused(out, "--images", photos, "--masks", tmp_path / "others")
    assert "no mask with the name" in refused(
        out, "--images", photos, "--masks", tmp_path / "empty"
    )
    assert "lies in" in refused(photos / "data", *options) and "lies in" in refused(
        masks / "data", *options
    )
    (out / "synthetic").mkdir(parents=True)
    for folder in (photos, masks):
        shutil.move(folder, out / "synthetic" / folder.name)
    photographs = ["--images", out / "synthetic" / "photos"]
    assert "would replace" in refused(out, *photographs, "--force")
    (tmp_path / "labels.csv").write_text("file\na\n")
    shutil.copytree(out / "synthetic" / "photos", tmp_path / "elsewhere")
    shutil.move(tmp_path / "labels.csv", out / "synthetic")
    assert "would replace" in refused(
        out,
        "--images",
        tmp_path / "elsewhere",
        "--labels",
        out / "synthetic" / "labels.csv",
        "--force",
    )
    assert "no folder JPEGImages" in refused(tmp_path / "new", "--voc", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "lists, words",
    [
        ({"train.txt": "p0\np1\nnowhere\n"}, "train.txt, line 3: 'nowhere' is no photograph of"),
        (
            {"train.txt": "p0\n", "test.txt": "p1\np0\n"},
            "test.txt, line 2: 'p0' stands in the list of train too",
        ),
        ({"train.txt": "# nothing\n"}, "names no photograph"),
        ({"train.txt": "p0\n", "mine.txt": "p1\n"}, "mine.txt is not told apart by its name"),
        ({"val.txt": "p0\n", "valid.txt": "p1\n"}, "valid.txt is not told apart by its name"),
        ({"missing": None}, "cannot be read"),
    ],
)
def test_lists_that_say_nothing_or_too_much_are_refused(lists, words, tmp_path):
    options = own(tmp_path, {f"p{k}": ellipse() for k in range(3)})
    for name, text in lists.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    assert words in refused(
        tmp_path / "data", *options, "--split-files", *(tmp_path / name for name in lists)
    )
