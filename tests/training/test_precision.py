"""The choice of a precision: the processor is asked first, nothing hopeless is tried twice, and what was measured is
remembered."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import arguments

from dataloader_mtl import MTLDataset
from models import MTLNet
from training import precision
from training.run_folder import RunFolder
from utils import EqualWeightedLoss

CPU = torch.device("cpu")


@pytest.fixture
def choose(data, tmp_path, monkeypatch):
    """A function that chooses for a tiny run; the precisions of the steps that it takes; the cache is empty at first."""
    (
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache")),
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache")),
    )
    monkeypatch.setattr(precision, "processor_flags", lambda: {"amx_bf16"})
    steps, seconds, clock = [], {"fp32": 0.002, "bf16": 0.001}, [0.0]

    def step(model, criterion, batch, name):
        steps.append(name)
        clock[0] += seconds[name]  # no real one: on a busy machine a single step can take any time

    monkeypatch.setattr(precision, "step", step)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    dataset = MTLDataset(data, "train", sides=[64], limit=4)

    def choice(width=2, asked="auto"):
        args = arguments(data, tmp_path)
        return precision.choose_precision(
            asked,
            RunFolder(tmp_path / "run", False),
            MTLNet(("seg",), width),
            EqualWeightedLoss(("seg",)),
            dataset,
            args.batch_size,
            CPU,
        )

    choice.steps, choice.seconds = steps, seconds
    return choice


def test_without_instructions_for_bf16_nothing_is_tried(choose, monkeypatch, capsys):
    monkeypatch.setattr(precision, "processor_flags", lambda: {"avx2", "avx512f"})
    assert choose() == "fp32" and choose.steps == []
    assert "no instructions for bf16" in capsys.readouterr().out


def test_where_the_system_does_not_tell_it_is_tried(choose, monkeypatch):
    monkeypatch.setattr(precision, "processor_flags", lambda: None)
    assert choose() == "bf16" and choose.steps == ["fp32", "bf16"] * 3


def test_what_was_measured_is_remembered_for_runs_of_the_kind(choose, capsys):
    assert choose() == "bf16" and len(choose.steps) == 6
    assert choose() == "bf16" and len(choose.steps) == 6
    first, second = capsys.readouterr().out.splitlines()
    assert (
        "s a step; training in bf16" in first and "(measured earlier); training in bf16" in second
    )
    assert choose(width=3) == "bf16" and len(choose.steps) == 12
    assert len(json.loads(precision.cache_path().read_text())) == 2


def test_a_hopeless_first_step_is_the_last(choose):
    choose.seconds["bf16"] = 0.05
    assert choose() == "fp32" and choose.steps == ["fp32", "bf16"]


@pytest.mark.parametrize("content", ["", "[", "[1]", "3", "null", "full of nonsense"])
def test_a_broken_memory_is_none(choose, content):
    choose()
    known = json.loads(precision.cache_path().read_text())
    wrong = json.dumps(dict.fromkeys(known, {"fp32": "fast", "bf16": -1}))
    precision.cache_path().write_text(content if content != "full of nonsense" else wrong)
    assert choose() == "bf16" and len(choose.steps) == 12
    assert json.loads(precision.cache_path().read_text()).keys() == known.keys()


def test_a_place_that_cannot_be_written_to_is_no_matter(choose, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert choose() == choose() == "bf16" and len(choose.steps) == 12


def test_what_is_asked_for_is_not_measured(choose):
    assert choose(asked="bf16") == "bf16" and choose(asked="fp32") == "fp32" and choose.steps == []


def test_flags_of_this_processor_are_words():
    flags = precision.processor_flags()
    assert flags is None or all(flag and flag.islower() for flag in flags)
