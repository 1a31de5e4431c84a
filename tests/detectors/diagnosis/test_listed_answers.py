"""Faults are named through a listing of k tokens as they are from the whole vocabulary, by a record made in process."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.listed_canaries import CASES, LISTED, Case, measurements
from detectors.diagnosis.listed_answers import censored_alike, k_th_listed
from detectors.diagnosis.signature_matching import SignatureFit, signature_fits
from detectors.records import Cause, Measurement

HALF, DOUBLE = Case("strength .5", "alpha", "scale:0.5"), Case("strength 2", "alpha", "scale:2")
OTHER = Case("another adapter", "alpha", "wrong_adapter:beta")
NO_VALUE = -math.inf


def fit(rows: list[Measurement], cause: Cause, name: str) -> SignatureFit:
    return next(each for each in signature_fits(rows, 0.05) if (each.cause, each.name) == (cause, name))


@pytest.mark.parametrize("k", LISTED)
@pytest.mark.parametrize(
    "case, cause, name",
    [
        (HALF, Cause.WRONG_STRENGTH, "one strength"),
        (DOUBLE, Cause.WRONG_STRENGTH, "one strength"),
        (OTHER, Cause.WRONG_ADAPTER, "beta"),
    ],
)
def test_what_explains_the_whole_answers_explains_the_listed_ones(case: Case, cause: Cause, name: str, k: int) -> None:
    whole, listed = (fit(measurements(case, each), cause, name) for each in (0, k))
    assert whole.share < 0.01
    assert listed.share < 0.02
    if cause is Cause.WRONG_STRENGTH:
        assert listed.value == pytest.approx(whole.value, rel=0.02)


def test_what_was_recorded_of_the_two_ends_stays() -> None:
    (row, *_) = measurements(HALF, 10)
    before = row.comparison.reference
    after = censored_alike(before, row.comparison.served, row.comparison.live_base)
    assert after.golden_adapter is before.golden_adapter and after.golden_base is before.golden_base
    assert np.array_equal(after.kept, before.kept) and np.all(after.curve >= before.curve)
    whole = replace(before, listed=0)
    assert censored_alike(whole, row.comparison.served, row.comparison.live_base) is whole


def test_the_edge_is_what_two_tokens_have_alike_below_all_others_but_the_given_one() -> None:
    rows = np.array(
        [
            [-1.0, -3.0, -3.0, -3.0],
            [-1.0, -9.0, -3.0, -3.0],  # the given token lies below
            [-1.0, -2.0, -3.0, -4.0],  # all listed, or one alone not
            [-1.0, -1.0, -3.0, -4.0],  # a tie of listed ones
            [-1.0, -3.0, -3.0, NO_VALUE],  # padded
        ],
        np.float32,
    )
    assert k_th_listed(rows, np.isfinite(rows)).ravel().tolist() == [-3.0, -3.0, NO_VALUE, NO_VALUE, -3.0]
    assert k_th_listed(rows[:, :2], np.isfinite(rows[:, :2])).ravel().tolist() == [NO_VALUE] * 5


def test_the_cases_are_those_of_the_published_table() -> None:
    assert {HALF, DOUBLE, OTHER} <= set(CASES)
