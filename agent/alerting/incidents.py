"""When to wake somebody: pure, from verdicts to notices. Their words are in notice_text.py.

One incident per cluster and subject, whatever its cause: the cause may get sharper while the incident is open.
A base's incident speaks for its members. Anything that cannot be judged for three rounds is reported once, as that; one
that comes and goes after twice as many rounds each time within a day, which bounds how often it pages.
How an incident stands, and for how many rounds, is the verdict's to say (detectors/verdicts/incident.py); here is kept
what the on-call person was last told, and files of saved state hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.alerting.notice_text import VAGUE, details, headline
from agent.records import Notice, NoticeKind, NoticeReason
from detectors.records import Cause, Reason, ShareOf, Status, SubjectKind, Verdict
from detectors.verdicts.incident import GOOD_ROUNDS, SILENT_ROUNDS

MAX_KEY = 255
# Within so many seconds of a notice that a subject cannot be judged, the next one takes twice as many silent rounds.
CANNOT_TELL_AGAIN_S = 24 * 3600.0
CHANGES_KEPT = 16
KINDS = {
    NoticeReason.DEGRADED: NoticeKind.TRIGGER,
    NoticeReason.CAUSE_SHARPER: NoticeKind.TRIGGER,
    NoticeReason.CANNOT_TELL: NoticeKind.TRIGGER,
    NoticeReason.CAN_TELL_AGAIN: NoticeKind.RESOLVE,
    NoticeReason.TAKEN_OVER: NoticeKind.RESOLVE,
    NoticeReason.RECOVERED: NoticeKind.RESOLVE,
    NoticeReason.REENROLLED: NoticeKind.RESOLVE,
    NoticeReason.BASE_MOVED: NoticeKind.CHANGE,
    NoticeReason.TOKENIZER_CHANGED: NoticeKind.CHANGE,
    NoticeReason.TEMPLATE_CHANGED: NoticeKind.CHANGE,
    NoticeReason.ADAPTER_MOVED: NoticeKind.CHANGE,
    NoticeReason.TOLERATED_CHANGE: NoticeKind.CHANGE,
    NoticeReason.TOLERATED_CHANGE_OVER: NoticeKind.CHANGE,
}
# Reasons of a healthy verdict that are reported once, and those notices of them that are about the base.
CHANGES = (Reason.BASE_MOVED, Reason.TOKENIZER_CHANGED, Reason.TEMPLATE_CHANGED, Reason.ADAPTER_MOVED)
# Reasons of a degraded verdict that show no new bad round.
OPENS_NOTHING = (Reason.RECOVERING, Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)
OF_A_BASE = (NoticeReason.BASE_MOVED, NoticeReason.TOKENIZER_CHANGED, NoticeReason.TEMPLATE_CHANGED)


@dataclass(frozen=True, slots=True)
class AlertState:
    """What the on-call person was last told about one subject.

    opened_as: "" with no incident open, else "degraded" or "cannot_tell"; cause: the one that was named
    changes: what was reported as a change, by the hash of what is there now
    cannot_tell_at: when it was reported, within a day before the latest such notice, that the subject cannot be judged
    tolerated_change: is the latest word on a change within tolerance that there is one?
    cause_refined: was that cause told as one that replayed faults gave the open incident?
    """

    opened_as: str = ""
    cause: str = Cause.NONE.value
    changes: tuple[str, ...] = ()
    cannot_tell_at: tuple[float, ...] = ()
    tolerated_change: bool = False
    cause_refined: bool = False

    def silent_rounds_needed(self, at: float) -> int:
        """Rounds in a row without a measurement after which somebody is told at that time: three, doubled with each
        time that somebody was within a day before."""
        return SILENT_ROUNDS << len(self.cannot_tell_since(at))

    def cannot_tell_since(self, at: float) -> tuple[float, ...]:
        return tuple(before for before in self.cannot_tell_at if abs(at - before) < CANNOT_TELL_AGAIN_S)

    def to_json(self) -> dict[str, Any]:
        return {
            "opened_as": self.opened_as,
            "cause": self.cause,
            "told": self.changes,
            "cannot_tell_at": self.cannot_tell_at,
            "tolerated_change": self.tolerated_change,
            "cause_refined": self.cause_refined,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> AlertState:
        """Files of earlier versions hold counters of rounds too, which the verdicts have of their own, and neither when
        it was reported that a subject cannot be judged nor what was said of changes within tolerance and of causes by
        replay."""
        cannot_tell_at, changed = tuple(stored.get("cannot_tell_at", ())), stored.get("tolerated_change", False)
        refined = stored.get("cause_refined", False)
        return cls(stored["opened_as"], stored["cause"], tuple(stored["told"]), cannot_tell_at, changed, refined)


States = Mapping[str, AlertState]


def state_key(kind: SubjectKind, subject: str) -> str:
    """Where a subject's state lies in ``States``."""
    return f"{kind.value}/{subject}"


