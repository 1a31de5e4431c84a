"""The words of a page: what an on-call person reads of one verdict, pure.

Whether anything is sent at all is decided in incidents.py; here is only how it reads. What was seen of a cause and what
to do about it come with the verdict, and are worded in detectors/on_call_text.py.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from shlex import quote

from agent.records import NoticeReason
from detectors.records import Cause, Evidence, Interval, Onset, Status, SubjectKind, Verdict

# Causes that tell a reader nothing about where to look.
VAGUE = (Cause.NONE, Cause.UNKNOWN)
# Something else than what was accepted lies there, and the adapters do their job all the same.
CHANGES = (
    NoticeReason.BASE_MOVED,
    NoticeReason.TOKENIZER_CHANGED,
    NoticeReason.TEMPLATE_CHANGED,
    NoticeReason.ADAPTER_MOVED,
)


def headline(verdict: Verdict, reason: NoticeReason) -> str:
    """One line: which subject, what is wrong, how much of the adapter is left, since when."""
    name = f"base {verdict.subject}" if verdict.subject_kind is SubjectKind.BASE else verdict.subject
    since = f", since {onset_words(verdict.onset)}" if verdict.onset else ""
    if reason in CHANGES:
        return _change(verdict, reason)
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


def _change(verdict: Verdict, reason: NoticeReason) -> str:
    seen, base = verdict.identity, f"base {verdict.base}"
    if reason is NoticeReason.ADAPTER_MOVED:
        return f"{verdict.subject}: other files ({_short(seen.live_adapter)}) on the same base, within tolerance"
    if reason is NoticeReason.TOKENIZER_CHANGED:
        return f"{base}: other tokenizer files ({_short(seen.live_tokenizer)}), its adapters keep their effect"
    if reason is NoticeReason.TEMPLATE_CHANGED and seen.template_moved:
        return f"{base}: another chat template ({_short(seen.live_template)}), its adapters keep their effect"
    if reason is NoticeReason.TEMPLATE_CHANGED:
        return f"{base}: prompts render to other token ids (tokenizer or chat template), its adapters keep their effect"
    return f"{base}: other weights ({_short(seen.live_base)}), its adapters keep their effect"


def _left(verdict: Verdict) -> str:
    """A base has no retention of its own, so that it was not measured is no news of it."""
    told = verdict.subject_kind is SubjectKind.ADAPTER or verdict.retention is not None
    return f" - retention {retention_words(verdict.retention)}" if told else ""


def runbook_of(verdict: Verdict) -> str:
    """Name of the page that helps, "" where there is nothing to do."""
    if verdict.cause is not Cause.NONE:
        return verdict.cause.value
    return Status.UNMONITORABLE.value if verdict.status is Status.UNMONITORABLE else ""


def details(verdict: Verdict, reason: NoticeReason, cluster: str) -> dict[str, str]:
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
    if seen.tokenizer_moved:
        pairs["tokenizer"] = seen.golden_tokenizer, seen.live_tokenizer
    if seen.template_moved:
        pairs["chat template"] = seen.golden_template, seen.live_template
    return {
        name: f"{live} (accepted: {golden})" if golden != live else f"{live} as accepted"
        for name, (golden, live) in pairs.items()
        if live or golden
    }


def _evidence(log_e: float, threshold: float, detector: str) -> str:
    return f"{log_e:.1f} nats of {threshold:.1f} needed ({detector})"


def accepted_headline(subject: str, why: str) -> str:
    """The line that ends an incident because a new release was accepted, with the reason given at enrolment."""
    return f"{subject}: a new release was accepted - {why}"


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
