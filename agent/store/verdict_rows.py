"""What was concluded and reported as rows: verdicts, the evidence behind them, notices, and that the agent is alive.

The on-call questions in dashboards/sql and ``gapwatch rejudge`` read these columns. A new one also needs a migration
(table_rows.py).
"""

from __future__ import annotations

from agent.records import AdapterWorth, Heartbeat, Notice, PassportClocks, Watching
from agent.store.table_rows import (
    NAN,
    Origin,
    Row,
    TableRows,
    fields_of,
    identity_columns,
    subject_columns,
    when,
    with_rows,
)
from detectors.records import Evidence, Verdict


def verdict_rows(verdict: Verdict, origin: Origin) -> tuple[TableRows, ...]:
    return (TableRows("verdicts", (origin.columns | verdict_row(verdict),)),)


def verdict_row(verdict: Verdict) -> Row:
    """One decision; log_e is the strongest evidence that may page by itself."""
    interval, over, onset = verdict.retention, verdict.retention_over_rounds, verdict.onset
    after, estimate = (onset.after, onset.estimate) if onset else (None, None)
    earliest, latest = (onset.earliest, onset.latest) if onset else (None, None)
    return {
        **subject_columns(verdict),
        "base": verdict.base,
        "round": verdict.round,
        "at": when(verdict.at),
        "status": verdict.status.value,
        "reason": verdict.reason.value,
        "cause": verdict.cause.value,
        "retention": interval.mean if interval else NAN,
        "retention_low": interval.low if interval else NAN,
        "retention_high": interval.high if interval else NAN,
        "retention_n": interval.n if interval else 0,
        "over_rounds_low": over.low if over else NAN,
        "over_rounds_high": over.high if over else NAN,
        "over_rounds_n": over.n if over else 0,
        **fields_of(verdict, ("scale", "distortion", "base_shift", "gap_ratio", "share_beyond")),
        "log_e": max((e.log_e for e in verdict.evidence if e.pages), default=0.0),
        "log_threshold": verdict.log_threshold,
        "onset_after": when(after) if after is not None else None,
        "onset_by": when(onset.by) if onset else None,
        "onset_estimate": when(estimate) if estimate is not None else None,
        "onset_earliest": when(earliest) if earliest is not None else None,
        "onset_latest": when(latest) if latest is not None else None,
        "covered_by": verdict.covered_by,
        "members": list(verdict.members),
        "bad_pods": list(verdict.bad_pods),
        "scored_pods": list(verdict.pods),
        "explanation": verdict.explanation,
        "tolerated_change": verdict.tolerated_change,
        "answered_by": verdict.answered_by,
        "files": verdict.files.state.value,
        "files_known_by": verdict.files.by.value,
        "files_replayed_by": verdict.files.pod,
        "files_replayed_at": when(verdict.files.at) if verdict.files.at is not None else None,
        "action": verdict.action,
        **identity_columns(verdict.identity),
    }


def evidence_rows(evidence: Evidence, origin: Origin) -> tuple[TableRows, ...]:
    figures = fields_of(evidence, ("detector", "stream", "round", "log_e", "n", "pages"))
    row = origin.columns | subject_columns(evidence) | {"at": when(evidence.at), **figures}
    return (TableRows("evidence", (row,)),)


def notice_rows(notice: Notice, origin: Origin) -> tuple[TableRows, ...]:
    """What was sent. cause, share_of and round are the verdict's, severity and owner the policy's."""
    urgency = origin.policy.of_notice(notice)
    row = {
        **origin.columns,
        **subject_columns(notice.verdict),
        "base": notice.verdict.base,
        "round": notice.verdict.round,
        "at": when(notice.at),
        "kind": notice.kind.value,
        "reason": notice.reason.value,
        "dedup_key": notice.dedup_key,
        "cause": notice.verdict.cause.value,
        "severity": urgency.severity.value,
        "owner": urgency.owner,
        "change": notice.change,
        "share_of": notice.verdict.share_of.value,
        "summary": notice.summary,
        "details": dict(notice.details),
    }
    return (TableRows("notices", (row,)),)


def watching_rows(watching: Watching, origin: Origin) -> tuple[TableRows, ...]:
    """One row, which replaces the one before it of this pod."""
    row = {**origin.columns, "at": when(watching.at), "subjects": list(watching.subjects)}
    return (TableRows("watching", (row,)),)


def clock_rows(running: PassportClocks, origin: Origin) -> tuple[TableRows, ...]:
    """One row a clock, which replaces the one before it, of whichever pod; and what was measured of worth."""
    rows = tuple(
        {
            **origin.columns,
            "at": when(running.at),
            "adapter": clock.adapter,
            "clock": clock.kind,
            "due": when(clock.due),
            "stage": clock.stage,
            "words": clock.words,
        }
        for clock in running.clocks
    )
    worth = tuple(origin.columns | worth_row(measured) for measured in running.worth)
    return with_rows(TableRows("passport_clocks", rows), TableRows("worth", worth))


def worth_row(measured: AdapterWorth) -> Row:
    """The same measurement is the same row, however often it is read."""
    names = (
        *(
            "adapter",
            "base",
            "golden",
            "base_hash",
            "worth",
            "checked",
            "accepted_right",
            "adapter_right",
            "base_right",
        ),
        *("gain", "gain_low", "gain_high", "base_loss_high", "gain_left"),
    )
    return {
        **fields_of(measured, names),
        "at": when(measured.at),
        # Text as keys: a row may lie in the spool as JSON before it is stored.
        "right_with_examples": {str(count): right for count, right in measured.right_with_examples.items()},
        "extra_tokens": {str(count): tokens for count, tokens in measured.extra_tokens.items()},
    }


def heartbeat_rows(heartbeat: Heartbeat, origin: Origin) -> tuple[TableRows, ...]:  # noqa: ARG001 - it has its own
    row = {
        **fields_of(heartbeat, ("cluster", "pod")),
        "at": when(heartbeat.at),
        "started_at": when(heartbeat.started_at),
        **fields_of(heartbeat, ("rounds", "records", "unsent")),
        "overdue": list(heartbeat.overdue),
        **fields_of(heartbeat, ("agent_cpu_s", "models_cpu_s")),
    }
    return (TableRows("heartbeats", (row,)),)
