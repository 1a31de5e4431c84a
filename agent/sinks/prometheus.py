"""Findings as metrics: the page that Prometheus scrapes.

One function for each kind of finding; a kind without an entry is a TypeError, so that none is lost in silence. Names
and labels are read by dashboards and alert rules; a label's values must stay few (agent/telemetry.py).
"""

from __future__ import annotations

import math
from collections import Counter
from functools import singledispatch

from pydantic import BaseModel, ConfigDict

from agent.records import (
    Finding,
    Flip,
    GoldenAccepted,
    Heartbeat,
    Notice,
    PassportClocks,
    SavedState,
    TrafficBatch,
    Watching,
)
from agent.store.canary_rows import token_shares
from agent.surroundings import Surroundings
from agent.telemetry import Telemetry
from detectors.economics.own_cost import shared_out
from detectors.records import BaseRound, Evidence, FilesReplay, Status, Verdict
from detectors.traffic_records import Calibration, Embedding, TrafficRound

DAY_S = 86_400.0
LEVELS = {Status.HEALTHY: 0, Status.SUSPECT: 1, Status.DEGRADED: 2, Status.UNMONITORABLE: 3}


class Config(BaseModel):
    """Nothing to set: the ports are those of the ``telemetry`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sink:
    """Keeps the page up to date; whoever made the telemetry serves it."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:  # noqa: ARG002 - one shape for all sinks
        self._telemetry = surroundings.telemetry

    def open(self) -> None:
        """Nothing to reach: the page is pulled."""

    def submit(self, finding: Finding) -> None:
        to_metrics(finding, self._telemetry)

    def flush(self) -> bool:
        return True

    def close(self, budget_s: float) -> None:
        """Nothing to end."""

    @property
    def status(self) -> tuple[bool, str]:
        return True, "served on request"


@singledispatch
def to_metrics(finding: Finding, telemetry: Telemetry) -> None:
    """What one finding changes on the page. Raises TypeError for a kind without an entry of its own."""
    del telemetry
    raise TypeError(f"no metrics for a {type(finding).__name__}")


@to_metrics.register(Embedding)
@to_metrics.register(Calibration)
@to_metrics.register(GoldenAccepted)
@to_metrics.register(SavedState)
@to_metrics.register(Watching)
@to_metrics.register(FilesReplay)
def _without_metric(finding: Finding, telemetry: Telemetry) -> None:
    """Of an embedding and of a calibration their evidence is a metric; the others have none."""


@to_metrics.register
def _passports(running: PassportClocks, telemetry: Telemetry) -> None:
    """Days to the day itself, whatever the hour; of a clock that there is no more, nothing."""
    telemetry.clear("gapwatch.clock.left")
    for clock in running.clocks:
        left = (clock.due - running.at) / DAY_S
        telemetry.set("gapwatch.clock.left", left, adapter=clock.adapter, clock=clock.kind)
    for measured in running.worth:
        telemetry.set("gapwatch.gain", measured.gain, adapter=measured.adapter)


@to_metrics.register
def _verdict(verdict: Verdict, telemetry: Telemetry) -> None:
    labels = {"subject_kind": verdict.subject_kind.value, "subject": verdict.subject}
    telemetry.set("gapwatch.status", LEVELS[verdict.status], **labels)
    telemetry.set("gapwatch.last_round", verdict.at, **labels)
    if verdict.status is not Status.UNMONITORABLE:
        telemetry.set("gapwatch.last_measured", verdict.at, **labels)
    has_changed = verdict.status is Status.HEALTHY and bool(verdict.tolerated_change)
    telemetry.set("gapwatch.tolerated_change", float(has_changed), **labels)
    figures = {
        "gapwatch.retention": verdict.retention.mean if verdict.retention else math.nan,
        "gapwatch.scale": verdict.scale,
        "gapwatch.base_shift": verdict.base_shift,
        "gapwatch.threshold": verdict.log_threshold,
    }
    for name, value in figures.items():
        telemetry.set(name, value, **labels)  # not measured now: taken off the page, because a stale figure misleads


@to_metrics.register
def _evidence(evidence: Evidence, telemetry: Telemetry) -> None:
    if evidence.replica:
        return  # pods come and go with every deployment, and their names come from producers: the store has them
    name = "gapwatch.evidence" if evidence.pages else "gapwatch.informing_evidence"
    labels = {"subject_kind": evidence.subject_kind.value, "subject": evidence.subject, "detector": evidence.detector}
    telemetry.set(name, evidence.log_e, **labels, stream=evidence.stream)


@to_metrics.register
def _round(base_round: BaseRound, telemetry: Telemetry) -> None:
    base = base_round.base
    telemetry.add("gapwatch.rounds", 1, base=base)
    telemetry.add("gapwatch.tokens", base_round.tokens_scored, base=base, kind="scored")
    telemetry.add("gapwatch.tokens", base_round.tokens_processed, base=base, kind="processed")
    telemetry.record_round(base_round.duration_s, base=base)
    for member, share in zip(base_round.members, token_shares(base_round), strict=True):
        _machine_time(telemetry, base, member.adapter, "canaries", base_round.duration_s * share)


@to_metrics.register
def _responses(traffic_round: TrafficRound, telemetry: Telemetry) -> None:
    for (adapter, scored), n in Counter((score.adapter, score.scored) for score in traffic_round.scores).items():
        telemetry.add("gapwatch.responses", n, adapter=adapter, scored=scored.value)
    tokens = dict.fromkeys((score.adapter for score in traffic_round.scores), 0.0)
    for score in traffic_round.scores:
        tokens[score.adapter] += score.tokens
    for name, seconds in shared_out(traffic_round.duration_s, tokens).items():
        _machine_time(telemetry, traffic_round.base, name, "scoring", seconds)


def _machine_time(telemetry: Telemetry, base: str, adapter: str, part: str, seconds: float) -> None:
    telemetry.add("gapwatch.machine_time", seconds, base=base, adapter=adapter, part=part)


@to_metrics.register
def _traffic(batch: TrafficBatch, telemetry: Telemetry) -> None:
    telemetry.add("gapwatch.records", batch.records, kind="read")
    telemetry.add("gapwatch.records", batch.opened, kind="opened")
    telemetry.add("gapwatch.records", len(batch.interactions), kind="kept")
    for reason, n in Counter(record.reason for record in batch.rejected).items():
        telemetry.add("gapwatch.aside", n, reason=reason.value)


@to_metrics.register
def _notice(notice: Notice, telemetry: Telemetry) -> None:
    telemetry.add("gapwatch.notices", 1, kind=notice.kind.value, reason=notice.reason.value)


@to_metrics.register
def _flip(flip: Flip, telemetry: Telemetry) -> None:
    telemetry.add("gapwatch.flips", 1, adapter=flip.adapter)


@to_metrics.register
def _heartbeat(heartbeat: Heartbeat, telemetry: Telemetry) -> None:
    telemetry.set("gapwatch.heartbeat", heartbeat.at)
    telemetry.set("gapwatch.overdue", len(heartbeat.overdue))
    telemetry.set("gapwatch.cpu", heartbeat.agent_cpu_s, process="agent")
    telemetry.set("gapwatch.cpu", heartbeat.models_cpu_s, process="models")
