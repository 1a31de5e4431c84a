"""What a listing of the k most probable tokens says of the kept ones, beside what the whole vocabulary says."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.listed_canaries import CASES, LISTED, Case, figures, listing, reference_of, row
from detectors.canaries.retention import measure
from detectors.records import Comparison, Floats, Ints
from probes.canaries.log_prob_summary import PAD, keep, summarise
from probes.errors import Unreplayable
from probes.serving.listed_summary import first, summary_of, through, whole_of

HEALTHY = CASES[0]


@lru_cache
def position() -> tuple[Floats, Floats, Ints]:
    """Adapter and base over a vocabulary of 40, six positions, and a continuation with improbable tokens."""
    generator = np.random.default_rng(11)
    logits = 3 * generator.standard_normal((2, 6, 40))
    full = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return full[0].astype(np.float32), full[1].astype(np.float32), full[1].argmin(axis=1).astype(np.int32)


def test_where_all_is_listed_nothing_is_lost() -> None:
    full, base, forced = position()
    kept = keep(full, base, forced, 8)
    got, wanted = summary_of(listing(full, forced.tolist(), 40), kept), summarise(full, kept)
    assert np.array_equal(got.log_probs, wanted.log_probs) and np.array_equal(got.top1, wanted.top1)
    assert np.allclose(got.rest, wanted.rest, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_a_token_that_is_not_listed_takes_the_kth_value_and_the_given_one_its_own(k: int) -> None:
    full, base, forced = position()
    kept = keep(base, full[::-1], forced, 8)
    got = summary_of(listing(full, forced.tolist(), k), kept).log_probs
    edge = -np.sort(-full, axis=1)[:, k - 1 : k]
    picked = np.take_along_axis(full, np.where(kept == PAD, 0, kept), axis=1)
    wanted = np.where(kept == forced[:, None], picked, np.maximum(picked, edge))
    assert np.array_equal(got, np.where(kept == PAD, -np.inf, wanted))


@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_the_mass_outside_is_proven_and_short_by_no_more_than_is_said(k: int) -> None:
    full, base, forced = position()
    kept = keep(base, full[::-1], forced, 8)
    got, whole = summary_of(listing(full, forced.tolist(), k), kept), summarise(full, kept)
    known = np.zeros_like(full, dtype=bool)
    np.put_along_axis(known, np.argsort(-full, axis=1)[:, :k], True, axis=1)
    np.put_along_axis(known, forced[:, None], True, axis=1)
    unknown = np.where(known, 0.0, np.exp(full)).sum(axis=1)
    kept_known = np.take_along_axis(known, np.where(kept == PAD, 0, kept), axis=1)
    bounded = ((kept != PAD) & ~kept_known).sum(axis=1)
    short = np.minimum(unknown, bounded * np.exp(-np.sort(-full, axis=1)[:, k - 1]))
    missing = np.exp(whole.rest) - np.exp(got.rest)
    assert (missing >= -2e-6).all() and (missing <= short + 2e-6).all()


def test_nothing_jumps_where_a_token_leaves_the_listing() -> None:
    """Two tokens change places at the edge: the value of either side is the same to rounding."""
    logits = np.log(np.array([[0.5, 0.2, 0.1 + 1e-7, 0.1, 0.06, 0.04]], np.float32))
    swapped = logits[:, [0, 1, 3, 2, 4, 5]]
    kept, forced = np.array([[0, 1, 2, 4]], np.int32), np.array([0], np.int32)
    before, after = (summary_of(listing(full, forced.tolist(), 3), kept) for full in (logits, swapped))
    assert np.allclose(before.log_probs, after.log_probs, atol=1e-5)
    assert np.allclose(np.exp(before.rest), np.exp(after.rest), atol=1e-5)


def test_a_record_read_through_a_listing_is_what_the_engine_would_have_answered() -> None:
    reference, sides, forced = reference_of(20)
    for k in LISTED:
        read = through(reference, forced.tolist(), k)
        assert read.listed == k
        tops = [np.sort(-side, axis=1)[:, :k] for side in sides]
        assert (read.kept != PAD).sum() < (reference.kept != PAD).sum() or k == 20
        for side, summary, top in zip(sides, (read.golden_adapter, read.golden_base), tops, strict=True):
            wanted = summary_of(listing(side, forced.tolist(), k), read.kept)
            assert np.allclose(summary.log_probs, wanted.log_probs, atol=1e-6)
            assert np.allclose(np.exp(summary.rest), np.exp(wanted.rest), atol=2e-6)
            assert np.array_equal(summary.top1, wanted.top1)
            assert np.exp(-top).sum(axis=1).max() <= 1 + 1e-6
        assert np.allclose(read.curve[0], read.golden_base.log_probs, equal_nan=True)
        assert np.allclose(read.curve[-1], read.golden_adapter.log_probs) or reference.scales[-1] != 1


def test_a_record_that_kept_fewer_tokens_is_read_through_no_longer_listing() -> None:
    reference, _, forced = reference_of(5)
    assert through(reference, forced.tolist(), 20).listed == 5
    read = through(reference, forced.tolist(), 3)
    assert through(read, forced.tolist(), 20) is read


@pytest.mark.parametrize("k", LISTED)
def test_health_stays_at_the_floor(k: int) -> None:
    reference, sides, forced = reference_of(20)
    read = through(reference, forced.tolist(), k)
    served, base = (summary_of(listing(side, forced.tolist(), k), read.kept) for side in sides)
    measured = measure(Comparison("alpha", read, 1, served, base, 0.0))
    assert abs(measured.scale - 1) < 1e-6 and abs(measured.retention - 1) < 1e-6
    assert measured.distortion < 1e-10 and measured.base_shift < 1e-10
    assert measured.mass_outside < 2e-6 and measured.kl_golden_served < 1e-6


def published() -> dict[str, list[float]]:
    """Fault -> the figures of the table that ``python -m benchmarks.listed_canaries`` printed."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "mathematics.md").read_text(encoding="utf-8")
    section = text[text.index("## Served canaries") :]
    rows = [re.split(r" *[|/] *", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    return {name: [float(cell) for cell in cells] for name, *cells in rows if name in {case.name for case in CASES}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_fault_is_read_as_from_the_whole_vocabulary_within_what_is_published(case: Case) -> None:
    assert np.allclose(row(case), published()[case.name], atol=0.011)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("k", LISTED)
def test_what_is_beyond_tolerance_by_the_whole_vocabulary_is_so_by_a_listing(case: Case, k: int) -> None:
    for whole, listed in zip(figures(case, 0), figures(case, k), strict=True):
        assert listed.is_beyond >= whole.is_beyond
        if case is HEALTHY:
            assert not listed.is_beyond


def test_an_answer_that_is_no_token_distribution_is_refused() -> None:
    full, _, forced = position()
    good = listing(full, forced.tolist(), 8)
    assert first(good, 5).ids.shape == (6, 5)
    for bad in (
        replace(good, log_probs=good.log_probs + 1),
        replace(good, log_probs=good.log_probs[:, ::-1]),
        replace(good, ids=np.where(np.arange(8) > 6, PAD, good.ids)),
    ):
        with pytest.raises(Unreplayable):
            first(bad, 8)
    with pytest.raises(Unreplayable, match="lists 8 tokens"):
        first(good, 9)


def test_a_whole_vocabulary_is_put_in_its_order() -> None:
    full, _, forced = position()
    assert np.array_equal(whole_of(listing(full, forced.tolist(), 40)), full)
    for k in (39, 20):
        with pytest.raises(Unreplayable, match="not the whole vocabulary"):
            whole_of(listing(full, forced.tolist(), k))
