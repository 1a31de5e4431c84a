"""Where findings go: the contract of one sink, and all sinks as one.

Offsets of Kafka are committed once ``flush`` is True, so a sink that says so too early loses records. A sink that
raises is told in its status and tried again with back-off, while the others go on; what it did not take waits for it,
and until it has that nothing is committed.
tests/agent/sinks/test_every_sink.py holds each file in agent/sinks to the contract.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol, runtime_checkable

from agent.back_off import BackOff
from agent.clock import Clock
from agent.records import Finding, Notice, TrafficBatch

# Findings that wait at most for a sink that raises. Beyond them only batches, which hold the offsets and of which the
# feed hands out a few, and notices, which wake somebody, are kept.
MOST_WAITING = 10_000


class Sink(Protocol):
    """A place findings go. flush: True when all submitted so far is durable or handed over; never blocks long.

    open: raises nothing for what may mend itself, like a missing secret: ``status`` says it, and the sink tries again
    """

    def open(self) -> None: ...
    def submit(self, finding: Finding) -> None: ...
    def flush(self) -> bool: ...
    def close(self, budget_s: float) -> None: ...

    @property
    def status(self) -> tuple[bool, str]: ...


@runtime_checkable
class KeepsNotices(Protocol):
    """A sink that sends notices later. unsent: how many it still has"""

    @property
    def unsent(self) -> int: ...


class _Guarded:
    """One sink that may raise. What it did not take is given to it again, in order; shed: findings without room"""

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self.sink, self.name = sink, f"sink {type(sink).__module__.rsplit('.', 1)[-1]}"
        self._waiting: deque[Finding] = deque()
        self._taking, self._flushing = BackOff(self.name, clock), BackOff(self.name, clock)
        self._shed = 0

    def submit(self, finding: Finding) -> None:
        if len(self._waiting) < MOST_WAITING or isinstance(finding, TrafficBatch | Notice):
            self._waiting.append(finding)
        else:
            self._shed += 1
        self._give()

    def flush(self) -> bool:
        return self._give() and bool(self._flushing.tried(self.sink.flush))

    @property
    def status(self) -> tuple[bool, str]:
        if not (failed := self._taking.words or self._flushing.words):
            return self.sink.status
        return False, f"{failed}; findings that wait: {len(self._waiting)}, without room: {self._shed}"

    def _give(self) -> bool:
        """Does the sink have all that was submitted?"""
        while self._waiting and self._taking.is_due:
            self._taking.tried(partial(self.sink.submit, self._waiting[0]))
            if not self._taking.words:
                self._waiting.popleft()
        return not self._waiting


class Sinks:
    """Every sink gets every finding, in the order of the list.

    outward: what of a finding may leave the process; applied once to each finding, before any sink has it
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        outward: Callable[[Finding], Finding] = lambda finding: finding,
        clock: Clock | None = None,
    ) -> None:
        self._sinks, self._outward = tuple(sinks), outward
        self._guarded = tuple(_Guarded(sink, clock or Clock()) for sink in self._sinks)

    def open(self, opened: ExitStack, budget_s: float) -> None:
        """One by one; each is closed by ``opened`` within its share of the budget, also when a later one fails."""
        for sink in self._sinks:
            sink.open()
            opened.callback(sink.close, budget_s / len(self._sinks))

    def submit(self, finding: Finding) -> None:
        outward = self._outward(finding)
        for sink in self._guarded:
            sink.submit(outward)

    def flush(self) -> bool:
        """True when every sink has what was submitted. A list, not a generator: every sink gets its turn."""
        flushed = [sink.flush() for sink in self._guarded]
        return all(flushed)

    @property
    def unsent(self) -> int:
        """Notices that nobody has received yet: they are lost with this pod's disk. -1 where no sink sends any."""
        unsent = [sink.unsent for sink in self._sinks if isinstance(sink, KeepsNotices)]
        return sum(unsent) if unsent else -1

    @property
    def statuses(self) -> Mapping[str, tuple[bool, str]]:
        """``sink NAME``, by the file it is in -> whether it works, and in words how it does."""
        return {sink.name: sink.status for sink in self._guarded}
