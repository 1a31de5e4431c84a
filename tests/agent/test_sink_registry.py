"""Which sinks there are, and in which order they are given findings."""

from __future__ import annotations

import pytest

from agent.errors import Refused
from agent.sink_registry import in_order, load, names


def test_the_folder_is_the_registry() -> None:
    assert set(names()) >= {"clickhouse", "memory", "pagerduty", "prometheus"}
    for name in names():
        assert load(name).__name__ == f"agent.sinks.{name}"


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        Refused, match=r"sinks\.pigeon: saw this key, wanted one of: clickhouse, dead_mans_switch, memory"
    ):
        load("pigeon")


def test_the_sink_that_pages_is_first_and_the_rest_are_in_alphabetical_order() -> None:
    assert in_order({"prometheus", "memory", "pagerduty", "clickhouse"}) == [
        *("pagerduty", "clickhouse", "memory", "prometheus")
    ]
    assert [name for name in names() if getattr(load(name), "FIRST", False)] == ["pagerduty"]
