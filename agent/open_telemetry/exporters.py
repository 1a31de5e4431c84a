"""Exporters of OpenTelemetry by its standard variables: what goes out by OTLP, and what stays here.

OTEL_{LOGS,TRACES,METRICS}_EXPORTER say whether: otlp or none. OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS, _TIMEOUT,
_CERTIFICATE, _COMPRESSION and their forms for one signal say where to and how, and are read by the exporters
themselves, which are in the extra ``otlp``.
Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import structlog
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

from agent.errors import Refused
from agent.trouble import Trouble

log = structlog.get_logger(__name__)

Signal = Literal["logs", "traces", "metrics"]
PROTOCOL = "http/protobuf"
CLASSES = {
    "logs": ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
    "traces": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    "metrics": ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
}


def is_wanted(signal: Signal, environment: Mapping[str, str], default: str) -> bool:
    """Does this signal go out by OTLP? default: what an unset variable means; the variable may name several exporters.
    Raises Refused for one that is not here."""
    name = f"OTEL_{signal.upper()}_EXPORTER"
    given = environment.get(name, "").strip() or default
    wanted = {part.strip() for part in given.split(",")}
    if wanted - {"otlp", "none", *(["prometheus"] if signal == "metrics" else [])}:
        raise Refused(name, given, "otlp or none")
    return "otlp" in wanted


def exporter(signal: Signal, environment: Mapping[str, str]) -> Any:
    """Of the OpenTelemetry SDK. Raises Refused where its package is missing or another protocol is wanted."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := environment.get(name, PROTOCOL)) != PROTOCOL:
            raise Refused(name, protocol, PROTOCOL)
    module, name = CLASSES[signal]
    try:
        return getattr(import_module(module), name)()
    except ImportError as error:
        wanted = 'pip install "gapwatch[otlp]"'
        raise Refused("opentelemetry-exporter-otlp-proto-http", str(error), wanted) from error


def metric_readers(environment: Mapping[str, str]) -> list[MetricReader]:
    """Beside the page for Prometheus, which is there in any case: none unless OTEL_METRICS_EXPORTER says otlp.

    What cannot be served is logged and raises nothing: such variables are often set for a whole cluster, and a metric
    that goes nowhere must not keep an agent from watching.
    """
    try:
        if not is_wanted("metrics", environment, default="none"):
            return []
        return [PeriodicExportingMetricReader(exporter("metrics", environment))]
    except Refused as error:
        log.warning("metrics_not_sent_by_otlp", why=str(error))
        return []


class WatchedExporter:
    """An exporter of logs or spans, with what its last export came to. The SDK's processors tell nobody.

    trouble: where a failed export is told; the words have no address and no header
    """

    def __init__(self, inner: Any, signal: Signal, trouble: Trouble) -> None:
        self._inner, self._signal, self._trouble = inner, signal, trouble

    def export(self, batch: Any) -> Any:
        try:
            result = self._inner.export(batch)
        except Exception as error:
            self._trouble.begin(f"{type(error).__name__} while {self._signal} were exported")
            raise
        if result.name == "SUCCESS":
            self._trouble.end()
        else:
            wanted = "a collector that answers at OTEL_EXPORTER_OTLP_ENDPOINT"
            self._trouble.begin(f"the last {len(batch)} {self._signal} could not be exported, wanted {wanted}")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._inner.force_flush(timeout_millis)) if hasattr(self._inner, "force_flush") else True
