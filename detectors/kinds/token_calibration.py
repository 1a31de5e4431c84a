"""Token calibration: are the tokens drawn as the requests asked, or at another temperature, nucleus, penalty?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.evidence.likelihood_process import Chains
from detectors.evidence.profile_likelihood import most_likely, most_likely_step
from detectors.records import Evidence, Floats, Interval, SubjectKind
from detectors.traffic_records import Calibration, TrafficRound, TrafficScore

Doubles = NDArray[np.float64]
MARK = "\t"
# Below this share of the recent responses a value that was asked for is forgotten; and no more than so many are kept.
RARE, MOST_ASKED = 0.01, 16


@dataclass(frozen=True, slots=True)
class Config:
    """samplers: what may be in force instead of the request's sampler, in equal parts, named as in
    probes/scoring/likelihood_ratio.py

    bins: of the histogram of ranks; recent: responses after which estimates and histogram have half forgotten
    """

    samplers: tuple[str, ...] = (
        "temperature 1", "temperature 0.3", "temperature 0", "temperature x0.8", "temperature x1.2",
        "top_p 0.9", "top_p 1", "no penalties",
    )  # fmt: skip
    bins: int = 20
    recent: float = 500.0

    def __post_init__(self) -> None:
        if not self.samplers or self.bins < 2 or not self.recent > 0:
            raise Refused("token_calibration config", self, "at least one sampler, two bins, recent above 0")


@dataclass(slots=True)
class Axis:
    """ln likelihood of the recent responses along one axis of samplers. grid: (G,) ascending"""

    grid: tuple[float, ...] = ()
    log_lik: Doubles = field(default_factory=lambda: np.zeros(0))
    n: float = 0.0

    def after(self, grid: Floats, log_lik: Floats, keep: float) -> Axis:
        """With one more response; another grid than before begins anew."""
        if not log_lik.size or not bool(np.isfinite(log_lik).all()):
            return self
        told = tuple(grid.tolist())
        past = self.log_lik if told == self.grid else np.zeros(len(told))
        return Axis(told, keep * past + log_lik.astype(np.float64), keep * self.n + 1.0 if told == self.grid else 1.0)

    def to_json(self) -> dict[str, Any]:
        return {"grid": list(self.grid), "log_lik": pack(self.log_lik), "n": self.n}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Axis:
        return cls(tuple(stored["grid"]), unpack(stored["log_lik"]), stored["n"])


@dataclass(slots=True)
class Seen:
    """What is remembered of one adapter's tokens. ranks: (bins,) how many had which rank, old ones half forgotten

    asked_*: value -> how many responses were asked for with it, likewise
    """

    ranks: Doubles
    temperature: Axis = field(default_factory=Axis)
    top_p: Axis = field(default_factory=Axis)
    asked_temperature: dict[float, float] = field(default_factory=dict)
    asked_top_p: dict[float, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        asked = {name: list(getattr(self, name).items()) for name in ("asked_temperature", "asked_top_p")}
        axes = {"temperature": self.temperature.to_json(), "top_p": self.top_p.to_json()}
        return {"ranks": pack(self.ranks), **axes, **asked}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Seen:
        """A file of an earlier version does not say what was asked for."""
        temperature, top_p = (Axis.from_json(stored[name]) for name in ("temperature", "top_p"))
        asked = [dict(stored.get(name, ())) for name in ("asked_temperature", "asked_top_p")]
        return cls(unpack(stored["ranks"]), temperature, top_p, *asked)


@dataclass(slots=True)
class State:
    """chains: M of each adapter and sampler; seen: adapter -> what its estimates and its picture are made of"""

    layout: ClassVar[int] = 1

    chains: Chains = field(default_factory=Chains)
    seen: dict[str, Seen] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"chains": self.chains.to_json(), "seen": {name: it.to_json() for name, it in self.seen.items()}}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        seen = {name: Seen.from_json(row) for name, row in stored["seen"].items()}
        chains = Chains.from_json(stored["chains"])
        assert isinstance(chains, Chains)
        return cls(chains, seen)


class Detector:
    """e-detector for H0: tokens are drawn from the golden adapter, or from what keeps the tolerated share of it, by the
    sampler that the request names.

    The weighted mean of one M a sampler; each is the product of likelihood ratios (probes/scoring/likelihood_ratio.py).
    One "+1" a TrafficRound. Guarantee: average run length at least A rounds. What breaks it: a model at fault, which is
    not this null (traffic_likelihood speaks for that), and records that name other parameters than the engine was
    given.
    It informs: the adapter may be well while its sampler is not, and a healthy verdict then says so
    (sampler_report.py).

    Source: docs/mathematics.md#sampler-in-force.
    """

    reads = TrafficRound
    about = SubjectKind.ADAPTER
    pages = False

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: TrafficRound) -> tuple[Evidence, ...]:
        """All that was scored since the last one. A response with NaN among its numbers is passed over."""
        told = [s for s in record.scores if s.tokens and s.log_sampler.size and bool(np.isfinite(s.log_sampler).all())]
        for adapter in record.adapters:
            self._chain(adapter, [score for score in told if score.adapter == adapter], record.at)
        return tuple(self._evidence(adapter, record) for adapter in record.adapters)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the sampler whose evidence is furthest; None where there is none."""
        chains = self.state.chains
        furthest = max(_of(chains, subject), key=chains.level, default=None)
        return None if furthest is None else chains.onset(furthest)

    def restart(self, subject: str) -> None:
        """Every M of one adapter back to 0, and its estimates and histogram forgotten."""
        self.state.seen.pop(subject, None)
        for key in _of(self.state.chains, subject):
            self.state.chains.restart(key)

    def leading(self, subject: str) -> str:
        """The sampler that the evidence speaks for most, "" where none has any."""
        chains = self.state.chains
        furthest = max(_of(chains, subject), key=chains.level, default="")
        return furthest.partition(MARK)[2] if furthest and chains.level(furthest) > 0 else ""

    def calibration(self, subject: str, record: TrafficRound) -> Calibration | None:
        """After the round ``record``; None before the first scored response."""
        seen = self.state.seen.get(subject)
        if seen is None:
            return None
        tokens = float(seen.ranks.sum())
        return Calibration(
            adapter=subject,
            base=record.base,
            round=record.number,
            at=record.at,
            log_e=self.state.chains.weighted(self._weights(subject)),
            leading=self.leading(subject),
            temperature=_temperature(seen.temperature),
            top_p=_top_p(seen.top_p),
            asked_temperature=_range(seen.asked_temperature),
            asked_top_p=_range(seen.asked_top_p),
            ranks=seen.ranks / tokens if tokens else seen.ranks,
            tokens=tokens,
        )

    def _chain(self, adapter: str, scores: Sequence[TrafficScore], at: float) -> None:
        log_l: dict[str, list[float]] = {}
        for score in scores:
            for name, value in zip(score.samplers, score.log_sampler.tolist(), strict=True):
                if name in self.config.samplers:
                    log_l.setdefault(f"{adapter}{MARK}{name}", []).append(value)
            self._remember(score)
        sums = {key: np.array([sum(values)]) for key, values in log_l.items()}
        self.state.chains.chain(sums, {key: len(values) for key, values in log_l.items()}, at)

    def _remember(self, score: TrafficScore) -> None:
        config, keep = self.config, 0.5 ** (1.0 / self.config.recent)
        past = self.state.seen.get(score.adapter, Seen(np.zeros(config.bins)))
        counts, _ = np.histogram(score.ranks, bins=config.bins, range=(0.0, 1.0))
        self.state.seen[score.adapter] = Seen(
            keep * past.ranks + counts,
            past.temperature.after(score.temperatures, score.temperature_log_lik, keep),
            past.top_p.after(score.top_ps, score.top_p_log_lik, keep),
            _asked(past.asked_temperature, score.temperature, keep),
            _asked(past.asked_top_p, score.top_p, keep),
        )

    def _evidence(self, adapter: str, record: TrafficRound) -> Evidence:
        chains, streams = self.state.chains, self._weights(adapter)
        n = max(map(chains.n, streams), default=0)
        log_e = chains.weighted(streams)
        return Evidence(self.about, adapter, "token_calibration", "", record.number, log_e, n, record.at, self.pages)

    def _weights(self, adapter: str) -> dict[str, float]:
        names = self.config.samplers
        return {f"{adapter}{MARK}{name}": 1.0 / len(names) for name in names}


