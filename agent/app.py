"""The loop and its take-down.

Two feeds of one shape, one judge, sinks of one shape. Offsets are committed after the sinks have flushed; the stop
event is the other thing that runs backwards. Nothing here waits for a model, a broker or a store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import structlog

from agent.alerting.judge import Judge
from agent.clock import Clock
from agent.health import Health
from agent.records import Finding, Heartbeat, Observation, ScoredResponses, TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.worker.canary_feed import CanaryFeed
from detectors.records import BaseRound

log = structlog.get_logger(__name__)

IDLE_S = 0.1
HEARTBEAT_S = 30.0


class Feed(Protocol):
    """A source: what came since the last call, and leave to forget it."""

    def poll(self, now: float) -> Sequence[Observation]: ...
    def commit(self) -> None: ...


class Sink(Protocol):
    """A place findings go. flush: True when all submitted so far is durable or handed over; never blocks long."""

    def open(self) -> None: ...
    def submit(self, finding: Finding) -> None: ...
    def flush(self, now: float) -> bool: ...
    def close(self, budget_s: float) -> None: ...

    @property
    def status(self) -> tuple[bool, str]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the loop turns; made by assemble.py or by a test. traffic or canaries may be None, not both.

    outward: what leaves the process of a finding, asked once for each before any sink has it
    beat: called with each heartbeat, for figures that only the loop's thread may read; closing: called last of all
    """

    judge: Judge
    sinks: Sequence[Sink]
    canaries: CanaryFeed | None
    traffic: TrafficFeed | None
    health: Health
    clock: Clock
    pod: str
    cluster: str
    outward: Callable[[Finding], Finding] = lambda finding: finding
    beat: Callable[[], None] = lambda: None
    closing: Callable[[], None] = lambda: None
    shutdown_budget_s: float = 4.0


class App:
    """Turns records into findings until told to stop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._feeds: list[Feed] = [feed for feed in (parts.canaries, parts.traffic) if feed is not None]
        if parts.traffic is not None:
            parts.traffic.flush = self._flush
        self._started_at = parts.clock.now()
        self._last_beat = float("-inf")
        self._rounds = self._records = 0

    def run(self, stop: threading.Event) -> None:
        """Turn until ``stop`` is set, then take down in the reverse order of opening, within the shared budget."""
        with ExitStack() as opened:
            self.open(opened)
            while not stop.is_set():
                if not self.step():
                    stop.wait(IDLE_S)

    def open(self, opened: ExitStack) -> None:
        """Sinks first, feeds last, so that nothing is read before it has somewhere to go.

        Each part of the take-down has its share of one budget; together they are the whole of it.
        """
        budget = self._parts.shutdown_budget_s
        opened.callback(self._parts.closing)
        opened.callback(self._parts.health.close)
        self._parts.health.open()
        for sink in self._parts.sinks:
            sink.open()
            opened.callback(sink.close, 0.3 * budget / len(self._parts.sinks))
        opened.callback(self._parts.judge.save)
        if self._parts.traffic is not None:
            self._parts.traffic.open()
            opened.callback(self._parts.traffic.close, 0.1 * budget)
        # While the consumer is still open: what the sinks have by then may be committed.
        opened.callback(self._drain, 0.2 * budget)
        if self._parts.canaries is not None:
            self._parts.canaries.open()
            opened.callback(self._parts.canaries.close, 0.4 * budget)

    def step(self) -> bool:
        """One turn: read, judge, hand on, and only then let Kafka forget. True when there was something to do."""
        now = self._parts.clock.now()
        observations = [seen for feed in self._feeds for seen in feed.poll(now)]
        for seen in observations:
            self._count(seen)
            for finding in self._parts.judge(seen, now):
                self._hand_on(finding)
            if isinstance(seen, BaseRound | ScoredResponses):
                self._parts.judge.save()
            self._follow_up(seen)
        self._beat(now)
        self._settle()
        self._parts.health.touch(now)
        return bool(observations)

    def _hand_on(self, finding: Finding) -> None:
        finding = self._parts.outward(finding)
        for sink in self._parts.sinks:
            sink.submit(finding)

    def _follow_up(self, seen: Observation) -> None:
        """Work that a record asks of the replay thread: text of the worst canaries, embeddings of the sample."""
        if self._parts.canaries is None:
            return
        if isinstance(seen, TrafficBatch):
            self._parts.canaries.embed(seen.fresh)
        if isinstance(seen, BaseRound):
            fresh = self._parts.judge.newly_degraded(seen)
            for member in seen.members:
                if member.adapter in fresh and member.measurements:
                    self._parts.canaries.regenerate(seen.base, member)

    def _settle(self) -> bool:
        """Commit what is durable. A list, not a generator: every sink gets its turn."""
        settled = self._flush()
        if settled:
            for feed in self._feeds:
                feed.commit()
        return settled

    def _flush(self) -> bool:
        now = self._parts.clock.now()
        flushed = [sink.flush(now) for sink in self._parts.sinks]
        return all(flushed)

    def _drain(self, budget_s: float) -> None:
        """Hand the last findings on and give the sinks this long to have them; what is not committed is read again."""
        give_up = time.monotonic() + budget_s
        while not self._settle() and time.monotonic() < give_up:
            time.sleep(IDLE_S / 4)

    def _count(self, seen: Observation) -> None:
        if isinstance(seen, BaseRound):
            self._rounds += 1
        elif isinstance(seen, TrafficBatch):
            self._records += seen.records

    def _beat(self, now: float) -> None:
        if now - self._last_beat < HEARTBEAT_S:
            return
        self._last_beat = now
        parts = self._parts
        parts.beat()
        self._hand_on(Heartbeat(now, parts.pod, parts.cluster, self._started_at, self._rounds, self._records))
