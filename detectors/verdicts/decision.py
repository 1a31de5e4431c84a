"""What is decided about an adapter or a base after a round of canaries? Pure: same round, evidence and incident, same
verdict.

An incident opens at an alarm and ends after good rounds in a row and evidence that the fault is over (incident.py). A
good round has no more than the tolerated share of its draws beyond tolerance, a base's good round no more than that
share of its own scores (tolerance.py::base_scores). Until the evidence is an alarm, a round is suspect where so many
beyond would be rare with nothing wrong (recovery.py::DrawCounts), or where the evidence is half way. A round without
measurements neither resolves nor opens anything. Facts of the round are in the words of every verdict on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.tolerance import Tolerances, base_scores, blocked_by, draw_scores, members_needed
from detectors.diagnosis.root_cause import diagnose, diagnose_base, has_signatures
from detectors.diagnosis.wording import words_of
from detectors.on_call_text import (
    CAUSE_KEPT,
    CAUSE_NOT_REPLAYED,
    CAUSE_REFINED,
    DRAWS_BEYOND,
    DRAWS_BEYOND_TOGETHER,
    NOT_REPLAYED,
    ONE_FAULT,
    REPLAYED_WITH,
    SEVERAL_FAULTS,
    SHARED_BY_CHANGE,
    SHARED_BY_MOST,
)
from detectors.records import (
    THE_FILES,
    BaseRound,
    Bools,
    Evidence,
    FaultReplay,
    Identity,
    Interval,
    NamedCause,
    Reason,
    Round,
    ShareOf,
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
from detectors.verdicts.incident import BY_MEMBERS, Incident, Outcome, RoundResult, Rules, Step, advance, renamed
from detectors.verdicts.modes import (
    apart_in_words,
    is_rare_in_a_mode,
    mode_at_fault,
    mode_of_base_at_fault,
    of_all_members,
    of_base_in_modes,
    of_modes,
    unwatched_in_words,
)
from detectors.verdicts.recovery import DrawCounts
from detectors.verdicts.report import report, unjudged
from detectors.verdicts.shared_fault import MembersOfBase, SharedAlarm


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
        answered_by=round.answered_by,
    )
    blocked = blocked_by(round)
    if blocked is not None:
        blank = replace(blank, action=action_while_blocked(round.adapter, blocked))
        return _unmeasured(blank, blocked, why_blocked(round, blocked), incident, rules)
    draws = _counted(draw_scores(round, rules.tolerances), rules.tolerances.share)
    modes = of_modes(round, rules.tolerances)
    mode = incident.mode if incident.open else mode_at_fault(round, evidence, draws, rules)
    # Of a base that is not asked of its engine any more no answer in a mode would ever come.
    ends_by = draws if mode is None or round.answered_by == THE_FILES else modes.get(mode)
    good = draws.share <= draws.tolerated and not any(map(is_rare_in_a_mode, modes.values()))
    if incident.open and mode is not None:
        good = good and (ends_by is None or ends_by.share <= ends_by.tolerated)
    reason = change_of(round, rules.tolerances) or Reason.WITHIN_TOLERANCE
    result = RoundResult(
        round.at,
        _outcome(good),
        reason,
        evidence.log_e,
        onset_at,
        may_end=ends_by is not None,
        is_rare=draws.is_rare or any(map(is_rare_in_a_mode, modes.values())),
        draws=ends_by,
        scores=draws,
        mode=mode,
        in_modes=modes,
    )
    step = advance(incident, result, rules)
    if step.shows_cause:
        step = step.with_cause(words_of(diagnose(round, rules.tolerances)), has_signatures(round))
    unwatched = unwatched_in_words(round) if good else ()
    words = DRAWS_BEYOND.format(percent=100 * draws.share), *apart_in_words(modes), *remarks(round, good), *unwatched
    return _measured(with_figures(blank, round), step, draws.share, words), step.after


def decide_base(
    round: BaseRound,
    evidence: Evidence,
    members: Sequence[Verdict],
    incident: Incident,
    rules: Rules,
    *,
    onset_at: float | None = None,
) -> tuple[Verdict, Incident]:
    """The verdict on a base of two members or more by its own scores, and its incident from now on.

    members: this round's verdicts on its adapters. The cause is the one that most of the broken members show.
    onset_at: as of ``decide``
    """
    blank, scores = _blank_of_base(round, evidence, members, rules), base_scores(round, rules.tolerances)
    if not len(scores):
        blank = replace(blank, action=action_while_base_blocked(round.base, members))
        return _unmeasured(blank, *why_base_blocked(members), incident, rules)
    own, draws = _counted(scores, rules.tolerances.share), _draws_of_members(round, rules.tolerances)
    own_in_modes, in_modes = of_base_in_modes(round, rules.tolerances), of_all_members(round, rules.tolerances)
    mode = incident.mode if incident.open else mode_of_base_at_fault(round, evidence, own, rules)
    ends_by = draws if mode is None or _answered_by(round) == THE_FILES else in_modes.get(mode)
    # One member that is well again makes a base of three score 0: the incident goes on while most of the fault does.
    still = incident.recovery is not None and ends_by is not None and ends_by.share >= incident.recovery.still_beyond
    rare_in_a_mode = any(map(is_rare_in_a_mode, own_in_modes.values()))
    good = own.share <= own.tolerated and not still and not rare_in_a_mode
    reason = change_of_base(round, rules.tolerances) or Reason.WITHIN_TOLERANCE
    result = RoundResult(
        round.at,
        _outcome(good),
        reason,
        evidence.log_e,
        onset_at,
        may_end=ends_by is not None,
        is_rare=own.is_rare or rare_in_a_mode,
        draws=ends_by,
        scores=own,
        mode=mode,
        in_modes=in_modes,
    )
    step = _with_cause_of_base(advance(incident, result, rules), round, rules)
    words = _together(round, rules.tolerances.share, own.share), *apart_in_words(in_modes), *facts_of(round)
    return _measured_base(with_base_figures(blank, members), step, own.share, words), step.after


def decide_base_by_members(
    round: BaseRound,
    evidence: Evidence,
    members: MembersOfBase,
    incident: Incident,
    rules: Rules,
    alarm: SharedAlarm | None = None,
) -> tuple[Verdict, Incident]:
    """The same where the incident of the base is one that an adapter's alarm opened, or opens now.

    evidence: the base's own; alarm: None where the incident is open
    It goes on while the incident of one of its members does, each of which ends by evidence of its own. Its share is
    that of the draws of all members together: its own scores may all be 0.
    """
    blank, scores = _blank_of_base(round, evidence, members.verdicts, rules), base_scores(round, rules.tolerances)
    if not len(scores):
        blank = replace(blank, action=action_while_base_blocked(round.base, members.verdicts))
        return _unmeasured(blank, *why_base_blocked(members.verdicts), incident, rules)
    draws, in_modes = _draws_of_members(round, rules.tolerances), of_all_members(round, rules.tolerances)
    showing = {*members.at_fault, *(() if alarm is None else alarm.showing)}
    blank = replace(blank, members=tuple(v.subject for v in members.verdicts if v.subject in showing))
    result = RoundResult(
        round.at,
        _outcome(not members.any_bad),
        log_e=evidence.log_e if alarm is None else alarm.evidence.log_e,
        may_end=not members.any_open,
        mode=None if alarm is None else alarm.mode,
    )
    step = advance(incident, result, rules, BY_MEMBERS)
    why: tuple[str, ...] = ()
    if alarm is not None:
        step, why = replace(step, after=_begun_with(step.after, alarm.began)), (_why_shared(alarm),)
        blank = replace(blank, evidence=(*blank.evidence, alarm.evidence))
    step = _with_cause_of_base(step, round, rules)
    beyond = DRAWS_BEYOND.format(percent=100 * draws.share)
    words = *why, beyond, *apart_in_words(in_modes), *facts_of(round)
    return _measured(with_base_figures(blank, members.verdicts), step, draws.share, words), step.after


def decide_again(replay: FaultReplay, adapter: str, incident: Incident, rules: Rules) -> tuple[Verdict, Incident]:
    """The verdict on one adapter of the replay, whose incident is open: its round's, with the cause that the replayed
    faults give it. A cause is a name for what evidence has found already: nothing here opens or ends an incident."""
    round = next(member for member in replay.round.members if member.adapter == adapter)
    signed = next((member for member in replay.members if member.adapter == adapter), None)
    named = None if signed is None else words_of(diagnose(signed, rules.tolerances))
    sharper = named != words_of(diagnose(round, rules.tolerances))
    step = renamed(incident, named, sharper, replay.at, signed is not None and has_signatures(signed))
    draws = _counted(draw_scores(round, rules.tolerances), rules.tolerances.share)
    blank = replace(
        unjudged(SubjectKind.ADAPTER, adapter, round, rules),
        at=replay.at,
        identity=round.identity,
        answered_by=round.answered_by,
    )
    words = *_of_replay(replay, step), DRAWS_BEYOND.format(percent=100 * draws.share), *remarks(round, good=False)
    return _measured(with_figures(blank, round), step, draws.share, words), step.after


def decide_base_again(
    replay: FaultReplay, members: Sequence[Verdict], incident: Incident, rules: Rules
) -> tuple[Verdict, Incident]:
    """The same of a base: the cause that most of the adapters with replayed faults show.

    members: of its adapters, the verdicts of the round
    """
    round = replay.round
    named, sharper = _named_again(replay, rules.tolerances) if replay.members else (None, False)
    step = renamed(incident, named, sharper, replay.at, any(map(has_signatures, replay.members)))
    scores = base_scores(round, rules.tolerances)
    share = float(np.mean(scores)) if len(scores) else math.nan
    blank = replace(
        unjudged(SubjectKind.BASE, round.base, round, rules),
        at=replay.at,
        members=tuple(v.subject for v in members if v.status is Status.DEGRADED),
        identity=members[0].identity if members else Identity(),
        answered_by=_answered_by(round),
    )
    words = *_of_replay(replay, step), _together(round, rules.tolerances.share, share), *facts_of(round)
    return _measured_base(with_base_figures(blank, members), step, share, words), step.after


def _named_again(replay: FaultReplay, tolerances: Tolerances) -> tuple[NamedCause, bool]:
    """The base's cause by the members with signatures; and do the same members name less without them?"""
    signed = {member.adapter: member for member in replay.members}
    whole = replace(replay.round, members=tuple(signed.get(m.adapter, m) for m in replay.round.members))
    bare = [m for m in replay.round.members if m.adapter in signed]
    before, after = (
        words_of(diagnose_base(replace(whole, members=tuple(of)), tolerances).typical) for of in (bare, signed.values())
    )
    return words_of(diagnose_base(whole, tolerances)), before != after