def _of(chains: Chains, subject: str) -> list[str]:
    return [key for key in chains.index if key.partition(MARK)[0] == subject]


def _asked(past: dict[float, float], value: float, keep: float) -> dict[float, float]:
    """With one more response; what has long not been asked for is forgotten."""
    after = {known: keep * weight for known, weight in past.items()}
    if math.isfinite(value):
        value = round(value, 3)
        after[value] = after.get(value, 0.0) + 1.0
    often = sorted(after, key=lambda known: -after[known])[:MOST_ASKED]
    return {known: after[known] for known in often if after[known] >= RARE}


def _range(asked: dict[float, float]) -> tuple[float, ...]:
    """Least and greatest of those that are not rare."""
    often = [value for value, weight in asked.items() if weight >= RARE * sum(asked.values())]
    return (min(often), max(often)) if often else ()


def _top_p(axis: Axis) -> Interval | None:
    return most_likely_step(np.array(axis.grid), axis.log_lik, round(axis.n)) if axis.grid else None


def _temperature(axis: Axis) -> Interval | None:
    """Along 1 / temperature, where the likelihood is concave; turned back, ends exchanged."""
    if not axis.grid:
        return None
    found = most_likely(1.0 / np.array(axis.grid[::-1]), axis.log_lik[::-1].copy(), round(axis.n))
    return Interval(1.0 / found.mean, 1.0 / found.high, 1.0 / found.low, found.n)
