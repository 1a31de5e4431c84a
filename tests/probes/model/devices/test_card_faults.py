"""A card that cannot be used is a sentence that says what helps, and never a number."""

from __future__ import annotations

import pytest
import torch

from probes.errors import NoMemory, Unreplayable
from probes.model.devices.card_faults import card_fault, without_bfloat16
from probes.model.free_memory import memory_errors

ADVICE = "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("CUDA error: an illegal memory access was encountered", "this process can compute nothing on it any more"),
        ("CUDA error: device-side assert triggered", "the models are started again"),
        ("CUDA error: unspecified launch failure", "the models are started again"),
        ("CUDA error: uncorrectable ECC error encountered", "the models are started again"),
        ("CUDA error: no CUDA-capable device is detected", "nvidia-smi on its node"),
        ("No CUDA GPUs are available", "nvidia-smi on its node"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "in exclusive use"),
        ("CUDA error: unknown error", "there is no card that answers"),
        ("The NVIDIA driver on your system is too old (found version 12040). Please", "update the driver"),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "update the driver"),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "update the driver"),
        ("Found no NVIDIA driver on your system. Please check that you have", "give the container a card"),
        ("CUDA error: no kernel image is available for execution on the device", "has no kernels for a card of this"),
        ("Torch not compiled with CUDA enabled", "take the image for CUDA"),
        ("CUDA error: invalid device ordinal", "no card of that number"),
    ],
)
def test_what_torch_says_of_a_card_is_told_with_what_helps(message: str, meaning: str) -> None:
    error = RuntimeError(f"{message}\n{ADVICE}")
    told = card_fault(error)
    assert meaning in told and message in told and "\n" not in told
    with pytest.raises(Unreplayable) as raised, memory_errors("/base"):
        raise error
    assert not isinstance(raised.value, NoMemory) and meaning in str(raised.value)


def test_what_is_about_something_else_says_nothing_of_a_card() -> None:
    assert card_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied (5x64 and 32x64)")) == ""


def test_a_card_that_is_full_from_the_beginning_is_short_of_memory() -> None:
    with pytest.raises(NoMemory, match="CUDA out of memory"), memory_errors("/base"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free")


@pytest.mark.parametrize(("generation", "has"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_a_generation_without_bfloat16_is_refused_by_its_name(generation: tuple[int, int], has: bool) -> None:
    told = without_bfloat16("Tesla T4", generation)
    assert (told == "") is has and (has or "Tesla T4 (compute capability 7." in told)
