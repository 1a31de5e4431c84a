"""What is decided from sampled responses to requests that name the base itself? Pure.

The counterpart of adapter_decision.py, with the same incident: it opens at an alarm and ends by good rounds and by as
many good responses as make a chance of all faulty ones having been missed at most 5 %, where faulty ones show by
themselves. A fault of which no response does is over after two good rounds, and alarms again. It is a subject of its
own, beside the base that the adapters share: neither speaks for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

from detectors.diagnosis.response_cause import ResponseCounts, diagnose_base_requests
from detectors.diagnosis.wording import words_of
from detectors.on_call_text import MAKE_SCORABLE_OF_BASE, NONE_SCORED
from detectors.records import Evidence, Identity, Reason, SubjectKind, Verdict
from detectors.traffic.adapter_decision import ResponseIncident, counted, enough, explained, measured
from detectors.traffic.leading_alternative import Explanations
from detectors.traffic.response_summary import ResponseSummary
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import BY_RESPONSES, Outcome, RoundResult, Rules, advance
from detectors.verdicts.report import report, unjudged


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
    if not responses.scored and not responses.unscored:
        return None, before
    identity = next(iter(round.identities.values()), Identity())
    blank = replace(
        unjudged(SubjectKind.BASE_REQUESTS, round.base, round, rules),
        evidence=tuple(evidence),
        identity=replace(identity, golden_adapter="", live_adapter=""),
    )
    if not responses.scored:
        silent = advance(before.incident, RoundResult(round.at, Outcome.SILENT, Reason.NOT_SCORED), rules, BY_RESPONSES)
        figures = NONE_SCORED.format(unscored=responses.unscored, why=responses.why)
        action = MAKE_SCORABLE_OF_BASE.format(base_argument=quote(round.base))
        return report(blank, silent, figures, action), replace(before, incident=silent.after)
    log_e = max((e.log_e for e in evidence if e.pages), default=0.0)
    counts = counted(before, responses, log_e)
    outcome = Outcome.GOOD if responses.good else Outcome.BAD
    result = RoundResult(
        round.at, outcome, log_e=log_e, onset_at=onset_at, may_end=enough(counts), scores=responses.scores
    )
    step = advance(before.incident, result, rules, BY_RESPONSES)
    explanations = explained(before, responses, log_e)
    if step.shows_cause:
        step = step.with_cause(words_of(diagnose_base_requests(round.base, counts, explanations.leading)))
    if step.reason is Reason.RESOLVED:
        counts, explanations = ResponseCounts(), Explanations()
    after = ResponseIncident(step.after, counts, explanations=explanations)
    return measured(blank, step, responses), after
