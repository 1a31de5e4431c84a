"""Where does a reader go from a notice? The configured addresses, filled in for what it is about. Pure."""

from __future__ import annotations

from typing import NamedTuple, Protocol
from urllib.parse import quote

from agent.alerting.notice_text import runbook_of
from detectors.records import Verdict


class Link(NamedTuple):
    """One address and what it leads to."""

    text: str
    href: str


class Addresses(Protocol):
    """Settings of a sink, "" for no such page. ``{cause}``, ``{subject}``, ``{base}`` and ``{pod}`` in them are filled
    in; runbook_url is only used where there is a runbook, and ``{cause}`` is its name."""

    @property
    def runbook_url(self) -> str: ...
    @property
    def dashboard_url(self) -> str: ...
    @property
    def status_url(self) -> str: ...


def links(verdict: Verdict, addresses: Addresses, pod: str) -> tuple[Link, ...]:
    """In the order in which they are needed."""
    page = runbook_of(verdict)
    pages = {
        f"Runbook: {page}": addresses.runbook_url if page else "",
        "Dashboard": addresses.dashboard_url,
        "Status page": addresses.status_url,
    }
    return tuple(Link(text, filled(address, verdict, pod)) for text, address in pages.items() if address)


def filled(address: str, verdict: Verdict, pod: str) -> str:
    """Names as engines allow them, with spaces, slashes and quotes, must not end an address or begin another part."""
    names = {"cause": runbook_of(verdict), "subject": verdict.subject, "base": verdict.base, "pod": pod}
    for name, value in names.items():
        address = address.replace(f"{{{name}}}", quote(value, safe=""))
    return address
