"""Base shift: do more than half of the adapters of one base show more than is tolerated, in the same round?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from detectors.canaries.composed_skills import without_skills
from detectors.canaries.tolerance import Tolerances, base_scores
from detectors.evidence.e_process_bank import EProcessBank, EvidenceSource, OnsetEstimate
from detectors.records import BaseRound, Evidence, SubjectKind


class State(EProcessBank[str]):
    """Layout 1 held evidence against another share, that of the members' median, and by another rule for a canary."""

    __slots__ = ()
    layout: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Config:
    """tolerances: what is promised to the user; bets: number of processes in the mixture (e_detector.py)"""

    tolerances: Tolerances = field(default_factory=Tolerances)
    bets: int = 8


class Detector:
    """e-detector on the scores of a base, draw by draw: 1 where enough of its measured members are beyond tolerance.

    H0: at most half of the members are broken, in each of the others at most ``tolerances.share`` of the pool is beyond
    tolerance, given the past, and members draw independently of each other. How many members are enough follows from
    it (``members_needed``), for as many as are measured in that round: the mean score is at most ``tolerances.share``.
    Guarantee: average run length at least A rounds. What breaks it: members whose draws depend on each other. With
    fewer than two measured members the evidence stays as it is (``n`` too, which is 0 in a base of one).

    Source: docs/mathematics.md#base-detector; e_detector.py.
    """

    reads = BaseRound
    about = SubjectKind.BASE
    pages = True

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: BaseRound) -> tuple[Evidence, ...]:
        """One scheduled round of one base with all its members."""
        tolerances = self.config.tolerances
        scores = {record.base: base_scores(without_skills(record), tolerances)}
        self.state.advance(scores, tolerances.share, self.config.bets, record.at)
        return self.state.evidence(EvidenceSource(self.about, "base_shift", self.pages), [record.base], record)

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)
