"""The choice of a precision: the processor's instructions first, then a measurement."""

import pytest
import torch

from training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "flags, bf16_seconds, chosen, steps",
    [
        ({"avx2", "avx512f"}, 0.1, "fp32", []),
        ({"amx_bf16"}, 0.1, "bf16", ["fp32", "bf16"] * 3),
        (None, 0.3, "fp32", ["fp32", "bf16"] * 3),  # instructions that are not known
        ({"bf16"}, 5.0, "fp32", ["fp32", "bf16"]),  # hopeless
    ],
)
def test_the_faster_one_is_chosen(monkeypatch, flags, bf16_seconds, chosen, steps):
    monkeypatch.setattr(precision, "processor_flags", lambda: flags)
    taken, seconds = [], {"fp32": 0.2, "bf16": bf16_seconds}

    def time_step(name):
        taken.append(name)
        return seconds[name]

    assert precision.choose_precision("auto", CPU, time_step) == chosen and taken == steps
    assert precision.choose_precision("bf16", CPU, time_step) == "bf16" and taken == steps
    assert precision.choose_precision("auto", torch.device("mps"), time_step) == "fp32"


def test_the_least_of_several_steps_counts():
    times = iter([9.0, 8.0, 1.0, 2.0, 3.0, 4.0])
    assert precision.time_both(lambda name: next(times)) == {"fp32": 1.0, "bf16": 2.0}


def test_flags_of_this_processor_are_words():
    flags = precision.processor_flags()
    assert flags is None or all(flag and flag.islower() for flag in flags)


def test_autocast():
    a = torch.ones(2, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with precision.autocast(CPU, name):
            assert (a @ a).dtype == dtype
