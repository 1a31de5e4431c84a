"""Token calibration: are tokens sampled with the parameters that requests ask for, or at another temperature, top-p or
penalty?

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
from detectors.evidence.profile_likelihood import AxisLikelihood, most_likely, most_likely_step
from detectors.records import Evidence, Interval, SubjectKind
from detectors.traffic_records import Calibration, TrafficRound, TrafficScore, by_adapter

Doubles = NDArray[np.float64]
# Adapter, and the name of the sampler that its tokens are compared with.
SamplerStream = tuple[str, str]
# A requested value below this share of the recent responses is forgotten; and no more than so many values are kept.
RARE, MOST_REQUESTED = 0.01, 16


@dataclass(frozen=True, slots=True)
class Config:
    """samplers: what may be in force instead of the request's sampler, in equal parts, named as in
    probes/scoring/token_scores.py

    bins: of the histogram of ranks; recent: half-life of a response's weight in estimates and histogram, in responses
    pages: may it alarm by itself? Then it is one more stream of each adapter in the fleet's budget
    """

    samplers: tuple[str, ...] = (
        "temperature 1", "temperature 0.3", "temperature 0", "temperature x0.8", "temperature x1.2",
        "top_p 0.9", "top_p 1", "no penalties",
    )  # fmt: skip
    bins: int = 20
    recent: float = 500.0
    pages: bool = False

    def __post_init__(self) -> None:
        if not self.samplers or self.bins < 2 or not self.recent > 0:
            raise Refused("token_calibration config", self, "at least one sampler, two bins, recent above 0")

    @property
    def keep(self) -> float:
        """What a response weighs in the estimates, as a share of what the next newer one does."""
        return float(0.5 ** (1.0 / self.recent))


@dataclass(slots=True)
class TokenHistory:
    """What is remembered of one adapter's tokens, older ones weighing less. ranks: (bins,) tokens by rank

    requested_*: value -> responses that were requested with it
    """

    ranks: Doubles
    temperature: AxisLikelihood = field(default_factory=AxisLikelihood)
    top_p: AxisLikelihood = field(default_factory=AxisLikelihood)
    requested_temperature: dict[float, float] = field(default_factory=dict)
    requested_top_p: dict[float, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "ranks": pack(self.ranks),
            "temperature": self.temperature.to_json(),
            "top_p": self.top_p.to_json(),
            "asked_temperature": list(self.requested_temperature.items()),
            "asked_top_p": list(self.requested_top_p.items()),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TokenHistory:
        """A file of an earlier version does not say what was requested."""
        temperature, top_p = (AxisLikelihood.from_json(stored[name]) for name in ("temperature", "top_p"))
        requested = [dict(stored.get(name, ())) for name in ("asked_temperature", "asked_top_p")]
        return cls(unpack(stored["ranks"]), temperature, top_p, *requested)


@dataclass(slots=True)
class State:
    """ratios: M of each adapter and sampler; histories: by adapter, behind its estimates and its histogram"""

    layout: ClassVar[int] = 1

    ratios: LikelihoodProcesses[SamplerStream] = field(default_factory=LikelihoodProcesses)
    histories: dict[str, TokenHistory] = field(default_factory=dict)

    def part(self, wanted: Callable[[str], bool]) -> State:
        histories = {adapter: history for adapter, history in self.histories.items() if wanted(adapter)}
        return State(self.ratios.part_of(wanted), histories)

    def joined(self, more: State) -> State:
        return State(self.ratios.joined(more.ratios), self.histories | more.histories)

    def to_json(self) -> dict[str, Any]:
        histories = {adapter: history.to_json() for adapter, history in self.histories.items()}
        return {"chains": self.ratios.to_json(list), "seen": histories}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        """A former version joined the parts of a stream's key by a tab, which no configured name holds."""
        histories = {adapter: TokenHistory.from_json(row) for adapter, row in stored["seen"].items()}
        return cls(LikelihoodProcesses[SamplerStream].from_json(stored["chains"], _sampler_stream), histories)


