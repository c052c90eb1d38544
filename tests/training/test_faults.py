"""Kills, damaged input and files that change under workers: a little of what benchmarks/soak.py does by the hour."""

import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, rechunk, write_data
from torch.utils.data import DataLoader

from cli import InputError
from dataloader_mtl import EpochBatches, MTLDataset, as_it_is, batches, make_loader

sys.path.insert(0, str(ROOT / "benchmarks"))

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="soak.py forks")


# -------------------------------------------------------------------------------------------------- the soak, short


@forks
def test_runs_that_were_killed_and_input_that_was_damaged(tmp_path):
    """The seed begins with an evaluation, a re-chunking, a preparation and a training; the fuzz tries each kind of input."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks/soak.py",
            "--kills",
            "4",
            "--fuzz",
            "31",
            "--seed",
            "4",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert (
        results["kills"] >= 4
        and all(results["kills_by_phase"].values())
        and results["kills_at_saves"] > 0
    )
    assert (
        results["inputs"] == 31 and len(results["inputs_by_kind"]) == 30 and results["refused"] > 10
    )
    assert results["failures"] == results["wrong"] == 0
    assert list(tmp_path.iterdir()) == []


@forks
def test_the_soak_finds_what_it_looks_for(tmp_path):
    """A difference of one bit, an unreadable record, a script that hangs, crashes, fails or accepts what is wrong."""
    from soaking import fuzz, kills
    from soaking.server import Outcome

    weights = {"a": [1, {"w": torch.tensor([1.0, 2.0])}], "seconds": 3}
    other = {"a": [1, {"w": torch.tensor([1.0, 2.0]).nextafter(torch.tensor(9.0))}], "seconds": 4}
    assert kills.difference(weights, weights, "x") is None
    assert "w: tensors differ" in kills.difference(weights, other, "x")
    assert kills.without_times(weights).keys() == {"a"}

    (tmp_path / "log.csv").write_text("epoch,loss\n1,0.5\n2\n")
    with pytest.raises(ValueError, match="incomplete"):
        kills.read(tmp_path / "log.csv")
    torch.save(weights, tmp_path / "last.pt")
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:-300])
    with pytest.raises(RuntimeError):
        kills.read(tmp_path / "last.pt")

    def judge(status, err, expect="any"):
        return fuzz.judge(Outcome(status, "", err, 0.1), expect, tmp_path)

    assert judge(0, "") is None and judge(2, "evaluate.py: the file is wrong") is None
    assert judge(2, "evaluate.py: the file is wrong", "refuse") is None
    assert "hangs" in judge(None, "") and "status -11" in judge(-11, "")
    assert "status 1" in judge(1, "") and "Traceback" in judge(
        0, "Traceback (most recent call last)"
    )
    assert "does not say why" in judge(2, "some words") and "not refused" in judge(0, "", "refuse")
    assert (
        "refused: a.py: no" in judge(2, "a.py: no", "accept")
        and judge(0, "a.py: warning: so", "accept") is None
    )
    assert "none of ours: lib.c" in judge(0, "a.py: warning: so\nlib.c: Warning, incorrect count")


@forks
@pytest.mark.parametrize(
    "argv, words", [([], "nothing to do"), (["--kills", "-1"], "is not from 0")]
)
def test_the_soak_says_what_it_takes(argv, words, capsys):
    import soak

    with pytest.raises(SystemExit) as end:
        soak.parse_args(argv)
    assert end.value.code == 2 and words in capsys.readouterr().err


# ----------------------------------------------------------------------------------- HDF5 files under workers


CONTEXTS = torch.multiprocessing.get_all_start_methods()
ways = pytest.mark.parametrize(
    "workers, context, persistent",
    [
        way
        for way in ((0, None, False), (2, "fork", False), (2, "fork", True))
        if way[1] in (None, *CONTEXTS)
    ],
)


def loader_of(dataset, workers, context, persistent):
    """make_loader's, or the same whose workers end with each epoch."""
    if persistent or not workers:
        return make_loader(dataset, 4, shuffle=True, workers=workers, context=context)
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), 4, dataset.seed),
        collate_fn=as_it_is,
        num_workers=workers,
        multiprocessing_context=context,
    )


