"""Roll-ups by hours and days give the answers that their tables give, whenever they were made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import shipped
from agent.records import Finding, RequestCount, TrafficBatch
from agent.store import client as store
from agent.store import migrations
from agent.store.rows import to_rows
from agent.store.table_rows import Origin
from detectors.records import Reason, Status
from tests.agent import findings
from tests.agent.findings import BASE, NOW, ROUTER, SWAPPED
from tests.agent.store.stored import HERE, answers, embedded, insert

Connect = Callable[[str], store.Client]
HOUR, DAY = 3600.0, 86_400.0
ROLL_UPS = "026_roll_ups.sql"
# What today's rows have, and tables of that time had not.
COLUMNS_SINCE = "035_pods_of_verdicts.sql"
QUESTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("retention", {"hours": "60", "subject": BASE}),
    ("cost", {"days": "4"}),
    ("false_pages", {"days": "4"}),
    ("requests_since", {"subject": ROUTER}),
)
SUPPORT, SALES = (Origin("prod", pod, consumer_group=name) for pod, name in (("pod-0", "support"), ("pod-1", "sales")))


def counts(first: int, n: int, at: float, pod: str = "engine-0") -> TrafficBatch:
    one = RequestCount("t", 0, first, first + n - 1, ROUTER, pod, at - at % 60, n)
    return TrafficBatch("t", 0, first, first + n, (), (one,), (), n, at)


def before() -> Iterator[Finding]:
    """Two days up to three hours ago; the router is degraded from the second hour on."""
    for i in range(45):
        at = NOW - 48 * HOUR + HOUR * i + 7
        yield findings.base_round(i, at, 1 - 0.01 * i)
        yield findings.base_round(i, at + 60, measurements=(), blocked=Reason.UNREADABLE)
        yield findings.alarm(at) if i == 1 else findings.verdict(at=at) if i == 0 else still_bad(at)
        yield counts(100 * i, 10 + i, at)
        yield counts(100 * i + 60, 3, at + 90, "engine-1")


def still_bad(at: float) -> Finding:
    return findings.verdict(Status.DEGRADED, at=at, identity=SWAPPED)


def after() -> Iterator[Finding]:
    for i in range(3):
        at = NOW - 2 * HOUR + HOUR * i
        yield findings.base_round(100 + i, at, 0.1)
        yield still_bad(at)
        yield counts(10_000 + 100 * i, 50, at)


def everything(client: store.Client) -> list[Any]:
    return [comparable(answers(client, name, **given)) for name, given in QUESTIONS]


def comparable(rows: list[dict[str, Any]]) -> Any:
    """nan equals itself here, and sums in another order differ in their last digits."""
    return [{name: _rounded(value) for name, value in row.items()} for row in rows]


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else round(value, 4)
    return value


def read_from(client: store.Client, since: float) -> None:
    """Moves the time from which the roll-ups are read."""
    client.command("TRUNCATE TABLE rolled_up")
    names = ("rounds_hourly", "rounds_daily", "verdicts_daily", "requests_hourly")
    client.command("INSERT INTO rolled_up VALUES " + ", ".join(f"('{name}', {int(since)})" for name in names))


def copied(folder: Path, last: str) -> Path:
    """The migrations up to this file."""
    folder.mkdir()
    for file in shipped.MIGRATIONS.iterdir():
        if file.name.endswith(".sql") and file.name <= last:
            (folder / file.name).write_text(file.read_text())
    return folder


@embedded
def test_the_roll_ups_answer_as_their_tables_do(migrated: store.Client) -> None:
    insert(migrated, *before(), *after(), place=SUPPORT)
    insert(migrated, *before(), place=SALES)
    assert migrated.query("SELECT count(), max(toUnixTimestamp(since)) FROM rolled_up FINAL").result_rows == [(4, 0)]
    rolled = everything(migrated)
    whole_day = NOW - NOW % DAY
    read_from(migrated, whole_day)
    assert everything(migrated) == rolled
    migrated.command("TRUNCATE TABLE rolled_up")
    assert everything(migrated) == rolled, "nothing is known of when they begin"
    # By hand; the second group has read what the first has, less the last hours.
    (router,) = [row for row in rolled[3] if row["pod"] == "engine-0"]
    assert router["requests"] == sum(10 + i for i in range(1, 45)) + 150
    assert sum(row["rounds"] for row in rolled[1]) == 2 * (2 * 2 * 45 + 3)
    assert rolled[2][1]["watched_days"] == pytest.approx(2.0, abs=0.01)


@embedded
@pytest.mark.parametrize("statements", [0, 3, 12], ids=str)
def test_a_store_with_rows_that_is_migrated_half_and_then_whole_counts_each_once(
    dsn: str, connect: Connect, tmp_path: Path, statements: int
) -> None:
    """Rows from before, rows while the migration stands half, and rows after it."""
    client = connect(dsn)
    migrations.migrate(client, copied(tmp_path / "before", "025_watch.sql"))
    client.command(migrations.split((shipped.MIGRATIONS / COLUMNS_SINCE).read_text())[0])
    earlier = [*before()]
    insert(client, *earlier[: len(earlier) // 2])
    for statement in migrations.split((shipped.MIGRATIONS / ROLL_UPS).read_text())[:statements]:
        client.command(statement)
    insert(client, *earlier[len(earlier) // 2 :])
    assert 26 in migrations.migrate(client)
    insert(client, *after())
    found = everything(client)
    read_from(client, NOW + 3 * DAY)
    assert found == everything(client)
    (of_pod, _) = answers(client, "requests_since", subject=ROUTER)
    assert of_pod["requests"] == sum(10 + i for i in range(1, 45)) + 150


@embedded
def test_an_insert_that_is_sent_again_is_in_the_roll_ups_once(migrated: store.Client) -> None:
    for finding in (findings.base_round(1, NOW), findings.verdict(), counts(0, 7, NOW)):
        for group in to_rows(finding, HERE):
            names = list(group.rows[0])
            data = [[v.tolist() if hasattr(v, "tolist") else v for v in row.values()] for row in group.rows]
            for _ in range(2):
                settings = store.insert_settings(f"token of {group.table}")
                migrated.insert(group.table, data, column_names=names, settings=settings)
    sums = {
        "SELECT sum(measured), sum(retention_n) FROM rounds_hourly": (2, 2),
        "SELECT sum(rounds), sum(tokens_scored) FROM rounds_daily": (2, 120.0),
        "SELECT arraySum(mapValues(sumMap(by_minute))) FROM requests_hourly": (7,),
        "SELECT count() FROM verdicts_daily FINAL": (1,),
    }
    assert {sql: migrated.query(sql).result_rows[0] for sql in sums} == sums
