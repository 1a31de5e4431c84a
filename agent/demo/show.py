"""What the demo prints of each round: a sink like any other, read by the story on the main thread."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

from agent.records import Finding, Flip, Notice, TrafficBatch
from detectors.records import BaseRound, Evidence, SubjectKind, Verdict
from detectors.registry import reads
from detectors.traffic_records import Embedding, ScoringMode, TrafficRound, TrafficScore


@dataclass(slots=True)
class RoundView:
    """One round with all that was concluded from it."""

    round: BaseRound
    verdicts: list[Verdict] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def adapters(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.subject_kind is SubjectKind.ADAPTER]


@dataclass(slots=True)
class ResponsesView:
    """One round of responses, likewise."""

    round: TrafficRound
    verdicts: list[Verdict] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def adapters(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.subject_kind is SubjectKind.ADAPTER]

    @property
    def scored(self) -> list[TrafficScore]:
        return [score for score in self.round.scores if score.scored is not ScoringMode.NOT_SCORED]


class Show:
    """Collects findings into rounds; ``rounds``, ``responses`` and ``flips`` hand them over once they are complete."""

    def __init__(self) -> None:
        self.rounds: queue.SimpleQueue[RoundView] = queue.SimpleQueue()
        self.responses: queue.SimpleQueue[ResponsesView] = queue.SimpleQueue()
        self.flips: queue.SimpleQueue[Flip] = queue.SimpleQueue()
        self.drift: dict[tuple[str, str], Evidence] = {}
        self.records_read = self.kept = 0
        self._told: list[Notice] = []  # notices come before the round they are about
        self._open: RoundView | ResponsesView | None = None

    def open(self) -> None:
        """Nothing to open."""

    def submit(self, finding: Finding) -> None:
        match finding:
            case BaseRound():
                self._hand_over()
                self._open = RoundView(finding, notices=self._told)
                self._told = []
            case TrafficRound():
                self._hand_over()
                self._open = ResponsesView(finding, notices=self._told)
                self._told = []
            case Verdict() if self._open:
                self._open.verdicts.append(finding)
            case Notice():
                self._told.append(finding)
            case Flip():
                self.flips.put(finding)
            case Evidence() if reads(finding.detector) is Embedding:
                self.drift[(finding.subject, finding.stream)] = finding
            case TrafficBatch():
                self.records_read += finding.records
                self.kept += len(finding.interactions)

    def flush(self, _now: float) -> bool:
        self._hand_over()
        return True

    def close(self, _budget_s: float) -> None:
        self._hand_over()

    @property
    def status(self) -> tuple[bool, str]:
        return True, "showing"

    def _hand_over(self) -> None:
        if isinstance(self._open, RoundView):
            self.rounds.put(self._open)
        elif self._open is not None:
            self.responses.put(self._open)
        self._open = None
