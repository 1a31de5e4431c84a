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


class About(NamedTuple):
    """What an address is filled in with. cause: name of the runbook, "" where there is none"""

    cause: str
    subject: str
    base: str
    pod: str


def links(verdict: Verdict, addresses: Addresses, pod: str) -> tuple[Link, ...]:
    """In the order in which they are needed."""
    return links_about(about(verdict, pod), addresses)


def links_about(subject: About, addresses: Addresses) -> tuple[Link, ...]:
    """As ``links``, where no verdict is at hand."""
    pages = {
        f"Runbook: {subject.cause}": addresses.runbook_url if subject.cause else "",
        "Dashboard": addresses.dashboard_url,
        "Status page": addresses.status_url,
    }
    return tuple(Link(text, filled(address, subject)) for text, address in pages.items() if address)


def about(verdict: Verdict, pod: str) -> About:
    """pod: that reports it"""
    return About(runbook_of(verdict), verdict.subject, verdict.base, pod)


def filled(address: str, subject: About) -> str:
    """Names as engines allow them, with spaces, slashes and quotes, must not end an address or begin another part."""
    for name, value in subject._asdict().items():
        address = address.replace(f"{{{name}}}", quote(value, safe=""))
    return address
