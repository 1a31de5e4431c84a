"""Findings as rows of the tables in deploy/clickhouse: pure, one function a record.

A row maps column to value; arrays stay numpy until they are sent, which keeps the buffer small.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never

import numpy as np

from agent.records import Finding, Flip, GoldenAccepted, Heartbeat, Notice, RejectedRecord, RequestCount, TrafficBatch
from detectors.records import BaseRound, CanarySplit, Evidence, Identity, Interval, Measurement, Round, Verdict
from detectors.traffic.response_summary import evidence_of
from detectors.traffic_records import Calibration, Embedding, TrafficRound, TrafficScore
from probes.scoring.interaction import Interaction

Row = dict[str, Any]
NAN = float("nan")
# What DateTime64 and DateTime hold, in seconds: years 1900 to 2299, and 1970 to 2106 in whole minutes.
FIRST, LAST = -2_208_988_800.0, 10_413_791_999.0
LAST_MINUTE = (2**32 - 1) // 60 * 60
MEANS = ("scale", "distortion", "base_shift", "gap_ratio", "top1_agreement", "kl_golden_served", "kl_served_base")
FIGURES = (
    *MEANS,
    *("retention", "frozen_retention", "frozen_distortion", "scale_misfit", "frozen_scale"),
    *("frozen_shift", "kl_served_golden", "kl_base_served"),
)
# Numbers of one response, each (G,) or (tokens,) float32.
AXES = (
    *("path", "path_log_lik", "temperatures", "temperature_log_lik", "top_ps", "top_p_log_lik"),
    "ranks",
)
HASHES = tuple(f"{side}_{part}" for part in ("base", "adapter", "tokenizer", "template") for side in ("golden", "live"))


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows for one table. token: deduplication token where the finding has one of its own, else ""."""

    table: str
    rows: tuple[Row, ...]
    token: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where this agent runs, a column or two of every row. store_text: keep production text (off unless configured)."""

    cluster: str = ""
    pod: str = ""
    store_text: bool = False


def to_rows(finding: Finding, place: Origin) -> tuple[TableRows, ...]:
    """All rows of one finding, in the order in which they must become durable. Tables without rows are left out."""
    here = {"cluster": place.cluster, "pod": place.pod}
    if isinstance(finding, TrafficBatch):
        return _traffic(finding, place)
    if isinstance(finding, BaseRound):
        return _base_round(finding, here)
    if isinstance(finding, TrafficRound):
        scores = tuple(
            {"cluster": place.cluster, "agent": place.pod, "place": i} | score_row(seen, finding)
            for i, seen in enumerate(finding.scores)
        )
        return _present(
            TableRows("traffic_rounds", (here | traffic_round_row(finding),)), TableRows("traffic_scores", scores)
        )
    if isinstance(finding, Verdict):
        return (TableRows("verdicts", (here | verdict_row(finding),)),)
    if isinstance(finding, Evidence):
        return (TableRows("evidence", (here | evidence_row(finding),)),)
    if isinstance(finding, Calibration):
        return (TableRows("calibrations", (here | calibration_row(finding),)),)
    if isinstance(finding, Notice):
        return (TableRows("notices", (here | notice_row(finding),)),)
    if isinstance(finding, Flip):
        return (TableRows("flips", (here | flip_row(finding),)),)
    if isinstance(finding, Embedding):
        return (TableRows("embeddings", (embedding_row(finding, place.cluster),)),)
    if isinstance(finding, Heartbeat):
        return (TableRows("heartbeats", (heartbeat_row(finding),)),)
    if isinstance(finding, GoldenAccepted):
        token = f"{finding.adapter}:{finding.golden}:{finding.accepted_at}"
        return (TableRows("goldens", (golden_row(finding, place.cluster),), token),)
    assert_never(finding)


def when(at: float) -> datetime:
    """Seconds since the epoch as the aware time that the driver stores; the nearest that the store can hold.

    A nonsensical time of a producer must cost neither its record nor those beside it: nan is the epoch.
    """
    return datetime.fromtimestamp(0.0 if math.isnan(at) else min(max(at, FIRST), LAST), UTC)


def _base_round(base: BaseRound, here: Row) -> tuple[TableRows, ...]:
    shares = token_shares(base)
    rounds = tuple(
        here
        | round_row(member)
        | {
            "members": len(base.members),
            "place": i,
            "tokens_scored": base.tokens_scored * share,
            "tokens_processed": base.tokens_processed * share,
            "duration_s": base.duration_s * share,
        }
        for i, (member, share) in enumerate(zip(base.members, shares, strict=True))
    )
    comparisons = tuple(
        here | comparison_row(m, r, route) | {"place": i}
        for r in base.members
        for route, seen in (("present", r.measurements), ("raw", r.raw), ("warm", r.warm))
        for i, m in enumerate(seen)
    )
    return _present(TableRows("rounds", rounds), TableRows("comparisons", comparisons))


def token_shares(base: BaseRound) -> tuple[float, ...]:
    """Each member's share of the round's cost, by its scored positions; equal where nobody has any. Sums to 1."""
    own = [sum(len(m.comparison.served.rest) for m in r.measurements) for r in base.members]
    whole = sum(own)
    return tuple(n / whole if whole else 1 / len(own) for n in own)


def round_row(seen: Round) -> Row:
    """What one adapter's round came to; means over all its canaries, retention over the held-out ones."""
    held = [m.retention for m in seen.measurements if m.comparison.reference.split is CanarySplit.HELD_OUT]
    return {
        "base": seen.base,
        "adapter": seen.adapter,
        "round": seen.number,
        "at": when(seen.at),
        "blocked": seen.blocked.value if seen.blocked else "",
        "detail": seen.detail,
        "facts": list(seen.facts),
        "canaries": len(seen.measurements),
        "raw_canaries": len(seen.raw),
        "warm_canaries": len(seen.warm),
        "draws": sum(m.comparison.draws for m in seen.measurements),
        "retention": _mean(held),
        "retention_sd": float(np.std(held, ddof=1)) if len(held) > 1 else NAN,
        "retention_n": len(held),
        **{name: _mean([getattr(m, name) for m in seen.measurements]) for name in MEANS},
        **_identity(seen.identity),
    }


