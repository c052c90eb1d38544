"""fp32 or bf16: whichever trains faster on this machine, asked of the processor first, measured
once, and remembered.

bf16 wins only where the processor has instructions for it; elsewhere it is emulated, at a tenth of
the speed. What was measured is kept in the user's cache folder, by machine, version of torch and
kind of run; delete it to measure again.
"""

import json
import os
import platform
import re
import sys
import time
from pathlib import Path

import torch

from models import count_parameters
from training import checkpoint
from training.devices import processor
from training.step import step, trial_batch, trial_copy

# As /proc/cpuinfo names them: AVX512-BF16, AMX and AVX-NE-CONVERT of x86, BF16 of Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}
HOPELESS = 2  # a first step that takes so many times as long as the other's will not be made up for


def choose_precision(asked, folder, model, criterion, dataset, batch_size, device, processes=1):
    """fp32 or bf16: as asked, else as at the start of the resumed run, else whichever trains faster
    here. batch_size: images of a step in one of the processes."""
    if asked != "auto" or folder.config_path.exists():
        return asked
    if device.type == "mps":
        return "fp32"
    if device.type == "cpu" and not may_win(processor_flags()):
        print("precision: fp32, as this processor has no instructions for bf16")
        return "fp32"
    # The last epoch's batches: at full size, where most of the time goes, and long enough to tell:
    # what a step costs whatever its batch is the same in both, and a few images alone would hide
    # the difference behind it.
    n, epoch = min(batch_size, 16), len(dataset.sides) - 1
    kind = ", ".join(
        (
            machine(device),
            f"torch {torch.__version__}",
            *model.tasks,
            f"{count_parameters(model)} parameters",
            f"{dataset.sides[epoch]} px",
            f"batches of {n}",
            f"{torch.get_num_threads()} threads",
            f"{processes} processes",
        )
    )
    seconds, source = recall().get(kind), " (measured earlier)"
    if not is_measurement(seconds):
        seconds, source = (
            try_both(trial_copy(model, criterion), trial_batch(dataset, epoch, n, device), device),
            "",
        )
        remember({**recall(), kind: seconds})
    fastest = min(seconds, key=seconds.get)
    print(
        "precision: "
        + ", ".join(f"{name} {time:.3f} s a step" for name, time in seconds.items())
        + f"{source}; training in {fastest}"
    )
    return fastest


def try_both(trial, batch, device):
    """{precision: seconds of a step}, the best of up to three, interleaved: another program's
    activity hits both."""
    seconds = {"fp32": [], "bf16": []}
    for precision in ("fp32", "bf16") * 3:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        step(*trial, batch, precision)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[precision].append(time.perf_counter() - begin)
        if precision == "bf16" and seconds["bf16"][0] > HOPELESS * seconds["fp32"][0]:
            break
    return {precision: min(times) for precision, times in seconds.items()}


def processor_flags():
    """The abilities of this processor, as Linux lists them; None where the system does not tell."""
    try:
        found = re.search(r"^(?:flags|Features)\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        return None
    return set(found[1].split()) if found else None


def may_win(flags):
    """Whether bf16 can be the faster one on a processor of these abilities; where they are not
    known, it has to be tried."""
    return flags is None or bool(flags & BF16_FLAGS)


def machine(device):
    """What tells one machine from another of another speed."""
    return (
        processor(device)
        if device.type == "cuda"
        else f"{platform.node()}, {processor(device)}, {os.cpu_count()} cores"
    )


def cache_path():
    """Where choices are remembered."""
    home = {"win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    return (
        Path(os.environ.get(home) or Path("~/.cache").expanduser())
        / "multi-task-pets"
        / "precision.json"
    )


def recall():
    """{kind of run: seconds of a step, as try_both gives them} of earlier runs; nothing where it
    cannot be read."""
    try:
        known = json.loads(cache_path().read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
        RuntimeError,
    ):  # the last: nobody knows where home is
        return {}
    return known if isinstance(known, dict) else {}


def is_measurement(value):
    """Whether a value of the cache is what try_both gives."""
    return (
        isinstance(value, dict)
        and value.keys() == {"fp32", "bf16"}
        and all(isinstance(seconds, float) and seconds > 0 for seconds in value.values())
    )


def remember(known):
    """Write what was measured for later runs, where that can be done."""
    try:
        cache_path().parent.mkdir(parents=True, exist_ok=True)
        checkpoint.replace(json.dumps(known, indent=2).encode(), cache_path())
    except (OSError, RuntimeError):
        pass
