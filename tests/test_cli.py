"""Exit status, one-sentence errors and option types, as every script here has them."""

import argparse
import errno
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from conftest import ROOT

import cli
import data_prepare
import data_rechunk

WRONG_NUMBERS = ("0", "11", "-3", "2.0", "1e1", "nan", "", "ten")
WRONG_FLOATS = ("0", "-1", "nan", "inf", "-inf", "1e999", "", "x")
WRONG_PERCENTAGES = ("80-20", "80-10-5-5", "80--10-30", "nan-50-50", "0-0-0", "a-b-c", "", "8,1,1")


@pytest.fixture(autouse=True)
def handlers():
    """cli.run answers SIGTERM; the run of the tests should go on doing what it did."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def status_of(script, argv):
    """Exit status of a script's last line, in this process."""
    try:
        cli.run(script.main, script.parse_args([str(a) for a in argv]))
    except SystemExit as end:
        return end.code
    return 0


def is_one_line(text):
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


# -------------------------------------------------------------------------------------- exit status


def fail_with(error):
    def main(args):
        raise error

    cli.run(main, None)


@pytest.mark.parametrize(
    "error, status, words",
    [
        (cli.InputError("the file is wrong; make another"), 2, "the file is wrong; make another"),
        (KeyboardInterrupt(), 130, "SIGINT"),
        (cli.Terminated(), 143, "SIGTERM"),
    ],
)
def test_status_and_one_line(error, status, words, capsys):
    with pytest.raises(SystemExit) as end:
        fail_with(error)
    captured = capsys.readouterr()
    assert end.value.code == status
    assert is_one_line(captured.err) and words in captured.err and captured.out == ""


@pytest.mark.parametrize(
    "error", [ValueError("ours"), ZeroDivisionError(), OSError(errno.ENOENT, "No such file", "x")]
)
def test_a_fault_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        fail_with(error)


def test_success_returns():
    seen = []
    cli.run(seen.append, "args")
    assert seen == ["args"]


