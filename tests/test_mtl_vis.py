"""Pictures: own photographs of every kind, test images, and what is drawn where."""

import csv
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

import mtl_vis
import registry
from cli import InputError
from data import lettering
from dataloader_mtl import MTLDataset
from models import MTLNet
from registry import PUBLISHED
from study import figures
from training import checkpoint, gallery, looking, pictures


class Fixed(torch.nn.Module):
    """Stands in for a network: the left half is pet, the head in the upper left quarter, a dog by 9 to 1."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.task = registry.tasks(PUBLISHED)
        self.seen = []

    def forward(self, image):
        self.seen.append(image)
        size = image.shape[-1]
        seg = torch.full((1, 1, size, size), -5.0)
        seg[..., : size // 2] = 5.0
        return {
            "seg": seg,
            "bbox": torch.tensor([[0.0, 0.0, 0.5, 0.25]]),
            "cls": torch.tensor([[0.0, np.log(9.0)]]),
        }


def test_a_prediction_comes_back_at_the_photographs_own_size():
    model = Fixed()
    photograph = torch.zeros(3, 90, 200, dtype=torch.uint8)
    seen = looking.predict(model, photograph, 64)
    mask = seen["seg"]
    assert model.seen[0].shape == (1, 3, 64, 64)
    assert mask.shape == (90, 200) and mask[:, :98].all() and not mask[:, 102:].any()
    picture = pictures.Picture("x", photograph, model.task, seen)
    assert pictures.panels(picture)[1].boxes[0].tolist() == [
        0,
        0,
        100,
        22.5,
    ] and "dog 90%" in pictures.describe(picture)
    seen = looking.predict(model, photograph, 64, (45, 100))
    mask = seen["seg"]
    assert mask.shape == (45, 100) and mask[:, :49].all()
    small = pictures.Picture("x", photograph[:, :45, :100], model.task, seen)
    assert pictures.panels(small)[1].boxes[0].tolist() == [0, 0, 50, 11.25]


@pytest.fixture()
def network(tmp_path):
    model = MTLNet(PUBLISHED, width=2)
    checkpoint.save(
        {
            "model": model.state_dict(),
            "tasks": list(PUBLISHED),
            "width": 2,
            "size": 64,
            "metrics": {},
            "experiment": "mtl",
            "seed": 0,
            "split_hash": "",
            "border": "pet",
        },
        tmp_path / "net.pt",
    )
    return tmp_path / "net.pt"


def draw(*args):
    mtl_vis.main(mtl_vis.parse_args([str(arg) for arg in args]))


def test_own_photographs_of_any_size_are_drawn(tmp_path, network, capsys):
    for name, size in (
        ("wide.jpg", (900, 60)),
        ("tall.png", (40, 700)),
        ("tiny.png", (3, 2)),
        ("one.bmp", (1, 1)),
    ):
        Image.new("RGB", size, (120, 90, 60)).save(tmp_path / name)
        draw("--checkpoint", network, "--out", tmp_path / f"{name}.out.png", tmp_path / name)
        assert Image.open(tmp_path / f"{name}.out.png").size[0] > 300
    draw(
        "--checkpoint",
        network,
        "--out",
        tmp_path / "all.png",
        tmp_path / "wide.jpg",
        tmp_path / "tall.png",
        tmp_path / "one.bmp",
    )
    printed = capsys.readouterr().out
    assert "wide.jpg: " in printed and "of the picture is pet" in printed


def test_test_images_are_drawn_with_their_targets(data, tmp_path, network):
    draw("--checkpoint", network, "--data", data, "--out", tmp_path / "mask.png", "--n", "3")
    pixels = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB")).astype(int)
    assert pixels.shape[0] > pixels.shape[1] * 0.8  # three rows of three panels
    # The target mask is green in the middle column, and the photograph on the left is not.
    green = pixels[..., 1] - (pixels[..., 0] + pixels[..., 2]) / 2
    third = pixels.shape[1] // 3
    assert green[:, third : 2 * third].mean() > green[:, :third].mean() + 4


@pytest.fixture()
def tested(data, tmp_path):
    """A run folder with what a gallery needs: the network, and its Dice on each test image as measured."""
    dataset, model = MTLDataset(data, "test"), MTLNet(PUBLISHED, width=2).eval()
    run = tmp_path / "runs/mtl/seed0"
    run.mkdir(parents=True)
    checkpoint.save(
        {
            "model": model.state_dict(),
            "tasks": list(PUBLISHED),
            "width": 2,
            "size": 64,
            "metrics": {},
            "experiment": "mtl",
            "seed": 0,
            "split_hash": dataset.summary["split_hash"],
            "border": "pet",
        },
        run / "best.pt",
    )
    with open(run / "test_per_image.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "dice"])
        for picture in pictures.pictures_of_dataset(model, dataset, len(dataset)):
            mask, target = picture.predicted["seg"], picture.truth["seg"]
            both, total = (mask & target).sum(), mask.sum() + target.sum()
            writer.writerow([picture.name, (2 * both / total).item()])
    return run


def test_a_gallery_shows_the_best_the_median_and_the_worst(data, tmp_path, tested, capsys):
    with open(tested / "test_per_image.csv", newline="") as file:
        by_dice = sorted(csv.DictReader(file), key=lambda row: -float(row["dice"]))
    drawn, _ = gallery.of_run(tested, data, 2)
    rows = [by_dice[k] for k in (0, 1, 4, 5, 8, 9)]
    kinds = ("best", "best", "median", "median", "worst", "worst")
    assert [picture.name for picture in drawn] == [
        f"{kind}: {row['name']}" for kind, row in zip(kinds, rows)
    ]
    for picture, row in zip(drawn, rows):
        assert pictures.panels(picture)[2].title.endswith(f"Dice {float(row['dice']):.3f}")
    draw("--gallery", tested, "--data", data, "--out", tmp_path / "gallery.png")
    assert (
        "best: " in capsys.readouterr().out and Image.open(tmp_path / "gallery.png").size[1] > 900
    )
    assert len(gallery.of_run(tested, data, 100)[0]) == 9  # no image twice


def test_a_gallery_of_other_images_or_of_no_finished_run_is_refused(data, tmp_path, tested):
    def refused(words, folder=tested):
        with pytest.raises(InputError, match=words):
            draw("--gallery", folder, "--data", data, "--out", tmp_path / "gallery.png")

    refused("no checkpoint", tmp_path)
    table = tested / "test_per_image.csv"
    table.write_text(table.read_text().replace("dice", "Dice"))
    refused("test_per_image.csv is damaged")
    table.write_text("name,dice\nsomebody,0.5\n")
    refused("other images")
    table.unlink()
    refused("not finished")
    content = checkpoint.load(tested / "best.pt")
    checkpoint.save(content | {"split_hash": "0" * 16}, tested / "best.pt")
    table.write_text("name,dice\nsomebody,0.5\n")
    refused("0000000000000000")


def test_a_gallery_takes_no_photographs(capsys):
    with pytest.raises(SystemExit) as stop:
        mtl_vis.parse_args(["--gallery", "runs/mtl/seed0", "cat.jpg"])
    assert stop.value.code == 2 and "--gallery" in capsys.readouterr().err


def test_a_mask_is_drawn_where_it_is(tmp_path):
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[:, :50] = True
    predicted = {"seg": mask, "cls": ("cat", 0.6), "bbox": torch.tensor([0.1, 0.1, 0.9, 0.9])}
    picture = pictures.Picture(
        "x", torch.zeros(3, 100, 100, dtype=torch.uint8), registry.tasks(PUBLISHED), predicted
    )
    photograph, overlay = pictures.panels(picture)
    assert photograph.image.sum() == 0 and overlay.title == "predicted: cat 60%"
    assert [box.tolist() for box in overlay.boxes] == [pytest.approx([10, 10, 90, 90])]
    assert (
        overlay.image[1, :, :50].float().mean() == pytest.approx(100, abs=1)
        and overlay.image[:, :, 50:].sum() == 0
    )


@pytest.mark.parametrize(
    "name, write",
    [
        ("missing.jpg", lambda path: None),
        ("text.jpg", lambda path: path.write_text("hello")),
        ("empty.png", lambda path: path.touch()),
        ("folder.png", lambda path: path.mkdir()),
        ("drawing.eps", lambda path: Image.new("RGB", (9, 9)).save(path)),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, network, name, write):
    write(tmp_path / name)
    with pytest.raises(InputError, match=name):
        draw("--checkpoint", network, "--out", tmp_path / "out.png", tmp_path / name)
    assert not (tmp_path / "out.png").exists()


def test_a_truncated_photograph_is_refused(tmp_path, network):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((300, 300), 90).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="cut.jpg") as error:
        draw("--checkpoint", network, "--out", tmp_path / "out.png", path)
    assert "incomplete" in str(error.value) and str(error.value).count("cut.jpg") == 1


def test_photographs_that_cannot_be_read_are_named_and_the_others_drawn(tmp_path, network, capsys):
    Image.new("RGB", (40, 30), (120, 90, 60)).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("hello")
    draw(
        "--checkpoint",
        network,
        "--out",
        tmp_path / "out.png",
        *(tmp_path / name for name in ("bad.jpg", "good.png", "missing.jpg", "good.png")),
    )
    printed, warned = capsys.readouterr()
    assert [line.partition(":")[0] for line in printed.splitlines()[:2]] == ["good.png", "good.png"]
    first, second = [line for line in warned.splitlines() if "trained on" not in line]
    assert (
        "bad.jpg cannot be read: it is text" in first
        and "no photograph" in second
        and "missing.jpg" in second
    )
    with Image.open(tmp_path / "out.png") as image:
        assert 500 < image.size[1] < 1000  # two rows
    with pytest.raises(InputError, match="none of the 2 photographs"):
        draw(
            "--checkpoint",
            network,
            "--out",
            tmp_path / "none.png",
            tmp_path / "bad.jpg",
            tmp_path / "missing.jpg",
        )
    assert not (tmp_path / "none.png").exists()


def test_a_library_out_of_memory_is_named_without_a_traceback(tmp_path, network, monkeypatch):
    def fail(*_):
        raise MemoryError

    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(InputError, match="a.png cannot be read: there is not enough memory"):
        draw("--checkpoint", network, "--out", tmp_path / "out.png", tmp_path / "a.png")


def test_a_large_photograph_is_drawn_small_and_its_box_told_in_its_own_pixels(tmp_path):
    Image.new("RGB", (4000, 2000), (120, 90, 60)).save(tmp_path / "a.jpg")
    model = Fixed()
    picture = gallery.picture_of_photograph(model, tmp_path / "a.jpg", 64, 1600)
    assert picture.image.shape == (3, 800, 1600) and picture.predicted["seg"].shape == (800, 1600)
    assert picture.predicted["seg"][:, :790].all() and not picture.predicted["seg"][:, 810:].any()
    assert pictures.panels(picture)[1].boxes[0].tolist() == [0, 0, 800, 200]
    assert "head at 0 0 2000 500" in pictures.describe(picture)


def test_too_many_photographs_for_a_picture_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        mtl_vis.parse_args(["a.jpg"] * 201)
    assert stop.value.code == 2 and "201 photographs" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- names as titles


NAMES = (
    b"caf\xe9 $x_1$ \xe7\x8c\xab.jpg",
    b"$.png",
    b"$\\frac_a$ a b.png",
    b"\\x_1^2 %&#{}~.png",
    b"a\nb\t\x07.png",
    b"x" * 250 + b".png",
    "\U0001f408 \u0645\u0631\u062d\u0628\u0627.png".encode(),
    "e\u0301.png".encode(),
)


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="the system's file names are all UTF-8"
)
def test_any_file_name_is_drawn_in_silence(tmp_path, network):
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in NAMES]
    for path in paths:
        Image.new("RGB", (40, 30), (120, 90, 60)).save(tmp_path / "a", format="PNG")
        os.replace(tmp_path / "a", path)
    names = checkpoint.load(network) | {"trained_on": torch.zeros(0, dtype=torch.int64)}
    checkpoint.save(names, network)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "mtl_vis.py",
            "--checkpoint",
            network,
            "--out",
            b"o\xe9 $.png",
            *paths,
        ],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0 and done.stderr == b""
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(NAMES) + 1
    assert lines[0].startswith("caf\\xe9 $x_1$ 猫.jpg: ") and lines[4].startswith(
        "a\\nb\\t\\x07.png: "
    )
    assert lines[-1].startswith("o\\xe9 $.png drawn with ") and b"o\xe9 $.png" in os.listdir(
        os.fsencode(tmp_path)
    )


def drawn_title(name, path):
    """The pixels of a figure of one small photograph of a name."""
    pictures.draw_pictures(
        [pictures.Picture(name, torch.zeros(3, 30, 40, dtype=torch.uint8), {}, {})], path
    )
    return np.asarray(Image.open(path).convert("L"))


def test_a_dollar_is_a_dollar_and_long_names_keep_to_their_panel(tmp_path):
    assert not np.array_equal(
        drawn_title("$x$", tmp_path / "a.png"), drawn_title("x", tmp_path / "b.png")
    )
    assert pictures.shorten("short.jpg", 41) == "short.jpg"
    assert pictures.shorten("a" * 100 + "b" * 100, 41) == "a" * 20 + "\u2026" + "b" * 19
    assert len(pictures.shorten("猫" * 100, 41)) <= 21
    long = drawn_title("x" * 250, tmp_path / "c.png")
    assert long.shape == drawn_title("x" * 10, tmp_path / "d.png").shape
    assert (long[:, :5] == 255).all() and (long[:, -5:] == 255).all()


@pytest.fixture()
def cat_font(tmp_path):
    """A font with one letter, a square for 猫, which no font that comes with matplotlib has."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Noto Sans CJK Test", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "cat.ttf")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "cat.ttf")
    lettering.family_with.cache_clear()
    yield "Noto Sans CJK Test"
    font_manager.fontManager.ttflist[:] = before
    font_manager.fontManager._findfont_cached.cache_clear()
    lettering.family_with.cache_clear()


