"""From a verdict to the words of its notice: the headline, and the details by name. Pure.

Whether anything is sent at all is decided in incidents.py; all sentences are in detectors/on_call_text.py. The names of
``details`` are part of what PagerDuty receives: people filter by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from agent.alerting.alert_state import AlertState
from agent.alerting.page.reload_calls import reload_call
from agent.alerting.page_words import clauses, explained, numbered, short_and_rest
from agent.records import NoticeReason
from detectors import on_call_text as text
from detectors.name_list import first_names
from detectors.records import Cause, Evidence, Identity, Interval, Onset, ShareOf, Status, SubjectKind, Verdict
from detectors.verdicts.incident import REOPENED_WITHIN_S

# Causes that tell a reader nothing about where to look.
VAGUE = (Cause.NONE, Cause.UNKNOWN)

# What a verdict's share is of.
SHARES = {
    ShareOf.DRAWS: "canaries beyond tolerance",
    ShareOf.SCORES: "base beyond tolerance",
    ShareOf.RESPONSES: "responses against it",
}
SHARES_OF = {
    ShareOf.DRAWS: "of this round's draws",
    ShareOf.SCORES: "of this round's draws, each beyond where enough adapters are",
    ShareOf.RESPONSES: "of those scored in this round",
}
# Notices that tell a reader of something for the first time.
OPENING = (NoticeReason.DEGRADED, NoticeReason.CAUSE_SHARPER, NoticeReason.CANNOT_TELL, NoticeReason.NO_LONGER_JUDGED)
# Names of details that others read too.
FIRST_ACTION, ROLL_BACK, SENT_BECAUSE = "first action", "roll back", "sent because"
CHANGED, PODS, RELOAD = "changed", "pods", "reload"
# A reader takes a retention from here on for all of the effect.
KEPT = 0.9
LEAST_PERCENT = 1.0


def headline(verdict: Verdict, reason: NoticeReason, why: str = "") -> str:
    """One line: which subject, what is wrong, how much of the adapter is left, since when.

    why: the reason given at enrolment, where a new release was accepted
    """
    return _template(verdict.identity, reason).format(**_values(verdict), why=why)


def _affected(members: Sequence[str]) -> str:
    return text.AFFECTED.format(names=first_names(members)) if members else ""


def _headline_subject(verdict: Verdict) -> str:
    """Of a base's incident its adapters: what is wrong is wrong with them."""
    if verdict.subject_kind is not SubjectKind.BASE or not verdict.members:
        return subject_words(verdict)
    template = text.ADAPTER_OF if len(verdict.members) == 1 else text.ADAPTERS_OF
    return template.format(n=len(verdict.members), name=verdict.subject)


def _template(identity: Identity, reason: NoticeReason) -> str:
    """Other weights or files are said only where a hash says so."""
    if reason is NoticeReason.BASE_MOVED and not (identity.golden_base and identity.live_base):
        return text.HEADLINES_UNKNOWN_FILES[reason.value]
    has_same_files = {
        NoticeReason.BASE_MOVED: not identity.base_moved,
        NoticeReason.TEMPLATE_CHANGED: not identity.template_moved,
    }
    return (text.HEADLINES_SAME_FILES if has_same_files.get(reason) else text.HEADLINES)[reason.value]


def _values(verdict: Verdict) -> dict[str, Any]:
    """What the headlines may use."""
    identity, members = verdict.identity, verdict.members
    return {
        "subject": _headline_subject(verdict),
        "base": verdict.base,
        "covered_by": verdict.covered_by,
        "cause": text.CAUSE_UNKNOWN if verdict.cause in VAGUE else _words(verdict.cause.value),
        "affected": _affected(members),
        "retention": _retention(verdict),
        "strength": text.STRENGTH.format(scale=verdict.scale) if math.isfinite(verdict.scale) else "",
        "since": text.SINCE.format(onset=onset_words(verdict.onset)) if verdict.onset else "",
        "status": text.IN_PART if verdict.status is Status.UNMONITORABLE else verdict.status.value,
        "reason": _words(verdict.reason.value),
        "explanation": verdict.explanation,
        "live_base": _short(identity.live_base),
        "live_adapter": _short(identity.live_adapter),
        "live_tokenizer": _short(identity.live_tokenizer),
        "live_template": _short(identity.live_template),
        "live_engine": identity.live_engine,
        "golden_engine": identity.golden_engine,
        "live_source": identity.live_source,
        "golden_source": identity.golden_source,
    }


