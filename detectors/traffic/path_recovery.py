"""Is the fault of an adapter's responses over? Evidence against "half of the loss at the alarm is still there". Pure.

The likelihood ratio of the responses of a run of good rounds, "as accepted" over the likeliest point of the null
hypothesis on the interpolation path (0 the base, 1 the adapter). The first good round of a run is not counted, because
it was chosen for being good; it says instead which share is half of the loss in nats, where the text tells it. A bad
round ends the run, and a ratio of 1 / 20 does, so that a fault without bad rounds leaves nothing to make up for. The
k-th run since the alarm asks for 1,000 k (k + 1): all of them together keep one chance in a thousand.

Null hypothesis: each token is drawn, given the text before it, from the path at a share no nearer to 1 than the run's
``edge``, which may change from token to token. The edge is known before the run and never farther from 1 than what was
left at the alarm: a fault that stays as it was is in the null. Guarantee: the chance that evidence ends the incident
while that holds is at most 1 / 1,000 an incident, however many runs there are, and whatever the prompts are. Under
truncated sampling it is so at the points of the grid alone, and to .01 (1 - top_p) a token. What breaks it: replicas,
of which some are well; faults off the path, a sampler other than the request's, numerics of the serving engine that are
correlated with the adapter's effect; an alarm whose estimate was of a larger loss than there is. Good rounds alone end
the incident where what was left at the alarm is not known, where most responses have no path, and after 200 responses
in rounds that do not speak for the fault, with none bad and no run that fell to 1 / 20 between.

Source: docs/mathematics.md#alarm-and-recovery; Ville (1939).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.records import Interval
from detectors.traffic_records import TrafficScore

# The ratio that ends an incident, over all of its runs.
ENOUGH = 1000.0
# Nats at which a run ends without a bad round. One of an adapter that is well falls so far with a chance of about .05.
TOO_LOW = -math.log(20.0)
# Good responses in a row after which no more evidence is waited for: where the fault was off the path, or the text is
# nearly the same at every share near 1, none may ever come.
MOST_RESPONSES = 200
# Points of the grid are float32 numbers: nearer than this they are the same.
SAME = 1e-6


@dataclass(frozen=True, slots=True)
class PathLikelihood:
    """ln likelihood of some responses along the interpolation path, all of the same weight.

    grid: (G,) ascending shares, () without a response that has a path; log_lik: (G,) nats; n: responses that have one
    path_from: the adapter at 0, of requests that name the base; "" of an adapter's own path, and in files of earlier
    versions, which did not say
    """

    grid: tuple[float, ...] = ()
    log_lik: tuple[float, ...] = ()
    n: int = 0
    path_from: str = ""

    @classmethod
    def of(cls, scores: Sequence[TrafficScore]) -> PathLikelihood:
        """Of those that are on the path and the grid of the latest; one with NaN is passed over."""
        usable = [s for s in scores if s.path_log_lik.size and bool(np.isfinite(s.path_log_lik).all())]
        usable = [s for s in usable if s.path_from == usable[-1].path_from and np.array_equal(s.path, usable[-1].path)]
        if not usable:
            return cls()
        grid, log_lik = usable[-1].path.tolist(), np.array([s.path_log_lik for s in usable], np.float64).sum(axis=0)
        return cls(tuple(grid), tuple(log_lik.tolist()), len(usable), usable[-1].path_from)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PathLikelihood:
        return cls(tuple(stored["grid"]), tuple(stored["log_lik"]), stored["n"], stored.get("path_from", ""))

    def joined(self, other: PathLikelihood) -> PathLikelihood:
        """Of the responses of both, which can be joined."""
        if not (self.grid and other.grid):
            return self if self.grid else other
        log_lik = tuple(a + b for a, b in zip(self.log_lik, other.log_lik, strict=True))
        return PathLikelihood(self.grid, log_lik, self.n + other.n, other.path_from or self.path_from)

    def can_join(self, other: PathLikelihood) -> bool:
        """Are both on one path and one grid, or is one of them without responses?"""
        on_one_grid = not (self.grid and other.grid) or self.grid == other.grid
        return on_one_grid and is_same_path(self.path_from, other.path_from)


@dataclass(frozen=True, slots=True)
class PathRecovery:
    """What the responses of one open incident say of its end.

    left: how much of the adapter was left at the alarm, None where it is not known; path_from: on which path, as of
    ``PathLikelihood``
    scored, with_path: responses of the good rounds since the alarm, the last bad one, or the last run that fell to
    1 / 20, without those that speak for the fault; and those of them that have a path
    awaited: further responses of these rounds whose path is recorded from later ones on, or is that of another adapter:
    as after a restart, which says nothing of the fault
    runs: since the alarm; edge: of the present run's null, None while there is no run
    path: of the run's responses but for those of its first round
    """

    left: float | None = None
    scored: int = 0
    with_path: int = 0
    runs: int = 0
    edge: float | None = None
    path: PathLikelihood = field(default_factory=PathLikelihood)
    path_from: str = ""
    awaited: int = 0

    @classmethod
    def since(cls, left: Interval | None, path_from: str = "") -> PathRecovery:
        """At the alarm. left: how much of the adapter was left then, on that path"""
        return cls(left.mean if left is not None and math.isfinite(left.mean) else None, path_from=path_from)

    def after_bad(self) -> PathRecovery:
        return PathRecovery(self.left, runs=self.runs, path_from=self.path_from)

    def after_good(self, scored: int, path: PathLikelihood, awaited: int = 0) -> PathRecovery:
        """One good round. scored: its responses; path: the likelihood of those that have one; awaited: those that have
        none yet. On another grid than before, as after another configuration, the run ends. A round that speaks for the
        fault, and a run that ends because it does, are no reason to wait for evidence no longer."""
        if not is_same_path(self.path_from, path.path_from):
            awaited, path = awaited + path.n, PathLikelihood()
        counted = replace(
            self,
            scored=self.scored + scored - awaited,
            with_path=self.with_path + path.n,
            awaited=self.awaited + awaited,
        )
        if self.edge is None:
            return self if self.left is not None and _speaks_for(path, self.left) else counted._begun(path)
        if not self.path.can_join(path):
            return replace(counted, edge=None, path=PathLikelihood())
        after = replace(counted, path=self.path.joined(path))
        return after if after.log_e > TOO_LOW else self.after_bad()

    def _begun(self, first: PathLikelihood) -> PathRecovery:
        edge = None if self.left is None else edge_of(first, self.left)
        return self if edge is None else replace(self, runs=self.runs + 1, edge=edge)

    @property
    def log_e(self) -> float:
        """Nats against the null of the run; 0 where no response of it has a path."""
        if self.edge is None or not self.path.grid:
            return 0.0
        grid, log_lik = np.array(self.path.grid), np.array(self.path.log_lik)
        distance = _distance(grid, self.edge)
        null = log_lik[distance >= abs(1.0 - self.edge) - SAME]
        return float(log_lik[np.abs(distance) < SAME][0] - null.max())

    @property
    def wanted(self) -> float:
        """Nats that the present run has to reach. Over the runs the chances 1 / (1,000 k (k + 1)) sum to 1 / 1,000."""
        return math.log(ENOUGH * self.runs * (self.runs + 1)) if self.runs else math.inf

    @property
    def shown(self) -> bool:
        """Is it over by the evidence, or is none asked for? Which responses have a path depends on requests alone."""
        is_mostly_without = 2 * self.with_path < self.scored
        if self.left is None or is_mostly_without or self.with_path + self.awaited >= MOST_RESPONSES:
            return True
        return self.edge is not None and self.log_e >= self.wanted

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PathRecovery:
        return cls(**{**stored, "path": PathLikelihood.from_json(stored["path"])})


def is_same_path(adapter: str, other: str) -> bool:
    """Do the paths from these adapters to the base not differ, as far as both are known? "" for not known"""
    return adapter == other or not (adapter and other)


def edge_of(first: PathLikelihood, left: float) -> float | None:
    """The point of the grid nearest to 1 at which these responses cost half as many nats as at the share that was left.

    None where they do not speak for 1 against that share, or have no path that holds both. In nats and not in shares:
    many an adapter writes at half strength nearly what it writes at full, and no text could tell these apart.
    """
    grid, log_lik = np.array(first.grid), np.array(first.log_lik)
    distance = _distance(grid, left)
    fault = distance > SAME
    accepted = np.flatnonzero(np.abs(distance) < SAME)
    if not (accepted.size and fault.any()):
        return None
    # The share that was left is between two points: the one nearer to 1, but not 1.
    there = max(distance[fault & (distance <= abs(1.0 - left) + SAME)], default=distance[fault].min())
    cost = log_lik[accepted[0]] - log_lik
    whole = cost[np.abs(distance - there) < SAME][0]
    if not whole > 0:
        return None
    half = fault & (distance <= there + SAME) & (cost >= whole / 2.0)
    return float(grid[half][distance[half].argmin()])


def _speaks_for(path: PathLikelihood, left: float) -> bool:
    """Are these responses likelier at the share that was left than at 1?"""
    grid, log_lik = np.array(path.grid), np.array(path.log_lik)
    accepted = np.flatnonzero(np.abs(grid - 1.0) < SAME)
    if not accepted.size or abs(left - 1.0) < SAME:
        return False
    return bool(np.interp(left, grid, log_lik) > log_lik[accepted[0]])


def _distance(grid: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """(G,) of each point from 1, positive on the side of that share, below 1 for 1 itself."""
    result: NDArray[np.float64] = (1.0 - grid) if share <= 1.0 else (grid - 1.0)
    return result