def test_letters_are_of_a_font_that_has_them(tmp_path, cat_font, capfd):
    assert (
        lettering.text("a 猫") == "a 猫" and lettering.style("a 猫")["fontfamily"][-1] == cat_font
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solid, empty = (
            drawn_title("猫猫猫", tmp_path / "a.png"),
            drawn_title("", tmp_path / "b.png"),
        )
    dark = (solid < 100).sum() - (empty < 100).sum()
    assert dark > 3 * 10 * 10  # three filled squares of 12 by 12 pixels, not the lines of boxes
    assert capfd.readouterr() == ("", "")


def test_letters_that_no_font_has_are_boxes_without_a_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lettering, "family_with", lambda c: None)
    assert lettering.text("a 猫\uff21.jpg") == "a \u25a1A.jpg"  # a wide A is an A
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn_title("a 猫\uff21 \U0001f408.jpg", tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


def test_names_in_the_figures_of_results_are_text(tmp_path):
    rows = {name: np.full((2, 3), 50.0) + k for k, name in enumerate(("$x$ \\y_1", "x", "odd $"))}
    figures.draw_dice(
        {name: values[:, 0] for name, values in rows.items()}, "$x$ \\y_1", tmp_path / "a.png"
    )
    figures.draw_curves(rows, "odd $", "Dice", tmp_path / "b.png")
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


@pytest.mark.parametrize("out", ["nowhere/out.png", "out.nonsense", "."])
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, network, out):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--out"):
        draw("--checkpoint", network, "--out", tmp_path / out, tmp_path / "a.png")


def test_curves_of_one_epoch_without_a_box_are_drawn(tmp_path):
    row = {
        "epoch": 1,
        "train_loss_seg": 1.0,
        "val_loss_seg": 1.1,
        "val_dice": 0.5,
        "val_accuracy": None,
        "val_box_iou": None,
    }
    pictures.draw_curves([row], registry.tasks(PUBLISHED), tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1200, 456)
