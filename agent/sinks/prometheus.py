"""Findings as metrics: the page that Prometheus scrapes."""

from __future__ import annotations

import math
from collections import Counter
from typing import assert_never

from pydantic import BaseModel, ConfigDict

from agent.records import Finding, Flip, GoldenAccepted, Heartbeat, Notice, TrafficBatch
from agent.telemetry import Telemetry
from detectors.records import BaseRound, Evidence, Status, Verdict
from detectors.traffic_records import Calibration, Embedding, TrafficRound

LEVELS = {Status.HEALTHY: 0, Status.SUSPECT: 1, Status.DEGRADED: 2, Status.UNMONITORABLE: 3}


class Config(BaseModel):
    """service labels of the page's target_info: where this agent runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cluster: str = ""
    pod: str = ""


class Sink:
    """Keeps the page up to date. telemetry: shared with parts that report figures of their own."""

    def __init__(self, config: Config | None = None, telemetry: Telemetry | None = None) -> None:
        seen = config or Config()
        self._own = telemetry is None
        labels = {"k8s.cluster.name": seen.cluster, "k8s.pod.name": seen.pod}
        self.telemetry = telemetry or Telemetry({name: text for name, text in labels.items() if text})

    def open(self) -> None:
        """Nothing to reach: the page is pulled."""

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, Verdict):
            self._verdict(finding)
        elif isinstance(finding, Evidence):
            self._evidence(finding)
        elif isinstance(finding, BaseRound):
            self._round(finding)
        elif isinstance(finding, TrafficRound):
            self._responses(finding)
        elif isinstance(finding, TrafficBatch):
            self._traffic(finding)
        elif isinstance(finding, Notice):
            self.telemetry.add("gapwatch.notices", 1, kind=finding.kind.value, reason=finding.reason.value)
        elif isinstance(finding, Flip):
            self.telemetry.add("gapwatch.flips", 1, adapter=finding.adapter)
        elif isinstance(finding, Heartbeat):
            self.telemetry.set("gapwatch.heartbeat", finding.at)
        elif isinstance(finding, Embedding | GoldenAccepted | Calibration):
            pass  # no metric: of an embedding and of a calibration their evidence is one
        else:
            assert_never(finding)

    def flush(self, now: float) -> bool:  # noqa: ARG002
        return True

    def close(self, budget_s: float) -> None:  # noqa: ARG002
        if self._own:
            self.telemetry.close()

    @property
    def status(self) -> tuple[bool, str]:
        return True, "served on request"

    def _verdict(self, seen: Verdict) -> None:
        labels = {"subject_kind": seen.subject_kind.value, "subject": seen.subject}
        self.telemetry.set("gapwatch.status", LEVELS[seen.status], **labels)
        self.telemetry.set("gapwatch.last_round", seen.at, **labels)
        figures = {
            "gapwatch.retention": seen.retention.mean if seen.retention else math.nan,
            "gapwatch.scale": seen.scale,
            "gapwatch.base_shift": seen.base_shift,
            "gapwatch.threshold": seen.log_threshold,
        }
        for name, value in figures.items():
            self.telemetry.set(name, value, **labels)  # not measured now: gone, as a stale figure would lie

    def _evidence(self, seen: Evidence) -> None:
        if seen.replica:
            return  # pods come and go with every deployment, and their names come from producers: the store has them
        name = "gapwatch.evidence" if seen.pages else "gapwatch.informing_evidence"
        if seen.detector == "embedding_drift":
            name = "gapwatch.embedding_drift"
        labels = {"subject_kind": seen.subject_kind.value, "subject": seen.subject, "detector": seen.detector}
        self.telemetry.set(name, seen.log_e, **labels, stream=seen.stream)

    def _round(self, seen: BaseRound) -> None:
        self.telemetry.add("gapwatch.rounds", 1, base=seen.base)
        self.telemetry.add("gapwatch.tokens", seen.tokens_scored, base=seen.base, kind="scored")
        self.telemetry.add("gapwatch.tokens", seen.tokens_processed, base=seen.base, kind="processed")
        self.telemetry.record_round(seen.duration_s, base=seen.base)

    def _responses(self, seen: TrafficRound) -> None:
        for (adapter, scored), n in Counter((score.adapter, score.scored) for score in seen.scores).items():
            self.telemetry.add("gapwatch.responses", n, adapter=adapter, scored=scored.value)

    def _traffic(self, seen: TrafficBatch) -> None:
        self.telemetry.add("gapwatch.records", seen.records, kind="read")
        self.telemetry.add("gapwatch.records", seen.opened, kind="opened")
        self.telemetry.add("gapwatch.records", len(seen.interactions), kind="kept")
        for reason, n in Counter(record.reason for record in seen.aside).items():
            self.telemetry.add("gapwatch.aside", n, reason=reason.value)
