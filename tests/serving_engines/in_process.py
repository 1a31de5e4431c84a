"""The toy engine as an ``Engine`` without HTTP between, for tests of what stands behind the protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from detectors.records import Floats, Mode
from probes.errors import BadNumbers, EngineAway, Unreplayable
from probes.model import toy_language as toy
from probes.runners.memory import Config, Runner
from probes.serving.engine import (
    Answered,
    Between,
    Capabilities,
    EngineIdentity,
    Listed,
    Load,
    Request,
    Route,
    ServedModel,
    at_once,
)
from probes.serving.listing import walked
from tests.serving_engines.toy_engine import ToyEngine

LANGUAGE = Runner(Config())


class Engine:
    """away: why it does not answer, "" while it does; listed_twice: a name; requests: all that it scored; written: all
    after which it wrote; modes: as of ``Capabilities``; no_chat: why its chat endpoint does not answer
    strengths: requests may name one; closed: how often it was
    """

    def __init__(
        self, toy_engine: ToyEngine, most_listed: int = 20, routes: tuple[Route, ...] = (Route.PROMPT,)
    ) -> None:
        self.toy, self.most_listed, self.routes = toy_engine, most_listed, routes
        self.away, self.listed_twice, self.version = "", "", "1"
        self.strengths, self.closed = False, 0
        self.requests: list[tuple[Request, Route]] = []
        self.modes: tuple[Mode, ...] = ()
        self.no_chat = ""
        self.written: list[Request] = []

    def capabilities(self) -> Capabilities:
        self._answers()
        routes = self.routes
        if self.modes and Route.GENERATED not in routes:
            routes = (*routes, Route.GENERATED)
        return Capabilities(
            routes, self.most_listed, True, True, True, 2048, toy.VOCABULARY, self.modes, self.strengths
        )

    def models(self) -> tuple[ServedModel, ...]:
        self._answers()
        names = [*self.toy.adapters, *([self.listed_twice] if self.listed_twice else [])]
        adapters = [ServedModel(name, f"/adapters/{name}", self.toy.base) for name in names]
        return ServedModel(self.toy.base, f"/models/{self.toy.base}"), *adapters

    def identity(self) -> EngineIdentity:
        self._answers()
        return EngineIdentity("toy", self.version)

    def load(self) -> Load:
        return Load()

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        self._answers()
        self.requests.append((request, route))
        text, before = [*request.prompt, *continuation], len(request.prompt)
        with self._at(request):
            rows = self.toy.scored(request.model, text)[before - 1 : -1]
        if np.isnan(rows).any():
            raise BadNumbers("the engine's answer", "NaN where a log-probability belongs")
        if route is Route.WALK:
            walked(lambda i: i, len(continuation), between)
        return Answered(listing(rows, continuation, request.listed), request.prompt)

    def generate(self, request: Request, tokens: int) -> Answered:
        self._answers()
        self.written.append(request)
        at_chat = bool(request.messages)
        if at_chat and self.no_chat:
            raise Unreplayable("the engine's answer", self.no_chat)
        made = self.toy.generated(
            request.model, request.prompt, tokens, request.salt, request.streamed, at_chat=at_chat
        )
        return Answered(listing(made.rows, made.tokens, request.listed), request.prompt, ended=made.ended)

    def encode(self, model: str, text: str) -> tuple[int, ...]:  # noqa: ARG002
        self._answers()
        return LANGUAGE.encode(text)

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:  # noqa: ARG002
        self._answers()
        return LANGUAGE.encode_chat([dict(message) for message in messages])

    def decode(self, model: str, ids: Sequence[int]) -> str:  # noqa: ARG002
        self._answers()
        return LANGUAGE.decode(ids)

    @contextlib.contextmanager
    def _at(self, request: Request) -> Iterator[None]:
        """The strength that a request names."""
        kept = dict(self.toy.faults.of_adapter)
        if request.strength != 1.0:
            assert self.strengths and request.model in self.toy.adapters
            self.toy.faults.of_adapter[request.model] = f"scale:{request.strength}"
        try:
            yield
        finally:
            self.toy.faults.of_adapter = kept

    def close(self) -> None:
        self.closed += 1

    def _answers(self) -> None:
        if self.away:
            raise EngineAway("http://toy", self.away)


def listing(rows: Floats, tokens: Sequence[int], k: int) -> Listed:
    """rows: (T, V) log-probabilities of a whole vocabulary; tokens: the T given or generated ones"""
    ids = np.argsort(-rows, axis=1, kind="stable")[:, :k].astype(np.int32)
    given = np.asarray(tokens, np.int32)
    of_given = np.take_along_axis(rows, given[:, None], axis=1)[:, 0]
    return Listed(ids, np.take_along_axis(rows, ids, axis=1), given, of_given)
