"""Evidence from likelihood ratios: one M an alternative, weighted; and a bounded mixture for one replica of many.

Null of each factor here: every response's L has mean at most 1 given the past (probes/scoring/likelihood_ratio.py).
Guarantee: each M, and so their weighted mean, has mean at most the number of "+1" it was given, hence run length at
least A. What
breaks it: alternatives or weights chosen after the response was seen; for the unbounded mean also one response that is
filed under the wrong adapter's name, which the bounded mixture puts up with.

Source: docs/mathematics.md#weighted-mean-and-bounded-mixture; Shin, Ramdas & Rinaldo (2022), "E-detectors", arXiv
2203.03532.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.evidence.alternative import Alternative
from detectors.evidence.e_detector import LARGEST, SMALLEST
from detectors.evidence.e_process_bank import Streams

Doubles = NDArray[np.float64]


class Chains(Streams):
    """``Streams`` that are moved by factors instead of scores in [0, 1]."""

    def chain(self, log_factors: Mapping[str, Doubles], n: Mapping[str, int], at: float) -> None:
        """One "+1" of each stream, and then all that it heard since the last one.

        log_factors: stream -> (G,) ln of the product of its factors; n: stream -> how many responses those are of
        """
        if not log_factors:
            return
        names = list(log_factors)
        logs = np.stack([log_factors[name] for name in names])
        where = self._where(names, logs.shape[1])
        part = self.rows.part(where)
        factors = np.exp(np.clip(logs, -800.0, math.log(LARGEST)))
        part.move(np.where(factors < SMALLEST, 0.0, factors), np.array([n[name] for name in names], np.int64), at)
        self.rows.put(where, part)

    def drop(self, streams: Collection[str]) -> None:
        """Forget these streams altogether; nothing happens for one that is not there."""
        gone = {stream for stream in streams if stream in self.index}
        if gone:
            kept = [stream for stream in self.index if stream not in gone]
            self.rows = self.rows.part(np.array([self.index[stream] for stream in kept], dtype=np.int64))
            self.index = {stream: row for row, stream in enumerate(kept)}

    def seen_at(self, stream: str) -> float:
        """``at`` of the stream's last "+1", -inf where it had none."""
        return float(self.rows.seen_at[self.index[stream]]) if stream in self.index else -math.inf

    def weighted(self, weights: Mapping[str, float]) -> float:
        """ln of the weighted mean of these streams' M; those not there count as 0. It is 0 where none is."""
        there = {stream: weight for stream, weight in weights.items() if self.n(stream)}
        if not there:
            return 0.0
        m = self.rows.m[[self.index[stream] for stream in there], 0]
        return math.log(max(float(m @ np.array(list(there.values()))), SMALLEST))


def weights_of(own: Mapping[Alternative, float], others: Sequence[Alternative]) -> dict[Alternative, float]:
    """Alternative -> weight, together at most 1: what ``own`` leaves is shared by the others in equal parts.

    own: those with a weight of their own, > 0
    """
    left = max(1.0 - sum(own.values()), 0.0)
    return dict(own) | dict.fromkeys(others, left / max(len(others), 1))


def averaged(log_l: Doubles, weights: Doubles) -> float:
    """ln of the weighted mean of e-values of one response; weights: > 0, of those that were asked, in any unit."""
    if not log_l.any():
        return 0.0  # weights that add up to 1 but for the last digit would make evidence of nothing
    return float(np.logaddexp.reduce(log_l + np.log(weights / weights.sum())))


def replica_factors(log_l: Doubles, shares: Doubles, most: Doubles, mislabelled: float) -> Doubles:
    """(G,) ln of the product over responses of ``(1 - q + min(q L, k)) / (1 + r k)``.

    log_l: (n,) of n responses; shares: (G,) q in (0, 1], of the responses that a faulty replica writes
    most: (G,) k > 1, what one response adds at most; mislabelled: r, share of the records that may be anybody's

    Null: given the past, a response has E[L] <= 1, but for a share r of the records, which may read as anything: the
    factor has mean at most ``(1 + r (k - q)) / (1 + r k)``, below 1 also where every other response is neutral, L = 1.
    What breaks it: a larger share than r, or one that comes in bursts.

    Where a share s of the responses is at fault, M grows fastest with ``k = (s - r) / (r (1 - s))`` (at r = .001: 31
    for one in 32, 110 for one in ten) and a small q, which costs little at the others. A small q needs responses of
    ``L = k / q`` to reach k; weaker ones are found by a larger q.
    """
    with np.errstate(divide="ignore"):
        bounded = np.minimum(log_l[:, None] + np.log(shares), np.log(most))
        mixed = np.logaddexp(np.log1p(-shares), bounded)
    total: Doubles = (mixed - np.log1p(mislabelled * most)).sum(axis=0)
    return total
