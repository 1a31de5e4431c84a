"""Base modes: do more than half of the adapters of one base show in a mode what none of them shows as it is scored?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

from detectors.canaries.composed_skills import without_skills
from detectors.canaries.mode_gap import base_mode_scores
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.kinds import serving_modes
from detectors.records import BaseRound, Evidence, SubjectKind

Config = serving_modes.Config
State = serving_modes.State


class Detector:
    """e-detector on the scores of a base in each mode, draw by draw: 1 where enough of its measured members are apart.

    H0, of each mode: at most half of the members are answered otherwise in it, of each of the others at most
    ``tolerances.share`` of the pool, given the past, and members draw independently of each other. How many members are
    enough follows from it (``members_needed``). Guarantee: average run length of each mode at least A rounds. What
    breaks it: members whose draws depend on each other, and what breaks ``serving_modes``. Members count whose noise
    the enrolment measured in that mode; with fewer than two of them the evidence stays as it is and pages nobody.

    Source: docs/mathematics.md#served-modes and #base-detector; e_detector.py.
    """

    reads = BaseRound
    about = SubjectKind.BASE
    pages = True

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: BaseRound) -> tuple[Evidence, ...]:
        """One scheduled round of one base with all its members."""
        tolerances, base = self.config.tolerances, record.base
        scores = base_mode_scores(without_skills(record), tolerances)
        rows = {(base, mode): own for mode, own in scores.items()}
        self.state.processes.advance(rows, tolerances.share, self.config.bets, record.at)
        streams = self.state.streams(base)
        return tuple(
            Evidence(
                subject_kind=self.about,
                subject=base,
                detector="base_modes",
                stream=stream[1].value,
                round=record.number,
                log_e=level,
                n=self.state.processes.n(stream),
                at=record.at,
                pages=stream[1] in scores,
            )
            for stream, level in self.state.processes.levels(streams).items()
        )

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)
