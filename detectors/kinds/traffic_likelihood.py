"""Traffic likelihood: were the sampled responses written by what was accepted, or rather by something else?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from detectors.errors import Refused
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.evidence.likelihood_process import Chains, averaged, replica_factors, weights_of
from detectors.evidence.profile_likelihood import most_likely
from detectors.records import Evidence, Interval, SubjectKind
from detectors.traffic_records import TrafficRound, TrafficScore

# Between an adapter and what its stream is about, in the state: no name holds it.
MARK = "\t"
OTHER = "adapter:"


@dataclass(frozen=True, slots=True)
class Config:
    """weights: who might have written it instead, the base first; other registered adapters share what is left of 1.
    "previous" is the version accepted before; where there is none its weight is nobody's

    An alternative of weight w is found ln(1/w) nats later. Half strength is the one whose slack costs most (two fifths
    of its growth), so it has the larger part of what the base leaves.
    log_threshold: ln A of the fleet, nats; no response adds more than a third of it in the bounded mixture
    replicas: of the bounded mixture, one M each: which share of the responses a faulty replica writes, and how much one
    of them adds at most (likelihood_ratio.py); mislabelled: share of records that may be filed under a wrong name
    pages: may the bounded mixture alarm by itself? one_response: may the unbounded mean? Then one response can be
    enough, and so can one mislabelled record
    pods_kept: pods of one adapter that are told apart; recent: responses after which the estimate has half forgotten
    """

    weights: tuple[tuple[str, float], ...] = (
        ("base", 0.5), ("half", 0.2), ("path 0.25", 0.02), ("path 0.5", 0.03), ("path 0.75", 0.02),
        ("double", 0.02), ("4 bits", 0.03), ("previous", 0.03),
    )  # fmt: skip
    # Not compared where saved evidence is taken up (saved_config.py): another cap is fair from then on.
    log_threshold: float = field(default=21.5, repr=False, compare=False)
    replicas: tuple[tuple[float, float], ...] = (
        (0.003, 32.0), (0.01, 110.0), (0.03, 32.0), (0.1, 110.0), (0.3, 430.0), (1.0, math.inf),
    )  # fmt: skip
    mislabelled: float = 1e-3
    pages: bool = True
    one_response: bool = False
    pods_kept: int = 64
    recent: float = 200.0

    def __post_init__(self) -> None:
        fine = 0 <= self.mislabelled < 1 and self.pods_kept >= 1 and self.recent > 0 and self.log_threshold > 0
        parts = [weight for _, weight in self.weights]
        bounded = self.replicas and all(0 < share <= 1 < most for share, most in self.replicas)
        if not (fine and bounded and parts and min(parts) > 0 and sum(parts) <= 1):
            wanted = "weights above 0 of at most 1 together, shares in (0, 1], most above 1"
            raise Refused("traffic_likelihood config", self, wanted)

    @property
    def streams_per_adapter(self) -> int:
        """How many streams of one adapter can alarm by themselves: what the fleet's budget counts."""
        return int(self.pages) + int(self.one_response)

    def with_threshold(self, log_threshold: float) -> Config:
        """The same settings where the fleet's threshold is another one."""
        return replace(self, log_threshold=log_threshold)


@dataclass(slots=True)
class PathLikelihood:
    """Likelihood of the recent responses along the path. n: responses, as far as they are not forgotten"""

    grid: tuple[float, ...]
    log_lik: np.ndarray[Any, np.dtype[np.float64]]
    n: float = 0.0


@dataclass(slots=True)
class State:
    """chains: M of each adapter and alternative; replicas: of each adapter and of its pods; paths: by adapter"""

    layout: ClassVar[int] = 1

    chains: Chains = field(default_factory=Chains)
    replicas: Chains = field(default_factory=Chains)
    paths: dict[str, PathLikelihood] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        paths = {name: {"grid": list(p.grid), "log_lik": pack(p.log_lik), "n": p.n} for name, p in self.paths.items()}
        return {"chains": self.chains.to_json(), "replicas": self.replicas.to_json(), "paths": paths}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        paths = {
            name: PathLikelihood(tuple(row["grid"]), unpack(row["log_lik"]), row["n"])
            for name, row in stored["paths"].items()
        }
        chains, replicas = (Chains.from_json(stored[name]) for name in ("chains", "replicas"))
        assert isinstance(chains, Chains) and isinstance(replicas, Chains)
        return cls(chains, replicas, paths)


