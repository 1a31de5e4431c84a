"""Which cause, and what to do first, by the alternative that leads."""

from __future__ import annotations

import pytest

from detectors.diagnosis.response_cause import ResponseCounts, name_response_cause
from detectors.evidence.alternative import (
    BASE,
    FOUR_BITS,
    HALF_STRENGTH,
    PREVIOUS,
    Alternative,
    interpolation,
    other_adapter,
)
from detectors.records import Cause, Identity


@pytest.mark.parametrize(
    ("leading", "cause"),
    [
        (BASE, Cause.ADAPTER_NOT_APPLIED),
        (HALF_STRENGTH, Cause.WRONG_STRENGTH),
        (interpolation(0.5), Cause.WRONG_STRENGTH),
        (FOUR_BITS, Cause.QUANTISED_BASE),
        (other_adapter("rewriter"), Cause.WRONG_ADAPTER),
        (PREVIOUS, Cause.WRONG_ADAPTER),
        (Alternative.from_text("of a later version"), Cause.UNKNOWN),
        (None, Cause.UNKNOWN),
    ],
)
def test_the_cause_is_the_alternative_that_leads(leading: Alternative | None, cause: Cause) -> None:
    seen = ResponseCounts(heard=10, against=10)
    found, what, do = name_response_cause("router", seen, leading, None, Identity())
    assert found is cause and "router" in what and do


def test_a_stale_version_is_called_that_and_its_files_are_loaded_again() -> None:
    _, what, do = name_response_cause("router", ResponseCounts(heard=9, against=9), PREVIOUS, None, Identity())
    assert "the version of router accepted before wrote them" in what and "load its present files" in do


def test_other_weights_under_an_adapter_that_reads_as_the_base_are_named_too() -> None:
    moved = Identity("sha256:a", "sha256:b")
    assert (
        name_response_cause("router", ResponseCounts(heard=3, against=3), BASE, None, moved)[0]
        is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    )
