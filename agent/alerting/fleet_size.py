"""How many pods share the budget of false pages, where the configuration does not say it: the most alive at once."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from agent.errors import AgentError

EVERY_S = 300.0

log = structlog.get_logger(__name__)


class FleetSize:
    """``now_known(now)``: the most pods of the cluster that were alive in one minute of the last day, by heartbeats.

    known: what an earlier run knew, 1 before the first; ask: the store, may raise AgentError. It is asked at the first
    call and then every five minutes; while it is away the last answer holds.
    A rise counts at once. A fall counts a day later, when the pods that are gone have left the day that is looked at.
    All pods of the cluster count, whatever their configuration: several Deployments then share one budget, and each
    expects the part of it that its pods are. Guarantee and what breaks it: docs/mathematics.md#false-alarm-budget.
    """

    def __init__(self, known: int, ask: Callable[[], int]) -> None:
        self._known, self._ask = max(known, 1), ask
        self._asked_at: float | None = None

    def now_known(self, now: float) -> int:
        if self._asked_at is None or not 0 <= now - self._asked_at < EVERY_S:
            try:
                self._known, self._asked_at = max(self._ask(), 1), now
            except AgentError as error:
                log.debug("fleet_size_unknown", why=str(error), pods=self._known)
        return self._known
