"""What is decided from sampled responses to requests that name the base itself? Pure.

The counterpart of adapter_decision.py, with the same incident: it opens at an alarm and ends by good rounds, by as many
good responses as make a chance of all faulty ones having been missed at most 5 %, where faulty ones show by themselves,
and by evidence that the fault is over (path_recovery.py) where responses have a likelihood along the path from the
adapter at fault (0) to the base (1). They have one once they were suspect for a while before the alarm, as with a fault
of which no response shows by itself. It is a subject of its own, beside the base that the adapters share: neither
speaks for the other. Where the name is given to an adapter there are no such requests any more, and its incident ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

import numpy as np

from detectors.diagnosis.response_cause import ResponseCounts, diagnose_base_requests
from detectors.diagnosis.wording import words_of
from detectors.evidence.profile_likelihood import most_likely
from detectors.on_call_text import MAKE_SCORABLE_OF_BASE, NAME_IS_AN_ADAPTERS, NONE_SCORED
from detectors.records import Evidence, Identity, Interval, Reason, SubjectKind, Verdict
from detectors.traffic.adapter_decision import ResponseIncident, counted, enough, explained, measured, with_pods
from detectors.traffic.leading_alternative import Explanations
from detectors.traffic.path_recovery import PathLikelihood, PathRecovery
from detectors.traffic.response_summary import ResponseSummary
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import BY_RESPONSES, Incident, Outcome, RoundResult, Rules, Step, advance
from detectors.verdicts.report import report, unjudged

# Responses that say how much of the base is left, where there was no path before the alarm.
LEAST_WITH_PATH = 8


def decide_base_requests(
    round: TrafficRound,
    evidence: Sequence[Evidence],
    responses: ResponseSummary,
    onset_at: float | None,
    before: ResponseIncident,
    rules: Rules,
) -> tuple[Verdict | None, ResponseIncident]:
    """The verdict on the base's own responses, and what is remembered of them from now on.

    onset_at: when a fault began, by the CUSUM statistic. None, and nothing changes, where none was sampled: nobody has
    to ask for the base, and an incident stays open until somebody does.
    """
    if before.open and round.base in round.adapters:
        return _ended_by_name(round, evidence, before, rules)
    if not responses.scored and not responses.unscored:
        return None, before
    blank = _blank(round, evidence, rules)
    if not responses.scored:
        silent = advance(before.incident, RoundResult(round.at, Outcome.SILENT, Reason.NOT_SCORED), rules, BY_RESPONSES)
        figures = NONE_SCORED.format(unscored=responses.unscored, why=responses.why)
        action = MAKE_SCORABLE_OF_BASE.format(base_argument=quote(round.base))
        return report(blank, silent, figures, action), replace(before, incident=silent.after)
    log_e = max((e.log_e for e in evidence if e.pages), default=0.0)
    counts = counted(before, responses, log_e)
    outcome = Outcome.GOOD if responses.good else Outcome.BAD
    recovery = _recovered_so_far(before, responses, round.adapters)
    result = RoundResult(
        at=round.at,
        outcome=outcome,
        log_e=log_e,
        onset_at=onset_at,
        may_end=enough(counts) and recovery.shown,
        scores=responses.scores,
        answers=responses.answers,
    )
    step = advance(before.incident, result, rules, BY_RESPONSES)
    explanations = explained(before, responses, log_e)
    if step.shows_cause:
        step = step.with_cause(words_of(diagnose_base_requests(round.base, counts, explanations.leading)))
    path = _path(before, responses, log_e)
    if step.reason is Reason.ALARM or (before.open and recovery.left is None and path.n >= LEAST_WITH_PATH):
        recovery, path = PathRecovery.since(_left(path), path.path_from), PathLikelihood()
    if step.reason is Reason.RESOLVED:
        counts, explanations, recovery = ResponseCounts(), Explanations(), PathRecovery()
    after = ResponseIncident(step.after, counts, recovery=recovery, explanations=explanations, path=path)
    path_from = after.recovery.path_from or after.path.path_from
    verdict = with_pods(measured(blank, step, responses), counts)
    return replace(verdict, path_from=path_from), after


def _blank(round: TrafficRound, evidence: Sequence[Evidence], rules: Rules) -> Verdict:
    identity = next(iter(round.identities.values()), Identity())
    return replace(
        unjudged(SubjectKind.BASE_REQUESTS, round.base, round, rules),
        evidence=tuple(evidence),
        identity=replace(identity, golden_adapter="", live_adapter=""),
    )


def _ended_by_name(
    round: TrafficRound, evidence: Sequence[Evidence], before: ResponseIncident, rules: Rules
) -> tuple[Verdict, ResponseIncident]:
    """Every request that has the name is for the adapter from now on, and judged as one of it."""
    after = Incident(reopenings=before.incident.reopenings, resolved_at=round.at)
    step = Step(round.at, Reason.RESOLVED, before.incident, after)
    words = NAME_IS_AN_ADAPTERS.format(base=round.base)
    return report(_blank(round, evidence, rules), step, words), ResponseIncident(after)


def _recovered_so_far(before: ResponseIncident, responses: ResponseSummary, adapters: Sequence[str]) -> PathRecovery:
    """Until responses are scored along the path again, as after a restart, they say nothing of the end; those of an
    adapter that the base has no longer are not waited for."""
    if not (before.open and responses.good):
        return before.recovery.after_bad() if before.open else PathRecovery()
    known = before.recovery.path_from
    if known and known not in adapters:
        return before.recovery.after_good(responses.scored, PathLikelihood())
    return before.recovery.after_good(responses.scored, responses.path, responses.sampled - responses.path.n)


def _path(before: ResponseIncident, responses: ResponseSummary, log_e: float) -> PathLikelihood:
    """Of the responses since there was evidence; while an incident is open, of those of bad rounds, until they have
    said how much of the base is left. From another path or grid on of those on that."""
    if before.open and (responses.good or before.recovery.left is not None):
        return before.path
    if not before.open and log_e <= 0.0:
        return PathLikelihood()
    past, latest = before.path, responses.path
    return past.joined(latest) if past.can_join(latest) else latest


def _left(path: PathLikelihood) -> Interval | None:
    """How much of the base was left, by the likeliest share; None where no response has a path."""
    return None if not path.n else most_likely(np.array(path.grid), np.array(path.log_lik), float(path.n), 1.0)
