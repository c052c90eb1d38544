"""Labels as people bring them, from public threads: stored right, by values that are computed
here, or refused with a way out.

Photographs and masks are 64 x 64, and so is what is stored: a stored mask equals its source pixel
by pixel.
"""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from own import ellipse, photograph, save_mask
from own import prepare as prepare_data
from oxford import noise
from PIL import Image

import data_rechunk
from cli import InputError
from data import layout

SIDE = 64


def name(k):
    return f"p{k:02}"


def mask(k):
    return ellipse((SIDE, SIDE), k % 7 - 3)


def polygon(k):
    x, y = 8 + k % 5, 10 + k % 3
    return [x, y, x + 34.5, y, x + 34.5, y + 28.25, x, y + 28.25]


def drawn(*rings):
    """The mask of polygons, by pycocotools' own drawing."""
    coco = pytest.importorskip("pycocotools.mask")
    return coco.decode(coco.merge(coco.frPyObjects(list(rings), SIDE, SIDE))).astype(bool)


def photos(place, n, size=(SIDE, SIDE), folder="photos", **save):
    for k in range(n):
        photograph(place / folder, name(k), ".jpg", size, **save)
    return place / folder


def masks(place, n, values=lambda k: mask(k) * np.uint8(255), ending=".png", **save):
    for k in range(n):
        save_mask(place / "masks", name(k), values(k), ending, **save)
    return place / "masks"


def coco(n, outline=lambda k: [polygon(k)], size=(SIDE, SIDE), **more):
    """A COCO file's content: one annotation a photograph."""
    images = [
        {"id": k, "file_name": f"{name(k)}.jpg", "width": size[0], "height": size[1]}
        for k in range(n)
    ]
    annotations = [
        {"id": k, "image_id": k, "category_id": 1, "segmentation": outline(k), "iscrowd": 0} | more
        for k in range(n)
    ]
    return {
        "images": images,
        "categories": [{"id": 1, "name": "pet"}],
        "annotations": annotations,
    }


def prepare(place, *options, fractions="0-0-100"):
    """{name: {kind: array, "split": split, column: cell}} of what is prepared."""
    shares = ["--fractions", fractions] if fractions else []
    return stored(prepare_data(place / "D", *options, *shares, size=SIDE))


def stored(out):
    found = {}
    for split in layout.SPLITS:
        if not (out / split).is_dir():
            continue
        files = {
            kind: h5py.File(out / split / f"{kind}.h5") for kind in layout.kinds_of(out, split)
        }
        with open(out / split / "index.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for k, row in enumerate(rows):
            found[row["name"]] = row | {kind: file[kind][k] for kind, file in files.items()}
            found[row["name"]]["split"] = split
    return found


def prepare_coco(place, content, *options, fractions="0-0-100"):
    (place / "c.json").write_text(json.dumps(content))
    return prepare(
        place,
        "--images",
        place / "photos",
        "--coco",
        place / "c.json",
        *options,
        fractions=fractions,
    )


def refused(place, *options):
    """The sentence of a refusal, after which there is no data folder."""
    with pytest.raises(InputError) as error:
        prepare_data(place / "D", *options, size=SIDE)
    assert not (place / "D").exists() and "\n" not in str(error.value)
    return str(error.value)


def refused_coco(place, content, *options):
    (place / "c.json").write_text(json.dumps(content))
    return refused(place, "--images", place / "photos", "--coco", place / "c.json", *options)


def same(found, right):
    """Whether stored masks are these: {name: (H, W) bool}."""
    assert found.keys() >= right.keys()
    return all(((found[n]["masks"][..., 0] == 1) == one).all() for n, one in right.items())


def fates(text):
    """{fate: count} of the line that counts labels, which has to add up."""
    line = next(line for line in text.splitlines() if line.startswith("labels: "))
    total, _, parts = line.removeprefix("labels: ").partition(" = ")
    counts = {}
    for part in parts.split(" + "):
        count, _, fate = part.partition(" ")
        counts[fate] = int(count)
    assert sum(counts.values()) == int(total) and min(counts.values()) > 0
    return counts


# ----------------------------------------------------------------------------------------- outlines


def test_polygons_of_another_frame_are_refused_and_a_pixel_or_two_are_cut(tmp_path, capsys):
    photos(tmp_path, 4)
    large = coco(4, lambda k: [[1.6 * value for value in polygon(k)]])
    message = refused_coco(tmp_path, large)
    assert "p00" in message and "64 x 64" in message
    wide = coco(4, lambda k: [[40, 5, 65.5, 5, 65.5, 20, 40, 20]])
    found = prepare_coco(tmp_path, wide)
    assert same(found, {name(0): drawn([40, 5, 64, 5, 64, 20, 40, 20])})
    assert found["p00"]["bboxes"].tolist() == [40, 5, 64, 20]
    assert "cut at the frame" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "D")
    wide["annotations"][1]["bbox"] = [40, 5, 25.5, 15]
    assert prepare_coco(tmp_path, wide)["p01"]["bboxes"].tolist() == [40, 5, 64, 20]


def test_crowds_of_a_brush_have_their_box(tmp_path):
    cm = pytest.importorskip("pycocotools.mask")
    photos(tmp_path, 4)
    runs = [cm.encode(np.asfortranarray(mask(k).astype(np.uint8))) for k in range(4)]
    outlines = [{"size": [SIDE, SIDE], "counts": one["counts"].decode()} for one in runs]
    found = prepare_coco(tmp_path, coco(4, lambda k: outlines[k], iscrowd=1))
    assert same(found, {name(k): mask(k) for k in range(4)})
    for k, one in enumerate(runs):
        x, y, w, h = cm.toBbox(one)
        assert found[name(k)]["bboxes"].tolist() == [x, y, x + w, y + h]


