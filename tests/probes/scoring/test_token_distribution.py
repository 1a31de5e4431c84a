from __future__ import annotations

import numpy as np
import pytest

from probes.scoring.token_distribution import (
    FLOAT32,
    SamplingParameters,
    normalised,
    nucleus,
    penalised,
    repeated,
    sampling_of,
    tie_margin,
    token_distribution,
    written,
)

BFLOAT16 = 2.0**-7
LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.04, 0.01]]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (SamplingParameters(1.0, top_p=0.5), 1),
        (SamplingParameters(1.0, top_p=0.51), 2),
        (SamplingParameters(1.0, top_p=0.9), 3),
        (SamplingParameters(1.0, top_k=2), 2),
        (SamplingParameters(1.0, top_k=3, top_p=0.6), 2),  # of what top-k leaves, the first holds .526
        (SamplingParameters(1.0, min_p=0.1), 3),
        (SamplingParameters(1.0, top_p=1e-9), 1),
        (SamplingParameters(1.0), 5),
        (SamplingParameters(1.0, top_k=99), 5),
    ],
)
def test_nucleus_keeps_the_fewest_tokens_that_reach_the_share(sampling: SamplingParameters, kept: int) -> None:
    assert nucleus(normalised(LOGITS), sampling).sum() == kept
    assert np.isfinite(token_distribution(LOGITS, sampling)).sum() == kept
    assert np.exp(token_distribution(LOGITS, sampling)).sum() == pytest.approx(1.0)


def test_temperature_divides_the_logits() -> None:
    assert np.exp(token_distribution(LOGITS, SamplingParameters(0.5)))[0, 0] == pytest.approx(
        0.25 / (0.25 + 0.09 + 0.0225 + 0.0016 + 0.0001)
    )


def test_greedy_is_uniform_over_near_ties() -> None:
    assert np.exp(token_distribution(np.array([[1.0, 0.99, 0.0]]), SamplingParameters(0.0))).tolist() == [
        [0.5, 0.5, 0.0]
    ]


@pytest.mark.parametrize(
    ("largest", "spacing", "wanted"),
    [
        (20.0, BFLOAT16, 0.125), (-20.0, BFLOAT16, 0.125), (16.0, BFLOAT16, 0.125), (15.9, BFLOAT16, 0.0625),
        (40.0, BFLOAT16, 0.25), (7.0, BFLOAT16, 0.05), (20.0, 2.0**-10, 0.05), (70.0, 2.0**-10, 0.0625),
        (1e4, FLOAT32, 0.05), (0.0, FLOAT32, 0.05),
    ],
)  # fmt: skip
def test_a_tie_is_one_unit_in_the_last_place_of_the_largest_logit(
    largest: float, spacing: float, wanted: float
) -> None:
    margin = tie_margin(np.array([[largest, largest - wanted, largest - 1.0]]), spacing)
    assert wanted <= margin[0] <= wanted + 0.0011
    nearer = normalised(np.array([[largest, largest - 0.99 * wanted, largest - 1.0]]))
    assert np.isfinite(token_distribution(nearer, SamplingParameters(0.0), margin)).sum() == 2


@pytest.mark.parametrize(
    ("named", "default", "wanted"),
    [
        ({}, None, None),
        ({"top_p": 0.9}, None, None),
        ({"top_p": 0.9}, SamplingParameters(0.7), SamplingParameters(0.7, top_p=0.9)),
        ({"temperature": 0.7, "top_k": -1}, None, SamplingParameters(0.7)),
        ({"temperature": -1.0}, None, None),
        ({"temperature": float("nan")}, None, None),
        ({"temperature": 1.0, "top_p": 0.0}, None, None),
        ({"temperature": 0}, None, SamplingParameters(0.0)),
        ({"temperature": 1.0, "top_k": float("inf")}, None, None),
        ({"temperature": 1.0, "top_k": float("nan")}, None, None),
        ({"temperature": 1.0, "top_k": 2.5}, None, None),
        ({"temperature": 1.0}, SamplingParameters(float("nan"), top_k=20), SamplingParameters(1.0, top_k=20)),
        ({"top_p": 0.9}, SamplingParameters(float("nan"), top_k=20), None),
        ({"temperature": 1.0, "presence_penalty": 0.5}, None, SamplingParameters(1.0, presence=0.5)),
    ],
)
def test_a_temperature_that_nobody_states_stays_unknown(
    named: dict[str, float], default: SamplingParameters | None, wanted: SamplingParameters | None
) -> None:
    assert sampling_of(named, default) == wanted


def test_what_was_written_before_each_position() -> None:
    rows, ids, counts = written([7, 8, 7, 9])
    assert list(zip(rows, ids, counts, strict=True)) == [(1, 7, 1), (2, 7, 1), (2, 8, 1), (3, 7, 2), (3, 8, 1)]
    rows, ids = repeated([8, 5], [7, 8, 7])
    assert sorted(zip(rows.tolist(), ids.tolist(), strict=True)) == [
        (0, 5), (0, 8), (1, 5), (1, 7), (1, 8), (2, 5), (2, 7), (2, 8),
    ]  # fmt: skip


def test_penalties_as_engines_have_them() -> None:
    logits = np.array([[2.0, -1.0, 1.0], [2.0, -1.0, 1.0]])
    found = penalised(logits, [1], [0, 0], SamplingParameters(1.0, presence=0.5, frequency=0.25, repetition=2.0))
    assert found.tolist() == [[2.0, -2.0, 1.0], [1.0 - 0.75, -2.0, 1.0]]
    assert penalised(logits, [1], [0, 0], SamplingParameters(1.0)) is logits
