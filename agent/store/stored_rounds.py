"""Reads stored rounds back as records, in the order in which they were judged, and the verdicts given at the time.

It only reads: a table or a column that the store does not have yet counts as empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from agent.errors import Retryable, Unreadable
from agent.store import client as store
from agent.store.from_rows import References, base_round, seconds, traffic_round
from agent.store.table_rows import FIRST, Row
from agent.store.verdict_runs import LONGEST_S
from detectors.canaries.retention import PreparedReference, prepare
from detectors.errors import DetectorError
from detectors.records import BaseRound
from detectors.traffic_records import TrafficRound
from probes.errors import Refused
from probes.golden.archive import load
from probes.golden.codec import content_hash, from_bytes
from probes.golden.record import Golden

# Rounds whose canaries are in memory at a time: about 5 MB each with three adapters.
CHUNK = 8
_UNKNOWN_TABLE = 60


class Span(NamedTuple):
    """Seconds since the epoch, both ends included."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored round. pod: of the agent that judged it; record: None where rows are missing, and ``why`` says which

    by_canaries: a round of canaries, else of responses; complete: its rows state their number and order, which those of
    earlier versions do not
    """

    pod: str
    base: str
    number: int
    at: float
    by_canaries: bool
    record: BaseRound | TrafficRound | None
    why: str = ""
    complete: bool = True


class RoundKey(NamedTuple):
    """Key of one stored round. table: rounds or traffic_rounds"""

    at: datetime
    table: str
    pod: str
    base: str
    number: int


class StoredRounds:
    """cluster: only its rows are read; golden_dir: holds the golden records that are not in the store."""

    def __init__(self, client: store.Client, cluster: str, golden_dir: Path) -> None:
        self._client, self._cluster = client, cluster
        self._references = _references(client, cluster, golden_dir)

    def rounds(self, span: Span) -> Iterator[Stored]:
        """In the order in which they were judged. Raises Retryable where the store is away."""
        heads: dict[RoundKey, list[Row]] = {}
        for table in ("rounds", "traffic_rounds"):
            for row in self._rows(table, "at", span):
                heads.setdefault(RoundKey(row["at"], table, row["pod"], row["base"], row["round"]), []).append(row)
        keys = in_order(heads)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            details = self._details(chunk)
            for key in chunk:
                yield self._stored(key, heads[key], details.get(key, []))

    def earlier_responses(self, span: Span) -> int:
        """How many rounds of responses an earlier version stored with too few figures to judge them again."""
        names = self._query("SELECT * FROM traffic_scores LIMIT 0", {})[0]
        unjudged = "toUnixTimestamp64Milli(judged_at) = 0" if "judged_at" in names else "1"
        return len(self._rows("traffic_scores", "at", span, "DISTINCT base, round", unjudged))

    def verdicts(self, span: Span) -> list[Row]:
        """Stored verdicts without explanation and action, by pod and time, and those before that still hold then."""
        columns = "pod, subject_kind, subject, base, round, at, status, reason, cause, covered_by, log_e"
        since = max(span.since - LONGEST_S, FIRST)
        rows = self._rows("verdicts", "at", Span(since, span.until), columns)
        return sorted(rows, key=lambda row: (row["pod"], row["at"]))

    def most_pods(self, span: Span) -> int:
        """The most pods of the cluster that were alive in one minute of that span; 1 where that is not stored."""
        try:
            return max(store.most_pods(self._client, self._cluster, span.since, span.until), 1)
        except Exception as error:  # the driver's errors and urllib3's share no root
            if _is_unknown_table(error):
                return 1
            raise Retryable("clickhouse", str(error).split("\n")[0][:300]) from error

    def _stored(self, key: RoundKey, rows: Sequence[Row], details: Sequence[Row]) -> Stored:
        by_canaries = key.table == "rounds"
        empty = Stored(
            pod=key.pod,
            base=key.base,
            number=key.number,
            at=seconds(key.at),
            by_canaries=by_canaries,
            record=None,
            complete=not by_canaries or bool(rows[0].get("members", 0)),
        )
        try:
            record = base_round(rows, details, self._references) if by_canaries else traffic_round(rows[0], details)
        except Unreadable as error:
            return replace(empty, why=error.detail)
        return replace(empty, record=record)

    def _details(self, keys: Sequence[RoundKey]) -> dict[RoundKey, list[Row]]:
        """Rows of the canaries, or of the responses, of each round."""
        of_round: dict[RoundKey, list[Row]] = {}
        for table, details, when, pod in (
            ("rounds", "comparisons", "at", "pod"),
            ("traffic_rounds", "traffic_scores", "judged_at", "agent"),
        ):
            of_table = [key for key in keys if key.table == table]
            if of_table:
                times = [seconds(key.at) for key in of_table]
                span = Span(min(times), max(times))
                for row in self._rows(details, when, span):
                    key = RoundKey(row[when], table, row[pod], row["base"], row["round"])
                    of_round.setdefault(key, []).append(row)
        return of_round

    def _rows(self, table: str, when: str, span: Span, columns: str = "*", only: str = "1") -> list[Row]:
        sql = f"""SELECT {columns} FROM {table} WHERE cluster = {{cluster:String}} AND {only}
            AND {when} >= fromUnixTimestamp64Milli({{since:Int64}}, 'UTC')
            AND {when} <= fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')"""
        parameters = {"cluster": self._cluster, "since": round(1000 * span.since), "until": round(1000 * span.until)}
        names, rows = self._query(sql, parameters)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _query(self, sql: str, parameters: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        try:
            answer = self._client.query(sql, parameters=dict(parameters))
        except Exception as error:  # the driver's errors and urllib3's share no root
            if _is_unknown_table(error):
                return (), ()
            raise Retryable("clickhouse", str(error).split("\n")[0][:300]) from error
        return answer.column_names, answer.result_rows


def in_order(rounds: Mapping[RoundKey, Sequence[Row]]) -> list[RoundKey]:
    """Rounds in the order in which they were judged: canaries' when they were done, responses' when they were handed
    out; of one moment first those of canaries.

    Earlier versions gave the responses the time at which the canaries beside them began, and judged them after these.
    """
    beside = {(key.pod, key.base, key.at) for key in rounds if key.table == "traffic_rounds"}

    def judged_at(key: RoundKey) -> float:
        is_done_then = key.table == "traffic_rounds" or (key.pod, key.base, key.at) in beside
        return seconds(key.at) + (0.0 if is_done_then else sum(row.get("duration_s", 0.0) for row in rounds[key]))

    return sorted(rounds, key=lambda key: (judged_at(key), key.table, key))


def _is_unknown_table(error: Exception) -> bool:
    return getattr(error, "code", None) == _UNKNOWN_TABLE or "UNKNOWN_TABLE" in str(error)


def _references(client: store.Client, cluster: str, folder: Path) -> References:
    """Looks up references in golden records, each read once: from the store, else from the folder on this machine."""
    goldens: dict[str, Golden | str] = {}
    prepared: dict[tuple[str, str], PreparedReference] = {}

    def reference(adapter: str, golden: str, canary: str) -> PreparedReference:
        if golden not in goldens:
            goldens[golden] = _golden(client, cluster, adapter, golden, folder)
        record = goldens[golden]
        if isinstance(record, str):
            raise Unreadable("no_golden", record)
        if (golden, canary) not in prepared:
            prepared[golden, canary] = _prepared(record, canary)
        return prepared[golden, canary]

    return reference


def _golden(client: store.Client, cluster: str, adapter: str, golden: str, folder: Path) -> Golden | str:
    """The record of that hash, or why it is not available."""
    try:
        row = _golden_row(client, cluster, adapter, golden)
        if row is not None and content_hash(row[1]) == golden:
            return from_bytes(row[1])
        return load(folder, golden)
    except Refused as error:
        return f"the golden record {golden} of {adapter} is neither in the store nor usable here: {error}"


def _golden_row(client: store.Client, cluster: str, adapter: str, golden: str) -> tuple[str, bytes] | None:
    try:
        return store.golden_row(client, adapter, golden, cluster)
    except Exception as error:
        if _is_unknown_table(error):
            return None
        raise Retryable("clickhouse", str(error).split("\n")[0][:300]) from error


def _prepared(golden: Golden, canary: str) -> PreparedReference:
    try:
        return prepare(next(c.reference for c in golden.canaries if c.id == canary))
    except StopIteration:
        raise Unreadable("no_golden", f"canary {canary} is not in the golden record {golden.hash}") from None
    except DetectorError as error:
        raise Unreadable("unmeasurable", f"canary {canary}: {error}") from error
