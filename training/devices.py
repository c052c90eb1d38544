"""Where a network computes, on what, and in how many threads."""

import ctypes
import platform
import re
import sys
from pathlib import Path

import torch

from cli import InputError


def set_threads(threads):
    """Compute in so many threads (None: as it is). Sums are split among them, so their number is in
    every last digit."""
    if threads:
        torch.set_num_threads(threads)


def keep_memory():
    """Let this process keep the memory that tensors free. By default glibc gives large pieces back
    at once, and then the system hands them out anew, page by page, at every step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: what is smaller comes from the heap,
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: which does not shrink


def choose_device(name):
    """The torch device for cpu, cuda, mps, or auto: the first of cuda, mps, cpu that is there."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise InputError(f"--device {name}: there is none on this machine; use --device auto")
    return torch.device(name)


def images_on(dataset, device, args, team):
    """Where a run's training images are held and augmented: "cuda" where they take at most a
    quarter of the GPU's memory and nothing asks for single images (--scenes) or for processes that
    read (--workers), else "cpu"."""
    if device.type != "cuda" or args.workers or dataset.scenes or team.size > 1:
        return "cpu"
    return (
        "cuda"
        if dataset.store.bytes() <= torch.cuda.get_device_properties(device).total_memory / 4
        else "cpu"
    )


def to_device(model, device):
    """Move a model; channels_last is the layout in which convolutions are fastest, on CPUs and GPUs
    alike. On a GPU sums have one order from now on, so that a repeat is the same to the last
    digit."""
    torch.backends.cudnn.deterministic = True
    return model.to(device, memory_format=torch.channels_last)


def processor(device):
    """What computes, by its name; of a CPU also the widest instructions that torch uses there: "AMD
    EPYC (AVX2)". The last digits of a result hang on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(
            r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M
        )
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
