"""Checkpoints: round trips, half precision, means, damage, and files from strangers."""

import math
import os
import pickle
import zipfile

import pytest
import torch

import export
import registry
from cli import InputError
from models import MTLNet
from training import checkpoint

PUBLISHED = ("seg", "cls", "bbox")


def content(width=2, names=PUBLISHED, **values):
    network = MTLNet(registry.find_tasks(names), width=width, seed=1)
    return {
        "model": network.state_dict(),
        "tasks": list(names),
        "width": width,
        "size": 64,
        "metrics": {"dice": 0.5, "box_iou": None},
        "experiment": "mtl",
        "seed": 1,
        "split_hash": "0" * 16,
        "border": "pet",
        "trained_on": torch.arange(5),
        **values,
    }


def copy(*paths):
    export.main(export.parse_args(list(map(str, paths))))


def refused(path, load=checkpoint.load_model):
    with pytest.raises(InputError, match=path.name) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_round_trip_gives_the_same_network(tmp_path):
    saved = content()
    checkpoint.save(saved, tmp_path / "best.pt")
    model, info = checkpoint.load_model(tmp_path / "best.pt")
    assert not model.training and info["metrics"] == saved["metrics"] and "model" not in info
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved["model"][name])
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
    # Without this project, too.
    assert torch.load(tmp_path / "best.pt", weights_only=True)["width"] == 2


def test_names_of_an_earlier_version_are_read_as_the_present_ones(tmp_path):
    earlier = content(names=("seg",), beside=["cls"])
    earlier["best"] = content(names=("seg",), beside=[])
    earlier["average"] = {f"module.{name}": value for name, value in earlier["model"].items()}
    checkpoint.save(earlier, tmp_path / "last.pt")
    read = checkpoint.load(tmp_path / "last.pt")
    assert read["dropped"] == [] and read["sharing"] == "hard" and read["encoder"] == "unet"
    assert read["model"].keys() == earlier["model"].keys() and read["metrics"] == {}
    del earlier["best"], earlier["average"]
    checkpoint.save(earlier, tmp_path / "best.pt")
    assert checkpoint.load(tmp_path / "best.pt")["dropped"] == ["cls"]


def test_a_checkpoint_without_fingerprints_is_used_with_a_warning(tmp_path, capsys):
    earlier = content()
    del earlier["trained_on"]
    torch.save(earlier, tmp_path / "old.pt")
    assert checkpoint.load_model(tmp_path / "old.pt")[1]["trained_on"] is None
    assert "old.pt" in capsys.readouterr().err
    copy(tmp_path / "old.pt", tmp_path / "new.pt")
    assert checkpoint.load_model(tmp_path / "new.pt")[1]["trained_on"] is None


# ------------------------------------------------------------------------------- copies and means


def test_the_half_precision_copy_is_half_the_size_and_nearly_the_same(tmp_path):
    saved = content(width=8)
    checkpoint.save(saved, tmp_path / "best.pt")
    copy(tmp_path / "best.pt", tmp_path / "small.pt")
    sizes = [(tmp_path / name).stat().st_size for name in ("small.pt", "best.pt")]
    assert sizes[0] < 0.55 * sizes[1]
    model, info = checkpoint.load_model(tmp_path / "small.pt")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved["model"][name], rtol=1e-3, atol=1e-6)
    assert torch.equal(info["trained_on"], saved["trained_on"])


def test_the_default_network_fits_the_16_mb_of_the_shared_file(tmp_path):
    checkpoint.save(content(width=48), tmp_path / "best.pt")
    copy(tmp_path / "best.pt", tmp_path / "mtl_model.pt")
    assert (tmp_path / "mtl_model.pt").stat().st_size < 16e6


