"""Which kinds of prompts became more or less frequent? Clusters of embeddings before and now, to explain input drift.

Descriptive only: no verdict rests on it. Needs scikit-learn, an optional dependency, which is imported when used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

Rows = NDArray[np.float32]
EXAMPLES, TERMS = 3, 6


@dataclass(frozen=True, slots=True)
class ClusterShift:
    """One cluster of prompts.

    before, now: its share of the prompts, in [0, 1]; p_value: of Fisher's exact test of equal shares, not corrected for
    the number of clusters
    examples: present prompts nearest to its centre; terms: words that distinguish it; both empty without texts
    """

    before: float
    now: float
    p_value: float
    examples: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()


def explain(
    before: Rows, now: Rows, texts: Sequence[str] | None = None, clusters: int = 8, seed: int = 0
) -> tuple[ClusterShift, ...]:
    """Clusters of both samples together, the one whose share changed most first.

    before: (n, d); now: (m, d); texts: (m,) of the present prompts, None where texts may not be stored
    clusters: at most; fewer where there are few prompts

    Raises ModuleNotFoundError without scikit-learn, ValueError for samples without rows.
    """
    if not len(before) or not len(now):
        raise ValueError(f"{len(before)} prompts before and {len(now)} now: wanted at least one of each")
    rows = np.concatenate([before, now]).astype(np.float64)
    count = max(1, min(clusters, len(rows) // 4))
    fitted = _sklearn("cluster").KMeans(n_clusters=count, n_init=4, random_state=seed).fit(rows)
    labels = np.asarray(fitted.labels_)
    old, new = labels[: len(before)], labels[len(before) :]
    terms = _terms(texts, new, count) if texts is not None else {}
    shifts = []
    for cluster in range(count):
        nearest = _nearest(now, new, fitted.cluster_centers_[cluster], cluster)
        examples = () if texts is None else tuple(texts[i] for i in nearest)
        shifts.append(_shift(old == cluster, new == cluster, examples, terms.get(cluster, ())))
    return tuple(sorted(shifts, key=lambda shift: abs(shift.now - shift.before), reverse=True))


def _shift(
    old: NDArray[np.bool_], new: NDArray[np.bool_], examples: tuple[str, ...], terms: tuple[str, ...]
) -> ClusterShift:
    table = np.array([[old.sum(), (~old).sum()], [new.sum(), (~new).sum()]])
    p_value = float(fisher_exact(table)[1])
    return ClusterShift(float(old.mean()), float(new.mean()), p_value, examples, terms)


def _nearest(now: Rows, labels: NDArray[np.int64], centre: NDArray[np.float64], cluster: int) -> list[int]:
    members = np.flatnonzero(labels == cluster)
    order = np.linalg.norm(now[members] - centre, axis=1).argsort()
    return [int(i) for i in members[order[:EXAMPLES]]]


def _terms(texts: Sequence[str], labels: NDArray[np.int64], count: int) -> dict[int, tuple[str, ...]]:
    """Cluster -> the words whose mean TF-IDF weight in it most exceeds that in all prompts."""
    vectorizer = _sklearn("feature_extraction.text").TfidfVectorizer(sublinear_tf=True)
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError:  # nothing but stop words and punctuation
        return {}
    names = vectorizer.get_feature_names_out()
    overall = np.asarray(weights.mean(axis=0)).ravel()
    terms = {}
    for cluster in range(count):
        members = np.flatnonzero(labels == cluster)
        if len(members):
            excess = np.asarray(weights[members].mean(axis=0)).ravel() - overall
            terms[cluster] = tuple(str(names[i]) for i in excess.argsort()[::-1][:TERMS] if excess[i] > 0)
    return terms


def _sklearn(module: str) -> Any:
    return import_module(f"sklearn.{module}")
