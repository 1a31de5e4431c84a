"""What this agent leaves to others is said to be watched by nobody when nobody has judged it for a while."""

from __future__ import annotations

from collections.abc import Collection

from agent.alerting.left_to_others import ASK_EVERY_S, PATIENCE_S, UNWATCHED_S, LeftToOthers
from detectors.records import Subject

BASES = {"smol": ("router", "rewriter"), "other": ("sql",)}
EVERYBODY = {"adapter/router", "adapter/rewriter", "adapter/sql"}


class Fleet:
    """judged: state keys that live pods judge, None while the store is away; asked: how often"""

    def __init__(self, judged: set[str] | None) -> None:
        self.judged, self.asked = judged, 0

    def __call__(self, subjects: Collection[Subject]) -> Collection[str] | None:
        self.asked += 1
        assert {name for _, name in subjects} == {"router", "rewriter", "sql"}
        return self.judged


def until(left: LeftToOthers, began: float, ended: float) -> dict[str, float]:
    """With each heartbeat; what the last one says."""
    unwatched: dict[str, float] = {}
    for beat in range(int(began), int(ended) + 1, 30):
        unwatched = left.unwatched(float(beat))
    return unwatched


def test_a_base_is_unwatched_when_one_of_its_adapters_was_judged_by_nobody_for_a_quarter_of_an_hour() -> None:
    fleet = Fleet(EVERYBODY - {"adapter/rewriter"})
    left = LeftToOthers(BASES, fleet)
    assert until(left, 0, UNWATCHED_S - 30) == {}
    assert until(left, UNWATCHED_S, UNWATCHED_S) == {"smol": UNWATCHED_S}
    assert fleet.asked == UNWATCHED_S / ASK_EVERY_S + 1
    fleet.judged = EVERYBODY
    assert until(left, UNWATCHED_S + 60, UNWATCHED_S + 60) == {}
    fleet.judged = set()
    assert until(left, 1000, 1000 + UNWATCHED_S - 40) == {}, "the time begins anew"


def test_readyz_names_after_five_minutes_what_nobody_judges() -> None:
    fleet = Fleet(EVERYBODY - {"adapter/rewriter"})
    left = LeftToOthers(BASES, fleet)
    until(left, 0, PATIENCE_S - 60)
    assert left.status == (True, "left to others: other, smol")
    until(left, PATIENCE_S, PATIENCE_S)
    ok, words = left.status
    assert not ok and "no pod that is alive judges every adapter of smol, wanted" in words
    fleet.judged = None
    until(left, PATIENCE_S + 60, PATIENCE_S + 300)
    assert left.status == (False, words), "the store's last answer"
    fleet.judged = EVERYBODY
    until(left, PATIENCE_S + 360, PATIENCE_S + 360)
    assert left.status[0]


def test_a_store_that_is_away_says_nothing_and_a_wait_goes_on_behind_it() -> None:
    fleet = Fleet(set())
    left = LeftToOthers(BASES, fleet)
    until(left, 0, 60)
    fleet.judged = None
    assert until(left, 90, 2000) == {}
    fleet.judged = set()
    assert set(until(left, 2010, 2070)) == {"smol", "other"}


def test_where_nothing_is_left_to_others_nobody_is_asked() -> None:
    fleet = Fleet(set())
    assert until(LeftToOthers({}, fleet), 0, 3000) == {} and fleet.asked == 0