def test_a_copy_of_several_is_the_mean_of_their_weights(tmp_path):
    paths = []
    for k, rows in enumerate(([1, 2], [2, 3], [9])):
        saved = content(trained_on=torch.tensor(rows), seed=k)
        for name, value in saved["model"].items():
            saved["model"][name] = torch.full_like(value, k**2)
        paths.append(tmp_path / f"{k}.pt")
        checkpoint.save(saved, paths[-1])
    copy(paths[1], paths[2], paths[0], tmp_path / "mean.pt")
    kept = checkpoint.load(tmp_path / "mean.pt")
    for value in kept["model"].values():  # 1, 4 and 0; what only counts is the first one's
        expected = 5 / 3 if value.is_floating_point() else 1
        torch.testing.assert_close(value, torch.full_like(value, expected))
    assert kept["trained_on"].tolist() == [1, 2, 3, 9]
    assert kept["metrics"] == {} and kept["seed"] == 1
    copy(paths[1], tmp_path / "one.pt")
    assert checkpoint.load(tmp_path / "one.pt")["metrics"] == content()["metrics"]


DIFFERENT = {
    "width": {"width": 3},
    "tasks": {"names": ("seg", "cls")},
    "split_hash": {"split_hash": "f" * 16},
    "border": {"border": "background"},
    "size": {"size": 96},
    "experiment": {"experiment": "uncertainty"},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_mean_of_what_does_not_belong_together_is_refused(tmp_path, key):
    checkpoint.save(content(), tmp_path / "a.pt")
    checkpoint.save(content(**DIFFERENT[key]), tmp_path / "b.pt")
    with pytest.raises(InputError, match=f"a.pt and .*b.pt differ in {key}"):
        copy(tmp_path / "a.pt", tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()


def test_the_network_of_some_of_its_tasks_says_what_they_measure(tmp_path):
    metrics = {"dice": 0.5, "accuracy": 0.9, "loss_seg": 1.0, "loss_cls": 2.0}
    calibration = {"cls": {"temperature": 2.0}}
    checkpoint.save(content(metrics=metrics, calibration=calibration), tmp_path / "best.pt")
    model, info = checkpoint.load_model(tmp_path / "best.pt")
    part, info = checkpoint.subset(model, info, ["seg"])
    assert info["tasks"] == ["seg"] and set(info["dropped"]) == {"cls", "bbox"}
    assert info["metrics"] == {"dice": 0.5, "loss_seg": 1.0} and info["calibration"] == {}
    checkpoint.save({"model": part.state_dict(), **info}, tmp_path / "seg.pt")
    assert checkpoint.load_model(tmp_path / "seg.pt")[0].tasks == ("seg",)
    with pytest.raises(InputError, match="depth"):
        checkpoint.subset(model, info, ["depth"])


# ----------------------------------------------------------------------------------------- damage


def test_no_byte_can_change_or_go_missing_unnoticed(tmp_path):
    path, keys = tmp_path / "x.pt", {"model": dict, "dice": float}
    saved = {"model": {"a": torch.arange(3.0)}, "dice": 0.5, "trained_on": torch.arange(2)}
    checkpoint.save(saved, path)
    whole = path.read_bytes()
    assert checkpoint.load(path, keys)["dice"] == 0.5
    damaged = [whole + b"x", whole + bytes(4096), whole[1:]]
    damaged += [whole[:k] for k in range(0, len(whole), 7)]
    for k in range(len(whole)):
        damaged.append(whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1 :])
    for data in damaged:
        path.write_bytes(data)
        refused(path, lambda path: checkpoint.load(path, keys))


def test_the_one_before_is_kept_under_its_own_name(tmp_path):
    for epoch in range(3):
        state = {"epoch": epoch, "trained_on": None}
        checkpoint.save(state, tmp_path / "last.pt", tmp_path / "previous.pt")
    epochs = {path.name: torch.load(path)["epoch"] for path in tmp_path.iterdir()}
    assert epochs == {"last.pt": 2, "previous.pt": 1}


# -------------------------------------------------------------------------------------- strangers


class Harmful:
    """What a stranger's pickle could do."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def truncated(path):
    checkpoint.save(content(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def zeroed(path):
    checkpoint.save(content(), path)
    path.write_bytes(bytes(64) + path.read_bytes()[64:])


def bomb(path):
    """An archive that unpacks to a thousand times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50 << 20))


