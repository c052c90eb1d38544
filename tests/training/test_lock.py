"""One process at a time: refusal by name, locks that killed processes leave behind, folders left as they were."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, write_data

import data_prepare
import data_rechunk
from cli import InputError
from training import lock

HOLD = "import sys\nfrom training import lock\nwith lock.hold(sys.argv[1], 'it'):\n    print('held', flush=True)\n    sys.stdin.read()"


@pytest.fixture
def holder():
    """A function that starts a process which holds a lock file until its standard input is closed."""
    started = []

    def start(path):
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD, path],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.communicate()


def test_what_another_process_holds_is_refused_by_its_number(tmp_path, holder):
    process = holder(tmp_path / "a/b/lock")
    with pytest.raises(InputError, match=f"the run is in use by process {process.pid} on "):
        with lock.hold(tmp_path / "a/b/lock", "the run"):
            pytest.fail("the lock was held twice")
    process.communicate()
    assert list(tmp_path.iterdir()) == []  # the folders that it made for its lock alone are gone
    with lock.hold(tmp_path / "a/b/lock", "the run"):
        assert str(os.getpid()) in (tmp_path / "a/b/lock").read_text()


def test_the_lock_of_a_killed_process_is_not_in_the_way(tmp_path, holder):
    process = holder(tmp_path / "lock")
    process.kill()
    process.wait()
    assert (tmp_path / "lock").exists()
    with lock.hold(tmp_path / "lock", "it"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_that_hold_something_stay(tmp_path):
    with lock.hold(tmp_path / "runs/x/lock", "it"):
        (tmp_path / "runs/y").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["y"]


def test_a_place_that_cannot_be_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file") as error,
        lock.hold(tmp_path / "file/x/lock", "the run"),
    ):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.skipif(
    os.name == "nt" or not (os.getuid() or shutil.which("setpriv")), reason="root writes anywhere"
)
def test_a_read_only_folder_is_refused(tmp_path):
    # Root without this capability is refused like anybody else.
    plain = (
        ()
        if os.getuid()
        else ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    )
    code = "import sys, cli\nfrom training import lock\ncli.run(lambda args: lock.hold(sys.argv[1], 'the run').__enter__(), None)"
    tmp_path.chmod(0o555)
    try:
        for path in (tmp_path / "lock", tmp_path / "runs/lock"):
            done = subprocess.run(
                [*plain, sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 2 and done.stderr.count("\n") == 1
            assert "the run cannot be made or written to" in done.stderr
    finally:
        tmp_path.chmod(0o755)


def test_many_processes_never_hold_it_together(tmp_path):
    """Each counts up in a file, read and written under the lock: a count lost is a lock held twice."""
    (tmp_path / "count").write_text("0")
    code = """if True:
        import sys
        from training import lock
        from cli import InputError
        from pathlib import Path
        folder, done = Path(sys.argv[1]), 0
        while done < 100:
            try:
                with lock.hold(folder / "x" / "lock", "it"):
                    number = int((folder / "count").read_text())
                    (folder / "count").write_text(str(number + 1))
                    done += 1
            except InputError as error:
                assert "in use by process" in str(error), error
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT) for _ in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "400"
    assert not list(tmp_path.glob("x/*"))


def test_two_preparations_of_one_folder(tmp_path, holder):
    process = holder(tmp_path / ".data.lock")
    with pytest.raises(InputError, match=f"data is in use by process {process.pid}"):
        data_prepare.main(
            data_prepare.parse_args(["--synthetic", "10", "--out", str(tmp_path / "data")])
        )
    assert [path.name for path in tmp_path.iterdir()] == [".data.lock"]


def test_two_rechunkings_of_one_folder(tmp_path, holder):
    folder = write_data(tmp_path / "data", {"train": 2}, size=32)
    process = holder(folder / "lock")
    with pytest.raises(InputError, match=f"data is in use by process {process.pid}"):
        data_rechunk.main(data_rechunk.parse_args(["--data", str(folder)]))
