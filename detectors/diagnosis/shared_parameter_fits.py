"""Least squares of one number that all canaries share: a temperature, a strength, or the part that another adapter has.

Used by signature_matching.py alone. Each fit accumulates over canaries what ``solve`` needs and keeps no vectors. A
wider or coarser grid below changes which strength or part is named, and how much energy is left over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from detectors.records import FaultKind

Doubles = NDArray[np.float64]

# Strengths that are searched, a quarter of a percent apart. Between the recorded ones the spline leaves 1 to 7 % of the
# energy on models; a strength that was replayed after the alarm is a knot, and leaves next to none.
STRENGTHS = np.geomspace(0.05, 8.0, 2000)
# Parts of another adapter that are searched, on top of this one and in an average with it: below the smallest it is no
# mixture to speak of, and an average with more of the other adapter is that other adapter.
ON_TOP = np.linspace(0.2, 1.5, 131)
AVERAGED = np.linspace(0.1, 0.75, 66)
# Shares of a member's weight that may be missing from a composition.
TAKEN_AWAY = np.linspace(0.1, 1.2, 111)


@dataclass(slots=True)
class FactorFit:
    """|present - u model|^2 over canaries, for one factor u."""

    cross: float = 0.0
    model: float = 0.0
    present: float = 0.0

    def add(self, present: Doubles, model: Doubles) -> None:
        self.cross += float(present @ model)
        self.model += float(model @ model)
        self.present += float(present @ present)

    def solve(self) -> tuple[float, float]:
        """(u, left); u is 1 where there is nothing to fit."""
        u = self.cross / self.model if self.model > 0 else 1.0
        return u, max(self.present - u * self.cross, 0.0)

    def left_at(self, u: float) -> float:
        """Energy that this factor leaves, whichever was fitted."""
        return max(self.present - 2.0 * u * self.cross + u * u * self.model, 0.0)


@dataclass(slots=True)
class MixtureFit:
    """|present - p(w)|^2 over canaries, for one w: p is the cubic spline through recorded answers, from the adapter's
    own at w = 0 on. A line through two of them, a parabola through three.

    at: where the recorded answers lie, the same for every canary
    gram: inner products of the present and the recorded answers, summed over canaries; nothing else is kept of them
    """

    kind: FaultKind
    at: tuple[float, ...] = ()
    gram: Doubles = field(default_factory=lambda: np.zeros((1, 1)))
    canaries: int = 0

    def add(self, present: Doubles, recorded: Mapping[float, Doubles]) -> None:
        """present, recorded: displacements from the adapter's own accepted answers. A canary with other points is left
        out and not counted in ``canaries``."""
        if not self.canaries:
            self.at = tuple(sorted(recorded))
            self.gram = np.zeros((len(recorded) + 1, len(recorded) + 1))
        if tuple(sorted(recorded)) == self.at:
            rows = np.stack([present, *(recorded[w] for w in self.at)])
            self.gram += rows @ rows.T
            self.canaries += 1

    def solve(self) -> tuple[float, float]:
        """(w, left) of the best point of those that are searched."""
        points = {FaultKind.STACKED: ON_TOP, FaultKind.TAKEN_AWAY: TAKEN_AWAY * self.at[-1]}.get(self.kind, AVERAGED)
        return _best_point(points, np.array([0.0, *self.at]), self.gram, first_knot=1)


@dataclass(slots=True)
class StrengthFit:
    """|present - p(s)|^2 over canaries, for one strength s of all: p is the cubic spline through the recorded ones.

    It stands beside the nearest point of each canary on the chords between them (retention.py): where the adapter's
    effect bends sharply, a chord leaves more over than the fault does.
    scales: (S,) of the recorded effects, the same for every canary; gram: as of MixtureFit
    """

    scales: tuple[float, ...] = ()
    gram: Doubles = field(default_factory=lambda: np.zeros((1, 1)))
    canaries: int = 0

    def add(self, present: Doubles, scales: tuple[float, ...], knots: Doubles) -> None:
        """present: (N,) the present effect; knots: (S, N) the recorded ones. A canary with other scales is left out."""
        if not self.canaries:
            self.scales, self.gram = scales, np.zeros((len(scales) + 1, len(scales) + 1))
        if scales == self.scales:
            rows = np.concatenate([present[None, :], knots])
            self.gram += rows @ rows.T
            self.canaries += 1

    def solve(self) -> tuple[float, float]:
        """(s, left) of the best strength; left is inf with fewer than four recorded ones."""
        if len(self.scales) < 4:
            return 1.0, math.inf
        return _best_point(self._points, np.array(self.scales), self.gram, first_knot=0)

    def solve_on_chords(self) -> tuple[float, float]:
        """(s, left) likewise by straight lines from each recorded strength to the next, of which two are enough. Where
        the effect bends sharply they leave more over than the spline, and do not lead beyond the bend."""
        shares = np.stack([np.interp(self._points, self.scales, knot) for knot in np.eye(len(self.scales))], axis=1)
        return _nearest(self._points, shares, self.gram)

    @property
    def _points(self) -> Doubles:
        return STRENGTHS[(self.scales[0] <= STRENGTHS) & (self.scales[-1] >= STRENGTHS)]


def _best_point(points: Doubles, knots: Doubles, gram: Doubles, first_knot: int) -> tuple[float, float]:
    """(point, energy left) of the nearest of these points of the spline. first_knot: of those that gram holds."""
    return _nearest(points, CubicSpline(knots, np.eye(len(knots)))(points)[:, first_knot:], gram)


def _nearest(points: Doubles, shares: Doubles, gram: Doubles) -> tuple[float, float]:
    """The same. shares: of each knot of gram in the curve at each point"""
    signed = np.concatenate([np.ones((len(points), 1)), -shares], axis=1)
    left = np.einsum("wi,ij,wj->w", signed, gram, signed)
    best = int(np.argmin(left))
    return float(points[best]), max(float(left[best]), 0.0)
