"""predict.py: files at the photographs' own size, a table and a COCO file, whatever is asked,
interrupted or wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageFilter

import predict as script
import registry
from cli import InputError
from data.pixels import of_pillow
from inference import manifest, predict, tta
from models import MTLNet
from training import checkpoint

SIZE = 32
NAMES = [
    "a.jpg",
    "a.png",
    "b.JPG",
    "link.jpg",
    "no_ending",
    "sub/a.jpg",
    "sub/deep/c.webp",
    "turned.jpg",
]
RESULTS = ["a.jpg", "a.png", "b", "link", "no_ending", "sub/a", "sub/deep/c", "turned"]
EVERYTHING = ("--cutout", "--overlay", "--probability", "--alpha")


def write_network(path, names=("seg", "cls", "bbox"), seed=0, settings=None, bias=None):
    tasks = registry.find_tasks(names)
    for task in tasks:
        task.settings = (settings or {}).get(task.name, {})
    model = MTLNet(tasks, width=2, seed=seed)
    weights = model.state_dict()
    if bias is not None:
        weights["seg.logits.bias"] += bias
    content = {"model": weights, "tasks": list(names), "width": 2, "size": SIZE, "metrics": {}}
    content |= {"experiment": "mtl", "seed": seed, "split_hash": "", "border": "pet"}
    content |= {"trained_on": torch.zeros(0, dtype=torch.int64), "settings": settings or {}}
    checkpoint.save(content, path)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "net.pt")


def draw(path, size=(60, 40), seed=0, **options):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size).save(path, **options)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of many kinds, two that are damaged, and what is no photograph."""
    folder = tmp_path_factory.mktemp("photographs")
    turned = Image.Exif()
    turned[0x0112] = 6
    sizes = {"a.jpg": (90, 60), "a.png": (40, 30), "b.JPG": (60, 90), "sub/a.jpg": (200, 40)}
    for name, size in sizes.items():
        draw(folder / name, size)
    draw(folder / "sub/deep/c.webp", (33, 47))
    draw(folder / "turned.jpg", (80, 50), exif=turned)
    draw(folder / "no_ending", format="PNG")
    (folder / "text.jpg").write_text("hello")
    (folder / "sub" / "empty.png").touch()
    (folder / "notes.txt").write_text("no photograph")
    (folder / ".hidden.jpg").write_text("no photograph")
    (folder / "link.jpg").symlink_to("a.jpg")
    return folder


def run(network, *args, status=0):
    """In this process, with one other; returns nothing, or checks the exit status 1."""
    words = ["--checkpoint", network, "--device", "cpu", "--processes", "1", *args]
    parsed = script.parse_args([str(word) for word in words])
    if not status:
        return script.main(parsed)
    with pytest.raises(SystemExit) as stop:
        script.main(parsed)
    assert stop.value.code == status


def refused(words, network, *args):
    with pytest.raises(InputError, match=words) as error:
        run(network, *args)
    assert "\n" not in str(error.value)


