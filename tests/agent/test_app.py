"""The loop: a feed that raises is told and tried again, and the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE, Fleet, SentIncident
from agent.alerting.judge import Judge
from agent.alerting.judged_bases import JudgedBases
from agent.alerting.rounds_due import RoundsDue
from agent.app import HAND_OVER_S, App, Feed, Parts
from agent.clock import HandClock
from agent.errors import PositionLost
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.kafka.owned_bases import POLL_EVERY_S, OwnedBases
from agent.records import Finding, Heartbeat, Notice, NoticeReason, Observation, SavedState
from agent.sink import Sinks
from agent.sinks.memory import Sink
from agent.worker.canary_feed import CanaryFeed
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Reason, SubjectKind
from detectors.verdicts.incident import Rules
from tests.agent.findings import NOW
from tests.agent.test_roll_out import played
from tests.detectors.record_streams import of_second_base
from tests.detectors.synthetic import ADAPTERS

BASES = {"smol": ADAPTERS, "smol2": tuple(f"{name}2" for name in ADAPTERS)}


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


class Slow(Sink):
    """A store that takes a moment. flushes_left: before it has what was submitted"""

    flushes_left = 0

    def flush(self) -> bool:
        self.flushes_left -= 1
        return self.flushes_left < 0


class OfAWitness:
    """Two bases by two partitions; a feed before that of the canaries raises."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.sink = HandClock(NOW), Slow()
        self.consumer = MemoryConsumer(MemoryTopic("gapwatch.replays", partitions=2))
        self.canaries = CanaryFeed(BASES, None)
        self.told: list[frozenset[str]] = []
        self.judge = Judge(
            Monitor(Rules(Tolerances(), log_threshold=15.0)),
            "test",
            StateFile(folder),
            lambda _: ALONE,
            JudgedBases(BASES, shared=True),
        )
        self.app = App(
            Parts(
                self.judge,
                Sinks([self.sink], clock=self.clock),
                None,
                [Faulty(RuntimeError()), self.canaries],
                None,
                self.clock,
                "pod-0",
                "test",
                ownership=OwnedBases(self.consumer, "gapwatch.replays", tuple(BASES), self.clock),
                own=[self.canaries.own, self.told.append],
            )
        )

    def turn(self) -> None:
        self.clock.advance(POLL_EVERY_S)
        self.app.step()

    def closed(self) -> list[str]:
        return [state.base for state in self.sink.of(SavedState) if state.closed]

    def lose(self, partition: int) -> None:
        self.consumer.on_revoke(frozenset({("gapwatch.replays", partition)}))


def test_the_state_of_a_base_is_stored_before_its_partition_goes_and_nothing_of_it_comes_after(tmp_path: Path) -> None:
    witness = OfAWitness(tmp_path)
    with ExitStack() as opened:
        witness.app.open(opened)
        witness.canaries.own(frozenset())  # as assembled
        witness.turn()
        assert witness.told == [frozenset(BASES)]
        for base_round in (played(0, "none"), of_second_base(played(0, "none"))):
            witness.canaries.receive(base_round)
        witness.turn()
        assert {round.base for round in witness.sink.of(BaseRound)} == set(BASES) and witness.closed() == []
        witness.canaries.receive(of_second_base(played(1, "none")))
        witness.sink.flushes_left = 3
        witness.lose(1)
        assert witness.sink.flushes_left < 0, "the partition went before the store had the state"
        assert witness.closed() == ["smol2"] and witness.told[-1] == {"smol"}
        assert not any("2" in subject for subject in witness.judge.watched)
        before = len(witness.sink.of(BaseRound))
        for base_round in (of_second_base(played(2, "none")), played(1, "none")):
            witness.canaries.receive(base_round)
        witness.turn()
        assert [round.base for round in witness.sink.of(BaseRound)[before:]] == ["smol"]
        assert witness.told[-1] == frozenset(BASES), "nobody else took it"
        witness.canaries.receive(of_second_base(played(3, "none")))
        witness.turn()
        assert witness.sink.of(BaseRound)[-1].base == "smol2"
        assert not witness.app.routes.parts()["feeds"][0], "the other feed raised all the while"


