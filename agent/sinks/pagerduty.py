"""Sends notices to PagerDuty's Events API v2: written to disk at once, sent from its own thread.

A notice counts as flushed once it is in the outbox, so pages wait for nothing else. Order is kept per dedup key: a
resolve never overtakes its trigger. How urgent it is and whose service gets it is the policy's to say
(agent/alerting/policy.py). An incident is open at one service: whose cause turns out to be another owner's is opened
there, and then ended at all others; its end goes to all of them, because which pod opened it where is not known here.

A further trigger of an open incident calls nobody; of one that somebody has resolved by hand it opens a new one. So
with an API token (api_token_file) an update goes out as a change event where nothing is open under its key any more.

Routing keys are read from their files for every request and are stored nowhere; while a file holds none, nothing is
sent to that service and ``status`` says so.

Source: https://developer.pagerduty.com/docs/events-api-v2-overview (limits: summary 1024, dedup key 255, body 512 KB).
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.alerting.notice import as_ticket
from agent.alerting.policy import Severity, Urgency
from agent.delivery.links import about, filled, links
from agent.delivery.outbox import Entry, Outbox
from agent.delivery.pagerduty_address import CHANGE, ENQUEUE, address
from agent.delivery.pagerduty_incidents import API_URL, open_incident
from agent.delivery.secret_file import SecretFile
from agent.delivery.sender import Outcome, Pace, Sender
from agent.errors import Retryable
from agent.records import Finding, Notice, NoticeKind, NoticeReason
from agent.surroundings import Surroundings

log = structlog.get_logger(__name__)

FIRST = True  # a page is on disk before anything else is tried

MAX_SUMMARY, MAX_KEY, MAX_BODY, MAX_FIELD = 1024, 255, 512_000, 4_096
ACCEPTED, WRONG, TOO_LONG = 202, 400, 413
KEY_LENGTH = 32
PART = "sink pagerduty"
# What is said of an incident that was reported before, by whichever pod.
UPDATES = (NoticeReason.CAUSE_SHARPER, NoticeReason.NO_LONGER_JUDGED)
# The API's messages differ by endpoint and age: "Length of 'routing_key' is incorrect", "Invalid routing key".
NAMES_THE_KEY = re.compile(r"(routing|service|integration)[\s_-]*key", re.IGNORECASE)


class Config(BaseModel):
    """routing_key_file: a mounted file with the 32-character integration key
    owners: name that the policy has for an owner -> such a file of the service of their own
    api_token_file: a mounted file with a read-only key of the REST API at api_url; None: nothing is asked there
    image_url: of a picture that is shown in an incident, filled in as the links are; PagerDuty takes https:// alone
    clock_tickets: report what a passport says runs out as an incident of its own of severity info, which people close,
    in place of a change event

    runbook_url, dashboard_url, status_url: shown in the incident, see agent/delivery/links.py
    outbox_limit: events kept, oldest change events dropped first; throttle_s: wait after a 429 that says not how long
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    routing_key_file: Path
    owners: dict[str, Path] = Field(default_factory=dict)
    url: str = "https://events.pagerduty.com"
    dashboard_url: str = ""
    runbook_url: str = ""
    status_url: str = ""
    image_url: str = ""
    api_token_file: Path | None = None
    api_url: str = API_URL
    clock_tickets: bool = False
    outbox_limit: int = Field(default=1000, ge=1)
    timeout_s: float = Field(default=10.0, gt=0)
    retry_s: float = Field(default=1.0, gt=0)
    max_retry_s: float = Field(default=120.0, gt=0)
    throttle_s: float = Field(default=60.0, gt=0)

    @field_validator("url", "api_url")
    @classmethod
    def _can_be_called(cls, url: str) -> str:
        return address(url)


