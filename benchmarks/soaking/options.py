"""Every script with options that make it run shortly, and the values to be hostile with."""

# Short trainings: most are refused before they begin.
TRAIN = (
    "--epochs",
    "1",
    "--width",
    "2",
    "--batch-size",
    "6",
    "--device",
    "cpu",
    "--precision",
    "fp32",
)

HOSTILE = (
    "nan",
    "-1",
    "1e309",
    "-inf",
    "",
    "9223372036854775808",
    "2**63",
    "0",
    "0.5",
    "1e-400",
    "🐈",
    "٣",
    "x" * 300,
    "x" * 5000,
    "a\nb",
    "\udcff",
    "--",
    "-",
    ".",
    "..",
    "/",
    "/dev/null",
    "/dev/full",
    "/proc/self/nothing",
    "a-file",
    "a-folder",
    "a-loop",
    "a-file/inside",
    "nowhere/deeper",
    "80-10-10-0",
    "nan-nan-nan",
    "1e309-0-0",
    "-5-50-55",
    "0-0-0",
    "100-0-0",
    "%s%n",
    "auto ",
    "none;",
    "mps",
    "cuda",
)

# {script: (its experiment, its tasks)}, for a training of one row
EXPERIMENTS = {
    "train_mtl.py": ("mtl", ("seg", "cls", "bbox")),
    "train_baseline.py": ("baseline", ("seg",)),
    "train_ablation_cls.py": ("ablation_cls", ("seg", "cls")),
    "train_ablation_bbox.py": ("ablation_bbox", ("seg", "bbox")),
    "oeq_uncertainty.py": ("uncertainty", ("seg", "cls", "bbox")),
}

# What a photograph, or an image in index.csv, may be called: of any script, with what figures, shells, terminals and formats
# of text take for something else.
TEXTS = (
    "Katze",
    "cat",
    "hund 7",
    "猫と犬",
    "고양이",
    "小猫",
    "котик",
    "قط",
    "e\u0301te\u0301",
    "🐈‍⬛",
    "$x_1$",
    "$",
    "a$b$c",
    "$\\frac{1$",
    "\\alpha",
    "a_b^c{d}",
    "%s%n{0}",
    "~tilde",
    "#hash",
    "a&b;c|d",
    "'quoted'",
    '"double"',
    "comma, dot. semi;",
    "=1+1",
    "-rf",
    "--out",
    " leading",
    "tab\there",
    "line\nbreak",
    "cr\rhere",
    "bell\a",
    "\x1b[31mred",
    "\u202eright-to-left",
    "zero\u200bwidth",
    "ﬁ ligature",
    "\ufffd",
    "CON",
    "nul",
    "x" * 150,
    "𝔉𝔯𝔞𝔨𝔱𝔲𝔯",
    "\ufeffBOM",
)
# Bytes that are no UTF-8, as Python holds them in a name.
BYTES = ("caf\udce9", "\udcff\udcfe", "\udce7\udc8c", "cat\udce9 $x_1$ 猫")


def scripts_and_options(reference):
    """{script: (options that make it run shortly, the options to be hostile about)}"""
    data = {"--data": reference.data}
    checkpoint = {"--checkpoint": reference.run / "best.pt"}
    train = {**data, **dict(zip(TRAIN[::2], TRAIN[1::2])), "--limit": "6"}
    every = [
        *train,
        "--runs",
        "--lr",
        "--seed",
        "--augment",
        "--threads",
        "--workers",
        "--resume",
        "--init",
        "--teacher",
        "--masks",
        "--scenes",
        "--sides",
        "--average",
        "--conflicts",
        "--processes",
        "--nonsense",
    ]
    prepare = {"--root": reference.photographs, "--out": "data", "--size": "32"}
    return {
        **dict.fromkeys(
            (
                "train_mtl.py",
                "train_baseline.py",
                "train_ablation_cls.py",
                "train_ablation_bbox.py",
                "oeq_uncertainty.py",
            ),
            (train, every),
        ),
        "oeq_splits.py": ({**train, "--split": "80-10-10"}, [*every, "--split"]),
        "train.py": (
            {**train, "--tasks": "seg"},
            [
                *every,
                "--tasks",
                "--weighting",
                "--name",
                "--sharing",
                "--encoder",
                "--encoder-weights",
                "--encoder-lr",
                "--encoder-bn",
            ],
        ),
        "data_prepare.py": (
            prepare,
            [
                *prepare,
                "--fractions",
                "--seed",
                "--border",
                "--force",
                "--synthetic",
                "--only",
                "--official-split",
            ],
        ),
        "data_rechunk.py": ({}, ["--data", "--check", "--ignore"]),
        "evaluate.py": (
            {**data, **checkpoint},
            ["--data", "--checkpoint", "--split", "--batch-size", "--resize", "--device"],
        ),
        "mtl_vis.py": (
            {**data, **checkpoint, "--n": "1"},
            ["--data", "--checkpoint", "--out", "--n", "--gallery", "IMAGE"],
        ),
        "predict.py": (
            {**checkpoint, "--out": "seen", "--processes": "1"},
            ["--checkpoint", "--out", "--processes", "--device", "IMAGE"],
        ),
        "results.py": ({"--runs": reference.run.parent.parent}, ["--runs", "--out"]),
        "experiments.py": ({"--list": "--seeds=0"}, ["--seeds", "--only", "--repeat", "--runs"]),
        "export.py": ({}, ["SOURCE", "TARGET"]),
    }
