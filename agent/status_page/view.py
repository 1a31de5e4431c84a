"""What stands on the status page, in words and in the order in which it is read. Pure: no clock, no markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from shlex import quote

from markupsafe import Markup

from agent.alerting.notice_text import onset_words, pods_words, retention_words, runbook_of, smallest_loss_words
from agent.alerting.page_words import clauses, explained
from agent.records import Flip, NoticeKind
from agent.status_page.board import BUCKET_S, DAY_S, Accepted, Moved, Points, SentNotice, Snapshot
from agent.status_page.plots import evidence_plot, retention_plot
from agent.store.history import History, Pod
from detectors.records import Cause, Evidence, Reason, Status, Subject, SubjectKind, Verdict

MOST_CARDS, MOST_INCIDENTS = 20, 20
# A pod without a sign of life for as long is gone, as for the on-call questions.
GONE_S = 180.0
# Healthy is the least of four; what was never judged is not healthy.
SEVERITY = (Status.DEGRADED, Status.UNMONITORABLE, Status.SUSPECT, Status.HEALTHY)
NOT_JUDGED = "not judged yet"
EMPTY = Markup()
# Asked about what is degraded, in this order.
QUESTIONS = ("since", "flipped", "identity", "requests_since")


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter, or one base. status: a value of Status, or NOT_JUDGED; at: when it was judged, in words

    retention: now, with its interval; day: over the last day; evidence: the strongest that may page, against the level
    sees: the smallest loss of strength that this watch would page for
    """

    name: str
    kind: str
    base: str
    status: str
    says: str
    retention: str = ""
    day: Markup = EMPTY
    evidence: Markup = EMPTY
    evidence_words: str = ""
    sees: str = ""
    at: str = ""
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """What somebody has to look at. explanation: in sentences, the first of them what is wrong; roll_back: how the team
    does it; pods: which the bad ones of the sampled responses came from; changes: what lies under it that was not
    accepted; commands: to go on with"""

    row: Row
    cause: str
    since: str
    explanation: tuple[str, ...]
    action: str
    roll_back: str
    affected: tuple[str, ...]
    pods: str
    changes: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident with its timeline: (when, what was sent), newest last."""

    subject: str
    is_open: bool
    since: str
    cause: str
    events: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """texts: are prompts and answers shown? trouble: what is not known; parts: name -> (works, in words)"""

    cluster: str
    pod: str
    at: str
    counts: tuple[tuple[str, int], ...]
    headline: str
    cards: tuple[Card, ...]
    more_cards: int
    rows: tuple[Row, ...]
    bases: tuple[Row, ...]
    incidents: tuple[Incident, ...]
    changes: tuple[tuple[str, str], ...]
    flips: tuple[tuple[str, Flip], ...]
    moved: tuple[tuple[str, str, str], ...]
    pods: tuple[tuple[str, str, str], ...]
    parts: Mapping[str, tuple[bool, str]]
    trouble: str
    texts: bool
    terms: tuple[tuple[str, str], ...] = ()


def page_of(
    own: Snapshot, before: History, parts: Mapping[str, tuple[bool, str]], now: float, texts: bool, trouble: str = ""
) -> Page:
    """own: what this process knows; before: what the store said; texts: may prompts and answers be shown?"""
    verdicts = _verdicts(own, before)
    rows = {subject: _row(subject, base, own, before, verdicts, now) for subject, base in _subjects(own)}
    adapters = sorted((row for (kind, _), row in rows.items() if kind is SubjectKind.ADAPTER), key=_order)
    bases = sorted((row for (kind, _), row in rows.items() if kind is SubjectKind.BASE), key=_order)
    urgent = [
        subject
        for subject, row in rows.items()
        if row.status != Status.HEALTHY and subject in verdicts and not verdicts[subject].covered_by
    ]
    urgent.sort(key=lambda subject: (_order(rows[subject])[0], subject[0] is SubjectKind.ADAPTER, subject[1]))
    incidents, changes = _timeline(own, before)
    flips = {(flip.adapter, flip.canary): flip for flip in (*before.flips, *own.flips)}
    moved = {(change.subject, change.parts): change for change in (*own.moved, *before.moved) if change.subject in rows}
    cards = tuple(
        _card(rows[subject], verdicts[subject], own.roll_back.get(subject, "")) for subject in urgent[:MOST_CARDS]
    )
    counts = tuple((words, sum(row.status == words for row in adapters)) for words in (*SEVERITY, NOT_JUDGED))
    return Page(
        own.cluster,
        own.pod,
        _time(now),
        tuple((str(words), n) for words, n in counts if n),
        _headline(adapters, bases),
        cards,
        max(0, len(urgent) - MOST_CARDS),
        tuple(adapters),
        tuple(bases),
        incidents[:MOST_INCIDENTS],
        changes,
        tuple((_time(flip.at), flip) for flip in sorted(flips.values(), key=lambda flip: -flip.at)),
        _moves(moved.values()),
        tuple(_pod(pod, now) for pod in before.pods),
        parts,
        trouble,
        texts,
        _terms(cards, adapters),
    )


def _terms(cards: Sequence[Card], rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """What the terms on the page mean, of those that are used: those of the tables always are."""
    used = [line for card in cards for line in (*card.explanation, card.action)]
    in_tables = ["retention", *(row.evidence_words for row in rows[:1])]
    pairs = (line.partition(": ") for line in explained([*used, *in_tables]))
    return tuple((term, meaning) for term, _, meaning in pairs)


def _subjects(own: Snapshot) -> list[tuple[Subject, str]]:
    """Every subject of the configuration with its base: one that nobody judges is on the page too. A base is a subject
    where it has two adapters or more."""
    subjects: list[tuple[Subject, str]] = []
    for base, adapters in own.bases.items():
        subjects += [((SubjectKind.BASE, base), base)] if len(adapters) > 1 else []
        subjects += [((SubjectKind.ADAPTER, name), base) for name in adapters]
    return subjects


def _verdicts(own: Snapshot, before: History) -> dict[Subject, Verdict]:
    """This pod's own, and of what it does not judge, or has not judged yet, the latest of any pod. That nobody judges
    it holds until somebody does."""
    judged = {
        subject: verdict
        for subject, verdict in own.verdicts.items()
        if verdict.reason is not Reason.NOT_JUDGED or verdict.at >= before.verdicts.get(subject, verdict).at
    }
    return {**before.verdicts, **judged}


def _row(
    subject: Subject, base: str, own: Snapshot, before: History, verdicts: Mapping[Subject, Verdict], now: float
) -> Row:
    kind, name = subject
    verdict = verdicts.get(subject)
    is_adapter = kind is SubjectKind.ADAPTER
    points = _points(before.retention.get(name, ()), own.retention.get(name, ())) if is_adapter else ()
    row = Row(name, kind.value, base, NOT_JUDGED, "no verdict of any pod within two days")
    if is_adapter:
        sees = _sees(own.accepted.get(name) or before.accepted.get(name))
        row = replace(row, sees=sees, day=retention_plot(points, now, DAY_S, BUCKET_S))
    if verdict is None:
        return row
    strongest = _strongest(own.evidence.get(subject, verdict.evidence), verdict)
    level = verdict.log_threshold
    is_known = strongest is not None and math.isfinite(level)
    log_e = strongest.log_e if strongest is not None else 0.0
    return replace(
        row,
        status=verdict.status.value,
        says=_says(verdict),
        retention=retention_words(verdict.retention) if is_adapter and verdict.retention is not None else "",
        evidence=evidence_plot(log_e, level) if is_known else EMPTY,
        evidence_words=f"{log_e:.1f} nats, pages at {level:.1f}" if is_known else "",
        at=_age(now - verdict.at),
        elsewhere=verdict is not own.verdicts.get(subject),
    )


def _points(before: Points, own: Points) -> Points:
    """Of a stretch that both know, what the store says: it has the rounds of every pod and of former processes."""
    return tuple(sorted((dict(own) | dict(before)).items())) if before else own


def _strongest(evidence: Sequence[Evidence], verdict: Verdict) -> Evidence | None:
    return max((e for e in (*evidence, *verdict.evidence) if e.pages), key=lambda e: e.log_e, default=None)


def _sees(accepted: Accepted | None) -> str:
    return smallest_loss_words(accepted.smallest_loss, accepted.draws) if accepted else smallest_loss_words(None, 0)


def _says(verdict: Verdict) -> str:
    """Cause and reason in a few words."""
    if verdict.covered_by:
        return f"by base {verdict.covered_by}"
    cause = _words(verdict.cause.value) if verdict.cause is not Cause.NONE else ""
    if verdict.status is Status.HEALTHY:
        return "has changed within its tolerance" if verdict.tolerated_change else _words(verdict.reason.value)
    return "; ".join(words for words in (cause, _words(verdict.reason.value)) if words)


def _card(row: Row, verdict: Verdict, roll_back: str) -> Card:
    page = runbook_of(verdict)
    commands = [f"gapwatch runbook {page}"] if page else []
    if verdict.status is Status.DEGRADED:
        argument = quote(f"subject={verdict.subject}")
        commands += [f"gapwatch query {name} -p {argument}" for name in QUESTIONS]
    else:
        commands.append("gapwatch query freshness")
    return Card(
        row,
        _words(verdict.cause.value) if verdict.cause is not Cause.NONE else "",
        f"{onset_words(verdict.onset)}" if verdict.onset else "",
        clauses(verdict.explanation) or (_words(verdict.reason.value),),
        verdict.action,
        roll_back,
        verdict.members,
        pods_words(verdict.bad_pods, verdict.pods),
        _not_accepted(verdict),
        tuple(commands),
    )


def _not_accepted(verdict: Verdict) -> tuple[str, ...]:
    """What lies under it that is not what was accepted."""
    identity = verdict.identity
    moved = {
        "base": identity.base_moved,
        "adapter": identity.adapter_moved,
        "tokenizer": identity.tokenizer_moved,
        "chat template": identity.template_moved,
    }
    return tuple(f"another {words} than accepted" for words, is_moved in moved.items() if is_moved)


def _headline(adapters: Sequence[Row], bases: Sequence[Row]) -> str:
    """The state of everything in one sentence; the worst first."""
    n = {status: sum(row.status == status for row in adapters) for status in (*SEVERITY, NOT_JUDGED)}
    swapped = [row.name for row in bases if row.status == Status.DEGRADED]
    words = {
        "degraded": n[Status.DEGRADED],
        "cannot be judged": n[Status.UNMONITORABLE],
        "not judged yet": n[NOT_JUDGED],
        "suspect": n[Status.SUSPECT],
    }
    bad = ", ".join(f"{count} {what}" for what, count in words.items() if count)
    base = f"; base {', '.join(swapped)} degraded" if swapped else ""
    whole = f"{len(adapters)} adapter{'' if len(adapters) == 1 else 's'}"
    return f"{bad or 'all healthy'} of {whole}{base}" if bad else f"{whole}, all healthy{base}"


def _timeline(own: Snapshot, before: History) -> tuple[tuple[Incident, ...], tuple[tuple[str, str], ...]]:
    """Incidents, the open ones first, and change events, the newest first; each notice once, whoever knows it."""
    each = {(notice.key, notice.reason, round(notice.at)): notice for notice in (*own.sent, *before.sent)}
    notices = sorted(each.values(), key=lambda notice: notice.at)
    change_events = [notice for notice in reversed(notices) if notice.kind is NoticeKind.CHANGE]
    changes = tuple((_time(change.at), change.summary) for change in change_events[:MOST_INCIDENTS])
    by_key: dict[str, list[list[SentNotice]]] = {}
    for notice in notices:
        if notice.kind is NoticeKind.CHANGE:
            continue
        of_key = by_key.setdefault(notice.key, [])
        if not of_key or of_key[-1][-1].kind is NoticeKind.RESOLVE:
            of_key.append([])
        of_key[-1].append(notice)
    runs = sorted((run for runs in by_key.values() for run in runs), key=lambda run: (_is_over(run), -run[0].at))
    return tuple(_incident(run) for run in runs), changes


def _is_over(run: Sequence[SentNotice]) -> bool:
    return run[-1].kind is NoticeKind.RESOLVE


def _incident(run: Sequence[SentNotice]) -> Incident:
    kind, name = run[0].subject
    subject = f"base {name}" if kind is SubjectKind.BASE else name
    cause = next((_words(notice.cause) for notice in reversed(run) if notice.cause not in ("", "none", "unknown")), "")
    events = tuple((_time(notice.at), notice.summary) for notice in run)
    return Incident(subject, not _is_over(run), _time(run[0].at), cause, events)


def _moves(moved: Iterable[Moved]) -> tuple[tuple[str, str, str], ...]:
    changes = sorted(moved, key=lambda change: -change.at)
    return tuple((_time(change.at), change.subject[1], ", ".join(change.parts)) for change in changes)


def _pod(pod: Pod, now: float) -> tuple[str, str, str]:
    """Name, state in words, and when it was last heard of."""
    quiet = now - pod.beat
    if quiet > GONE_S:
        return pod.name, "gone", _age(quiet)
    if pod.overdue:
        return pod.name, f"alive, and no round was judged of {', '.join(pod.overdue)}", _age(quiet)
    return pod.name, "alive", _age(quiet)


def _order(row: Row) -> tuple[int, str, str]:
    order = [*map(str, SEVERITY[:3]), NOT_JUDGED, str(SEVERITY[3])]
    return order.index(row.status), row.base, row.name


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def _age(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h`` ago."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def _words(name: str) -> str:
    return name.replace("_", " ")