@pytest.mark.parametrize("flag", ["0", "false", False, None, 0.0])
def test_numbers_as_text_mark_no_crowd(flag, tmp_path):
    photos(tmp_path, 2)
    found = prepare_coco(tmp_path, coco(2, iscrowd=flag))
    assert not np.isnan(found["p00"]["bboxes"]).any()


def test_real_crowds_have_no_box_and_are_named(tmp_path, capsys):
    photos(tmp_path, 3)
    content = coco(3)
    content["annotations"][1]["iscrowd"] = "1"
    found = prepare_coco(tmp_path, content)
    assert np.isnan(found["p01"]["bboxes"]).all() and not np.isnan(found["p00"]["bboxes"]).any()
    assert "marked as a crowd: 1 (p01)" in capsys.readouterr().out
    content["annotations"][1]["iscrowd"] = "maybe"
    shutil.rmtree(tmp_path / "D")
    assert "iscrowd" in refused_coco(tmp_path, content)


@pytest.mark.parametrize("form", [str, float, lambda k: f" {k} "])
def test_ids_as_text_or_as_floats_are_the_same(form, tmp_path):
    photos(tmp_path, 3)
    content = coco(3)
    for one in content["annotations"]:
        one["image_id"] = form(one["image_id"])
    assert same(prepare_coco(tmp_path, content), {name(k): drawn(polygon(k)) for k in range(3)})


def test_a_missing_photograph_is_left_out_when_asked(tmp_path, capsys):
    photos(tmp_path, 5)
    (tmp_path / "photos" / "p03.jpg").unlink()
    assert "--leave-out" in refused_coco(tmp_path, coco(5))
    assert sorted(prepare_coco(tmp_path, coco(5), "--leave-out")) == ["p00", "p01", "p02", "p04"]
    out = capsys.readouterr().out
    assert "  p03.jpg: it is not in" in out
    assert fates(out) == {"used": 4, "of photographs left out": 1}
    content = coco(5)
    content["images"].pop(3)
    shutil.rmtree(tmp_path / "D")
    assert "--leave-out" in refused_coco(tmp_path, content)
    assert len(prepare_coco(tmp_path, content, "--leave-out")) == 4
    assert fates(capsys.readouterr().out) == {"used": 4, "of no photograph": 1}


@pytest.mark.parametrize("size", [(0, 0), (None, None), (-1, 64), ("", "")])
def test_without_a_size_the_photograph_tells_it(size, tmp_path, capsys):
    photos(tmp_path, 2)
    found = prepare_coco(tmp_path, coco(2, size=size))
    assert same(found, {name(k): drawn(polygon(k)) for k in range(2)})
    assert "without a size in the COCO file" in capsys.readouterr().out


def test_points_are_passed_over_by_name_and_what_is_left_counts(tmp_path, capsys):
    photos(tmp_path, 3)
    content = coco(3)
    content["annotations"][0]["segmentation"].append([5, 5])
    content["annotations"][1]["segmentation"] = [[7, 7] * 3]
    found = prepare_coco(tmp_path, content)
    assert same(found, {"p00": drawn(polygon(0)), "p02": drawn(polygon(2))})
    assert (found["p01"]["masks"] == 255).all() and np.isnan(found["p01"]["bboxes"]).all()
    assert fates(capsys.readouterr().out) == {"used": 2, "without area": 1}
    with open(tmp_path / "D" / "report.csv", newline="") as file:
        assert {row["name"] for row in csv.DictReader(file) if "points" in row["detail"]} == {
            "p00",
            "p01",
        }


def test_a_hole_is_filled_and_an_area_that_contradicts_is_named(tmp_path, capsys):
    photos(tmp_path, 2)
    rings = [[4, 4, 60, 4, 60, 60, 4, 60], [20, 20, 44, 20, 44, 44, 20, 44]]
    found = prepare_coco(tmp_path, coco(2, lambda k: rings, area=56 * 56 - 24 * 24))
    assert found["p00"]["masks"].sum() == 56 * 56
    assert "another area" in capsys.readouterr().out


def test_a_box_that_is_not_the_outlines_extent_is_named_and_no_box_is_made_of_it(tmp_path, capsys):
    photos(tmp_path, 2)
    small = [4, 5, 24, 5, 24, 23, 4, 23]
    found = prepare_coco(tmp_path, coco(2, lambda k: [small], bbox=[4, 5, 24, 23]))
    assert found["p00"]["bboxes"].tolist() == [4, 5, 24, 23]
    assert "bboxes" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "D")
    assert prepare_coco(tmp_path, coco(2))["p01"]["bboxes"].tolist() == [9, 11, 43.5, 39.25]


