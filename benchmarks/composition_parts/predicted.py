"""Is retention in a composition predicted? ``python -m benchmarks.composition_parts.predicted`` fits the coefficients.

Coefficients are fitted on the compositions of the zoo's first base, the interval's width on those of each skill in
turn by coefficients that were fitted without it, the widest of them; both are tried on other bases, on which nothing
was fitted. The form of the formula was chosen on the first base by skills left out; that the sensitivity counts by its
root, not whole, was chosen where the other bases had been seen. The interval of the rank correlation is a bootstrap
over sets of members: skills and methods of one set are not independent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from benchmarks.composition_parts.measured import Row, fill, rows, sensitivities
from benchmarks.figures import Figure, at_least, at_most, console, context, share
from detectors.canaries.tolerance import Tolerances
from detectors.composition.prediction import LEAST, RetentionModel
from probes.composition.forecast import BY_ANSWERS, BY_WEIGHTS, FILE, read_models

FITTED_ON = "ant"
COVERAGE, DRAWS, SEED, HOURS = 0.95, 500, 5, 3600.0
TOLERATED = 1.0 - Tolerances().scale
# Of a, b, c and p, near which they are sought.
START = np.array([1.0, 5.0, 0.5, 0.4])
NAMES = {BY_ANSWERS: "", BY_WEIGHTS: ", by the weights alone"}


def measure(quick: bool) -> list[Figure]:
    """Of the shipped coefficients, on the bases that they were not fitted on."""
    fill(quick, HOURS)
    return figures(rows(quick))


def figures(measured: Sequence[Row]) -> list[Figure]:
    others = [row for row in measured if row.base != FITTED_ON]
    if not others:
        return []
    actual = np.array([row.retention for row in others])
    done = [at_least("compositions that nothing was fitted on", len({row.key for row in others}), "compositions", 300)]
    for name, model in read_models().items():
        done += _of_model(others, actual, model, name)
    for peer in others[0].peers:
        rank = float(spearmanr([row.peers[peer] for row in others], actual).statistic)
        done.append(context(f"rank correlation of measured retention and {peer}", rank, ""))
    return done


def _of_model(others: Sequence[Row], actual: np.ndarray, model: RetentionModel, name: str) -> list[Figure]:
    by, predicted = NAMES[name], predictions(others, model, name)
    rank = float(spearmanr(predicted, actual).statistic)
    lost, warned = actual < TOLERATED, predicted < TOLERATED
    hits = int((lost & warned).sum())
    error = float(np.abs(predicted - actual).mean())
    figure = replace(
        at_least(f"rank correlation of predicted and measured retention{by}", rank, "", 0.8),
        interval=_bootstrap(others, predicted, actual),
    )
    bases = sorted({row.base for row in others})
    own = [
        context(f"the same on {base} alone{by}", float(spearmanr(predicted[at], actual[at]).statistic), "")
        for base in bases
        if (at := np.array([row.base == base for row in others])).sum() > 2
    ]
    half = model.width * (LEAST + np.abs(1.0 - predicted))
    covered = int((np.abs(actual - predicted) <= half).sum())
    return [
        figure,
        *own,
        at_most(f"mean absolute error of predicted retention{by}", error, "", 0.1),
        share(f"lost skills that are predicted{by}", hits, max(1, int(lost.sum())), 90.0),
        share(f"predicted losses that are{by}", hits, max(1, int(warned.sum())), 80.0),
        share(f"measured retention within the predicted 95 % interval{by}", covered, len(others), 95.0),
        context(f"skills that lose more than their tolerance{by}", int(lost.sum()), f"of {len(others)}"),
    ]


def predictions(measured: Sequence[Row], model: RetentionModel, name: str) -> np.ndarray:
    """(n,) by the formula of detectors/composition/prediction.py."""
    alone, added, crowd = np.array([row.by[name] for row in measured]).T
    rest = np.array([row.rest for row in measured])
    known = sensitivities() if name == BY_ANSWERS else {}
    sensitive = np.array([known.get(row.skill, 1.0) for row in measured])
    return model.shrunk(alone + model.added * added, sensitive * crowd**2, rest)


def fit(measured: Sequence[Row], name: str) -> RetentionModel:
    """Coefficients on all of them, the interval's width on those of each skill by coefficients fitted on the others."""
    predicted, actual = np.zeros(len(measured)), np.array([row.retention for row in measured])
    skills = np.array([row.skill for row in measured])
    for skill in np.unique(skills):
        rest = _solved([row for row in measured if row.skill != skill], name)
        predicted[skills == skill] = predictions([row for row in measured if row.skill == skill], rest, name)
    missed = np.abs(actual - predicted) / (LEAST + np.abs(1.0 - predicted))
    # Compositions of one skill are alike, so that skills are what is drawn: the widest of theirs, not that of all.
    width = max(_quantile(missed[skills == skill]) for skill in np.unique(skills))
    compositions = len({row.key for row in measured})
    return replace(_solved(measured, name), width=width, coverage=COVERAGE, compositions=compositions)


def _quantile(missed: np.ndarray) -> float:
    """The conformal one of so many."""
    at = min(len(missed) - 1, math.ceil(COVERAGE * (len(missed) + 1)) - 1)
    return float(np.sort(missed)[at])


def _solved(measured: Sequence[Row], name: str) -> RetentionModel:
    actual = np.array([row.retention for row in measured])

    def errors(values: np.ndarray) -> np.ndarray:
        return predictions(measured, _model(values), name) - actual

    solved = least_squares(errors, START, bounds=(0.0, np.inf), loss="soft_l1", f_scale=0.1)
    return _model(solved.x)


def _model(values: np.ndarray) -> RetentionModel:
    added, crowd, rest, power = map(float, values)
    return RetentionModel(added, crowd, rest, width=0.0, power=power)


def _bootstrap(measured: Sequence[Row], predicted: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """95 % interval of the rank correlation, sets of members drawn with replacement."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(measured):
        groups.setdefault(row.members, []).append(number)
    rng, keys = np.random.default_rng(SEED), list(groups)
    ranks = []
    for _ in range(DRAWS):
        drawn = [i for k in rng.integers(len(keys), size=len(keys)) for i in groups[keys[k]]]
        ranks.append(float(spearmanr(predicted[drawn], actual[drawn]).statistic))
    low, high = np.nanquantile(ranks, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    ants = [row for row in rows(quick=False) if row.base == FITTED_ON]
    fitted = {name: asdict(fit(ants, name)) for name in (BY_ANSWERS, BY_WEIGHTS)}
    FILE.write_text(json.dumps(fitted, indent=2) + "\n")
    console.print(fitted)
