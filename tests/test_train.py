"""train.py: the other scripts' recipe as options, tasks of one's own, and what they learned beforehand."""

import csv
import json
import math
import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import rechunk, write_data, write_more
from PIL import Image
from tiny import FILES, TINY, assert_same_weights, log, result, weights

import evaluate
import export
import mtl_vis
import oeq_splits
import oeq_uncertainty
import train
import train_baseline
import train_mtl
from cli import InputError
from training import checkpoint, engine

OWN = ("seg", "column:breed", "column:age", "border", "distance", "recon", "bbox")
OWN_METRICS = {
    "breed_accuracy",
    "breed_balanced_accuracy",
    "age_mae",
    "trimap_iou",
    "trimap_accuracy",
    "distance_mae",
    "recon_mae",
}


def run(data, runs, *options):
    train.main(train.parse_args(["--data", str(data), "--runs", str(runs), *TINY, *options]))


def measured(checkpoint_path, data, capsys, *options):
    """What evaluate.py prints, and its warnings."""
    capsys.readouterr()
    evaluate.main(
        evaluate.parse_args(["--checkpoint", str(checkpoint_path), "--data", str(data), *options])
    )
    said = capsys.readouterr()
    return json.loads(said.out), said.err


@pytest.fixture()
def no_pictures(monkeypatch):
    """Not for the whole module, as it is elsewhere: one test here looks at pictures."""
    monkeypatch.setattr("training.pictures.draw_curves", lambda history, tasks, path: path.touch())
    monkeypatch.setattr("training.pictures.draw_pictures", lambda pictures, path: path.touch())


# ------------------------------------------------------------------------------------------------ the same recipe


@pytest.mark.parametrize(
    "script, name, more, options",
    [
        (train_mtl, "mtl", (), "--tasks seg cls bbox --weighting equal --name mtl"),
        (train_baseline, "baseline", (), "--tasks seg --name baseline"),
        (
            oeq_uncertainty,
            "uncertainty",
            (),
            "--tasks seg cls bbox --weighting uncertainty --name uncertainty",
        ),
        (
            oeq_splits,
            "split_75_15_15",
            ("75-15-15",),
            "--tasks seg cls bbox --weighting 75-15-15 --name split_75_15_15",
        ),
    ],
    ids=str,
)
def test_it_is_the_other_scripts_to_the_last_bit(
    data, tmp_path, script, name, more, options, no_pictures
):
    args = engine.make_parser("").parse_args(
        ["--data", str(data), "--runs", str(tmp_path / "a"), *TINY]
    )
    args.split = more
    script.main(args)
    run(data, tmp_path / "b", *options.split())
    first, second = tmp_path / "a" / name / "seed0", tmp_path / "b" / name / "seed0"
    for file in ("last.pt", "best.pt"):
        assert_same_weights(weights(first, file), weights(second, file))
    assert result(first) == result(second) and log(first) == log(second)
    assert (first / "test_per_image.csv").read_bytes() == (
        second / "test_per_image.csv"
    ).read_bytes()
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    for config in configs:
        config["options"] = {
            key: value for key, value in config["options"].items() if key not in ("runs", "split")
        }
    assert configs[0] == configs[1]


