"""An engine that is asked within limits: what stands between gapwatch and a serving engine that has users.

Before each request that the engine computes for: is it paused, is the request small enough, is there budget left, is
the engine idle enough? Who waits looks at ``stop`` and at the pause file meanwhile. What is allowed, and why:
probes/serving/load_limits.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from probes.errors import EngineAway, ProbeError, Unreplayable
from probes.serving.engine import (
    Answered,
    Between,
    Capabilities,
    Engine,
    EngineIdentity,
    HoldsAdapters,
    Load,
    Request,
    Route,
    ServedModel,
    at_once,
)
from probes.serving.load_limits import Cost, LoadLimits, Pace, check, cost_of, fits

# Of one wait, before it is looked whether it still has to be; a load that was read this long ago is read again.
LOOK_S = 1.0
T = TypeVar("T")


class Stopped(ProbeError):
    """The caller wants no more, and its request was not sent."""


class SteadyTime(Protocol):
    """Seconds of one steady clock."""

    def steady(self) -> float:
        """Now; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Block this thread for so long."""


class MachineTime:
    """The machine's own."""

    def steady(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class LoadGuard:
    """What has been asked of one address, and when more may be; it outlives connections. Called from one thread.

    where: the address, for messages; pause_file: nothing is asked while a file of that name exists, "" for none
    stop: of the call that is being answered, which whoever asks sets
    """

    def __init__(
        self, where: str, limits: LoadLimits | None = None, pause_file: str = "", clock: SteadyTime | None = None
    ) -> None:
        self.where, self.limits, self.pause_file = where, limits or LoadLimits(), pause_file
        self.stop: Callable[[], bool] = _never
        self._clock, self._pace = clock or MachineTime(), Pace(self.limits)
        self._load, self._load_at, self._beside = Load(), float("-inf"), 0

    @contextmanager
    def until(self, stop: Callable[[], bool], beside: int = 0) -> Iterator[None]:
        """Waits in this block end with Stopped once ``stop()`` is true. beside: gapwatch's own other requests, which
        may be those that queue"""
        self.stop, self._beside = stop, beside
        try:
            yield
        finally:
            self.stop, self._beside = _never, 0

    def steady(self) -> float:
        """Seconds of the clock that waits go by."""
        return self._clock.steady()

    def paused(self) -> str:
        """Why nothing is asked, in words; "" while it may be."""
        try:
            is_there = bool(self.pause_file) and Path(self.pause_file).exists()
        except OSError as error:  # somebody wants something by it, and cannot be asked what
            return f"{self.where} is asked nothing: whether {self.pause_file} exists cannot be told: {error.strerror}"
        return f"{self.where} is asked nothing while {self.pause_file} exists; remove it to go on" if is_there else ""

    def ask(self, call: Callable[[], T]) -> T:
        """Of what costs the engine no computing. Raises EngineAway while it is paused."""
        if why := self.paused():
            raise EngineAway(self.where, why)
        try:
            return call()
        except EngineAway as error:
            if error.again_in_s is not None:
                self._pace.refused(error, self._clock.steady())
            raise

    def compute(self, cost: Cost, length: int, load: Callable[[], Load], call: Callable[[], T]) -> T:
        """Send it once it may be sent. load: of the engine; length: tokens of prompt and continuation

        Raises Unreplayable for what is too large, Stopped, and EngineAway where the engine is paused, has just refused,
        or stays busy for longer than the patience for it.
        """
        check(cost, length, self.limits, self.where)
        self._wait(load, self._pace.wait_s)
        self._pace.sent(cost, self._clock.steady())
        try:
            answer = call()
        except EngineAway as error:
            self._pace.refused(error, self._clock.steady())
            raise
        except Unreplayable:
            self._pace.answered()
            raise
        self._pace.answered()
        return answer

    def between(self, load: Callable[[], Load]) -> None:
        """Before every further request of a call whose budget was counted as a whole: the engine may have become busy,
        or the caller want no more. Raises as ``compute``."""
        if self.stop():
            raise Stopped(f"{self.where}: stopped between two requests")
        self._wait(load, self._pace.idle_wait_s)

    def _wait(self, load: Callable[[], Load], wait_s: Callable[[Load, float], float]) -> None:
        patient_until = self._clock.steady() + self.limits.patience_s
        while True:
            if why := self.paused():
                raise EngineAway(self.where, why)
            now = self._clock.steady()
            if held := self._pace.held_s(now):
                raise EngineAway(self.where, f"it refused a request and is asked again in {held:.0f} s", held)
            present = self._present(load, now)
            wait = wait_s(present, now)
            if wait <= 0:
                return
            if self.stop():
                raise Stopped(f"{self.where}: stopped while a request waited")
            if self.limits.is_busy(present) and now >= patient_until:
                raise EngineAway(self.where, f"busy for {self.limits.patience_s:.0f} s: {_in_words(present)}")
            self._clock.sleep(min(wait, LOOK_S))

    def _present(self, load: Callable[[], Load], now: float) -> Load:
        """Unknown where it cannot be read: it is the answers that count."""
        if now - self._load_at >= LOOK_S:
            self._load_at = now
            try:
                self._load = self.ask(load)
            except EngineAway:
                raise
            except Unreplayable:
                self._load = Load()
        if self._load.waiting is None:
            return self._load
        return replace(self._load, waiting=max(self._load.waiting - self._beside, 0))


class LimitedEngine:
    """``engine``, asked through a guard. Keeps the protocol ``Engine``; one request is in flight at a time.

    capabilities: as found by asking. A vocabulary that the engine does not tell is taken as a large one. What does not
    fit as a prompt is walked where the engine can, which holds one position at a time.
    """

    def __init__(self, engine: Engine, capabilities: Capabilities, guard: LoadGuard) -> None:
        self._engine, self._known, self._guard = engine, capabilities, guard

    def capabilities(self) -> Capabilities:
        return self._known

    def models(self) -> tuple[ServedModel, ...]:
        return self._guard.ask(self._engine.models)

    def identity(self) -> EngineIdentity:
        return self._guard.ask(self._engine.identity)

    def load(self) -> Load:
        return self._guard.ask(self._engine.load)

    def adapter_slots(self) -> int | None:
        return self._guard.ask(self._engine.adapter_slots) if isinstance(self._engine, HoldsAdapters) else None

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        length, taken = len(request.prompt) + len(continuation), self._fitting(request, len(continuation), route)
        cost, load = self._cost(request, len(continuation), taken), self._engine.load

        def step() -> None:
            between()
            self._guard.between(load)

        return self._guard.compute(cost, length, load, lambda: self._engine.score(request, continuation, taken, step))

    def generate(self, request: Request, tokens: int) -> Answered:
        cost = self._cost(request, tokens, Route.GENERATED)
        length = len(request.prompt) + tokens
        return self._guard.compute(cost, length, self._engine.load, lambda: self._engine.generate(request, tokens))

    def encode(self, model: str, text: str) -> tuple[int, ...]:
        return self._guard.ask(lambda: self._engine.encode(model, text))

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return self._guard.ask(lambda: self._engine.encode_chat(model, messages))

    def decode(self, model: str, ids: Sequence[int]) -> str:
        return self._guard.ask(lambda: self._engine.decode(model, ids))

    def close(self) -> None:
        self._engine.close()

    def _fitting(self, request: Request, tokens: int, route: Route) -> Route:
        if route is not Route.PROMPT or Route.WALK not in self._known.routes:
            return route
        cost = self._cost(request, tokens, route)
        return route if fits(cost, len(request.prompt) + tokens, self._guard.limits) else Route.WALK

    def _cost(self, request: Request, tokens: int, route: Route) -> Cost:
        return cost_of(len(request.prompt), tokens, request.listed, route, self._known.vocabulary)


def _never() -> bool:
    return False


def _in_words(load: Load) -> str:
    waiting = "" if load.waiting is None else f"{load.waiting} requests wait"
    usage = "" if load.cache_usage is None else f"the key-value cache is {load.cache_usage:.0%} full"
    return ", ".join(filter(None, (waiting, usage)))
