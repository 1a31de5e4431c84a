from __future__ import annotations

import math

import numpy as np
import pytest

from detectors.canaries.position_bands import band_figures, band_parts, retention_by_band, standing_apart
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Band
from tests.detectors.faulty_answers import measured
from tests.detectors.synthetic import prepared


@pytest.mark.parametrize(
    "positions, sizes",
    [(1, (1,)), (6, (1, 5)), (16, (1, 15)), (17, (1, 15, 1)), (128, (1, 15, 112)), (200, (1, 15, 112, 72))],
)
def test_bands_cover_every_position_once_in_order(positions: int, sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(positions)
    mask = generator.random((positions, 5)) < 0.8
    mask[:, 0] = True
    delta = generator.standard_normal(int(mask.sum()))
    parts = band_parts(mask, delta)
    assert [p.band for p in parts] == list(Band)[: len(sizes)]
    assert tuple(p.positions for p in parts) == sizes
    assert [i for p in parts for i in range(p.part.start, p.part.stop)] == list(range(len(delta)))
    assert sum(p.energy for p in parts) == pytest.approx(float(delta @ delta))
    first = mask[: sizes[0]].sum()
    assert (parts[0].part.start, parts[0].part.stop) == (0, first)


@pytest.mark.parametrize("fault", ["without:mlp", "stacked:rewriter", "scale:0.5", "adapter:extractor"])
def test_a_bands_energies_add_up_to_the_canarys(fault: str) -> None:
    seen, ready = measured("router", 3, fault), prepared("router", 3)
    assert sum(b.share for b in seen.bands) == pytest.approx(1.0)
    assert sum(b.share * b.retention for b in seen.bands) == pytest.approx(seen.retention)
    whole = sum(b.share * (b.retention**2 + b.distortion) for b in seen.bands)
    assert whole == pytest.approx(seen.retention**2 + seen.distortion)
    assert band_figures(2 * ready.delta, ready.delta, ready.bands)[0].retention == pytest.approx(2.0)


def test_a_band_without_effect_has_no_figures() -> None:
    delta = np.array([0.0, 0.0, 1.0, 2.0])
    silent, loud = band_figures(delta, delta, band_parts(np.ones((2, 2), np.bool_), delta))
    assert math.isnan(silent.retention) and math.isnan(silent.distortion) and silent.share == 0.0
    assert (loud.retention, loud.share) == (1.0, 1.0)


def test_words_only_where_bands_differ() -> None:
    apart = [measured("router", canary, "first_token") for canary in range(6)]
    assert standing_apart(apart) == "retention of the first token 0.00, later 1.00"
    assert retention_by_band(apart)[Band.EARLY] == pytest.approx(1.0, abs=0.01)
    assert standing_apart([measured("router", canary, "scale:0.9") for canary in range(6)]) == ""
    assert standing_apart([]) == ""


@pytest.mark.parametrize("canary", range(12))
def test_a_lost_band_is_beyond_tolerance_by_the_distortion_of_the_whole(canary: int) -> None:
    """Why bands are no criterion of the score: the mean hides little energy, the distortion does not."""
    seen = measured("router", canary, "first_token")
    share = seen.bands[0].share
    assert seen.distortion == pytest.approx(share * (1 - share), abs=0.01)
    assert beyond_tolerance(seen, Tolerances())