def test_either_script_goes_on_with_the_others_run(data, tmp_path, no_pictures, capsys):
    train_mtl.main(
        engine.make_parser("").parse_args(["--data", str(data), "--runs", str(tmp_path), *TINY])
    )
    run(data, tmp_path, "--tasks", "seg", "cls", "bbox", "--name", "mtl", "--resume")
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, name",
    [
        ("--tasks seg", "seg"),
        ("--tasks seg cls bbox --weighting equal", "seg_cls_bbox"),
        ("--tasks seg column:breed --weighting uncertainty", "seg_column-breed_uncertainty"),
        ("--tasks seg bbox --weighting 0.8-0.2 --masks 100", "seg_bbox_0.8-0.2_masks100"),
        (
            "--tasks seg cls --sharing soft:0.01 --weighting torchjd:UPGrad --encoder torchvision:resnet18 --encoder-weights hub",
            "seg_cls_soft-0.01_torchjd-UPGrad_torchvision-resnet18_hub",
        ),
        (
            "--tasks seg --encoder efficientnet_lite0 --encoder-weights a/w.pt --encoder-lr 1e-4 --encoder-bn keep --masks 9",
            "seg_efficientnet_lite0_w_encoder-lr0.0001_bn-keep_masks9",
        ),
        ("--tasks seg --optimizer muon --lr 0.006", "seg_muon"),
        ("--tasks seg --optimizer adamw", "seg"),
        ("--tasks seg column:a/../b", "seg_column-a-..-b"),
        ("--tasks seg --name my.run+2", "my.run+2"),
    ],
)
def test_names_say_what_differs_from_the_defaults(options, name):
    args = train.parse_args(options.split())
    assert (args.name or train.default_name(args)) == name and train.name(name) == name


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "a b", "x" * 101, "-x"])
def test_what_cannot_name_a_folder_is_refused(name, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse_args(["--tasks", "seg", f"--name={name}"])
    assert end.value.code == 2 and "cannot name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, words",
    [
        (
            "--tasks seg nothing",
            r"tasks/ has no 'nothing'; it has bbox, border, .* \(tasks/README.md says how to add one\)",
        ),
        ("--tasks seg seg", "--tasks seg seg: tasks must be at least one, each once"),
        ("--tasks seg column:a+b column:a-b", "both measure a_b_"),
        (
            "--tasks seg cls bbox --weighting 0.8-0.2",
            "--weighting '0.8-0.2' is neither equal nor uncertainty nor 3 positive numbers",
        ),
        ("--tasks seg cls --weighting 1-0", "2 positive numbers"),
        ("--tasks seg cls --weighting nan-1", "2 positive numbers"),
        (
            "--tasks seg cls --weighting dwb",
            "'dwb' is neither equal nor .* nor one of weighting/: dwa, rlw, torchjd",
        ),
        ("--tasks seg cls --sharing firm", "sharing/ has no 'firm'"),
        ("--tasks seg cls --encoder resnet", "encoders/ has no 'resnet'"),
        ("--tasks seg --encoder-weights none.pt", "the weights none.pt cannot be read"),
        ("--tasks seg column", "does not say which column"),
        (
            "--tasks seg column:colour",
            r"train/index.csv has no column 'colour' \(row, name, breed, age",
        ),
        ("--tasks seg column:name", "24 different values in 24 cells, too many for classes"),
        (
            "--tasks seg column:height.cm",
            r"the column 'height.cm' has a dot .* rename it in index.csv",
        ),
        ("--tasks seg cls:x", "takes nothing after a colon"),
        ("--tasks seg --masks 25", "--masks 25 asks for more masks than the 24"),
        (
            "--tasks cls bbox --masks 4",
            "--masks 4 asks for more masks than the 0 of .*train that the tasks use",
        ),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(rich, tmp_path, options, words):
    folder = rich
    if "a+b" in options:
        folder = rechunk(write_data(tmp_path / "pets", {"train": 6, "val": 4, "test": 4}))
        for split, n in (("train", 6), ("val", 4), ("test", 4)):
            rows = [f"{k},{k},{k % 2}x,{k % 3}x" for k in range(n)]
            (folder / split / "index.csv").write_text("\n".join(["row,name,a+b,a-b", *rows, ""]))
    with pytest.raises(InputError, match=words) as error:
        run(folder, tmp_path / "runs", *options.split())
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "runs").rglob("*.*"))


# ---------------------------------------------------------------------------------------------- tasks of one's own


@pytest.fixture(scope="module")
def own(rich, tmp_path_factory):
    """A finished run of tasks of all kinds, pictures included, on the masks of 8 images."""
    runs = tmp_path_factory.mktemp("own")
    run(rich, runs, "--tasks", *OWN, "--masks", "8", "--name", "own")
    return runs / "own/seed0"


