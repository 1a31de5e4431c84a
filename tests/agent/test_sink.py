"""All sinks as one: each gets everything, and one that is away holds back the whole."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from agent.clock import HandClock
from agent.errors import Retryable
from agent.records import Finding, Heartbeat, Watching
from agent.sink import TRIES, Sinks
from agent.sinks.memory import Sink

BEAT = Heartbeat(1.0, "pod-0", "test", 0.0, 0, 0)


class Remembering(Sink):
    """Notes how often it was flushed, and what it was given to close."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = 0
        self.budget_s = 0.0

    def flush(self) -> bool:
        self.flushed += 1
        return super().flush()

    def close(self, budget_s: float) -> None:
        self.budget_s = budget_s
        super().close(budget_s)


class Refusing(Sink):
    def open(self) -> None:
        raise OSError("no disk")


def test_every_sink_gets_what_may_leave_the_process_which_is_decided_once() -> None:
    sinks, redacted = [Sink(), Sink()], list[Finding]()

    def outward(finding: Finding) -> Finding:
        redacted.append(finding)
        return replace(BEAT, pod="redacted")

    Sinks(sinks, outward).submit(BEAT)
    assert [list(sink.findings) for sink in sinks] == [[replace(BEAT, pod="redacted")]] * 2
    assert redacted == [BEAT]


@pytest.mark.parametrize("away", [0, 1])
def test_nothing_is_flushed_until_every_sink_says_so_and_each_is_asked(away: int) -> None:
    sinks = [Remembering(), Remembering()]
    together = Sinks(sinks)
    assert together.flush()
    sinks[away].settled = False
    assert not together.flush()
    assert [sink.flushed for sink in sinks] == [2, 2]


def test_the_budget_is_shared_and_what_was_opened_is_closed_when_another_cannot_be() -> None:
    first, second = Remembering(), Remembering()
    with ExitStack() as opened:
        Sinks([first, second]).open(opened, 3.0)
        assert first.opened and second.opened and not first.closed
    assert (first.budget_s, second.budget_s) == (1.5, 1.5)

    first = Remembering()
    with pytest.raises(OSError, match="no disk"), ExitStack() as opened:
        Sinks([first, Refusing()]).open(opened, 3.0)
    assert first.closed


def test_how_each_does_is_told_by_the_name_of_its_file() -> None:
    assert Sinks([Sink()]).statuses == {"sink memory": (True, "0 findings held")}


class Sending(Sink):
    unsent = 3


def test_notices_that_nobody_has_received_yet_are_those_of_all_sinks_that_send_later() -> None:
    assert Sinks([Sink(), Sending(), Sending()]).unsent == 6
    assert Sinks([Sink()]).unsent == -1, "nobody is told anything by this agent"


class Full(Sink):
    """Its disk is full until ``room``."""

    room = False

    def submit(self, finding: Finding) -> None:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().submit(finding)


def test_a_sink_that_raises_is_told_and_gets_everything_in_order_once_it_works_again() -> None:
    clock, full, other = HandClock(), Full(), Sink()
    sinks = Sinks([full, other], clock=clock)
    beats = [replace(BEAT, pod=f"pod-{n}") for n in range(3)]
    for beat in beats:
        sinks.submit(beat)
    assert list(other.findings) == beats, "the other one goes on"
    assert not sinks.flush(), "what one of them lacks is not committed"
    ok, words = sinks.statuses["sink test_sink"]
    assert not ok and words.startswith("failed with OSError (the log has the traceback), tried again in 1 s")
    assert words.endswith("findings that wait: 3, without room: 0") and sinks.statuses["sink memory"][0]
    full.room = True
    assert not sinks.flush(), "not before it is due"
    clock.advance(1.0)
    assert sinks.flush() and list(full.findings) == beats
    assert sinks.statuses["sink test_sink"][0]


def test_a_sink_that_goes_on_raising_is_tried_less_and_less_often_and_logged_once() -> None:
    clock, full = HandClock(), Full()
    sinks, tried_at = Sinks([full], clock=clock), []
    with capture_logs() as lines:
        sinks.submit(BEAT)
        for second in range(1, 201):
            clock.advance(1.0)
            before = sinks.statuses["sink test_sink"][1]
            sinks.flush()
            if "in 0 s" in before:
                tried_at.append(second)
    assert tried_at == [1, 3, 7, 15, 31, 63, 123, 183]
    assert [line["event"] for line in lines] == ["part_failed"]


