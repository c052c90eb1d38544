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

import cli
import data_prepare
import data_rechunk

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def handlers():
    """cli.run answers SIGTERM; the run of the tests should go on doing what it did."""
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    yield
    signal.signal(signal.SIGTERM, before[0])
    sys.unraisablehook = before[1]


def status_of(script, argv):
    """Exit status of a script's last line, in this process."""
    try:
        cli.run(script.main, script.parse_args([str(a) for a in argv]))
    except SystemExit as end:
        return end.code
    return 0


def one_line(text):
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


# ------------------------------------------------------------------------------------------- exit status


def ends_with(error):
    def main(args):
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main, None)
    return end.value.code


@pytest.mark.parametrize(
    "error, status, words",
    [
        (cli.InputError("the file is wrong; make another"), 2, "the file is wrong; make another"),
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), 2, "No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "x.h5"), 2, "Permission denied"),
        (KeyboardInterrupt(), 130, "SIGINT"),
        (cli.Terminated(), 143, "SIGTERM"),
    ],
)
def test_status_and_one_line(error, status, words, capsys):
    assert ends_with(error) == status
    captured = capsys.readouterr()
    assert one_line(captured.err) and words in captured.err and captured.out == ""


@pytest.mark.parametrize(
    "error", [ValueError("ours"), ZeroDivisionError(), OSError(errno.ENOENT, "No such file", "x")]
)
def test_a_fault_of_ours_keeps_its_traceback(error):
    def main(args):
        raise error

    with pytest.raises(type(error)):
        cli.run(main, None)


def test_success_returns():
    seen = []
    cli.run(seen.append, "args")
    assert seen == ["args"]


def script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport cli\n{body}\n")
    return [sys.executable, str(path)]


def test_a_fault_of_ours_ends_a_process_with_1_and_a_traceback(tmp_path):
    command = script(tmp_path, "def main(args): return 1 / 0\ncli.run(main, None)")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
    )


