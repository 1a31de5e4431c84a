"""The alert rules: over metrics and labels that there are, each with one owner, and like what gapwatch itself reports.

Prometheus itself does not run here: the expressions are checked by their names and balance, not by its parser.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import sink_registry
from agent.alerting.policy import Severity
from agent.records import RejectionReason
from agent.sinks.prometheus import LEVELS
from detectors.records import Status

ROOT = Path(__file__).parents[2]
RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-rules.yaml").read_text())
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in RULES["spec"]["groups"] for rule in group["rules"]
}
PAGE = (ROOT / "tests/agent/golden/metrics.txt").read_text()
# What Prometheus knows of what it scrapes, beside the labels of the page itself.
OF_THE_TARGET = {"pod", "namespace", "job", "instance"}
SELECTOR = re.compile(r"\b(gapwatch_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def on_the_page() -> dict[str, dict[str, set[str]]]:
    """Name of a metric -> its labels -> the values that they have there."""
    metrics: dict[str, dict[str, set[str]]] = {}
    for name, labels in re.findall(r"^(gapwatch_\w+)(?:\{(.*)\})? ", PAGE, re.MULTILINE):
        values = metrics.setdefault(name, {})
        for label, _, value in MATCHER.findall(labels):
            values.setdefault(label, set()).add(value)
    return metrics


@pytest.fixture(params=ALERTS)
def rule(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ALERTS[request.param]


def test_every_metric_and_label_of_a_rule_is_on_the_page(rule: dict[str, Any]) -> None:
    metrics = on_the_page()
    selectors = SELECTOR.findall(rule["expr"])
    assert selectors
    for name, matchers in selectors:
        assert name in metrics, name
        assert {label for label, _, _ in MATCHER.findall(matchers)} <= set(metrics[name])
        for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(labels.split(", ")) <= set(metrics[name]) | OF_THE_TARGET


def test_a_rules_annotations_use_labels_that_its_expression_keeps(rule: dict[str, Any]) -> None:
    kept = {label for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in labels.split(", ")}
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= kept
    assert set(rule["annotations"]) == {"summary", "description"}


def test_every_rule_has_one_owner_and_a_severity(rule: dict[str, Any]) -> None:
    assert rule["labels"]["paged_by"] in ("gapwatch", "prometheus", "nobody")
    assert rule["labels"]["severity"] in {severity.value for severity in Severity}
    assert re.fullmatch(r"(\d+[smhd])?", rule.get("for", ""))


def test_what_gapwatch_pages_prometheus_does_not() -> None:
    """And what gapwatch cannot report of itself, Prometheus does."""
    by_owner = {alert: rule["labels"]["paged_by"] for alert, rule in ALERTS.items()}
    assert {alert for alert, owner in by_owner.items() if owner == "gapwatch"} == {
        "GapwatchDegraded",
        "GapwatchCannotTell",
        "GapwatchNotJudged",
    }
    assert all(
        by_owner[alert] == "prometheus"
        for alert in ("GapwatchGone", "GapwatchStandsStill", "GapwatchNoticesDoNotGetOut")
    )


def test_levels_sinks_and_reasons_are_those_of_the_product() -> None:
    text = " ".join(rule["expr"] for rule in ALERTS.values())
    assert ALERTS["GapwatchDegraded"]["expr"].endswith(f"(gapwatch_status == {LEVELS[Status.DEGRADED]})")
    assert ALERTS["GapwatchCannotTell"]["expr"].endswith(f"== {LEVELS[Status.UNMONITORABLE]}")
    sinks = {name for names in re.findall(r'sink[=!]~"([^"]*)"', text) for name in names.split("|")}
    assert sinks <= set(sink_registry.names())
    assert set(re.findall(r'reason!="(\w+)"', text)) <= {reason.value for reason in RejectionReason}


def test_expressions_are_balanced_and_the_object_is_one_of_the_operator(rule: dict[str, Any]) -> None:
    assert all(rule["expr"].count(left) == rule["expr"].count(right) for left, right in ("()", "{}", "[]"))
    assert (RULES["apiVersion"], RULES["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
