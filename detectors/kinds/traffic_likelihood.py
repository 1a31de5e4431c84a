"""Traffic likelihood: were the sampled responses written by what was accepted, or rather by something else?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.alternative import (
    BASE,
    DOUBLE_STRENGTH,
    FOUR_BITS,
    HALF_STRENGTH,
    PREVIOUS,
    Alternative,
    AlternativeKind,
    interpolation,
)
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.evidence.likelihood_process import (
    LikelihoodProcesses,
    averaged,
    clipped_mixture,
    onset_of,
    restart_all,
)
from detectors.evidence.profile_likelihood import AxisLikelihood, most_likely
from detectors.records import Evidence, Interval, SubjectKind
from detectors.traffic_records import TrafficRound, TrafficScore, by_adapter

# Adapter, and the alternative that its responses are compared with.
AlternativeStream = tuple[str, Alternative]
# Adapter, and the pod whose responses count, ``ALL_PODS`` for those of all pods together.
ReplicaStream = tuple[str, str]
ALL_PODS = ""
# Alternatives of one adapter that a suspicion may add (probes/scoring/suspicion.py has fewer).
MOST_SUSPECTED = 16
# Of evidence about one pod, as it is stored.
POD = "pod:"
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Config:
    """weights: prior weight of each alternative, the base first; other registered adapters share what is left of 1.
    Where no version was accepted before, the weight of PREVIOUS is unused

    An alternative of weight w is detected ln(1/w) nats later. Half strength loses most of its growth to the slack (two
    fifths), so it has the larger part of what the base leaves.
    suspected: weight of each alternative that responses are scored against after suspicion alone, of which there are
    at most ``MOST_SUSPECTED``; they are taken off what the other adapters share, as far as there is any
    log_threshold: ln A of the fleet, nats; in the clipped mixture no response adds more than a third of it
    replicas: (q, k) of the clipped mixture (likelihood_process.py), one M each: the share of the responses that a
    faulty replica writes, and the most that one response adds. A large k costs r k nats a response, more than a weak
    fault grows by: all responses with k = 16 are for those
    mislabelled: r, share of the records that may be filed under a wrong adapter's name
    pages: may the clipped mixture alarm by itself? one_response: may the weighted mean? Then one response can be
    enough, and so can one mislabelled record
    pods_kept: pods of one adapter that have a stream; recent: half-life of a response's weight in the estimate,
    in responses
    """

    weights: tuple[tuple[Alternative, float], ...] = (
        (BASE, 0.5), (HALF_STRENGTH, 0.2),
        (interpolation(0.25), 0.02), (interpolation(0.5), 0.03), (interpolation(0.75), 0.02),
        (DOUBLE_STRENGTH, 0.02), (FOUR_BITS, 0.03), (PREVIOUS, 0.03),
    )  # fmt: skip
    # As below. Saved evidence stays valid: the weights of other adapters become smaller by it, and the M that it is for
    # begin at 0.
    suspected: float = field(default=0.003, repr=False, compare=False)
    # Not compared where saved evidence is taken up (saved_config.py), nor in the repr that earlier versions saved: it
    # stays valid under another cap, the factors are fair before and after it.
    log_threshold: float = field(default=21.5, repr=False, compare=False)
    replicas: tuple[tuple[float, float], ...] = (
        (0.003, 32.0), (0.01, 110.0), (0.03, 32.0), (0.1, 110.0), (0.3, 430.0), (1.0, 16.0), (1.0, math.inf),
    )  # fmt: skip
    mislabelled: float = 1e-3
    pages: bool = True
    one_response: bool = False
    pods_kept: int = 64
    recent: float = 200.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple((_alternative(who), weight) for who, weight in self.weights))
        fine = 0 <= self.mislabelled < 1 and self.pods_kept >= 1 and self.recent > 0 and self.log_threshold > 0
        parts = [weight for _, weight in self.weights]
        clips = self.replicas and all(0 < share <= 1 < most for share, most in self.replicas)
        if not (fine and clips and parts and min(parts) > 0 and self.suspected >= 0 and sum(parts) <= 1):
            wanted = "weights above 0 of at most 1 together, shares in (0, 1], most above 1"
            raise Refused("traffic_likelihood config", self, wanted)

    def own_weight(self, alternative: Alternative) -> float:
        """Of an alternative with a weight of its own; 0 for another adapter and for what is not known."""
        is_suspected = alternative.kind in (AlternativeKind.WITHOUT, AlternativeKind.ROUNDED)
        return self._of_suspected if is_suspected else dict(self.weights).get(alternative, 0.0)

    @property
    def others(self) -> float:
        """What all other adapters together have."""
        return self._rest - MOST_SUSPECTED * self._of_suspected

    @property
    def _of_suspected(self) -> float:
        return min(self.suspected, self._rest / MOST_SUSPECTED)

    @property
    def _rest(self) -> float:
        return max(1.0 - sum(weight for _, weight in self.weights), 0.0)

    @property
    def streams_per_adapter(self) -> int:
        """How many streams of one adapter can alarm by themselves, which is what the fleet's budget counts."""
        return int(self.pages) + int(self.one_response)

    @property
    def keep(self) -> float:
        """What a response weighs in the estimate, as a share of what the next newer one does."""
        return float(0.5 ** (1.0 / self.recent))

    def with_threshold(self, log_threshold: float) -> Config:
        """The same settings where the fleet's threshold is another one."""
        return replace(self, log_threshold=log_threshold)


