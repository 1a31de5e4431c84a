from __future__ import annotations

from agent.worker.silence import STUCK_S, Blocked, Silence
from detectors.records import Reason

ENDED = Blocked(Reason.NO_MEMORY, "the model process was ended by signal 9")


def test_a_base_is_overdue_once_in_each_stretch_without_a_round_and_never_while_rounds_come() -> None:
    silence = Silence(60.0)
    assert silence.reason("a", 1000.0) is None is silence.reason("a", 1000.0 + 60.0 + STUCK_S)
    assert why(silence, "a", 1361.0).startswith("no round finished for 361 s")
    assert silence.reason("a", 1362.0) is None
    assert why(silence, "a", 1722.0).startswith("no round finished for 361 s")
    silence.end("a", 1730.0)
    assert silence.reason("a", 2090.0) is None
    assert silence.reason("b", 2090.0) is None, "each base for itself"


def why(silence: Silence, base: str, now: float) -> str:
    blocked = silence.reason(base, now)
    assert blocked is not None and blocked.reason is Reason.NOT_REPLAYED_YET
    return blocked.why


def test_a_clock_that_was_set_back_does_not_lengthen_the_wait() -> None:
    silence = Silence(60.0)
    silence.end("a", 10_000.0)
    assert silence.reason("a", 1000.0) is None
    assert silence.reason("a", 1361.0) is not None


def test_a_clock_that_leaps_a_year_ahead_makes_no_base_overdue_and_takes_nothing_off_its_wait() -> None:
    silence, year = Silence(60.0), 365 * 86400.0
    silence.end("a", 1000.0)
    assert silence.reason("a", 1300.0) is None
    assert silence.reason("a", 1300.0 + year) is None
    assert silence.reason("a", 1359.0 + year) is None
    assert why(silence, "a", 1362.0 + year).startswith("no round finished for 362 s")


def test_a_blocked_base_is_overdue_at_the_interval_of_its_rounds_until_it_is_answered_for_again() -> None:
    silence = Silence(60.0)
    silence.end("a", 1000.0)
    silence.block(["a"], ENDED)
    given = [silence.reason("a", now) for now in (1059.0, 1060.0, 1061.0, 1120.0, 1179.0, 1180.0)]
    assert given == [None, ENDED, None, ENDED, None, ENDED]
    silence.unblock(["a"])
    assert silence.reason("a", 1180.0 + 60.0 + STUCK_S) is None
    assert why(silence, "a", 1181.0 + 60.0 + STUCK_S).startswith("no round finished")


def test_a_base_that_comes_while_no_model_answers_is_overdue_at_once_and_then_at_its_interval() -> None:
    silence = Silence(60.0)
    silence.end("a", 1000.0)
    silence.forget("a")
    silence.block(["a"], ENDED)
    assert [silence.reason("a", now) for now in (1001.0, 1002.0, 1060.9, 1061.0)] == [ENDED, None, None, ENDED]


def test_a_base_with_an_interval_of_its_own_is_overdue_by_that_one() -> None:
    silence = Silence(60.0, {"served": 600.0})
    assert silence.reason("files", 1000.0) is None is silence.reason("served", 1000.0)
    assert why(silence, "files", 1361.0) and silence.reason("served", 1900.0) is None
    assert why(silence, "served", 1901.0).startswith("no round finished for 901 s")
