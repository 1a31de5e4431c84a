"""Writes findings to ClickHouse: each row once, also over an outage of the store and a killed agent.

Rows go to disk first (agent/delivery/spool.py) and from there to the store, by a thread each; what is on disk counts as
flushed. An insert keeps its rows and its deduplication token over every try, also of the process after this one. What
the disk cannot take, because it is full, refused or at its limit, waits in memory: the least important findings are
dropped first and counted; traffic never is, ``flush`` stays False and the loop stops reading Kafka. A store that cannot
be written for lack of rights, of a password or of columns is as one that is away: ``status`` says why.
store.counted_upto rests on the order in which the inserts of one table are made.
"""

from __future__ import annotations

import random
import struct
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from agent.delivery.spool import Segment, Spool
from agent.errors import AgentError
from agent.records import Finding, TrafficBatch
from agent.store import client as store
from agent.store import migrations
from agent.store.migrations import Account
from agent.store.rows import to_rows
from agent.store.table_rows import Insert, Origin, plain
from agent.store.verdict_runs import LONGEST_S, VerdictRuns
from agent.store.waiting_rows import WaitingFindings, WaitingTraffic
from agent.surroundings import Surroundings
from agent.trouble import Trouble

log = structlog.get_logger(__name__)

PART = "sink clickhouse"
# ClickHouse's codes for a value that does not fit its column: a retry cannot help.
BAD_DATA = {6, 27, 41, 53, 69, 70, 72, 117, 349}
CLOSING_RETRY_S = 0.05
# While the store is away segments are written so far apart, so that an outage is few files; a disk that refused one is
# tried again as often. While it is BEHIND so many, they are written further apart than the disk needs: of the same rows
# few large inserts cost the store a fraction of many small ones.
APART_S, BEHIND_APART_S, BEHIND = 1.0, 0.25, 2
# Segments of a lane that are also kept in memory: a store that keeps up is sent them without reading them back.
IN_MEMORY = 4


