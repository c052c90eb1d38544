"""The options of a run: roles, command lines, names, differences, records of every version."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import config as module
from config import PLACE, RESULT, SPEED, Config, diff
from legacy import from_legacy

FIELDS = {one.name: one for one in dataclasses.fields(Config)}
OLD = {"--average": "ema", "--scenes": "hard_augment", "--sides": "resize_schedule"}
OLD["--masks"] = "num_masks"
# Values of options whose type is a function of text.
EXAMPLES = {
    "experiment": "own",
    "tasks": ("seg", "column:breed"),
    "ema": 0.998,
    "hard_augment": "small+empty",
    "resize_schedule": "32:0.5,64:1",
    "encoder_weights": "package",
}


def some_value(one, random):
    """A value that the option of a field can have, and that is not its default."""
    if one.name in EXAMPLES:
        return EXAMPLES[one.name]
    if one.type is bool:
        return not one.default
    if "choices" in one.metadata:
        return random.choice([c for c in one.metadata["choices"] if c != one.default])
    if one.type is int:
        most = min(one.metadata.get("most", 10**6), 64)
        return random.choice([n for n in range(1, most + 1) if n != one.default])
    values = {float: random.random(), Path: Path("a folder/x.pt"), str: f"own:{one.name}"}
    return values[one.type]


# ------------------------------------------------------------------------------------- the fields


def test_every_field_has_a_role_a_help_and_a_default_that_its_option_would_accept():
    parser = module.make_parser("", show_all=True, components=True)
    actions = {action.dest: action for action in parser._actions}
    for name, one in FIELDS.items():
        assert one.metadata["role"] in (RESULT, SPEED, PLACE) and one.metadata["help"]
        assert one.metadata["help"] == actions[name].help
        if actions[name].choices:
            assert one.default in actions[name].choices


def test_what_changes_the_result_and_what_does_not():
    roles = {name: one.metadata["role"] for name, one in FIELDS.items()}
    speeds = [
        "device",
        "convolution",
        "processes",
        "threads",
        "workers",
        "conflicts",
        "tensorboard",
    ]
    places = ["experiment", "data", "runs", "resume"]
    assert {name for name, role in roles.items() if role == SPEED} == set(speeds)
    assert {name for name, role in roles.items() if role == PLACE} == set(places)


def test_every_option_stands_on_the_page_of_options_once():
    page = module.options_page()
    for one in FIELDS.values():
        assert page.count(f"| `{module.flag_of(one)}` |") == 1
    assert "`datasets/data_new`" in page and "`60`" in page


def test_help_lists_the_common_options_and_help_all_every_one(capsys):
    for words, is_all in ((["--help"], False), (["--help-all"], True)):
        with pytest.raises(SystemExit) as end:
            Config.parse("What it trains.", None, words)
        assert end.value.code == 0
        text = capsys.readouterr().out
        for one in FIELDS.values():
            is_listed = f"{module.flag_of(one)} " in text or f"{module.flag_of(one)}\n" in text
            assert is_listed == (is_all or bool(one.metadata.get("common"))), one.name


# ----------------------------------------------------------------------------------- command lines


@pytest.mark.parametrize("seed", range(20))
def test_the_words_of_a_configuration_give_it_again(seed):
    """The fields are drawn by chance; so is their order on the command line."""
    generator = random.Random(seed)
    names = generator.sample(sorted(FIELDS), generator.randrange(len(FIELDS)))
    values = {name: some_value(FIELDS[name], generator) for name in {"tasks", *names}}
    config = Config(**values)
    assert Config.parse("", None, config.argv()) == config
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_default_configuration_has_no_words_but_its_tasks():
    assert Config(tasks=("seg",)).argv() == ["--tasks", "seg"]


def test_a_script_says_its_components_and_has_no_options_for_them():
    assert Config.parse("", "mtl", []).experiment == "mtl"
    with pytest.raises(SystemExit) as end:
        Config.parse("", "mtl", ["--tasks", "seg"])
    assert end.value.code == 2


def test_a_script_may_have_options_of_its_own():
    extra = [(("--split",), {"nargs": "+", "default": ["80-10-10"]})]
    config, rest = Config.parse("", "split", ["--split", "1-1-1", "--seed", "3"], extra)
    assert config.seed == 3 and rest == {"split": ["1-1-1"]}


@pytest.mark.parametrize("old", OLD)
def test_an_earlier_spelling_is_accepted_with_a_warning(old, capsys):
    name = OLD[old]
    value = some_value(FIELDS[name], random.Random(0))
    config = Config.parse("", "mtl", [old, str(value)])
    assert getattr(config, name) == value
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and old in warning
    assert module.flag_of(FIELDS[name]) in warning
    Config.parse("", "mtl", [module.flag_of(FIELDS[name]), str(value)])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "flag, text",
    [
        ("--epochs", "0"),
        ("--epochs", "1.5"),
        ("--batch-size", "4097"),
        ("--lr", "0"),
        ("--lr", "inf"),
        ("--seed", "-1"),
        ("--width", "257"),
        ("--ema", "1"),
        ("--ema", "0"),
        ("--limit", "0"),
        ("--num-masks", "0"),
        ("--augment", "some"),
        ("--optimizer", "sgd"),
        ("--hard-augment", "rain"),
        ("--hard-augment", "all:0"),
        ("--resize-schedule", "64"),
        ("--resize-schedule", "64:0.5"),
        ("--resize-schedule", "64:0.5,96:0.5,128:1"),
        ("--resize-schedule", "16:0.5,64:1"),
        ("--resize-schedule", "60:0.5,64:1"),
        ("--conflicts", "0"),
        ("--workers", "65"),
        ("--name", "../x"),
        ("--name", ""),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_option(flag, text, capsys):
    with pytest.raises(SystemExit) as end:
        Config.parse("", None, ["--tasks", "seg", flag, text])
    error = capsys.readouterr().err
    assert end.value.code == 2 and flag in error and error.count("\n") == 1


def test_a_flag_may_have_a_number_or_none():
    assert Config.parse("", "mtl", ["--conflicts"]).conflicts == 16
    assert Config.parse("", "mtl", ["--conflicts", "4"]).conflicts == 4


# ------------------------------------------------------------------------------ names, differences


def test_names_are_made_of_what_is_not_default():
    assert Config(tasks=("seg", "bbox")).default_name() == "seg_bbox"
    config = Config(
        tasks=("seg", "column:breed"),
        weighting="0.8-0.2",
        sharing="mtan",
        num_masks=100,
        teacher=Path("runs/baseline/seed0/best.pt"),
        epochs=3,
        seed=7,
    )
    name = config.default_name()
    assert name == "seg_column-breed_0.8-0.2_mtan_masks100_teacher-best"
    assert module.experiment_name(name) == name


def test_configurations_that_differ_in_a_component_have_other_names():
    generator, names = random.Random(0), {Config(tasks=("seg",)).default_name()}
    named = [name for name, one in FIELDS.items() if one.metadata.get("named")]
    for name in named:
        value = some_value(FIELDS[name], generator)
        names.add(Config(tasks=("seg",), **{name: value}).default_name())
    assert len(names) == len(named) + 1


def test_differences_are_those_of_a_role():
    a, b = Config(seed=1, workers=2).to_json(), Config(lr=0.1, workers=3, data=Path("x")).to_json()
    assert diff(a, b) == {"seed": (1, 0), "lr": (2e-3, 0.1)}
    assert diff(a, b, SPEED) == {"workers": (2, 3)}
    assert diff(a, b, PLACE).keys() == {"data"}
    del a["ema"]  # of a version that did not have the option yet
    assert diff(a, Config(seed=1).to_json()) == {}


# ------------------------------------------------------------------------------------- the records

RECORDS = sorted((ROOT / "results").rglob("config.json"))
FACTS = ("split_hash", "border", "size", "parameters", "precision", "device")


@pytest.mark.parametrize("kind", sorted({path.parents[2] for path in RECORDS}), ids=str)
def test_every_committed_record_is_read_in_the_present_form(kind):
    for path in (path for path in RECORDS if path.parents[2] == kind):
        earlier = json.loads(path.read_text(encoding="utf-8"))
        record = from_legacy(earlier)
        assert from_legacy(record) == record
        run, values = record["run"], {key: record[key] for key in FIELDS}
        assert record.keys() == {*FIELDS, "run"}
        assert Config.from_json(record).to_json() == values
        assert record["experiment"] == earlier["experiment"] and record["tasks"] == earlier["tasks"]
        for key, value in earlier["options"].items():
            if key in ("epochs", "lr", "seed", "width", "augment", "limit", "precision"):
                assert record[key] == value
        assert [run[key] for key in FACTS] == [earlier[key] for key in FACTS]
        assert run["images"] == earlier["images"] and run["versions"] == earlier["versions"]


def test_options_of_earlier_versions_have_their_present_names():
    names = {"average": "ema", "scenes": "hard_augment", "sides": "resize_schedule"}
    names["masks"] = "num_masks"
    found = set()
    for path in RECORDS:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        record = from_legacy(earlier)
        for old, new in names.items():
            value = earlier["options"].get(old)
            assert record[new] == value
            found |= {old} if value is not None else set()
    assert found >= {"average", "scenes", "masks"}


def test_the_first_version_recorded_little_and_the_rest_is_what_it_then_was():
    path = ROOT / "results/runs/baseline/seed4/config.json"
    record = from_legacy(json.loads(path.read_text(encoding="utf-8")))
    assert record["weighting"] is None and record["sharing"] == "hard"
    assert record["encoder"] == "unet" and record["ema"] is None and record["processes"] == 1
    run = record["run"]
    assert run["processes"] == 1 and run["convolution"] == "direct" and run["settings"] == {}
    assert run["label_digest"] is None and run["labelled"] is None


def test_numbers_of_numpy_become_plain_and_others_are_no_counts():
    config = Config(seed=np.int64(3), epochs=np.int32(2))
    assert config == Config(seed=3, epochs=2) and type(config.seed) is int
    json.dumps(config.to_json())
    with pytest.raises(TypeError):
        Config(seed=1.0)
