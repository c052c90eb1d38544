"""Checkpoints: round trips, half precision, damage, and files from strangers."""

import math
import os
import pickle
import zipfile

import pytest
import torch

import export
from cli import InputError
from models import MTLNet
from registry import PUBLISHED
from training import checkpoint


def content(width=2, tasks=PUBLISHED):
    return {
        "model": MTLNet(tasks, width=width, seed=1).state_dict(),
        "tasks": list(tasks),
        "width": width,
        "size": 64,
        "metrics": {"dice": 0.5, "box_iou": None},
        "experiment": "mtl",
        "seed": 1,
        "split_hash": "0" * 16,
        "border": "pet",
        "trained_on": torch.arange(5),
    }


def test_a_round_trip_gives_the_same_network(tmp_path):
    saved = content()
    checkpoint.save(saved, tmp_path / "best.pt")
    model, info = checkpoint.load_model(tmp_path / "best.pt")
    assert not model.training and info["metrics"] == saved["metrics"] and "model" not in info
    assert all(
        torch.equal(value, saved["model"][name]) for name, value in model.state_dict().items()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_the_half_precision_copy_is_half_the_size_and_nearly_the_same(tmp_path):
    saved = content(width=8)
    checkpoint.save(saved, tmp_path / "best.pt")
    export.main(export.parse_args([str(tmp_path / "best.pt"), str(tmp_path / "small.pt")]))
    assert (tmp_path / "small.pt").stat().st_size < 0.55 * (tmp_path / "best.pt").stat().st_size
    model, _ = checkpoint.load_model(tmp_path / "small.pt")
    for name, value in model.state_dict().items():
        assert torch.allclose(value.float(), saved["model"][name].float(), rtol=1e-3, atol=1e-6)
    assert torch.equal(checkpoint.load(tmp_path / "small.pt")["trained_on"], saved["trained_on"])


def copy(*paths):
    export.main(export.parse_args(list(map(str, paths))))


def test_a_copy_of_several_is_the_mean_of_their_weights(tmp_path):
    for k, known in enumerate(([1, 2], [2, 3], [9])):
        saved = content() | {"trained_on": torch.tensor(known), "seed": k}
        saved["model"] = {
            name: torch.full_like(value, k**2) for name, value in saved["model"].items()
        }
        checkpoint.save(saved, tmp_path / f"{k}.pt")
    copy(tmp_path / "1.pt", tmp_path / "2.pt", tmp_path / "0.pt", tmp_path / "mean.pt")
    kept = checkpoint.load(tmp_path / "mean.pt")
    for name, value in kept["model"].items():  # 1, 4 and 0; what only counts is the first one's
        expected = 5 / 3 if value.is_floating_point() else 1
        torch.testing.assert_close(value, torch.full_like(value, expected))
    assert (
        kept["trained_on"].tolist() == [1, 2, 3, 9] and kept["metrics"] == {} and kept["seed"] == 1
    )
    copy(tmp_path / "1.pt", tmp_path / "one.pt")
    assert checkpoint.load(tmp_path / "one.pt")["metrics"] == content()["metrics"]


@pytest.mark.parametrize(
    "other",
    [
        content(width=3),
        content(tasks=("seg", "cls")),
        *(
            content() | {key: value}
            for key, value in (
                ("split_hash", "f" * 16),
                ("border", "background"),
                ("size", 96),
                ("experiment", "uncertainty"),
            )
        ),
    ],
    ids=["width", "tasks", "split_hash", "border", "size", "experiment"],
)
def test_a_mean_of_what_does_not_belong_together_is_refused(tmp_path, other, request):
    checkpoint.save(content(), tmp_path / "a.pt"), checkpoint.save(other, tmp_path / "b.pt")
    with pytest.raises(InputError, match=f"a.pt and .*b.pt differ in {request.node.callspec.id}"):
        copy(tmp_path / "a.pt", tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()


@pytest.mark.parametrize("folder", [".", "..", "/", "here"])
def test_a_folder_is_no_file_to_write(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "here").mkdir()
    checkpoint.save(content(), tmp_path / "best.pt")
    with pytest.raises(
        InputError, match="is a folder; name the file to write last, such as .*mtl_model.pt"
    ):
        copy(tmp_path / "best.pt", folder)
    assert {path.name for path in tmp_path.rglob("*")} == {"here", "best.pt"}


def test_a_run_keeps_its_own_files(tmp_path):
    """A forgotten last argument would otherwise put a copy in the place of a run's network."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").touch()
    checkpoint.save(content(), tmp_path / "run/best.pt")
    before = (tmp_path / "run/best.pt").read_bytes()
    with pytest.raises(InputError, match="lies in a run folder"):
        copy(tmp_path / "run/best.pt", tmp_path / "run/best.pt")
    assert (tmp_path / "run/best.pt").read_bytes() == before


def test_the_default_network_fits_the_16_mb_of_the_shared_file(tmp_path):
    checkpoint.save(content(width=48), tmp_path / "best.pt")
    export.main(export.parse_args([str(tmp_path / "best.pt"), str(tmp_path / "mtl_model.pt")]))
    assert (tmp_path / "mtl_model.pt").stat().st_size < 16e6


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(content(), tmp_path / "best.pt")
    before = (tmp_path / "best.pt").read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        checkpoint.save(content(width=3), tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_no_byte_can_change_or_go_missing_unnoticed(tmp_path):
    checkpoint.save(
        {"model": {"a": torch.arange(3.0)}, "dice": 0.5, "trained_on": torch.arange(2)},
        tmp_path / "x.pt",
    )
    whole, keys = (tmp_path / "x.pt").read_bytes(), {"model": dict, "dice": float}
    assert checkpoint.load(tmp_path / "x.pt", keys)["dice"] == 0.5
    assert (
        torch.load(tmp_path / "x.pt", weights_only=True)["dice"] == 0.5
    )  # and without this project
    damaged = [
        whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1 :] for k in range(len(whole))
    ]
    damaged += [whole[:k] for k in range(0, len(whole), 7)] + [
        whole + b"x",
        whole + bytes(4096),
        whole[1:],
    ]
    for content in damaged:
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            checkpoint.load(tmp_path / "x.pt", keys)


def test_the_one_before_is_kept_under_its_own_name(tmp_path):
    for epoch in range(3):
        checkpoint.save(
            {"epoch": epoch, "trained_on": None}, tmp_path / "last.pt", tmp_path / "previous.pt"
        )
    found = {path.name: torch.load(path, weights_only=True)["epoch"] for path in tmp_path.iterdir()}
    assert found == {"last.pt": 2, "previous.pt": 1}


def test_a_checkpoint_of_an_earlier_version_is_used_with_a_warning(tmp_path, capsys):
    earlier = content()
    del earlier["trained_on"]
    torch.save(earlier, tmp_path / "old.pt")
    assert checkpoint.load_model(tmp_path / "old.pt")[1]["trained_on"] is None
    assert "does not say which images" in capsys.readouterr().err
    export.main(export.parse_args([str(tmp_path / "old.pt"), str(tmp_path / "new.pt")]))
    assert checkpoint.load_model(tmp_path / "new.pt")[1]["trained_on"] is None


class Harmful:
    """What a stranger's pickle could do."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def write_stranger(path):
    torch.save({**content(), "metrics": Harmful()}, path)


def write_sealed_stranger(path):
    checkpoint.save({**content(), "metrics": Harmful()}, path)


def write_bomb(path):
    """An archive that unpacks to a thousand times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50 << 20))


def write_pickle(path):
    path.write_bytes(pickle.dumps(Harmful()))


def write_truncated(path):
    checkpoint.save(content(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def write_flipped(path):
    checkpoint.save(content(), path)
    data = bytearray(path.read_bytes())
    data[:64] = bytes(64)
    path.write_bytes(data)


def write_other_keys(path):
    torch.save({"state_dict": {}}, path)


def write_other_width(path):
    checkpoint.save({**content(width=3), "width": 2}, path)


def write_other_tasks(path):
    checkpoint.save({**content(tasks=("seg",)), "tasks": list(PUBLISHED)}, path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.write_text("not a checkpoint"),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: torch.save(torch.zeros(3), path),
        write_stranger,
        write_pickle,
        write_truncated,
        write_flipped,
        write_other_keys,
        write_other_width,
        write_other_tasks,
        write_sealed_stranger,
        write_bomb,
    ],
    ids=[
        "missing",
        "text",
        "empty",
        "folder",
        "tensor",
        "stranger",
        "pickle",
        "truncated",
        "damaged",
        "keys",
        "width",
        "tasks",
        "sealed stranger",
        "bomb",
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pt")
    with pytest.raises(InputError) as error:
        checkpoint.load_model(tmp_path / "x.pt")
    assert "x.pt" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"width": -1},
        {"width": 0},
        {"width": 10**9},
        {"width": 2.0},
        {"width": None},
        {"width": "2"},
        {"tasks": 5},
        {"tasks": "seg"},
        {"tasks": []},
        {"tasks": ["seg", "seg"]},
        {"tasks": [["seg"]]},
        {"tasks": [None]},
        {"size": 10**9},
        {"size": -64},
        {"metrics": []},
        {"seed": torch.tensor(1)},
        {"experiment": None},
        {"split_hash": 0},
        {"model": []},
        {"model": {}},
        {"model": {5: torch.zeros(1)}},
        {"trained_on": torch.zeros(3)},
        {"trained_on": [1]},
        {"calibration": {"cls": 2.0}},
        {"calibration": {"cls": {"temperature": 0.0}}},
        {"calibration": {"cls": {"temperature": math.nan}}},
        {"calibration": {"cls": {"temperature": "2"}}},
        {"calibration": []},
        {"trained_on": torch.zeros(1, dtype=torch.int64).expand(10**12)},
    ],
    ids=lambda change: " ".join(f"{key}={str(value)[:20]}" for key, value in change.items()),
)
def test_hostile_values_are_refused_in_one_sentence(tmp_path, change):
    checkpoint.save({**content(), **change}, tmp_path / "x.pt")
    with pytest.raises(InputError) as error:
        checkpoint.load_model(tmp_path / "x.pt")
    assert "x.pt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "replace",
    [
        lambda value: value.to_sparse(),
        lambda value: value.to(torch.complex64),
        lambda value: value.long(),
        lambda value: 1.0,
        lambda value: value.to("meta"),
        lambda value: value[:1],
    ],
    ids=["sparse", "complex", "integers", "number", "meta", "shape"],
)
def test_hostile_weights_are_refused(tmp_path, replace):
    hostile = content()
    hostile["model"] = {
        name: replace(value) if name == "cls.logits.weight" else value
        for name, value in hostile["model"].items()
    }
    checkpoint.save(hostile, tmp_path / "x.pt")
    with pytest.raises(InputError, match="x.pt"):
        checkpoint.load_model(tmp_path / "x.pt")


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path):
    """Views of one number in all the shapes of the widest network: three gigabytes, if they were taken at their word."""
    with torch.device("meta"):
        shapes = {name: value for name, value in MTLNet(PUBLISHED, width=256).state_dict().items()}
    model = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for name, value in shapes.items()
    }
    checkpoint.save({**content(), "width": 256, "model": model}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="more weights than its file has bytes"):
        checkpoint.load_model(tmp_path / "x.pt")


def test_the_network_to_use_is_found_or_asked_for(tmp_path, monkeypatch):
    (tmp_path / "scripts").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "BESIDE", tmp_path / "scripts" / "mtl_model.pt")
    with pytest.raises(InputError, match="train_mtl.py"):
        checkpoint.find()
    checkpoint.BESIDE.touch()
    assert checkpoint.find() == checkpoint.BESIDE  # also from another working directory
    for seed, age in ((0, 100), (1, 50), (2, 200)):
        folder = tmp_path / f"runs/mtl/seed{seed}"
        folder.mkdir(parents=True)
        (folder / "best.pt").touch()
        os.utime(folder / "best.pt", (1e9 - age, 1e9 - age))
    assert checkpoint.find().as_posix() == "runs/mtl/seed1/best.pt"
    (tmp_path / "mtl_model.pt").touch()
    assert checkpoint.find().name == "mtl_model.pt"
    assert checkpoint.find("named.pt").name == "named.pt"