def comparison_row(seen: Measurement, of: Round, route: str) -> Row:
    """One canary in numbers, with the log-probabilities that they came from. route: "present", "raw" or "warm"."""
    comparison = seen.comparison
    arrays = {}
    for side, summary in (("served", comparison.served), ("live_base", comparison.live_base)):
        arrays[f"{side}_log_probs"] = np.asarray(summary.log_probs, dtype=np.float32).ravel()
        arrays[f"{side}_rest"] = np.asarray(summary.rest, dtype=np.float32)
        arrays[f"{side}_top1"] = np.asarray(summary.top1, dtype=np.int32)
    positions, kept = comparison.served.log_probs.shape
    return {
        "base": of.base,
        "adapter": comparison.adapter,
        "canary": comparison.reference.canary,
        "golden": comparison.reference.golden,
        "half": comparison.reference.split.value,
        "route": route,
        "round": of.number,
        "at": when(comparison.at),
        "draws": comparison.draws,
        "finite": seen.finite,
        **{name: float(getattr(seen, name)) for name in FIGURES},
        "band_retention": {band.band.value: band.retention for band in seen.bands},
        "band_distortion": {band.band.value: band.distortion for band in seen.bands},
        "replica": comparison.pod,
        "positions": positions,
        "kept": kept,
        **arrays,
    }


