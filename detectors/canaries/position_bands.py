"""Which stretch of the answer is at fault: the first token, the next ones, or late ones?

Retention is a mean over positions, and a fault of prefill alone or one that begins after a hundred tokens hardly moves
it. So each stretch (band) has its own retention and distortion, over its own |delta|^2.

The bands inform the cause and the explanation. They are no criterion of the score, for two reasons. While the base has
not moved they could add nothing: a band with the share p of the energy that is lost outright leaves
``rho = p (1 - p)`` of distortion in the whole, which is beyond a tolerance of 5 % from p = .25 % on, because energies
add up where means cancel. While the base has moved there is no valid noise floor for them: the battery has quantiles of
whole canaries only, and a bound from those, sqrt(rho) / sqrt(p), is as wide as what a harmless release does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.on_call_text import BANDS, FIRST_TOKEN_APART, RETENTION_BY_POSITION
from detectors.records import Band, BandFigures, Bools, Measurement

Doubles = NDArray[np.float64]

ENDS = {Band.FIRST: 1, Band.EARLY: 16, Band.MIDDLE: 128, Band.LATE: math.inf}
# A band is reported when it holds this share of the energy, and when its retention is this far from another's.
SHARE_WORTH_REPORTING, APART = 0.01, 0.25


@dataclass(frozen=True, slots=True)
class BandPart:
    """A band of one canary. part: its place in retention.py's flat vector; energy: |delta|^2 in it, nats squared."""

    band: Band
    positions: int
    part: slice
    energy: float


def band_parts(mask: Bools, delta: Doubles) -> tuple[BandPart, ...]:
    """The bands that a canary has, first to last.

    mask: (T, K) False where padded; delta: (N,) the golden effect, flattened position by position, N kept tokens
    """
    ends = np.concatenate([[0], np.cumsum(mask.sum(axis=-1))])
    parts, start, total = [], 0, len(mask)
    for band, end in ENDS.items():
        stop = int(min(end, total))
        if stop > start:
            part = slice(int(ends[start]), int(ends[stop]))
            parts.append(BandPart(band, stop - start, part, float(delta[part] @ delta[part])))
        start = stop
    return tuple(parts)


def band_figures(now: Doubles, delta: Doubles, parts: Sequence[BandPart]) -> tuple[BandFigures, ...]:
    """Retention and distortion of each band; nan in a band where the adapter has no effect.

    now, delta: (N,) the present and the golden effect; parts: from ``band_parts``
    """
    total = sum(part.energy for part in parts)
    return tuple(_figures(now[part.part], delta[part.part], part, total) for part in parts)


def standing_apart(canaries: Sequence[Measurement]) -> str:
    """Retention band by band in words, "" where the bands agree: "retention of the first token 0.02, later 1.00".

    canaries: of one round, finite. A canary counts in a band by the energy that it has there.
    """
    kept = retention_by_band(canaries)
    if len(kept) < 2 or max(kept.values()) - min(kept.values()) <= APART:
        return ""
    first, later = kept.get(Band.FIRST), [v for band, v in kept.items() if band is not Band.FIRST]
    if first is not None and max(later) - min(later) <= APART:
        return FIRST_TOKEN_APART.format(first=first, later=float(np.mean(later)))
    each = ", ".join(f"{_name(band)} {value:.2f}" for band, value in kept.items())
    return RETENTION_BY_POSITION.format(each=each)


def retention_by_band(canaries: Sequence[Measurement]) -> dict[Band, float]:
    """Energy-weighted mean retention of each band that holds at least ``SHARE_WORTH_REPORTING`` of the energy."""
    kept: dict[Band, float] = {}
    for band in Band:
        rows = [b for m in canaries for b in m.bands if b.band is band and b.share > 0]
        share = sum(b.share for b in rows)
        if share > 0 and share >= SHARE_WORTH_REPORTING * len(canaries):
            kept[band] = sum(b.share * b.retention for b in rows) / share
    return kept


def _figures(now: Doubles, delta: Doubles, part: BandPart, total: float) -> BandFigures:
    if not part.energy > 0:
        return BandFigures(part.band, part.positions, 0.0, math.nan, math.nan)
    retention = float(now @ delta) / part.energy
    across = float(now @ now) / part.energy - retention**2
    return BandFigures(part.band, part.positions, part.energy / total, retention, max(across, 0.0))


def _name(band: Band) -> str:
    return BANDS.get(band.value, band.value)
