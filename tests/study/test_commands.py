"""Grids, tuning, the masks study and repetitions as commands; real runs on tiny budgets."""

import json
import shlex
import shutil

import pytest
import tiny
from conftest import ROOT, write_data
from fabricated import change_json, make_run

import experiments
from cli import InputError
from study import commands, grid, masks, repeat, tune
from study.records import read_run

TASKS = "tasks=seg,seg+cls"


def main(*words):
    experiments.main(experiments.parse_args(list(map(str, words))))


def listed(capsys, *words):
    """The commands that --list prints, as lists of words without Python and the script's folder."""
    main("--list", *words)
    lines = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    return [[line[0].rpartition("/")[2], *line[1:]] for line in lines]


# ----------------------------------------------------------------------------------------- grids


def test_a_grid_is_every_combination_and_one_task_alone_shares_nothing(capsys):
    found = grid.experiments([TASKS, "sharing=hard,mtan", "weighting=equal,dwa,0.8-0.2"], [])
    names = ["seg", "seg_cls", "seg_cls_dwa", "seg_cls_0.8-0.2", "seg_cls_mtan"]
    assert list(found) == [*names, "seg_cls_dwa_mtan", "seg_cls_0.8-0.2_mtan"]
    config = found["seg_cls_dwa_mtan"].config
    assert (config.tasks, config.weighting, config.sharing) == (("seg", "cls"), "dwa", "mtan")
    words = listed(capsys, "--grid", TASKS, "num-masks=10", "--seeds", "0", "--", "--epochs", "3")
    assert words[1][:1] == ["train.py"] and "--num-masks" in words[1] and "--epochs" in words[1]
    assert "seg_cls_masks10" in words[1]


def test_weights_that_are_the_same_are_one_experiment():
    assert grid.canonical("2-2", 2) == grid.canonical("0.5-0.5", 2) == "equal"
    assert grid.canonical("8-2", 2) == grid.canonical("0.80-0.20", 2) == "0.8-0.2"
    assert grid.canonical("8-2", 3) is None and grid.canonical("dwa", 1) == "dwa"
    assert len(grid.experiments(["tasks=seg+cls", "weighting=1-1,equal,4-1,0.8-0.2"], [])) == 2


def test_what_is_joined_in_a_value_stays_together():
    word = "weighting=torchjd:CAGrad:c=0.4,norm_eps=1e-3,equal"
    values = grid.columns(["tasks=seg+cls", word])["weighting"]
    assert values == ["torchjd:CAGrad:c=0.4,norm_eps=1e-3", "equal"]


def test_single_tasks_are_added_for_delta_m():
    words = ["tasks=seg+cls+bbox", "encoder=unet,efficientnet_lite0"]
    found = grid.experiments(words, [], with_single_tasks=True)
    assert {"seg", "cls", "bbox", "cls_efficientnet_lite0"} <= found.keys() and len(found) == 8


@pytest.mark.parametrize(
    "words",
    [
        ["tasks=seg", "tasks=seg"],
        ["tasks=seg", "epochs=3"],
        ["sharing=hard"],
        ["tasks="],
        ["tasks=seg+whiskers"],
        ["tasks=seg+cls", "sharing=none"],
        ["tasks=seg+cls", "weighting=1-1-1"],
    ],
)
def test_wrong_grids_are_refused(words):
    with pytest.raises(InputError):
        grid.experiments(words, [])


@pytest.mark.parametrize(
    "words, options",
    [
        # F1: options after -- that override the columns of a grid, or what a name is made of.
        (["--grid", "tasks=seg+cls", "weighting=equal,uncertainty"], ["--weighting", "rlw"]),
        (["--grid", "tasks=seg", "num_masks=10,40"], ["--num-masks", "5"]),
        (["--grid", "tasks=seg", "num_masks=10,40"], ["--masks=5"]),
        (["--grid", "tasks=seg+cls,seg+bbox"], ["--tasks", "seg", "distance"]),
        (["--grid", "tasks=seg+cls"], ["--optimizer", "muon"]),
        (["--grid", "tasks=seg+cls"], ["--name", "own"]),
        (["--study", "masks"], ["--hard-augment", "all"]),
        (["--only", "mtl"], ["--seed", "3"]),
        (["--only", "split_80_10_10"], ["--split", "60-20-20"]),
        (["--only", "mtl"], ["--tasks", "seg"]),
        # What no script takes, so that --list does not print it.
        (["--only", "mtl"], ["--wdith", "3"]),
        (["--only", "mtl"], ["--epochs", "many"]),
        (["--grid", "tasks=seg", "encoder-lr=fast"], []),
        (["--grid", "tasks=seg"], ["--augment", "some"]),
        (["--tune", "lr=fast"], []),
        (["--tune", "weighting=equal,dwa"], []),
    ],
)
def test_options_that_are_not_for_every_run_are_refused_by_list_already(words, options, capsys):
    with pytest.raises((InputError, SystemExit)) as stop:
        main("--list", *words, "--", *options)
    assert getattr(stop.value, "code", 2) == 2 and not capsys.readouterr().out


