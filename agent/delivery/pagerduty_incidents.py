"""Is an incident open at PagerDuty, and has somebody acknowledged it? Read from its REST API with a token of its own.

The Events API takes what is sent and tells nothing: neither that somebody works on an incident nor that somebody has
resolved it by hand. What follows there from a further trigger of the same key is PagerDuty's rule: of an open incident
it is one more line of its log and calls nobody, acknowledged or not; of one that is resolved it opens a new one, and
calls. So a token is worth one thing here: an update of an incident that somebody has resolved need not wake anybody.

A read-only token is enough, and is sent to ``api_url`` alone.

Source: https://developer.pagerduty.com/api-reference/9d0b4b12e36f9-list-incidents
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agent.errors import Retryable

API_URL = "https://api.pagerduty.com"
OPEN = ("triggered", "acknowledged")
WANTED = "wanted a file with a read-only key of PagerDuty's REST API"


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """acknowledged_by: (name, time as PagerDuty writes it) of each; url: of its page, "" where that is not given"""

    acknowledged_by: tuple[tuple[str, str], ...] = ()
    url: str = ""


def open_incident(http: httpx.Client, api_url: str, token_file: Path, dedup_key: str) -> OpenIncident | None:
    """What is open under this key, at whichever service; None where nothing is.

    token_file: read for every question: a key that was rotated is in force at once
    Raises Retryable where it cannot be told. Its message never holds the token.
    """
    token = _token(token_file)
    query = {"incident_key": dedup_key, "statuses[]": OPEN, "date_range": "all", "limit": "1"}
    headers = {"Authorization": f"Token token={token}", "Accept": "application/vnd.pagerduty+json;version=2"}
    try:
        answer = http.get(f"{api_url}/incidents", params=query, headers=headers)
    except httpx.HTTPError as error:
        raise Retryable("alerts.pagerduty.api_url", type(error).__name__) from None
    if answer.status_code in (401, 403):
        raise Retryable("alerts.pagerduty.api_token_file", f"HTTP {answer.status_code}: the token is not accepted")
    try:
        incidents = answer.json()["incidents"] if answer.status_code == 200 else None
        return _read(incidents[0]) if incidents else None if incidents == [] else _untold(answer)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _untold(answer)


def _token(file: Path) -> str:
    """Raises Retryable."""
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        fault = str(error.strerror) if isinstance(error, OSError) else "bytes that are no text"
        raise Retryable("alerts.pagerduty.api_token_file", f"saw {fault}, {WANTED}") from None
    if not token or len(token.split()) > 1:
        raise Retryable("alerts.pagerduty.api_token_file", f"saw {len(token.split())} words, {WANTED}")
    return token


def _read(incident: dict[str, Any]) -> OpenIncident:
    acknowledged = incident.get("acknowledgements") or []
    who = tuple((str(own["acknowledger"]["summary"]), str(own["at"])) for own in acknowledged)
    return OpenIncident(who, str(incident.get("html_url") or ""))


def _untold(answer: httpx.Response) -> OpenIncident | None:
    raise Retryable("alerts.pagerduty.api_url", f"HTTP {answer.status_code}, wanted a list of incidents")
