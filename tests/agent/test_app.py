"""The loop: a feed that raises is told and tried again, and the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE
from agent.alerting.judge import Judge
from agent.app import App, Feed, Parts
from agent.clock import HandClock
from agent.errors import PositionLost
from agent.records import Observation
from agent.sink import Sinks
from agent.sinks.memory import Sink
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound
from detectors.verdicts.incident import Rules


class Steady:
    """One empty round each time."""

    def poll(self, now: float) -> Sequence[Observation]:
        return [BaseRound("tiny", 0, now, ())]


class Faulty:
    """error: raised as long as it is there; polls: how often it was asked"""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.polls = error, 0

    def poll(self, now: float) -> Sequence[Observation]:
        self.polls += 1
        if self.error is not None:
            raise self.error
        return [BaseRound("other", 0, now, ())]


class Turned:
    def __init__(self, folder: Path, error: Exception | None) -> None:
        self.clock, self.sink, self.faulty = HandClock(), Sink(), Faulty(error)
        judge = Judge(Monitor(Rules(Tolerances(), log_threshold=15.0)), "test", StateFile(folder), lambda _: ALONE)
        feeds: list[Feed] = [self.faulty, Steady()]
        self.app = App(Parts(judge, Sinks([self.sink]), None, feeds, None, self.clock, "pod-0", "test"))

    def rounds_of(self, base: str) -> int:
        return sum(round.base == base for round in self.sink.of(BaseRound))


def test_a_feed_that_raises_is_told_and_the_others_are_polled(tmp_path: Path) -> None:
    turned = Turned(tmp_path, UnicodeDecodeError("utf-8", b"my card", 0, 1, "invalid start byte"))
    with ExitStack() as opened:
        turned.app.open(opened)
        for _ in range(3):
            turned.app.step()
        ok, words = turned.app.routes.parts()["feeds"]
        assert not ok and words.startswith(
            "Faulty failed with UnicodeDecodeError (the log has the traceback), tried again"
        )
        assert "card" not in words
        assert (turned.faulty.polls, turned.rounds_of("tiny"), turned.rounds_of("other")) == (1, 3, 0)
        turned.faulty.error = None
        turned.clock.advance(1.0)
        turned.app.step()
        assert turned.rounds_of("other") == 1
        assert turned.app.routes.parts()["feeds"] == (True, "every feed answers")


def test_a_source_that_lost_its_position_starts_the_agent_again(tmp_path: Path) -> None:
    turned = Turned(tmp_path, PositionLost("the Kafka client failed"))
    with ExitStack() as opened:
        turned.app.open(opened)
        with pytest.raises(PositionLost):
            turned.app.step()
