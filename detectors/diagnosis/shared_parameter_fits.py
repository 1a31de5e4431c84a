"""Least squares of one number that all canaries share: a temperature, or the part that another adapter has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from detectors.records import FaultKind

Doubles = NDArray[np.float64]

# How strong an adapter on top is looked for, and how much of an average: below it is no mixture to speak of, and an
# average with more of the other adapter is that other adapter.
# Strengths that are looked for: beyond them the recorded ones lie too far apart for a curve through them.
STRENGTHS = np.linspace(0.05, 4.0, 1976)
ON_TOP = np.linspace(0.2, 1.5, 131)
AVERAGED = np.linspace(0.1, 0.75, 66)


@dataclass(slots=True)
class FactorFit:
    """|seen - u model|^2 over canaries, for one factor u."""

    cross: float = 0.0
    model: float = 0.0
    seen: float = 0.0

    def add(self, seen: Doubles, model: Doubles) -> None:
        self.cross += float(seen @ model)
        self.model += float(model @ model)
        self.seen += float(seen @ seen)

    def solve(self) -> tuple[float, float]:
        """(u, left); u is 1 where there is nothing to fit."""
        u = self.cross / self.model if self.model > 0 else 1.0
        return u, max(self.seen - u * self.cross, 0.0)


@dataclass(slots=True)
class MixtureFit:
    """|seen - p(w)|^2 over canaries, for one w: p is the cubic spline through recorded answers, from the adapter's own
    at w = 0 on. A line through two of them, a parabola through three.

    at: where the recorded answers lie, the same for every canary; gram: of seen and these, all that is kept of them
    """

    kind: FaultKind
    at: tuple[float, ...] = ()
    gram: Doubles = field(default_factory=lambda: np.zeros((1, 1)))
    canaries: int = 0

    def add(self, seen: Doubles, recorded: Mapping[float, Doubles]) -> None:
        """seen, recorded: displacements from the adapter's own accepted answers. A canary with other points is left
        out, so that ``canaries`` tells."""
        if not self.canaries:
            self.at = tuple(sorted(recorded))
            self.gram = np.zeros((len(recorded) + 1, len(recorded) + 1))
        if tuple(sorted(recorded)) == self.at:
            rows = np.stack([seen, *(recorded[w] for w in self.at)])
            self.gram += rows @ rows.T
            self.canaries += 1

    def solve(self) -> tuple[float, float]:
        """(w, left) of the best point of those that are looked at."""
        points = ON_TOP if self.kind is FaultKind.STACKED else AVERAGED
        knots = np.array([0.0, *self.at])
        shares = CubicSpline(knots, np.eye(len(knots)))(points)[:, 1:]
        signed = np.concatenate([np.ones((len(points), 1)), -shares], axis=1)
        left = np.einsum("wi,ij,wj->w", signed, self.gram, signed)
        best = int(np.argmin(left))
        return float(points[best]), max(float(left[best]), 0.0)


@dataclass(slots=True)
class StrengthFit:
    """|seen - p(s)|^2 over canaries, for one strength s of all: p is the cubic spline through the recorded ones.

    Beside the nearest point of each canary on the chords between them (retention.py): where the adapter's effect
    bends sharply, a chord leaves more over than the fault does.
    gram: of seen and the recorded effects; scales: (S,) of those, the same for every canary
    """

    scales: tuple[float, ...] = ()
    gram: Doubles = field(default_factory=lambda: np.zeros((1, 1)))
    canaries: int = 0

    def add(self, seen: Doubles, scales: tuple[float, ...], knots: Doubles) -> None:
        """seen: (N,) the present effect; knots: (S, N) the recorded ones. A canary with other scales is left out."""
        if not self.canaries:
            self.scales, self.gram = scales, np.zeros((len(scales) + 1, len(scales) + 1))
        if scales == self.scales:
            rows = np.concatenate([seen[None, :], knots])
            self.gram += rows @ rows.T
            self.canaries += 1

    def solve(self) -> tuple[float, float]:
        """(s, left) of the best strength; left is inf with fewer than four recorded ones."""
        if len(self.scales) < 4:
            return 1.0, math.inf
        points = STRENGTHS[(self.scales[0] <= STRENGTHS) & (self.scales[-1] >= STRENGTHS)]
        shares = CubicSpline(np.array(self.scales), np.eye(len(self.scales)))(points)
        signed = np.concatenate([np.ones((len(points), 1)), -shares], axis=1)
        left = np.einsum("wi,ij,wj->w", signed, self.gram, signed)
        best = int(np.argmin(left))
        return float(points[best]), max(float(left[best]), 0.0)