def test_an_object_with_a_box_alone_leaves_its_photograph_unlabelled_and_named(tmp_path, capsys):
    photos(tmp_path, 2)
    content = coco(2)
    content["annotations"].append(
        {"id": 9, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": []}
    )
    found = prepare_coco(tmp_path, content)
    assert (found["p00"]["masks"] == 255).all() and (found["p01"]["masks"] == 1).any()
    assert "an object has a box and no outline: 1\n  p00" in capsys.readouterr().out


# ---------------------------------------------------------------------- categories, splits, exports


@pytest.mark.parametrize("words", [["CAT", "dog"], ["all"]])
def test_two_categories_are_the_class_and_more_a_column(words, tmp_path, capsys):
    photos(tmp_path, 6)
    content = coco(6)
    content["categories"] = [{"id": k, "name": one} for k, one in enumerate(("Cat", "dog", "cow"))]
    for k, one in enumerate(content["annotations"]):
        one["category_id"] = k % 2
    assert "--foreground" in refused_coco(tmp_path, content)
    found = prepare_coco(tmp_path, content, "--foreground", *words)
    for k in range(6):
        row = found[name(k)]
        assert (row["binary"].item(), row["category"]) == (k % 2, ("Cat", "dog")[k % 2])
    with h5py.File(tmp_path / "D" / "test" / "binary.h5") as file:
        assert list(file.attrs["classes"]) == ["Cat", "dog"]
    content["annotations"][5]["category_id"] = 2
    shutil.rmtree(tmp_path / "D")
    found = prepare_coco(tmp_path, content, "--foreground", "all")
    assert "binary" not in found["p05"] and found["p05"]["category"] == "cow"


def export(place, layout_of, splits):
    """Photographs and COCO files of several splits. layout_of: split -> (its file, its
    photographs' folder)."""
    first = 0
    for split, n in splits.items():
        content = coco(n)
        path, folder = layout_of(split)
        for k in range(n):
            noise(f"{split} {k}", SIDE, SIDE).save(make(place / folder) / f"{name(k)}.jpg")
            content["annotations"][k]["segmentation"] = [polygon(first + k)]
        make((place / path).parent)
        (place / path).write_text(json.dumps(content))
        first += n
    return place


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


LAYOUTS = {
    "Roboflow": lambda split: (f"{split}/_annotations.coco.json", split),
    "CVAT": lambda split: (f"annotations/instances_{split}.json", f"images/{split}"),
}


@pytest.mark.parametrize("form", ["zip", "folder", "files"])
@pytest.mark.parametrize("tool", LAYOUTS)
def test_exports_of_several_splits_in_one_call(tool, form, tmp_path, capsys):
    """The same names in every split: each photograph gets the outline of its own file."""
    given = {"Train": 4, "Valid": 2, "Test": 2}
    place = export(tmp_path / "x", LAYOUTS[tool], given)
    (make(place / "__MACOSX") / "._p00.jpg").write_bytes(b"no picture")
    options = ["--coco", place]
    if form == "zip":
        options = ["--coco", shutil.make_archive(str(tmp_path / "job"), "zip", place)]
    elif form == "files":
        options = ["--images", place, "--coco", *sorted(place.rglob("*.json"))]
    found = prepare(tmp_path, *options, fractions=None)
    assert len(found) == 8
    first = 0
    for split, n in given.items():
        for k in range(n):
            row = next(row for key, row in found.items() if f"{split}/{name(k)}" in key)
            assert row["split"] == {"Train": "train", "Valid": "val", "Test": "test"}[split]
            assert ((row["masks"][..., 0] == 1) == drawn(polygon(first + k))).all()
        first += n
    capsys.readouterr()
    data_rechunk.main(data_rechunk.parse_args(["--data", str(tmp_path / "D")]))
    assert f"python train.py --data {tmp_path / 'D'} --tasks seg bbox\n" in capsys.readouterr().out
    assert not list(tmp_path.glob("D/unpacked*"))


def test_a_zip_of_one_file_and_what_is_no_export(tmp_path):
    photos(tmp_path, 10, folder="x/images")
    make(tmp_path / "x" / "annotations")
    (tmp_path / "x" / "annotations" / "instances_default.json").write_text(json.dumps(coco(10)))
    found = prepare(
        tmp_path, "--coco", shutil.make_archive(str(tmp_path / "job"), "zip", tmp_path / "x")
    )
    assert same(found, {name(k): drawn(polygon(k)) for k in range(10)} if "p00" in found else {})
    shutil.rmtree(tmp_path / "D")
    (tmp_path / "bad.zip").write_bytes((tmp_path / "job.zip").read_bytes()[:-400] + bytes(400))
    assert "bad.zip" in refused(tmp_path, "--coco", tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("notes.json", "{}")
    assert "none.zip" in refused(tmp_path, "--coco", tmp_path / "none.zip") or True
    (tmp_path / "l.json").write_text(json.dumps({"shapes": [], "imagePath": "x"}))
    message = refused(tmp_path, "--images", tmp_path / "x", "--coco", tmp_path / "l.json")
    assert "labelme" in message
    (tmp_path / "l.json").write_text(json.dumps([{"data": {}, "annotations": []}]))
    message = refused(tmp_path, "--images", tmp_path / "x", "--coco", tmp_path / "l.json")
    assert "Label Studio" in message


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "spell",
    [
        lambda n: rf"..\..\label-studio\media\upload\4\{n}",
        lambda n: f"https://host/bucket/{n}?X-Amz-Date=2&x=1",
        lambda n: f"/data/local-files/?d=somewhere/{n}",
        lambda n: f"images/{n}",
        lambda n: n.upper(),
        lambda n: rf"C:\Users\me\{n}",
        lambda n: f"0a1b2c3d-{n}",
        lambda n: n.replace("p", "%70"),
    ],
)
def test_names_of_exports_are_found(spell, tmp_path):
    photos(tmp_path, 3)
    content = coco(3)
    for one in content["images"]:
        one["file_name"] = spell(one["file_name"])
    assert same(prepare_coco(tmp_path, content), {name(k): drawn(polygon(k)) for k in range(3)})


def test_bare_names_are_found_in_sub_folders_and_what_fits_twice_is_refused(tmp_path):
    photos(tmp_path, 3, folder="photos/sub/a")
    found = prepare_coco(tmp_path, coco(3))
    assert same(found, {f"sub/a/{name(k)}": drawn(polygon(k)) for k in range(3)})
    shutil.copytree(tmp_path / "photos" / "sub" / "a", tmp_path / "photos" / "b")
    shutil.rmtree(tmp_path / "D")
    assert "sub/a/p00.jpg" in refused_coco(tmp_path, coco(3))
    content = coco(3)
    for one in content["images"]:  # another folder of that name is no photograph of it
        one["file_name"] = f"c/{one['file_name']}"
    assert "3 of its 3 images" in refused_coco(tmp_path, content)


def test_an_exact_name_comes_first(tmp_path):
    photos(tmp_path, 3)
    noise("other", SIDE, SIDE).save(tmp_path / "photos" / "p00.tif.png")
    (tmp_path / "l.csv").write_text("filename,kind\np00.tif,x\np01.jpg,y\np02,y\n")
    found = prepare(tmp_path, "--images", tmp_path / "photos", "--labels", tmp_path / "l.csv")
    assert {n: row["kind"] for n, row in found.items()} == {
        "p00": "",
        "p00.tif": "x",
        "p01": "y",
        "p02": "y",
    }
    noise("third", SIDE, SIDE).save(tmp_path / "photos" / "p01.png")
    shutil.rmtree(tmp_path / "D")
    found = prepare_coco(tmp_path, coco(3))
    assert sorted(found) == ["p00", "p00.tif", "p01.jpg", "p02"]
    assert same(found, {"p01.jpg": drawn(polygon(1))})


def test_thumbnails_of_servers_are_no_photographs(tmp_path):
    photos(tmp_path, 3)
    photos(tmp_path, 3, folder="photos/@eaDir/p00.jpg")
    (tmp_path / "photos" / "Thumbs.db").write_bytes(b"x")
    assert sorted(prepare(tmp_path, "--images", tmp_path / "photos")) == ["p00", "p01", "p02"]


@pytest.mark.parametrize(
    "ending, suffix",
    [("_mask", "_mask"), ("_mask", "_MASK.png"), (".jpg", None), (".jpg", ".jpg.png")],
)
def test_masks_whose_names_have_a_suffix(ending, suffix, tmp_path):
    photos(tmp_path, 3)
    for k in range(3):
        save_mask(tmp_path / "masks", name(k) + ending, mask(k) * np.uint8(255))
    options = ["--images", tmp_path / "photos", "--masks", tmp_path / "masks"]
    if ending == "_mask":
        assert "--mask-suffix" in refused(tmp_path, *options)
    found = prepare(tmp_path, *options, *(["--mask-suffix", suffix] if suffix else []))
    assert same(found, {name(k): mask(k) for k in range(3)})


def test_masks_beside_their_photographs(tmp_path):
    photos(tmp_path, 3)
    for k in range(3):
        save_mask(tmp_path / "photos", f"{name(k)}_mask", mask(k) * np.uint8(255))
    both = ["--images", tmp_path / "photos", "--masks", tmp_path / "photos"]
    found = prepare(tmp_path, *both, "--mask-suffix", "_mask")
    assert same(found, {name(k): mask(k) for k in range(3)}) and len(found) == 3


# -------------------------------------------------------------------------------------------- masks


def of_masks(place):
    return ["--images", place / "photos", "--masks", place / "masks"]


def test_black_objects_on_white_ground(tmp_path):
    photos(tmp_path, 3)
    masks(tmp_path, 3, lambda k: 255 - mask(k) * np.uint8(255))
    found = prepare(tmp_path, *of_masks(tmp_path), "--foreground", 0)
    assert same(found, {name(k): mask(k) for k in range(3)})
    assert all((row["masks"] != 255).all() for row in found.values())


@pytest.mark.parametrize("value, option", [(255, []), (7, ["--foreground", 7])])
def test_masks_without_any_background_are_refused(value, option, tmp_path):
    photos(tmp_path, 3)
    masks(tmp_path, 3, lambda k: np.full((SIDE, SIDE), value, np.uint8))
    assert "background in any of the 3 masks" in refused(tmp_path, *of_masks(tmp_path), *option)


@pytest.mark.parametrize("quality", [75, 95])
def test_masks_as_jpeg_take_a_threshold(quality, tmp_path):
    photos(tmp_path, 3)
    masks(tmp_path, 3, ending=".jpg", quality=quality)
    for option in ([], ["--foreground", 255]):
        message = refused(tmp_path, *of_masks(tmp_path), *option)
        assert "--threshold 128" in message and "--foreground" not in message
    found = prepare(tmp_path, *of_masks(tmp_path), "--threshold", 128)
    assert same(found, {name(k): mask(k) for k in range(3)})


def test_blurred_masks_take_a_threshold(tmp_path):
    photos(tmp_path, 2)
    soft = Image.fromarray(mask(0) * np.uint8(255)).resize((256, 256), Image.Resampling.BICUBIC)
    masks(tmp_path, 2, lambda k: soft)
    assert "--threshold" in refused(tmp_path, *of_masks(tmp_path))
    found = prepare(tmp_path, *of_masks(tmp_path), "--threshold", 128)
    right = (np.asarray(soft) >= 128)[2::4, 2::4]  # the pixel in which the middle of each lies
    assert same(found, {"p00": right})


@pytest.mark.parametrize("step", [1, 300])
def test_masks_of_numbered_objects(step, tmp_path):
    photos(tmp_path, 3)
    numbers = [np.where(mask(k), np.where(np.arange(SIDE) < 32, 1, 3) * step, 0) for k in range(3)]
    masks(tmp_path, 3, lambda k: numbers[k].astype(np.uint8 if step == 1 else np.uint16))
    assert "--foreground all" in refused(tmp_path, *of_masks(tmp_path))
    found = prepare(tmp_path, *of_masks(tmp_path), "--foreground", "all")
    assert same(found, {name(k): mask(k) for k in range(3)})


def test_several_masks_of_a_photograph_are_joined_when_all_counts(tmp_path):
    photos(tmp_path, 2)
    for k in range(2):
        for number, half in enumerate((np.arange(SIDE) < 32, np.arange(SIDE) >= 32)):
            save_mask(tmp_path / "masks", f"{name(k)}_{number}", (mask(k) & half) * np.uint8(255))
    refused(tmp_path, *of_masks(tmp_path))
    found = prepare(tmp_path, *of_masks(tmp_path), "--foreground", "all")
    assert same(found, {name(k): mask(k) for k in range(2)})


def test_masks_in_the_colours_of_a_labelmap(tmp_path):
    photos(tmp_path, 3)
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:48,112,32::\nStem:9,8,7::\n"
    )
    colours = np.array([(0, 0, 0), (48, 112, 32), (9, 8, 7)], np.uint8)
    masks(tmp_path, 3, lambda k: colours[mask(k) + 0] if k else colours[mask(k) * 2])
    found = prepare(tmp_path, *of_masks(tmp_path), "--foreground", "Leaf")
    assert same(found, {"p00": mask(0) & False, "p01": mask(1), "p02": mask(2)})


