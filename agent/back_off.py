"""A part that raises is told, and tried again later and later: the rest of the loop does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from agent.clock import Clock
from agent.errors import PositionLost, is_of_a_record

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class BackOff:
    """part: its name in the log

    words: what its last call raised and what happens next, "" where it returned
    suspicions: how often in a row it has raised one kind of error, of those that may be the fault of what it was given
    """

    def __init__(self, part: str, clock: Clock) -> None:
        self._part, self._clock = part, clock
        self._error, self._wait_s, self._not_before = "", 0.0, float("-inf")
        self.suspicions = 0

    @property
    def is_due(self) -> bool:
        """May it be called now?"""
        return self._clock.steady() >= self._not_before

    @property
    def error(self) -> str:
        """The class of what its last call raised, "" where it returned."""
        return self._error

    @property
    def words(self) -> str:
        if not self._error:
            return ""
        wait_s = max(0.0, self._not_before - self._clock.steady())
        return f"failed with {self._error} (the log has the traceback), tried again in {wait_s:.0f} s"

    def tried(self, call: Callable[[], Answer]) -> Answer | None:
        """Its answer; None where it raises an Exception, or is not due. Logged once for each kind of error in a row.
        Raises PositionLost."""
        if not self.is_due:
            return None
        try:
            answer = call()
        except PositionLost:
            raise
        except Exception as error:
            self._failed(error)
            return None
        self.recovered()
        return answer

    def recovered(self) -> None:
        """It works: what it raised last is over."""
        if self._error:
            log.info("part_ok_again", part=self._part, was=self._error)
        self._error, self._wait_s, self._not_before = "", 0.0, float("-inf")
        self.suspicions = 0

    def _failed(self, error: Exception) -> None:
        name = type(error).__name__  # its message could quote production text
        if name != self._error:
            log.error("part_failed", part=self._part, exc_info=error)
            self.suspicions = 0
        self._error = name
        self.suspicions = self.suspicions + 1 if is_of_a_record(error) else 0
        self._wait_s = min(LONGEST_WAIT_S, max(FIRST_WAIT_S, 2 * self._wait_s))
        self._not_before = self._clock.steady() + self._wait_s
