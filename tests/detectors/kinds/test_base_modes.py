"""Which modes of a base have evidence, and of how many of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.mode_gap import base_mode_scores
from detectors.canaries.tolerance import Tolerances
from detectors.kinds.base_modes import Config, Detector
from detectors.records import BaseRound, Measurement, Mode
from tests.detectors.synthetic import make_base_round, with_cells

T = Tolerances()
ADAPTERS = ("extractor", "rewriter", "router")


def round_of(*broken: str) -> BaseRound:
    """Those members are apart wherever they were had: written, and none in another mode."""
    return with_cells(make_base_round({name: "not_applied" if name in broken else "healthy" for name in ADAPTERS}))


@pytest.mark.parametrize(("broken", "share"), [((), 0.0), (("router",), 0.0), (ADAPTERS[:2], 0.0), (ADAPTERS, 1.0)])
def test_a_score_takes_more_members_than_may_be_broken(broken: tuple[str, ...], share: float) -> None:
    scores = base_mode_scores(round_of(*broken), T)
    assert set(scores) == {Mode.WRITTEN} and len(scores[Mode.WRITTEN]) == 16
    assert np.mean(scores[Mode.WRITTEN]) == share


def test_members_whose_noise_was_not_measured_do_not_count_and_one_alone_is_no_base() -> None:
    whole = round_of(*ADAPTERS)
    without = [replace(m, cells=tuple(_without_floors(m.cells))) for m in whole.members]
    two = replace(whole, members=(without[0], *whole.members[1:]))
    assert base_mode_scores(two, T)[Mode.WRITTEN].all()
    assert base_mode_scores(replace(whole, members=(*without[:2], whole.members[2])), T) == {}


def _without_floors(had: Sequence[Measurement]) -> list[Measurement]:
    return [
        replace(m, comparison=replace(m.comparison, reference=replace(m.comparison.reference, mode_floors={})))
        for m in had
    ]


def test_evidence_of_a_mode_pages_in_the_rounds_that_have_it() -> None:
    detector = Detector(Config())
    (first,) = detector.update(round_of(*ADAPTERS))
    assert (first.subject, first.stream, first.pages, first.n) == ("smol", "written", True, 16)
    (silent,) = detector.update(make_base_round(dict.fromkeys(ADAPTERS, "healthy"), 1))
    assert silent.log_e == first.log_e and not silent.pages