def test_every_task_is_in_the_records(own, rich):
    assert {path.name for path in own.iterdir()} >= FILES
    test, rows = result(own), log(own)
    assert {
        key
        for key in OWN_METRICS | {"dice", "dice_pooled", "iou_pooled", "border_iou", "box_iou"}
        if test[key] is None
    } == set()
    assert test["accuracy"] is None  # no such task
    for row in rows:
        assert all(
            math.isfinite(float(row[f"train_loss_{task}"]))
            and float(row[f"weight_{task}"]) == pytest.approx(1 / 7)
            and math.isfinite(float(row[f"val_loss_{task}"]))
            for task in OWN
        )
        assert all(row[f"val_{metric}"] for metric in OWN_METRICS)
    config = json.loads((own / "config.json").read_text())
    assert (
        config["tasks"] == list(OWN)
        and config["weighting"] == "equal"
        and config["options"]["masks"] == 8
    )
    assert config["taught"] == {
        "seg": 8,
        "column:breed": 18,
        "column:age": 20,
        "border": 8,
        "distance": 8,
        "recon": 24,
        "bbox": 23,
    }
    assert config["settings"]["column:breed"] == {"classes": ["boxer", "pug", "sphynx"]}
    ages = [1 + k % 3 for k in range(24) if k % 5 != 4]
    assert config["settings"]["column:age"] == {
        "mean": pytest.approx(np.mean(ages)),
        "deviation": pytest.approx(np.std(ages)),
    }


