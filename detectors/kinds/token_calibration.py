"""Token calibration: are the tokens drawn as the requests asked, or at another temperature, nucleus, penalty?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.mixture import Chains
from detectors.records import Evidence, Floats, Interval, SubjectKind, TrafficRound, TrafficScore
from detectors.state_json import pack, unpack
from detectors.streams import Beginning
from detectors.strength_from_text import most_likely, most_likely_step

Doubles = NDArray[np.float64]
MARK = "\t"


@dataclass(frozen=True, slots=True)
class Config:
    """samplers: what may be in force instead of the request's sampler, in equal parts (probes/likelihood.py names them)

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
    """What is remembered of one adapter's tokens. ranks: (bins,) how many had which rank, old ones half forgotten"""

    ranks: Doubles
    temperature: Axis = field(default_factory=Axis)
    top_p: Axis = field(default_factory=Axis)


@dataclass(slots=True)
class State:
    """chains: M of each adapter and sampler; seen: adapter -> what its estimates and its picture are made of"""

    chains: Chains = field(default_factory=Chains)
    seen: dict[str, Seen] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        seen = {
            name: {"ranks": pack(it.ranks), "temperature": it.temperature.to_json(), "top_p": it.top_p.to_json()}
            for name, it in self.seen.items()
        }
        return {"chains": self.chains.to_json(), "seen": seen}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        seen = {
            name: Seen(unpack(row["ranks"]), Axis.from_json(row["temperature"]), Axis.from_json(row["top_p"]))
            for name, row in stored["seen"].items()
        }
        chains = Chains.from_json(stored["chains"])
        assert isinstance(chains, Chains)
        return cls(chains, seen)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The sampler that is in force, as far as the recent tokens tell; for a person to look at.

    temperature, top_p: most likely values with 95 % profile-likelihood intervals, all else as requested; None unknown
    ranks: (bins,) share of tokens by their rank in the golden law, 1 / bins each while all is well: mass on the left is
    a colder sampler or a narrower nucleus, mass on the right a hotter one
    tokens: behind the histogram, as far as they are not forgotten
    """

    temperature: Interval | None
    top_p: Interval | None
    ranks: Doubles
    tokens: float


class Detector:
    """e-detector for H0: tokens are drawn from the golden adapter, or from what keeps the tolerated share of it, by the
    sampler that the request names.

    The weighted mean of one M a sampler; each is the product of likelihood ratios (probes/likelihood.py). One "+1" a
    TrafficRound. Guarantee: average run length at least A rounds. What breaks it: a model at fault, which is not this
    null (traffic_likelihood speaks for that), and records that name other parameters than the engine was given.
    It informs: the adapter may be well while its sampler is not, and no verdict speaks of samplers yet.

    Source: evidence.md section 4, sampler faults.
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

    def onset(self, subject: str) -> Beginning | None:
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

    def calibration(self, subject: str) -> Calibration | None:
        """None before the first scored response."""
        seen = self.state.seen.get(subject)
        if seen is None:
            return None
        tokens = float(seen.ranks.sum())
        shares = seen.ranks / tokens if tokens else seen.ranks
        return Calibration(_temperature(seen.temperature), _top_p(seen.top_p), shares, tokens)

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
        )

    def _evidence(self, adapter: str, record: TrafficRound) -> Evidence:
        chains, names = self.state.chains, self.config.samplers
        streams = {f"{adapter}{MARK}{name}": 1.0 / len(names) for name in names}
        n = max(map(chains.n, streams), default=0)
        log_e = chains.weighted(streams)
        return Evidence(self.about, adapter, "token_calibration", "", record.number, log_e, n, record.at, self.pages)


def _of(chains: Chains, subject: str) -> list[str]:
    return [key for key in chains.index if key.partition(MARK)[0] == subject]


def _top_p(axis: Axis) -> Interval | None:
    return most_likely_step(np.array(axis.grid), axis.log_lik, round(axis.n)) if axis.grid else None


def _temperature(axis: Axis) -> Interval | None:
    """Along 1 / temperature, where the likelihood is concave; turned back, ends exchanged."""
    if not axis.grid:
        return None
    found = most_likely(1.0 / np.array(axis.grid[::-1]), axis.log_lik[::-1].copy(), round(axis.n))
    return Interval(1.0 / found.mean, 1.0 / found.high, 1.0 / found.low, found.n)
