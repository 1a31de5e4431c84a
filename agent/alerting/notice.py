"""One verdict as one event, and the key that says which incident it is about. Pure.

Cluster and subject make the key, so that all pods speak of one incident. That a subject cannot be judged is an incident
of its own: a page about the same subject must not disappear in an open warning.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from agent.alerting.notice_text import details, headline
from agent.records import Notice, NoticeKind, NoticeReason
from detectors.records import SubjectKind, Verdict

MAX_KEY = 255
KINDS = {
    NoticeReason.DEGRADED: NoticeKind.TRIGGER,
    NoticeReason.CAUSE_SHARPER: NoticeKind.TRIGGER,
    NoticeReason.NO_LONGER_JUDGED: NoticeKind.TRIGGER,
    NoticeReason.CANNOT_TELL: NoticeKind.TRIGGER,
    NoticeReason.CAN_TELL_AGAIN: NoticeKind.RESOLVE,
    NoticeReason.TAKEN_OVER: NoticeKind.RESOLVE,
    NoticeReason.RECOVERED: NoticeKind.RESOLVE,
    NoticeReason.REENROLLED: NoticeKind.RESOLVE,
    NoticeReason.BASE_MOVED: NoticeKind.CHANGE,
    NoticeReason.TOKENIZER_CHANGED: NoticeKind.CHANGE,
    NoticeReason.TEMPLATE_CHANGED: NoticeKind.CHANGE,
    NoticeReason.ADAPTER_MOVED: NoticeKind.CHANGE,
    NoticeReason.ENGINE_MOVED: NoticeKind.CHANGE,
    NoticeReason.SOURCE_MOVED: NoticeKind.CHANGE,
    NoticeReason.TOLERATED_CHANGE: NoticeKind.CHANGE,
    NoticeReason.TOLERATED_CHANGE_OVER: NoticeKind.CHANGE,
    NoticeReason.GOLDEN_OLD: NoticeKind.CHANGE,
    NoticeReason.PASSPORT_CLOCK: NoticeKind.CHANGE,
}
OF_BLINDNESS = (NoticeReason.CANNOT_TELL, NoticeReason.CAN_TELL_AGAIN)
OF_A_BASE = (
    *(NoticeReason.BASE_MOVED, NoticeReason.TOKENIZER_CHANGED, NoticeReason.TEMPLATE_CHANGED),
    NoticeReason.ENGINE_MOVED,
)


def to_notice(
    verdict: Verdict, reason: NoticeReason, cluster: str, now: float, change: str = "", why: str = ""
) -> Notice:
    """One event about one verdict, complete enough to act on at three in the morning. change: name of what changed;
    why: what its headline says beside that"""
    kind, subject = subject_of(verdict, reason)
    key = blindness_key(cluster, kind, subject) if reason in OF_BLINDNESS else dedup_key(cluster, kind, subject)
    summary = f"[{cluster}] {headline(verdict, reason, why)}"
    after = dedup_key(cluster, SubjectKind.BASE, verdict.covered_by) if reason is NoticeReason.TAKEN_OVER else ""
    lines = details(verdict, reason, cluster)
    return Notice(KINDS[reason], reason, key, summary[:1024], verdict, now, lines, after, change)


def subject_of(verdict: Verdict, reason: NoticeReason) -> tuple[SubjectKind, str]:
    """What a notice is about: the base where that changed, whichever verdict reports it."""
    if reason in OF_A_BASE:
        return SubjectKind.BASE, verdict.base
    return verdict.subject_kind, verdict.subject


def state_key(kind: SubjectKind, subject: str) -> str:
    """Where a subject's state lies among those of all subjects."""
    return f"{kind.value}/{subject}"


def dedup_key(cluster: str, kind: SubjectKind, subject: str) -> str:
    """Same cluster and subject, same incident, from whichever pod. Never longer than PagerDuty's 255."""
    return _within_limit(f"gapwatch/{cluster}/{kind.value}/{subject}")


def blindness_key(cluster: str, kind: SubjectKind, subject: str) -> str:
    """Likewise of the incident that a subject cannot be judged."""
    return _within_limit(f"gapwatch/{cluster}/cannot-tell/{kind.value}/{subject}")


def _within_limit(key: str) -> str:
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def as_ticket(notice: Notice) -> Notice:
    """The change event of a passport's clock as an incident of its own, one for each clock: a later warning of the same
    clock is an update of it while it is open. notice: of reason PASSPORT_CLOCK"""
    clock = notice.change.removeprefix("clock ").partition(" ")[0]
    return replace(notice, kind=NoticeKind.TRIGGER, dedup_key=_within_limit(f"{notice.dedup_key}/clock/{clock}"))
