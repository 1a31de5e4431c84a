"""Windows of a report: what the fault surely covers, and as much healthy time before it, by hand-made rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agent.report.windows import LEAST_HEALTHY_S, Span, bounds, healthy_before, lasting, seconds_of, windows_of, within
from agent.store.verdict_runs import LONGEST_S

NOW = 1_790_000_000.0
OF_IT = {"cluster": "prod", "subject_kind": "adapter", "subject": "ticket-router"}


def at(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def incident(opened: float, ended: float | None = None) -> dict[str, Any]:
    return {**OF_IT, "opened_at": at(opened), "ended_at": at(ended)}


def alarm(when: float, after: float | None = None, by: float | None = None, **more: Any) -> dict[str, Any]:
    times = {"onset_earliest": None, "onset_latest": None, "last_bad_at": when, "good_at": None} | more
    shown = {name: at(value) for name, value in times.items()}
    return {**OF_IT, "alarm_at": at(when), "onset_after": at(after), "onset_by": at(by), **shown}


def test_it_begins_with_the_first_bad_round_and_ends_before_the_first_good_one() -> None:
    ended = incident(NOW - 3000, NOW - 1000)
    rows = [alarm(NOW - 3001, NOW - 3120, NOW - 3060, last_bad_at=NOW - 2000, good_at=NOW - 1500)]
    windows = windows_of(ended, [ended], rows, NOW)
    assert windows.incident == pytest.approx((NOW - 3060, NOW - 1500.001))
    assert windows.healthy == (Span(NOW - 3120 - LEAST_HEALTHY_S, NOW - 3120),) and windows.gap_s == 60.0


def test_an_interval_of_the_onset_narrows_both_windows() -> None:
    rows = [alarm(NOW - 100, NOW - 300, NOW - 240, onset_earliest=NOW - 400, onset_latest=NOW - 200)]
    assert bounds(incident(NOW - 100), rows, NOW)[:2] == (NOW - 400, NOW - 200)


def test_one_that_is_open_lasts_until_now_unless_nobody_has_judged_it_for_long() -> None:
    assert bounds(incident(NOW - 100), [alarm(NOW - 100)], NOW)[2] == NOW
    left = NOW - 10 * LONGEST_S
    assert bounds(incident(left), [alarm(left)], NOW)[2] == left + LONGEST_S
    recovering = alarm(NOW - 100, last_bad_at=NOW - 60, good_at=NOW - 30)
    assert bounds(incident(NOW - 100), [recovering], NOW)[2] == pytest.approx(NOW - 30.001)


def test_an_alarm_of_the_incident_before_is_not_its_own() -> None:
    """Two within five minutes: the page of the second is of the later alarm."""
    rows = [alarm(NOW - 200, NOW - 260, NOW - 200), alarm(NOW - 50, NOW - 80, NOW - 50)]
    assert bounds(incident(NOW - 49), rows, NOW)[:2] == (NOW - 80, NOW - 50)
    assert bounds(incident(NOW - 50.001), rows, NOW)[:2] == (NOW - 80, NOW - 50), "stored times are rounded"
    other = {**alarm(NOW - 49, NOW - 999, NOW - 999), "subject": "polite-rewriter"}
    assert bounds(incident(NOW - 49), [*rows, other], NOW)[:2] == (NOW - 80, NOW - 50)


def test_one_that_nobody_could_judge_has_no_alarm_and_its_own_times() -> None:
    assert bounds(incident(NOW - 100, NOW - 40), [], NOW) == (NOW - 100, NOW - 100, NOW - 40)


def test_healthy_time_steps_over_other_incidents() -> None:
    others = [Span(80, 90), Span(60, 70), Span(62, 65), Span(95, 200)]
    assert healthy_before(100.0, 20.0, others) == (Span(55, 60), Span(70, 80), Span(90, 95))
    assert healthy_before(100.0, 4.0, others[:2]) == (Span(96, 100),)
    assert healthy_before(100.0, 20.0, [Span(-1e9, 100)]) == ()


def test_rows_on_the_edges_are_within() -> None:
    rows = [{"at": at(second)} for second in (9.999, 10, 20, 20.001, 31)]
    kept = within([Span(10, 20), Span(30, 40)], rows)
    assert [seconds_of(row["at"]) for row in kept] == [10, 20, 31]
    assert seconds_of("2026-09-21T14:13:20") == seconds_of("2026-09-21T16:13:20+02:00") == NOW


@pytest.mark.parametrize(("length", "words"), [(39.2, "39 s"), (720, "12 min"), (9000, "2.5 h"), (345_600, "4.0 d")])
def test_lengths_in_words(length: float, words: str) -> None:
    assert lasting(length) == words
