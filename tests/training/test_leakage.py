"""Leakage check: images are known again by their bytes, and by their looks at another size."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data
from oxford import real
from PIL import Image
from tiny import result, train

import export
from cli import InputError
from data.split import NEAR_DUPLICATE_BITS, difference_hash, near_duplicates
from dataloader_mtl import MTLDataset
from training import checkpoint, leakage


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """{side: data folder}: the same images at 64 px and at 128."""
    place = tmp_path_factory.mktemp("drawn")
    small = write_data(place / "64", {"train": 24, "val": 8, "test": 8})
    large = shutil.copytree(small, place / "128")
    for path in large.glob("*/*.h5"):
        if path.stem in ("images", "masks"):
            with h5py.File(path, "r+") as file:
                pixels = file[path.stem][:].repeat(2, 1).repeat(2, 2)
                del file[path.stem]
                file[path.stem] = pixels
    return {64: rechunk(small), 128: rechunk(large)}


@pytest.fixture(scope="module")
def network(drawn, tmp_path_factory):
    """The best.pt of a run at 128 px."""
    runs = tmp_path_factory.mktemp("runs")
    return train("train_baseline", drawn[128], runs, "--epochs", "1") / "best.pt"


@pytest.fixture
def earlier(network, tmp_path):
    """The same network as an earlier version wrote it, without the looks of its images."""
    content = checkpoint.load(network)
    del content["trained_on_looks"]
    checkpoint.save(content, tmp_path / "earlier.pt")
    return tmp_path / "earlier.pt"


def warnings_of(function, dataset, path, capsys):
    capsys.readouterr()
    function(dataset, checkpoint.load(path))
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("size", [64, 128])
def test_images_are_known_again_at_any_size(network, drawn, size, capsys):
    train_split, test = (MTLDataset(drawn[size], split) for split in ("train", "test"))
    info = checkpoint.load(network)
    assert leakage.seen_images(train_split, info).all()
    assert not leakage.seen_images(test, info).any()
    (warning,) = warnings_of(leakage.warn_of_leakage, train_split, network, capsys)
    n = len(train_split)
    assert f"{n} of the {n} images" in warning and str(drawn[size] / "train") in warning
    assert warnings_of(leakage.warn_of_leakage, test, network, capsys) == []


def test_a_network_without_looks_knows_bytes_alone_and_warns_of_it(earlier, drawn, capsys):
    info = checkpoint.load(earlier)
    assert leakage.seen_images(MTLDataset(drawn[128], "train"), info).all()
    dataset = MTLDataset(drawn[64], "train")
    assert not leakage.seen_images(dataset, info).any()
    (warning,) = warnings_of(leakage.warn_of_other_size, dataset, earlier, capsys)
    assert "128 px" in warning and "64 px" in warning and "cannot be checked" in warning


def test_another_size_is_warned_of_with_both(network, drawn, capsys):
    of_other = MTLDataset(drawn[64], "test")
    (warning,) = warnings_of(leakage.warn_of_other_size, of_other, network, capsys)
    assert "128 px" in warning and "64 px" in warning and "cannot be checked" not in warning
    same = MTLDataset(drawn[128], "test")
    assert warnings_of(leakage.warn_of_other_size, same, network, capsys) == []


def test_fine_tuning_at_another_size_refuses_known_images(network, drawn, tmp_path, capsys):
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for split, source in (("train", "test"), ("test", "train"), ("val", "val")):
        (swapped / split).symlink_to(drawn[64] / source)
    n = len(MTLDataset(drawn[64], "train"))
    options = ("--init", network, "--epochs", "1")
    with pytest.raises(InputError, match=f"{n} of the {n} images of .*test"):
        train("train_baseline", swapped, tmp_path / "runs", *options)
    capsys.readouterr()
    train("train_baseline", drawn[64], tmp_path / "runs", *options)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "128 px" in warning and "64 px" in warning


def test_what_a_run_goes_on_from_is_known_too(network, earlier, drawn, tmp_path):
    """A network of 128 px goes on at 64 px with other images."""
    other = rechunk(write_data(tmp_path / "other", {"train": 8, "val": 8, "test": 8}))
    options = ("--init", network, "--epochs", "1")
    run = train("train_baseline", other, tmp_path / "runs", *options)
    info, dataset = checkpoint.load(run / "best.pt"), MTLDataset(drawn[64], "train")
    assert leakage.seen_images(dataset, info).all()
    assert len(info["trained_on"]) == len(info["trained_on_looks"]) == len(dataset) + 8
    options = ("--init", earlier, "--epochs", "1")
    run = train("train_baseline", other, tmp_path / "silent", *options)
    # Those of one half would mislead.
    assert checkpoint.load(run / "best.pt")["trained_on_looks"] is None


def test_a_look_alike_of_a_training_image_is_no_reason_to_refuse(
    network, drawn, tmp_path, monkeypatch
):
    """One can fine-tune on the same data where two of its photographs look the same."""
    content = checkpoint.load(network)
    content["trained_on_looks"][0] = leakage.looks(MTLDataset(drawn[128], "test"))[0]
    checkpoint.save(content, tmp_path / "twins.pt")
    options = ("--init", tmp_path / "twins.pt", "--epochs", "1")
    with pytest.raises(InputError, match="1 of the"):
        train("train_baseline", drawn[128], tmp_path / "runs", *options)
    own = {key: content[key] for key in leakage.KEYS}
    monkeypatch.setattr(leakage, "fingerprints", lambda dataset: own)
    run = train("train_baseline", drawn[128], tmp_path / "runs", *options)
    assert result(run)["dice"] is not None


def test_the_mean_of_networks_knows_the_images_of_all(network, earlier, tmp_path):
    def mean(*sources):
        words = [*map(str, sources), str(tmp_path / "mean.pt")]
        export.main(export.parse_args(words))
        return checkpoint.load(tmp_path / "mean.pt")["trained_on_looks"]

    own = checkpoint.load(network)["trained_on_looks"]
    assert torch.equal(mean(network, network), own.unique(dim=0))
    assert torch.equal(mean(network), own) and mean(network, earlier) is None


def test_joined_fingerprints_hold_each_image_once():
    a = {"trained_on": torch.tensor([3, 1]), "trained_on_looks": torch.tensor([[1, 2]])}
    b = {"trained_on": torch.tensor([1, 2]), "trained_on_looks": None}
    joined = leakage.join(a, b)
    assert joined["trained_on"].tolist() == [1, 2, 3] and joined["trained_on_looks"] is None


def test_look_alikes_by_hand():
    base = np.zeros(256, bool)
    base[::3] = True  # 86 bits
    near, far, plain = base.copy(), base.copy(), np.zeros(256, bool)
    near[: leakage.SAME_BITS] ^= True
    far[: leakage.SAME_BITS + 1] ^= True
    hashes = torch.from_numpy(np.packbits([near, far, plain], axis=1))
    others = torch.from_numpy(np.packbits([base, plain], axis=1))
    # A plain wall is like any other.
    assert leakage.look_alike(hashes, others).tolist() == [True, False, False]
    assert leakage.look_alike(hashes, others[:0]).tolist() == [False] * 3


def test_a_changed_image_is_not_known_by_its_bytes(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    with h5py.File(copy / "train/images.h5", "r+") as file:
        file["images"][5, 0, 0, 0] ^= 1
    own = MTLDataset(data, "train").image_hashes()
    assert (MTLDataset(copy, "train").image_hashes() != own).nonzero().tolist() == [[5]]


@pytest.mark.slow
def test_real_photographs_know_themselves_at_any_size_and_no_other():
    paths = sorted((real("PETS_ROOT") / "images").glob("[!.]*.jpg"))[::10]
    hashes = {64: [], 256: []}
    for path in paths:
        with Image.open(path) as image:
            for size in hashes:
                small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
                hashes[size].append(difference_hash(small))
    small, large = np.stack(hashes[64]), np.stack(hashes[256])
    bits = np.bitwise_count(small[:, None] ^ large).sum(-1).astype(int)
    assert len(paths) > 300
    assert bits.diagonal().max() < leakage.SAME_BITS < NEAR_DUPLICATE_BITS
    pairs, alike = {pair[1:] for pair in near_duplicates(large)}, set()
    for i, j in zip(*np.nonzero(bits <= leakage.SAME_BITS), strict=True):
        if i != j:
            alike.add((min(i, j), max(i, j)))
    assert alike <= pairs