def subject_words(verdict: Verdict) -> str:
    """What the verdict is about: the adapter's name, or the base's with what it is."""
    words = {SubjectKind.BASE: text.A_BASE, SubjectKind.BASE_REQUESTS: text.BASE_REQUESTS}
    return words.get(verdict.subject_kind, "{name}").format(name=verdict.subject)


def _retention(verdict: Verdict) -> str:
    """A base has no retention of its own, so that "not measured" would say nothing of it."""
    has_retention = verdict.subject_kind is SubjectKind.ADAPTER or verdict.retention is not None
    words = retention_words(verdict.retention)
    if verdict.status is Status.DEGRADED and _keeps_its_effect(verdict):
        percent, of = 100 * verdict.share_beyond, SHARES[verdict.share_of]
        kept = text.RETENTION_IS_KEPT if percent >= LEAST_PERCENT else text.RETENTION_AS_SCORED
        return kept.format(percent=percent, of=of, retention=words)
    return text.RETENTION.format(retention=words) if has_retention else ""


def _keeps_its_effect(verdict: Verdict) -> bool:
    """Then retention alone would read as if nothing were wrong."""
    return verdict.retention is not None and verdict.retention.mean >= KEPT


def _measured_retention(verdict: Verdict) -> str:
    words = retention_words(verdict.retention) if _retention(verdict) else ""
    if verdict.retention is None or verdict.share_of is not ShareOf.RESPONSES:
        return words
    return text.BY_RESPONSES_ALONE.format(retention=words, n=verdict.retention.n)


def runbook_of(verdict: Verdict) -> str:
    """Name of the runbook that helps, "" where there is nothing to do."""
    if verdict.cause is not Cause.NONE:
        return verdict.cause.value
    return Status.UNMONITORABLE.value if verdict.status is Status.UNMONITORABLE else ""


def details(verdict: Verdict, reason: NoticeReason, cluster: str) -> dict[str, str]:
    """In the order of the questions at three in the morning: what was seen, what to do, then what that rests on."""
    page = runbook_of(verdict)
    strongest = max((e for e in verdict.evidence if e.pages), key=lambda e: e.log_e, default=None)
    short, rest = short_and_rest(verdict.explanation)
    lines = {
        "seen": short,
        FIRST_ACTION: steps_of(verdict.action),
        RELOAD: reload_call(verdict) if reason in OPENING else "",
        "runbook": f"gapwatch runbook {page} (dashboards/runbooks/{page}.md)" if page else "",
        "subject": f"{verdict.subject_kind.value} {verdict.subject}",
        "adapters": ", ".join(verdict.members),
        "cause": verdict.cause.value if verdict.cause is not Cause.NONE else "",
        "canaries answered by": verdict.answered_by if verdict.is_of_engine else "",
        PODS: pods_words(verdict.bad_pods, verdict.pods),
        "in detail": rest,
        "onset": _onset(verdict.onset) if verdict.onset else "",
        "reopened": text.REOPENED.format(n=verdict.reopenings) if verdict.reopenings else "",
        "retention": _measured_retention(verdict),
        "retention over rounds": _over_rounds(verdict.retention_over_rounds),
        "verdict": f"{verdict.status.value} ({verdict.reason.value})",
        SENT_BECAUSE: text.SENT_BECAUSE[reason.value],
        "strength": _number(verdict.scale, "of the accepted LoRA scale"),
        "distortion": _number(verdict.distortion, "of the adapter's energy"),
        "base shift": _number(verdict.base_shift, "of the adapter's energy"),
        "gap to the base": _number(verdict.gap_ratio, "of its healthy value"),
        SHARES[verdict.share_of]: _number(verdict.share_beyond, SHARES_OF[verdict.share_of]),
        "evidence": _evidence(strongest.log_e, verdict.log_threshold, _stream(strongest)) if strongest else "",
        "weights of the base": _quantisation(verdict.identity),
        "engine": _beside(verdict.identity.live_engine, verdict.identity.golden_engine),
        "source in the engine": _beside(verdict.identity.live_source, verdict.identity.golden_source),
    }
    if reason in OPENING:
        used = explained(f"{name}: {line}" for name, line in lines.items() if line)
        lines["words"] = "; ".join([*used, text.TERMS_MORE])
    where = {"commands": text.WHERE_TO_RUN} if reason in OPENING else {}
    hashes = {f"hash {name}": value for name, value in _hashes(verdict).items()}
    return {name: line for name, line in (lines | where | hashes | _questions(verdict, cluster)).items() if line}


