"""Rank histogram: are the tokens of sampled responses spread over their golden distributions as the accepted adapter's
are, whatever else might have written them?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.evidence.likelihood_process import LikelihoodProcesses
from detectors.records import Evidence, SubjectKind
from detectors.traffic_records import TrafficRound, TrafficScore, by_adapter

Doubles = NDArray[np.float64]
# Adapter, and "": it has one stream.
RankStream = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Config:
    """recent: half-lives of a response's weight in the histograms that are bet on, in responses
    stakes: of each of them, in (0, 1]: 1 bets all of what the histogram says, less of it loses less to the slack
    prior: tokens of a flat histogram that each begins with and keeps; flat: share of every density that is uniform
    """

    recent: tuple[float, ...] = (20.0, 100.0, 500.0)
    stakes: tuple[float, ...] = (1.0, 0.5, 0.25)
    prior: float = 200.0
    flat: float = 0.05

    def __post_init__(self) -> None:
        known = bool(self.recent and self.stakes) and min(self.recent) > 0 and self.prior > 0
        if not (known and 0 < self.flat < 1 and all(0 < stake <= 1 for stake in self.stakes)):
            wanted = "half-lives and prior above 0, stakes in (0, 1], flat in (0, 1)"
            raise Refused("rank_histogram config", self, wanted)

    @property
    def keep(self) -> Doubles:
        """(H,) what a response weighs in each histogram, as a share of what the next newer one does."""
        return np.array(0.5 ** (1.0 / np.array(self.recent)), dtype=np.float64)


@dataclass(slots=True)
class RankCounts:
    """Of one adapter. counts: (H, B) tokens by rank, older ones weighing less; gain: (H * S,) nats by which each bet
    grew of late, older responses weighing as in the shortest histogram"""

    counts: Doubles
    gain: Doubles

    def to_json(self) -> dict[str, Any]:
        return {"counts": pack(self.counts), "gain": pack(self.gain)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> RankCounts:
        return cls(unpack(stored["counts"]), unpack(stored["gain"]))


@dataclass(slots=True)
class State:
    """processes: M of each adapter, one for each histogram and stake; histories: by adapter"""

    layout: ClassVar[int] = 1

    processes: LikelihoodProcesses[RankStream] = field(default_factory=LikelihoodProcesses)
    histories: dict[str, RankCounts] = field(default_factory=dict)

    def part(self, wanted: Callable[[str], bool]) -> State:
        histories = {adapter: history for adapter, history in self.histories.items() if wanted(adapter)}
        return State(self.processes.part_of(wanted), histories)

    def joined(self, more: State) -> State:
        return State(self.processes.joined(more.processes), self.histories | more.histories)

    def to_json(self) -> dict[str, Any]:
        histories = {adapter: history.to_json() for adapter, history in self.histories.items()}
        return {"processes": self.processes.to_json(list), "histories": histories}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        histories = {adapter: RankCounts.from_json(row) for adapter, row in stored["histories"].items()}
        return cls(LikelihoodProcesses[RankStream].from_json(stored["processes"], _stream), histories)


class Detector:
    """e-detector for H0: each response was written by one distribution that is the golden adapter, or the adapter at an
    edge of its tolerance, with the sampler that the request names.

    Under the golden adapter the randomised ranks of tokens are uniform on [0, 1], whatever the prompt. Each M bets by a
    density that the adapter's own former responses gave: f(rank) = 1 + stake (histogram - 1), the histogram mixed with
    a flat one. At an edge u the mean of f is 1 + x, x = sum_k (f_k - 1) P_u(rank in bin k), known exactly at each
    token; the response's factor is

        product over its tokens of f(rank)  *  exp(-max(0, largest over both edges of the sum of x)  -  its toll)

    One "+1" a TrafficRound with a response of the adapter. Guarantee: given the past a factor has mean at most 1,
    because exp(-x) <= 1 / (1 + x); so the average run length is at least A rounds, and P(alarm by round T) <= T / A.
    What breaks it: another sampler than the record names (token_calibration.py says which), numerics of the engine
    beyond the toll, adapters within their tolerance but strictly between its edges or off the interpolation path, a
    share that changes within a response, and requests that share an id and a time, whose ranks are not independent.
    Mislabelled records teach the histogram no more than their share.

    It needs no copy of what might be at fault: a block or a shard that the engine lost, or a base that it quantised,
    moves the ranks as well. For the same reason it informs and does not page: it cannot tell a model at fault from a
    sampler, penalties or numerics that are not those of the record, for which nobody is to be called at night.

    Source: docs/mathematics.md#rank-histogram; ranks: Zhu et al. (2025), arXiv 2506.06975.
    """

    reads = TrafficRound
    about = SubjectKind.ADAPTER
    pages = False

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: TrafficRound) -> tuple[Evidence, ...]:
        """The responses scored since the last round. Those without ranks, greedy ones or stored by an earlier version,
        are passed over."""
        usable = [score for score in record.scores if _is_usable(score)]
        for adapter, scores in by_adapter(usable, record.adapters).items():
            if scores:
                self._multiply(adapter, scores, record.at)
        return tuple(self._evidence(adapter, record) for adapter in record.adapters)

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.processes.onset((subject, ""))

    def restart(self, subject: str) -> None:
        """Every M of one adapter back to 0, and its histograms forgotten."""
        self.state.histories.pop(subject, None)
        self.state.processes.restart((subject, ""))

    def unexplained(self, subject: str) -> float:
        """The level in nats, 0 where no bet grew over the recent responses: M stays high after a fault is over."""
        history = self.state.histories.get(subject)
        grows = history is not None and bool(history.gain.max() > 0)
        return self.state.processes.level((subject, "")) if grows else 0.0

    def restart_where_over(self, subject: str, log_threshold: float) -> None:
        """What passed the threshold and no longer grows is over and spent: M would stay that high for days, and each
        bet that grew a little by chance would make it news again."""
        passed = self.state.processes.level((subject, "")) >= log_threshold
        if passed and self.unexplained(subject) <= 0:
            self.restart(subject)

    def _multiply(self, adapter: str, scores: Sequence[TrafficScore], at: float) -> None:
        log_factors = np.zeros(len(self.config.recent) * len(self.config.stakes))
        for score in scores:
            log_factors += self._bet(adapter, score)
        self.state.processes.multiply({(adapter, ""): log_factors}, {(adapter, ""): len(scores)}, at)

    def _bet(self, adapter: str, score: TrafficScore) -> Doubles:
        """(H * S,) ln of the response's factors, by the histograms from before it; afterwards they have it too."""
        bins, config = len(score.ranks_weaker), self.config
        history = self.state.histories.get(adapter)
        if history is None or history.counts.shape[1] != bins:
            history = RankCounts(
                np.zeros((len(config.recent), bins)), np.zeros(len(config.recent) * len(config.stakes))
            )
        counts = np.histogram(score.ranks, bins=bins, range=(0.0, 1.0))[0].astype(np.float64)
        surplus = density(history.counts, config.prior, config.flat) - 1.0
        edges = np.stack([score.ranks_weaker, score.ranks_stronger]).astype(np.float64)
        grown = log_factors(surplus, np.array(config.stakes), counts, edges) - score.rank_toll
        keep = config.keep
        self.state.histories[adapter] = RankCounts(
            keep[:, None] * history.counts + counts, keep.min() * history.gain + grown.ravel()
        )
        return grown.ravel()

    def _evidence(self, adapter: str, record: TrafficRound) -> Evidence:
        processes, stream = self.state.processes, (adapter, "")
        log_e, n = processes.level(stream), processes.n(stream)
        return Evidence(self.about, adapter, "rank_histogram", "", record.number, log_e, n, record.at, self.pages)


