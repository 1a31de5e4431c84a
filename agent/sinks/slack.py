"""Notices as messages in a Slack channel, by an incoming webhook: one message for each notice.

To be read, not to wake: for the fleet and for the dead man's switch it counts as nothing that pages. A webhook answers
"ok" and nothing else, so that no message can be changed later, and none can be put into the thread of another: the end
of an incident is a message of its own, with the same subject in its first line.

Source: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, .../block-kit (limits:
section 3000, field 2000 characters, 10 fields) and .../apis/web-api/rate-limits (429 with Retry-After; one a second).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from agent.alerting.notice_text import CHANGED, FIRST_ACTION, PODS, RELOAD, ROLL_BACK
from agent.alerting.page_words import clauses
from agent.alerting.policy import Severity, Urgency
from agent.delivery.links import Link, links
from agent.delivery.outbox import Entry, Outbox
from agent.delivery.secret_file import SecretFile
from agent.delivery.sender import THROTTLED, Outcome, Pace, Sender
from agent.records import Finding, Notice, NoticeKind
from agent.surroundings import Surroundings

MAX_TEXT, MAX_FIELD = 3000, 2000
PART = "sink slack"
# What no retry mends, by Slack's list of errors: the message itself is wrong.
WRONG_MESSAGES = ("invalid_payload", "invalid_blocks", "no_text", "too_many_attachments", "msg_too_long")
SIGNS = {Severity.CRITICAL: ":red_circle:", Severity.ERROR: ":red_circle:", Severity.WARNING: ":large_yellow_circle:"}
# Details that a reader wants at a glance; the rest is a command away.
FIELDS = ("onset", CHANGED, PODS, "retention", "adapters", "evidence", "reopened", "hash base", "hash adapter")


class Config(BaseModel):
    """webhook_file: a mounted file with the whole address of the webhook, which is a secret

    runbook_url, dashboard_url, status_url: see agent/delivery/links.py; outbox_limit: messages kept while Slack is away
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    webhook_file: Path
    runbook_url: str = ""
    dashboard_url: str = ""
    status_url: str = ""
    outbox_limit: int = Field(default=200, ge=1)
    timeout_s: float = Field(default=10.0, gt=0)
    retry_s: float = Field(default=1.0, gt=0)
    max_retry_s: float = Field(default=300.0, gt=0)


class Sink:
    """Sends notices; every other finding is ignored."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._policy, self._pod = config, surroundings.policy, surroundings.pod
        pace = Pace(config.timeout_s, config.retry_s, config.max_retry_s, throttle_s=30.0)
        outbox = Outbox(surroundings.state_dir / "slack", config.outbox_limit, PART, surroundings.disk)
        self._sender = Sender(outbox, _Webhook(config), pace, surroundings.clock, "slack", "Slack")

    def open(self) -> None:
        self._sender.open()

    def submit(self, finding: Finding) -> None:
        if isinstance(finding, Notice):
            pages = links(finding.verdict, self._config, self._pod)
            body = to_message(finding, self._policy.of_notice(finding), pages, self._pod)
            droppable = finding.kind is NoticeKind.CHANGE
            self._sender.outbox.add(finding.dedup_key, "", body, droppable=droppable, after=finding.after)
            self._sender.wake()

    def flush(self) -> bool:
        """True when every message lies on disk (or was sent)."""
        return self._sender.outbox.flush()

    def close(self, budget_s: float) -> None:
        self._sender.close(budget_s)

    @property
    def status(self) -> tuple[bool, str]:
        return self._sender.status


class _Webhook:
    """The one channel that the webhook belongs to."""

    def __init__(self, config: Config) -> None:
        wanted = "a mounted file with the https:// address of the webhook"
        self.secrets = {"": SecretFile(config.webhook_file, "sinks.slack.webhook_file", PART, wanted, _no_address)}

    def as_of_now(self, http: httpx.Client, entry: Entry) -> Entry:  # noqa: ARG002 - a message calls nobody
        return entry

    def request(self, entry: Entry, secret: str) -> tuple[str, Any]:
        return secret, entry.body

    def outcome(self, answer: httpx.Response) -> tuple[Outcome, str]:
        if answer.is_success:
            return Outcome.DONE, ""
        why = f"HTTP {answer.status_code}"
        if answer.status_code >= 500 or answer.status_code == THROTTLED:
            return Outcome.LATER, why
        if answer.text.strip() in WRONG_MESSAGES:
            return Outcome.REFUSED, why
        return Outcome.MUCH_LATER, f"{why}: is the webhook still there, and its channel?"


def to_message(notice: Notice, urgency: Urgency, pages: tuple[Link, ...], pod: str = "") -> dict[str, Any]:
    """One notice as the body of a webhook, within the limits of its blocks. Pure. pod: that reports it"""
    summary = f"{_sign(notice, urgency)} {_escaped(notice.summary)}"
    sentences = [notice.details.get("seen", ""), _order(notice), _roll_back(notice)]
    words = [_escaped(text) for text in sentences if text]
    about = [_escaped(notice.details.get(name, "")) for name in ("sent because", "explain")]
    reporter = f"reported by {_escaped(pod)}" if pod and notice.kind is NoticeKind.TRIGGER else ""
    blocks = [
        _section(f"*{summary}*"),
        *(_section(text) for text in words),
        *_fields(notice),
        *([_section("  |  ".join(f"<{page.href}|{_escaped(page.text)}>" for page in pages))] if pages else []),
        {
            "type": "context",
            "elements": [_text("; ".join(filter(None, (*about, *_named(notice, urgency), reporter))), MAX_FIELD)],
        },
    ]
    return {"text": _cut(summary, MAX_TEXT), "blocks": blocks}


def _sign(notice: Notice, urgency: Urgency) -> str:
    if notice.kind is NoticeKind.RESOLVE:
        return ":white_check_mark:"
    return ":information_source:" if notice.kind is NoticeKind.CHANGE else SIGNS.get(urgency.severity, ":white_circle:")


def _order(notice: Notice) -> str:
    action = notice.details.get(FIRST_ACTION, "")
    if not action or notice.kind is NoticeKind.RESOLVE:
        return ""
    steps, call = clauses(action), notice.details.get(RELOAD, "")
    lines = ["First:", *steps] if len(steps) > 1 else [f"First: {action}"]
    return "\n".join([*lines, *([f"Load again: {call}"] if call else [])])


def _roll_back(notice: Notice) -> str:
    how = notice.details.get(ROLL_BACK, "")
    return f"How you roll back: {how}" if how else ""


def _named(notice: Notice, urgency: Urgency) -> tuple[str, ...]:
    """Of an incident that is open: its end names no cause, and a change is nobody's to mend."""
    if notice.kind is not NoticeKind.TRIGGER:
        return ()
    return (f"severity {urgency.severity.value}", f"owner {urgency.owner}" if urgency.owner else "")


def _fields(notice: Notice) -> list[dict[str, Any]]:
    given = [(name, notice.details[name]) for name in FIELDS if notice.details.get(name)]
    fields = [_text(f"*{name}*\n{_escaped(value)}", MAX_FIELD) for name, value in given]
    return [{"type": "section", "fields": fields}] if fields else []


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _text(text, MAX_TEXT)}


def _text(text: str, longest: int) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": _cut(text, longest) or " "}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _escaped(text: str) -> str:
    """So that a name is no mention, link or command."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _no_address(secret: str) -> str:
    """Plain http is for tests on this machine: the address is all that lets somebody write into the channel."""
    if secret.startswith(("https://", "http://127.0.0.1:")):
        return ""
    return "an empty file" if not secret else f"{len(secret)} characters that begin otherwise"