class Sink:
    """Sends notices; every other finding is ignored."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._policy = config, surroundings.policy
        self._source = surroundings.pod or "gapwatch"
        self._services = _Services(config)
        pace = Pace(config.timeout_s, config.retry_s, config.max_retry_s, config.throttle_s)
        outbox = Outbox(surroundings.state_dir / "outbox", config.outbox_limit, PART, surroundings.disk)
        self._sender = Sender(outbox, self._services, pace, surroundings.clock, "pagerduty", "alerts.pagerduty.url")

    def open(self) -> None:
        """Neither a routing key that cannot be read nor a folder that cannot be written is an error here."""
        self._sender.open()

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, Notice):
            urgency = self._policy.of_notice(finding)
            if self._config.clock_tickets and finding.reason is NoticeReason.PASSPORT_CLOCK:
                finding = as_ticket(finding)
            owner = urgency.owner if urgency.owner in self._services.secrets else ""
            droppable = finding.kind is NoticeKind.CHANGE or finding.reason is NoticeReason.PASSPORT_CLOCK
            path, body = to_event(finding, self._config, self._source, urgency)
            for event in addressed(finding, body, owner, self._services.others(finding, owner)):
                where = {"after": event.after, "owner": event.owner, "droppable": droppable}
                is_update = event.body is body and finding.reason in UPDATES
                self._sender.outbox.add(finding.dedup_key, path, event.body, **where, is_update=is_update)
            self._sender.wake()

    def flush(self) -> bool:
        """True when every notice lies on disk (or was sent)."""
        return self._sender.outbox.flush()

    def close(self, budget_s: float) -> None:
        """Send what can be sent within the budget; the rest stays on disk for the next process."""
        self._sender.close(budget_s)

    @property
    def unsent(self) -> int:
        return len(self._sender.outbox)

    @property
    def sent(self) -> int:
        """Events that were accepted, since the start."""
        return self._sender.sent

    @property
    def refused(self) -> int:
        """Events that were refused for good, and lie aside, since the start."""
        return self._sender.refused

    @property
    def status(self) -> tuple[bool, str]:
        """Notices get out, also while PagerDuty does not tell what is open: then the words alone say so."""
        works, words = self._sender.status
        return works, "; ".join(part for part in (self._services.untold, words) if part)


class _Services:
    """The service of each owner; that of routing_key_file, under "", gets what has no owner of these."""

    def __init__(self, config: Config) -> None:
        self._url = config.url
        self.secrets = {"": _routing_key(config.routing_key_file, "routing_key_file")} | {
            owner: _routing_key(file, f"owners.{owner}") for owner, file in config.owners.items()
        }
        self._api_url, self._api_token_file = config.api_url, config.api_token_file
        self.untold = ""

    def as_of_now(self, http: httpx.Client, entry: Entry) -> Entry:
        """An update of an incident that somebody has resolved by hand would open a new one, and call: it goes out as a
        change event. Where PagerDuty cannot be asked it goes out as it is: better a call too many than one too few."""
        if self._api_token_file is None or not entry.is_update:
            return entry
        try:
            is_open = open_incident(http, self._api_url, self._api_token_file, entry.key) is not None
        except Retryable as error:
            self.untold = f"{error}; updates may open an incident that somebody has resolved"
            log.warning("pagerduty_does_not_tell_what_is_open", why=str(error), dedup_key=entry.key)
            return entry
        self.untold = ""
        return entry if is_open else replace(entry, path=CHANGE, body=_without_incident(entry.body))

    def others(self, notice: Notice, owner: str) -> tuple[str, ...]:
        """The owners at whose services an incident ends with this notice, beside this owner's.

        Where it goes on at this owner's, of those alone whose key is known and another one: at another name of the same
        service the end would end the page itself. An end is sent to all.
        """
        rest = tuple(name for name in self.secrets if name != owner)
        if notice.kind is NoticeKind.RESOLVE:
            return rest
        keys = {name: file.current() for name, file in self.secrets.items()}
        return tuple(name for name in rest if keys[owner] and keys[name] and keys[name] != keys[owner])

    def request(self, entry: Entry, secret: str) -> tuple[str, Any]:
        return f"{self._url}{entry.path}", {"routing_key": secret, **entry.body}

    def outcome(self, answer: httpx.Response) -> tuple[Outcome, str]:
        if answer.status_code == ACCEPTED:
            return Outcome.DONE, ""
        if _is_hopeless(answer):
            return Outcome.REFUSED, f"HTTP {answer.status_code}"
        if answer.status_code == WRONG:
            return Outcome.MUCH_LATER, "HTTP 400: is the routing key right?"
        return Outcome.LATER, f"HTTP {answer.status_code}"


def _routing_key(file: Path, name: str) -> SecretFile:
    def fault(key: str) -> str:
        return "" if len(key) == KEY_LENGTH else f"{len(key)} characters" if key else "an empty file"

    wanted = f"a mounted file with the {KEY_LENGTH}-character integration key"
    return SecretFile(file, f"alerts.pagerduty.{name}", PART, wanted, fault)


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


class Addressed(NamedTuple):
    """One event to one owner's service. after: dedup key of the incident that has to be sent before this."""

    owner: str
    body: dict[str, Any]
    after: str = ""