@pytest.fixture
def folder(data, tmp_path):
    """A copy of the shared data to spoil."""
    return shutil.copytree(data, tmp_path / "pets")


@ways
def test_every_epoch_is_the_same_with_and_without_workers(data, workers, context, persistent):
    dataset = MTLDataset(data, "train", seed=3, augment="flip", sides=[64, 32, 64])
    expected = [
        batch
        for epoch in range(3)
        for batch in batches(make_loader(dataset, 4, shuffle=True), epoch)
    ]
    loader = loader_of(dataset, workers, context, persistent)
    found = [batch for epoch in range(3) for batch in batches(loader, epoch)]
    assert len(found) == len(expected) == 18
    for a, b in zip(found, expected):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in b)


def replace_by_others(folder, path):
    """Another data set of the same size takes the file's place, as data_prepare.py and data_rechunk.py put it there."""
    other = rechunk(write_data(folder.with_name("other"), {"train": 24}, seed=9))
    os.replace(other / "train" / path.name, path)


def replace_by_larger(folder, path):
    other = rechunk(write_data(folder.with_name("other"), {"train": 24}, size=96))
    os.replace(other / "train" / path.name, path)


def copy_over(folder, path):
    """What `cp` does: other content in the same file."""
    other = rechunk(write_data(folder.with_name("other"), {"train": 24}, seed=9))
    shutil.copyfile(other / "train" / path.name, path)


def truncate(folder, path):
    os.truncate(path, path.stat().st_size // 2)


def delete(folder, path):
    path.unlink()


@pytest.mark.parametrize(
    "change", [replace_by_others, replace_by_larger, copy_over, truncate, delete]
)
@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("moment", ["before the first batch", "within an epoch"])
def test_files_that_change_in_use_give_right_data_or_one_sentence(
    change, kind, moment, folder, monkeypatch
):
    monkeypatch.setattr(
        MTLDataset, "fits_in_memory", lambda self: False
    )  # so that every epoch reads
    changes_in_use(folder, folder / "train" / f"{kind}.h5", change, moment, 0, None, False)


@pytest.mark.parametrize("change", [replace_by_others, truncate])
@ways
def test_files_that_change_under_workers_give_right_data_or_one_sentence(
    change, workers, context, persistent, folder
):
    changes_in_use(
        folder,
        folder / "train" / "images.h5",
        change,
        "within an epoch",
        workers,
        context,
        persistent,
    )


def test_spawned_workers_give_right_data_and_notice_between_epochs_that_a_file_changed(folder):
    """One test, as each of these workers imports torch anew; test_dataloader.py has those that live for several epochs."""
    dataset = MTLDataset(folder, "train")
    expected = list(batches(make_loader(dataset, 4, shuffle=True)))
    loader = loader_of(dataset, 2, "spawn", False)
    for a, b in zip(batches(loader), expected, strict=True):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in b)
    replace_by_others(folder, folder / "train" / "masks.h5")
    gc.collect(), gc.disable()
    try:
        with pytest.raises(
            InputError, match="masks.h5 was changed or replaced while it was in use"
        ):
            list(batches(loader, 1))
        assert (
            multiprocessing.active_children() == []
        )  # they end with the error, not some time later
    finally:
        gc.enable()


def changes_in_use(folder, path, change, moment, workers, context, persistent):
    """Two epochs whose file changes on the way; what comes is the data of the beginning, or an InputError of the file."""
    dataset = MTLDataset(folder, "train")
    expected = [
        batch
        for epoch in range(2)
        for batch in batches(make_loader(dataset, 4, shuffle=True), epoch)
    ]
    dataset = MTLDataset(folder, "train")
    loader = loader_of(dataset, workers, context, persistent)
    found = []
    if moment == "before the first batch":
        change(folder, path)
    try:
        for epoch in range(2):
            for batch in batches(loader, epoch):
                found.append(batch)
                if len(found) == 2 and moment == "within an epoch":
                    change(folder, path)
        assert workers == 0 and dataset.fits_in_memory(), (
            "only a set that was read whole before does not notice"
        )
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error)
        assert moment == "within an epoch" or not found
    for a, b in zip(found, expected):
        assert all(torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)) for key in b)
