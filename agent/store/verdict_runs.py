"""Which verdicts are stored: of a run of equal ones the first and the last, and one an hour in between.

Twenty pods that judge a hundred adapters each minute give 2.9 million verdicts a day, and nearly all of them say what
was said before. What was measured is stored for every round, so that a verdict that is not can be made again (gapwatch
rejudge).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.records import Finding, Notice
from detectors.records import Reason, Subject, Verdict
from detectors.verdicts.incident import MOST_GOOD_ROUNDS

# Seconds from one stored verdict of a subject to the next, at most. Questions about who still judges what rest on it.
LONGEST_S = 3600.0
# What is said of one round, and never again of the next.
EVENTS = (Reason.ALARM, Reason.RESOLVED, Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)


@dataclass(frozen=True, slots=True)
class _Run:
    """stored_at: when the latest stored verdict was given; last: the latest of the run, stored or not"""

    says: tuple[Any, ...]
    stored_at: float
    last: Verdict
    last_is_stored: bool


class VerdictRuns:
    """``stored(finding)``: what is stored of it and of what was held back before; other findings pass as they are.

    A run ends where status, reason, cause, the base that speaks for it, the presence of a tolerated change, who
    answers, what is known of the files, a hash, the threshold, the members or the pods with bad responses change, and
    while an incident recovers with each further good round, up to MOST_GOOD_ROUNDS of them: the rows count them. Alarms
    and other events, the verdict of a notice, and a second one of the same moment are stored too.
    Guarantee: the rows say for each round what was said, from one row up to the next. What breaks it: a process that is
    killed leaves the end of its runs open, which readers close by its last sign of life (the view incident_pods).
    """

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._runs: dict[Subject, _Run] = {}
        self._noticed: set[Subject] = set()

    def stored(self, finding: Finding) -> list[Finding]:
        if isinstance(finding, Notice):
            self._noticed.add((finding.verdict.subject_kind, finding.verdict.subject))
        return [*self._verdicts(finding)] if isinstance(finding, Verdict) else [finding]

    def ends(self) -> list[Finding]:
        """The last verdict of every run that is not stored yet: at the end of the process."""
        return [run.last for run in self._runs.values() if not run.last_is_stored]

    def _verdicts(self, verdict: Verdict) -> list[Verdict]:
        subject, says = (verdict.subject_kind, verdict.subject), _says(verdict)
        before = self._runs.get(subject)
        is_noticed = subject in self._noticed
        self._noticed.discard(subject)
        if before is None or before.says != says:
            self._runs[subject] = _Run(says, verdict.at, verdict, True)
            return [*([] if before is None or before.last_is_stored else [before.last]), verdict]
        is_due = abs(verdict.at - before.stored_at) >= self._longest_s or verdict.at == before.last.at
        if is_noticed or is_due or verdict.reason in EVENTS:
            self._runs[subject] = _Run(says, verdict.at, verdict, True)
            return [verdict]
        self._runs[subject] = _Run(says, before.stored_at, verdict, False)
        return []


def _says(verdict: Verdict) -> tuple[Any, ...]:
    """Of a tolerated change only whether there is one: its words have figures, which move with every round."""
    said = (verdict.status, verdict.reason, verdict.cause, verdict.covered_by, bool(verdict.tolerated_change))
    files = verdict.answered_by, verdict.files.state, verdict.files.by
    recovers = verdict.reason is Reason.RECOVERING
    good = min(verdict.good_in_a_row, MOST_GOOD_ROUNDS) if recovers else 0
    return (*said, *files, verdict.identity, verdict.log_threshold, verdict.members, verdict.bad_pods, good)
