"""What the store knows of the rest of the fleet: what its pods have sent, and how they judge the same subjects. Pure.

Read by agent/store/fleet.py, once for each round; what follows from it is decided in incidents.py and changes.py. Where
the store gave no answer in time there is no ``Fleet``: then pages go out, and nothing is ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detectors.records import Cause, FilesReplay

# Seconds that a pod waits for each one before it, and the longest that any of them waits.
LEAST_SPACING_S, LONGEST_WAIT_S = 30.0, 600.0
# So many seconds at least, and so many of their rounds, a replay of files counts as one of the present files.
LEAST_FRESH_S, FRESH_ROUNDS = 900.0, 3


@dataclass(frozen=True, slots=True)
class SentIncident:
    """What all pods together have sent about one incident. Times in seconds, 0.0 where it never happened.

    opened_at: of the latest trigger since the latest resolve, 0.0 where nothing is open; ended_at: of that resolve
    pod, cause: of that trigger; delivered: did that pod, or another that sent one, have nothing left to send later on?
    sharper: was its cause sent as one that is known better?
    not_judged: was it sent that the open incident can no longer be judged?
    by_responses: was it opened by sampled responses?
    held_back: does a pod that reported it say that it has something left to send, or that it sends nothing at all, and
    does this one send?
    kept_here: does a trigger of this pod, of this incident or one before, still wait to be sent?
    """

    opened_at: float = 0.0
    ended_at: float = 0.0
    pod: str = ""
    cause: str = Cause.NONE.value
    sharper: bool = False
    not_judged: bool = False
    by_responses: bool = False
    delivered: bool = False
    held_back: bool = False
    kept_here: bool = False


@dataclass(frozen=True, slots=True)
class GoneState:
    """The last state of a base that its pod saved, which nobody but this one goes on from. at: when it was saved

    pod: which closed it, or is gone; state: of the base alone, or where an earlier version saved it of all its bases
    """

    base: str
    pod: str
    at: float
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """How another live pod judges one subject, by its latest verdicts.

    degraded: by the latest one that is not unmonitorable, its base not speaking for it; blind: unmonitorable
    changed: has it changed within tolerance?
    """

    degraded: bool = False
    blind: bool = False
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """All of it as this pod sees it, of the subjects of one round.

    pod: this one; live: the others with a heartbeat of the last three minutes, and whether each has judged a round yet
    judged: state key -> name of each live pod that judges the subject -> how
    incidents: (dedup key, is it that the subject cannot be judged?) -> what was sent
    changes: (dedup key, reason, name of the change) -> when that was last sent
    files: adapter -> how its files answered when another pod last replayed them, lately
    spacing_s: seconds that a pod waits longer than the one before it
    """

    pod: str = ""
    live: Mapping[str, bool] = field(default_factory=dict)
    judged: Mapping[str, Mapping[str, JudgedBy]] = field(default_factory=dict)
    incidents: Mapping[tuple[str, bool], SentIncident] = field(default_factory=dict)
    changes: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    files: Mapping[str, FilesReplay] = field(default_factory=dict)
    spacing_s: float = LEAST_SPACING_S

    def degraded(self, key: str) -> bool:
        """Does another live pod judge this subject degraded?"""
        return any(pod.degraded for pod in self.judged.get(key, {}).values())

    def blind(self, key: str) -> bool:
        """Is another live pod unable to judge it?"""
        return any(pod.blind for pod in self.judged.get(key, {}).values())

    def changed(self, key: str) -> bool:
        """Does another live pod see it changed within tolerance?"""
        return any(pod.changed for pod in self.judged.get(key, {}).values())

    def pods_before(self, key: str) -> int:
        """How many live pods that judge this subject come before this one by name; 0 for the first.

        One that has judged no round yet may be about to judge this subject.
        """
        judging = self.judged.get(key, {})
        return sum(name < self.pod and (name in judging or not busy) for name, busy in self.live.items())

    def wait_s(self, key: str) -> float:
        """How long this pod leaves to those before it what the fleet says once."""
        return min(self.pods_before(key) * self.spacing_s, max(LONGEST_WAIT_S, 4 * self.spacing_s))


# A pod without others, by a store without rows.
ALONE = Fleet()


def spacing(round_s: float) -> float:
    """Seconds between two pods where a round comes that often: what the first sends is stored, and read in a round of
    the second, before that has waited long enough."""
    return max(LEAST_SPACING_S, 1.5 * round_s)


def fresh_s(round_s: float) -> float:
    """Seconds for which a replay of files, of which one comes that often, is said beside what an engine serves."""
    return max(LEAST_FRESH_S, FRESH_ROUNDS * round_s)
