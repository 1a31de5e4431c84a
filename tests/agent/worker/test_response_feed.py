"""Rounds of responses: their own interval and numbers, whatever the canaries do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.incidents import step_round
from agent.records import NoticeReason, ScoredResponses
from agent.worker.response_feed import (
    GRACE_S,
    MOST_EMBEDDINGS,
    LiveIdentities,
    ResponseFeed,
    ScoredBatch,
    TurnEnded,
)
from agent.worker.response_scorer import ResponseResults
from agent.worker.silence import STUCK_S, Blocked
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import Identity, Reason, Status
from detectors.traffic_records import ScoringMode
from detectors.verdicts.incident import Rules
from tests.agent import findings

EVERY_S = 10.0
BASES = {findings.BASE: (findings.ROUTER, findings.TONE)}
PLACE = ("llm.interactions", 0, findings.ROUTER)
SCORE = findings.traffic_round().scores[0]


def scored(*names: str, upto: int = 1, embeddings: int = 1, adapter: str = findings.ROUTER) -> ScoredBatch:
    scores = tuple(replace(SCORE, request_id=name, adapter=adapter) for name in names)
    vectors = tuple(findings.embedding() for _ in range(embeddings))
    return ScoredBatch(findings.BASE, ResponseResults(scores, vectors, {PLACE: upto}))


def names(given: list[ScoredResponses]) -> list[list[str]]:
    """Request ids by round."""
    return [[score.request_id for score in taken.round.scores] for taken in given if taken.round is not None]


@pytest.fixture
def feed() -> ResponseFeed:
    """Its first round is over, at 0."""
    feed = ResponseFeed(BASES, EVERY_S, scored=True)
    feed.receive(TurnEnded(0.0))
    assert names(feed.poll(0.0)) == [[]]
    return feed


def test_all_that_was_scored_since_the_last_round_comes_once_it_is_due_and_together(feed: ResponseFeed) -> None:
    live = {findings.ROUTER: Identity("a", "b")}
    for result in (LiveIdentities(findings.BASE, live), scored("x", upto=3), scored("y", "z", upto=5), TurnEnded(9.9)):
        feed.receive(result)
    assert feed.poll(9.99) == []
    feed.receive(TurnEnded(10.0))
    (given,) = feed.poll(10.1234567)
    assert names([given]) == [["x", "y", "z"]] and given.round is not None
    assert (given.at, given.round.at, given.upto, len(given.embeddings)) == (10.123, 10.123, {PLACE: 5}, 2)
    assert (given.round.number, given.round.adapters) == (1, (findings.ROUTER, findings.TONE))
    assert given.round.identities == live
    assert feed.poll(10.2) == []


def test_before_the_workers_first_turn_nobody_knows_anything() -> None:
    feed = ResponseFeed(BASES, EVERY_S, scored=True)
    assert feed.poll(0.0) == feed.poll(EVERY_S + GRACE_S) == []


def test_rounds_come_in_the_workers_turns_where_these_are_short(feed: ResponseFeed) -> None:
    """A turn that began earlier ends later than it: what it scores belongs to the round that is due."""
    feed.receive(scored("x"))
    feed.receive(TurnEnded(9.0))
    assert feed.poll(10.0) == []
    feed.receive(scored("y"))
    feed.receive(TurnEnded(10.0))
    assert names(feed.poll(10.5)) == [["x", "y"]]


def test_a_canary_round_that_takes_long_or_hangs_does_not_hold_back_what_was_scored(feed: ResponseFeed) -> None:
    feed.receive(scored("x"))
    assert feed.poll(10.0 + GRACE_S - 0.1) == []
    assert names(feed.poll(10.0 + GRACE_S)) == [["x"]]


def test_that_no_response_came_is_only_said_after_a_turn_of_the_worker(feed: ResponseFeed) -> None:
    assert feed.poll(10.0 + 2 * GRACE_S) == []
    feed.receive(TurnEnded(10.0))
    assert names(feed.poll(30.0)) == [[]]


def test_a_thread_that_hangs_is_told_and_what_comes_after_has_its_own_number(feed: ResponseFeed) -> None:
    assert feed.poll(EVERY_S + STUCK_S) == []
    (overdue,) = feed.poll(EVERY_S + STUCK_S + 1.0)
    assert overdue.round is not None and overdue.round.number == 1 and overdue.upto == {}
    assert [score.adapter for score in overdue.round.scores] == [findings.ROUTER, findings.TONE]
    for score in overdue.round.scores:
        assert score.scored is ScoringMode.NOT_SCORED
        assert "no round finished for 311 s" in score.detail
    feed.receive(scored("x"))
    feed.receive(TurnEnded(400.0))
    (given,) = feed.poll(400.0)
    assert given.round is not None and (given.round.number, names([given])) == (2, [["x"]])


def test_what_was_scored_against_a_former_golden_record_is_not_judged_by_the_new_one(feed: ResponseFeed) -> None:
    feed.receive(scored("old"))
    feed.receive(scored("beside", adapter=findings.TONE))
    feed.receive(findings.golden())
    feed.receive(scored("new"))
    feed.receive(TurnEnded(10.0))
    (given,) = feed.poll(10.0)
    assert names([given]) == [["beside", "new"]]
    assert len(given.embeddings) == 3, "embeddings are of the golden base, whatever the adapter's record"


def test_embeddings_that_are_too_many_do_not_wait_for_the_round(feed: ResponseFeed) -> None:
    feed.receive(scored("x", upto=7, embeddings=MOST_EMBEDDINGS - 1))
    assert feed.poll(1.0) == []
    feed.receive(scored("y", upto=8))
    (early,) = feed.poll(1.0)
    assert (len(early.embeddings), early.round, early.upto) == (MOST_EMBEDDINGS, None, {PLACE: 8})
    feed.receive(TurnEnded(10.0))
    (given,) = feed.poll(10.0)
    assert (names([given]), given.embeddings, given.upto) == ([["x", "y"]], (), {PLACE: 8})


def test_where_responses_are_embedded_and_no_more_there_is_no_round_and_no_silence() -> None:
    feed = ResponseFeed(BASES, EVERY_S, scored=False)
    feed.receive(TurnEnded(0.0))
    feed.receive(scored())
    (given,) = feed.poll(0.0)
    assert (len(given.embeddings), given.round) == (1, None)
    assert feed.poll(EVERY_S + STUCK_S + 1.0) == []


def test_a_clock_that_was_set_back_does_not_stop_the_rounds(feed: ResponseFeed) -> None:
    feed.receive(TurnEnded(5000.0))
    feed.receive(scored("x"))
    assert names(feed.poll(5000.0)) == [["x"]]
    feed.receive(scored("y"))
    assert names(feed.poll(1000.0)) == [["y"]]
    feed.receive(scored("z"))
    assert feed.poll(1009.0) == []
    assert names(feed.poll(1010.0 + GRACE_S)) == [["z"]]


def test_while_the_models_are_away_no_adapter_is_scored_and_each_round_says_why(feed: ResponseFeed) -> None:
    ended = Blocked(Reason.NO_MEMORY, "the model process was ended by signal 9")
    feed.receive(scored("a"))
    feed.receive(ended)
    assert names(feed.poll(EVERY_S + GRACE_S)) == [["a"]], "what was scored before is judged"
    for number in (1, 2):
        (silent,) = feed.poll(EVERY_S + GRACE_S + number * EVERY_S)
        assert silent.round is not None
        assert [(score.adapter, score.scored, score.detail) for score in silent.round.scores] == [
            (name, ScoringMode.NOT_SCORED, ended.why) for name in (findings.ROUTER, findings.TONE)
        ]
    now = EVERY_S + GRACE_S + 3 * EVERY_S
    feed.receive(TurnEnded(now))
    assert names(feed.poll(now)) == [[]]
    assert feed.poll(now + EVERY_S + STUCK_S) == []


def test_a_base_whose_responses_are_not_scored_gives_none_and_its_golden_records_are_not_missed(
    feed: ResponseFeed,
) -> None:
    for result in (LiveIdentities("served by an engine", {}), replace(findings.golden(), base="served by an engine")):
        feed.receive(result)
    feed.receive(TurnEnded(10.0))
    assert [given.base for given in feed.poll(10.0)] == [findings.BASE]


def test_a_base_that_is_anothers_gives_nothing_and_one_that_comes_begins_with_nothing(feed: ResponseFeed) -> None:
    feed.receive(scored("x"))
    feed.own(frozenset())
    feed.receive(scored("y"))
    feed.receive(Blocked(Reason.NO_MEMORY, "ended"))
    assert feed.poll(10 * STUCK_S) == []
    feed.own(frozenset(BASES))
    feed.receive(scored("z", upto=9))
    feed.receive(TurnEnded(10 * STUCK_S))
    (given,) = feed.poll(10 * STUCK_S + 1.0)
    assert names([given]) == [["z"]] and given.upto == {PLACE: 9}
    assert given.round is not None and given.round.number == 1, "numbers go on"


def test_of_a_base_that_comes_while_the_models_are_away_the_first_round_says_why(feed: ResponseFeed) -> None:
    """A turn from before it came is no answer of its models."""
    feed.own(frozenset())
    feed.own(frozenset(BASES))
    feed.receive(Blocked(Reason.NO_MEMORY, "the model process was ended by signal 9"))
    (given,) = feed.poll(20.0)
    assert given.round is not None and {score.detail for score in given.round.scores} == {
        "the model process was ended by signal 9"
    }


def test_where_no_record_is_read_a_round_without_a_response_says_why_and_not_that_none_came(feed: ResponseFeed) -> None:
    why = ["waiting for the store to report how far it has counted"]
    feed.not_read = lambda: why[0]
    feed.receive(TurnEnded(10.0))
    (given,) = feed.poll(10.0)
    assert given.round is not None and [score.adapter for score in given.round.scores] == [
        findings.ROUTER,
        findings.TONE,
    ]
    assert {score.detail for score in given.round.scores} == {f"no record of the traffic is read, {why[0]}"}
    feed.receive(TurnEnded(20.0))
    feed.receive(scored("x"))
    assert names(feed.poll(20.0)) == [["x"]], "what was scored before says more"
    why[0] = ""
    feed.receive(TurnEnded(30.0))
    assert names(feed.poll(30.0)) == [[]]


def test_the_verdict_of_such_rounds_wakes_somebody_after_the_third_and_ends_with_the_first_that_is_read() -> None:
    monitor, states, sent = Monitor(Rules(Tolerances(), 20.0)), dict[str, AlertState](), []
    feed, why = ResponseFeed(BASES, EVERY_S, scored=True), ["waiting for the store to report how far it has counted"]
    feed.not_read = lambda: why[0]
    for number in range(5):
        now = EVERY_S * number
        if number == 3:
            why[0] = ""
            feed.receive(scored("x"))
            feed.receive(scored("y", adapter=findings.TONE))
        feed.receive(TurnEnded(now))
        (given,) = feed.poll(now)
        assert given.round is not None
        verdicts = monitor.observe(given.round).verdicts
        if number < 3:
            assert {verdict.status for verdict in verdicts} == {Status.UNMONITORABLE}
            assert all(why[0] in verdict.explanation for verdict in verdicts)
            assert not any("were sampled" in verdict.explanation for verdict in verdicts)
        states, notices = step_round(states, verdicts, now, "prod")
        sent += [(number, notice.reason) for notice in notices]
    assert sent == [(2, NoticeReason.CANNOT_TELL), (3, NoticeReason.CAN_TELL_AGAIN)]