class Detector:
    """e-detector for H0: tokens are drawn from the golden adapter, or from what keeps the tolerated share of it, by the
    sampler that the request names.

    The weighted mean of one M for each sampler; each M multiplies the likelihood ratios of that sampler against the
    request's (probes/scoring/likelihood_ratio_reference.py). One "+1" a TrafficRound. Guarantee: average run length at
    least A rounds. What breaks it: a model at fault, which is outside this null (traffic_likelihood is the detector of
    that), and records that name other parameters than the engine was given.
    By default it informs and does not page: the adapter may be well while its sampler is not, and a healthy verdict
    then says so (sampler_report.py). With ``pages`` its alarm opens an incident, whose cause is the sampler where no
    alternative explains the responses (adapter_decision.py).

    Source: docs/mathematics.md#sampler-in-force.
    """

    reads = TrafficRound
    about = SubjectKind.ADAPTER

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    @property
    def pages(self) -> bool:
        return self.config.pages

    def update(self, record: TrafficRound) -> tuple[Evidence, ...]:
        """The responses scored since the last round. A response with NaN among its numbers is passed over."""
        scored = [s for s in record.scores if s.tokens and s.log_sampler.size]
        finite = [s for s in scored if bool(np.isfinite(s.log_sampler).all())]
        for adapter, scores in by_adapter(finite, record.adapters).items():
            self._multiply(adapter, scores, record.at)
        return tuple(self._evidence(adapter, record) for adapter in record.adapters)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the sampler with the highest level; None where there is none."""
        leading = self._leading(subject)
        return None if leading is None else self.state.ratios.onset(leading)

    def restart(self, subject: str) -> None:
        """Every M of one adapter back to 0, and its estimates and histogram forgotten."""
        self.state.histories.pop(subject, None)
        for stream in self.state.ratios.streams_of(subject):
            self.state.ratios.restart(stream)

    def leading(self, subject: str) -> str:
        """The sampler with the highest level, "" where none is above 0 nats."""
        leading = self._leading(subject)
        return leading[1] if leading is not None and self.state.ratios.level(leading) > 0 else ""

    def calibration(self, subject: str, record: TrafficRound) -> Calibration | None:
        """After the round ``record``; None before the first scored response."""
        history = self.state.histories.get(subject)
        if history is None:
            return None
        tokens = float(history.ranks.sum())
        return Calibration(
            adapter=subject,
            base=record.base,
            round=record.number,
            at=record.at,
            log_e=self.state.ratios.weighted(self._weights(subject)),
            leading=self.leading(subject),
            temperature=_temperature(history.temperature, self.config.keep),
            top_p=_top_p(history.top_p, self.config.keep),
            asked_temperature=_range(history.requested_temperature),
            asked_top_p=_range(history.requested_top_p),
            ranks=history.ranks / tokens if tokens else history.ranks,
            tokens=tokens,
        )

    def _leading(self, subject: str) -> SamplerStream | None:
        return max(self.state.ratios.streams_of(subject), key=self.state.ratios.level, default=None)

    def _multiply(self, adapter: str, scores: Sequence[TrafficScore], at: float) -> None:
        log_l: dict[SamplerStream, list[float]] = {}
        for score in scores:
            for name, value in zip(score.samplers, score.log_sampler.tolist(), strict=True):
                if name in self.config.samplers:
                    log_l.setdefault((adapter, name), []).append(value)
            self._remember(score)
        sums = {stream: np.array([sum(values)]) for stream, values in log_l.items()}
        self.state.ratios.multiply(sums, {stream: len(values) for stream, values in log_l.items()}, at)

    def _remember(self, score: TrafficScore) -> None:
        config, keep = self.config, self.config.keep
        past = self.state.histories.get(score.adapter, TokenHistory(np.zeros(config.bins)))
        counts, _ = np.histogram(score.ranks, bins=config.bins, range=(0.0, 1.0))
        self.state.histories[score.adapter] = TokenHistory(
            keep * past.ranks + counts,
            past.temperature.after(score.temperatures, score.temperature_log_lik, keep),
            past.top_p.after(score.top_ps, score.top_p_log_lik, keep),
            _requested(past.requested_temperature, score.temperature, keep),
            _requested(past.requested_top_p, score.top_p, keep),
        )

    def _evidence(self, adapter: str, record: TrafficRound) -> Evidence:
        ratios, streams = self.state.ratios, self._weights(adapter)
        n = max(map(ratios.n, streams), default=0)
        log_e = ratios.weighted(streams)
        return Evidence(self.about, adapter, "token_calibration", "", record.number, log_e, n, record.at, self.pages)

    def _weights(self, adapter: str) -> dict[SamplerStream, float]:
        names = self.config.samplers
        return {(adapter, name): 1.0 / len(names) for name in names}


def _sampler_stream(form: Any) -> SamplerStream:
    adapter, name = form if isinstance(form, list) else form.split("\t", 1)
    return adapter, name


def _requested(past: dict[float, float], value: float, keep: float) -> dict[float, float]:
    """With one more response; what has long not been requested is forgotten."""
    after = {earlier: keep * weight for earlier, weight in past.items()}
    if math.isfinite(value):
        value = round(value, 3)
        after[value] = after.get(value, 0.0) + 1.0
    often = sorted(after, key=lambda requested: -after[requested])[:MOST_REQUESTED]
    return {requested: after[requested] for requested in often if after[requested] >= RARE}


def _range(requested: dict[float, float]) -> tuple[float, ...]:
    """Smallest and largest of the values that are not rare."""
    often = [value for value, weight in requested.items() if weight >= RARE * sum(requested.values())]
    return (min(often), max(often)) if often else ()


def _top_p(axis: AxisLikelihood, keep: float) -> Interval | None:
    return most_likely_step(np.array(axis.grid), axis.log_lik, axis.n, keep) if axis.grid else None


def _temperature(axis: AxisLikelihood, keep: float) -> Interval | None:
    """Fitted along 1 / temperature, where the likelihood is concave; its upper end is the temperature's lower one."""
    if not axis.grid:
        return None
    inverse = most_likely(1.0 / np.array(axis.grid[::-1]), axis.log_lik[::-1].copy(), axis.n, keep)
    return Interval(1.0 / inverse.mean, 1.0 / inverse.high, 1.0 / inverse.low, inverse.n)
