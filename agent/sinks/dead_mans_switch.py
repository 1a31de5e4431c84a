"""A sign of life that must keep coming, to somebody outside who raises the alarm when it stops.

It is given only while the watch works: the loop turns, every base is judged in time, and no notice waits for minutes to
get out. Otherwise this is silent on purpose, and ``status`` says why. How each kind of receiver is set up is in
deploy/README.md.

Sources: https://prometheus.io/docs/alerting/latest/alerts_api/ (alertmanager), and
https://developer.pagerduty.com/docs/events-api-v2-overview with a service whose orchestration pauses notifications.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.delivery.pagerduty_address import ENQUEUE
from agent.records import Finding, Heartbeat
from agent.surroundings import Surroundings
from agent.trouble import Trouble

log = structlog.get_logger(__name__)

# Three heartbeats of the loop (agent/app.py): one that is later does not come by itself.
QUIET_S = 90.0
# Notices that wait for longer do not get out; shorter is a moment's throttling.
UNSENT_S = 300.0
# An alert of Alertmanager ends by itself after so many signs that did not come.
ENDS_AFTER = 3
PART = "sink dead_mans_switch"


class Config(BaseModel):
    """kind: of receiver. ping: an address that is called, as of Dead Man's Snitch, Healthchecks or Cronitor;
    alertmanager: an alert that always fires; pagerduty: an alert that is ended before its notification is due

    secret_file: a mounted file with what lets us in: the whole address of a ping, the routing key of PagerDuty; of
    Alertmanager a bearer token, where one is wanted
    url: of Alertmanager or of PagerDuty's region; every_s: between two signs of life
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["ping", "alertmanager", "pagerduty"] = "ping"
    secret_file: Path | None = None
    url: str = Field(default="", pattern=r"^(https?://[^\s@]+)?$")
    every_s: float = Field(default=60.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _has_an_address(self) -> Config:
        if self.kind == "alertmanager" and not self.url:
            raise ValueError("url: Alertmanager's, such as http://alertmanager:9093")
        if self.kind != "alertmanager" and self.secret_file is None:
            raise ValueError(f"secret_file: of a {self.kind}, a mounted file")
        if self.kind == "ping" and self.url:
            raise ValueError("no url of a ping: its address is a secret, and is read from secret_file")
        return self


class Call(NamedTuple):
    """One HTTP request. url: of a ping whole, else to be joined to that of the configuration"""

    method: str
    url: str
    body: Any = None
    token: str = ""


class Sink:
    """Reads heartbeats and nothing else. A sign that does not get out is not kept: the next one counts."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._clock = config, surroundings.clock
        self._cluster, self._pod = surroundings.cluster, surroundings.pod
        self._heartbeat: tuple[Heartbeat, float] | None = None  # the latest, and when it came
        self._unsent_since: float | None = None
        self._closing, self._turn, self._given = threading.Event(), 0, False
        self._trouble = Trouble(PART)
        self._thread = threading.Thread(target=self._work, name="dead_mans_switch", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, Heartbeat):
            now = self._clock.steady()
            if finding.unsent <= 0:
                self._unsent_since = None
            elif self._unsent_since is None:
                self._unsent_since = now
            self._heartbeat = finding, now

    def flush(self) -> bool:
        return True

    def close(self, budget_s: float) -> None:
        """An orderly end is no death: what PagerDuty still waits for is ended."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(budget_s)

    @property
    def status(self) -> tuple[bool, str]:
        if withheld := self.withheld():
            return self._heartbeat is None, f"no sign of life is given: {withheld}"
        return not self._trouble, str(self._trouble) or f"{self._turn} signs of life given"

    def withheld(self) -> str:
        """Why none is given now, in words; "" while the watch works."""
        if self._heartbeat is None:
            return "the loop has not turned yet"
        heartbeat, came = self._heartbeat
        now = self._clock.steady()
        if now - came > QUIET_S:
            return f"the loop has not turned for {now - came:.0f} s"
        if heartbeat.overdue:
            return f"no round was judged for several intervals of {', '.join(heartbeat.overdue)}"
        if self._unsent_since is not None and now - self._unsent_since > UNSENT_S:
            return f"{heartbeat.unsent} notices have waited for {now - self._unsent_since:.0f} s to be sent"
        return ""

    def _work(self) -> None:
        while True:
            is_last = self._closing.is_set()
            self._guarded(is_last)
            if is_last:
                return
            self._closing.wait(self._pause_s())

    def _pause_s(self) -> float:
        """Until the first heartbeat, which comes with the loop's first turn, it is looked for more often."""
        return self._config.every_s if self._heartbeat is not None else min(1.0, self._config.every_s)

    def _guarded(self, is_last: bool) -> None:
        """One sign that never raises. The message of an error may hold the address: its class alone is told."""
        if is_last and not self._given:
            return
        if not is_last and self.withheld():
            return
        try:
            self._give(is_last)
        except OSError as error:
            self._trouble.begin(f"secret_file: saw {error.strerror}, wanted a mounted file that this user may read")
        except Exception as error:
            self._trouble.begin(f"{type(error).__name__}, wanted a way out to the receiver of the {self._config.kind}")

    def _give(self, is_last: bool) -> None:
        secret = self._config.secret_file.read_text(encoding="utf-8").strip() if self._config.secret_file else ""
        calls = calls_of(self._config, secret, (self._cluster, self._pod), self._clock.now(), self._turn, is_last)
        with httpx.Client(timeout=self._config.timeout_s) as http:
            for call in calls:
                headers = {"Authorization": f"Bearer {call.token}"} if call.token else {}
                answer = http.request(call.method, call.url, json=call.body, headers=headers)
                if not answer.is_success:
                    self._trouble.begin(f"HTTP {answer.status_code} from the receiver of the {self._config.kind}")
                    return
        self._turn, self._given = self._turn + 1, True
        self._trouble.end()


def calls_of(
    config: Config, secret: str, origin: tuple[str, str], now: float, turn: int, is_last: bool
) -> tuple[Call, ...]:
    """What is sent for one sign of life, in order. Pure.

    origin: cluster and pod; turn: of this process, from 0; is_last: the process ends in order
    """
    cluster, pod = origin
    if config.kind == "ping":
        return () if is_last else (Call("GET", secret.replace("{cluster}", cluster).replace("{pod}", pod)),)
    if config.kind == "alertmanager":
        alert = _alert(config, cluster, pod, now)
        address = f"{config.url.rstrip('/')}/api/v2/alerts"
        return () if is_last else (Call("POST", address, [alert], secret),)
    address = f"{(config.url or 'https://events.pagerduty.com').rstrip('/')}{ENQUEUE}"
    # Two alerts in turn, so that one is always waiting: the next begins before the last one ends.
    keys = [f"gapwatch/{cluster}/alive/{pod}"[:240] + f"/{(turn + i) % 2}" for i in (0, 1)]
    begin, end = _event("trigger", secret, keys[0], origin), _event("resolve", secret, keys[1], origin)
    bodies = [_event("resolve", secret, key, origin) for key in keys] if is_last else [begin, end]
    return tuple(Call("POST", address, body) for body in bodies)


def _alert(config: Config, cluster: str, pod: str, now: float) -> dict[str, Any]:
    """The same for every pod of the cluster: it ends when none of them gives a sign."""
    return {
        "labels": {"alertname": "GapwatchAlive", "cluster": cluster, "severity": "none"},
        "annotations": {"summary": "gapwatch watches; call somebody when this alert stops", "pod": pod},
        "endsAt": datetime.fromtimestamp(now + ENDS_AFTER * config.every_s, UTC).isoformat(timespec="seconds"),
    }


def _event(action: str, routing_key: str, key: str, origin: tuple[str, str]) -> dict[str, Any]:
    cluster, pod = origin
    body: dict[str, Any] = {"routing_key": routing_key, "event_action": action, "dedup_key": key}
    if action == "resolve":
        return body
    summary = f"[{cluster}] gapwatch on {pod} gives no sign of life: nobody watches its adapters"
    details = {"first action": "gapwatch query freshness; then look at the pod and at its /readyz"}
    payload = {"summary": summary[:1024], "source": pod or "gapwatch", "severity": "error", "custom_details": details}
    return body | {"payload": payload}
