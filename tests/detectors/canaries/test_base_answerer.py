from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.canaries.base_answerer import BaseAnswerer, base_answerer
from detectors.canaries.retention import measure
from detectors.records import Comparison, Measurement
from tests.detectors import synthetic

CANARIES = 12


def measured(answering: str | None, canary: int, subject: str = "router", base: float = 0.0) -> Measurement:
    """A canary of ``subject`` whose own answers are healthy; ``answering`` answers under the base's name."""
    reference = synthetic.prepared(subject, canary)
    healthy, live = (synthetic.log_probs(canary, name, base=base) for name in (subject, answering))
    served, live_base = (synthetic.summarise(full, reference.kept) for full in (healthy, live))
    return measure(Comparison(subject, reference, 1, served, live_base, 0.0))


@pytest.mark.parametrize("answering", synthetic.ADAPTERS)
def test_the_adapter_that_answers_under_the_bases_name_is_named(answering: str) -> None:
    measurements = [measured(answering, canary) for canary in range(CANARIES)]
    assert base_answerer(measurements) == BaseAnswerer(answering, CANARIES, CANARIES)


@pytest.mark.parametrize("moved", [0.0, *synthetic.BASES.values()])
def test_a_base_that_answers_itself_is_no_adapter_however_far_it_has_moved(moved: float) -> None:
    assert base_answerer([measured(None, canary, base=moved) for canary in range(CANARIES)]) is None


def test_the_adapter_reads_as_lost_while_it_is_served_as_accepted() -> None:
    """Why it is asked before any gap is computed."""
    measurement = measured("router", 0)
    assert abs(measurement.retention) < 1e-6 and measurement.frozen_retention == pytest.approx(1.0)


def test_one_canary_in_twelve_that_looks_like_an_adapter_names_none() -> None:
    measurements = [measured("router" if canary == 0 else None, canary) for canary in range(CANARIES)]
    assert base_answerer(measurements) is None


def test_nothing_is_named_from_one_canary_or_from_numbers_that_are_not_finite() -> None:
    one = measured("router", 0)
    assert base_answerer([one]) is None
    assert base_answerer([one, replace(one, finite=False)]) is None
