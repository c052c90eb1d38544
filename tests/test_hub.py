"""The network through torch.hub, as a process that knows nothing of this project loads it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, copy_project
from PIL import Image

import hubconf
from data.sources import synthetic
from training import checkpoint

LOAD = f"network = torch.hub.load({str(ROOT)!r}, 'pets', source='local'%s)\n"
LOOK = """
image = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    outputs = network(image)
torch.save(outputs, 'outputs.pt')
"""


def python(place, code):
    """Run a script that lies in another folder."""
    (place / "theirs.py").write_text("import sys, torch\n" + code)
    done = subprocess.run([sys.executable, "theirs.py"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_the_networks(outputs, path):
    """Outputs are what a checkpoint's network gives for the image above."""
    model, _ = checkpoint.load_model(path)
    image = torch.randint(
        0, 256, (2, 3, 70, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        expected = model(image)
    assert outputs.keys() == expected.keys() and all(
        torch.equal(outputs[name], expected[name]) for name in expected
    )


def test_the_network_is_ready_to_call_from_anywhere(tmp_path):
    assert (
        python(tmp_path, LOAD % "" + LOOK + "print(network.training, network.size)")
        == "False 256\n"
    )
    outputs = torch.load(tmp_path / "outputs.pt")
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "seg": (2, 1, 70, 90),
        "cls": (2, 2),
        "bbox": (2, 4),
        "border": (2, 3, 70, 90),
    }
    assert_the_networks(outputs, ROOT / checkpoint.DEFAULT)


def test_the_network_comes_from_a_repository(tmp_path):
    """As torch.hub takes it: an archive with one folder, whose name says repository and branch."""
    copy = tmp_path / "archive" / "pets-main"
    copy.mkdir(parents=True)
    copy_project(copy)
    shutil.copy(ROOT / checkpoint.DEFAULT, copy)
    shutil.make_archive(str(tmp_path / "main"), "zip", copy.parent)
    code = (
        "import shutil\ntorch.hub.set_dir('hub')\n"
        "torch.hub.download_url_to_file = lambda url, target, **options: shutil.copy('main.zip', target)\n"
        "network = torch.hub.load('somebody/pets:main', 'pets', trust_repo=True, skip_validation=True, verbose=False)\n"
    )
    python(tmp_path, code + LOOK)
    assert_the_networks(torch.load(tmp_path / "outputs.pt"), ROOT / checkpoint.DEFAULT)


def test_half_precision_gives_nearly_the_same_mask():
    pet, *_ = synthetic.draw_pet(np.random.default_rng(50), 10)
    image = torch.from_numpy(np.array(Image.fromarray(pet).resize((128, 128)))).permute(2, 0, 1)
    network = hubconf.pets()
    with torch.no_grad():
        whole = network(image[None])["seg"] > 0
        half = network.half()(image[None])["seg"] > 0
    assert whole.any() and (whole & half).sum() / (whole | half).sum() > 0.95


def test_what_torch_hub_lists():
    assert [
        name
        for name, value in vars(hubconf).items()
        if callable(value) and not name.startswith("_")
    ] == ["pets"]
    assert "seg" in hubconf.pets.__doc__ and "(B, 3, H, W)" in hubconf.pets.__doc__


@pytest.mark.parametrize("first", [True, False], ids=["imported before", "imported after"])
def test_modules_of_our_names_stay_theirs(tmp_path, first):
    (tmp_path / "data").mkdir()
    for name in ("models", "utils", "cli", "data/__init__"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    own = "import models, utils, cli, data\n"
    assert (
        python(
            tmp_path,
            (own if first else "")
            + LOAD % ""
            + LOOK
            + own
            + "print(models.MINE, utils.MINE, cli.MINE, data.MINE)\n"
            "print([name for name in sys.modules if name.startswith('training')])",
        )
        == "True True True True\n[]\n"
    )
    assert_the_networks(torch.load(tmp_path / "outputs.pt"), ROOT / checkpoint.DEFAULT)


def test_another_network_and_one_that_is_not_there(tmp_path):
    content = checkpoint.load(ROOT / checkpoint.DEFAULT)
    checkpoint.save(content | {"size": 128}, tmp_path / "other.pt")
    code = (
        LOAD % ", checkpoint='other.pt'"
        + LOOK
        + "print(network.size)\ntry:\n    "
        + LOAD % ", checkpoint='none.pt'"
    )
    assert python(tmp_path, code + "except Exception as error:\n    print(error)") == (
        "128\nthere is no checkpoint none.pt; train one with 'python train_mtl.py' or name another\n"
    )
    assert_the_networks(torch.load(tmp_path / "outputs.pt"), tmp_path / "other.pt")
