"""Incidents as alerts of Alertmanager: one that keeps coming for as long as this pod's verdict says so.

An alert is a state and not an event: every pod that judges a subject sends its own view under the same labels, and it
ends where one of them says so and no other sends it again, or where all are gone for a while. So this follows verdicts,
and not notices, which one pod sends for all. What it has open is kept on disk: a restart does not end it. Where one pod
ends what another still sends, Alertmanager shows it ended for up to a turn; its group_interval is longer than that.

It fires from the alarm to the end of the incident. That an adapter cannot be judged fires after three silent rounds;
that this comes again and again is not damped here, as it is in notices: that is for the route's grouping. Labels are
what an alert is, so the cause is an annotation: it may get sharper. Severity and owner, by which alerts are routed, are
labels: where they change the alert is ended and begins as another one. Pods that name another cause fire both.

Source: https://prometheus.io/docs/alerting/latest/alerts_api/ (API v2), which asks clients to send to each Alertmanager
of a cluster, and to go on for as long as the alert is true.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.alerting.incidents import WAKES_NOBODY
from agent.alerting.notice import state_key
from agent.alerting.notice_text import headline, pods_words, runbook_of, steps_of
from agent.alerting.page.identity_past import IdentityPast
from agent.alerting.page.reload_calls import reload_call
from agent.alerting.policy import Policy
from agent.alerting.set_aside import set_aside
from agent.delivery.links import links
from agent.delivery.whole_file import write_whole
from agent.errors import Unfit
from agent.records import Finding, NoticeReason, Watching
from agent.surroundings import Surroundings
from agent.trouble import Trouble
from detectors.records import Status, SubjectKind, Verdict
from detectors.verdicts.incident import SILENT_ROUNDS

DEGRADED, CANNOT_TELL = "GapwatchDegraded", "GapwatchCannotTell"
# An alert ends by itself after so many turns in which nobody sent it.
ENDS_AFTER = 3
# How long an end is sent that no Alertmanager takes: by then the alert has ended by itself.
KEEPS_ENDS_S = 900.0
PART = "sink alertmanager"


class Config(BaseModel):
    """urls: of every Alertmanager of the cluster, such as http://alertmanager-0.alertmanager:9093
    token_file: a mounted file with a bearer token, where one is wanted

    every_s: between two sendings of what is open; runbook_url, dashboard_url, status_url: see agent/delivery/links.py
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    urls: tuple[str, ...] = Field(min_length=1)
    token_file: Path | None = None
    runbook_url: str = ""
    dashboard_url: str = ""
    status_url: str = ""
    every_s: float = Field(default=60.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)

    @field_validator("urls")
    @classmethod
    def _can_be_called(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Raises Unfit; the message repeats none: a login may have been written into it."""
        for url in urls:
            if not url.startswith(("http://", "https://")) or "@" in url or any(map(str.isspace, url)):
                raise Unfit("an address that is none", "http:// or https://, a host and a port; a token in token_file")
        return tuple(url.rstrip("/") for url in urls)


@dataclass(frozen=True, slots=True)
class Alert:
    """labels: what it is; annotations: in words; starts_at, ends_at: seconds, None while it is true
    address: where its reader goes on
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    address: str = ""
    ends_at: float | None = None

    def to_json(self, until: float) -> dict[str, Any]:
        """As the API takes it. until: when it ends by itself, while it is true"""
        ends_at = until if self.ends_at is None else self.ends_at
        body = {"labels": dict(self.labels), "annotations": dict(self.annotations)}
        times = {"startsAt": _time(min(self.starts_at, ends_at)), "endsAt": _time(ends_at)}
        return body | times | ({"generatorURL": self.address} if self.address else {})


Alerts = Mapping[str, Alert]
"""State key of a subject -> its alert."""


class Sink:
    """Reads verdicts, and what this pod judges from now on; an alert is open while its subject's verdict says so."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._surroundings, self._clock = config, surroundings, surroundings.clock
        self._file = surroundings.state_dir / "alertmanager.json"
        self._lock = threading.Lock()
        self._open: Alerts = {}
        self._past: dict[str, IdentityPast] = {}
        self._ended: tuple[Alert, ...] = ()
        self._watched: frozenset[str] = frozenset()  # state keys of what this pod judges
        self._unsent: set[str] = set()  # state keys of alerts that no Alertmanager has
        self._stored: bytes = b""
        self._turns = 0
        self._trouble, self._disk = Trouble(PART), Trouble(PART)
        self._closing, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="alertmanager", daemon=True)

    def open(self) -> None:
        self._open = self._read()
        self._watched = frozenset(self._open)
        self._thread.start()

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, Verdict):
            key = state_key(finding.subject_kind, finding.subject)
            self._past[key] = self._past.get(key, IdentityPast()).after(finding)
            alert = next_alert(self._open.get(key), finding, self._config, self._surroundings)
            self._now_open(key, self._with_changed(self._open.get(key), alert, finding))
        elif isinstance(finding, Watching):
            self._handed_over(self._watched - set(finding.subjects))
            self._watched = frozenset(finding.subjects)

    def _with_changed(self, before: Alert | None, alert: Alert | None, verdict: Verdict) -> Alert | None:
        """An alert that begins says what was another one in the day before, as far as this process has judged it; one
        that goes on says what it said then."""
        if alert is None:
            return None
        if before is not None and before.labels == alert.labels:
            words = before.annotations.get("changed", "")
        else:
            past = self._past[state_key(verdict.subject_kind, verdict.subject)]
            words = past.in_words(verdict.identity, verdict.at)
        return replace(alert, annotations=_filled({**alert.annotations, "changed": words}))

    def flush(self) -> bool:
        """Has what is open written. True in any case: what the disk refuses comes again with the next verdict."""
        data = orjson.dumps({key: asdict(alert) for key, alert in self._open.items()})
        if data == (self._stored or b"{}"):
            self._disk.end()
            return True
        self._surroundings.disk.put_latest(self, partial(self._write, data))
        return True

    def _write(self, data: bytes) -> None:
        try:
            write_whole(self._file, data)
        except OSError as error:
            wanted = "a folder with room; what is open ends in the case of a restart, until it is judged again"
            self._disk.begin(f"{self._file.name} in state_dir: {error.strerror}, wanted {wanted}")
            return
        self._stored = data
        self._disk.end()

    def close(self, budget_s: float) -> None:
        """Ends nothing: another pod, or the next process, may go on."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(budget_s)

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    @property
    def status(self) -> tuple[bool, str]:
        troubles = [str(trouble) for trouble in (self._trouble, self._disk) if trouble]
        return not troubles, "; ".join((*troubles, f"{len(self._open)} alerts open, sent {self._turns} times"))

    def _handed_over(self, subjects: frozenset[str]) -> None:
        """Whoever judges them now sends their alerts, or nobody does and they end by themselves: whether they are over
        is not known here. What this pod reports of bases that nobody judges is no subject of its own, and stays."""
        with self._lock:
            self._open = {key: alert for key, alert in self._open.items() if key not in subjects}
            self._unsent -= subjects

    def _now_open(self, key: str, alert: Alert | None) -> None:
        before = self._open.get(key)
        if alert == before:
            return
        with self._lock:
            self._open = {name: each for name, each in self._open.items() if name != key}
            if alert is not None:
                self._open = {**self._open, key: alert}
            is_other = alert is None or before is None or alert.labels != before.labels
            if before is not None and is_other:
                self._ended = (*self._ended, replace(before, ends_at=self._clock.now()))
            if alert is None:
                self._unsent.discard(key)
            elif is_other:
                self._unsent.add(key)
        if is_other:
            self._wake.set()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._guarded()
            self._wake.wait(self._config.every_s)
            self._wake.clear()
        self._guarded()  # what has changed since

    def _guarded(self) -> None:
        """One turn that never raises: a dead sender would be silent."""
        try:
            self._turn()
        except Exception as error:  # its message may quote a name or an address: its class alone is told
            self._trouble.begin(f"failed with {type(error).__name__}")

    def _turn(self) -> None:
        """Sends all that is open and what has ended since."""
        with self._lock:
            open_alerts, ended, unsent = self._open, self._ended, set(self._unsent)
        if not open_alerts and not ended:
            return
        now = self._clock.now()
        body = [alert.to_json(now + ENDS_AFTER * self._config.every_s) for alert in (*ended, *open_alerts.values())]
        accepted = [self._sent(url, body) for url in self._config.urls]
        with self._lock:
            # An end that was taken everywhere is over; so is one that is so old that the alert has ended by itself.
            gone = set(map(id, ended)) if all(accepted) else set()
            self._ended = tuple(e for e in self._ended if id(e) not in gone and now - (e.ends_at or 0.0) < KEEPS_ENDS_S)
            if any(accepted):
                self._unsent -= unsent
        if all(accepted):
            self._turns += 1
            self._trouble.end()

    def _sent(self, url: str, body: list[dict[str, Any]]) -> bool:
        try:
            answer = httpx.post(
                f"{url}/api/v2/alerts", json=body, headers=self._headers(), timeout=self._config.timeout_s
            )
        except OSError as error:
            self._trouble.begin(f"token_file: saw {error.strerror}, wanted a mounted file that this user may read")
            return False
        except Exception as error:  # its message may hold the token: its class alone is told
            self._trouble.begin(f"{type(error).__name__}, wanted a way out to sinks.alertmanager.urls")
            return False
        if not answer.is_success:
            self._trouble.begin(f"HTTP {answer.status_code} from an Alertmanager of sinks.alertmanager.urls")
        return answer.is_success

    def _headers(self) -> dict[str, str]:
        file = self._config.token_file
        return {"Authorization": f"Bearer {file.read_text(encoding='utf-8').strip()}"} if file else {}

    def _read(self) -> Alerts:
        """What an earlier process had open. A file that holds no alerts is renamed."""
        try:
            data = self._file.read_bytes()
        except OSError:
            return {}
        try:
            alerts = {key: Alert(**fields) for key, fields in orjson.loads(data).items()}
        except (TypeError, AttributeError, orjson.JSONDecodeError):
            try:
                set_aside(self._file, "no alerts of this version")
            except OSError as error:
                self._disk.begin(
                    f"{self._file.name} in state_dir: {error.strerror}, wanted a folder that can be changed"
                )
            return {}
        self._stored = data
        return alerts


def next_alert(before: Alert | None, verdict: Verdict, config: Config, surroundings: Surroundings) -> Alert | None:
    """The subject's alert after this verdict; None for none. Pure.

    What cannot be measured neither ends an incident nor begins a second alert beside it.
    """
    if verdict.status is Status.UNMONITORABLE:
        if before is not None and before.labels["alertname"] == DEGRADED:
            return before
        return _cannot_tell(before, verdict, config, surroundings)
    if verdict.status is not Status.DEGRADED or verdict.covered_by:
        return None
    alert = _alert(DEGRADED, verdict, config, surroundings)
    return _going_on(before, alert)


def _cannot_tell(before: Alert | None, verdict: Verdict, config: Config, surroundings: Surroundings) -> Alert | None:
    """A base speaks through its adapters here; a quiet night and a paused watch wake nobody."""
    if verdict.subject_kind is not SubjectKind.ADAPTER or verdict.reason in WAKES_NOBODY:
        return before
    if before is None and verdict.silent_in_a_row < SILENT_ROUNDS:
        return None
    return _going_on(before, _alert(CANNOT_TELL, verdict, config, surroundings))


def _going_on(before: Alert | None, alert: Alert) -> Alert:
    is_same = before is not None and before.labels == alert.labels
    return replace(alert, starts_at=before.starts_at) if before is not None and is_same else alert


def _alert(name: str, verdict: Verdict, config: Config, surroundings: Surroundings) -> Alert:
    blind = name == CANNOT_TELL
    policy: Policy = surroundings.policy
    urgency = policy.of_incident(verdict, cannot_tell=blind)
    labels = {
        "alertname": name,
        "cluster": surroundings.cluster,
        "subject_kind": verdict.subject_kind.value,
        "subject": verdict.subject,
        "base": verdict.base,
        "severity": urgency.severity.value,
        "owner": urgency.owner,
    }
    pages = {link.text: link.href for link in links(verdict, config, surroundings.pod)}
    reason = NoticeReason.CANNOT_TELL if blind else NoticeReason.DEGRADED
    annotations = {
        "summary": headline(verdict, reason),
        "description": verdict.explanation,
        "first_action": steps_of(verdict.action),
        "reload": reload_call(verdict),
        "pods": pods_words(verdict.bad_pods, verdict.pods),
        "roll_back": policy.roll_back(verdict),
        "cause": verdict.cause.value if not blind else "",
        "reopened": str(verdict.reopenings or ""),
        "runbook_url": pages.get(f"Runbook: {runbook_of(verdict)}", ""),
        "dashboard_url": pages.get("Dashboard", ""),
        "status_url": pages.get("Status page", ""),
    }
    began = verdict.onset.by if verdict.onset is not None else verdict.at
    return Alert(_filled(labels), _filled(annotations), began, pages.get("Dashboard", ""))


def _filled(texts: Mapping[str, str]) -> dict[str, str]:
    """An empty label is none to Alertmanager."""
    return {name: text for name, text in texts.items() if text}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