def _of_replay(replay: FaultReplay, step: Step) -> list[str]:
    """What was replayed, and what could not be."""
    template = CAUSE_REFINED if step.reason is Reason.CAUSE_REFINED else CAUSE_KEPT
    faults = (ONE_FAULT if replay.faults == 1 else SEVERAL_FAULTS).format(faults=replay.faults)
    words = [(template if replay.faults else CAUSE_NOT_REPLAYED).format(faults=faults)]
    if replay.subject_kind is SubjectKind.BASE and replay.faults:
        words.append(REPLAYED_WITH.format(replayed=len(replay.replayed), members=len(replay.round.members)))
    return [*words, *([NOT_REPLAYED.format(missing=replay.missing)] if replay.missing else [])]


def _answered_by(round: BaseRound) -> str:
    """Adapters of one base may be asked by several routes."""
    return "; ".join(dict.fromkeys(member.answered_by for member in round.members if member.answered_by))


def _draws_of_members(round: BaseRound, tolerances: Tolerances) -> DrawCounts:
    """The draws of all measured members together: what a base's incident ends by."""
    scores = [draw_scores(member, tolerances) for member in round.members if blocked_by(member) is None]
    return _counted(np.concatenate(scores), tolerances.share)


def _counted(scores: Bools, tolerated: float) -> DrawCounts:
    return DrawCounts(len(scores), int(np.count_nonzero(scores)), tolerated)