def test_per_image_values_of_each_task_give_its_metrics(own):
    with open(own / "test_per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    test = result(own)
    values = {
        key: [float(row[key]) for row in rows if row[key]] for key in rows[0] if key != "name"
    }
    for key in (
        "age_mae",
        "trimap_iou",
        "trimap_accuracy",
        "distance_mae",
        "recon_mae",
        "box_iou",
        "border_iou",
    ):
        assert np.mean(values[key]) == pytest.approx(test[key])
    assert (
        len(values["age_mae"]) == 8
        and len(values["breed_correct"]) == 8
        and len(values["recon_mae"]) == 10
    )
    assert np.mean(values["breed_correct"]) == pytest.approx(test["breed_accuracy"])


def test_what_was_learned_travels_with_the_network(own, rich, tmp_path, capsys):
    model, info = checkpoint.load_model(own / "best.pt")
    assert info["settings"] == json.loads((own / "config.json").read_text())["settings"]
    assert model.task["column:breed"].settings["classes"] == ["boxer", "pug", "sphynx"]
    metrics, _ = measured(own / "best.pt", rich, capsys, "--batch-size", "3")
    test = result(own)
    assert all(
        metrics[key] == pytest.approx(test[key], abs=1e-5)
        for key in OWN_METRICS | {"dice", "border_iou", "box_iou"}
    )
    export.main(export.parse_args([str(own / "best.pt"), str(tmp_path / "half.pt")]))
    assert checkpoint.load_model(tmp_path / "half.pt")[1]["settings"] == info["settings"]
    half, _ = measured(tmp_path / "half.pt", rich, capsys)
    assert half["recon_mae"] == pytest.approx(test["recon_mae"], abs=1e-2)


def test_what_was_learned_elsewhere_measures_other_data_in_its_own_terms(own, tmp_path, capsys):
    """Its classes are those of its training split, whatever another folder's column holds."""
    folder = rechunk(write_more(write_data(tmp_path / "pets", {"test": 10}, seed=5)))
    path = folder / "test/index.csv"
    path.write_text(
        path.read_text()
        .replace("boxer", "beagle")
        .replace("pug", "beagle")
        .replace("sphynx", "beagle")
    )
    metrics, _ = measured(own / "best.pt", folder, capsys)
    assert (
        metrics["breed_accuracy"] == metrics["breed_balanced_accuracy"] == 0
    )  # a class that it cannot know
    assert metrics["age_mae"] > 0


def test_pictures_show_every_task(own, rich, tmp_path, capsys):
    mtl_vis.main(
        mtl_vis.parse_args(
            [
                "--checkpoint",
                str(own / "best.pt"),
                "--data",
                str(rich),
                "--out",
                str(tmp_path / "mask.png"),
                "--n",
                "2",
            ]
        )
    )
    line = capsys.readouterr().out.splitlines()[0]
    assert (
        "breed " in line
        and "age " in line
        and "of the picture is pet" in line
        and "of the picture is border" in line
    )
    width, height = Image.open(tmp_path / "mask.png").size
    assert (
        width > 8 * 300 and height > 2 * 300
    )  # a picture, target and prediction; the same of trimap, distance, reconstruction


def test_a_run_goes_on_from_the_network_in_every_part_that_means_the_same(
    own, rich, tmp_path, no_pictures, capsys
):
    run(rich, tmp_path, "--tasks", "seg", "column:breed", "--init", str(own / "best.pt"))
    assert f"encoder, seg, column:breed from {own / 'best.pt'}" in capsys.readouterr().out
    folder = shutil.copytree(rich, tmp_path / "pets")
    path = folder / "train/index.csv"
    path.write_text(path.read_text().replace("sphynx", "siamese"))
    run(
        folder,
        tmp_path,
        "--tasks",
        "seg",
        "column:breed",
        "--init",
        str(own / "best.pt"),
        "--name",
        "other",
    )
    assert f"encoder, seg from {own / 'best.pt'}" in capsys.readouterr().out  # of other classes


def unfinished(own, tmp_path):
    shutil.copytree(own.parent, tmp_path / "own")
    (tmp_path / "own/seed0/test.json").unlink()
    return tmp_path


def test_a_resumed_run_ends_as_it_did(own, rich, tmp_path, no_pictures):
    run(
        rich,
        unfinished(own, tmp_path),
        "--tasks",
        *OWN,
        "--masks",
        "8",
        "--name",
        "own",
        "--resume",
    )
    assert result(tmp_path / "own/seed0") == result(own)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--masks", "9"], "--masks was 8 and is 9"),
        (["--masks", "8", "--weighting", "uncertainty"], "weighting was equal and is unc"),
        (
            ["--masks", "8", "--tasks", "seg", "recon"],
            "tasks was .*'seg', 'column:breed'.* and is .*'seg', 'recon'",
        ),
        ([], "--masks was 8 and"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_is_not_resumed_with_other_settings(own, rich, tmp_path, options, words, is_finished):
    runs = own.parents[1] if is_finished else unfinished(own, tmp_path)
    with pytest.raises(InputError, match=words):
        run(rich, runs, "--tasks", *OWN, "--name", "own", "--resume", *options)


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_is_not_resumed_on_other_classes(own, rich, tmp_path, is_finished):
    runs, folder = (
        own.parents[1] if is_finished else unfinished(own, tmp_path),
        shutil.copytree(rich, tmp_path / "pets"),
    )
    path = folder / "train/index.csv"
    path.write_text(path.read_text().replace("sphynx", "siamese"))
    with pytest.raises(InputError, match=r"settings was .*'sphynx'.* and is .*'siamese'"):
        run(folder, runs, "--tasks", *OWN, "--masks", "8", "--name", "own", "--resume")


def test_a_column_may_be_called_anything(tmp_path, no_pictures):
    folder = rechunk(write_data(tmp_path / "pets", {"train": 12, "val": 6, "test": 6}))
    names = ["height cm", "Gewicht (kg)", "encoder", "色"]
    for split, n in (("train", 12), ("val", 6), ("test", 6)):
        rows = [f"{k},{split}{k},{k % 4},{2 * k % 5},{'ab'[k % 2]},{k % 3}" for k in range(n)]
        (folder / split / "index.csv").write_text(
            "\n".join([",".join(["row", "name", *names]), *rows, ""]), encoding="utf-8"
        )
    run(
        folder,
        tmp_path,
        "--tasks",
        "seg",
        *(f"column:{name}" for name in names),
        "--weighting",
        "uncertainty",
        "--name",
        "odd",
    )
    test = result(tmp_path / "odd/seed0")
    assert all(
        test[key] is not None
        for key in ("height_cm_mae", "Gewicht_kg_mae", "encoder_accuracy", "色_mae")
    )
    model, _ = checkpoint.load_model(tmp_path / "odd/seed0/best.pt")
    assert model.tasks == ("seg", *(f"column:{name}" for name in names))


def test_another_task_than_seg_may_choose_the_epoch_and_less_of_an_error_is_better(
    rich, tmp_path, no_pictures
):
    run(rich, tmp_path, "--tasks", "distance", "--epochs", "3")
    errors = [float(row["val_distance_mae"]) for row in log(tmp_path / "distance/seed0")]
    assert result(tmp_path / "distance/seed0")["best_epoch"] == 1 + int(np.argmin(errors))
    assert checkpoint.load(tmp_path / "distance/seed0/best.pt")["metrics"][
        "distance_mae"
    ] == pytest.approx(min(errors))
    assert result(tmp_path / "distance/seed0")["dice"] is None


# ------------------------------------------------------------------------------------------------ nothing labelled


def test_data_without_labels_is_measured_as_null(own, tmp_path, capsys):
    folder = rechunk(write_data(tmp_path / "pets", {"test": 6}, seed=3))
    for kind in ("masks", "bboxes", "binary"):
        (folder / f"test/{kind}.h5").unlink()
    metrics, warnings = measured(own / "best.pt", folder, capsys)
    known = {key for key, value in metrics.items() if value is not None} & (
        OWN_METRICS | {"dice", "border_iou", "box_iou", "accuracy"}
    )
    assert known == {"recon_mae"} and metrics["n_images"] == 6  # it needs the image alone
    assert warnings.count("cannot measure") == 6
    mtl_vis.main(
        mtl_vis.parse_args(
            [
                "--checkpoint",
                str(own / "best.pt"),
                "--data",
                str(folder),
                "--out",
                str(tmp_path / "a.png"),
            ]
        )
    )
    assert (tmp_path / "a.png").exists()


def test_a_split_without_one_mask(rich, tmp_path, capsys, no_pictures):
    """To test on it gives null; to learn from it or to choose by it is refused."""
    for split, words in (
        ("test", None),
        ("val", "val cannot choose a network: .* none has a mask"),
        ("train", "train cannot teach seg: .* none has a mask; bring masks of pets"),
    ):
        folder = shutil.copytree(rich, tmp_path / split / "pets")
        with h5py.File(folder / split / "masks.h5", "r+") as file:
            file["masks"][:] = 255
        if words:
            with pytest.raises(InputError, match=words):
                run(folder, tmp_path / split, "--tasks", "seg")
            continue
        run(folder, tmp_path / split, "--tasks", "seg", "distance")
        test = result(tmp_path / split / "seg_distance/seed0")
        assert all(
            test[key] is None
            for key in ("dice", "dice_pooled", "iou_pooled", "border_iou", "distance_mae")
        )
        assert "test cannot measure Dice" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- earlier versions


def test_a_run_of_the_version_before_goes_on_and_its_network_is_used(
    data, tmp_path, no_pictures, capsys
):
    """It knew no settings and no weighting, and called what the best epoch is chosen by best_dice."""
    arguments = ["--data", str(data), "--runs", str(tmp_path), *TINY]
    train_mtl.main(engine.make_parser("").parse_args(arguments))
    folder = tmp_path / "mtl/seed0"
    expected = result(folder)
    for name in ("best.pt", "last.pt", "previous.pt"):
        content = torch.load(folder / name, weights_only=True)
        for of in (content, content.get("best", {})):
            of.pop("settings", None)
        if "best_value" in content:
            content["best_dice"] = content.pop("best_value")
        checkpoint.save(content, folder / name)
    config = json.loads((folder / "config.json").read_text())
    config["options"].pop("masks")
    (folder / "config.json").write_text(
        json.dumps(
            {key: value for key, value in config.items() if key not in ("settings", "weighting")}
        )
    )
    (folder / "test.json").unlink()
    metrics, _ = measured(folder / "best.pt", data, capsys)
    assert metrics["dice"] == pytest.approx(expected["dice"], abs=1e-6)
    train_mtl.main(engine.make_parser("").parse_args([*arguments, "--resume"]))
    assert result(folder) == expected