def script(tmp_path, body):
    """The command of a script with this body, which has imported cli, sys and time."""
    path = tmp_path / "script.py"
    path.write_text(f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\nimport cli\n{body}\n")
    return [sys.executable, str(path)]


def test_a_fault_of_ours_ends_a_process_with_1_and_a_traceback(tmp_path):
    command = script(tmp_path, "def main(args): return 1 / 0\ncli.run(main, None)")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES", "ENAMETOOLONG", "EMFILE"])
def test_a_fault_of_the_system_is_one_line(code, tmp_path):
    error = f"OSError(errno.{code}, os.strerror(errno.{code}), 'x.h5')"
    body = f"import errno, os\ndef main(args): raise {error}\ncli.run(main, None)"
    done = subprocess.run(script(tmp_path, body), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and is_one_line(done.stderr)
    assert os.strerror(getattr(errno, code)) in done.stderr


CLEANS_UP = """
def main(args):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)
cli.run(main, None)"""


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_script_that_cleans_up(number, status, tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(script(tmp_path, CLEANS_UP), **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == status and out == "cleaned\n" and is_one_line(err)


def test_a_reader_that_leaves_gets_no_traceback(tmp_path):
    body = "def main(args):\n    sys.stdin.readline()\n    print('nobody reads this')\n"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(script(tmp_path, body + "cli.run(main, None)"), **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_worker_does_not_outlive_a_main_process_that_was_killed(tmp_path):
    body = """
import os
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, initializer=cli.follow_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)"""
    pipes = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(script(tmp_path, body), **pipes)
    os.kill(int(process.stdout.readline()), 0)  # it lives
    process.kill()
    process.wait()
    # Workers hold the other end of the pipe too: its end comes when the last of them has gone.
    gone, _, _ = select.select([process.stdout], [], [], 30)
    if not gone:
        os.killpg(process.pid, signal.SIGKILL)
    assert gone and process.stdout.read() == ""
    process.stdout.close()


# ------------------------------------------------------------------------------------- option types


@pytest.mark.parametrize(
    "parse, texts",
    [
        (cli.integer(1, 10), WRONG_NUMBERS),
        (cli.positive_float, WRONG_FLOATS),
        (cli.percentages, WRONG_PERCENTAGES),
    ],
    ids=["integer", "float", "percentages"],
)
def test_an_option_type_refuses_all_else(parse, texts):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def test_an_option_type_takes_its_range():
    assert [cli.integer(1, 10)(text) for text in ("1", "10", " 7 ")] == [1, 10, 7]
    assert [cli.positive_float(text) for text in ("1", "2e-3", ".5")] == [1.0, 0.002, 0.5]
    assert cli.percentages("75-15-15") == (75.0, 15.0, 15.0)
    assert cli.percentages("33.5-33.5-33") == (33.5, 33.5, 33.0)
    assert cli.percentages("0-0-100") == (0.0, 0.0, 100.0)


@pytest.mark.parametrize("text", ["0", "x" * 10_000])
def test_a_parser_error_is_one_short_line_that_names_the_option_and_the_help(text, capsys):
    parser = cli.Parser("what it does")
    parser.add_argument("--n", type=cli.integer(1))
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--n", text])
    err = capsys.readouterr().err
    assert end.value.code == 2 and is_one_line(err) and len(err) < 300
    assert "--n" in err and "--help" in err


def test_messages_and_warnings_are_one_line_that_ends_with_the_way_out(capsys):
    """Whatever path they name: a reader of the end of the output must find the reason there."""
    cli.warn(f"a\nb/{'x' * 5000} is odd")
    with pytest.raises(SystemExit):
        cli.fail(cli.InputError(f"--out {'x' * 5000} cannot be made; name another folder"), 2)
    warned, refused = capsys.readouterr().err.splitlines()
    assert r"a\nb/xx" in warned and warned.endswith("... is odd")
    assert refused.endswith("... cannot be made; name another folder")
    assert len(warned) < 400 and len(refused) < 400


def test_a_path_that_is_no_text_can_be_printed(tmp_path):
    command = script(tmp_path, "cli.run(lambda args: print('a\\udcff'), None)")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\\udcff\n", "")


# -------------------------------------------------------------------- wrong use of the data scripts


@pytest.mark.parametrize(
    "argv, word",
    [
        ([], "--root"),
        (["--root", "a", "--synthetic", "20"], "--synthetic"),
        (["--synthetic", "0"], "--synthetic"),
        (["--synthetic", "many"], "many"),
        (["--synthetic", "20", "--size", "31"], "31"),
        (["--synthetic", "20", "--size", "100000"], "--size"),
        (["--synthetic", "20", "--seed", "-1"], "--seed"),
        (["--synthetic", "20", "--seed", "1.5"], "--seed"),
        (["--synthetic", "20", "--fractions", "80-10-20"], "110"),
        (["--synthetic", "20", "--fractions", "80-10"], "80-10"),
        (["--synthetic", "20", "--border", "both"], "both"),
        (["--synthetic", "20", "--nonsense"], "--nonsense"),
        (["--synthetic", "20", "extra"], "extra"),
    ],
)
def test_prepare_refuses_wrong_use(argv, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status_of(data_prepare, argv) == 2
    captured = capsys.readouterr()
    assert is_one_line(captured.err) and word in captured.err
    assert list(tmp_path.iterdir()) == []


def make_folder(path):
    path.mkdir(parents=True)
    return path


def make_file(path):
    path.write_text("not a folder")
    return path


def make_empty_layout(path):
    make_folder(path / "images")
    make_folder(path / "annotations" / "trimaps")
    return path


@pytest.mark.parametrize("make", [lambda path: path, make_folder, make_file, make_empty_layout])
def test_prepare_refuses_a_root_without_photographs(make, tmp_path, capsys):
    root = make(tmp_path / "pets")
    assert status_of(data_prepare, ["--root", root, "--out", tmp_path / "data"]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and str(root) in err
    assert [path for path in tmp_path.iterdir() if path != root] == []


def test_prepare_refuses_an_out_below_a_file(tmp_path, capsys):
    for out in (make_file(tmp_path / "file") / "data", tmp_path / "file" / "deeper" / "data"):
        assert status_of(data_prepare, ["--synthetic", 20, "--out", out]) == 2
        err = capsys.readouterr().err
        assert is_one_line(err) and str(out) in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_prepare_refuses_an_out_that_cannot_be_written_to(tmp_path, capsys):
    # Permission bits do not bind root, for whom /sys still cannot be written to.
    parent = make_folder(tmp_path / "locked")
    parent.chmod(0o500)
    if os.access(parent, os.W_OK):
        parent = Path("/sys")
    if not parent.is_dir():
        pytest.skip("there is no place that this user cannot write to")
    assert status_of(data_prepare, ["--synthetic", 20, "--out", parent / "data"]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and str(parent) in err


@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_rechunk_without_a_data_set_says_how_to_make_one(flags, tmp_path, capsys):
    for data in (tmp_path / "no", make_folder(tmp_path / "empty"), make_file(tmp_path / "file")):
        assert status_of(data_rechunk, ["--data", data, *flags]) == 2
        err = capsys.readouterr().err
        assert is_one_line(err) and str(data) in err
        for way in ("--root", "--download", "--synthetic"):
            assert way in err


@pytest.mark.parametrize("path", ["a\nb", "x" * 5000, "a-file/inside"], ids=["break", "long", "in"])
def test_a_path_with_line_breaks_or_of_great_length_gives_one_short_line(
    path, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("x")
    assert status_of(data_rechunk, ["--data", path]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and len(err) < 800, err


def test_a_script_names_itself(tmp_path):
    done = warm.run_script("data_prepare.py", "--root", "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and is_one_line(done.stderr) and done.stdout == ""
    assert done.stderr.startswith("data_prepare.py")
