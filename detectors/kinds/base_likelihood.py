"""Base likelihood: were sampled responses to requests that name the base itself written by the accepted base, or rather
by one of its adapters?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.alternative import Alternative, AlternativeKind
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.evidence.likelihood_process import (
    LikelihoodProcesses,
    averaged,
    clipped_mixture,
    onset_of,
    restart_all,
)
from detectors.records import Evidence, SubjectKind
from detectors.traffic_records import TrafficRound, TrafficScore

Doubles = NDArray[np.float64]
# Base, and the alternative that its responses are compared with.
AlternativeStream = tuple[str, Alternative]
# Base, and ``ALL``: the mean over the alternatives of each response.
WholeStream = tuple[str, str]
ALL = ""


@dataclass(frozen=True, slots=True)
class Config:
    """log_threshold: ln A of the fleet, nats; no response adds more than a third of it
    replicas: (q, k) of the clipped mixture (likelihood_process.py), one M each, as of responses of adapters
    mislabelled: r, share of the records that may name the base although their request named an adapter
    pages: may it alarm by itself?
    """

    # Not compared where saved evidence is taken up (saved_config.py): it stays valid under another cap.
    log_threshold: float = field(default=21.5, repr=False, compare=False)
    replicas: tuple[tuple[float, float], ...] = (
        (0.003, 32.0), (0.01, 110.0), (0.03, 32.0), (0.1, 110.0), (0.3, 430.0), (1.0, 16.0), (1.0, math.inf),
    )  # fmt: skip
    mislabelled: float = 1e-3
    pages: bool = True

    def __post_init__(self) -> None:
        clips = self.replicas and all(0 < share <= 1 < most for share, most in self.replicas)
        if not (clips and 0 <= self.mislabelled < 1 and self.log_threshold > 0):
            raise Refused("base_likelihood config", self, "shares in (0, 1], most above 1, mislabelled in [0, 1)")

    def with_threshold(self, log_threshold: float) -> Config:
        """The same settings where the fleet's threshold is another one."""
        return replace(self, log_threshold=log_threshold)


@dataclass(slots=True)
class State:
    """together: M of the clipped mixture of the mean over each response's alternatives; alone: of each alternative"""

    layout: ClassVar[int] = 1

    together: LikelihoodProcesses[WholeStream] = field(default_factory=LikelihoodProcesses)
    alone: LikelihoodProcesses[AlternativeStream] = field(default_factory=LikelihoodProcesses)

    def part(self, wanted: Callable[[str], bool]) -> State:
        return State(self.together.part_of(wanted), self.alone.part_of(wanted))

    def joined(self, more: State) -> State:
        return State(self.together.joined(more.together), self.alone.joined(more.alone))

    def to_json(self) -> dict[str, Any]:
        return {
            "together": self.together.to_json(list),
            "alone": self.alone.to_json(lambda stream: [stream[0], stream[1].text]),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        together = LikelihoodProcesses[WholeStream].from_json(stored["together"], lambda form: (form[0], form[1]))
        alone = LikelihoodProcesses[AlternativeStream].from_json(
            stored["alone"], lambda form: (form[0], Alternative.from_text(form[1]))
        )
        return cls(together, alone)


class Detector:
    """e-detector for H0: what answers requests that name the base is the accepted base, with at most the tolerated
    share of an adapter on it, whatever the prompts are.

    The clipped mixture of traffic_likelihood.py: half of the level bets on the mean over a response's alternatives, all
    of the same weight, half on one alternative each. One "+1" a TrafficRound, none where no such response was scored.
    Guarantee: average run length at least A rounds, and P(alarm by round T) <= T / A; also where a share
    ``mislabelled`` of the records, each by chance and not in bursts, has any writer. What breaks it: what breaks the
    ratios (probes/scoring/likelihood_ratio_reference.py::score_base) or the mixture (likelihood_process.py), a gateway
    that forgets the adapter's name in its records most of all: these responses are an adapter's.

    Source: docs/mathematics.md#base-traffic.
    """

    reads = TrafficRound
    about = SubjectKind.BASE_REQUESTS

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    @property
    def pages(self) -> bool:
        return self.config.pages

    def update(self, record: TrafficRound) -> tuple[Evidence, ...]:
        """The level after the base's own responses of the round; none of a base that never had one. A response with NaN
        among its numbers is passed over."""
        self._forget_removed(record)
        scores = [s for s in record.of_base if s.tokens and s.log_l.size and bool(np.isfinite(s.log_l).all())]
        if scores:
            self._multiply(record.base, scores, record.at)
        elif (record.base, ALL) not in self.state.together.index:
            return ()
        log_e, n = self._level(record.base), self.state.together.n((record.base, ALL))
        name = "base_likelihood"
        return (Evidence(self.about, record.base, name, "", record.number, log_e, n, record.at, self.config.pages),)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the stream with the highest level; None where there is none."""
        return onset_of(self._processes, subject)

    def restart(self, subject: str) -> None:
        """Every M of one base back to 0."""
        restart_all(self._processes, subject)

    def accept_adapter(self, adapter: str) -> None:
        """Another golden record of this adapter is in force, perhaps on another base: bets on and against the former
        start again."""
        for base, alternative in tuple(self.state.alone.index):
            if alternative.name == adapter:
                self.restart(base)

    @property
    def _processes(self) -> tuple[LikelihoodProcesses[Any], ...]:
        return self.state.together, self.state.alone

    def _forget_removed(self, record: TrafficRound) -> None:
        """The M of adapters that are registered no more would lower the mean of the others for ever. What is taken out
        follows from the configuration, not from what was written: with k alternatives left of n the level rises by
        ln(n / k) at most, once."""
        kinds = (AlternativeKind.OTHER_ADAPTER, AlternativeKind.INTERPOLATION)
        of_adapters = [stream for stream in self.state.alone.streams_of(record.base) if stream[1].kind in kinds]
        self.state.alone.drop([stream for stream in of_adapters if stream[1].name not in record.adapters])

    def _multiply(self, base: str, scores: Sequence[TrafficScore], at: float) -> None:
        means = np.array([averaged(_doubles(score), np.ones(score.log_l.size)) for score in scores])
        self.state.together.multiply({(base, ALL): self._clipped(means)}, {(base, ALL): len(means)}, at)
        log_l: dict[AlternativeStream, list[float]] = {}
        for score in scores:
            for alternative, value in zip(score.alternatives, score.log_l.tolist(), strict=True):
                log_l.setdefault((base, alternative), []).append(value)
        factors = {stream: self._clipped(np.array(values)) for stream, values in log_l.items()}
        self.state.alone.multiply(factors, {stream: len(values) for stream, values in log_l.items()}, at)

    def _clipped(self, log_l: Doubles) -> Doubles:
        shares, most = np.array(self.config.replicas).T
        most = np.minimum(most, math.exp(self.config.log_threshold / 3.0))
        return clipped_mixture(log_l, shares, most, self.config.mislabelled)

    def _level(self, base: str) -> float:
        """Nats: ln of the mean of two M. The alternatives are those that were scored so far, which can only become
        more, and a new one's M begins at 0: that lowers the mean."""
        alone = self.state.alone
        levels = np.array([alone.level(stream) for stream in alone.streams_of(base) if alone.n(stream)])
        together = self.state.together.level((base, ALL))
        if not levels.size:
            return together
        return float(np.logaddexp(together, averaged(levels, np.ones(levels.size))) - math.log(2.0))


def _doubles(score: TrafficScore) -> Doubles:
    return score.log_l.astype(np.float64)
