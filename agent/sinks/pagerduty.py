"""Sends notices to PagerDuty's Events API v2: written to disk at once, sent from its own thread.

A notice counts as flushed once it is in the outbox, so pages wait for nothing else. Order is kept per dedup key: a
resolve never overtakes its trigger. The routing key is read from its file for every request and is stored nowhere;
while the file holds none, nothing is sent and ``status`` says so.

Source: https://developer.pagerduty.com/docs/events-api-v2-overview (limits: summary 1024, dedup key 255, body 512 KB).
"""

from __future__ import annotations

import os
import random
import re
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.alerting.notice_text import runbook_of
from agent.alerting.outbox import Entry, Outbox
from agent.alerting.pagerduty_address import CHANGE, ENQUEUE, address
from agent.records import Finding, Notice, NoticeKind, NoticeReason
from agent.surroundings import Surroundings
from agent.trouble import Trouble

log = structlog.get_logger(__name__)

FIRST = True  # a page is on disk before anything else is tried

MAX_SUMMARY, MAX_KEY, MAX_BODY, MAX_FIELD = 1024, 255, 512_000, 4_096
ACCEPTED, WRONG, TOO_LONG, THROTTLED = 202, 400, 413, 429
KEY_LENGTH = 32
LOOK_S = 1.0  # between two looks at the routing key's file
PART = "sink pagerduty"
# The API's messages differ by endpoint and age: "Length of 'routing_key' is incorrect", "Invalid routing key".
NAMES_THE_KEY = re.compile(r"(routing|service|integration)[\s_-]*key", re.IGNORECASE)


