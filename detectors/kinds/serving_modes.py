"""Serving modes: are more canaries than tolerated answered otherwise as written, streamed, through chat or from the
cache than the engine scores them?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from detectors.canaries.mode_gap import floors_known, mode_scores
from detectors.canaries.tolerance import Tolerances, blocked_by
from detectors.evidence.e_process_bank import EProcessBank, OnsetEstimate
from detectors.records import BaseRound, Bools, Evidence, Mode, Round, SubjectKind

# Subject and mode.
ModeStream = tuple[str, Mode]


@dataclass(frozen=True, slots=True)
class Config:
    """tolerances: what is promised to the user; bets: number of processes in the mixture (e_detector.py)"""

    tolerances: Tolerances = field(default_factory=Tolerances)
    bets: int = 8

    @property
    def streams_per_adapter(self) -> int:
        return len(Mode)

    @property
    def of_engines_alone(self) -> bool:
        return True


@dataclass(slots=True)
class State:
    """processes: M of each subject and mode"""

    layout: ClassVar[int] = 1

    processes: EProcessBank[ModeStream] = field(default_factory=EProcessBank)

    def streams(self, subject: str) -> list[ModeStream]:
        """Its modes that were had in some round."""
        return [stream for mode in Mode if (stream := (subject, mode)) in self.processes.index]

    def onset(self, subject: str) -> OnsetEstimate | None:
        """By the mode with the most evidence."""
        streams = self.streams(subject)
        levels = self.processes.levels(streams)
        return self.processes.onset(max(streams, key=levels.__getitem__)) if streams else None

    def restart(self, subject: str) -> None:
        """All of its modes begin from nothing."""
        for stream in self.streams(subject):
            self.processes.restart(stream)

    def part(self, wanted: Callable[[str], bool]) -> State:
        return State(self.processes.part(lambda stream: wanted(stream[0])))

    def joined(self, more: State) -> State:
        return State(self.processes.joined(more.processes))

    def to_json(self) -> dict[str, Any]:
        return self.processes.to_json(lambda stream: [stream[0], stream[1].value])

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        return cls(EProcessBank[ModeStream].from_json(stored, lambda form: (form[0], Mode(form[1]))))


class Detector:
    """e-detector for H0: given the past, at most ``tolerances.share`` of the canary pool is answered otherwise in a
    mode than it is scored cold in the same round, in whichever combination of modes it is had.

    One stream for each mode, so that a fault in one is not hidden among the others. Guarantee: the average run length
    of each to ``log_e >= ln A`` is at least A rounds, whatever the distribution of the noise. What breaks it: canaries
    not drawn at random, and a lasting benign difference between modes that the enrolment has not met. Where that did
    not measure a mode's noise, the mode informs and pages nobody.
    A mode that a round does not have keeps its evidence, without the "+1", and pages nobody in that round.

    Source: docs/mathematics.md#served-modes; e_detector.py.
    """

    reads = BaseRound
    about = SubjectKind.ADAPTER
    pages = True

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: BaseRound) -> tuple[Evidence, ...]:
        """One scheduled round of all adapters of a base: for each mode "+1" and the factors of all its draws."""
        tolerances = self.config.tolerances
        scores: dict[ModeStream, Bools] = {}
        for member in record.members:
            if blocked_by(member) is None:
                scores |= {(member.adapter, mode): own for mode, own in mode_scores(member, tolerances).items()}
        self.state.processes.advance(scores, tolerances.share, self.config.bets, record.at)
        return tuple(level for member in record.members for level in self._levels(member, record))

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)

    def _levels(self, member: Round, record: BaseRound) -> list[Evidence]:
        streams = self.state.streams(member.adapter)
        levels = self.state.processes.levels(streams)
        return [
            Evidence(
                subject_kind=self.about,
                subject=member.adapter,
                detector="serving_modes",
                stream=stream[1].value,
                round=record.number,
                log_e=level,
                n=self.state.processes.n(stream),
                at=record.at,
                pages=floors_known(member, stream[1]),
            )
            for stream, level in levels.items()
        ]