def rows(out):
    with open(out / "predictions.csv", newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def content(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def pixels(path, mode=None):
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


@pytest.fixture(scope="module")
def made(network, photographs, tmp_path_factory):
    """All that can be asked for at once; two photographs are damaged."""
    pytest.importorskip("pycocotools")
    out = tmp_path_factory.mktemp("made") / "out"
    coco = out.parent / "new/seen.json"
    run(network, photographs, "--out", out, *EVERYTHING, "--coco", coco, status=1)
    return out


# ------------------------------------------------------------ what is written


def test_every_photograph_has_its_files(made):
    kinds = predict.KINDS.items()
    expected = {f"{kind}/{name}{suffix}" for kind, suffix in kinds for name in RESULTS}
    assert content(made).keys() == expected | {"predictions.csv", "manifest.jsonl"}


def test_masks_have_the_photographs_size_and_the_networks_answer(made, photographs, network):
    model, _ = checkpoint.load_model(network)
    for name, result in zip(NAMES, RESULTS, strict=True):
        with Image.open(photographs / name) as image:
            image = image.convert("RGB")
        if name == "turned.jpg":
            image = image.transpose(Image.Transpose.ROTATE_270)
        mask = pixels(made / f"masks/{result}.png")
        cutout, grey = (
            pixels(made / f"{kind}/{result}.png") for kind in ("cutouts", "probability")
        )
        overlay = pixels(made / f"overlays/{result}.jpg")
        assert mask.shape == image.size[::-1] == cutout.shape[:2] == grey.shape == overlay.shape[:2]
        seen = tta.look(model, of_pillow(image), SIZE).outputs["seg"]
        expected = model.task["seg"].answer(seen, image.height, image.width).numpy()
        assert set(np.unique(mask)) <= {0, 255} and np.mean((mask == 255) != expected) < 0.01
        assert (grey[mask == 255] >= 127).all() and (grey[mask == 0] <= 128).all()
        assert np.array_equal(cutout[..., 3], pixels(made / f"alpha/{result}.png"))
        assert (cutout[cutout[..., 3] == 0] == 0).all()


def test_the_table_has_a_line_for_every_photograph(made):
    table = rows(made)
    assert [row["path"] for row in table] == sorted([*NAMES, "text.jpg", "sub/empty.png"])
    columns = "path width height animals share class probability xmin ymin xmax ymax problem"
    assert list(table[0]) == columns.split()
    by_name = {row["path"]: row for row in table}
    assert "text" in by_name["text.jpg"]["problem"] and by_name["text.jpg"]["share"] == ""
    for name, result in zip(NAMES, RESULTS, strict=True):
        row, mask = by_name[name], pixels(made / f"masks/{result}.png")
        assert (int(row["height"]), int(row["width"])) == mask.shape and row["problem"] == ""
        assert float(row["share"]) == pytest.approx((mask > 0).mean(), abs=1e-4)
        assert row["class"] in ("cat", "dog", "no cat or dog", "")
        if row["xmin"]:
            assert 0 <= float(row["xmin"]) <= float(row["xmax"]) <= mask.shape[1]


def test_the_coco_file_holds_the_same_masks(made):
    from pycocotools.coco import COCO

    coco = COCO(made.parent / "new/seen.json")
    assert [one["name"] for one in coco.dataset["categories"]] == ["pet", "cat", "dog"]
    assert [one["file_name"] for one in coco.dataset["images"]] == NAMES
    for image, result in zip(coco.dataset["images"], RESULTS, strict=True):
        mask = pixels(made / f"masks/{result}.png") > 0
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        union = np.zeros_like(mask)
        for one in found:
            union |= coco.annToMask(one).astype(bool)
            assert 0.5 <= one["score"] <= 1
        assert np.array_equal(union, mask) and sum(one["area"] for one in found) == mask.sum()


def test_without_a_pet_there_is_no_box_and_no_animal(tmp_path, photographs):
    blind = write_network(tmp_path / "blind.pt", bias=-100)
    run(blind, photographs / "b.JPG", "--out", tmp_path / "out", "--cutout", "--crop")
    (row,) = rows(tmp_path / "out")
    assert (row["share"], row["animals"], row["xmin"]) == ("0.0", "0", "")
    assert not pixels(tmp_path / "out/cutouts/b.png").any()


def test_other_tasks_have_columns_of_their_own(tmp_path, photographs):
    settings = {
        "column:breed": {"classes": ["pug", "boxer"]},
        "column:width": {"mean": 3.0, "deviation": 1.0},
    }
    network = write_network(tmp_path / "net.pt", ["seg", *settings], settings=settings)
    run(network, photographs / "b.JPG", "--out", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    names = ["path", "width", "height", "animals", "share", "breed", "breed probability"]
    assert list(row) == [*names, "column:width width", "problem"] and row["width"] == "60"


def test_test_time_augmentation_and_its_old_spellings(tmp_path, network, photographs, capsys):
    found = {}
    for option in (None, "--sliding-window", "--hflip", "--tiles", "--mirror"):
        out = tmp_path / f"out{option}"
        run(
            network,
            photographs / "sub/a.jpg",
            "--out",
            out,
            "--probability",
            *filter(None, [option]),
        )
        found[option] = (out / "probability/a.png").read_bytes()
    assert len(set(found.values())) == 3
    assert found["--tiles"] == found["--sliding-window"] and found["--mirror"] == found["--hflip"]
    assert "--hflip" in capsys.readouterr().err


# ------------------------------------------------------------ what people do with it


def everything_is_pet(path):
    return write_network(path, bias=100)


def test_backgrounds_and_formats(tmp_path):
    network = everything_is_pet(tmp_path / "net.pt")
    nothing = write_network(tmp_path / "none.pt", bias=-100)
    photo = draw(tmp_path / "a.png", (60, 40))
    ground = draw(tmp_path / "ground.png", (30, 20), seed=1)
    plain = pixels(photo).astype(int)
    for checkpoint_path, expected in ((network, plain), (nothing, None)):
        out = tmp_path / checkpoint_path.stem
        for option, colour in (("#ff8000", (255, 128, 0)), ("white", 255), (ground, None)):
            run(checkpoint_path, photo, "--out", out, "--background", option, "--format", "jpeg")
            found = pixels(out / "cutouts/a.jpg").astype(int)
            if expected is not None:
                assert np.abs(found - expected).mean() < 6
            elif colour:
                assert np.abs(found - colour).max() <= 2
        assert np.abs(found - plain).mean() > 20 or expected is not None
    run(nothing, photo, "--out", tmp_path / "none", "--background", "blur", "--format", "webp")
    assert Image.open(tmp_path / "none/cutouts/a.webp").mode == "RGB"
    with pytest.raises(SystemExit):
        script.parse_args(["a.jpg", "--out", "o", "--format", "jpeg"])
    refused("no colour", network, photo, "--out", tmp_path / "o", "--background", "nowhere.jpg")


def test_a_crop_goes_around_the_pet():
    pet = np.zeros((100, 200, 4), np.uint8)
    pet[40:60, 50:150, 3] = 255
    pet = Image.fromarray(pet)
    assert predict.crop_box(pet, 0) == (50, 40, 150, 60)
    assert predict.crop_box(pet, 0.1) == (40, 30, 160, 70)
    assert predict.crop_box(pet, 1) == (0, 0, 200, 100)
    assert predict.crop_box(Image.new("RGBA", (9, 9)), 0.1) is None


def test_transparent_photographs_have_transparent_cutouts(tmp_path):
    image = Image.open(draw(tmp_path / "a.png")).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "a.png")
    run(
        everything_is_pet(tmp_path / "net.pt"),
        tmp_path / "a.png",
        "--out",
        tmp_path / "out",
        "--cutout",
    )
    assert not pixels(tmp_path / "out/cutouts/a.png").any()


# ------------------------------------------------------------ never stale, never lost


def test_valid_results_are_skipped_and_broken_ones_made_again(
    tmp_path, network, photographs, capsys
):
    out = tmp_path / "out"
    run(network, photographs, "--out", out, status=1)
    before = content(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "masks/b.png").unlink()
    (out / "masks/turned.png").write_bytes(b"")
    (out / "masks/link.png").write_bytes(before["masks/link.png"][:60])
    run(network, photographs, "--out", out, status=1)
    assert content(out) == before and "5 of them were there already" in capsys.readouterr().out
    anew = {path.name for path, when in times.items() if path.stat().st_mtime_ns != when}
    assert anew == {"b.png", "turned.png", "link.png"}
    run(network, photographs, "--out", out, "--probability", status=1)
    assert (out / "probability/b.png").exists()
    assert content(out).items() >= {key: before[key] for key in before if "masks" in key}.items()


def test_a_replaced_photograph_is_done_again(tmp_path, network):
    photo = draw(tmp_path / "in/a.jpg", (60, 40))
    run(network, photo.parent, "--out", tmp_path / "out", "--probability")
    draw(photo, (50, 70), seed=5)
    run(network, photo.parent, "--out", tmp_path / "out")
    assert pixels(tmp_path / "out/masks/a.png").shape == (70, 50)
    assert not (tmp_path / "out/probability/a.png").exists()  # of the photograph before
    assert rows(tmp_path / "out")[0]["height"] == "70"
    photo.write_text("no picture any more")
    refused("none of the 1", network, photo.parent, "--out", tmp_path / "out")
    assert rows(tmp_path / "out")[0]["problem"]


def test_a_name_that_collides_later_moves_what_is_there(tmp_path, network):
    photo = draw(tmp_path / "in/a.jpg", (60, 40))
    run(network, photo.parent, "--out", tmp_path / "out")
    before = (tmp_path / "out/masks/a.png").read_bytes()
    draw(tmp_path / "in/a.png", (30, 50))
    run(network, photo.parent, "--out", tmp_path / "out")
    assert content(tmp_path / "out").keys() >= {"masks/a.jpg.png", "masks/a.png.png"}
    assert not (tmp_path / "out/masks/a.png").exists()
    assert (tmp_path / "out/masks/a.jpg.png").read_bytes() == before


def test_single_calls_add_rows_to_the_table_and_the_coco_file(tmp_path, network):
    pytest.importorskip("pycocotools")
    for k, name in enumerate(("a", "b", "c")):
        photo = draw(tmp_path / f"in/{name}.jpg", seed=k)
        run(network, photo, "--out", tmp_path / "out", "--coco", tmp_path / "all.json")
    assert [row["path"] for row in rows(tmp_path / "out")] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(json.loads((tmp_path / "all.json").read_text())["images"]) == 3


def test_an_edited_mask_is_left_alone_and_named(tmp_path, network, capsys):
    for name in ("a", "b"):
        draw(tmp_path / f"in/{name}.jpg")
    out = tmp_path / "out"
    run(network, tmp_path / "in", "--out", out)
    edited = Image.fromarray(255 - pixels(out / "masks/a.png"))
    edited.save(out / "masks/a.png")
    before = (out / "masks/a.png").read_bytes()
    run(network, tmp_path / "in", "--out", out, status=1)
    assert (out / "masks/a.png").read_bytes() == before and "edited" in capsys.readouterr().err
    assert [bool(row["problem"]) for row in rows(out)] == [True, False]
    run(network, tmp_path / "in", "--out", out, "--force")
    assert (out / "masks/a.png").read_bytes() != before and not rows(out)[0]["problem"]


def test_another_photograph_of_the_same_name_is_refused(tmp_path, network):
    one, other = draw(tmp_path / "x/a.jpg"), draw(tmp_path / "y/a.jpg", seed=3)
    run(network, one, "--out", tmp_path / "out")
    before = (tmp_path / "out/masks/a.png").read_bytes()
    refused("none of the 1", network, other, "--out", tmp_path / "out")
    assert (tmp_path / "out/masks/a.png").read_bytes() == before


def test_results_of_another_network_or_of_something_else_are_left_alone(tmp_path, network):
    photo, out = draw(tmp_path / "in/a.jpg"), tmp_path / "out"
    draw(out / "masks/a.png")  # somebody's own
    refused("none of the 1", network, photo, "--out", out)
    run(network, photo, "--out", out, "--force")
    before = content(out)
    refused("another options", network, photo, "--out", out, "--hflip")
    other = write_network(tmp_path / "other.pt", seed=1)
    refused("another network", other, photo, "--out", out)
    assert content(out) == before
    run(other, photo, "--out", out, "--force")
    assert content(out) != before


@pytest.mark.parametrize(
    "name", ["predictions.csv", "manifest.jsonl", "new/predictions.csv", "in/a.jpg"]
)
def test_the_coco_file_is_never_another_file(tmp_path, network, name):
    pytest.importorskip("pycocotools")
    photo = draw(tmp_path / "in/a.jpg")
    run(network, photo, "--out", tmp_path)
    before = content(tmp_path)
    refused("--coco", network, photo, "--out", tmp_path / "new", "--coco", tmp_path / name)
    assert content(tmp_path) == before


def test_an_edited_coco_file_is_left_alone(tmp_path, network):
    pytest.importorskip("pycocotools")
    photo, coco = draw(tmp_path / "in/a.jpg"), tmp_path / "a.json"
    run(network, photo, "--out", tmp_path / "out", "--coco", coco)
    coco.write_text(coco.read_text() + " ")
    refused("--coco", network, photo, "--out", tmp_path / "out", "--coco", coco)
    run(network, photo, "--out", tmp_path / "out", "--coco", coco, "--force")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path, network, number):
    for k in range(30):
        draw(tmp_path / f"in/{k % 3}/{k}.jpg", (700 + k, 500), seed=k)
    out, options = tmp_path / "out", ("--cutout", "hard")
    words = ["--checkpoint", network, "--device", "cpu", "--processes", "2", *options]
    command = [sys.executable, ROOT / "predict.py", tmp_path / "in", "--out", out, *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list(out.glob("masks/*/*.png"))) < 4 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait() == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    time.sleep(0.3)  # what a killed process started ends by itself
    assert not (out / "predictions.csv").exists()
    with open(out / manifest.FILE, "a") as file:
        file.write('{"name": "0/0.jpg", "dig')  # as a power failure cuts a line
    run(network, tmp_path / "in", "--out", out, *options)
    run(network, tmp_path / "in", "--out", tmp_path / "whole", *options)
    assert content(out) == content(tmp_path / "whole")
    assert not list(out.glob(".predict-*"))


# ------------------------------------------------------------ wrong use


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, network, photographs):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    maskless = write_network(tmp_path / "other.pt", ("cls", "bbox"))
    refused("nowhere.jpg", network, tmp_path / "nowhere.jpg", "--out", out)
    refused("no photograph", network, tmp_path / "empty", "--out", out)
    for place in (photographs / "sub/out", photographs):
        refused("choose a folder outside", network, photographs, "--out", place)
    refused("of one name", network, photographs / "a.jpg", photographs / "sub/a.jpg", "--out", out)
    refused("of one name", network, photographs, photographs / "sub", "--out", out)
    refused("no masks .*cls, bbox", maskless, photographs, "--out", out)
    refused("there is no checkpoint", tmp_path / "no.pt", photographs, "--out", out)
    refused("--coco", network, photographs, "--out", out, "--coco", tmp_path)
    refused("cannot be made", network, photographs, "--out", tmp_path / "file/out")
    assert not out.exists() and not (photographs / "sub/out").exists()


