"""Is the fault on some replicas only? Then some canaries are answered as accepted, and the others are all broken alike.

With pod names the canaries are grouped by pod; without them, by how far each is from what was accepted. Changing a
threshold here moves rounds between ONE_REPLICA and the other causes: tests/detectors/diagnosis/test_cause_table.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Measurement

# Without pod names: the two groups must be this many times apart in their distance from what was accepted, and a single
# canary is no group. With pod names: at least this share of a bad pod's canaries is off, of at least so many canaries.
GAP, FEWEST_CANARIES = 4.0, 2
BAD_SHARE, CANARIES_PER_POD = 0.8, 3

IsOff = Callable[[Measurement], bool]
Distance = Callable[[Measurement], float]


@dataclass(frozen=True, slots=True)
class ReplicaGroups:
    """good, bad: the canaries answered as accepted, and the others; pods: of the bad ones, empty without pod names."""

    good: tuple[Measurement, ...]
    bad: tuple[Measurement, ...]
    pods: tuple[str, ...] = ()


def groups_by_pod(measurements: Sequence[Measurement], tolerances: Tolerances) -> ReplicaGroups | None:
    """Are the canaries of some pods as accepted, and nearly all of others off? None where that is not so.

    measurements: finite ones of one round, drawn and held out
    A canary is off by the rule of its score, or else by its distance from the accepted answers, because a single pod
    may run on another base.
    """
    by_pod: dict[str, list[Measurement]] = {}
    for m in measurements:
        by_pod.setdefault(m.comparison.pod, []).append(m)
    by_pod = {pod: rows for pod, rows in by_pod.items() if len(rows) >= CANARIES_PER_POD}
    if len(by_pod) < 2:
        return None
    for is_off, _ in _criteria(tolerances):
        shares = {pod: sum(map(is_off, rows)) / len(rows) for pod, rows in by_pod.items()}
        good = [pod for pod, share in shares.items() if share <= tolerances.share]
        bad = sorted(pod for pod, share in shares.items() if share >= BAD_SHARE)
        if good and bad:
            return ReplicaGroups(_of_pods(by_pod, good), _of_pods(by_pod, bad), tuple(bad))
    return None


def groups_by_distance(measurements: Sequence[Measurement], tolerances: Tolerances) -> ReplicaGroups | None:
    """Two groups of canaries with a clear gap between them: the near one as accepted, every canary of the far one off.

    Arguments as of ``groups_by_pod``. A fault of the adapter itself is on every canary; one that is strong on some and
    weak on others leaves no gap of four times. A gap alone proves nothing: the far group must also have one cause
    (root_cause.py).
    """
    for is_off, distance in _criteria(tolerances):
        far = tuple(m for m in measurements if is_off(m))
        near = tuple(m for m in measurements if not is_off(m))
        if min(len(near), len(far)) >= FEWEST_CANARIES:
            widest_good = max(max(distance(m), _noise(m)) for m in near)
            if min(map(distance, far)) >= GAP * widest_good:
                return ReplicaGroups(near, far)
    return None


def _criteria(tolerances: Tolerances) -> tuple[tuple[IsOff, Distance], ...]:
    def off_in_place(m: Measurement) -> bool:
        return beyond_tolerance(m, tolerances)

    def off_from_accepted(m: Measurement) -> bool:
        return _from_accepted(m) > tolerances.allowed_deviation(m.comparison.adapter) + _noise(m)

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


def _of_pods(by_pod: dict[str, list[Measurement]], pods: Sequence[str]) -> tuple[Measurement, ...]:
    return tuple(m for pod in pods for m in by_pod[pod])