# ------------------------------------------------------------------------------- finished runs


@pytest.fixture
def finished(tmp_path):
    """runs/mtl/seed0, finished with --epochs 4 --width 16."""
    make_run(tmp_path / "runs", "mtl", 0, data=tmp_path / "gone")
    return tmp_path


@pytest.mark.parametrize(
    "options, word",
    [
        (["--epochs", "5"], "epochs"),
        (["--lr", "1e-3"], "lr"),
        (["--init", "best.pt"], "init"),
        (["--num-masks", "3"], "num_masks"),
        (["--precision", "bf16"], "precision"),
        ([], ""),
        (["--lr", "0.002"], ""),
        (["--precision", "fp32"], ""),
        (["--threads", "7"], ""),
    ],
)
def test_a_finished_run_of_other_settings_is_not_skipped(finished, options, word):
    place = "--data", finished / "gone", "--runs", finished / "runs"
    own = "--epochs", "4", "--width", "16"
    run = commands.published("mtl", *own, *place, *options)
    if word:
        with pytest.raises(InputError, match=word):
            commands.refuse_other_settings(run)
    else:
        commands.refuse_other_settings(run)


def test_a_finished_run_on_other_images_is_not_skipped(finished, data):
    own = "--epochs", "4", "--width", "16", "--runs", finished / "runs"
    with pytest.raises(InputError, match="split hash"):
        commands.refuse_other_settings(commands.published("mtl", *own, "--data", data))
    change_json(finished / "runs/mtl/seed0/config.json", tasks=["seg"])
    place = "--data", finished / "gone"
    with pytest.raises(InputError, match="tasks"):
        commands.refuse_other_settings(commands.published("mtl", *own, *place))


# -------------------------------------------------------------------------------------- tuning


def test_values_are_tried_on_a_seed_of_their_own_and_chosen_by_validation(tmp_path, capsys):
    words = "--grid", "tasks=seg,cls", "--tune", "lr=0.001,0.004", "--seeds", "0"
    place = "--", "--runs", tmp_path / "runs"
    found = listed(capsys, *words, *place)
    assert len(found) == 4 and all("1000" in words for words in found)
    values = tune.values_of("lr=0.001,0.004")
    experiments_ = grid.experiments(["tasks=seg,cls"], ["--runs", str(tmp_path / "runs")])
    dice = {"lr=0.001": [0.5, 0.9, 0.6, 0.6], "lr=0.004": [0.8] * 4}
    for name, run in experiments_.items():
        tried = tune.runs_of(run, values)
        for label, of_value in tried.items():
            log = {"val_dice": dice[label], "val_accuracy": dice[label][::-1]}
            root, lr = of_value.config.runs, of_value.config.lr
            make_run(root, name, tune.SEED, tasks=run.config.tasks, lr=lr, log=log)
        tune.choose(run, tried)
        record = json.loads((tmp_path / "runs" / name / "tuning.json").read_text())
        assert record["chosen"] == "lr=0.001" and record["values"]["lr=0.001"] == 0.9
        assert (record["seed"], record["runs"], record["option"]) == (1000, 2, "lr")
    assert json.loads((tmp_path / "runs/cls/tuning.json").read_text())["metric"] == "val_accuracy"
    found = listed(capsys, *words, *place)
    assert len(found) == 2 and all(words[words.index("--lr") + 1] == "0.001" for words in found)
    with pytest.raises(InputError, match="tuning.json"):
        main("--list", "--grid", "tasks=seg", "--tune", "lr=0.001", *place)


# ----------------------------------------------------------------------------------- masks study


