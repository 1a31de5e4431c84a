"""The stand-in refuses what PagerDuty refuses, and keeps incidents as it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agent.demo.receiver import Receiver

KEY = "0123456789abcdef0123456789abcdef"
PAYLOAD = {"summary": "s", "source": "x", "severity": "critical"}
TRIGGER: dict[str, Any] = {"routing_key": KEY, "event_action": "trigger", "dedup_key": "k", "payload": PAYLOAD}
RESOLVE = {"routing_key": KEY, "event_action": "resolve", "dedup_key": "k"}
CHANGE: dict[str, Any] = {"routing_key": KEY, "payload": {"summary": "s", "source": "x"}}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def send(receiver: Receiver, event: Any, path: str = "/v2/enqueue") -> httpx.Response:
    return httpx.post(receiver.url + path, json=event)


def with_payload(**more: Any) -> dict[str, Any]:
    return {**TRIGGER, "payload": {name: value for name, value in {**PAYLOAD, **more}.items() if value is not None}}


def test_trigger_opens_and_resolve_closes_and_a_new_trigger_opens_another(receiver: Receiver) -> None:
    for event in (TRIGGER, TRIGGER, RESOLVE, TRIGGER):
        assert send(receiver, event).json()["dedup_key"] == "k"
    assert [(i.status, len(i.events)) for i in receiver.incidents] == [("resolved", 3), ("triggered", 1)]
    assert len(receiver.open_incidents) == 1


def test_acknowledge_and_newest_summary(receiver: Receiver) -> None:
    send(receiver, TRIGGER)
    send(receiver, {**TRIGGER, "payload": {**PAYLOAD, "summary": "sharper"}})
    send(receiver, {**RESOLVE, "event_action": "acknowledge"})
    incident = receiver.incidents[0]
    assert (incident.status, incident.summary) == ("acknowledged", "sharper")


def test_a_resolve_of_an_unknown_key_is_accepted(receiver: Receiver) -> None:
    assert send(receiver, RESOLVE).status_code == 202
    assert receiver.incidents == []


def test_a_trigger_without_a_key_gets_one(receiver: Receiver) -> None:
    keyless = {name: value for name, value in TRIGGER.items() if name != "dedup_key"}
    assert len(send(receiver, keyless).json()["dedup_key"]) == 32


def test_changes_are_kept_apart(receiver: Receiver) -> None:
    assert send(receiver, CHANGE, "/v2/change/enqueue").status_code == 202
    assert receiver.incidents == []
    assert receiver.changes[0]["payload"]["summary"] == "s"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({**TRIGGER, "routing_key": KEY[:-1]}, "routing_key must have 32"),
        ({**TRIGGER, "event_action": "open"}, "event_action"),
        ({**TRIGGER, "dedup_key": "k" * 256}, "dedup_key has 256 characters"),
        ({**RESOLVE, "dedup_key": ""}, "dedup_key is required"),
        ({**TRIGGER, "payload": None}, "payload is required"),
        (with_payload(summary=None), "summary is required"),
        (with_payload(summary="s" * 1025), "summary has 1025"),
        (with_payload(source=None), "source is required"),
        (with_payload(severity="fatal"), "severity must be one of"),
        (with_payload(timestamp="yesterday"), "timestamp"),
        (with_payload(timestamp="2026-11-24T10:00:00"), "with an offset"),
        (with_payload(custom_details=["a"]), "custom_details must be an object"),
        (with_payload(colour="red"), "unknown field payload.colour"),
        ({**TRIGGER, "severity": "critical"}, "unknown field severity"),
        ({**TRIGGER, "links": [{"text": "no address"}]}, "href"),
        ([TRIGGER], "not an object"),
        (with_payload(custom_details={"a": "x" * 600_000}), "limit 524288"),
    ],
)
def test_events_that_pagerduty_refuses(receiver: Receiver, event: Any, words: str) -> None:
    answer = send(receiver, event)
    assert answer.status_code == 400
    assert words in " ".join(answer.json()["errors"])
    assert receiver.incidents == []


def test_a_key_that_is_not_the_configured_one_is_refused() -> None:
    with Receiver(routing_key="a" * 32) as receiver:
        assert send(receiver, TRIGGER).status_code == 400


def test_other_paths_and_bodies_that_are_no_json(receiver: Receiver) -> None:
    assert send(receiver, TRIGGER, "/v1/enqueue").status_code == 404
    assert httpx.post(receiver.url + "/v2/enqueue", content=b"{").status_code == 400


def test_failures_on_demand_keep_nothing(receiver: Receiver) -> None:
    receiver.fail_next(2, 429)
    assert [send(receiver, TRIGGER).status_code for _ in range(3)] == [429, 429, 202]
    assert len(receiver.incidents[0].events) == 1
