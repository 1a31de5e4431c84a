"""Writes findings to ClickHouse from its own thread: traffic exactly once, the rest as long as the buffer lasts.

A batch keeps its rows and its deduplication token over every retry. While the store is away, the least important rows
are dropped first and counted; traffic is never dropped: ``flush`` stays False, so the loop stops reading Kafka. A store
that cannot be written for lack of rights, of a password or of columns is as one that is away: ``status`` says why.
store.counted_upto rests on the order in which the batches of one table are written.
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, Field

from agent.errors import AgentError
from agent.records import Finding, TrafficBatch
from agent.store import client as store
from agent.store import migrations
from agent.store.migrations import Account
from agent.store.rows import to_rows
from agent.store.table_rows import Origin, Row, TableRows
from agent.store.verdict_runs import LONGEST_S, VerdictRuns
from agent.surroundings import Surroundings
from agent.trouble import Trouble

log = structlog.get_logger(__name__)

# Tables in the order in which they are written; when the buffer is full, rows are dropped from the last one up.
KEPT_LONGEST = (
    *("goldens", "verdicts", "notices", "states", "watching", "rounds", "files_replays", "flips"),
    *("traffic_rounds", "evidence", "heartbeats", "calibrations", "traffic_scores", "embeddings", "comparisons"),
)
# ClickHouse's codes for a value that does not fit its column: a retry cannot help.
BAD_DATA = {6, 27, 41, 53, 69, 70, 72, 117, 349}
CLOSING_RETRY_S = 0.05


class Config(BaseModel):
    """dsn: see store.connect; password_file: read at every connect

    store_text: keep prompts and outputs of production; replicated: Replicated engines; on_cluster: name for ON CLUSTER
    verdicts, keep, migrations: see agent.config.ClickHouse
    buffer_mb: size of the buffer while the store is away, traffic not included; max_rows: of one insert
    retry_s, max_retry_s: first and longest wait between tries
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    dsn: str
    password_file: Path | None = None
    store_text: bool = False
    replicated: bool = False
    on_cluster: str = ""
    verdicts: Literal["changes", "every_round"] = "changes"
    keep: Mapping[str, float] = Field(default_factory=dict)
    migrations: Account | None = None
    buffer_mb: float = Field(default=64.0, gt=0)
    max_rows: int = Field(default=2_000, ge=1)
    retry_s: float = Field(default=0.5, gt=0)
    max_retry_s: float = Field(default=30.0, gt=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """One insert, repeated unchanged until the store has it."""

    table: str
    rows: tuple[Row, ...]
    token: str

    def halves(self) -> tuple[Batch, Batch]:
        middle = len(self.rows) // 2
        first, second = self.rows[:middle], self.rows[middle:]
        return Batch(self.table, first, f"{self.token}:a"), Batch(self.table, second, f"{self.token}:b")


class Sink:
    """``submit`` and ``flush`` are called by the loop and never wait for the store."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._clock = config, surroundings.clock
        around = surroundings
        self._origin = Origin(around.cluster, around.pod, config.store_text, around.consumer_group, around.policy)
        self._runs = VerdictRuns(LONGEST_S if config.verdicts == "changes" else 0.0)
        self._changed = threading.Condition()
        self._traffic: deque[TableRows] = deque()
        self._rest: dict[str, deque[tuple[Row, int]]] = {table: deque() for table in KEPT_LONGEST}
        self._bytes = 0
        self._in_flight: Batch | None = None
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._trouble = Trouble("sink clickhouse")
        self._client: store.Client = None
        self._thread = threading.Thread(target=self._work, name="clickhouse", daemon=True)
        self.dropped = self.refused = 0

    def open(self) -> None:
        """Start the writer, which connects by itself: a store that is away must not keep the agent from starting."""
        self._thread.start()

    def submit(self, finding: Finding) -> None:
        groups = [group for stored in self._runs.stored(finding) for group in to_rows(stored, self._origin)]
        with self._changed:
            for group in groups:
                if isinstance(finding, TrafficBatch):
                    self._traffic.append(group)
                else:
                    self._buffer(group)
            self._changed.notify()

    def flush(self) -> bool:
        """True when the store has acknowledged everything submitted so far (or it was dropped, and counted)."""
        with self._changed:
            return self._in_flight is None and not self._traffic and not any(self._rest.values())

    def close(self, budget_s: float) -> None:
        """Write the remaining rows within the budget; the number of rows not written is logged."""
        if self._closing.is_set():
            return
        self._deadline = self._clock.steady() + budget_s
        with self._changed:
            for group in (group for verdict in self._runs.ends() for group in to_rows(verdict, self._origin)):
                self._buffer(group)
            self._closing.set()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(budget_s)
        if waiting := self.waiting:
            log.warning("clickhouse_closed_early", rows_left=waiting, why=str(self._trouble))
        if self._client is not None and not self._thread.is_alive():
            self._client.close()
            self._client = None

    @property
    def waiting(self) -> int:
        """Rows that the store has not acknowledged."""
        with self._changed:
            buffered = sum(len(group.rows) for group in self._traffic) + sum(map(len, self._rest.values()))
            return buffered + (len(self._in_flight.rows) if self._in_flight else 0)

    @property
    def status(self) -> tuple[bool, str]:
        counts = f"{self.waiting} rows waiting, {self.dropped} dropped, {self.refused} refused"
        if self._trouble:
            return False, f"{self._trouble}; {counts}"
        return True, counts if self._client is not None else f"not connected yet; {counts}"

    def _buffer(self, group: TableRows) -> None:
        if group.table == "states":
            self._without_waiting(group)
        sized = [(row, _size(row)) for row in group.rows]
        self._rest[group.table].extend(sized)
        self._bytes += sum(size for _, size in sized)
        for table in reversed(KEPT_LONGEST):
            rows = self._rest[table]
            while rows and self._bytes > self._config.buffer_mb * 1e6:
                self._bytes -= rows.popleft()[1]
                self.dropped += 1

    def _without_waiting(self, later: TableRows) -> None:
        """A later state replaces the one before it: while the store is away, one of each base waits."""
        bases = {row["base"] for row in later.rows}
        waiting = self._rest[later.table]
        self._bytes -= sum(size for row, size in waiting if row["base"] in bases)
        self._rest[later.table] = deque((row, size) for row, size in waiting if row["base"] not in bases)

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if not self._write(batch):
                return  # out of time: the batch stays in flight, so it stays counted
            with self._changed:
                self._in_flight = None

    def _next(self) -> Batch | None:
        """The next insert, or None when closing with nothing left or no time left."""
        with self._changed:
            while not self._traffic and not any(self._rest.values()):
                if self._closing.is_set():
                    return None
                self._changed.wait()
            if self._clock.steady() > self._deadline:
                return None
            self._in_flight = self._take()
            return self._in_flight

    def _take(self) -> Batch:
        for table, rows in self._rest.items():
            if rows:
                taken = [rows.popleft() for _ in range(min(len(rows), self._config.max_rows))]
                self._bytes -= sum(size for _, size in taken)
                return Batch(table, tuple(row for row, _ in taken), uuid.uuid4().hex)
        return self._take_traffic()

    def _take_traffic(self) -> Batch:
        """All waiting rows of the first table in the queue, in one insert: four inserts for each batch would be slower
        than Kafka.

        The row of a batch must be stored after its other rows, so rows of ``batches`` are taken only while nothing else
        waits before them. Within a table the order is kept: once a group does not fit, no later one is taken, because
        store.counted_upto reads the highest offset as "all up to here".
        """
        table, size, full = self._traffic[0].table, 0, False
        taken: list[TableRows] = []
        remaining: deque[TableRows] = deque()
        while self._traffic:
            group = self._traffic.popleft()
            blocked = bool(remaining) and table == "batches"
            if group.table == table and taken:
                full = full or size + len(group.rows) > self._config.max_rows
            if group.table == table and not blocked and not full:
                taken.append(group)
                size += len(group.rows)
            else:
                remaining.append(group)
        self._traffic = remaining
        return Batch(table, tuple(row for group in taken for row in group.rows), _token(taken))

    def _write(self, batch: Batch) -> bool:
        """Retry until the store has it; False when time to close ran out first (offsets are then not committed)."""
        tries = 0
        while True:
            try:
                self._insert(batch)
                self._trouble.end()
                return True
            except Exception as error:  # the driver's, urllib3's and the encoder's errors share no root
                fault = store.insert_fault(batch.table, error)
                if self._client is not None and fault is None and _is_bad_data(error):
                    return self._refuse(batch, error)
                self._lost(fault or error)
            if self._clock.steady() > self._deadline:
                return False
            if self._closing.wait(self._delay(tries)):
                self._clock.sleep(CLOSING_RETRY_S)
            tries += 1

    def _lost(self, error: Exception) -> None:
        """Record the error and connect again, which also reads a rotated password and creates dropped tables."""
        is_ours = isinstance(error, AgentError)
        self._trouble.begin(str(error) if is_ours else f"{type(error).__name__}: {store.first_cause(str(error))}")
        if self._client is not None and not self._config.dsn.startswith("chdb:"):
            self._client.close()
            self._client = None

    def _insert(self, batch: Batch) -> None:
        if self._client is None:
            self._client = migrations.opened(self._config, self._clock)
        columns = list(batch.rows[0])
        data = [[_plain(row[name]) for name in columns] for row in batch.rows]
        self._client.insert(batch.table, data, column_names=columns, settings=store.insert_settings(batch.token))

    def _refuse(self, batch: Batch, error: Exception) -> bool:
        """Split the batch until only the row that cannot be stored is refused; the others are written."""
        if len(batch.rows) > 1:
            return all(self._write(half) for half in batch.halves())
        self.refused += 1
        log.error("row_refused", table=batch.table, error=type(error).__name__, code=getattr(error, "code", None))
        return True

    def _delay(self, tries: int) -> float:
        longest = min(self._config.max_retry_s, self._config.retry_s * 2.0 ** min(tries, 16))
        return longest * random.uniform(0.5, 1.0)


def _token(groups: list[TableRows]) -> str:
    """The token of one offset range, or a hash of the tokens of several. After a crash the ranges may be combined
    differently and pass deduplication; such copies have the same key, so FINAL drops them, and counts resume from
    store.counted_upto."""
    tokens = [group.token for group in groups]
    return tokens[0] if len(tokens) == 1 else hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def _is_bad_data(error: Exception) -> bool:
    code = getattr(error, "code", None)
    if code is not None:
        return code in BAD_DATA
    names, numbers = ("DataError", "ProgrammingError"), (OverflowError, struct.error)  # of one that fits no column
    return type(error).__name__ in names or isinstance(error, (TypeError, ValueError, *numbers))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _size(row: Row) -> int:
    """Approximate bytes of one row: arrays and text by their length, everything else 50."""
    return sum(
        v.nbytes if isinstance(v, np.ndarray) else len(v) if isinstance(v, str | bytes) else 50 for v in row.values()
    )
