"""Adapter gap: do more canaries than tolerated show another strength or another direction than was accepted?"""

from __future__ import annotations

from dataclasses import dataclass, field

from detectors.records import Evidence, Round, SubjectKind
from detectors.score import Tolerances, blocked_by, scores
from detectors.streams import Streams

State = Streams


@dataclass(frozen=True, slots=True)
class Config:
    """tolerances: the promise to the user; bets: processes in the mixture, a top bet and its halvings."""

    tolerances: Tolerances = field(default_factory=Tolerances)
    bets: int = 8


class Detector:
    """e-detector for H0: given the past, at most ``tolerances.share`` of the canary pool is beyond tolerance.

    Average run length to ``log_e >= ln A`` is at least A rounds, whatever the noise. What breaks it: canaries not drawn
    at random, and a benign change beyond the tolerance that stays: that does page, it is the promise.
    A round without measurements changes nothing and adds no "+1".

    Source: evidence.md section 3; bets.py.
    """

    reads = Round

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: Round) -> Evidence:
        """One scheduled round of one adapter, chained inside a single "+1"."""
        if blocked_by(record) is None:
            tolerances = self.config.tolerances
            self.state.advance(record.adapter, scores(record, tolerances), tolerances.share, self.config.bets)
        return Evidence(
            subject_kind=SubjectKind.ADAPTER,
            subject=record.adapter,
            detector="adapter_gap",
            stream="",
            round=record.number,
            log_e=self.state.level(record.adapter),
            n=self.state.n.get(record.adapter, 0),
            at=record.at,
        )

    def restart(self, subject: str) -> None:
        """M of one adapter back to 0."""
        self.state.restart(subject)
