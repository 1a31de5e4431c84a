"""What is decided about an adapter or a base after a round of canaries? Pure: same round, evidence and incident, same
verdict.

An incident opens at an alarm and ends after good rounds in a row and evidence that the fault is over (incident.py). A
good round has no more than the tolerated share of its draws beyond tolerance; any other one is suspect until the
evidence is an alarm. A round without measurements neither resolves nor opens anything. Facts of the round are in the
words of every verdict on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.tolerance import blocked_by, draw_scores, median_share, member_median
from detectors.diagnosis.root_cause import diagnose, diagnose_base
from detectors.diagnosis.wording import words_of
from detectors.on_call_text import DRAWS_BEYOND
from detectors.records import (
    BaseRound,
    Bools,
    Evidence,
    Identity,
    Interval,
    Reason,
    Round,
    Status,
    SubjectKind,
    Verdict,
)
from detectors.verdicts.changes import change_of, change_of_base
from detectors.verdicts.figures import (
    action_while_base_blocked,
    action_while_blocked,
    facts_of,
    remarks,
    why_base_blocked,
    why_blocked,
    with_base_figures,
    with_figures,
)
from detectors.verdicts.incident import Incident, Outcome, RoundResult, Rules, Step, advance
from detectors.verdicts.recovery import DrawCounts
from detectors.verdicts.report import report, unjudged


def decide(
    round: Round,
    evidence: Evidence,
    incident: Incident,
    rules: Rules,
    *,
    onset_at: float | None = None,
    over_rounds: Interval | None = None,
) -> tuple[Verdict, Incident]:
    """The verdict on one adapter and its incident from now on.

    evidence: the level after this round; onset_at: when the fault began by that evidence, None where it cannot tell
    over_rounds: retention over all rounds, anytime-valid
    """
    blank = replace(
        unjudged(SubjectKind.ADAPTER, round.adapter, round, rules),
        evidence=(evidence,),
        identity=round.identity,
        retention_over_rounds=over_rounds,
    )
    blocked = blocked_by(round)
    if blocked is not None:
        blank = replace(blank, action=action_while_blocked(round.adapter, blocked))
        return _unmeasured(blank, blocked, why_blocked(round, blocked), incident, rules)
    draws = _counted(draw_scores(round, rules.tolerances), rules.tolerances.share)
    good = draws.share <= draws.tolerated
    reason = change_of(round, rules.tolerances) or Reason.WITHIN_TOLERANCE
    result = RoundResult(round.at, _outcome(good), reason, evidence.log_e, onset_at, draws=draws)
    step = advance(incident, result, rules)
    if step.shows_cause:
        step = step.with_cause(words_of(diagnose(round, rules.tolerances)))
    return _measured(with_figures(blank, round), step, draws.share, remarks(round, good)), step.after


def decide_base(
    round: BaseRound,
    evidence: Evidence,
    members: Sequence[Verdict],
    incident: Incident,
    rules: Rules,
    *,
    onset_at: float | None = None,
) -> tuple[Verdict, Incident]:
    """The verdict on a base of two members or more, and its incident from now on.

    members: this round's verdicts on its adapters. The cause is the one that most of the broken members show.
    onset_at: as of ``decide``
    """
    blank = replace(
        unjudged(SubjectKind.BASE, round.base, round, rules),
        evidence=(evidence,),
        members=tuple(v.subject for v in members if v.status is Status.DEGRADED),
        identity=members[0].identity if members else Identity(),
    )
    median, measured = member_median(round, rules.tolerances)
    if measured < 2:
        blank = replace(blank, action=action_while_base_blocked(round.base, members))
        return _unmeasured(blank, *why_base_blocked(members), incident, rules)
    draws = _counted(median, median_share(rules.tolerances.share, measured))
    good = draws.share <= draws.tolerated
    reason = change_of_base(round, rules.tolerances) or Reason.WITHIN_TOLERANCE
    result = RoundResult(round.at, _outcome(good), reason, evidence.log_e, onset_at, draws=draws)
    step = advance(incident, result, rules)
    if step.shows_cause:
        step = step.with_cause(words_of(diagnose_base(round, rules.tolerances)))
    return _measured(with_base_figures(blank, members), step, draws.share, facts_of(round)), step.after


def _counted(scores: Bools, tolerated: float) -> DrawCounts:
    return DrawCounts(len(scores), int(np.count_nonzero(scores)), tolerated)


def _outcome(good: bool) -> Outcome:
    return Outcome.GOOD if good else Outcome.BAD


def _measured(blank: Verdict, step: Step, share: float, facts: Sequence[str]) -> Verdict:
    figures = "; ".join([DRAWS_BEYOND.format(percent=100 * share), *facts])
    return replace(report(blank, step, figures), share_beyond=share)


def _unmeasured(
    blank: Verdict, reason: Reason, detail: str, incident: Incident, rules: Rules
) -> tuple[Verdict, Incident]:
    """An open incident stays open, and good rounds in a row start again. blank: with the first action"""
    step = advance(incident, RoundResult(blank.at, Outcome.SILENT, reason), rules)
    return report(blank, step, detail, blank.action), step.after
