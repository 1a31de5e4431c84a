"""Which cause, by the alternative that leads and the replicas that the responses came from."""

from __future__ import annotations

import pytest

from detectors.diagnosis.response_cause import ResponseCounts, diagnose_responses
from detectors.evidence.alternative import (
    BASE,
    FOUR_BITS,
    HALF_STRENGTH,
    PREVIOUS,
    Alternative,
    interpolation,
    other_adapter,
)
from detectors.records import Cause, Identity, Interval


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
    strength = Interval(0.4, 0.3, 0.5, 10)
    diagnosis = diagnose_responses("router", ResponseCounts(scored=12, against=10), leading, strength, Identity())
    assert (diagnosis.cause, diagnosis.adapter, diagnosis.alternative) == (cause, "router", leading)
    assert (diagnosis.against, diagnosis.scored, diagnosis.strength) == (10, 12, strength)


def test_other_weights_under_an_adapter_that_answers_like_the_base_are_another_cause() -> None:
    moved, counts = Identity("sha256:a", "sha256:b"), ResponseCounts(scored=3, against=3)
    assert diagnose_responses("router", counts, BASE, None, moved).cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST


@pytest.mark.parametrize(
    ("bad_pods", "pods", "cause", "named"),
    [
        (("a",), ("a", "b"), Cause.ONE_REPLICA, ("a",)),
        ((), (), Cause.ONE_REPLICA, ()),
        (("a", "b"), ("a", "b"), Cause.ADAPTER_NOT_APPLIED, ()),
    ],
)
def test_two_kinds_of_response_are_some_replicas_unless_every_replica_gives_both(
    bad_pods: tuple[str, ...], pods: tuple[str, ...], cause: Cause, named: tuple[str, ...]
) -> None:
    counts = ResponseCounts(scored=20, against=5, favour=5, bad_pods=bad_pods, pods=pods)
    diagnosis = diagnose_responses("router", counts, BASE, None, Identity())
    assert (diagnosis.cause, diagnosis.bad_pods) == (cause, named)


def test_saved_counts_are_read_back_under_the_names_that_saved_state_has() -> None:
    counts = ResponseCounts(20, 5, 4, 3, ("a",), ("a", "b"))
    stored = counts.to_json()
    assert stored["heard"] == 20 and set(stored) == {"heard", "against", "favour", "fresh", "bad_pods", "pods"}
    assert ResponseCounts.from_json({**stored, "bad_pods": ["a"], "pods": ["a", "b"]}) == counts