class Config(BaseModel):
    """routing_key_file: a mounted file with the 32-character integration key

    dashboard_url, runbook_url: shown in the incident; ``{cause}`` in runbook_url becomes the cause's name
    outbox_limit: events kept, oldest change events dropped first; throttle_s: wait after a 429
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    routing_key_file: Path
    url: str = "https://events.pagerduty.com"
    dashboard_url: str = ""
    runbook_url: str = ""
    outbox_limit: int = Field(default=1000, ge=1)
    timeout_s: float = Field(default=10.0, gt=0)
    retry_s: float = Field(default=1.0, gt=0)
    max_retry_s: float = Field(default=120.0, gt=0)
    throttle_s: float = Field(default=60.0, gt=0)

    @field_validator("url")
    @classmethod
    def _can_be_called(cls, url: str) -> str:
        return address(url)


class Sink:
    """Sends notices; every other finding is ignored."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._clock = config, surroundings.clock
        self._source = surroundings.pod or "gapwatch"
        self._outbox = Outbox(surroundings.state_dir / "outbox", config.outbox_limit, PART)
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._throttled_until = 0.0
        self._key_trouble, self._trouble = Trouble(PART), Trouble(PART)
        self._key_file = (0, 0)  # which file held the key when it was last read: inode, time of its last change in ns
        self._closing, self._wake = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="pagerduty", daemon=True)
        self.sent = self.refused = 0

    def open(self) -> None:
        """Neither a routing key that cannot be read nor a folder that cannot be written is an error here."""
        self._outbox.open()
        self._key()
        self._thread.start()

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, Notice):
            path, body = to_event(finding, self._config, self._source)
            droppable = finding.kind is NoticeKind.CHANGE
            self._outbox.add(finding.dedup_key, path, body, droppable, finding.after)
            self._wake.set()

    def flush(self) -> bool:
        """True when every notice lies on disk (or was sent)."""
        return self._outbox.sync()

    def close(self, budget_s: float) -> None:
        """Send what can be sent within the budget; the rest stays on disk for the next process."""
        self._deadline = self._clock.steady() + budget_s
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(budget_s)

    @property
    def unsent(self) -> int:
        return len(self._outbox)

    @property
    def status(self) -> tuple[bool, str]:
        counts = (
            f"{len(self._outbox)} waiting, {self.sent} sent, {self.refused} refused, {self._outbox.dropped} dropped"
        )
        stopped = self._thread.ident is not None and not self._thread.is_alive() and not self._closing.is_set()
        stop = "nothing is sent: the sender has stopped" if stopped else ""
        troubles = (stop, str(self._key_trouble), str(self._trouble), self._outbox.trouble)
        return not any(troubles), "; ".join(words for words in (*troubles, counts) if words)

    def _work(self) -> None:
        with ExitStack() as opened:
            http: httpx.Client | None = None
            while self._clock.steady() < self._deadline:
                http = http or self._client(opened)
                key = self._key()
                entry = self._due() if key and http else None
                if entry is not None and http is not None:
                    self._guarded(http, entry, key)
                elif self._closing.is_set():
                    return  # what is not due yet will not be due before the process ends: it stays on disk
                else:
                    self._wake.wait(self._pause())
                    self._wake.clear()

    def _client(self, opened: ExitStack) -> httpx.Client | None:
        """None, told in ``status``, where the surroundings name a proxy or certificates that cannot be used."""
        try:
            client = opened.enter_context(httpx.Client(base_url=self._config.url, timeout=self._config.timeout_s))
        except Exception as error:  # httpx, ssl and the file system; a proxy's address may hold a password
            self._trouble.begin(
                f"no connection can be made: {type(error).__name__}, wanted HTTPS_PROXY and SSL_CERT_FILE right, "
                "or unset"
            )
            return None
        self._trouble.end()
        return client

    def _guarded(self, http: httpx.Client, entry: Entry, key: str) -> None:
        """One try that never raises: a dead sender would be silent, and silence looks like health."""
        try:
            self._send(http, entry, key)
        except Exception as error:  # its message may hold the routing key: log the class alone
            log.error("pagerduty_try_failed", dedup_key=entry.key, error=type(error).__name__)
            self._later(entry, type(error).__name__)

    def _key(self) -> str:
        """The routing key, or "" where the file holds none; after the file has changed, nothing waits any longer."""
        try:
            with self._config.routing_key_file.open(encoding="utf-8") as file:
                key, version = file.read().strip(), os.fstat(file.fileno())
        except (OSError, UnicodeDecodeError) as error:
            actual = "bytes that are no text" if isinstance(error, UnicodeDecodeError) else error.strerror
            self._key_trouble.begin(_no_key(str(actual)))
            return ""
        if len(key) != KEY_LENGTH:
            self._key_trouble.begin(_no_key(f"{len(key)} characters" if key else "an empty file"))
            return ""
        self._key_trouble.end()
        key_file = (version.st_ino, version.st_mtime_ns)
        if key_file != self._key_file:
            self._key_file = key_file
            self._not_before.clear()
        return key

    def _due(self) -> Entry | None:
        now = self._clock.steady()
        if now < self._throttled_until:
            return None
        return self._outbox.first(not_before={key for key, due in self._not_before.items() if due > now})

    def _pause(self) -> float:
        """Seconds until the next try or look at the key's file is due; new notices wake the thread earlier."""
        now = self._clock.steady()
        dues = [max(due, self._throttled_until) - now for due in (*self._not_before.values(), self._throttled_until)]
        return min([LOOK_S, *(d for d in dues if d > 0)])

    def _send(self, http: httpx.Client, entry: Entry, key: str) -> None:
        try:
            answer = http.post(entry.path, json={"routing_key": key, **entry.body})
        except httpx.HTTPError as error:
            self._later(entry, f"{type(error).__name__}: {error}; wanted a way out to alerts.pagerduty.url")
            return
        if answer.status_code == ACCEPTED:
            self._done(entry)
            self.sent += 1
        elif _is_hopeless(answer):
            self._refused(entry, answer, key)
        elif answer.status_code == WRONG:
            self._later(entry, "HTTP 400: is the routing key right?", slowly=True)
        else:
            if answer.status_code == THROTTLED:
                self._throttled_until = self._clock.steady() + self._config.throttle_s * random.uniform(1.0, 1.5)
            self._later(entry, f"HTTP {answer.status_code}")

    def _done(self, entry: Entry) -> None:
        self._outbox.remove(entry)
        self._tries.pop(entry.key, None)
        self._not_before.pop(entry.key, None)
        if not self._tries:
            self._trouble.end()

    def _later(self, entry: Entry, why: str, slowly: bool = False) -> None:
        """Schedule the next try. slowly: only a person can fix it, so wait the longest time at once."""
        tries = self._tries.get(entry.key, 0)
        longest = min(self._config.max_retry_s, self._config.retry_s * 2.0 ** (16 if slowly else min(tries, 16)))
        self._tries[entry.key] = tries + 1
        self._not_before[entry.key] = self._clock.steady() + longest * random.uniform(0.5, 1.0)
        self._trouble.begin(why)

    def _refused(self, entry: Entry, answer: httpx.Response, key: str) -> None:
        """Drop an event that a retry would not help, with an error in the log, and continue with the next."""
        self._done(entry)
        self.refused += 1
        self._trouble.begin(f"HTTP {answer.status_code}: the last event was refused")
        log.error("pagerduty_refused", dedup_key=entry.key, status=answer.status_code, answer=_scrubbed(answer, key))