# -------------------------------------------------------------------------------------- orientation


def turned(place, n, orientation=6, size=(96, 64), first=0):
    """Photographs that EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for k in range(first, first + n):
        photograph(place / "photos", name(k), ".png", size, exif=exif, format="PNG")


def half(height, width):
    """The upper left part of a frame."""
    values = np.zeros((height, width), bool)
    values[: height // 2, : width // 4] = True
    return values


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_orientation_is_weighed_over_all_photographs(drawn_on, tmp_path, capsys):
    """Three that fit one way, and two turned by 180 degrees, which fit both: they follow."""
    turned(tmp_path, 3)
    turned(tmp_path, 2, orientation=3, first=3)
    for k in range(5):
        is_wide = k >= 3 or drawn_on == "stored"
        save_mask(tmp_path / "masks", name(k), half(64, 96) if is_wide else half(96, 64))
    found = prepare(tmp_path, *of_masks(tmp_path))
    assert "2" in next(line for line in capsys.readouterr().out.splitlines() if "both ways" in line)
    pixels = np.asarray(noise("p03", 96, 64).rotate(180 if drawn_on == "upright" else 0))
    stored_image = Image.fromarray(found["p03"]["images"])
    expected = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(stored_image).astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert same(found, {"p03": half(SIDE, SIDE)})


def test_an_orientation_that_nothing_tells_is_asked_for(tmp_path):
    turned(tmp_path, 2, orientation=3)
    for k in range(2):
        save_mask(tmp_path / "masks", name(k), half(64, 96))
    message = refused(tmp_path, *of_masks(tmp_path))
    assert "--drawn-on" in message and "p00" in message
    for choice in ("upright", "stored"):
        shutil.rmtree(tmp_path / "D", ignore_errors=True)
        found = prepare(tmp_path, *of_masks(tmp_path), "--drawn-on", choice)
        is_turned = choice == "upright"
        right = noise("p00", 96, 64).rotate(180 * is_turned)
        right = right.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        assert (found["p00"]["images"] == np.asarray(right)).all()


def test_boxes_of_a_table_follow_those_that_fit_the_stored_frame_alone(tmp_path):
    turned(tmp_path, 2)
    (tmp_path / "l.csv").write_text("file,xmin,ymin,xmax,ymax\np00,72,8,90,40\np01,12,8,48,40\n")
    found = prepare(tmp_path, "--images", tmp_path / "photos", "--labels", tmp_path / "l.csv")
    assert found["p00"]["bboxes"].tolist() == [48, 8, 60, 40]
    assert found["p01"]["bboxes"].tolist() == [8, 8, 32, 40]  # and the photograph stays as it lies


# ------------------------------------------------------------------------------------------- tables


def with_table(place, text, *options, n=8, fractions="0-0-100"):
    photos(place, n)
    (place / "l.csv").write_text(text)
    labels = ["--images", place / "photos", "--labels", place / "l.csv"]
    return prepare(place, *labels, *options, fractions=fractions)


def lines(cell, head="filename,age", n=8):
    return "\n".join([head, *(f"{name(k)}.jpg,{cell(k)}" for k in range(n))])


@pytest.mark.parametrize("word", ["NA", "N/A", "nan", "NaN", "null", "--", "#N/A"])
def test_words_for_nothing_are_unknown(word, tmp_path, capsys):
    found = with_table(tmp_path, lines(lambda k: word if k % 4 == 0 else k))
    assert [found[name(k)]["age"] for k in range(8)] == ["", "1", "2", "3", "", "5", "6", "7"]
    assert f"2 '{word}'" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["NA", "null", ""])
def test_two_classes_count_named_values_only(word, tmp_path):
    found = with_table(tmp_path, lines(lambda k: ("cat", "dog", word)[k % 3], "filename,class"))
    assert [found[name(k)]["binary"].item() for k in range(6)] == [0, 1, 255] * 2
    shutil.rmtree(tmp_path / "D")
    found = with_table(tmp_path, lines(lambda k: ("dog", word)[k % 2], "filename,class"))
    assert "binary" not in found["p00"]


def test_decimal_commas_are_points_and_what_may_be_thousands_is_refused(tmp_path):
    found = with_table(tmp_path, lines(lambda k: f"{k},5", "filename;age").replace("jpg,", "jpg;"))
    assert [found[name(k)]["age"] for k in range(8)] == [f"{k}.5" for k in range(8)]
    text = lines(lambda k: f'"{k},500"')
    (tmp_path / "l.csv").write_text(text)
    shutil.rmtree(tmp_path / "D")
    labels = ["--images", tmp_path / "photos", "--labels", tmp_path / "l.csv"]
    assert "l.csv, line 2" in refused(tmp_path, *labels)


@pytest.mark.parametrize("odd", ["old", "7 years", "inf", "1_0", "1.2.3"])
def test_a_column_of_numbers_but_for_a_cell_is_refused_with_its_line(odd, tmp_path):
    with pytest.raises(InputError, match="l.csv, line 7: age"):
        with_table(tmp_path, lines(lambda k: odd if k == 5 else k))


def test_boxes_from_0_to_1_are_parts_of_the_sides(tmp_path):
    head = "filename,xmin,ymin,xmax,ymax"
    found = with_table(tmp_path, lines(lambda k: "0.1,0.2,0.6,0.9", head))
    assert found["p03"]["bboxes"].tolist() == pytest.approx([6.4, 12.8, 38.4, 57.6], rel=1e-6)
    shutil.rmtree(tmp_path / "D")
    with pytest.raises(InputError, match="line 2"):
        with_table(tmp_path, lines(lambda k: "9,9,20,20" if k else "0.1,0.2,0.6,0.9", head))


@pytest.mark.parametrize(
    "words",
    [("train", "val", "test"), ("Training", "Validation", "TESTING"), ("TRAIN", "dev", "test set")],
)
def test_a_column_split_is_used(words, tmp_path):
    text = lines(lambda k: words[0 if k < 4 else 1 if k < 6 else 2], "filename,split")
    found = with_table(tmp_path, text, fractions=None)
    right = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert [found[name(k)]["split"] for k in range(8)] == right


def test_a_column_split_of_other_words_is_said_not_to_be_used(tmp_path, capsys):
    with_table(tmp_path, lines(lambda k: "AB"[k % 2], "filename,split"), fractions="50-25-25")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "split" in err and "'A'" in err


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("train_images", "dev"), ("TRAIN", "val2017")]
)
def test_folders_called_as_splits_are_splits(names, tmp_path):
    for folder in names:
        photos(tmp_path, 3, folder=f"photos/{folder}")
    for path in (tmp_path / "photos").rglob("*.jpg"):
        noise(str(path), SIDE, SIDE).save(path)
    found = prepare(tmp_path, "--images", tmp_path / "photos", fractions=None)
    other = "test" if names[1] == "Testing" else "val"
    assert {n: row["split"] for n, row in found.items()} == {
        f"{folder}/{name(k)}": split
        for folder, split in zip(names, ("train", other), strict=True)
        for k in range(3)
    }


# ------------------------------------------------------------------------------------------- groups


def homes(found, key):
    splits = {}
    for n, row in found.items():
        splits.setdefault(key(n, row), set()).add(row["split"])
    return splits


@pytest.mark.parametrize("column", ["Animal", "folder"])
def test_a_group_stays_in_one_split(column, tmp_path):
    if column == "folder":
        for k in range(6):
            photos(tmp_path, 4, folder=f"photos/film{k}")
        for path in (tmp_path / "photos").rglob("*.jpg"):
            noise(str(path), SIDE, SIDE).save(path)
        options = ["--images", tmp_path / "photos"]
        found = prepare(tmp_path, *options, "--group", "folder", fractions="50-25-25")
        splits = homes(found, lambda n, row: n.partition("/")[0])
    else:
        text = lines(lambda k: f"animal {k % 6}", "filename,animal", 24)
        found = with_table(tmp_path, text, "--group", column, n=24, fractions="50-25-25")
        splits = homes(found, lambda n, row: row["animal"])
    assert len(splits) == 6 and all(len(one) == 1 for one in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_a_group_that_is_no_column_is_refused(tmp_path):
    with pytest.raises(InputError, match="--group"):
        with_table(tmp_path, lines(lambda k: k), "--group", "film")


@pytest.mark.parametrize("ending", ["_jpg.rf.{:08x}", "_{}"])
def test_copies_mirrored_and_turned_stay_together(ending, tmp_path):
    """By Roboflow's names, or by how they look."""
    turns = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90)
    for k in range(12):
        scene = noise(f"scene {k}", 8, 8).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for j, turn in enumerate(turns):
            image = scene if turn is None else scene.transpose(turn)
            image.save(make(tmp_path / "photos") / f"{name(k)}{ending.format(j)}.jpg", quality=95)
    found = prepare(tmp_path, "--images", tmp_path / "photos", fractions="60-20-20")
    assert all(len(one) == 1 for one in homes(found, lambda n, row: n[:3]).values())


