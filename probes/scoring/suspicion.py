"""Once an adapter is suspect: which further alternatives its responses are scored against, to find what is at fault.

A block that an engine has lost, or weights that it has rounded, is no alternative of every response: there are too
many of them. The first ``LOOKS`` responses of a suspicion are scored against all, each later one against the few that
explained those best, until ``LASTING`` responses went by without a verdict that renews the suspicion. An adapter that
is well pays nothing.

A pass that raises ends the suspicions of its batch: no more of it is scored until as many responses went by.

Null and guarantee are those of the ratios (likelihood_ratio_reference.py): which alternatives a response is scored
against depends on verdicts on earlier responses and on the scores of earlier ones, never on what it says itself. So,
given all that was scored before it, every L keeps its mean of at most 1, and those that are not scored count as L = 1.
What breaks it: responses that are scored again with alternatives that were chosen by them.

Source: docs/mathematics.md#suspected-faults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detectors.evidence.alternative import BASE, Alternative, AlternativeKind, other_adapter, rounded, without
from detectors.traffic_records import TrafficScore
from probes.errors import ProbeError
from probes.runner import Breakable, Weights
from probes.scoring.scoring_job import ScoringJob

# Responses that are scored against all; in two batches of the worker the leading ones are known.
LOOKS = 16
# Scored against afterwards, as many as the passes that a response has by default.
LEADING = 2
# Responses of a base after which its path is chosen, by these and those before.
CHOOSING = 4
# Responses after which a suspicion ends that no verdict renews.
LASTING = 64
# Adapters of a base that are suspect at a time: what is wrong with their base shows in a few.
MEMBERS = 3
# What engines store weights in, one scale a row, or one for so many weights of it. A pass of each holds a second base
# in memory; where that does not fit it is left out (probes/model/response_scoring.py).
ROUNDINGS = ("8", "4", "4/32", "4/128", "3")
# Blocks of one adapter: kinds of modules, and quarters of its layers.
MOST_BLOCKS, PARTS = 10, 4
LAYER = re.compile(r"layers\.(\d+)")
# Share of the responses that may show a fault, where one replica of many is at fault.
SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Of one adapter, or of a base that requests name. candidates: all that may be at fault

    looked: responses that were scored against all of them; gains: nats by which each explained these
    left: responses until it ends
    others: adapter, or half of the way to it -> nats by which it explained responses of the base, each as it was drawn,
    those before the suspicion included; compared: responses since then
    path_from: of a base the adapter that answers for it if any does, that of the verdict where it names one, else once
    and for all after ``CHOOSING`` responses: from it the likelihood along the path is recorded, by which
    detectors/traffic/path_recovery.py ends the incident
    """

    candidates: tuple[Alternative, ...]
    of_base: bool = False
    looked: int = 0
    gains: tuple[float, ...] = ()
    left: int = LASTING
    others: Mapping[Alternative, float] = field(default_factory=dict)
    compared: int = 0
    path_from: Alternative | None = None

    def wanted(self, n: int) -> list[tuple[Alternative, ...]]:
        """For each of the next n responses what it is scored against. Those of one batch that come after the first
        ``LOOKS`` wait with their bet: which ones lead is not known yet."""
        path = () if self.path_from is None else (self.path_from,)
        if self.looked >= LOOKS:
            return [(*self._leading, *path)] * n
        left = LOOKS - self.looked
        return [(*(self.candidates if i < left else ()), *path) for i in range(n)]

    def after(self, score: TrafficScore) -> Suspicion:
        """One response more; it says which ones lead if it was scored against all. One that was not scored counts: an
        adapter of which none is any more must not stay suspect for ever."""
        if not score.tokens:
            return replace(self, left=self.left - 1)
        log_l = dict(zip(score.alternatives, score.log_l.tolist(), strict=True))
        older = replace(self._with_others(log_l), left=self.left - 1)
        values = np.array([log_l.get(who, math.nan) for who in self.candidates])
        if self.looked >= LOOKS or np.isnan(values).all():
            return older
        grown = np.nan_to_num(_mixed(values), nan=0.0)
        gains = grown + (np.array(self.gains) if self.gains else 0.0)
        return replace(older, looked=self.looked + 1, gains=tuple(gains.tolist()))

    def _with_others(self, log_l: Mapping[Alternative, float]) -> Suspicion:
        gains = _gains_of_adapters(log_l)
        if not self.of_base or self.path_from is not None or not gains:
            return self
        others = dict(self.others) | {who: self.others.get(who, 0.0) + gain for who, gain in gains.items()}
        compared = self.compared + 1
        chosen = other_adapter(max(others, key=others.__getitem__).name) if compared >= CHOOSING else None
        return replace(self, others=others, compared=compared, path_from=chosen)

    @property
    def _leading(self) -> tuple[Alternative, ...]:
        best = np.argsort(-np.array(self.gains), kind="stable")[:LEADING]
        return tuple(self.candidates[i] for i in sorted(best.tolist()))


