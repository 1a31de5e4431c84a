"""Whether what is left to others is judged by them, by what the store answers and when it does not."""

from __future__ import annotations

from agent.alerting.left_bases import FRESH_S, PATIENCE_S, UNWATCHED_S, LeftBases
from agent.clock import HandClock
from agent.errors import Retryable

A, B, C = "adapter/a", "adapter/b", "adapter/c"
ALONE = (
    "no pod that is alive judges every adapter of m, wanted one that does: a witness with this cluster name and store, "
    "or role all here"
)


class Watched:
    """What is judged by whom, as a test sets it; None while the store is away."""

    def __init__(self) -> None:
        self.judged: dict[str, list[str]] | None = {}
        self.clock = HandClock(0.0)
        self.left = LeftBases({"m": [A, B], "n": [C]}, self.ask, self.clock)

    def ask(self) -> dict[str, list[str]]:
        if self.judged is None:
            raise Retryable("clickhouse", "away")
        return self.judged

    def after(self, seconds: float) -> tuple[bool, str]:
        self.clock.sleep(seconds)
        self.left.look()
        return self.left.status


def test_a_base_that_nobody_judges_is_told_after_five_minutes_and_no_more_once_somebody_does() -> None:
    watched = Watched()
    watched.judged = {A: ["w-0"], C: ["w-1"]}
    assert watched.after(PATIENCE_S - 1.0) == (True, "left to others: m, n; judged by w-0, w-1")
    assert watched.after(1.0) == (False, ALONE), "of m one adapter is not judged"
    watched.judged[B] = ["w-0"]
    assert watched.after(30.0) == (True, "left to others: m, n; judged by w-0, w-1")
    del watched.judged[A]
    assert watched.after(30.0)[0], "it may be on its way to another witness"
    assert watched.after(PATIENCE_S) == (False, ALONE)


def test_while_the_store_is_away_the_last_answer_holds() -> None:
    watched = Watched()
    watched.judged = None
    assert watched.after(10 * PATIENCE_S) == (True, "left to others: m, n; nobody is known yet who judges them")
    watched.judged = {A: ["w"], B: ["w"], C: ["w"]}
    assert watched.after(1.0) == (True, "left to others: m, n; judged by w")
    watched.judged = None
    assert watched.after(10 * PATIENCE_S) == (True, "left to others: m, n; judged by w")


def test_somebody_is_told_after_a_quarter_of_an_hour_and_never_by_an_old_answer() -> None:
    watched = Watched()
    watched.judged = {A: ["w-0"], C: ["w-1"]}
    watched.after(UNWATCHED_S - 1.0)
    assert watched.left.unwatched == frozenset()
    watched.after(1.0)
    assert watched.left.unwatched == {"m"}
    watched.judged = None
    watched.after(FRESH_S + 1.0)
    assert watched.left.unwatched == frozenset(), "the store is away: nobody knows"
    watched.judged = {A: ["w-0"], B: ["w-0"], C: ["w-1"]}
    watched.after(30.0)
    assert watched.left.unwatched == frozenset()
