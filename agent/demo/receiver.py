"""A stand-in for PagerDuty: checks each event against the Events API v2, answers as PagerDuty does, keeps incidents.

For the demo, for tests and for trying out a configuration; it notifies nobody.

Source: https://developer.pagerduty.com/docs/events-api-v2-overview and .../send-change-event.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import orjson

MAX_BODY = 512 * 1024
ACTIONS = ("trigger", "acknowledge", "resolve")
SEVERITIES = ("critical", "error", "warning", "info")
TOP_FIELDS = {"routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links", "images"}
PAYLOAD_FIELDS = {
    *("summary", "source", "severity", "timestamp", "component", "group", "class"),
    "custom_details",
}


@dataclass(slots=True)
class ReceivedIncident:
    """An incident as PagerDuty would show it. events: all accepted ones of its dedup key since it opened, in order."""

    dedup_key: str
    status: str
    events: list[dict[str, Any]] = field(default_factory=list)
    acknowledged_by: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Of the newest trigger."""
        summaries = [event["payload"]["summary"] for event in self.events if event["event_action"] == "trigger"]
        return str(summaries[-1])

    def is_of(self, routing_key: str, dedup_key: str) -> bool:
        """A dedup key is one of the service that its routing key belongs to."""
        return self.dedup_key == dedup_key and self.events[0]["routing_key"] == routing_key