def _blank_of_base(round: BaseRound, evidence: Evidence, members: Sequence[Verdict], rules: Rules) -> Verdict:
    return replace(
        unjudged(SubjectKind.BASE, round.base, round, rules),
        evidence=(evidence,),
        members=tuple(v.subject for v in members if v.status is Status.DEGRADED),
        identity=members[0].identity if members else Identity(),
        answered_by=_answered_by(round),
    )


def _with_cause_of_base(step: Step, round: BaseRound, rules: Rules) -> Step:
    if not step.shows_cause:
        return step
    signed = any(map(has_signatures, round.members))
    return step.with_cause(words_of(diagnose_base(round, rules.tolerances)), signed)


def _begun_with(opened: Incident, member: Incident) -> Incident:
    """The base's incident with the onset of the adapter's that opened it."""
    return replace(
        opened,
        by_members=True,
        last_good_at=member.last_good_at,
        first_bad_at=member.first_bad_at,
        onset_estimate=member.onset_estimate,
        onset_interval=member.onset_interval,
    )


def _why_shared(alarm: SharedAlarm) -> str:
    template = SHARED_BY_CHANGE if alarm.known else SHARED_BY_MOST
    return template.format(adapter=alarm.adapter)


def _outcome(good: bool) -> Outcome:
    return Outcome.GOOD if good else Outcome.BAD


def _together(round: BaseRound, tolerated: float, share: float) -> str:
    """The share of a base's scores in words, with how many of its measured members a score of 1 takes."""
    measured = sum(blocked_by(member) is None for member in round.members)
    needed = members_needed(tolerated, measured)
    return DRAWS_BEYOND_TOGETHER.format(percent=100 * share, needed=needed, measured=measured)


def _measured_base(blank: Verdict, step: Step, share: float, words: Sequence[str]) -> Verdict:
    return replace(_measured(blank, step, share, words), share_of=ShareOf.SCORES)


def _measured(blank: Verdict, step: Step, share: float, words: Sequence[str]) -> Verdict:
    return replace(report(blank, step, "; ".join(words)), share_beyond=share)


def _unmeasured(
    blank: Verdict, reason: Reason, detail: str, incident: Incident, rules: Rules
) -> tuple[Verdict, Incident]:
    """An open incident stays open, and good rounds in a row start again. blank: with the first action"""
    step = advance(incident, RoundResult(blank.at, Outcome.SILENT, reason), rules)
    return report(blank, step, detail, blank.action), step.after
