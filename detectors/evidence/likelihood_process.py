"""Evidence from likelihood ratios: one M for each alternative, weighted; and a clipped mixture, which bounds what one
response adds.

Null of each factor here: every response's L has mean at most 1 given the past
(probes/scoring/likelihood_ratio_reference.py).
Guarantee: each M, and so their weighted mean, has mean at most the number of "+1" it was given, hence an average run
length of at least A. What breaks it: alternatives or weights chosen after the response was read; for the weighted mean
also one response that is filed under the wrong adapter's name, which the clipped mixture tolerates.

Source: docs/mathematics.md#weighted-mean-and-clipped-mixture-e-process; Shin, Ramdas & Rinaldo (2022),
"E-detectors", arXiv 2203.03532.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from detectors.evidence.alternative import Alternative
from detectors.evidence.e_detector import LARGEST, SMALLEST
from detectors.evidence.e_process_bank import EProcessBank, OnsetEstimate

Doubles = NDArray[np.float64]
# A stream's key: its adapter first, then what distinguishes the adapter's streams.
Stream = TypeVar("Stream", bound=tuple[str, Any])


@dataclass(slots=True)
class LikelihoodProcesses(EProcessBank[Stream]):
    """E-detectors whose factors are likelihood ratios, or functions of them, instead of bets on scores in [0, 1].

    by_adapter: adapter -> its streams, so that a round looks at each stream once however many adapters there are
    """

    by_adapter: dict[str, list[Stream]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.by_adapter = {}
        self._sort_by_adapter(self.index)

    def streams_of(self, adapter: str) -> list[Stream]:
        """In the order in which they came."""
        return list(self.by_adapter.get(adapter, ()))

    def multiply(self, log_factors: Mapping[Stream, Doubles], n: Mapping[Stream, int], at: float) -> None:
        """One "+1" of each stream, then the factors of all its responses since the last one.

        log_factors: stream -> (G,) ln of the product of those factors; n: stream -> how many responses they are of
        """
        if not log_factors:
            return
        streams = list(log_factors)
        logs = np.stack([log_factors[stream] for stream in streams])
        self._sort_by_adapter([stream for stream in streams if stream not in self.index])
        rows = self._rows_of(streams, logs.shape[1])
        part = self.rows.part(rows)
        factors = np.exp(np.clip(logs, -800.0, math.log(LARGEST)))
        part.move(np.where(factors < SMALLEST, 0.0, factors), np.array([n[stream] for stream in streams], np.int64), at)
        self.rows.put(rows, part)

    def drop(self, streams: Collection[Stream]) -> None:
        """Forget these streams altogether; unknown ones are passed over."""
        dropped = {stream for stream in streams if stream in self.index}
        if dropped:
            remaining = self.part(lambda stream: stream not in dropped)
            self.rows, self.index, self.by_adapter = remaining.rows, remaining.index, remaining.by_adapter

    def part_of(self, wanted: Callable[[str], bool]) -> Self:
        """All streams of some adapters."""
        return self.part(lambda stream: wanted(stream[0]))

    def measured_at(self, stream: Stream) -> float:
        """``at`` of the stream's last "+1", -inf where it had none."""
        return float(self.rows.measured_at[self.index[stream]]) if stream in self.index else -math.inf

    def weighted(self, weights: Mapping[Stream, float]) -> float:
        """ln of the weighted mean of these streams' M, nats; 0 where no stream has responses. Without any M is 0."""
        scored = {stream: weight for stream, weight in weights.items() if self.n(stream)}
        if not scored:
            return 0.0
        m = self.rows.m[[self.index[stream] for stream in scored], 0]
        return math.log(max(float(m @ np.array(list(scored.values()))), SMALLEST))

    def _sort_by_adapter(self, new: Iterable[Stream]) -> None:
        for stream in new:
            self.by_adapter.setdefault(stream[0], []).append(stream)


def onset_of(banks: Iterable[LikelihoodProcesses[Any]], subject: str) -> OnsetEstimate | None:
    """Of the subject's stream with the highest level in any of these; None where there is none."""
    estimates = [(bank.level(stream), bank.onset(stream)) for bank in banks for stream in bank.streams_of(subject)]
    return max(estimates, key=lambda estimate: estimate[0], default=(0.0, None))[1]


def restart_all(banks: Iterable[LikelihoodProcesses[Any]], subject: str) -> None:
    """Every M of the subject in all of these back to 0."""
    for bank in banks:
        for stream in bank.streams_of(subject):
            bank.restart(stream)


def weights_of(own: Mapping[Alternative, float], others: Sequence[Alternative]) -> dict[Alternative, float]:
    """Alternative -> weight, together at most 1: what ``own`` leaves of 1 is shared by the others in equal parts.

    own: those with a fixed weight, > 0
    """
    remainder = max(1.0 - sum(own.values()), 0.0)
    return dict(own) | dict.fromkeys(others, remainder / max(len(others), 1))


def averaged(log_l: Doubles, weights: Doubles) -> float:
    """ln of the weighted mean of e-values of one response; weights: > 0, of the alternatives scored, in any unit."""
    if not log_l.any():
        return 0.0  # weights that add up to 1 but for the last digit would make evidence of nothing
    return float(np.logaddexp.reduce(log_l + np.log(weights / weights.sum())))


def clipped_mixture(log_l: Doubles, shares: Doubles, most: Doubles, mislabelled: float) -> Doubles:
    """(G,) ln of the product over responses of ``(1 - q + min(q L, k)) / (1 + r k)``.

    log_l: (n,) of n responses; shares: (G,) q in (0, 1], of the responses that a faulty replica writes
    most: (G,) k > 1, at which q L is clipped; mislabelled: r, share of the records that may have any writer

    Null: given the past, a response has E[L] <= 1, but for a share r of the records, whose L may be anything: the
    factor has mean at most ``(1 + r (k - q)) / (1 + r k)``, below 1 also where every other response is neutral, L = 1.
    What breaks it: a larger share than r, or one that comes in bursts.

    Where a share s of the responses is at fault, M grows fastest with ``k = (s - r) / (r (1 - s))`` (at r = .001: 31
    for one in 32, 110 for one in ten) and a small q, which costs little on the healthy responses. A small q needs
    responses of ``L = k / q`` to reach k; weaker ones are detected by a larger q.
    Source: docs/mathematics.md#weighted-mean-and-clipped-mixture-e-process.
    """
    with np.errstate(divide="ignore"):
        clipped = np.minimum(log_l[:, None] + np.log(shares), np.log(most))
        mixed = np.logaddexp(np.log1p(-shares), clipped)
    total: Doubles = (mixed - np.log1p(mislabelled * most)).sum(axis=0)
    return total
