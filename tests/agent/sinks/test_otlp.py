"""What a collector receives, over the wire where the exporter is installed; and what is said where it is not."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.alerting.notice import to_notice
from agent.records import NoticeReason
from agent.sinks.otlp import Config, Sink
from agent.surroundings import Surroundings
from tests.agent import findings
from tests.agent.findings import BASE, FIXED, ROUTER


class Collector:
    """Takes what is posted: path -> bodies, and the headers of the last one."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}
        self.headers: dict[str, str] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                owner.bodies.setdefault(self.path, []).append(body)
                owner.headers = dict(self.headers.items())
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the tests' output is for failures."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_what_a_collector_receives(collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otlp is not installed")
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    sink = Sink(Config(), Surroundings("prod", "pod-0", tmp_path))
    sink.open()
    alarm = findings.alarm(FIXED, round=3)
    sink.submit(findings.base_round(3, FIXED))
    for finding in (alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", FIXED + 1), findings.verdict(at=FIXED)):
        sink.submit(finding)
    assert sink.flush() and sink.status == (True, "exported by OTLP: logs, traces")
    sink.close(10.0)
    assert collector.headers["authorization"] == "Bearer abc"
    (spans,) = (ExportTraceServiceRequest.FromString(body) for body in collector.bodies["/v1/traces"])
    (logs,) = (ExportLogsServiceRequest.FromString(body) for body in collector.bodies["/v1/logs"])
    (span,) = spans.resource_spans[0].scope_spans[0].spans
    assert (span.name, span.end_time_unix_nano - span.start_time_unix_nano) == ("gapwatch.round", 2_000_000_000)
    about = {one.key: one.value.string_value for one in logs.resource_logs[0].resource.attributes}
    assert (about["service.name"], about["service.instance.id"], about["k8s.cluster.name"]) == (
        *("gapwatch", "pod-0", "prod"),
    )
    records = logs.resource_logs[0].scope_logs[0].log_records
    assert [record.event_name for record in records] == [
        *("gen_ai.evaluation.result", "gapwatch.notice", "gen_ai.evaluation.result"),
    ]
    assert [record.severity_text for record in records] == ["ERROR", "ERROR", "INFO"]
    assert records[0].time_unix_nano == round(1e9 * FIXED)
    assert records[0].trace_id == records[1].trace_id == span.trace_id and records[0].span_id == span.span_id
    assert records[2].trace_id == b"", "of round 7, whose span is not the latest"
    names = {one.key for one in records[0].attributes}
    assert {"gen_ai.evaluation.score.value", "gapwatch.subject"} <= names
    assert ROUTER in str(records[0]) and BASE in str(span)


def test_without_the_package_or_with_another_exporter_it_says_so_and_takes_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "console")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    sink = Sink(Config(), Surroundings("prod", "pod-0", tmp_path))
    sink.open()
    for finding in findings.every_kind():
        sink.submit(finding)
    ok, words = sink.status
    assert sink.flush() and not ok and "OTEL_LOGS_EXPORTER" in words and "wanted otlp or none" in words
    sink.close(1.0)


def test_with_none_for_both_it_is_well_and_sends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for signal in ("LOGS", "TRACES"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    sink = Sink(Config(), Surroundings("prod", "pod-0", tmp_path))
    sink.open()
    sink.submit(findings.alarm())
    assert sink.status == (True, "exported by OTLP: nothing")
    sink.close(1.0)