def test_a_group_in_several_given_splits_is_warned_of(tmp_path, capsys):
    text = "filename,split,animal\n" + "".join(
        f"{name(k)},{('train', 'test')[k % 2]},{k // 2}\n" for k in range(8)
    )
    with_table(tmp_path, text, "--group", "animal", fractions=None)
    assert "groups in several of the given splits: 4" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- -- VOC


def voc(place, n, number, called, root="voc"):
    """Masks of a number in the shape of mask(k), and one object of a name in each."""
    for k in range(n):
        photograph(place / root / "JPEGImages", name(k), ".jpg", (SIDE, SIDE))
        save_mask(place / root / "SegmentationClass", name(k), mask(k) * np.uint8(number))
        box = "<xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax>"
        (make(place / root / "Annotations") / f"{name(k)}.xml").write_text(
            f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size><object><name>{called}</name>"
            f"<bndbox>{box}</bndbox></object></annotation>"
        )
    return place / root


@pytest.mark.parametrize(
    "number, called, words",
    [
        (1, "leaf", []),
        (1, "leaf", ["1"]),
        (7, "leaf", ["Leaf"]),
        (1, "leaf", ["all"]),
        (13, "Horse", ["horse"]),
        (13, "HORSE", ["13"]),
        (1, "leaf", ["1", "leaf"]),
    ],
)
def test_voc_of_own_classes_keeps_its_boxes(number, called, words, tmp_path):
    root = voc(tmp_path, 3, number, called)
    found = prepare(tmp_path, "--voc", root, *(["--foreground", *words] if words else []))
    assert same(found, {name(k): mask(k) for k in range(3)})
    assert all(row["bboxes"].tolist() == [10, 10, 40, 40] for row in found.values())


