"""The store: connections, schema, offsets, golden records, and which subjects another pod judges degraded."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import shipped
from agent.alerting.notice import state_key
from agent.clock import HandClock
from agent.errors import Refused, Retryable
from agent.records import Watching
from agent.store import client as store
from agent.store import migrations
from agent.store.fleet import watchers
from agent.store.rows import to_rows
from detectors.records import SubjectKind
from tests.agent import findings
from tests.agent.findings import NOW, ROUTER
from tests.agent.store.stored import HERE, Connect, embedded, insert
from tests.clickhouse_http import ClickHouseServer

SUPPORT = replace(HERE, consumer_group="support")


def test_migrating_again_does_nothing_and_every_table_is_there(migrated: store.Client) -> None:
    assert migrations.migrate(migrated) == ()
    tables = {name for (name,) in migrated.query("SHOW TABLES").result_rows}
    named = re.compile(
        r"^CREATE (?:TABLE|VIEW|MATERIALIZED VIEW|OR REPLACE VIEW)(?: IF NOT EXISTS)? (\w+)", re.MULTILINE
    )
    texts = [file.read_text() for file in shipped.MIGRATIONS.iterdir() if file.name.endswith(".sql")]
    assert tables == {"schema_version", "schema_begun", *(name for text in texts for name in named.findall(text))}


@embedded
def test_a_new_file_is_applied_alone_and_a_changed_one_refused(migrated: store.Client, tmp_path: Path) -> None:
    for file in shipped.MIGRATIONS.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    extra = "CREATE TABLE IF NOT EXISTS extra (a UInt8) ENGINE = MergeTree ORDER BY a;\n"
    (tmp_path / "900_extra.sql").write_text(extra)
    assert migrations.migrate(migrated, tmp_path) == (900,)
    (tmp_path / "900_extra.sql").write_text(extra.replace("a UInt8", "a UInt16"))
    with pytest.raises(Refused, match=r"900_extra\.sql"):
        migrations.migrate(migrated, tmp_path)


@embedded
def test_when_a_file_was_applied_is_the_clocks_time(dsn: str, connect: Connect) -> None:
    client = connect(dsn)
    migrations.migrate(client, clock=HandClock(1_700_000_000.0))
    times = client.query("SELECT DISTINCT toUnixTimestamp(applied_at) FROM schema_version").result_rows
    assert times == [(1_700_000_000,)]


def test_replicated_engines_keep_their_version_column_and_get_a_keeper_path() -> None:
    text = (shipped.MIGRATIONS / "004_kept.sql").read_text()
    replicated = migrations.statements(text, replicated=True, on_cluster="main")
    keeper = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"
    assert f"ENGINE = ReplicatedMergeTree({keeper})" in replicated
    assert f"ENGINE = ReplicatedReplacingMergeTree({keeper}, accepted_at)" in replicated
    assert "CREATE TABLE IF NOT EXISTS goldens ON CLUSTER 'main' (" in replicated
    added = (shipped.MIGRATIONS / "005_canary_evidence.sql").read_text()
    assert "ALTER TABLE verdicts ON CLUSTER 'main'\n" in migrations.statements(
        added, replicated=True, on_cluster="main"
    )
    view = (shipped.MIGRATIONS / "007_incident_pods.sql").read_text()
    assert "EXISTS incident_pods ON CLUSTER 'main' AS" in migrations.statements(
        view, replicated=True, on_cluster="main"
    )


@embedded
def test_replicated_engines_are_understood(dsn: str, connect: Connect) -> None:
    """There is no keeper here and there are no macros: the engine must report these as missing, and nothing else."""
    with pytest.raises(Exception, match=r"[Mm]acro|ZooKeeper|ZOOKEEPER"):
        migrations.migrate(connect(dsn), replicated=True)


@pytest.mark.parametrize(
    ("dsn", "wanted"),
    [
        ("postgres://host/db", "clickhouse://"),
        ("clickhouse://user:secret@host:8443/db", "password_file"),
    ],
)
def test_a_wrong_address_is_refused_without_repeating_a_password(dsn: str, wanted: str) -> None:
    with pytest.raises(Refused, match=wanted) as refused:
        store.connect(dsn)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_away_is_retryable() -> None:
    with pytest.raises(Retryable):
        store.connect("clickhouse://127.0.0.1:9/gapwatch")


def test_the_password_is_read_from_its_file(tmp_path: Path, clickhouse: ClickHouseServer) -> None:
    guarded = ClickHouseServer(Path(clickhouse.folder), password="open sesame").start()
    password = tmp_path / "password"
    try:
        password.write_text("open sesame\n")
        client = store.connect(f"clickhouse://default@127.0.0.1:{guarded.port}", password)
        assert client.command("SELECT 1") == 1
        client.close()
        password.write_text("guess")
        with pytest.raises(Refused, match="password_file"):
            store.connect(f"clickhouse://default@127.0.0.1:{guarded.port}", password)
    finally:
        guarded.stop()


def test_a_folder_that_another_process_has_open_says_what_to_do(clickhouse: ClickHouseServer) -> None:
    code = f"from agent.store import client; client.connect('chdb://{clickhouse.folder}')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "agent.errors.Retryable" in ended.stderr
    assert "a running agent has it open: query that agent (gapwatch query does)" in ended.stderr


def test_offsets_continue_after_the_last_count(migrated: store.Client) -> None:
    assert store.counted_upto(migrated, "prod", "support") == {}
    insert(migrated, findings.batch(0, n=10, aside=0), findings.batch(10, n=5, aside=2), place=SUPPORT)
    insert(migrated, findings.batch(100, n=7, aside=0, partition=3), place=SUPPORT)
    wanted = {("llm.interactions", 0): 17, ("llm.interactions", 3): 107}
    assert store.counted_upto(migrated, "prod", "support") == wanted
    assert store.counted_upto(migrated, "another cluster", "support") == {}


@embedded
def test_counts_without_their_batch_row_are_included(migrated: store.Client) -> None:
    """The agent crashed between the two inserts of one batch."""
    counts = next(
        group for group in to_rows(findings.batch(0, n=10, aside=0), SUPPORT) if group.table == "request_counts"
    )
    names = list(counts.rows[0])
    migrated.insert("request_counts", [[row[n] for n in names] for row in counts.rows], column_names=names)
    assert store.counted_upto(migrated, "prod", "support") == {("llm.interactions", 0): 10}


@embedded
def test_how_far_was_counted_is_not_read_from_the_counts_however_many_there_are(migrated: store.Client) -> None:
    migrated.command(
        """INSERT INTO request_counts (cluster, topic, partition, first_offset, last_offset, adapter, pod, minute, n,
            consumer_group)
        SELECT 'prod', 't', number % 12, number, number + 4, concat('adapter-', toString(number % 50)), 'engine',
            now() - number % 86400, 5, 'support' FROM numbers(3000000)"""
    )
    marks = store.counted_upto(migrated, "prod", "support")
    assert marks == {("t", partition): 3_000_000 - 12 + partition + 5 for partition in range(12)}
    given = {"cluster": "prod", "group": "support", "adapters": []}
    read = migrated.query(f"EXPLAIN ESTIMATE {store._COUNTED}", parameters=given).result_rows
    assert {table for _, table, *_ in read} == {"counted"}
    assert sum(rows for *_, rows, _ in read) <= 50 * 12 * 10


def test_what_was_counted_before_an_upgrade_is_not_counted_again(dsn: str, connect: Connect, tmp_path: Path) -> None:
    client = connect(dsn)
    for name, file in shipped.texts(shipped.MIGRATIONS, ".sql").items():
        # The views of 026 read tables of 021; 034 has a column without which no row of today is taken.
        if (not name.startswith("021") and name < "026") or name.startswith("034"):
            (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    migrations.migrate(client, tmp_path)
    insert(client, findings.batch(0, n=10, aside=2), place=SUPPORT)
    insert(client, findings.batch(0, n=30, aside=0))
    migrations.migrate(client)
    insert(client, findings.batch(12, n=5, aside=0), place=SUPPORT)
    assert store.counted_upto(client, "prod", "support") == {("llm.interactions", 0): 17}
    assert store.counted_upto(client, "prod", "support", [ROUTER]) == {("llm.interactions", 0): 30}


def test_counts_are_written_before_the_batch_row() -> None:
    tables = [group.table for group in to_rows(findings.batch(), HERE)]
    assert (tables[0], tables[-1]) == ("request_counts", "batches")


def test_the_newest_accepted_golden_record_or_the_pinned_one(migrated: store.Client) -> None:
    assert store.golden_row(migrated, ROUTER, cluster="prod") is None
    old, new = findings.golden(NOW - 60), findings.golden(golden="sha256:hhhh", data=bytes(range(256)))
    insert(migrated, old, new)
    assert store.golden_row(migrated, ROUTER, cluster="prod") == ("sha256:hhhh", bytes(range(256)))
    assert store.golden_row(migrated, ROUTER, "sha256:gggg", "prod") == ("sha256:gggg", old.data)
    insert(migrated, findings.golden(NOW + 60))
    assert store.golden_row(migrated, ROUTER, cluster="prod") == ("sha256:gggg", old.data)
    assert store.golden_row(migrated, ROUTER, "sha256:none", "prod") is None


@embedded
def test_a_store_without_tables_says_so(dsn: str, connect: Connect) -> None:
    with pytest.raises(Refused, match="tables"):
        store.run_query(connect(dsn), "rounds")


@embedded
def test_pods_are_counted_by_the_most_that_were_alive_in_one_minute(migrated: store.Client) -> None:
    def beats(pod: str, since: float, until: float, cluster: str = "prod") -> None:
        times = [since + 30.0 * i for i in range(int((until - since) // 30) + 1)]
        insert(migrated, *(replace(findings.heartbeat(at), pod=pod, cluster=cluster) for at in times))

    def most(hours: float) -> int:
        return store.most_pods(migrated, "prod", NOW - 3600.0 * hours, NOW)

    assert most(24) == 0
    for n in range(5):
        beats(f"before-{n}", NOW - 90_000 - 600, NOW - 90_000)
        beats(f"peak-{n}", NOW - 40_000 - 600, NOW - 40_000) if n < 3 else None
    beats("now", NOW - 3000, NOW)
    beats("elsewhere", NOW - 3000, NOW, "another cluster")
    assert (most(0.5), most(24), most(48)) == (1, 3, 5)
    for n in range(8):  # one after the other: never two at once
        beats(f"in-turn-{n}", NOW - 20_000 + 600 * n, NOW - 20_000 + 600 * n + 300)
    assert most(24) == 3


def test_on_a_cluster_the_database_is_created_on_all_its_servers(clickhouse: ClickHouseServer) -> None:
    dsn = f"clickhouse://default@127.0.0.1:{clickhouse.port}/elsewhere"
    clickhouse.fail_next(1, status=403, code=497, match=b"CREATE DATABASE IF NOT EXISTS `elsewhere` ON CLUSTER 'main'")
    with pytest.raises(Retryable, match="may not create it"):
        store.connect(dsn, on_cluster="main")
    store.connect(dsn).close()
    store.connect(dsn, on_cluster="main").close()  # there is one: nothing is created


@pytest.mark.parametrize("dsn", ["server"], indirect=True)
def test_two_thousand_adapters_with_quotes_and_emoji_in_their_names_are_asked_for_at_once(
    migrated: store.Client,
) -> None:
    """All names go with one question: more than an address of 64 kB holds."""
    names = [f"customer '{n}' \"\\{n}\" \U0001f680 {'x' * 40}" for n in range(2_000)]
    for n in (0, 1_999):
        (count,) = findings.batch(100 * n).counts
        insert(migrated, replace(findings.batch(100 * n), counts=(replace(count, adapter=names[n]),)))
    now = time.time()  # who is silent for minutes watches nothing
    insert(migrated, Watching(now, (state_key(SubjectKind.ADAPTER, names[7]),)), findings.heartbeat(now))
    asked = [name for name in names if name != names[1_999]]
    without_group = (
        "INSERT INTO counted SELECT cluster, '', topic, 7, adapter, next, at FROM counted WHERE adapter != ''"
    )
    migrated.command(without_group)
    assert store.counted_upto(migrated, "prod", "g", asked)[("llm.interactions", 7)] == 11
    assert store.counted_upto(migrated, "prod", "g", names)[("llm.interactions", 7)] == 199_911
    subjects = [(SubjectKind.ADAPTER, name) for name in names]
    assert watchers(migrated, "prod", subjects) == {state_key(SubjectKind.ADAPTER, names[7]): ["pod-0"]}
