"""Golden agreement: do more canaries than tolerated have other most probable tokens than the accepted adapter gave?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.canaries.tolerance import by_draw, of_members
from detectors.errors import Refused
from detectors.evidence.e_process_bank import EProcessBank, EvidenceSource, OnsetEstimate
from detectors.records import BaseRound, Bools, Evidence, Round, SubjectKind

State = EProcessBank[str]


@dataclass(frozen=True, slots=True)
class Config:
    """floor: lowest healthy share of a canary's positions whose most probable token is the golden one, in (0, 1]

    share: of the canary pool that may be below the floor, in (0, 1); bets: number of processes in the mixture
    pages: may it alarm by itself? Its streams then count in the fleet's budget
    """

    floor: float = 0.9
    share: float = 0.05
    bets: int = 8
    pages: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.floor <= 1 and 0 < self.share < 1 and self.bets >= 1):
            raise Refused("golden_agreement config", self, "floor in (0, 1], share in (0, 1), at least one bet")


class Detector:
    """e-detector for H0: given the past, at most ``share`` of the canary pool agrees on fewer positions than ``floor``.

    Guarantee: average run length at least A rounds. What breaks it: canaries not drawn at random; and near-ties between
    two tokens, because no noise floor is recorded for this figure: a canary with one may answer either way under benign
    change, and when more canaries than ``share`` do, the null does not hold. On a canary of six positions one such tie
    is below the default floor, on one of a hundred it takes eleven. That is why it informs and ``pages`` is off by
    default; it shows what a user would see, other words.
    A round without measurements keeps its evidence, without the "+1".

    Source: docs/mathematics.md#e-detector; e_detector.py.
    """

    reads = BaseRound
    about = SubjectKind.ADAPTER

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    @property
    def pages(self) -> bool:
        return bool(self.config.pages)

    def update(self, record: BaseRound) -> tuple[Evidence, ...]:
        """One scheduled round of all adapters of a base: for each one "+1" and the factors of all its draws."""
        config = self.config
        beyond = of_members(record, lambda member: flipped(member, config.floor))
        self.state.advance(beyond, config.share, config.bets, record.at)
        source = EvidenceSource(self.about, "golden_agreement", self.pages)
        return self.state.evidence(source, [m.adapter for m in record.members], record)

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)


def flipped(round: Round, floor: float) -> Bools:
    """(n,) does the canary agree with the golden adapter on fewer positions than the floor, draw by draw?"""
    return by_draw(round, lambda m: m.top1_agreement < floor)