def reopened_words(state: AlertState, now: float) -> str:
    """Why a page is sent of a subject whose incident before ended within a day; "" where there was none."""
    ended = state.incident.at
    if state.incident.is_open or not 0.0 < now - ended <= REOPENED_WITHIN_S or not ended:
        return ""
    known = state.former_cause != Cause.NONE.value
    was = text.REOPENED_WAS.format(cause=_words(state.former_cause)) if known else ""
    return text.REOPENED_AFTER.format(ended=f"{datetime.fromtimestamp(ended, UTC):%Y-%m-%d %H:%M:%S}", was=was)


def steps_of(action: str) -> str:
    """What to do first, its steps numbered where there are several."""
    return "; ".join(numbered(clauses(action)))


def pods_words(bad: Sequence[str], scored: Sequence[str]) -> str:
    """Which pods the bad ones of the sampled responses came from; "" where none is known, and of canaries alone.

    bad, scored: as bad_pods and pods of a Verdict
    """
    if not bad:
        return ""
    others = [pod for pod in scored if pod not in bad]
    template = text.PODS_SOME if others else text.PODS_ALL
    return template.format(bad=first_names(bad), others=first_names(others))


def with_roll_back(lines: Mapping[str, str], how: str) -> dict[str, str]:
    """Details with how this team rolls back, behind what is to be done first. how: "" where nobody has said so"""
    return _with_line(lines, ROLL_BACK, how, ("seen", FIRST_ACTION, RELOAD))


def with_changed(lines: Mapping[str, str], what: str) -> dict[str, str]:
    """Details with what was another one in the day before, behind when the fault began. what: "" where unknown"""
    names = tuple(lines)
    last = next((name for name in ("onset", "cause", "subject") if name in lines), "")
    return _with_line(lines, CHANGED, what, names[: names.index(last) + 1] if last else ())


def _with_line(lines: Mapping[str, str], name: str, line: str, behind: Sequence[str]) -> dict[str, str]:
    if not line:
        return dict(lines)
    first = {before: lines[before] for before in lines if before in behind}
    return {**first, name: line, **{other: value for other, value in lines.items() if other not in behind}}


def _stream(evidence: Evidence) -> str:
    """The detector, and which of its streams where it has several."""
    return f"{evidence.detector} {evidence.stream}".strip()


def _beside(live: str, golden: str) -> str:
    return f"{live} (accepted: {golden})" if live and golden and live != golden else live


def _questions(verdict: Verdict, cluster: str) -> dict[str, str]:
    subject, kind = _in_sql(verdict.subject), verdict.subject_kind.value
    names = ("since", "identity", "flipped", "requests_since")
    queries = {f"query {name}": f"gapwatch query {name} -p {quote(f'subject={verdict.subject}')}" for name in names}
    where = f"cluster = '{_in_sql(cluster)}' AND subject_kind = '{kind}' AND subject = '{subject}'"
    columns = "at, status, reason, cause, retention, log_e, log_threshold, explanation"
    whole = {"explain": f"gapwatch explain {quote(f'{kind}/{verdict.subject}')}"}
    return {**whole, **queries, "sql": f"SELECT {columns} FROM verdicts WHERE {where} ORDER BY at DESC LIMIT 20"}


def _in_sql(name: str) -> str:
    """Between single quotes, in ClickHouse's spelling."""
    return name.replace("\\", "\\\\").replace("'", "\\'")


