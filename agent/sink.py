"""Where findings go: the contract of one sink, and all sinks as one.

Offsets of Kafka are committed once ``flush`` is True, so a sink that says so too early loses records. A sink that
raises is told in its status and tried again with back-off, while the others go on; what it did not take waits for it,
and until it has that nothing is committed. A finding that a sink goes on raising at, while it takes the one behind it,
is set aside: nothing else would ever come through.
tests/agent/sinks/test_every_sink.py holds each file in agent/sinks to the contract.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol, runtime_checkable

import structlog

from agent.back_off import BackOff
from agent.clock import Clock
from agent.records import Finding, Notice, TrafficBatch

# Findings that wait at most for a sink that raises. Beyond them only batches, which hold the offsets and of which the
# feed hands out a few, and notices, which wake somebody, are kept.
MOST_WAITING = 10_000
# Of one finding with one error, before the one behind it is tried.
TRIES = 3

log = structlog.get_logger(__name__)


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


@runtime_checkable
class StoresLater(Protocol):
    """A sink that has flushed what another agent cannot read yet. waiting: how many rows these are

    counted_upto: (topic, partition) -> the first offset that is in none of the counts among them, also of those that
    an earlier process left
    """

    @property
    def waiting(self) -> int: ...
    def counted_upto(self) -> Mapping[tuple[str, int], int]: ...


class _Guarded:
    """One sink that may raise. What it did not take is given to it again, in order; shed: findings without room

    set_aside: findings that it failed on, of which it has nothing
    """

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self.sink, self.name = sink, f"sink {type(sink).__module__.rsplit('.', 1)[-1]}"
        self._waiting: deque[Finding] = deque()
        self._taking, self._flushing = BackOff(self.name, clock), BackOff(self.name, clock)
        self._shed = self.set_aside = 0
        self._lacking: dict[str, str] = {}  # kind of finding -> what the latest one of it raised, which was set aside

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
        lacking = "; ".join(f"the latest {kind} failed with {error}" for kind, error in self._lacking.copy().items())
        aside = f"; findings set aside since the start: {self.set_aside}" if self.set_aside else ""
        aside += f" ({lacking}; the log has the traceback)" if lacking else ""
        if not (failed := self._taking.words or self._flushing.words):
            ok, words = self.sink.status
            return ok and not lacking, words + aside
        return False, f"{failed}; findings that wait: {len(self._waiting)}, without room: {self._shed}{aside}"

    def _give(self) -> bool:
        """Does the sink have all that was submitted?"""
        while self._waiting and self._taking.is_due:
            self._taking.tried(partial(self.sink.submit, self._waiting[0]))
            if not self._taking.words:
                self._lacking.pop(type(self._waiting.popleft()).__name__, None)
            elif self._taking.suspicions >= TRIES:
                self._pass_over()
        return not self._waiting

    def _pass_over(self) -> None:
        """The first finding is set aside where the sink takes the one behind it: then it is not the sink that fails."""
        if len(self._waiting) < 2:
            return
        try:
            self.sink.submit(self._waiting[1])
        except Exception:  # told already: it is what the first one raises, or comes to be the first
            return
        failed, taken, error = self._waiting.popleft(), self._waiting.popleft(), self._taking.error
        self._lacking[type(failed).__name__] = error
        self._lacking.pop(type(taken).__name__, None)
        self._taking.recovered()
        self.set_aside += 1
        log.error("finding_set_aside", part=self.name, error=error, **_where(failed))


def _where(finding: Finding) -> dict[str, object]:
    """Enough to look for it, and no word of production."""
    names = ("topic", "partition", "first_offset", "next_offset", "base", "adapter", "dedup_key", "number", "at")
    there = {name: getattr(finding, name) for name in names if hasattr(finding, name)}
    return {"finding": type(finding).__name__, **there}


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
    def _stores_later(self) -> list[StoresLater]:
        return [sink for sink in self._sinks if isinstance(sink, StoresLater)]

    @property
    def unsent(self) -> int:
        """Notices that nobody has received yet: they are lost with this pod's disk. -1 where no sink sends any."""
        unsent = [sink.unsent for sink in self._sinks if isinstance(sink, KeepsNotices)]
        return sum(unsent) if unsent else -1

    def counted_upto(self) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the first offset that is in no count on its way to a store."""
        ends: dict[tuple[str, int], int] = {}
        for partition, end in (item for sink in self._stores_later for item in sink.counted_upto().items()):
            ends[partition] = max(end, ends.get(partition, 0))
        return ends

    def is_stored(self) -> bool:
        """Can another agent read all that was submitted, so far as a sink stores it?"""
        return self.flush() and not any(sink.waiting for sink in self._stores_later)

    @property
    def set_aside(self) -> int:
        """Findings that a sink failed on, of all sinks together."""
        return sum(sink.set_aside for sink in self._guarded)

    @property
    def statuses(self) -> Mapping[str, tuple[bool, str]]:
        """``sink NAME``, by the file it is in -> whether it works, and in words how it does."""
        return {sink.name: sink.status for sink in self._guarded}
