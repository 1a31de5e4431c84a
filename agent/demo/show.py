"""Collects what the demo prints of each round: a sink, whose queues the demo reads on the main thread."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

from agent.alerting.notice_text import smallest_loss_words
from agent.records import Finding, Flip, GoldenAccepted, Notice, TrafficBatch
from detectors.records import BaseRound, Evidence, SubjectKind, Verdict
from detectors.registry import reads
from detectors.traffic_records import Embedding, ScoringMode, TrafficRound, TrafficScore


@dataclass(slots=True)
class RoundView:
    """One canary round with its verdicts and notices."""

    round: BaseRound
    verdicts: list[Verdict] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def adapters(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.subject_kind is SubjectKind.ADAPTER]


@dataclass(slots=True)
class ResponsesView:
    """One round of responses with its verdicts and notices."""

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
    """Groups findings by round; ``rounds``, ``responses`` and ``flips`` are queues of complete ones.

    drift: (subject, stream) -> newest evidence from embeddings
    sees: adapter -> the smallest loss that would page, in words
    """

    def __init__(self) -> None:
        self.rounds: queue.SimpleQueue[RoundView] = queue.SimpleQueue()
        self.responses: queue.SimpleQueue[ResponsesView] = queue.SimpleQueue()
        self.flips: queue.SimpleQueue[Flip] = queue.SimpleQueue()
        self.drift: dict[tuple[str, str], Evidence] = {}
        self.sees: dict[str, str] = {}
        self.records_read = self.kept = 0
        self._notices: list[Notice] = []  # notices come before the round they are about
        self._open: RoundView | ResponsesView | None = None

    def open(self) -> None:
        """Nothing to open."""

    def submit(self, finding: Finding) -> None:
        match finding:
            case BaseRound():
                self._complete()
                self._open = RoundView(finding, notices=self._notices)
                self._notices = []
            case TrafficRound():
                self._complete()
                self._open = ResponsesView(finding, notices=self._notices)
                self._notices = []
            case Verdict() if self._open:
                self._open.verdicts.append(finding)
            case Notice():
                self._notices.append(finding)
            case GoldenAccepted():
                self.sees[finding.adapter] = smallest_loss_words(finding.smallest_loss, finding.draws)
            case Flip():
                self.flips.put(finding)
            case Evidence() if reads(finding.detector) is Embedding:
                self.drift[(finding.subject, finding.stream)] = finding
            case TrafficBatch():
                self.records_read += finding.records
                self.kept += len(finding.interactions)

    def flush(self) -> bool:
        self._complete()
        return True

    def close(self, _budget_s: float) -> None:
        self._complete()

    @property
    def status(self) -> tuple[bool, str]:
        return True, "showing"

    def _complete(self) -> None:
        if isinstance(self._open, RoundView):
            self.rounds.put(self._open)
        elif self._open is not None:
            self.responses.put(self._open)
        self._open = None
