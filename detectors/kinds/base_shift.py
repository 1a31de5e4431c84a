"""Base shift: do most adapters of one base show more than is tolerated, in the same round?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from detectors.canaries.tolerance import Tolerances, median_share, member_median
from detectors.evidence.e_process_bank import EProcessBank, EvidenceSource, OnsetEstimate
from detectors.records import BaseRound, Evidence, SubjectKind


class State(EProcessBank[str]):
    """layout: since 2, what is beyond tolerance depends on each canary's base shift, and on mass outside its tokens."""

    __slots__ = ()
    layout: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Config:
    """tolerances: what is promised to the user; bets: number of processes in the mixture (e_detector.py)"""

    tolerances: Tolerances = field(default_factory=Tolerances)
    bets: int = 8


class Detector:
    """e-detector on the lower median of the members' scores, draw by draw.

    H0: at most half of the members are broken, and in each of the others at most ``tolerances.share`` of the pool is
    beyond tolerance, given the past. Guarantee: average run length at least A rounds. The bet is against
    ``median_share``, which exceeds the tolerated share: of three members a broken one and one healthy outlier are
    enough for a median of 1. What breaks it: members whose draws depend on each other. With fewer than two measured
    members the evidence stays as it is (``n`` too, which is 0 in a base of one).

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
        median, members = member_median(record, tolerances)
        share = median_share(tolerances.share, members)
        self.state.advance({record.base: median}, share, self.config.bets, record.at)
        return self.state.evidence(EvidenceSource(self.about, "base_shift", self.pages), [record.base], record)

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)
