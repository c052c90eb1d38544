"""What starting a script imports: --help and mistakes are answered without PyTorch, a photograph
without what only others need.
"""

import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text())
SLOW = {"torch", "torchvision", "matplotlib", "scipy"}  # from 0.3 s on an idle machine
# Runs a script as its user does, then names what was imported.
CODE = """
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *sys.modules, file=sys.stderr))
script = sys.argv.pop(1)
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def imports_of(script, *args, status=0):
    """Names of all modules that were imported when a script ended, in an interpreter of its own."""
    command = [sys.executable, "-c", CODE, ROOT / script, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return set(done.stderr.splitlines()[-1].removeprefix("imported: ").split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_takes_no_slow_import(script):
    imported = imports_of(script, "--help")
    assert imported & SLOW == set()
    if script == "mtl_vis.py":
        assert imported & {"numpy", "h5py", "PIL"} == set()


def test_a_mistake_takes_no_slow_import():
    assert imports_of("train_mtl.py", "--epochs", "-1", status=2) & SLOW == set()


def test_a_training_that_is_refused_takes_pytorch_alone(tmp_path):
    imported = imports_of("train_mtl.py", "--data", str(tmp_path / "nowhere"), status=2)
    assert imported & {"torchvision", "torch._dynamo", "matplotlib", "scipy"} == set()


def test_a_photograph_takes_pytorch_and_matplotlib_alone(tmp_path):
    Image.new("RGB", (90, 60), (120, 90, 60)).save(tmp_path / "a.jpg")
    options = str(tmp_path / "a.jpg"), "--out", str(tmp_path / "mask.png")
    imported = imports_of("mtl_vis.py", *options)
    assert {"torch", "matplotlib"} <= imported
    # torch._dynamo alone takes as long as torch; torchvision imports it.
    others = {"torchvision", "torch._dynamo", "sympy", "scipy", "dataloader_mtl"}
    assert imported & others == set()
