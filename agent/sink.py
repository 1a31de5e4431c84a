"""Where findings go: the contract of one sink, and all sinks as one.

Offsets of Kafka are committed once ``flush`` is True, so a sink that says so too early loses records.
tests/agent/sinks/test_every_sink.py holds each file in agent/sinks to the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, runtime_checkable

from agent.records import Finding


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


class Sinks:
    """Every sink gets every finding, in the order of the list.

    outward: what of a finding may leave the process; applied once to each finding, before any sink has it
    """

    def __init__(self, sinks: Sequence[Sink], outward: Callable[[Finding], Finding] = lambda finding: finding) -> None:
        self._sinks, self._outward = tuple(sinks), outward

    def open(self, opened: ExitStack, budget_s: float) -> None:
        """One by one; each is closed by ``opened`` within its share of the budget, also when a later one fails."""
        for sink in self._sinks:
            sink.open()
            opened.callback(sink.close, budget_s / len(self._sinks))

    def submit(self, finding: Finding) -> None:
        outward = self._outward(finding)
        for sink in self._sinks:
            sink.submit(outward)

    def flush(self) -> bool:
        """True when every sink has what was submitted. A list, not a generator: every sink gets its turn."""
        flushed = [sink.flush() for sink in self._sinks]
        return all(flushed)

    @property
    def unsent(self) -> int:
        """Notices that nobody has received yet: they are lost with this pod's disk. -1 where no sink sends any."""
        unsent = [sink.unsent for sink in self._sinks if isinstance(sink, KeepsNotices)]
        return sum(unsent) if unsent else -1

    @property
    def statuses(self) -> Mapping[str, tuple[bool, str]]:
        """``sink NAME``, by the file it is in -> whether it works, and in words how it does."""
        return {f"sink {type(sink).__module__.rsplit('.', 1)[-1]}": sink.status for sink in self._sinks}
