"""The benchmark of the e-detector's speed runs and its state fits; speed itself is measured on a quiet machine only."""

from __future__ import annotations

import math

from benchmarks.canaries.evidence_speed import measure


def test_every_rate_is_a_number_and_the_state_of_a_stream_fits() -> None:
    figures = measure(quick=True)
    assert all(math.isfinite(figure.value) and figure.value > 0 for figure in figures)
    (state,) = [figure for figure in figures if figure.unit == "bytes"]
    assert state.met
