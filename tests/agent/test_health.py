"""The answers of the two HTTP servers, and which of them gives which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from agent.clock import HandClock
from agent.errors import Refused, Retryable
from agent.health import STALE_S, Health, Routes

PARTS: dict[str, tuple[bool, str]] = {"kafka": (True, "reading")}


def query(name: str, params: Mapping[str, str]) -> tuple[list[str], list[tuple[Any, ...]]]:
    if name == "away":
        raise Retryable("clickhouse", "connection refused")
    if name != "degraded":
        raise Refused("query", name, "one of: degraded")
    return ["cluster", "n"], [(params.get("cluster", ""), 1)]


@pytest.fixture
def served() -> Iterator[tuple[Health, HandClock]]:
    clock = HandClock()
    health = Health(Routes(lambda: b"up 1\n", lambda: PARTS, query), clock, 0, 0)
    health.open()
    yield health, clock
    health.close()


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10)


def test_livez_fails_once_the_loop_has_not_turned_for_a_minute(served: tuple[Health, HandClock]) -> None:
    health, clock = served
    assert get(health.public_port, "/livez").status_code == 200
    clock.advance(STALE_S + 1)
    assert get(health.public_port, "/livez").status_code == 503
    health.touch(clock.now())
    assert get(health.public_port, "/livez").status_code == 200


def test_readyz_names_the_part_that_is_away(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    PARTS["store"] = (False, "connection refused")
    try:
        reply = get(health.public_port, "/readyz")
    finally:
        del PARTS["store"]
    assert reply.status_code == 503
    assert reply.json()["store"] == [False, "connection refused"]
    assert get(health.public_port, "/readyz").status_code == 200


def test_startupz_is_always_ok_and_metrics_are_served(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    assert get(health.public_port, "/startupz").status_code == 200
    assert get(health.public_port, "/metrics").text == "up 1\n"


def test_queries_are_answered_on_the_control_port_only(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    reply = get(health.control_port, "/queries/degraded?cluster=x")
    assert reply.json() == {"columns": ["cluster", "n"], "rows": [["x", 1]]}
    assert get(health.public_port, "/queries/degraded").status_code == 404


def test_an_unknown_query_is_a_bad_request_with_the_reason(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    reply = get(health.control_port, "/queries/DROP")
    assert reply.status_code == 400
    assert "one of: degraded" in reply.json()["error"]


def test_a_store_that_is_away_is_a_bad_gateway_and_no_bad_request(served: tuple[Health, HandClock]) -> None:
    """The command then ends with 2, not with 64."""
    health, _ = served
    reply = get(health.control_port, "/queries/away")
    assert (reply.status_code, reply.json()) == (502, {"error": "clickhouse: connection refused"})