def step_round(
    states: States, verdicts: Sequence[Verdict], now: float, cluster: str, elsewhere: Collection[str] = ()
) -> tuple[dict[str, AlertState], tuple[Notice, ...]]:
    """All verdicts of one base's round -> what is sent, and the states after it.

    elsewhere: state keys that another live pod's latest verdict calls degraded; their incidents are not resolved here
    """
    after, notices = dict(states), []
    speaking = one_voice(verdicts)
    all_healthy = all(verdict.status is Status.HEALTHY for verdict in speaking)
    for verdict in speaking:
        key = state_key(verdict.subject_kind, verdict.subject)
        reasons = _reasons(after.get(key, AlertState()), verdict, key in elsewhere)
        if reasons:
            after[key] = after_notice(after.get(key, AlertState()), verdict, reasons[-1])
        notices += [to_notice(verdict, reason, cluster, now) for reason in reasons]
        for change, now_there in _changes(verdict, all_healthy):
            about = state_key(*_subject(verdict, change))
            state = after.get(about, AlertState())
            if now_there not in state.changes:
                after[about] = replace(state, changes=(*state.changes, now_there)[-CHANGES_KEPT:])
                notices.append(to_notice(verdict, change, cluster, now))
        if reason := _of_tolerated_change(after.get(key, AlertState()), verdict):
            is_there = reason is NoticeReason.TOLERATED_CHANGE
            after[key] = replace(after.get(key, AlertState()), tolerated_change=is_there)
            notices.append(to_notice(verdict, reason, cluster, now))
    return after, tuple(notices)


def _changes(verdict: Verdict, all_healthy: bool) -> list[tuple[NoticeReason, str]]:
    """What is another one than accepted under a subject that is well, each with the name that ``changes`` keeps of it.

    all_healthy: are all subjects of the base? What lies under all of them is a harmless change only then.
    """
    identity, reason = verdict.identity, verdict.reason
    if reason not in CHANGES or verdict.covered_by:
        return []
    has_changed = {
        (NoticeReason.BASE_MOVED, identity.live_base): identity.base_moved or reason is Reason.BASE_MOVED,
        (NoticeReason.TOKENIZER_CHANGED, f"tokenizer {identity.live_tokenizer}"): identity.tokenizer_moved,
        (NoticeReason.TEMPLATE_CHANGED, f"template {identity.live_template}"): (
            identity.template_moved or reason is Reason.TEMPLATE_CHANGED
        ),
        (NoticeReason.ADAPTER_MOVED, f"adapter {identity.live_adapter}"): (
            identity.adapter_moved and verdict.subject_kind is SubjectKind.ADAPTER
        ),
    }
    return [change for change, yes in has_changed.items() if yes and (all_healthy or change[0] not in OF_A_BASE)]


def _of_tolerated_change(state: AlertState, verdict: Verdict) -> NoticeReason | None:
    """Said once, and once more when it is over; a verdict that is not healthy says nothing of it, nor does one by
    responses, or on a base that has moved."""
    is_there = bool(verdict.tolerated_change)
    is_measured = verdict.share_of is not ShareOf.RESPONSES and verdict.reason is not Reason.BASE_MOVED
    is_told = verdict.status is Status.HEALTHY and is_measured and not verdict.covered_by
    if not is_told or is_there is state.tolerated_change:
        return None
    return NoticeReason.TOLERATED_CHANGE if is_there else NoticeReason.TOLERATED_CHANGE_OVER


def _subject(verdict: Verdict, reason: NoticeReason) -> tuple[SubjectKind, str]:
    """What a notice is about: the base where that changed, whichever verdict reports it."""
    if reason in OF_A_BASE:
        return SubjectKind.BASE, verdict.base
    return verdict.subject_kind, verdict.subject


