"""When to wake somebody, and with which words: pure, from verdicts to notices.

One incident per cluster and subject, whatever its cause: the cause may get sharper while the incident is open.
A base's incident speaks for its members. Anything that cannot be told for three rounds is said once, as that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from agent.records import Notice, NoticeKind, NoticeReason
from detectors.records import Cause, Evidence, Interval, Onset, Reason, Status, SubjectKind, Verdict

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
}
VAGUE = (Cause.NONE, Cause.UNKNOWN)


@dataclass(frozen=True, slots=True)
class AlertState:
    """What the on-call person was last told about one subject.

    opened_as: "" with no incident open, else "degraded" or "cannot_tell"; cause: as told
    blind, good: unmonitorable and healthy rounds in a row; told: live base hashes a change was told for
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
        base = state_key(SubjectKind.BASE, verdict.base)
        told = after.get(base, AlertState()).told
        if all_healthy and verdict.reason is Reason.BASE_MOVED and verdict.identity.live_base not in told:
            after[base] = replace(after.get(base, AlertState()), told=(*told, verdict.identity.live_base)[-16:])
            notices.append(to_notice(verdict, NoticeReason.BASE_MOVED, cluster, now))
    return after, tuple(notices)


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
    summary = f"[{cluster}] {verdict.subject}: a new release was accepted - {why}"
    told = replace(notice, summary=summary[:1024], details={**notice.details, "why": why})
    return follow(state, verdict, NoticeReason.REENROLLED), (told,)


def to_notice(verdict: Verdict, reason: NoticeReason, cluster: str, now: float) -> Notice:
    """The words for one verdict, complete enough to act on at three in the morning."""
    kind, subject = verdict.subject_kind, verdict.subject
    if reason is NoticeReason.BASE_MOVED:  # it is about the base, whichever verdict told it
        kind, subject = SubjectKind.BASE, verdict.base
    key = dedup_key(cluster, kind, subject)
    summary = f"[{cluster}] {_headline(verdict, reason)}"
    after = dedup_key(cluster, SubjectKind.BASE, verdict.covered_by) if reason is NoticeReason.TAKEN_OVER else ""
    return Notice(KINDS[reason], reason, key, summary[:1024], verdict, now, _details(verdict, reason, cluster), after)


def dedup_key(cluster: str, kind: SubjectKind, subject: str) -> str:
    """Same cluster and subject, same incident, from whichever pod. Never longer than PagerDuty's 255."""
    key = f"gapwatch/{cluster}/{kind.value}/{subject}"
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _headline(verdict: Verdict, reason: NoticeReason) -> str:
    name = f"base {verdict.subject}" if verdict.subject_kind is SubjectKind.BASE else verdict.subject
    since = f", since {onset_words(verdict.onset)}" if verdict.onset else ""
    if reason is NoticeReason.BASE_MOVED:
        return (
            f"base {verdict.base}: other weights ({_short(verdict.identity.live_base)}), its adapters keep their effect"
        )
    if reason is NoticeReason.CANNOT_TELL:
        return f"{name}: cannot tell whether it is healthy - {_words(verdict.reason.value)}: {verdict.explanation}"
    if reason is NoticeReason.TAKEN_OVER:
        return f"{name}: goes on as the incident of its base {verdict.covered_by}"
    if reason is NoticeReason.RECOVERED:
        return f"{name}: recovered{_left(verdict)}"
    if reason is NoticeReason.CAN_TELL_AGAIN:
        return f"{name}: can be told again, and is degraded: that is an incident of its own"
    of = f" ({len(verdict.members)} adapters: {', '.join(verdict.members)})" if verdict.members else ""
    cause = "degraded, cause unknown" if verdict.cause in VAGUE else _words(verdict.cause.value)
    return f"{name}: {cause}{of}{_left(verdict)}{since}"


def _left(verdict: Verdict) -> str:
    """A base has no retention of its own, so that it was not measured is no news of it."""
    told = verdict.subject_kind is SubjectKind.ADAPTER or verdict.retention is not None
    return f" - retention {retention_words(verdict.retention)}" if told else ""


def runbook_of(verdict: Verdict) -> str:
    """Name of the page that helps, "" where there is nothing to do."""
    if verdict.cause is not Cause.NONE:
        return verdict.cause.value
    return Status.UNMONITORABLE.value if verdict.status is Status.UNMONITORABLE else ""