def score_row(seen: TrafficScore, of: TrafficRound) -> Row:
    """One response in numbers. pod is the one that served it."""
    against = evidence_of(seen)
    return {
        "base": of.base,
        "round": of.number,
        "at": when(seen.at),
        "scored": seen.scored.value,
        "against": NAN if against is None else against,
        "log_l": dict(zip([a.text for a in seen.alternatives], seen.log_l.astype(float).tolist(), strict=True)),
        "log_sampler": dict(zip(seen.samplers, seen.log_sampler.astype(float).tolist(), strict=True)),
        "judged_at": when(of.at),
        **{name: getattr(seen, name) for name in AXES},
        **{name: getattr(seen, name) for name in ("adapter", "pod", "request_id", "tokens", "detail")},
        **{name: float(getattr(seen, name)) for name in ("temperature", "top_p")},
    }


def traffic_round_row(seen: TrafficRound) -> Row:
    """That the responses of a base were judged, how many there were, and of whom."""
    return {
        "base": seen.base,
        "round": seen.number,
        "at": when(seen.at),
        "adapters": list(seen.adapters),
        "scores": len(seen.scores),
        "identities": {name: [str(told) for told in _identity(it).values()] for name, it in seen.identities.items()},
    }


def verdict_row(seen: Verdict) -> Row:
    """One decision; log_e is the strongest evidence that may page by itself."""
    interval, over, onset = seen.retention, seen.retention_over_rounds, seen.onset
    after, estimate = (onset.after, onset.estimate) if onset else (None, None)
    return {
        **_subject(seen),
        "base": seen.base,
        "round": seen.round,
        "at": when(seen.at),
        "status": seen.status.value,
        "reason": seen.reason.value,
        "cause": seen.cause.value,
        "retention": interval.mean if interval else NAN,
        "retention_low": interval.low if interval else NAN,
        "retention_high": interval.high if interval else NAN,
        "retention_n": interval.n if interval else 0,
        "over_rounds_low": over.low if over else NAN,
        "over_rounds_high": over.high if over else NAN,
        "over_rounds_n": over.n if over else 0,
        **{name: getattr(seen, name) for name in ("scale", "distortion", "base_shift", "gap_ratio", "share_beyond")},
        "log_e": max((e.log_e for e in seen.evidence if e.pages), default=0.0),
        "log_threshold": seen.log_threshold,
        "onset_after": when(after) if after is not None else None,
        "onset_by": when(onset.by) if onset else None,
        "onset_estimate": when(estimate) if estimate is not None else None,
        "covered_by": seen.covered_by,
        "members": list(seen.members),
        "explanation": seen.explanation,
        "action": seen.action,
        **_identity(seen.identity),
    }


def evidence_row(seen: Evidence) -> Row:
    names = ("detector", "stream", "round", "log_e", "n", "pages")
    return {**_subject(seen), "at": when(seen.at), **{name: getattr(seen, name) for name in names}}


def calibration_row(seen: Calibration) -> Row:
    """The sampler in force, as far as an adapter's recent tokens tell, with the histogram of their ranks."""
    return {
        **{name: getattr(seen, name) for name in ("base", "adapter", "round")},
        "at": when(seen.at),
        **{name: getattr(seen, name) for name in ("log_e", "leading", "tokens")},
        **_spread("temperature", seen.temperature),
        "asked_temperature": list(seen.asked_temperature),
        **_spread("top_p", seen.top_p),
        "asked_top_p": list(seen.asked_top_p),
        "ranks": seen.ranks.astype(np.float32),
    }


def _spread(name: str, seen: Interval | None) -> Row:
    mean, low, high = (seen.mean, seen.low, seen.high) if seen else (NAN, NAN, NAN)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def notice_row(seen: Notice) -> Row:
    """What was sent. cause and round are the verdict's."""
    return {
        **_subject(seen.verdict),
        "base": seen.verdict.base,
        "round": seen.verdict.round,
        "at": when(seen.at),
        "kind": seen.kind.value,
        "reason": seen.reason.value,
        "dedup_key": seen.dedup_key,
        "cause": seen.verdict.cause.value,
        "summary": seen.summary,
        "details": dict(seen.details),
    }


