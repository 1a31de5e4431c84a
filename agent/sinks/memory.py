"""Findings kept in memory: for dry runs and tests, which read them back with ``of``."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from agent.records import Finding, Notice
from agent.surroundings import Surroundings
from detectors.records import Verdict

Kind = TypeVar("Kind")


class Config(BaseModel):
    """keep: newest findings held; older ones are forgotten."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    keep: int = Field(default=100_000, ge=1)


class Sink:
    """Takes everything at once; set ``settled`` to False to imitate a store that is away."""

    def __init__(self, config: Config | None = None, surroundings: Surroundings | None = None) -> None:  # noqa: ARG002
        self.findings: deque[Finding] = deque(maxlen=(config or Config()).keep)
        self.settled = True
        self.opened = self.closed = False

    def open(self) -> None:
        self.opened = True

    def submit(self, finding: Finding) -> None:
        self.findings.append(finding)

    def flush(self) -> bool:
        return self.settled

    def close(self, budget_s: float) -> None:  # noqa: ARG002
        self.closed = True

    @property
    def status(self) -> tuple[bool, str]:
        return self.settled, f"{len(self.findings)} findings held"

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Findings of one record type, oldest first."""
        return [finding for finding in self.findings if isinstance(finding, kind)]

    @property
    def notices(self) -> list[Notice]:
        return self.of(Notice)

    @property
    def verdicts(self) -> list[Verdict]:
        return self.of(Verdict)
