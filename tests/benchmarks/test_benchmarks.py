"""The benchmarks on tiny budgets: what they print, never how fast they are."""

import json
import math
import pickle
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, rechunk, write_data
from PIL import Image, ImageOps
from torch.utils.flop_counter import FlopCounterMode

import registry

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_growth  # noqa: E402  (the path comes first)
import bench_loader  # noqa: E402
import bench_predict  # noqa: E402
import bench_quality  # noqa: E402
import bench_rechunk  # noqa: E402
import bench_scaling  # noqa: E402
import bench_start  # noqa: E402
import bench_stress  # noqa: E402
import bench_train  # noqa: E402
import common  # noqa: E402
import together  # noqa: E402
from soaking import folders, pictures  # noqa: E402

from data import photographs, stress  # noqa: E402
from data.contract import chunked, open_rechunked  # noqa: E402
from dataloader_mtl import MTLDataset, make_loader  # noqa: E402
from models import MTLNet, count_parameters  # noqa: E402
from training import checkpoint, evaluation, recipe  # noqa: E402

SCRIPTS = sorted((ROOT / "benchmarks").glob("bench_*.py"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A re-chunked data folder of the side that the reference network is made for."""
    return rechunk(
        write_data(
            tmp_path_factory.mktemp("large") / "pets", {"train": 4, "val": 1, "test": 1}, size=256
        )
    )


@pytest.fixture
def copied(data, tmp_path):
    """The small data folder under a path whose neighbourhood may be written to."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "pets").symlink_to(data)
    return tmp_path / "place" / "pets"


def run(module, capsys, *options):
    """The last line that a benchmark prints, as JSON."""
    module.main(module.parse_args([str(option) for option in options]))
    lines = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("| -") for line in lines)
    return json.loads(lines[-1])


def assert_positive(results, *keys):
    assert all(math.isfinite(results[key]) and results[key] > 0 for key in keys), results


def test_the_reference_is_the_published_network():
    with torch.device("meta"):
        model, image = bench_train.Reference(), torch.empty(2, 3, 256, 256, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        outputs = model(image)
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(14.2, abs=0.05)
    assert count_parameters(model) / 1e6 == pytest.approx(3.7, abs=0.1)
    assert {task: tuple(value.shape) for task, value in outputs.items()} == {
        "seg": (2, 1, 256, 256),
        "cls": (2, 2),
        "bbox": (2, 4),
    }


def test_train(large, capsys, monkeypatch):
    monkeypatch.setattr(bench_train, "STEPS", 1)
    monkeypatch.setattr(bench_train, "PRODUCT_SIDE", 64)
    monkeypatch.setattr(bench_train, "NEIGHBOURS", (0, 2))
    monkeypatch.setattr(together, "SECONDS", 0.0)
    results = run(bench_train, capsys, "--data", large, "--rounds", 1, "--batch-size", 2)
    assert_positive(
        results,
        "reference_images_per_second",
        "images_per_second",
        "ratio",
        "ratio_memory_kept",
        "gflop_per_image",
        "ceiling_gflops",
        "share_of_ceiling",
        "processes_ratio",
        "busy_share",
        "busy_share_threads",
    )
    assert_positive(results["peers"], "torchvision lraspp_mobilenet_v3")
    assert results["processes"] == 1  # of one thread, as the tests have it
    speed = results["images_per_second"]
    assert results["ratio"] == pytest.approx(
        speed / results["reference_images_per_second"], rel=2e-3
    )
    share = speed * results["gflop_per_image"] / results["ceiling_gflops"]
    assert results["share_of_ceiling"] == pytest.approx(share, rel=2e-3)
    assert results["reference_gflop_forward"] == pytest.approx(14.2, abs=0.05)


def test_scaling(data, capsys, monkeypatch):
    monkeypatch.setattr(together, "SECONDS", 0.0)
    monkeypatch.setattr(bench_scaling, "PROCESSES", (1,))
    monkeypatch.setattr(bench_scaling, "MACHINES", (1, 2))
    monkeypatch.setattr(bench_scaling, "LINKS", {"slow": (1.0, 1e9)})
    results = run(bench_scaling, capsys, "--data", data, "--rounds", 1, "--batch-size", 4)
    assert_positive(results["images_per_second"], "1")
    assert results["megabytes"] > 12.9  # the gradients of 3.2 M parameters, and more
    assert results["meetings"] > 30  # two of each normalisation
    assert (
        results["several_machines"]["slow"]["2"] < 4 / results["meetings"]
    )  # a second's delay for each


def test_seconds_of_a_step_on_several_machines():
    assert bench_scaling.step_seconds(2.0, 1, 50, 1e9, 1.0, 1.0) == 2.0
    assert bench_scaling.step_seconds(2.0, 4, 50, 8e6, 0.01, 1e6) == pytest.approx(2 + 0.5 + 12)


def test_train_refuses_data_of_another_side(data):
    with pytest.raises(common.InputError, match="64 px"):
        bench_train.main(bench_train.parse_args(["--data", str(data)]))


def test_loader(copied, capsys):
    results = run(bench_loader, capsys, "--data", copied, "--rounds", 1, "--batch-size", 4)
    assert_positive(
        results,
        "images_per_second",
        "images_per_second_in_memory",
        "ratio_open_per_sample",
        "ratio_ram",
        "ratio_guessed_chunks",
    )
    assert [path.name for path in copied.parent.iterdir()] == ["pets"]


def test_the_ways_to_load_read_the_same(data):
    arrays = {kind: bench_loader.read_all(data, kind) for kind in bench_loader.KINDS}
    image, mask, _, label = bench_loader.OpenPerSample(data / "train", [7])[0]
    assert image.dtype == torch.float64
    assert np.allclose((image * 0.23 + 0.45).permute(1, 2, 0) * 255, arrays["images"][7])
    assert (
        np.allclose(mask.permute(1, 2, 0), arrays["masks"][7]) and label == arrays["binary"][7, 0]
    )
    loader = bench_loader.make_loader(bench_loader.MTLDataset(data, "train"), 5, shuffle=True)
    _, images = bench_loader.drain(loader)
    assert images == sum(len(batch["row"]) for batch in bench_loader.batches(loader)) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak memory")
def test_rechunk(copied, capsys):
    before = (copied / "train" / "images.h5").read_bytes()
    results = run(bench_rechunk, capsys, "--data", copied, "--n", 20, "--rounds", 1)
    assert_positive(results, "ratio_copy")
    assert (
        results["n"] == [20, 40, 80]
        and len(results["peak_mb"]) == 3
        and min(results["peak_mb"]) >= 0
    )
    assert (copied / "train" / "images.h5").read_bytes() == before
    assert [path.name for path in copied.parent.iterdir()] == ["pets"]


def test_the_file_to_rechunk_repeats_the_images(data, tmp_path):
    bench_rechunk.write_source(data, tmp_path / "source.h5", 30)
    file, images = open_rechunked(data, "train", "images")
    with file, bench_rechunk.h5py.File(tmp_path / "source.h5") as written:
        assert written["images"].chunks is None
        assert np.array_equal(written["images"][:24], images[:]) and np.array_equal(
            written["images"][24:], images[:6]
        )
        assert chunked("images") not in written


def test_quality(data, tmp_path, capsys):
    options = [
        "--data",
        data,
        "--runs",
        tmp_path,
        "--width",
        2,
        "--batch-size",
        8,
        "--minutes",
        1e-4,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    results = run(bench_quality, capsys, *options)
    assert_positive(results, "train_seconds", "dice_pooled", "accuracy")
    assert results["epochs"] == 1 and results["experiment"] == "mtl"
    folder = tmp_path / "mtl" / "seed0"
    header, row = (folder / "quality.csv").read_text().splitlines()
    assert header == ",".join(bench_quality.FIELDS) and row.startswith("1,")
    assert (folder / "quality.png").stat().st_size > 5000
    with pytest.raises(common.InputError, match="--resume"):
        bench_quality.main(bench_quality.parse_args([str(option) for option in options]))


def test_quick_sides_are_those_of_the_options():
    assert [bench_quality.quick_sides(size) for size in (256, 512, 128, 320)] == [
        "128:0.5,192:0.88,256:1",
        "256:0.5,384:0.88,512:1",
        None,
        None,
    ]
    assert recipe.training_sides(8, 256, bench_quality.quick_sides(256)) == [128] * 4 + [
        192
    ] * 3 + [256]
    options = vars(bench_quality.parse_args([]))
    assert {key: options[key] for key in bench_quality.QUICK} == bench_quality.QUICK
    assert bench_quality.parse_args(["--optimizer", "adamw"]).optimizer is None


def test_epochs_fill_the_time(monkeypatch):
    monkeypatch.setattr(
        bench_quality.engine,
        "training_sides",
        lambda epochs, size, asked: [128] * (epochs // 2) + [size] * (epochs - epochs // 2),
    )
    # 100 images: 1 s an epoch at 128 px, 4 s at 256 px.
    speeds = {128: 100.0, 256: 25.0}
    epochs = [
        bench_quality.choose_epochs(seconds, 100, speeds, 256)
        for seconds in (0.1, 4.9, 5, 20, 19.9)
    ]
    assert epochs == [1, 1, 2, 8, 7]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak memory")
@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not tell what memory other processes have"
)
def test_predict(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(common, "CACHE", tmp_path / "datasets" / "pets")
    model = MTLNet(("seg",), width=2)
    checkpoint.save(
        {
            "model": model.state_dict(),
            "tasks": ["seg"],
            "width": 2,
            "size": 32,
            "metrics": {},
            "experiment": "mtl",
            "seed": 0,
            "split_hash": "",
            "border": "pet",
            "trained_on": torch.zeros(0, dtype=torch.int64),
        },
        tmp_path / "net.pt",
    )
    results = run(
        bench_predict, capsys, "--n", 10, "--calls", 1, "--checkpoint", tmp_path / "net.pt"
    )
    assert results["n"] == [1, 10] and min(results["peak_mb"]) > 50
    assert_positive(
        results, "photographs_per_second", "single_seconds", "one_ms", "growth_of_memory"
    )
    assert results["ratio"] == pytest.approx(
        results["photographs_per_second"] * results["single_seconds"], rel=2e-3
    )
    assert list((tmp_path / "datasets").iterdir()) == []
    (tmp_path / "photographs").mkdir()
    with pytest.raises(common.InputError, match="holds 0 photographs, and 10 are asked for"):
        bench_predict.main(
            bench_predict.parse_args(["--n", "10", "--photographs", str(tmp_path / "photographs")])
        )


def test_stress(capsys, data, tmp_path):
    model = MTLNet(("seg", "cls", "bbox"), width=2)
    content = {
        "model": model.state_dict(),
        "tasks": list(model.tasks),
        "width": 2,
        "metrics": {},
        "experiment": "mtl",
        "seed": 0,
        "split_hash": "",
        "border": "pet",
        "trained_on": torch.zeros(0, dtype=torch.int64),
    }
    for size in (64, 32):
        checkpoint.save(content | {"size": size}, tmp_path / f"{size}.pt")
    results = run(
        bench_stress,
        capsys,
        "--data",
        data,
        "--checkpoint",
        tmp_path / "64.pt",
        tmp_path / "32.pt",
        "--limit",
        3,
        "--sheet",
        tmp_path / "sheet.png",
    )
    for size in (64, 32):
        found = results["networks"][str(tmp_path / f"{size}.pt")]
        assert list(found) == list(stress.KINDS)
        assert found["crowded"]["box_iou"] is None and 0 <= found["small"]["box_iou"] <= 1
        assert found["empty"].keys() == {"empty", "sure"} and 0 <= found["empty"]["sure"] <= 1
    assert Image.open(tmp_path / "sheet.png").width > 500
    loaded, _ = checkpoint.load_model(tmp_path / "64.pt")
    plain = evaluation.evaluate(
        loaded, make_loader(MTLDataset(data, "val", limit=3, tasks=loaded.task.values()), 2)
    )[0]
    assert results["networks"][str(tmp_path / "64.pt")]["as it is"]["dice"] == pytest.approx(
        plain["dice"], rel=1e-3
    )
    blind = MTLNet(("cls",), width=2)
    checkpoint.save(
        content | {"size": 64, "tasks": ["cls"], "model": blind.state_dict()}, tmp_path / "blind.pt"
    )
    with pytest.raises(common.InputError, match="blind.pt has no task seg"):
        bench_stress.main(
            bench_stress.parse_args(
                ["--data", str(data), "--checkpoint", str(tmp_path / "blind.pt")]
            )
        )


def test_alarms_by_hand():
    seg = torch.full((3, 1, 20, 20), -1.0)
    seg[1, :, 0, :2] = 1  # 2 of 400 are half a percent
    seg[2] = 1
    logits = torch.tensor([[0.0, math.log(9.5)], [0.0, math.log(8.5)], [9.0, 0.0]])
    targets = {"seg": torch.zeros(3, 1, 20, 20, dtype=torch.uint8)}
    targets["seg"][2, 0, 0, 0] = 1  # shows a pet: not counted
    found = bench_stress.alarms(
        {"cls": registry.find("tasks", "cls")}, {"seg": seg, "cls": logits}, targets
    )
    assert found["empty"].tolist() == [1, 0] and found["sure"].tolist() == [1, 0]


def test_growth(capsys, monkeypatch, tmp_path):
    def in_this_process(module, function, *args):
        getattr(bench_growth, function)(*map(str, args))()
        return 2.0, 3.0

    monkeypatch.setattr(common, "cost", in_this_process)
    monkeypatch.setattr(common, "CACHE", tmp_path / "datasets" / "pets")
    monkeypatch.setattr(bench_growth, "FACTORS", (1,))
    results = run(bench_growth, capsys, "--n", 20, "--size", 32, "--rounds", 1)
    assert results["n"] == [20] and set(results["growth"]) == set(bench_growth.STAGES)
    assert results["seconds"]["epoch"] == [2.0] and results["peak_mb"]["rechunk"] == [3.0]
    assert list((tmp_path / "datasets").iterdir()) == []


def test_start(capsys, monkeypatch):
    """Its processes are begun by hand below: to start every script takes a while."""
    asked = []
    monkeypatch.setattr(
        bench_start, "process", lambda *words: lambda: asked.append([str(word) for word in words])
    )
    results = run(bench_start, capsys, "--rounds", 1)
    assert_positive(results, "import_torch", "photograph", "network")
    assert (
        {"train_mtl", "mtl_vis", "evaluate"}
        <= results["help"].keys()
        == results["ratio_help"].keys()
    )
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]
    assert {"import torch", "--help"} <= {words[-1] for words in asked} and sum(
        words[0] == "mtl_vis.py" for words in asked
    ) == 6


def test_a_process_that_fails_ends_the_benchmark():
    with pytest.raises(SystemExit, match="ended with 3"):
        bench_start.process("-c", "raise SystemExit(3)")()
    bench_start.process("-c", "import os; assert os.environ['OMP_NUM_THREADS'] == '1'")()


@pytest.mark.parametrize("tick", [1.0, 1000.0])
def test_timing_in_turns_gives_medians_of_whatever_the_clock_says(monkeypatch, tick):
    clock, calls = [0.0], []
    durations = {"slow": iter([90, 6, 2, 4]), "fast": iter([50, 1, 3, 2])}

    def way(name):
        calls.append(name)
        clock[0] += tick * next(durations[name])

    def before(name):
        calls.append(f"before {name}")
        clock[0] += 77

    monkeypatch.setattr(common.time, "perf_counter", lambda: clock[0])
    seconds = common.interleave(
        {name: lambda name=name: way(name) for name in durations}, 3, before
    )
    assert seconds == {"slow": 4 * tick, "fast": 2 * tick}
    assert calls == ["before slow", "slow", "before fast", "fast"] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak memory")
def test_cost_counts_what_the_work_takes_and_nothing_of_its_parent(tmp_path, monkeypatch):
    (tmp_path / "work.py").write_text(
        "def take(megabytes): return lambda: bytearray(b'x') * (int(megabytes) << 20)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ballast = np.ones(50 << 20)  # 400 MB of ours
    _, peak = common.cost("work", "take", 100)
    assert 95 < peak < 130 and ballast.size
    with pytest.raises(SystemExit):
        common.cost("work", "nothing")


def test_numbers_are_printed_with_four_digits():
    assert common.rounded({"a": [1.23456, (2, 98765.4321)], "b": None}) == {
        "a": [1.235, [2, 98770.0]],
        "b": None,
    }
    cells = [common.text(cell) for cell in (0.123456, 12.3456, 12345.6, 7, None)]
    assert cells == ["0.1235", "12.35", "12,346", "7", ""]


def test_every_benchmark_shows_its_command():
    assert len(SCRIPTS) == 10
    for path in SCRIPTS:
        assert f"python benchmarks/{path.name}" in path.read_text(encoding="utf-8")


def test_wrong_input_takes_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "bench_rechunk.py", "--data", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and len(done.stderr.strip().splitlines()) == 1
        and "nowhere" in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def odd_pictures(times=12):
    """Plain pictures for the soak to write in its forms, with their seeds."""
    for seed in range(times):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(
            0, 256, (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3), dtype=np.uint8
        )
        image = Image.fromarray(pixels).resize(
            [int(side) for side in rng.integers(20, 60, 2)], Image.Resampling.BILINEAR
        )
        image.paste(image.resize((9, 9)).point(lambda value: value // 16))  # where the dark is
        yield seed, image, rng


@pytest.mark.parametrize("way", pictures.WAYS, ids=lambda way: way.__name__)
def test_a_picture_of_every_form_of_the_soak_is_read_as_it_should_look(way, tmp_path):
    for seed, image, rng in odd_pictures():
        written = pictures.write_odd(
            image, rng, lambda ending: tmp_path / f"{seed}.{ending}", [way]
        )
        try:
            found = photographs.read(written.path).image
        except photographs.Unreadable:
            assert written.may_refuse, written.what
            continue
        assert found.size == written.right.size, written.what
        off = np.abs(np.asarray(found).astype(int) - np.asarray(written.right)).max()
        assert off <= written.near, f"{written.what} is off by {off}"


@pytest.mark.parametrize(
    "way",
    [
        pictures.deep_grey,
        pictures.floating,
        pictures.transparent,
        pictures.transparent_palette,
        pictures.colour_key,
        pictures.half_transparent,
        pictures.exchanged_colorants,
        pictures.other_gamma,
    ],
    ids=lambda way: way.__name__,
)
def test_the_forms_of_the_soak_tell_a_careless_reader(way, tmp_path):
    """Pillow's convert("RGB") alone gets these wrong."""
    wrong = 0
    for seed, image, rng in odd_pictures():
        written = pictures.write_odd(
            image, rng, lambda ending: tmp_path / f"{seed}.{ending}", [way]
        )
        with Image.open(written.path) as careless, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = np.asarray(careless.convert("RGB")).astype(int)
        right = np.asarray(written.right)
        wrong += pixels.shape != right.shape or np.abs(pixels - right).max() > written.near
    assert wrong >= 9


def test_orientations_are_undone_by_pillow_too(tmp_path):
    """The soak's own table of turns against the one of Pillow."""
    image = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    for tag, turn in pictures.STORED.items():
        stored = image.transpose(turn)
        stored.getexif()[pictures.ORIENTATION] = tag
        stored.save(tmp_path / "turned.png", exif=stored.getexif())
        with Image.open(tmp_path / "turned.png") as read:
            assert np.array_equal(ImageOps.exif_transpose(read), image) and read.size == stored.size
        assert np.array_equal(stored.transpose(pictures.READ[tag]), image)


def test_the_soak_finds_what_is_stored_wrong(tmp_path, monkeypatch, capsys):
    """A bit of an image, a pixel of a mask, a tenth of a pixel of a box, a species and a photograph that is missing."""

    def stored(rng):
        image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        return folders.as_stored(image, rng.integers(0, 2, (48, 64)), (0.25, 0.5, 0.75, 1.0), "dog")

    monkeypatch.chdir(tmp_path)
    names = ["fine", "image", "mask", "box", "species", "missing"]
    expected = {name: stored(np.random.default_rng(k)) for k, name in enumerate(names)}
    (tmp_path / "expected").write_bytes(pickle.dumps(expected))
    expected["image"]["images"] = expected["image"]["images"] ^ (
        np.arange(32 * 32 * 3).reshape(32, 32, 3) == 7
    )
    expected["mask"]["masks"] = expected["mask"]["masks"] ^ (
        np.arange(32 * 32).reshape(32, 32, 1) == 7
    )
    expected["box"]["bboxes"] = expected["box"]["bboxes"] + 0.1
    (tmp_path / "data" / "test").mkdir(parents=True)
    for kind in ("images", "masks", "bboxes"):
        with h5py.File(f"data/test/{kind}.h5", "w") as file:
            file[f"chunked_{kind}"] = np.stack([expected[name][kind] for name in names[:5]])
    with h5py.File("data/test/binary.h5", "w") as file:
        file["chunked_binary"] = np.array([[1], [1], [1], [1], [0]], np.uint8)
    rows = "".join(
        f"{k},{name},x,{'cat' if name == 'species' else 'dog'},1\n"
        for k, name in enumerate(names[:5])
    )
    (tmp_path / "data" / "test" / "index.csv").write_text("row,name,breed,species,has_box\n" + rows)
    folders.print_wrong()
    wrong = json.loads(capsys.readouterr().out)
    assert (
        wrong.keys() == set(names[1:])
        and wrong["image"] == "the image is off by 1"
        and wrong["missing"] == "missing"
    )
    assert (
        wrong["mask"].startswith("1 pixels")
        and wrong["box"].startswith("the box is [8.1")
        and "cat" in wrong["species"]
    )
