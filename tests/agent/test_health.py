"""The answers of the two HTTP servers, and which of them gives which."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agent.clock import HandClock
from agent.errors import Refused, Retryable
from agent.health import STALE_S, Health, Routes, no_routes
from agent.supervision.http_server import WORKERS
from agent.telemetry import Telemetry

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
    health = Health(Routes(Telemetry(), lambda: PARTS, query), clock, 0, 0)
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
    health.touch()
    assert get(health.public_port, "/livez").status_code == 200


def test_a_picture_is_served_of_what_is_configured_and_a_store_that_is_away_is_said(
    served: tuple[Health, HandClock],
) -> None:
    health, _ = served
    assert get(health.public_port, "/plot.svg?subject=a").status_code == 404, "no agent runs"
    assert get(health.public_port, "/portfolio").status_code == 404, "no agent runs"

    def plot(subject: str) -> bytes | None:
        if subject == "away":
            raise Retryable("clickhouse", "connection refused")
        return b"<svg/>" if subject == "a b/c" else None

    health.routes = replace(health.routes, plot=plot)
    reply = get(health.public_port, "/plot.svg?subject=a%20b%2Fc")
    assert (reply.content, reply.headers["content-type"]) == (b"<svg/>", "image/svg+xml; charset=utf-8")
    assert get(health.public_port, "/plot.svg").status_code == 404
    away = get(health.public_port, "/plot.svg?subject=away")
    assert (away.status_code, away.text) == (503, "the store does not answer\n")


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
    page = get(health.public_port, "/metrics").text.splitlines()
    assert 'gapwatch_part_ok{part="kafka"} 1.0' in page and "gapwatch_kafka_ok 1.0" in page


def test_queries_are_answered_on_the_control_port_only(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    reply = get(health.control_port, "/queries/degraded?cluster=x")
    assert reply.json() == {"columns": ["cluster", "n"], "rows": [["x", 1]]}
    assert get(health.public_port, "/queries/degraded").status_code == 404


def test_the_status_page_has_texts_on_the_control_port_only(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    health.routes = replace(health.routes, page=lambda parts, texts: f"{sorted(parts)} {texts}".encode())
    for port, texts in ((health.public_port, False), (health.control_port, True)):
        reply = get(port, "/")
        assert reply.status_code == 200 and reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert reply.text == f"['kafka'] {texts}"


def test_an_agent_that_does_not_run_says_on_its_page_why(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    health.routes = replace(no_routes(), parts=lambda: {"config": (False, "<b> is no key"), "health": (True, "ports")})
    page = get(health.public_port, "/").text
    assert "gapwatch watches nothing now" in page and "config: not ok" in page and "&lt;b&gt; is no key" in page


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


def test_a_clock_that_is_set_forward_or_back_is_no_hanging_loop() -> None:
    class Jumping(HandClock):
        """Wall time that moves while the steady one stands still."""

        def steady(self) -> float:
            return 0.0

    clock = Jumping()
    health = Health(no_routes(), clock, 0, 0)
    health.open()
    try:
        for jump in (7_200.0, -86_400.0):
            clock.advance(jump)
            assert get(health.public_port, "/livez").status_code == 200
    finally:
        health.close()


def test_a_part_whose_status_hangs_does_not_keep_livez_from_answering(served: tuple[Health, HandClock]) -> None:
    health, _ = served
    release, asking = threading.Event(), []
    health.routes = replace(health.routes, parts=lambda: {"sink slow": (release.wait(60), "hung")})
    try:
        for _ in range(2 * WORKERS):
            asking.append(threading.Thread(target=get, args=(health.public_port, "/readyz"), daemon=True))
            asking[-1].start()
        assert get(health.public_port, "/livez").status_code == 200
    finally:
        release.set()
        for thread in asking:
            thread.join(10)


def test_a_port_that_is_taken_is_a_state_that_ends_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        health = Health(no_routes(), HandClock(), port, 0)
        health.open()
        try:
            ok, words = health.status
            assert not ok and words == f"port {port}: Address already in use; tried again every 1 s"
            assert health.public_port == 0
            assert get(health.control_port, "/livez").status_code == 200
            taken.close()
            wait_until(lambda: health.status[0])
            assert health.public_port == port
            assert get(port, "/livez").status_code == 200
        finally:
            health.close()


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_the_portfolio_is_a_page_and_a_store_that_is_away_is_no_error_of_the_server(
    served: tuple[Health, HandClock],
) -> None:
    health, _ = served
    health.routes = replace(health.routes, portfolio=lambda: b"<html></html>")
    reply = get(health.public_port, "/portfolio")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")

    def away() -> bytes:
        raise Retryable("clickhouse", "connection refused")

    health.routes = replace(health.routes, portfolio=away)
    assert get(health.control_port, "/portfolio").status_code == 503