def test_a_real_sigterm_lets_clean_up_run_and_ends_with_143(tmp_path):
    command = script(
        tmp_path,
        """
import time
def main(args):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)
cli.run(main, None)""",
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 143 and out == "cleaned\n" and one_line(err)


def test_a_reader_that_leaves_gets_no_traceback(tmp_path):
    command = script(
        tmp_path,
        """
def main(args):
    sys.stdin.readline()
    print("nobody reads this")
cli.run(main, None)""",
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_inside_a_destructor_is_not_lost(number, status, tmp_path):
    command = script(
        tmp_path,
        """
import time
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
def main(args):
    Slow()
    time.sleep(60)
cli.run(main, None)""",
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == status and one_line(err)


def test_a_worker_does_not_outlive_a_main_process_that_was_killed(tmp_path):
    command = script(
        tmp_path,
        """
import os, time
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, initializer=cli.follow_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)""",
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    os.kill(int(process.stdout.readline()), 0)  # it lives
    process.kill()
    process.wait()
    # Workers hold the other end of the pipe too: its end comes when the last of them has gone.
    gone, _, _ = select.select([process.stdout], [], [], 30)
    if not gone:
        os.killpg(process.pid, signal.SIGKILL)
    assert gone and process.stdout.read() == ""
    process.stdout.close()


# ------------------------------------------------------------------------------------------ option types


def test_integer_takes_its_range_and_nothing_else():
    parse = cli.integer(1, 10)
    assert [parse("1"), parse("10"), parse(" 7 ")] == [1, 10, 7]
    for text in ("0", "11", "-3", "2.0", "1e1", "nan", "", "ten"):
        with pytest.raises(argparse.ArgumentTypeError, match=text.replace(".", r"\.") or "''"):
            parse(text)


def test_positive_float_takes_finite_numbers_above_zero():
    assert [cli.positive_float(t) for t in ("1", "2e-3", ".5")] == [1.0, 0.002, 0.5]
    for text in ("0", "-1", "nan", "inf", "-inf", "1e999", "", "x"):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.positive_float(text)


def test_percentages_are_three_numbers():
    assert cli.percentages("75-15-15") == (75.0, 15.0, 15.0)
    assert cli.percentages("0-0-100") == (0.0, 0.0, 100.0)
    assert cli.percentages("33.5-33.5-33") == (33.5, 33.5, 33.0)
    for text in (
        "80-20",
        "80-10-5-5",
        "80--10-30",
        "-10-60-50",
        "nan-50-50",
        "inf-0-0",
        "0-0-0",
        "a-b-c",
        "",
        "80,10,10",
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.percentages(text)


def test_a_parser_error_is_one_line_and_says_where_help_is(capsys):
    parser = cli.Parser("what it does")
    parser.add_argument("--n", type=cli.integer(1))
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--n", "0"])
    err = capsys.readouterr().err
    assert end.value.code == 2 and one_line(err) and "--n" in err and "--help" in err


# -------------------------------------------------------------------------- wrong use of the data scripts


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "--root"),
        (["--root", "a", "--synthetic", "20"], "not allowed with"),
        (["--synthetic", "0"], "--synthetic"),
        (["--synthetic", "-5"], "--synthetic"),
        (["--synthetic", "many"], "many"),
        (["--synthetic", "20", "--size", "0"], "--size"),
        (["--synthetic", "20", "--size", "31"], "31"),
        (["--synthetic", "20", "--size", "100000"], "--size"),
        (["--synthetic", "20", "--size", "nan"], "nan"),
        (["--synthetic", "20", "--seed", "-1"], "--seed"),
        (["--synthetic", "20", "--seed", "1.5"], "--seed"),
        (["--synthetic", "20", "--fractions", "80-10-20"], "110"),
        (["--synthetic", "20", "--fractions", "80-10"], "80-10"),
        (["--synthetic", "20", "--fractions", "nan-50-50"], "nan-50-50"),
        (["--synthetic", "20", "--fractions", "0-0-0"], "0-0-0"),
        (["--synthetic", "20", "--border", "both"], "both"),
        (["--synthetic", "20", "--nonsense"], "--nonsense"),
        (["--synthetic", "20", "extra"], "extra"),
    ],
)
def test_prepare_refuses_wrong_use(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status_of(data_prepare, argv) == 2
    captured = capsys.readouterr()
    assert one_line(captured.err) and words in captured.err
    assert list(tmp_path.iterdir()) == []


def a_folder(path):
    path.mkdir(parents=True)
    return path


def a_file(path):
    path.write_text("not a folder")
    return path


def an_empty_layout(path):
    a_folder(path / "images")
    a_folder(path / "annotations" / "trimaps")
    return path


@pytest.mark.parametrize("make", [lambda path: path, a_folder, a_file, an_empty_layout])
def test_prepare_refuses_a_root_without_photographs(make, tmp_path, capsys):
    root = make(tmp_path / "pets")
    assert status_of(data_prepare, ["--root", root, "--out", tmp_path / "data"]) == 2
    err = capsys.readouterr().err
    assert one_line(err) and str(root) in err and "images" in err
    assert [path for path in tmp_path.iterdir() if path != root] == []


def test_prepare_refuses_an_out_below_a_file(tmp_path, capsys):
    for out in (a_file(tmp_path / "file") / "data", tmp_path / "file" / "deeper" / "data"):
        assert status_of(data_prepare, ["--synthetic", 20, "--out", out]) == 2
        err = capsys.readouterr().err
        assert one_line(err) and str(out) in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_prepare_refuses_an_out_that_cannot_be_written_to(tmp_path, capsys):
    # Permission bits do not bind root, for whom /sys still cannot be written to.
    parent = Path("/sys") if os.geteuid() == 0 else a_folder(tmp_path / "locked")
    if os.geteuid() != 0:
        parent.chmod(0o500)
    elif not parent.is_dir():
        pytest.skip("there is no place that root cannot write to")
    assert status_of(data_prepare, ["--synthetic", 20, "--out", parent / "data"]) == 2
    err = capsys.readouterr().err
    assert one_line(err) and str(parent) in err


@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_rechunk_without_a_data_set_says_how_to_make_one(flags, tmp_path, capsys):
    for data in (tmp_path / "nowhere", a_folder(tmp_path / "empty"), a_file(tmp_path / "file")):
        assert status_of(data_rechunk, ["--data", data, *flags]) == 2
        err = capsys.readouterr().err
        assert one_line(err) and str(data) in err
        assert all(way in err for way in ("--root", "--download", "--synthetic", "data_rechunk.py"))


def test_the_real_scripts_end_with_2_and_one_line(tmp_path):
    for name, argv in (
        ("data_prepare.py", ["--synthetic", "0"]),
        ("data_prepare.py", ["--root", "nowhere"]),
        ("data_rechunk.py", ["--data", "nowhere"]),
    ):
        done = subprocess.run(
            [sys.executable, ROOT / name, *argv], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and one_line(done.stderr) and done.stdout == "", (name, done)
        assert done.stderr.startswith(name)


def test_a_path_with_line_breaks_or_of_great_length_gives_one_short_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("x")
    for path in ("a\nb", "x" * 5000, "a-file/inside"):
        assert status_of(data_rechunk, ["--data", path]) == 2
        err = capsys.readouterr().err
        assert one_line(err) and len(err) < 800, err


def test_a_path_that_is_no_text_can_be_printed(tmp_path):
    script(tmp_path, "cli.run(lambda args: print('a\\udcff'), None)")
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\\udcff\n", "")


def test_a_long_value_is_shortened_in_the_message(capsys):
    parser = cli.Parser("")
    parser.add_argument("--n", type=cli.integer(1))
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--n", "x" * 10_000])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "--n" in error and "whole number" in error and len(error) < 300


def test_messages_and_warnings_are_one_line_that_ends_with_the_way_out(capsys):
    """Whatever path they name: a reader of the end of the output must find the reason there."""
    cli.warn(f"a\nb/{'x' * 5000} is odd")
    with pytest.raises(SystemExit):
        cli.fail(cli.InputError(f"--out {'x' * 5000} cannot be made; name another folder"), 2)
    warned, refused = capsys.readouterr().err.splitlines()
    assert r"a\nb/xx" in warned and warned.endswith("... is odd")
    assert refused.endswith("... cannot be made; name another folder")
    assert len(warned) < 400 and len(refused) < 400
