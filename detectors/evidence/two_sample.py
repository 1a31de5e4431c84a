"""Do two samples of embeddings have one distribution? For the report that a person reads; nothing here pages.

Null: all rows are independent draws from one distribution. Guarantee: P(p <= alpha) <= alpha of the permutation p-value
at any sample size. What breaks it: dependence within a sample, as between the turns of one session; and looking again
and again. Source: docs/mathematics.md#embedding-drift.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detectors.errors import ShapeMismatch

Doubles = NDArray[np.float64]
# A function of the distances or the kernel values between all rows, and of which rows are of the first sample.
Statistic = Callable[[Doubles, NDArray[np.bool_]], float]


def mmd2(x: Doubles, y: Doubles) -> float:
    """Squared maximum mean discrepancy, unbiased; may fall below 0. RBF kernel at the median distance of all rows.

    x: (n, d), n >= 2; y: (m, d), m >= 2. Raises ShapeMismatch.

    Source: Gretton et al. (2012), JMLR 13, Lemma 6.
    """
    kernel, first = _rbf(_distances(x, y)), _first(x, y)
    return _mmd2(kernel, first)


def energy_distance(x: Doubles, y: Doubles) -> float:
    """Twice the mean distance between the samples less the mean distances within them, >= 0 but for rounding.

    x, y: as for ``mmd2``. Source: Szekely & Rizzo (2013), J. Stat. Plan. Inference 143.
    """
    return _energy(_distances(x, y), _first(x, y))


def permutation_p_values(x: Doubles, y: Doubles, permutations: int = 500, seed: int = 0) -> dict[str, float]:
    """ "mmd" and "energy" -> share of the labellings, the real one included, whose statistic is at least as large.

    x, y, errors: as for ``mmd2``. Never 0: at least 1 / (permutations + 1).
    """
    distances, first = _distances(x, y), _first(x, y)
    tables: dict[str, tuple[Statistic, Doubles]] = {"mmd": (_mmd2, _rbf(distances)), "energy": (_energy, distances)}
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(first) for _ in range(permutations)]
    p_values = {}
    for name, (statistic, table) in tables.items():
        observed = statistic(table, first)
        as_large = sum(statistic(table, labels) >= observed - 1e-12 for labels in shuffled)
        p_values[name] = (1 + as_large) / (1 + permutations)
    return p_values


def principal_scores(x: Doubles, y: Doubles, axes: int) -> tuple[Doubles, Doubles, float]:
    """Both samples on the few directions in which all their rows together vary most, and the share of variance there.

    x: (n, d); y: (m, d); axes: how many; fewer where the rows do not vary in so many. Returns (n, k), (m, k), share.

    The directions know nothing of which sample a row is of, so that a rank test on them keeps the null above: fitted on
    one sample alone, they would be those in which this one varies most. Raises ShapeMismatch.

    Source: Jolliffe (2002), Principal Component Analysis, section 3.5, by the n + m rows' inner products.
    """
    rows = _together(x, y)
    rows = rows - rows.mean(axis=0)
    energies, vectors = np.linalg.eigh(rows @ rows.T)
    whole = float(energies.clip(0.0).sum())
    kept = [i for i in np.argsort(-energies)[:axes] if energies[i] > 1e-12 * max(whole, 1e-300)]
    scores = vectors[:, kept] * np.sqrt(energies[kept])
    scores *= np.where(scores[np.abs(scores).argmax(axis=0), range(len(kept))] < 0, -1.0, 1.0)
    return scores[: len(x)], scores[len(x) :], float(energies[kept].sum()) / whole if whole > 0 else 0.0


def _mmd2(kernel: Doubles, first: NDArray[np.bool_]) -> float:
    n, m = int(first.sum()), int((~first).sum())
    within = [kernel[np.ix_(side, side)] for side in (first, ~first)]
    own = [(part.sum() - np.trace(part)) / (k * (k - 1)) for part, k in zip(within, (n, m), strict=True)]
    return float(sum(own) - 2.0 * kernel[np.ix_(first, ~first)].mean())


def _energy(distances: Doubles, first: NDArray[np.bool_]) -> float:
    between = distances[np.ix_(first, ~first)].mean()
    return float(2.0 * between - sum(distances[np.ix_(side, side)].mean() for side in (first, ~first)))


def _together(x: Doubles, y: Doubles) -> Doubles:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ShapeMismatch("two samples", (x.shape, y.shape), "at least two rows each, of one width")
    return np.concatenate([x, y])


def _distances(x: Doubles, y: Doubles) -> Doubles:
    rows = _together(x, y)
    squares = (rows * rows).sum(axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T, 0.0))


def _rbf(distances: Doubles) -> Doubles:
    apart = distances[np.triu_indices(len(distances), 1)]
    width = float(np.median(apart)) or 1.0
    kernel: Doubles = np.exp(-((distances / width) ** 2) / 2.0)
    return kernel


def _first(x: Doubles, y: Doubles) -> NDArray[np.bool_]:
    return np.arange(len(x) + len(y)) < len(x)
