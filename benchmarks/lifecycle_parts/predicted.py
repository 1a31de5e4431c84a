"""How good is a loss that is predicted from the weights? ``python -m benchmarks.lifecycle_parts.predicted`` fits it.

Coefficients are fitted on the releases of the zoo's first base and its adapters, the interval's width on half of them
that no coefficient was fitted on; both are tried on the releases of the two other bases, on which nothing was fitted.
The interval of the rank correlation is a bootstrap over releases: adapters of one release are not independent.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr

from benchmarks.figures import Figure, at_least, console, context, exactly
from benchmarks.lifecycle_parts.releases import Measured, measured
from benchmarks.zoo.enrolled_base import by_base
from benchmarks.zoo.members import zoo
from detectors.canaries.tolerance import Tolerances
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.loss_features import NAMES
from probes.compatibility.predicted_loss import FILE, LEAST, LossModel, design

COVERAGE, DRAWS, SEED, LEAST_RETENTION = 0.9, 1000, 7, 0.02
TOLERATED = 1.0 - Tolerances().scale


def measure(quick: bool) -> list[Figure]:
    """Of the shipped coefficients, on the bases that they were not fitted on."""
    return figures(_rows((1,) if quick else (1, 2), quick), LossModel.read())


def figures(rows: Sequence[Measured], model: LossModel | None) -> list[Figure]:
    """None without a model."""
    if model is None:
        return []
    predicted = np.array([model.retention(row.features) for row in rows])
    actual = np.array([row.retention for row in rows])
    releases = sorted({(row.base, row.release) for row in rows})
    low, high = _bootstrap(rows, predicted, actual)
    rank = float(spearmanr(predicted, actual).statistic)
    intervals = [model.interval(row.features) for row in rows]
    covered = [i.low <= min(max(row.retention, 0.0), 1.0) <= i.high for i, row in zip(intervals, rows, strict=True)]
    safe = [row for i, row in zip(intervals, rows, strict=True) if i.low >= TOLERATED and _same(row)]
    unsafe = [row for row in safe if row.retention < TOLERATED]
    for row in unsafe:
        console.print(f"  called safe: {row.adapter} on {row.release}: {row.retention:.3f}")
    moved = [row for row in rows if row.release.startswith("permuted")]
    figure = at_least("rank correlation of predicted and measured retention", rank, "", 0.8)
    return [
        replace(figure, interval=(low, high)),
        at_least("releases that nothing was fitted on", len(releases), "releases", 30),
        context("pairs of adapter and release behind it", len(rows), "pairs"),
        context("measured retention within the predicted 90 % interval", 100 * float(np.mean(covered)), "%"),
        context("mean error of the predicted retention", float(np.abs(predicted - actual).mean()), ""),
        exactly("pairs called safe by the weights that lose more than their tolerance", len(unsafe), "pairs", 0),
        context("pairs called safe by the weights", len(safe), "pairs"),
        context("permuted bases recognised from the weights", 100 * float(np.mean([not _same(r) for r in moved])), "%"),
        context("other bases taken for permuted", sum(not _same(row) for row in rows if row not in moved), "pairs"),
    ]


def _same(row: Measured) -> bool:
    return row.coordinates is Coordinates.SAME


def _rows(bases: Sequence[int], quick: bool) -> list[Measured]:
    torch.set_num_threads(1)
    members = by_base(zoo())
    with tempfile.TemporaryDirectory() as scratch:
        return [row for number in bases for row in measured(members[number], Path(scratch), quick)]


def _bootstrap(rows: Sequence[Measured], predicted: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """95 % interval of the rank correlation, releases drawn with replacement."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault((row.base, row.release), []).append(number)
    rng, keys = np.random.default_rng(SEED), list(groups)
    ranks = []
    for _ in range(DRAWS):
        drawn = [i for k in rng.integers(len(keys), size=len(keys)) for i in groups[keys[k]]]
        ranks.append(float(spearmanr(predicted[drawn], actual[drawn]).statistic))
    low, high = np.nanquantile(ranks, (0.025, 0.975))
    return float(low), float(high)


def fit(rows: Sequence[Measured]) -> LossModel:
    """Coefficients on every other release, the interval's width on the others."""
    releases = sorted({row.release for row in rows})
    own = [row for row in rows if releases.index(row.release) % 2 == 0]
    others = [row for row in rows if row not in own]
    losses = [-math.log(min(1.0, max(LEAST_RETENTION, row.retention))) for row in own]
    weights, _ = nnls(design([row.features.vector for row in own]), np.array(losses))
    count = len(NAMES)
    model = LossModel(tuple(weights[:count]), tuple(weights[count:]), 0.0, COVERAGE, len(releases))
    errors = sorted(
        abs(min(1.0, max(0.0, row.retention)) - mean) / (1.0 - mean + LEAST)
        for row in others
        for mean in (model.retention(row.features),)
    )
    at = min(len(errors) - 1, math.ceil(COVERAGE * (len(errors) + 1)) - 1)
    return replace(model, width=errors[at])


if __name__ == "__main__":
    shipped = fit(_rows((0,), quick=False))
    FILE.write_text(json.dumps(asdict(shipped), indent=2) + "\n")
    console.print(asdict(shipped))