def flip_row(seen: Flip) -> Row:
    names = (
        *("adapter", "base", "canary", "round", "prompt", "golden_text", "present_text", "retention"),
        *("golden_passes", "present_passes"),
    )
    return {"at": when(seen.at), **{name: getattr(seen, name) for name in names}}


def embedding_row(seen: Embedding, cluster: str) -> Row:
    row = {"cluster": cluster, "adapter": seen.adapter, "side": seen.side.value, "request_id": seen.request_id}
    return row | {"at": when(seen.at), "vector": np.asarray(seen.vector, dtype=np.float32)}


def heartbeat_row(seen: Heartbeat) -> Row:
    row = {"cluster": seen.cluster, "pod": seen.pod, "at": when(seen.at), "started_at": when(seen.started_at)}
    return row | {"rounds": seen.rounds, "records": seen.records}


def golden_row(seen: GoldenAccepted, cluster: str) -> Row:
    row = {"cluster": cluster, "accepted_at": when(seen.accepted_at), "hash": seen.golden, "bytes": seen.data}
    return row | {name: getattr(seen, name) for name in ("adapter", "base", "previous", "why")}


def _traffic(batch: TrafficBatch, place: Origin) -> tuple[TableRows, ...]:
    """Counts first and the batch's own row last: store.counted_upto rests on that order."""

    def rows(table: str, records: Iterable[Any], to_row: Callable[[Any], Row]) -> TableRows:
        return TableRows(table, tuple({"cluster": place.cluster} | to_row(r) for r in records), batch.token)

    return _present(
        rows("request_counts", batch.counts, count_row),
        rows("interactions", batch.interactions, lambda seen: interaction_row(seen, place.store_text)),
        rows("aside", batch.rejected, aside_row),
        rows("batches", [batch], lambda seen: batch_row(seen) | {"pod": place.pod}),
    )


def count_row(seen: RequestCount) -> Row:
    names = ("topic", "partition", "first_offset", "last_offset", "adapter", "pod", "n")
    return {name: getattr(seen, name) for name in names} | {"minute": when(_minute(seen.minute))}


def _minute(at: float) -> float:
    return 0.0 if math.isnan(at) else math.floor(min(max(at, 0.0), LAST_MINUTE))


def interaction_row(seen: Interaction, store_text: bool) -> Row:
    """Hashes and lengths; the text itself only where the config says so."""
    prompt = "\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in seen.messages)
    names = (
        *("adapter", "base", "pod", "request_id", "topic", "partition", "offset", "number"),
        *("prompt_tokens", "output_tokens", "finish_reason"),
    )
    return {
        **{name: getattr(seen, name) for name in names},
        "at": when(seen.at),
        "prompt_hash": hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest(),
        "output_hash": hashlib.sha256(seen.output.encode(errors="surrogatepass")).hexdigest(),
        "prompt_chars": len(prompt),
        "output_chars": len(seen.output),
        "sampling": {name: float(value) for name, value in seen.sampling.items()},
        "prompt": prompt if store_text else "",
        "output": seen.output if store_text else "",
    }


def aside_row(seen: RejectedRecord) -> Row:
    names = ("topic", "partition", "offset", "number", "detail")
    return {name: getattr(seen, name) for name in names} | {"reason": seen.reason.value, "at": when(seen.at)}


def batch_row(seen: TrafficBatch) -> Row:
    row = {name: getattr(seen, name) for name in ("topic", "partition", "first_offset", "next_offset", "records")}
    return row | {"interactions": len(seen.interactions), "aside": len(seen.rejected), "at": when(seen.at)}


def _subject(seen: Verdict | Evidence) -> Row:
    return {"subject_kind": seen.subject_kind.value, "subject": seen.subject}


def _identity(seen: Identity) -> Row:
    return {name: getattr(seen, name) for name in HASHES} | {"hash_scheme": seen.scheme}


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else NAN


def _present(*groups: TableRows) -> tuple[TableRows, ...]:
    return tuple(group for group in groups if group.rows)
