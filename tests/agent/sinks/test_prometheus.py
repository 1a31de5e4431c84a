"""Findings as metrics: every kind has an entry of its own. The page as a whole is under test in test_telemetry.py."""

from __future__ import annotations

from typing import get_args

import pytest

from agent.records import Finding, PassportClocks
from agent.sinks.prometheus import to_metrics
from agent.telemetry import Telemetry
from tests.agent import findings


def test_every_kind_of_finding_has_an_entry_of_its_own() -> None:
    assert set(to_metrics.registry) - {object} == set(get_args(Finding))


def test_a_kind_without_an_entry_is_an_error_and_no_silence() -> None:
    with pytest.raises(TypeError, match="no metrics for a str"):
        to_metrics("a new kind", Telemetry())  # type: ignore[arg-type]


def test_evidence_that_informs_is_one_metric_whatever_its_detector() -> None:
    telemetry = Telemetry()
    for detector in ("embedding_drift", "a_new_detector"):
        to_metrics(findings.evidence(3.0, detector=detector, stream="prompt", pages=False), telemetry)
    page = telemetry.page().decode()
    for detector in ("embedding_drift", "a_new_detector"):
        labels = f'detector="{detector}",stream="prompt",subject="ticket-router",subject_kind="adapter"'
        assert f"gapwatch_informing_evidence_nats{{{labels}}} 3.0" in page


def test_a_change_within_tolerance_is_a_gauge_that_falls_back_to_zero() -> None:
    telemetry = Telemetry()
    for words, value in (("router has changed", "1.0"), ("", "0.0")):
        to_metrics(findings.verdict(tolerated_change=words), telemetry)
        (line,) = (x for x in telemetry.page().decode().splitlines() if x.startswith("gapwatch_tolerated_change{"))
        assert line.endswith(f" {value}")


def test_days_of_a_clock_are_on_the_page_while_there_is_one() -> None:
    telemetry = Telemetry()
    running = PassportClocks(findings.NOW, (findings.clock(),))
    to_metrics(running, telemetry)
    labels = 'adapter="ticket-router",clock="base_end_of_life"'
    assert f"gapwatch_clock_left_days{{{labels}}} 5.0" in telemetry.page().decode()
    to_metrics(PassportClocks(findings.NOW, ()), telemetry)
    assert "gapwatch_clock_left_days{" not in telemetry.page().decode()