def one_voice(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that notices are made of, base first. Where several members cannot be judged for one and the same
    reason their base reports it alone; otherwise an unmonitorable base is left out and each member has its own notice.
    """
    members = [v for v in verdicts if v.subject_kind is SubjectKind.ADAPTER]
    bases: list[Verdict] = []
    for base in (v for v in verdicts if v.subject_kind is SubjectKind.BASE):
        own = [v for v in members if v.base == base.subject]
        if base.status is not Status.UNMONITORABLE:
            bases.append(base)
        elif len(own) > 1 and own[0].status is Status.UNMONITORABLE and len({v.reason for v in own}) == 1:
            # It speaks for the members, so their rounds count; its own are silent too where one of them is measured.
            bases.append(replace(base, silent_in_a_row=min(v.silent_in_a_row for v in own)))
            members = [v for v in members if v.base != base.subject]
    return [*bases, *members]


def _reasons(state: AlertState, verdict: Verdict, degraded_elsewhere: bool) -> tuple[NoticeReason, ...]:
    """What is sent for one verdict, in order: an open warning would swallow the page, so it is ended first."""
    reason = needs_notice(state, verdict, degraded_elsewhere)
    if reason is NoticeReason.DEGRADED and state.opened_as == "cannot_tell" and not degraded_elsewhere:
        return NoticeReason.CAN_TELL_AGAIN, reason
    return (reason,) if reason else ()


def needs_notice(state: AlertState, verdict: Verdict, degraded_elsewhere: bool = False) -> NoticeReason | None:
    """Is anything to be sent about the incident of this subject now, and why?

    degraded_elsewhere: the incident is another live pod's too, so this one does not end it
    """
    may_end = bool(state.opened_as) and not degraded_elsewhere
    if verdict.covered_by:
        return NoticeReason.TAKEN_OVER if may_end else None
    if verdict.status is Status.DEGRADED:
        return _of_degraded(state, verdict)
    if verdict.status is Status.UNMONITORABLE:
        # Without requests nothing was served wrongly: a quiet night shows as what it is and wakes nobody.
        silent = verdict.silent_in_a_row >= state.silent_rounds_needed(verdict.at)
        too_long = silent and verdict.reason is not Reason.NO_TRAFFIC
        return NoticeReason.CANNOT_TELL if too_long and not state.opened_as else None
    # Its own end, or good rounds enough where the memory of the incident was lost and nothing is left to end.
    resolved = verdict.reason is Reason.RESOLVED or verdict.good_in_a_row >= GOOD_ROUNDS
    recovered = verdict.status is Status.HEALTHY and resolved
    measured_again = verdict.reason is not Reason.OUTPUT_DRIFT and state.opened_as == "cannot_tell"
    return NoticeReason.RECOVERED if may_end and (recovered or measured_again) else None


def _of_degraded(state: AlertState, verdict: Verdict) -> NoticeReason | None:
    if state.opened_as != "degraded":
        # Recovering without an open incident: the state was lost, and a bad round would open it again. Of a cause that
        # was named later too: it is about an earlier round, and what was told since may have ended.
        return None if verdict.reason in OPENS_NOTHING else NoticeReason.DEGRADED
    sharper = verdict.cause not in VAGUE and Cause(state.cause) in VAGUE
    # After a restart faults are replayed again: somebody may have closed the page by hand, and would be paged for that.
    is_old = state.cause_refined and state.cause == verdict.cause.value
    refined = verdict.reason is Reason.CAUSE_REFINED and not is_old
    return NoticeReason.CAUSE_SHARPER if sharper or refined else None


def after_notice(state: AlertState, verdict: Verdict, sent: NoticeReason) -> AlertState:
    """The state once this was sent about a verdict."""
    if KINDS[sent] is NoticeKind.RESOLVE:
        return replace(state, opened_as="", cause=Cause.NONE.value, cause_refined=False)
    if sent is NoticeReason.CANNOT_TELL:
        times = (*state.cannot_tell_since(verdict.at), verdict.at)
        return replace(state, opened_as="cannot_tell", cause=verdict.cause.value, cannot_tell_at=times)
    refined = verdict.reason is Reason.CAUSE_REFINED
    return replace(state, opened_as="degraded", cause=verdict.cause.value, cause_refined=refined)


def reenrolled(
    state: AlertState, verdict: Verdict, why: str, now: float, cluster: str
) -> tuple[AlertState, tuple[Notice, ...]]:
    """A new release was accepted: ends the open incident with the reason given. verdict: the latest of that adapter.

    What was said of a change within tolerance was about the former record: nobody is told that it is over.
    """
    state = replace(state, tolerated_change=False)
    if not state.opened_as:
        return state, ()
    notice = to_notice(verdict, NoticeReason.REENROLLED, cluster, now)
    summary = f"[{cluster}] {headline(verdict, NoticeReason.REENROLLED, why)}"
    explained = replace(notice, summary=summary[:1024], details={**notice.details, "why": why})
    return after_notice(state, verdict, NoticeReason.REENROLLED), (explained,)


def to_notice(verdict: Verdict, reason: NoticeReason, cluster: str, now: float) -> Notice:
    """One event about one verdict, complete enough to act on at three in the morning."""
    key = dedup_key(cluster, *_subject(verdict, reason))
    summary = f"[{cluster}] {headline(verdict, reason)}"
    after = dedup_key(cluster, SubjectKind.BASE, verdict.covered_by) if reason is NoticeReason.TAKEN_OVER else ""
    return Notice(KINDS[reason], reason, key, summary[:1024], verdict, now, details(verdict, reason, cluster), after)


def dedup_key(cluster: str, kind: SubjectKind, subject: str) -> str:
    """Same cluster and subject, same incident, from whichever pod. Never longer than PagerDuty's 255."""
    key = f"gapwatch/{cluster}/{kind.value}/{subject}"
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
