"""Grids: the experiments that they are, their names, what is refused, and the estimate; rows that differ in one choice
alone."""

import json
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from fabricated import change_json, make_run
from test_results import run

import experiments
import results
import train
from cli import InputError
from study import choices, conflicts, grid, records, verdict

# ------------------------------------------------------------------------------------------------------- what is run


def test_every_combination_has_a_name_and_train_py_takes_it():
    found = grid.experiments(
        ["tasks=seg,seg+bbox", "sharing=hard,mtan", "weighting=equal,torchjd:UPGrad,0.8-0.1-0.1"]
    )
    assert list(found) == [
        "seg",
        "seg_bbox",
        "seg_bbox_torchjd-UPGrad",
        "seg_bbox_mtan",
        "seg_bbox_mtan_torchjd-UPGrad",
    ]
    assert found["seg"] == ("train.py", "--tasks", "seg", "--name=seg")
    for name, (script, *words) in found.items():
        assert (ROOT / script).exists() and train.parse_args(words).name == name
        unnamed = train.parse_args([word for word in words if not word.startswith("--name")])
        assert train.default_name(unnamed) == name


def test_what_is_joined_in_a_value_stays_together():
    found = grid.experiments(
        [
            "weighting=torchjd:CAGrad:c=0.4,norm_eps=1e-3,torchjd:Constant:weights=[0.8,0.2],0.8-0.2",
            "tasks=seg+column:breed",
            "encoder_lr=1e-4",
            "masks=50",
        ]
    )
    assert [words[4] for words in found.values()] == [
        "--weighting=torchjd:CAGrad:c=0.4,norm_eps=1e-3",
        "--weighting=torchjd:Constant:weights=[0.8,0.2]",
        "--weighting=0.8-0.2",
    ]
    assert list(found)[2] == "seg_column-breed_0.8-0.2_encoder-lr0.0001_masks50"


@pytest.mark.parametrize(
    "words, why",
    [
        (["sharing=hard"], "told the tasks"),
        (["tasks=seg", "tasks=seg"], "once"),
        (["tasks=seg", "lr=1"], "was given 'lr=1'"),
        (["tasks"], "was given 'tasks'"),
        (["tasks=seg,sgg"], "tasks/ has no 'sgg'"),
        (["tasks=seg,"], "no value"),
        (["tasks=seg+bbox", "sharing=none"], "sharing/ has no"),
        (["tasks=seg", "encoder=resnet"], "encoders/ has no"),
        (["tasks=seg+bbox", "weighting=eqal"], "equal, uncertainty, numbers"),
        (["tasks=seg", "masks=few"], "masks=few is no value"),
        (["tasks=seg+bbox", "weighting=1-1-1"], "as many tasks"),
    ],
    ids=str,
)
def test_refused(words, why):
    with pytest.raises(InputError, match=re.escape(why)):
        grid.experiments(words)


def test_two_of_one_name_are_refused():
    long = "torchjd:Constant:weights=[" + "0.1" * 30
    with pytest.raises(InputError, match="both be called seg_bbox_"):
        grid.experiments(["tasks=seg+bbox", f"weighting={long}1],{long}2]"])


def perform(*argv):
    experiments.main(experiments.parse_args(["--grid", *argv]))