class Detector:
    """e-detectors for H0: what writes the responses under an adapter's name keeps the tolerated share of the adapter,
    whatever the prompts are.

    Stream "replica": mean over ``replicas`` of M with factors bounded by the cube root of A at most, so that one record
    in a thousand may be anybody's. Stream "": weighted mean of one M an alternative, each the product of all responses'
    L; it is the fastest there is, and one mislabelled record is enough for it. Streams "pod:NAME": the bounded mixture
    over one pod's responses. One "+1" a TrafficRound, none for a stream that heard nothing.
    Guarantee: average run length at least A rounds for each, and P(alarm by round T) <= T / A; for the bounded ones
    also where a share ``mislabelled`` of the records, each by chance and not in bursts, was written by anybody, and
    whatever the others read as: a million rounds of neutral responses, L = 1, page with a chance below one in two
    thousand at A = 2.1e9. What breaks it: see probes/scoring/likelihood_ratio.py and likelihood_ratio.py; alternatives
    may be asked about by hash of the request, never by what was written.
    The alternatives' weights follow from the adapters that are registered: registering one moves them a little.

    Source: docs/mathematics.md#weighted-mean-and-bounded-mixture. The bounded mixture looks at the weighted mean over
    alternatives of each response, not at the base alone; and it bounds ``q L`` instead of L, each share by a bound of
    its own, which puts up with one mislabelled record in a thousand, where one bound for all did with ten thousand.
    What that leaves of the speed is measured by ``python -m benchmarks.traffic_evidence --part replicas``; one replica
    in a hundred is the one that it costs most.
    """

    reads = TrafficRound
    about = SubjectKind.ADAPTER

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    @property
    def pages(self) -> bool:
        return self.config.streams_per_adapter > 0

    def update(self, record: TrafficRound) -> tuple[Evidence, ...]:
        """All that was scored since the last one; for each adapter the bounded stream, the mean and the pods heard.

        A response with NaN among its numbers is passed over.
        """
        told = [s for s in record.scores if s.tokens and s.log_l.size and bool(np.isfinite(s.log_l).all())]
        heard = {adapter: [s for s in told if s.adapter == adapter] for adapter in record.adapters}
        for adapter, scores in heard.items():
            if scores:
                self._chain(adapter, scores, record)
        return tuple(found for adapter, scores in heard.items() for found in self._evidence(adapter, scores, record))

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the adapter's stream that is furthest; None where there is none."""
        state = self.state
        found = [
            (chains.level(key), chains, key)
            for chains in (state.chains, state.replicas)
            for key in _of(chains, subject)
        ]
        furthest = max(found, key=lambda one: one[0], default=None)
        return None if furthest is None else furthest[1].onset(furthest[2])

    def restart(self, subject: str) -> None:
        """Every M of one adapter back to 0. What was estimated of its strength is forgotten too."""
        self.state.paths.pop(subject, None)
        for chains in (self.state.chains, self.state.replicas):
            for key in _of(chains, subject):
                chains.restart(key)

    def retention(self, subject: str) -> Interval | None:
        """Of the recent responses (profile_likelihood.py), older ones forgotten little by little; None without any."""
        path = self.state.paths.get(subject)
        return None if path is None else most_likely(np.array(path.grid), path.log_lik, round(path.n))

    def _chain(self, adapter: str, scores: Sequence[TrafficScore], record: TrafficRound) -> None:
        weights = self._weights(adapter, record)
        log_l: dict[str, list[float]] = {}
        for score in scores:
            for name, value in zip(score.alternatives, score.log_l.tolist(), strict=True):
                if name in weights:
                    log_l.setdefault(f"{adapter}{MARK}{name}", []).append(value)
        sums = {key: np.array([sum(values)]) for key, values in log_l.items()}
        self.state.chains.chain(sums, {key: len(values) for key, values in log_l.items()}, record.at)
        means = {id(score): mean for score in scores if (mean := _mean(score, weights)) is not None}
        groups = {f"{adapter}{MARK}": scores} | {
            f"{adapter}{MARK}{pod}": [s for s in scores if s.pod == pod]
            for pod in sorted({s.pod for s in scores} - {""})
        }
        bounded = {key: np.array([means[id(s)] for s in some if id(s) in means]) for key, some in groups.items()}
        factors = {key: self._bounded(values) for key, values in bounded.items() if len(values)}
        self.state.replicas.chain(factors, {key: len(bounded[key]) for key in factors}, record.at)
        self._forget_pods(adapter)
        for score in scores:
            self._remember(score)

    def _bounded(self, log_l: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        shares, most = np.array(self.config.replicas).T
        bounded = np.minimum(most, math.exp(self.config.log_threshold / 3.0))
        return replica_factors(log_l, shares, bounded, self.config.mislabelled)

    def _weights(self, adapter: str, record: TrafficRound) -> dict[str, float]:
        others = [f"{OTHER}{name}" for name in record.adapters if name != adapter]
        return weights_of(dict(self.config.weights), others)

    def _forget_pods(self, adapter: str) -> None:
        """Pods come and go with every deployment: those not heard for longest make room."""
        replicas = self.state.replicas
        pods = [key for key in _of(replicas, adapter) if not key.endswith(MARK)]
        replicas.drop(sorted(pods, key=replicas.seen_at)[: max(len(pods) - self.config.pods_kept, 0)])

    def _remember(self, score: TrafficScore) -> None:
        if not score.path_log_lik.size:
            return
        grid, keep = tuple(score.path.tolist()), 0.5 ** (1.0 / self.config.recent)
        past = self.state.paths.get(score.adapter)
        if past is None or past.grid != grid:
            past = PathLikelihood(grid, np.zeros(len(grid)))
        self.state.paths[score.adapter] = PathLikelihood(
            grid, keep * past.log_lik + score.path_log_lik.astype(np.float64), keep * past.n + 1.0
        )

    def _evidence(self, adapter: str, scores: Sequence[TrafficScore], record: TrafficRound) -> Iterator[Evidence]:
        state, config = self.state, self.config
        whole = f"{adapter}{MARK}"
        chained = {f"{whole}{name}": weight for name, weight in self._weights(adapter, record).items()}
        n = max(map(state.chains.n, chained), default=0)
        yield self._told(adapter, "replica", record, state.replicas.level(whole), state.replicas.n(whole), config.pages)
        yield self._told(adapter, "", record, state.chains.weighted(chained), n, config.one_response)
        for pod in sorted({score.pod for score in scores} - {""}):
            level, heard = state.replicas.level(f"{whole}{pod}"), state.replicas.n(f"{whole}{pod}")
            yield self._told(adapter, f"pod:{pod}", record, level, heard, pages=False)

    def _told(self, adapter: str, stream: str, record: TrafficRound, log_e: float, n: int, pages: bool) -> Evidence:
        return Evidence(self.about, adapter, "traffic_likelihood", stream, record.number, log_e, n, record.at, pages)


def _of(chains: Chains, subject: str) -> list[str]:
    return [key for key in chains.index if key.partition(MARK)[0] == subject]


def _mean(score: TrafficScore, weights: dict[str, float]) -> float | None:
    """ln of the weighted mean over the alternatives that were asked; None where none has a weight."""
    known = [
        (value, weights[name])
        for name, value in zip(score.alternatives, score.log_l.tolist(), strict=True)
        if name in weights
    ]
    if not known:
        return None
    values, some = np.array(known).T
    return averaged(values, some)
