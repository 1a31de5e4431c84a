"""How much of an adapter will be left on a new base, by the weights alone, with an interval learnt on releases.

    retention = exp(-sum_i (w_i f_i + v_i f_i^2)),  w, v >= 0

over the features of loss_features.py: none moved, none lost. The coefficients are fitted by non-negative least squares
of -ln(retention) on releases whose retention was measured (benchmarks/lifecycle_parts/predicted.py).

The interval is split conformal (Lei et al. 2018, JASA 113): a share of recorded releases, of which no coefficient was
fitted, was as near as that. Null: this release is exchangeable with those. Guarantee then: it covers with at least that
chance. What breaks it: a release of another kind than the recorded ones, small models with Llama's names; so the
prediction says what to expect and a replay says what is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.records import Interval
from probes.compatibility.loss_features import LossFeatures

FILE = Path(__file__).parent / "rules" / "predicted_loss.json"
# Added to the predicted loss where errors are scaled by it: small losses are predicted to about so much.
LEAST = 0.02
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LossModel:
    """linear, square: coefficients of the features; width: half of the interval, over predicted loss + LEAST

    coverage: share of recorded releases within it; releases: that it was learnt on
    """

    linear: tuple[float, ...]
    square: tuple[float, ...]
    width: float
    coverage: float
    releases: int

    @classmethod
    def read(cls, file: Path = FILE) -> LossModel | None:
        """The one that is shipped, None where none is."""
        if not file.is_file():
            return None
        stored: dict[str, Any] = json.loads(file.read_text())
        linear, square = tuple(stored.pop("linear")), tuple(stored.pop("square"))
        return cls(linear, square, **stored)

    def retention(self, features: LossFeatures) -> float:
        """In [0, 1]."""
        pairs = zip(self.linear, self.square, features.vector, strict=True)
        return math.exp(-sum(w * f + v * f * f for w, v, f in pairs))

    def interval(self, features: LossFeatures) -> Interval:
        """Retention with its interval, within [0, 1]."""
        mean = self.retention(features)
        half = self.width * (1.0 - mean + LEAST)
        return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), self.releases)


def design(rows: Sequence[Sequence[float]]) -> Doubles:
    """(n, 2 k) the features and their squares."""
    features = np.asarray(rows, dtype=np.float64)
    return np.concatenate([features, features**2], axis=1)
