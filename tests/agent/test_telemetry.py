"""The metrics page: as a whole, against a file; and what it must never contain."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.sinks.prometheus import Config, Sink
from agent.surroundings import Surroundings
from agent.telemetry import Telemetry
from detectors.records import Status, SubjectKind
from tests.agent import findings
from tests.agent.findings import FIXED, ROUTER
from tests.agent.golden_file import assert_golden


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value, read by Prometheus' own parser."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(page.decode())
        for s in family.samples
    }


def filled() -> Telemetry:
    """One finding of each kind, and a healthy base beside it."""
    telemetry = Telemetry({"k8s.cluster.name": "prod", "k8s.pod.name": "pod-0"})
    sink = Sink(Config(), Surroundings(telemetry=telemetry))
    for finding in findings.every_kind(FIXED):
        sink.submit(finding)
    sink.submit(findings.verdict(subject_kind=SubjectKind.BASE, at=FIXED))
    sink.submit(findings.evidence(3.0, at=FIXED, detector="embedding_drift", stream="prompt", pages=False))
    telemetry.set("gapwatch.expected_false_pages_per_year", 1.0)
    telemetry.set("gapwatch.sink.ok", 1.0, sink="clickhouse")
    telemetry.set("gapwatch.kafka.ok", 1.0)
    telemetry.set("gapwatch.shed", 3, adapter=ROUTER, stage="scoring")
    telemetry.set("gapwatch.kafka.lag", 12, topic="llm.interactions", partition="0")
    return telemetry


def test_the_whole_page() -> None:
    # The SDK's own version is in target_info; it is no figure of ours.
    page = "".join(line for line in filled().page().decode().splitlines(True) if "target_info{" not in line)
    assert_golden("metrics.txt", page)


def test_figures_are_those_of_the_findings() -> None:
    seen = samples(filled().page())
    subject = (("subject", ROUTER), ("subject_kind", "adapter"))
    assert seen[("gapwatch_status", subject)] == 2
    assert seen[("gapwatch_records_total", (("kind", "read"),))] == 11
    assert seen[("gapwatch_records_total", (("kind", "kept"),))] == 2
    assert seen[("gapwatch_aside_total", (("reason", "not_json"),))] == 1
    assert seen[("gapwatch_tokens_total", (("base", "smollm2"), ("kind", "scored")))] == 120


def test_a_round_is_in_the_right_bucket() -> None:
    seen = samples(filled().page())
    buckets = {
        dict(labels)["le"]: v for (name, labels), v in seen.items() if name == "gapwatch_round_duration_seconds_bucket"
    }
    assert (buckets["1.0"], buckets["2.5"], buckets["300.0"]) == (0, 1, 1)


def test_a_figure_that_is_not_measured_now_is_taken_off_the_page() -> None:
    telemetry = Telemetry()
    sink = Sink(Config(), Surroundings(telemetry=telemetry))
    sink.submit(findings.alarm(FIXED))
    sink.submit(findings.verdict(Status.UNMONITORABLE, at=FIXED + 60))
    shown = {name for name, labels in samples(telemetry.page()) if dict(labels).get("subject")}
    assert "gapwatch_retention" not in shown
    assert "gapwatch_scale" not in shown
    assert {"gapwatch_status", "gapwatch_threshold_nats", "gapwatch_last_round_seconds"} <= shown


def test_a_total_is_a_counter_with_the_value_that_was_set() -> None:
    telemetry = Telemetry()
    for total in (0, 2, 5):
        telemetry.set("gapwatch.shed", total, adapter=ROUTER, stage="sampling")
    seen = samples(telemetry.page())
    assert seen[("gapwatch_shed_total", (("adapter", ROUTER), ("stage", "sampling")))] == 5


def test_every_instance_has_a_page_of_its_own() -> None:
    one, two = Telemetry(), Telemetry()
    one.add("gapwatch.rounds", 5, base="a")
    assert b'gapwatch_rounds_total{base="a"} 5.0' in one.page()
    assert b"gapwatch_rounds_total{" not in two.page()
    one.close()
    two.close()


def test_a_name_that_is_not_declared_is_an_error() -> None:
    with pytest.raises(KeyError):
        Telemetry().set("gapwatch.no_such_metric", 1.0)


def test_no_text_no_request_and_no_canary_becomes_a_label() -> None:
    page = filled().page().decode()
    for finding in findings.every_kind():
        for text in ("my parcel", "shipping", "r0", "engine-0", '"c0"'):
            assert text not in page, (finding, text)


def test_label_sets_stay_bounded_under_traffic() -> None:
    telemetry = Telemetry()
    sink = Sink(Config(), Surroundings(telemetry=telemetry))
    for i in range(50):
        sink.submit(findings.batch(100 * i, at=FIXED + i))
        sink.submit(findings.embedding(f"r{i}"))
    before = len(telemetry.page().splitlines())
    for i in range(50, 500):
        sink.submit(findings.batch(100 * i, at=FIXED + i))
        sink.submit(findings.embedding(f"r{i}"))
    assert len(telemetry.page().splitlines()) == before


def test_evidence_of_one_replica_has_no_metric_whatever_its_stream_is_called() -> None:
    """Pods come and go with every deployment, and their names come from producers."""
    telemetry = Telemetry()
    sink = Sink(Config(), Surroundings(telemetry=telemetry))
    for stream, replica in (("pod:engine-1", "engine-1"), ("replica", "")):
        sink.submit(findings.evidence(3.0, at=FIXED, detector="traffic_likelihood", stream=stream, replica=replica))
    streams = {dict(labels).get("stream") for name, labels in samples(telemetry.page()) if "evidence" in name}
    assert streams == {"replica"}
