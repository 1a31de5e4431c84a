"""What the worker finished of canaries, and the round that is given where none comes."""

from __future__ import annotations

from agent.worker.canary_feed import CanaryFeed
from agent.worker.response_feed import TurnEnded
from agent.worker.silence import STUCK_S, Blocked
from detectors.records import BaseRound, Reason
from tests.agent import findings

EVERY_S = 60.0
BASES = {findings.BASE: (findings.ROUTER, findings.TONE)}


def test_results_come_once_in_their_order_and_without_those_of_others() -> None:
    feed = CanaryFeed(BASES, EVERY_S)
    accepted, done, flip = findings.golden(), findings.base_round(), findings.flip()
    for result in (accepted, TurnEnded(0.0), done, flip):
        feed.receive(result)
    assert feed.poll(0.0) == [accepted, done, flip]
    assert feed.poll(1.0) == []


def test_a_base_without_a_round_for_too_long_gives_a_blocked_one_with_the_next_number() -> None:
    feed = CanaryFeed(BASES, EVERY_S)
    feed.receive(findings.base_round(number=4))
    feed.poll(0.0)
    assert feed.poll(EVERY_S + STUCK_S) == []
    (overdue,) = feed.poll(EVERY_S + STUCK_S + 1.0)
    assert isinstance(overdue, BaseRound)
    assert (overdue.number, overdue.at) == (5, EVERY_S + STUCK_S + 1.0)
    assert [member.adapter for member in overdue.members] == [findings.ROUTER, findings.TONE]
    assert {member.blocked for member in overdue.members} == {Reason.NOT_REPLAYED_YET}
    assert "no round finished for 361 s" in overdue.members[0].detail


ENDED = Blocked(Reason.NO_MEMORY, "the model process was ended by signal 9")


def test_while_the_models_are_away_each_base_gives_a_blocked_round_at_its_interval_until_it_is_replayed_again() -> None:
    feed = CanaryFeed(BASES, EVERY_S)
    for result in (findings.base_round(number=4), ENDED):
        feed.receive(result)
    assert len(feed.poll(0.0)) == 1, "what was finished before"
    assert feed.poll(EVERY_S - 1.0) == []
    for now in (EVERY_S, 2 * EVERY_S):
        (blocked,) = feed.poll(now)
        assert isinstance(blocked, BaseRound) and (blocked.number, blocked.at) == (5, now)
        assert {(member.blocked, member.detail) for member in blocked.members} == {(ENDED.reason, ENDED.why)}
        assert feed.poll(now + 1.0) == []
    feed.receive(findings.base_round(number=5))
    assert len(feed.poll(3 * EVERY_S)) == 1
    assert feed.poll(3 * EVERY_S + EVERY_S + STUCK_S) == []


def test_without_canaries_nothing_is_overdue_and_golden_records_still_come() -> None:
    """The word of a canary round would never be followed by another."""
    feed = CanaryFeed(BASES, None)
    feed.poll(0.0)
    feed.receive(findings.golden())
    assert feed.poll(10 * STUCK_S) == [findings.golden()]


def test_each_base_is_overdue_by_its_own_interval() -> None:
    feed = CanaryFeed({"files": ("a",), "served": ("b",)}, EVERY_S, {"served": 10 * EVERY_S})
    assert feed.poll(0.0) == []
    assert [rounds.base for rounds in feed.poll(EVERY_S + STUCK_S + 1.0) if isinstance(rounds, BaseRound)] == ["files"]


def test_a_base_that_is_anothers_gives_nothing_and_one_that_comes_is_not_overdue_for_the_time_before() -> None:
    feed = CanaryFeed(BASES, EVERY_S)
    feed.receive(findings.base_round(number=4))
    feed.poll(0.0)
    feed.own(frozenset())
    for result in (findings.base_round(number=5), findings.golden(), findings.flip(), ENDED):
        feed.receive(result)
    assert feed.poll(10 * STUCK_S) == []
    feed.own(frozenset(BASES))
    assert feed.poll(20 * STUCK_S) == []
    (overdue,) = feed.poll(20 * STUCK_S + EVERY_S + STUCK_S + 1.0)
    assert isinstance(overdue, BaseRound) and overdue.members[0].blocked is Reason.NOT_REPLAYED_YET


def test_what_was_finished_of_a_base_that_went_before_the_next_poll_is_dropped() -> None:
    feed = CanaryFeed(BASES, EVERY_S)
    feed.receive(findings.base_round())
    feed.own(frozenset())
    assert feed.poll(0.0) == []