def density(counts: Doubles, prior: float, flat: float) -> Doubles:
    """(H, B) density on [0, 1] by histograms, mean 1 over the bins. counts: (H, B) tokens; prior, flat: ``Config``"""
    bins = counts.shape[1]
    shares = (counts + prior / bins) / (counts.sum(axis=1, keepdims=True) + prior)
    mixed: Doubles = (1.0 - flat) * bins * shares + flat
    return mixed


def log_factors(surplus: Doubles, stakes: Doubles, counts: Doubles, edges: Doubles) -> Doubles:
    """(H, S) ln of one response's factors, without its toll.

    surplus: (H, B) densities less 1, > -1; stakes: (S,) in (0, 1]; counts: (B,) its tokens by rank; edges: (2, B) how
    many are expected in each bin at either edge of the tolerance
    """
    won = (counts * np.log1p(stakes[None, :, None] * surplus[:, None, :])).sum(axis=2)
    slack = np.maximum((surplus @ edges.T).max(axis=1), 0.0)
    result: Doubles = won - stakes * slack[:, None]
    return result


def _is_usable(score: TrafficScore) -> bool:
    """A rank of NaN counts nowhere, and neither does its response."""
    if not score.tokens or not score.ranks.size or not score.ranks_weaker.size:
        return False
    numbers = (score.ranks, score.ranks_weaker, score.ranks_stronger)
    return math.isfinite(score.rank_toll) and all(bool(np.isfinite(values).all()) for values in numbers)


def _stream(form: Any) -> RankStream:
    adapter, name = form
    return adapter, name
