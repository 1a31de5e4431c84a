"""How fast rows are stored, and what becomes of them while ClickHouse is away for an hour.

*Ingest*: the sink with the embedded engine and a disk, fed batches of sampled requests as fast as it flushes them; the
rate is rows in the store over the time until the last of them was there. *Outage*: the store is a test server over an
engine of its own; it goes away, an hour of 200 rows a second by the clock of the rows comes, and it is back. While the
sink catches up, what is stored is looked at again and again: order is kept where it is always a beginning of the hour.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from agent.records import RequestCount, TrafficBatch
from agent.sinks.clickhouse import Config, Sink
from agent.store import client as store
from agent.supervision import garbage
from agent.surroundings import Surroundings
from benchmarks.figures import Figure, at_least, at_most, context, exactly
from benchmarks.process.agents import wait_for
from tests.agent.findings import NOW, interaction
from tests.clickhouse_http import ClickHouseServer

INGEST_S, QUICK_INGEST_S = 20.0, 5.0
BATCH, MOST_WAITING = 1_000, 60_000
HOUR_S, QUICK_HOUR_S, PER_S = 3600, 120, 200
SPOOL_MB = 400.0


def ingest(quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        sink = _sink(Path(folder), f"chdb://{folder}/store")
        sink.submit(_batch(0, 10))
        wait_for(lambda: not sink.waiting, "the first rows")  # connected, and the tables made
        begun, cpu, n = time.monotonic(), time.process_time(), 0
        while time.monotonic() - begun < (QUICK_INGEST_S if quick else INGEST_S):
            if sink.waiting > MOST_WAITING:
                time.sleep(0.005)
                continue
            sink.submit(_batch(10 + n, BATCH))
            n += BATCH
        wait_for(lambda: not sink.waiting, "the last rows")
        taken, cpu = time.monotonic() - begun, time.process_time() - cpu
        sink.close(5.0)
        client = store.connect(f"chdb://{folder}/store")
        stored = int(client.query("SELECT count() FROM interactions WHERE offset >= 10").result_rows[0][0])
        client.close()
    return [
        at_least("stored by the embedded engine, rows a second", stored / taken, "rows/s", 20_000),
        exactly("stored by the embedded engine, rows lost or doubled", abs(stored - n), "rows", 0),
        context("stored by the embedded engine, rows for a second of one core", stored / cpu, "rows"),
        context("stored by the embedded engine: load of the machine meanwhile", os.getloadavg()[0], ""),
    ]


def outage(quick: bool) -> list[Figure]:
    seconds = QUICK_HOUR_S if quick else HOUR_S
    with tempfile.TemporaryDirectory() as at, ExitStack() as opened:
        folder = Path(at)
        server = ClickHouseServer(folder / "server").start()
        opened.callback(server.stop)
        sink = _sink(folder, f"clickhouse://default@127.0.0.1:{server.port}/gapwatch")
        opened.callback(sink.close, 5.0)
        sink.submit(_batch(0, PER_S))
        wait_for(lambda: not sink.waiting, "the first rows")
        server.stop()
        garbage.leave_out()  # as the agent does once it has started
        slowest_s = max(_submitted_s(sink, second) for second in range(1, seconds + 1))
        garbage.collect()
        wait_for(sink.flush, "everything on disk")
        on_disk = sum(file.stat().st_blocks * 512 for file in folder.rglob("*.rows"))
        server.start()
        client = store.connect(f"clickhouse://default@127.0.0.1:{server.port}/gapwatch")
        opened.callback(client.close)
        begun, looks, broken = time.monotonic(), 0, 0
        while sink.waiting:
            broken += not _is_a_beginning(client)
            looks += 1
            time.sleep(0.2)
        taken = time.monotonic() - begun
        sql = "SELECT count(), uniqExact(offset), (SELECT sum(n) FROM request_counts) FROM interactions"
        ((rows, offsets, counted),) = client.query(sql).result_rows
    wanted, what = PER_S * (seconds + 1), f"ClickHouse away for {seconds} s at {PER_S} rows/s"
    return [
        exactly(f"{what}: samples lost", wanted - offsets, "rows", 0),
        exactly(f"{what}: requests lost from the counts, or counted twice", abs(wanted - counted), "requests", 0),
        exactly(f"{what}: rows doubled", rows - offsets, "rows", 0),
        exactly(f"{what}: rows dropped for want of room", sink.dropped, "rows", 0),
        at_most(f"{what}: on disk at most", on_disk / 1e6, "MB", SPOOL_MB / 2),
        exactly(f"{what}: looks at which a later batch was there before a former one", broken, "looks", 0),
        context(f"{what}: such looks while it caught up", looks, "looks"),
        context(f"{what}: seconds to catch up", taken, "s"),
        at_most(f"{what}: longest that the loop waited for one second's rows", 1e3 * slowest_s, "ms", 50),
    ]


def _submitted_s(sink: Sink, second: int) -> float:
    batch = _batch(PER_S * second, PER_S, second)
    begun = time.perf_counter()
    sink.submit(batch)
    is_flushed = sink.flush()
    taken = time.perf_counter() - begun
    if second % 60 == 0 and not is_flushed:  # a file holds about a minute of rows, as it would hold a second of them
        wait_for(sink.flush, "a minute on disk")
    return taken


def _is_a_beginning(client: store.Client) -> bool:
    sql = "SELECT count(), max(next_offset) FROM batches"
    ((batches, end),) = client.query(sql).result_rows
    return bool(batches * PER_S == end)


def _sink(folder: Path, dsn: str) -> Sink:
    sink = Sink(Config(dsn=dsn, max_retry_s=1.0, spool_mb=SPOOL_MB), Surroundings("bench", "pod-0", folder / "state"))
    sink.open()
    return sink


def _batch(first: int, n: int, second: int = 0) -> TrafficBatch:
    """Sampled requests and their count, as of one partition."""
    at = NOW - HOUR_S + second
    end = first + n
    count = RequestCount("t", 0, first, end - 1, "adapter", "engine-0", at - at % 60, n)
    requests = tuple(interaction(offset, "adapter", at, topic="t") for offset in range(first, end))
    return TrafficBatch("t", 0, first, end, requests, (count,), (), n, at)
