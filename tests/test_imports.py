"""Imports point down only: scripts -> engine -> parts -> leaves. No script is imported by anything."""

import ast

import pytest

from conftest import ROOT

# What each file may import of ours.
ALLOWED = {
    "cli": set(),
    "data_split": set(),
    "photographs": set(),
    "synthetic_shapes": set(),
    "synthetic": {"cli", "synthetic_shapes"},
    "models": set(),
    "utils": set(),
    "lock": {"cli"},
    "data_index": {"cli"},
    "data_check": {"cli", "data_index"},
    "data_oxford": {"cli", "photographs"},
    "data_sample": {"cli", "photographs"},
    "data_prepare": {"cli", "data_check", "data_oxford", "data_sample", "data_split", "lock", "photographs", "synthetic"},
    "data_report": {"data_check", "data_index"},
    "data_rechunk": {"cli", "data_check", "data_report", "lock"},
    "dataloader_mtl": {"cli", "data_check"},
    "known_images": {"data_check", "data_split"},
    "targets": {"cli", "dataloader_mtl"},
    "devices": {"cli"},
    "checkpoint": {"cli", "data_check", "known_images", "models"},
    "run_folder": {"cli", "checkpoint", "lock"},
    "lettering": {"photographs"},
    "mtl_vis": {"cli", "checkpoint", "data_check", "dataloader_mtl", "lettering", "photographs"},
    "training_step": {"cli", "dataloader_mtl"},
    "engine": {"cli", "data_check", "dataloader_mtl", "devices", "known_images", "models", "utils", "checkpoint", "run_folder",
               "mtl_vis", "targets", "training_step"},
    "evaluate": {"cli", "checkpoint", "dataloader_mtl", "devices", "engine", "known_images", "models", "targets"},
    "repeat": {"cli", "data_check", "records"},
    "experiments": {"cli", "repeat"},
    "verdict": set(),
    "records": {"cli"},
    "figures": {"lettering", "verdict"},
    "page": {"cli", "records", "verdict"},
    "results": {"cli", "figures", "page", "records", "verdict"},
    **{script: {"cli", "engine", "models", "utils"} for script in (
        "train_mtl", "train_baseline", "train_ablation_cls", "train_ablation_bbox", "oeq_uncertainty", "oeq_splits")},
}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down_only(path):
    ours = {other.stem for other in ROOT.glob("*.py")}
    assert path.stem in ALLOWED, "a new file: say here what it may import"
    assert imported(path) & ours <= ALLOWED[path.stem]
