"""The ClickHouse sink: nothing is stored twice, no traffic is lost, and the loop never waits."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.delivery.disk import Disk
from agent.sinks.clickhouse import Config, Sink
from agent.store import client as store
from agent.store import migrations
from agent.surroundings import Surroundings
from tests.agent import findings
from tests.clickhouse_http import ClickHouseServer

FAST: dict[str, Any] = {"retry_s": 0.02, "max_retry_s": 0.1}
COUNTED_TABLES = ("rounds", "comparisons", "evidence", "verdicts", "notices", "flips", "heartbeats")


def settle(sink: Sink, seconds: float = 60.0) -> bool:
    """Until the store has everything."""
    deadline = time.monotonic() + seconds
    while sink.waiting:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_until(fact: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def count(client: store.Client, table: str, final: str = "") -> int:
    return int(client.query(f"SELECT count() FROM {table} {final}").result_rows[0][0])


@pytest.fixture
def new_sink(tmp_path: Path) -> Iterator[Callable[..., Sink]]:
    """Each with a disk of its own, unless it is given one."""
    opened: list[Sink] = []

    def make(disk: Path | None = None, **config: Any) -> Sink:
        disk = disk or tmp_path / f"disk-{len(opened)}"
        opened.append(Sink(Config(**(FAST | config)), Surroundings("prod", "pod-0", disk)))
        opened[-1].open()
        return opened[-1]

    yield make
    for sink in opened:
        sink.close(5.0)


@pytest.fixture
def server_dsn(clickhouse: ClickHouseServer, database: str) -> str:
    return f"clickhouse://127.0.0.1:{clickhouse.port}/{database}"


def test_every_row_of_every_finding_can_be_read_back(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    sink = new_sink(dsn=dsn)
    for finding in findings.every_kind():
        sink.submit(finding)
    assert settle(sink), sink.status
    client = connect(dsn)
    expected = {"rounds": 2, "comparisons": 8, **dict.fromkeys(("evidence", "verdicts", "notices", "flips"), 1)}
    expected |= {
        "request_counts": 1,
        "interactions": 2,
        "aside": 1,
        "batches": 1,
        "embeddings": 1,
        "heartbeats": 1,
        "goldens": 1,
    }
    assert {table: count(client, table) for table in expected} == expected
    places = {table: client.query(f"SELECT DISTINCT cluster FROM {table}").result_rows for table in expected}
    assert all(seen == [("prod",)] for seen in places.values()), places


def test_stored_log_probs_are_those_that_were_measured(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    seen = findings.base_round(3)
    sink = new_sink(dsn=dsn)
    sink.submit(seen)
    assert settle(sink), sink.status
    columns = "positions, kept, served_log_probs, served_rest, served_top1, live_base_log_probs, half, draws, at"
    where = "canary = 'c1' AND adapter = 'ticket-router'"
    row = connect(dsn).query(f"SELECT {columns} FROM comparisons WHERE {where}").result_rows[0]
    comparison = seen.members[0].measurements[1].comparison
    shape = (row[0], row[1])
    assert np.array_equal(np.float32(row[2]).reshape(shape), comparison.served.log_probs)
    assert np.array_equal(np.float32(row[3]), comparison.served.rest)
    assert np.array_equal(np.int32(row[4]), comparison.served.top1)
    assert np.array_equal(np.float32(row[5]).reshape(shape), comparison.live_base.log_probs)
    assert row[6:8] == ("held_out", 0)
    assert row[8].timestamp() == findings.NOW


def test_nan_infinity_and_missing_values_survive(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    sink = new_sink(dsn=dsn)
    sink.submit(findings.verdict(log_threshold=float("inf")))
    assert settle(sink), sink.status
    sql = "SELECT isNaN(retention), isInfinite(log_threshold), onset_after, onset_by, log_e FROM verdicts"
    assert connect(dsn).query(sql).result_rows == [(1, 1, None, None, 0.0)]


def test_production_text_is_stored_only_when_configured(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    prompt, output = "user: my parcel is late, order 0", '{"queue": "shipping"}'
    for store_text, offset in ((False, 0), (True, 100)):
        sink = new_sink(dsn=dsn, store_text=store_text)
        sink.submit(findings.batch(offset))
        assert settle(sink), sink.status
    sql = "SELECT prompt, output, prompt_chars, prompt_hash FROM interactions WHERE offset IN (0, 100) ORDER BY offset"
    hidden, shown = connect(dsn).query(sql, column_formats={"prompt_hash": "string"}).result_rows
    assert hidden == ("", "", len(prompt), hashlib.sha256(prompt.encode()).hexdigest())
    assert shown[:2] == (prompt.replace("order 0", "order 100"), output)


def test_the_same_traffic_twice_is_stored_once(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    """A crash after the insert and before the Kafka commit: the same range comes again, from another process."""
    for _ in range(3):
        sink = new_sink(dsn=dsn)
        sink.submit(findings.batch(40))
        assert settle(sink), sink.status
    client = connect(dsn)
    for table, rows in {"request_counts": 1, "interactions": 2, "aside": 1, "batches": 1}.items():
        assert count(client, table) == rows, f"{table}: the token of the offset range drops the copy"


def test_all_requests_of_one_record_are_kept(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    """Redaction may have made their ids equal."""
    sink, whole = new_sink(dsn=dsn), findings.batch(40)
    kept = tuple(replace(findings.interaction(40), request_id="[redacted]", number=i) for i in range(3))
    lost = tuple(replace(whole.rejected[0], number=i) for i in range(2))
    sink.submit(replace(whole, interactions=kept, rejected=lost))
    assert settle(sink), sink.status
    client = connect(dsn)
    assert (count(client, "interactions", "FINAL"), count(client, "aside", "FINAL")) == (3, 2)


def test_the_same_offsets_of_a_recreated_topic_are_other_records(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    """The store must not drop them as copies: the time of their first record differs."""
    sink, later = new_sink(dsn=dsn), findings.NOW + 3600.0
    for batch in (replace(findings.batch(40), first_ms=1), replace(findings.batch(40, at=later), first_ms=2)):
        sink.submit(batch)
        assert settle(sink), sink.status
    client = connect(dsn)
    assert client.query("SELECT sum(n) FROM request_counts FINAL").result_rows == [(20,)]
    assert count(client, "interactions", "FINAL") == 4


def test_beyond_the_token_window_final_still_counts_once(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    client = connect(dsn)
    migrations.migrate(client)
    client.command("ALTER TABLE request_counts MODIFY SETTING non_replicated_deduplication_window = 0")
    for _ in range(2):
        sink = new_sink(dsn=dsn)
        sink.submit(findings.batch(40))
        assert settle(sink), sink.status
    assert count(client, "request_counts") == 2, "the test must reach the second net"
    assert count(client, "request_counts", "FINAL") == 1


def test_an_answer_lost_on_the_way_does_not_store_twice(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    client = connect(server_dsn)
    migrations.migrate(client)
    for table in COUNTED_TABLES:
        clickhouse.fail_next(2, status=500, code=252, match=f"`{table}` (".encode(), after=True)
    before = len(clickhouse.inserts)
    sink = new_sink(dsn=server_dsn)
    for finding in findings.every_kind():
        sink.submit(finding)
    assert settle(sink), sink.status
    expected = {"rounds": 2, "comparisons": 8, "evidence": 1, "verdicts": 1, "notices": 1, "flips": 1, "heartbeats": 1}
    assert {table: count(client, table) for table in expected} == expected
    sent = [i["insert_deduplication_token"] for i in clickhouse.inserts[before:] if "`rounds` (" in i["statement"]]
    assert len(sent) == 3, "twice the answer was lost"
    assert len(set(sent)) == 1, "a retry keeps its token"


def test_settings_that_differ_between_servers_are_sent(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink]
) -> None:
    sink = new_sink(dsn=server_dsn)
    sink.submit(findings.batch(7))
    assert settle(sink), sink.status
    sent = next(i for i in reversed(clickhouse.inserts) if "`batches`" in i["statement"])
    assert (sent["async_insert"], sent["insert_deduplicate"]) == ("0", "1")
    assert sent["insert_deduplication_token"] == findings.batch(7).token


def test_away_at_the_start_and_away_later_loses_nothing(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    clickhouse.stop()
    try:
        sink = new_sink(dsn=server_dsn)
        sink.submit(findings.batch(0))
        sink.submit(findings.alarm())
        assert wait_until(lambda: not sink.status[0]), "it says that the store is away"
        assert wait_until(sink.flush), "on disk"
    finally:
        clickhouse.start()
    assert settle(sink), sink.status
    assert sink.status[0], "and that it is back"
    clickhouse.stop()
    try:
        for i in range(1, 6):
            sink.submit(findings.batch(100 * i))
            sink.submit(findings.alarm(findings.NOW + i))
        assert wait_until(lambda: not sink.status[0])
        assert wait_until(sink.flush) and sink.waiting
    finally:
        clickhouse.start()
    assert settle(sink), sink.status
    client = connect(server_dsn)
    assert (count(client, "batches"), count(client, "interactions")) == (6, 12)
    assert count(client, "verdicts") == 6
    assert (sink.dropped, sink.refused) == (0, 0)


def test_what_was_on_disk_when_an_agent_was_killed_is_stored_once_by_the_next_also_if_it_was_stored(
    clickhouse: ClickHouseServer,
    server_dsn: str,
    new_sink: Callable[..., Sink],
    connect: Callable[[str], store.Client],
    tmp_path: Path,
) -> None:
    clickhouse.stop()
    try:
        killed = new_sink(tmp_path / "disk", dsn=server_dsn)
        for finding in findings.every_kind():
            killed.submit(finding)
        killed.submit(findings.batch(100))
        assert wait_until(killed.flush)
        # As the kill left it; the killed one goes on with its own copy, so that each insert is sent by both.
        shutil.copytree(tmp_path / "disk", tmp_path / "after the kill")
        after = new_sink(tmp_path / "after the kill", dsn=server_dsn)
        assert after.counted_upto() == {("llm.interactions", 0): 111}
        assert after.waiting == killed.waiting
    finally:
        clickhouse.start()
    assert settle(after) and settle(killed), (after.status, killed.status)
    assert not list(tmp_path.rglob("*.rows")), "what the store has is on no disk"
    client = connect(server_dsn)
    expected = {"rounds": 2, "comparisons": 8, "verdicts": 1, "notices": 1, "flips": 1, "goldens": 1}
    expected |= {"request_counts": 2, "interactions": 4, "aside": 2, "batches": 2, "traffic_scores": 2}
    assert {table: count(client, table) for table in expected} == expected
    assert after.counted_upto() == {}


def test_where_the_disk_refuses_rows_wait_in_memory_and_kafka_is_not_committed(
    clickhouse: ClickHouseServer,
    server_dsn: str,
    new_sink: Callable[..., Sink],
    connect: Callable[[str], store.Client],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    clickhouse.stop()
    try:
        sink = new_sink(tmp_path / "file", dsn=server_dsn)
        for i in range(5):
            sink.submit(findings.batch(100 * i))
            sink.submit(findings.alarm(findings.NOW + i))
        assert wait_until(lambda: "spool in state_dir: Not a directory, wanted a folder with room" in sink.status[1])
        assert not sink.flush(), "Kafka must not be committed"
        (tmp_path / "file").unlink()
        assert wait_until(sink.flush), "and once the disk takes them it may be"
    finally:
        clickhouse.start()
    assert settle(sink), sink.status
    assert sink.status[0]
    client = connect(server_dsn)
    assert (count(client, "batches"), count(client, "verdicts"), sink.dropped) == (5, 5, 0)


def test_a_spool_at_its_limit_stops_the_reading_and_loses_nothing(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    clickhouse.stop()
    try:
        sink = new_sink(dsn=server_dsn, spool_mb=2 * 4 * 4096 / 1e6)  # four files of traffic
        n = 0
        while sink.flush() or n < 5:  # a feed hands out no more once it is False for long
            sink.submit(findings.batch(100 * n))
            n += 1
            wait_until(sink.flush, 2.0)
            assert n < 100
        assert "sinks.clickhouse.spool_mb is used up" in sink.status[1] and not sink.status[0]
    finally:
        clickhouse.start()
    assert settle(sink), sink.status
    client = connect(server_dsn)
    firsts = client.query("SELECT first_offset FROM batches ORDER BY first_offset").result_rows
    assert firsts == [(100 * i,) for i in range(n)]


def test_a_disk_that_refuses_costs_nothing_while_the_store_answers(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    sink = new_sink(tmp_path / "file", dsn=dsn)
    for i in range(5):
        sink.submit(findings.batch(100 * i))
        assert wait_until(sink.flush)
    assert not sink.status[0], "a killed agent would lose what waits"
    assert count(connect(dsn), "batches") == 5
    sink.submit(findings.batch(900))
    sink.close(10.0)
    assert count(connect(dsn), "batches") == 6


def test_submit_and_flush_do_not_wait_for_a_store_that_is_away(new_sink: Callable[..., Sink]) -> None:
    sink = new_sink(dsn="clickhouse://192.0.2.1:8123/away")  # TEST-NET-1: packets to it vanish
    begun = time.monotonic()
    for i in range(200):
        sink.submit(findings.evidence(at=findings.NOW + i))
        sink.flush()
    assert time.monotonic() - begun < 2.0
    begun = time.monotonic()
    sink.close(0.2)
    assert time.monotonic() - begun < 4.0, "close keeps to its budget"


def test_a_row_that_says_that_a_page_was_sent_waits_until_the_page_is_on_disk(
    tmp_path: Path, clickhouse: ClickHouseServer, database: str
) -> None:
    """Whatever is put on the disk before a finding is submitted is there before any of its rows."""
    disk, begun, may_end = Disk(), threading.Event(), threading.Event()
    disk.open()

    def wait() -> None:
        begun.set()
        may_end.wait(60.0)

    disk.put_once(wait)
    assert begun.wait(60.0)
    config = Config(dsn=f"clickhouse://127.0.0.1:{clickhouse.port}/{database}", **FAST)
    sink = Sink(config, Surroundings("prod", "pod-0", tmp_path, disk=disk))
    sink.open()
    try:
        sink.submit(findings.heartbeat())
        assert not settle(sink, 0.3) and not sink.flush() and not list(tmp_path.rglob("*.rows"))
        may_end.set()
        assert wait_until(sink.flush) and settle(sink)
    finally:
        may_end.set()
        sink.close(5.0)
        disk.close(5.0)


def test_many_waiting_batches_go_in_few_inserts(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    before = len(clickhouse.inserts)
    sink = new_sink(dsn=server_dsn, max_rows=20)
    with sink._changed:
        for i in range(30):
            sink.submit(findings.batch(100 * i, n=i + 1))
    assert settle(sink), sink.status
    sent = [insert for insert in clickhouse.inserts[before:] if "`schema_" not in insert["statement"]]
    assert len(sent) < 30, "four inserts a batch would be 120"
    client = connect(server_dsn)
    for table in ("request_counts", "batches"):
        rows = client.query(f"SELECT first_offset FROM {table}").result_rows
        assert {first for (first,) in rows} == {100 * i for i in range(30)}
    assert count(client, "interactions") == 60


def test_one_row_that_cannot_be_stored_does_not_take_others_with_it(
    dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    sink = new_sink(dsn=dsn)
    sink.submit(findings.heartbeat())
    assert settle(sink), sink.status
    good = [findings.evidence(float(i)) for i in range(6)]
    bad = replace(findings.evidence(9.0), n="many")  # type: ignore[arg-type]
    with sink._changed:  # all in one insert
        for finding in (*good[:3], bad, *good[3:]):
            sink.submit(finding)
    assert settle(sink), sink.status
    assert sink.refused == 1
    assert connect(dsn).query("SELECT groupArray(log_e) FROM (SELECT * FROM evidence ORDER BY log_e)").result_rows == [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0],)
    ]


def test_dropped_tables_are_created_again(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    sink = new_sink(dsn=server_dsn)
    sink.submit(findings.alarm())
    assert settle(sink), sink.status
    database = server_dsn.rsplit("/", 1)[1]
    connect(server_dsn.rsplit("/", 1)[0]).command(f"DROP DATABASE {database}")
    sink.submit(findings.alarm(findings.NOW + 1))
    assert settle(sink), sink.status
    assert count(connect(server_dsn), "verdicts") == 1


def test_a_server_needs_neither_embedded_engine_nor_data_frames(
    clickhouse: ClickHouseServer, database: str, tmp_path: Path
) -> None:
    """A connection to a server must not import what the sidecar's image leaves out."""
    code = f"""
import sys, time
from agent.delivery.disk import Disk
from agent.sinks.clickhouse import Config, Sink
from agent.surroundings import Surroundings
from pathlib import Path
from tests.agent import findings
around = Surroundings(state_dir=Path({str(tmp_path)!r}))
sink = Sink(Config(dsn="clickhouse://127.0.0.1:{clickhouse.port}/{database}"), around)
sink.open()
for finding in findings.every_kind():
    sink.submit(finding)
deadline = time.monotonic() + 60
while sink.waiting and time.monotonic() < deadline:
    time.sleep(0.02)
assert not sink.waiting, sink.status
sink.close(2.0)
heavy = [name for name in ("chdb", "pandas", "pyarrow", "torch", "polars") if name in sys.modules]
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_table_without_a_column_loses_nothing_and_says_what_to_do(
    server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    """An agent that is newer than the tables, where agents may not alter them."""
    sink = new_sink(dsn=server_dsn)
    sink.submit(findings.alarm())
    assert settle(sink), sink.status
    client = connect(server_dsn)
    client.command("ALTER TABLE verdicts DROP COLUMN explanation")
    with capture_logs() as lines:
        sink.submit(findings.alarm(findings.NOW + 1))
        sink.submit(findings.batch(0))
        assert wait_until(lambda: not sink.status[0])
        time.sleep(0.5)  # several tries
        wanted = "wanted the tables of this version: its migrations have to be applied"
        assert (
            f"clickhouse: table verdicts: saw Unrecognized column 'explanation' in table verdicts, {wanted}"
            in (sink.status[1])
        )
        assert wait_until(sink.flush) and sink.waiting == 6
        client.command("ALTER TABLE verdicts ADD COLUMN explanation String")
        assert settle(sink), sink.status
    spoken = [(line["event"], line.get("why")) for line in lines]
    assert [spoken[0][0], spoken[-1][0]] == ["part_not_ok", "part_ok_again"]
    # A try that the server answers otherwise, as a busy machine's may, has a line of its own.
    assert len(spoken) == len(set(spoken)), "none for each try"
    assert sink.status[0]
    assert (sink.dropped, sink.refused, count(client, "verdicts"), count(client, "batches")) == (0, 0, 2, 1)


NO_RIGHTS = {
    "to create the database": (b"CREATE DATABASE", "this account may not create it: gapwatch migrate does"),
    "to create its tables": (b"CREATE TABLE", "this account may not create them: run gapwatch migrate"),
    "to note what it applied": (b"INSERT INTO `schema_version`", "this account may not create them: run gapwatch"),
    "to write": (b"INSERT INTO `verdicts`", "wanted SELECT and INSERT on its tables, and the right to create and"),
}


@pytest.mark.parametrize("statement, wanted", NO_RIGHTS.values(), ids=NO_RIGHTS)
def test_rights_that_are_missing_are_a_status_until_they_are_granted(
    statement: bytes, wanted: str, clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink]
) -> None:
    clickhouse.fail_next(3, status=403, code=497, match=statement)
    sink = new_sink(dsn=server_dsn, retry_s=0.2, max_retry_s=0.2)
    sink.submit(findings.alarm())
    assert wait_until(lambda: not sink.status[0])
    assert wanted in sink.status[1]
    assert settle(sink), sink.status
    assert sink.status[0]
    assert sink.refused == 0


def test_a_password_file_that_is_missing_or_no_text_is_a_status_until_it_is_there(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    sink = new_sink(dsn=server_dsn, password_file=file)
    sink.submit(findings.alarm())
    assert wait_until(lambda: "clickhouse.password_file: saw No such file or directory" in sink.status[1])
    file.write_bytes(b"\xffhunter2")
    assert wait_until(lambda: "clickhouse.password_file: saw bytes that are no text" in sink.status[1])
    assert "hunter2" not in sink.status[1]
    assert str(file) not in sink.status[1]
    file.write_text("")
    assert settle(sink), sink.status
    assert sink.status[0]


def test_a_port_without_tls_is_a_status_in_the_same_words_at_each_try(
    server_dsn: str, new_sink: Callable[..., Sink]
) -> None:
    with capture_logs() as lines:
        sink = new_sink(dsn=server_dsn.replace("clickhouse://", "https://"))
        sink.submit(findings.alarm())
        assert wait_until(lambda: not sink.status[0])
        assert "TLS: the port speaks no TLS" in sink.status[1]
        time.sleep(0.5)  # several tries
    assert [line["event"] for line in lines] == ["part_not_ok"]


@pytest.mark.parametrize(
    "message, cause",
    [
        (
            "Error HTTPSConnectionPool(host='h', port=8443): Max retries exceeded with url: /?query_id=3 (Caused by "
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
            "self-signed certificate (_ssl.c:1006)')))",
            "TLS: certificate verify failed: self-signed certificate",
        ),
        ("... [Errno -2] Name or service not known)", "Name or service not known"),
        ("Received ClickHouse exception, code: 60, server response: Code: 60. No table", "Code: 60. No table"),
    ],
)
def test_the_cause_of_an_error_is_told_without_what_the_driver_wraps_it_in(message: str, cause: str) -> None:
    assert store.first_cause(message) == cause


def test_a_user_who_may_only_read_is_a_status_and_costs_no_row(
    clickhouse: ClickHouseServer, server_dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    migrations.migrate(connect(server_dsn))
    clickhouse.may_read_only.add("reader")
    sink = new_sink(dsn=server_dsn.replace("://", "://reader@"))
    sink.submit(findings.alarm())
    sink.submit(findings.batch(0))
    assert wait_until(lambda: "too few rights (code 164), met with table verdicts" in sink.status[1]), sink.status
    assert wait_until(sink.flush) and sink.refused == 0
    clickhouse.may_read_only.clear()
    assert settle(sink), sink.status


@pytest.mark.parametrize("dsn", ["embedded"], indirect=True)
def test_a_full_disk_is_a_status_and_rows_go_on_to_the_store(
    full_disk: Path, dsn: str, new_sink: Callable[..., Sink], connect: Callable[[str], store.Client]
) -> None:
    sink = new_sink(full_disk / "state", dsn=dsn)
    for i in range(300):
        sink.submit(findings.batch(100 * i))
        sink.submit(findings.golden(data=os.urandom(200_000)) if i == 0 else findings.heartbeat())
    assert settle(sink) and wait_until(sink.flush), sink.status
    assert count(connect(dsn), "batches", "FINAL") == 300
