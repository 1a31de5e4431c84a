"""Pages are counted by the real monitor, from shapes of which the number is known."""

from __future__ import annotations

import numpy as np

from benchmarks.canaries.base_members import first_page
from benchmarks.canaries.flapping import SHAPES, pages
from benchmarks.canaries.recorded_answers import accepted, answered_by, elsewhere, not_applied, shipped


def test_a_fault_that_stays_is_one_page_and_a_healthy_adapter_none() -> None:
    assert pages(lambda _number, size, _rng: np.ones(size, dtype=np.bool_), 20) == 1
    assert pages(lambda _number, size, _rng: np.zeros(size, dtype=np.bool_), 20) == 0


def test_there_are_eight_shapes_or_more() -> None:
    assert len(SHAPES) >= 8


def test_a_base_that_lost_all_its_adapters_is_one_page_in_the_first_round_and_half_of_them_is_none_of_its() -> None:
    golden = shipped("ticket-router")
    healthy, lost = (answered_by(golden, answer) for answer in (accepted, not_applied))
    every = first_page(golden, [lost] * 5)
    assert (every.rounds, every.pages) == (1, 1)
    half = first_page(golden, [lost, lost, healthy, healthy, healthy], most=10)
    assert (half.rounds, half.pages) == (11, 2)


def test_probability_on_another_token_is_seen_by_the_mass_outside_alone() -> None:
    """What the inner product sees stays as it was: the kept tokens differ from each other as before."""
    golden = shipped("ticket-router")
    measured = answered_by(golden, elsewhere(0.9999)).values()
    assert max(abs(m.scale - 1) for m in measured) < 1e-3
    assert min(m.mass_outside for m in measured) > 0.5
