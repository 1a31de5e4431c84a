"""The data source's macros, each as its own documentation says what becomes of it."""

from __future__ import annotations

import pytest

from dashboards.macros import Window, filled_in

WINDOW = Window(1_415_792_726, 1_447_328_726, 20)
CHOSEN = {"subject": ("ticket-router", "l'été"), "cluster": ()}


@pytest.mark.parametrize(
    ("macro", "sql"),
    [
        ("$__fromTime", "toDateTime(1415792726)"),
        ("$__toTime", "toDateTime(1447328726)"),
        ("$__fromTime_ms", "fromUnixTimestamp64Milli(1415792726000)"),
        ("$__toTime_ms", "fromUnixTimestamp64Milli(1447328726000)"),
        ("$__interval_s", "20"),
        ("$__timeFilter(time)", "time >= toDateTime(1415792726) AND time <= toDateTime(1447328726)"),
        (
            "$__timeFilter_ms(t)",
            "t >= fromUnixTimestamp64Milli(1415792726000) AND t <= fromUnixTimestamp64Milli(1447328726000)",
        ),
        ("$__timeInterval(column)", "toStartOfInterval(toDateTime(column), INTERVAL 20 second)"),
        (
            "$__timeInterval(greatest(at, $__fromTime))",
            "toStartOfInterval(toDateTime(greatest(at, toDateTime(1415792726))), INTERVAL 20 second)",
        ),
        ("a IN (${subject:singlequote})", r"a IN ('ticket-router','l\'été')"),
        ("$__conditionalAll(a IN (${subject:singlequote}), $subject)", r"a IN ('ticket-router','l\'été')"),
        ("$__conditionalAll((a IN ($cluster) OR f(b, c) = 1), $cluster) AND d", "1=1 AND d"),
        (
            "$__conditionalAll(x IN (SELECT y WHERE $__timeFilter(z)), $subject)",
            "x IN (SELECT y WHERE z >= toDateTime(1415792726) AND z <= toDateTime(1447328726))",
        ),
    ],
)
def test_what_becomes_of_a_macro(macro: str, sql: str) -> None:
    assert filled_in(f"SELECT {macro}", WINDOW, CHOSEN) == f"SELECT {sql}"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("$__unixEpochFilter(at)", "no macro"),
        ("$__timeFilter(a, b)", "2 arguments"),
        ("$__timeFilter(a", "not closed"),
        ("$__conditionalAll(a)", "two are wanted"),
        ("a IN ($pod)", "no variable pod"),
        ("a IN (${subject:csv})", "format csv"),
    ],
)
def test_what_is_not_known_is_refused(sql: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        filled_in(sql, WINDOW, CHOSEN)