def test_a_store_that_is_away_delays_a_base_for_a_moment_and_no_longer(tmp_path: Path) -> None:
    witness = OfAWitness(tmp_path)
    with ExitStack() as opened:
        witness.app.open(opened)
        witness.turn()
        witness.canaries.receive(of_second_base(played(0, "none")))
        witness.turn()
        witness.sink.flushes_left, began = 10**9, witness.clock.steady()
        witness.lose(1)
        assert HAND_OVER_S <= witness.clock.steady() - began < 1.1 * HAND_OVER_S
        assert witness.closed() == ["smol2"], "it is sent once the store is there again"


class Unjudgeable(Judge):
    fails = True

    def __call__(self, observation: Observation, now: float) -> list[Finding]:
        if self.fails:
            raise ValueError("a shape that nobody expected")
        return super().__call__(observation, now)


def test_a_judge_that_judges_no_round_is_told_as_that_and_ends_with_the_first_verdict(tmp_path: Path) -> None:
    clock, sink, bases = HandClock(NOW), Sink(), {"smol": ADAPTERS}
    monitor = Monitor(Rules(Tolerances(), log_threshold=15.0))
    judge = Unjudgeable(monitor, "test", StateFile(tmp_path), lambda _: ALONE, JudgedBases(bases))
    judge.gained(bases, clock.now(), at_start=True)
    canaries = CanaryFeed(bases, None)
    due = RoundsDue({"smol": 60.0})
    app = App(Parts(judge, Sinks([sink], clock=clock), None, [canaries], None, clock, "pod-0", "test", rounds_due=due))
    with ExitStack() as opened, capture_logs():  # a traceback with a whole round in it takes minutes to draw
        app.open(opened)
        for number in range(9):
            canaries.receive(played(number, "none"))
            app.step()
            assert not sink.of(Notice)
            clock.advance(60.0)
        app.step()
        (notice,) = sink.of(Notice)
        assert (notice.reason, notice.verdict.subject_kind) == (NoticeReason.CANNOT_TELL, SubjectKind.BASE)
        assert notice.verdict.reason is Reason.NOT_JUDGED and "failed with ValueError" in notice.verdict.explanation
        assert sink.of(Heartbeat)[-1].overdue == ("smol",)
        judge.fails = False
        for number in (10, 11):
            clock.advance(60.0)
            canaries.receive(played(number, "none"))
            app.step()
        assert [notice.reason for notice in sink.of(Notice)][1:] == [NoticeReason.CAN_TELL_AGAIN]
        assert sink.of(Heartbeat)[-1].overdue == ()


def test_that_nobody_judges_what_is_left_to_others_is_said_once_and_ends_where_a_witness_does(tmp_path: Path) -> None:
    clock, sink = HandClock(NOW), Sink()
    monitor = Monitor(Rules(Tolerances(), log_threshold=15.0))
    judge = Judge(monitor, "test", StateFile(tmp_path), lambda _: ALONE, JudgedBases({}))
    left = {"smol": ADAPTERS}
    app = App(Parts(judge, Sinks([sink], clock=clock), None, [], None, clock, "pod-0", "test", unwatched=lambda: left))
    with ExitStack() as opened:
        app.open(opened)
        for _ in range(6):
            app.step()
            clock.advance(30.0)
    (notice,) = sink.of(Notice)
    assert (notice.reason, notice.verdict.subject) == (NoticeReason.CANNOT_TELL, "smol")
    assert notice.dedup_key == "gapwatch/test/cannot-tell/base/smol"
    assert "which this one leaves to others" in notice.verdict.explanation
    open_since = SentIncident(opened_at=notice.at, pod="pod-0", delivered=True)
    fleet = Fleet("witness-0", {"pod-0": True}, incidents={(notice.dedup_key, True): open_since})
    witness = Judge(
        Monitor(Rules(Tolerances(), 15.0)), "test", StateFile(tmp_path / "w"), lambda _: fleet, JudgedBases(BASES)
    )
    witness.gained(BASES, clock.now())
    ends = [found for found in witness(played(1, "none"), clock.now()) if isinstance(found, Notice)]
    assert [(end.reason, end.dedup_key) for end in ends] == [(NoticeReason.CAN_TELL_AGAIN, notice.dedup_key)]
