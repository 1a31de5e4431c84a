"""What runs out, when is it said, and how often?"""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from agent.lifecycle.clocks import Clock, ClockKind, Horizons, clocks, is_active, stage_of, warned
from agent.lifecycle.passport import Passport, PinnedBase, TrainingData

TODAY = date(2026, 11, 28)


def of_kind(all_clocks: tuple[Clock, ...], kind: ClockKind) -> Clock | None:
    return next((clock for clock in all_clocks if clock.kind is kind), None)


@pytest.mark.parametrize(
    ("days", "stage"),
    [(61, ""), (60, "60 days"), (31, "60 days"), (30, "30 days"), (14, "14 days"), (7, "7 days"), (2, "7 days"),
     (1, "1 days"), (0, "over 0"), (-29, "over 0"), (-30, "over 1"), (-400, "over 13")],
)  # fmt: skip
def test_a_warning_comes_weeks_ahead_and_is_repeated_once_a_month(days: int, stage: str) -> None:
    assert stage_of(TODAY + timedelta(days=days), TODAY) == stage


def test_over_a_year_before_and_after_a_day_few_warnings_are_given() -> None:
    due = date(2027, 6, 30)
    names = {stage_of(due, due + timedelta(days=d)) for d in range(-365, 366)} - {""}
    assert len(names) == 5 + 13


def test_all_clocks_of_a_passport_the_nearest_first() -> None:
    passport = Passport(
        adapter="router",
        owner="Ada <ada@example.org>",
        base=PinnedBase(name="org/base", end_of_life=TODAY + timedelta(days=10)),
        data=TrainingData(location="s3://tickets", expires=TODAY + timedelta(days=100)),
        last_rebuild=TODAY - timedelta(days=400),
    )
    running = clocks(passport, TODAY - timedelta(days=300), ("bob@example.org",), TODAY)
    assert [clock.kind for clock in running] == [
        ClockKind.NO_REBUILD, ClockKind.OWNER_GONE, ClockKind.BASE_END_OF_LIFE, ClockKind.GOLDEN_STALE,
        ClockKind.DATA_EXPIRY,
    ]  # fmt: skip
    assert {clock.kind for clock in warned(running)} == {
        ClockKind.NO_REBUILD, ClockKind.OWNER_GONE, ClockKind.BASE_END_OF_LIFE,
    }  # fmt: skip
    end = of_kind(running, ClockKind.BASE_END_OF_LIFE)
    assert end is not None and end.words == "its base org/base reaches its end of life on 2026-12-08, in 10 days"
    assert end.name == "base_end_of_life 2026-12-08 14 days"


def test_an_empty_passport_has_no_clock_and_without_a_list_nobody_is_gone() -> None:
    assert clocks(Passport(adapter="router"), None, None, TODAY) == ()
    assert clocks(Passport(adapter="router", owner="Ada"), None, None, TODAY) == ()
    assert len(clocks(Passport(adapter="router", owner="Ada"), None, ("Bob",), TODAY)) == 1


def test_the_horizons_are_those_given() -> None:
    passport = Passport(adapter="router", last_rebuild=TODAY)
    (clock,) = clocks(passport, None, None, TODAY, Horizons(rebuild_after=30))
    assert clock.due == TODAY + timedelta(days=30)


@pytest.mark.parametrize("owner", ["Ada", "ada", "Ada <ada@example.org>", "ADA@example.org", "<ada@example.org>"])
def test_a_person_is_known_by_name_or_address(owner: str) -> None:
    assert is_active(owner, ("Bob", "Ada <ada@example.org>"))
    assert not is_active(owner, ("Bob <bob@example.org>", "Adam"))
