"""The last day, from the store: asked on its own thread when somebody looks at the page, which never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from agent.clock import Clock
from agent.store.history import History

EVERY_S = 30.0
CLOSING_S = 0.5

log = structlog.get_logger(__name__)

Ask = Callable[[], History]


class Lookback:
    """ask: takes as long as the store does, and raises whatever it does

    ``latest`` is what was answered last, and begins another question where that is older than EVERY_S and none is on
    its way; ``words`` says how old it is where the store does not answer.
    """

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._history, self._asked_at, self._is_asking = History(), float("-inf"), False
        self._why = ""
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def close(self) -> None:
        """Ask nothing more; a question on its way has a moment to come back, before the store's client is closed."""
        with self._lock:
            self._is_closed, thread = True, self._thread
        if thread is not None:
            thread.join(CLOSING_S)

    def latest(self) -> History:
        with self._lock:
            is_old = self._clock.steady() - self._asked_at >= EVERY_S
            if is_old and not self._is_asking and not self._is_closed:
                self._is_asking, self._asked_at = True, self._clock.steady()
                self._thread = threading.Thread(target=self._refresh, name="status page", daemon=True)
                self._thread.start()
        return self._history

    @property
    def words(self) -> str:
        """What is not known, "" where the store answers."""
        if self._why:
            return f"the store does not answer ({self._why}): what is shown of before is as it last said"
        return "" if self._history.at else "the store is being asked about the last day"

    def _refresh(self) -> None:
        try:
            self._history, self._why = self._ask(), ""
        except Exception as error:  # of any kind: the page shows what this process knows
            if not self._why:
                log.warning("history_not_read", why=type(error).__name__)
            self._why = type(error).__name__
        finally:
            with self._lock:
                self._is_asking = False
