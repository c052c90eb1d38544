"""Data of another size than the network's: said once, measured at the network's own, and images known again all the same."""

import json

import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from oxford import real
from PIL import Image
from tiny import arguments, result, targets
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

import data_prepare
import evaluate
import export
import train_mtl
import utils
from cli import InputError
from data.split import NEAR_DUPLICATE_BITS, difference_hash, near_duplicates
from dataloader_mtl import MTLDataset
from tasks.bbox import Bbox
from training import checkpoint, known_images

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The same drawn pets at 64 px and at 128, {side: folder}."""
    place = tmp_path_factory.mktemp("drawn")
    for size in (64, 128):
        data_prepare.main(
            data_prepare.parse_args(
                ["--synthetic", "40", "--size", str(size), "--out", str(place / str(size))]
            )
        )
        rechunk(place / str(size))
    return {size: place / str(size) for size in (64, 128)}


@pytest.fixture(scope="module")
def network(drawn, tmp_path_factory):
    """The best.pt of a run at 128 px."""
    runs = tmp_path_factory.mktemp("runs")
    train_mtl.main(arguments(drawn[128], runs, "--epochs", "1"))
    return runs / "mtl/seed0/best.pt"


@pytest.fixture
def earlier(network, tmp_path):
    """The same network as an earlier version wrote it, without the looks of its images."""
    content = checkpoint.load(network)
    del content["trained_on_looks"]
    checkpoint.save(content, tmp_path / "earlier.pt")
    return tmp_path / "earlier.pt"


@pytest.fixture
def measure(capsys):
    """A function that runs evaluate.py on data; returns its JSON and its warnings."""

    def run(path, data, *more):
        capsys.readouterr()
        evaluate.main(evaluate.parse_args(["--checkpoint", str(path), "--data", str(data), *more]))
        said = capsys.readouterr()
        return json.loads(said.out), said.err.splitlines()

    return run


# --------------------------------------------------------------------------------------------------- another size


def test_another_size_is_said_once_with_both(network, drawn, measure):
    metrics, warnings = measure(network, drawn[64])
    assert len(warnings) == 1 and metrics["size"] == 64 and "network_size" not in metrics
    assert (
        f"trained on images of 128 px, and those of {drawn[64] / 'test'} are of 64 px"
        in warnings[0]
    )
    assert (
        "--resize measures it at its own size" in warnings[0]
        and "cannot be told" not in warnings[0]
    )


def test_at_its_own_size_resize_changes_nothing(network, drawn, measure):
    assert measure(network, drawn[128]) == measure(network, drawn[128], "--resize")
    assert measure(network, drawn[128])[1] == []


def test_resize_by_hand(network, drawn, measure):
    metrics, warnings = measure(network, drawn[64], "--resize", "--batch-size", "3")
    assert warnings == [] and (metrics["size"], metrics["network_size"]) == (64, 128)
    model, dataset = checkpoint.load_model(network)[0], MTLDataset(drawn[64], "test")
    counts, boxes, right = [], [], []
    for sample in dataset:
        with torch.no_grad():
            outputs = model(transforms.resize(sample["image"], [128, 128], antialias=True)[None])
        logits = F.interpolate(outputs["seg"], size=(64, 64), mode="bilinear", align_corners=False)
        counts.append(utils.mask_counts(logits, sample["seg"][None])[0])
        boxes.append(outputs["bbox"][0])
        right.append(outputs["cls"].argmax() == sample["cls"])
    counts = torch.stack(counts)
    assert metrics["dice"] == pytest.approx(utils.dice_score(*counts.T).mean().item(), abs=1e-6)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    truth = targets(dataset, "bbox")
    assert metrics["box_iou"] == pytest.approx(
        Bbox("bbox").measure(torch.stack(boxes), truth)["box_iou"].nanmean().item(), abs=1e-6
    )
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert metrics["dice"] != measure(network, drawn[64])[0]["dice"]


def test_mirror_by_hand(network, drawn, measure, capsys):
    metrics, warnings = measure(network, drawn[64], "--resize", "--mirror", "--batch-size", "5")
    assert warnings == [] and metrics["mirror"] is True
    model, dataset = checkpoint.load_model(network)[0], MTLDataset(drawn[64], "test")
    counts, boxes = [], []
    for sample in dataset:
        image = transforms.resize(sample["image"], [128, 128], antialias=True)
        with torch.no_grad():
            seen, mirrored = model(image[None]), model(image.flip(-1)[None])
        mean = (seen["seg"] + mirrored["seg"].flip(-1)) / 2
        logits = F.interpolate(mean, size=(64, 64), mode="bilinear", align_corners=False)
        counts.append(utils.mask_counts(logits, sample["seg"][None])[0])
        x1, y1, x2, y2 = mirrored["bbox"][0]
        boxes.append((seen["bbox"][0] + torch.stack([1 - x2, y1, 1 - x1, y2])) / 2)
    assert metrics["dice"] == pytest.approx(
        utils.dice_score(*torch.stack(counts).T).mean().item(), abs=1e-4
    )
    assert metrics["box_iou"] == pytest.approx(
        Bbox("bbox")
        .measure(torch.stack(boxes), targets(dataset, "bbox"))["box_iou"]
        .nanmean()
        .item(),
        abs=1e-6,
    )
    assert metrics["dice"] != measure(network, drawn[64], "--resize")[0]["dice"]
    with pytest.raises(SystemExit):
        evaluate.parse_args(["--split", "val", "--calibrate", "x.pt", "--mirror"])
    assert "leave --mirror out" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- known images


@pytest.mark.parametrize("more", [(), ("--resize",)], ids=str)
def test_known_images_are_known_at_another_size(network, drawn, measure, more):
    _, warnings = measure(network, drawn[64], "--split", "train", *more)
    n = len(MTLDataset(drawn[64], "train"))
    assert f"was trained on {n} of the {n} images of {drawn[64] / 'train'}" in warnings[-1]
    assert all(
        "trained on" not in line or "px" in line for line in measure(network, drawn[64], *more)[1]
    )  # not on these


@pytest.mark.parametrize("more", [(), ("--resize",)], ids=str)
def test_a_network_that_knows_bytes_alone_says_that_it_cannot_tell(earlier, drawn, measure, more):
    _, warnings = measure(earlier, drawn[64], "--split", "train", *more)
    assert len(warnings) == 1 and "128 px" in warnings[0] and "64 px" in warnings[0]
    assert warnings[0].endswith(
        "; whether it was trained on any of them cannot be told, as it knows the bytes of its own "
        "alone"
    )
    assert measure(earlier, drawn[128])[1] == []


def test_what_a_run_goes_on_from_is_known_too(network, drawn, tmp_path, measure):
    """A network of 128 px goes on at 64 px with other images: what it knew at 128 px is known at 64."""
    other = rechunk(write_data(tmp_path / "other", {"train": 8, "val": 8, "test": 8}))
    train_mtl.main(arguments(other, tmp_path, "--init", str(network), "--epochs", "1"))
    content = checkpoint.load(tmp_path / "mtl/seed0/best.pt")
    n = len(MTLDataset(drawn[64], "train"))
    assert len(content["trained_on"]) == len(content["trained_on_looks"]) == n + 8
    assert (
        f"on {n} of the {n} images"
        in measure(tmp_path / "mtl/seed0/best.pt", drawn[64], "--split", "train")[1][-1]
    )


def test_init_at_another_size_refuses_known_images_and_says_both_sizes(
    network, drawn, tmp_path, capsys
):
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for split, source in (("train", "test"), ("test", "train"), ("val", "val")):
        (swapped / split).symlink_to(drawn[64] / source)
    n = len(MTLDataset(drawn[64], "train"))
    with pytest.raises(
        InputError, match=f"--init .* was trained on {n} of the {n} images of .*test"
    ):
        train_mtl.main(arguments(swapped, tmp_path / "runs", "--init", str(network)))
    assert not list((tmp_path / "runs").rglob("*.*"))
    capsys.readouterr()
    train_mtl.main(arguments(drawn[64], tmp_path / "runs", "--init", str(network), "--epochs", "1"))
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert f"was trained on images of 128 px, and those of {drawn[64]} are of 64 px" in warnings[0]
    assert "cannot be told" not in warnings[0]


def test_init_says_that_it_cannot_tell(earlier, drawn, tmp_path, capsys):
    train_mtl.main(arguments(drawn[64], tmp_path / "runs", "--init", str(earlier), "--epochs", "1"))
    warnings = capsys.readouterr().err.splitlines()
    assert (
        len(warnings) == 1
        and "128 px" in warnings[0]
        and "64 px" in warnings[0]
        and "cannot be told" in warnings[0]
    )
    assert (
        checkpoint.load(tmp_path / "runs/mtl/seed0/best.pt")["trained_on_looks"] is None
    )  # of half of them would mislead


def test_a_look_alike_of_a_new_training_image_is_no_reason_to_refuse(network, drawn, tmp_path):
    """To go on with a network on its own data must be possible where two of its photographs look the same."""
    content = checkpoint.load(network)
    content["trained_on_looks"][0] = known_images.looks(MTLDataset(drawn[128], "test"))[0]
    checkpoint.save(content, tmp_path / "twins.pt")
    with pytest.raises(InputError, match="trained on 1 of the"):
        train_mtl.main(
            arguments(drawn[128], tmp_path / "runs", "--init", str(tmp_path / "twins.pt"))
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            known_images,
            "remember",
            lambda dataset: {key: content[key] for key in ("trained_on", "trained_on_looks")},
        )
        train_mtl.main(
            arguments(
                drawn[128], tmp_path / "runs", "--init", str(tmp_path / "twins.pt"), "--epochs", "1"
            )
        )
    assert result(tmp_path / "runs/mtl/seed0")["dice"] > 0


def test_the_mean_of_networks_knows_the_images_of_all(network, earlier, tmp_path):
    def mean(*sources):
        export.main(export.parse_args([*map(str, sources), str(tmp_path / "mean.pt")]))
        return checkpoint.load(tmp_path / "mean.pt")["trained_on_looks"]

    own = checkpoint.load(network)["trained_on_looks"]
    assert torch.equal(mean(network, network), own.unique(dim=0)) and torch.equal(
        mean(network), own
    )
    assert mean(network, earlier) is None


# ----------------------------------------------------------------------------------------------------- look-alikes


def test_look_alikes_by_hand():
    base = np.zeros(256, bool)
    base[::3] = True  # 86 bits
    near, far, plain = base.copy(), base.copy(), np.zeros(256, bool)
    near[: known_images.SAME_BITS] ^= True
    far[: known_images.SAME_BITS + 1] ^= True
    hashes = torch.from_numpy(np.packbits([near, far, plain], axis=1))
    others = torch.from_numpy(np.packbits([base, plain], axis=1))
    assert known_images.look_alike(hashes, others).tolist() == [
        True,
        False,
        False,
    ]  # a plain wall is like any other
    assert known_images.look_alike(hashes, others[:0]).tolist() == [False] * 3


def test_real_photographs_know_themselves_at_any_size_and_no_other():
    paths = sorted((real("PETS_ROOT") / "images").glob("[!.]*.jpg"))[::10]
    hashes = {size: [] for size in (64, 256)}
    for path in paths:
        with Image.open(path) as image:
            for size, of_size in hashes.items():
                of_size.append(
                    difference_hash(
                        image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
                    )
                )
    hashes = {size: np.stack(of_size) for size, of_size in hashes.items()}
    bits = np.bitwise_count(hashes[64][:, None] ^ hashes[256]).sum(-1).astype(int)
    assert len(paths) > 300 and bits.diagonal().max() < known_images.SAME_BITS < NEAR_DUPLICATE_BITS
    pairs = {pair[1:] for pair in near_duplicates(hashes[256])}
    alike = {
        (min(i, j), max(i, j))
        for i, j in zip(*np.nonzero(bits <= known_images.SAME_BITS))
        if i != j
    }
    assert alike <= pairs
