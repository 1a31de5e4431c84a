"""Adapter gap: do more canaries than tolerated show another strength, direction or set of tokens than was accepted?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from detectors.canaries.tolerance import Tolerances, draw_scores, of_members
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
    """e-detector for H0: given the past, at most ``tolerances.share`` of the canary pool is beyond tolerance.

    Guarantee: the average run length to ``log_e >= ln A`` is at least A rounds, whatever the distribution of the noise.
    What breaks it: canaries not drawn at random, and a lasting benign change beyond the tolerance; that pages, as
    promised. An adapter whose round has no measurements keeps its evidence, without the "+1".

    Source: docs/mathematics.md#tolerance; e_detector.py.
    """

    reads = BaseRound
    about = SubjectKind.ADAPTER
    pages = True

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: BaseRound) -> tuple[Evidence, ...]:
        """One scheduled round of all adapters of a base: for each one "+1" and the factors of all its draws."""
        tolerances = self.config.tolerances
        beyond = of_members(record, lambda member: draw_scores(member, tolerances))
        self.state.advance(beyond, tolerances.share, self.config.bets, record.at)
        source = EvidenceSource(self.about, "adapter_gap", self.pages)
        return self.state.evidence(source, [m.adapter for m in record.members], record)

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)
