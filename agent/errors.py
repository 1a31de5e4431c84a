"""Errors of the world, named for the reaction they ask for.

AgentError
├── Retryable    the same call may succeed later (broker away, ClickHouse restarting, HTTP 429 or 5xx)
├── Unreadable   one record is bad: count it, set it aside, go on
└── Refused      config or request is wrong and will stay wrong: says what was seen, what was wanted, what to do

Anything else leaves the loop, and Kubernetes restarts the pod.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of the tree."""


class Retryable(AgentError):
    """Try again with back-off. where: the part that is away, as the config names it."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why


class Unreadable(AgentError):
    """One record cannot be read. reason: a value of records.RejectionReason; detail never holds production text."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Refused(AgentError):
    """A setting or a request that makes no sense. place: key path in the config, file, or argument."""

    def __init__(self, place: str, seen: object, wanted: str) -> None:
        super().__init__(f"{place}: saw {seen}, wanted {wanted}")
        self.place, self.seen, self.wanted = place, seen, wanted


class Unfit(ValueError):
    """A setting that cannot be right, for validators: pydantic takes ValueErrors alone, and knows the place."""

    def __init__(self, seen: str, wanted: str) -> None:
        super().__init__(f"saw {seen}, wanted {wanted}")
        self.seen, self.wanted = seen, wanted
