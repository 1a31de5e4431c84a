"""What tools read that know the schema of OpenTelemetry's logs, and nothing of these tables."""

from __future__ import annotations

import re
from dataclasses import replace

from agent import shipped
from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy
from agent.open_telemetry import conventions
from agent.open_telemetry.events import notice_event
from agent.records import NoticeReason
from agent.store import client as store
from agent.store import migrations
from detectors.records import Status
from tests.agent import findings
from tests.agent.findings import NOW, ROUTER
from tests.agent.store.stored import HERE, Connect, answers, embedded, insert

VIEWS = shipped.MIGRATIONS / "035_pods_of_verdicts.sql"
LOGS = shipped.MIGRATIONS / "030_urgency_in_logs.sql"
# Columns and types of otel_logs: exporter/clickhouseexporter/internal/sql_templates/logs_table.sql.
EXPORTER = """CREATE TABLE otel_logs (
    Timestamp DateTime64(9), TimestampTime DateTime DEFAULT toDateTime(Timestamp), TraceId String, SpanId String,
    TraceFlags UInt8, SeverityText LowCardinality(String), SeverityNumber UInt8, ServiceName LowCardinality(String),
    Body String, ResourceSchemaUrl LowCardinality(String), ResourceAttributes Map(LowCardinality(String), String),
    ScopeSchemaUrl LowCardinality(String), ScopeName String, ScopeVersion LowCardinality(String),
    ScopeAttributes Map(LowCardinality(String), String), LogAttributes Map(LowCardinality(String), String)
) ENGINE = MergeTree ORDER BY (ServiceName, TimestampTime, Timestamp)"""


@embedded
def test_verdicts_and_notices_are_rows_of_otel_logs(migrated: store.Client) -> None:
    alarm = findings.alarm(NOW)
    healthy, blind = findings.verdict(at=NOW - 60), findings.verdict(Status.UNMONITORABLE, at=NOW - 30)
    insert(migrated, healthy, blind, alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", NOW + 1))
    rows = migrated.query("SELECT * FROM otel_logs ORDER BY Timestamp").named_results()
    good, unknown, bad, page = rows
    assert [row["SeverityText"] for row in (good, unknown, bad, page)] == ["INFO", "WARN", "ERROR", "ERROR"]
    assert [row["SeverityNumber"] for row in (good, unknown, bad, page)] == [9, 13, 17, 17]
    assert bad["Timestamp"].timestamp() == NOW and bad["Body"] == alarm.explanation
    assert bad["ServiceName"] == bad["ResourceAttributes"]["service.name"] == "gapwatch"
    assert bad["ResourceAttributes"]["k8s.pod.name"] == "pod-0"
    said = bad["LogAttributes"]
    assert said[conventions.EVALUATION_NAME] == conventions.RETENTION
    assert (said[conventions.SCORE_LABEL], float(said[conventions.SCORE_VALUE])) == ("degraded", 0.002)
    assert said["gapwatch.subject"] == ROUTER and said["gapwatch.cause"] == alarm.cause.value
    assert conventions.SCORE_VALUE not in good["LogAttributes"], "no figure where nothing was measured"
    assert page["LogAttributes"]["gapwatch.notice.dedup_key"] == f"gapwatch/prod/adapter/{ROUTER}"


@embedded
def test_a_page_is_as_urgent_as_the_policy_has_it_as_it_is_by_otlp(migrated: store.Client) -> None:
    policy = Policy.model_validate({"adapters": {ROUTER: {"severity": "warning", "owner": "platform"}}})
    page = to_notice(findings.alarm(NOW), NoticeReason.DEGRADED, "prod", NOW + 1)
    insert(migrated, page, place=replace(HERE, policy=policy))
    migrated.command("INSERT INTO notices (at, kind, reason) VALUES (now(), 'trigger', 'degraded')")  # of before 028
    row, former = migrated.query("SELECT * FROM otel_logs ORDER BY SeverityNumber").named_results()
    event = notice_event(page, policy.of_notice(page))
    assert (row["SeverityText"], row["SeverityNumber"]) == (event.severity.name, event.severity.value) == ("WARN", 13)
    attributes = {name: str(value) for name, value in event.attributes.items()}
    assert row["LogAttributes"] == {"event.name": event.name} | attributes
    assert former["SeverityText"] == "ERROR" and "gapwatch.notice.severity" not in former["LogAttributes"]


@embedded
def test_its_columns_are_those_of_the_collectors_exporter_whose_own_table_keeps_its_name(
    dsn: str, connect: Connect
) -> None:
    client = connect(dsn)
    client.command(EXPORTER)
    client.command("INSERT INTO otel_logs (Timestamp, Body) VALUES (now64(9), 'of another service')")
    migrations.migrate(client)
    assert client.query("SELECT Body FROM otel_logs").result_rows == [("of another service",)]
    shapes = [
        [(row[0], re.sub(r", 'UTC'|\('UTC'\)|^LowCardinality\((String)\)$", r"\1", row[1])) for row in described]
        for described in (
            client.query(f"DESCRIBE {name}").result_rows for name in ("otel_logs", "verdicts_and_notices_as_logs")
        )
    ]
    assert shapes[0] == shapes[1]
    client.command("INSERT INTO otel_logs SELECT * FROM verdicts_and_notices_as_logs")


@embedded
def test_what_is_degraded_now_is_a_view_without_parameters(migrated: store.Client) -> None:
    insert(migrated, findings.alarm(NOW), findings.verdict(subject="whole"))
    (row,) = migrated.query("SELECT * FROM degraded_now").named_results()
    assert [row] == answers(migrated, "degraded") and row["subject"] == ROUTER


def test_it_is_the_question_itself() -> None:
    question = (shipped.QUERIES / "degraded.sql").read_text()
    body = question[question.index("WITH rows_by_pod") : question.index("ORDER BY status")].rstrip()
    for parameter, value in (
        ("({cluster:String} = '' OR cluster = {cluster:String}) AND ", ""),
        ("toIntervalHour({hours:UInt32} + 1)", "INTERVAL 25 HOUR"),
        ("toIntervalHour({hours:UInt32})", "INTERVAL 24 HOUR"),
    ):
        body = body.replace(parameter, value)
    assert f"CREATE OR REPLACE VIEW degraded_now AS\n{body};" in VIEWS.read_text()


@embedded
def test_they_are_read_by_a_connection_to_another_database(
    migrated: store.Client, dsn: str, database: str, connect: Connect
) -> None:
    insert(migrated, findings.alarm(NOW))
    tool = connect(dsn.replace(database, "default"))
    assert tool.query("SELECT currentDatabase()").result_rows == [("default",)]
    for name in ("degraded_now", "otel_logs"):
        assert tool.query(f"SELECT count() FROM {database}.{name}").result_rows == [(1,)]


def test_the_names_in_sql_are_those_of_the_conventions() -> None:
    assert set(re.findall(r"'(gen_ai\.[a-z_.]+)'", LOGS.read_text())) == conventions.EVALUATION_NAMES
