"""export.py: what is taken away is the network, whole or some of its tasks; what cannot be is
refused."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_predict import write_network

import export
from cli import InputError
from inference import onnx, tta
from training import checkpoint

TASKS = ("seg", "cls", "bbox", "border", "distance", "recon", "column:breed", "column:age")
SETTINGS = {
    "column:breed": {"classes": ["boxer", "pug", "sphynx"]},
    "column:age": {"mean": 3.0, "deviation": 2.0},
}
METRICS = {"dice": 0.75, "loss_seg": 0.5, "accuracy": 0.9, "loss_cls": 0.3, "breed_accuracy": 0.5}


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A checkpoint of all tasks whose statistics are of images, so that its outputs are as large
    as usual."""
    path = tmp_path_factory.mktemp("network") / "best.pt"
    write_network(path, TASKS, settings=SETTINGS)
    model, info = checkpoint.load_model(path)
    generator = torch.Generator().manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator))
    content = info | {"model": model.state_dict(), "metrics": METRICS, "experiment": "mine"}
    checkpoint.save(content | {"border": "ignore", "trained_on": torch.arange(5)}, path)
    return path


@pytest.fixture(scope="session")
def graph(network, tmp_path_factory):
    """The network as ONNX, whole and in half precision."""
    for package in onnx.PACKAGES:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exported")
    run(network, folder / "net.onnx")
    run("--half", network, folder / "half.onnx")
    return folder / "net.onnx"


def run(*args):
    export.main(export.parse_args([str(arg) for arg in args]))


def outputs(path, image):
    model, _ = checkpoint.load_model(path)
    with torch.no_grad():
        return model(torch.from_numpy(image))


def images(n, height, width):
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8)


# ------------------------------------------------------------ ONNX


@pytest.mark.slow
def test_onnx_gives_what_pytorch_gives_of_any_photograph(network, graph):
    model, info = checkpoint.load_model(network)
    session = onnx.open_session(str(graph), "cpu")
    names = [output.name for output in session.get_outputs()]
    assert names == ["alpha", "class", "box", *TASKS]
    (image,) = session.get_inputs()
    assert (image.type, image.shape) == ("tensor(uint8)", [1, "height", "width", 3])
    for height, width in ((32, 32), (33, 400), (777, 50), (1, 1), (255, 257)):
        photo = images(1, height, width).transpose(0, 2, 3, 1)
        found = dict(zip(names, session.run(None, {"image": photo}), strict=True))
        pixels = torch.from_numpy(photo[0].transpose(2, 0, 1).copy())
        seen = tta.look(model, pixels, info["size"])
        assert found["alpha"].shape == (height, width)
        assert found["alpha"].min() >= 0 and found["alpha"].max() <= 1
        if max(height, width) <= 3 * min(height, width):  # else predict.py takes windows
            right = seen.outputs["bbox"] * torch.tensor([width, height, width, height])
            np.testing.assert_allclose(found["box"], right, atol=0.02 * max(height, width))
            np.testing.assert_allclose(found["class"].sum(), 1, atol=1e-5)


@pytest.mark.slow
def test_half_precision_and_what_the_metadata_hold(graph):
    half = graph.with_name("half.onnx")
    assert half.stat().st_size < graph.stat().st_size
    photo = images(1, 90, 120).transpose(0, 2, 3, 1)
    found = []
    for path in (graph, half):
        session = onnx.open_session(str(path), "cpu")
        found.append(session.run(["alpha", "seg"], {"image": photo}))
    masks = [one[1] > 0 for one in found]
    assert 2 * (masks[0] & masks[1]).sum() / max(1, masks[0].sum() + masks[1].sum()) > 0.99
    given = session.get_modelmeta().custom_metadata_map
    assert (given["project"], given["border"], given["size"]) == ("pets", "ignore", "32")
    assert json.loads(given["settings"]) == SETTINGS and json.loads(given["metrics"]) == METRICS
    assert not {"model", "trained_on", "trained_on_looks"} & given.keys()


@pytest.mark.slow
def test_the_guides_lines_cut_a_photograph_out(graph, tmp_path, monkeypatch):
    text = (ROOT / "docs/inference.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import numpy.*?)```", text, re.S)
    (tmp_path / "pets.onnx").symlink_to(graph)
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "my_cat.jpg", exif=turned)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert Image.open("my_cat.png").size == (90, 120) and Image.open("my_cat.png").mode == "RGBA"