class Config(BaseModel):
    """dsn: see store.connect; password_file: read at every connect

    store_text: keep prompts and outputs of production; replicated: Replicated engines; on_cluster: name for ON CLUSTER
    verdicts, keep, migrations: see agent.config.ClickHouse
    spool_mb: on disk at most, while the store is away: half of it for traffic, half for the rest
    buffer_mb: in memory, of what the disk does not take, traffic not included; max_rows: of one insert, likewise
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
    spool_mb: float = Field(default=400.0, gt=0)
    buffer_mb: float = Field(default=64.0, gt=0)
    max_rows: int = Field(default=2_000, ge=1)
    retry_s: float = Field(default=0.5, gt=0)
    max_retry_s: float = Field(default=30.0, gt=0)


@dataclass(slots=True, eq=False)
class _Queued:
    """Inserts on their way: written to disk, then sent. inserts: None where they are on disk alone

    segment: None until they are on disk; refused: the disk did not take them; sent: how many the store has
    """

    inserts: tuple[Insert, ...] | None
    n_rows: int
    segment: Segment | None = None
    refused: bool = False
    sent: int = 0

    @property
    def may_be_sent(self) -> bool:
        """Once the disk has them: after a crash they are sent again as they are, and never in other ranges."""
        return self.segment is not None or self.refused


@dataclass(slots=True, eq=False)
class _Lane:
    """Rows on one way to the store, in order: waiting in memory, then queued."""

    waiting: WaitingFindings | WaitingTraffic
    spool: Spool
    queued: deque[_Queued]

    @property
    def refused(self) -> _Queued | None:
        """At most one: no more is taken while the disk refuses."""
        return next((queued for queued in self.queued if queued.refused and queued.segment is None), None)

    @property
    def n_rows(self) -> int:
        return len(self.waiting) + sum(queued.n_rows for queued in self.queued)

    @property
    def is_flushed(self) -> bool:
        return not self.waiting and all(queued.segment for queued in self.queued)


class Sink:
    """``submit`` and ``flush`` are called by the loop and wait for neither the store nor the disk."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        around = surroundings
        self._config, self._clock, self._telemetry = config, around.clock, around.telemetry
        self._origin = Origin(around.cluster, around.pod, config.store_text, around.consumer_group, around.policy)
        self._runs = VerdictRuns(LONGEST_S if config.verdicts == "changes" else 0.0)
        self._changed = threading.Condition()
        self._findings, self._traffic = WaitingFindings(config.buffer_mb * 1e6, config.max_rows), WaitingTraffic()
        # Findings first: somebody may be waiting for them.
        self._lanes = tuple(
            _Lane(waiting, self._spool(around.state_dir / "spool" / name), deque())
            for name, waiting in (("findings", self._findings), ("traffic", self._traffic))
        )
        self._disk, self._closing = around.disk, threading.Event()
        self._all_taken = False
        self._deadline = float("inf")
        self._trouble = Trouble(PART)
        self._client: store.Client = None
        self._to_disk = threading.Thread(target=self._spool_rows, name="clickhouse spool", daemon=True)
        self._to_store = threading.Thread(target=self._send_rows, name="clickhouse", daemon=True)
        self.refused = 0

    def open(self) -> None:
        """What an earlier process left is sent first. The store is connected to later: one that is away must not keep
        the agent from starting."""
        for lane in self._lanes:
            lane.queued.extend(_Queued(None, segment.n_rows, segment) for segment in lane.spool.open())
        self._to_disk.start()
        self._to_store.start()

    def submit(self, finding: Finding) -> None:
        groups = [group for stored in self._runs.stored(finding) for group in to_rows(stored, self._origin)]
        with self._changed:
            for group in groups:
                (self._traffic if isinstance(finding, TrafficBatch) else self._findings).add(group)
            self._changed.notify_all()

    def flush(self) -> bool:
        """True when everything submitted so far is on disk or in the store (or it was dropped, and counted)."""
        self._telemetry.set("gapwatch.store.waiting", self.waiting)
        self._telemetry.set("gapwatch.store.spool", sum(lane.spool.n_bytes for lane in self._lanes))
        self._telemetry.set("gapwatch.store.lost", self.dropped + self.refused)
        with self._changed:
            return all(lane.is_flushed for lane in self._lanes)

    def counted_upto(self) -> Mapping[tuple[str, int], int]:
        """(topic, partition) -> the first offset that is in no count on disk; what the store has is not in it."""
        return self._lanes[-1].spool.counted_upto()

    def close(self, budget_s: float) -> None:
        """Write the remaining rows within the budget; what is on disk by then is sent by the next process."""
        if self._closing.is_set():
            return
        self._deadline = self._clock.steady() + budget_s
        with self._changed:
            for group in (group for verdict in self._runs.ends() for group in to_rows(verdict, self._origin)):
                self._findings.add(group)
            self._closing.set()
            self._changed.notify_all()
        for thread in (self._to_disk, self._to_store):
            if thread.ident is not None:
                thread.join(max(0.0, self._deadline - self._clock.steady()))
        if waiting := self.waiting:
            on_disk = sum(queued.n_rows for lane in self._lanes for queued in lane.queued if queued.segment)
            log.warning("clickhouse_closed_early", rows_left=waiting, on_disk=on_disk, why=str(self._trouble))
        if self._client is not None and not self._to_store.is_alive():
            self._client.close()
            self._client = None

    @property
    def dropped(self) -> int:
        """Rows that found no room, in memory or on disk."""
        return self._findings.dropped

    @property
    def waiting(self) -> int:
        """Rows that the store has not acknowledged."""
        with self._changed:
            return sum(lane.n_rows for lane in self._lanes)

    @property
    def status(self) -> tuple[bool, str]:
        on_disk = sum(lane.spool.n_bytes for lane in self._lanes)
        counts = f"{self.waiting} rows waiting, {self.dropped} dropped, {self.refused} refused"
        counts += f", {on_disk / 1e6:.1f} MB on disk" if on_disk else ""
        if damaged := sum(lane.spool.damaged for lane in self._lanes):
            counts += f", files that could not be read: {damaged}"
        troubles = [words for words in (str(self._trouble), *(lane.spool.trouble for lane in self._lanes)) if words]
        if troubles:
            return False, f"{'; '.join(dict.fromkeys(troubles))}; {counts}"
        return True, counts if self._client is not None else f"not connected yet; {counts}"

    def _spool(self, folder: Path) -> Spool:
        return Spool(folder, self._config.spool_mb * 1e6 / 2, self._origin.consumer_group, PART)

    def _spool_rows(self) -> None:
        """The thread that writes to disk."""
        while self._await_rows():
            for lane in self._lanes:
                with self._changed:
                    queued = lane.refused or self._taken(lane)
                if queued is not None:
                    self._write_to_disk(lane, queued)
            if self._trouble:
                self._closing.wait(APART_S)
            elif any(len(lane.queued) >= BEHIND for lane in self._lanes):
                self._closing.wait(BEHIND_APART_S)

    def _await_rows(self) -> bool:
        """Until there is something to write, or to try again; False once nothing more comes."""
        again_at = self._clock.steady() + APART_S
        with self._changed:
            while not any(lane.waiting and lane.refused is None for lane in self._lanes):
                is_refused, now = any(lane.refused for lane in self._lanes), self._clock.steady()
                if self._closing.is_set() and (now > self._deadline or not any(lane.waiting for lane in self._lanes)):
                    self._all_taken = True
                    self._changed.notify_all()
                    return False
                if is_refused and now >= again_at:
                    return True
                self._changed.wait(APART_S if is_refused else None)
        return True

    def _taken(self, lane: _Lane) -> _Queued | None:
        if not (inserts := lane.waiting.take()):
            return None
        queued = _Queued(inserts, sum(len(insert.rows) for insert in inserts))
        lane.queued.append(queued)
        return queued

    def _write_to_disk(self, lane: _Lane, queued: _Queued) -> None:
        """Behind what was put on disk before: a row that says that a page was sent comes after the page."""
        while not self._disk.await_written(APART_S) and self._clock.steady() <= self._deadline:
            pass
        segment = lane.spool.append(queued.inserts or ())
        with self._changed:
            if segment is None:
                queued.refused = True
            elif queued in lane.queued:
                queued.segment = segment
                # Rows in memory are what the collector of garbage walks over, while every thread waits for it.
                if len(lane.queued) > IN_MEMORY or self._trouble:
                    queued.inserts = None
                segment = None
            self._changed.notify_all()
        if segment is not None:  # sent meanwhile, from memory
            lane.spool.remove(segment)

    def _send_rows(self) -> None:
        """The thread that sends."""
        while (following := self._next()) is not None:
            lane, queued = following
            inserts = queued.inserts if queued.inserts is not None else self._read(lane.spool, queued.segment)
            if inserts is None or not all(self._sent(queued, insert) for insert in inserts[queued.sent :]):
                return  # out of time: they stay on disk, or counted
            with self._changed:
                lane.queued.remove(queued)
                self._changed.notify_all()
            if queued.segment is not None:
                lane.spool.remove(queued.segment)

    def _next(self) -> tuple[_Lane, _Queued] | None:
        """What is sent next, or None when closing with nothing left or no time left."""
        with self._changed:
            while self._clock.steady() <= self._deadline:
                for lane in self._lanes:
                    if lane.queued and lane.queued[0].may_be_sent:
                        return lane, lane.queued[0]
                if self._closing.is_set() and self._all_taken:
                    return None
                self._changed.wait(CLOSING_RETRY_S if self._closing.is_set() else None)
            return None

    def _read(self, spool: Spool, segment: Segment | None) -> tuple[Insert, ...] | None:
        """From disk, tried until it can be read; None when time to close ran out first."""
        tries = 0
        while self._clock.steady() <= self._deadline:
            try:
                return spool.read(segment) if segment is not None else ()
            except OSError as error:
                self._trouble.begin(f"spool in state_dir: {error.strerror or type(error).__name__}")
            self._wait(tries)
            tries += 1
        return None

    def _sent(self, queued: _Queued, insert: Insert) -> bool:
        is_stored = self._write(insert)
        queued.sent += is_stored
        return is_stored

    def _write(self, insert: Insert) -> bool:
        """Retry until the store has it; False when time to close ran out first."""
        tries = 0
        while True:
            try:
                self._insert(insert)
                self._trouble.end()
                return True
            except Exception as error:  # the driver's, urllib3's and the encoder's errors share no root
                fault = store.insert_fault(insert.table, error)
                if self._client is not None and fault is None and _is_bad_data(error):
                    return self._refuse(insert, error)
                self._lost(fault or error)
            if self._clock.steady() > self._deadline:
                return False
            self._wait(tries)
            tries += 1

    def _wait(self, tries: int) -> None:
        if self._closing.wait(self._delay(tries)):
            self._clock.sleep(CLOSING_RETRY_S)

    def _lost(self, error: Exception) -> None:
        """Record the error and connect again, which also reads a rotated password and creates dropped tables."""
        is_ours = isinstance(error, AgentError)
        self._trouble.begin(str(error) if is_ours else f"{type(error).__name__}: {store.first_cause(str(error))}")
        if self._client is not None and not self._config.dsn.startswith("chdb:"):
            self._client.close()
            self._client = None

    def _insert(self, insert: Insert) -> None:
        if self._client is None:
            self._client = migrations.opened(self._config, self._clock)
        columns = list(insert.rows[0])
        data = [[plain(row[name]) for name in columns] for row in insert.rows]
        self._client.insert(insert.table, data, column_names=columns, settings=store.insert_settings(insert.token))

    def _refuse(self, insert: Insert, error: Exception) -> bool:
        """Split the insert until only the row that cannot be stored is refused; the others are written."""
        if len(insert.rows) > 1:
            return all(self._write(half) for half in insert.halves())
        self.refused += 1
        log.error("row_refused", table=insert.table, error=type(error).__name__, code=getattr(error, "code", None))
        return True

    def _delay(self, tries: int) -> float:
        longest = min(self._config.max_retry_s, self._config.retry_s * 2.0 ** min(tries, 16))
        return longest * random.uniform(0.5, 1.0)


def _is_bad_data(error: Exception) -> bool:
    code = getattr(error, "code", None)
    if code is not None:
        return code in BAD_DATA
    names, numbers = ("DataError", "ProgrammingError"), (OverflowError, struct.error)  # of one that fits no column
    return type(error).__name__ in names or isinstance(error, (TypeError, ValueError, *numbers))
