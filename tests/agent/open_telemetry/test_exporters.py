"""Which variable switches what on, and what is said of one that cannot be served."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExportResult

from agent.errors import Refused
from agent.open_telemetry.exporters import CLASSES, WatchedExporter, exporter, is_wanted, metric_readers
from agent.trouble import Trouble

GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


def test_metrics_go_out_where_the_variable_says_so_and_logs_unless_it_says_none() -> None:
    assert not is_wanted("metrics", {}, default="none") and metric_readers({}) == []
    assert is_wanted("metrics", {"OTEL_METRICS_EXPORTER": "otlp"}, default="none")
    assert is_wanted("metrics", {"OTEL_METRICS_EXPORTER": "prometheus, otlp"}, default="none")
    assert not is_wanted("metrics", {"OTEL_METRICS_EXPORTER": "prometheus"}, default="none")
    assert is_wanted("logs", {"OTEL_LOGS_EXPORTER": " "}, default="otlp")
    assert not is_wanted("logs", {"OTEL_LOGS_EXPORTER": "none"}, default="otlp")
    with pytest.raises(Refused, match=r"OTEL_TRACES_EXPORTER.*zipkin.*otlp or none"):
        is_wanted("traces", {"OTEL_TRACES_EXPORTER": "zipkin"}, default="otlp")


def test_another_protocol_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(Refused, match=r"OTEL_EXPORTER_OTLP_PROTOCOL.*grpc.*http/protobuf"):
        exporter("logs", GRPC)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, CLASSES["logs"][0], None)
    with pytest.raises(Refused, match=r'pip install "gapwatch\[otlp\]"'):
        exporter("logs", {})


def test_variables_of_a_whole_cluster_that_cannot_be_served_keep_no_agent_from_watching() -> None:
    for given in ({"OTEL_METRICS_EXPORTER": "console"}, {"OTEL_METRICS_EXPORTER": "otlp", **GRPC}):
        assert metric_readers(given) == []


class Failing(InMemoryLogRecordExporter):
    def export(self, batch: Any) -> LogRecordExportResult:
        del batch
        return LogRecordExportResult.FAILURE


def test_a_failed_export_is_told_until_one_succeeds() -> None:
    trouble = Trouble("sink otlp, logs")
    WatchedExporter(Failing(), "logs", trouble).export([1, 2])
    assert "the last 2 logs could not be exported" in str(trouble)
    WatchedExporter(InMemoryLogRecordExporter(), "logs", trouble).export([])
    assert not trouble
