"""--init: a run that starts from a trained network's weights, and what it must not be measured on."""

import json
import shutil

import pytest
import torch
from conftest import rechunk, write_data
from tiny import arguments, assert_same_weights, log, result, weights

import train_baseline
import train_mtl
from cli import InputError
from dataloader_mtl import MTLDataset
from models import MTLNet
from training import checkpoint

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another data folder, whose images are nobody else's."""
    return rechunk(
        write_data(
            tmp_path_factory.mktemp("other") / "pets", {"train": 16, "val": 6, "test": 6}, seed=7
        )
    )


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    """The best.pt of a full MTL run on `data`."""
    runs = tmp_path_factory.mktemp("first")
    train_mtl.main(arguments(data, runs))
    return runs / "mtl/seed0/best.pt"


def change(path, target, **values):
    checkpoint.save(checkpoint.load(path) | values, target)
    return target


@pytest.mark.parametrize(
    "tasks, shared",
    [
        (("seg",), ["encoder", "seg"]),
        (("cls",), ["encoder", "cls"]),
        (("bbox", "seg", "cls"), ["encoder", "seg", "cls", "bbox"]),
    ],
    ids=str,
)
def test_every_part_that_both_have_is_copied(network, tasks, shared):
    model = MTLNet(tasks, width=2, seed=5)
    parts, info, digest = checkpoint.load_parts(network, model)
    source = checkpoint.load(network)["model"]
    assert parts == shared and len(info["trained_on"]) == 24 and len(digest) == 64
    assert_same_weights(
        model.state_dict(),
        {name: value for name, value in source.items() if name.split(".")[0] in shared},
    )


def test_a_part_that_the_checkpoint_lacks_stays_random(data, tmp_path):
    train_baseline.main(arguments(data, tmp_path))
    model = MTLNet(("seg", "cls"), width=2, seed=5)
    assert checkpoint.load_parts(tmp_path / "baseline/seed0/best.pt", model)[0] == [
        "encoder",
        "seg",
    ]
    untouched = MTLNet(("seg", "cls"), width=2, seed=5)
    assert_same_weights(model.cls.state_dict(), untouched.cls.state_dict())
    assert not torch.equal(model.encoder.stem[0].weight, untouched.encoder.stem[0].weight)


def test_a_run_goes_on_from_the_network_and_remembers_the_images_of_both(
    network, other, tmp_path, capsys
):
    """With a learning rate of nearly nothing the network stays what it was, so the run measures it."""
    train_mtl.main(
        arguments(other, tmp_path, "--init", str(network), "--lr", "1e-12", "--augment", "none")
    )
    assert f"encoder, seg, cls, bbox from {network}" in capsys.readouterr().out
    folder = tmp_path / "mtl/seed0"
    before, after = checkpoint.load(network), checkpoint.load(folder / "best.pt")
    for name, value in before["model"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after["model"][name], value, rtol=0, atol=1e-9)
    here = MTLDataset(other, "train").image_hashes()
    assert set(after["trained_on"].tolist()) == set(here.tolist()) | set(
        before["trained_on"].tolist()
    )
    assert len(after["trained_on"]) == 40
    config = json.loads((folder / "config.json").read_text())
    assert config["init"] == checkpoint.load_parts(network, MTLNet(("seg",), width=2))[2]
    assert config["options"]["init"] == str(network)


def test_without_it_nothing_is_recorded(network):
    config = json.loads((network.parent / "config.json").read_text())
    assert config["init"] is None and config["options"]["init"] is None


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_network_that_knows_the_images_to_be_measured_on_is_refused(
    network, other, tmp_path, split
):
    hashes = MTLDataset(other, split).image_hashes()[:2]
    leaky = change(network, tmp_path / "leaky.pt", trained_on=hashes)
    with pytest.raises(InputError, match=f"trained on 2 of the 6 images of .*{split}"):
        train_mtl.main(arguments(other, tmp_path / "runs", "--init", str(leaky)))
    assert not [path for path in (tmp_path / "runs").rglob("*.*")]


def test_what_does_not_fit_is_refused(network, other, tmp_path):
    def refused(words, *more):
        with pytest.raises(InputError, match=words):
            train_mtl.main(arguments(other, tmp_path / "runs", *more))

    refused(
        "of width 2 and the network of width 4; use --width 2",
        "--init",
        str(network),
        "--width",
        "4",
    )
    silent = change(network, tmp_path / "silent.pt", trained_on=None)
    refused("does not say which images it was trained on", "--init", str(silent))
    refused("there is no checkpoint", "--init", str(tmp_path / "none.pt"))
    refused("is no checkpoint of this project", "--init", str(network.parent / "log.csv"))


def test_resuming_takes_the_same_network_wherever_it_lies_and_no_other(network, other, tmp_path):
    train_mtl.main(arguments(other, tmp_path / "whole", "--init", str(network)))
    moved = shutil.copy(network, tmp_path / "moved.pt")
    changed = checkpoint.load(network)["model"]
    changed["seg.logits.bias"] += 1
    another = change(network, tmp_path / "another.pt", model=changed)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut, whole = tmp_path / "cut/mtl/seed0", tmp_path / "whole/mtl/seed0"
    (cut / "test.json").unlink()
    (cut / "last.pt").unlink()  # so the second epoch is done again
    for more in ((), ("--init", str(another))):
        with pytest.raises(InputError, match="cannot be resumed .*what --init starts from"):
            train_mtl.main(arguments(other, tmp_path / "cut", "--resume", *more))
    train_mtl.main(arguments(other, tmp_path / "cut", "--resume", "--init", str(moved)))
    assert result(cut) == result(whole) and log(cut) == log(whole)
    assert_same_weights(weights(cut), weights(whole))
