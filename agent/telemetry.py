"""The agent's own metrics: OpenTelemetry, on a Prometheus page. A metric exists where it is declared below.

Names and labels are read by dashboards and alert rules. Labels are bounded: adapter, base, detector, reason, sink,
topic partition; never a prompt, a request id or a text. Every instance has its own registry, so that tests (and two
agents in one process) do not share a page.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

Labels = Mapping[str, str]
LabelSet = tuple[tuple[str, str], ...]

# Without boundaries of its own a histogram in seconds gets 0, 5, 10, 25 ... 10000.
# A collector that is away must not use up the time that the rest needs to end.
CLOSING_MS = 1000
ROUND_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument. unit "1" adds no suffix on the page; other units do."""

    name: str
    unit: str
    help: str


GAUGES = (
    Metric("gapwatch.status", "1", "0 healthy, 1 suspect, 2 degraded, 3 unmonitorable"),
    Metric("gapwatch.tolerated_change", "1", "1 while it is healthy and off by more than its noise, else 0"),
    Metric("gapwatch.retention", "1", "share of the adapter's effect that is left: 1 intact, 0 the base"),
    Metric("gapwatch.gain", "1", "share of canary checks that the adapter passes more than its base alone"),
    Metric("gapwatch.scale", "1", "effective LoRA scale, 1 as accepted"),
    Metric("gapwatch.base_shift", "1", "how far the base moved, in units of the adapter's own energy"),
    Metric("gapwatch.evidence", "nats", "evidence that may page: at gapwatch_threshold_nats it does"),
    Metric("gapwatch.informing_evidence", "nats", "evidence that informs and never pages, however high"),
    Metric("gapwatch.threshold", "nats", "level at which evidence pages"),
    Metric("gapwatch.clock.left", "d", "until something of an adapter's passport runs out; below 0 once it is over"),
    Metric("gapwatch.last_round", "s", "when a subject was last judged, seconds since the epoch"),
    Metric("gapwatch.last_measured", "s", "when a subject was last measured, seconds since the epoch"),
    Metric("gapwatch.overdue", "{base}", "bases of which no round was judged for several intervals"),
    Metric("gapwatch.heartbeat", "s", "the loop's last sign of life, seconds since the epoch"),
    Metric("gapwatch.expected_false_pages_per_year", "1", "what the thresholds allow at most, whole fleet"),
    Metric("gapwatch.part.ok", "1", "1 while a part of the agent works, by its name in /readyz"),
    Metric("gapwatch.sink.ok", "1", "1 while a sink works"),
    Metric("gapwatch.store.waiting", "{row}", "rows that the store does not have yet, in memory and on disk"),
    Metric("gapwatch.store.spool", "By", "what waits on disk for the store"),
    Metric("gapwatch.kafka.ok", "1", "1 while the consumer is connected"),
    Metric("gapwatch.kafka.lag", "{record}", "records of this consumer's partitions that are not read yet"),
    Metric("gapwatch.kafka.rebuilds", "{rebuild}", "times the consumer was recreated since the start"),
    Metric("gapwatch.config.loaded_at", "s", "when the configuration in force was read, seconds since the epoch"),
)
# Counted elsewhere since the start of this process; ``set`` takes the whole count.
TOTALS = (
    Metric(
        "gapwatch.shed",
        "{response}",
        "sampled responses dropped; stage is sampling (over a quota) or scoring",
    ),
    Metric("gapwatch.models.restarts", "{restart}", "times the model process was started again since the start"),
    Metric("gapwatch.cpu", "s", "CPU time that a process of the agent has used since the start: agent or models"),
    Metric("gapwatch.restarts", "{restart}", "times the loop ended with an unexpected error and was started again"),
    Metric("gapwatch.unjudged", "{record}", "records without a verdict because judging them failed, since the start"),
    Metric("gapwatch.store.lost", "{row}", "rows without room, or refused for their content, since the start"),
    Metric("gapwatch.findings.aside", "{finding}", "findings that a sink failed on and does not have, since the start"),
)
COUNTERS = (
    Metric("gapwatch.rounds", "{round}", "scheduled rounds of a base"),
    Metric("gapwatch.tokens", "{token}", "canary tokens; kind is scored or processed"),
    Metric("gapwatch.machine_time", "s", "seconds that canaries or scoring had of models or engine"),
    Metric("gapwatch.responses", "{response}", "sampled responses; scored is sampled, greedy or not_scored"),
    Metric("gapwatch.records", "{record}", "Kafka records; kind is read, opened (looked into) or kept"),
    Metric("gapwatch.aside", "{record}", "Kafka records that could not be read, of those that were opened"),
    Metric("gapwatch.notices", "{notice}", "notices for the on-call person, by kind and reason"),
    Metric("gapwatch.flips", "{canary}", "canaries whose greedy answer changed"),
)
ROUND_DURATION = Metric("gapwatch.round.duration", "s", "one round of a base, all adapters")


