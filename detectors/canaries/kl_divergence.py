"""Kullback-Leibler divergence over kept tokens and a rest bucket.

Retention, the gap ratio and the diagnosis are computed from what is built here: a change moves stored figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.records import Bools, Floats, Summary

Doubles = NDArray[np.float64]

# Log of the smallest normal float32: a rest bucket below it is empty, and no KL becomes infinite because of it.
EMPTY_REST = math.log(float(np.finfo(np.float32).tiny))


@dataclass(frozen=True, slots=True, eq=False)
class TokenDistributions:
    """One distribution per position in float64, its exponentials taken once.

    logs, probabilities: (T, K + 1), the last column is the rest bucket; pads hold log 0 and probability 0, so that they
    add nothing
    """

    logs: Doubles
    probabilities: Doubles


def token_distributions(summary: Summary, mask: Bools) -> TokenDistributions:
    """The distributions of a replay. mask: (T, K) False where padded."""
    rest = np.maximum(summary.rest, EMPTY_REST).astype(np.float64)
    logs = np.concatenate([with_zero_pads(summary.log_probs, mask), rest[:, None]], axis=-1)
    probabilities = np.exp(logs)
    probabilities[:, :-1] *= mask
    return TokenDistributions(logs, probabilities)


def both_ways(p: TokenDistributions, q: TokenDistributions) -> tuple[float, float]:
    """KL(p || q) and KL(q || p) in nats per token, each at least 0.

    Tokens outside the kept ones count as one bucket, so that both are lower bounds of the divergence over the
    vocabulary (log-sum inequality). Source: Kullback & Leibler (1951).
    """
    apart = p.logs - q.logs
    forth = float(np.einsum("tk,tk->", p.probabilities, apart)) / len(apart)
    back = -float(np.einsum("tk,tk->", q.probabilities, apart)) / len(apart)
    return max(forth, 0.0), max(back, 0.0)


def with_zero_pads(log_probs: Floats, mask: Bools) -> Doubles:
    """(T, K) in float64 with 0 at the pads, whose -inf would turn into nan in every difference."""
    return np.where(mask, log_probs, 0.0).astype(np.float64)
