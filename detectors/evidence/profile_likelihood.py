"""Maximum likelihood along an axis, with its profile-likelihood interval: how much of the adapter is left, by what was
written alone, and at which temperature and top-p?

Estimates and no evidence: nothing here decides. Inputs: probes/scoring/likelihood_axes.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from detectors.evidence.array_json import pack, unpack
from detectors.records import Floats, Interval

Doubles = NDArray[np.float64]

# Half of the 95 % quantile of chi squared with one degree of freedom.
HALF_CHI2 = 1.9207294103470478
FINE = 2001


@dataclass(slots=True)
class AxisLikelihood:
    """ln likelihood of the recent responses along one axis: the share of the adapter, or a parameter of the sampler.

    grid: (G,) ascending, () before the first response; log_lik: (G,) nats; n: responses behind it, older ones weighing
    less. Keys of ``to_json`` are in files of saved state.
    """

    grid: tuple[float, ...] = ()
    log_lik: Doubles = field(default_factory=lambda: np.zeros(0))
    n: float = 0.0

    def after(self, grid: Floats, log_lik: Floats, keep: float) -> AxisLikelihood:
        """With one more response; itself where that one says nothing of the axis. On another grid than before it
        starts again from this response. keep: what the past weighs from now on, in (0, 1]"""
        if not log_lik.size or not bool(np.isfinite(log_lik).all()):
            return self
        values = tuple(grid.tolist())
        past = self if values == self.grid else AxisLikelihood(values, np.zeros(len(values)))
        return AxisLikelihood(values, keep * past.log_lik + log_lik.astype(np.float64), keep * past.n + 1.0)

    def to_json(self) -> dict[str, Any]:
        return {"grid": list(self.grid), "log_lik": pack(self.log_lik), "n": self.n}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> AxisLikelihood:
        return cls(tuple(stored["grid"]), unpack(stored["log_lik"]), stored["n"])


def most_likely_step(grid: Doubles, log_lik: Doubles, n: float, keep: float = 1.0) -> Interval:
    """``most_likely`` where the likelihood jumps between grid points, as that of top-p does where a token enters.

    The best grid point; the interval reaches to the neighbours of the outermost points within ``HALF_CHI2`` of it.
    Arguments, null and what breaks it as of ``most_likely``; the coverage is approximate.
    Source: docs/mathematics.md#sampler-in-force.
    """
    best = int(log_lik.argmax())
    inside = np.flatnonzero(log_lik >= log_lik[best] - HALF_CHI2 / information_ratio(n, keep))
    low, high = grid[max(inside[0] - 1, 0)], grid[min(inside[-1] + 1, len(grid) - 1)]
    return Interval(float(grid[best]), float(low), float(high), round(n))


def information_ratio(n: float, keep: float) -> float:
    """What a log-likelihood with weights is multiplied by before it is held against chi squared: sum w / sum w^2.

    n: sum w; keep: d of the weights w = d^age in observations, 1 where all weigh 1
    With such weights the curvature at the maximum is ``sum w I`` and the variance of the score ``sum w^2 I``, which
    are equal for equal weights only. Of a geometric series the first sum says the second one:
    ``sum w^2 = n (2 - n (1 - d)) / (1 + d)``, n / (1 + d) for a long stream. Null and what breaks it: the weights must
    not depend on the observations, nor information on age. Source: docs/mathematics.md#retention-from-text.
    """
    return (1.0 + keep) / max(2.0 - n * (1.0 - keep), 1.0)


def most_likely(grid: Doubles, log_lik: Doubles, n: float, keep: float = 1.0) -> Interval:
    """Maximum likelihood with its 95 % profile-likelihood interval, by a cubic spline through the grid.

    grid: (G,) ascending, G >= 4; log_lik: (G,) nats, finite; n: observations behind it, older ones weighing ``keep``
    as much as the next newer one

    A bound that lies at the end of the grid is nan: it may be anywhere beyond. Null of the interval: one distribution
    of the family wrote all of it, each token given the text before it. Guarantee: it then covers with 95 % as the
    number of tokens that have weight grows. What breaks it: replicas that differ, a fault off the interpolation path
    (the share is then that of the nearest point), few tokens, and a change while older responses still have weight. On
    that path the information of one token is the variance of delta = ln p_adapter - ln p_base there.
    Source: docs/mathematics.md#retention-from-text; Wilks (1938).
    """
    fine = np.linspace(grid[0], grid[-1], FINE)
    curve = CubicSpline(grid, log_lik)(fine)
    best = int(curve.argmax())
    inside = np.flatnonzero(curve >= curve[best] - HALF_CHI2 / information_ratio(n, keep))
    low = float(fine[inside[0]]) if inside[0] > 0 else math.nan
    high = float(fine[inside[-1]]) if inside[-1] < FINE - 1 else math.nan
    return Interval(float(fine[best]), low, high, round(n))
