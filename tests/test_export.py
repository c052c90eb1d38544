"""export.py: what is taken away is the network, whole or some of its tasks; what cannot be is refused and leaves nothing."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from filelock import FileLock
from PIL import Image

import export
import models
import registry
from cli import InputError
from models import MTLNet
from training import checkpoint, onnx

TASKS = ("seg", "cls", "bbox", "border", "distance", "recon", "column:breed", "column:age")
SETTINGS = {
    "column:breed": {"classes": ["boxer", "pug", "sphynx"]},
    "column:age": {"mean": 3.0, "deviation": 2.0},
}
METRICS = {"dice": 0.75, "loss_seg": 0.5, "accuracy": 0.9, "loss_cls": 0.3, "breed_accuracy": 0.5}


def write_network(path, tasks=TASKS, seed=0):
    """A checkpoint of a network with weights of no start and statistics of images, so that its outputs are as large as usual."""
    settings = {name: value for name, value in SETTINGS.items() if name in tasks}
    made = registry.tasks(tasks)
    for name, task in made.items():
        task.settings = settings.get(name, {})
    model = MTLNet(made.values(), width=4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        for _ in range(30):
            model(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator))
    checkpoint.save(
        {
            "model": model.state_dict(),
            "tasks": list(tasks),
            "width": 4,
            "size": 64,
            "metrics": METRICS,
            "experiment": "mine",
            "seed": seed,
            "split_hash": "abc",
            "border": "ignore",
            "settings": settings,
            "trained_on": torch.arange(5),
            "trained_on_looks": torch.zeros(5, 32, dtype=torch.uint8),
        },
        path,
    )
    return path


def run(*args):
    export.main(export.parse_args([str(arg) for arg in args]))


def outputs(path, image):
    model, _ = checkpoint.load_model(path)
    with torch.no_grad():
        return model(torch.from_numpy(image))


def images(n, height, width):
    return np.random.default_rng(height * width).integers(
        0, 256, (n, 3, height, width), dtype=np.uint8
    )


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "best.pt")


@pytest.fixture(scope="session")
def graph(network, tmp_path_factory):
    """The network with all tasks as ONNX, written by the real script; once for all processes, as it takes a while."""
    for package in onnx.PACKAGES:
        pytest.importorskip(package)
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "exported"
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            place.mkdir()
            done = subprocess.run(
                [sys.executable, ROOT / "export.py", network, place / "net.onnx"],
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1
            assert [path.name for path in place.iterdir()] == ["net.onnx"]
    return place / "net.onnx"


@pytest.fixture(scope="session")
def session(graph):
    import onnxruntime

    return onnxruntime.InferenceSession(graph)


# ------------------------------------------------------------------------------------------------------------------ ONNX


@pytest.mark.parametrize(
    "n, height, width",
    [
        (1, 32, 32),
        (2, 33, 32),
        (3, 47, 64),
        (1, 63, 65),
        (2, 97, 130),
        (1, 32, 777),
        (1, 777, 33),
        (3, 128, 255),
        (1, 256, 256),
        (2, 255, 257),
        (1, 640, 361),
        (1, 777, 777),
    ],
)
def test_onnx_gives_what_pytorch_gives_at_every_batch_and_side(network, session, n, height, width):
    image = images(n, height, width)
    expected = outputs(network, image)
    found = session.run(None, {"image": image})
    assert [output.name for output in session.get_outputs()] == list(TASKS) == list(expected)
    for value, right in zip(found, expected.values()):
        assert value.dtype == np.float32 and value.shape == tuple(right.shape)
        np.testing.assert_allclose(value, right.numpy(), rtol=0, atol=1e-4)


def test_the_places_of_cells_are_the_same_while_exporting(monkeypatch):
    usual = [models.cell_positions(n, "cpu") for n in range(1, 40)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for n, expected in enumerate(usual, 1):
        assert torch.allclose(models.cell_positions(n, "cpu"), expected, rtol=0, atol=1e-6)


def test_onnx_says_what_it_takes_and_what_it_is(session):
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == (
        "image",
        "tensor(uint8)",
        ["batch", 3, "height", "width"],
    )
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes["seg"] == ["batch", 1, "height", "width"] and shapes["bbox"] == ["batch", 4]
    assert shapes["recon"] == ["batch", 3, "recon_2", "recon_3"]
    said = session.get_modelmeta().custom_metadata_map
    assert (said["project"], said["experiment"], said["border"], said["size"]) == (
        "pets",
        "mine",
        "ignore",
        "64",
    )
    assert (
        json.loads(said["tasks"]) == list(TASKS)
        and json.loads(said["settings"]) == SETTINGS
        and said["version"]
    )
    assert json.loads(said["metrics"]) == METRICS
    classes = json.loads(said["classes"])
    assert classes["column:breed"] == ["boxer", "pug", "sphynx"] and classes["cls"][:2] == [
        "cat",
        "dog",
    ]
    assert not {"model", "trained_on", "trained_on_looks"} & said.keys()


def test_the_five_lines_of_the_guide_look_at_a_photograph(network, graph, tmp_path, monkeypatch):
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(encoding="utf-8"), re.S
    )
    assert len(code.strip().splitlines()) == 5
    (tmp_path / "pets.onnx").symlink_to(graph)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "my_cat.jpg")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    with Image.open("my_cat.jpg") as image:
        image = (
            np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))
            .transpose(2, 0, 1)[None]
            .copy()
        )
    expected = outputs(network, image)
    for name in ("seg", "cls", "bbox"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4)


def test_without_its_packages_an_onnx_file_is_refused_before_work(network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(checkpoint, "mean", None)
    with pytest.raises(
        InputError, match="onnx, onnxscript, onnxruntime.*pip install -r requirements-onnx.txt"
    ):
        run(network, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_gives_something_else_is_not_written(network, graph, tmp_path, monkeypatch):
    """Faults put into the exporter: a graph of another network, one that is bound to a side, and no graph at all."""
    other = write_network(tmp_path / "other.pt", seed=1)
    model, info = checkpoint.load_model(other)
    data = graph.read_bytes()
    with pytest.raises(InputError, match="ONNX gives another seg than PyTorch at 32 x 32 px"):
        onnx.check(data, model)

    import onnx as format

    bound = format.load_from_string(data)
    bound.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
    model, _ = checkpoint.load_model(network)
    with pytest.raises(InputError, match="ONNX cannot run this network at 65 x 47 px"):
        onnx.check(bound.SerializeToString(), model)

    def fail(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    (tmp_path / "net.onnx").write_bytes(b"what was there")
    with pytest.raises(InputError, match="cannot be written as ONNX .no such operator"):
        run(network, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == b"what was there" and len(
        list(tmp_path.iterdir())
    ) == 2


# ----------------------------------------------------------------------------------------------------------- some tasks


def test_statistics_beyond_half_precision_are_kept(network, tmp_path):
    """A variance over 65,504 is infinite in half precision, and its channel would be silent from then on."""
    content = checkpoint.load(network)
    name = next(
        key for key in content["model"] if key.startswith("seg.") and key.endswith("running_var")
    )
    content["model"][name][0] = 85_000.0
    checkpoint.save({key: value for key, value in content.items()}, tmp_path / "large.pt")
    export.main(export.parse_args([str(tmp_path / "large.pt"), str(tmp_path / "half.pt")]))
    kept = checkpoint.load(tmp_path / "half.pt")["model"]
    assert kept[name][0] == 85_000 and kept[name].dtype == torch.float32
    assert all(value.isfinite().all() for value in kept.values())
    assert {
        value.dtype
        for key, value in kept.items()
        if value.is_floating_point() and "running_" not in key
    } == {torch.float16}


@pytest.mark.parametrize("words", [["--tasks", "seg", "FILES"], ["FILES", "--tasks", "seg"]])
def test_segmentation_is_taken_out_alone(network, tmp_path, words, capsys):
    run(
        *[
            part
            for word in words
            for part in ((network, tmp_path / "seg.pt") if word == "FILES" else (word,))
        ]
    )
    assert capsys.readouterr().out.endswith("mine seed 0: seg; validation Dice 0.7500\n")
    model, info = checkpoint.load_model(tmp_path / "seg.pt")
    assert (
        info["tasks"] == ["seg"]
        and info["settings"] == {}
        and info["metrics"] == {"dice": 0.75, "loss_seg": 0.5}
    )
    assert info["trained_on"].tolist() == list(range(5)) and info["border"] == "ignore"
    run(network, tmp_path / "all.pt")
    image = images(2, 65, 90)
    assert torch.equal(
        outputs(tmp_path / "seg.pt", image)["seg"], outputs(tmp_path / "all.pt", image)["seg"]
    )
    assert (tmp_path / "seg.pt").stat().st_size < (tmp_path / "all.pt").stat().st_size


def test_some_tasks_keep_the_networks_order_and_what_they_learned(network, tmp_path):
    run("--tasks", "column:breed", "seg", network, tmp_path / "two.pt")
    _, info = checkpoint.load_model(tmp_path / "two.pt")
    assert info["tasks"] == ["seg", "column:breed"] and info["settings"] == {
        "column:breed": SETTINGS["column:breed"]
    }
    assert info["metrics"] == {"dice": 0.75, "loss_seg": 0.5, "breed_accuracy": 0.5}


def test_some_tasks_as_onnx(network, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(onnx, "require", lambda: None)
    monkeypatch.setattr(
        onnx, "write", lambda model, info, path: (written.append((model, info)), path.touch())
    )
    run("--tasks", "column:age", "cls", network, tmp_path / "two.onnx")
    ((model, info),) = written
    image = images(2, 65, 90)
    expected, found = outputs(network, image), model(torch.from_numpy(image))
    assert list(found) == info["tasks"] == ["cls", "column:age"] and not model.training
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "target, words",
    [
        ("net.bin", "neither .pt nor .onnx"),
        ("net", "neither .pt nor .onnx"),
        (".", "is a folder"),
        ("run/net.pt", "run folder"),
        ("run/net.onnx", "run folder"),
    ],
)
def test_targets_that_make_no_sense_are_refused(network, tmp_path, target, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(InputError, match=words):
        run(network, tmp_path / target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "run"]


def test_tasks_that_it_does_not_have_are_refused(network, tmp_path):
    with pytest.raises(
        InputError, match="--tasks depth: the network has none of that name; its tasks are seg, cls"
    ):
        run("--tasks", "seg", "depth", network, tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["best.pt"], [], ["--tasks", "seg", "best.pt"]])
def test_a_network_without_a_target_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        export.parse_args(words)
    assert stop.value.code == 2 and "the file to write" in capsys.readouterr().err