def addressed(notice: Notice, body: dict[str, Any], owner: str, others: tuple[str, ...]) -> tuple[Addressed, ...]:
    """Which service gets which event of one notice, in order. others: see ``_Services.others``"""
    if notice.kind is NoticeKind.CHANGE:
        return (Addressed(owner, body),)
    if notice.kind is NoticeKind.RESOLVE:
        return tuple(Addressed(each, body, notice.after) for each in (owner, *others))
    end = {"event_action": NoticeKind.RESOLVE.value, "dedup_key": body["dedup_key"]}
    return (Addressed(owner, body), *(Addressed(other, end, notice.dedup_key) for other in others))


def to_event(notice: Notice, config: Config, source: str, urgency: Urgency) -> tuple[str, dict[str, Any]]:
    """(path, body without routing key) of one notice, within every limit of the API. source: the pod that reports it"""
    if notice.kind is NoticeKind.CHANGE:
        path, body = CHANGE, _change(notice, config, source)
    else:
        path, body = ENQUEUE, _alert(notice, config, source, urgency.severity)
    while len(orjson.dumps(body)) > MAX_BODY and body["payload"]["custom_details"]:
        details = body["payload"]["custom_details"]
        del details[max(details, key=lambda name: len(details[name]))]
    return path, body


def _alert(notice: Notice, config: Config, source: str, severity: Severity) -> dict[str, Any]:
    verdict = notice.verdict
    addresses = _links(notice, config, source)
    body = {
        "event_action": notice.kind.value,
        "dedup_key": notice.dedup_key[:MAX_KEY],
        "client": "gapwatch",
        "client_url": next((link["href"] for link in addresses if link["text"] == "Dashboard"), ""),
        "links": addresses,
        "images": _images(notice, config, source),
        "payload": {
            **_common(notice, source),
            "severity": severity.value,
            "component": verdict.subject,
            "group": verdict.base,
            "class": verdict.cause.value,
        },
    }
    return {name: value for name, value in body.items() if value}


def _without_incident(body: dict[str, Any]) -> dict[str, Any]:
    """The same as a change event, which has no key, no severity, and no class."""
    payload = {name: body["payload"][name] for name in ("summary", "source", "timestamp", "custom_details")}
    return {"payload": payload} | {name: body[name] for name in ("links", "images") if name in body}


def _change(notice: Notice, config: Config, source: str) -> dict[str, Any]:
    body = {"payload": _common(notice, source), "links": _links(notice, config, source)}
    return {name: value for name, value in body.items() if value}


def _links(notice: Notice, config: Config, source: str) -> list[dict[str, str]]:
    return [{"href": link.href, "text": link.text} for link in links(notice.verdict, config, source)]


def _images(notice: Notice, config: Config, source: str) -> list[dict[str, str]]:
    """A picture of what the incident is about; there is none of an end."""
    if notice.kind is not NoticeKind.TRIGGER or not config.image_url:
        return []
    page = next((link.href for link in links(notice.verdict, config, source) if link.text == "Dashboard"), "")
    picture = filled(config.image_url, about(notice.verdict, source))
    image = {"src": picture, "href": page, "alt": "retention and evidence"}
    return [{name: value for name, value in image.items() if value}]


def _common(notice: Notice, source: str) -> dict[str, Any]:
    return {
        "summary": notice.summary[:MAX_SUMMARY],
        "source": source,
        "timestamp": datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="milliseconds"),
        "custom_details": {name: text[:MAX_FIELD] for name, text in notice.details.items()},
    }
