"""Pictures: own photographs of every kind, test images, and what is drawn where."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from training import checkpoint
import mtl_vis
from cli import InputError
from dataloader_mtl import MTLDataset
from models import MTLNet, TASKS


class Fixed(torch.nn.Module):
    """Stands in for a network: the left half is pet, the head in the upper left quarter, a dog by 3 to 1."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, image):
        self.seen.append(image)
        size = image.shape[-1]
        seg = torch.full((1, 1, size, size), -5.0)
        seg[..., : size // 2] = 5.0
        return {"seg": seg, "bbox": torch.tensor([[0.0, 0.0, 0.5, 0.25]]), "cls": torch.tensor([[0.0, np.log(3.0)]])}


def test_a_prediction_comes_back_at_the_photographs_own_size():
    model = Fixed()
    mask, box, label = mtl_vis.predict(model, torch.zeros(3, 90, 200, dtype=torch.uint8), 64)
    assert model.seen[0].shape == (1, 3, 64, 64)
    assert mask.shape == (90, 200) and mask[:, :98].all() and not mask[:, 102:].any()
    assert box.tolist() == [0, 0, 100, 22.5] and label == "dog 75%"


def test_exif_orientation_is_honoured(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: white comes to the top
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = mtl_vis.read_photograph(tmp_path / "a.jpg")
    assert image.shape == (3, 80, 40)
    assert image[:, :36].float().mean() > 250 and image[:, 44:].float().mean() < 5


@pytest.mark.parametrize("mode, suffix", [("RGB", "jpg"), ("RGBA", "png"), ("L", "png"), ("P", "gif"), ("CMYK", "jpg"), ("1", "bmp"),
                                          ("I;16", "png"), ("RGB", "webp"), ("LA", "png")])
def test_photographs_of_every_kind_are_read(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.new("I;16", (50, 30)) if mode == "I;16" else Image.new("RGB", (50, 30), (200, 100, 50)).convert(mode)
    image.save(path)
    assert mtl_vis.read_photograph(path).shape == (3, 30, 50)


@pytest.fixture()
def network(tmp_path):
    model = MTLNet(TASKS, width=2)
    checkpoint.save({"model": model.state_dict(), "tasks": list(TASKS), "width": 2, "size": 64, "metrics": {}, "experiment": "mtl",
                     "seed": 0, "split_hash": "", "border": "pet"}, tmp_path / "net.pt")
    return tmp_path / "net.pt"


def draw(*args):
    mtl_vis.main(mtl_vis.parse_args([str(arg) for arg in args]))


def test_own_photographs_of_any_size_are_drawn(tmp_path, network, capsys):
    for name, size in (("wide.jpg", (900, 60)), ("tall.png", (40, 700)), ("tiny.png", (3, 2)), ("one.bmp", (1, 1))):
        Image.new("RGB", size, (120, 90, 60)).save(tmp_path / name)
        draw("--checkpoint", network, "--out", tmp_path / f"{name}.out.png", tmp_path / name)
        assert Image.open(tmp_path / f"{name}.out.png").size[0] > 300
    draw("--checkpoint", network, "--out", tmp_path / "all.png", tmp_path / "wide.jpg", tmp_path / "tall.png", tmp_path / "one.bmp")
    printed = capsys.readouterr().out
    assert "wide.jpg: " in printed and "of the picture is pet" in printed


def test_test_images_are_drawn_with_their_targets(data, tmp_path, network):
    draw("--checkpoint", network, "--data", data, "--out", tmp_path / "mask.png", "--n", "3")
    pixels = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB")).astype(int)
    assert pixels.shape[0] > pixels.shape[1] * 0.8  # three rows of three panels
    # The target mask is green in the middle column, and the photograph on the left is not.
    green = pixels[..., 1] - (pixels[..., 0] + pixels[..., 2]) / 2
    third = pixels.shape[1] // 3
    assert green[:, third:2 * third].mean() > green[:, :third].mean() + 4


@pytest.fixture()
def tested(data, tmp_path):
    """A run folder with what a gallery needs: the network, and its Dice on each test image as measured."""
    dataset, model = MTLDataset(data, "test"), MTLNet(TASKS, width=2).eval()
    run = tmp_path / "runs/mtl/seed0"
    run.mkdir(parents=True)
    checkpoint.save({"model": model.state_dict(), "tasks": list(TASKS), "width": 2, "size": 64, "metrics": {}, "experiment": "mtl",
                     "seed": 0, "split_hash": dataset.summary["split_hash"], "border": "pet"}, run / "best.pt")
    with open(run / "test_per_image.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "dice"])
        for picture in mtl_vis.pictures_of_dataset(model, dataset, len(dataset)):
            both, total = (picture.mask & picture.target_mask).sum(), picture.mask.sum() + picture.target_mask.sum()
            writer.writerow([picture.name, (2 * both / total).item()])
    return run


def test_a_gallery_shows_the_best_the_median_and_the_worst(data, tmp_path, tested, capsys):
    with open(tested / "test_per_image.csv", newline="") as file:
        by_dice = sorted(csv.DictReader(file), key=lambda row: -float(row["dice"]))
    pictures, _ = mtl_vis.gallery(tested, data, 2)
    rows = [by_dice[k] for k in (0, 1, 4, 5, 8, 9)]
    kinds = ("best", "best", "median", "median", "worst", "worst")
    assert [picture.name for picture in pictures] == [f"{kind}: {row['name']}" for kind, row in zip(kinds, rows)]
    for picture, row in zip(pictures, rows):
        assert mtl_vis.panels(picture)[2][3].endswith(f"Dice {float(row['dice']):.3f}")
    draw("--gallery", tested, "--data", data, "--out", tmp_path / "gallery.png")
    assert "best: " in capsys.readouterr().out and Image.open(tmp_path / "gallery.png").size[1] > 900
    assert len(mtl_vis.gallery(tested, data, 100)[0]) == 9  # no image twice


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
    picture = mtl_vis.Picture("x", torch.zeros(3, 100, 100, dtype=torch.uint8), mask, torch.tensor([10.0, 10, 90, 90]), "cat 60%")
    (photograph, *_), (overlay, box, _, title) = mtl_vis.panels(picture)
    assert photograph.sum() == 0 and title == "predicted: cat 60%" and box.tolist() == [10, 10, 90, 90]
    assert overlay[1, :, :50].float().mean() == pytest.approx(100, abs=1) and overlay[:, :, 50:].sum() == 0


@pytest.mark.parametrize("name, write", [
    ("missing.jpg", lambda path: None), ("text.jpg", lambda path: path.write_text("hello")), ("empty.png", lambda path: path.touch()),
    ("folder.png", lambda path: path.mkdir()),
])
def test_what_is_no_picture_is_refused(tmp_path, network, name, write):
    write(tmp_path / name)
    with pytest.raises(InputError, match=name):
        draw("--checkpoint", network, "--out", tmp_path / "out.png", tmp_path / name)
    assert not (tmp_path / "out.png").exists()


def test_a_truncated_photograph_is_refused(tmp_path, network):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((300, 300), 90).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="cut.jpg"):
        draw("--checkpoint", network, "--out", tmp_path / "out.png", path)


@pytest.mark.parametrize("out", ["nowhere/out.png", "out.nonsense", "."])
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, network, out):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--out"):
        draw("--checkpoint", network, "--out", tmp_path / out, tmp_path / "a.png")


def test_curves_of_one_epoch_without_a_box_are_drawn(tmp_path):
    row = {"epoch": 1, "train_loss_seg": 1.0, "val_loss_seg": 1.1, "val_dice": 0.5, "val_accuracy": None, "val_box_iou": None}
    mtl_vis.draw_curves([row], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1200, 456)
