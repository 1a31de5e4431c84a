"""Addresses filled in with names as engines allow them."""

from __future__ import annotations

from types import SimpleNamespace

from agent.delivery.links import Link, links
from tests.agent import findings

PAGES = SimpleNamespace(
    runbook_url="https://wiki/{cause}.md", dashboard_url="https://graphs/?s={subject}&b={base}", status_url=""
)


def test_names_are_quoted_and_a_page_that_is_not_configured_is_left_out() -> None:
    assert links(findings.alarm(subject="org/a b&c={pod}"), PAGES, "engine-0") == (
        Link("Runbook: base_swapped_and_adapter_lost", "https://wiki/base_swapped_and_adapter_lost.md"),
        Link("Dashboard", "https://graphs/?s=org%2Fa%20b%26c%3D%7Bpod%7D&b=smollm2"),
    )


def test_nothing_to_do_has_no_runbook() -> None:
    status = SimpleNamespace(runbook_url="https://wiki/{cause}", dashboard_url="", status_url="https://{pod}/")
    assert links(findings.verdict(), status, "engine-0") == (Link("Status page", "https://engine-0/"),)
