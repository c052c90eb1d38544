"""mtl_vis.py: figures of custom photographs, of test images, of a run's best and worst; files that
it must not write."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from test_predict import write_network

import mtl_vis
from cli import InputError
from dataloader_mtl import MTLDataset
from inference import view
from training import checkpoint

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "net.pt")


def draw(*args):
    mtl_vis.main(mtl_vis.parse_args([str(arg) for arg in args]))


def test_photographs_of_any_size_are_drawn(tmp_path, network, capsys):
    sizes = {"wide.jpg": (900, 60), "tall.png": (40, 700), "tiny.png": (3, 2), "one.bmp": (1, 1)}
    paths = [tmp_path / name for name in sizes]
    for path, size in zip(paths, sizes.values(), strict=True):
        Image.new("RGB", size, (120, 90, 60)).save(path)
        draw("--checkpoint", network, "--out", f"{path}.out.png", path)
        assert Image.open(f"{path}.out.png").width > 300
    draw("--checkpoint", network, "--out", tmp_path / "all.png", *paths)
    assert Image.open(tmp_path / "all.png").height > 900
    assert "wide.jpg: " in capsys.readouterr().out


def test_test_images_are_drawn_with_their_targets(data, tmp_path, network):
    draw("--checkpoint", network, "--data", data, "--out", tmp_path / "mask.png", "--n", "3")
    pixels = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB")).astype(int)
    third = pixels.shape[1] // 3
    assert pixels.shape[0] > 2.4 * third  # three rows of three panels
    green = pixels[..., 1] - (pixels[..., 0] + pixels[..., 2]) / 2
    assert green[:, third : 2 * third].mean() > green[:, :third].mean() + 4


@pytest.fixture()
def tested(data, tmp_path):
    """A run folder with what a gallery needs: the network, and its Dice on each test image."""
    run = tmp_path / "runs/mtl/seed0"
    run.mkdir(parents=True)
    content = checkpoint.load(write_network(run / "best.pt"))
    model, _ = checkpoint.load_model(run / "best.pt")
    dataset = MTLDataset(data, "test", tasks=list(model.task.values()))
    content |= {"split_hash": dataset.summary["split_hash"], "size": 64}
    checkpoint.save(content, run / "best.pt")
    with open(run / "test_per_image.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "dice"])
        for picture in view.pictures_of_dataset(model, dataset, len(dataset)):
            mask, target = picture.animals[0]["seg"], picture.truth["seg"]
            dice = 2 * (mask & target).sum() / (mask.sum() + target.sum())
            writer.writerow([picture.name, dice.item()])
    return run


def test_a_gallery_shows_the_best_the_median_and_the_worst(data, tmp_path, tested):
    with open(tested / "test_per_image.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["dice"]))
    drawn, _ = view.of_run(tested, data, 2)
    kinds = ("best", "best", "median", "median", "worst", "worst")
    expected = [
        f"{kind}: {rows[k]['name']}" for kind, k in zip(kinds, (0, 1, 4, 5, 8, 9), strict=True)
    ]
    assert [picture.name for picture in drawn] == expected
    draw("--gallery", tested, "--data", data, "--out", tmp_path / "gallery.png")
    assert len(view.of_run(tested, data, 100)[0]) == 9  # no image twice


def test_a_gallery_of_other_images_is_refused(data, tmp_path, tested):
    content = checkpoint.load(tested / "best.pt")
    checkpoint.save(content | {"split_hash": "0" * 16}, tested / "best.pt")
    with pytest.raises(InputError, match="0000000000000000"):
        draw("--gallery", tested, "--data", data, "--out", tmp_path / "gallery.png")


def test_unreadable_photographs_are_named_after_the_others_are_drawn(tmp_path, network, capsys):
    Image.new("RGB", (40, 30), (120, 90, 60)).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("hello")
    bad = [tmp_path / "bad.jpg", tmp_path / "missing.jpg"]
    with pytest.raises(SystemExit) as stop:
        draw("--checkpoint", network, "--out", tmp_path / "out.png", *bad, tmp_path / "good.png")
    warned = capsys.readouterr().err
    assert stop.value.code == 1 and "bad.jpg" in warned and "missing.jpg" in warned
    assert (tmp_path / "out.png").exists()
    with pytest.raises(InputError, match="none of the 2"):
        draw("--checkpoint", network, "--out", tmp_path / "none.png", *bad)
    assert not (tmp_path / "none.png").exists()


def test_the_figure_never_takes_the_place_of_something_else(tmp_path, network):
    photo, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    for path in (photo, other):
        Image.new("RGB", (40, 30), (120, 90, 60)).save(path)
    before = photo.read_bytes()
    for out in (photo, other):
        with pytest.raises(InputError, match=out.name):
            draw("--checkpoint", network, "--out", out, photo)
    with pytest.raises(InputError, match="a.jpg"):
        draw("--checkpoint", network, "--force", "--out", photo, photo)
    assert photo.read_bytes() == before
    for _ in range(2):  # its own figure is replaced
        draw("--checkpoint", network, "--out", tmp_path / "m.png", photo)
    draw("--checkpoint", network, "--force", "--out", other, photo)


@pytest.mark.parametrize("words", [["--gallery", "runs/mtl/seed0", "cat.jpg"], ["a.jpg"] * 201])
def test_words_that_do_not_fit_together_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        mtl_vis.parse_args(words)
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_no_gradient_is_kept(network):
    model, info = checkpoint.load_model(network)
    image = Image.new("RGB", (40, 30))
    _, seen = view.see(model, image, info["size"], "x")
    assert not any(
        isinstance(one, torch.Tensor) and one.requires_grad for one in seen.outputs.values()
    )
