"""Is it one replica of several? Then the canaries fall into two heaps: some as accepted, the others broken alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.canaries.tolerance import Tolerances, beyond
from detectors.records import Measurement

# Without pod names the two heaps must be this many times apart in their distance from what was accepted, and a single
# canary is no heap. With pod names: so much of the bad pods' canaries is off, on at least so many canaries a pod.
GAP, HEAP = 4.0, 2
BAD_SHARE, PER_POD = 0.8, 3

Test = Callable[[Measurement], bool]
Distance = Callable[[Measurement], float]


@dataclass(frozen=True, slots=True)
class ReplicaSplit:
    """good, bad: the canaries as accepted, and the others; pods: names of the bad pods, empty without pod names."""

    good: tuple[Measurement, ...]
    bad: tuple[Measurement, ...]
    pods: tuple[str, ...] = ()


def by_pod(seen: Sequence[Measurement], tolerances: Tolerances, moved: bool) -> ReplicaSplit | None:
    """Are the canaries of some pods as accepted, and nearly all of others off? None where that is not so.

    seen: finite measurements of one round, drawn and held out; moved: has the base moved by its answers?
    Off in place, by the rule of the score; else off from what was accepted, because one pod may have another base.
    """
    pods: dict[str, list[Measurement]] = {}
    for m in seen:
        pods.setdefault(m.comparison.pod, []).append(m)
    pods = {pod: rows for pod, rows in pods.items() if len(rows) >= PER_POD}
    if len(pods) < 2:
        return None
    for off, _ in _tests(tolerances, moved):
        shares = {pod: sum(map(off, rows)) / len(rows) for pod, rows in pods.items()}
        good = [pod for pod, share in shares.items() if share <= tolerances.share]
        bad = sorted(pod for pod, share in shares.items() if share >= BAD_SHARE)
        if good and bad:
            return ReplicaSplit(_rows(pods, good), _rows(pods, bad), tuple(bad))
    return None


def by_gap(seen: Sequence[Measurement], tolerances: Tolerances, moved: bool) -> ReplicaSplit | None:
    """Two heaps with a clear gap between them: the near one as accepted, every canary of the far one off.

    Arguments as of ``by_pod``. A fault of the adapter itself is on every canary; one that is strong on some and weak on
    others leaves no gap of four times. A gap is no finding by itself: the far heap must have one cause (root_cause.py).
    """
    for off, distance in _tests(tolerances, moved):
        far = tuple(m for m in seen if off(m))
        near = tuple(m for m in seen if not off(m))
        if min(len(near), len(far)) >= HEAP:
            widest_good = max(max(distance(m), _noise(m)) for m in near)
            if min(map(distance, far)) >= GAP * widest_good:
                return ReplicaSplit(near, far)
    return None


def _tests(tolerances: Tolerances, moved: bool) -> tuple[tuple[Test, Distance], ...]:
    def off_in_place(m: Measurement) -> bool:
        return beyond(m, tolerances, moved)

    def off_from_accepted(m: Measurement) -> bool:
        return _from_accepted(m) > tolerances.of(m.comparison.adapter, False) + _noise(m)

    return (off_in_place, _in_place), (off_from_accepted, _from_accepted)


def _in_place(m: Measurement) -> float:
    """|delta' - delta| / |delta|."""
    return math.hypot(m.retention - 1.0, math.sqrt(m.distortion))


def _from_accepted(m: Measurement) -> float:
    """|y - a| / |delta|."""
    return math.sqrt(m.frozen_shift)


def _noise(m: Measurement) -> float:
    floor = m.comparison.reference.noise
    return math.hypot(floor.scale, floor.distortion)


def _rows(pods: dict[str, list[Measurement]], wanted: Sequence[str]) -> tuple[Measurement, ...]:
    return tuple(m for pod in wanted for m in pods[pod])
