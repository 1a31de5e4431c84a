"""What came from traffic as rows: counts, sampled requests, scored responses, embeddings, the sampler in force.

from_rows.py reads scored responses back from these columns (tests/agent/store/test_from_rows.py); a new column also
needs a migration (table_rows.py). Production text is stored only where ``store_text`` is on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from agent.records import RejectedRecord, RequestCount, TrafficBatch
from agent.store.table_rows import NAN, Origin, Row, TableRows, fields_of, identity_columns, when, with_rows
from detectors.records import Interval
from detectors.traffic.response_summary import evidence_of
from detectors.traffic_records import Calibration, Embedding, TrafficRound, TrafficScore
from probes.scoring.interaction import Interaction

# The last whole minute that a DateTime holds, in seconds: it ends in 2106.
LAST_MINUTE = (2**32 - 1) // 60 * 60
# Arrays of numbers of one response, each (G,) or (tokens,) float32.
AXES = (
    *("path", "path_log_lik", "temperatures", "temperature_log_lik", "top_ps", "top_p_log_lik"),
    *("ranks", "ranks_weaker", "ranks_stronger"),
)


def batch_rows(batch: TrafficBatch, origin: Origin) -> tuple[TableRows, ...]:
    """Counts first and the batch's own row last: store.counted_upto rests on that order.

    The token names the consumer group, or the store would drop what a second group counts in the same offset range. A
    sampled request has no group: it is the same one, whoever sampled it.
    """
    token = f"{origin.consumer_group}:{batch.token}" if origin.consumer_group else batch.token
    group = {"consumer_group": origin.consumer_group}

    def rows(table: str, records: Iterable[Any], to_row: Callable[[Any], Row]) -> TableRows:
        return TableRows(table, tuple({"cluster": origin.cluster} | to_row(r) for r in records), token)

    return with_rows(
        rows("request_counts", batch.counts, lambda count: count_row(count) | group),
        rows("interactions", batch.interactions, lambda interaction: interaction_row(interaction, origin.store_text)),
        rows("aside", batch.rejected, lambda rejected: aside_row(rejected) | group),
        rows("batches", [batch], lambda whole: batch_row(whole) | {"pod": origin.pod} | group),
    )


def count_row(count: RequestCount) -> Row:
    names = ("topic", "partition", "first_offset", "last_offset", "adapter", "pod", "n")
    return fields_of(count, names) | {"minute": when(_minute(count.minute))}


def _minute(at: float) -> float:
    return 0.0 if math.isnan(at) else math.floor(min(max(at, 0.0), LAST_MINUTE))


def interaction_row(interaction: Interaction, store_text: bool) -> Row:
    """Hashes and lengths; the text itself only where the configuration says so."""
    prompt = "\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in interaction.messages)
    names = (
        *("adapter", "base", "pod", "request_id", "topic", "partition", "offset", "number"),
        *("prompt_tokens", "output_tokens", "finish_reason"),
    )
    return {
        **fields_of(interaction, names),
        "at": when(interaction.at),
        "requester": interaction.group,
        "prompt_hash": hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest(),
        "output_hash": hashlib.sha256(interaction.output.encode(errors="surrogatepass")).hexdigest(),
        "prompt_chars": len(prompt),
        "output_chars": len(interaction.output),
        "sampling": {name: float(value) for name, value in interaction.sampling.items()},
        "prompt": prompt if store_text else "",
        "output": interaction.output if store_text else "",
        "roles": [m.get("role", "") for m in interaction.messages] if store_text else [],
        "turn_chars": [len(m.get("content", "")) for m in interaction.messages] if store_text else [],
    }


def aside_row(record: RejectedRecord) -> Row:
    names = ("topic", "partition", "offset", "number", "detail")
    return fields_of(record, names) | {"reason": record.reason.value, "at": when(record.at)}


def batch_row(batch: TrafficBatch) -> Row:
    row = fields_of(batch, ("topic", "partition", "first_offset", "next_offset", "records"))
    return row | {"interactions": len(batch.interactions), "aside": len(batch.rejected), "at": when(batch.at)}


def traffic_round_rows(traffic_round: TrafficRound, origin: Origin) -> tuple[TableRows, ...]:
    scores = tuple(
        {"cluster": origin.cluster, "agent": origin.pod, "place": place} | score_row(score, traffic_round)
        for place, score in enumerate(traffic_round.scores)
    )
    rounds = (origin.columns | traffic_round_row(traffic_round),)
    return with_rows(TableRows("traffic_rounds", rounds), TableRows("traffic_scores", scores))


def traffic_round_row(traffic_round: TrafficRound) -> Row:
    """That the responses of a base were judged, how many there were, and of which adapters."""
    identities = {
        name: [str(value) for value in identity_columns(identity).values()]
        for name, identity in traffic_round.identities.items()
    }
    return {
        "base": traffic_round.base,
        "round": traffic_round.number,
        "at": when(traffic_round.at),
        "adapters": list(traffic_round.adapters),
        "scores": len(traffic_round.scores),
        "identities": identities,
        "duration_s": traffic_round.duration_s,
    }


def score_row(score: TrafficScore, of: TrafficRound) -> Row:
    """One response in numbers. pod is the one that served it."""
    against = evidence_of(score)
    return {
        "base": of.base,
        "round": of.number,
        "at": when(score.at),
        "scored": score.scored.value,
        "against": NAN if against is None else against,
        "log_l": dict(zip([a.text for a in score.alternatives], score.log_l.astype(float).tolist(), strict=True)),
        "log_sampler": dict(zip(score.samplers, score.log_sampler.astype(float).tolist(), strict=True)),
        "judged_at": when(of.at),
        **fields_of(score, AXES),
        **fields_of(score, ("adapter", "pod", "request_id", "tokens", "detail", "path_from")),
        **{name: float(getattr(score, name)) for name in ("rank_toll", "temperature", "top_p")},
    }


def embedding_rows(embedding: Embedding, origin: Origin) -> tuple[TableRows, ...]:
    row = {
        "cluster": origin.cluster,
        "adapter": embedding.adapter,
        "side": embedding.side.value,
        "request_id": embedding.request_id,
        "at": when(embedding.at),
        "vector": np.asarray(embedding.vector, dtype=np.float32),
    }
    return (TableRows("embeddings", (row,)),)


def calibration_rows(calibration: Calibration, origin: Origin) -> tuple[TableRows, ...]:
    return (TableRows("calibrations", (origin.columns | calibration_row(calibration),)),)


def calibration_row(calibration: Calibration) -> Row:
    """The sampler in force, as far as it can be read from an adapter's recent tokens, and the histogram of their
    ranks."""
    return {
        **fields_of(calibration, ("base", "adapter", "round")),
        "at": when(calibration.at),
        **fields_of(calibration, ("log_e", "leading", "tokens")),
        **_interval("temperature", calibration.temperature),
        "asked_temperature": list(calibration.asked_temperature),
        **_interval("top_p", calibration.top_p),
        "asked_top_p": list(calibration.asked_top_p),
        "ranks": calibration.ranks.astype(np.float32),
    }


def _interval(name: str, interval: Interval | None) -> Row:
    mean, low, high = (interval.mean, interval.low, interval.high) if interval else (NAN, NAN, NAN)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
