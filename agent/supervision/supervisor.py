"""Keeps the agent running: from the configuration in force, and after every unexpected error once more.

gapwatch runs as a restartable init container, and what ends such a container makes the pod of the engine unready. So
nothing but a wrong command line ends the process: a configuration that cannot be used and an error that nobody expected
are states, shown by /readyz and a metric, logged, and tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog

from agent.clock import Clock
from agent.config import Config
from agent.errors import Refused
from agent.health import Health, Routes, Statuses, no_routes
from agent.supervision import garbage
from agent.supervision.config_file import ConfigFile

log = structlog.get_logger(__name__)

IDLE_S = 0.1
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
GOOD_S = 300.0  # after running so long, the next error is the first again
BUDGET_S = 4.0


class Agent(Protocol):
    """What is kept running; agent.app.App is one."""

    @property
    def routes(self) -> Routes: ...
    def open(self, opened: ExitStack) -> None: ...
    def step(self) -> bool: ...


class Supervisor:
    """``step`` turns the agent once, or starts it where it is due; it never raises an Exception.

    assemble: from a configuration, not yet opened; Refused puts the former configuration in force again, and any other
    error is waited for: 1 s, doubled up to 60 s, and 1 s again after five good minutes
    ports: of the health servers, public and control, which are open before anything else and stay open throughout
    """

    def __init__(
        self, file: ConfigFile, assemble: Callable[[Config], Agent], clock: Clock, ports: tuple[int, int]
    ) -> None:
        self._file, self._assemble, self._clock = file, assemble, clock
        self._idle = replace(no_routes(), parts=partial(self._statuses, dict))
        self.health = Health(self._idle, clock, *ports)
        self._agent: Agent | None = None
        self._opened = ExitStack()
        self._in_force: Config | None = None
        self._started_at = 0.0
        self._not_before, self._delay_s = float("-inf"), 0.0
        self._last_error = ""
        self.restarts = 0

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; the parts are then closed, each within its share of the shutdown budget."""
        self.health.open()
        try:
            while not stop.is_set():
                if not self.step():
                    stop.wait(IDLE_S)
        finally:
            self._take_down()
            self.health.close()

    def step(self) -> bool:
        """One turn. True when there was something to do."""
        try:
            is_busy = self._turn()
        except Exception as error:
            self._failed(error)
            is_busy = False
        self.health.touch()
        return is_busy

    @property
    def shutdown_budget_s(self) -> float:
        return self._in_force.shutdown_budget if self._in_force else BUDGET_S

    def _turn(self) -> bool:
        self._file.look()
        config = self._file.config
        if config is not self._in_force:
            self._in_force, self._not_before, self._delay_s = config, float("-inf"), 0.0
            self._take_down()
        if self._agent is None and config is not None and self._clock.steady() >= self._not_before:
            self._start(config)
        self._count()
        return self._agent is not None and self._agent.step()

    def _start(self, config: Config) -> None:
        garbage.collect()  # another agent needs as much memory as the former one
        with ExitStack() as opened:
            try:
                agent = self._assemble(config)
                agent.open(opened)
            except Refused as error:
                self._file.refuse_in_force(error)
                return
            self._opened = opened.pop_all()
        garbage.leave_out()
        self._agent, self._started_at = agent, self._clock.steady()
        self.health.routes = replace(agent.routes, parts=partial(self._statuses, agent.routes.parts))
        log.info("agent_started", cluster=config.cluster, pod=config.pod)

    def _failed(self, error: Exception) -> None:
        now = self._clock.steady()
        if self._agent is not None and now - self._started_at >= GOOD_S:
            self._delay_s = 0.0
        self._delay_s = min(LONGEST_DELAY_S, max(FIRST_DELAY_S, 2 * self._delay_s))
        self._not_before = now + self._delay_s
        # Its message may quote what a tenant wrote, and /readyz answers anybody.
        self._last_error = f"{type(error).__name__} (the log has the traceback)"
        self.restarts += 1
        with suppress(Exception):  # out of memory, say: that it is not logged must not end the process
            log.error("agent_failed", why=self._last_error, starts_again_in_s=self._delay_s, exc_info=error)
        self._take_down()
        self._count()

    def _take_down(self) -> None:
        """Close what is open. An error in that is logged: there is nothing to do about it."""
        self._agent, self.health.routes = None, self._idle
        opened, self._opened = self._opened, ExitStack()
        try:
            opened.close()
        except Exception as error:
            with suppress(Exception):
                log.error("close_failed", exc_info=error)

    def _count(self) -> None:
        """On the page of the agent that runs: each has its own, so that no series outlives its adapter."""
        telemetry = self.health.routes.telemetry
        telemetry.set("gapwatch.restarts", self.restarts)
        telemetry.set("gapwatch.config.loaded_at", self._file.loaded_at)

    def _statuses(self, parts: Callable[[], Statuses]) -> Statuses:
        return {"config": self._file.status, "agent": self._loop(), "health": self.health.status, **parts()}

    def _loop(self) -> tuple[bool, str]:
        last = f"; restarts: {self.restarts}, the last after {self._last_error}" if self.restarts else ""
        if self._agent is not None:
            return True, f"running{last}"
        if self._file.config is None:
            return False, "waits for a configuration that can be used"
        wait_s = self._not_before - self._clock.steady()
        return False, f"{self._last_error}; starts again in {wait_s:.0f} s" if wait_s > 0 else f"starting{last}"
