"""fp32 or bf16: the faster one here, by the processor's instructions and a short measurement.

bf16 wins only where the processor has instructions for it; elsewhere it is emulated, at a tenth of
the speed.
"""

import contextlib
import re
from pathlib import Path

import torch

# As /proc/cpuinfo names them: AVX512-BF16, AMX and AVX-NE-CONVERT of x86, BF16 of Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}
ROUNDS = 3
HOPELESS = 2  # a first step that takes so many times as long is not repeated


def choose_precision(asked, device, time_step):
    """ "fp32" or "bf16": as asked, or for "auto" the one in which a step takes less time.

    time_step: a function of a precision that takes a training step in it and returns its seconds.
    """
    if asked != "auto":
        return asked
    if device.type == "mps":
        return "fp32"
    if device.type == "cpu" and not has_bf16(processor_flags()):
        print("precision: fp32, as this processor has no instructions for bf16")
        return "fp32"
    seconds = time_both(time_step)
    fastest = min(seconds, key=seconds.get)
    times = ", ".join(f"{name} {value:.3f} s a step" for name, value in seconds.items())
    print(f"precision: {times}; training in {fastest}")
    return fastest


def time_both(time_step):
    """{precision: least seconds of up to ROUNDS steps}, interleaved, so that another program's
    activity hits both.
    """
    seconds = {"fp32": torch.inf, "bf16": torch.inf}
    for _ in range(ROUNDS):
        for precision in seconds:
            seconds[precision] = min(seconds[precision], time_step(precision))
        if seconds["bf16"] > HOPELESS * seconds["fp32"]:
            break
    return seconds


def processor_flags():
    """The instruction sets of this processor, as Linux lists them; None on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*: (.*)", text, re.M)
    return set(found[1].split()) if found else None


def has_bf16(flags):
    """Whether a processor may compute in bf16; one whose instruction sets are unknown may."""
    return flags is None or bool(flags & BF16_FLAGS)


def autocast(device, precision, **options):
    """The context in which a network computes in a precision; options: those of torch.autocast."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, **options)
