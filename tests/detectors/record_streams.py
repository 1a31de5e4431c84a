"""Endless records for any detector: healthy, at the very edge of its null, or broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detectors.evidence.alternative import BASE, other_adapter
from detectors.kinds.token_calibration import Config
from detectors.records import BaseRound, Round, SubjectKind
from detectors.registry import OfEnginesAlone
from detectors.traffic_records import Embedding, ScoringMode, TrafficRound, TrafficScore
from tests.detectors.synthetic import ADAPTERS, EVERY_S, embedding, make_base_round, make_round, with_cells


@dataclass(frozen=True)
class Stream:
    """Records of one type, as many as asked for, for one subject.

    ticks: how many records make one "+1"; warm_up: records before the first of them; ends: ticks it can give at most
    fixed_past: may the past be frozen while the next record is redrawn? (not where the past holds unused references)
    in_modes: are its canaries had in other modes too?
    """

    reads: type
    subject: str
    about: SubjectKind
    ticks: int
    warm_up: int
    ends: int
    fixed_past: bool
    in_modes: bool = False

    def records(self, fault: str, seed: int, draws: int = 1) -> Iterator[object]:
        """fault: "healthy", "edge" (of the null) or "broken". The seed shifts the numbers, which fix the draws."""
        number = seed * 100_000
        while True:
            yield self._record(fault, number, draws)
            number += 1

    def _record(self, fault: str, number: int, draws: int) -> object:
        if self.reads is Embedding:
            within = number % 100_000
            return embedding(number // 100_000, within, 1.5 if fault == "broken" and within >= self.warm_up else 0.0)
        if self.reads is TrafficRound:
            adapters = ("router",) if self.about is SubjectKind.BASE_REQUESTS else ()
            return traffic_round(fault, number, draws, self.subject, adapters)
        record = BaseRound("smol", number, number * EVERY_S, tuple(self._members(fault, number, draws)))
        return with_cells(record) if self.in_modes else record

    def _members(self, fault: str, number: int, draws: int) -> Iterator[Round]:
        """The edge of a base's null is half of its members broken outright beside others at the edge of theirs.

        With two members its score has then exactly the tolerated share as its mean; with more it has less.
        """
        named = "not_applied" if fault == "broken" else fault
        if self.about is SubjectKind.ADAPTER:
            yield make_round(self.subject, named, number, draws, held_out=0)
            return
        yield make_round(ADAPTERS[0], "healthy" if fault == "healthy" else "not_applied", number, draws, held_out=0)
        yield make_round(ADAPTERS[1], named, number, draws, held_out=0)


SAMPLERS = Config().samplers


def traffic_score(fault: str, rng: np.random.Generator, adapter: str = "router", pod: str = "") -> TrafficScore:
    """One response. At the edge of the null every L is a half or one and a half, and its mean is 1; ranks are uniform,
    and where nothing but uniform ranks is benign, a bet on them has mean 1 as well."""
    size = 1 + len(SAMPLERS)
    log_l = {
        "healthy": rng.normal(-20.0, 5.0, size),
        "edge": np.log(rng.integers(0, 2, size) + 0.5),
        "broken": rng.normal(40.0, 5.0, size),
    }[fault].astype(np.float32)
    request_id, flat = f"{rng.integers(10**9)}", np.full(20, 14 / 20, np.float32)
    ranks = rng.random(14).astype(np.float32) ** (0.2 if fault == "broken" else 1.0)
    return TrafficScore(
        adapter, request_id, pod, 0.0, ScoringMode.SAMPLED, 14, (BASE,), log_l[:1], SAMPLERS, log_l[1:],
        ranks=ranks, ranks_weaker=flat, ranks_stronger=flat,
    )  # fmt: skip


def traffic_round(
    fault: str, number: int, draws: int, adapter: str = "router", adapters: tuple[str, ...] = ()
) -> TrafficRound:
    """adapters: of the base, where that is whose responses they are"""
    rng = np.random.default_rng([number, 3])
    scores = tuple(traffic_score(fault, rng, adapter) for _ in range(draws))
    if adapters:
        scores = tuple(replace(score, alternatives=(other_adapter("router"),)) for score in scores)
    return TrafficRound("smol", number, number * EVERY_S, adapters or (adapter,), scores)


def stream_for(detector: Any, config: Any) -> Stream:
    """The stream that a detector reads; a new record type gets its maker here."""
    if detector.reads is BaseRound:
        subject = "smol" if detector.about is SubjectKind.BASE else "router"
        in_modes = isinstance(config, OfEnginesAlone)
        return Stream(BaseRound, subject, detector.about, 1, 0, 10**9, True, in_modes)
    if detector.reads is TrafficRound:
        if detector.about is SubjectKind.BASE_REQUESTS:
            return Stream(TrafficRound, "smol", detector.about, 1, 0, 10**9, True)
        return Stream(TrafficRound, "router", detector.about, 1, 0, 10**9, True)
    assert detector.reads is Embedding, f"no maker for {detector.reads.__name__}: add one here"
    size, block = config.smallest_bank, config.block
    # As many as the first bank has, of which one reference in eight is never paired: M starts at 0 with each bank.
    return Stream(Embedding, "router", detector.about, block, size, size * 7 // 8 // block, False)


def round_of_all(stream: Stream, faults: Mapping[str, str], number: int = 0) -> BaseRound:
    """A round of the named adapters, each under its own fault, as the detector of that stream reads them."""
    record = make_base_round(faults, number)
    return with_cells(record) if stream.in_modes else record


def of_second_base(record: Any) -> Any:
    """The same record about another base with other adapters."""
    if isinstance(record, Embedding):
        return replace(record, adapter=f"{record.adapter}2")
    if isinstance(record, TrafficRound):
        scores = tuple(replace(score, adapter=f"{score.adapter}2") for score in record.scores)
        adapters = tuple(f"{name}2" for name in record.adapters)
        return replace(record, base=f"{record.base}2", adapters=adapters, scores=scores)
    members = tuple(replace(member, adapter=f"{member.adapter}2") for member in record.members)
    return replace(record, base=f"{record.base}2", members=members)
