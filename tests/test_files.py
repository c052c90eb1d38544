"""Files are written whole or not at all; JSON and CSV come back as they were."""

import os

import pytest

import files
from cli import InputError


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "last.pt"
    for text in (b"1", b"2", b"3"):
        files.atomic_write(path, text, tmp_path / "previous.pt")
    assert content(tmp_path) == {"last.pt": b"3", "previous.pt": b"2"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch, function, kind):
    path = tmp_path / "best.pt"
    path.write_bytes(b"earlier")

    def fail(*args):
        raise kind(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(kind) as raised:
        files.atomic_write(path, b"new")
    assert content(tmp_path) == {"best.pt": b"earlier"}
    if kind is OSError:
        assert raised.value.filename == str(path)


def test_a_kill_between_the_two_renamings_leaves_both_contents(tmp_path, monkeypatch):
    """The file before under its second name, the new one beside it."""

    class Killed(BaseException):
        pass

    path, replace = tmp_path / "last.pt", os.replace
    path.write_bytes(b"1")

    def kill_at_the_second(source, target):
        if source.name.endswith(".partial"):
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", kill_at_the_second)
    with pytest.raises(Killed):
        files.atomic_write(path, b"2", tmp_path / "previous.pt")
    assert content(tmp_path) == {"previous.pt": b"1"}


def test_json_comes_back_and_is_not_written_with_nan(tmp_path):
    path, record = tmp_path / "test.json", {"dice": 0.1, "accuracy": None, "names": ["Ünal"]}
    files.write_json(path, record)
    assert files.read_json(path) == record and path.read_text().endswith("}\n")
    with pytest.raises(ValueError):
        files.write_json(path, {"dice": float("nan")})
    assert files.read_json(path) == record


def test_tables_come_back_as_text(tmp_path):
    path = tmp_path / "log.csv"
    rows = [["a,b", 0.1 + 0.2, None], ['say "x"', "two\nlines", ""]]
    files.write_csv(path, ["name", "value", "empty"], rows)
    assert files.read_csv(path) == [
        {"name": "a,b", "value": repr(0.1 + 0.2), "empty": ""},
        {"name": 'say "x"', "value": "two\nlines", "empty": ""},
    ]


def test_a_lock_is_held_by_one_and_free_again_after_it(tmp_path):
    path = tmp_path / "runs/.lock"
    with (
        files.lock(path, "the run"),
        pytest.raises(InputError, match="the run"),
        files.lock(path, "the run"),
    ):
        pytest.fail("the lock was held twice")
    with pytest.raises(KeyError), files.lock(path, "the run"):
        raise KeyError
    with files.lock(path, "the run"):
        pass


def test_a_lock_where_no_file_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"), files.lock(tmp_path / "file/.lock", "the run"):
        pass
