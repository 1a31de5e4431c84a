"""The runner that replays canaries on the serving engine itself, over HTTP: what users get is what is measured.

Which requests, in which order, and what their answers mean; how an engine is asked is probes/serving/dialects/, and how
much, probes/serving/limited_engine.py. One request is in flight at a time. What an engine cannot show raises
Unsupported or Unreplayable: few engines answer at another strength than 0 (the base) and 1, none has golden copies or
injects faults. No torch here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from detectors.records import Floats, Identity, Mode, Reason
from probes.artefacts.identity import NEWEST, adapter_hash
from probes.canaries.eviction import evicted_in_words, others_of
from probes.errors import EngineAway, Unreplayable, Unsupported
from probes.runner import BatchShape, PushedOut, Readiness, Replay, Replayed, Stop, Target, Weights
from probes.serving.company import company
from probes.serving.desired_state import differences_by_file
from probes.serving.discovery import connect
from probes.serving.engine import (
    Address,
    Answered,
    Capabilities,
    Engine,
    EngineIdentity,
    HoldsAdapters,
    Listed,
    Request,
    Route,
    ServedModel,
)
from probes.serving.engine_events import (
    EngineState,
    FileTimes,
    engine_in_words,
    events_in_words,
    file_times,
    source_in_words,
    state_of,
)
from probes.serving.limited_engine import LimitedEngine, LoadGuard, SteadyTime, Stopped
from probes.serving.listed_summary import first, summary_of, whole_of
from probes.serving.load_limits import LoadLimits
from probes.serving.name_check import base_in_words, stranger_in_words
from probes.serving.probe_check import NAMES, SCORING, Probe, ProbeCheck

# Rounds for which an adapter stays suspect after an answer that was apart: of one request in eight, four draws show
# nothing in every fifth round.
SUSPECT_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Config:
    """An engine, and the base and adapters that it serves.

    served: url, engine (a dialect, or "auto"), token_file, ca_file, pause_file: while that file exists the engine is
    asked nothing; desired_file: what it is meant to serve; "" or absent where there is none
    base: its name in the engine's list of models; adapters: name there -> PEFT folder, "" where it is not at hand
    listed_as: name of an adapter here -> in that list, where it is another one: skills of a composition are one model
    listed: tokens that are wanted at each position; fewer where the engine lists fewer. Golden records hold 20
    limits: fields of LoadLimits that are not its defaults
    evict_every_s: between two times at which an adapter is pushed out of the engine's memory, None for never
    """

    served: dict[str, str]
    base: str
    adapters: dict[str, str] = field(default_factory=dict)
    listed: int = 20
    limits: dict[str, Any] = field(default_factory=dict)
    listed_as: dict[str, str] = field(default_factory=dict)
    evict_every_s: float | None = None

    def __post_init__(self) -> None:
        if not self.served.get("url"):
            raise ValueError("served without a url: wanted the address of the serving engine")
        if self.listed < 1:
            raise ValueError(f"listed {self.listed}: wanted at least 1 token a position, 20 as golden records hold")

    @property
    def address(self) -> Address:
        return Address(self.served["url"], self.served.get("token_file", ""), self.served.get("ca_file", ""))

    def guard(self, clock: SteadyTime | None) -> LoadGuard:
        pause_file = self.served.get("pause_file", "")
        return LoadGuard(self.served["url"], LoadLimits(**self.limits), pause_file, clock)


@dataclass(frozen=True, slots=True)
class _Connection:
    """An engine as it was when it was connected to; another one answers there once ``start`` differs.

    check: of its routes
    """

    engine: Engine
    capabilities: Capabilities
    start: tuple[str, str, str, float | None]
    check: ProbeCheck


class Runner:
    """See probes/runner.py for the contract. It keeps the optional protocols ``Listing``, ``Bounded``, ``SeesEvents``,
    ``AnswersInModes`` and ``PushesOut``.

    models: the engine's list at the last look; clock: None for the machine's
    """

    def __init__(
        self,
        config: Config,
        connect: Callable[[Address, str], Engine] = connect,
        clock: SteadyTime | None = None,
    ) -> None:
        self.config, self._connect, self._clock = config, connect, clock
        self._guard = config.guard(clock)
        self.models: tuple[ServedModel, ...] = ()
        self._connection: _Connection | None = None
        self._readiness: dict[str | None, Readiness] = self._all(Reason.NOT_REPLAYED_YET, "not opened")
        self._hashes: dict[tuple[str, int], tuple[FileTimes, str]] = {}
        self._decoded: dict[tuple[int, ...], str] = {}
        self._routes: dict[str, Route] = {}
        self._state: EngineState | None = None
        self._events: tuple[str, ...] = ()
        # Stands until the refresh after answers in modes: the round that they were news for was had then.
        self._has_news, self._news_was_used = False, False
        self._suspects: dict[str, int] = {}
        # The first eviction is one interval after the start: an engine that was just started has loads enough.
        self._evicted_at, self._evictions = self._guard.steady(), 0
        # What was noticed of unknown names, in words; None until the engine that answers now was asked by one.
        self._of_strangers: tuple[str, ...] | None = None

    def open(self) -> None:
        self.refresh()

    def close(self) -> None:
        self._disconnect()
        self._readiness = self._all(Reason.NOT_REPLAYED_YET, "not opened")

    def refresh(self) -> dict[str | None, Readiness]:
        """The engine's list of models now. Connects where it is not connected yet, and again to an engine that was
        started again with other settings."""
        # A token alone means the same as long as the same engine answers: forty requests a round would look at each.
        self._decoded = {ids: text for ids, text in self._decoded.items() if len(ids) == 1}
        if why := self._guard.paused():
            self._readiness = self._all(Reason.PAUSED, why)
            return dict(self._readiness)
        try:
            self._look()
        except EngineAway as error:
            self._lose(error)
        except Unreplayable as error:
            self._readiness = self._all(Reason.REPLAY_FAILED, str(error))
        return dict(self._readiness)

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """One request for each replay, those of one canary one after the other; ``stop`` is looked at before each."""
        for replay in replays:
            self._check(replay.target)
            self._check_length(replay)
        packing = shape or BatchShape()
        with self._company(replays, packing.beside):
            for replay in _side_by_side(replays):
                if stop():
                    return
                try:
                    with self._guard.until(stop, packing.beside):
                        answer = self._answer(replay, packing)
                except Stopped:
                    return
                yield answer

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        """In one request, before which ``stop`` is looked at."""
        model = self._check(target)
        if stop():
            return ()
        try:
            with self._guard.until(stop):
                request = replace(self._request(model, prompt, 1), strength=self._strength(target))
                answered = self._connected().engine.generate(request, max_new_tokens)
        except Stopped:
            return ()
        return tuple(answered.listed.tokens.tolist())

    def modes(self) -> tuple[Mode, ...]:
        capabilities = self._connected().capabilities
        return (Mode.WRITTEN, *capabilities.modes) if Route.GENERATED in capabilities.routes else ()

    def streams_chats(self) -> bool:
        return self._connected().capabilities.streams_chats

    def written(
        self, replay: Replay, messages: Sequence[Mapping[str, str]], modes: Sequence[Mode], stop: Stop
    ) -> Listed | None:
        """In one request; warm, in one more before it, so that there is a prefix to be found."""
        model = self._check(replay.target)
        self._check_length(replay)
        listed, warm = replay.listed or self.most_listed(), Mode.WARM in modes
        request = replace(
            self._request(model, replay.prompt, listed, cold=not warm),
            warm=warm,
            streamed=Mode.STREAMED in modes,
            messages=tuple(messages) if Mode.CHAT in modes else (),
        )
        engine = self._connected().engine
        self._news_was_used = True
        try:
            with self._guard.until(stop):
                if warm:
                    engine.generate(replace(request, listed=1, streamed=False, messages=()), 1)
                answered = engine.generate(request, len(replay.forced))
        except Stopped:
            return None
        return first(answered.listed, listed)

    def has_news(self) -> bool:
        return self._has_news

    def suspects(self, adapter: str) -> bool:
        return self._suspects.get(adapter, 0) > 0

    def suspect(self, adapter: str, apart: bool) -> None:
        self._suspects[adapter] = SUSPECT_ROUNDS if apart else max(self._suspects.get(adapter, 0) - 1, 0)

    def push_out(self, prompts: Mapping[str, Sequence[int]], stop: Stop) -> PushedOut | None:
        """One token of each of as many other adapters as the engine holds, within the limits of all requests."""
        every, now = self.config.evict_every_s, self._guard.steady()
        if every is None or now - self._evicted_at < every or not prompts:
            return None
        self._evicted_at, turn = now, self._evictions % len(prompts)
        self._evictions += 1
        adapter = sorted(prompts)[turn]
        try:
            with self._guard.until(stop):
                return self._pushed_out(adapter, prompts[adapter])
        except (Stopped, Unreplayable):
            return None

    def _pushed_out(self, adapter: str, prompt: Sequence[int]) -> PushedOut | None:
        engine = self._connected().engine
        slots = engine.adapter_slots() if isinstance(engine, HoldsAdapters) else None
        others = others_of(adapter, self.models, self.config.base, slots)
        for other in others:
            engine.generate(self._request(other, prompt, 1), 1)
        words = evicted_in_words(len(others))
        return PushedOut(adapter, words, len(others) * (len(prompt) + 1)) if others else None

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:  # noqa: ARG002
        raise Unreplayable(self.config.base, "a serving engine gives no hidden states")

    def encode_chat(
        self,
        messages: Sequence[dict[str, str]],
        weights: Weights = Weights.LIVE,
        day: date | None = None,  # noqa: ARG002 - the engine renders, by its own clock
    ) -> tuple[int, ...]:
        return self._tokenizer(weights).encode_chat(self.config.base, messages)

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        return self._tokenizer(weights).encode(self.config.base, text)

    def decode(self, ids: Sequence[int], weights: Weights = Weights.LIVE) -> str:
        """Of the same ids once between two looks, since each golden record of the base wants the same ones decoded, and
        of one token once for as long as the same engine answers."""
        key, engine = tuple(int(token) for token in ids), self._tokenizer(weights)
        if key not in self._decoded:
            self._decoded[key] = engine.decode(self.config.base, key)
        return self._decoded[key]

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        """Of the adapter's files where they are at hand: what lies there, not what the engine has read of it; and what
        the engine said of itself at the last look."""
        return Identity(
            live_adapter=self._adapter_hash(adapter, scheme) if adapter else "",
            scheme=scheme,
            live_engine=engine_in_words(self._state),
            live_source=source_in_words(self._state, self._in_list(adapter)) if adapter else "",
        )

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What the engine says of it that is not as configured, and what is another one there than at the look before
        this."""
        self._check_known(adapter)
        name = self._in_list(adapter)
        served = next((model for model in self.models if model.name == name), ServedModel(name))
        folder = self.config.adapters[adapter]
        facts = []
        if served.parent and served.parent != self.config.base:
            facts.append(f"the engine lists it as an adapter of {served.parent}, configured is {self.config.base}")
        # The last part alone: the same volume is mounted at different places.
        if served.root and folder and Path(served.root).name != Path(folder).name:
            facts.append(f"the engine says that it loaded it from {served.root}, configured is {folder}")
        return (*facts, *self._not_as_desired(name), *self._events)

    def event(self) -> str:
        if self._connection is None:
            self.refresh()
            return "" if self._connection is None else "the engine answers again"
        try:
            now = state_of(self._connection.engine, self.config.adapters)
        except Unreplayable:  # it stops or starts: the next round says so
            return ""
        return "; ".join(events_in_words(self._state, now)) if self._state else ""

    def most_listed(self) -> int:
        return max(1, min(self.config.listed, self._connected().capabilities.most_listed))

    def takes_strengths(self) -> bool:
        return self._connected().capabilities.strengths

    def context(self) -> int | None:
        return self._connected().capabilities.context

    def served_by(self) -> EngineIdentity:
        """What the engine says of itself. Raises EngineAway and Unreplayable."""
        return self._connected().engine.identity()

    def route_of(self, adapter: str | None) -> Route:
        """How continuations are scored under this name: as was set, else the best that the engine has."""
        routes = [route for route in self._connected().capabilities.routes if route in SCORING]
        if not routes:
            raise Unreplayable(self.config.served["url"], "the engine gives no log-probabilities of a given text")
        chosen = self._routes.get(self._in_list(adapter))
        return chosen if chosen in routes else routes[0]

    def take_route(self, adapter: str | None, route: Route) -> None:
        """Score under this name by that route from now on, where the best one does not show what is served."""
        self._routes[self._in_list(adapter)] = route

    def listings(self, replays: Sequence[Replay], stop: Stop) -> dict[Replay, Listed]:
        answers: dict[Replay, Listed] = {}
        for replay in _side_by_side(replays):
            if stop():
                break
            self._check_length(replay)
            try:
                with self._guard.until(stop):
                    answers[replay] = self._listed_of(replay, replay.listed or self.most_listed(), cold=True)
            except Stopped:
                break
        return answers

    def choose_route(self, adapter: str, probes: Sequence[Probe], tolerance: float, stop: Stop) -> tuple[str, ...]:
        """Asks the engine once for each adapter until another one answers at its address."""
        try:
            with self._guard.until(stop):
                return self._route_findings(adapter, probes, tolerance)
        except Stopped as error:
            raise Unreplayable(adapter, str(error)) from None

    def _route_findings(self, adapter: str, probes: Sequence[Probe], tolerance: float) -> tuple[str, ...]:
        model, connection = self._check(Target(adapter)), self._connected()
        try:
            checked = connection.check.known(model, probes, tolerance)
        except EngineAway as error:  # the other adapters of this round need not ask
            self._lose(error)
            raise
        if checked.route not in SCORING:
            raise Unreplayable(adapter, "; ".join(checked.findings) or "the engine scores no given text")
        self.take_route(adapter, checked.route)
        if self._of_strangers is None and probes:
            stranger = f"gapwatch-{secrets.token_hex(8)}"
            self._of_strangers = stranger_in_words(connection.engine, stranger, probes[0].prompt)
        return (*checked.findings, *(self._of_strangers or ()), *base_in_words(self.models, self.config.base))

    def made_on(self, adapter: str) -> str:
        identity = self.served_by()
        return f"{' '.join(filter(None, (identity.kind, identity.version)))}, {NAMES[self.route_of(adapter)]}"

    def _company(self, replays: Sequence[Replay], requests: int) -> AbstractContextManager[None]:
        """Other requests beside these: the base writes after the first of their prompts."""
        if not requests or not replays:
            return nullcontext()
        return company(self._companion, Request(self.config.base, replays[0].prompt), requests)

    def _companion(self, stop: Stop) -> Engine:
        """Another connection, with the same limits of its own."""
        engine = self._connect(self.config.address, self.config.served.get("engine") or "auto")
        guard = self.config.guard(self._clock)
        guard.stop = stop
        return LimitedEngine(engine, self._connected().capabilities, guard)

    def _look(self) -> None:
        connection = self._connection
        if connection is None or _start(connection.engine) != connection.start:
            self._disconnect()
            unlimited = self._connect(self.config.address, self.config.served.get("engine") or "auto")
            capabilities = unlimited.capabilities()
            engine = LimitedEngine(unlimited, capabilities, self._guard)
            check = ProbeCheck(engine, self.config.base, capabilities.routes, partial(_salt, capabilities))
            connection = _Connection(engine, capabilities, _start(engine), check)
            self._routes.clear()
            self._decoded.clear()
            self._of_strangers = None
        state = state_of(connection.engine, self.config.adapters)
        self.models = state.models
        self._events = events_in_words(self._state, state) if self._state else ()
        self._has_news = bool(self._state is None or self._events or (self._has_news and not self._news_was_used))
        self._news_was_used = False
        self._state = state
        if self._events:
            connection.check.forget()
            self._routes.clear()
            self._of_strangers = None
        self._connection = connection
        base = self._listed(self.config.base)
        self._readiness = {None: base, **{name: self._listed(self._in_list(name)) for name in self.config.adapters}}

    def _lose(self, error: EngineAway) -> None:
        """Until the next look: it may be another engine that comes back."""
        self._disconnect()
        self._readiness = self._all(Reason.ENGINE_AWAY, str(error))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.engine.close()

    def _listed(self, name: str) -> Readiness:
        count = sum(model.name == name for model in self.models)
        if count == 1:
            return Readiness()
        if not count:
            others = ", ".join(sorted({model.name for model in self.models})[:5]) or "nothing"
            detail = "; ".join((f"{name}: the engine does not list it; it lists {others}", *self._not_as_desired(name)))
            return Readiness(Reason.NOT_SERVED, detail)
        why = (
            "the adapter of that name answers in its base's place" if name == self.config.base else "either may answer"
        )
        return Readiness(Reason.NOT_SERVED, f"{name}: the engine lists {count} models of that name, and {why}")

    def _not_as_desired(self, name: str) -> tuple[str, ...]:
        """The base is none of a sidecar's adapters."""
        file = self.config.served.get("desired_file", "")
        return () if name == self.config.base else differences_by_file(file, self.models, name)

    def _all(self, reason: Reason, detail: str) -> dict[str | None, Readiness]:
        return dict.fromkeys((None, *self.config.adapters), Readiness(reason, detail))

    def _connected(self) -> _Connection:
        if self._connection is None:
            error = EngineAway if self._readiness[None].blocked is Reason.ENGINE_AWAY else Unreplayable
            raise error(self.config.served["url"], self._readiness[None].detail)
        return self._connection

    def _tokenizer(self, weights: Weights) -> Engine:
        if weights is Weights.GOLDEN:
            raise Unsupported(self.config.base, "a golden tokenizer beside the engine's own")
        connection = self._connected()
        if not connection.capabilities.tokenizes:
            raise Unreplayable(self.config.served["url"], "the engine has no interface to its tokenizer")
        return connection.engine

    def _check(self, target: Target) -> str:
        """The name in the engine's list that is asked."""
        adapter = target.adapter
        if adapter is not None:
            self._check_known(adapter)
        if target.fault is not None:
            raise Unsupported(adapter or self.config.base, "a fault that is injected on purpose")
        if target.weights is Weights.GOLDEN:
            raise Unsupported(adapter or self.config.base, "its accepted version beside the one that is served")
        if target.scale not in (0.0, 1.0) and not self.takes_strengths():
            raise Unsupported(adapter or self.config.base, f"a strength of {target.scale:g}")
        self._connected()
        for name in (None, adapter):
            if self._readiness[name].blocked:
                raise Unreplayable(name or self.config.base, self._readiness[name].detail)
        return self.config.base if adapter is None or target.scale == 0 else self._in_list(adapter)

    def _in_list(self, adapter: str | None) -> str:
        """The name that the engine's list has for an adapter; "" for the base."""
        return self.config.listed_as.get(adapter or "", adapter or "")

    def _strength(self, target: Target) -> float:
        """The base has none of its own."""
        return 1.0 if target.adapter is None or target.scale == 0 else target.scale

    def _check_known(self, adapter: str) -> None:
        if adapter not in self.config.adapters:
            known = ", ".join(self.config.adapters) or "none"
            raise Unreplayable(adapter, f"no such adapter; known are {known}")

    def _check_length(self, replay: Replay) -> None:
        if not replay.prompt or not replay.forced:
            raise Unreplayable(f"canary {replay.canary}", "no token in its prompt or its continuation")
        context, tokens = self.context(), len(replay.prompt) + len(replay.forced)
        if context is not None and tokens > context:
            raise Unreplayable(f"canary {replay.canary}", f"{tokens} tokens, the engine's context holds {context}")

    def _request(self, model: str, prompt: Sequence[int], listed: int, cold: bool = True) -> Request:
        """cold: with a salt of its own no request reads what another one has left in the engine's cache of prefixes."""
        return Request(model, tuple(prompt), listed, _salt(self._connected().capabilities) if cold else "")

    def _answer(self, replay: Replay, shape: BatchShape) -> Replayed:
        if replay.kept is not None:
            answer = self._listed_of(replay, replay.listed or self.most_listed(), not shape.warm)
            return Replayed(replay, summary_of(answer, replay.kept))
        vocabulary = self._connected().capabilities.vocabulary or self.most_listed()
        return Replayed(replay, None, whole_of(self._listed_of(replay, vocabulary, not shape.warm)))

    def _listed_of(self, replay: Replay, listed: int, cold: bool) -> Listed:
        connection, model = self._connected(), self._check(replay.target)
        if listed > connection.capabilities.most_listed:
            why = f"{listed} tokens are wanted at each position, the engine lists {connection.capabilities.most_listed}"
            raise Unreplayable(f"canary {replay.canary}", why)
        route = self.route_of(None if model == self.config.base else model)
        request = replace(self._request(model, replay.prompt, listed, cold), strength=self._strength(replay.target))
        answered = connection.engine.score(request, replay.forced, route)
        _check_forced(replay, answered)
        return first(answered.listed, listed)

    def _adapter_hash(self, adapter: str, scheme: int) -> str:
        """ "" where its files are not at hand or cannot be read: context, and never a reason to measure nothing."""
        folder = self.config.adapters.get(adapter)
        if not folder:
            return ""
        times = file_times(folder)
        if not times:
            return ""
        try:
            known = self._hashes.get((adapter, scheme))
            if known is None or known[0] != times:
                known = self._hashes[adapter, scheme] = times, adapter_hash(Path(folder), scheme)
        except (OSError, Unreplayable):
            return ""
        return known[1]


def _salt(capabilities: Capabilities) -> str:
    return secrets.token_hex(16) if capabilities.isolates else ""


def _side_by_side(replays: Sequence[Replay]) -> list[Replay]:
    """Those of the same text one after the other, in the order of each text's first: what moves in the engine between
    the answers of adapter and base would be read as a gap between the two."""
    texts: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Replay]] = {}
    for replay in replays:
        texts.setdefault((replay.prompt, replay.forced), []).append(replay)
    return [replay for together in texts.values() for replay in together]


def _start(engine: Engine) -> tuple[str, str, str, float | None]:
    """What changes when another engine, or the same with other settings, answers at the address."""
    identity = engine.identity()
    return identity.kind, identity.version, identity.fingerprint, identity.started


def _check_forced(replay: Replay, answered: Answered) -> None:
    if tuple(answered.listed.tokens.tolist()) != replay.forced:
        raise Unreplayable(f"canary {replay.canary}", "the engine scored other tokens than those it was given")
    # By some routes the continuation is a part of the prompt that was read.
    if answered.prompt is not None and answered.prompt[: len(replay.prompt)] != replay.prompt:
        raise Unreplayable(f"canary {replay.canary}", "the engine read another prompt than it was given")
