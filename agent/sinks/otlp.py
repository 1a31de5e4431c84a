"""Verdicts and notices as log events, and rounds as traces, to a collector of OpenTelemetry by OTLP.

Where to is said by the standard variables OTEL_EXPORTER_OTLP_* (agent/open_telemetry/exporters.py). A verdict goes out
as the store keeps it: on change, at notices, and once an hour for each subject. Events that do not get out are lost
after the exporter's own retries: the store has them all.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OpenSpan
from opentelemetry.trace import set_span_in_context
from pydantic import BaseModel, ConfigDict

from agent.errors import AgentError
from agent.open_telemetry.events import Event, notice_event, round_span, verdict_event
from agent.open_telemetry.exporters import Signal, WatchedExporter, exporter, is_wanted
from agent.records import Finding, Notice
from agent.store.verdict_runs import VerdictRuns
from agent.surroundings import Surroundings
from agent.trouble import Trouble
from detectors.records import BaseRound, Verdict

SCOPE = "gapwatch"


class Config(BaseModel):
    """Nothing to set: the standard variables say where to."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sink:
    """Hands over to the SDK's bounded queues, whose threads export; ``submit`` never waits."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:  # noqa: ARG002 - one shape for all sinks
        about = {"k8s.cluster.name": surroundings.cluster, "k8s.pod.name": surroundings.pod}
        self._resource = Resource.create(
            {"service.name": "gapwatch", "service.instance.id": surroundings.pod, **about},
        )
        self._policy = surroundings.policy
        self._runs = VerdictRuns()
        self._troubles = {signal: Trouble(f"sink otlp, {signal}") for signal in ("logs", "traces")}
        self._loggers: LoggerProvider | None = None
        self._tracers: TracerProvider | None = None
        self._round_of: dict[str, tuple[int, Context]] = {}  # base -> number and span of its latest round

    def open(self) -> None:
        if (logs := self._exporter("logs")) is not None:
            self._loggers = LoggerProvider(self._resource, shutdown_on_exit=False)
            self._loggers.add_log_record_processor(BatchLogRecordProcessor(logs))
        if (spans := self._exporter("traces")) is not None:
            self._tracers = TracerProvider(resource=self._resource, shutdown_on_exit=False)
            self._tracers.add_span_processor(BatchSpanProcessor(spans))

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, BaseRound):
            self._trace(finding)
        for stored in self._runs.stored(finding):
            if isinstance(stored, Verdict):
                self._log(verdict_event(stored), stored)
            elif isinstance(stored, Notice):
                self._log(notice_event(stored, self._policy.of_notice(stored)), stored.verdict)

    def flush(self) -> bool:
        return True

    def close(self, budget_s: float) -> None:
        """What is queued goes out first, as far as the budget lasts."""
        closing = threading.Thread(target=self._shut_down, name="otlp_close", daemon=True)
        closing.start()
        closing.join(budget_s)

    @property
    def status(self) -> tuple[bool, str]:
        wrong = [f"{signal}: {trouble}" for signal, trouble in self._troubles.items() if trouble]
        out = [name for name, provider in (("logs", self._loggers), ("traces", self._tracers)) if provider]
        return not wrong, "; ".join(wrong) or f"exported by OTLP: {', '.join(out) or 'nothing'}"

    def _exporter(self, signal: Signal) -> Any:
        """None where the variables want none, or where it cannot be made: ``status`` then says why."""
        try:
            if not is_wanted(signal, os.environ, default="otlp"):
                return None
            return WatchedExporter(exporter(signal, os.environ), signal, self._troubles[signal])
        except AgentError as error:
            self._troubles[signal].begin(str(error))
            return None

    def _trace(self, base_round: BaseRound) -> None:
        if self._tracers is None:
            return
        timed = round_span(base_round)
        tracer = self._tracers.get_tracer(SCOPE)
        span: OpenSpan = tracer.start_span(timed.name, start_time=_ns(timed.begin), attributes=dict(timed.attributes))
        span.end(_ns(timed.end))
        self._round_of[base_round.base] = base_round.number, set_span_in_context(span, Context())

    def _log(self, event: Event, verdict: Verdict) -> None:
        """Within the trace of its round, where that is the latest one."""
        if self._loggers is None:
            return
        number, context = self._round_of.get(verdict.base, (-1, Context()))
        record = LogRecord(
            timestamp=_ns(event.at),
            context=context if number == verdict.round else Context(),
            severity_number=event.severity,
            severity_text=event.severity.name,
            body=event.body,
            attributes=dict(event.attributes),
            event_name=event.name,
        )
        self._loggers.get_logger(SCOPE).emit(record)

    def _shut_down(self) -> None:
        for provider in (self._loggers, self._tracers):
            if provider is not None:
                provider.shutdown()


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)