def _hashes(verdict: Verdict) -> dict[str, str]:
    identity = verdict.identity
    pairs = {"base": (identity.golden_base, identity.live_base)}
    if verdict.subject_kind is SubjectKind.ADAPTER:  # a base has several, and this would be the hash of one of them
        pairs["adapter"] = identity.golden_adapter, identity.live_adapter
    if identity.tokenizer_moved:
        pairs["tokenizer"] = identity.golden_tokenizer, identity.live_tokenizer
    if identity.template_moved:
        pairs["chat template"] = identity.golden_template, identity.live_template
    return {
        name: f"{live or text.HASH_NOT_KNOWN} (accepted: {golden})" if golden != live else f"{live} as accepted"
        for name, (golden, live) in pairs.items()
        if live or golden
    }


def _quantisation(identity: Identity) -> str:
    return f"{identity.live_grid} (accepted: {identity.golden_grid})" if identity.base_quantised else ""


def _evidence(log_e: float, threshold: float, detector: str) -> str:
    return f"{log_e:.1f} nats; a page needs {threshold:.1f} ({detector})"


def onset_words(onset: Onset) -> str:
    """``2026-11-24 02:10-02:25 UTC (95 %)``; without an interval, after the last good round, by the first bad one."""
    if onset.latest is not None:
        return text.ONSET_CONFIDENCE.format(between=_between(onset.earliest, onset.latest))
    is_earlier = onset.after is not None and onset.estimate is not None and onset.estimate < onset.after
    earlier = text.ONSET_BY_EVIDENCE.format(estimate=_minute(datetime.fromtimestamp(onset.estimate or 0.0, UTC)))
    return _between(onset.after, onset.by) + (earlier if is_earlier else "")


def _onset(onset: Onset) -> str:
    """With what the rounds alone say, where the interval is by evidence: two ranges that differ need a reason."""
    words = onset_words(onset)
    if onset.latest is None and onset.after is not None:
        after, by = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}" for at in (onset.after, onset.by))
        form = text.ONSET_WITHIN_A_SECOND if after == by else text.ONSET_EXACT
        return form.format(onset=words, after=after, by=by if after == by else by.removeprefix(after[:11]))
    if onset.latest is None:
        return words
    return text.ONSET_ROUNDS.format(onset=words, between=_between(onset.after, onset.by))


def _between(after_at: float | None, by_at: float) -> str:
    by = datetime.fromtimestamp(by_at, UTC)
    if after_at is None:
        return text.ONSET_OR_EARLIER.format(by=_minute(by))
    after = datetime.fromtimestamp(after_at, UTC)
    until = f"{by:%H:%M}" if after.date() == by.date() else _minute(by)
    span = text.ONSET_MINUTE if _minute(after) == _minute(by) else text.ONSET
    return span.format(after=_minute(after), by=until)


def day_of(at: float) -> str:
    """``2026-11-24``, UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def retention_words(retention: Interval | None) -> str:
    """``0.02 (95 % -0.01..0.05)``: a share of the adapter's effect; 1 intact, 0 the base."""
    if retention is None or not math.isfinite(retention.mean):
        return text.NOT_MEASURED
    interval = text.INTERVAL.format(low=retention.low, high=retention.high) if math.isfinite(retention.low) else ""
    return f"{retention.mean:z.2f}{interval}"


def smallest_loss_words(loss: float | None, draws: int) -> str:
    """``5.5% in 9 draws``: of its strength, whose loss pages; stands beside every healthy verdict.

    loss, draws: see GoldenAccepted.smallest_loss
    """
    return text.SMALLEST_LOSS_NOT_KNOWN if loss is None else text.SMALLEST_LOSS.format(percent=100 * loss, draws=draws)


def _over_rounds(retention: Interval | None) -> str:
    return text.OVER_ROUNDS.format(retention=retention_words(retention), n=retention.n) if retention else ""


def _number(value: float, of_what: str) -> str:
    """Three decimals, and two digits of what would be 0.00 by them."""
    if not math.isfinite(value):
        return ""
    return f"{value:.3f} {of_what}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g} {of_what}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(digest: str) -> str:
    return digest[:19] if digest else text.HASH_NOT_KNOWN