def test_list_prints_the_runs_and_conflicts_go_to_those_of_several_tasks(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    perform(
        "tasks=seg,seg+bbox", "--seeds", "0", "1", "--list", "--", "--conflicts", "4", "--lr", "1"
    )
    commands = [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines()]
    assert [command[-2:] for command in commands] == [["--lr", "1"]] * 4
    assert ["--conflicts" in command for command in commands] == [False, True, False, True]
    assert grid.fitting(["--conf=4", "--lr", "1"], ("train_baseline.py",)) == ["--lr", "1"]
    assert grid.fitting(["--conflicts", "--lr", "1"], ("train_mtl.py",)) == [
        "--conflicts",
        "--lr",
        "1",
    ]


@pytest.mark.parametrize("more", [["--only", "mtl"], ["--repeat", "x"]], ids=str)
def test_a_grid_says_by_itself_what_is_run(more, capsys):
    with pytest.raises(SystemExit) as stop:
        experiments.parse_args(["--grid", "tasks=seg", *more])
    assert stop.value.code == 2 and "--grid goes without" in capsys.readouterr().err


# A script that takes no time, and twice as long with two tasks.
STAND_IN = """
import json, sys
from pathlib import Path
words = dict(word.split("=") for word in sys.argv if word[:2] == "--" and "=" in word)
n, asked = sys.argv.index("--seed") - 2, {word: sys.argv[k + 1] for k, word in enumerate(sys.argv[:-1])}
asked |= words
with open("calls.txt", "a") as file:
    print(json.dumps(asked), file=file)
if asked.get("--sharing") == "soft":
    sys.exit("train.py: soft is not for today")
folder = Path(asked["--runs"]) / asked["--name"] / f"seed{asked['--seed']}"
folder.mkdir(parents=True)
epochs, name = int(asked["--epochs"]), asked["--name"]
(folder / "log.csv").write_text("epoch,seconds\\n" + "".join(f"{k + 1},{6.4 * len(name)}\\n" for k in range(epochs)))
(folder / "config.json").write_text(json.dumps({"experiment": name, "options": {"epochs": epochs, "lr": asked.get("--lr")},
    "split_hash": "x", "tasks": name.split("_"), "weighting": "equal"}))
(folder / "test.json").write_text(json.dumps({"train_seconds": 3600}))
"""


OPTIONS = ("--seeds", "0", "--jobs", "1", "--", "--epochs", "3", "--runs", "many")


@pytest.fixture()
def place(tmp_path, monkeypatch, data):
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "HERE", tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/data_new").symlink_to(data)
    return tmp_path


def test_a_grid_is_told_before_it_runs_and_estimated_by_trying(place, capsys):
    """Of 24 images, in 3 epochs: 5 epochs of 24 images were tried, of 6.4 s a letter each."""
    options = ["--seeds", "0", "1", "--jobs", "1", "--", "--epochs", "3", "--runs", "many"]
    perform("tasks=seg,seg+bbox", *options)
    said = capsys.readouterr().out
    assert re.search(r"^seg +train.py --tasks seg\nseg_bbox +train.py --tasks seg bbox\n", said)
    minutes = round(2 * 3 * 6.4 * (3 + 8) / 60)
    assert f"2 experiments, 4 of 4 runs left: about 0 h 0{minutes} min of training steps" in said
    assert "2 by 5 epochs of 64 images" in said
    calls = [json.loads(line) for line in (place / "calls.txt").read_text().splitlines()]
    assert [call["--epochs"] for call in calls] == ["5"] * 2 + ["3"] * 4 and calls[0][
        "--limit"
    ] == "24"
    assert (
        not list(place.glob("many/*/*/lock")) and len(list(place.glob("many/*/*/test.json"))) == 4
    )
    # Now there are records, of an hour a run.
    perform("tasks=seg,seg+bbox", "--seeds", "0", "1", "2", *options[3:])
    said = capsys.readouterr().out
    assert (
        "2 of 6 runs left: about 2 h 00 min of training steps, one run after another (2 experiments by their"
        in said
    )


def test_what_cannot_be_tried_is_warned_of_and_the_others_run(place, capsys):
    with pytest.raises(SystemExit):
        perform("tasks=seg+bbox", "sharing=hard,soft", *OPTIONS)
    told = capsys.readouterr()
    assert "seg_bbox_soft could not be tried" in told.err and "soft is not for today" in told.err
    assert (
        "beside 1 of which nothing is known" in told.out
        and (place / "many/seg_bbox/seed0/test.json").exists()
    )


def test_a_finished_run_of_other_tasks_under_the_same_name_is_refused(place):
    perform("tasks=seg", *OPTIONS)
    change_json(place / "many/seg/seed0/config.json", tasks=["seg", "bbox"])
    with pytest.raises(
        InputError, match="seg/seed0 is finished, and with tasks seg bbox where seg is asked for"
    ):
        perform("tasks=seg", *OPTIONS)


# -------------------------------------------------------------------------------------------------- what is compared


def make(root, name, seed, tasks, effect=0.0, **axes):
    folder = make_run(
        root, name, seed, effect, tasks=tasks, weighting=axes.pop("weighting", "equal")
    )
    change_json(folder / "config.json", **axes)
    return folder


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """seg, and seg + bbox under two sharings and two weightings, five seeds each; the sharing helps."""
    root = tmp_path_factory.mktemp("varied") / "runs"
    for seed in range(5):
        make(root, "seg", seed, ["seg"])
        for name, sharing, weighting in (
            ("both", "hard", "equal"),
            ("both_mtan", "mtan", "equal"),
            ("both_dwa", "hard", "dwa"),
            ("both_mtan_dwa", "mtan", "dwa"),
        ):
            make(
                root,
                name,
                seed,
                ["seg", "bbox"],
                0.05 * (sharing == "mtan"),
                sharing=sharing,
                weighting=weighting,
            )
    return root


def rows_of(root):
    return results.rows_of(records.read_runs(root)[0])


def test_pairs_differ_in_one_choice_alone(varied):
    found = choices.pairs(rows_of(varied))
    assert sorted(found) == [
        ("both", "seg", "tasks"),
        ("both_dwa", "both", "weighting"),
        ("both_dwa", "seg", "tasks"),
        ("both_mtan", "both", "sharing"),
        ("both_mtan", "seg", "tasks"),
        ("both_mtan_dwa", "both_dwa", "sharing"),
        ("both_mtan_dwa", "both_mtan", "weighting"),
        ("both_mtan_dwa", "seg", "tasks"),
    ]


def test_trained_weights_are_said_by_where_they_come_from():
    run = SimpleNamespace(
        tasks={"seg": None},
        experiment="x",
        config={
            "weighting": "equal",
            "options": {},
            "encoder_weights": "ab" * 32,
            "encoder_weights_from": "package",
        },
    )
    assert (
        choices.said_of(run, "encoder_weights") == "package"
        and choices.choices_of(run)["encoder_weights"] == "ab" * 32
    )
    run.config |= {"encoder_weights": None, "encoder_weights_from": None}
    assert (
        choices.in_words("encoder_weights", [run], [run]) == "encoder weights: random, not random"
    )


def test_what_is_compared_is_judged_together():
    rng = np.random.default_rng(1)
    values = {name: {seed: rng.normal(80, 1, 30) for seed in range(5)} for name in "abc"}
    found = verdict.compare_pairs(
        values, [("b", "a", "sharing"), ("c", "b", "weighting"), ("c", "a", "tasks")]
    )
    assert [one.number for one in found] == [1, 2, 3]
    assert [one.adjusted for one in found] == pytest.approx(verdict.holm([one.p for one in found]))
    difference = np.mean([values["c"][seed] - values["b"][seed] for seed in range(5)])
    assert found[1].mean == pytest.approx(difference) and (found[1].baseline, found[1].choice) == (
        "b",
        "weighting",
    )


def test_the_page_states_pairs_parameters_and_equal_time(varied, tmp_path, monkeypatch):
    monkeypatch.setattr(results.figures, "save", lambda figure, path: path.touch())
    root = tmp_path / "runs"
    for folder in varied.glob("*/seed*"):
        again = root / folder.relative_to(varied)
        again.mkdir(parents=True)
        for path in folder.iterdir():
            (again / path.name).write_bytes(path.read_bytes())
        slow = "mtan" in folder.parent.name
        lines = (again / "log.csv").read_text().splitlines()
        (again / "log.csv").write_text(
            "\n".join(
                [
                    lines[0] + ",seconds,conflict_seg_bbox_stage1,conflict_seg_bbox_stage5",
                    *(
                        f"{line},{20 if slow else 10},0.25,{-0.5 if slow else ''}"
                        for line in lines[1:]
                    ),
                ]
            )
            + "\n"
        )
        if slow:
            for name in ("config.json", "test.json"):
                change_json(again / name, parameters=2_004_000)
    text = run(root, tmp_path / "out")
    flat = " ".join(text.split())
    stated = r"(\d)\. both_mtan against both \(sharing: mtan, not hard\)\. It has 2\.00 times the parameters\."
    number = re.search(stated, flat)[1]
    assert f"{number}. both_mtan (sharing) helps**" in flat and "judging 8 pairs at once" in flat
    assert "Against the baseline" not in flat and "Beside the published study" not in flat
    table = text.partition("### At equal time")[2].partition("\n## ")[0]
    row = next(line for line in table.splitlines() if line.startswith(f"| {number} "))
    assert row.split("|")[2].strip() == "2.0"  # of 4 epochs, twice as long
    rows = rows_of(root)
    best = {
        name: [100 * one.history["val_dice"] for one in rows[name]]
        for name in ("both", "both_mtan")
    }
    early = np.mean([a[:2].max() - b.max() for a, b in zip(best["both_mtan"], best["both"])])
    assert float(row.split("|")[4]) == pytest.approx(early, abs=0.006)
    assert (
        "**seg and bbox pull apart most at stage 5, in the row both_mtan**: the cosine between"
        in flat
    )
    assert "their gradients is -0.500 on average (-0.500 to -0.500 in 5 runs)" in flat
    assert all(
        (tmp_path / "out" / name).exists() for name in ("conflicts.png", "moved_weights.png")
    )


def test_seconds_are_compared_on_one_kind_of_processor_alone():
    def made(seed, processor, seconds, dice):
        return SimpleNamespace(
            seed=seed,
            config={"processor": processor},
            test={"parameters": 10 * seconds, "train_seconds": 2 * seconds},
            history={"seconds": np.full(2, seconds), "val_dice": np.array(dice)},
        )

    baseline = [
        made(0, "old", 4, (0.5, 0.6)),
        made(1, "old", 4, (0.5, 0.7)),
        made(2, "new", 1, (0.5, 0.8)),
    ]
    row = [
        made(0, "old", 8, (0.6, 0.9)),
        made(1, "new", 2, (0.1, 0.2)),
        made(2, "new", 2, (0.7, 0.9)),
    ]
    # Seed 1 was made on two; of the others a row takes twice the time and gets one epoch of two.
    assert choices.ratios(row, baseline) == (pytest.approx(12 / 9), pytest.approx(2))
    assert choices.at_equal_time(row, baseline) == pytest.approx(
        (1, 100 * (0.3 + 0.1) / 2, 100 * (0 - 0.1) / 2)
    )
    assert choices.at_equal_time(row[1:2], baseline) is None
    assert np.isnan(choices.ratios(row[1:2], baseline)[1])
    assert "the time" not in choices.unlike(row[1:2], baseline)


def test_the_published_table_is_compared_with_its_baseline():
    rows = rows_of(ROOT / "results/runs")
    assert not choices.is_varied(rows) and not conflicts.conflicts_of(rows)


def test_nothing_pulls_apart_where_every_cosine_is_above_zero():
    assert conflicts.sentence(
        {"x": {"seg, cls": {"stage1": np.array([0.2, 0.4]), "stage2": np.array([0.1, 0.2])}}}
    ) == (
        "**No two tasks pull apart on average.** seg and cls agree least at stage 2, in the row x: the cosine between their "
        "gradients is +0.150 on average (+0.100 to +0.200 in 2 runs)."
    )