STRANGERS = {
    "missing": lambda path: None,
    "text": lambda path: path.write_text("not a checkpoint"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Harmful())),
    "stranger": lambda path: torch.save(content(metrics=Harmful()), path),
    "sealed stranger": lambda path: checkpoint.save(content(metrics=Harmful()), path),
    "keys": lambda path: torch.save({"state_dict": {}}, path),
    "width": lambda path: checkpoint.save(content(width=3) | {"width": 2}, path),
    "tasks": lambda path: checkpoint.save(content(names=("seg",)) | {"tasks": PUBLISHED}, path),
    "truncated": truncated,
    "zeroed": zeroed,
    "bomb": bomb,
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_checkpoint_is_refused_and_not_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    STRANGERS[kind](tmp_path / "x.pt")
    refused(tmp_path / "x.pt")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "change",
    [
        *({"width": value} for value in (-1, 0, 10**9, 2.0, None, "2")),
        *({"tasks": value} for value in (5, "seg", [], ["seg", "seg"], [["seg"]], [None])),
        *({"tasks": [value]} for value in ("../seg", "os", "column:x", "seg:x")),
        *({"sharing": value} for value in ("firm", "../hard", 5)),
        *({"encoder": value} for value in ("resnet", "torchvision:nothing", None)),
        {"dropped": ["../x"] * 1000},
        {"size": 10**9},
        {"size": -64},
        {"metrics": []},
        {"seed": torch.tensor(1)},
        {"experiment": None},
        {"split_hash": 0},
        {"model": []},
        {"model": {}},
        {"model": {5: torch.zeros(1)}},
        {"trained_on": [1]},
        {"calibration": {"cls": 2.0}},
        {"calibration": {"cls": {"temperature": 0.0}}},
        {"calibration": {"cls": {"temperature": math.nan}}},
        {"calibration": {"cls": {"temperature": "2"}}},
        {"calibration": []},
        {"settings": {"seg": []}},
        {"trained_on": torch.zeros(1, dtype=torch.int64).expand(10**12)},
    ],
    ids=lambda change: " ".join(f"{key}={str(value)[:20]}" for key, value in change.items()),
)
def test_hostile_values_are_refused(tmp_path, change):
    checkpoint.save({**content(), **change}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")


HOSTILE_WEIGHTS = {
    "sparse": lambda value: value.to_sparse(),
    "complex": lambda value: value.to(torch.complex64),
    "integers": lambda value: value.long(),
    "number": lambda value: 1.0,
    "meta": lambda value: value.to("meta"),
    "shape": lambda value: value[:1],
}


@pytest.mark.parametrize("kind", HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused(tmp_path, kind):
    hostile = content()
    name = "cls.logits.weight"
    hostile["model"][name] = HOSTILE_WEIGHTS[kind](hostile["model"][name])
    checkpoint.save(hostile, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path):
    """Views of one number in all the shapes of the widest network: three gigabytes in memory."""
    with torch.device("meta"):
        shapes = MTLNet(registry.find_tasks(PUBLISHED), width=256).state_dict()
    model = {}
    for name, value in shapes.items():
        model[name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
    checkpoint.save(content() | {"width": 256, "model": model}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"ema": 3, "model": 3},
        {"ema": {"module.seg": 1}},
        {"ema": {}},
        {"best": {}},
        {"model": {"a": torch.zeros(2)}},
    ],
    ids=str,
)
def test_a_last_pt_of_other_content_is_refused(tmp_path, change):
    checkpoint.save({**content(), "best": content(), **change}, tmp_path / "last.pt")
    refused(tmp_path / "last.pt")


# ------------------------------------------------------------------------------------------- names


def test_the_network_to_use_is_found_or_asked_for(tmp_path, monkeypatch):
    (tmp_path / "scripts").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "scripts" / "mtl_model.pt")
    with pytest.raises(InputError, match="train_mtl.py"):
        checkpoint.find()
    checkpoint.SHIPPED.touch()
    assert checkpoint.find() == checkpoint.SHIPPED  # also from another working directory
    for seed, age in ((0, 100), (1, 50), (2, 200)):
        folder = tmp_path / f"runs/mtl/seed{seed}"
        folder.mkdir(parents=True)
        (folder / "best.pt").touch()
        os.utime(folder / "best.pt", (1e9 - age, 1e9 - age))
    assert checkpoint.find().as_posix() == "runs/mtl/seed1/best.pt"
    (tmp_path / "mtl_model.pt").touch()
    assert checkpoint.find().name == "mtl_model.pt"
    assert checkpoint.find("named.pt").name == "named.pt"
