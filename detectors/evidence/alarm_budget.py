"""How much evidence is worth waking a person? The threshold that follows from false pages a year for the whole fleet.

A stream is every M that can alarm by itself: of adapters and bases, in each sidecar of the fleet. Each gets one "+1" in
each of its rounds, so what counts is stream-rounds a year: summed over all streams, the rounds a year of each. Null:
every stream's own, also after an alarm. Guarantee: the expected number of alarms a year is at most stream-rounds / A,
those after an incident that ended included, under any dependence between streams and whatever the interval of each: M
grows by at most 1 a round on average, and each alarm takes at least A of it away. So an A that changes without a look
at the evidence is paid for by the rounds in which it holds. What breaks it: a stream that is not counted, or one whose
null does not hold. What it is not about: pages that say "cannot tell", which are no false
alarms and have a bound of their own. Source: docs/mathematics.md#false-alarm-budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from detectors.errors import Refused

YEAR_S = 365.25 * 86400.0


def rounds_per_year(every_s: float) -> float:
    """Scheduled rounds a year at one in ``every_s`` seconds."""
    return YEAR_S / _positive("seconds between rounds", every_s)


def stream_rounds_per_year(streams: Mapping[float, int]) -> float:
    """Rounds a year, summed over all streams. streams: seconds between rounds -> number of streams judged that often"""
    return sum(_positive("streams", count) * rounds_per_year(every_s) for every_s, count in streams.items())


def log_threshold(stream_rounds_per_year: float, false_pages_per_year: float) -> float:
    """ln A in nats at which the fleet expects at most ``false_pages_per_year``; never below 0."""
    rounds = _positive("stream-rounds a year", stream_rounds_per_year)
    return max(math.log(rounds / _positive("false pages a year", false_pages_per_year)), 0.0)


def expected_false_pages_per_year(stream_rounds_per_year: float, log_threshold: float) -> float:
    """The most false pages a year that a fleet should expect at a threshold of ``log_threshold`` nats."""
    return stream_rounds_per_year * math.exp(-log_threshold)


def _positive(quantity: str, value: float) -> float:
    if not (0 < value < math.inf):
        raise Refused(quantity, value, "a finite number above 0")
    return value