def test_own_results_are_no_photographs(tmp_path, network):
    photo = draw(tmp_path / "in/b.jpg")
    run(network, photo, "--out", tmp_path)
    refused("predict.py writes", network, tmp_path / "masks", "--out", tmp_path)
    refused("predict.py writes", network, tmp_path / "masks/b.png", "--out", tmp_path)


def test_files_that_are_no_pictures_are_counted_and_named(network, photographs, tmp_path, capsys):
    run(network, photographs, photographs / "a.jpg", "--out", tmp_path / "out", status=1)
    printed = capsys.readouterr().out
    assert "1 files" in printed and "notes.txt" in printed and ".hidden" not in printed
    assert len(rows(tmp_path / "out")) == 10  # a.jpg was named twice


@pytest.mark.parametrize("option", [("--processes", "0"), ("--device", "abacus"), ("--crop", "-1")])
def test_bad_options(option, capsys):
    with pytest.raises(SystemExit) as stop:
        script.parse_args(["a.jpg", "--out", "out", *option])
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_closed_output_and_an_unusual_name(tmp_path, network):
    photo = draw(tmp_path / "in/caf\udce9 猫.png")
    words = ["--checkpoint", network, photo, "--out", tmp_path / "out"]
    command = [sys.executable, ROOT / "predict.py", *words]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out")[0]["path"] == photo.name
    assert os.listdir(os.fsencode(tmp_path / "out/masks")) == [os.fsencode(photo.name)]


@pytest.mark.parametrize(
    "names, results",
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "a.jpg.tif", "a.png"], ["a.jpg", "a.jpg.tif", "a.png"]),
        (["a.jpg", "x/a.jpg"], ["a", "x/a"]),
        (["A.jpg", "a.jpg"], ["A.jpg", "a.jpg-2"]),  # one file on Windows and macOS
        (["a.tar.gz.png"], ["a.tar.gz"]),
    ],
)
def test_no_two_photographs_have_results_of_one_name(names, results):
    assert list(predict.result_names(names).values()) == results


def test_a_photographs_blur_is_no_black(tmp_path):
    image = Image.open(draw(tmp_path / "a.png", (80, 60)))
    blurred = predict.make_background("blur", image)
    assert blurred.size == image.size and blurred != image
    expected = image.filter(ImageFilter.GaussianBlur(2))
    assert np.abs(np.asarray(blurred).astype(int) - np.asarray(expected)).max() <= 1
