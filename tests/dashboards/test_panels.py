"""Every panel's SQL, with the data source's macros filled in, on the embedded engine: it runs, and says what is so."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.economics.measured_cost import measured_cost
from agent.economics.prices import Costs
from agent.store import client as store
from dashboards.annotations import INCIDENTS
from dashboards.board import STATUSES, Dashboard, Panel, Shape
from dashboards.boards.agent_health import AGENT_HEALTH
from dashboards.boards.cost import COST
from dashboards.boards.now import NOW as NOW_BOARD
from dashboards.boards.since import SINCE
from dashboards.boards.why import WHY
from dashboards.fragments import foremost, largest_and_rest
from dashboards.listed import BOARDS
from dashboards.macros import Window, filled_in
from detectors.economics.own_cost import Part
from tests.agent import findings
from tests.agent.findings import BASE, NOW, ROUTER, TONE
from tests.agent.store.stored import answers, insert
from tests.dashboards.conftest import STRANGE, filled

HOUR, DAY = 3600.0, 86_400.0
SHORT, LONG = Window(NOW - 6 * HOUR, NOW, 30), Window(NOW - 30 * DAY, NOW, 3600)
TYPED = {field.name: (field.value,) for board in BOARDS for field in board.typed}
ALL: Mapping[str, Sequence[str]] = {"cluster": (), "subject": (), "pod": (), **TYPED}
CHOSEN = {"cluster": ("prod", STRANGE), "subject": (ROUTER, STRANGE), "pod": ("pod-0", STRANGE), **TYPED}
Row = dict[str, Any]


def panel(board: Dashboard, name: str) -> Panel:
    return next(panel for panel in board.panels if panel.name == name)


def rows(client: store.Client, sql: str, window: Window = SHORT, **chosen: Sequence[str]) -> list[Row]:
    answer = client.query(filled_in(sql, window, {**ALL, **chosen}))
    return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]


def of(client: store.Client, board: Dashboard, name: str, window: Window = SHORT, **chosen: Sequence[str]) -> list[Row]:
    return rows(client, panel(board, name).sql, window, **chosen)


def series(found: Sequence[Row], name: str, value: str) -> list[Any]:
    return [row[value] for row in found if row["series"] == name]


def seconds(at: datetime) -> float:
    return at.replace(tzinfo=UTC).timestamp() if at.tzinfo is None else at.timestamp()


@pytest.mark.parametrize("window", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("chosen", [ALL, CHOSEN], ids=["all", "chosen"])
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_is_answered_in_its_shape(
    told: store.Client, board: Dashboard, chosen: Mapping[str, Sequence[str]], window: Window
) -> None:
    for choice in board.filters:
        assert all(len(row) == 1 for row in rows(told, choice.sql, window, **chosen)), choice.name
    for each in board.panels:
        answer = told.query(filled_in(each.sql, window, chosen))
        columns = list(answer.column_names)
        assert {*each.units, *each.links} <= set(columns), each.name
        if each.shape is Shape.TABLE:
            continue
        if each.shape is Shape.NUMBERS:
            assert len(answer.result_rows) == 1, each.name
            continue
        assert columns[0] == "time", each.name
        assert (columns[1] == "series" and len(columns) == 3) or " AS series" not in each.sql, each.name
        times = [row[0] for row in answer.result_rows]
        assert times == sorted(times), f"{each.name}: the plugin makes series of sorted rows alone"
        values = [value for row in answer.result_rows for value in row if isinstance(value, float)]
        assert all(map(math.isfinite, values)), each.name


def test_on_a_store_without_rows_every_panel_is_empty(without_rows: store.Client) -> None:
    for board in BOARDS:
        for each in board.panels:
            found = rows(without_rows, each.sql)
            assert len(found) == (each.shape is Shape.NUMBERS), each.name
            assert not any(value for row in found for value in row.values()), each.name


def test_the_choices_above_a_dashboard_are_what_is_stored(told: store.Client) -> None:
    assert [row["cluster"] for row in rows(told, NOW_BOARD.filters[0].sql)] == ["prod"]
    assert {row["subject"] for row in rows(told, NOW_BOARD.filters[1].sql)} > {BASE, ROUTER, TONE, STRANGE}
    assert [row["pod"] for row in rows(told, AGENT_HEALTH.filters[1].sql)] == ["pod-0", "pod-1"]


@pytest.fixture(scope="module")
def alive(folder: Path) -> Iterator[store.Client]:
    """The story, and pods that still live: questions want a sign of life of now, panels one of their window."""
    with closing(filled(folder, "alive")) as client:
        for pod in ("pod-0", "pod-1"):
            insert(client, replace(findings.heartbeat(time.time()), pod=pod))
        yield client


def test_now_lists_what_the_question_lists(alive: store.Client) -> None:
    shown = {(row["subject"], row["status"], row["judged_by"]) for row in of(alive, NOW_BOARD, "not_healthy")}
    asked = {(row["subject"], row["status"], row["judged_by"]) for row in answers(alive, "degraded")}
    assert shown == asked
    assert (ROUTER, "degraded", "pod-0") in shown
    (base, *_) = of(alive, NOW_BOARD, "not_healthy")
    assert (base["kind"], base["cause"], base["evidence"]) == (
        "base", "base_swapped_and_adapter_lost", pytest.approx(93.9 / 21.5),
    )  # fmt: skip


def test_what_cannot_be_judged_leads_to_its_runbook(told: store.Client) -> None:
    (blind,) = [row for row in of(told, NOW_BOARD, "not_healthy") if row["status"] == "unmonitorable"]
    assert (blind["subject"], blind["cause"]) == (f"{BASE}-adapter", "unmonitorable")


def test_a_window_of_the_past_shows_the_past(told: store.Client) -> None:
    """Between its alarm and its end, four to three hours ago, one adapter was degraded, and nothing else."""
    then = Window(NOW - 9 * HOUR, NOW - 3.5 * HOUR, 60)
    assert [(row["subject"], row["status"]) for row in of(told, NOW_BOARD, "not_healthy", then)] == [(TONE, "degraded")]
    assert of(told, NOW_BOARD, "open", then) == [{"degraded": 1, "cannot be judged": 0}]
    (incident,) = of(told, NOW_BOARD, "incidents", then)
    assert (incident["subject"], incident["minutes"]) == (TONE, 30)
    assert of(told, NOW_BOARD, "open", Window(NOW - 9 * HOUR, NOW - 2 * HOUR)) == [
        {"degraded": 0, "cannot be judged": 0}
    ]


def test_open_incidents_with_the_command_that_tells_all_of_it(told: store.Client) -> None:
    assert of(told, NOW_BOARD, "open") == [{"degraded": 1, "cannot be judged": 1}]
    commands = {row["subject"]: row["all of it"] for row in of(told, NOW_BOARD, "incidents")}
    assert commands[BASE] == f"gapwatch explain 'gapwatch/prod/base/{BASE}'"
    (mark, *_) = rows(told, INCIDENTS)
    assert mark["title"] == f"{TONE}: base_swapped_and_adapter_lost"
    assert seconds(mark["timeEnd"]) - seconds(mark["time"]) == HOUR


def test_an_adapter_that_is_chosen_brings_the_incident_of_its_base(told: store.Client) -> None:
    assert {row["subject"] for row in of(told, NOW_BOARD, "incidents", subject=[ROUTER])} == {BASE}
    assert {row["subject"] for row in of(told, NOW_BOARD, "not_healthy", subject=[BASE])} >= {BASE, ROUTER, TONE}
    assert of(told, NOW_BOARD, "incidents", cluster=["staging"]) == []


def test_evidence_beside_what_pages_and_retention(told: store.Client) -> None:
    assert series(of(told, NOW_BOARD, "evidence"), ROUTER, "evidence") == pytest.approx([2 / 21.5, 93.9 / 21.5])
    levels = of(told, WHY, "evidence")
    assert series(levels, f"{ROUTER} adapter_gap", "level") == [2.0, 93.9]
    assert set(series(levels, f"{ROUTER} pages at", "level")) == {21.5}
    # Of the round's two held-out canaries, 0.01 and 0.03 below it.
    assert series(of(told, NOW_BOARD, "retention"), ROUTER, "retention") == pytest.approx([0.98, 0.98, -0.02])
    assert series(of(told, WHY, "retention"), f"{ROUTER} pod-0", "retention") == pytest.approx([0.98, 0.98, -0.02])


def test_what_green_means_stands_beside_it(told: store.Client) -> None:
    found = {row["subject"]: row for row in of(told, NOW_BOARD, "watched")}
    asked = {row["adapter"]: row for row in answers(told, "watched")}
    assert found[ROUTER]["smallest loss that pages"] == 0.12
    assert found[ROUTER]["after at most"] == pytest.approx(asked[ROUTER]["minutes_to_page"] * 60)
    assert found[TONE]["smallest loss that pages"] is None, "it has no golden record in the store"


def test_what_changed_and_which_verdicts_there_were(told: store.Client) -> None:
    (change,) = of(told, WHY, "changed")
    assert (change["changed"], change["before"], change["after"], change["adapters"]) == (
        "base", "sha256:aaaa", "sha256:bbbb", f"{TONE}, {ROUTER}",
    )  # fmt: skip
    latest = [row for row in of(told, WHY, "verdicts") if row["subject"] == ROUTER and row["pod"] == "pod-0"]
    assert [row["status"] for row in latest] == ["degraded", "healthy", "healthy"]
    assert (latest[0]["retention"], latest[0]["at most"], latest[1]["retention"]) == (0.002, 0.014, None)


def test_canaries_of_the_latest_round_with_those_whose_answer_changed(told: store.Client) -> None:
    found = of(told, WHY, "canaries", subject=[ROUTER])
    assert sorted(row["canary"] for row in found) == ["c0", "c1", "c2", "c3"]
    assert [row["canary"] for row in found if row["answer changed"]] == ["c0"]
    assert "prompt" not in panel(WHY, "canaries").sql.lower(), "texts may be production's"


def test_responses_for_and_against(told: store.Client) -> None:
    assert {row["series"]: row["responses"] for row in of(told, WHY, "responses")} == {f"{ROUTER}: against": 1}


def test_of_several_pods_the_worst_is_the_state(told: store.Client) -> None:
    """pod-1 says healthy half a minute after pod-0 said degraded, which still holds."""
    states = series(of(told, SINCE, "states"), ROUTER, "state")
    assert [STATUSES[state] for state in states] == ["healthy", "healthy", "degraded", "degraded"]
    alone = of(told, SINCE, "states", Window(NOW - 40, NOW, 10), subject=[ROUTER])
    assert series(alone, ROUTER, "state")[-1] == STATUSES.index("degraded"), "from before the window"


def test_since_when_and_what_was_in_place_before(told: store.Client) -> None:
    (found,) = [row for row in of(told, SINCE, "onsets") if row["subject"] == ROUTER]
    assert seconds(found["alarm_at"]) == NOW - 60
    assert (seconds(found["began after"]), seconds(found["began by"])) == (NOW - 120, NOW - 60)
    assert seconds(found["last healthy"]) == NOW - 120
    assert (found["base then"], found["base at the alarm"]) == ("sha256:aaaa", "sha256:bbbb")


def test_incidents_of_the_window_with_their_ends(told: store.Client) -> None:
    (ended,) = [row for row in of(told, SINCE, "incidents") if row["ended_at"]]
    assert (ended["subject"], ended["minutes"], ended["ended_by"]) == (TONE, 60, "recovered")
    assert of(told, SINCE, "counts") == [{"incidents": 2, "reopened": 0, "could not be judged": 1}]


@pytest.mark.parametrize("window", [SHORT, Window(NOW - 3 * DAY, NOW, 3600)], ids=["rows", "roll-up"])
def test_requests_are_counted_once_from_the_onset(alive: store.Client, window: Window) -> None:
    (asked,) = [row for row in answers(alive, "requests_since", subject=ROUTER) if row["adapter"] == ROUTER]
    (touched,) = [
        row for row in of(alive, SINCE, "touched", window) if (row["subject"], row["adapter"]) == (BASE, ROUTER)
    ]
    assert touched["requests"] == asked["requests"] > 0
    assert sum(series(of(alive, SINCE, "requests", window), ROUTER, "requests")) == 300


def test_what_the_watch_costs(told: store.Client) -> None:
    window = Window(NOW - 2 * DAY, NOW, 3600)
    by_day, asked = of(told, COST, "tokens", window), answers(told, "cost")
    assert sum(row["value"] for row in by_day) == pytest.approx(sum(row["tokens_processed"] for row in asked)) == 1800
    (router,) = [row for row in of(told, COST, "adapters", window) if row["subject"] == ROUTER]
    assert (router["rounds"], router["requests"], router["machine time"]) == (3, 300, pytest.approx(3.0))
    assert router["tokens a request"] == pytest.approx(3.0)
    (totals,) = of(told, COST, "totals", window)
    assert (totals["rounds"], totals["not measured"]) == (6, 0.0)


def test_money_is_what_the_command_makes_of_the_same_rows(told: store.Client) -> None:
    """Without storage, and of the window in place of a day."""
    window = Window(NOW - 2 * DAY, NOW + 60, 3600)
    spent, served = (answers(told, name, days="2") for name in ("spent", "served"))
    bases = {row["adapter"]: row["base"] for row in spent if row["adapter"]}
    measured = measured_cost(spent, served, [], bases, False, NOW)
    prices, days = Costs().prices, measured.span_s / DAY
    found = {row["subject"]: row for row in of(told, COST, "money", window)}
    assert set(found) == set(bases) and found[ROUTER]["scoring"] > 0
    for own in measured.costs:
        row, parts = found[own.adapter], {part: money * days for part, money in own.by_part(prices).items()}
        for part in (Part.ENGINE_CANARIES, Part.FILE_CANARIES, Part.SCORING):
            assert row[part.value] == pytest.approx(parts.get(part, 0.0)), (own.adapter, part)
        assert row["processes"] == pytest.approx(parts.get(Part.AGENT, 0.0))
        assert row["watch"] == pytest.approx(own.money(prices) * days)
        if own.served and math.isfinite(own.serving_money(prices)):
            assert row["serving"] == pytest.approx(own.serving_money(prices) * days)
            assert row["share of serving"] == pytest.approx(own.share(prices))
    assert found[ROUTER]["serving"] is not None and found[TONE]["serving"] is None
    (dearer,) = of(told, COST, "money", window, subject=[ROUTER], cpu_hour=["0.4"], gpu_hour=["none"])
    assert dearer["watch"] == pytest.approx(10 * found[ROUTER]["watch"]), "all of it is seconds of a core here"


def test_worth_is_the_latest_measurement_of_each_adapter(told: store.Client) -> None:
    (row,) = of(told, COST, "worth")
    assert (row["subject"], row["worth"], row["checked"]) == (ROUTER, "base_passes", 48)
    assert (row["at least"], row["gain"], row["at most"]) == (-0.08, 0.02, 0.14)
    assert (row["adapter right"], row["base alone right"]) == (1.0, 47 / 48)
    assert of(told, COST, "worth", Window(NOW - DAY, NOW - 2 * HOUR)) == [], "measured later"


def test_pods_with_their_signs_of_life(told: store.Client) -> None:
    found = {row["pod"]: row for row in of(told, AGENT_HEALTH, "signs")}
    assert (found["pod-0"]["silent"], found["pod-0"]["state"]) == (60, "alive")
    assert series(of(told, AGENT_HEALTH, "gaps"), "pod-1", "silent")[-1] == 600
    late = Window(NOW - HOUR, NOW + 600, 60)
    assert {row["pod"]: row["state"] for row in of(told, AGENT_HEALTH, "signs", late)} == {
        "pod-0": "gone",
        "pod-1": "gone",
    }
    assert [row["pod"] for row in of(told, AGENT_HEALTH, "signs", pod=["pod-1"])] == ["pod-1"]


def test_records_and_rounds_of_the_agents(told: store.Client) -> None:
    assert sum(row["records"] for row in of(told, AGENT_HEALTH, "records")) == 309
    assert sum(series(of(told, AGENT_HEALTH, "rejected"), "not_json", "records")) == 9
    assert sum(row["measured"] for row in of(told, AGENT_HEALTH, "rounds")) == 6
    (record,) = of(told, AGENT_HEALTH, "goldens")
    assert (record["adapter"], record["age"], record["smallest loss that pages"]) == (ROUTER, 86_400, 0.12)


def test_of_a_large_fleet_the_series_that_matter_are_shown(told: store.Client) -> None:
    """30 series of two points each; of sums the rest is one more."""
    each = "SELECT toDateTime(n % 2) AS time, concat('a', toString(n)) AS series, toFloat64(n) AS value"
    sql = f"{each} FROM (SELECT arrayJoin(range(60)) AS n)"
    highest = rows(told, foremost(sql, "value", "max(value) DESC"))
    assert {row["series"] for row in highest} == {f"a{n}" for n in range(40, 60)}
    lowest = rows(told, foremost(sql, "value", "min(value) ASC"))
    assert {row["value"] for row in lowest} == set(range(20))
    whole = rows(told, largest_and_rest(sql, "value"))
    assert len({row["series"] for row in whole}) == 21
    assert sum(series(whole, "all others", "value")) == sum(range(40))
    assert sum(row["value"] for row in whole) == sum(range(60))


ROLLED_UP = (
    (NOW_BOARD, "retention"),
    (WHY, "retention"),
    (SINCE, "requests"),
    (COST, "tokens"),
    (COST, "time"),
    (COST, "totals"),
    (AGENT_HEALTH, "rounds"),
)


def test_long_windows_read_the_roll_ups_and_give_what_the_rows_give(told_again: store.Client) -> None:
    """A roll-up that is not whole yet is made up for from the rows; and where it is whole, they may be gone."""
    rolled = {(board.uid, name): of(told_again, board, name, LONG) for board, name in ROLLED_UP}
    assert all(rolled.values())
    told_again.command("TRUNCATE TABLE rolled_up")
    by_rows = {(board.uid, name): of(told_again, board, name, LONG) for board, name in ROLLED_UP}
    assert {key: [*map(rounded, found)] for key, found in by_rows.items()} == {
        key: [*map(rounded, found)] for key, found in rolled.items()
    }
    names = ("rounds_hourly", "rounds_daily", "verdicts_daily", "requests_hourly")
    told_again.command("INSERT INTO rolled_up VALUES " + ", ".join(f"('{name}', 0)" for name in names))
    for table in ("rounds", "request_counts"):
        told_again.command(f"TRUNCATE TABLE {table}")
    assert {(board.uid, name): of(told_again, board, name, LONG) for board, name in ROLLED_UP} == rolled
    assert of(told_again, NOW_BOARD, "retention") == []


def rounded(row: Row) -> Row:
    """Sums in another order differ in their last digits."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