@dataclass(slots=True)
class Suspicions:
    """Of the adapters of one base. held: adapter -> its suspicion; a restart loses them, and the next verdict asks for
    them again

    others: as of ``Suspicion``, since each was last at 0 or below: of a weak fault a few responses do not tell which
    adapter it is, and those that made the base suspect do
    failed: adapter -> how many of its responses are still to go by until it may be suspect again
    """

    held: dict[str, Suspicion] = field(default_factory=dict)
    others: dict[Alternative, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def begin(
        self, adapter: str, candidates: Callable[[], Sequence[Alternative]], of_base: bool = False, path_from: str = ""
    ) -> None:
        """No more than ``MEMBERS`` adapters at a time, and the base; one that is suspect already goes on from where it
        is. path_from: of a base, as of its verdict"""
        if adapter not in self.held and adapter not in self.failed and (of_base or self._members < MEMBERS):
            if faults := tuple(candidates()):
                self.held[adapter] = Suspicion(faults, of_base, others=dict(self.others) if of_base else {})
        elif adapter in self.held:
            self.held[adapter] = replace(self.held[adapter], left=LASTING)
        if path_from and adapter in self.held:
            self.held[adapter] = replace(self.held[adapter], path_from=other_adapter(path_from))

    def end(self, jobs: Sequence[ScoringJob]) -> list[str]:
        """Scoring these has raised: the suspicions of their adapters end, and the answer is which adapters these are.
        The next batch is scored without; were they to go on, each might raise, and no response be scored any more."""
        ended = [adapter for adapter in dict.fromkeys(job.adapter for job in jobs) if adapter in self.held]
        for adapter in ended:
            del self.held[adapter]
            self.failed[adapter] = LASTING
        return ended

    @property
    def _members(self) -> int:
        return sum(not own.of_base for own in self.held.values())

    def applied_to(self, jobs: Sequence[ScoringJob]) -> list[ScoringJob]:
        """Each with what it suspects, in their order."""
        by_adapter = {name: iter(own.wanted(len(jobs))) for name, own in self.held.items()}
        return [replace(job, suspected=next(by_adapter[job.adapter])) if job.adapter in by_adapter else job
                for job in jobs]  # fmt: skip

    def learn(self, scores: Iterable[TrafficScore]) -> None:
        for score in scores:
            if BASE not in score.alternatives:  # a response of the base
                gains = _gains_of_adapters(dict(zip(score.alternatives, score.log_l.tolist(), strict=True)))
                self.others |= {who: max(self.others.get(who, 0.0) + gain, 0.0) for who, gain in gains.items()}
            if score.adapter in self.held:
                self.held[score.adapter] = self.held[score.adapter].after(score)
            if score.adapter in self.failed:
                self.failed[score.adapter] -= 1
        self.held = {adapter: own for adapter, own in self.held.items() if own.left > 0}
        self.failed = {adapter: left for adapter, left in self.failed.items() if left > 0}


def _gains_of_adapters(log_l: Mapping[Alternative, float]) -> dict[Alternative, float]:
    """Nats by which adapters, and half of the way to each, explain one response of the base."""
    kinds = (AlternativeKind.OTHER_ADAPTER, AlternativeKind.INTERPOLATION)
    return {who: float(_mixed(own)) for who, own in log_l.items() if who.kind in kinds and math.isfinite(own)}


def _mixed(log_l: Any) -> Any:
    """ln of the e-value where only some responses may show the fault. log_l: a number, or an array of them"""
    return np.logaddexp(math.log1p(-SHARE), math.log(SHARE) + log_l)


def candidates(runner: object, adapter: str, of_base: bool = False) -> tuple[Alternative, ...]:
    """What may be at fault where no alternative of every response is: blocks of the adapter, and roundings of its base.
    None of a runner that cannot play faults, or that has no golden copy."""
    if not isinstance(runner, Breakable):
        return ()
    roundings = tuple(map(rounded, ROUNDINGS))
    if of_base:
        return roundings
    try:
        blocks = coarse(runner.blocks(adapter, Weights.GOLDEN))
    except ProbeError:
        return ()
    return (*map(without, blocks), *roundings)


def coarse(blocks: Sequence[str]) -> list[str]:
    """Kinds of modules, and ranges of layers in place of single ones. blocks: as ``Breakable.blocks`` has them"""
    kinds = [block for block in blocks if not LAYER.fullmatch(block)]
    numbers = sorted(int(matched[1]) for block in blocks if (matched := LAYER.fullmatch(block)))
    parts = [part.tolist() for part in np.array_split(np.array(numbers, np.int64), PARTS) if part.size]
    ranges = [f"layers.{part[0]}-{part[-1]}" if len(part) > 1 else f"layers.{part[0]}" for part in parts]
    return (kinds[: MOST_BLOCKS - len(ranges)] + ranges)[:MOST_BLOCKS]
