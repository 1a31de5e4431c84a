"""Findings for the status page: what the loop found is on it, whoever asks and whenever."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from agent.records import Finding
from agent.surroundings import Surroundings


class Config(BaseModel):
    """Nothing to set: the ports are those of the ``telemetry`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sink:
    """Keeps the board up to date; whoever made it serves the page."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:  # noqa: ARG002 - one shape for all sinks
        self._board = surroundings.board

    def open(self) -> None:
        """Nothing to reach: the page is asked for."""

    def submit(self, finding: Finding) -> None:
        self._board.submit(finding)

    def flush(self) -> bool:
        return True

    def close(self, budget_s: float) -> None:
        """Nothing to end."""

    @property
    def status(self) -> tuple[bool, str]:
        return True, "served on request"