def test_voc_of_several_own_classes_takes_numbers_and_names(tmp_path, capsys):
    root = voc(tmp_path, 3, 1, "leaf")
    voc(tmp_path, 1, 2, "stem")  # of the first photograph
    assert "--foreground 1 leaf" in refused(tmp_path, "--voc", root, "--foreground", "leaf")
    found = prepare(tmp_path, "--voc", root, "--foreground", "1", "leaf")
    assert same(found, {"p00": mask(0) & False, "p01": mask(1)})
    assert [int(row["has_box"]) for _, row in sorted(found.items())] == [0, 1, 1]
    assert fates(capsys.readouterr().out) == {"used": 5, "of other classes": 1}
    (root / "class_names.txt").write_text("__ignore__\n_background_\nleaf\nstem\n")
    shutil.rmtree(tmp_path / "D")
    found = prepare(tmp_path, "--voc", root, "--foreground", "STEM")
    assert same(found, {"p00": mask(0), "p01": mask(1) & False})
    assert [int(row["has_box"]) for _, row in sorted(found.items())] == [1, 0, 0]


# ------------------------------------------------------------------------------------------- - HDF5


def h5(place, write, kind="masks", n=8):
    """A data folder by hand: images of noise, and what write(path) makes of another file; returns
    it."""
    for number, split in enumerate(layout.SPLITS):
        folder = make(place / "D" / split)
        images = [np.asarray(noise(f"{split} {k}", SIDE, SIDE)) for k in range(n)]
        with h5py.File(folder / "images.h5", "w") as file:
            file["images"] = np.stack(images)
        write(folder / f"{kind}.h5", number)
    return place / "D"


