"""The trained networks that come along: they are what docs/network.md says of them, and work right
after a clone.
"""

import pytest
from conftest import ROOT
from warm import run_script

from data.sources.synthetic import draw_dataset
from models import count_parameters
from training import checkpoint

SCRATCH = "mtl_model_scratch.pt"


@pytest.mark.parametrize(
    "name, encoder, experiment, parameters, temperature, errors",
    [
        (checkpoint.DEFAULT, "efficientnet_lite2", "network", 5_468_759, 1.0, (0.0022, 0.0022)),
        (SCRATCH, "unet", "scratch", 3_228_059, 1.19, (0.0098, 0.0099)),
    ],
    ids=str,
)
def test_what_the_card_says_of_it(name, encoder, experiment, parameters, temperature, errors):
    model, info = checkpoint.load_model(ROOT / name)
    assert (ROOT / name).stat().st_size < 16e6 and count_parameters(model) == parameters
    tasks = {"seg", "cls", "bbox"} | ({"border"} if name == checkpoint.DEFAULT else set())
    assert set(info["tasks"]) == tasks
    assert (model.backbone.name, info["experiment"]) == (encoder, experiment)
    assert (info["size"], info["border"], len(info["trained_on"])) == (256, "pet", 2937)
    known = info["calibration"]["cls"]
    assert (round(known["temperature"], 2), known["n"]) == (temperature, 367) and model.task[
        "cls"
    ].temperature == known["temperature"]
    assert (round(known["ece_before"], 4), round(known["ece_after"], 4)) == errors
    weights = checkpoint.load(ROOT / name)["model"]
    assert all(value.isfinite().all() for value in weights.values())
    assert {
        (key.rpartition(".")[2].startswith("running_"), value.dtype.itemsize)
        for key, value in weights.items()
        if value.is_floating_point()
    } == {(False, 2), (True, 4)}


def test_it_looks_at_a_photograph_at_once(tmp_path):
    draw_dataset(tmp_path / "pets", 1)
    photograph = next((tmp_path / "pets" / "images").iterdir())
    done = run_script("mtl_vis.py", photograph, "--out", tmp_path / "mask.png")
    assert done.returncode == 0, done.stderr
    assert (
        f"drawn with {checkpoint.DEFAULT}" in done.stdout and "of the picture is pet" in done.stdout
    )
    assert (tmp_path / "mask.png").stat().st_size > 10_000