@pytest.mark.slow
def test_predict_runs_an_onnx_file(network, graph, tmp_path):
    from test_predict import pixels, rows, run

    Image.fromarray(images(1, 60, 80)[0].transpose(1, 2, 0)).save(tmp_path / "a.png")
    for path in (network, graph):
        run(path, tmp_path / "a.png", "--out", tmp_path / path.suffix[1:], "--cutout")
    for kind in ("masks", "cutouts"):
        one, other = (
            pixels(tmp_path / name / kind / "a.png").astype(int) for name in ("pt", "onnx")
        )
        assert np.abs(one - other).mean() < 3
    assert rows(tmp_path / "pt")[0].keys() == rows(tmp_path / "onnx")[0].keys()


def test_weights_of_a_resize_are_those_of_an_antialiased_one():
    image = torch.from_numpy(images(1, 75, 40))
    right = torch.nn.functional.interpolate(
        image.float(), (16, 16), mode="bilinear", antialias=True
    )
    found = onnx.Photograph.resized(image, 16)
    assert (found - right).abs().max() <= 0.51
    found = onnx.Photograph.resized(image[..., :5, :5], 16)
    right = torch.nn.functional.interpolate(image[..., :5, :5].float(), (16, 16), mode="bilinear")
    assert (found - right).abs().max() <= 0.51


def test_without_its_packages_an_onnx_file_is_refused_before_work(network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="requirements-onnx.txt"):
        run(network, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_written_leaves_what_was_there(network, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(onnx, "require", lambda: None)
    (tmp_path / "net.onnx").write_bytes(b"what was there")
    with pytest.raises(InputError, match="no such operator"):
        run(network, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == b"what was there"
    with pytest.raises(InputError, match="net.onnx"):
        onnx.load_model(tmp_path / "net.onnx")


# ------------------------------------------------------------ some tasks


def test_statistics_beyond_half_precision_are_kept(network, tmp_path):
    content = checkpoint.load(network)
    name = next(key for key in content["model"] if key.endswith("running_var"))
    content["model"][name][0] = 85_000.0  # infinite in half precision
    checkpoint.save(content, tmp_path / "large.pt")
    run(tmp_path / "large.pt", tmp_path / "half.pt")
    kept = checkpoint.load(tmp_path / "half.pt")["model"]
    assert kept[name][0] == 85_000 and kept[name].dtype == torch.float32
    others = [key for key in kept if kept[key].is_floating_point() and "running_" not in key]
    assert {kept[key].dtype for key in others} == {torch.float16}


@pytest.mark.parametrize("is_first", [True, False])
def test_some_tasks_are_taken_out_alone(network, tmp_path, is_first, capsys):
    words, files = ("--tasks", "column:breed", "seg"), (network, tmp_path / "two.pt")
    run(*(words + files if is_first else files + words))
    assert "seg, column:breed" in capsys.readouterr().out
    _, info = checkpoint.load_model(tmp_path / "two.pt")
    assert info["settings"] == {"column:breed": SETTINGS["column:breed"]}
    assert info["metrics"] == {"dice": 0.75, "loss_seg": 0.5, "breed_accuracy": 0.5}
    assert info["trained_on"].tolist() == list(range(5))
    run(network, tmp_path / "all.pt")
    image = images(2, 65, 90)
    one, whole = (outputs(tmp_path / name, image)["seg"] for name in ("two.pt", "all.pt"))
    assert torch.equal(one, whole)


# ------------------------------------------------------------ bad input


@pytest.mark.parametrize("target", ["net.bin", "net", ".", "run/net.pt", "run/net.onnx"])
def test_targets_that_make_no_sense_are_refused(network, tmp_path, target):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(InputError, match="file to write last"):
        run(network, tmp_path / target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "run"]


def test_tasks_that_it_does_not_have_are_refused(network, tmp_path):
    with pytest.raises(InputError, match="depth"):
        run("--tasks", "seg", "depth", network, tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["best.pt"], [], ["--tasks", "seg", "best.pt"]])
def test_a_network_without_a_target_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        export.parse_args(words)
    assert stop.value.code == 2 and "the file to write" in capsys.readouterr().err