class Telemetry:
    """``set``, ``add``, ``record_round`` write; ``page`` is what Prometheus scrapes. An unknown name is a KeyError."""

    def __init__(self, resource: Labels | None = None, readers: Sequence[MetricReader] = ()) -> None:
        """readers: beside the page, such as one that sends the same metrics by OTLP"""
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        about = Resource({"service.name": "gapwatch", **(resource or {})})
        self._provider = MeterProvider([reader, *readers], resource=about, shutdown_on_exit=False)
        meter = self._provider.get_meter("gapwatch")
        self._lock = threading.Lock()
        self._levels: dict[str, dict[LabelSet, float]] = {m.name: {} for m in (*GAUGES, *TOTALS)}
        for m in TOTALS:
            meter.create_observable_counter(m.name, [self._observer(m.name)], m.unit, m.help)
        for m in GAUGES:
            # Observable: a gauge that is set would keep its last value after the series has ended.
            meter.create_observable_gauge(m.name, [self._observer(m.name)], m.unit, m.help)
        self._counters = {m.name: meter.create_counter(m.name, m.unit, m.help) for m in COUNTERS}
        self._duration = meter.create_histogram(
            ROUND_DURATION.name,
            ROUND_DURATION.unit,
            ROUND_DURATION.help,
            explicit_bucket_boundaries_advisory=list(ROUND_BOUNDS_S),
        )

    def set(self, name: str, value: float, **labels: str) -> None:
        """The present value of a gauge, or of a total.

        NaN or infinity (not measured, no threshold) takes the series off the page.
        """
        key = tuple(sorted(labels.items()))
        with self._lock:
            if math.isfinite(value):
                self._levels[name][key] = value
            else:
                self._levels[name].pop(key, None)

    def clear(self, name: str) -> None:
        """Take all series of a gauge off the page: those that are still there are set again."""
        with self._lock:
            self._levels[name].clear()

    def add(self, name: str, amount: float, **labels: str) -> None:
        """A counter's growth, >= 0."""
        self._counters[name].add(amount, labels)

    def record_round(self, seconds: float, **labels: str) -> None:
        self._duration.record(seconds, labels)

    def page(self, parts: Mapping[str, tuple[bool, str]] | None = None) -> bytes:
        """The whole page in Prometheus' text format 0.0.4. parts: name -> (ok, in words), as /readyz shows them."""
        for name, (ok, _) in (parts or {}).items():
            self.set("gapwatch.part.ok", float(ok), part=name)
            if name == "kafka":
                self.set("gapwatch.kafka.ok", float(ok))
            elif name.startswith("sink "):
                self.set("gapwatch.sink.ok", float(ok), sink=name.removeprefix("sink "))
        return generate_latest(self._registry)

    def _observer(self, name: str) -> Callable[[CallbackOptions], list[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            with self._lock:
                return [Observation(value, dict(key)) for key, value in self._levels[name].items()]

        return observe

    def close(self) -> None:
        self._provider.shutdown(timeout_millis=CLOSING_MS)
