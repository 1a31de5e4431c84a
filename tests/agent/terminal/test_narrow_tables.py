"""One line a row for a person on call: what is left out, what stands once, and what the rows add up to."""

from __future__ import annotations

from typing import Any

import pytest

from agent.store import client as store
from agent.terminal.narrow_tables import FULL, NARROW, narrowed
from tests.agent import findings
from tests.agent.findings import NOW, ROUTER, SWAPPED, TONE
from tests.agent.store.stored import embedded, insert

BASE_WAS, BASE_IS = "sha256:8010c4f15ace804d2cfa", "sha256:018e14844c6b51aa77f0"
RESPONSES = ["at", "adapter", "pod", "request_id", "scored", "tokens", "against", "most_likely", "detail"]


def response(at: str, against: float | None, most_likely: str = "base", detail: str = "") -> list[Any]:
    return [
        f"2026-11-28T{at}.250000+00:00",
        ROUTER,
        "engine-0",
        "079867c123114693",
        "greedy",
        32,
        against,
        most_likely,
        detail,
    ]


def test_responses_say_how_many_are_bad_and_between_which_two_it_began() -> None:
    rows = [
        response("22:45:09", 77.3),
        response("22:45:01", 44.0),
        response("22:44:35", -1.2, "path 0.5"),
        response("22:44:29", None, "", "its temperature is unknown"),
    ]
    (columns, cells), lines = narrowed("responses", RESPONSES, rows)
    assert columns == ["at", "adapter", "against", "answer", "tokens", "request"]
    assert [cell[columns.index("answer")] for cell in cells] == ["like base", "like base", "as accepted", "not scored"]
    assert [cell[0] for cell in cells] == ["22:45:09", "22:45:01", "22:44:35", "22:44:29"]
    assert lines == [
        "of all: pod engine-0, day (UTC) 2026-11-28",
        "2 of 4 are clearly not from the accepted adapter (against: 3.0 nats or more)",
        "first of them 2026-11-28 22:45:01, last 2026-11-28 22:45:09; the last good one before 2026-11-28 22:44:35",
        "its temperature is unknown",
        FULL,
    ]


def test_times_of_two_days_keep_their_day() -> None:
    rows = [response("00:01:00", 77.3), ["2026-11-27T23:59:00+00:00", *response("", 1.0)[1:]]]
    (_, cells), _ = narrowed("responses", RESPONSES, rows)
    assert [cell[0] for cell in cells] == ["2026-11-28 00:01:00", "2026-11-27 23:59:00"]


def test_hashes_are_short_and_say_which_is_accepted() -> None:
    columns = [
        "at",
        "adapter",
        "pod",
        "changed",
        "base_before",
        "live_base",
        "accepted_base",
        "live_adapter",
        "accepted_adapter",
    ]
    swapped = ["2026-11-28 22:42:54", ROUTER, "e0", ["base"], BASE_WAS, BASE_IS, BASE_WAS, "sha256:ab", "sha256:ab"]
    back = ["2026-11-28 22:44:01", ROUTER, "e0", ["base"], BASE_IS, BASE_WAS, BASE_WAS, "sha256:ab", "sha256:ab"]
    (shown, cells), _ = narrowed("identity", columns, [back, swapped])
    assert [cell[shown.index("changed")] for cell in cells] == [
        "base 018e14844c6b -> 8010c4f15ace",
        "base 8010c4f15ace -> 018e14844c6b",
    ]
    assert [cell[shown.index("base now")] for cell in cells] == [
        "8010c4f15ace accepted",
        "018e14844c6b (accepted: 8010c4f15ace)",
    ]


def test_what_is_to_be_done_stands_once_and_members_are_of_their_bases_incident() -> None:
    columns = [
        *("subject_kind", "subject", "status", "cause", "retention", "log_e", "log_threshold", "covered_by"),
        *("last_judged", "judged_by", "action"),
    ]
    figures = ["adapter_not_applied", float("nan"), 43.1, 16.4]
    base = ["base", "smol", "degraded", *figures, "", "2026-11-28 22:45:52", "e0", "reload them"]
    members = [["adapter", n, "degraded", *figures, "smol", "2026-11-28 22:45:52", "e0", "reload it"] for n in "ab"]
    (shown, cells), lines = narrowed("degraded", columns, [base, *members])
    assert "retention" not in shown, "nothing was measured"
    assert cells[1][shown.index("status")] == "degraded: part of the incident base/smol"
    assert [line for line in lines if line.startswith("do first")] == ["do first (smol): reload them"]


def test_what_cannot_be_judged_says_why_and_pods_of_bad_responses_are_named() -> None:
    columns = [
        *("subject_kind", "subject", "status", "reason", "cause", "retention", "log_e", "log_threshold", "covered_by"),
        *("last_judged", "judged_by", "action", "bad_pods"),
    ]
    rest = [float("nan"), 43.1, 16.4, "", "2026-11-28 22:45:52", "e0", "look"]
    lost = ["base", "smol", "degraded", "alarm", "adapter_not_applied", *rest, ["engine-1", "engine-2"]]
    blind = ["adapter", "a", "unmonitorable", "no_traffic", "none", *rest, []]
    (shown, cells), _ = narrowed("degraded", columns, [lost, blind])
    assert [cell[shown.index("cause")] for cell in cells] == ["adapter_not_applied", "no traffic"]
    assert [cell[shown.index("bad responses from")] for cell in cells] == ["engine-1, engine-2", ""]


@pytest.mark.parametrize("name", ["retention", "watched"])
def test_other_questions_are_shown_as_they_are(name: str) -> None:
    assert narrowed(name, ["a"], [[1]]) == ((["a"], [[1]]), [])
    assert narrowed("responses", RESPONSES, []) == ((RESPONSES, []), [])


@embedded
def test_each_narrow_table_is_made_of_columns_that_its_question_has(migrated: store.Client) -> None:
    insert(migrated, findings.base_round(0, NOW - 120), findings.base_round(1, NOW - 60, 0.0, identity=SWAPPED))
    insert(migrated, findings.alarm(NOW - 60), findings.flip(NOW - 60), findings.traffic_round(NOW - 60))
    for name in NARROW:
        columns, rows = store.run_query(migrated, name)
        assert rows, name
        (shown, cells), lines = narrowed(name, columns, rows)
        assert len(cells) == len(rows) and len(shown) < len(columns) and lines[-1] == FULL
    columns, rows = store.run_query(migrated, "rounds")
    assert {row[columns.index("adapter")] for row in rows} == {ROUTER, TONE}
