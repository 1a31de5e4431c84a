"""What becomes of pages while PagerDuty is away, throttles, fails, answers 400 or is slow; and what the loop waits.

Every adapter of a fleet becomes degraded at once and recovers. The stand-in of PagerDuty misbehaves first and then
takes everything; the sender's clock is moved on by hand, so that waits of minutes take none. The loop's part is
submitting and flushing, with an outbox on a real disk, which a thread of its own writes: a figure of its own is what
the loop waited beside the disk all the same. What PagerDuty took and answered too late is sent again: to the incident
that is open a second trigger is none.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy
from agent.clock import Clock, HandClock
from agent.delivery.disk import Disk
from agent.demo.receiver import Receiver
from agent.records import NoticeReason
from agent.sinks.pagerduty import Config, Sink
from agent.supervision import garbage
from agent.surroundings import Surroundings
from benchmarks.figures import Figure, at_most, context, exactly
from detectors.records import Cause, Reason, Status, SubjectKind, Verdict

ADAPTERS, QUICK_ADAPTERS = 200, 20
KEY = "0123456789abcdef0123456789abcdef"
# Half as many of the first requests as there are adapters are answered like that.
FAULTS = {"429": 429, "500": 500, "400 without a reason": 400}
STEP_S, LONGEST_S = 5.0, 120.0


def measure(quick: bool) -> list[Figure]:
    adapters = QUICK_ADAPTERS if quick else ADAPTERS
    figures = []
    garbage.leave_out()  # as the agent does once it has started
    for name in ("well", *FAULTS, "away", "slow"):
        figures += _pages(name, adapters)
    garbage.collect()
    return figures


def _pages(fault: str, adapters: int) -> list[Figure]:
    clock = HandClock(at=time.monotonic())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        receiver = opened.enter_context(_Slow(KEY) if fault == "slow" else Receiver(routing_key=KEY))
        if fault in FAULTS:
            receiver.fail_next(adapters // 2, FAULTS[fault])
        url = receiver.url
        if fault == "away":
            receiver.close()
        disk = Disk()
        disk.open()
        opened.callback(disk.close, 1.0)
        sink = _sink(Path(folder), url, clock, disk)
        opened.callback(sink.close, 1.0)
        waits = _waits(sink, adapters, NoticeReason.DEGRADED)
        if fault == "away":
            clock.advance(3600.0)
            time.sleep(0.2)
            receiver.open()
        waits += _waits(sink, adapters, NoticeReason.RECOVERED)
        _until_sent(sink, clock)
        incidents = receiver.incidents
    what = f"{adapters} incidents while PagerDuty is {fault}" if fault in ("well", "away", "slow") else ""
    what = what or f"{adapters} incidents while PagerDuty answers {fault}"
    resolved = {incident.dedup_key for incident in incidents if incident.status == "resolved"}
    return [
        exactly(f"{what}: opened and ended", len(resolved), "incidents", adapters),
        exactly(f"{what}: incidents beside these", len(incidents) - len(resolved), "incidents", 0),
        context(f"{what}: events sent again", sum(len(each.events) for each in incidents) - 2 * adapters, "events"),
        at_most(f"{what}: longest that the loop waited for one of them", 1e3 * max(w.whole_s for w in waits), "ms", 50),
        context(f"{what}: longest beside the disk's own time", 1e3 * max(w.whole_s - w.disk_s for w in waits), "ms"),
    ]


class _Slow(Receiver):
    """Answers each of the first requests only when the client has given up."""

    def __init__(self, key: str) -> None:
        super().__init__(routing_key=key)
        self._late, self._guard = 3, threading.Lock()

    def _answer(self, path: str, raw: bytes) -> tuple[int, dict[str, Any]]:
        with self._guard:
            self._late -= 1
            late = self._late >= 0
        if late:
            time.sleep(0.5)
        return super()._answer(path, raw)


def _sink(folder: Path, url: str, clock: Clock, disk: Disk) -> Sink:
    (folder / "key").write_text(KEY)
    sink = Sink(
        Config(routing_key_file=folder / "key", url=url, timeout_s=0.3),
        Surroundings("bench", "pod-0", folder, clock=clock, policy=Policy(), disk=disk),
    )
    sink.open()
    return sink


class _Wait(NamedTuple):
    """whole_s: of one submission with its flush, as in the loop; disk_s: of that in fsync"""

    whole_s: float
    disk_s: float


def _waits(sink: Sink, adapters: int, reason: NoticeReason) -> list[_Wait]:
    waits = []
    for i in range(adapters):
        notice = to_notice(_verdict(f"customer-{i:03d}", reason), reason, "bench", 1_790_000_000.0)
        with _timed_disk() as disk:
            begun = time.perf_counter()
            sink.submit(notice)
            sink.flush()
            waits.append(_Wait(time.perf_counter() - begun, sum(disk)))
    return waits


@contextmanager
def _timed_disk() -> Iterator[list[float]]:
    """Seconds of each fsync of this thread."""
    fsync, here, taken = os.fsync, threading.get_ident(), list[float]()

    def timed(descriptor: Any) -> None:
        begun = time.perf_counter()
        fsync(descriptor)
        if threading.get_ident() == here:
            taken.append(time.perf_counter() - begun)

    os.fsync = timed  # type: ignore[assignment]
    try:
        yield taken
    finally:
        os.fsync = fsync


def _verdict(adapter: str, reason: NoticeReason) -> Verdict:
    degraded = reason is NoticeReason.DEGRADED
    return Verdict(
        SubjectKind.ADAPTER,
        adapter,
        "base",
        7,
        1_790_000_000.0,
        Status.DEGRADED if degraded else Status.HEALTHY,
        Reason.ALARM if degraded else Reason.RESOLVED,
        cause=Cause.ADAPTER_NOT_APPLIED if degraded else Cause.NONE,
    )


def _until_sent(sink: Sink, clock: HandClock) -> None:
    deadline = time.monotonic() + LONGEST_S
    while sink.unsent and time.monotonic() < deadline:
        clock.advance(STEP_S)
        sink.flush()
        time.sleep(0.02)
