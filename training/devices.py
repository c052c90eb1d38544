"""The device that a network computes on, and its memory."""

import ctypes
import platform
import re
import sys
from pathlib import Path

import torch

from cli import InputError


def choose_device(name):
    """The torch device for cpu, cuda, mps, or auto: the first of cuda, mps, cpu that is there."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    if not available[name]:
        raise InputError(f"--device {name} is not available on this machine; use --device auto")
    return torch.device(name)


def to_device(model, device):
    """Move a model in channels_last, the fastest layout of convolutions on CPUs and GPUs.

    On a GPU sums have one order from now on, so that a repeat is bit-exact.
    """
    torch.backends.cudnn.deterministic = True
    return model.to(device, memory_format=torch.channels_last)


def keep_memory():
    """Let this process keep the memory that tensors free.

    By default glibc gives large pieces back at once, and then the system hands them out anew, page
    by page, at every step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: what is smaller comes from the heap,
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: which does not shrink


def to(batch, device):
    """A dict of tensors on a device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def images_on(dataset, device, config, processes):
    """Where training images are held and augmented: "cuda" or "cpu".

    On a GPU if they take a quarter of its memory at most and nothing asks for single images
    (--hard-augment) or for processes that read (--workers).
    """
    is_single = config.hard_augment or config.workers or processes > 1
    if device.type != "cuda" or is_single:
        return "cpu"
    memory = torch.cuda.get_device_properties(device).total_memory
    return "cuda" if dataset.store.bytes() <= memory / 4 else "cpu"


def processor(device):
    """The name of what computes; of a CPU also the widest instructions that torch uses.

    As in "AMD EPYC (AVX2)". The last digits of a result depend on it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*: (.*)", info.read_text(encoding="utf-8"), re.M)
        name = found[1] if found else name
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