def test_the_masks_study_as_commands(rich, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(masks, "LEAST", 10)
    place = "--", "--data", rich, "--runs", tmp_path / "runs"
    found = listed(capsys, "--study", "masks", *place)
    names = [words[words.index("--name") + 1] for words in found]
    by_name = dict(zip(names, found, strict=True))
    # Of 24 masks all sizes are more than half, and so are all masks; the most important first.
    assert {name.partition("_masks")[2] for name in names} == {"all", "all_half"}
    assert names[:3] == ["seg_masksall", "label_masksall", "placebo_masksall"]
    label = by_name["label_masksall"]
    assert "column:breed" in label and "0.8-0.2" in label and "--num-masks" not in label
    assert "--half-masked" in by_name["seg_masksall_half"]
    assert by_name["pretrained_bbox_masksall"].count("efficientnet_lite0") == 1
    both = by_name["label_bbox_masksall"]
    assert both[both.index("--weighting") + 1] == "0.8-0.1-0.1"
    assert all(words[words.index("--threads") + 1] == "1" for words in found)
    seeds = [words[words.index("--seed") + 1] if "--seed" in words else "0" for words in found]
    assert len(set(zip(names, seeds, strict=True))) == len(found)


def test_arms_that_the_data_lack_labels_for_are_left_out(data, monkeypatch):
    monkeypatch.setattr(masks, "LEAST", 10)
    found = masks.runs(data, ["--data", str(data)])
    names = {run.config.experiment.partition("_masks")[0] for run in found}
    assert names == {"seg", "bbox", "pretrained", "pretrained_bbox"}
    assert masks.run_of("seg", 50, "", ()).config.num_masks == 50


@pytest.mark.parametrize(
    "rows, column",
    [
        (["a,x", "b,x", "a,y", "b,y"] * 2, "breed"),
        (["a,x"] * 4 + ["a,y"] * 4, "other"),
        (["a,x"] * 8, ""),
    ],
)
def test_the_cheap_label_of_data(tmp_path, rows, column):
    path = tmp_path / "index.csv"
    path.write_text("\n".join(["breed,other", *rows]) + "\n")
    assert masks.column_of(path) == column


def test_data_without_masks_or_with_few_are_refused(data, tmp_path):
    with pytest.raises(InputError, match="24 training images"):
        masks.runs(data, [])
    bare = shutil.copytree(data, tmp_path / "bare")
    for path in bare.glob("*/masks.h5"):
        path.unlink()
    with pytest.raises(InputError, match="of 0 training images"):
        masks.runs(bare, [])


# ------------------------------------------------------------------------------------- repeating


def test_a_run_is_repeated_from_its_record_alone(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = trained("train_mtl.py")
    main("--repeat", runs, "--jobs", "1")
    assert "is bit-exact with" in capsys.readouterr().out
    tiny.assert_same_run(tmp_path / "repeated/mtl/seed0", runs / "mtl/seed0")


def test_how_far_a_repetition_comes_out_is_said(finished, tmp_path):
    folder = finished / "runs/mtl/seed0"
    again = shutil.copytree(folder, tmp_path / "again/mtl/seed0")
    change_json(again / "test.json", train_seconds=5.0)
    assert repeat.compare(folder, again) == ([], [])
    dice = json.loads((folder / "test.json").read_text())["dice"]
    change_json(again / "test.json", dice=dice + 0.001)
    config = json.loads((again / "config.json").read_text())
    config["run"]["processor"] = "Another"
    change_json(again / "config.json", **config)
    found, conditions = repeat.compare(folder, again)
    assert len(found) == 1 and "+0.001" in found[0]
    assert conditions == ["processor was Fast CPU and is Another"]


ROWS = ("runs/split_75_15_15", "axes/runs", "masks/runs/label_bbox_masks50", "confirmation/runs")


@pytest.mark.parametrize("path", ROWS)
def test_any_row_of_the_studies_that_come_along_can_be_repeated(monkeypatch, path):
    monkeypatch.setattr(commands, "split_hash_of", lambda data: "fad38e6f16068024")
    for folder in repeat.folders(ROOT / "results" / path)[::4]:
        run, record = repeat.run_of(folder, []), read_run(folder)
        assert run.config.tasks == tuple(record.tasks)
        assert run.config.precision == record.info["precision"]
        is_own = record.experiment.startswith(("seg", "label"))
        assert (run.script[0] == "train.py") == is_own


def test_what_cannot_be_repeated_is_refused_before_anything_is_trained(finished, data):
    folder = finished / "runs/mtl/seed0"
    with pytest.raises(InputError, match="split hash"):
        main("--repeat", folder, "--", "--data", data)
    with pytest.raises(InputError, match="no run"):
        main("--repeat", finished / "nowhere")
    (folder / "log.csv").unlink()
    with pytest.raises(InputError, match=r"log\.csv"):
        main("--repeat", folder, "--", "--data", write_data(finished / "other", {"train": 1}))