@dataclass(slots=True)
class EarlierPath:
    """What is left of an adapter's likelihood from before a round in which its fault may have begun.

    at: that round's; log_lik: (G,) nats, n: as of ``AxisLikelihood``, with the weights of today; since: responses from
    that round on
    """

    at: float
    log_lik: Doubles
    n: float = 0.0
    since: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at, "log_lik": pack(self.log_lik), "n": self.n, "since": self.since}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> EarlierPath:
        return cls(stored["at"], unpack(stored["log_lik"]), stored["n"], stored["since"])


@dataclass(slots=True)
class State:
    """ratios: M of the weighted mean; clipped: M of the clipped mixtures of all alternatives together; clipped_alone:
    of each alternative that has a weight of its own; paths: by adapter

    earlier: adapter -> one for each round in which the CUSUM statistics of the clipped mixtures restarted, in their
    order, the last round with responses included
    """

    layout: ClassVar[int] = 1

    ratios: LikelihoodProcesses[AlternativeStream] = field(default_factory=LikelihoodProcesses)
    clipped: LikelihoodProcesses[ReplicaStream] = field(default_factory=LikelihoodProcesses)
    clipped_alone: LikelihoodProcesses[AlternativeStream] = field(default_factory=LikelihoodProcesses)
    paths: dict[str, AxisLikelihood] = field(default_factory=dict)
    earlier: dict[str, list[EarlierPath]] = field(default_factory=dict)

    def part(self, wanted: Callable[[str], bool]) -> State:
        return State(
            self.ratios.part_of(wanted),
            self.clipped.part_of(wanted),
            self.clipped_alone.part_of(wanted),
            {name: path for name, path in self.paths.items() if wanted(name)},
            {name: parts for name, parts in self.earlier.items() if wanted(name)},
        )

    def joined(self, more: State) -> State:
        return State(
            self.ratios.joined(more.ratios),
            self.clipped.joined(more.clipped),
            self.clipped_alone.joined(more.clipped_alone),
            self.paths | more.paths,
            self.earlier | more.earlier,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "chains": self.ratios.to_json(lambda stream: [stream[0], stream[1].text]),
            "replicas": self.clipped.to_json(list),
            "replicas_alone": self.clipped_alone.to_json(lambda stream: [stream[0], stream[1].text]),
            "paths": {name: path.to_json() for name, path in self.paths.items()},
            "earlier": {name: [part.to_json() for part in parts] for name, parts in self.earlier.items()},
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        """A former version joined the parts of a stream's key by a tab, which no configured name holds, and did not
        distinguish responses from before the onset. What it had no clipped mixtures of starts at 0."""
        paths = {name: AxisLikelihood.from_json(row) for name, row in stored["paths"].items()}
        earlier = {
            name: [EarlierPath.from_json(part) for part in parts] for name, parts in stored.get("earlier", {}).items()
        }
        ratios = LikelihoodProcesses[AlternativeStream].from_json(stored["chains"], _alternative_stream)
        clipped = LikelihoodProcesses[ReplicaStream].from_json(stored["replicas"], _replica_stream)
        alone = LikelihoodProcesses[AlternativeStream].from_json(stored.get("replicas_alone", {}), _alternative_stream)
        return cls(ratios, clipped, alone, paths, earlier)


class Detector:
    """e-detectors for H0: what writes the responses under an adapter's name keeps the tolerated share of the adapter,
    whatever the prompts are.

    Stream "replica": the clipped mixture, a mean over ``replicas`` of M whose factors are at most the cube root of A,
    so that one record in a thousand may have any writer; half of it bets on the mean of a response's alternatives, half
    on one alternative each. Stream "": the weighted mean of one M for each
    alternative, each the product of all responses' L; it is the fastest, and one mislabelled record is enough to alarm
    it. Streams "pod:NAME": the clipped mixture over one pod's responses. One "+1" a TrafficRound, none for a stream
    without a response in it.
    Guarantee: average run length at least A rounds for each, and P(alarm by round T) <= T / A; for the clipped ones
    also where a share ``mislabelled`` of the records, each by chance and not in bursts, has any writer, and
    whatever L the others have: over a million rounds of neutral responses, L = 1, the chance of a page is below one in
    two thousand at A = 2.1e9. What breaks it: what breaks the ratios (probes/scoring/likelihood_ratio_reference.py) or
    the mixture (likelihood_process.py). Which alternatives are scored may depend on a hash of the request, never on
    what was written.
    The alternatives' weights follow from the adapters that are registered: registering one moves them a little.

    Source: docs/mathematics.md#weighted-mean-and-clipped-mixture-e-process. The clipped mixture takes the weighted mean
    over the alternatives of each response, not the base alone. It clips ``q L`` instead of L, for each share q at a
    bound of its own: that tolerates one mislabelled record in a thousand, where one bound for all q tolerated one in
    ten thousand. What that costs in speed is measured by ``python -m benchmarks.traffic_evidence --part replicas``; one
    faulty replica in a hundred is the case that it costs most.
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
        """The responses scored since the last round; for each adapter the clipped mixture, the weighted mean, and the
        clipped mixture of each pod that served one of them.

        A response with NaN among its numbers is passed over.
        """
        scored = [s for s in record.scores if s.tokens and s.log_l.size and bool(np.isfinite(s.log_l).all())]
        registered = frozenset(record.adapters)
        levels: list[Evidence] = []
        for adapter, scores in by_adapter(scored, record.adapters).items():
            if scores:
                self._multiply(adapter, scores, registered, record.at)
            levels += self._evidence(adapter, scores, registered, record)
        return tuple(levels)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the adapter's stream with the highest level; None where there is none."""
        return onset_of(self._processes, subject)

    def restart(self, subject: str) -> None:
        """Every M of one adapter back to 0. What was estimated of its strength is forgotten too."""
        self.state.paths.pop(subject, None)
        self.state.earlier.pop(subject, None)
        restart_all(self._processes, subject)

    def retention(self, subject: str) -> Interval | None:
        """Of the recent responses, older ones weighing less and less; None without any.

        At an alarm of the responses since the onset alone, as the CUSUM statistic has it: those from before it are of
        the healthy adapter, and n counts the others. Null, guarantee and what breaks them are those of ``most_likely``;
        an onset that is estimated too early lets healthy responses in.
        Source: docs/mathematics.md#retention-from-text.
        """
        path = self.state.paths.get(subject)
        if path is not None and self._alarms(subject) and (earlier := self._before_onset(subject)) is not None:
            return self._since(path, earlier)
        return None if path is None else most_likely(np.array(path.grid), path.log_lik, path.n, self.config.keep)

    def _alarms(self, subject: str) -> bool:
        """Has a stream that may page passed the threshold?"""
        levels = [self._level(subject)] if self.config.pages else []
        if self.config.one_response:
            levels += [self.state.ratios.level(stream) for stream in self.state.ratios.streams_of(subject)]
        return max(levels, default=0.0) >= self.config.log_threshold

    def _before_onset(self, subject: str) -> EarlierPath | None:
        """What is from before the onset, or from before the first round after it that is distinguished."""
        onset, parts = self.onset(subject), self.state.earlier.get(subject, [])
        later = [part for part in parts if onset is not None and part.at >= onset.at]
        return min(later or parts[-1:], key=lambda part: part.at, default=None)

    def _since(self, path: AxisLikelihood, earlier: EarlierPath) -> Interval | None:
        if not earlier.since:
            return None
        log_lik, n = path.log_lik - earlier.log_lik, path.n - earlier.n
        return replace(most_likely(np.array(path.grid), log_lik, n, self.config.keep), n=earlier.since)

    @property
    def _processes(self) -> tuple[LikelihoodProcesses[Any], ...]:
        return self.state.ratios, self.state.clipped, self.state.clipped_alone

    def _multiply(self, adapter: str, scores: Sequence[TrafficScore], registered: frozenset[str], at: float) -> None:
        weights = self._weights({alternative for score in scores for alternative in score.alternatives}, registered)
        log_l: dict[AlternativeStream, list[float]] = {}
        for score in scores:
            for alternative, value in zip(score.alternatives, score.log_l.tolist(), strict=True):
                if alternative in weights:
                    log_l.setdefault((adapter, alternative), []).append(value)
        sums = {stream: np.array([sum(values)]) for stream, values in log_l.items()}
        self.state.ratios.multiply(sums, {stream: len(values) for stream, values in log_l.items()}, at)
        own = {stream for stream in log_l if self.config.own_weight(stream[1])}
        alone = {stream: self._clipped(np.array(log_l[stream])) for stream in log_l if stream in own}
        self.state.clipped_alone.multiply(alone, {stream: len(log_l[stream]) for stream in alone}, at)
        means = [(score.pod, mean) for score in scores if (mean := _mean(score, weights)) is not None]
        of_pods = {(adapter, pod): np.array([m for own, m in means if own == pod]) for pod in _pods(scores)}
        log_means = {(adapter, ALL_PODS): np.array([mean for _, mean in means])} | of_pods
        factors = {stream: self._clipped(values) for stream, values in log_means.items() if len(values)}
        self.state.clipped.multiply(factors, {stream: len(log_means[stream]) for stream in factors}, at)
        self._forget_pods(adapter)
        self._distinguish(adapter, at)
        for score in scores:
            self._remember(score)

    def _clipped(self, log_l: Doubles) -> Doubles:
        shares, most = np.array(self.config.replicas).T
        most = np.minimum(most, math.exp(self.config.log_threshold / 3.0))
        return clipped_mixture(log_l, shares, most, self.config.mislabelled)

    def _level(self, adapter: str) -> float:
        """Nats: ln of the mean of two M, of the clipped mixture over the mean of all alternatives of each response, and
        of the mixtures over one alternative each, averaged by their weights.

        The mean of a response's alternatives gives a response to whichever of them explains it, and costs a fault that
        one alone explains ln(1 / weight) nats in every response; an M of its own costs it that once.
        """
        alone, weight_of = self.state.clipped_alone, self.config.own_weight
        together = self.state.clipped.level((adapter, ALL_PODS))
        streams = [stream for stream in alone.streams_of(adapter) if weight_of(stream[1]) and alone.n(stream)]
        scored = [(weight_of(stream[1]), alone.level(stream)) for stream in streams]
        if not scored:
            return together
        weights, levels = np.array(scored).T
        return float(np.logaddexp(together, averaged(levels, weights)) - math.log(2.0))

    def _weights(self, alternatives: Collection[Alternative], registered: frozenset[str]) -> dict[Alternative, float]:
        """``weights_of`` all alternatives of one adapter, for those of these that have a weight.

        registered: all adapters of the base; the others of them share what the configuration leaves of 1
        """
        other = self.config.others / max(len(registered) - 1, 1)
        others = {who for who in alternatives if who.kind is AlternativeKind.OTHER_ADAPTER and who.name in registered}
        own = {who: self.config.own_weight(who) for who in alternatives}
        return {who: own[who] or other for who in alternatives if own[who] or who in others}

    def _forget_pods(self, adapter: str) -> None:
        """Pods come and go with every deployment: those whose last response is oldest make room."""
        clipped = self.state.clipped
        pods = [stream for stream in clipped.streams_of(adapter) if stream[1] != ALL_PODS]
        clipped.drop(sorted(pods, key=clipped.measured_at)[: max(len(pods) - self.config.pods_kept, 0)])

    def _distinguish(self, adapter: str, at: float) -> None:
        """From now on also the responses from before this round; no longer from before rounds that no onset is in."""
        alone, parts = self.state.clipped_alone, self.state.earlier.get(adapter, [])
        onsets = self.state.clipped.onsets((adapter, ALL_PODS)).union(*map(alone.onsets, alone.streams_of(adapter)))
        kept = [part for part in parts if part.at in onsets]
        if all(part.at != at for part in kept):
            path = self.state.paths.get(adapter, AxisLikelihood())
            kept.append(EarlierPath(at, path.log_lik, path.n))
        self.state.earlier[adapter] = kept

    def _remember(self, score: TrafficScore) -> None:
        keep, past = self.config.keep, self.state.paths.get(score.adapter, AxisLikelihood())
        path = past.after(score.path, score.path_log_lik, keep)
        if path is past:
            return
        self.state.paths[score.adapter] = path
        self.state.earlier[score.adapter] = [
            EarlierPath(part.at, keep * part.log_lik, keep * part.n, part.since + 1)
            if past.grid == path.grid
            else EarlierPath(part.at, np.zeros(len(path.grid)), 0.0, 1)
            for part in self.state.earlier.get(score.adapter, [])
        ]

    def _evidence(
        self, adapter: str, scores: Sequence[TrafficScore], registered: frozenset[str], record: TrafficRound
    ) -> Iterator[Evidence]:
        ratios, clipped = self.state.ratios, self.state.clipped
        level = partial(Evidence, self.about, adapter, "traffic_likelihood", round=record.number, at=record.at)
        whole = adapter, ALL_PODS
        yield level("replica", log_e=self._level(adapter), n=clipped.n(whole), pages=self.config.pages)
        known = {stream[1]: stream for stream in ratios.streams_of(adapter)}
        weights = {known[who]: weight for who, weight in self._weights(known, registered).items()}
        n = max(map(ratios.n, weights), default=0)
        yield level("", log_e=ratios.weighted(weights), n=n, pages=self.config.one_response)
        for pod in _pods(scores):
            log_e, n = clipped.level((adapter, pod)), clipped.n((adapter, pod))
            yield level(f"{POD}{pod}", log_e=log_e, n=n, pages=False, replica=pod)


def _alternative(named: Alternative | str) -> Alternative:
    """A configuration file names alternatives by their texts."""
    alternative = Alternative.from_text(named) if isinstance(named, str) else named
    if alternative.kind is AlternativeKind.UNKNOWN:
        raise Refused("traffic_likelihood config: alternative", named, "one of detectors/evidence/alternative.py")
    return alternative


def _pods(scores: Sequence[TrafficScore]) -> list[str]:
    return sorted({score.pod for score in scores} - {""})


def _alternative_stream(form: Any) -> AlternativeStream:
    adapter, text = form if isinstance(form, list) else _tab_joined(form)
    return adapter, Alternative.from_text(text)


def _replica_stream(form: Any) -> ReplicaStream:
    adapter, pod = form if isinstance(form, list) else _tab_joined(form)
    return adapter, pod


def _tab_joined(name: str) -> tuple[str, str]:
    adapter, _, about = name.partition("\t")
    return adapter, about


def _mean(score: TrafficScore, weights: dict[Alternative, float]) -> float | None:
    """ln of the weighted mean over the alternatives that were scored; None where none has a weight."""
    weighted = [
        (value, weights[alternative])
        for alternative, value in zip(score.alternatives, score.log_l.tolist(), strict=True)
        if alternative in weights
    ]
    if not weighted:
        return None
    values, own_weights = np.array(weighted).T
    return averaged(values, own_weights)
