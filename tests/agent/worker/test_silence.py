from __future__ import annotations

from agent.worker.silence import STUCK_S, Silence


def test_a_base_is_overdue_once_in_each_stretch_without_a_round_and_never_while_rounds_come() -> None:
    silence = Silence(60.0)
    assert silence.reason("a", 1000.0) == "" == silence.reason("a", 1000.0 + 60.0 + STUCK_S)
    assert silence.reason("a", 1361.0).startswith("no round finished for 361 s")
    assert silence.reason("a", 1362.0) == ""
    assert silence.reason("a", 1722.0).startswith("no round finished for 361 s")
    silence.end("a", 1730.0)
    assert silence.reason("a", 2090.0) == ""
    assert silence.reason("b", 2090.0) == "", "each base for itself"


def test_a_clock_that_was_set_back_does_not_lengthen_the_wait() -> None:
    silence = Silence(60.0)
    silence.end("a", 10_000.0)
    assert silence.reason("a", 1000.0) == ""
    assert silence.reason("a", 1361.0) != ""