class Receiver:
    """Listens on loopback from ``open`` to ``close``. Reads are snapshots; safe from any thread."""

    def __init__(self, port: int = 0, routing_key: str | None = None, api_token: str = "") -> None:
        """port: 0 takes a free one. routing_key: the only one accepted; any of 32 characters when None. api_token: with
        which the REST API's list of incidents is read, "" where nobody may."""
        self._port, self._routing_key, self._api_token = port, routing_key, api_token
        self._lock = threading.Lock()
        self._failures: deque[int] = deque()
        self._incidents: list[ReceivedIncident] = []
        self._changes: list[dict[str, Any]] = []
        self._answers: list[tuple[int, str]] = []
        self._server: ThreadingHTTPServer | None = None

    def open(self) -> Self:
        handler = _handler(self._answer, self._listed)
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def incidents(self) -> list[ReceivedIncident]:
        """Every incident so far, oldest first; a trigger after a resolve opens a new one."""
        with self._lock:
            return [ReceivedIncident(i.dedup_key, i.status, list(i.events), i.acknowledged_by) for i in self._incidents]

    @property
    def open_incidents(self) -> list[ReceivedIncident]:
        return [incident for incident in self.incidents if incident.status != "resolved"]

    @property
    def changes(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._changes)

    @property
    def answers(self) -> list[tuple[int, str]]:
        """(status, message) of every request, in order of arrival."""
        with self._lock:
            return list(self._answers)

    def acknowledge(self, dedup_key: str, who: str) -> None:
        """As a person does it in the web app."""
        with self._lock:
            for incident in self._incidents:
                if incident.dedup_key == dedup_key and incident.status == "triggered":
                    incident.status, incident.acknowledged_by = "acknowledged", (*incident.acknowledged_by, who)

    def resolve(self, dedup_key: str) -> None:
        """Likewise."""
        with self._lock:
            for incident in self._incidents:
                if incident.dedup_key == dedup_key:
                    incident.status = "resolved"

    def fail_next(self, n: int, status: int) -> None:
        """Answer the next n requests with ``status`` and keep nothing of them."""
        with self._lock:
            self._failures.extend([status] * n)

    def _answer(self, path: str, raw: bytes) -> tuple[int, dict[str, Any]]:
        with self._lock:
            status, body = self._judge(path, raw)
            self._answers.append((status, str(body.get("message", ""))))
            return status, body

    def _listed(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """GET /incidents of the REST API: those under one key in the statuses that are asked for."""
        address = urlsplit(path)
        query = parse_qs(address.query)
        if address.path != "/incidents":
            return 404, {"error": {"message": "Not Found"}}
        if not self._api_token or authorization != f"Token token={self._api_token}":
            return 401, {"error": {"message": "Unauthorized"}}
        with self._lock:
            if self._failures:
                return self._failures.popleft(), {"error": {"message": "injected failure"}}
            wanted = query.get("incident_key", []), query.get("statuses[]", [])
            own = [i for i in self._incidents if i.dedup_key in wanted[0] and i.status in wanted[1]]
        return 200, {"incidents": [_as_listed(incident) for incident in own]}

    def _judge(self, path: str, raw: bytes) -> tuple[int, dict[str, Any]]:
        if self._failures:
            return self._failures.popleft(), {"status": "error", "message": "injected failure"}
        if path not in ("/v2/enqueue", "/v2/change/enqueue"):
            return 404, {"status": "error", "message": f"no such path: {path}"}
        errors = violations(path, raw, self._routing_key)
        if errors:
            return 400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
        event = orjson.loads(raw)
        if path == "/v2/change/enqueue":
            self._changes.append(event)
            return 202, {"status": "success", "message": "Change event processed"}
        return 202, {"status": "success", "message": "Event processed", "dedup_key": self._take(event)}

    def _take(self, event: dict[str, Any]) -> str:
        """Opens, adds to, or closes an incident. A resolve of an unknown key is accepted and does nothing."""
        key = event.get("dedup_key") or uuid.uuid4().hex
        active = next(
            (i for i in self._incidents if i.is_of(event["routing_key"], key) and i.status != "resolved"), None
        )
        action = event["event_action"]
        if active is None and action == "trigger":
            active = ReceivedIncident(key, "triggered", [event])
            self._incidents.append(active)
        elif active is not None:
            active.events.append(event)
            active.status = {"resolve": "resolved", "acknowledge": "acknowledged"}.get(action, active.status)
        return str(key)


def _as_listed(incident: ReceivedIncident) -> dict[str, Any]:
    """The fields of the REST API's record that anybody here reads."""
    at = "2026-11-28T02:14:00Z"
    who = [{"at": at, "acknowledger": {"summary": name, "type": "user_reference"}} for name in incident.acknowledged_by]
    return {
        "status": incident.status,
        "acknowledgements": who,
        "html_url": "https://example.pagerduty.com/incidents/Q1",
    }


def violations(path: str, raw: bytes, routing_key: str | None = None) -> list[str]:
    """What the Events API v2 would refuse this body for; empty when it is right."""
    if len(raw) > MAX_BODY:
        return [f"body is {len(raw)} bytes, limit {MAX_BODY}"]
    try:
        event = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return ["body is not JSON"]
    if not isinstance(event, dict):
        return ["body is not an object"]
    errors = _of_key(event.get("routing_key"), routing_key)
    if path == "/v2/change/enqueue":
        return errors + _of_change(event)
    return errors + _of_alert(event)


def _of_key(key: object, wanted: str | None) -> list[str]:
    if not isinstance(key, str) or len(key) != 32:
        return ["routing_key must have 32 characters"]
    return ["routing_key is not known"] if wanted is not None and key != wanted else []


def _of_alert(event: dict[str, Any]) -> list[str]:
    errors = [f"unknown field {name}" for name in sorted(set(event) - TOP_FIELDS)]
    action = event.get("event_action")
    if action not in ACTIONS:
        errors.append(f"event_action must be one of {', '.join(ACTIONS)}")
    errors += _text(event, "dedup_key", 255, required=action in ("acknowledge", "resolve"))
    errors += _of_links(event) + _of_images(event)
    if action == "trigger" or "payload" in event:
        errors += _of_payload(event.get("payload"), severity=True)
    return errors


def _of_change(event: dict[str, Any]) -> list[str]:
    errors = [f"unknown field {name}" for name in sorted(set(event) - {"routing_key", "payload", "links", "images"})]
    return errors + _of_links(event) + _of_images(event) + _of_payload(event.get("payload"), severity=False)


def _of_payload(payload: object, severity: bool) -> list[str]:
    if not isinstance(payload, dict):
        return ["payload is required and must be an object"]
    errors = [f"unknown field payload.{name}" for name in sorted(set(payload) - PAYLOAD_FIELDS)]
    errors += _text(payload, "summary", 1024, required=True)
    errors += _text(payload, "source", 1024, required=severity)
    if severity and payload.get("severity") not in SEVERITIES:
        errors.append(f"payload.severity must be one of {', '.join(SEVERITIES)}")
    if "timestamp" in payload:
        errors += _of_time(payload["timestamp"])
    if not isinstance(payload.get("custom_details", {}), dict):
        errors.append("payload.custom_details must be an object")
    return errors


def _of_time(value: object) -> list[str]:
    try:
        zoned = datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        zoned = False
    return [] if zoned else ["payload.timestamp must be ISO 8601 with an offset"]


def _of_links(event: dict[str, Any]) -> list[str]:
    links = event.get("links", [])
    if not isinstance(links, list):
        return ["links must be a list"]
    return ["every link needs an href"] if any(not isinstance(x, dict) or not x.get("href") for x in links) else []


def _of_images(event: dict[str, Any]) -> list[str]:
    images = event.get("images", [])
    if not isinstance(images, list):
        return ["images must be a list"]
    sources = [str(image.get("src", "")) if isinstance(image, dict) else "" for image in images]
    return [] if all(source.startswith("https://") for source in sources) else ["every image needs an https:// src"]


def _text(fields: dict[str, Any], name: str, longest: int, required: bool) -> list[str]:
    value = fields.get(name)
    if value is None or value == "":
        return [f"{name} is required"] if required else []
    if not isinstance(value, str):
        return [f"{name} must be text"]
    return [f"{name} has {len(value)} characters, limit {longest}"] if len(value) > longest else []


Answer = tuple[int, dict[str, Any]]


def _handler(
    answer: Callable[[str, bytes], Answer], listed: Callable[[str, str], Answer]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(*listed(self.path, self.headers.get("Authorization", "")))

        def do_POST(self) -> None:
            self._reply(*answer(self.path, self.rfile.read(int(self.headers.get("Content-Length", "0")))))

        def _reply(self, status: int, body: dict[str, Any]) -> None:
            raw = orjson.dumps(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            with suppress(ConnectionError):  # a client that waited no longer
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the body carries a routing key."""

    return Handler
