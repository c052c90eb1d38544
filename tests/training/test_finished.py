"""Runs that are finished: what --resume refuses of them, and pictures that fail, which come after the records."""

import json
import os
import shutil

import pytest
from conftest import rechunk, write_data
from tiny import FILES, arguments, assert_same_weights, log, result, weights

import experiments
import train_baseline
import train_mtl
from cli import InputError
from training import pictures


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The runs folder of a finished run."""
    runs = tmp_path_factory.mktemp("whole")
    train_mtl.main(arguments(data, runs))
    return runs


@pytest.fixture
def runs(whole, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(whole, tmp_path / "runs")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------- other settings


@pytest.mark.parametrize(
    "more, words",
    [
        (("--epochs", "3"), "--epochs was 2 and is 3"),
        (("--lr", "0.01"), "--lr was 0.002 and is 0.01"),
        (("--batch-size", "4"), "--batch-size was 8 and is 4"),
        (("--augment", "none"), "--augment was full and is none"),
        (("--scenes", "small"), "--scenes was None and is small"),
        (("--limit", "5"), "--limit was None and is 5"),
        (("--threads", "1"), "--threads was None and is 1"),
        (
            ("--width", "3", "--precision", "bf16"),
            "--width was 2 and is 3, --precision was fp32 and is bf16",
        ),
    ],
    ids=str,
)
def test_a_finished_run_is_not_called_finished_with_other_options(data, runs, more, words):
    before = contents(runs / "mtl/seed0")
    with pytest.raises(
        InputError,
        match=f"mtl/seed0 is finished, and with other settings: {words}; use the earlier ones",
    ):
        train_mtl.main(arguments(data, runs, "--resume", *more))
    assert contents(runs / "mtl/seed0") == before


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_number_of_epochs_is_told_how_to_train_longer(data, runs, is_finished, tmp_path):
    folder = runs / "mtl/seed0"
    if not is_finished:
        (folder / "test.json").unlink()
    with pytest.raises(
        InputError, match=f"to train longer, .* --init {folder}/best.pt and another --runs"
    ):
        train_mtl.main(arguments(data, runs, "--resume", "--epochs", "3"))
    train_mtl.main(
        arguments(data, tmp_path / "longer", "--init", str(folder / "best.pt"), "--epochs", "1")
    )  # as it says
    assert (tmp_path / "longer/mtl/seed0/test.json").exists()


def test_other_data_and_another_init_are_refused_too(data, runs, tmp_path):
    other = rechunk(write_data(tmp_path / "other", {"train": 24, "val": 10, "test": 10}, seed=9))
    with pytest.raises(InputError, match="is finished, and with other settings: split_hash was"):
        train_mtl.main(arguments(other, runs, "--resume"))
    with pytest.raises(
        InputError,
        match="is finished, and with other settings: what --init starts from was None and is",
    ):
        train_mtl.main(arguments(data, runs, "--resume", "--init", str(runs / "mtl/seed0/best.pt")))
    with pytest.raises(InputError, match="no data set in"):
        train_mtl.main(arguments(tmp_path / "mistyped", runs, "--resume"))


def test_other_tasks_are_refused(data, runs, tmp_path):
    shutil.copytree(runs / "mtl", runs / "baseline")
    with pytest.raises(InputError, match=r"tasks was \['seg', 'cls', 'bbox'\] and is \['seg'\]"):
        train_baseline.main(arguments(data, runs, "--resume"))


def test_the_same_run_is_finished_wherever_its_data_are(data, runs, tmp_path, capsys):
    moved = shutil.copytree(data, tmp_path / "moved")
    before = contents(runs / "mtl/seed0")
    for more in ((data,), (moved, "--workers", "1", "--device", "auto")):
        train_mtl.main(arguments(more[0], runs, "--resume", *more[1:]))
    config = json.loads((runs / "mtl/seed0/config.json").read_text())
    config["options"]["data"] = str(tmp_path / "gone")
    (runs / "mtl/seed0/config.json").write_text(json.dumps(config))
    train_mtl.main(arguments(tmp_path / "gone", runs, "--resume"))
    assert capsys.readouterr().out.count("is finished already") == 3
    assert {**contents(runs / "mtl/seed0"), "config.json": 0} == {**before, "config.json": 0}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("config.json", None, "config.json is missing, so nobody knows .* delete the folder"),
        ("config.json", "{", "config.json is damaged; delete the folder"),
        ("config.json", "[]", "config.json is damaged"),
        ("config.json", "[" * 100_000, "config.json is damaged"),
        ("config.json", '{"options": 5}', "config.json is damaged"),
        (
            "test.json",
            "",
            "test.json is damaged; delete it, and the same command tests the network again",
        ),
        ("test.json", "[]", "test.json is damaged"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_damaged_records_of_a_finished_run_are_refused(data, runs, name, content, words):
    path = runs / "mtl/seed0" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        train_mtl.main(arguments(data, runs, "--resume"))
    assert path.exists() == (content is not None)


def test_records_without_checkpoints_and_configuration_are_no_run_to_begin(data, runs):
    """What was copied out of a run folder must not be taken for the beginning of one."""
    folder = runs / "mtl/seed0"
    for name in ("config.json", "last.pt", "previous.pt", "best.pt"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="config.json is missing"):
        train_mtl.main(arguments(data, runs, "--resume"))


# ------------------------------------------------------------------------------------------- pictures that fail


class Failure(Exception):
    pass


def failing(error):
    def fail(*args):
        if args[-1].name.startswith("mask"):  # half a file, as a full disk leaves
            args[-1].write_bytes(b"half")
        raise error

    return fail


@pytest.mark.parametrize(
    "error, reason",
    [
        (Failure("ParseException: $x"), "ParseException: $x"),
        (InputError("cannot write"), "cannot write"),
        (MemoryError(), "MemoryError"),
        (ValueError("one\ntwo"), "one"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_picture_that_fails_is_a_warning_and_resume_draws_it(
    data, whole, tmp_path, monkeypatch, capsys, error, reason
):
    with monkeypatch.context() as patch:
        for name in ("draw_curves", "draw_pictures"):
            patch.setattr(pictures, name, failing(error))
        train_mtl.main(arguments(data, tmp_path))
    folder = tmp_path / "mtl/seed0"
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all(
        reason in line and "could not be drawn" in line for line in warnings
    )
    assert (
        f"{folder / 'curves.png'} could" in warnings[0]
        and f"{folder / 'mask.png'} could" in warnings[1]
    )
    assert {path.name for path in folder.iterdir()} == FILES - {"curves.png", "mask.png"}
    assert result(folder) == result(whole / "mtl/seed0") and log(folder) == log(whole / "mtl/seed0")
    before = contents(folder)
    train_mtl.main(arguments(data, tmp_path, "--resume"))
    said = capsys.readouterr()
    assert "is finished already" in said.out and said.err == ""
    after = contents(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert {name: after[name] for name in before} == before
    assert all(
        after[name] == (whole / "mtl/seed0" / name).read_bytes()
        for name in ("curves.png", "mask.png")
    )


def test_one_picture_that_fails_leaves_the_other(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "pictures_of_dataset", failing(Failure("of the network's")))
    monkeypatch.setattr(
        pictures, "draw_curves", lambda history, tasks, path: path.write_bytes(b"drawn")
    )
    train_mtl.main(arguments(data, tmp_path, "--epochs", "1"))
    assert (tmp_path / "mtl/seed0/curves.png").read_bytes() == b"drawn"
    assert capsys.readouterr().err.count("could not be drawn") == 1


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b""), os.unlink], ids=["damaged", "gone"]
)
def test_a_picture_that_cannot_be_drawn_again_does_not_change_the_run(data, runs, damage, capsys):
    folder = runs / "mtl/seed0"
    for name in ("mask.png", "previous.pt"):
        (folder / name).unlink()
    damage(folder / "best.pt")
    capsys.readouterr()
    train_mtl.main(arguments(data, runs, "--resume"))
    said = capsys.readouterr()
    assert (
        "is finished already" in said.out
        and said.err.count("could not be drawn") == (folder / "best.pt").exists()
    )
    assert not (folder / "mask.png").exists() and (folder / "test.json").exists()


def test_names_with_signs_of_mathematics_end_no_run(tmp_path, capsys):
    folder = rechunk(write_data(tmp_path / "pets", {"train": 16, "val": 4, "test": 4}))
    rows = [
        "row,name",
        *(
            f"{k},{name}"
            for k, name in enumerate(("costs $5_a", "a$^$b", "\\frac{$x$}", "$\\alpha$"))
        ),
    ]
    (folder / "test/index.csv").write_text("\n".join(rows) + "\n")
    train_baseline.main(arguments(folder, tmp_path / "runs", "--epochs", "1"))
    assert capsys.readouterr().err == ""
    assert {path.name for path in (tmp_path / "runs/baseline/seed0").iterdir()} >= {
        "test.json",
        "mask.png",
        "curves.png",
    }


@pytest.mark.parametrize("name", ["curves.png", "mask.png"])
def test_a_kill_while_a_picture_is_drawn_leaves_a_finished_run(
    data, whole, tmp_path, monkeypatch, name
):
    class Killed(BaseException):
        pass

    def kill(source, target):
        if str(target).endswith(name):
            raise Killed
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", kill)
        train_mtl.main(arguments(data, tmp_path))
    folder = tmp_path / "mtl/seed0"
    assert result(folder) == result(whole / "mtl/seed0") and not (folder / name).exists()
    train_mtl.main(arguments(data, tmp_path, "--resume"))
    assert {path.name for path in folder.iterdir()} == FILES
    assert_same_weights(weights(folder, "best.pt"), weights(whole / "mtl/seed0", "best.pt"))


# ------------------------------------------------------------------------------- finished runs under experiments.py


@pytest.mark.parametrize(
    "options, words",
    [
        (["--epochs", "3"], "--epochs was 2 and is 3"),
        (["--lr=1e-2"], "--lr was 0.002 and is 1e-2"),
        (["--ep", "2", "--batch", "4"], "--batch-size was 8 and is 4"),
        (["--limit", "5"], "--limit was None and is 5"),
        (["--init", "x.pt"], "--init was None and is x.pt"),
        (["--epochs", "2", "--epochs", "3"], "--epochs was 2 and is 3"),
    ],
    ids=str,
)
@pytest.mark.parametrize("more", [[], ["--list"]], ids=str)
def test_experiments_do_not_skip_runs_of_other_options(runs, monkeypatch, options, words, more):
    monkeypatch.setattr(experiments, "perform_all", None)
    with pytest.raises(
        InputError,
        match=f"mtl/seed0 is finished, and with other settings: {words}; use the earlier ones",
    ):
        experiments.main(
            experiments.parse_args(
                [*more, "--only", "mtl", "--seeds", "0", "--", "--runs", str(runs), *options]
            )
        )


def test_experiments_do_not_skip_runs_of_other_data(runs, tmp_path):
    other = rechunk(write_data(tmp_path / "other", {"train": 4, "val": 2, "test": 2}, seed=9))
    command = ["--only", "mtl", "--seeds", "0", "--", "--runs", str(runs), "--data"]
    with pytest.raises(InputError, match="the split hash of --data was .* and is"):
        experiments.main(experiments.parse_args([*command, str(other)]))
    with pytest.raises(InputError, match="no data set in"):
        experiments.main(experiments.parse_args([*command, str(tmp_path / "mistyped")]))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--epochs", "2"],
        ["--lr", "2e-3"],
        ["--lr=.002"],
        ["--workers", "3", "--device=cpu"],
        ["--epochs", "9", "--epochs=2"],
        ["--precision", "fp32", "--width", "2", "--batch-size", "8"],
    ],
    ids=str,
)
def test_experiments_skip_runs_of_the_same_options(data, runs, options, capsys):
    experiments.main(
        experiments.parse_args(
            [
                "--only",
                "mtl",
                "--seeds",
                "0",
                "--",
                "--runs",
                str(runs),
                "--data",
                str(data),
                *options,
            ]
        )
    )
    assert "1 runs into" in capsys.readouterr().out
