"""When to wake somebody: pure, from verdicts to notices. Their words are in notice_text.py.

One incident per cluster and subject, whatever its cause: the cause may get sharper while the incident is open.
A base's incident speaks for its members. Anything that cannot be told for three rounds is said once, as that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent.alerting.notice_text import VAGUE, accepted_headline, details, headline
from agent.records import Notice, NoticeKind, NoticeReason
from detectors.records import Cause, Reason, Status, SubjectKind, Verdict

BLIND_ROUNDS = 3
GOOD_ROUNDS = 2
MAX_KEY = 255
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
}
# Reasons of a healthy verdict that are told once, and those notices of them that are about the base.
CHANGES = (Reason.BASE_MOVED, Reason.TOKENIZER_CHANGED, Reason.TEMPLATE_CHANGED, Reason.ADAPTER_MOVED)
OF_A_BASE = (NoticeReason.BASE_MOVED, NoticeReason.TOKENIZER_CHANGED, NoticeReason.TEMPLATE_CHANGED)


@dataclass(frozen=True, slots=True)
class AlertState:
    """What the on-call person was last told about one subject.

    opened_as: "" with no incident open, else "degraded" or "cannot_tell"; cause: as told
    blind, good: unmonitorable and healthy rounds in a row; told: what lies there, by
    its hash, where that was told as a change
    """

    opened_as: str = ""
    cause: str = Cause.NONE.value
    blind: int = 0
    good: int = 0
    told: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, seen: Mapping[str, Any]) -> AlertState:
        return cls(**{**seen, "told": tuple(seen["told"])})


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
        after[key] = follow(after.get(key, AlertState()), verdict, reasons[-1] if reasons else None)
        notices += [to_notice(verdict, reason, cluster, now) for reason in reasons]
        for change, now_there in _changes(verdict, all_healthy):
            about = state_key(*_subject(verdict, change))
            told = after.get(about, AlertState()).told
            if now_there not in told:
                after[about] = replace(after.get(about, AlertState()), told=(*told, now_there)[-16:])
                notices.append(to_notice(verdict, change, cluster, now))
    return after, tuple(notices)


def _changes(verdict: Verdict, all_healthy: bool) -> list[tuple[NoticeReason, str]]:
    """What is another one than accepted under a subject that is well, and by which word it is known as told.

    all_healthy: of the base's subjects. What is under all of them is told as a change where all are well.
    """
    seen, reason = verdict.identity, verdict.reason
    if reason not in CHANGES or verdict.covered_by:
        return []
    found = {
        (NoticeReason.BASE_MOVED, seen.live_base): seen.base_moved or reason is Reason.BASE_MOVED,
        (NoticeReason.TOKENIZER_CHANGED, f"tokenizer {seen.live_tokenizer}"): seen.tokenizer_moved,
        (NoticeReason.TEMPLATE_CHANGED, f"template {seen.live_template}"): (
            seen.template_moved or reason is Reason.TEMPLATE_CHANGED
        ),
        (NoticeReason.ADAPTER_MOVED, f"adapter {seen.live_adapter}"): (
            seen.adapter_moved and verdict.subject_kind is SubjectKind.ADAPTER
        ),
    }
    return [change for change, is_so in found.items() if is_so and (all_healthy or change[0] not in OF_A_BASE)]


def _subject(verdict: Verdict, reason: NoticeReason) -> tuple[SubjectKind, str]:
    """Whom a notice is about: the base, whichever verdict told of it, where that changed."""
    if reason in OF_A_BASE:
        return SubjectKind.BASE, verdict.base
    return verdict.subject_kind, verdict.subject


def one_voice(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that may speak, base first. Where nothing can be told of several members for one and the same reason
    the base says so alone; otherwise an unmonitorable base is silent (with one adapter it always is) and they speak.
    """
    bases = [v for v in verdicts if v.subject_kind is SubjectKind.BASE]
    members = [v for v in verdicts if v.subject_kind is SubjectKind.ADAPTER]
    silent: list[Verdict] = []
    for base in bases:
        if base.status is Status.UNMONITORABLE:
            own = [v for v in members if v.base == base.subject]
            one_reason = len({(v.status, v.reason) for v in own}) == 1 and own[0].status is Status.UNMONITORABLE
            silent += own if one_reason and len(own) > 1 else [base]
    return [v for v in (*bases, *members) if v not in silent]


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
        # Nobody asked, so nothing was served wrongly: a quiet night shows as what it is and wakes nobody.
        blind_enough = state.blind + 1 >= BLIND_ROUNDS and verdict.reason is not Reason.NO_TRAFFIC
        return NoticeReason.CANNOT_TELL if blind_enough and not state.opened_as else None
    good = verdict.status is Status.HEALTHY and (verdict.reason is Reason.RESOLVED or state.good + 1 >= GOOD_ROUNDS)
    told_again = verdict.reason is not Reason.OUTPUT_DRIFT and state.opened_as == "cannot_tell"
    return NoticeReason.RECOVERED if may_end and (good or told_again) else None


def _of_degraded(state: AlertState, verdict: Verdict) -> NoticeReason | None:
    if state.opened_as != "degraded":
        # Recovering without an open incident: the state was lost, and the next round ends it anyway.
        return None if verdict.reason is Reason.RECOVERING else NoticeReason.DEGRADED
    sharper = verdict.cause not in VAGUE and Cause(state.cause) in VAGUE
    return NoticeReason.CAUSE_SHARPER if sharper else None


def follow(state: AlertState, verdict: Verdict, sent: NoticeReason | None) -> AlertState:
    """The state after one verdict and what was sent for it."""
    blind = _blind(state, verdict)
    good = state.good + 1 if verdict.status is Status.HEALTHY else 0
    state = replace(state, blind=blind, good=good)
    if sent is None:
        return state
    if KINDS[sent] is NoticeKind.RESOLVE:
        return replace(state, opened_as="", cause=Cause.NONE.value)
    opened_as = "cannot_tell" if sent is NoticeReason.CANNOT_TELL else "degraded"
    return replace(state, opened_as=opened_as, cause=verdict.cause.value)


def _blind(state: AlertState, verdict: Verdict) -> int:
    """Rounds in a row in which nobody could tell. A quiet one adds nothing, and drift alone does not end them."""
    if verdict.reason in (Reason.NO_TRAFFIC, Reason.OUTPUT_DRIFT):
        return state.blind
    return state.blind + 1 if verdict.status is Status.UNMONITORABLE else 0


def reenrolled(
    state: AlertState, verdict: Verdict, why: str, now: float, cluster: str
) -> tuple[AlertState, tuple[Notice, ...]]:
    """A new release was accepted: ends the open incident with the reason given. verdict: the latest of that adapter."""
    if not state.opened_as:
        return state, ()
    notice = to_notice(verdict, NoticeReason.REENROLLED, cluster, now)
    summary = f"[{cluster}] {accepted_headline(verdict.subject, why)}"
    told = replace(notice, summary=summary[:1024], details={**notice.details, "why": why})
    return follow(state, verdict, NoticeReason.REENROLLED), (told,)


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