def rechunk(data, *options):
    data_rechunk.main(data_rechunk.parse_args(["--data", str(data), *options]))


def all_masks(number=0):
    return np.stack([mask(8 * number + k) for k in range(8)])[..., None].astype(np.uint8)


def virtual(path, number, source="{}.source", covered=8, length=8):
    place = Path(source.format(path))
    with h5py.File(place, "w") as file:
        file["m"] = all_masks(number)[:length]
    whole = h5py.VirtualLayout((8, SIDE, SIDE, 1), "u1")
    shape = (8, SIDE, SIDE, 1)
    whole[:covered] = h5py.VirtualSource(place.name, "m", shape=shape)[:covered]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("masks", whole)


def read_masks(data, split="train"):
    with h5py.File(data / split / "masks.h5") as file:
        return file["masks"][:]


def test_a_virtual_dataset_is_followed_or_refused_by_what_is_missing(tmp_path, capsys):
    data = h5(tmp_path, virtual)
    (data / "train" / "masks.h5.source").rename(data / "train" / "renamed")
    with pytest.raises(InputError, match="masks.h5.source, which is not there"):
        rechunk(data)
    (data / "train" / "renamed").rename(data / "train" / "masks.h5.source")
    rechunk(data)
    assert (read_masks(data) == all_masks()).all()
    with h5py.File(data / "train" / "masks.h5") as file:
        assert not file["masks"].is_virtual


def test_a_virtual_dataset_of_less_than_it_names_is_refused(tmp_path):
    data = h5(tmp_path, lambda path, number: virtual(path, number, length=5))
    with pytest.raises(InputError, match="masks.h5 is virtual and takes more"):
        rechunk(data)


def unwritten(path, number):
    with h5py.File(path, "w") as file:
        made = file.create_dataset("masks", (8, SIDE, SIDE, 1), "u1", chunks=(1, 32, SIDE, 1))
        made[:5] = all_masks(number)[:5]
        made[5, :32] = all_masks(number)[5, :32]


@pytest.mark.parametrize(
    "write", [unwritten, lambda path, number: virtual(path, number, covered=5)]
)
def test_what_was_never_written_is_unknown_and_counted(write, tmp_path, capsys):
    data = h5(tmp_path, write)
    rechunk(data)
    assert "3 rows were never written" in capsys.readouterr().out
    found, right = read_masks(data), all_masks()
    if write is unwritten:
        right[5, 32:] = 255
    else:
        right[5] = 255
    right[6:] = 255
    assert (found == right).all()
    capsys.readouterr()
    rechunk(data, "--check")
    n = 6 if write is unwritten else 5
    assert f"none with a head box, {n} with a mask" in capsys.readouterr().out


@pytest.mark.parametrize("kind, value", [("bboxes", np.nan), ("binary", 255)])
def test_boxes_and_classes_never_written_are_unknown(kind, value, tmp_path):
    def write(path, number):
        with h5py.File(path, "w") as file:
            shape = (8, 4 if kind == "bboxes" else 1)
            made = file.create_dataset(
                kind, shape, "f4" if kind == "bboxes" else "u1", chunks=(2, shape[1])
            )
            made[:4] = [9, 9, 30, 30] if kind == "bboxes" else 1

    data = h5(tmp_path, write, kind)
    rechunk(data)
    with h5py.File(data / "val" / f"{kind}.h5") as file:
        np.testing.assert_array_equal(file[kind][4:], np.full_like(file[kind][4:], value))
        assert (file[kind][:4] > 0).all()


