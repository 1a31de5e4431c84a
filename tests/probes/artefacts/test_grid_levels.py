"""The bounds under which few values or near levels are no chance: by exact sums, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probes.artefacts.grid_levels import (
    E4M3,
    E5M2,
    EVEN,
    NF4,
    NF4_LEVELS,
    distinct_values,
    evidence_of_few,
    evidence_of_levels,
    fewest_expected,
    is_evenly_spaced,
    level_tables,
    mantissa_bits,
)

TYPES = {7: torch.bfloat16, 10: torch.float16}
DRAWS = {
    "normal": lambda shape: torch.randn(shape),
    "Laplace": lambda shape: torch.distributions.Laplace(0.0, 1.0).sample(shape),
    "uniform": lambda shape: 2 * torch.rand(shape) - 1,
    "uniform, at the worst edge": lambda shape: 1.4 * (2 * torch.rand(shape) - 1),
    "heavy tails": lambda shape: torch.distributions.StudentT(1.5).sample(shape),
}


@pytest.mark.parametrize("mantissa", TYPES)
@pytest.mark.parametrize("weights", [32, 128, 4096])
@pytest.mark.parametrize("draws", DRAWS)
def test_no_ordinary_weights_have_fewer_distinct_values_than_is_expected(
    draws: str, weights: int, mantissa: int
) -> None:
    torch.manual_seed(1)
    groups = DRAWS[draws]((400, weights)).to(TYPES[mantissa]).float().numpy()
    distinct, _ = distinct_values(groups)
    error = distinct.std() / math.sqrt(len(distinct))
    assert distinct.mean() >= fewest_expected(weights, mantissa) - 4 * error


def test_the_least_expectation_is_reached_by_a_uniform_density() -> None:
    """In bfloat16, by the exact sum over its values for the uniform density on [-1, 1]: 256 values a binade."""
    exact = sum(256 * (1 - (1 - 2.0 ** -(9 + binade)) ** 4096) for binade in range(40))
    assert 0.95 * exact <= fewest_expected(4096, 7) <= exact + 1e-6
    assert fewest_expected(32, 23) == pytest.approx(32, abs=1e-3)


def test_evidence_is_mcdiarmids_bound_added_over_groups_and_empty_groups_have_none() -> None:
    margin = fewest_expected(64, 7) - 16
    one = evidence_of_few(np.array([64]), 16, 7)
    assert one == pytest.approx(2 * margin**2 / 64) and evidence_of_few(np.array([64] * 5), 16, 7) == pytest.approx(
        5 * one
    )
    assert evidence_of_few(np.array([0, 10, 16]), 16, 7) == 0.0


def test_the_bound_holds_where_it_can_be_simulated() -> None:
    """Among 300 bfloat16 weights, at most 230 distinct ones: by the bound and by 20,000 draws of the worst density."""
    torch.manual_seed(2)
    groups = DRAWS["uniform, at the worst edge"]((20_000, 300)).bfloat16().float().numpy()
    distinct, _ = distinct_values(groups)
    bound = math.exp(-evidence_of_few(np.array([300]), 230, 7))
    assert (distinct <= 230).mean() <= bound < 1


def test_chance_gives_ordinary_weights_no_levels() -> None:
    torch.manual_seed(3)
    groups = torch.randn(50, 32).bfloat16().float().numpy()
    for tables in (level_tables(bits) for bits in (4, 5, 6, 8)):
        assert all(evidence_of_levels(groups, each, 7) == 0.0 for each in tables.values())


def test_levels_are_the_published_ones_and_found_again_in_any_storage_type() -> None:
    assert len(NF4_LEVELS) == 16 and NF4_LEVELS[7] == 0.0 and (NF4_LEVELS[0], NF4_LEVELS[-1]) == (-1.0, 1.0)
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = numbers[numbers.isfinite()].unique().numpy()
    assert np.array_equal(level_tables(8)[E4M3][0] * 448.0, finite)
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2).float()
    assert np.array_equal(level_tables(8)[E5M2][0] * 57344.0, numbers[numbers.isfinite()].unique().numpy())
    scales = torch.tensor([[0.013], [0.7]])
    for mantissa, kind in (*TYPES.items(), (23, torch.float32)):
        groups = (torch.tensor(NF4_LEVELS) * scales).to(kind).float().numpy()
        assert evidence_of_levels(groups, level_tables(4)[NF4], mantissa) > 20
        assert evidence_of_levels(groups, level_tables(4)[EVEN], mantissa) == 0.0
        assert not is_evenly_spaced(groups, 4, mantissa)


def test_a_float32_file_of_16_bit_weights_is_known_as_one() -> None:
    torch.manual_seed(4)
    values = torch.randn(1000)
    assert [mantissa_bits(values.to(kind).float().numpy()) for kind in (torch.float32, *TYPES.values())] == [23, 7, 10]
