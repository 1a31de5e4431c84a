"""Throughput of counting every record and sampling one in a hundred, relative to a bare poll loop.

`KAFKA_HOME=DIR python -m benchmarks.sampling_speed --json FILE [--quick]`. One real Apache Kafka on the loopback, four
partitions, records of 1 KB and of 4 KB with the adapter as key, with and without headers. The same records are read
alternately with a bare kafka-python loop (the same client options, records discarded) and with the traffic feed as the
agent runs it: poll, count, sample, batch. The figure is the median ratio of neighbouring turns, so that other load on
the machine slows both. Then the feed reads many more records, and its resident memory is measured.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson
from kafka import KafkaConsumer, TopicPartition

from agent.demo.broker import start_broker
from agent.kafka.client import client_options, ensure_topic, publisher
from agent.kafka.config import Config
from agent.kafka.consumer import Consumer
from agent.kafka.contract import Outgoing
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.traffic_sampler import TrafficSampler
from benchmarks.figures import Figure, arguments, at_least, at_most, console, context, report

PARTITIONS, CHUNK = 4, 2_000
ADAPTERS = ("ticket-router", "polite-rewriter", "order-extractor")
SAMPLING = SamplingConfig(rate=0.01, per_adapter_per_minute=1_000_000)  # one in a hundred, whatever the speed
WITHIN_S = 600.0
AT_LEAST, FLAT_MIB = 0.9, 16.0
SEED = 7


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of record. size: bytes of the value; headers: request id and pod, as an exporter writes them."""

    name: str
    size: int
    headers: bool


SHAPES = (Shape("1 KB", 1_000, False), Shape("4 KB", 4_000, False), Shape("1 KB with headers", 1_000, True))


def measure(kafka_home: Path, quick: bool) -> list[Figure]:
    """Throughput ratios by shape, and memory. Takes about a minute when quick, else about six."""
    turns, n_records, n_long = (5, 40_000, 200_000) if quick else (15, 100_000, 2_000_000)
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        broker = opened.enter_context(start_broker(Path(folder), kind="apache", home=kafka_home))
        figures: list[Figure] = []
        for shape in SHAPES:
            figures += _speed(broker.bootstrap, shape, n_records, turns)
        return figures + _memory(broker.bootstrap, n_long)


def _speed(bootstrap: str, shape: Shape, n_records: int, turns: int) -> list[Figure]:
    topic = shape.name.replace(" ", "-")
    _fill(bootstrap, topic, shape, n_records)
    config = _config(bootstrap, topic)
    _bare(config, n_records)  # the broker's page cache is warm for both
    ratios, by_cpu, speeds, n_sampled = [], [], [], 0
    before = _bare(config, n_records)
    for _ in range(turns):
        feed_time, n_sampled = _sampled(config, n_records)
        after = _bare(config, n_records)
        ratios.append((before.wall_s + after.wall_s) / 2 / feed_time.wall_s)
        by_cpu.append((before.cpu_s + after.cpu_s) / 2 / feed_time.cpu_s)
        speeds.append(n_records / feed_time.wall_s)
        before = after
    name = f"sampling at 1 %, {shape.name}"
    return [
        at_least(f"{name}: speed by a bare loop's", statistics.median(ratios), "", AT_LEAST),
        context(f"{name}: the same in processor time", statistics.median(by_cpu), ""),
        context(f"{name}: least of {turns} ratios", min(ratios), ""),
        context(f"{name}: records a second", statistics.median(speeds), "1/s"),
        context(f"{name}: kept", n_sampled / n_records, ""),
    ]