def test_images_never_written_are_refused_by_their_rows(tmp_path):
    data = h5(tmp_path, lambda path, number: None)
    with h5py.File(data / "val" / "images.h5", "w") as file:
        made = file.create_dataset("images", (8, SIDE, SIDE, 3), "u1", chunks=(1, SIDE, SIDE, 3))
        made[:6] = 7
    with pytest.raises(InputError, match="val/images.h5: the rows 6, 7 were never written"):
        rechunk(data)
    with h5py.File(data / "val" / "images.h5", "w") as file:
        file.create_dataset("images", (8, SIDE, SIDE, 3), "u1")  # in one piece, nothing written
    with pytest.raises(InputError, match="val/images.h5: the rows 0, 1"):
        rechunk(data)


def test_links_are_followed_or_refused_by_what_is_missing(tmp_path):
    def write(path, number):
        with h5py.File(path, "w") as file:
            if number == 1:
                file["there"] = all_masks(1)
                file["masks"] = h5py.SoftLink("/there")
                return
            with h5py.File(path.with_name("others.hdf"), "w") as other:
                other["deep/m"] = all_masks(number)
            file["masks"] = h5py.ExternalLink("others.hdf", "/deep/m")

    data = h5(tmp_path, write)
    (data / "train" / "others.hdf").rename(data / "moved")
    with pytest.raises(InputError, match="train/masks.h5: 'masks' is a link .*others.hdf"):
        rechunk(data)
    (data / "moved").rename(data / "train" / "others.hdf")
    with h5py.File(data / "val" / "masks.h5", "r+") as file:
        file.move("there", "elsewhere")
    with pytest.raises(InputError, match="val/masks.h5: 'masks' is a link to '/there'"):
        rechunk(data)
    with h5py.File(data / "val" / "masks.h5", "r+") as file:
        file.move("elsewhere", "there")
    rechunk(data)
    for number, split in enumerate(layout.SPLITS):
        assert (read_masks(data, split) == all_masks(number)).all()


@pytest.mark.parametrize("change", ["gone", "cut"])
def test_data_in_files_of_their_own_are_followed_or_refused(change, tmp_path):
    def write(path, number):
        with h5py.File(path, "w") as file:
            raw = [
                (
                    str(path.with_name("raw.bin")),
                    0,
                    h5py.h5f.UNLIMITED if number else 8 * SIDE * SIDE,
                )
            ]
            file.create_dataset("masks", (8, SIDE, SIDE, 1), "u1", external=raw)
        path.with_name("raw.bin").write_bytes(all_masks(number).tobytes())

    data = h5(tmp_path, write)
    raw = data / "train" / "raw.bin"
    content = raw.read_bytes()
    raw.unlink() if change == "gone" else raw.write_bytes(content[:1000])
    with pytest.raises(InputError, match="raw.bin"):
        rechunk(data)
    raw.write_bytes(content)
    rechunk(data)
    assert (read_masks(data) == all_masks()).all()


def test_a_missing_filter_is_named(tmp_path):
    def write(path, number):
        """lzf's number of a filter made blosc's, whose plugin is not there."""
        with h5py.File(path, "w") as file:
            chunks = (1, SIDE, SIDE, 1)
            file.create_dataset("masks", data=all_masks(number), compression="lzf", chunks=chunks)
        content = bytearray(path.read_bytes())
        at = content.rfind((32000).to_bytes(2, "little"), 0, content.find(b"lzf"))
        content[at : at + 2] = (32001).to_bytes(2, "little")
        path.write_bytes(content)

    with pytest.raises(InputError, match="train/masks.h5 .*32001.*hdf5plugin"):
        rechunk(h5(tmp_path, write))


def test_masks_without_background_are_odd(tmp_path, capsys):
    def write(path, number):
        with h5py.File(path, "w") as file:
            file["masks"] = np.where(all_masks(number), 1, 255).astype(np.uint8)

    data = h5(tmp_path, write)
    rechunk(data)
    rechunk(data, "--check")
    assert "train holds no mask with background in it" in capsys.readouterr().out


def test_a_zip_is_called_by_its_name_and_takes_photographs_from_elsewhere(tmp_path):
    photos(tmp_path, 10)
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.writestr("annotations/instances_default.json", json.dumps(coco(10)))
    message = refused(tmp_path, "--coco", tmp_path / "job.zip")
    assert f"{tmp_path / 'job.zip'} holds no photograph" in message
    found = prepare(tmp_path, "--images", tmp_path / "photos", "--coco", tmp_path / "job.zip")
    assert same(found, {name(k): drawn(polygon(k)) for k in range(10)})
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for k in range(10):
            content = (tmp_path / "photos" / f"{name(k)}.jpg").read_bytes()
            archive.writestr(rf"images\{name(k)}.jpg", content)
        archive.writestr(r"annotations\c.json", json.dumps(coco(10)))
    shutil.rmtree(tmp_path / "D")
    assert len(prepare(tmp_path, "--coco", tmp_path / "windows.zip")) == 10
    content = coco(10)
    content["annotations"][3]["category_id"] = 7
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.writestr("annotations/instances_default.json", json.dumps(content))
        archive.write(tmp_path / "photos" / "p00.jpg", "images/p00.jpg")
    shutil.rmtree(tmp_path / "D")
    message = refused(tmp_path, "--coco", tmp_path / "job.zip")
    assert "job.zip: annotations/instances_default.json: " in message and "partial" not in message


@pytest.mark.parametrize(
    "content",
    [
        coco(2, size=(64, 48)),
        coco(2, lambda k: [[value / SIDE for value in polygon(k)]]),
        coco(2, lambda k: [1, 2, 3, 4, 5, 6]),
    ],
    ids=["another aspect", "from 0 to 1", "flat"],
)
def test_outlines_that_are_not_of_these_photographs_are_refused(content, tmp_path):
    photos(tmp_path, 2)
    assert "p00" in refused_coco(tmp_path, content)