def _no_key(actual: str) -> str:
    """Neither content nor path: the key itself may have been written where its file should be named."""
    wanted = f"a mounted file with the {KEY_LENGTH}-character integration key that user {os.getuid()} may read"
    return f"alerts.pagerduty.routing_key_file: saw {actual}, wanted {wanted}; notices wait until then"


def _is_hopeless(answer: httpx.Response) -> bool:
    """Is the event itself invalid, so that a retry cannot help? A page is given up for nothing else: not for a proxy's
    403, a 5xx, or a 400 that concerns the routing key or does not name what it concerns.
    """
    if answer.status_code != WRONG:
        return answer.status_code == TOO_LONG
    try:
        reply = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return False
    errors = reply.get("errors") if isinstance(reply, dict) else None
    return bool(errors) and not NAMES_THE_KEY.search(f"{reply.get('message')} {errors}")


def to_event(notice: Notice, config: Config, source: str) -> tuple[str, dict[str, Any]]:
    """(path, body without routing key) of one notice, within every limit of the API. source: the pod that reports it"""
    body = _change(notice, config, source) if notice.kind is NoticeKind.CHANGE else _alert(notice, config, source)
    path = CHANGE if notice.kind is NoticeKind.CHANGE else ENQUEUE
    while len(orjson.dumps(body)) > MAX_BODY and body["payload"]["custom_details"]:
        details = body["payload"]["custom_details"]
        del details[max(details, key=lambda name: len(details[name]))]
    return path, body


def _alert(notice: Notice, config: Config, source: str) -> dict[str, Any]:
    verdict = notice.verdict
    severity = "warning" if notice.reason is NoticeReason.CANNOT_TELL else "critical"
    body = {
        "event_action": notice.kind.value,
        "dedup_key": notice.dedup_key[:MAX_KEY],
        "client": "gapwatch",
        "client_url": config.dashboard_url,
        "links": _links(notice, config),
        "payload": {
            **_common(notice, source),
            "severity": severity,
            "component": verdict.subject,
            "group": verdict.base,
            "class": verdict.cause.value,
        },
    }
    return {name: value for name, value in body.items() if value}


def _change(notice: Notice, config: Config, source: str) -> dict[str, Any]:
    body = {"payload": _common(notice, source), "links": _links(notice, config)}
    return {name: value for name, value in body.items() if value}


def _common(notice: Notice, source: str) -> dict[str, Any]:
    return {
        "summary": notice.summary[:MAX_SUMMARY],
        "source": source,
        "timestamp": datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="milliseconds"),
        "custom_details": {name: text[:MAX_FIELD] for name, text in notice.details.items()},
    }


def _links(notice: Notice, config: Config) -> list[dict[str, str]]:
    page = runbook_of(notice.verdict)
    runbook = config.runbook_url.replace("{cause}", page) if page else ""
    links = [{"href": runbook, "text": f"Runbook: {page}"}, {"href": config.dashboard_url, "text": "Dashboard"}]
    return [link for link in links if link["href"]]


def _scrubbed(answer: httpx.Response, key: str) -> str:
    """The server's answer, without the routing key if it echoes that."""
    return answer.text[:300].replace(key, "***") if key else answer.text[:300]