def _details(verdict: Verdict, reason: NoticeReason, cluster: str) -> dict[str, str]:
    """In the order of the questions at three in the morning: what is seen, what to do, then what it rests on."""
    page = runbook_of(verdict)
    strongest = max((e for e in verdict.evidence if e.pages), key=lambda e: e.log_e, default=None)
    found = {
        "seen": verdict.explanation,
        "first action": verdict.action,
        "runbook": f"dashboards/runbooks/{page}.md" if page else "",
        "subject": f"{verdict.subject_kind.value} {verdict.subject}",
        "adapters": ", ".join(verdict.members),
        "cause": verdict.cause.value if verdict.cause is not Cause.NONE else "",
        "onset": onset_words(verdict.onset) if verdict.onset else "",
        "retention": retention_words(verdict.retention) if _left(verdict) else "",
        "retention over rounds": _over_rounds(verdict.retention_over_rounds),
        "verdict": f"{verdict.status.value} ({verdict.reason.value}), round {verdict.round}",
        "told because": _words(reason.value),
        "strength": _number(verdict.scale, "x of the LoRA scale"),
        "distortion": _number(verdict.distortion, "of the adapter's energy"),
        "base shift": _number(verdict.base_shift, "of the adapter's energy"),
        "gap to the base": _number(verdict.gap_ratio, "of its healthy value"),
        **_share(verdict, strongest),
        "evidence": _evidence(strongest.log_e, verdict.log_threshold, strongest.detector) if strongest else "",
        **{f"hash {name}": value for name, value in _hashes(verdict).items()},
        **_questions(verdict, cluster),
    }
    return {name: text for name, text in found.items() if text}


def _questions(verdict: Verdict, cluster: str) -> dict[str, str]:
    subject, kind = _in_sql(verdict.subject), verdict.subject_kind.value
    names = ("since", "identity", "flipped", "requests_since")
    asked = {f"query {name}": f"gapwatch query {name} -p {quote(f'subject={verdict.subject}')}" for name in names}
    where = f"cluster = '{_in_sql(cluster)}' AND subject_kind = '{kind}' AND subject = '{subject}'"
    columns = "at, status, reason, cause, retention, log_e, log_threshold, explanation"
    return {**asked, "sql": f"SELECT {columns} FROM verdicts WHERE {where} ORDER BY at DESC LIMIT 20"}


def _in_sql(text: str) -> str:
    """Between single quotes, in ClickHouse's spelling."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _hashes(verdict: Verdict) -> dict[str, str]:
    seen = verdict.identity
    pairs = {"base": (seen.golden_base, seen.live_base), "adapter": (seen.golden_adapter, seen.live_adapter)}
    return {
        name: f"{live} (accepted: {golden})" if golden != live else f"{live} as accepted"
        for name, (golden, live) in pairs.items()
        if live or golden
    }


def _evidence(log_e: float, threshold: float, detector: str) -> str:
    return f"{log_e:.1f} nats of {threshold:.1f} needed ({detector})"


def onset_words(onset: Onset) -> str:
    """``2026-11-24 02:13-02:14 UTC``: after the last good round, by the first bad one."""
    by = datetime.fromtimestamp(onset.by, UTC)
    if onset.after is None:
        return f"{by:%Y-%m-%d %H:%M} UTC or earlier"
    after = datetime.fromtimestamp(onset.after, UTC)
    until = f"{by:%H:%M}" if after.date() == by.date() else f"{by:%Y-%m-%d %H:%M}"
    return f"{after:%Y-%m-%d %H:%M}-{until} UTC{_earlier(onset)}"


def _earlier(onset: Onset) -> str:
    """The evidence may put a slow fault before the last round that still looked good."""
    if onset.estimate is None or onset.after is None or onset.estimate >= onset.after:
        return ""
    return f" (by the evidence already {datetime.fromtimestamp(onset.estimate, UTC):%Y-%m-%d %H:%M} UTC)"


def retention_words(seen: Interval | None) -> str:
    """``0.02 (95 % -0.01..0.05)``: a share of the adapter's effect; 1 intact, 0 the base."""
    if seen is None or not math.isfinite(seen.mean):
        return "not measured"
    spread = f" (95 % {seen.low:.2f}..{seen.high:.2f})" if math.isfinite(seen.low) else ""
    return f"{seen.mean:.2f}{spread}"


def _share(verdict: Verdict, strongest: Evidence | None) -> dict[str, str]:
    """Whose share it is: of canaries drawn, or of the responses that were heard."""
    if strongest is not None and strongest.detector == "traffic_likelihood":
        return {"responses against it": _number(verdict.share_beyond, "of those scored in this round")}
    return {"canaries beyond tolerance": _number(verdict.share_beyond, "of this round's draws")}


def _over_rounds(seen: Interval | None) -> str:
    return f"{retention_words(seen)}, at any time, {seen.n} canaries" if seen else ""


def _number(value: float, of_what: str) -> str:
    return f"{value:.3f} {of_what}" if math.isfinite(value) else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(digest: str) -> str:
    return digest[:19] if digest else "hash not known"
