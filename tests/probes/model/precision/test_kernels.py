"""Which kernel a tolerance allows, and which one a base gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from probes.errors import Unsupported
from probes.model.base_memory import base_memory, computing
from probes.model.build import AUTO, Placement
from probes.model.precision.kernels import BFLOAT16, FLOAT32, KERNELS, NEGLIGIBLE, SPLIT, fastest_within
from probes.runners.in_process import Config
from tests.probes.tiny import in_bfloat16, tiny_base

CHOSEN = Placement(torch.device("cpu"), torch.float32, AUTO, split=True, is_chosen=True)


@pytest.mark.parametrize(("tolerance", "wanted"), [(0.2, BFLOAT16), (0.05, SPLIT), (0.005, SPLIT), (1e-5, FLOAT32)])
def test_the_fastest_whose_error_is_negligible_beside_the_tolerance(tolerance: float, wanted: str) -> None:
    kernel = fastest_within(tolerance)
    assert kernel.name == wanted
    assert kernel.error <= NEGLIGIBLE * tolerance or wanted == FLOAT32


def test_on_a_cpu_float32_is_taken_unless_another_is_named() -> None:
    assert Config("base", device="cpu").placement().kernel == FLOAT32
    for name, kernel in KERNELS.items():
        placement = Config("base", device="cpu", dtype=name).placement()
        assert (placement.kernel, placement.dtype, placement.split) == (name, kernel.dtype, name == SPLIT)
        assert not placement.is_chosen


def test_a_base_gets_the_kernel_that_it_is_stored_for(tmp_path: Path) -> None:
    base = in_bfloat16(tiny_base(tmp_path / "base"))
    assert computing(base, CHOSEN) == CHOSEN
    whole = tiny_base(tmp_path / "whole")
    assert computing(whole, CHOSEN) == replace(CHOSEN, split=False)
    in_half = replace(CHOSEN, dtype=torch.bfloat16, split=False)
    assert computing(whole, in_half).kernel == FLOAT32 and computing(base, in_half).kernel == BFLOAT16
    with pytest.raises(Unsupported, match="stored in F32"):
        computing(whole, replace(CHOSEN, is_chosen=False))


def test_matrices_are_counted_with_two_bytes_a_number(tmp_path: Path) -> None:
    base = in_bfloat16(tiny_base(tmp_path / "base"))
    split, whole = (base_memory(base, replace(CHOSEN, split=split)) for split in (True, False))
    assert split.weights < 0.55 * whole.weights and split.replay == whole.replay
