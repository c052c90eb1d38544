"""predict.py: files at the photographs' own size, a table and a COCO file, whatever is asked, interrupted or wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import cli
import predict
import registry
from cli import InputError
from data.pixels import of_pillow
from models import MTLNet
from registry import PUBLISHED
from training import checkpoint, looking, predictions


def write_network(path, names=PUBLISHED, seed=0, settings={}):
    tasks = registry.tasks(names)
    for name, task in tasks.items():
        task.settings = settings.get(name, {})
    model = MTLNet(tasks.values(), width=2, seed=seed)
    checkpoint.save(
        {
            "model": model.state_dict(),
            "tasks": list(tasks),
            "width": 2,
            "size": 32,
            "metrics": {},
            "experiment": "mtl",
            "seed": seed,
            "split_hash": "",
            "border": "pet",
            "trained_on": torch.zeros(0, dtype=torch.int64),
            "settings": settings,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "net.pt")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of many kinds, two that are none, and what is no photograph by its name."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    (folder / "sub" / "deep").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, (width, height), more in (
        ("a.jpg", (90, 60), {}),
        ("a.png", (40, 30), {}),
        ("b.JPG", (60, 90), {}),
        ("sub/a.jpg", (200, 40), {}),
        ("sub/deep/c.webp", (33, 47), {}),
        ("turned.jpg", (80, 50), {"exif": turned}),
    ):
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((width, height)).save(folder / name, **more)
    (folder / "text.jpg").write_text("hello")
    (folder / "sub" / "empty.png").touch()
    (folder / "notes.txt").write_text("no photograph")
    (folder / ".hidden.jpg").write_text("no photograph")
    (folder / "link.jpg").symlink_to("a.jpg")
    return folder


NAMES = ["a.jpg", "a.png", "b.JPG", "link.jpg", "sub/a.jpg", "sub/deep/c.webp", "turned.jpg"]
RESULTS = ["a.jpg", "a.png", "b", "link", "sub/a", "sub/deep/c", "turned"]
ALL = ("--cutout", "--overlay", "--probability")


def run(network, *args):
    """In this process, with two others."""
    predict.main(
        predict.parse_args(
            ["--checkpoint", str(network), "--device", "cpu", "--processes", "2", *map(str, args)]
        )
    )


def script(network, *args, **options):
    return subprocess.Popen(
        [
            sys.executable,
            ROOT / "predict.py",
            "--checkpoint",
            network,
            "--device",
            "cpu",
            "--processes",
            "2",
            *args,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def rows(out):
    with open(
        out / "predictions.csv", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        return list(csv.DictReader(file))


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(network, photographs, tmp_path_factory):
    """All that can be asked for at once."""
    out = tmp_path_factory.mktemp("made") / "out"
    pytest.importorskip("pycocotools")
    run(network, photographs, "--out", out, *ALL, "--coco", out.parent / "seen.json")
    return out


# ---------------------------------------------------------------------------------------------------------- what is written


def test_every_photograph_has_its_files(made):
    expected = {
        f"{kind}/{name}{ending}" for kind, ending in predictions.ENDINGS.items() for name in RESULTS
    }
    assert content(made).keys() == expected | {"predictions.csv"}


def test_masks_are_of_the_photographs_own_size_and_say_what_the_network_sees(
    made, photographs, network
):
    model, _ = checkpoint.load_model(network)
    for name, result in zip(NAMES, RESULTS):
        with Image.open(photographs / name) as image:
            image = (
                image.transpose(Image.Transpose.ROTATE_270)
                if name == "turned.jpg"
                else image.convert("RGB")
            )
        mask, cutout = (
            Image.open(made / f"masks/{result}.png"),
            Image.open(made / f"cutouts/{result}.png"),
        )
        grey, overlay = (
            Image.open(made / f"probability/{result}.png"),
            Image.open(made / f"overlays/{result}.jpg"),
        )
        assert {one.size for one in (mask, cutout, grey, overlay)} == {image.size}
        assert [one.mode for one in (mask, cutout, grey, overlay)] == ["L", "RGBA", "L", "RGB"]
        seen = looking.outputs_of(model, of_pillow(image), 32)["seg"]
        expected = model.task["seg"].answer(seen, image.height, image.width).numpy()
        mask, cutout, grey = map(np.asarray, (mask, cutout, grey))
        assert (
            set(np.unique(mask)) <= {0, 255} and np.mean((mask == 255) != expected) < 0.01
        )  # another number of threads
        assert np.array_equal(cutout[..., 3], mask) and (cutout[mask == 0] == 0).all()
        assert np.array_equal(cutout[mask == 255][:, :3], np.asarray(image)[mask == 255])
        assert (grey[mask == 255] >= 127).all() and (grey[mask == 0] <= 128).all()


def test_the_table_has_a_line_for_every_photograph(made, photographs, network):
    table = rows(made)
    assert [row["path"] for row in table] == sorted([*NAMES, "text.jpg", "sub/empty.png"])
    assert list(table[0]) == [
        "path",
        "width",
        "height",
        "share",
        "class",
        "probability",
        "xmin",
        "ymin",
        "xmax",
        "ymax",
        "problem",
    ]
    by_name = {row["path"]: row for row in table}
    assert (
        "text, not a picture" in by_name["text.jpg"]["problem"]
        and by_name["text.jpg"]["share"] == ""
    )
    assert "empty" in by_name["sub/empty.png"]["problem"]
    for name, result in zip(NAMES, RESULTS):
        row, mask = by_name[name], np.asarray(Image.open(made / f"masks/{result}.png"))
        assert (int(row["height"]), int(row["width"])) == mask.shape and row["problem"] == ""
        assert float(row["share"]) == pytest.approx((mask > 0).mean(), abs=1e-4)
        assert row["class"] in ("cat", "dog", "neither") and 0.5 <= float(row["probability"]) <= 1
        assert mask.any()
        assert (
            0 <= float(row["xmin"]) <= float(row["xmax"]) <= mask.shape[1]
            and 0 <= float(row["ymin"]) <= float(row["ymax"]) <= mask.shape[0]
        )


def test_without_a_pet_the_box_has_no_cells_and_is_not_drawn(tmp_path, photographs):
    content = checkpoint.load(write_network(tmp_path / "net.pt"))
    content["model"]["seg.logits.bias"] -= 100
    checkpoint.save(content, tmp_path / "blind.pt")
    run(tmp_path / "blind.pt", photographs / "b.JPG", "--out", tmp_path / "out", "--overlay")
    (row,) = rows(tmp_path / "out")
    assert row["share"] == "0.0" and row["class"] and row["probability"] and row["problem"] == ""
    assert [row[key] for key in ("xmin", "ymin", "xmax", "ymax")] == [""] * 4
    drawn, plain = (
        np.asarray(Image.open(path).convert("RGB")).astype(int)
        for path in (tmp_path / "out/overlays/b.jpg", photographs / "b.JPG")
    )
    assert abs(drawn - plain).mean() < 5 and abs(drawn - plain).max() < 60  # but for a JPEG twice


def test_the_coco_file_holds_the_same_masks(made):
    from pycocotools.coco import COCO

    coco = COCO(made.parent / "seen.json")
    assert [one["name"] for one in coco.dataset["categories"]] == ["pet", "cat", "dog"]
    assert [one["file_name"] for one in coco.dataset["images"]] == NAMES
    by_name, drawn = {row["path"]: row for row in rows(made)}, 0
    for image, result in zip(coco.dataset["images"], RESULTS):
        mask = np.asarray(Image.open(made / f"masks/{result}.png")) > 0
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(found) == mask.any() and (image["height"], image["width"]) == mask.shape
        for one in found:
            assert (
                np.array_equal(coco.annToMask(one), mask)
                and one["area"] == mask.sum()
                and 0.5 <= one["score"] <= 1
            )
            ys, xs = mask.nonzero()
            assert one["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            name = by_name[image["file_name"]]["class"]
            assert coco.loadCats(one["category_id"])[0]["name"] == (
                "pet" if name == "neither" else name
            )
            drawn += 1
    assert drawn


def test_other_tasks_have_columns_of_their_own(tmp_path, photographs):
    settings = {
        "column:breed": {"classes": ["pug", "boxer"]},
        "column:width": {"mean": 3.0, "deviation": 1.0},
    }
    write_network(tmp_path / "net.pt", ["seg", *settings], settings=settings)
    run(tmp_path / "net.pt", photographs / "b.JPG", "--out", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert list(row) == [
        "path",
        "width",
        "height",
        "share",
        "breed",
        "breed probability",
        "column:width width",
        "problem",
    ]
    assert (
        row["breed"] in ("pug", "boxer")
        and row["width"] == "60"
        and float(row["column:width width"]) == pytest.approx(3, abs=3)
    )


def test_tiles_and_mirror_look_otherwise(tmp_path, network, photographs):
    masks = []
    for options in ((), ("--tiles",), ("--mirror",)):
        run(
            network,
            photographs / "sub/a.jpg",
            "--out",
            tmp_path / "".join(["out", *options]),
            "--probability",
            *options,
        )
        masks.append((tmp_path / "".join(["out", *options]) / "probability/a.png").read_bytes())
    assert len(set(masks)) == 3


# ------------------------------------------------------------------------------------------------- again, and interrupted


def test_what_is_there_is_skipped(tmp_path, network, photographs, capsys):
    out = tmp_path / "out"
    run(network, photographs, "--out", out)
    before, times = (
        content(out),
        {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")},
    )
    (out / "masks/b.png").unlink()
    (out / "masks/turned.png").write_bytes(b"")  # as a power failure may leave it
    run(network, photographs, "--out", out)
    assert (
        content(out) == before
        and "7 masks, 5 of them were there already, 2 cannot be read" in capsys.readouterr().out
    )
    anew = {path.name for path, when in times.items() if path.stat().st_mtime_ns != when}
    assert anew == {"b.png", "turned.png"}
    run(network, photographs, "--out", out, "--probability")  # what is asked for beside is made
    assert (out / "probability/b.png").exists() and content(out).items() >= before.items()
    run(network, photographs, "--out", out, "--force")
    assert (
        all(path.stat().st_mtime_ns != when for path, when in times.items())
        and content(out).items() >= before.items()
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    tmp_path, network, photographs, number
):
    folder = tmp_path / "many"
    for k in range(40):
        (folder / f"{k % 3}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (700 + k, 500), (5 * k, 90, 60)).save(folder / f"{k % 3}/{k}.jpg")
    coco = ["--coco", tmp_path / "seen.json"] if has_coco() else []
    process = script(network, folder, "--out", tmp_path / "out", "--cutout", *coco)
    deadline = time.monotonic() + 60
    while (
        len(list(tmp_path.glob("out/masks/*/*.png"))) < 4
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert (
        process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    )
    time.sleep(0.3)  # what a killed process started ends by itself
    there = len(list(tmp_path.glob("out/masks/*/*.png")))
    assert (
        4 <= there < 40
        and not (tmp_path / "out/predictions.csv").exists()
        and not (tmp_path / "seen.json").exists()
    )
    run(network, folder, "--out", tmp_path / "out", "--cutout", *coco)
    stopped, seen = content(tmp_path / "out"), coco and coco[1].read_bytes()
    run(network, folder, "--out", tmp_path / "whole", "--cutout", *coco)
    whole = content(tmp_path / "whole")
    assert whole == stopped and len(whole) == 81 and seen == (coco and coco[1].read_bytes())


def has_coco():
    try:
        import pycocotools  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_number_of_processes_and_how_they_start_change_nothing(
    tmp_path, network, photographs, monkeypatch
):
    for name, more in (("one", ("--processes", "1")), ("two", ())):
        run(network, photographs, "--out", tmp_path / name, *more)
    monkeypatch.setattr(predictions, "METHOD", {"cpu": "spawn"})
    run(network, photographs, "--out", tmp_path / "spawned")
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "spawned")


# -------------------------------------------------------------------------------------------------------------- wrong use


def refused(words, network, *args):
    with pytest.raises(InputError, match=words) as error:
        run(network, *args)
    assert "\n" not in str(error.value)


def test_results_of_something_else_are_left_alone(tmp_path, network, photographs):
    out, photograph = tmp_path / "out", photographs / "b.JPG"
    run(network, photograph, "--out", out)
    before = content(out)
    refused("of another network or other options", network, photograph, "--out", out, "--tiles")
    refused(
        "of another network", write_network(tmp_path / "other.pt", seed=1), photograph, "--out", out
    )
    os.makedirs(tmp_path / "photographs")
    Image.new("RGB", (9, 9)).save(tmp_path / "photographs/b.png")
    refused("of b.JPG", network, tmp_path / "photographs", "--out", out)
    assert content(out) == before
    Image.open(out / "masks/b.png").point(lambda v: 255 - v).save(
        out / "masks/b.png"
    )  # as a human corrects one
    refused("not made by predict.py, or changed since", network, photograph, "--out", out)
    run(network, photograph, "--out", out, "--force")
    assert content(out) == before


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, network, photographs):
    out = tmp_path / "out"
    refused("there is no .*nowhere.jpg", network, tmp_path / "nowhere.jpg", "--out", out)
    (tmp_path / "empty").mkdir()
    refused("holds no photograph", network, tmp_path / "empty", "--out", out)
    refused(
        "lies in .*choose a folder outside", network, photographs, "--out", photographs / "sub/out"
    )
    refused("lies in .*choose a folder outside", network, photographs, "--out", photographs)
    refused(
        "results of the same name",
        network,
        photographs / "a.jpg",
        photographs / "sub/a.jpg",
        "--out",
        out,
    )
    refused("results of the same name", network, photographs, photographs / "sub", "--out", out)
    refused(
        "no masks to write .*its tasks are cls, bbox",
        write_network(tmp_path / "other.pt", ("cls", "bbox")),
        photographs,
        "--out",
        out,
    )
    refused("there is no checkpoint", tmp_path / "no.pt", photographs, "--out", out)
    refused("--coco .* is a folder", network, photographs, "--out", out, "--coco", tmp_path)
    refused(
        "--coco .* in no folder",
        network,
        photographs,
        "--out",
        out,
        "--coco",
        tmp_path / "none/x.json",
    )
    (tmp_path / "file").touch()
    refused("cannot be made", network, photographs, "--out", tmp_path / "file/out")
    assert not out.exists() and not (photographs / "sub/out").exists()


def test_own_results_are_no_photographs(tmp_path, network, photographs):
    run(
        network, photographs / "b.JPG", "--out", tmp_path
    )  # beside the results lies what else there is
    refused("what predict.py itself writes", network, tmp_path / "masks", "--out", tmp_path)
    refused("what predict.py itself writes", network, tmp_path / "masks/b.png", "--out", tmp_path)
    run(network, tmp_path / "masks", "--out", tmp_path / "elsewhere")


def test_the_same_photograph_twice_is_one(tmp_path, network, photographs):
    run(network, photographs, photographs / "a.jpg", photographs, "--out", tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 9


def test_where_nothing_can_be_read_the_exit_status_is_2(tmp_path, network, photographs):
    process = script(
        network, photographs / "text.jpg", photographs / "sub/empty.png", "--out", tmp_path / "out"
    )
    printed, warned = process.communicate(timeout=120)
    assert process.returncode == 2 and printed == ""
    lines = warned.splitlines()
    assert (
        len(lines) == 3
        and "empty.png cannot be read" in lines[0]
        and "none of the 2 photographs can be read" in lines[2]
    )
    assert [bool(row["problem"]) for row in rows(tmp_path / "out")] == [True, True]


@pytest.mark.parametrize("option", [("--processes", "0"), ("--device", "abacus"), ("--out",)])
def test_bad_options(option, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.parse_args(["a.jpg", "--out", "out", *option])
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_coco_file_without_pycocotools_is_a_sentence(tmp_path, network, photographs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    refused(
        "pip install -r requirements-coco.txt",
        network,
        photographs,
        "--out",
        tmp_path / "out",
        "--coco",
        tmp_path / "x.json",
    )
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_it_in_a_sentence(tmp_path, network, photographs, monkeypatch, capsys):
    monkeypatch.setattr(predictions, "save", fail)
    monkeypatch.setattr(sys, "argv", ["predict.py"])
    args = predict.parse_args(
        [
            "--checkpoint",
            str(network),
            "--device",
            "cpu",
            str(photographs),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        cli.run(predict.main, args)
    signal.signal(signal.SIGTERM, before)
    assert (
        stop.value.code == 2
        and "No space left" in capsys.readouterr().err
        and not list(tmp_path.glob("out/predictions*"))
    )


def fail(*args, **options):
    raise OSError(28, "No space left on device", "out/masks/a.png")


# ------------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "names, results",
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "a.png", "a.jpg.tif"], ["a.jpg", "a.png", "a.jpg.tif"]),
        (["x/a.jpg", "a.jpg"], ["x/a", "a"]),
        (["a.b/c.jpg", "a.b/c.png", "noending"], ["a.b/c.jpg", "a.b/c.png", "noending"]),
        (["a.tar.gz.png"], ["a.tar.gz"]),
    ],
)
def test_no_two_photographs_have_results_of_one_name(names, results):
    assert list(predictions.result_names(names).values()) == results


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="the system's file names are all UTF-8"
)
def test_names_of_any_bytes(tmp_path, network, capsys):
    folder = os.path.join(os.fsencode(tmp_path), b"photographs")
    os.mkdir(folder)
    odd = (
        b"caf\xe9.png",
        b'a\nb,"c".png',
        "猫 e\u0301.png".encode(),
        b"x" * 250 + b".png",
        b"y" * 251 + b".jpg",
    )
    for name in odd:
        Image.new("RGB", (40, 30), (120, 90, 60)).save(tmp_path / "a", format="PNG")
        os.replace(tmp_path / "a", os.path.join(folder, name))
    run(
        network,
        os.fsdecode(folder),
        "--out",
        tmp_path / "out",
        *(["--coco", tmp_path / "x.json"] if has_coco() else []),
    )
    table = {os.fsencode(row["path"]): row for row in rows(tmp_path / "out")}
    assert table.keys() == set(odd)
    long = [name for name, row in table.items() if row["problem"]]
    assert sorted(long) == [odd[3], odd[4]] and all(
        "File name too long" in table[name]["problem"] for name in long
    )
    assert set(os.listdir(os.fsencode(tmp_path / "out/masks"))) == set(odd[:3])
    if has_coco():
        named = [
            one["file_name"] for one in json.loads((tmp_path / "x.json").read_text())["images"]
        ]
        assert set(map(os.fsencode, named)) == set(odd[:3])


def test_help_and_predicting_do_without_matplotlib(tmp_path, network, photographs):
    code = (
        f"import sys; sys.argv = ['predict.py']; import predict; assert 'torch' not in sys.modules; "
        f"predict.main(predict.parse_args({['--checkpoint', str(network), str(photographs / 'a.jpg'), '--out', str(tmp_path / 'out'), *ALL]!r})); "
        "assert not {'matplotlib', 'scipy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