class Choosy(Sink):
    """It fails on heartbeats of one pod, as where no row can be made of one finding; of no pod, on everything."""

    error: Exception = KeyError("a customer's name")
    pod = "pod-1"
    tries = 0

    def submit(self, finding: Finding) -> None:
        if not self.pod or (isinstance(finding, Heartbeat) and finding.pod == self.pod):
            self.tries += 1
            raise self.error
        super().submit(finding)


def test_a_finding_that_a_sink_goes_on_failing_on_is_set_aside_and_what_is_behind_it_comes_through() -> None:
    clock, choosy, other = HandClock(), Choosy(), Sink()
    sinks = Sinks([choosy, other], clock=clock)
    beats = [replace(BEAT, pod=f"pod-{n}") for n in range(3)]
    for beat in beats:
        sinks.submit(beat)
    with capture_logs() as lines:
        for _ in range(2):
            assert not sinks.flush() and sinks.set_aside == 0
            clock.advance(60.0)
        assert sinks.flush(), "so that what was read is committed"
    assert list(choosy.findings) == [beats[0], beats[2]] and list(other.findings) == beats
    assert choosy.tries == TRIES and sinks.set_aside == 1
    (said,) = [line for line in lines if line["event"] == "finding_set_aside"]
    assert said == {
        **{"event": "finding_set_aside", "log_level": "error", "part": "sink test_sink", "error": "KeyError"},
        **{"finding": "Heartbeat", "at": BEAT.at},
    }
    assert sinks.statuses["sink test_sink"][0], "one of its kind was taken since"
    assert sinks.statuses["sink test_sink"][1].endswith("; findings set aside since the start: 1")


def test_until_one_of_its_kind_is_taken_the_sink_is_not_well() -> None:
    clock, choosy = HandClock(), Choosy()
    sinks = Sinks([choosy], clock=clock)
    sinks.submit(replace(BEAT, pod="pod-1"))
    sinks.submit(Watching(1.0, ()))
    for _ in range(3):
        clock.advance(60.0)
        sinks.flush()
    ok, words = sinks.statuses["sink test_sink"]
    assert not ok and words.endswith("(the latest Heartbeat failed with KeyError; the log has the traceback)")
    assert "customer" not in words
    sinks.submit(BEAT)
    assert sinks.statuses["sink test_sink"][0]


@pytest.mark.parametrize("error", [OSError("no disk"), MemoryError(), Retryable("clickhouse", "away"), TimeoutError()])
def test_what_is_not_a_findings_fault_sets_none_aside(error: Exception) -> None:
    clock, choosy = HandClock(), Choosy()
    choosy.error = error
    sinks = Sinks([choosy], clock=clock)
    for number in range(3):
        sinks.submit(replace(BEAT, pod=f"pod-{number}"))
    for _ in range(20):
        clock.advance(60.0)
        assert not sinks.flush()
    assert sinks.set_aside == 0 and len(choosy.findings) == 1
    choosy.pod = "none"
    clock.advance(60.0)
    assert sinks.flush() and len(choosy.findings) == 3


def test_a_sink_that_fails_on_everything_sets_nothing_aside() -> None:
    clock, choosy = HandClock(), Choosy()
    choosy.pod = ""
    sinks = Sinks([choosy], clock=clock)
    for number in range(3):
        sinks.submit(replace(BEAT, pod=f"pod-{number}"))
    for _ in range(20):
        clock.advance(60.0)
        assert not sinks.flush()
    choosy.pod = "none"
    clock.advance(60.0)
    assert sinks.flush() and len(choosy.findings) == 3 and sinks.set_aside == 0


def test_a_finding_with_nothing_behind_it_waits() -> None:
    clock, choosy = HandClock(), Choosy()
    sinks = Sinks([choosy], clock=clock)
    sinks.submit(replace(BEAT, pod="pod-1"))
    for _ in range(10):
        clock.advance(60.0)
        assert not sinks.flush()
    assert sinks.set_aside == 0


def test_a_flush_that_raises_has_not_flushed() -> None:
    class Broken(Sink):
        def flush(self) -> bool:
            raise TimeoutError

    last = Sink()
    sinks = Sinks([Broken(), last])
    sinks.submit(BEAT)
    assert not sinks.flush() and list(last.findings) == [BEAT]
    assert sinks.statuses["sink test_sink"][1].startswith("failed with TimeoutError")
    assert sinks.statuses["sink memory"] == (True, "1 findings held")
