"""Every sharing under every weighting over every encoder of this project: trained, killed, resumed bit for bit, measured, drawn, and its
segmentation taken out as ONNX, which has to see what the network sees.

A combination that cannot be - aggregators of gradients where tasks share nothing - has to be refused in one sentence.
"""

import json
import shutil
import signal
from itertools import product

import numpy as np
from tqdm import tqdm

from soaking import kills
from soaking.kills import Lost
from soaking.server import Child, call, run_script

SHARINGS = ("hard", "soft", "cross_stitch", "mtan")
WEIGHTINGS = ("equal", "uncertainty", "dwa", "rlw", "torchjd:UPGrad", "torchjd:PCGrad")
ENCODERS = ("unet", "efficientnet_lite0")
TASKS = ("seg", "cls", "bbox", "column:breed")
HOW = (
    "--batch-size",
    "16",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--threads",
    "1",
    "--processes",
    "1",
    "--limit",
    "64",
    "--name",
    "x",
)
PATIENCE = 600  # seconds after which a script counts as hanging
SAME = 1e-4  # logits of ONNX and PyTorch


def soak(reference, data, seed):
    """Go through the whole table on a data folder; returns (rows of a table, results, failures)."""
    rows, failures = [], []
    for k, combination in enumerate(
        tqdm(list(product(SHARINGS, WEIGHTINGS, ENCODERS)), "combinations", disable=None)
    ):
        place = reference.folder / "axes"
        place.mkdir()
        try:
            found = attempt(place, data, combination, np.random.default_rng(seed + k))
        except Lost as loss:
            found = "failed"
            failures.append(f"{' + '.join(combination)}, --axes --seed {seed}: {loss}")
        rows.append([*combination, found])
        shutil.rmtree(place)
    counts = {what: sum(row[-1] == what for row in rows) for what in ("held", "refused", "failed")}
    return (
        [["sharing", "weighting", "encoder", "result"], *rows],
        {"combinations": counts},
        failures,
    )


def attempt(place, data, combination, rng):
    """One combination; returns "held" or "refused"."""
    sharing, weighting, encoder = combination
    epochs = 3 if weighting == "dwa" else 2  # it begins with the third
    argv = [
        "--data",
        data,
        "--tasks",
        *TASKS,
        "--sharing",
        sharing,
        "--weighting",
        weighting,
        "--encoder",
        encoder,
        *HOW,
        "--epochs",
        epochs,
    ]
    whole = run_whole("train.py", [*argv, "--runs", "whole"], place)
    if sharing == "soft" and weighting.startswith("torchjd:"):
        if whole.status != 2 or len(whole.err.strip().splitlines()) != 1:
            raise Lost(
                f"it is not refused in a sentence, but ends with {whole.status}: {whole.err.strip()[-500:]}"
            )
        return "refused"
    must(whole)
    child = Child(run_script, "train.py", [*argv, "--runs", "cut", "--resume"], cwd=place)
    child.process.join(rng.uniform(0.3, 0.95) * whole.seconds)
    child.kill()
    if child.wait().status not in (-signal.SIGKILL, 0):
        raise Lost("it ended by itself before it was killed")
    must(run_whole("train.py", [*argv, "--runs", "cut", "--resume"], place))
    run = place / "whole" / "x" / "seed0"
    if different := call(kills.print_differences, run, place / "cut" / "x" / "seed0", cwd=place):
        raise Lost(different)
    measured = json.loads(
        must(
            run_whole(
                "evaluate.py",
                ["--checkpoint", run / "best.pt", "--data", data, "--device", "cpu"],
                place,
            )
        ).out
    )
    # Over all test images, where the run had the first 64: that it measures them at all.
    if not 0 < measured["dice"] < 1 or measured["breed_accuracy"] is None:
        raise Lost(f"evaluate.py says {measured}")
    must(
        run_whole(
            "mtl_vis.py",
            ["--checkpoint", run / "best.pt", "--data", data, "--n", "2", "--out", "drawn.png"],
            place,
        )
    )
    if not (place / "drawn.png").stat().st_size:
        raise Lost("mtl_vis.py drew nothing")
    must(run_whole("export.py", ["--tasks", "seg", run / "best.pt", "seg.onnx"], place))
    if wrong := call(print_unlike, run / "best.pt", data, "seg.onnx", cwd=place):
        raise Lost(wrong)
    return "held"


def run_whole(script, argv, place):
    """Run a script to its end, which may take minutes on a busy machine; returns the Outcome."""
    return Child(run_script, script, argv, cwd=place).wait(PATIENCE)


def must(outcome):
    if outcome.status != 0:
        raise Lost(f"a command ends with {outcome.status}: {outcome.err.strip()[-500:]}")
    return outcome


def print_unlike(checkpoint_path, data, onnx_path):
    """In a child: print how far an ONNX file is from its network on some test images, where that is more than SAME."""
    import onnxruntime
    import torch

    from dataloader_mtl import MTLDataset
    from training import checkpoint

    model, _ = checkpoint.load_model(checkpoint_path)
    images = torch.stack([MTLDataset(data, "test", tasks=())[row]["image"] for row in range(2)])
    with torch.no_grad():
        expected = model(images)["seg"]
    session = onnxruntime.InferenceSession(onnx_path)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images.numpy()})))
    key = next((name for name in names if name.startswith("seg")), None)
    if key is None or len(names) > 1:
        print(f"the ONNX file has the outputs {', '.join(names)}")
        return
    off = (
        np.abs(found[key] - expected.numpy()).max()
        if found[key].shape == tuple(expected.shape)
        else np.inf
    )
    if not off <= SAME:
        print(f"ONNX is {off:.2g} off")
