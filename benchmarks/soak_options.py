"""Every script with options that make it run shortly, and the values to be hostile with."""

# Short trainings: most are refused before they begin.
TRAIN = ("--epochs", "1", "--width", "2", "--batch-size", "6", "--device", "cpu", "--precision", "fp32")

HOSTILE = ("nan", "-1", "1e309", "-inf", "", "9223372036854775808", "2**63", "0", "0.5", "1e-400", "🐈", "٣", "x" * 300,
           "x" * 5000, "a\nb", "\udcff", "--", "-", ".", "..", "/", "/dev/null", "/dev/full", "/proc/self/nothing", "a-file",
           "a-folder", "a-loop", "a-file/inside", "nowhere/deeper", "80-10-10-0", "nan-nan-nan", "1e309-0-0", "-5-50-55",
           "0-0-0", "100-0-0", "%s%n", "auto ", "none;", "mps", "cuda")


def scripts_and_options(reference):
    """{script: (options that make it run shortly, the options to be hostile about)}"""
    data = {"--data": reference.data}
    checkpoint = {"--checkpoint": reference.run / "best.pt"}
    train = {**data, **dict(zip(TRAIN[::2], TRAIN[1::2])), "--limit": "6"}
    every = [*train, "--runs", "--lr", "--seed", "--augment", "--threads", "--workers", "--resume",
             "--init", "--nonsense"]
    prepare = {"--root": reference.photographs, "--out": "data", "--size": "32"}
    return {
        **{script: (train, every) for script in ("train_mtl.py", "train_baseline.py", "train_ablation_cls.py",
                                                 "train_ablation_bbox.py", "oeq_uncertainty.py")},
        "oeq_splits.py": ({**train, "--split": "80-10-10"}, [*every, "--split"]),
        "data_prepare.py": (prepare, [*prepare, "--fractions", "--seed", "--border", "--force", "--synthetic"]),
        "data_rechunk.py": ({}, ["--data", "--check"]),
        "evaluate.py": ({**data, **checkpoint}, ["--data", "--checkpoint", "--split", "--batch-size", "--device"]),
        "mtl_vis.py": ({**data, **checkpoint, "--n": "1"}, ["--data", "--checkpoint", "--out", "--n", "--gallery", "IMAGE"]),
        "results.py": ({"--runs": reference.run.parent.parent}, ["--runs", "--out"]),
        "experiments.py": ({"--list": "--seeds=0"}, ["--seeds", "--only", "--repeat", "--runs"]),
        "training/checkpoint.py": ({}, ["SOURCE", "TARGET"]),
    }