class Stopwatch:
    """Starts at the first records: joining and connecting are not part of the loop's speed."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self.wall_s = self.cpu_s = 0.0

    def begin(self) -> None:
        self._began = self._began or (time.perf_counter(), time.process_time())

    def stop(self) -> Stopwatch:
        began = self._began or (math.nan, math.nan)
        self.wall_s, self.cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
        return self


def _bare(config: Config, n_records: int) -> Stopwatch:
    """The simplest possible loop, timed from the first record to the last."""
    client = KafkaConsumer(**client_options(config))
    client.assign([TopicPartition(config.topic, number) for number in range(PARTITIONS)])
    give_up, stopwatch, n_read = time.monotonic() + WITHIN_S, Stopwatch(), 0
    while n_read < n_records and time.monotonic() < give_up:
        polled = client.poll(timeout_ms=200)
        if polled:
            stopwatch.begin()
        n_read += sum(map(len, polled.values()))
    stopwatch.stop()
    client.close(autocommit=False)
    return stopwatch


def _sampled(config: Config, n_records: int) -> tuple[Stopwatch, int]:
    """(time, sampled records) of the feed, likewise; every record has to be counted."""
    feed = TrafficFeed(Consumer(config), TrafficSampler(SAMPLING, ADAPTERS), dict)
    feed.open()
    give_up, stopwatch, n_read, counted, n_sampled = time.monotonic() + WITHIN_S, Stopwatch(), 0, 0, 0
    while n_read < n_records and time.monotonic() < give_up:
        batches = feed.poll(time.time())
        if batches:
            stopwatch.begin()
        feed.commit()
        for batch in batches:
            n_read += batch.records
            counted += sum(count.n for count in batch.counts)
            n_sampled += len(batch.interactions)
    stopwatch.stop()
    feed.close()
    if counted != n_records:
        raise RuntimeError(f"{counted} counted of {n_records}")
    return stopwatch, n_sampled


def _memory(bootstrap: str, n_records: int) -> list[Figure]:
    """Resident memory of this process while one feed reads many records; sampled ones are released, as the sinks do."""
    _fill(bootstrap, "long", SHAPES[2], n_records)
    feed = TrafficFeed(Consumer(_config(bootstrap, "long")), TrafficSampler(SAMPLING, ADAPTERS), dict)
    feed.open()
    give_up, n_read = time.monotonic() + WITHIN_S, 0
    sizes: list[float] = []
    while n_read < n_records and time.monotonic() < give_up:
        n_read += sum(batch.records for batch in feed.poll(time.time()))
        feed.commit()
        if n_read >= n_records * (len(sizes) + 1) / 20:
            gc.collect()
            sizes.append(_resident_mib())
    feed.close()
    grown = max(sizes[-5:]) - max(sizes[5:10])
    name = f"sampling, {n_records:,} records through one feed"
    return [
        at_most(f"{name}: resident memory, last quarter over second", grown, "MiB", FLAT_MIB),
        context(f"{name}: resident memory at the end", sizes[-1], "MiB"),
    ]


def _config(bootstrap: str, topic: str) -> Config:
    start = {"auto_offset_reset": "earliest", "mode": "assign", "group_id": None}
    return Config.model_validate({"bootstrap_servers": (bootstrap,), "topic": topic} | start)


def _fill(bootstrap: str, topic: str, shape: Shape, n_records: int) -> None:
    ensure_topic(bootstrap, topic, PARTITIONS)
    with publisher(bootstrap, topic, acks=1, linger_ms=20, batch_size=2**18, compression_type=None) as out:
        for begin in range(0, n_records, CHUNK):
            answers = out.send(_records(shape, begin, min(CHUNK, n_records - begin)), partition=begin // CHUNK % 4)
            if not all(answers):
                raise RuntimeError("the broker did not take every record")


def _records(shape: Shape, begin: int, n: int) -> Iterator[Outgoing]:
    for number in range(begin, begin + n):
        adapter = ADAPTERS[number % len(ADAPTERS)]
        headers = {"request_id": f"chatcmpl-{number:024x}".encode(), "pod": b"engine-0"} if shape.headers else {}
        yield Outgoing(adapter.encode(), _value(adapter, number, shape.size), headers)


def _value(adapter: str, number: int, size: int) -> bytes:
    body = {
        "schema": "gapwatch.v1",
        "request_id": f"chatcmpl-{number:024x}",
        "ts": time.time(),
        "adapter": adapter,
        "base": "smollm2",
        "messages": [{"role": "user", "content": f"request {number} "}],
        "output": "shipping",
        "finish_reason": "stop",
        "sampling": {"temperature": 0.7, "top_p": 0.9},
        "usage": {"prompt_tokens": 120, "completion_tokens": 3},
    }
    body["messages"][0]["content"] += "p" * max(0, size - len(orjson.dumps(body)))  # type: ignore[index]
    return orjson.dumps(body)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    options = arguments(__doc__ or "")
    home = os.environ.get("KAFKA_HOME", "")
    if not home:
        console.print("sampling_speed needs KAFKA_HOME, a folder with the libs/ of an Apache Kafka distribution")
        return 64
    report(measure(Path(home), options.quick), SEED, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
