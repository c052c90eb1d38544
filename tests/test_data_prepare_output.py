"""The folder that data_prepare.py writes: what is refused, replaced or left alone there, and

interruptions."""

# ruff: noqa: F401, F811  (pets is a fixture)

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

# noqa: F401  (pets is a fixture)
from oxford import add, layout, names, noise, pets, prepare, refused

import data_prepare
from cli import InputError
from data import contract

# -------------------------------------------------------------------------------- the output folder


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_an_existing_folder_is_refused_and_replaced_with_force(pets, tmp_path):
    out = prepare(pets, tmp_path / "data", "--fractions", "0-50-50")
    (out / "val" / "masks.h5.partial").write_text("left by a re-chunking that was killed")
    before = tree(out)
    assert "--force" in refused(pets, out)
    assert tree(out) == before
    prepare(pets, out, "--fractions", "50-0-50", "--force")
    assert sorted(p.name for p in out.iterdir()) == ["report.csv", "test", "train"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "foreign",
    ["photographs/a.jpg", "train/a.jpg", "val/sub/b.txt", ".hidden", "test/images.h5.bak"],
)
def test_force_deletes_nothing_but_a_data_folder(foreign, pets, tmp_path):
    out = tmp_path / "mine"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("not ours")
    message = refused(pets, out, "--force")
    assert str(out) in message and "not a data folder" in message
    assert tree(out) == {foreign: b"not ours"}


def test_a_folder_that_somebody_else_makes_meanwhile_is_not_deleted(pets, tmp_path, monkeypatch):
    out, split = tmp_path / "data", data_prepare.data_split.split

    def split_while_another_works(*args):
        out.mkdir()
        (out / "theirs").write_text("not ours")
        return split(*args)

    monkeypatch.setattr(data_prepare.data_split, "split", split_while_another_works)
    with pytest.raises(InputError, match="exists already"):
        prepare(pets, out)
    assert tree(tmp_path) == {"data/theirs": b"not ours"}


def test_an_out_that_holds_the_photographs_is_refused(tmp_path):
    root = layout(tmp_path / "data" / "synthetic")
    add(root, "Bengal_1")
    before = tree(tmp_path / "data")
    assert "would replace" in refused(root, tmp_path / "data", "--force")
    assert tree(tmp_path / "data") == before


# ------------------------------------------------------------------------------------ interruptions


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = layout(tmp_path_factory.mktemp("many"))
    for k in range(200):
        add(root, f"{'Bengal' if k % 2 else 'pug'}_{k}", noise(str(k), 120, 90), format="JPEG")
    return root


def group_is_gone(group):
    """Whether no process of a process group is left, waiting for the last ones to notice."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


@pytest.mark.parametrize(
    "stop, everyone, status",
    [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)],
    ids=["TERM", "Ctrl-C", "KILL"],
)
def test_an_interrupted_run_leaves_nothing_under_its_name(
    stop, everyone, status, many, tmp_path, tmp_path_factory
):
    out = tmp_path / "data"
    command = [
        sys.executable,
        ROOT / "data_prepare.py",
        "--root",
        many,
        "--out",
        out,
        "--size",
        "448",
    ]
    with open(
        tmp_path_factory.mktemp("log") / "log", "w+"
    ) as log:  # no pipe: workers that stay would hold it open
        run = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not list(tmp_path.glob(".*/train/images.h5")):
            assert run.poll() is None, "ended before it wrote"
            time.sleep(0.002)
        (os.killpg if everyone else os.kill)(run.pid, stop)
        assert run.wait() == status
        assert not out.exists()
        assert group_is_gone(run.pid)
        log.seek(0)
        printed = log.read()
    if stop == signal.SIGKILL:
        assert printed == "" and list(tmp_path.iterdir()) != []  # killed while it wrote
        with pytest.raises(InputError, match="no data set"):
            contract.find_splits(out)
    else:
        assert printed.count("\n") == 1 and stop.name in printed
        assert list(tmp_path.iterdir()) == []
    prepare(many, out, "--fractions", "0-0-100")
    assert len(names(out)) == 200 and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_leaves_nothing(many, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "data_prepare.py", "--root", many, "--out", tmp_path / "data"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "space" in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []
