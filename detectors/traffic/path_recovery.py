"""Is the fault of an adapter's responses over? Evidence against "half of the loss at the alarm is still there". Pure.

The likelihood ratio of the responses since the fault was last seen, "as accepted" over the likeliest point of the null
hypothesis on the interpolation path (0 the base, 1 the adapter). What was written before the first good round of a run
is not counted, and neither is that round: it was chosen for being good. A bad round ends the run, and a ratio of 1 / 20
starts another one, so that a fault without bad rounds leaves nothing to make up for. The k-th run since the alarm asks
for 1,000 k (k + 1): all of them together keep one chance in a thousand.

Null hypothesis: each token is drawn, given the text before it, from the path at a share no nearer to 1 than ``edge``,
which may change from token to token. Guarantee: the chance that evidence ends the incident while that holds is at most
1 / 1,000 an incident, however many runs there are, and whatever the prompts are. Under truncated sampling it is so at
the points of the grid alone, and to .01 (1 - top_p) a token. What breaks it: replicas, of which some are well; faults
off the path, a sampler other than the request's, numerics of the serving engine that are correlated with the adapter's
effect; an alarm whose estimate was of a larger loss than there is; responses of which most are greedy or without a
path, where good rounds alone end the incident.

Source: docs/mathematics.md#alarm-and-recovery; Ville (1939); Wasserman, Ramdas & Balakrishnan (2020), PNAS 117(29), for
the maximum in the denominator.
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

# The ratio that ends an incident, over all of its runs; and the least loss that counts as one which is still there.
ENOUGH, LEAST_LOSS = 1000.0, 0.10
# Nats at which a run starts again. One of an adapter that is well falls so far with a chance of about one in twenty.
TOO_LOW = -math.log(20.0)
# Points of the grid are float32 numbers: nearer than this they are the same.
SAME = 1e-6


@dataclass(frozen=True, slots=True)
class PathLikelihood:
    """ln likelihood of some responses along the interpolation path, all of the same weight.

    grid: (G,) ascending shares, () without a response that has a path; log_lik: (G,) nats; n: responses that have one
    """

    grid: tuple[float, ...] = ()
    log_lik: tuple[float, ...] = ()
    n: int = 0

    @classmethod
    def of(cls, scores: Sequence[TrafficScore]) -> PathLikelihood:
        """Of those that are on the grid of the latest; one with NaN is passed over."""
        usable = [s for s in scores if s.path_log_lik.size and bool(np.isfinite(s.path_log_lik).all())]
        usable = [s for s in usable if np.array_equal(s.path, usable[-1].path)]
        if not usable:
            return cls()
        grid, log_lik = usable[-1].path.tolist(), np.array([s.path_log_lik for s in usable], np.float64).sum(axis=0)
        return cls(tuple(grid), tuple(log_lik.tolist()), len(usable))

    def joined(self, other: PathLikelihood) -> PathLikelihood:
        """Of the responses of both. Both on one grid, or one of them without responses."""
        if not (self.grid and other.grid):
            return self if self.grid else other
        log_lik = tuple(a + b for a, b in zip(self.log_lik, other.log_lik, strict=True))
        return PathLikelihood(self.grid, log_lik, self.n + other.n)


@dataclass(frozen=True, slots=True)
class PathRecovery:
    """What the responses of one open incident say of its end.

    edge: of the null hypothesis, below 1 where the adapter was too weak and above where it was too strong
    runs: since the alarm, the present one included; running: was the latest measured round good?
    scored: responses of the present run but for its first round; path: the likelihood of those that have one
    """

    edge: float = 1.0 - LEAST_LOSS
    runs: int = 0
    running: bool = False
    scored: int = 0
    path: PathLikelihood = field(default_factory=PathLikelihood)

    @classmethod
    def since(cls, left: Interval | None) -> PathRecovery:
        """Half of what was lost at the alarm, or was too much, at least .10; that where it is not known.

        left: how much of the adapter was left then
        """
        loss = 0.0 if left is None or not math.isfinite(left.mean) else 1.0 - left.mean
        return cls(1.0 - math.copysign(max(LEAST_LOSS, abs(loss) / 2.0), loss))

    def after_bad(self) -> PathRecovery:
        return PathRecovery(self.edge, self.runs)

    def after_good(self, scored: int, path: PathLikelihood) -> PathRecovery:
        """One good round. scored: its responses; path: the likelihood of those that have one. On another grid than
        before, as after another configuration, the run starts again."""
        if not self.running:
            return replace(self, runs=self.runs + 1, running=True)
        if path.grid and self.path.grid and path.grid != self.path.grid:
            return PathRecovery(self.edge, self.runs + 1, True)
        after = replace(self, scored=self.scored + scored, path=self.path.joined(path))
        return after if after.log_e > TOO_LOW else PathRecovery(self.edge, self.runs + 1, True)

    @property
    def log_e(self) -> float:
        """Nats against the null; 0 where no response of the run has a path that holds both sides."""
        distance = (np.array(self.path.grid) - 1.0) * math.copysign(1.0, self.edge - 1.0)
        log_lik = np.array(self.path.log_lik)
        accepted, null = log_lik[np.abs(distance) < SAME], log_lik[_in_null(distance, abs(self.edge - 1.0))]
        return float(accepted[0] - null.max()) if accepted.size and null.size else 0.0

    @property
    def wanted(self) -> float:
        """Nats that the present run has to reach. Over the runs the chances 1 / (1,000 k (k + 1)) sum to 1 / 1,000."""
        return math.log(ENOUGH * self.runs * (self.runs + 1)) if self.runs else math.inf

    @property
    def shown(self) -> bool:
        """Is it over, by the evidence? Where fewer than half of the responses have a path, none is asked for: which
        ones have depends on the requests alone."""
        if not self.scored:
            return False
        return 2 * self.path.n < self.scored or self.log_e >= self.wanted

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PathRecovery:
        path = stored["path"]
        likelihood = PathLikelihood(tuple(path["grid"]), tuple(path["log_lik"]), path["n"])
        return cls(**{**stored, "path": likelihood})


def _in_null(distance: NDArray[np.float64], edge: float) -> NDArray[np.bool_]:
    """(G,) mask: the points at least as far from 1 as the edge, and the next one before it where it is between two.

    distance: (G,) from 1, positive on the side of the fault
    """
    before = distance[(distance > SAME) & (distance <= edge + SAME)]
    nearest = before.max() if before.size else edge
    result: NDArray[np.bool_] = distance >= nearest - SAME
    return result
