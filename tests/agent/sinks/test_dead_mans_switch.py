"""When a sign of life is given, what it is, and that it stops with the watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.clock import HandClock
from agent.demo.receiver import Receiver
from agent.sinks.dead_mans_switch import QUIET_S, UNSENT_S, Call, Config, Sink, calls_of
from agent.surroundings import Surroundings
from tests.agent.findings import FIXED, heartbeat

ORIGIN = ("prod", "pod-0")
KEY = "0123456789abcdef0123456789abcdef"


def made(tmp_path: Path, clock: HandClock, **settings: object) -> Sink:
    file = tmp_path / "secret"
    file.write_text(KEY + "\n")
    config = Config.model_validate({"kind": "pagerduty", "secret_file": file, "every_s": 0.01} | settings)
    return Sink(config, Surroundings(*ORIGIN, tmp_path, clock=clock))


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_is_given_while_the_loop_turns_and_every_base_is_judged(tmp_path: Path) -> None:
    clock = HandClock()
    sink = made(tmp_path, clock)
    assert sink.withheld() == "the loop has not turned yet" and sink.status[0]
    sink.submit(heartbeat())
    assert sink.withheld() == "" and sink.status[0]
    clock.advance(QUIET_S + 1)
    assert "has not turned for 91 s" in sink.withheld() and not sink.status[0]
    sink.submit(replace(heartbeat(), overdue=("smol",)))
    assert "no round was judged" in sink.withheld() and "smol" in sink.withheld()
    sink.submit(heartbeat())
    assert sink.withheld() == ""


def test_it_stops_when_notices_do_not_get_out(tmp_path: Path) -> None:
    clock = HandClock()
    sink = made(tmp_path, clock)
    for _ in range(int(UNSENT_S / 30) + 1):
        sink.submit(replace(heartbeat(), unsent=1))
        assert sink.withheld() == ""
        clock.advance(30)
    sink.submit(replace(heartbeat(), unsent=1))
    assert "1 notices have waited for 330 s" in sink.withheld()
    sink.submit(replace(heartbeat(), unsent=-1))
    assert sink.withheld() == ""


def test_pagerduty_always_has_one_alert_that_waits_and_none_after_an_orderly_end(tmp_path: Path) -> None:
    with Receiver() as receiver:
        sink = made(tmp_path, HandClock(), url=receiver.url)
        sink.open()
        sink.submit(heartbeat())
        wait_for(lambda: len(receiver.answers) >= 8)
        assert len(receiver.open_incidents) >= 1
        assert {status for status, _ in receiver.answers} == {202}
        sink.close(10.0)
        assert receiver.open_incidents == []
        begun = len(receiver.answers)
    keys = {incident.dedup_key for incident in receiver.incidents}
    assert begun >= 8 and keys == {"gapwatch/prod/alive/pod-0/0", "gapwatch/prod/alive/pod-0/1"}


def test_a_receiver_that_refuses_is_told_without_its_address(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.fail_next(100_000, 500)
        sink = made(tmp_path, HandClock(), url=receiver.url)
        sink.open()
        sink.submit(heartbeat())
        wait_for(lambda: not sink.status[0])
        assert sink.status[1] == "HTTP 500 from the receiver of the pagerduty"
        sink.close(10.0)


def test_a_ping_is_one_get_of_the_secret_address() -> None:
    config = Config(kind="ping", secret_file=Path("x"))
    address = "https://ping.example.com/abc/{cluster}-{pod}"
    assert calls_of(config, address, ORIGIN, FIXED, 3, False) == (
        Call("GET", "https://ping.example.com/abc/prod-pod-0"),
    )
    assert calls_of(config, address, ORIGIN, FIXED, 3, True) == ()


def test_an_alert_of_alertmanager_is_the_clusters_and_ends_by_itself() -> None:
    config = Config(kind="alertmanager", url="http://alertmanager:9093/")
    (call,) = calls_of(config, "", ORIGIN, FIXED, 0, False)
    assert (call.method, call.url) == ("POST", "http://alertmanager:9093/api/v2/alerts")
    (alert,) = call.body
    assert alert["labels"] == {"alertname": "GapwatchAlive", "cluster": "prod", "severity": "none"}
    assert alert["endsAt"] == "2026-09-21T14:16:20+00:00"


@pytest.mark.parametrize(
    "settings",
    [{"kind": "ping"}, {"kind": "alertmanager"}, {"secret_file": "x", "url": "http://a"}, {"kind": "pagerduty"}],
)
def test_a_kind_without_its_address_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(settings)
