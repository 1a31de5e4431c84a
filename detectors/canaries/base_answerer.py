"""Which recorded model answers under the base's name? Asked before the gap between adapter and base is computed.

An engine looks a name up among its adapters first, so that one registered under the base's name answers in its place
without any error. Every gap is then taken from that adapter's answers, and the adapter itself reads as lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.canaries.retention import PreparedReference, prepare
from detectors.canaries.route_agreement import fewest_beyond
from detectors.records import Floats, Measurement

# Squared share of the way from the base to an adapter within which an answer is that adapter's: nearer than half way,
# in whatever direction.
NEAR = 0.25


@dataclass(frozen=True, slots=True)
class BaseAnswerer:
    """adapter: that answers under the base's name; canaries: on which it does, of those that were compared."""

    adapter: str
    canaries: int
    of: int


def base_answerer(measurements: Sequence[Measurement], share: float = 0.05) -> BaseAnswerer | None:
    """The adapter whose accepted answers come under the base's name; None where none does.

    measurements: of one adapter's canaries; share: m0, of the pool on which this may be so by accident

    A canary is answered by adapter X where |z - x|^2 is below a quarter of |x - b|^2, x its recorded answers: so z is
    nearer to x than to b, and near in every direction, which a base that has moved elsewhere is not. X is this adapter
    or another that is recorded on its canaries.

    Null hypothesis: on at most ``share`` of the pool the live base is that near to any recorded X. Guarantee: one is
    named with chance ``route_agreement.LEVEL`` at most in one call, whatever the distribution of the noise; each
    adapter of each round is a call of its own. What breaks it: a base into which X was merged, which gives X's answers
    indeed and is named so; and canaries that were chosen and not drawn at random.
    Source: docs/mathematics.md#probe-validity.
    """
    needed = fewest_beyond(len(measurements), share)
    if needed is None or not all(measurement.finite for measurement in measurements):
        return None
    near: dict[str, int] = {}
    for measurement in measurements:
        ready = prepare(measurement.comparison.reference)
        if name := _nearest(ready, measurement):
            near[name] = near.get(name, 0) + 1
    name = max(near, key=lambda adapter: near[adapter], default="")
    return BaseAnswerer(name, near[name], len(measurements)) if name and near[name] >= needed else None


def _nearest(ready: PreparedReference, measurement: Measurement) -> str:
    """The adapter whose answers these are, "" for none."""
    live = ready.from_base(measurement.comparison.live_base.log_probs)
    recorded: Mapping[str, Floats] = {
        measurement.comparison.adapter: ready.golden_adapter.log_probs,
        **ready.others,
    }
    shares = {name: _share_left(live, ready.from_base(table)) for name, table in recorded.items()}
    name = min(shares, key=lambda adapter: shares[adapter])
    return name if shares[name] < NEAR else ""


def _share_left(live: np.ndarray, recorded: np.ndarray) -> float:
    """|z - x|^2 / |x - b|^2; inf where X does not differ from the base."""
    size, left = float(recorded @ recorded), live - recorded
    return float(left @ left) / size if size > 0 else float("inf")
